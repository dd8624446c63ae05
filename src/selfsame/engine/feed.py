"""From step numbers to samples: which items a step sees, read by worker processes, in order.

The batch of a step is a function of (seed, step) alone. So a stopped run goes on exactly, whatever the number of
workers or processes, and nothing about the data is saved.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from selfsame.engine.related import Related, alternated
from selfsame.engine.watch import say
from selfsame.errors import UnreadableItem, UserError
from selfsame.types import Draws, Source, mixed

PATIENCE = 1200  # seconds in which a batch must come: a large one from a slow disk takes minutes at most
CHECK = 5  # seconds between two looks whether the reading processes live
ATTEMPTS = 5  # to read one batch
CUT, VIEW, PAIR = 0, 1, 2  # streams of random numbers: worker half, device half, choice of relatives
SURVEY = 11  # mixed into the seed for the order in which all items are looked at


class Order:
    """Endless passes over n items, each pass in a new order, any place of it known at once.

    A pass is a permutation by a keyed Feistel network (Luby & Rackoff 1988) with cycle walking: no memory, no
    state, one billion items or ten.
    """

    ROUNDS = 6

    def __init__(self, n: int, seed: int) -> None:
        self.n = n
        self.seed = seed
        self.half = max(1, ((n - 1).bit_length() + 1) // 2)

    def at(self, places: Int64[np.ndarray, "b"]) -> Int64[np.ndarray, "b"]:
        """The items at these places of the endless order."""
        passes, spots = np.divmod(places.astype(np.int64), self.n)
        items = np.empty_like(spots)
        for one_pass in np.unique(passes):
            here = passes == one_pass
            items[here] = self._permute(spots[here], int(one_pass))
        return items

    def _permute(self, spots: np.ndarray, one_pass: int) -> np.ndarray:
        keys = [np.uint64(mixed(self.seed, one_pass, turn)) for turn in range(self.ROUNDS)]
        out = self._network(spots.astype(np.uint64), keys)
        while (outside := out >= self.n).any():  # walk on until inside: still one to one
            out[outside] = self._network(out[outside], keys)
        return out.astype(np.int64)

    def _network(self, x: np.ndarray, keys: Sequence[np.uint64]) -> np.ndarray:
        mask = np.uint64((1 << self.half) - 1)
        left, right = x >> np.uint64(self.half), x & mask
        with np.errstate(over="ignore"):
            for key in keys:
                spread = (right ^ key) * np.uint64(0x9E3779B97F4A7C15)
                spread ^= spread >> np.uint64(29)
                spread *= np.uint64(0xBF58476D1CE4E5B9)
                left, right = right, left ^ ((spread >> np.uint64(32)) & mask)
        return (left << np.uint64(self.half)) | right


class BlockOrder(Order):
    """Passes over items that lie in blocks which can only be read whole, as groups of Parquet rows.

    Blocks come in a new order in each pass, and items are mixed among `window` blocks that follow each other in it: a
    reading process that holds as many reads each block once a pass (as does each of the others). As
    with `Order`, any place is known at once; the ends of the blocks of a pass are added up once.
    """

    def __init__(self, starts: Int64[np.ndarray, "k"], n: int, window: int, seed: int) -> None:
        super().__init__(n, seed)
        self.starts = starts  # ascending, the first is 0
        self.lengths = np.diff(np.append(starts, n))
        self.window = window
        self.laid: tuple[int, np.ndarray, np.ndarray] | None = None

    def _permute(self, spots: np.ndarray, one_pass: int) -> np.ndarray:
        blocks, ends = self._layout(one_pass)
        windows = np.searchsorted(ends, spots, side="right") // self.window
        items = np.empty_like(spots)
        for number in np.unique(windows).tolist():
            here = windows == number
            first, last = number * self.window, min((number + 1) * self.window, len(blocks))
            low = int(ends[first - 1]) if first else 0
            mixing = Order(int(ends[last - 1]) - low, mixed(self.seed, one_pass, number, 1))
            places = low + mixing.at(spots[here] - low)
            block = np.searchsorted(ends, places, side="right")
            items[here] = self.starts[blocks[block]] + places - (ends[block] - self.lengths[blocks[block]])
        return items

    def _layout(self, one_pass: int) -> tuple[np.ndarray, np.ndarray]:
        """The blocks in the order of a pass, and where each ends in it."""
        if self.laid is None or self.laid[0] != one_pass:
            blocks = Order(len(self.starts), mixed(self.seed, one_pass, 0, 2)).at(np.arange(len(self.starts)))
            self.laid = one_pass, blocks, np.cumsum(self.lengths[blocks])
        return self.laid[1:]


def order_of(source: Source, items: Int64[np.ndarray, "n"], seed: int) -> Order:
    """The order in which these items of a source, ascending, are learned from."""
    if source.blocks is None:
        return Order(len(items), seed)
    starts = np.searchsorted(items, source.blocks)
    starts = np.unique(starts[starts < len(items)])  # of blocks without such items nothing is left
    return BlockOrder(starts, len(items), source.window, seed)


class Patient:
    """A source that gives another item in place of one that cannot be read, and lists which.

    It is one of `among`, ascending, far away and for each unreadable item another: held-out items do not slip into the
    training, and where all of a folder or a shard is damaged one item does not stand in for all. What was listed is
    tried again when it is due: of a long recording that is damaged at one place others can be read, and which item a
    row gets must be a function of the step, not of what this process has met before.
    """

    def __init__(self, source: Source, among: Int64[np.ndarray, "n"]) -> None:
        self.source = source
        self.among = among
        self.skipped: dict[int, str] = {}
        self.failed: set[int] = set()
        """what could not be read since this was emptied"""

    def __len__(self) -> int:
        return len(self.source)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "source":  # while unpickling there is no source yet
            raise AttributeError(name)
        return getattr(self.source, name)

    def attempt(self, i: int, read: Callable[[int], Any]) -> Any:
        """read(i), or of another item that can be read. Raises UserError when there is none."""
        here, total = int(np.searchsorted(self.among, i)), len(self.among)
        elsewhere = (mixed(int(i), k) for k in range(16))
        tried: set[int] = set()
        for place in chain([here], elsewhere, range(here, here + total)):
            item = int(self.among[place % total])
            if item in tried:
                continue
            tried.add(item)
            try:
                return read(item)
            except UnreadableItem as error:
                self.skipped.setdefault(item, str(error))
                self.failed.add(item)
        raise UserError(f"none of {total} items can be read; the first: {next(iter(self.skipped.values()))}")


@dataclass
class Batch:
    step: int
    samples: list[Tensor]  # one [b ...] a view
    skipped: dict[int, str] = field(default_factory=dict)  # items found unreadable while this batch was read
    items: Tensor | None = None  # long [b], where a learner asks for it: which of the items learned from each row is

    def pin_memory(self) -> "Batch":
        """Called by the loader: copies to a GPU then run beside the computing."""
        self.samples = [sample.pin_memory() for sample in self.samples]
        self.items = self.items.pin_memory() if self.items is not None else None
        return self


class Steps(Dataset):
    """Step number -> the samples of this process's rows of that step's batch.

    With `related` every second of the first `full` samples of a row is of a relative of its item, with the random
    numbers it would have had for the item itself. Both are read and cut whole, so that reading costs twice as much;
    where items can only be read in blocks, relatives should lie in one.
    """

    def __init__(
        self,
        source: Source,
        items: Int64[np.ndarray, "n"],  # ascending
        sample: Callable[[Any, Sequence[int], Draws], list[Tensor]],
        batch: int,
        rows: slice,
        seed: int,
        by_item: bool = False,
        related: Related | None = None,
        full: int = 2,
    ) -> None:
        self.related = related
        self.full = full
        self.source = Patient(source, items)
        self.by_item = by_item
        self.items = items
        self.sample = sample
        self.batch = batch
        self.rows = rows
        self.seed = seed
        self.order = order_of(source, items, seed)

    def items_at(self, step: int) -> Int64[np.ndarray, "b"]:
        return self.items[self.places_at(step)]

    def places_at(self, step: int) -> Int64[np.ndarray, "b"]:
        """Where the items of a step stand in `items`."""
        return self.order.at(np.arange(step * self.batch, (step + 1) * self.batch, dtype=np.int64)[self.rows])

    def __getitem__(self, step: int) -> Batch:
        known = set(self.source.skipped)
        self.source.failed.clear()
        places = self.places_at(step)
        samples = self.samples(step, places)
        if self.related is not None:
            partners = self.partners_at(step, places)
            others = self.samples(step, partners)
            # Of what cannot be read another item stands in, which is no relative: the row then pairs with itself.
            lost = [any(i in self.source.failed for i in pair) for pair in self.items[[places, partners]].T.tolist()]
            samples = alternated(samples, others, self.full, lost)
        new = {item: why for item, why in self.source.skipped.items() if item not in known}
        return Batch(step, samples, new, torch.from_numpy(places) if self.by_item else None)

    def samples(self, step: int, places: Int64[np.ndarray, "b"]) -> list[Tensor]:
        draws = Draws(self.seed, step, self.batch, self.rows, CUT)
        return self.sample(self.source, self.items[places].tolist(), draws)

    def partners_at(self, step: int, places: Int64[np.ndarray, "b"]) -> Int64[np.ndarray, "b"]:
        """Where in `items` the relatives of a step's items stand."""
        assert self.related is not None
        chances = Draws(self.seed, step, self.batch, self.rows, PAIR).uniform(1)[:, 0].double().numpy()
        return self.related.partners(places, chances)


