"""What tells copies without vectors: a digest of each item's content, its size, perceptual hashes."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64, UInt64
from torch.utils.data import Dataset

from selfsame.engine.feed import Batch, feed
from selfsame.engine.plan import workers_for
from selfsame.errors import UnreadableItem, UserError
from selfsame.jobs.data import Data
from selfsame.jobs.duplicates import Duplicates
from selfsame.jobs.parts import Items
from selfsame.types import Fingerprint


@dataclass(frozen=True)
class Prints:
    """Of all items that can be read, what tells copies: 49 bytes an item."""

    items: Int64[np.ndarray, "n"]
    content: Int64[np.ndarray, "n"]  # a number for each different content
    stored: Int64[np.ndarray, "n"]
    resolution: Int64[np.ndarray, "n"]
    codes: UInt64[np.ndarray, "n 2"]
    told: np.ndarray  # bool [n]: whether there are codes

    def __len__(self) -> int:
        return len(self.items)


class Printing(Dataset):
    """Chunk number -> digests [b 16] and numbers [b 5] of items, unreadable ones left out and listed."""

    def __init__(self, data: Data, size: int) -> None:
        self.data, self.size = data, size
        self.items = data.readable().tolist()

    def __len__(self) -> int:
        return -(-len(self.items) // self.size)

    def __getitem__(self, chunk: int) -> Batch:
        digests, numbers, skipped = [], [], {}
        for item in self.items[chunk * self.size : (chunk + 1) * self.size]:
            try:
                found = fingerprint_of(self.data, item)
            except UnreadableItem as error:
                skipped[item] = str(error)
                continue
            digests.append(np.frombuffer(hashlib.blake2b(found.content, digest_size=16).digest(), np.uint8))
            codes = np.array(found.codes or (0, 0), np.uint64).view(np.int64).tolist()
            numbers.append([item, found.stored, found.resolution, found.codes is not None, *codes])
        if not digests:
            return Batch(chunk, [], skipped)
        return Batch(chunk, [torch.from_numpy(np.stack(digests)), torch.tensor(numbers)], skipped)


def fingerprint_of(data: Data, i: int) -> Fingerprint:
    """The modality's own, or of what an item is when it is read: samples, values, words, cells."""
    own = getattr(data.modality, "fingerprint", None)
    if own is not None:
        return own(data.source, i)
    value = data.source.read(i)
    if isinstance(value, np.ndarray):
        content = str((value.shape, value.dtype)).encode() + np.ascontiguousarray(value).tobytes()
    else:
        content = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode("utf-8", "replace")
    return Fingerprint(content, data.source.stored(i), 0, None)


def fingerprints(items: Items, job: Duplicates) -> Prints:
    """Of all items; those that cannot be read are listed in `skipped` of their part."""
    found = [part for number in range(len(items.parts)) for part in of_part(items, number, job)]
    if not found:
        names = " and ".join(data.path for data in items.parts)
        raise UserError(f"none of the {len(items)} items of {names} can be read.")
    digests, numbers = (np.concatenate(side) for side in zip(*found, strict=True))
    return Prints(
        items=numbers[:, 0],
        content=np.unique(np.ascontiguousarray(digests).view(np.uint64), axis=0, return_inverse=True)[1].ravel(),
        stored=numbers[:, 1],
        resolution=numbers[:, 2],
        told=numbers[:, 3] > 0,
        codes=np.ascontiguousarray(numbers[:, 4:]).view(np.uint64),
    )


def of_part(items: Items, number: int, job: Duplicates) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    data = items.parts[number]
    printing = Printing(data, job.batch_size)
    workers, _ = workers_for(data.source.array is not None, job.workers)
    for batch in feed(printing, 0, len(printing), workers):
        data.skipped.update(batch.skipped)
        if batch.samples:
            digests, numbers = (sample.numpy() for sample in batch.samples)
            numbers[:, 0] += items.starts[number]
            yield digests, numbers
