"""What was found out once about data, kept on disk so that it is not found out again; and the place for it."""

import contextlib
import hashlib
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

UNUSED = 60 * 86400  # seconds after which what nobody has used is removed


def home() -> Path:
    """Where caches are: $SELFSAME_CACHE, or selfsame/ in the user's cache folder ($XDG_CACHE_HOME, ~/.cache)."""
    if own := os.environ.get("SELFSAME_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "selfsame"


def kept(key: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays kept under a key, which says all that they depend on; made where they are not there yet.

    On a disk that cannot be written they are made each time.
    """
    folder = home() / "index"
    path = folder / f"{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:20]}.npz"
    with contextlib.suppress(OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile), np.load(path) as arrays:
        found = {name: arrays[name] for name in arrays}
        os.utime(path)
        return found
    made = make()
    draft = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.npz"):
            if time.time() - old.stat().st_mtime > UNUSED:
                old.unlink(missing_ok=True)
        with draft.open("wb") as file:
            np.savez(file, allow_pickle=False, **made)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    return made
