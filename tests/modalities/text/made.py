"""A small set of made texts: about the sea and about cooking."""

import random
from pathlib import Path

TINY = "conv-tiny@0.25"
TINY_TOKENS = "bert-tiny@0.25"
TINY_BAG = "bag-tiny@0.25"
KINDS = ("sea", "kitchen")
WORDS = {
    "sea": ("wave", "harbour", "sail", "captain", "anchor", "storm", "gull", "deck", "tide", "lighthouse"),
    "kitchen": ("onion", "butter", "oven", "flour", "pepper", "soup", "knife", "dough", "lemon", "plate"),
}
FRAMES = (
    "the {0} and the {1} were near the {2}",
    "we saw a {0} , then a {1} , and at last the {2}",
    "nobody forgets the {0} of that {1} or its {2} when evening comes",
    "a {0} without a {1} is like a {2}",
)


def sentence(kind: str, rng: random.Random) -> str:
    return rng.choice(FRAMES).format(*rng.sample(WORDS[kind], 3))


def make(folder: Path, n: int = 32) -> str:
    """A .txt of `n` lines, of both kinds in turns; the path of it."""
    rng = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "texts.txt"
    path.write_text("".join(f"{sentence(KINDS[k % 2], rng)}\n" for k in range(n)), encoding="utf-8")
    return str(path)


def labelled(folder: Path, n: int = 32) -> tuple[str, str]:
    """A .csv of `n` texts with the column `kind`; its path, and what to give as --labels."""
    rng = random.Random(1)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "labelled.csv"
    rows = [f'"{sentence(KINDS[k % 2], rng)}",{KINDS[k % 2]}' for k in range(n)]
    path.write_text("text,kind\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return str(path), "kind"
