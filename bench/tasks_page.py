"""The part of docs/numbers.md on tasks learned from each start, and its plot."""

from stored import read, spread, table

STARTS = (("encoder", "frozen"), ("random", "frozen"), ("encoder", "finetune"), ("supervised", "finetune"))
HEAD = ("pretrained, frozen", "random, frozen", "pretrained, fine-tuned", "labels alone", "trivial guess")


def sections() -> list[str]:
    found = read("tasks")
    if found is None:
        return []
    lines = [
        "\n## Tasks, from each start\n",
        "`selfsame evaluate RUN LABELLED --task NAME`: the same items, seeds and number of samples for each head; mean",
        "and standard deviation of three seeds on a test part that chose nothing. The encoders are small, trained for",
        "minutes without labels, and heads see few samples (below): these are no figures of what can be reached.",
        "*Labels alone*: the same network trained from random weights, as long as the others. *Trivial guess*: the",
        "most frequent class, a guess by colour, the median depth, the usual boxes. In bold: better than its baseline",
        "by more than two standard errors. Of blood_cells the larger number of labels was not measured. No batch is",
        "larger than the items to learn from: with the few of membrane and depth_room a head makes up to sixteen times",
        "the steps that it makes with all, so that their two lines are each to be read by itself.",
        "[The same as a picture](tasks.svg).\n",
    ]
    rows = []
    for name, one in found.items():
        scale = 100 if name != "depth_room" else 1
        budgets = list(dict.fromkeys(row["labels"] for row in one["rows"]))
        for labels in budgets:
            of = {(row["features"], row["protocol"]): row for row in one["rows"] if row["labels"] == labels}
            cells = [told(of[start], scale) for start in STARTS]
            for mine, other in ((0, 1), (2, 3)):
                if better(of[STARTS[mine]], of[STARTS[other]], one["lower"]):
                    cells[mine] = f"**{cells[mine]}**"
            count = of[STARTS[0]]["items"]
            rows.append([
                f"{name}: {one['score']}{' (lower is better)' if one['lower'] else ''}", f"{labels} ({count:,})",
                *cells, told(of["trivial", "-"], scale) if ("trivial", "-") in of else "–",
            ])  # fmt: skip
    about = [f"- {name}: {one['about']} Trained without labels {lasted(one)}"
             f"({one['pretraining']['verdict']}); {one['train']:,} train, {one['test']:,} test; {seen(one)}. "
             f"`{one['command']}` on {one['machine']}." for name, one in found.items()]  # fmt: skip
    before = [name for name, one in found.items() if "fine_tuned" in one]
    if before:
        about.append(f"- Fine-tuned at an earlier default, a tenth of the head's rate: {', '.join(before)}.")
    return [*lines, *table(["task", "labels", *HEAD], rows), "", *about]


def lasted(one: dict) -> str:
    seconds = one["pretraining"]["seconds"]
    where = "" if "cuda" in one["command"] else "of a shared core "
    return f"for {seconds} s {where}" if seconds else ""


def seen(one: dict) -> str:
    samples = one["settings"].get("head_samples")
    return f"{int(samples):,} samples to each head" if samples else "samples to each head as `adapt` gives unasked"


def told(row: dict, scale: float) -> str:
    if scale == 1:
        return f"{row['mean']:.3f} ± {row['std']:.3f}"
    return spread(scale * row["mean"], scale * row["std"])


def better(mine: dict, other: dict, lower: bool) -> bool:
    """By more than two standard errors of the difference of means over seeds."""
    gain = (other["mean"] - mine["mean"]) * (1 if lower else -1)
    return gain > 2 * (mine["std"] ** 2 / mine["seeds"] + other["std"] ** 2 / other["seeds"]) ** 0.5
