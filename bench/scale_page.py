"""docs/scale.md: what a training costs on other machines."""

from stored import read, table

SCALE = """# Scale: what a training costs on other machines

`selfsame plan PATH --gpus N --gpu h100` answers this for your data and settings; here is how, with worked answers.
It is a model; what of it was tried on a GPU stands below. Made by `{command}`
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


def page() -> list[str]:
    result = read("scale")
    if result is None:
        return []
    constants, reading = result["constants"], result["reading"]
    return [
        SCALE.format(command=result["command"], machine=result["machine"], **constants),
        *published(result),
        *own(result),
        *worked(result, reading),
        *more_cards(result),
        *constants_of(result),
    ]


def own(result: dict) -> list[str]:
    return [
        "\n## Beside our own\n",
        "BYOL at 224 px in bf16, images/s of one card as `bench/card.py` measured it (docs/performance.md; without the",
        "device half of the views, which the model has). The model is of an eager step; compiling is not in it.\n",
        *table(
            ["network, card", "batch", "model", "eager", "compiled", "model to eager"],
            [
                [f"{row['net']}, {row['card']}", row["batch"], row["model"], row["eager"], row["compiled"],
                 round(row["model"] / row["eager"], 2)]
                for row in result["own"]
            ],
        ),
    ]  # fmt: skip


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
