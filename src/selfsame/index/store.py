"""Where an index lies: in a folder of this machine, or on a database server."""

from pathlib import Path

from selfsame.errors import UserError
from selfsame.index.contents import CONTENTS
from selfsame.index.contract import Index, Made
from selfsame.index.folder import Folder


def opened(place: str | Path) -> Index:
    """The index in a folder or at a postgresql:// address. Raises UserError where there is none, or it is damaged."""
    found = database(str(place))
    return Folder(place) if found is None else found


def created(place: str | Path, made: Made) -> Index:
    """An empty index. Raises UserError where there is one, or the place holds other things."""
    found = database(str(place), made)
    return Folder.create(place, made) if found is None else found


def check_graph(place: str | Path, made: Made) -> None:
    """Raise UserError where search in an index there cannot be made approximate."""
    from selfsame.index.postgres import Table, is_database

    (Table if is_database(place) else Folder).check_graph(made)


def exists(place: str | Path) -> bool:
    """Whether an index is there, whole or damaged."""
    from selfsame.index.postgres import is_database, there_is

    return there_is(str(place)) if is_database(place) else (Path(place).expanduser() / CONTENTS).exists()


def shown(place: str | Path) -> str:
    """A place as people may see it: an address without its password."""
    from selfsame.index.postgres import is_database, parts_of

    return parts_of(str(place))[2] if is_database(place) else str(place)


def database(place: str, made: Made | None = None) -> Index | None:
    """The index on a server, opened or new; None for a place that is no address of one."""
    from selfsame.index.postgres import Table, is_database  # it needs what is above

    if is_database(place):
        return Table(place, made)
    if "://" in place:
        raise UserError(f"{place}: an index lies in a folder of this machine, or at postgresql://. Give one of these.")
    return None
