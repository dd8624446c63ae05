"""docs/numbers.md, performance.md and scale.md from bench/results/*.json: no figure in them is typed by hand.

python bench/table.py
"""

import json
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results"
DOCS = HERE.parent / "docs"


def main() -> None:
    pages = {
        "numbers.md": [OPENING, *budgets(), *paths(), *curves(), *evaluations()],
        "performance.md": [
            SPEED,
            *views(),
            *cache(),
            *steps(),
            *startup(),
            *memory(),
            *scaling(),
            *encoders(),
            *kills(),
        ],
        "scale.md": scale(),
    }
    for name, lines in pages.items():
        text = "\n".join(lines) + "\n"
        (DOCS / name).write_text(text, encoding="utf-8")
        print(text)


SPEED = """# Performance

Measured by the scripts of `bench/`, whose commands stand above their tables, in turns with what they are compared to.
Rates are by processor time, of one process with one thread; the machines are shared, so read the ratios. This page is
made by `make bench-page` from what is stored in `bench/results`; `make bench` measures anew what it can.
"""
SCALE = """# Scale: what a training costs on other machines

`selfsame plan PATH --gpus N --gpu h100` answers this for your data and settings; here is how, with worked answers.
It is a model: nothing on this page was run on a GPU. Made by `{command}`
on {machine}, and `python bench/table.py`.

## Formulas

- **Counted.** The learner's own forward pass, backward pass and target update are carried out on tensors with a shape
  and no content (`engine/rehearse.py`), at the micro-batch of one card: FLOPs and bytes of each operation, the memory
  that lives at once, the exchanges between processes. The optimiser is counted on a stand-in parameter.
- **Computing.** An operation takes max(FLOPs / peak, bytes / memory bandwidth), the roofline. A part of a step takes
  the sum of these / {share}, but at least {launch:g} s for each operation (assumed: the time to start one).
  {share} is what NVIDIA's ResNet-50 reaches on an A100 (first row below).
- **Gradients** of G bytes, g cards a server, m servers: 2 (g-1)/g G / link + 2 (m-1)/m G / (g network)
  + 2 ((g-1) hop + log2(m) {tree_hop:g} s) + {tree:g} s, once a step. They hide behind the last backward pass as
  far as it lasts.
- **Statistics**, gathered, s bytes of each of n cards: (n-1) s / link + (n-g) s / (g network) + (n-m) hop
  + (m-1) {ring_hop:g} s + {ring:g} s; summed ones as gradients. Nothing hides them. Links reach {wire:.0%} of their
  bandwidth (assumed); a hop in a server takes 0.6 µs on NVLink, 1 µs on PCIe; these and the times above are those of
  NCCL's own model (src/graph/tuning.cc, protocol LL).
- **Memory.** Weights of both networks, optimiser, gradients (twice with several cards: they are exchanged from a second
  copy), views, and the most that lives at once beside; {free:.0%} of the card is left for driver and workspaces
  (assumed).
- **Reading.** Cores a card = items/s of the card x seconds of a core to read an item, measured on your data, from the
  files and from the cache, on one thread of this machine.
- **Time** = steps x (computing + gradients that are seen + statistics), if reading keeps up. Looks at the held-out
  items, saved states and failures are not in it."""
OPENING = """# Numbers

Every figure was measured by a script of `bench/`, whose command stands above its table; `bench/results` holds the
settings, seeds and machine. Accuracies are per cent on the test part. This page is made by `python bench/table.py`."""


def read(name: str) -> dict | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def table(head: list[str], rows: list[list[object]]) -> list[str]:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines] + [""]


def noted(result: dict) -> list[str]:
    return [f"{result['note']}\n"] if "note" in result else []


def spread(mean: float, std: float | None) -> str:
    return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"


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


def plot(name: str, says: str) -> list[str]:
    path = DOCS / f"speed-{name}.svg"
    return [f"![{says}]({path.name})\n"] if path.exists() else []


def views() -> list[str]:
    result = read("views")
    if result is None:
        return []
    lines = [
        "\n## Views: two of an image\n",
        f"`{result['command']}` on {result['machine']}. Photos of 0.2 megapixels to 224 px; lightly is its",
        "BYOLTransform, with Pillow's decoder where there are files.\n",
    ]
    lines += plot("ratios", "Bars of how many times as fast as lightly views and steps are")
    rows = [[MEASURES[row["measure"]], row["lightly"], row["selfsame"], row["ratio"]] for row in result["rows"]]
    return lines + table(["from ... to", "lightly, images/s", "selfsame, images/s", "ratio"], rows)


MEASURES = {
    "worker": "JPEG bytes to two uint8 crops (lightly: to views)",
    "files": "JPEG bytes to normalised views",
    "pixels": "decoded photos to normalised views",
    "cache": "pixel cache to two uint8 crops (lightly: JPEG bytes to views)",
    "small": "32 px images in memory to normalised views",
}


