"""Lists of paths and labels that come as Parquet. As .csv and .txt: the tests of the modalities."""

import importlib
from pathlib import Path

import pytest

from selfsame import modalities
from selfsame.errors import UserError
from selfsame.storage.tables import paths_and_labels, table

pa = pytest.importorskip("pyarrow", reason="needs the extra parquet")


def write(file: Path, **columns: list[object]) -> Path:
    importlib.import_module("pyarrow.parquet").write_table(pa.table(columns), file)
    return file


def test_rows_of_parquet_are_texts_under_their_names(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", label=[3, None, 0], path=["x.png", "a, b.png", None])
    assert list(table(file)) == [["label", "path"], ["3", "x.png"], ["", "a, b.png"], ["0", ""]]
    names, labels = paths_and_labels(file, lambda cell: False)
    assert list(names) == ["x.png", "a, b.png", ""] and labels == ["3", "", "0"]


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but cut off")
    with pytest.raises(UserError, match=r"a\.parquet: no valid Parquet"):
        list(table(tmp_path / "a.parquet"))
    with pytest.raises(UserError, match=r"gone\.parquet: cannot be read"):
        list(table(tmp_path / "gone.parquet"))


@pytest.mark.parametrize("kind", ["audio", "image", "signal", "text"])
def test_labels_from_parquet_are_those_from_a_csv(kind: str, tmp_path: Path) -> None:
    modality = modalities.load(kind)
    path = importlib.import_module(f"tests.modalities.{kind}.made").make(tmp_path, 6)
    source = modality.open_source(path)
    names = [source.name(i) for i in range(len(source))]
    labels = [f"kind {k % 3}" for k in range(len(names))]
    (tmp_path / "labels.csv").write_text(
        "path,label\n" + "".join(f"{n},{k}\n" for n, k in zip(names, labels, strict=True))
    )
    file = write(tmp_path / "labels.parquet", path=names, label=labels)
    found = [list(modality.open_source(path, str(one)).labels) for one in (tmp_path / "labels.csv", file)]
    assert found == [labels, labels]
