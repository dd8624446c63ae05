"""src/selfsame/methods/curves.json, from the stored measurements of bench/methods.py and bench/card.py.

    python bench/curves.py

What runs of a preset look like: of `quick` a curve, of `gpu` only where they ended. The papers' presets are too long to
be run here.
"""

import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

HERE = Path(__file__).parent
STORED = HERE / "results" / "methods-cifar10.json"
CARDS = HERE / "results" / "card.json"
WRITTEN = HERE.parent / "src" / "selfsame" / "methods" / "curves.json"
CLEAR = 2.0  # points above random weights; two standard errors of 2,000 test items
NETWORKS = {  # of the runs that stand for the preset `quick`: the same networks under the names of bench/narrow.py
    "narrow:colour": "a ResNet-18 of width 0.25",
    "narrow:tokens": "a vision transformer of 6 blocks, 128 wide",
}
GPU = {"epochs": 40.0, "batch": 256, "encoder": "resnet18"}  # as the preset `gpu` has it


def main() -> None:
    entries = json.loads(STORED.read_text(encoding="utf-8"))["entries"]
    found = [curve(entry) for entry in entries if entry["encoder"] in NETWORKS] + ends()
    WRITTEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{len(found)} measurements of presets, {sum(bool(one['points']) for one in found)} with a curve")


def usable(entry: dict[str, Any]) -> bool:
    """Whether runs came to something: being where the others were would be no comfort."""
    if any(run["verdict"] == "stopped" for run in entry["runs"]):
        return False
    return fmean(run["judge_probe"] for run in entry["runs"]) > entry["judged"]["random"]["probe"] + CLEAR


def curve(entry: dict[str, Any]) -> dict[str, Any]:
    runs, points = entry["runs"], []
    for looks in zip(*(run["looks"] for run in runs), strict=True) if usable(entry) else ():
        point: dict[str, Any] = {"samples": looks[0]["samples"]}
        for key in ("agreement", "rank"):
            values = [look[key] for look in looks]
            point[key] = [round(fmean(values), 4), round(stdev(values), 4) if len(values) > 1 else 0.0]
        points.append(point)
    return {
        "method": entry["method"],
        "preset": "quick",
        "data": f"10,000 images of CIFAR-10 with {NETWORKS[entry['encoder']]}",
        "command": entry["command"],
        "machine": entry["machine"],
        "seeds": len(runs),
        "points": points,
        "final": final(
            *(fmean(run[f"judge_{key}"] for run in runs) for key in ("knn", "probe")), entry["judged"]["random"]
        ),
    }


def ends() -> list[dict[str, Any]]:
    """What runs on a card came to."""
    found = []
    for machine, results in json.loads(CARDS.read_text(encoding="utf-8")).items():
        rows = results.get("methods", {})
        for name, row in sorted(rows.items()):
            if "verdict" in row and {key: row[key] for key in GPU} == GPU:
                found.append({
                    "method": name,
                    "preset": "gpu",
                    "data": "10,000 images of CIFAR-10 with a ResNet-18, 40 passes",
                    "command": row["command"],
                    "machine": machine,
                    "seeds": 1,
                    "points": [],
                    "final": final(row["knn"], row["probe"], rows["random weights"]),
                })  # fmt: skip
    return found


def final(knn: float, probe: float, random: dict[str, float]) -> str:
    return f"k-NN {knn:.1f} %, linear {probe:.1f} % (random weights {random['knn']:.1f} and {random['probe']:.1f})"


if __name__ == "__main__":
    main()
