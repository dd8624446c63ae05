"""Errors a user can act on. Every message says: what was given, what is accepted, what to do next."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """The input is wrong, not the code: the CLI prints it as one line and exits with 2, without a traceback."""


class UnreadableItem(UserError):
    """One item of a source cannot be read; the message is the reason, as it will stand in skipped.csv."""


NO_LABEL = "\0"
"""stands among the labels of a source for that of an unreadable item; it is no class"""


class TrainingStopped(UserError):
    """The run was stopped because it could not end well: not a number, or a collapse. Says the cause and the cure."""


def unknown(kind: str, given: str, known: Iterable[str], advice: str = "") -> UserError:
    """Build the error for a name that is not among `known`, with names as a hint that begin so, or else are near.

    Where there are more than forty, or their names are long, they are counted, not listed.
    """
    known = sorted(known)
    near = [name for name in known if given and name.startswith(given)][:3]
    near = near or difflib.get_close_matches(given, known, n=3, cutoff=0.6)
    hint = f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
    listed = ", ".join(known)
    shown = f"Known: {listed}." if len(known) <= 40 and len(listed) <= 800 else f"{len(known):,} are known."
    return UserError(f"unknown {kind} {given!r}.{hint} {shown}{' ' + advice if advice else ''}")


def missing(extra: str, package: str, purpose: str) -> UserError:
    """Build the error for a job that needs an optional package."""
    return UserError(f"{purpose} needs the package {package}. Install it with: pip install 'selfsame[{extra}]'")


def printable(text: str) -> str:
    """The text as UTF-8 can hold it: bytes of a file's name that are no UTF-8 are spelt out, as in `\\udcff.png`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class TooFewBlocks(UserError):
    """Of an encoder of which more last blocks are asked for than it has."""

    found: int


def too_few_blocks(wanted: int, found: int) -> TooFewBlocks:
    error = TooFewBlocks(
        f"{wanted} of the last blocks were asked for; the encoder has {found}. Give fewer (--method.top {found}), or "
        "choose a deeper encoder."
    )
    error.found = found
    return error
