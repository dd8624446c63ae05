"""A model of a task as the engine trains it: fine-tuned with a slower encoder, or with the encoder frozen.

Sources: layer-wise decay of the learning rate, Bao et al. 2021 (BEiT), arXiv 2106.08254, appendix, and Clark et al.
2020 (ELECTRA), arXiv 2003.10555; frozen statistics of batch norm under small batches, as detection frameworks have
them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

from selfsame import types
from selfsame.downstream import saved
from selfsame.downstream.task import Examples, Model
from selfsame.engine.feed import Batch, feed
from selfsame.errors import UnreadableItem, UserError
from selfsame.nn.blocks import blocks
from selfsame.types import Draws, Encoder, Step

NORM_BATCH = 16  # below this, batch statistics are too noisy to fine-tune with
CHUNK = 32  # items predicted at once
BEST = "best"
SLOWEST = 0.1  # the least share of the head's learning rate that a fine-tuned encoder has, unless it is given
REACH = 100  # steps at the whole rate that take an encoder as far as fine-tuning may


@dataclass(frozen=True)
class Pace:
    """What of an encoder learns under a head, and how fast; FROZEN and SCRATCH beside those that are fine-tuned."""

    top: float
    """the share of the head's learning rate that what comes after the last block has; 0: the encoder is frozen"""
    decay: float = 1.0
    """each block has so much of the rate of the one behind it"""
    scratch: bool = False
    """the weights are random: batch norms learn at any batch size"""


FROZEN, SCRATCH = Pace(0.0), Pace(1.0, scratch=True)


class Adapted(types.Learner):
    """A model at work. Views: the views, then the targets."""

    def __init__(self, model: Model, pace: Pace, rows: int) -> None:
        """`rows`: items whose batch statistics are taken together."""
        super().__init__()
        self.model = model
        self.frozen = not pace.top
        self.still = not pace.scratch and rows < NORM_BATCH
        if self.frozen:
            model.encoder.requires_grad_(False)
        else:
            of_encoder = shares(model.encoder, pace.top, pace.decay)
            self.shares = {f"model.encoder.{name}": share for name, share in of_encoder.items()}

    @property
    def encoder(self) -> Encoder:  # type: ignore[override]
        return self.model.encoder

    def train(self, mode: bool = True) -> "Adapted":
        super().train(mode)
        if mode and self.frozen:
            self.model.encoder.eval()
        elif mode and self.still:
            for part in self.model.encoder.modules():
                if isinstance(part, _BatchNorm):
                    part.eval()
        return self

    def forward(self, views: list[Tensor]) -> Step:
        outputs = self.model(views[0])
        with torch.autocast(views[0].device.type, enabled=False):
            loss, logs = self.model.head.loss(in_float(outputs), views[1:])
        return Step(loss, logs)


def in_float(outputs: Any) -> Any:
    """Outputs whose floating tensors are float32: losses are not computed in bfloat16."""
    if isinstance(outputs, Tensor):
        return outputs.float() if outputs.is_floating_point() else outputs
    if isinstance(outputs, Mapping):
        return {name: in_float(value) for name, value in outputs.items()}
    if isinstance(outputs, list | tuple):
        return type(outputs)(in_float(value) for value in outputs)
    return outputs


def share_for(steps: int) -> float:
    """The share of the head's learning rate that a pretrained encoder has in a run of so many steps.

    Adam moves a weight by about its learning rate in a step, however small the gradient is. So how far an encoder can
    come from where it started is rate times steps, and that is held constant: a tenth of the rate in 1,000 steps (a
    tenth is usual), the whole rate in 100. It is never more than the head's rate, nor less than a tenth of it.
    """
    return min(1.0, max(SLOWEST, REACH / steps))


def shares(encoder: nn.Module, top: float, decay: float) -> dict[str, float]:
    """The share of the learning rate of each parameter of an encoder.

    `top` for what comes after the last block; each block before it has `decay` times as much as the one behind it, and
    what comes before the first block has the least. Parameters between blocks count with the block before them.
    """
    depth = {id(p): k for k, block in enumerate(blocks(encoder), 1) for p in block.parameters()}
    last = max(depth.values(), default=0)
    found, here = {}, 0
    for name, p in encoder.named_parameters():
        here = depth.get(id(p), here if here < last else last + 1)
        found[name] = top * decay ** (last + 1 - here)
    return found


def unlearned(learner: Adapted, views: list[Tensor]) -> int:
    """Free parameters that no gradient reaches (as the final norm, where a head reads maps) of learning; how many.

    Several processes would wait for their gradients. The learner is left as it was but for that.
    """
    was = {name: value.clone() for name, value in learner.state_dict().items()}
    learner.train()
    learner(views).loss.backward()
    idle = [p for p in learner.parameters() if p.requires_grad and p.grad is None]
    for p in idle:
        p.requires_grad_(False)
    learner.zero_grad(set_to_none=True)
    learner.load_state_dict(was)
    return len(idle)


