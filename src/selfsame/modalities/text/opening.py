"""From a path to a source of texts: a file of lines, a folder or pattern of files, a table; with labels, if any.

Raises UserError where there is nothing to read.
"""

import csv
import re
from collections import Counter
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from selfsame.errors import UserError
from selfsame.modalities.text.distort import words_of
from selfsame.modalities.text.reading import Reading, as_reading
from selfsame.modalities.text.rows import CsvSource, JsonSource, ParquetSource, text_column
from selfsame.modalities.text.source import LONGEST, FileSource, LineSource, TextSource
from selfsame.storage.disk import Disk, is_address, plain_path
from selfsame.storage.folders import depth_of, folder_labels, listed, matching, nowhere, split_glob, suffix_of, walk
from selfsame.storage.names import Names
from selfsame.storage.tables import TABLES, Finder, paths_and_labels, some, table

TEXTS = (".txt", ".md", ".text", ".rst")
LISTS = (".csv", ".tsv")
JSONS = (".jsonl", ".ndjson")
NOTES = (".md", ".rst")  # which lie beside other data too
FIRST = 1000  # files, lines or rows that are looked at to see what a place holds
WORDS = 4  # of a text, at least on average, where a table is taken for text without being told
FOLDERS = "folders"  # as labels: the folders or files that the items lie in


def open_source(path: str, labels: str | None = None, reading: Any = None) -> TextSource:
    """List the texts at `path`.

    A text file (an item a line), a folder or a pattern of text files (an item a file, or with `items="lines"` a
    line), a .csv or .tsv, .jsonl or .parquet with a column of text, or a folder or pattern of .jsonl or .parquet.
    `labels` is the name of a column, "folders", a CSV `path,label` of the items' names, or a .txt with one label a
    line; without it the column `label`, or the folders that files lie in, or none. Raises UserError.
    """
    reading = as_reading(reading)
    if is_address(path):
        raise UserError(f"{path}: texts are read from this machine's disks. Download them first.")
    path = plain_path(str(Path(path).expanduser()))
    place, suffix = Path(path), suffix_of(path)
    if place.is_dir() or not place.exists():
        source = open_files(path, reading)
    elif suffix in LISTS:
        source = CsvSource(path, reading)
    elif suffix in JSONS:
        source = JsonSource(path, str(place.parent), [place.name], reading)
    elif suffix == ".parquet":
        source = ParquetSource(path, [path], reading)
    elif reading.items == "files":
        source = FileSource(path, str(place.parent), [place.name], reading)
    else:
        check_text(path)
        source = LineSource(path, str(place.parent), [place.name], reading)
    if reading.column is not None and not source.column:
        raise UserError(f"--reading.column {reading.column}: {path} has no columns. Leave it out.")
    if labels is not None:
        source.labels = labels_from(labels, source)
    elif source.labels is None and "label" in source.columns and source.column != "label":
        source.labels = partial(source.labels_by_column, "label")
    return source


def reading_for(reading: Reading, path: str) -> Reading:
    """As an encoder's texts were read, for another path: lines and files of text have no column."""
    place = Path(plain_path(str(Path(path).expanduser())))
    kinds = {suffix_of(name) for name in walk(place)} if place.is_dir() else {suffix_of(path)}
    return reading.changed(column=None) if kinds & set(TEXTS) else reading


