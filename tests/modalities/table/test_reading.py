"""Files as they come: separators, headers, quotes, broken rows, Parquet; and what the columns are taken for."""

import csv
import io
import pickle
from pathlib import Path

import numpy as np
import pytest

from selfsame.errors import UnreadableItem, UserError
from selfsame.jobs.checked import checked
from selfsame.modalities.table.encode import bag, bucket, found_form
from selfsame.modalities.table.marks import Marks
from selfsame.modalities.table.measuring import measure
from selfsame.modalities.table.reading import Reading
from selfsame.modalities.table.source import open_source, reads
from selfsame.modalities.table.stats import LEVELS, Stats
from tests.modalities.table.made import HEAD, make, rows, written


def opened(path: Path | str, labels: str | None = None, **reading):
    source = open_source(str(path), labels, Reading(**reading))
    stats, skipped = measure(source)
    source.fit(stats)
    return source, stats, skipped


def table(tmp_path: Path, text: str, name: str = "t.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


def kinds(stats: Stats) -> dict[str, str]:
    return {column.name: column.kind for column in stats.columns}


# CSV -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_found(tmp_path, separator):
    source, stats, _ = opened(written(tmp_path / "t.csv", rows(20), HEAD, separator))
    assert len(source) == 20 and [column.name for column in stats.columns] == list(HEAD)


def test_spaces_question_marks_and_trailing_blank_lines(tmp_path):
    source, stats, skipped = opened(table(tmp_path, "a, b, c\n1, x, ?\n2, y, 5\nNA, , 6\n\n\n"))
    assert skipped == {} and len(source) == 3
    assert kinds(stats) == {"a": "number", "b": "category", "c": "number"}
    values = source.rows([0, 1, 2])
    assert np.isnan(values).sum() == 3
    assert np.isnan(values[0, 2]) and np.isnan(values[2, 0]) and np.isnan(values[2, 1])
    assert source.read(1) == {"a": "2", "b": "y", "c": "5"}


def test_quotes_hold_separators_and_lines(tmp_path):
    source, _, skipped = opened(table(tmp_path, 'a,b\r\n1,"x, ""y""\nz"\r\n2,w\r\n'))
    assert skipped == {} and len(source) == 2
    assert source.read(0) == {"a": "1", "b": 'x, "y"\nz'}


def test_inches_divide_no_table(tmp_path):
    lines = [f"{k},disk,{k % 7}" for k in range(1000)]
    lines[100], lines[800], lines[900] = '100,5" disk,1', '800,"a\n""b""",2', '900,8" disk,3'
    source, _, _ = opened(table(tmp_path, "k,what,n\n" + "\n".join(lines) + "\n"))
    assert len(source) == 1000 and [source.read(k)["k"] for k in (99, 101, 500, 801, 999)] == [
        "99", "101", "500", "801", "999"
    ]  # fmt: skip
    assert source.read(100)["what"] == '5" disk' and source.read(800)["what"] == 'a\n"b"'


@pytest.mark.parametrize("separator", [",", "\t"])
def test_quotation_marks_are_taken_as_by_module_csv(separator):
    rng = np.random.default_rng(0)
    for _ in range(2000):
        signs = np.array([*'""""a \n', separator])[rng.integers(8, size=rng.integers(1, 24))]
        text, marks, quoted = "".join(signs), Marks(separator), []
        cuts = np.sort(rng.integers(1, len(text) + 1, size=3))
        for low, high in zip([0, *cuts], [*cuts, len(text)], strict=True):
            if low < high:
                quoted += (low + marks.edges(np.frombuffer(text[low:high].encode(), np.uint8))).tolist()
        ends = [k for k, sign in enumerate(text) if sign == "\n"]
        divided = [k for k in ends if np.searchsorted(quoted, k) % 2 == 0]
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=separator != "\t")
        assert len(list(lines)) == len(divided) + (text[-1] != "\n" or marks.within), text


def test_one_stray_quote_is_a_sign_like_others(tmp_path):
    source, _, skipped = opened(table(tmp_path, 'size,n\n5" disk,1\nother,2\nthird,3\n'))
    assert len(source) == 3 and skipped == {} and source.read(0)["size"] == '5" disk'


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1,a\n2,b\n", ["c0", "c1"]),
        ("x,a\n2,b\n", ["x", "a"]),
        ("red,big\nblue,big\nred,small\n", ["c0", "c1"]),  # the first row's values recur below
    ],
)
def test_a_header_is_seen_or_names_are_given(tmp_path, text, names):
    assert open_source(str(table(tmp_path, text))).cells.names == names


