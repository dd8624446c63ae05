"""Files by path, on this machine's disks or at an address that fsspec knows (s3://, gs://, hf://, https://, ...).

Raises UserError where a place cannot be reached, OSError where one file cannot be read.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from selfsame.errors import UserError
from selfsame.storage import folders

AT_ONCE = 65536  # names in one run of a remote listing
AHEAD = 256 << 10
PAUSES = (0.5, 2, 8)  # seconds before a request over a network is tried again

T = TypeVar("T")


def is_address(path: str) -> bool:
    return "://" in path


def plain_path(path: str) -> str:
    """One spelling of a path: photos, photos/ and ./photos are one. An address stays as it is, but for a last slash."""
    return path.rstrip("/") if is_address(path) else str(Path(path))


def disk_of(path: str) -> "Disk":
    return Remote(path.split("://")[0]) if is_address(path) else Disk()


def joined(root: Path | str, name: str) -> str:
    """The path of a name below a root; an absolute name stays as it is."""
    return f"{root}/{name}" if is_address(str(root)) else str(Path(root) / name)


def braces(path: str) -> list[str]:
    """The paths that braces stand for, as WebDataset's users write them: `{000..127}` and `{a,b}`."""
    found = re.search(r"\{([^{}]*)\}", path)
    if found is None:
        return [path]
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if ends is None and "," not in found[1]:
        return [path]
    words = found[1].split(",")
    if ends is not None:
        first, last = int(ends[1]), int(ends[2])
        step = 1 if first <= last else -1
        words = [f"{k:0{len(ends[1])}d}" for k in range(first, last + step, step)]
    return [whole for word in words for whole in braces(path[: found.start()] + word + path[found.end() :])]


class Disk:
    """This machine's file systems."""

    remote = False

    def exists(self, path: str) -> bool:
        return os.path.exists(path)  # noqa: PTH110 - False, not an error, for a name that is too long

    def is_folder(self, path: str) -> bool:
        return Path(path).is_dir()

    def open(self, path: str, ahead: int = AHEAD) -> IO[bytes]:
        """The file, open for reading; at an address `ahead` bytes are read at a time."""
        return Path(path).open("rb")

    def read(self, path: str) -> bytes:
        """The whole file."""
        return Path(path).read_bytes()

    def cut(self, path: str, start: int, length: int) -> bytes:
        """`length` bytes from `start` on; fewer at the end of the file."""
        file = os.open(path, os.O_RDONLY)
        try:
            return os.pread(file, length, start)
        finally:
            os.close(file)

    def state(self, path: str) -> str:
        """Changes when the file does."""
        status = Path(path).stat()
        return f"{status.st_size} {status.st_mtime_ns}"

    def runs(self, root: str, depth: int | None = None) -> Iterator[list[str]]:
        """Names of the files below a folder, as `folders.runs` gives them."""
        return folders.runs(Path(root), depth)

    def nowhere(self, path: str) -> UserError:
        return folders.nowhere(path)


class Remote(Disk):
    """Files at addresses of one protocol. Paths keep their protocol. Each process has a connection of its own."""

    remote = True

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self.opened: tuple[int, Any] | None = None
        try:
            _ = self.system
        except ValueError:
            import fsspec

            known = ", ".join(sorted(name for name in fsspec.available_protocols() if isinstance(name, str)))
            raise UserError(f"{protocol}:// is no protocol that is known here. Known: {known}.") from None
        except ImportError as error:  # fsspec names the package that is missing
            raise UserError(f"{protocol}:// needs a package that is not installed: {error}.") from None
        except Exception as error:
            raise UserError(f"{protocol}:// cannot be reached: {error}.") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "opened": None}

    @property
    def system(self) -> Any:
        # The threads of a connection do not come through a fork.
        if self.opened is None or self.opened[0] != os.getpid():
            import fsspec

            self.opened = os.getpid(), fsspec.filesystem(self.protocol, skip_instance_cache=True)
        return self.opened[1]

    def reached(self, path: str, act: Callable[[Any], T]) -> T:
        """What `act` gives with the file system, tried again after a pause: a network fails now and then.

        Every file system has errors of its own kind. Raises FileNotFoundError, UserError for all others: that a place
        cannot be reached says nothing about the item.
        """
        for pause in (*PAUSES, None):
            try:
                return act(self.system)
            except (UserError, FileNotFoundError):
                raise
            except Exception as error:
                if pause is None or isinstance(error, PermissionError | ValueError | NotImplementedError):
                    raise UserError(f"{path} cannot be reached: {type(error).__name__}: {error}.") from error
                time.sleep(pause)
        raise AssertionError

    def exists(self, path: str) -> bool:
        return self.reached(path, lambda system: bool(system.exists(path)))

    def is_folder(self, path: str) -> bool:
        return self.reached(path, lambda system: bool(system.isdir(path)))

    def open(self, path: str, ahead: int = AHEAD) -> IO[bytes]:
        return self.reached(path, lambda system: system.open(path, "rb", block_size=ahead))

    def read(self, path: str) -> bytes:
        return self.reached(path, lambda system: system.cat_file(path))

    def cut(self, path: str, start: int, length: int) -> bytes:
        data = self.reached(path, lambda system: system.cat_file(path, start=start, end=start + length))
        if len(data) > length:  # the whole file, for a part of it: too much to ask for each item
            raise UserError(f"{path}: its server gives no parts of a file (no range requests): download it first.")
        return data

    def state(self, path: str) -> str:
        try:
            about = self.reached(path, lambda system: system.info(path))
        except FileNotFoundError:
            raise self.nowhere(path) from None
        # What tells one version of a file from another has other names everywhere: all that is said counts.
        said = "\n".join(f"{key} {about[key]}" for key in sorted(about))
        return f"{about.get('size')} {hashlib.sha256(said.encode()).hexdigest()[:16]}"

    def runs(self, root: str, depth: int | None = None) -> Iterator[list[str]]:
        start = self.system._strip_protocol(root).rstrip("/") + "/"
        every = self.reached(root, lambda system: system.find(root, maxdepth=depth))
        found = sorted(path.removeprefix(start) for path in every)
        for k in range(0, len(found), AT_ONCE):
            yield [name for name in found[k : k + AT_ONCE] if not any(part[:1] == "." for part in name.split("/"))]

    def nowhere(self, path: str) -> UserError:
        try:  # over http a server that does not answer looks like a file that is not there
            self.system.info(path)
        except Exception as error:
            if error.__cause__ is not None and not isinstance(error.__cause__, FileNotFoundError):
                said = str(error.__cause__) or type(error.__cause__).__name__
                return UserError(f"{path}: nothing is there, or it cannot be reached: {said}.")
        return UserError(f"{path}: nothing is there. Give the address of a folder, a file, or a pattern with * in it.")
