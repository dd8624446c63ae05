"""Sources of texts, with bad files for real."""

import json
import pickle

import numpy as np
import pytest

from selfsame import modalities
from selfsame.errors import NO_LABEL, UnreadableItem, UserError
from selfsame.modalities import text
from selfsame.modalities.text.reading import Reading
from selfsame.modalities.text.source import LONGEST

SEA = "the wave and the gull\n"


def test_lines_are_items_and_empty_ones_are_skipped_and_counted(lines):
    source = text.open_source(lines(b"\xef\xbb\xbffirst line here\r\n\r\n  \t \nsecond\tline\n\nlast without end"))
    assert [source.read(i) for i in range(len(source))] == ["first line here", "second line", "last without end"]
    assert [source.name(i) for i in range(3)] == ["a.txt:1", "a.txt:4", "a.txt:6"]
    assert source.left_out == "3 empty lines" and source.stored(1) == 11
    assert source.labels is None and source.array is None


@pytest.mark.parametrize("block", [1, 2, 7, 64])
def test_lines_are_found_whatever_the_blocks_in_which_they_are_looked_for(lines, monkeypatch, block):
    from selfsame.modalities.text import lines as module

    content = b"a b\n\n  \nc d e\n\n\nf\n \n"
    wanted = [(i + 1, row) for i, row in enumerate(content.split(b"\n")) if row.strip()]
    monkeypatch.setattr(module, "BLOCK", block)
    found = module.scanned_lines(lines(content))
    got = [(int(n), content[s : s + z]) for n, s, z in zip(found["line"], found["start"], found["size"], strict=True)]
    assert got == wanted and int(found["empty"]) == 5


def test_a_file_is_indexed_not_held(lines):
    path = lines(SEA * 20_000)
    source = text.open_source(path)
    held = sum(value.nbytes for value in vars(source).values() if isinstance(value, np.ndarray))
    assert len(source) == 20_000 and held < 25 * 20_000
    assert len(pickle.dumps(source)) < 30 * 20_000 and source.read(19_999) == SEA.strip()


def test_bytes_that_are_no_utf8_are_unreadable_and_latin_1_is_told(lines):
    path = lines("café au lait\n".encode() * 9 + "café noir\n".encode("latin-1") + b"plain\n")
    source = text.open_source(path)
    stats, skipped = text.measure(source)
    assert list(skipped) == [9] and stats.items == 10
    assert skipped[9] == "byte 0xe9 at 3 is no UTF-8; if it is Latin-1 or Windows-1252: --reading.encoding cp1252"
    again = text.open_source(path, reading=Reading(encoding="latin-1"))
    assert again.read(9) == "café noir"


@pytest.mark.parametrize("encoding", ["utf-16", "nonsense", "hex"])
def test_encodings_without_lines_and_unknown_ones_are_refused(encoding):
    with pytest.raises(ValueError, match=r"encoding|lines cannot be found"):
        Reading(encoding=encoding)


def test_utf16_is_named(lines):
    with pytest.raises(UserError, match=r"is in UTF-16. Convert it: iconv -f UTF-16 -t UTF-8"):
        text.open_source(lines("some text\nmore\n".encode("utf-16")))


def test_a_file_of_zeros_is_no_text(lines):
    with pytest.raises(UserError, match=r"no text: its first bytes hold zeros"):
        text.open_source(lines(b"PK\0\0\0\1" * 9, "a.bin"))


def test_a_line_of_two_megabytes_is_cut_and_said_so(lines):
    long = ("wave " * 400_000).strip()
    source = text.open_source(lines(f"{SEA}{long}\n{SEA}{'é' * LONGEST}\n"))
    assert len(source) == 4 and len(source.read(1)) <= LONGEST and source.read(1).startswith("wave wave")
    assert len(source.read(3)) == LONGEST // 2  # two bytes each, and no half character at the end
    stats, skipped = text.measure(source)
    assert skipped == {} and stats.cut == 2 and stats.summary.endswith("2 texts cut after 64 KiB")


def test_texts_without_any_letter_are_refused(lines):
    with pytest.raises(UserError, match=r"no letters in any of the 3 texts looked at. Numbers are read with"):
        text.measure(text.open_source(lines("1 2 3\n4.5\n- - -\n")))


def test_a_single_line_is_a_source(lines):
    source = text.open_source(lines("only one"))
    stats, _ = text.measure(source)
    assert len(source) == 1 and stats.items == 1 and stats.lengths[-1] >= 1


