"""The demo: an encoder for handwritten digits from unlabelled images, measured with ten labels a class.

Data: scikit-learn's copy of the UCI digits (1,797 images of 8 x 8 pixels), bundled with that library.
Run:  make demo, or python examples/digits.py [--out runs/digits]
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # layers of 8 x 8 pixels are too small to share between cores

import numpy as np
from sklearn.datasets import load_digits

import selfsame as ss

# A digit mirrored or solarised is another digit, or none: these strengths fit glyphs.
GLYPH = {
    "area": (0.6, 1.0),
    "flip": 0.0,
    "solarize": 0.0,
    "brightness": 0.2,
    "contrast": 0.2,
    "rotate": 0.8,
    "degrees": (-15.0, 15.0),
}


def network():
    """A ResNet-18 of a quarter of the usual width whose stem keeps all 8 x 8 pixels."""
    from timm.models.resnet import BasicBlock, ResNet
    from torch import nn

    widths = (16, 32, 64, 128)
    net = ResNet(BasicBlock, (2, 2, 2, 2), num_classes=0, in_chans=1, channels=widths, zero_init_last=False)
    net.conv1 = nn.Conv2d(1, 64, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    return net


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
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    data = args.out.parent / "digits.npz"
    write_data(data)
    began = time.monotonic()
    run = ss.pretrain(
        f"{data}::x_train",
        out=args.out,
        encoder="digits:network",
        views={"name": "small", "one": GLYPH, "two": GLYPH},
        epochs=60,
        seed=args.seed,
    )
    rows = ss.evaluate(run, data, budgets="10/class")
    minutes = (time.monotonic() - began) / 60
    result = {"minutes": round(minutes, 1), "machine": run.result["machine"], "verdict": run.verdict, "rows": rows}
    (args.out / "demo.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{minutes:.1f} minutes. Now open {args.out / 'report.html'} in a browser.")


if __name__ == "__main__":
    main()