def test_the_header_can_be_said(tmp_path):
    path = table(tmp_path, "x,a\n2,b\n3,c\n")
    assert len(open_source(str(path), None, Reading(header="no"))) == 3
    assert open_source(str(path), None, Reading(header="no")).cells.names == ["c0", "c1"]


def test_decimal_commas_between_semicolons(tmp_path):
    source, stats, _ = opened(table(tmp_path, "a;b\n1,5;x\n-2,25;y\n"))
    assert kinds(stats)["a"] == "number" and source.rows([0, 1])[:, 0].tolist() == [1.5, -2.25]


def test_names_that_stand_twice_are_told_apart_and_told_of(tmp_path):
    source, stats, _ = opened(table(tmp_path, "a,a,b\n1,5,x\n2,6,y\n"))
    assert source.cells.names == ["a", "a.2", "b"] and "a as a.2" in stats.summary


def test_a_ragged_row_is_unreadable_with_the_reason(tmp_path):
    source, stats, skipped = opened(table(tmp_path, "a,b\n1,x\n2\n3,y,z\n4,w\n"))
    assert stats.items == 2
    assert skipped == {1: "1 cells in a table of 2 columns", 2: "3 cells in a table of 2 columns"}
    for row in (1, 2):
        with pytest.raises(UnreadableItem, match="cells in a table of 2 columns"):
            source.rows([0, row])
        with pytest.raises(UnreadableItem, match="cells in a table of 2 columns"):
            source.read(row)
    assert source.rows([3, 0])[:, 0].tolist() == [4, 1]


def test_tabs_lost_at_the_end_of_a_line_are_missing_values(tmp_path):
    source, _, skipped = opened(table(tmp_path, "a\tb\tc\n1\tx\t5\n2\n3\ty\t6\n", "t.tsv"))
    assert skipped == {} and np.isnan(source.rows([1])[0]).tolist() == [False, True, True]
    bare, _, skipped = opened(
        table(tmp_path, "2\tz\n1\tx\t5\n3\ty\t6\n4\tz\t6\n", "bare.tsv")
    )  # no header, and short at once
    assert bare.cells.names == ["c0", "c1", "c2"] and skipped == {}


def test_a_header_only_and_one_row(tmp_path):
    with pytest.raises(UserError, match=r"only a header \(a, b\), no rows"):
        open_source(str(table(tmp_path, "a,b\n")))
    with pytest.raises(UserError, match="no rows"):
        open_source(str(table(tmp_path, "")))
    path = table(tmp_path, "a,b\n1,x\n")
    assert len(open_source(str(path))) == 1
    with pytest.raises(UserError, match=r"t.csv has one row, and of one row it is not seen what varies"):
        opened(path)


def test_what_is_no_table(tmp_path):
    with pytest.raises(UserError, match=r"no such file or folder\. Did you mean"):
        open_source(str(table(tmp_path, "a,b\n1,2\n")) + "v")
    with pytest.raises(UserError, match="UTF-16"):
        open_source(str(_bytes(tmp_path, "a,b\n1,2\n".encode("utf-16"))))
    with pytest.raises(UserError, match="not a text file"):
        open_source(str(_bytes(tmp_path, b"a,b\n\0\1\2")))
    with pytest.raises(UserError, match="Unpack it first"):
        open_source(str(_bytes(tmp_path, b"\x1f\x8b", "t.csv.gz")))


def _bytes(tmp_path: Path, data: bytes, name: str = "odd.csv") -> Path:
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


def test_old_encodings_are_read(tmp_path):
    source = open_source(str(_bytes(tmp_path, "n,b\n1,Zürich\n2,Köln\n".encode("latin-1"))))
    assert source.read(0)["b"] == "Zürich"


def test_a_byte_of_another_encoding_changes_its_row_only(tmp_path):
    words = ["Zürich", "Genève", "Bern"]
    lines = [f"{k},{word}".encode("latin-1" if k == 1 else "utf-8") for k, word in enumerate(words * 4)]
    source = open_source(str(_bytes(tmp_path, b"\n".join([b"k,town", *lines]))))
    read = source.cells.columns(["town"], np.arange(12))["town"].each()
    assert read.tolist() == words * 4 == [source.read(k)["town"] for k in range(12)]


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    source, _, _ = opened(_bytes(tmp_path, "\ufeffa,b\n1,x\n2,y\n".encode()))
    assert source.cells.names == ["a", "b"] and source.rows([0])[0, 0] == 1


