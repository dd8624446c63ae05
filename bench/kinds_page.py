"""The part of docs/numbers.md on sound, series, texts and tables."""

import statistics
from typing import Any

from stored import read, spread, table

ASKED = {"digit": "which digit", "speaker": "which speaker"}
PROTOCOLS = {"knn": "k-NN", "linear": "linear", "similarity": "Spearman", "trees": "boosted trees"}


def sections() -> list[str]:
    return [*audio(), *series(), *texts(), *tables()]


def told(values: list[float]) -> str:
    return spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def audio() -> list[str]:
    splits = {"official": "official split", "speakers": "two of six speakers held out, unheard in any training"}
    lines: list[str] = []
    for result in filter(None, map(read, ("audio", "audio-official"))):
        lines.append(f"`{result['command']}` on {result['machine']}.\n")
        for split, kinds in result["mean"].items():
            seeds = len({row["seed"] for row in result["rows"] if row["split"] == split})
            questions = list(next(iter(kinds.values())))
            rows = [[kind, *(spread(*asked[question]) for question in questions)] for kind, asked in kinds.items()]
            told = f"{splits[split]}, {seeds} seed{'s' if seeds > 1 else ''}:\n"
            lines += [told, *table(["features", *questions], rows)]
    if not lines:
        return []
    return [
        "\n## Spoken digits (FSDD), 3,000 recordings of 8 kHz\n",
        "Learned without labels from the recordings that are not in the test part; seeds as the rows say.\n",
        *lines,
    ]


def series() -> list[str]:
    result = read("series")
    if result is None:
        return []
    kinds = ("encoder, linear", "random, linear", "raw, linear", "encoder, 1-NN", "random, 1-NN")
    kinds = (*kinds, "raw, 1-NN Euclidean", "raw, 1-NN DTW")
    rows = [
        [name, *(told(one["rows"][kind]) for kind in kinds), len(one["settings"]["seeds"])]
        for name, one in result.items()
    ]
    one: dict[str, Any] = next(iter(result.values()))
    several = [name for name, found in result.items() if len(found["settings"]["seeds"]) > 1]
    wins = [name for name, found in result.items() if found["above raw 1-NN"] or found["above random"]]
    learned = [name for name, found in result.items() if found["above random"]]
    asked, settings = one["asked"], one["settings"]
    return [
        "\n## Series of the UCR and UEA archives\n",
        f"`python bench/series.py`: {asked['method']}, {settings['encoder']}, {asked['samples']:,} series seen",
        f"of the training part, on {settings['machine']}.",
        "By linear probe above 1-NN on raw series, or above",
        f"random weights, by more than the spread on {len(wins)} of the {len(several)} sets with several seeds",
        f"({', '.join(wins)}).",
        f"Above random weights by more than the spread on {len(learned)}: these networks tell such series well before",
        "they learn. Their pooling was chosen by random weights on three of the sets (docs/signal.md).\n",
        *table(["set", *kinds, "seeds"], rows),
    ]


def texts() -> list[str]:
    result = read("text")
    if result is None:
        return []
    lines = [
        "\n## Texts\n",
        f"`{result['command']}` on {result['machine']}. Movies: film reviews of two classes; trec: six.",
        "Random weights are those of the same network; raw input is TF-IDF, with all labels measured once.\n",
    ]
    keys = list(dict.fromkeys((row["set"], row["method"]) for row in result["rows"]))
    for name, method in keys:
        mine = [row for row in result["rows"] if (row["set"], row["method"]) == (name, method)]
        columns = list(dict.fromkeys((row["protocol"], row["labels"]) for row in mine))
        features = list(dict.fromkeys(row["features"] for row in mine))
        rows = []
        for kind in features:
            cells = []
            for protocol, labels in columns:
                values = [
                    100 * row["mean"]
                    for row in mine
                    if (row["features"], row["protocol"], row["labels"]) == (kind, protocol, labels)
                ]
                cells.append(told(values) if values else "")
            rows.append([{"raw": "TF-IDF", "random": "random weights"}.get(kind, kind), *cells])
        head = [f"{PROTOCOLS.get(protocol, protocol)}, {labels}" for protocol, labels in columns]
        seeds = len({row["seed"] for row in mine})
        lines += [f"{name}, {method}, {seeds} seed{'s' if seeds > 1 else ''}:\n", *table(["features", *head], rows)]
    return lines


def tables() -> list[str]:
    lines = []
    for name, title in (("adult", "Adult income, 32,561 rows"), ("criteo", "Clicks on ads (Criteo), 1,000 rows")):
        result = read(f"tables-{name}")
        if result is None:
            continue
        rows = [
            [
                row["labels"],
                PROTOCOLS.get(row["protocol"], row["protocol"]),
                {"random": "random weights"}.get(row["features"], row["features"]),
                spread(row["accuracy"], row.get("accuracy_std")),
                spread(row["auc"], row.get("auc_std")) if "auc" in row else "",
            ]
            for row in result["means"]
        ]
        lines += [
            f"\n## {title}\n",
            f"`{result['command']}`, {len(result['runs'])} seeds, on {result['machine']}.\n",
            *table(["labels", "by", "features", "accuracy", "AUC"], rows),
        ]
    return lines
