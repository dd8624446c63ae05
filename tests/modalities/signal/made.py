"""A small made data set of series: waves of three shapes on two channels, some values missing."""

from pathlib import Path

import numpy as np

TINY, TINY_TOKENS = "resnet@0.125", "vit_nano"
SHAPES = ("sine", "square", "ramp")
STEPS = 48


def series(kind: int, seed: int, steps: int = STEPS) -> np.ndarray:
    """[2 t]: a wave of one of three shapes, and its slope, at a random phase and pace; about 20 ± 5."""
    rng = np.random.default_rng([kind, seed])
    turns = rng.uniform(2, 3) * np.arange(steps) / STEPS + rng.uniform()
    wave = [np.sin(2 * np.pi * turns), np.sign(np.sin(2 * np.pi * turns)), 2 * (turns % 1) - 1][kind]
    values = np.stack([wave, np.gradient(wave)]) + rng.normal(0, 0.1, (2, steps))
    return (20 + 5 * values).astype(np.float32)


def arrays(n: int) -> tuple[np.ndarray, np.ndarray]:
    """[n 2 t] and labels; every seventh series has a gap."""
    x = np.stack([series(k % 3, k) for k in range(n)])
    x[::7, :, 10:14] = np.nan
    return x, np.array([SHAPES[k % 3] for k in range(n)])


def make(folder: Path, n: int = 32) -> str:
    """The path of an .npz with `x` [n 2 48], without labels."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "waves.npz"
    np.savez(path, x=arrays(n)[0])
    return str(path)


def labelled(folder: Path) -> tuple[str, str]:
    """The path of series and the value of --labels that names an array of theirs."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "labelled.npz"
    x, y = arrays(48)
    np.savez(path, x=x, kind=y)
    return str(path), f"{path}::kind"


def written_table(folder: Path) -> str:
    """The path of a table of the same series, a step a row, with the columns id, time, height, slope and kind."""
    path = folder / "waves.csv"
    x, y = arrays(48)
    rows = ["id,time,height,slope,kind"]
    for k, (one, kind) in enumerate(zip(x, y, strict=True)):
        rows += [f"w{k:02d},{t / 50},{high:.4f},{slope:.4f},{kind}" for t, (high, slope) in enumerate(one.T)]
    path.write_text("\n".join(rows) + "\n")
    return str(path)