def test_rows_are_named_and_sized(tmp_path):
    path = table(tmp_path, "id,v\nk1,1\nk22,5\n")
    source = open_source(str(path))
    assert [source.name(i) for i in range(2)] == ["0", "1"] and source.stored(1) == len("k22,5\n")
    named, stats, _ = opened(path, id="id")
    assert [named.name(i) for i in range(2)] == ["k1", "k22"] and list(kinds(stats)) == ["v"]
    twice = open_source(str(table(tmp_path, "id,v\nk,1\nk,5\n")), None, Reading(id="id"))
    with pytest.raises(UserError, match=r"--reading.id id: values stand in several rows, as 'k'.*--reading.by id"):
        twice.name(0)


def test_parts_of_a_table_are_one(tmp_path):
    for k in range(2):
        written(tmp_path / f"p{k}.csv", rows(6, k), HEAD)
    source, _, _ = opened(tmp_path)
    assert len(source) == 12 and source.name(7) == "p1.csv/1"
    assert source.read(6) == open_source(str(tmp_path / "p1.csv")).read(0)
    written(tmp_path / "p2.csv", rows(6), HEAD[::-1])
    with pytest.raises(UserError, match="has other columns"):
        open_source(str(tmp_path / "*.csv"))


def test_a_source_survives_pickling_and_large_tables_stream(tmp_path, monkeypatch):
    path = make(tmp_path, 40)
    held, stats, _ = opened(path)
    assert held.array is not None
    monkeypatch.setattr("selfsame.modalities.table.source.HELD", 100)
    streaming = open_source(path)
    streaming.fit(stats)
    again = pickle.loads(pickle.dumps(streaming))
    assert again.array is None and again.blocks is None
    order = [39, 0, 7, 7]
    np.testing.assert_array_equal(again.rows(order), held.rows(order))


# Parquet -------------------------------------------------------------------------------------------------------------


def parquet(path: Path, group: int = 10, **columns) -> Path:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet as pq

    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


def test_parquet_reads_as_the_csv_of_it(tmp_path):
    import datetime as dt

    held = rows(40)
    columns = {name: [None if row[name] == "?" else row[name] for row in held] for name in HEAD}
    numbers = {name: [None if v is None else float(v) for v in columns[name]] for name in ("age", "share", "score")}
    whole = {"clicks": [None if v is None else int(v) for v in columns["clicks"]]}
    days = {"seen": [None if v is None else dt.date.fromisoformat(v) for v in columns["seen"]]}
    path = parquet(tmp_path / "t.parquet", **(columns | numbers | whole | days))
    one, of_parquet, _ = opened(path)
    two, of_csv, _ = opened(make(tmp_path / "csv", 40))
    assert kinds(of_parquet) == kinds(of_csv)
    np.testing.assert_allclose(one.rows(range(40)), two.rows(range(40)), rtol=1e-6)
    assert one.read(0)["city"] == two.read(0)["city"]


