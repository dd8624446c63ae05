/* Views of 8-bit images on the CPU. `cut` is the worker half, crop and resize; `finish` is the device half of the common
   pipelines: flips, colour, clamp, Gaussian blur, solarise.

   One pass an image, in the caches, where plain torch takes a pass over memory for each step. They do what
   `decode.resized` and `views.transformed` do in torch, and the tests compare them. Built when the package is
   installed, if there is a C compiler; without it torch is used. Called by kernel.py. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __AVX__
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
enum { BLOCK = 4, ROWS = 8, WIDEST = 64 };
typedef float lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));
typedef float pixel __attribute__((vector_size(16), aligned(4), may_alias));

/* Changed with every signature below: a library built from an older file is left alone. */
int version(void) { return 2; }

/* Cut ------------------------------------------------------------------------------------------------------------ */

/* Keys's cubic, a = -0.5 (Keys 1981). */
static inline float cubic(float x) {
    x = x < 0 ? -x : x;
    const float near = (1.5f * x - 2.5f) * x * x + 1, far = ((-0.5f * x + 2.5f) * x - 4) * x + 2;
    return x < 1 ? near : x < 2 ? far : 0; /* both are computed: no branch is guessed wrong */
}

/* For each of `size` outputs of an axis of `full` inputs: the first input and the weights of `taps` from it on.
   Widened by the reduction; what lies outside has no weight. taps <= full. */
static void filter(int full, int size, int taps, int *first, float *weights) {
    const float scale = (float)full / size, wide = scale > 1 ? scale : 1;
    for (int i = 0; i < size; i++, weights += taps) {
        const float centre = (i + 0.5f) * scale;
        int low = (int)floorf(centre - 2 * wide + 0.5f);
        low = low < full - taps ? low : full - taps; /* the same number of taps everywhere: some have no weight */
        low = low > 0 ? low : 0;
        float sum = 0;
        for (int k = 0; k < taps; k++) sum += weights[k] = cubic((low + k + 0.5f - centre) / wide);
        for (int k = 0; k < taps; k++) weights[k] /= sum;
        first[i] = low;
    }
}

static int taps_of(int full, int size) {
    const int taps = (int)ceil(4 * (full > size ? (double)full / size : 1));
    return taps < full ? taps : full;
}

/* One row of n numbers: the weighted sum of rows low, low + 1, ... of a ring of `taps` rows that lie `apart`. */
static void gathered(const float *ring, int64_t apart, int taps, int low, const float *weights, float *restrict out,
                     int n) {
    for (int x = 0; x < n; x += LANES * BLOCK) { /* rows have room for the last block */
        lanes sum[BLOCK] = {0};
        for (int k = 0, at = low % taps; k < taps; k++, at = at + 1 < taps ? at + 1 : 0) {
            const lanes *row = (const lanes *)(ring + at * apart + x);
            for (int i = 0; i < BLOCK; i++) sum[i] += weights[k] * row[i];
        }
        for (int i = 0; i < BLOCK; i++) ((lanes *)(out + x))[i] = sum[i];
    }
}

