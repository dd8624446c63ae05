from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from selfsame.errors import UnreadableItem, UserError
from selfsame.modalities.image import graph, steps
from selfsame.modalities.image.opening import open_source
from selfsame.modalities.image.recipes import RECIPES, View, Views, part_side, recipe, recipes
from selfsame.modalities.image.source import ImageSource
from selfsame.modalities.image.stats import Stats
from selfsame.modalities.image.views import COLUMNS, jittered, make_views, sample
from selfsame.records import ViewPlan
from selfsame.types import Draws

QUIET = View(flip=0, jitter=0, gray=0, blur=0, sigma=(1.0, 2.0), degrees=(30.0, 60.0))
ALL = View(vertical_flip=0.5, rotate=0.5, blur=0.5, box_blur=0.5, sharpen=0.5, solarize=0.5, cutout=0.5, background=0.5)
MANY = 10_000


def stats(channels: int = 3, white: int = 255, side: int = 32) -> Stats:
    return Stats(
        items=16,
        channels=channels,
        bits=8 if white == 255 else 16,
        white=white,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        height=side,
        width=side,
        uniform=True,
    )


def pixels(*shape: int, high: int = 256, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def array_source(folder: Path, values: np.ndarray) -> ImageSource:
    np.save(folder / "items.npy", values)
    return open_source(str(folder / "items.npy"))


def file_source(folder: Path, values: np.ndarray) -> ImageSource:
    for i, item in enumerate(values):
        Image.fromarray(item).save(folder / f"{i:03}.png")
    return open_source(str(folder))


def made(values: Tensor, view: View, seed: int = 0) -> Tensor:
    """One view of each row, on the [0, 1] scale."""
    views = Views(size=values.shape[2], one=view)
    return make_views([values], ViewPlan(full=1), views, stats(values.shape[1]), Draws(seed, 0, len(values)))[0]


def changed(values: Tensor, view: View) -> Tensor:
    """Which rows are not as they came."""
    return (made(values, view) - values / 255).abs().amax((1, 2, 3)) > 1e-4


def many(channels: int = 3) -> Tensor:
    """Rows with a different value at every place, some of them above half."""
    return (
        (torch.randperm(64).reshape(1, 1, 8, 8) * 3 + torch.arange(channels).reshape(1, -1, 1, 1) * 20)
        .to(torch.uint8)
        .repeat(MANY, 1, 1, 1)
    )


# How often and how much


@pytest.mark.parametrize(
    "step",
    ["flip", "vertical_flip", "rotate", "jitter", "gray", "blur", "box_blur", "sharpen", "solarize", "cutout"],
)
@pytest.mark.parametrize("probability", [0.0, 0.1, 0.8, 1.0])
def test_a_step_happens_as_often_as_its_probability_says(step, probability):
    share = changed(many(), QUIET.changed(**{step: probability}))
    assert abs(share.double().mean().item() - probability) <= (0.012 if 0 < probability < 1 else 0)


def test_photo_is_the_papers_recipe():
    views = recipe("photo", 224, stats())
    for view, blur, solarize in ((views.one, 1.0, 0.0), (views.two, 0.1, 0.2)):
        assert view.model_dump(include={"blur", "solarize", "flip", "jitter", "gray", "area", "ratio", "sigma"}) == {
            "blur": blur,
            "solarize": solarize,
            "flip": 0.5,
            "jitter": 0.8,
            "gray": 0.2,
            "area": (0.08, 1.0),
            "ratio": (3 / 4, 4 / 3),
            "sigma": (0.1, 2.0),
        }
        assert (view.brightness, view.contrast, view.saturation, view.hue) == (0.4, 0.4, 0.2, 0.1)
        assert view.vertical_flip == view.rotate == view.box_blur == view.sharpen == view.cutout == 0


def test_photo_deviates_from_the_paper_as_it_says():
    view = recipe("photo", 224, stats()).one.changed(flip=0.0, jitter=0.0, gray=0.0, blur=0.0)
    black = torch.zeros(8, 3, 2, 2, dtype=torch.uint8)
    assert not made(black, view.changed(jitter=1.0, contrast=0.0)).any()  # an offset would lift it
    flat = torch.tensor([200, 100, 50], dtype=torch.uint8).reshape(1, 3, 1, 1).expand(8, 3, 2, 2)
    only_contrast = view.changed(jitter=1.0, brightness=0.0, saturation=0.0, hue=0.0)
    assert changed(flat, only_contrast).all()  # its channels are at their own means already
    point = torch.zeros(1, 3, 224, 224, dtype=torch.uint8)
    point[..., 112, 112] = 255
    row = made(point, view.changed(blur=1.0, sigma=(2.0, 2.0)))[0, 0, 112]
    assert row.nonzero().flatten().tolist() == list(range(106, 119))  # 3 sigma either way; a tenth would be 23 wide


def test_full_views_alternate_between_the_two_pipelines():
    bright = torch.full((MANY, 3, 2, 2), 200, dtype=torch.uint8)
    quiet = recipe("photo", 2, stats()).two.changed(flip=0.0, jitter=0.0, gray=0.0, blur=0.0)
    views = Views(size=2, one=quiet.changed(solarize=0.0), two=quiet)
    four = make_views([bright] * 4, ViewPlan(full=4), views, stats(), Draws(0, 0, MANY))
    shares = [(view < 0.5).double().mean().item() for view in four]
    assert shares[0] == shares[2] == 0
    assert shares[1] == pytest.approx(0.2, abs=0.012) and shares[3] == pytest.approx(0.2, abs=0.012)


@pytest.mark.parametrize(("strength", "low", "high"), [(0.4, 0.6, 1.4), (1.5, 0.0, 2.5)])
def test_jitter_factors_are_uniform_about_one(strength, low, high):
    gray = torch.full((MANY, 1, 1, 1), 100, dtype=torch.uint8)
    factors = made(gray, QUIET.changed(jitter=1, brightness=strength, contrast=0)).flatten().double() * 2.55
    assert low <= factors.min() and factors.max() <= high
    assert scipy.stats.kstest(factors.numpy(), "uniform", args=(low, high - low)).pvalue > 0.01


def test_each_order_of_the_colour_changes_is_as_likely():
    drawn = dict(zip(COLUMNS, Draws(0, 0, 24_000).uniform(len(COLUMNS)).unbind(1), strict=True))
    order = jittered(View(), drawn, torch.ones(24_000, dtype=torch.bool))["order"]
    counts = Counter(map(tuple, order.tolist()))
    assert len(counts) == 24
    assert scipy.stats.chisquare(list(counts.values())).pvalue > 0.01


def test_hue_is_drawn_both_ways_up_to_its_strength():
    drawn = dict(zip(COLUMNS, Draws(0, 0, MANY).uniform(len(COLUMNS)).unbind(1), strict=True))
    hue = jittered(View(hue=0.1), drawn, torch.ones(MANY, dtype=torch.bool))["hue"].double()
    assert scipy.stats.kstest(hue.numpy(), "uniform", args=(-0.1, 0.2)).pvalue > 0.01


def test_cut_out_covers_its_share_with_one_value():
    white = torch.full((2000, 3, 40, 40), 255, dtype=torch.uint8)
    given = made(white, QUIET.changed(cutout=1, cutout_area=(0.1, 0.2), cutout_value=0.25))
    patch = given[:, 0] == 0.25
    assert torch.equal(given, torch.where(patch[:, None], 0.25, 1.0).expand_as(given))
    assert patch.double().mean().item() == pytest.approx(0.15, abs=0.005)
    small = torch.full((MANY, 1, 4, 4), 255, dtype=torch.uint8)
    random = made(small, QUIET.changed(cutout=1)).amin((1, 2, 3)).double()
    assert scipy.stats.kstest(random.numpy(), "uniform").pvalue > 0.01


# Cutting


@pytest.mark.parametrize("kind", [array_source, file_source])
def test_views_come_in_the_order_full_part_plain(kind, tmp_path):
    source = kind(tmp_path, pixels(5, 32, 40, 3))
    views = Views(size=32, part_size=16)
    samples = sample(source, [3, 0, 4], ViewPlan(full=2, part=3, plain=1), views, Draws(0, 0, 3))
    assert [tuple(view.shape) for view in samples] == [(3, 3, 32, 32)] * 2 + [(3, 3, 16, 16)] * 3 + [(3, 3, 32, 32)]
    assert all(view.dtype == torch.uint8 for view in samples)
    assert not torch.equal(samples[0], samples[1])


@pytest.mark.parametrize("size", [24, 48])
def test_arrays_and_files_are_cut_alike(size, tmp_path):
    smooth = np.stack([np.asarray(Image.fromarray(item).resize((36, 48), 3)) for item in pixels(6, 6, 6, 3)])
    (tmp_path / "files").mkdir()
    sources = [array_source(tmp_path, smooth), file_source(tmp_path / "files", smooth)]
    views = Views(size=size, one=View(area=(0.3, 1.0)))
    array, files = (sample(s, range(6), ViewPlan(full=1, plain=1), views, Draws(0, 0, 6)) for s in sources)
    for one, other in zip(array, files, strict=True):
        difference = (one.int() - other.int()).abs()
        # Pillow rounds between its two passes, and looks at the neighbours of a crop: so its border may differ by more.
        assert difference[:, :, 3:-3, 3:-3].max() <= 2
        assert difference.float().mean() < 1


@pytest.mark.parametrize("side", [32, 96])
def test_a_plain_view_of_an_image_of_its_size_is_the_image(side, tmp_path):
    values = pixels(3, side, side, 3)
    source = array_source(tmp_path, values)
    plain = sample(source, [2, 1], ViewPlan(full=0, plain=1), Views(size=side), Draws(0, 0, 2))[0]
    assert np.array_equal(plain.numpy(), values[[2, 1]].transpose(0, 3, 1, 2))
    view = make_views([plain], ViewPlan(full=0, plain=1), Views(size=side), stats(), Draws(0, 0, 2))[0]
    assert torch.equal(view, plain.float() / 255)


def test_a_plain_view_is_the_middle_of_the_short_side(tmp_path):
    source = file_source(tmp_path, pixels(1, 256, 300, 3) // 2 + 64)
    for size, box in ((112, (38, 16, 262, 240)), (64, (22, 0, 278, 256))):
        plain = sample(source, [0], ViewPlan(full=0, plain=1), Views(size=size), Draws(0, 0, 1))[0]
        wanted = Image.fromarray(source.read(0)).crop(box).resize((size, size), Image.Resampling.BICUBIC)
        assert np.abs(plain[0].permute(1, 2, 0).numpy() - np.asarray(wanted, int)).max() <= 1


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("side", [40, 100])
def test_any_number_of_channels_and_16_bits_go_all_the_way(channels, deep, side, tmp_path):
    white = 4095 if deep else 255
    source = array_source(
        tmp_path, pixels(4, side, side, channels, high=white + 1, dtype=np.uint16 if deep else np.uint8)
    )
    plan, views = ViewPlan(full=2, part=1, plain=1), Views(size=24, part_size=12, one=ALL, two=ALL, part=ALL)
    samples = sample(source, range(4), plan, views, Draws(0, 0, 4))
    assert all(view.dtype == (torch.int32 if deep else torch.uint8) for view in samples)
    for view, side in zip(
        make_views(samples, plan, views, stats(channels, white), Draws(0, 0, 4)), (24, 24, 12, 24), strict=True
    ):
        assert view.shape == (4, channels, side, side) and view.dtype == torch.float32
        assert view.min() >= 0 and view.max() <= 1 and view.std() > 0.02


def test_what_a_resize_overshoots_is_cut_at_the_white_of_the_data(tmp_path):
    values = np.where(np.indices((2, 40, 40, 1)).sum(0) // 3 % 2, 4095, 0).astype(np.uint16)
    source = array_source(tmp_path, values)
    source.fit(stats(1, 4095, 40))
    plain = sample(source, [0, 1], ViewPlan(full=0, plain=1), Views(size=64), Draws(0, 0, 2))[0]
    assert plain.max() == 4095 and plain.min() == 0


def test_an_unreadable_item_is_told_or_replaced_where_the_source_can(tmp_path):
    source = file_source(tmp_path, pixels(3, 20, 20, 3))
    (tmp_path / "001.png").write_bytes(b"no image")
    plan, views = ViewPlan(full=1, part=1), Views(size=16, part_size=8)
    with pytest.raises(UnreadableItem):
        sample(source, [0, 1], plan, views, Draws(0, 0, 2))

    def attempt(i, read):
        try:
            return read(i)
        except UnreadableItem:
            return read(i + 1)

    source.attempt = attempt
    patient = sample(source, [0, 1], plan, views, Draws(0, 0, 2))
    assert all(
        torch.equal(*pair) for pair in zip(patient, sample(source, [0, 2], plan, views, Draws(0, 0, 2)), strict=True)
    )


# Function of the draws, and of nothing else


@pytest.mark.parametrize(("kind", "side"), [(array_source, 32), (array_source, 96), (file_source, 32)])
def test_a_batch_is_the_same_however_it_is_divided(kind, side, tmp_path):
    source = kind(tmp_path, pixels(16, side, side, 3))
    plan, views = ViewPlan(full=2, part=2, plain=1), Views(size=24, part_size=16, one=ALL, two=ALL, part=ALL)

    def at(start: int, end: int) -> tuple[list[Tensor], list[Tensor]]:
        samples = sample(source, range(start, end), plan, views, Draws(5, 7, 16, slice(start, end), stream=1))
        return samples, make_views(samples, plan, views, stats(), Draws(5, 7, 16, slice(start, end), stream=2))

    whole, parts = at(0, 16), [at(0, 8), at(8, 13), at(13, 16)]
    for k in range(5):
        assert torch.equal(whole[0][k], torch.cat([part[0][k] for part in parts]))
        torch.testing.assert_close(whole[1][k], torch.cat([part[1][k] for part in parts]), atol=1e-5, rtol=0)


def test_equal_draws_give_equal_views_and_others_do_not():
    values = torch.from_numpy(pixels(8, 3, 24, 24))
    assert torch.equal(made(values, ALL), made(values, ALL))
    assert not torch.allclose(made(values, ALL), made(values, ALL, seed=1))


def test_samples_are_left_as_they_are():
    values = torch.from_numpy(pixels(8, 3, 24, 24))
    kept = values.clone()
    made(values, ALL)
    assert torch.equal(values, kept)


def test_memory_layout_does_not_matter():
    values = torch.from_numpy(pixels(8, 3, 24, 24))
    assert torch.equal(made(values.contiguous(memory_format=torch.channels_last), ALL), made(values, ALL))


def test_a_step_switched_on_leaves_the_others_as_they_were():
    values = torch.from_numpy(pixels(64, 3, 24, 24))
    view = View(rotate=0.3, blur=0.5, cutout=0)
    rows = changed(values, QUIET.changed(solarize=0.5))
    assert torch.equal(made(values, view)[~rows], made(values, view.changed(solarize=0.5))[~rows])


class Counted(Draws):
    """Draws that remember how many numbers were asked for."""

    asked: tuple[int, ...] = ()

    def uniform(self, k):
        self.asked += (k,)
        return super().uniform(k)


def test_runs_without_later_steps_draw_what_they_always_drew():
    values = torch.from_numpy(pixels(32, 3, 24, 24))
    plan = ViewPlan(full=2, part=1)

    def views(**strengths):
        drawn = Counted(0, 0, 32)
        strength = Views(size=24, part_size=24, two=View(rotate=0.2, **strengths))
        return make_views([values] * 3, plan, strength, stats(), drawn), drawn.asked

    before, asked = views()
    later, more = views(background=1.0)
    assert asked == (27,) * 3 == (len(COLUMNS),) * 3 and more == (27,) * 3 + (2,) * 3
    assert torch.equal(before[0], later[0]) and torch.equal(before[2], later[2])
    assert not torch.equal(before[1], later[1])


@pytest.mark.parametrize("share", [0.1, 0.8])
def test_a_background_is_replaced_as_often_as_its_probability_says(share, monkeypatch):
    monkeypatch.setattr("selfsame.modalities.image.saliency.mask_of", lambda x: torch.zeros_like(x[:, 0]).bool())
    rows = changed(many(), QUIET.changed(background=share))
    assert rows.double().mean().item() == pytest.approx(share, abs=0.012)


def test_without_the_kernel_the_views_are_the_same_to_rounding(tmp_path, monkeypatch):
    source = file_source(tmp_path, pixels(6, 70, 90, 3) // 2 + 64)
    plan, views = ViewPlan(full=2, part=1, plain=1), recipe("photo", 64, stats())

    def both_halves():
        samples = sample(source, range(6), plan, views, Draws(0, 0, 6))
        return samples, make_views(samples, plan, views, stats(), Draws(0, 0, 6, stream=1))

    samples, quick = both_halves()
    monkeypatch.setattr("selfsame.modalities.image.kernel.compiled", lambda: None)
    others, _ = both_halves()
    assert max((one.int() - two.int()).abs().max() for one, two in zip(samples, others, strict=True)) <= 1
    slow = make_views(samples, plan, views, stats(), Draws(0, 0, 6, stream=1))
    assert all((one - two).abs().mean() < 1e-4 for one, two in zip(quick, slow, strict=True))


def test_steps_that_the_kernel_lacks_are_left_to_torch(monkeypatch):
    values = torch.from_numpy(pixels(8, 3, 32, 32))
    monkeypatch.setattr("selfsame.modalities.image.views.at_once", None)  # what is called is no function
    for rare in ("rotate", "box_blur", "sharpen", "cutout", "background"):
        made(values, View(**{rare: 0.5}))


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", ["1", "0"])
def test_the_device_is_never_waited_for(compiled, monkeypatch):
    monkeypatch.setenv("SELFSAME_COMPILE", compiled)
    plan, views = ViewPlan(full=2, part=1, plain=1), Views(size=24, part_size=24, one=ALL, two=ALL, part=ALL)
    samples = [torch.from_numpy(pixels(16, 3, 24, 24))] * 4
    moved = [view.cuda() for view in samples]
    make_views(moved, plan, views, stats(), Draws(0, 1, 16))  # the compiler may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        on_gpu = make_views(moved, plan, views, stats(), Draws(0, 0, 16))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not graph.failed
    monkeypatch.setenv("SELFSAME_COMPILE", "0")
    for one, other in zip(on_gpu, make_views(samples, plan, views, stats(), Draws(0, 0, 16)), strict=True):
        assert (one.cpu() - other).abs().mean() < 1e-3


# Records


def test_auto_is_photo_above_64_pixels_and_small_up_to_there():
    assert recipe("auto", 65, stats()) == recipe("photo", 65, stats())
    assert recipe("auto", 64, stats()) == recipe("small", 64, stats())
    assert recipe("small", 32, stats()).one.blur == recipe("small", 32, stats()).two.blur == 0
    assert recipe("small", 32, stats()).two.solarize == 0.2


FIGURES = {  # area, jitter, brightness, contrast, saturation, hue, gray, blur of both full views
    "moco": ((0.2, 1), 1.0, 0.4, 0.4, 0.4, 0.4, 0.2, 0.0),
    "moco2": ((0.2, 1), 0.8, 0.4, 0.4, 0.4, 0.1, 0.2, 0.5),
    "simclr": ((0.08, 1), 0.8, 0.8, 0.8, 0.8, 0.2, 0.2, 0.5),
    "simclr_small": ((0.08, 1), 0.8, 0.4, 0.4, 0.4, 0.1, 0.2, 0.0),
    "swav": ((0.14, 1), 0.8, 0.8, 0.8, 0.8, 0.2, 0.2, 0.5),
    "vicreg_small": ((0.2, 1), 0.8, 0.4, 0.4, 0.2, 0.1, 0.2, 0.0),
    "histopathology": ((0.2, 1), 0.8, 0.8, 0.8, 0.8, 0.2, 0.0, 0.0),
}


@pytest.mark.parametrize("name", FIGURES)
def test_the_recipes_have_the_figures_of_their_papers(name):
    views = recipe(name, 224, stats())
    assert views.one == views.two and views.one.flip == 0.5
    names = ("area", "jitter", "brightness", "contrast", "saturation", "hue", "gray", "blur")
    area, *others = (getattr(views.one, key) for key in names)
    assert area == FIGURES[name][0] and others == pytest.approx(list(FIGURES[name][1:]))


def test_recipes_that_differ_from_view_to_view():
    dino, strong = recipe("dino", 224, stats()), recipe("weak_strong", 224, stats())
    assert (dino.one.area, dino.two.area, dino.part.area) == ((0.4, 1), (0.4, 1), (0.05, 0.4))
    assert [(v.blur, v.solarize) for v in (dino.one, dino.two, dino.part)] == [(1, 0), (0.1, 0.2), (0.5, 0)]
    assert recipe("swav", 224, stats()).part.area == (0.05, 0.14)
    assert strong.one == recipe("moco2", 224, stats()).one
    assert strong.two == recipe("weak", 224, stats()).two.changed(area=(0.2, 1.0))
    assert recipe("weak_strong", 32, stats()).one == strong.one.changed(blur=0.0)
    assert recipe("vicreg_small", 32, stats()).one.solarize == 0.1


def test_a_crop_alone_changes_no_pixel():
    values = torch.from_numpy(pixels(64, 3, 16, 16))
    assert recipe("crop", 224, stats()).one.area == (0.3, 1)
    assert not changed(values, recipe("crop", 224, stats()).one).any()


def test_recipes_of_domains():
    tissue, surgery = recipe("histopathology", 224, stats()), recipe("surgical", 224, stats())
    assert (tissue.one.vertical_flip, tissue.one.rotate, tissue.one.degrees) == (0.5, 1, (-180, 180))
    assert (surgery.one.area, surgery.one.cutout, surgery.one.cutout_area) == ((0.5, 1), 0.8, (0.02, 0.1))
    exemplar = recipe("exemplar", 32, stats()).one
    assert (exemplar.rotate, exemplar.degrees, exemplar.area, exemplar.flip) == (1, (-20, 20), (0.25, 1), 0)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("size", [16, 96])
def test_every_recipe_makes_every_kind_of_view(name, size, tmp_path):
    source = array_source(tmp_path, pixels(3, 100, 100, 3))
    plan, views = ViewPlan(full=2, part=1, plain=1), recipe(name, size, stats())
    samples = sample(source, range(3), plan, views, Draws(0, 0, 3))
    sides = [view.shape[2] for view in make_views(samples, plan, views, stats(), Draws(0, 0, 3))]
    assert sides == [size, size, part_side(size), size]


@pytest.mark.parametrize("kind", [array_source, file_source])
def test_full_views_have_as_much_in_common_with_the_first_as_is_asked(kind, tmp_path, monkeypatch):
    source, boxes = kind(tmp_path, pixels(64, 40, 60, 1).repeat(3, axis=3)), []
    together = steps.brought_together

    def kept(first, other, least):
        boxes.append((first, together(first, other, least)))
        return boxes[-1][1]

    monkeypatch.setattr(steps, "brought_together", kept)
    views = Views(size=16, one=View(area=(0.1, 0.3)), two=View(area=(0.1, 0.3)), part_size=8, overlap=0.4)
    sample(source, range(64), ViewPlan(full=3, part=1), views, Draws(0, 0, 64))
    assert sum(len(first) for first, _ in boxes) == 2 * 64
    assert all((steps.shared(*pair) >= 0.35).all() for pair in boxes)  # boxes are of whole pixels


def test_weak_views_are_crops_and_mirror_images_only():
    values = torch.from_numpy(pixels(64, 3, 16, 16))
    for view in (recipe("weak", 32, stats()).one, recipe("weak", 32, stats()).two):
        rows = changed(values, view)
        assert 10 < rows.sum() < 54
        torch.testing.assert_close(made(values, view)[rows], values[rows].flip(3) / 255)


@pytest.mark.parametrize("channels", [1, 4])
def test_a_recipe_for_gray_data_has_no_steps_that_need_colour(channels):
    for name in recipes():
        views = recipe(name, 96, stats(channels))
        for view in (views.one, views.two, views.part):
            assert view.saturation == view.hue == view.gray == 0
    assert recipe("photo", 96, stats(channels)).two.solarize == 0.2


def test_an_unknown_recipe_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match=r"'phot'.*photo"):
        recipe("phot", 224, stats())


@pytest.mark.parametrize(("size", "part"), [(224, 96), (128, 48), (96, 48), (64, 32), (32, 16), (28, 16), (8, 8)])
def test_part_views_are_in_proportion_to_full_ones(size, part):
    assert part_side(size) == part


@pytest.mark.parametrize(
    "wrong",
    [
        {"flip": 1.1},
        {"blur": -0.1},
        {"area": (0.5, 0.1)},
        {"area": (0.0, 1.0)},
        {"area": (0.1, 1.5)},
        {"ratio": (0.0, 1.0)},
        {"sigma": (2.0, 0.1)},
        {"hue": 0.6},
        {"degrees": (-200.0, 0.0)},
        {"box_radius": (0, 1)},
        {"cutout_value": 2.0},
        {"contrast": -1.0},
        {"solarise": 0.2},
    ],
)
def test_strengths_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        View(**wrong)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_views_of_a_few_pixels_are_made_too(size, tmp_path):
    source = array_source(tmp_path, pixels(4, 7, 7, 3))
    views = Views(size=size, one=ALL.changed(blur=1, box_blur=1, sharpen=1, box_radius=(9, 9)))
    samples = sample(source, range(4), ViewPlan(full=1), views, Draws(0, 0, 4))
    assert make_views(samples, ViewPlan(full=1), views, stats(), Draws(0, 0, 4))[0].shape == (4, 3, size, size)
