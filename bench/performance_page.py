"""docs/performance.md: how fast, and how much memory."""

from typing import Any

from stored import RESULTS, plot, read, table

SPEED = """# Performance

Measured by the scripts of `bench/`, whose commands stand above their tables, in turns with what they are compared to.
Rates are by processor time, of one process with one thread; the machines are shared, so read the ratios. This page is
made by `make bench-page` from what is stored in `bench/results`; `make bench` measures anew what it can.
"""


def page() -> list[str]:
    return [
        SPEED,
        *views(),
        *graphs(),
        *cache(),
        *steps(),
        *cards(),
        *speedrun(),
        *startup(),
        *memory(),
        *scaling(),
        *encoders(),
        *overhead(),
        *kills(),
    ]


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


def graphs() -> list[str]:
    result = read("graph")
    if result is None:
        return []
    return [
        "\n## The device half of the views, four ways\n",
        f"`{result['command']}`: milliseconds of processor time for two views of an item, {result['rounds']} rounds",
        f"in turns, on {result['machine']}. A CPU takes the compiled kernel, and where",
        "there is none the steps, each on its rows. A GPU takes all steps on all rows, long runs a graph (below).\n",
        *table(
            ["recipe, pixels", "kernel", "steps on their rows", "all steps on all rows", "the same, compiled by torch"],
            [[f"{row['recipe']}, {row['size']}", *(row[way] for way in WAYS)] for row in result["rows"]],
        ),
    ]


def cards() -> list[str]:
    """What single GPUs gave."""
    lines = []
    for machine, found in (read("card") or {}).items():
        lines += [
            f"\n## One GPU: {machine.split(',')[0]}\n",
            f"`python bench/card.py steps`, `views` and `runs`, on {machine}, and",
            "on others of that kind. A step is both views, forward, backward, optimiser and average of the target, in",
            "bf16, on views that are ready; the loop by hand is the shortest that does the same, eager. Contenders in",
            "turns. Compiled, a residual network is not compiled by torch: it takes the kernels of `nn.fused`, and its",
            "passes are CUDA graphs.\n",
            *table(
                ["network, pixels, batch", "by hand, samples/s", "eager", "compiled", "to by hand", "share of the peak",
                 "first steps, s"],
                [
                    [f"{case}, {row['size']}, {row['batch']}", *row["samples_per_second"].values(),
                     row["to_hand"]["selfsame compiled"], f"{row['share_of_peak']['selfsame compiled']:.0%}",
                     row["first_steps_s"]["selfsame compiled"]]
                    for case, row in found["steps"].items()
                ],
            ),
            *(f"\n{case}: {row['note']}." for case, row in found["steps"].items() if "note" in row),
            "\nThe device half of two views of a batch, uint8 pixels on the card, and the time of compiling:\n",
            *table(
                ["pixels, batch", "step by step, ms", "one graph, ms", "compiling, s"],
                [[f"{row['size']}, {row['batch']}", *row["ms"].values(), row["compiling_s"]]
                 for row in found["views"].values()],
            ),
            "\nWhole runs by `selfsame pretrain`, looks at the health and saves included:\n",
            *table(
                ["run", "images/s", "share of the peak", "reading processes"],
                [[name, row["items_per_second"], f"{row['share_of_peak']:.0%}", row["plan"]["workers"]]
                 for name, row in found["runs"].items()],
            ),
        ]  # fmt: skip
    return lines


def speedrun() -> list[str]:
    result = read("speedrun")
    if result is None:
        return []
    reached = result["minutes_to"]
    share = f", {result['share_of_peak']:.0%} of the card's peak" if result["share_of_peak"] else ""
    untrained = (read("card") or {}).get(result["machine"], {}).get("methods", {}).get("random weights")
    beside = f" (random weights {untrained['knn']:.1f})" if untrained else ""
    return [
        "\n## From nothing to an encoder\n",
        f"`{result['command']}` on {result['machine']}:",
        f"BYOL with {result['encoder']}, {result['epochs']:g} epochs of the 10,000 images of 32 px in ../shared/data,",
        f"{result['steps']:,} steps by one command. **{result['minutes']:.1f} minutes** from the cold start to the",
        f"report, saves and looks with k-NN included; {result['images_per_second']:,.0f} images/s{share}.",
        f"k-NN accuracy (k 20) of 2,000 test images by all training images: **{result['knn_of_test']:.1f} %**{beside}.",
        f"On the way, by 2,000 training images: {result['curve'][0]['knn']:.1f} % untrained,",
        f"{reached['knn']:g} % after "
        + (f"{reached['minutes']:.1f} minutes.\n" if reached["minutes"] else "no time: it was not reached.\n"),
        *plot("speedrun", "k-NN accuracy against minutes since the command was given"),
        "lightly publishes 108 minutes for 200 epochs of the 50,000 images (k-NN 86.8 %, k 200, another card): five",
        "times as many steps, which at this rate would take "
        f"{result['minutes'] * 5:.0f} minutes. What is reached then was not",
        "measured, for want of the other 40,000 images.",
        *([f"\n{result['note']}"] if "note" in result else []),
    ]