# Predictions ---------------------------------------------------------------------------------------------------------


@dataclass
class Wholes(Dataset):
    """Chunk number -> samples of items as they are; those that cannot be read are left out and listed."""

    examples: Examples
    items: Sequence[int]
    size: int

    def __len__(self) -> int:
        return -(-len(self.items) // CHUNK)

    def __getitem__(self, chunk: int) -> Batch:
        items = [int(i) for i in self.items[chunk * CHUNK : (chunk + 1) * CHUNK]]
        try:
            return Batch(chunk, self.read(items), items=torch.tensor(items))
        except UnreadableItem:
            pass  # find out which, one at a time
        good: list[int] = []
        samples: list[Tensor] = []
        skipped: dict[int, str] = {}
        for item in items:
            try:
                samples += self.read([item])[:1]
                good.append(item)
            except UnreadableItem as error:
                skipped[item] = str(error)
        return Batch(chunk, [torch.cat(samples)] if good else [], skipped, torch.tensor(good))

    def read(self, items: list[int]) -> list[Tensor]:
        return self.examples.sample(items, self.size, Draws(0, 0, len(items)), learn=False)


@torch.no_grad()
def restored(
    model: Model, examples: Examples, items: Sequence[int], on: torch.device, workers: int = 0
) -> Iterator[tuple[int, Any]]:
    """(item, prediction) in order; each part of the model is left in the mode it came in."""
    was = [(part, part.training) for part in model.modules()]  # a frozen encoder is not in the mode of its head
    model.eval()
    chunks = Wholes(examples, items, model.size)
    try:
        for batch in feed(chunks, 0, len(chunks), workers):
            examples.skipped.update(batch.skipped)
            if not batch.samples or batch.items is None:
                continue
            moved = [sample.to(on) for sample in batch.samples]
            views = examples.make_views(moved, Draws(0, 0, len(moved[0])), learn=False)[0]
            found = model.head.decoded(in_float(model(views)))
            for i, prediction in zip(batch.items.tolist(), found, strict=True):
                yield i, examples.restored(i, prediction)
    finally:
        for part, mode in was:
            part.training = mode


def judged(
    model: Model, examples: Examples, items: Sequence[int], on: torch.device, workers: int = 0
) -> dict[str, float]:
    """The scores of a model on labelled items. Raises UserError where too many of them cannot be read."""
    scores = model.task.scores(model.facts)
    for i, prediction in model.task.predictions(model, examples, items, on, workers):
        scores.add(prediction, examples.truth(i))
    examples.check_skipped()
    return scores.found()


class Validation:
    """Looks at the scores of a validation part from time to time; the best weights are kept in best/."""

    def __init__(
        self, model: Model, examples: Examples, items: Sequence[int], on: torch.device, workers: int, folder: Path
    ) -> None:
        self.model, self.examples, self.items = model, examples, items
        self.on, self.workers, self.folder = on, workers, folder
        self.first: Any = None
        self.best: float | None = None
        self.best_at = 0.0
        self.verdict = ""

    @property
    def encoder(self) -> Encoder:
        return self.model.encoder

    def step(self, logs: Mapping[str, float]) -> None:
        self.first = self.first or dict(logs)

    def measured(self, progress: float, step: int) -> dict[str, Any]:
        task = self.model.task
        found = judged(self.model, self.examples, self.items, self.on, self.workers)
        score = found[task.chosen_by(self.model.facts)]
        if self.best is None or (score < self.best if task.lower else score > self.best):
            self.best, self.best_at = score, progress
            saved.save(self.model, self.folder / BEST)
        self.verdict = f"{task.chosen_by(self.model.facts)} {score:.3f}"
        return {f"val/{name}": value for name, value in found.items()}

    @property
    def hopeless(self) -> bool:
        return False

    def state(self) -> dict[str, object]:
        return {"best": self.best, "best_at": self.best_at, "first": dict(self.first or {})}

    def restore(self, state: dict[str, object]) -> None:
        if state:
            best, at, first = state["best"], state["best_at"], state["first"]
            self.best = best if isinstance(best, float) else None
            self.best_at = at if isinstance(at, float) else 0.0
            self.first = dict(first) if isinstance(first, dict) and first else None


def drawn(patient: Any, items: Sequence[int], draws: Draws, size: int) -> list[Tensor]:
    """The worker half of a training step: another item stands in for one that cannot be read, with its own label."""
    return patient.sample(items, size, draws, True, patient.attempt)


def numbers(items: Sequence[int]) -> np.ndarray:
    """Items as the engine's steps take them: ascending."""
    if not len(items):
        raise UserError("there are no labelled items to learn from.")
    return np.sort(np.asarray(items, dtype=np.int64))