def test_groups_of_parquet_are_blocks_where_the_table_is_large(tmp_path, monkeypatch):
    path = parquet(tmp_path / "t.parquet", a=list(range(40)), b=[str(k % 3) for k in range(40)])
    small, stats, _ = opened(path)
    assert small.blocks is None and small.array is not None
    monkeypatch.setattr("selfsame.modalities.table.source.HELD", 200)
    source = open_source(str(path))
    source.fit(stats)
    assert source.array is None and source.blocks.tolist() == [0, 10, 20, 30] and source.window == 2
    order = [35, 3, 4, 12, 35]
    np.testing.assert_array_equal(source.rows(order), small.rows(order))
    assert len(source.groups) <= source.window
    items = np.array([3, 18, 39])
    near = source.partners(items, np.array([0.0, 0.5, 0.999]), np.arange(0, 40, 2))
    assert (near // 10 == items // 10).all() and (near % 2 == 0).all()


def test_the_bound_of_groups_counts_numbers(tmp_path, monkeypatch):
    words = [f"{k % 7} word{k} of many{k % 5} words" for k in range(40)]
    source, stats, _ = opened(parquet(tmp_path / "t.parquet", a=list(range(40)), text=words))
    assert stats.width > 16 and source.window > 1
    monkeypatch.setattr("selfsame.modalities.table.source.HELD", 10 * 4 * stats.width * 2)
    source.fit(stats)
    assert source.window == 2
    monkeypatch.setattr("selfsame.modalities.table.groups.GROUP", 10 * 4 * stats.width - 1)
    with pytest.raises(UserError, match="groups of 10 rows"):
        source.fit(stats)


def test_columns_of_parquet_that_hold_no_single_value_are_left_out(tmp_path):
    path = parquet(
        tmp_path / "t.parquet", a=[1.0, 2.0, 3.0], l=[[1], [2], []], s=[{"x": 1}] * 3, flag=[True, False, None]
    )
    _, stats, _ = opened(path)
    assert kinds(stats) == {"a": "number", "flag": "category"}
    assert "l (holds lists)" in stats.summary and "s (holds nested values)" in stats.summary


def test_a_damaged_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    with pytest.raises(UserError, match="no Parquet file, or a damaged one"):
        open_source(str(_bytes(tmp_path, b"PAR1 no", "t.parquet")))


# Columns -------------------------------------------------------------------------------------------------------------


def column(tmp_path: Path, cells: list, name: str = "v", **reading):
    """The column and the summary of a table of it and another."""
    text = "".join(f'"{cell}",{k % 7}\n' for k, cell in enumerate(cells))
    source, stats, _ = opened(table(tmp_path, f"{name},other\n{text}"), **reading)
    return next((c for c in stats.columns if c.name == name), None), stats.summary, source


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("name", "cells", "kind"),
    [
        ("age", RNG.integers(18, 80, 200), "number"),
        ("clicks", (RNG.exponential(20, 200) ** 1.6).astype(int), "count"),
        ("ctr", RNG.uniform(0, 1, 200).round(4), "ratio"),
        ("colour", RNG.choice(["red", "blue"], 200), "category"),
        ("zip", RNG.integers(10, 40, 200), "category"),
        ("user_id", RNG.integers(0, 500, 600), "hash"),
        ("siteId", RNG.integers(0, 500, 600), "hash"),
        ("site", [f"s{k}" for k in RNG.integers(0, 500, 600)], "hash"),
        ("day", [f"2024-0{1 + k % 9}-{10 + k % 19}" for k in range(200)], "date"),
        ("day", [f"{13 + k % 12}.0{1 + k % 9}.2024 12:30" for k in range(200)], "date"),
        ("ts", RNG.integers(1_600_000_000, 1_700_000_000, 200), "date"),
        ("note", [f"a b c {k} and {k % 17} more" for k in range(400)], "text"),
    ],
)
def test_kinds_are_found(tmp_path, name, cells, kind):
    found, summary, _ = column(tmp_path, list(cells), name)
    assert found.kind == kind and name in summary


def test_kinds_can_be_said(tmp_path):
    cells = [k % 5 for k in range(60)]
    assert column(tmp_path, cells)[0].kind == "number"
    assert column(tmp_path, cells, types={"v": "category"})[0].values == ("0", "1", "2", "3", "4")
    assert column(tmp_path, cells, types="v=hash,other=category")[0].kind == "hash"
    with pytest.raises(UserError, match=r"unknown kind of column 'v' 'numbr'. Did you mean 'number'"):
        checked(Reading, {"types": "v=numbr"})
    with pytest.raises(UserError, match="write column=kind"):
        checked(Reading, {"types": "v"})
    with pytest.raises(UserError, match=r"unknown column in --reading.types 'othr'. Did you mean 'other'"):
        column(tmp_path, cells, types="othr=number")
    with pytest.raises(UserError, match="none of the looked at values of v is a number"):
        column(tmp_path, ["x", "y"] * 30, types="v=number")


def test_numbers_with_a_few_words(tmp_path):
    found, summary, source = column(tmp_path, [*range(95), *["unknown"] * 5])
    assert found.kind == "number" and found.missing == 0.05
    assert "5.0% are words, as 'unknown', taken as missing" in summary
    assert np.isnan(source.rows([97])[0, 0]) and source.rows([7])[0, 0] == 7


def test_words_with_some_numbers(tmp_path):
    found, summary, _ = column(tmp_path, ["low", "high", "3"] * 30)
    assert found.kind == "category" and "33.3% are numbers, taken as words" in summary


def test_infinite_values_are_missing_and_told_of(tmp_path):
    found, summary, source = column(tmp_path, [*range(50), "inf", "-inf"])
    assert found.kind == "number" and "2 infinite values, taken as missing" in summary
    assert np.isnan(source.rows([50, 51])[:, 0]).all() and max(found.quantiles) == 49


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        (["?"] * 60, "all missing"),
        (["x"] * 60, "always the same"),
        ([3] * 60, "always the same"),
        ([f"name{k}" for k in range(60)], "nearly all values differ"),
        (["inf"] * 60, "infinite"),
    ],
)
def test_columns_that_tell_nothing_are_left_out_with_the_reason(tmp_path, cells, why):
    found, summary, _ = column(tmp_path, cells)
    assert found is None and f"v ({why})" in summary


