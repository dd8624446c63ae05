"""Saved states of a run: written beside the training, whole or not at all; two kept; never more than plain tensors."""

import contextlib
import errno
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import torch
from filelock import FileLock, Timeout
from torch import nn
from torch.optim import Optimizer

from selfsame.engine import dist, shard
from selfsame.errors import UserError

KEPT = 2  # states, unless the user wants more
LOCK = ".lock"


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keep a run folder for this run: a second one that wants it meanwhile gets a UserError.

    The first of several processes holds the lock. The system frees it however the process ends. A folder made here
    in which nothing was left goes with it.
    """
    lock, made = FileLock(folder / LOCK), False

    def acquire() -> None:
        nonlocal made
        with writing(folder / LOCK):
            made = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise UserError(
                    f"another run is at work in {folder}. Wait until it ends or stop it, or choose another --out."
                ) from None

    def tidy() -> None:
        """Remove what processes that were killed left half-written."""
        for place in (folder, folder / "state"):
            for draft in place.glob(".*.tmp"):
                draft.unlink(missing_ok=True)

    dist.by_first(acquire)
    try:
        dist.by_first(tidy)
        yield
    finally:
        with contextlib.suppress(OSError):
            if made and {path.name for path in folder.iterdir()} <= {LOCK}:  # it came to nothing
                (folder / LOCK).unlink(missing_ok=True)
                folder.rmdir()
        lock.release()


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make the file under another name, force it to disk, then give it its own: never half a file.

    Raises UserError for a full disk or a folder that cannot be written to; what was there before is untouched.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write(draft)
            with draft.open("rb+") as file:
                os.fsync(file.fileno())
            draft.replace(path)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise UserError where the block fails because of the disk; every other error passes."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (cause := from_disk(error)) is not None:
            raise cannot_write(path, cause) from error
        raise


def check_writable(folder: Path) -> None:
    """Raise UserError where files cannot be made in a folder."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write in {folder}: {error.strerror}. Copy it to a place that you can write to."
        ) from error


def write_text(path: Path, text: str) -> None:
    write_whole(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def from_disk(error: BaseException | None) -> OSError | None:
    """The system's own error behind one of torch's zip writer, which chains it, or safetensors', which quotes it."""
    while error is not None and not isinstance(error, OSError):
        if quoted := re.search(r"\(os error (\d+)\)", str(error)):
            return OSError(int(quoted[1]), os.strerror(int(quoted[1])))
        error = error.__cause__ or error.__context__
    return error


def cannot_write(path: Path, error: OSError) -> UserError:
    number = error.errno
    if number in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"cannot write {path}: the disk is full. Free some space and run the same command to go on.")
    if number in (errno.EACCES, errno.EROFS, errno.EPERM):
        return UserError(f"cannot write {path}: no permission, or a read-only disk. Choose another folder with --out.")
    if number in (errno.ENOTDIR, errno.EEXIST):
        return UserError(f"cannot write {path}: a part of this path is a file. Choose another folder with --out.")
    return UserError(f"cannot write {path}: {error}. What was saved before is untouched.")


def saved(folder: Path) -> list[Path]:
    """The states in a folder, oldest first."""
    return sorted(folder.glob("step-*.pt"))


def step_of(state: Path) -> int:
    """The number of steps done, from the name of a saved state."""
    return int(state.stem.removeprefix("step-"))


class States:
    """Writes the states of a run while the training goes on: `save` copies what is saved, a thread does the rest.

    The first process alone writes, one state at a time; its failure is everyone's. The copy lies in memory until it is
    written: weights, moments and what learners keep, once more. As a context it waits for the last one.
    """

    def __init__(self, folder: Path, kept: int = KEPT) -> None:
        self.folder = folder
        self.kept = kept
        self.writer = ThreadPoolExecutor(1)
        self.last: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.writer.shutdown()

    def save(self, step: int, learner: nn.Module, optimizer: Optimizer, extra: dict[str, Any]) -> None:
        """Begin to write the state after `step` steps, when the one before is written.

        Only when it was read back whole do states beyond the newest `kept` go. A divided learner is put together for
        it. Raises UserError where the one before could not be written.
        """
        self.finish()
        content = {
            "step": step,
            "learner": shard.whole(learner.state_dict()),
            "optimizer": shard.whole(optimizer.state_dict()),
            "extra": extra,
        }
        if dist.first():
            self.last = self.writer.submit(self._write, step, content)

    @property
    def failed(self) -> bool:
        """Whether the last state could not be written, as far as that is known already; `finish` says why."""
        return self.last is not None and self.last.done() and self.last.exception() is not None

    def finish(self) -> None:
        """Wait until the last state is written. Raises UserError, in every process, where that failed."""
        dist.by_first(lambda: self.last.result() if self.last is not None else None)

    def _write(self, step: int, content: dict[str, Any]) -> None:
        def write(draft: Path) -> None:
            with draft.open("wb") as file:  # a Python file: torch's own writer does not say why it failed
                torch.save(content, file)
            if not sound(draft):
                raise UserError(
                    f"what was written to {self.folder} cannot be read back: its disk is failing. The states saved "
                    "before are untouched. Copy the run to another disk, and go on there."
                )

        write_whole(self.folder / f"step-{step:09d}.pt", write)
        for old in saved(self.folder)[: -self.kept]:
            old.unlink()


def sound(state: Path) -> bool:
    """Whether a state is whole: torch writes a zip, with a checksum of each part."""
    try:
        with zipfile.ZipFile(state) as parts:
            return parts.testzip() is None
    except (zipfile.BadZipFile, EOFError):
        return False


def resume(folder: Path, learner: nn.Module, optimizer: Optimizer) -> tuple[int, dict[str, Any]]:
    """Load the newest state in place: (step to go on from, what was saved beside). (0, {}) where there is none.

    Raises UserError when the file is damaged or does not fit the learner.
    """
    states = saved(folder)
    if not states:
        return 0, {}
    path = states[-1]
    try:
        if not sound(path):
            raise ValueError("wrong checksum")
        # Of a large state each process needs a part: mapped, its pages lie in memory once.
        content = torch.load(
            path, map_location="cpu", weights_only=True, mmap=any(map(shard.divided, learner.parameters()))
        )
        step, weights, moments, extra = (content[key] for key in ("step", "learner", "optimizer", "extra"))
    except Exception as error:
        # Of a file cut short the system says only that a place in it is invalid.
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno != errno.EINVAL):
            raise UserError(f"{path} cannot be read: {error or 'out of memory'}. The file is untouched.") from error
        older = f" to go on from {states[-2].name}" if len(states) > 1 else " to start this run anew"
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: it was cut short or changed). Delete that file{older}."
        ) from None
    try:
        shard.load(learner, optimizer, weights, moments)
    except (RuntimeError, ValueError, KeyError) as error:
        first_line = str(error).splitlines()[0]
        raise UserError(
            f"{path} was saved by another network or version ({first_line}). Choose another folder with --out."
        ) from None
    return step, extra