def open_files(path: str, reading: Reading) -> TextSource:
    """A folder, or what a pattern matches: text files, or tables of one kind."""
    if Path(path).is_dir():
        root, names = path, list(walk(Path(path)))
        kinds = Counter(suffix_of(name) for name in names)
        able = [kind for kind in (*TEXTS, *JSONS, ".parquet") if kind in kinds]
        wanted = [name for name in names if suffix_of(name) in TEXTS] or [
            name for name in names if able and suffix_of(name) == able[0]
        ]
        if not wanted:
            held = f"holds {listed(dict(kinds))}" if names else "is empty"
            one = " Give the .csv itself." if set(LISTS) & kinds.keys() else ""
            raise UserError(f"{path}: no texts in this folder. It {held}; read are {', '.join(TEXTS)}.{one}")
        ignored = dict(kinds - Counter(suffix_of(name) for name in wanted))
    else:
        root, pattern = split_glob(path)
        if not pattern or not Path(root).is_dir():
            raise nowhere(root if pattern else path)
        wanted = list(matching(walk(Path(root), depth_of(pattern)), pattern))
        if not wanted:
            raise UserError(f"{path}: this pattern matches no file. Write ** for folders of any depth.")
        ignored = {}
    suffixes = {suffix_of(name) for name in wanted}
    tables = suffixes & {*JSONS, ".parquet", *LISTS}
    if (tables and len(suffixes) > 1) or (suffixes & set(LISTS) and len(wanted) > 1):
        raise UserError(
            f"{path}: these are {listed(dict(Counter(map(suffix_of, wanted))))}. Give one .csv, or one kind."
        )
    source: TextSource
    if suffixes <= set(JSONS):
        source = JsonSource(path, root, wanted, reading)
    elif suffixes == {".parquet"}:
        source = ParquetSource(path, [str(Path(root) / name) for name in wanted], reading)
    elif suffixes <= set(LISTS):
        source = CsvSource(str(Path(root) / wanted[0]), reading)
    elif reading.items == "lines":
        for name in wanted:
            check_text(str(Path(root) / name))
        source = LineSource(path, root, wanted, reading)
        source.labels = source.labels_of_files
    else:
        source = FileSource(path, root, Names(wanted), reading, partial(folder_labels, wanted))
    source.ignored = ignored
    return source


def check_text(path: str) -> None:
    """Raise UserError where the first bytes of a file are no text."""
    if b"\0" in Disk().cut(path, 0, 4096).replace(b"\xff\xfe", b"") and not is_utf16(path):
        raise UserError(
            f"{path}: no text: its first bytes hold zeros. Give a .txt, .csv, .jsonl or .parquet, or a folder of .txt."
        )


def is_utf16(path: str) -> bool:
    return Disk().cut(path, 0, 2) in (b"\xff\xfe", b"\xfe\xff")


def reads(path: str) -> int:
    """How many of the first items at `path` look like texts, by suffix and content; 0 where nothing is there."""
    try:
        if is_address(path):
            return 0
        place = Path(path).expanduser()
        if place.is_dir():
            kinds = Counter(suffix_of(name) for name in islice(walk(place), FIRST))
            texts = sum(kinds[kind] for kind in TEXTS)
            if not set(kinds) - set(NOTES):
                return texts
            # Beside other data notes, such as README.md, make no collection of texts.
            if texts := sum(kinds[kind] for kind in TEXTS if kind not in NOTES):
                return texts + sum(kinds[kind] for kind in NOTES)
            return texts_in(first_of(place, JSONS)) if set(kinds) & set(JSONS) else 0
        if not place.exists():
            root, pattern = split_glob(str(place))
            below = islice(matching(walk(Path(root), depth_of(pattern)), pattern), FIRST) if pattern else iter(())
            return sum(suffix_of(name) in TEXTS for name in below)
        suffix = suffix_of(str(place))
        if suffix == ".txt":
            lines = list(first_lines(place))
            return 0 if are_rows(lines) else sum(bool(line.strip()) and not names_file(line.strip()) for line in lines)
        return 1 if suffix in TEXTS else texts_in(place) if suffix in (*LISTS, *JSONS, ".parquet") else 0
    except (UserError, OSError, ValueError, IndexError, csv.Error):
        return 0


def are_rows(lines: list[str]) -> bool:
    """Whether lines are rows of a table: as many separators in each, and no sentence between them."""
    told = [line for line in lines if line.strip()]
    for separator in "\t,;":
        counts = {line.count(separator) for line in told}
        cells = [cell.split() for line in told for cell in line.split(separator)]
        even = len(counts) == 1 and min(counts) > 1
        tabbed = separator == "\t" and bool(counts) and min(counts) > 2  # rows whose empty ends were cut off
        if len(told) > 1 and (even or tabbed) and sum(map(len, cells)) < 2 * len(cells):
            return True
    return False