def cache() -> list[str]:
    result = read("cache")
    if result is None:
        return []
    return [
        "\n## The pixel cache\n",
        f"`{result['command']}`: the worker half of two views of {result['count']} photos of 640 x 480, in one",
        f"process, {result['rounds']} rounds in turns, on {result['machine']}. A full cache was opened in "
        f"{result['opened_ms']:g} ms.\n",
        *table(
            ["photos are read", "images / CPU-s", "ratio"],
            [[CACHE[row["what"]], row["images_per_cpu_s"], row["ratio"]] for row in result["rows"]],
        ),
    ]


CACHE = {
    "without": "from their files, without a cache",
    "filling": "from their files, into the cache (the first pass)",
    "cached": "from the cache (every later pass)",
}


def startup() -> list[str]:
    result = read("startup")
    if result is None:
        return []
    peers = ", ".join(f"{name} {version}" for name, version in result["peers"].items()) or "no peer"
    return [
        "\n## Start\n",
        f"`{result['command']}` with {peers}: fresh processes, {result['rounds']} rounds in turns, medians, on",
        f"{result['machine']}.",
        "The first step of selfsame is that of `pretrain`, which lists and measures the data, tries a step to say how",
        "long it will take, and looks at the health of the encoder before it learns; lightly's is a loop by hand that",
        "does the step alone.\n",
        *plot("startup", "Bars of seconds of processor time from a cold command"),
        *table(
            ["what", "contender", "wall s", "CPU s"],
            [[row["what"], row["contender"], row["seconds"], row["cpu_s"]] for row in result["rows"]],
        ),
    ]


def memory() -> list[str]:
    result = read("memory")
    if result is None:
        return []
    lines = [
        "\n## Many items\n",
        "Opening a source in a fresh process: seconds, and its peak of memory beyond that of one that opens nothing.",
        "A `folder` is a tree of empty files, a `list` a .txt of names that are all there.\n",
        ", ".join(f"`{said}`" for said in dict.fromkeys(row["command"] for row in result["rows"])),
        f"on {', '.join(dict.fromkeys(row['machine'] for row in result['rows']))}.\n",
        *plot("memory", "Memory and seconds against the number of items, both logarithmic"),
    ]
    rows = [[row["way"], f"{row['items']:,}", row["mib"], row["seconds"], row["rounds"]] for row in result["rows"]]
    return lines + table(["way", "items", "MiB", "seconds", "rounds"], rows)


def scaling() -> list[str]:
    result = read("scaling")
    if result is None:
        return []
    return [
        "\n## Several processes\n",
        f"`{result['command']}`: `pretrain` under torchrun, {result['steps']} steps of {result['batch']} images of",
        f"32 px in all, one thread a process, {result['rounds']} rounds in turns, on {result['machine']}.",
        f"All processes share these cores with whatever else runs (load {result['load']:g} before a round), and rates",
        "are by wall time: they say what this busy machine gave, not what two free cores would.\n",
        *plot("scaling", "Bars of samples a second by the number of processes"),
        *table(
            ["processes", "samples / s", "least and most of the rounds", "efficiency"],
            [[row["processes"], row["samples_per_s"], among(result, row), row["efficiency"]] for row in result["rows"]],
        ),
    ]


def among(result: dict, row: dict) -> str:
    rates = result["rates"][str(row["processes"])]
    return f"{min(rates):.1f} to {max(rates):.1f}"


def steps() -> list[str]:
    found = [read(path.stem) for path in sorted(RESULTS.glob("step-*.json"))]
    lines = ["\n## The training step\n"] if found else []
    for result in found:
        lines += [
            f"`{result['command']}`: {result['net']}, {result['size']} px, batch {result['batch']}, "
            f"{'bf16, lightly as shipped fp32' if result['bf16'] else 'fp32'}, on {result['machine']}.\n",
            *table(
                ["contender", "samples / CPU-s", "to lightly", "to a minimal loop by hand"],
                [
                    [row["contender"], row["samples_per_cpu_s"], row["ratio"], row["to_minimal"]]
                    for row in result["rows"]
                ],
            ),
        ]
    return lines


def kills() -> list[str]:
    result = read("kills")
    if result is None:
        return []
    kinds = result["while"]
    return [
        "\n## Killed, and gone on\n",
        f"`{result['command']}`: {result['kills']} kills (SIGKILL to the whole process group) of a training run,",
        f"on {result['machine']},",
        f"{kinds['moment']} at random moments, {kinds['state']} while a state was written, {kinds['cache']} while the",
        "pixel cache was filled. In the end the weights were equal to those of an undisturbed run to the bit, and so",
        "was every loss in the log.",
    ]


def encoders() -> list[str]:
    found = [read(path.stem) for path in sorted(RESULTS.glob("encoders-*.json"))]
    lines = ["\n## Speed of encoders\n"] if found else []
    for result in found:
        lines += [
            f"`{result['command']}`: BYOL forward and backward, {result['batch']} images of {result['size']} px, "
            f"{result['rounds']} rounds in turns, on {result['machine']}.\n",
            *table(
                ["encoder", "width", "samples / CPU-s", "ratio"],
                [[row["encoder"], row["dim"], row["samples_per_cpu_s"], row["ratio"]] for row in result["rows"]],
            ),
        ]
    return lines


