"""What two processes do together, once for all tests that look at it: torchrun runs this file.

`outcomes()` starts it and gives what each process wrote; the tests compare it with one process on the whole batch.
torchrun is told to fork: the processes it starts, and starts again, then need not load torch and its kin anew.
"""

import atexit
import contextlib
import functools
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.distributed as td
import torch.distributed.run
import torch.nn.functional as F
from PIL import Image
from timm.layers import BatchNormAct2d
from torch import nn

import selfsame
from selfsame import cli, methods
from selfsame.downstream import tasks
from selfsame.downstream.adapting import Adapted, Pace, drawn, unlearned
from selfsame.downstream.task import Model
from selfsame.engine import dist, loop, shard
from selfsame.engine.feed import VIEW, Batch, Steps
from selfsame.engine.health import Health
from selfsame.engine.loop import Loop, train
from selfsame.engine.optim import make_optimizer
from selfsame.errors import UserError
from selfsame.methods.byol import BYOL
from selfsame.modalities import image
from selfsame.nn.blocks import recomputed
from selfsame.nn.norm import frozen_statistics
from selfsame.nn.split import agree, in_groups, shuffled, split
from selfsame.nn.sync import gathered, synchronised
from selfsame.nn.whiten import Whiten
from selfsame.types import Draws, mixed
from tests import scenes
from tests.conftest import Tiny, paint
from tests.methods import room

ROOT = Path(__file__).parents[1]
WORLD = 2
SHARES = [slice(0, 5), slice(5, 8)]  # rows of each process where their numbers differ
CPU = torch.device("cpu")
SETTINGS = {
    "batch_size": 16,
    "epochs": 3,
    "workers": 0,
    "precision": "fp32",
    "optimizer": "sgd",
    "lr": 0.01,
    "save_every": 2,
    "encoder": "tests.processes:net",
    "method": {"name": "byol", "hidden": 32, "out": 16},
}
SAVE_MEMORY = ("--shard", "--checkpoint-activations")
KINDS = {
    "vectors": (lambda: nn.BatchNorm1d(6), (8, 6)),
    "sequences": (lambda: nn.BatchNorm1d(6, momentum=None), (8, 6, 5)),
    "maps": (lambda: nn.BatchNorm2d(6, eps=1e-3, momentum=0.3), (8, 6, 4, 3)),
    "plain": (lambda: nn.BatchNorm2d(6, affine=False, track_running_stats=False), (8, 6, 4, 3)),
    "fused": (lambda: BatchNormAct2d(6, act_layer=nn.SiLU), (8, 6, 4, 3)),
}
SAVINGS = {  # (memory saved by, optimiser, settings of the method)
    "shard": ("s", "sgd", {}),
    "shard, whitened": ("s", "sgd", {"output_norm": "whiten"}),
    "shard, group norm": ("s", "sgd", {"norm": "group", "hidden": 64}),
    "shard, adamw": ("s", "adamw", {}),
    "shard, lars": ("s", "lars", {"buffers": "average"}),
    "recompute": ("r", "sgd", {}),
    "shard, recompute": ("sr", "sgd", {}),
}
TASKS: dict[str, tuple[str, dict[str, object]]] = {
    "classification": ("classification", {}),
    "tags": ("classification", {"several": True}),
    "segmentation": ("segmentation", {}),
    "depth": ("depth", {}),
    "keypoints": ("keypoints", {}),
    "fcos": ("detection", {"detector": "fcos"}),
    "retinanet": ("detection", {"detector": "retinanet"}),
}
CONTRASTS = ("own rows", "all rows")
VARIANTS = {
    "default": {},
    "no projector": {"projector": False},
    "no predictor": {"predictor": False},
    "one direction": {"symmetric": False, "transformed": "online"},
    "adversary": {"adversary": 2, "epsilon": 0.0},  # without room, so that its start is the same for any process
    "averaged buffers": {"buffers": "average"},
    "group norm": {"norm": "group", "hidden": 64},
    "plain output norm": {"output_norm": "plain"},
    "whitened": {"output_norm": "whiten"},
}


