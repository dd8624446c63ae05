"""The plots of docs/performance.md from bench/results/*.json, docs/speed-NAME.svg, and docs/tasks.svg.

    python bench/plots.py                # also: python bench/plots.py --png FOLDER, to look at them

Needs matplotlib (pip install 'selfsame[bench]'). No background, and colours and greys that can be read on white and on
dark pages. The same results give the same files.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, NullFormatter
from performance_page import MEASURES
from stored import DOCS, RESULTS, read

GREY, OURS, THEIRS, THIRD = "#7b7f85", "#2f81c7", "#c9772b", "#4f9d5d"
WIDTH = 7.6  # inches
LOOK = {
    "svg.fonttype": "none",
    "svg.hashsalt": "selfsame",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **{f"{part}.color": GREY for part in ("text", "xtick", "ytick", "grid")},
    **{f"axes.{part}color": GREY for part in ("edge", "label", "title")},
    "grid.alpha": 0.25,
    "axes.facecolor": "none",
    "legend.frameon": False,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--png", type=Path, help="folder for pictures on white and on black as well")
    args = parser.parse_args()
    with plt.rc_context(LOOK):
        for name, draw in PLOTS.items():
            figure = draw()
            path = DOCS / (f"{name}.svg" if name == "tasks" else f"speed-{name}.svg")
            if figure is None:
                path.unlink(missing_ok=True)
                continue
            figure.savefig(path, transparent=True, metadata={"Date": None})
            # matplotlib ends some lines with a space
            path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
            print(path)
            for colour in ("white", "black") if args.png else ():
                args.png.mkdir(parents=True, exist_ok=True)
                figure.savefig(args.png / f"{name}-{colour}.png", dpi=110, facecolor=colour)
            plt.close(figure)


def ratios() -> Figure | None:
    """Bars: how many times as fast as lightly."""
    found = [(MEASURES[row["measure"]], row["ratio"]) for row in (read("views") or {"rows": []})["rows"]]
    for path in sorted(RESULTS.glob("step-*.json")):
        result = read(path.stem)
        row = next(row for row in result["rows"] if row["contender"] == "selfsame")
        precision = "bf16" if result["bf16"] else "fp32"
        found.append((f"training step, {result['net']}, {result['size']} px, {precision}", row["ratio"]))
    if not found:
        return None
    figure, axes = plt.subplots(figsize=(WIDTH, 0.45 * len(found) + 1.1), layout="constrained")
    names = [broken(name, 38) for name, _ in found]
    bars = axes.barh(names, [ratio - 1 for _, ratio in found], left=1, color=OURS, height=0.6)
    axes.bar_label(bars, [f"{ratio:.3g} ×" for _, ratio in found], padding=4, color=GREY)
    axes.axvline(1, color=THEIRS, linewidth=1.5)
    axes.annotate("lightly = 1", (1, 1), (4, 2), xycoords=("data", "axes fraction"), textcoords="offset points",
                  color=THEIRS)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(0.7, 2 * max(ratio for _, ratio in found))
    plain(axes.xaxis, "{:g}")
    axes.invert_yaxis()
    axes.set_xlabel("times as fast as lightly, one thread, by processor time")
    return figure


def memory() -> Figure | None:
    """Lines: memory and seconds against the number of items."""
    result = read("memory")
    if result is None:
        return None
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 3.1), layout="constrained")
    told = {"folder": "folder of files", "list": "list of files (.txt)"}
    for axes, key, title in zip(panels, ("mib", "seconds"), ("memory, MiB", "seconds to open"), strict=True):
        for way, colour in (("folder", OURS), ("list", THEIRS)):
            rows = [row for row in result["rows"] if row["way"] == way and row[key] > 0]
            axes.plot([row["items"] for row in rows], [row[key] for row in rows], "o-", color=colour, label=told[way])
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("items")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(NullFormatter())
        plain(axes.yaxis, "{:g}")
        axes.grid()
    panels[0].legend()
    return figure


def startup() -> Figure | None:
    """Bars: processor seconds from a cold command."""
    result = read("startup")
    if result is None:
        return None
    rows = result["rows"]
    colours = {"selfsame": OURS, "selfsame, used": OURS, "torch": GREY}
    figure, axes = plt.subplots(figsize=(WIDTH, 0.4 * len(rows) + 0.9), layout="constrained")
    names = [f"{row['contender']}: {row['what']}" for row in rows]
    bars = axes.barh(
        names,
        [row["cpu_s"] for row in rows],
        color=[colours.get(row["contender"], THEIRS) for row in rows],
        height=0.6,
    )
    axes.bar_label(bars, [f"{row['cpu_s']:.2f} s" for row in rows], padding=4, color=GREY)
    axes.set_xlim(0, 1.15 * max(row["cpu_s"] for row in rows))
    axes.invert_yaxis()
    axes.set_xlabel("seconds of processor time")
    return figure


def scaling() -> Figure | None:
    """Bars: samples a second by the number of processes, beside what perfect scaling would give."""
    result = read("scaling")
    if result is None:
        return None
    rows = result["rows"]
    first = rows[0]["samples_per_s"] / rows[0]["processes"]
    figure, axes = plt.subplots(figsize=(WIDTH, 0.5 * len(rows) + 1.2), layout="constrained")
    names = [f"{row['processes']} process{'es' if row['processes'] > 1 else ''}" for row in rows]
    bars = axes.barh(names, [row["samples_per_s"] for row in rows], color=OURS, height=0.55)
    labels = [f"{row['samples_per_s']:.1f}, efficiency {row['efficiency']:.0%}" for row in rows]
    axes.bar_label(bars, labels, label_type="center", color="white")
    for place, row in enumerate(rows):
        ideal = first * row["processes"]
        axes.plot([ideal, ideal], [place - 0.35, place + 0.35], color=THEIRS, linewidth=2,
                  label="as many times the first" if not place else None)  # fmt: skip
    axes.invert_yaxis()
    axes.set_xlabel(f"samples a second of wall time; the cores are shared (load {result['load']:g} beside)")
    axes.legend(loc="upper right")
    axes.set_xlim(0, 1.4 * first * rows[-1]["processes"])
    return figure


def speedrun() -> Figure | None:
    """k-NN accuracy on the way of a run."""
    result = read("speedrun")
    if result is None:
        return None
    figure, axis = plt.subplots(figsize=(WIDTH, 2.8), layout="constrained")
    curve = result["curve"]
    axis.plot([p["minutes"] for p in curve], [p["knn"] for p in curve], color=OURS, marker="o", markersize=4)
    axis.set_xlim(left=0)
    axis.set_xlabel("minutes since the command was given")
    axis.set_ylabel("k-NN accuracy, %")
    axis.grid()
    return figure


def tasks() -> Figure | None:
    """A panel a task: its score from each start over the number of labels, with a bar of one standard deviation."""
    found = read("tasks")
    if not found:
        return None
    across = 3
    down = -(-len(found) // across)
    figure, panels = plt.subplots(down, across, figsize=(WIDTH, 2.3 * down + 0.5), layout="constrained", squeeze=False)
    for panel in panels.flat[len(found) :]:
        panel.set_visible(False)
    for panel, (name, one) in zip(panels.flat, found.items(), strict=False):
        for (features, protocol), (colour, style, told) in LINES.items():
            rows = [row for row in one["rows"] if (row["features"], row["protocol"]) == (features, protocol)]
            x, y, bars = ([row[key] for row in rows] for key in ("items", "mean", "std"))
            panel.errorbar(
                x, y, yerr=bars, color=colour, linestyle=style, marker="o", markersize=3, capsize=2, label=told
            )
        panel.set_xscale("log")
        panel.set_xticks(sorted({row["items"] for row in one["rows"]}))
        plain(panel.xaxis, "{:,.0f}")
        panel.set_title(f"{name}: {one['score']}{', lower is better' if one['lower'] else ''}", fontsize=9)
        panel.grid(axis="y")
    where = {"loc": "outside lower center", "ncols": 3, "fontsize": 8, "title": "over the number of labelled items"}
    figure.legend(*panels.flat[0].get_legend_handles_labels(), title_fontsize=8, **where)
    return figure


LINES = {
    ("encoder", "frozen"): (OURS, "--", "pretrained, frozen"),
    ("encoder", "finetune"): (OURS, "-", "pretrained, fine-tuned"),
    ("random", "frozen"): (THEIRS, "--", "random weights, frozen"),
    ("supervised", "finetune"): (THEIRS, "-", "labels alone"),
    ("trivial", "-"): (GREY, ":", "trivial guess"),
}

PLOTS: dict[str, Callable[[], Figure | None]] = {
    "ratios": ratios,
    "startup": startup,
    "memory": memory,
    "scaling": scaling,
    "speedrun": speedrun,
    "tasks": tasks,
}


def plain(axis: matplotlib.axis.Axis, form: str) -> None:
    """Numbers in place of powers of ten."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: form.format(value)))
    axis.set_minor_formatter(NullFormatter())


def broken(text: str, most: int) -> str:
    """On two lines, at the last space before `most`, where it is longer."""
    if len(text) <= most:
        return text
    place = text.rfind(" ", 0, most)
    return f"{text[:place]}\n{text[place + 1 :]}"


if __name__ == "__main__":
    main()