/* ROWS rows of pixels, `apart`, resized across to `size` pixels, and rounded. packed: w * ROWS * 4 floats. */
static void across(const float *rows, int64_t apart, int w, int c, int taps, const int *first, const float *weights,
                   int size, float *restrict packed, float *restrict narrow, uint8_t *restrict out) {
    const int64_t line = (int64_t)size * c, next = line + 4;
    if (c == 3) { /* a pixel is read and written as four numbers; the pixels of all rows lie side by side */
        for (int x = 0; x < w; x++)
            for (int r = 0; r < ROWS; r++)
                ((pixel *)packed)[x * ROWS + r] = *(const pixel *)(rows + r * apart + 3 * x);
        enum { VECTORS = 4 * ROWS / LANES };
        for (int x = 0; x < size; x++, weights += taps) {
            const lanes *from = (const lanes *)(packed + (int64_t)4 * ROWS * first[x]);
            lanes sum[VECTORS] = {0};
            for (int k = 0; k < taps; k++)
                for (int i = 0; i < VECTORS; i++) sum[i] += weights[k] * from[k * VECTORS + i];
            for (int r = 0; r < ROWS; r++) *(pixel *)(narrow + r * next + 3 * x) = ((const pixel *)sum)[r];
        }
    } else {
        for (int x = 0; x < w; x++)
            for (int r = 0; r < ROWS; r++) packed[x * ROWS + r] = rows[r * apart + x];
        for (int x = 0; x < size; x++, weights += taps) {
            const lanes *from = (const lanes *)(packed + (int64_t)ROWS * first[x]);
            lanes sum[ROWS / LANES] = {0};
            for (int k = 0; k < taps; k++)
                for (int i = 0; i < ROWS / LANES; i++) sum[i] += weights[k] * from[k * (ROWS / LANES) + i];
            for (int r = 0; r < ROWS; r++) narrow[r * next + x] = sum[r / LANES][r % LANES];
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int64_t x = 0; x < line; x++) {
            int v = (int)(narrow[r * next + x] + 0.5f); /* clamped as integers: compilers pack these better */
            v = v > 0 ? v : 0;
            out[r * line + x] = v < 255 ? v : 255;
        }
}

/* Boxes of images of bytes, each resized to size x size: antialiased bicubic, rounded and clamped once at the end
   (Pillow and torch do so between the two directions too, which differs where a contrast is sharp and an end near).
   boxes: [n][4]: where the box begins in `images`, in bytes; height; width; bytes from a row to the next.
   c: 1 or 3. outs: n places for [size size c]. Returns 0, or -1 where there is no memory. */
int cut(const uint8_t *images, int64_t n, const int64_t *boxes, int c, int size, uint8_t *const *outs) {
    int64_t longest = 1;
    for (int64_t i = 0; i < n; i++)
        for (int k = 1; k < 3; k++) longest = boxes[4 * i + k] > longest ? boxes[4 * i + k] : longest;
    const int most = taps_of((int)longest, size) + 1;
    const int64_t row = longest * c + LANES * BLOCK, line = (int64_t)size * c, table = (int64_t)size * most;
    const int64_t numbers = 2 * table + (most + ROWS) * row + ROWS * (line + 4) + 4 * ROWS * longest;
    float *work = malloc(numbers * sizeof(float) + 2 * size * sizeof(int) + ROWS * line);
    if (!work) return -1;
    float *down = work, *aside = down + table, *ring = aside + table, *wide = ring + most * row;
    float *narrow = wide + ROWS * row;
    float *packed = narrow + ROWS * (line + 4);
    int *top = (int *)(packed + 4 * ROWS * longest), *left = top + size;
    uint8_t *last = (uint8_t *)(left + size);
    for (int64_t i = 0; i < n; i++, boxes += 4) {
        uint8_t *out = outs[i];
        const int h = (int)boxes[1], w = (int)boxes[2], high = taps_of(h, size), broad = taps_of(w, size);
        const int64_t stride = boxes[3];
        filter(h, size, high, top, down);
        filter(w, size, broad, left, aside);
        for (int y = 0, done = 0; y < size; y += ROWS) {
            const int rows = size - y < ROWS ? size - y : ROWS;
            for (int r = 0; r < rows; r++) {
                for (done = done > top[y + r] ? done : top[y + r]; done < top[y + r] + high; done++) {
                    const uint8_t *restrict from = images + boxes[0] + done * stride;
                    float *restrict to = ring + done % high * row;
                    for (int64_t x = 0; x < (int64_t)w * c; x++) to[x] = from[x];
                    memset(to + (int64_t)w * c, 0, LANES * BLOCK * sizeof(float)); /* read, but of no weight */
                }
                gathered(ring, row, high, top[y + r], down + (int64_t)(y + r) * high, wide + r * row, w * c);
            }
            across(wide, row, w, c, broad, left, aside, size, packed, narrow, rows == ROWS ? out + y * line : last);
            if (rows < ROWS) memcpy(out + y * line, last, rows * line);
        }
    }
    free(work);
    return 0;
}

/* Finish --------------------------------------------------------------------------------------------------------- */

static inline float unit(float v) {
    v = v > 0 ? v : 0;
    return v < 1 ? v : 1;
}

/* One row of pixels [w c], 0 to 255, through the affine map to [0, 1], one plane a channel. */
static void recolour(const uint8_t *pixels, float *restrict out, int64_t plane, int w, int c, int flip,
                     const float *matrix, const float *offset) {
    const int step = flip ? -c : c;
    if (flip) pixels += (int64_t)(w - 1) * c;
    if (c == 1) {
        const float gain = matrix[0], lift = offset[0];
        for (int x = 0; x < w; x++) out[x] = unit(gain * pixels[(int64_t)x * step] + lift);
        return;
    }
    float *restrict red = out, *restrict green = out + plane, *restrict blue = out + 2 * plane;
    for (int x = 0; x < w; x++) {
        const float r = pixels[(int64_t)x * step], g = pixels[(int64_t)x * step + 1], b = pixels[(int64_t)x * step + 2];
        red[x] = unit(matrix[0] * r + matrix[1] * g + matrix[2] * b + offset[0]);
        green[x] = unit(matrix[3] * r + matrix[4] * g + matrix[5] * b + offset[1]);
        blue[x] = unit(matrix[6] * r + matrix[7] * g + matrix[8] * b + offset[2]);
    }
}

/* out[x] = sum over k of taps[k] * rows[k][x], for 2 reach + 1 symmetric taps. */
static void weighted(const float *const *rows, const float *taps, int reach, float *restrict out, int w) {
    int x = 0;
    for (; x + LANES * BLOCK <= w; x += LANES * BLOCK) {
        lanes sum[BLOCK];
        for (int i = 0; i < BLOCK; i++) sum[i] = taps[reach] * ((const lanes *)(rows[reach] + x))[i];
        for (int k = 0; k < reach; k++) {
            const lanes *one = (const lanes *)(rows[k] + x), *other = (const lanes *)(rows[2 * reach - k] + x);
            for (int i = 0; i < BLOCK; i++) sum[i] += taps[k] * (one[i] + other[i]);
        }
        for (int i = 0; i < BLOCK; i++) ((lanes *)(out + x))[i] = sum[i];
    }
    for (; x < w; x++) {
        float sum = taps[reach] * rows[reach][x];
        for (int k = 0; k < reach; k++) sum += taps[k] * (rows[k][x] + rows[2 * reach - k][x]);
        out[x] = sum;
    }
}

static inline int mirrored(int i, int n) { return i < 0 ? -i : i < n ? i : 2 * (n - 1) - i; }

/* A plane [h w] blurred across and then down, reflected at the borders; `spare` holds h * w + w + 2 reach floats. */
static void blur(float *plane, int h, int w, const float *taps, int reach, float *spare) {
    float *across = spare, *wide = spare + (int64_t)h * w;
    const float *rows[2 * WIDEST + 1];
    for (int y = 0; y < h; y++) {
        const float *row = plane + (int64_t)y * w;
        memcpy(wide + reach, row, w * sizeof(float));
        for (int k = 1; k <= reach; k++) {
            wide[reach - k] = row[k];
            wide[reach + w - 1 + k] = row[w - 1 - k];
        }
        for (int k = 0; k <= 2 * reach; k++) rows[k] = wide + k;
        weighted(rows, taps, reach, across + (int64_t)y * w, w);
    }
    for (int y = 0; y < h; y++) {
        for (int k = 0; k <= 2 * reach; k++) rows[k] = across + (int64_t)mirrored(y + k - reach, h) * w;
        weighted(rows, taps, reach, plane + (int64_t)y * w, w);
    }
}

/* n images. Sizes in elements.
   in: uint8 [n h w c], c 1 or 3. out: float [n h w c] if last, else [n c h w].
   numbers: [n][2 c c]: the affine map on the pixel and on the mean pixel of the image, for values 0 to 1.
   does: [n][3]: mirror, turn upside down, solarise from 0.5 on.
   taps: [n][2 radius + 1], symmetric; radius < WIDEST, h and w > radius. All of a row's weight in the middle: no blur.
   work: c h w + h w + w + 2 radius floats. */
void finish(const uint8_t *in, float *out, int64_t n, int h, int w, int c, int last, const float *numbers,
            const uint8_t *does, const float *taps, int radius, float *work) {
    const int64_t plane = (int64_t)h * w, size = plane * c;
    for (int64_t i = 0; i < n; i++, in += size, out += size, numbers += 2 * c * c, does += 3, taps += 2 * radius + 1) {
        float matrix[9], offset[3], *planes = last ? work : out;
        uint64_t sums[3] = {0, 0, 0};
        for (int64_t at = 0; at < size; at += (int64_t)w * c) { /* by rows: the sum of one fits in 32 bits */
            uint32_t row[3] = {0, 0, 0};
            for (int x = 0; x < w; x++)
                for (int k = 0; k < c; k++) row[k] += in[at + (int64_t)x * c + k];
            for (int k = 0; k < c; k++) sums[k] += row[k];
        }
        for (int k = 0; k < c; k++) {
            offset[k] = 0;
            for (int j = 0; j < c; j++) {
                matrix[k * c + j] = numbers[k * c + j] / 255;
                offset[k] += numbers[c * c + k * c + j] * (float)((double)sums[j] / (255.0 * plane));
            }
        }
        for (int y = 0; y < h; y++)
            recolour(in + (int64_t)(does[1] ? h - 1 - y : y) * w * c, planes + (int64_t)y * w, plane, w, c, does[0],
                     matrix, offset);
        int reach = radius; /* taps of no weight are left out: most blurs are narrower than the widest */
        while (reach > 0 && taps[radius - reach] < 1e-7f) reach--;
        if (reach > 0)
            for (int k = 0; k < c; k++) {
                float *one = planes + k * plane;
                blur(one, h, w, taps + radius - reach, reach, work + size);
                for (int64_t at = 0; at < plane; at++) one[at] = unit(one[at]); /* sums may pass 1 by a rounding */
            }
        if (does[2])
            for (int64_t at = 0; at < size; at++) planes[at] = planes[at] >= 0.5f ? 1 - planes[at] : planes[at];
        if (last)
            for (int64_t at = 0; at < plane; at++)
                for (int k = 0; k < c; k++) out[at * c + k] = planes[k * plane + at];
    }
}
