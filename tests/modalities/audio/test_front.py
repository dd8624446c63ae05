"""Spectra of waveforms."""

import math

import numpy as np
import pytest
import torch

from selfsame.modalities.audio import front
from tests.modalities.audio.room import stats_of

BYOL_A = stats_of(16000)


def sine(hz: float, rate: int, count: int, size: float = 1.0) -> torch.Tensor:
    return size * torch.sin(2 * math.pi * hz * torch.arange(count, dtype=torch.float64) / rate).float()[None]


def test_frames_are_those_of_byol_a() -> None:
    # arXiv 2103.06695, section IV-A: 0.95 s at 16 kHz are 64 bands and 96 frames.
    assert front.log_mel(torch.zeros(2, 15200), BYOL_A).shape == (2, 64, 96)
    assert front.samples_for(96, 160) == 15200 and front.frames_of(15200, 160) == 96
    assert front.fft_size(1024) == 1024 and front.fft_size(2822) == 4096


def test_the_power_of_a_sine_stands_where_it_belongs() -> None:
    # A sine of amplitude 1 under a Hann window of n samples has the peak power (n / 4)^2.
    power = front.power(sine(1000, 16000, 16000), BYOL_A)[0]
    assert int(power[:, 50].argmax()) == 64  # 1000 Hz of 15.625 Hz a step
    assert float(power[64, 50]) == pytest.approx(256**2, rel=1e-3)
    expected = torch.stft(
        sine(1000, 16000, 16000), 1024, 160, 1024, torch.hann_window(1024), pad_mode="constant", return_complex=True
    )
    assert torch.allclose(power, expected.abs().square()[0], rtol=1e-3, atol=0.05)


def test_bands_are_slaneys() -> None:
    assert front.hz_to_mel(1000) == pytest.approx(15) and front.hz_to_mel(6400) == pytest.approx(42)
    hz = np.array([20.0, 400, 1000, 5000])
    assert np.allclose(front.mel_to_hz(front.hz_to_mel(hz)), hz)
    bank = front.mel_bank(front.bank_key(BYOL_A))
    assert bank.shape == (64, 513) and (bank >= 0).all() and (bank.sum(axis=1) > 0).all()
    assert np.allclose(bank.sum(axis=1) * 15.625, 1, atol=0.12)  # triangles of area 1
    peaks = bank.argmax(axis=1) * 15.625
    assert np.abs(peaks - front.centres(BYOL_A)).max() < 16
    assert not bank[:, :4].any() and not bank[:, 500:].any()  # below 60 Hz, above 7800 Hz


def test_narrow_bands_hold_at_least_one_frequency() -> None:
    many = stats_of(8000, mels=256, frame=200)
    assert (front.mel_bank(front.bank_key(many)).sum(axis=1) > 0).all()


def test_silence_is_the_floor_and_a_sine_stands_in_its_band() -> None:
    silence = front.log_mel(torch.zeros(1, 8000), BYOL_A)
    assert torch.allclose(silence, torch.full_like(silence, math.log(front.FLOOR)))
    band = front.log_mel(sine(2000, 16000, 16000), BYOL_A)[0, :, 50].argmax()
    assert abs(front.centres(BYOL_A)[int(band)] - 2000) < 100
    assert front.log_power(torch.zeros(1, 8000), BYOL_A).shape == (1, 512, 51)


def test_at_one_loudness_40_db_below_the_mean_power_is_silence() -> None:
    powers = torch.tensor([[1.0, 1e-2], [1e-6, 0.0]])
    near, far = (front.levelled((share * powers + front.FLOOR).log()[None])[0] for share in (100, 1))
    assert torch.allclose(near, far, atol=0.01) and float(near.mean()) == pytest.approx(0, abs=1e-6)
    mean = powers.mean()
    assert float(near[0, 0] - near[1, 1]) == pytest.approx(math.log((1 / mean + 1e-4) / 1e-4), abs=0.01)
    assert float(near[1, 0] - near[1, 1]) < 0.05


def test_a_wave_at_the_unit_of_loudness() -> None:
    wave = torch.stack([3 * torch.randn(500), torch.zeros(500)])
    made = front.unit(wave)
    assert float(made[0].square().mean()) == pytest.approx(1, rel=1e-5) and not made[1].any()


def test_the_cepstrum_is_an_orthonormal_cosine_transform() -> None:
    from scipy.fft import dct

    x = torch.randn(2, 64, 7, generator=torch.Generator().manual_seed(0))
    expected = dct(x.numpy(), type=2, norm="ortho", axis=1)[:, :40]
    assert np.allclose(front.cepstrum(x).numpy(), expected, atol=1e-5)


def test_stored_samples_are_floats_below_one() -> None:
    stored = torch.tensor([[-32768, 0, 16384, 32767]], dtype=torch.int16)
    assert torch.equal(front.scaled(stored), torch.tensor([[-1, 0, 0.5, 32767 / 32768]]))


@pytest.mark.parametrize("count", [1, 3, 79, 80, 8000])
def test_any_length_has_a_spectrum(count: int) -> None:
    x = front.log_mel(torch.randn(1, count), stats_of())
    assert x.shape == (1, 64, 1 + count // 80) and torch.isfinite(x).all()