class Block(nn.Module):
    """As networks have them in a row."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.drop(self.norm(self.conv(x)).relu())


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, bias=False), BatchNormAct2d(8), nn.Sequential(Block(8), Block(8)),
        nn.Conv2d(8, 9, 3, bias=False), nn.BatchNorm2d(9), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


class Deep(Tiny):
    """With blocks, and an odd width that cannot be divided."""

    def __init__(self) -> None:
        super().__init__(dim=9)
        self.body = net()

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        return self.body(view)


def rows_of(rank: int, batch: int) -> slice:
    return slice(rank, batch, WORLD)


def normalised(kind: str, rows: slice, channels_last: bool = False, spread: bool = True) -> dict[str, torch.Tensor]:
    """Two passes of a batch norm over these rows: output, gradients and running statistics."""
    make, shape = KINDS[kind]
    generator = torch.Generator().manual_seed(1)
    norm = make().double()
    if norm.affine:
        nn.init.uniform_(norm.weight, 0.5, 2, generator=generator)
        nn.init.uniform_(norm.bias, -1, 1, generator=generator)
    if spread:
        synchronised(norm)
    x, pull = (3 + 2 * torch.randn(2, *shape, generator=generator, dtype=torch.float64) for _ in range(2))
    for one, weights in zip(x, pull, strict=True):
        part = one[rows].to(memory_format=torch.channels_last) if channels_last else one[rows].clone()
        part.requires_grad_()
        y = norm(part)
        (y * weights[rows]).sum().backward()
    assert y.is_contiguous(memory_format=torch.channels_last) == part.is_contiguous(memory_format=torch.channels_last)
    found = {"y": y.detach(), "x": part.grad, **{f"{name}.grad": p.grad for name, p in norm.named_parameters()}}
    with frozen_statistics(norm):
        found["frozen"] = norm(part).detach()
    if norm.track_running_stats:  # without, eval mode too is about the rows at hand
        found["eval"] = norm.eval()(part).detach()
    return {**found, **norm.state_dict()}


def whitened(rows: slice) -> dict[str, torch.Tensor]:
    x, pull = torch.randn(2, 8, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    part = (3 + x[rows] @ torch.arange(36.0, dtype=torch.float64).reshape(6, 6)).requires_grad_()
    y = Whiten(6)(part)
    (y * pull[rows]).sum().backward()
    return {"y": y.detach(), "x": part.grad}


def split_apart(rows: slice) -> dict[str, torch.Tensor]:
    """Queries and shuffled keys of a network whose batch norms see groups of two rows, gradients and statistics."""
    torch.manual_seed(6)
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    x, pull = torch.randn(2, 12, 5, dtype=torch.float64)
    split(net, 2)
    synchronised(net)
    torch.manual_seed(mixed(0, 0, 2, dist.rank()))
    y = in_groups(net, x[rows], 2)
    (y * pull[rows, :3]).sum().backward()
    keys = shuffled(net, x[rows], 2)
    agree(net)
    return {
        "y": y.detach(),
        "keys": keys,
        **{f"{n}.grad": p.grad for n, p in net.named_parameters()},
        **net.state_dict(),
    }


def in_bf16(rows: slice, spread: bool = True) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 16, bias=False), nn.BatchNorm1d(16))
    x = 100 + torch.randn(8, 6)  # far from zero: statistics in bf16 would be wrong
    if spread:
        synchronised(module)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x[rows])
    y.float().square().sum().backward()
    return {"y": y.detach(), "weight": module[0].weight.grad, **module[1].state_dict()}


def learned(variant: str, rows: slice) -> dict[str, torch.Tensor]:
    """Gradients of the second of two SGD steps, and the state after it."""
    from tests.conftest import Tiny

    torch.manual_seed(3)
    method = BYOL(**{"hidden": 16, "out": 8, "momentum": 0.9, **VARIANTS[variant]})
    learner = dist.place(method.build(Tiny()).double(), CPU).train()
    if dist.rank() == 1:
        for tensor in learner.state_dict().values():
            tensor.add_(1)  # wrap must undo this
    forward = dist.wrap(learner, CPU)
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
    views = torch.rand(2, 8, 3, 12, 12, generator=torch.Generator().manual_seed(4)).double()
    for step in range(2):
        optimizer.zero_grad()
        forward([view[rows] for view in views]).loss.backward()
        optimizer.step()
        learner.after_step(step / 2)
    gradients = {f"{name}.grad": p.grad for name, p in learner.named_parameters() if p.grad is not None}
    return {**gradients, **learner.state_dict()}


def learned_by(name: str, rows: slice) -> dict[str, torch.Tensor]:
    """Gradients of the second of two SGD steps of a method as small as it goes, and the state after it."""
    torch.manual_seed(3)
    method = room.settings_of(name)
    learner = dist.place(method.build(room.encoder_for(method), room.ITEMS).double(), CPU).train()
    forward = dist.wrap(learner, CPU)
    optimizer = make_optimizer("sgd", learner, 0.05, 0.01)
    views = [view[rows] for view in room.views_of(method, dtype=torch.float64)]
    items = torch.arange(room.ITEMS)[rows]
    if learner.surveys(0):
        torch.manual_seed(5)
        with torch.no_grad():
            learner.survey(room.surveyed(room.ITEMS, dtype=torch.float64, rank=dist.rank(), world=dist.world()))
    for step in range(2):
        torch.manual_seed(mixed(0, step, 2, dist.rank()))  # as the engine does
        optimizer.zero_grad()
        (forward(views, items) if learner.by_item else forward(views)).loss.backward()
        learner.before_update(step / 2)
        optimizer.step()
        learner.after_step(step / 2)
    gradients = {f"{name}.grad": p.grad for name, p in learner.named_parameters() if p.grad is not None}
    return {**gradients, **learner.state_dict()}


def saved_memory(name: str, rows: slice) -> dict[str, torch.Tensor]:
    """The state after three steps, gradients and moments; memory is saved where there are several processes."""
    how, optimizer_name, settings = SAVINGS[name]
    torch.manual_seed(3)
    learner = dist.place(BYOL(**{"hidden": 16, "out": 8, "momentum": 0.9, **settings}).build(Deep()).double(), CPU)
    several = dist.world() > 1
    if several and "r" in how:
        recomputed(learner.encoder)
    forward = shard.sharded(learner, CPU) if several and "s" in how else dist.wrap(learner, CPU)
    optimizer = make_optimizer(optimizer_name, learner.train(), 0.01, 0.01)
    views = torch.rand(2, 8, 3, 12, 12, generator=torch.Generator().manual_seed(4)).double()
    for step in range(3):
        optimizer.zero_grad()
        forward([view[rows] for view in views]).loss.backward()
        optimizer.step()
        learner.after_step(step / 3)
        assert loop.finite(learner)
    here = [p for p in learner.parameters() if p.requires_grad]
    if several and "s" in how:  # 9 of 17 rows at most, and of each tensor
        assert all(2 * shard.local(p).shape[0] <= p.shape[0] + 1 for p in here)
    found = {**learner.state_dict(), **{f"{name}.grad": p.grad for name, p in learner.named_parameters()}}
    moments = {f"{i}.{key}": value for i, p in enumerate(here) for key, value in optimizer.state[p].items()}
    return {key: shard.full(value) for key, value in {**found, **moments}.items() if value is not None}


def micro_batched(rows: slice) -> tuple[list[torch.Tensor], int]:
    """Gradients of a step of three micro-batches, and how often the processes have summed gradients for it."""
    torch.manual_seed(3)
    learner = dist.place(BYOL(hidden=16, out=8).build(Deep()), CPU).train()
    forward = dist.wrap(learner, CPU)
    sums = []
    if dist.world() > 1:

        def counted(_: object, bucket: td.GradBucket) -> torch.futures.Future[torch.Tensor]:
            sums.append(1)
            whole = bucket.buffer() / WORLD
            td.all_reduce(whole)
            done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
            done.set_result(whole)
            return done

        forward.register_comm_hook(None, counted)
    settings = Loop(steps=8, batch=24, lr=0.0, weight_decay=0.0, warmup=0, accumulate=3, optimizer="sgd")
    views = torch.rand(2, 24, 3, 12, 12, generator=torch.Generator().manual_seed(4))
    batch = Batch(0, [view[rows] for view in views])
    loop.one_step(forward, torch.optim.SGD(learner.parameters(), lr=0.0), batch, lambda samples, _: samples, settings,
                  rows, CPU)  # fmt: skip
    return [p.grad for p in learner.parameters() if p.grad is not None], len(sums)


def write_labelled(folder: Path) -> None:
    """Scenes for each task, of which every second counts less: so the processes count differently."""
    made = scenes.scenes(16, 32)
    for k, one in enumerate(made):
        one.mask[: 3 * (k % 8)] = 255
        one.depth[: 3 * (k % 8)] = 0
    scenes.write_masks(folder / "segmentation", made)
    scenes.write_depth(folder / "depth", made)
    scenes.write_coco(folder / "coco", made)
    scenes.write_images(folder / "plain", made)
    rows = [f"plain/{k:02d}.png,{'|'.join(scenes.CLASSES[c] for c in set(o.classes))}" for k, o in enumerate(made)]
    (folder / "tags.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    rows = [f"plain/{k:02d}.png,{scenes.CLASSES[o.classes[0]]}" for k, o in enumerate(made)]
    (folder / "classification.csv").write_text("path,label\n" + "\n".join(rows) + "\n")


def adapted(case: str, folder: Path) -> dict[str, torch.Tensor]:
    """Gradients of the second of two SGD steps of a task, read, drawn and taken as `adapt` does; the state after it."""
    name, settings = TASKS[case]
    stats = image.Stats(
        items=8, channels=3, bits=8, white=255, mean=(0.5,) * 3, std=(0.25,) * 3, height=32, width=32, uniform=True
    )
    torch.manual_seed(3)
    encoder = image.make_encoder("resnet10t@0.125", 32, stats)
    task = tasks.load(name)(**settings)
    coco = (str(folder / "coco" / "images"), str(folder / "coco" / "annotations.json"))
    tables = {"classification": "classification.csv", "tags": "tags.csv"}
    lies = {"segmentation": (str(folder / "segmentation"), None), "depth": (str(folder / "depth"), None)}
    path, labels = (str(folder / tables[case]), None) if case in tables else lies.get(case, coco)
    examples = task.open(path, labels, encoder)
    model = Model(encoder, task.head(encoder, examples.facts, 32), task, examples.facts, 32).double()
    if name == "segmentation":  # the loss is computed in fp32
        model.head.weights = model.head.weights.float()
    batch = 8
    learner = dist.place(Adapted(model, Pace(1.0, 0.9), batch), CPU).train()
    rows, sample = dist.rows(batch), functools.partial(drawn, size=32)
    steps = Steps(examples, np.arange(len(examples)), sample, batch, rows, 0)

    def make_views(samples: list[torch.Tensor], draws: Draws) -> list[torch.Tensor]:
        made = examples.make_views(samples, draws, learn=True)
        return [made[0].double(), *made[1:]]

    unlearned(learner, make_views(steps[0].samples, Draws(0, 0, batch, rows, VIEW)))
    forward = dist.wrap(learner, CPU)
    optimizer = make_optimizer("sgd", learner, 0.01, 0.01)
    settings_of = Loop(steps=2, batch=batch, lr=0.01, weight_decay=0.01, warmup=0, optimizer="sgd", clip=1.0)
    for step in range(2):
        loop.one_step(forward, optimizer, steps[step], make_views, settings_of, rows, CPU)
    gradients = {f"{key}.grad": p.grad for key, p in learner.named_parameters() if p.grad is not None}
    return {**gradients, **learner.state_dict()}


class Numbers:
    """Sixteen items, known by their numbers."""

    labels = blocks = None

    def __len__(self) -> int:
        return 16

    def name(self, i: int) -> str:
        return str(i)


def trained(folder: Path, nan_at: int | None = None, lost_at: int | None = None, refuse: bool = False) -> str:
    """Eight steps of training, in which the second process alone meets something; how it ended."""
    from tests.conftest import Tiny

    def sample(source: object, items: list[int], draws: object) -> list[torch.Tensor]:
        item = torch.stack([torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(i)) for i in items])
        return [item, item.flip(3)]

    class Meeting(Steps):
        def __getitem__(self, step: int) -> object:
            batch = super().__getitem__(step)
            if dist.rank() == 1 and step == lost_at:
                batch.skipped = {7: "cut short"}
            if dist.rank() == 1 and step == nan_at:
                batch.samples[0] = batch.samples[0] * float("nan")
            return batch

    def found(unreadable: dict[int, str]) -> None:
        (folder / "found").write_text(f"{dist.rank()}: {unreadable}")
        if refuse:
            raise UserError("too many")

    torch.manual_seed(0)
    learner = dist.place(BYOL(hidden=16, out=8).build(Tiny()), CPU)
    settings = Loop(steps=8, batch=8, lr=0.01, weight_decay=0.0, warmup=0, log_every=4, optimizer="sgd")
    steps = Meeting(Numbers(), np.arange(16), sample, 8, dist.rows(8), 0)  # type: ignore[arg-type]
    health = Health(learner.encoder, lambda: sample(None, list(range(8)), None))
    folder.mkdir(exist_ok=True, parents=True)
    try:
        train(learner, steps, lambda samples, draws: samples, settings, folder, CPU, 0, health, found)
    except UserError as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def refuse() -> None:
    raise UserError(f"process {dist.rank()} cannot")


def commanded(folder: Path) -> dict[str, int]:
    """`selfsame pretrain` to the end, and with signals that only the second process gets; the exit codes.

    The first is SIGKILL: torchrun starts both again, and the run goes on. Then SIGTERM, which is answered.
    """
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in SETTINGS.items() if key != "method"]
    flags += ["--method=byol", "--method.hidden=32", "--method.out=16"]
    data = str(folder / "data.npz")
    lr_at = loop.lr_at
    last, number = 3, signal.SIGKILL  # after the state of step 2: what came after it is done again

    def ended(step: int, *rest: float) -> float:
        if step == last and dist.rank() == 1:
            os.kill(os.getpid(), number)
        return lr_at(step, *rest)

    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        loop.lr_at = ended
    codes = {"killed": cli.main(["pretrain", data, f"--out={folder / 'killed'}", *flags])}
    loop.lr_at = lr_at
    codes["whole"] = cli.main(["pretrain", data, f"--out={folder / 'whole'}", *flags])
    codes["micro"] = cli.main(["pretrain", data, f"--out={folder / 'micro'}", *flags, "--accumulate=2"])
    codes["sharded"] = cli.main(["pretrain", data, f"--out={folder / 'sharded'}", *flags, *SAVE_MEMORY])
    codes["adversary"] = cli.main(
        ["pretrain", data, f"--out={folder / 'no'}", *flags, "--shard", "--method.adversary=1"]
    )
    last, number = 2, signal.SIGTERM
    loop.lr_at = ended
    codes["stopped"] = cli.main(["pretrain", data, f"--out={folder / 'stopped'}", *flags])
    if dist.first():
        shutil.copytree(folder / "stopped", folder / "mixed")
    last = 3
    codes["mixed"] = cli.main(["pretrain", data, f"--out={folder / 'mixed'}", *flags, *SAVE_MEMORY])
    loop.lr_at = lr_at
    return codes


def contrasted(rows: slice, kind: str) -> dict[str, torch.Tensor]:
    """Loss and gradient of InfoNCE between all items: of the own rows against all columns, or of all rows."""
    torch.manual_seed(3)
    net = nn.Linear(6, 4).double()
    one, two = torch.randn(2, 8, 6, dtype=torch.float64)
    p, z = (F.normalize(net(view[rows])) for view in (one, two))
    labels = torch.arange(8)
    if kind == "own rows":
        loss = F.cross_entropy(p @ gathered(z).T / 0.2, labels[rows])
    else:
        loss = F.cross_entropy(gathered(p) @ gathered(z).T / 0.2, labels)
    loss.backward()
    return {"loss": loss.detach(), "order": gathered(labels[rows]), **{n: q.grad for n, q in net.named_parameters()}}


def together(folder: Path) -> dict[str, object]:
    told: dict[str, object] = {"codes": commanded(folder)}
    with dist.group(CPU):
        rank = dist.rank()
        told["norm"] = {kind: normalised(kind, SHARES[rank]) for kind in KINDS}
        told["channels last"] = normalised("maps", SHARES[rank], channels_last=True)
        told["whitened"] = whitened(SHARES[rank])
        told["split"] = split_apart(rows_of(rank, 12))
        told["bf16"] = in_bf16(SHARES[rank])
        told["contrasted"] = {kind: contrasted(rows_of(rank, 8), kind) for kind in CONTRASTS}
        told["learned"] = {variant: learned(variant, rows_of(rank, 8)) for variant in VARIANTS}
        told["by method"] = {name: learned_by(name, rows_of(rank, room.ITEMS)) for name in methods.names()}
        told["by task"] = {case: adapted(case, folder / "tasks") for case in TASKS}
        told["saved memory"] = {name: saved_memory(name, rows_of(rank, 8)) for name in SAVINGS}
        told["micro-batched"] = micro_batched(rows_of(rank, 24))
        told["nan"] = trained(folder / "nan", nan_at=3)
        told["lost"] = trained(folder / "lost", lost_at=3)
        told["refused"] = trained(folder / "refused", lost_at=3, refuse=True)
        told["agreed"] = dist.agreed(rank, -rank, 5)
        told["mean"] = dist.mean({"loss": torch.tensor(1.0 + rank), "other": torch.tensor(2.0)})
        told["gathered"] = dist.gathered({rank: f"by {rank}"})
        told["by first"] = dist.by_first(lambda: f"process {rank}")
        try:
            dist.by_first(refuse)
        except UserError as error:
            told["refusal"] = str(error)
    return told


@cache
def started() -> tuple[Path, subprocess.CompletedProcess]:
    folder = Path(tempfile.mkdtemp(prefix="selfsame-processes-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_labelled(folder / "tasks")
    np.savez(folder / "data.npz", x=np.stack([paint(k % 4, k, 12) for k in range(34)]))
    places = [str(Path(selfsame.__file__).parents[1]), str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.processes", f"--nproc-per-node={WORLD}", "--max-restarts=1"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--run-path", "--start-method=fork"]
    command += [__file__, str(folder)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, cwd=folder, **streams) as running:
        try:
            said, wrote = running.communicate(timeout=250)
        except subprocess.TimeoutExpired:  # once for all: every test would wait as long again
            running.terminate()  # torchrun ends what it has started
            said, wrote = running.communicate()
            wrote += "\nstopped after 250 s"
    return folder, subprocess.CompletedProcess(command, running.returncode, said, wrote)


@cache
def outcomes() -> tuple[Path, list[dict], str]:
    """(folder of the runs, what each process found, what they wrote to stderr)."""
    folder, done = started()
    assert done.returncode == 0, done.stderr[-6000:]
    told = [torch.load(folder / f"told-{rank}.pt", weights_only=True) for rank in range(WORLD)]
    return folder, told, done.stderr


def torchrun() -> None:
    """The command of that name, in a process that has loaded what those it starts will need."""
    needed = ["torch._dynamo", "torch.distributed.fsdp", "torch.utils.tensorboard", "sklearn.manifold"]
    needed += ["selfsame.jobs.report", "selfsame.modalities.image.stats"]
    for name in needed:
        with contextlib.suppress(ImportError):  # TensorBoard is an extra
            importlib.import_module(name)
    for name in methods.names():
        methods.load(name)
    Image.init()
    torch.distributed.run.main(sys.argv[1:])


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        where = Path(sys.argv[1])
        torch.save(together(where), where / f"told-{dist.rank()}.pt")
    else:
        torchrun()