def test_a_file_without_a_line_is_refused(lines):
    with pytest.raises(UserError, match=r"there is no line with text in it"):
        text.open_source(lines("\n \n\t\n"))


def test_a_folder_of_files_has_a_file_an_item_and_labels_by_folder(lines, tmp_path):
    for name in ("sea/a.txt", "sea/b.md", "land/c.txt"):
        lines("two lines\nof text", name)
    lines(b"\x89PNG", "sea/x.png")
    source = text.open_source(str(tmp_path))
    assert [source.name(i) for i in range(3)] == ["land/c.txt", "sea/a.txt", "sea/b.md"]
    assert source.labels == ["land", "sea", "sea"] and source.read(1) == "two lines of text"
    assert source.left_out == "1 .png"
    every = text.open_source(str(tmp_path / "**" / "*.txt"), reading={"items": "lines"})
    assert len(every) == 4 and every.labels == ["c", "c", "a", "a"] and every.name(3) == "sea/a.txt:2"


def test_empty_files_and_bad_bytes_are_unreadable(lines, tmp_path):
    lines("a text", "a.txt")
    lines(" \n", "b.txt")
    lines(b"\xff\xfea\0", "c.txt")
    lines(b"a\0b", "d.txt")
    source = text.open_source(str(tmp_path))
    reasons = {}
    for i in range(4):
        try:
            source.read(i)
        except UnreadableItem as reason:
            reasons[source.name(i)] = str(reason)
    assert reasons["b.txt"] == "there is no text in it" and "UTF-16" in reasons["c.txt"]
    assert "zero bytes" in reasons["d.txt"] and "a.txt" not in reasons


def test_a_folder_without_text_says_what_it_holds(lines, tmp_path):
    lines(b"\x89PNG", "pictures/x.png")
    with pytest.raises(UserError, match=r"no texts in this folder. It holds 1 .png; read are .txt, .md"):
        text.open_source(str(tmp_path / "pictures"))
    lines("text\nsome words here\n", "tables/x.csv")
    with pytest.raises(UserError, match=r"Give the .csv itself"):
        text.open_source(str(tmp_path / "tables"))
    with pytest.raises(UserError, match=r"no such file or folder"):
        text.open_source(str(tmp_path / "nowhere.txt"))


CSV = (
    'id,title,text,label\n1,Sea,"the wave, the gull\nand the sail",a\n\n'
    '2,Land,"he said ""stone"" twice",b\n3,x,only,a\n'
)


def test_a_csv_gives_its_longest_column_of_text_and_its_labels(lines):
    source = text.open_source(lines(CSV, "a.csv"))
    assert source.column == "text" and len(source) == 3 and source.labels == ["a", "b", "a"]
    assert source.read(0) == "the wave, the gull and the sail" and source.read(1) == 'he said "stone" twice'
    assert [source.name(i) for i in range(3)] == ["a.csv:2", "a.csv:5", "a.csv:6"]
    assert "column 'text'" in text.measure(source)[0].summary
    assert text.open_source(lines(CSV, "a.csv"), reading={"column": "title"}).read(1) == "Land"
    assert text.open_source(lines(CSV, "a.csv"), labels="title").labels == ["Sea", "Land", "x"]


def test_a_missing_column_has_a_nearest_name(lines):
    with pytest.raises(UserError, match=r"unknown column in .*a.csv 'texts'. Did you mean 'text'\?"):
        text.open_source(lines(CSV, "a.csv"), reading={"column": "texts"})
    with pytest.raises(UserError, match=r"unknown column in .*a.csv 'titel'. Did you mean 'title'\?"):
        text.open_source(lines(CSV, "a.csv"), labels="titel")
    with pytest.raises(UserError, match=r"this is the column of the text"):
        _ = text.open_source(lines(CSV, "a.csv"), labels="text").labels
    with pytest.raises(UserError, match=r"--reading.column text: .*a.txt has no columns"):
        text.open_source(lines(SEA), reading={"column": "text"})


def test_two_columns_of_one_name_are_refused(lines):
    with pytest.raises(UserError, match=r"the column 'text' is there 2 times"):
        text.open_source(lines("text,text\na b,c d\n", "a.csv"))