def test_one_value_and_missing_ones_tell_something(tmp_path):
    assert column(tmp_path, [3, "?"] * 30)[0].kind == "number"
    assert column(tmp_path, ["x", "?"] * 30)[0].kind == "category"


def test_dates_are_days_since_1970(tmp_path):
    _, _, source = column(tmp_path, [*["1970-01-02T12:00:00", "1970-01-03T00:00:00+00:00"] * 30, "x"])
    assert source.rows([0, 1])[:, 0].tolist() == [1.5, 2.0] and np.isnan(source.rows([60])[0, 0])
    assert found_form(["03/25/2024", "12/01/2024"]) == "%m/%d/%Y"
    assert found_form(["25/03/2024", "01/12/2024"]) == "%d/%m/%Y"
    assert found_form(["abc", "12"]) == ""


def test_rare_values_share_the_unknown_code_and_so_do_new_ones(tmp_path):
    cells = ["a"] * 30 + ["b"] * 20 + ["c"]
    found, summary, source = column(tmp_path, cells, category_values=2, types="v=category")
    assert found.values == ("a", "b") and "1 rarer values are one" in summary
    assert source.rows([0, 30, 50])[:, 0].tolist() == [1, 2, 0]
    assert sum(found.shares) == pytest.approx(1) and found.shares[0] == pytest.approx(1 / 51)
    later = open_source(str(table(tmp_path, "v,other\nb,1\nzebra,2\n", "later.csv")))
    later.fit(source.stats)
    assert later.rows([0, 1])[:, 0].tolist() == [2, 0]


def test_hashes_and_bags_are_the_same_everywhere():
    assert [bucket(word, 1000) for word in ("a", "Zürich", "")] == [977, 56, 0]
    one = bag("the cat and the dog", 64, "words")
    assert one == pytest.approx(bag("The DOG, and the: cat", 64, "words"))
    assert sum(v**2 for v in one.values()) == pytest.approx(1)
    near = set(bag("responsible", 4096, "letters")) & set(bag("responsable", 4096, "letters"))
    assert len(near) >= 6 and bag("...", 64, "words") == {}


def test_statistics_hold_no_row_of_the_table_and_go_through_json(tmp_path):
    _, stats, _ = opened(make(tmp_path, 60))
    assert Stats.model_validate_json(stats.model_dump_json()) == stats
    assert all(len(c.quantiles) == LEVELS for c in stats.columns if c.kind in ("number", "count", "ratio", "date"))
    assert stats.width == 6 and "2 numbers (age, score)" in stats.summary


# Labels and flags ----------------------------------------------------------------------------------------------------


def test_labels_are_no_feature(tmp_path):
    path = written(tmp_path / "t.csv", rows(20), (*HEAD, "bought"))
    source, stats, _ = opened(path, leave_out="bought")
    assert "bought" not in kinds(stats) and "bought (given)" in stats.summary
    labelled = open_source(path, "bought", Reading(leave_out="bought"))
    labelled.fit(stats)
    assert labelled.labels == ["no", "yes"] * 10 and "bought" not in labelled.read(0)
    seen = opened(path)[1]
    with pytest.raises(UserError, match=r"--labels bought: an encoder that has seen.*--reading.leave-out bought"):
        open_source(path, "bought").fit(seen)
    with pytest.raises(UserError, match=r"--reading.leave-out bought"):
        _ = open_source(path, "bought").labels  # before there is an encoder
    assert source.labels is None


def test_equal_labels_are_one_text(tmp_path):
    path = table(tmp_path, "a,kind\n" + "".join(f"{k},{('old', 'new')[k % 2]}\n" for k in range(40)))
    labels = open_source(str(path), "kind", Reading(leave_out=["kind"])).labels
    assert len({id(label) for label in labels}) == 2


def test_a_row_without_a_label_is_named(tmp_path):
    source = open_source(str(table(tmp_path, "a,y\n1,p\n2,?\n3,q\n")), "y", Reading(leave_out="y"))
    with pytest.raises(UserError, match=r"1 of 3 rows have no label \(rows 1\)"):
        _ = source.labels


