"""The steps of views, one by one."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from selfsame.modalities.audio import steps
from selfsame.modalities.audio.front import FLOOR


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values)


def test_mixing_is_byol_as() -> None:
    # A quarter of power 2 and three quarters of power 4: log 3.5.
    x, other = torch.full((1, 1, 1), math.log(4)), torch.full((1, 1, 1), math.log(2))
    assert float(steps.mixed_logs(x, other, numbers(0.25))) == pytest.approx(1.252763, abs=1e-6)
    x, other = torch.randn(2, 2, 5, 7)
    assert torch.equal(steps.mixed_logs(x, other, numbers(0.0, 0.0)), x)


def test_a_resize_crop_is_a_bicubic_resize_of_the_piece() -> None:
    x = torch.randn(3, 16, 24, generator=torch.Generator().manual_seed(0))
    heights, widths, tops, lefts = (
        numbers(0.7, 1.4, 0.6),
        numbers(0.61, 1.45, 1.0),
        numbers(0.3, 0.9, 0.0),
        numbers(0.1, 0.5, 0.99),
    )
    made = steps.resize_crop(x, heights, widths, tops, lefts, fill=-2.0)
    canvas = torch.full((3, 16, 36), -2.0)
    canvas[:, :, 6:30] = x
    for k in range(3):
        h, w = min(16, int(heights[k] * 16)), min(36, int(widths[k] * 24))
        top, left = int(tops[k] * (16 - h + 1)), int(lefts[k] * (36 - w + 1))
        piece = canvas[k, top : top + h, left : left + w][None, None]
        expected = F.interpolate(piece, (16, 24), mode="bicubic", align_corners=True)[0, 0]
        assert torch.allclose(made[k], expected, atol=1e-4)


def test_a_resize_crop_whose_ends_go_on() -> None:
    x = torch.randn(1, 16, 24)
    made = steps.resize_crop(x, numbers(1.0), numbers(1.5), numbers(0.0), numbers(0.5), fill=None)
    canvas = torch.cat([x[:, :, :1].expand(-1, -1, 6), x, x[:, :, -1:].expand(-1, -1, 6)], dim=2)[None]
    expected = F.interpolate(canvas, (16, 24), mode="bicubic", align_corners=True)[0]
    assert torch.allclose(made, expected, atol=1e-4)


def test_the_middle_of_the_canvas_is_the_spectrogram_itself() -> None:
    x = torch.randn(1, 16, 24)
    made = steps.resize_crop(x, numbers(1.0), numbers(1.0), numbers(0.0), numbers(0.5), fill=0.0)
    assert torch.allclose(made, x, atol=1e-5)


def test_noise_needs_no_float64() -> None:
    seeds = torch.rand(500, generator=torch.Generator().manual_seed(0))
    assert torch.equal(steps.noise(seeds, 3), steps.noise(seeds.double(), 3))

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            assert out.dtype != torch.float64, func
            return out

    with Seen():
        steps.noise(seeds, 3)


def test_noise_is_normal_white_and_told_by_its_number() -> None:
    noise = steps.noise(numbers(0.1, 0.1, 0.7), 50_000)
    assert torch.equal(noise[0], noise[1]) and not torch.equal(noise[0], noise[2])
    assert abs(float(noise[2].mean())) < 0.02 and float(noise[2].std()) == pytest.approx(1, abs=0.02)
    assert float((noise[2].abs() < 1).float().mean()) == pytest.approx(0.6827, abs=0.01)
    assert abs(float((noise[2, 1:] * noise[2, :-1]).mean())) < 0.02 and abs(float((noise[0] * noise[2]).mean())) < 0.02


@pytest.mark.parametrize("snr", [0.0, 20.0])
def test_noise_is_as_loud_as_was_asked(snr: float) -> None:
    wave = torch.zeros(1, 16_000)
    wave[:, 4000:8000] = torch.sin(torch.arange(4000) / 5)
    added = steps.noisy(wave, numbers(snr), numbers(1.0), numbers(0.3)) - wave
    level = float(wave[:, 4000:8000].square().mean().sqrt())  # silence about the sound does not make it softer
    assert 20 * math.log10(level / float(added.square().mean().sqrt())) == pytest.approx(snr, abs=0.01)
    assert not steps.noisy(torch.zeros(1, 100), numbers(snr), numbers(1.0), numbers(0.3)).any()


def test_coloured_noise_falls_with_frequency() -> None:
    for colour in (0.0, 1.0, 2.0):
        made = steps.noisy(torch.ones(1, 65_536), numbers(0.0), numbers(colour), numbers(0.3)) - 1
        power = torch.fft.rfft(made)[0].abs().square()
        low, high = power[1000:2000].mean(), power[8000:16000].mean()
        assert float((low / high).log2()) == pytest.approx(3 * colour, abs=0.2)


def test_filters_take_away_what_they_say() -> None:
    hz = torch.tensor([100.0, 1000.0, 2000.0, 10_000.0])
    low, high = steps.low_pass(hz, numbers(1000.0))[0], steps.high_pass(hz, numbers(1000.0))[0]
    assert float(low[1]) == pytest.approx(-math.log(2), abs=1e-4)  # half the power at the edge
    assert float(low[0]) > -1e-6 and float(low[3]) < -18
    assert float(low[2]) == pytest.approx(-24.1 / 4.343, abs=0.05)  # 24 dB an octave
    assert float(high[0]) < -18 and float(high[3]) > -1e-6


def test_an_equalizer_passes_through_its_knots() -> None:
    gains = torch.randn(2, steps.KNOTS)
    knots = torch.logspace(math.log10(60), math.log10(3900), steps.KNOTS)
    assert torch.allclose(steps.equalizer(knots, gains, (60, 3900)), gains, atol=1e-3)
    assert torch.allclose(steps.equalizer(numbers(1.0, 5000.0), gains, (60, 3900)), gains[:, [0, -1]], atol=1e-3)


def test_a_filter_on_a_waveform_changes_it_by_its_response() -> None:
    size = steps.padded_size(4000, 512)
    assert size >= 4512 and size % 2 == 0
    bins = size // 2 + 1
    wave = torch.sin(2 * math.pi * 1000 / 8000 * torch.arange(4000))[None]
    flat = torch.zeros(1, bins)
    assert torch.allclose(steps.filtered(wave, flat), wave, atol=1e-5)
    louder = steps.filtered(wave, flat + 2 * math.log(2))
    assert torch.allclose(louder, 2 * wave, atol=1e-4)
    hz = torch.linspace(0, 4000, bins)
    gone = steps.filtered(wave, steps.low_pass(hz, numbers(300.0)))
    assert float(gone[:, 500:-500].abs().max()) < 0.01


def test_levels_change_and_silence_stays() -> None:
    x = torch.tensor([FLOOR, 0.5 + FLOOR]).log().view(1, 2, 1)
    made = steps.changed_level(x, torch.full((1, 1, 1), math.log(4.0)))
    assert torch.allclose(made, torch.tensor([FLOOR, 2 + FLOOR]).log().view(1, 2, 1), atol=1e-5)


def test_a_ramp_goes_from_head_to_tail() -> None:
    made = steps.ramp(numbers(0.0, 1.0), numbers(1.0, -1.0), 5)
    assert torch.allclose(made, torch.tensor([[0, 0.25, 0.5, 0.75, 1], [1, 0.5, 0, -0.5, -1]]))


@pytest.mark.parametrize("speed", [0.8, 1.0, 1.25])
def test_speed_moves_pitch(speed: float) -> None:
    wave = torch.sin(2 * math.pi * 400 / 8000 * torch.arange(6000))[None]
    made = steps.sped(wave, numbers(speed), 4000)
    assert made.shape == (1, 4000)
    peak = int(torch.fft.rfft(made * torch.hann_window(4000))[0].abs().argmax())
    assert peak == pytest.approx(400 * speed / 2, abs=1)
    k = torch.arange(4000)
    expected = torch.sin(2 * math.pi * 400 / 8000 * (2999.5 + (k - 1999.5) * speed))
    assert float((made[0] - expected).abs().max()) < 0.02


@pytest.mark.parametrize("speed", [0.83, 1.0, 1.17])
def test_speed_is_50_db_from_the_sinc_at_the_exact_place(speed: float) -> None:
    wave = torch.randn(1, 1200, generator=torch.Generator().manual_seed(0)).double()
    place = 599.5 + (torch.arange(800) - 399.5).double() * speed
    first = place.floor().long()[:, None] + torch.arange(-3, 5)
    away, scale = place[:, None] - first, max(1.0, speed)
    weights = torch.sinc(away / scale) * (0.5 + 0.5 * torch.cos(math.pi * away / 4))
    exact = (wave[0][first] * weights / weights.sum(dim=1, keepdim=True)).sum(dim=1)
    made = steps.sped(wave.float(), numbers(speed), 800)[0]
    assert float((made - exact).square().mean() / exact.square().mean()) < 1e-5


def test_speed_beyond_the_ends_is_silence() -> None:
    made = steps.sped(torch.ones(1, 100), numbers(2.0), 200)
    assert not made[0, :45].any() and not made[0, 155:].any()
    assert torch.allclose(made[0, 80:120], torch.ones(40), atol=1e-5)


def test_speed_one_is_the_middle_itself() -> None:
    wave = torch.randn(2, 1000)
    assert torch.allclose(steps.sped(wave, numbers(1.0, 1.0), 900), wave[:, 50:950], atol=1e-5)
