"""src/selfsame/methods/curves.json, from the stored measurements of bench/methods.py: what runs of a preset look like.

python bench/curves.py
"""

import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

HERE = Path(__file__).parent
STORED = HERE / "results" / "methods-cifar10.json"
WRITTEN = HERE.parent / "src" / "selfsame" / "methods" / "curves.json"
CLEAR = 2.0  # points above random weights; two standard errors of 2,000 test items
NETWORK = "narrow:colour"  # of the runs that stand for the preset `quick`


def main() -> None:
    found = [curve(entry) for entry in json.loads(STORED.read_text(encoding="utf-8"))["entries"] if usable(entry)]
    WRITTEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{len(found)} curves")


def usable(entry: dict[str, Any]) -> bool:
    """Not those of runs that came to nothing: being where they were would be no comfort."""
    if entry["encoder"] != NETWORK or any(run["verdict"] == "stopped" for run in entry["runs"]):
        return False
    return fmean(run["judge_probe"] for run in entry["runs"]) > entry["judged"]["random"]["probe"] + CLEAR


def curve(entry: dict[str, Any]) -> dict[str, Any]:
    runs = entry["runs"]
    points = []
    for looks in zip(*(run["looks"] for run in runs), strict=True):
        point: dict[str, Any] = {"samples": looks[0]["samples"]}
        for key in ("agreement", "rank"):
            values = [look[key] for look in looks]
            point[key] = [round(fmean(values), 4), round(stdev(values), 4) if len(values) > 1 else 0.0]
        points.append(point)
    knn, probe = (fmean(run[key] for run in runs) for key in ("judge_knn", "judge_probe"))
    return {
        "method": entry["method"],
        "preset": "quick",
        "data": "10,000 images of CIFAR-10 with a ResNet-18 of width 0.25",
        "command": entry["command"],
        "machine": entry["machine"],
        "seeds": len(runs),
        "points": points,
        "final": f"k-NN {knn:.1f} %, linear {probe:.1f} %",
    }


if __name__ == "__main__":
    main()