WAYS = ("kernel", "rows", "masks", "graph")


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
        "long it will take, and looks at the health of the encoder before it learns; lightly's is a loop by hand with",
        "the same encoder, that does the step alone.\n",
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
            *floor(result),
        ]
    return lines


def floor(result: dict) -> list[str]:
    """How near the step is to what the processor computes at most."""
    if "step_gflop" not in result:
        return []
    ours, most = result["gflop_per_cpu_s"], result["gflop_per_cpu_s_of_a_product"]
    return [
        f"\nThe convolutions and products of a step are {result['step_gflop']:g} GFLOP. The step of selfsame, all",
        f"else in it included, computes {ours:g} of them a second, and a product of two square matrices of 2,048 alone",
        f"{most:g}: the step is at {ours / most:.0%} of what the processor gives.\n",
    ]


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
        *([f"\n{result['note']}"] if "note" in result else []),
    ]


def overhead() -> list[str]:
    """What methods cost beside their networks."""
    result = read("overhead")
    if result is None:
        return []
    return [
        "\n## What a method costs beside its networks\n",
        f"`{result['command']}`, {result['rows'][0]['batch']} items, on {result['machine']}:",
        "forward, backward and what follows a step, without the optimiser, in processor time on one thread. Losses,",
        "queues, assignments, centres and averages of weights are the method's own. They hardly grow with the size of",
        "views; networks do.\n",
        *shares(result["rows"]),
        *again(result["rows"]),
        *at_papers_size({(other["size"], other["batch"]): other for other in result.get("others", [])}),
    ]


def shares(rows: list[dict[str, Any]]) -> list[str]:
    shown = [
        [row["method"], row["network"], row["size"], row["step_ms"], row["own_ms"], f"{row['share']:.1%}"]
        for row in sorted(rows, key=lambda row: row["share"])
    ]
    return table(["method", "network", "px", "step, ms", "own, ms", "share"], shown)


def again(rows: list[dict[str, Any]]) -> list[str]:
    """Which rows of the table were measured anew, and how."""
    commands = dict.fromkeys(row["command"] for row in rows if "command" in row)
    return [
        f"\n{', '.join(row['method'] for row in rows if row.get('command') == command)}: later, by `{command}`."
        for command in commands
    ]


def at_papers_size(others: dict[tuple[int, int], dict[str, Any]]) -> list[str]:
    """Those with the largest shares at 224 px; a batch of 256, which a processor is too slow for, is put together."""
    large, many = others.get((224, 32)), others.get((32, 256))
    if large is None:
        return []
    lines = [
        f"\nThe largest shares again at 224 px, 32 items (`{large['command']}`, one step each):\n",
        *shares(large["rows"]),
    ]
    for row in (many or {"rows": []})["rows"]:
        beside = next((one for one in large["rows"] if one["method"] == row["method"]), None)
        if beside is not None:
            networks = (beside["step_ms"] - beside["own_ms"]) * row["batch"] / beside["batch"]
            lines.append(
                f"\nWhat {row['method']} does with its queue costs as much at any batch: with {row['batch']} items "
                f"{row['own_ms']:.0f} ms (of 32 px, `{many['command'] if many else ''}`). Beside "
                f"{row['batch'] // beside['batch']} times the networks' time at 224 px and {beside['batch']} items "
                f"that is {row['own_ms'] / (networks + row['own_ms']):.1%}."
            )
    lines.append(
        "\nOBoW stays above a twentieth: every place of every map is compared with 8,192 words of each of two levels, "
        "in float32; these two products alone are about half of its own time."
    )
    return lines


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