def names_file(line: str) -> bool:
    """Whether a line is a path, as in a list of files."""
    return re.fullmatch(r"\S(.*/)?\S*\.[A-Za-z0-9]{1,5}", line) is not None


def first_of(folder: Path, kinds: tuple[str, ...]) -> Path:
    return folder / next(name for name in walk(folder) if suffix_of(name) in kinds)


def texts_in(path: Path) -> int:
    """How many of the first rows of a table are texts, where its text is sentences and most of what there is."""
    suffix = suffix_of(str(path))
    if suffix in LISTS:
        lines = first_lines(path)
        separator = max(",;\t", key=lines[0].count) if lines else ","
        every = [row for row in csv.reader(lines, delimiter=separator) if any(map(str.strip, row))]
        columns, rows = every[0], [row for row in every[1:] if len(row) == len(every[0])]
        at = columns.index(text_column(str(path), columns, rows, None))
        if sum(len(row[at]) for row in rows) <= sum(len(cell) for row in rows for cell in row) / 2:
            return 0
        texts = [row[at] for row in rows]
    else:
        source = open_source(str(path))
        texts = [source.read(i) for i in range(min(FIRST, len(source)))]
    return len(texts) if sum(len(words_of(text)) for text in texts) >= WORDS * len(texts) else 0


def first_lines(path: Path) -> list[str]:
    """The first lines of a file in any encoding that is much like UTF-8, a stand-in for what is no UTF-8."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return [line[:LONGEST] for line in islice(file, FIRST)]


# Labels --------------------------------------------------------------------------------------------------------------


def labels_from(given: str, source: TextSource) -> Any:
    """One label an item, or what finds them: a column, the folders, a list. Raises UserError."""
    if given == FOLDERS:
        if isinstance(source, LineSource):
            return source.labels_of_files
        if isinstance(source, FileSource):
            return partial(folder_labels, list(source.names))
        raise UserError(f"--labels folders: {source.path} is a table. Give the name of its column of labels.")
    path = Path(given).expanduser()
    if source.columns and not (path.suffix and path.exists()):
        source.labelled_by = given  # whether it is the column of the text is known when that is settled: see `fit`
        return source.labels_by_column(given)
    if not path.exists():
        raise nowhere(str(path))
    if path.suffix.lower() == ".txt":
        found = [row[0] for row in table(path)]
        if len(found) != len(source):
            raise UserError(f"{given}: {len(found):,} labels for the {len(source):,} items of {source.path}.")
        return found
    if path.suffix.lower() in TABLES:
        return labels_from_csv(path, source)
    raise UserError(
        f"{given}: labels are the name of a column, 'folders', a .csv or .parquet with the columns path and label, "
        "or a .txt with one a line."
    )


def labels_from_csv(path: Path, source: TextSource) -> list[str]:
    """Labels by the names of the items: of files their path, of lines `file.txt:12`."""
    names = [source.name(i) for i in range(len(source))]
    find = Finder(path, names, source.place, source.path)
    cells, labels = paths_and_labels(path, lambda cell: find.item(cell) is not None)
    if labels is None:
        raise UserError(f"{path}: which column is the label? Name the columns path and label.")
    found: dict[int, str] = {}
    for cell, item, label in zip(cells, find.all_of(cells), labels, strict=True):
        if item is not None and found.setdefault(item, label) != label:
            raise UserError(f"{path}: {cell} has two labels, {found[item]} and {label}.")
    bare = [names[i] for i in range(len(names)) if not found.get(i)]
    if bare:
        raise UserError(f"{path}: {some(bare, len(names), 'items')} have no label.")
    return [found[i] for i in range(len(names))]
