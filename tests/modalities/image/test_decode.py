import io
import itertools
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from selfsame.errors import UnreadableItem, UserError
from selfsame.modalities.image.decode import PIXELS, Form, Picture, StoredPicture, suffixes


def photo(height: int = 60, width: int = 80, seed: int = 0) -> Image.Image:
    """A smooth colour picture, different in every corner."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of one gray pixel whose header claims another size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


GRAY = photo().convert("L")
HALF = GRAY.point(lambda value: 255 if value > 127 else 0)
ALPHA = Image.linear_gradient("L").resize((80, 60))


def with_alpha(mode: str) -> Image.Image:
    image = photo().convert(mode)
    image.putalpha(ALPHA)
    return image


def over_white(image: Image.Image) -> np.ndarray:
    values, alpha = np.asarray(image.convert("RGB"), float), np.asarray(ALPHA, float)[..., None] / 255
    return values * alpha + 255 * (1 - alpha)


@pytest.mark.parametrize(
    ("image", "kind", "channels"),
    [
        (GRAY, "PNG", 1),
        (GRAY, "JPEG", 1),
        (HALF.convert("1"), "PNG", 1),
        (HALF.convert("1"), "TIFF", 1),
        (photo(), "PNG", 3),
        (photo(), "BMP", 3),
        (photo(), "WEBP", 3),
        (photo(), "TIFF", 3),
        (photo(), "PPM", 3),
        (photo().quantize(32), "PNG", 3),
        (photo().quantize(32), "GIF", 3),
        (photo().quantize(32), "BMP", 3),
        (photo().quantize(32), "TIFF", 3),
        (photo().convert("CMYK"), "TIFF", 3),
        (photo().convert("CMYK"), "JPEG", 3),
        (photo().convert("YCbCr"), "JPEG", 3),
        (photo().convert("YCbCr"), "TIFF", 3),
    ],
)
def test_every_mode_reads_as_pillow_converts_it(image: Image.Image, kind: str, channels: int) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    file = encoded(image, kind, **options)
    picture = Picture(file)
    values = picture.pixels()
    expected = np.asarray(Image.open(file).convert("L" if channels == 1 else "RGB")).reshape(60, 80, channels)
    assert picture.size == (60, 80)
    assert picture.header.bits == 8 and picture.header.channels == channels
    assert values.dtype == np.uint8
    assert np.array_equal(values, expected)


def test_a_palette_of_grays_is_gray() -> None:
    shades = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) % 4)
    shades.putpalette([0, 0, 0, 80, 80, 80, 160, 160, 160, 255, 255, 255])
    values = Picture(encoded(shades, "PNG")).pixels()
    assert values.shape == (8, 8, 1)
    assert np.array_equal(values[0, :4, 0], [0, 80, 160, 255])


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_alpha_is_composited_onto_white(mode: str, channels: int, kind: str) -> None:
    image = with_alpha(mode)
    values = Picture(encoded(image, kind)).pixels()
    assert values.shape == (60, 80, channels)
    assert np.abs(values - over_white(image)[..., :channels]).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
@pytest.mark.parametrize("gray", [False, True])
def test_transparent_entries_of_a_palette_are_white(kind: str, gray: bool) -> None:
    image = Image.fromarray(np.repeat(np.arange(4, dtype=np.uint8), 4).reshape(4, 4))
    image.putpalette([0, 0, 0, 90, 90 if gray else 10, 90, 0, 0, 0, 200, 200, 200])
    values = Picture(encoded(image, kind, transparency=0)).pixels()
    assert values.shape == (4, 4, 1 if gray else 3)
    assert (values[0] == 255).all() and (values[2] == 0).all() and (values[3] == 200).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_gray_keeps_its_values(kind: str) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (30, 40), dtype=np.uint16)
    picture = Picture(encoded(Image.fromarray(deep), kind))
    assert picture.header.bits == 16
    assert picture.pixels().dtype == np.uint16
    assert np.array_equal(picture.pixels()[..., 0], deep)


def test_integers_of_32_bits_are_read_while_they_fit_16() -> None:
    values = np.array([[0, 4095], [7, 65535]], dtype=np.int32)
    assert np.array_equal(Picture(encoded(Image.fromarray(values), "TIFF")).pixels()[..., 0], values)
    with pytest.raises(UnreadableItem, match="from -3 to 70000"):
        Picture(encoded(Image.fromarray(np.array([[-3, 70000]], dtype=np.int32)), "TIFF")).pixels()


def test_real_numbers_from_0_to_1_fill_16_bits() -> None:
    values = np.array([[0, 0.5], [0.25, 1]], dtype=np.float32)
    picture = Picture(encoded(Image.fromarray(values), "TIFF"))
    assert np.array_equal(picture.pixels()[..., 0], [[0, 32768], [16384, 65535]])
    counts = Picture(encoded(Image.fromarray(values * 4000), "TIFF"))
    assert np.array_equal(counts.pixels()[..., 0], values * 4000)
    with pytest.raises(UnreadableItem, match="nan"):
        Picture(encoded(Image.fromarray(values * np.nan), "TIFF")).pixels()


def assert_resized(cut: np.ndarray, crop: Image.Image) -> None:
    """As Pillow resizes the crop, to one step of 8 bits."""
    wanted = np.asarray(crop.resize(cut.shape[1::-1], Image.Resampling.BICUBIC), int).reshape(cut.shape)
    assert np.abs(cut - wanted).max() <= 1


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_every_exif_orientation_is_turned_upright(turn: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    file = encoded(photo(), kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(file))
    picture = Picture(file)
    assert picture.size == (upright.height, upright.width)
    assert np.array_equal(picture.pixels(), np.asarray(upright))
    cut = picture.cut([(5, 2, 40, 30)], 16)[0]
    assert_resized(cut, upright.crop((2, 5, 32, 45)))


def test_broken_exif_in_a_sound_picture_is_left_alone() -> None:
    file = encoded(photo(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert Picture(file).pixels().shape == (60, 80, 3)


def test_cut_equals_decoding_then_resizing_the_box() -> None:
    file = encoded(photo(200, 300), "PNG")
    full = Image.open(file).convert("RGB")
    boxes = [(0, 0, 200, 300), (10, 20, 100, 64), (150, 250, 50, 50), (3, 5, 7, 9), (199, 299, 1, 1)]
    for (top, left, height, width), cut in zip(boxes, Picture(file).cut(boxes, 32), strict=True):
        assert cut.shape == (32, 32, 3) and cut.dtype == np.uint8 and cut.flags.writeable
        assert_resized(cut, full.crop((left, top, left + width, top + height)))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("reduce", [1, 2, 4, 8])
def test_jpeg_is_decoded_as_pillow_does_to_the_bit(
    mode: str, subsampling: int, reduce: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = encoded(photo(203, 301).convert(mode), "JPEG", subsampling=subsampling, quality=90)
    quick, reduced = Picture(file)._load(reduce)
    monkeypatch.setattr("selfsame.modalities.image.decode.simplejpeg", None)
    slow, _ = Picture(file)._load(reduce)
    assert reduced == reduce and quick.shape[:2] == (-(-203 // reduce), -(-301 // reduce))
    assert np.array_equal(quick, slow)


def test_a_jpeg_that_simplejpeg_refuses_is_left_to_pillow() -> None:
    whole = encoded(photo(), "JPEG").getvalue()
    noisy = whole[:-2] + b"\0" * 40 + whole[-2:]  # bytes that mean nothing before the end
    assert np.array_equal(Picture(io.BytesIO(noisy)).pixels(), np.asarray(Image.open(io.BytesIO(noisy))))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_scaled_decoding_is_close_to_full_decoding(mode: str) -> None:
    file = encoded(photo(801, 1203).convert(mode), "JPEG", quality=95)
    full = Image.open(file).convert("L" if mode == "L" else "RGB")
    cuts = Picture(file).cut([(104, 200, 632, 696), (105, 203, 630, 692)], 64)
    for cut in cuts:  # the second box is rounded to whole blocks of 8 pixels: to the first
        box = (200, 104, 896, 736)
        expected = np.asarray(full.resize((64, 64), Image.Resampling.BICUBIC, box=box), int).reshape(cut.shape)
        assert np.abs(cut - expected).mean() < 1


@pytest.mark.parametrize("turn", range(1, 9))
def test_scaled_decoding_finds_the_place_in_a_turned_picture(turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    file = encoded(photo(401, 601), "JPEG", quality=95, exif=exif)  # one pixel more than blocks of 8
    upright = ImageOps.exif_transpose(Image.open(file))
    cut = Picture(file).cut([(21, 13, 340, 360)], 42)[0]

    def error(down: int, right: int) -> float:
        box = (13 + right, 21 + down, 373 + right, 361 + down)
        expected = upright.resize((42, 42), Image.Resampling.BICUBIC, box=box)
        return np.abs(cut - np.asarray(expected, int)).mean()

    best = min(itertools.product(range(-8, 9), repeat=2), key=lambda shift: error(*shift))
    assert max(map(abs, best)) <= 4 and error(*best) < 2.5  # borders are rounded to whole blocks of 8 pixels


def test_decoding_is_scaled_only_while_every_box_keeps_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    load = Picture._load
    monkeypatch.setattr(Picture, "_load", lambda self, reduce: decoded.append(load(self, reduce)) or decoded[-1])
    picture = Picture(encoded(photo(800, 1200), "JPEG"))
    picture.cut([(0, 0, 800, 1200)], 100)
    picture.cut([(0, 0, 800, 1200), (0, 0, 250, 400)], 100)
    picture.cut([(0, 0, 800, 1200), (0, 0, 150, 400)], 100)
    assert [image.shape[:2] for image, _ in decoded] == [(100, 150), (400, 600), (800, 1200)]


def test_16_bit_cut_equals_the_resize_in_floats() -> None:
    deep = np.random.default_rng(0).integers(0, 4096, (50, 70), dtype=np.uint16)
    cut = Picture(encoded(Image.fromarray(deep), "PNG"), Form(1, 16, 4095)).cut([(4, 6, 40, 44)], 12)[0]
    exact = Image.fromarray(deep.astype(np.float32)).crop((6, 4, 50, 44)).resize((12, 12), Image.Resampling.BICUBIC)
    assert cut.dtype == np.uint16 and cut.shape == (12, 12, 1)
    assert np.array_equal(cut[..., 0], np.asarray(exact).round().clip(0, 4095))


def test_stored_channels_are_cut_one_by_one() -> None:
    values = np.random.default_rng(0).integers(0, 256, (40, 50, 13), dtype=np.uint8)
    cut = StoredPicture(values).cut([(2, 3, 30, 40)], 16)[0]
    assert cut.shape == (16, 16, 13)
    for channel in (0, 12):
        assert_resized(cut[..., channel], Image.fromarray(values[..., channel]).crop((3, 2, 43, 32)))


def test_items_are_brought_to_the_form_of_the_source() -> None:
    gray = encoded(GRAY, "PNG")
    assert np.array_equal(Picture(gray, Form(3, 8, 255)).pixels()[..., 2], np.asarray(GRAY))
    assert np.array_equal(Picture(gray, Form(3, 8, 255)).cut([(0, 0, 60, 60)], 60)[0][..., 1], np.asarray(GRAY)[:, :60])
    colour = Picture(encoded(photo(), "PNG"), Form(1, 8, 255)).pixels()[..., 0]
    assert np.abs(colour - np.asarray(GRAY, int)).max() <= 1
    spread = Picture(gray, Form(1, 16, 4095)).pixels()
    assert np.array_equal(spread[..., 0], np.rint(np.asarray(GRAY) * (4095 / 255)))
    deep = StoredPicture(np.array([[[0], [257], [65535]]], dtype=np.uint16), Form(1, 8, 255))
    assert deep.pixels().ravel().tolist() == [0, 1, 255]
    with pytest.raises(UnreadableItem, match="13 channels where 3"):
        StoredPicture(np.zeros((4, 4, 13), dtype=np.uint8), Form(3, 8, 255)).pixels()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_truncated_file_is_unreadable_when_it_is_decoded(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8))
    whole = encoded(noise, kind).getvalue()
    with pytest.raises(UnreadableItem):
        Picture(io.BytesIO(whole[: len(whole) // 2])).cut([(0, 0, 120, 160)], 16)
    with pytest.raises(UnreadableItem):
        Picture(io.BytesIO(whole[: len(whole) // 2])).pixels()


def test_what_is_no_image_says_so_without_being_decoded() -> None:
    for data, reason in [
        (b"", "empty file"),
        (b"This is a letter, not a picture.\n" * 20, "not an image"),
        (b"\0" * 1000, "not an image"),
        (encoded(photo(), "PNG").getvalue()[:10], "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
        (b"II*\0 but then text" * 4, r"\w"),
    ]:
        with pytest.raises(UnreadableItem, match=reason):
            Picture(io.BytesIO(data))


@pytest.mark.parametrize(("width", "height"), [(65_000, 65_000), (PIXELS + 1, 1), (2**31 - 1, 2**31 - 1)])
def test_a_header_that_claims_too_many_pixels_is_refused(width: int, height: int) -> None:
    with pytest.raises(UnreadableItem, match="pixels"):
        Picture(io.BytesIO(png_claiming(width, height)))


def test_a_large_honest_header_is_no_warning() -> None:
    assert Picture(io.BytesIO(png_claiming(12_000, 10_000))).size == (10_000, 12_000)


def test_formats_that_need_other_programs_are_no_images() -> None:
    assert {".jpg", ".png", ".tif", ".webp", ".gif", ".bmp", ".jp2", ".mpo"} <= suffixes()
    assert not {".pdf", ".eps", ".ps", ".mpg", ".wmf", ".h5"} & suffixes()


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((30, 40, 13), {"photometric": "minisblack", "planarconfig": "contig"}),
        ((13, 30, 40), {"photometric": "minisblack", "planarconfig": "separate"}),
        ((13, 30, 40), {}),  # 13 pages
        ((30, 40, 13), {}),  # 30 pages
        ((13, 30, 40), {"imagej": True, "metadata": {"axes": "CYX"}}),
        ((13, 30, 40), {"ome": True, "metadata": {"axes": "CYX"}}),
        ((2, 30, 40), {}),
        ((30, 40, 5), {"compression": "deflate", "photometric": "minisblack", "planarconfig": "contig"}),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_of_any_channel_count_keeps_every_value(
    shape: tuple[int, ...], options: dict, dtype: type, tmp_path: Path
) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, **options)
    picture = Picture(io.BytesIO((tmp_path / "a.tif").read_bytes()))
    last = values if shape[0] == 30 else values.transpose(1, 2, 0)
    assert picture.size == (30, 40)
    assert picture.header.channels == last.shape[2] and picture.header.bits == 8 * values.dtype.itemsize
    assert np.array_equal(picture.pixels(), last)
    assert picture.cut([(0, 0, 30, 30)], 10)[0].shape == (10, 10, last.shape[2])


def test_16_bit_colour_tiff_keeps_its_bits_and_its_alpha(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = np.random.default_rng(0).integers(0, 4096, (30, 40, 4), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "rgb.tif", values[..., :3], photometric="rgb")
    assert np.array_equal(Picture(io.BytesIO((tmp_path / "rgb.tif").read_bytes())).pixels(), values[..., :3])
    values[..., 3] = 65535
    values[0, 0, 3] = 0
    tifffile.imwrite(tmp_path / "rgba.tif", values, photometric="rgb", extrasamples=["unassalpha"])
    seen = Picture(io.BytesIO((tmp_path / "rgba.tif").read_bytes())).pixels()
    assert (seen[0, 0] == 65535).all() and np.array_equal(seen[1:], values[1:, :, :3])


@pytest.mark.parametrize("options", [{}, {"imagej": True, "metadata": {"axes": "ZYX"}}])
def test_the_first_of_a_long_stack_is_read(options: dict, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    stack = np.random.default_rng(0).integers(0, 65536, (70, 66, 80), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stack, **options)
    picture = Picture(io.BytesIO((tmp_path / "a.tif").read_bytes()))
    assert picture.header[:4] == (66, 80, 1, 16)
    assert np.array_equal(picture.pixels()[..., 0], stack[0])


def test_the_first_of_several_pages_is_read(tmp_path: Path) -> None:
    pages = [photo(seed=seed) for seed in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert np.array_equal(Picture(io.BytesIO((tmp_path / "a.tif").read_bytes())).pixels(), np.asarray(pages[0]))


def test_a_tiff_that_needs_tifffile_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((30, 40, 3), dtype=np.uint16), photometric="rgb")
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(UserError, match=r"selfsame\[tiff\]") as caught:
        Picture(io.BytesIO((tmp_path / "a.tif").read_bytes()))
    assert not isinstance(caught.value, UnreadableItem)