def test_a_csv_without_names_of_columns_counts_them(lines):
    source = text.open_source(
        lines('"A plane is taking off.","An air plane is taking off.",5.0\nA cat.,A dog sleeps.,1\n', "a.csv")
    )
    assert len(source) == 2 and source.columns == ["1", "2", "3"] and source.column == "2"
    assert source.name(0) == "a.csv:1" and source.read(0).startswith("An air")


def test_rows_of_another_width_are_unreadable(lines):
    source = text.open_source(lines("text,label\nsome words,a\nother words,b,c\nlast words,b\n", "a.csv"))
    _, skipped = text.measure(source)
    assert skipped == {1: "it has 3 cells, and there are 2 columns"}


def test_a_cell_of_two_megabytes_is_read_and_cut(lines):
    source = text.open_source(lines(f'text\n"{"sail " * 400_000}"\nshort one\n', "a.csv"))
    assert len(source.read(0)) <= LONGEST and source.read(1) == "short one"
    assert text.measure(source)[0].cut == 1


def test_a_table_of_numbers_has_no_text(lines):
    with pytest.raises(UserError, match=r"no column holds text. It has: a, b"):
        text.open_source(lines("a,b\n1,2\n3,4\n", "a.csv"))
    with pytest.raises(UserError, match=r"there is no row below"):
        text.open_source(lines("text,label\n", "a.csv"))
    with pytest.raises(UserError, match=r"this file is empty"):
        text.open_source(lines("\n", "a.csv"))


def test_jsonl_has_a_text_under_a_key(lines):
    rows = [{"id": k, "body": f"wave number {k} came", "label": "ab"[k % 2]} for k in range(4)]
    path = lines("\n".join(map(json.dumps, rows)) + '\n{"id": 5}\nno json\n', "a.jsonl")
    source = text.open_source(path)
    assert source.column == "body" and source.read(2) == "wave number 2 came" and len(source) == 6
    _, skipped = text.measure(source)
    assert skipped[4] == "no text under 'body'" and skipped[5].startswith("no JSON")
    with pytest.raises(UserError, match=r"has no label"):
        _ = source.labels


def test_parquet_is_read_by_groups_of_rows(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [f"row {k} of waves and gulls" for k in range(40)]
    table = pa.table({"n": list(range(40)), "short": ["x"] * 40, "words": rows, "kind": ["a", "b"] * 20})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=8)
    source = text.open_source(str(tmp_path / "t.parquet"))
    assert source.column == "words" and source.blocks.tolist() == [0, 8, 16, 24, 32]
    assert [source.read(i) for i in (0, 9, 39)] == [rows[0], rows[9], rows[39]] and source.labels is None
    assert text.measure(source)[0].items == 40
    with_labels = text.open_source(str(tmp_path / "t.parquet"), labels="kind")
    assert with_labels.labels == ["a", "b"] * 20
    with pytest.raises(UserError, match=r"Did you mean 'words'\?"):
        text.open_source(str(tmp_path), reading={"column": "wrds"})
    assert pickle.loads(pickle.dumps(source)).read(17) == rows[17]


def test_labels_of_lines_come_from_a_list(lines, tmp_path):
    path = lines("first\n\nsecond\n")
    assert text.open_source(path, labels=lines("a\nb\n", "l.txt")).labels == ["a", "b"]
    with pytest.raises(UserError, match=r"1 labels for the 2 items"):
        text.open_source(path, labels=lines("a\n", "l.txt"))
    csv = lines("path,label\na.txt:3,b\na.txt:1,a\n", "l.csv")
    assert text.open_source(path, labels=csv).labels == ["a", "b"]
    with pytest.raises(UserError, match=r"1 of 2 items"):
        text.open_source(path, labels=lines("path,label\na.txt:3,b\n", "l.csv"))


def test_what_a_path_holds_is_counted(lines, tmp_path):
    assert text.reads(lines(SEA * 3)) == 3
    assert text.reads(lines("a.jpg\nb/c.jpg\n/d/e.png\n", "list.txt")) == 0  # a list of files
    assert text.reads(lines(CSV, "a.csv")) == 3
    assert text.reads(lines("a,b\n1,2\n", "n.csv")) == 0
    assert text.reads(lines("age,job\n" + "31,Adm-clerical\n" * 5, "t.csv")) == 0
    assert text.reads(lines("text\n" + "我们 在 海边 看 海浪\n" * 3, "z.csv")) == 3
    assert text.reads(lines(b"\x89PNG\r\n", "x.png")) == 0 and text.reads(str(tmp_path / "none")) == 0
    lines("# About\n", "data/README.md")
    lines(b"\x89PNG", "data/x.png")
    assert text.reads(str(tmp_path / "data")) == 0  # a note beside pictures
    assert modalities.of(lines("the sea was calm that night\n" * 4, "b.txt")).name == "text"


