"""A small table, for tests that run over every modality."""

import csv
from pathlib import Path

import numpy as np

LEAVE_OUT = True  # the column of --labels must be no feature
TINY, TINY_TOKENS, SIZE = "mlp-tiny", "ft-tiny", None
HEAD = ("age", "city", "clicks", "share", "seen", "score")
CITIES = ("Bern", "Oslo", "Turin", "Lyon")


def rows(n: int, seed: int = 0) -> list[dict[str, str]]:
    """n rows of two kinds, which differ in all columns but one; here and there a value is missing."""
    rng = np.random.default_rng(seed)
    found = []
    for k in range(n):
        kind = k % 2
        cells = {
            "age": f"{rng.normal(30 + 20 * kind, 5):.0f}",
            "city": CITIES[int(rng.integers(2)) + 2 * kind],
            "clicks": f"{int(rng.exponential(2 + 40 * kind) ** 1.5)}",
            "share": f"{rng.beta(2 + 4 * kind, 4):.3f}",
            "seen": f"20{20 + kind:02}-{rng.integers(1, 13):02}-{rng.integers(1, 28):02}",
            "score": f"{rng.normal():.3f}",
        }
        if rng.uniform() < 0.2:
            cells[HEAD[int(rng.integers(len(HEAD)))]] = "?"
        found.append({**cells, "bought": ("no", "yes")[kind]})
    return found


def written(path: Path, held: list[dict[str, str]], head: tuple[str, ...], separator: str = ",") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, delimiter=separator)
        lines.writerow(head)
        lines.writerows([row[name] for name in head] for row in held)
    return str(path)


def make(folder: Path, n: int = 32) -> str:
    """A CSV of n rows without labels; the path that is given to `pretrain`."""
    return written(folder / "table.csv", rows(n), HEAD)


def labelled(folder: Path) -> tuple[str, str]:
    """A CSV with labels, and the value of --labels."""
    return written(folder / "labelled.csv", rows(40), (*HEAD, "bought")), "bought"
