"""docs/methods.md and a page for each method, from the methods' own words and from what was measured of them.

python bench/pages.py            writes them
python bench/pages.py --check    says which would change, and fails if any would
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from selfsame import methods
from selfsame.jobs.methods import described

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
RESULTS = HERE / "results"
SETS = {
    "cifar10": ("CIFAR-10", ("judge_knn", "judge_probe"), 1),
    "clothing": ("Clothing", ("knn", "linear"), 100),
}
PUBLISHED = {  # CIFAR-10, ResNet-18: accuracy in per cent as the libraries' own tables have it (solo-learn, lightly)
    "barlowtwins": (92.10, 81.9),
    "byol": (92.58, 86.8),
    "dino": (89.52, 81.3),
    "moco": (92.94, 84.7),
    "mocov3": (93.10, None),
    "simclr": (90.74, 84.8),
    "swav": (89.17, 84.2),
    "vicreg": (92.07, None),
}
CLEAR = {"cifar10": 2.0, "clothing": 5.0}  # points of accuracy: two standard errors of 2,000 and 372 test items
FIRST = 5  # methods named of each table
NETWORKS = {
    "narrow:colour": "ResNet-18 of width 0.25",
    "narrow:tokens": "vision transformer of 6 blocks, 128 wide",
}


def main() -> None:
    pages = {DOCS / "methods.md": guide()}
    pages |= {DOCS / "methods" / f"{name}.md": page(name) for name in methods.names()}
    odd = [path for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    odd += [path for path in sorted((DOCS / "methods").glob("*.md")) if path not in pages]
    if "--check" in sys.argv[1:]:
        sys.exit(f"python bench/pages.py would change {', '.join(map(str, odd))}" if odd else 0)
    for path in odd:
        if path in pages:
            path.parent.mkdir(exist_ok=True)
            path.write_text(pages[path], encoding="utf-8")
        else:
            path.unlink()
    print(f"{len(pages)} pages, {len(odd)} changed")


def entries(data: str) -> list[dict[str, Any]]:
    path = RESULTS / f"methods-{data}.json"
    return json.loads(path.read_text(encoding="utf-8"))["entries"] if path.exists() else []


def guide() -> str:
    """Which method for my data."""
    lines = [
        "# Which method for my data?",
        "",
        "Try them on it: `selfsame compare PATH --methods byol,simclr,swav --budget 10m` trains each alike and ranks",
        "them. What they ask for and are good for:",
        "",
        *table(
            ["method", "needs", "good for"],
            [
                [f"[{name}](methods/{name}.md)", one["needs"], one["good_for"]]
                for name, one in ((name, described(methods.load(name))) for name in methods.names())
            ],
        ),
        "",
        "## In short",
        "",
        *in_short(),
        "",
        "## Measured",
        "",
        "Few samples on one processor: what is told here is which methods get going soon, not what they reach in the",
        "end. Settings are those derived from data and length. How much they were tried out differs: BYOL's most;",
        "MoCo's, SwAV's, DINO's, DeepCluster's, Exemplar's, the memory bank's and those of both bags of words some,",
        "after they had not learned at first; the others' hardly or not at all. Made by `bench/pages.py`",
        "from `bench/results/methods-*.json`, where commands, settings, seeds and machines stand.",
    ]
    for data, (title, keys, _) in SETS.items():
        found = entries(data)
        for encoder in dict.fromkeys(entry["encoder"] for entry in found):
            of_encoder = [entry for entry in found if entry["encoder"] == encoder]
            for budget in dict.fromkeys(entry["budget"] for entry in of_encoder):
                lines += measured(data, title, encoder, budget, [e for e in of_encoder if e["budget"] == budget], keys)
    lines += on_cards()
    return "\n".join(lines) + "\n"


def in_short() -> list[str]:
    """What the tables below say, in words: who leads, and who does not clearly beat random weights."""
    lines = [
        "What the tables below say; where nothing else decides, take one of the first of the row that is most like",
        "your case. Differences of less than two points, of the photos five, are none: test items are few, and most",
        "rows are of one or two seeds.",
        "",
    ]
    for case, rows, random, clear in cases():
        first = sorted(rows, key=lambda name: -rows[name])[:FIRST]
        weak = sorted(name for name in rows if rows[name] <= random + clear)
        told = ", ".join(f"[{name}](methods/{name}.md) {rows[name]:.1f}" for name in first)
        tail = f"; not clearly better than those: {', '.join(weak)}" if weak else ""
        lines.append(f"- **{case}**: {told} (linear, per cent; random weights {random:.1f}{tail}).")
    return lines


def cases() -> Iterator[tuple[str, dict[str, float], float, float]]:
    """(case, linear accuracy by method, that of random weights, a clear difference) of each table, in per cent."""
    told = {
        ("cifar10", "narrow:colour"): "Small images, minutes on a processor",
        ("cifar10", "narrow:tokens"): "The same with a small vision transformer",
        ("clothing", "resnet10t@0.5"): "A few hundred photos, minutes on a processor",
    }
    for (data, encoder), case in told.items():
        scale, keys = SETS[data][2], SETS[data][1]
        found = [entry for entry in entries(data) if entry["encoder"] == encoder]
        rows = {
            entry["method"]: scale * fmean(run[keys[1]] for run in entry["runs"])
            for entry in found
            if all(run["verdict"] != "stopped" for run in entry["runs"])
        }
        yield case, rows, linear_of_random(data, encoder), CLEAR[data]
    for results in json.loads((RESULTS / "card.json").read_text(encoding="utf-8")).values():
        rows = {name: row["probe"] for name, row in results.get("methods", {}).items()}
        if rows:
            random = rows.pop("random weights")
            yield "Small images, minutes on a GPU (of eight methods)", rows, random, CLEAR["cifar10"]


def linear_of_random(data: str, encoder: str) -> float:
    """Linear accuracy of random weights of a network, in per cent: the mean of those that were drawn."""
    found = [entry for entry in entries(data) if entry["encoder"] == encoder]
    judged = [entry["judged"]["random"]["probe"] for entry in found if entry.get("judged")]
    drawn = {(one["seed"], one["linear"]) for e in found for one in e["baselines"] if one["features"] == "random"}
    return judged[0] if judged else SETS[data][2] * fmean(linear for _, linear in sorted(drawn))


def on_cards() -> list[str]:
    """Equally long runs on a GPU, beside what other libraries publish of theirs."""
    path = RESULTS / "card.json"
    lines: list[str] = []
    for machine, found in (json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}).items():
        rows = found.get("methods", {})
        if not rows:
            continue
        none = rows["random weights"]
        samples = max(row.get("steps", 0) for row in rows.values()) * none["batch"]
        of_pixels = [
            (round(raw["knn"], 1), round(raw["probe"], 1))
            for entry in entries("cifar10")
            if (raw := entry.get("judged", {}).get("raw"))
        ]
        order = sorted(rows, key=lambda name: -rows[name]["probe"])
        lines += [
            "",
            f"### CIFAR-10, ResNet-18 on a GPU, {samples:,} samples",
            "",
            f"`{none['command']}` on {machine}:",
            f"{none['epochs']:g} epochs of 10,000 images in batches of {none['batch']}, settings as derived, seed 0,",
            "all at the same time. k-NN (k 20) and linear probe by all 10,000 on 2,000 test images. Beside it what",
            "solo-learn (1,000 epochs, probe while training, batch 256) and lightly (200 epochs, k-NN with k 200,",
            "batch 512) publish of their runs on all 50,000 images, 10,000 to test:",
            f"{5e7 / samples:.0f} and {1e7 / samples:.0f} times as many samples, and settings tuned for the set. So",
            "these columns tell how far there is to go, not who is better.",
            "",
            *table(
                ["method", "k-NN", "linear", "verdict", "solo-learn, linear", "lightly, k-NN"],
                [
                    [
                        f"[{name}](methods/{name}.md)" if name in PUBLISHED else name,
                        rows[name]["knn"],
                        rows[name]["probe"],
                        rows[name].get("verdict", "baseline"),
                        *("–" if value is None else value for value in PUBLISHED.get(name, (None, None))),
                    ]
                    for name in order
                ]
                + [["raw pixels", *raw, "baseline", "–", "–"] for raw in of_pixels[:1]],
            ),
        ]
    return lines


def measured(
    data: str, title: str, encoder: str, budget: str, found: list[dict[str, Any]], keys: tuple[str, str]
) -> list[str]:
    scale = SETS[data][2]
    rows = []
    for entry in found:
        done = [run for run in entry["runs"] if run["verdict"] != "stopped"]
        verdicts = ", ".join(dict.fromkeys(run["verdict"] for run in entry["runs"]))
        figures = [told([scale * run[key] for run in done]) if done else "–" for key in keys]
        order = fmean(run[keys[1]] for run in done) if done else -1.0
        rank = told([run["rank"] for run in done]) if done else "–"
        rows.append((order, [f"[{entry['method']}](methods/{entry['method']}.md)", *figures, rank, verdicts]))
    body = [row for _, row in sorted(rows, key=lambda row: -row[0])]
    body += baselines(found, scale, keys)
    command = re.sub(r"--methods \S+", "--methods NAME", found[0]["command"])
    return [
        "",
        f"### {title}, {NETWORKS.get(encoder, encoder)}, {int(budget):,} samples",
        "",
        f"`{command}` on {found[0]['machine']}. Per cent, mean ± standard deviation over",
        "seeds. RankMe: directions in use. Times are not compared: other work shared the machine.",
        "",
        *table(["method", "k-NN", "linear", "RankMe", "verdict"], body),
    ]


def baselines(found: list[dict[str, Any]], scale: int, keys: tuple[str, str]) -> list[list[str]]:
    """Random weights and raw input, as `compare` measured them (its own k-NN and probe)."""
    names = {"random": "random weights", "raw": "raw pixels"}
    rows = []
    for kind, name in names.items():
        members = {
            (one["seed"], one["knn"], one["linear"])
            for entry in found
            for one in entry["baselines"]
            if one["features"] == kind
        }
        stored = [entry["judged"][kind] for entry in found if kind in entry.get("judged", {})]
        if keys[0].startswith("judge"):
            rows += [[name, told([stored[0]["knn"]]), told([stored[0]["probe"]]), "", "baseline"]] if stored else []
        elif members:
            figures = [told([scale * one[place] for one in sorted(members)]) for place in (1, 2)]
            rows.append([name, *figures, "", "baseline"])
    return rows


def page(name: str) -> str:
    one = described(methods.load(name))
    lines = [
        f"# {name}",
        "",
        one["about"],
        "",
        f"**Good for:** {one['good_for']}  ",
        f"**Needs:** {one['needs']}  ",
        f"**Try it:** `selfsame pretrain PATH --method {name}`",
        "",
        one["notes"],
        "",
        "## Settings",
        "",
        "Defaults are the paper's; what is left alone is fitted to data and length, and shown before a run begins.",
        "",
        *table(
            ["flag", "default", "what it is"],
            [
                [f"`--method.{key.replace('_', '-')}`", f"`{setting['default']}`", setting["help"]]
                for key, setting in one["settings"].items()
            ],
        ),
    ]
    if one["presets"]:
        lines += ["", "## Presets"]
    for preset, settings in one["presets"].items():
        made = {**{f"method.{key}": value for key, value in settings["method"].items()}, **settings["training"]}
        shown = ", ".join(f"{key.replace('_', '-')} {value}" for key, value in made.items())
        published = f" Published: {settings['published']}." if settings["published"] else ""
        here = f" Measured here: {settings['measured']}." if settings["measured"] else ""
        lines += ["", f"`--preset {preset}`: {shown}. Source: {settings['source']}.{published}{here}"]
    found = [(data, entry) for data in SETS for entry in entries(data) if entry["method"] == name]
    if found:
        lines += ["", "## Measured here", ""]
        rows = []
        for data, entry in found:
            title, keys, scale = SETS[data]
            done = [run for run in entry["runs"] if run["verdict"] != "stopped"]
            network = NETWORKS.get(entry["encoder"], entry["encoder"])
            random = linear_of_random(data, entry["encoder"])
            clear = done and fmean(scale * run[keys[1]] for run in done) > random + CLEAR[data]
            rows.append(
                [
                    f"{title}, {network}, {int(entry['budget']):,} samples",
                    *(told([scale * run[key] for run in done]) if done else "–" for key in keys),
                    f"{random:.1f}",
                    "yes" if clear else "no",
                    ", ".join(dict.fromkeys(run["verdict"] for run in entry["runs"])),
                ]
            )
        lines += table(["data", "k-NN %", "linear %", "random weights, linear %", "clearly better", "verdict"], rows)
        lines += ["", "Clearly: by two points, on clothing by five (two standard errors of the test items)."]
        lines += ["", "Beside the other methods, random weights and raw pixels: [the guide](../methods.md)."]
    return "\n".join(lines) + "\n"


def told(values: list[float]) -> str:
    return f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def table(head: list[str], rows: list[list[Any]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    ]


if __name__ == "__main__":
    main()