class Survey(Dataset):
    """Every item once, as it is: batches of this process's share, for `Learner.survey`.

    Items come in an order that mixes them, always the same: a folder sorted by kind must not give batches of one kind.
    The shares are equal: the last batch of all is filled up with the items that came first.
    """

    def __init__(self, steps: Steps, sample: Callable[[Any, Sequence[int], Draws], list[Tensor]]) -> None:
        self.source = steps.source
        self.items = steps.items
        self.sample = sample
        self.batch = steps.batch
        self.rows = steps.rows
        self.count = -(-len(steps.items) // steps.batch)
        self.order = order_of(steps.source, steps.items, mixed(steps.seed, SURVEY))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Batch:
        spots = np.arange(number * self.batch, (number + 1) * self.batch, dtype=np.int64)[self.rows]
        places = self.order.at(spots % len(self.items))
        known = set(self.source.skipped)
        samples = self.sample(self.source, self.items[places].tolist(), Draws(0, 0, self.batch, self.rows, CUT))
        new = {item: why for item, why in self.source.skipped.items() if item not in known}
        return Batch(number, samples, new, torch.from_numpy(places))


def feed(
    steps: Dataset, first: int, last: int, workers: int, pin: bool = False, patience: float = PATIENCE
) -> Iterator[Batch]:
    """The batches of steps first..last-1, in order, read ahead by `workers` processes (0: by this one).

    Reading processes that die, or give nothing for `patience` seconds, are replaced: a batch is a function of its step,
    so nothing is lost. Raises UserError when that helps nothing.
    """
    due, failures = first, 0
    while due < last:
        try:
            for batch in loaded(steps, due, last, workers, pin, patience):
                yield batch
                due, failures = due + 1, 0
        except LostWorker as error:
            failures += 1
            if failures == ATTEMPTS:
                raise UserError(
                    f"reading step {due} failed {failures} times: {error}. If memory is short, give fewer --workers; "
                    "if a disk does not answer, see to it. The same command goes on from the last saved state."
                ) from None
            say(f"{error}; reading goes on with new processes from step {due}", "yellow")


class LostWorker(Exception):
    """A reading process died or hangs."""


def loaded(steps: Dataset, first: int, last: int, workers: int, pin: bool, patience: float) -> Iterator[Batch]:
    """The batches from one set of reading processes. Raises LostWorker."""
    loader = DataLoader(
        Told(steps),
        sampler=range(first, last),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        pin_memory=pin,
        timeout=min(patience, CHECK) if workers else 0,
        worker_init_fn=_calm,
        # A generator of its own: the loader must not draw from torch's global one, or workers would change results.
        generator=torch.Generator(),
    )
    with unalarmed():
        batches = iter(loader)
    try:
        asked = time.monotonic()
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (RuntimeError, ConnectionError, FileNotFoundError, EOFError) as error:
                text = " ".join(str(error).split()).rstrip(".")
                late = text.startswith("DataLoader timed out")
                if late and time.monotonic() - asked < patience:
                    continue  # all are alive: ask again
                why = f"no batch came for {patience:.0f} s" if late else death(error, text) if workers else ""
                if not why:
                    raise
                raise LostWorker(why) from None
            if isinstance(batch, UserError):
                raise batch
            yield batch
            asked = time.monotonic()
    finally:
        for process in getattr(batches, "_workers", ()):  # they do not heed the loader's SIGTERM
            process.kill()


def death(error: Exception, text: str) -> str:
    """What tells that a reading process has died; empty where the reading itself has failed."""
    if text.startswith("DataLoader worker (pid"):
        return text
    # Tensors are fetched from the process that made them: of a dead one a finished batch cannot be had either. What
    # the reading has raised comes as "Caught ... in DataLoader worker process".
    unfetched = not isinstance(error, RuntimeError) or "items of ancdata" in text
    return f"a reading process has died ({text})" if unfetched and not text.startswith("Caught ") else ""


@contextlib.contextmanager
def unalarmed() -> Iterator[None]:
    """Keep torch's SIGCHLD handler away, which raises in the middle of a step; `next` finds dead workers by itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)


class Told(Dataset):
    """Hands a UserError over as a value: raised in a worker it would arrive as a traceback in text."""

    def __init__(self, steps: Dataset) -> None:
        self.steps = steps

    def __getitem__(self, step: int) -> Any:
        try:
            return self.steps[step]
        except UserError as error:
            return error


def _calm(_: int) -> None:
    """Signals are for the main process, which saves and then ends its workers.

    A service manager or a batch system sends SIGTERM to all processes of a job at once.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
