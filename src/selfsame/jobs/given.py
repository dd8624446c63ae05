"""The items that a job on vectors is given: those of a path, or of an index; and the encoder that goes with them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from selfsame import modalities
from selfsame.engine import dist
from selfsame.engine.plan import workers_for
from selfsame.engine.state import check_writable
from selfsame.engine.watch import say
from selfsame.errors import NO_LABEL, UnreadableItem, UserError
from selfsame.index.contract import Index, Made
from selfsame.index.store import exists
from selfsame.index.store import opened as opened_index
from selfsame.jobs.data import Data, all_vectors, check_share, open_like
from selfsame.jobs.evaluating import PARTS, classes, plain
from selfsame.jobs.runs import load
from selfsame.jobs.vectors import OfVectors
from selfsame.records import Record
from selfsame.types import Encoder, Modality


class Given(ABC):
    """The items that a job looks at, by number, and the encoder whose vectors they have."""

    encoder: Encoder
    run: Path  # the folder of the run
    path: str  # where the items come from, as people wrote it
    modality: Modality
    on: torch.device

    def __init__(self, job: OfVectors) -> None:
        self.job = job

    @property
    def place(self) -> Path:
        """The folder of the result."""
        return self.job.out or self.run / self.job.FOLDER

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, i: int) -> str: ...

    @property
    @abstractmethod
    def labels(self) -> list[str] | None:
        """One an item, NO_LABEL where it has none."""

    @property
    @abstractmethod
    def skipped(self) -> dict[int, str]:
        """Why items are left out."""

    @property
    @abstractmethod
    def whole(self) -> bool:
        """Whether the items themselves are there, so that other encoders can see them."""

    @abstractmethod
    def vectors(self, items: Sequence[int]) -> tuple[list[int], Float[np.ndarray, "n d"]]:
        """By the encoder, of those of the items that can be read. Raises UserError where these are too few."""

    @abstractmethod
    def at(self, i: int) -> tuple[Data, int]:
        """The opened source of an item, and its number there. Raises UnreadableItem where it is there no longer."""

    @property
    @abstractmethod
    def root(self) -> str | None:
        """The folder that names of items start from."""

    def by(self, other: Encoder, items: Sequence[int]) -> Float[np.ndarray, "n d"]:
        """Vectors of items by another encoder. Raises UserError where one of them cannot be read."""
        found = np.zeros((len(items), other.dim), np.float32)
        for data, places, numbers in self.sources(items):
            kept, some = all_vectors(other, data, self.views(data), numbers, self.on, self.workers(data))
            if len(kept) < len(numbers):
                raise UserError(
                    f"{len(numbers) - len(kept)} items of {data.path} could be read at first and now cannot. Is "
                    "something changing them? Run the same command again."
                )
            found[places] = some
        return found

    def met(self, items: Sequence[int]) -> Iterator[Tensor]:
        """Views of items in batches of about 128, to fit statistics of batch norm on."""
        for data, _, numbers in self.sources(items):
            size = -(-len(numbers) // -(-len(numbers) // 128))
            yield from plain(data, self.views(data), numbers, chunk=size)

    def raw(self, items: Sequence[int]) -> Float[Tensor, "n d"]:
        """The trivial feature of the kind; what it fits, without labels, it fits on the items of the first source."""
        parts = self.sources(items)
        rows = self.modality.raw_vectors([(data.source, numbers) for data, _, numbers in parts], parts[0][0].stats)
        found = torch.zeros(len(items), rows[0].shape[1])
        for (_, places, _), some in zip(parts, rows, strict=True):
            found[places] = some.float()
        return found

    def sources(self, items: Sequence[int]) -> list[tuple[Data, list[int], list[int]]]:
        """(source, places among `items`, their numbers in the source), for each source they come from."""
        parts: dict[int, tuple[Data, list[int], list[int]]] = {}
        for place, item in enumerate(items):
            data, number = self.at(item)
            _, places, numbers = parts.setdefault(id(data), (data, [], []))
            places.append(place)
            numbers.append(number)
        return list(parts.values())

    def views(self, data: Data) -> Record:
        return data.modality.recipe("weak", self.encoder.spec["size"], data.stats)

    def workers(self, data: Data) -> int:
        return workers_for(data.source.array is not None, self.job.workers)[0]


class Opened(Given):
    """Items of a path, which the encoder of the run reads."""

    def __init__(self, job: OfVectors, encoder: Encoder, run: Path, path: str) -> None:
        super().__init__(job)
        self.encoder, self.run, self.path = encoder, run, path
        self.data = open_like(path, encoder, job.labels)
        self.modality, self.on = self.data.modality, dist.device(job.device)

    def __len__(self) -> int:
        return len(self.data.source)

    def name(self, i: int) -> str:
        return self.data.source.name(i)

    @property
    def labels(self) -> list[str] | None:
        return self.data.source.labels

    @property
    def skipped(self) -> dict[int, str]:
        return self.data.skipped

    @property
    def whole(self) -> bool:
        return True

    def vectors(self, items: Sequence[int]) -> tuple[list[int], Float[np.ndarray, "n d"]]:
        workers = self.workers(self.data)
        kept, found = all_vectors(self.encoder, self.data, self.views(self.data), items, self.on, workers)
        check_share(self.data, self.job.max_skipped)
        return kept, found

    def at(self, i: int) -> tuple[Data, int]:
        return self.data, i

    @property
    def root(self) -> str | None:
        place = getattr(self.data.source, "place", None)
        return place if isinstance(place, str) else None


class Indexed(Given):
    """Items of an index: their vectors are known, and the items are looked for where they came from."""

    def __init__(self, job: OfVectors, encoder: Encoder, run: Path, index: Index) -> None:
        super().__init__(job)
        self.encoder, self.run, self.path, self.index = encoder, run, index.place, index
        self.modality, self.on = modalities.load(index.made.modality), dist.device(job.device)
        self._skipped: dict[int, str] = {}
        self._names = index.names
        if index.unfinished is not None:
            say(f"{index.place} is not finished: of {index.unfinished} it holds {len(index):,} items so far.", "yellow")
        if not len(index):
            raise UserError(
                f"{index.place} holds no items. Add some: selfsame index {run} PATH --out {index.place} --add"
            )

    def __len__(self) -> int:
        return len(self.index)

    def name(self, i: int) -> str:
        return self._names[i]

    @cached_property
    def labels(self) -> list[str] | None:
        if self.job.labels is None:
            return self.index.labels
        labels = {}
        for path, prefix in self.origins:
            source = open_like(path, self.encoder, self.job.labels).source
            labels.update({prefix + source.name(i): label for i, label in enumerate(source.labels or ())})
        return [labels.get(name, NO_LABEL) for name in self._names]

    @property
    def skipped(self) -> dict[int, str]:
        return self._skipped

    def vectors(self, items: Sequence[int]) -> tuple[list[int], Float[np.ndarray, "n d"]]:
        found = self.index.vectors
        return list(items), np.array(found if len(items) == len(self) else found[np.asarray(items)], np.float32)

    @cached_property
    def origins(self) -> list[tuple[str, str]]:
        """(path, prefix of names) of each place that items came from."""
        return [(origin.path, origin.prefix) for origin in self.index.sources]

    @cached_property
    def found(self) -> dict[str, tuple[Data, int]]:
        """Where items are, by their names; without those that are there no longer."""
        places: dict[str, tuple[Data, int]] = {}
        for path, prefix in self.origins:
            try:
                data = open_like(path, self.encoder)
            except UserError as error:
                say(f"the items of {path} are not there: {error}", "yellow")
                continue
            places.update({prefix + data.source.name(i): (data, i) for i in range(len(data.source))})
        return places

    @cached_property
    def whole(self) -> bool:
        return all(name in self.found for name in self._names)

    def at(self, i: int) -> tuple[Data, int]:
        found = self.found.get(self._names[i])
        if found is None:
            raise UnreadableItem(f"{self._names[i]} is no longer where it was when the index was made.")
        return found

    @property
    def root(self) -> str | None:
        known = self.origins
        return known[0][0] if len(known) == 1 and Path(known[0][0]).is_dir() else None


def opened(job: OfVectors, module: torch.nn.Module | None = None) -> Given:
    """The items and the encoder that a job is given. Raises UserError where no result can be written."""
    encoder, run, index = encoder_of(job, module)
    if index is None and job.data is not None and exists(job.data):
        index = opened_index(job.data)
        index.accept(Made.by(encoder))
    if index is None and job.data is None:
        raise UserError(
            f"of which items? Give their PATH behind {job.run_folder}, or, in place of both, an index that "
            "`selfsame index` made."
        )
    first = (job.out or run / job.FOLDER).absolute()
    check_writable(next(place for place in (first, *first.parents) if place.is_dir()))
    return Indexed(job, encoder, run, index) if index is not None else Opened(job, encoder, run, str(job.data))


def encoder_of(job: OfVectors, module: torch.nn.Module | None = None) -> tuple[Encoder, Path, Index | None]:
    """The encoder of a run or of an index, the folder of the run, and the index where one is given in its place."""
    if not exists(job.run_folder):
        if not Path(job.run_folder).exists():
            raise UserError(f"there is no folder {job.run_folder}. Give the folder of a run, or of an index.")
        return load(job.run_folder, module), Path(job.run_folder), None
    index = opened_index(job.run_folder)
    places = index.runs
    run = next((place for place in places if (place / "encoder.json").is_file()), None)
    if run is None:
        where = f"is not at {places[0]}" if places else "is not known"
        raise UserError(f"the run that made {index.place} {where}. Give it before the index: RUN {index.place}")
    encoder = load(run, module)
    index.accept(Made.by(encoder))
    return encoder, run, index


def labels_if_any(given: Given) -> list[str] | None:
    """The labels that were asked for, or else those that the data bring; None where these are no classes."""
    if given.job.labels is not None:
        return classes_of(given)
    found = given.labels
    known = set(found or ()) - {NO_LABEL}
    if len(known) < 2 or {name.lower() for name in known} <= PARTS:
        return None
    if isinstance(given, Indexed) and found is not None and (bare := found.count(NO_LABEL)):
        say(f"{bare:,} of {len(found):,} items of {given.path} have no label: none are compared with labels")
        return None
    return found


def classes_of(given: Given) -> list[str]:
    """The labels. Raises UserError where there are none, or they are no classes."""
    return classes(given.labels, given.path)


def labelled(given: Given, labels: Sequence[str] | None) -> Sequence[int]:
    """The items with a label, the others are listed as skipped; all, where there are no labels. Raises UserError."""
    if labels is None:
        return range(len(given))
    items = [i for i, label in enumerate(labels) if label != NO_LABEL]
    if len(items) < len(labels):
        why = "it has no label" if isinstance(given, Indexed) else "its row cannot be read"
        given.skipped.update((i, why) for i, label in enumerate(labels) if label == NO_LABEL)
    if not items:
        raise UserError(f"none of the {len(labels):,} items of {given.path} has a label.")
    return items
