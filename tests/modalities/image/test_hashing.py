import io

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from selfsame.errors import UnreadableItem
from selfsame.index.hamming import distance
from selfsame.modalities import image
from selfsame.modalities.image.hashing import DCT, codes, fingerprint


def scene(seed, side=200):
    """Some soft blobs of colour: as smooth as a photo, different for each seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return small.resize((side, side * 3 // 4), Image.Resampling.BICUBIC)


def stored(folder, pictures):
    for name, picture in pictures.items():
        settings = {"quality": 20} if name.endswith("jpg") else {}
        picture.save(folder / name, **settings)
    source = image.open_source(str(folder))
    return {source.name(i): fingerprint(source, i) for i in range(len(source))}


def bits(one, two):
    """Least number of bits that differ, of an image and another or its mirror image."""
    return min(int(distance(np.uint64(one.codes[0]), np.uint64(code))) for code in two.codes)


def test_edits_change_few_bits_and_other_images_half_of_them(tmp_path):
    original = scene(0)
    edited = {
        "small.png": original.resize((90, 70)),
        "jpeg.jpg": original,
        "blur.png": original.filter(ImageFilter.GaussianBlur(3)),
        "gray.png": original.convert("L"),
        "dark.png": original.point(lambda value: value // 2),
        "mirror.png": ImageOps.mirror(original),
        "deep.png": Image.fromarray(np.asarray(original.convert("L")).astype(np.uint16) * 257),
    }
    found = stored(tmp_path, {"original.png": original, **edited, **{f"{k}.png": scene(k) for k in range(1, 30)}})
    first = found["original.png"]
    for name in edited:
        assert bits(first, found[name]) <= 4, name
    others = [bits(first, found[f"{k}.png"]) for k in range(1, 30)]
    assert min(others) > 11 and 20 < np.mean(others) < 36
    assert first.resolution == 200 * 150 and found["small.png"].resolution == 90 * 70


def test_the_mirror_image_has_the_two_codes_exchanged():
    gray = np.random.default_rng(0).random((32, 32))
    one, two = codes(gray), codes(gray[:, ::-1])
    assert one == two[::-1] and one[0] != one[1]


def test_brightness_and_contrast_do_not_matter_and_without_any_there_is_no_code():
    gray = np.random.default_rng(0).random((32, 32))
    assert codes(gray * 0.3 + 0.4) == codes(gray)
    assert codes(0.5 + 0.005 * gray) is None and codes(np.zeros((32, 32))) is None


def test_half_of_the_bits_are_set_and_the_constant_frequency_is_none_of_them():
    gray = np.random.default_rng(1).random((32, 32))
    assert [bin(code).count("1") for code in codes(gray)] == [32, 32]
    np.testing.assert_allclose(DCT @ np.ones(32), [32] + [0] * 31, atol=1e-9)
    from scipy.fft import dctn

    np.testing.assert_allclose(4 * DCT @ gray @ DCT.T, dctn(gray), atol=1e-9)


def test_content_is_the_file_s_or_the_pixels_of_an_array(tmp_path):
    found = stored(tmp_path, {"a.png": scene(0), "b.png": scene(0), "c.png": scene(1)})
    assert found["a.png"].content == found["b.png"].content == (tmp_path / "a.png").read_bytes()
    assert found["a.png"].stored == len(found["a.png"].content)
    pixels = np.stack([np.asarray(scene(k % 2).resize((24, 24))) for k in range(4)])
    np.save(tmp_path / "x.npy", pixels)
    source = image.open_source(str(tmp_path / "x.npy"))
    contents = [fingerprint(source, i).content for i in range(4)]
    assert contents[0] == contents[2] != contents[1]


def test_five_channels_have_a_code_too(tmp_path):
    pytest.importorskip("tifffile")
    import tifffile

    values = np.random.default_rng(0).integers(0, 60_000, (5, 40, 50), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack")
    source = image.open_source(str(tmp_path / "a.tif"))
    assert fingerprint(source, 0).codes is not None


def test_what_cannot_be_read_says_why(tmp_path):
    stream = io.BytesIO()
    scene(0).save(stream, "PNG")
    (tmp_path / "cut.png").write_bytes(stream.getvalue()[:200])
    source = image.open_source(str(tmp_path))
    with pytest.raises(UnreadableItem):
        fingerprint(source, 0)
