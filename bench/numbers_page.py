"""docs/numbers.md: how good encoders are."""

import kinds_page
import tasks_page
from stored import RESULTS, noted, read, spread, table

OPENING = """# Numbers

Every figure was measured by a script of `bench/`, whose command stands above its table; `bench/results` holds the
settings, seeds and machine. Accuracies are per cent on the test part. This page is made by `python bench/table.py`."""


def page() -> list[str]:
    return [OPENING, *budgets(), *paths(), *curves(), *evaluations(), *kinds_page.sections(), *tasks_page.sections()]


def budgets() -> list[str]:
    result, plain = read("cifar10"), read("cifar10-plain")
    if result is None:
        return []
    lines = [
        "\n## CIFAR-10, 10,000 unlabelled images, a small budget\n",
        f"ResNet-18 of width 0.25, {result['samples']:,} samples seen, k-NN (k 20) and a fixed linear probe.",
        f"`{result['command']}` on {result['machine']}.\n",
    ]
    means = dict(result["mean"])
    if plain is not None:
        means["selfsame BYOL, --output-norm plain"] = plain["mean"]["selfsame BYOL"]
        lines.append(f"The row of the plain output norm: `{plain['command']}` on {plain['machine']}. {plain['note']}\n")
    rows = [
        [kind, spread(mean["knn"], mean["knn_std"]), spread(mean["probe"], mean["probe_std"]), mean["seeds"]]
        for kind, mean in sorted(means.items(), key=lambda pair: -pair[1]["probe"])
    ]
    return lines + noted(result) + table(["features", "k-NN", "linear", "seeds"], rows)


def paths() -> list[str]:
    """What speed costs in accuracy: the compiled views beside the slow ones."""
    fast, slow = read("cifar10-fast"), read("cifar10-slow")
    if fast is None or slow is None:
        return []
    rows = []
    for title, result in (("compiled views", fast), ("slow views, SELFSAME_KERNEL=0", slow)):
        mean = result["mean"]["selfsame BYOL"]
        rows.append([title, *(spread(mean[key], mean[f"{key}_std"]) for key in ("knn", "probe")), mean["seeds"]])
    return [
        "\n## The same with fast and with slow views\n",
        f"`{fast['command']}` and `{slow['command']}` on {fast['machine']}. {fast['note']}\n",
        *table(["BYOL with", "k-NN", "linear", "seeds"], rows),
    ]


def curves() -> list[str]:
    found = [(path.stem, read(path.stem)) for path in sorted(RESULTS.glob("curve-*.json"))]
    if not found:
        return []
    lines = [
        "\n## The same, further on\n",
        "One seed; peers by `bench/peers.py`, ours by `bench/cifar10.py --curve`.\n",
    ]
    rows = [
        [result["contender"], f"{point['samples']:,}", f"{point['knn']:.1f}", f"{point['probe']:.1f}"]
        for _, result in found
        for point in result["points"]
    ]
    return lines + table(["contender", "samples", "k-NN", "linear"], rows)


def evaluations() -> list[str]:
    lines: list[str] = []
    for name, title in EVALUATED.items():
        if (result := read(name)) is None:
            continue
        runs = result.get("runs", [result])
        lines += [f"\n## {title}\n", f"`{result['command']}`: {trained(result)}.\n", *noted(result)]
        lines += table(HEAD, [accuracy(row) for run in runs for row in run["rows"]])
    return lines


EVALUATED = {
    "clothing": "Photos of clothing",
    "fashion_mnist": "Fashion-MNIST",
    "digits": "The demo: handwritten digits",
}


def trained(result: dict) -> str:
    if "runs" not in result:
        return f"{result['minutes']} minutes on {result['machine']}, verdict {result['verdict']}"
    first = result["runs"][0]
    made, loop = first["result"], first["loop"]
    lasted = f"{made['seconds']:,.0f} s " if "seconds" in made else ""
    return (
        f"{made['items']:,} unlabelled images at {first['size']} px, {loop['steps']:,} steps of {loop['batch']}, "
        f"verdict {made['verdict']}, {lasted}on {made['machine']}"
    )


HEAD = ["features", "protocol", "labels", "accuracy", "seeds"]


def accuracy(row: dict) -> list[object]:
    std = 100 * row["std"] if row["seeds"] > 1 else None
    return [row["features"], row["protocol"], row["labels"], spread(100 * row["mean"], std), row["seeds"]]