@pytest.mark.parametrize(
    ("reading", "flag"),
    [({"leave_out": "agee"}, "--reading.leave-out"), ({"id": "agee"}, "--reading.id"), ({"by": "agee"}, "by")],
)
def test_a_flag_that_names_no_column_has_the_nearest(tmp_path, reading, flag):
    with pytest.raises(UserError, match=rf"unknown column .*{flag} 'agee'. Did you mean 'age'"):
        opened(make(tmp_path), **reading)


def test_a_name_with_a_comma_can_be_left_out(tmp_path):
    path = table(tmp_path, '"a,b",c,d\n1,2,3\n4,5,6\n7,8,9\n')
    assert list(kinds(opened(path, leave_out=["a,b"])[1])) == ["c", "d"]
    assert list(kinds(opened(path, leave_out="c,d")[1])) == ["a,b"]


def test_a_table_that_lacks_a_column_of_the_encoder(tmp_path):
    _, stats, _ = opened(make(tmp_path, 30))
    held = [{**row, "cityy": row["city"]} for row in rows(8)]
    other = open_source(written(tmp_path / "o.csv", held, ("cityy", *(n for n in HEAD if n != "city"))))
    with pytest.raises(UserError, match=r"o.csv lacks 'city', which the encoder was trained with. Is it 'cityy' there"):
        other.fit(stats)


def test_files_of_other_kinds_are_left_to_these(tmp_path):
    assert reads(make(tmp_path / "a", 30)) == 30
    assert reads(str(table(tmp_path, "path,label\na.png,x\nb.png,y\n"))) == 0
    assert reads(str(table(tmp_path, "Some words, and more.\nA line of text\n", "t.txt"))) == 0
    assert reads(str(table(tmp_path, "1,0.5,0.7\n2,0.4,0.1\n"))) == 0  # numbers without names: perhaps a series
    assert reads(str(table(tmp_path, "text,label\nthis is a longer text here,x\nand another one of them,y\n"))) == 0
    assert reads(str(tmp_path / "none.csv")) == 0


def test_the_real_tables(shared):
    source, stats, skipped = opened(shared / "data" / "adult_income" / "adult.data", leave_out="Salary")
    assert len(source) == 32_561 and skipped == {} and len(stats.columns) == 14
    assert kinds(stats)["capital-gain"] == "count" and kinds(stats)["native-country"] == "category"
    assert 0 < next(c for c in stats.columns if c.name == "occupation").missing < 0.1
    source, stats, skipped = opened(shared / "data" / "ad_clicks" / "criteo_1k.txt", leave_out="c0")
    assert len(source) == 1000 and skipped == {} and len(stats.columns) == 39
    assert set(kinds(stats).values()) == {"number", "count", "category", "hash"}


# Stray quotation marks, damaged groups


def test_two_stray_quotes_that_swallow_rows_are_refused(tmp_path):
    lines = ["a,b,c", *(f"{k},x{k % 3},{k * 7 % 5}" for k in range(60))]
    for at in (10, 40):
        first, word, last = lines[at].split(",")
        lines[at] = f'{first},"{word},{last}'
    with pytest.raises(UserError, match=r"in line 11 a quotation mark opens a cell that goes on over 3\d lines"):
        opened(table(tmp_path, "\n".join(lines) + "\n"))
    lines[40] = lines[40].replace('"', "")  # one alone is a plain sign
    assert len(opened(table(tmp_path, "\n".join(lines) + "\n"))[0]) == 60


def test_a_quoted_cell_over_many_lines_of_prose_stays_a_cell(tmp_path):
    letter = "Dear all,\nthis is a letter\nof many lines, with\ncommas, here, and there\nand an end\n\nYours, me"
    text = "a,b,c\n" + "".join(f'{k},"{letter} {k}",{k * 7 % 5}\n' for k in range(30))
    assert len(opened(table(tmp_path, text))[0]) == 30


def test_a_damaged_group_met_while_labels_are_read_is_told_in_one_line(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    columns = {"a": np.arange(4000) % 97, "label": [f"class {k % 7} {k % 13}" for k in range(4000)]}
    parquet.write_table(pa.table(columns), path, row_group_size=1000, compression="snappy")
    chunk = parquet.ParquetFile(path).metadata.row_group(2).column(1)
    data = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(data)
    source = open_source(str(path), "label", Reading(leave_out=("label",)))
    with pytest.raises(
        UserError, match=r"group 2 of its rows, column 'label', cannot be read: the file is dam"
    ) as error:
        _ = source.labels
    assert "\n" not in str(error.value)