def later(folder, kind):
    """A table whose longest column is not `text`, with class names for `label`."""
    rows = [{"text": f"wave {k}", "notes": f"many more words about gull {k}", "label": k % 2} for k in range(4)]
    path = folder / f"later.{kind}"
    if kind == "parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        about = {"info": {"features": {"label": {"names": ["sea", "land"]}}}}
        table = pa.Table.from_pylist([{**row, "star": row["label"]} for row in rows])
        pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(about)}), path)
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        path.write_text("text,notes,label\n" + "".join(f"{','.join(map(str, row.values()))}\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_later_table_is_read_by_the_column_that_was_learned_from(lines, tmp_path, kind):
    stats, _ = text.measure(text.open_source(lines("text,n\nthe wave,1\nthe gull,2\n", "a.csv")))
    source = text.open_source(later(tmp_path, kind))
    assert source.column == "notes"
    source.fit(stats)
    assert (
        source.column == "text"
        and source.read(1) == "wave 1"
        and pickle.loads(pickle.dumps(source)).read(3) == "wave 3"
    )
    assert source.labels == (["sea", "land"] * 2 if kind == "parquet" else ["0", "1"] * 2)
    by_notes = text.open_source(later(tmp_path, kind), labels="notes")
    by_notes.fit(stats)
    assert by_notes.labels[0] == "many more words about gull 0"
    named = text.open_source(later(tmp_path, kind), reading={"column": "notes"})
    named.fit(stats)
    assert named.read(1) == "many more words about gull 1"
    with pytest.raises(UserError, match=r"has no column 'body', which the encoder learned from. It has: text, notes,"):
        source.fit(stats.changed(column="body"))


def test_sources_without_a_choice_of_columns_take_any_statistics(lines):
    stats, _ = text.measure(text.open_source(lines("text,n\nthe wave,1\nthe gull,2\n", "a.csv")))
    for name, content in (("b.csv", "body\nthe sail\n"), ("b.txt", "the sail\n")):
        source = text.open_source(lines(content, name))
        source.fit(stats)
        assert source.read(0) == "the sail"


def test_half_characters_of_json_are_replaced(lines):
    source = text.open_source(
        lines('{"text": "the wave \\ud83d came"}\n{"text": "a gull \\ud83d\\ude00"}\n', "a.jsonl")
    )
    stats, skipped = text.measure(source)
    source.fit(stats)
    assert source.read(0) == "the wave ? came" and source.read(1) == "a gull \U0001f600" and not skipped
    assert source.codec.padded([source.read(0)], 8).shape == (1, 8)


def test_names_of_classes_are_those_of_the_column_asked_for(tmp_path):
    source = text.open_source(later(tmp_path, "parquet"), labels="star")
    assert source.labels == ["0", "1", "0", "1"]
    assert text.open_source(later(tmp_path, "parquet"), labels="label").labels == ["sea", "land"] * 2


def test_rows_that_cannot_be_read_have_no_label(lines):
    csv = text.open_source(lines("text,label\nsome words,a\nother words,b,c\nlast words,b\n", "a.csv"))
    assert csv.labels == ["a", NO_LABEL, "b"]
    rows = lines('{"text": "some words", "label": 1}\n{"text": \n', "a.jsonl")
    assert text.open_source(rows, labels="label").labels == ["1", NO_LABEL]


def test_two_stray_quotes_that_swallow_rows_of_a_csv_are_refused(tmp_path):
    lines = ["text,label,n", *(f"a sentence of several words {k},x{k % 3},{k}" for k in range(60))]
    for at in (10, 40):
        lines[at] = '"' + lines[at]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match="in line 11 a quotation mark opens a cell that goes on over"):
        text.open_source(str(tmp_path / "t.csv"))
    lines[40] = lines[40][1:]  # never closed: up to the end of the file
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match="in line 11 a quotation mark opens a cell that goes on over"):
        text.open_source(str(tmp_path / "t.csv"))
    lines[10] = '"one, two\nthree, four\nfive\nsix, seven\neight",a,1'
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    assert len(text.open_source(str(tmp_path / "t.csv"))) == 60
