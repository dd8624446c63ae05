import pytest
import torch

from selfsame.modalities.image import saliency
from tests.modalities.image.test_views import made

SIDE = 64


def disc(top=32, left=32, radius=16, side=SIDE):
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return (y - top) ** 2 + (x - left) ** 2 < radius**2


def scene(mask, front=(0.9, 0.3, 0.2), back=(0.2, 0.5, 0.4), noise=0.02):
    torch.manual_seed(0)
    colours = [torch.tensor(colour)[:, None, None] for colour in (front, back)]
    return (torch.where(mask, *colours) + noise * torch.randn(3, *mask.shape)).clamp(0, 1)


def overlap(one, two):
    return ((one & two).sum() / (one | two).sum()).item()


@pytest.mark.parametrize("mask", [disc(), disc(20, 40, 12), disc(40, 24, 22), disc(32, 10, 18)])
@pytest.mark.parametrize("colours", [((0.9, 0.3, 0.2), (0.2, 0.5, 0.4)), ((0.05,) * 3, (0.6,) * 3)])
def test_an_object_on_plain_ground_is_found_even_where_it_reaches_one_side(mask, colours):
    found = saliency.mask_of(scene(mask, *colours)[None])[0]
    assert overlap(found, mask) > 0.85


def test_dark_and_bright_parts_of_an_object_are_both_kept():
    mask = disc(32, 32, 20)
    x = scene(mask, (0.95, 0.9, 0.2), (0.1, 0.1, 0.1))
    x[:, 32:] = torch.where(mask[32:], x[:, 32:] * 0.5, x[:, 32:])
    assert overlap(saliency.mask_of(x[None])[0], mask) > 0.8


def test_a_slope_of_light_is_no_object():
    x = scene(disc()) * torch.linspace(0.8, 1.1, SIDE)[:, None]
    assert overlap(saliency.mask_of(x.clamp(0, 1)[None])[0], disc()) > 0.8


def test_where_nothing_stands_out_or_all_does_the_mask_is_all():
    plain = torch.full((1, 3, SIDE, SIDE), 0.4)
    speck = scene(disc(32, 32, 4), noise=0.0)[None]
    assert saliency.mask_of(plain).all() and saliency.mask_of(speck).all()


def test_the_barrier_is_the_least_range_of_values_on_a_way_to_the_border():
    row = torch.tensor([0.0, 0.3, 0.1, 0.8, 0.5, 0.8, 0.2, 0.0, 0.0])
    x = torch.full((9, 9), 2.0)
    x[4] = row  # a valley: other ways lead over a wall of 2
    found = saliency.barrier(x[None, None])[0, 4]
    torch.testing.assert_close(found, torch.tensor([0, 0.3, 0.3, 0.8, 0.8, 0.8, 0.2, 0, 0]))


def test_rows_do_not_see_each_other():
    batch = torch.stack([scene(disc()), scene(disc(20, 20, 10)), torch.rand(3, SIDE, SIDE)])
    alone = torch.cat([saliency.saliency(row[None]) for row in batch])
    torch.testing.assert_close(saliency.saliency(batch), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("side", [1, 2, 5, 33])
def test_any_channels_and_sizes_are_looked_at(channels, side):
    x = torch.rand(2, channels, side, side)
    assert saliency.mask_of(x).shape == (2, side, side) and saliency.saliency(x).isfinite().all()
    assert saliency.background_of(x, saliency.mask_of(x)).isfinite().all()


def test_otsu_parts_two_heaps():
    values = torch.cat([torch.full((60,), 0.2), torch.full((40,), 0.7)]).reshape(1, 10, 10)
    assert 0.2 < saliency.otsu(values).item() < 0.7


def test_a_background_has_the_colours_about_the_object():
    mask = disc(32, 32, 18)
    ground = saliency.background_of(scene(mask)[None], mask[None])[0]
    assert torch.equal(ground[:, ~mask], scene(mask)[:, ~mask])
    assert (ground[:, mask] - torch.tensor([0.2, 0.5, 0.4])[:, None]).abs().max() < 0.1
    whole = torch.ones(1, SIDE, SIDE, dtype=torch.bool)
    assert torch.equal(saliency.background_of(scene(mask)[None], whole)[0], scene(mask))


# The step of a view ---------------------------------------------------------------------------------------------------


def photos():
    masks = [disc(), disc(24, 36, 14), disc(36, 30, 20)]
    backs = [(0.2, 0.5, 0.4), (0.6, 0.6, 0.9), (0.5, 0.2, 0.5)]
    return (torch.stack([scene(m, back=b) for m, b in zip(masks, backs, strict=True)]) * 255).to(torch.uint8)


def quiet(**strengths):
    from tests.modalities.image.test_views import QUIET

    return QUIET.changed(**strengths)


def test_without_a_background_views_are_as_they_came():
    torch.testing.assert_close(made(photos(), quiet(background=0.0)), photos() / 255)


def test_the_object_is_left_to_the_bit_and_the_ground_is_one_gray():
    view, plain = made(photos(), quiet(background=1.0)), made(photos(), quiet(cutout=1e-9))
    mask = saliency.mask_of(plain)
    for row, was, m in zip(view, plain, mask, strict=True):
        assert torch.equal(row[:, m], was[:, m])
        assert len(row[:, ~m].unique()) == 1
    assert len({row[:, ~m].unique().item() for row, m in zip(view, mask, strict=True)}) == 3


def test_the_other_ground_is_that_of_the_item_before():
    view = made(photos(), quiet(background=1.0, background_fill="other"))
    for k, (row, m) in enumerate(zip(view, saliency.mask_of(photos() / 255), strict=True)):
        want = photos()[k - 1].flatten(1).float().median(1).values / 255
        assert (row[:, ~m] - want[:, None]).abs().mean() < 0.05


@pytest.mark.parametrize("fill", ["gray", "other"])
@pytest.mark.parametrize("everything", [True, False])
def test_a_mask_of_all_changes_nothing_and_a_mask_of_none_all(fill, everything, monkeypatch):
    monkeypatch.setattr(saliency, "mask_of", lambda x: torch.full_like(x[:, 0], everything, dtype=torch.bool))
    view, plain = made(photos(), quiet(background=1.0, background_fill=fill)), made(photos(), quiet(cutout=1e-9))
    if everything:
        assert torch.equal(view, plain)
    elif fill == "gray":
        assert (view == view[:, :1, :1, :1]).all()
    else:
        assert torch.equal(view, plain.roll(1, 0))


@pytest.mark.gpu
def test_a_background_is_made_without_waiting_for_the_device():
    values = photos().to("cuda")
    quiet_view = quiet(background=1.0)
    made(values, quiet_view)
    torch.cuda.set_sync_debug_mode("error")
    try:
        made(values, quiet_view)
        made(values, quiet(background=1.0, background_fill="other"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
