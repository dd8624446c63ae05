"""What several test files need."""

from selfsame.modalities.audio import front
from selfsame.modalities.audio.reading import Stats


def stats_of(rate: int = 8000, **changes: object) -> Stats:
    """Statistics as measured of speech at this rate."""
    given = {
        "items": 10, "rate": rate, "channels": 1, "seconds": (0.2, 0.4, 0.6, 2.0), "mels": 64,
        "frame": round(0.064 * rate), "hop": rate // 100, "low": 60.0, "high": 0.975 * rate / 2,
        "level": 0.1, "mean": -8.0, "std": 4.0, "stft_mean": -7.0, "stft_std": 4.0,
        "mfcc_mean": (0.0,) * 40, "mfcc_std": (2.0,) * 40,
    }  # fmt: skip
    return Stats.model_validate({**given, **changes})


SIZE = front.samples_for(32, 80)  # 32 frames at 8 kHz
