"""Made recordings of two kinds that differ audibly: tones that rise, and tones that fall, at any pitch."""

from pathlib import Path

import numpy as np
import soundfile

TINY = "resnet10t@0.125"
TINY_TOKENS = "test_vit_patch16x8"
RATE = 8000
KINDS = ("falls", "rises")


def tone(kind: int, seed: int, seconds: float = 0.35, rate: int = RATE) -> np.ndarray:
    """A tone with an overtone and a little noise, float32 [t]; kind 0 falls by an octave, kind 1 rises."""
    rng = np.random.default_rng([kind, seed])
    count = round(seconds * rate)
    t = np.linspace(0, 1, count)
    octaves = (t if kind else 1 - t) + rng.uniform(-0.3, 0.3)
    phase = 2 * np.pi * np.cumsum(400 * 2**octaves) / rate
    wave = np.sin(phase) + 0.4 * np.sin(2 * phase + rng.uniform(0, 6))
    return (rng.uniform(0.1, 0.4) * wave + 0.005 * rng.normal(size=count)).astype(np.float32)


def make(folder: Path, n: int = 32) -> str:
    """A folder of n short recordings, half of each kind, one folder a kind."""
    for k in range(n):
        place = folder / "sounds" / KINDS[k % 2]
        place.mkdir(parents=True, exist_ok=True)
        soundfile.write(place / f"{k:03d}.wav", tone(k % 2, k), RATE)
    return str(folder / "sounds")


def labelled(folder: Path) -> tuple[str, str]:
    """The same, and a CSV of labels."""
    path = make(folder)
    lines = [f"{KINDS[k % 2]}/{k:03d}.wav,{KINDS[k % 2]}" for k in range(32)]
    (folder / "labels.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    return path, str(folder / "labels.csv")
