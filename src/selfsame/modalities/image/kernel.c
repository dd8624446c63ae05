/* The device half of the common views of 8-bit images, for the CPU: flips, colour, clamp, Gaussian blur, solarise.

   One pass an image, in the caches, where plain torch takes a pass over the whole batch for each step. It does what
   `views.transformed` does, and the tests compare the two. Built when the package is installed, if there is a C
   compiler; without it plain torch is used. Called by kernel.py. */

#include <stdint.h>
#include <string.h>

#ifdef __AVX__
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
enum { BLOCK = 4, WIDEST = 64 };
typedef float lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));

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
            for (int k = 0; k < c; k++) blur(planes + k * plane, h, w, taps + radius - reach, reach, work + size);
        if (does[2])
            for (int64_t at = 0; at < size; at++) planes[at] = planes[at] >= 0.5f ? 1 - planes[at] : planes[at];
        if (last)
            for (int64_t at = 0; at < plane; at++)
                for (int k = 0; k < c; k++) out[at * c + k] = planes[k * plane + at];
    }
}
