"""The demo: an encoder for handwritten digits from unlabelled images, measured with ten labels a class.

Data: scikit-learn's copy of the UCI digits (1,797 images of 8 x 8 pixels), bundled with that library.
Run:  make demo, or python examples/digits.py [--out runs/digits]
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import selfsame as ss


def write_data(path: Path) -> None:
    """x_train, y_train, x_test, y_test as uint8 images; one in five is for testing."""
    digits = load_digits()
    images = (digits.images * (255 / 16)).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(images))
    test, train = order[:360], order[360:]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, x_train=images[train], y_train=digits.target[train], x_test=images[test], y_test=digits.target[test])


def main() -> None:
    parser = argparse.ArgumentParser(description="Learn from handwritten digits without labels, then measure.")
    parser.add_argument("--out", type=Path, default=Path("runs/digits"))
    out = parser.parse_args().out
    data = out.parent / "digits.npz"
    write_data(data)
    began = time.monotonic()
    run = ss.pretrain(f"{data}::x_train", out=out, image_size=16, views={"name": "small", **GENTLE}, epochs=40)
    rows = ss.evaluate(run, data, protocols="knn,linear", budgets="10/class")
    minutes = (time.monotonic() - began) / 60
    print(json.dumps({"minutes": round(minutes, 1), "verdict": run.verdict, "rows": rows}, indent=1))
    print(f"\nOpen {out / 'report.html'} in a browser.")


# A digit flipped or solarised is another digit or none: strengths fit for glyphs.
GLYPH = {"area": (0.4, 1.0), "flip": 0.0, "solarize": 0.0, "rotate": 0.8, "degrees": 15.0}
GENTLE = {"one": GLYPH, "two": GLYPH}

if __name__ == "__main__":
    main()