def scale() -> list[str]:
    result = read("scale")
    if result is None:
        return []
    constants, reading = result["constants"], result["reading"]
    return [
        SCALE.format(command=result["command"], machine=result["machine"], **constants),
        *published(result),
        *worked(result, reading),
        *more_cards(result),
        *constants_of(result),
    ]


def published(result: dict) -> list[str]:
    shares = [row["share"] for row in result["published"]]
    return [
        "\n## Beside published rates\n",
        "Supervised training at 224 px in mixed precision, images/s of one card. The share is fitted to the first row",
        f"alone. The published rates are {min(shares):.0%} to {max(shares):.0%} of the roofline, so the model's "
        f"{result['constants']['share']:.0%} may be that far off.\n",
        *table(
            ["network, card", "batch", "GFLOP an image", "published", "at the roofline", "share", "model"],
            [
                [
                    f"{row['net']}, {row['card']}",
                    row["batch"],
                    row["gflop"],
                    f"{row['published']:,.0f}",
                    f"{row['roofline']:,}",
                    f"{row['share']:.0%}",
                    f"{row['model']:,}",
                ]
                for row in result["published"]
            ],
        ),
        "Published in: " + "; ".join(dict.fromkeys(row["source"] for row in result["published"])) + ".",
    ]


def worked(result: dict, reading: dict) -> list[str]:
    lines = [
        "\n## Worked answers\n",
        "BYOL at 224 px in bf16, fitted to the job as `pretrain` fits it; ResNet-50 by LARS, the other by AdamW. A",
        f"photo has {result['answers'][0]['job']['at_rest'] / 1e3:.0f} kB at rest, in the cache 336 x 448 pixels. A",
        f"core reads {reading['worker']:,.0f} photos/s from files and {reading['cache']:,.0f} from the cache",
        f"(docs/performance.md, views: photos of 0.2 megapixels, on {reading['machine']}).",
        "1,000 epochs in batches of 4,096 are the paper's (arXiv 2006.07733). Waiting is for other cards.\n",
    ]
    rows = []
    for row in result["answers"]:
        cost = row["cost"]
        total, feeding, memory = cost["total"], cost["feeding"], cost["memory"]
        rows.append(
            [
                f"{row['name']}, {row['net']}, {row['epochs']:,} epoch{'s' if row['epochs'] > 1 else ''} on "
                f"{row['gpus']:,} x {row['card']}",
                f"{total['seconds'] / 3600:,.1f}",
                f"{total['gpu_hours']:,.0f}",
                f"{total['items_a_second']:,.0f}",
                f"{cost['compute']['items']} in {total['step'] * 1e3:,.0f} ms",
                f"{1 - cost['compute']['seconds'] / total['step']:.0%}",
                f"{memory['total'] / 1e9:,.0f} of {memory['room'] / 1e9:,.0f}",
                f"{feeding['cores_files']:.1f} / {feeding['cores_cache']:.1f}",
                f"{cost['storage']['items'] / 1e12:,.2f} / {cost['storage']['cache'] / 1e12:,.2f}",
            ]
        )
    head = ["job", "hours", "GPU-hours", "images/s", "images a card and step", "waiting", "GB of a card"]
    return lines + table([*head, "cores a card, files / cache", "TB at rest / cached"], rows)


def more_cards(result: dict) -> list[str]:
    rows = [
        [f"{row['net']}, {row['gpus']:,}", f"{row['items_a_second']:,.0f}"]
        + [f"{row[part] * 1e3:,.1f}" for part in ("computing", "gradients", "statistics")]
        + [f"{row['exchanges']:,}"]
        for row in result["scaling"]
    ]
    return [
        "\n## More cards\n",
        "H100 SXM, 128 images a card and step, AdamW; milliseconds of a step. With two cards and more, batch norms see",
        "the rows of all: plain operations then take and use the statistics (`nn/sync.py`), which read and write each",
        "map many times, and each layer waits for all cards. That, not the gradients, is what a residual net on many",
        "cards pays for. A vision transformer has batch norms in its heads only, and group norm exchanges nothing.\n",
        *table(["network, cards", "images/s", "computing", "gradients, seen", "statistics", "exchanges"], rows),
    ]


def constants_of(result: dict) -> list[str]:
    one = ["bf16", "fp32", "memory", "bandwidth", "link", "network", "watts"]
    head = ["card", "TFLOP/s bf16", "fp32", "GiB", "GB/s memory", "GB/s to its server", "to others", "W"]
    return [
        "\n## Cards\n",
        "The makers' data sheets; products of matrices dense, links in one direction. What a card has to other servers",
        "is that of a usual server (assumed; `--network` says another).\n",
        *table(head, [[card["name"], *(f"{card[key]:,g}" for key in one)] for card in result["cards"].values()]),
    ]


HEAD = ["features", "protocol", "labels", "accuracy", "seeds"]


def accuracy(row: dict) -> list[object]:
    std = 100 * row["std"] if row["seeds"] > 1 else None
    return [row["features"], row["protocol"], row["labels"], spread(100 * row["mean"], std), row["seeds"]]


if __name__ == "__main__":
    main()
