"""What the lines of a plan and the errors of a job say of the data: what was read as what, and how to say otherwise."""

import csv

import numpy as np
import pytest

import selfsame as ss
from selfsame.engine.plan import Line
from selfsame.jobs.data import lines_of_columns, open_data
from selfsame.jobs.deciding import check_kind, show_lines
from selfsame.jobs.pretrain import Pretrain
from selfsame.jobs.pretraining import Pretraining
from selfsame.jobs.report import of_stats, readable
from selfsame.storage.tables import first_names


def table_of(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def sensor(path, rows=200, header=("t0", "ax", "ay", "label", "note")):
    values = np.random.default_rng(0).normal(size=(rows, 2)).cumsum(axis=0).round(4)
    return table_of(path, header, [[k / 50, *values[k], "walk" if k < rows / 2 else "run", k % 7] for k in range(rows)])


def columns_of(path, **settings):
    return {line.name: (line.value, line.why) for line in lines_of_columns(open_data(path, **settings))}


def test_names_are_shortened_to_the_room_there_is():
    names = [f"column{k}" for k in range(20)]
    assert first_names(names, 30) == "column0, column1, column2 and 17 more"
    assert first_names(names[:3], 30) == "column0, column1, column2"
    assert first_names(["a" * 99, "b"], 30) == "a" * 99 + " and 1 more"


def test_the_plan_says_which_columns_of_a_table_of_series_became_what(tmp_path):
    path = sensor(tmp_path / "walk.csv", header=("time", "ax", "ay", "label", "note"))
    found = columns_of(path, modality="signal", reading={"window": 20, "leave_out": ["note"]})
    assert found["channels"] == ("ax, ay", "2 columns of numbers")
    assert found["time column"][0] == "time" and found["label column"] == ("label", "no channel, never trained on")
    assert found["left out"] == ("note", "given")
    found = columns_of(path, modality="signal", reading={"window": 20, "columns": ["ax"]})
    assert found["channels"][0] == "ax" and found["left out"] == ("ay, note", "no channels")


def test_the_plan_names_the_channels_of_an_array_that_has_names(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).normal(size=(9, 2, 30)), channels=np.array(["I", "II"]))
    assert columns_of(str(tmp_path / "a.npz")) == {"channels": ("I, II", "2 by name")}


def test_the_plan_says_which_columns_became_numbers_and_categories(tmp_path):
    rows = [[k, k * 7 % 50 + 0.5, "abc"[k % 3], "same"] for k in range(90)]
    path = table_of(tmp_path / "t.csv", ("rank", "age", "[red]kind", "constant"), rows)
    found = columns_of(path)
    assert found["numbers"] == ("rank, age", "2 columns") and found["categories"] == ("[red]kind", "1 column")
    assert found["left out"][0] == "constant (always the same)"


def test_the_plan_says_which_column_is_the_text(tmp_path):
    rows = [[f"a rather long sentence with the number {k} in it", k % 3] for k in range(40)]
    found = columns_of(table_of(tmp_path / "t.csv", ("question", "kind"), rows), modality="text")
    assert found["text column"][0] == "question" and found["left out"] == ("kind", "no text")


def test_a_column_whose_name_looks_like_markup_is_shown_as_it_is(capsys):
    show_lines([Line(name="numbers", value="[red]age[/red]", why="[bold]1 column")])
    assert "[red]age[/red]" in (told := capsys.readouterr().err) and "[bold]1 column" in told


def test_an_error_after_a_guess_says_as_what_the_data_were_read(tmp_path, capsys):
    path = table_of(tmp_path / "one.csv", ("a", "b"), [[1, 2]])
    with pytest.raises(ss.UserError, match=r"\(read as table by .*--modality says otherwise\)") as error:
        open_data(path)
    assert str(error.value).count("--modality") == 1 and "reading" in capsys.readouterr().err
    with pytest.raises(ss.UserError) as error:
        open_data(path, modality="table")
    assert "--modality" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "kind", "others"),
    [
        ("bert-tiny", "image", "text"),
        ("resnet18@0.5", "table", "audio and image and signal"),
        ("ft-tiny", "signal", "table"),
        ("byola", "text", "audio"),
    ],
)
def test_a_network_of_another_kind_of_data_is_told_as_such(name, kind, others):
    with pytest.raises(ss.UserError, match=f"{name} is a network for {others}; this data is read as {kind}. .*as "):
        check_kind(name, kind)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("vit_tiny_patch4_32", "image"), ("resnet10t@0.5", "audio"), ("bert-tiny:class", "text"), ("resnte18", "signal"),
     ("mlp@2", "table"), ("my.nets:make", "table")],
)  # fmt: skip
def test_networks_of_this_kind_and_names_that_no_kind_knows_are_left_to_the_kind(name, kind):
    check_kind(name, kind)


@pytest.mark.parametrize("header", [("t0", "ax", "ay", "label", "n"), ("t0", "ax", "ay", "u", "n")])
def test_rows_that_go_on_smoothly_are_asked_about_though_they_have_no_time(tmp_path, header):
    rows = np.random.default_rng(0).normal(size=(200, 2)).cumsum(axis=0).round(4)
    path = table_of(tmp_path / "s.csv", header, [[k, *rows[k], k // 100, k % 7] for k in range(200)])
    with pytest.raises(ss.UserError, match=r"could be signal .* and table"):
        open_data(path)


def test_rows_of_a_table_in_any_order_or_sorted_by_class_are_not_asked_about(tmp_path):
    rng = np.random.default_rng(0)
    for name, spread in (("mixed", 1.0), ("sorted", 0.1)):  # as Fisher's irises lie, class after class
        rows = [[k, *(rng.normal(size=4) * spread + k // 50).round(3), k // 50] for k in range(150)]
        path = table_of(tmp_path / f"{name}.csv", ("row", "a", "b", "c", "d", "class"), rows)
        assert open_data(path).modality.name == "table"


def test_a_column_that_looks_like_labels_among_the_features_is_warned_of(tmp_path):
    rows = [[k % 17 + 0.5, k % 11, k % 2] for k in range(80)]
    (told,) = open_data(table_of(tmp_path / "t.csv", ("a", "b", "label"), rows)).stats.cautions
    assert "--reading.leave-out label" in told
    path = str(tmp_path / "t.csv")
    assert open_data(path, modality="table", reading={"leave_out": "label"}).stats.cautions == []


def test_a_table_of_one_row_is_told_as_such(tmp_path):
    with pytest.raises(ss.UserError, match=r"one.csv has one row, .* Give at least 4\. \(read as table"):
        open_data(table_of(tmp_path / "one.csv", ("a", "b"), [[1, 2]]))


def test_series_that_are_all_constant_are_warned_of_with_the_plan(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Pretraining, "trial", lambda self, learner, steps: (1.0, 0))
    x = np.ones((40, 2, 32), np.float32)
    np.save(tmp_path / "flat.npy", x)
    job = Pretrain(data=str(tmp_path / "flat.npy"), out=tmp_path / "run", method={"name": "byol"})
    work = Pretraining(job)
    work.opened()
    work.show_plan(work.prepared(), None)
    assert "caution: all 2 channels are constant over all items" in capsys.readouterr().err
    x[3, 1, 5] = 2
    np.save(tmp_path / "flat.npy", x)
    assert open_data(str(tmp_path / "flat.npy")).stats.cautions == []


def test_a_long_record_that_looks_like_many_short_series_is_asked_about(tmp_path):
    np.save(tmp_path / "record.npy", np.random.default_rng(0).normal(size=(400, 3)).astype("f4"))  # [steps, channels]
    (told,) = open_data(str(tmp_path / "record.npy")).stats.cautions
    assert "has 3 steps" in told and "--reading.window" in told
    assert open_data(str(tmp_path / "record.npy"), reading={"window": 40}).stats.cautions == []


@pytest.mark.parametrize(("key", "shape", "kind"), [("x", (20, 1, 30), "signal"), ("images", (20, 8, 8), "image")])
def test_labels_of_another_length_beside_an_array_are_refused_when_they_are_asked_for(tmp_path, key, shape, kind):
    values = np.random.default_rng(0).integers(0, 255, shape)
    values = values.astype(np.uint8 if kind == "image" else np.float32)
    beside = {"x": "y", "images": "labels"}[key]
    np.savez(tmp_path / "a.npz", **{key: values, beside: np.arange(19) % 3})
    source = open_data(str(tmp_path / "a.npz")).source  # training needs none
    with pytest.raises(ss.UserError, match=f"{beside}, beside {key}, holds 19 labels for 20 items. .*--labels"):
        _ = source.labels


def test_labels_of_each_step_beside_a_long_record_are_those_of_its_windows(tmp_path):
    x = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=x, y=np.repeat(["rest", "run"], 200))
    source = open_data(str(tmp_path / "a.npz"), reading={"window": 100}).source
    assert source.labels == ["rest", "rest", "run", "run"]


def test_a_table_in_utf16_is_refused_with_a_line_that_can_be_copied(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,4\n", encoding="utf-16")
    with pytest.raises(ss.UserError, match=r"iconv -f UTF-16 -t UTF-8 \S+t.csv > new.csv"):
        open_data(str(tmp_path / "t.csv"), modality="table")


def test_of_a_second_plan_only_what_differs_is_shown(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Pretraining, "trial", lambda self, learner, steps: (1.0, 0))
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(40, 2, 32)).astype(np.float32))
    shown, lines = [], []
    for name in ("byol", "simclr"):
        work = Pretraining(Pretrain(data=str(tmp_path / "x.npy"), out=tmp_path / name, method={"name": name}))
        work.beside = lines
        work.opened()
        work.show_plan(work.prepared(), None)
        shown.append(capsys.readouterr().err)
        lines = lines or work.lines
    assert "learning rate" in shown[0] and "byol" in shown[0]
    assert "simclr" in shown[1] and "learning rate" not in shown[1] and "encoder" not in shown[1]


def test_a_card_tells_columns_by_kind_and_lists_in_words():
    columns = [{"name": f"n{k}", "kind": "number"} for k in range(30)] + [{"name": "job", "kind": "category"}]
    stats = {"items": 5, "columns": columns, "scaling": "quantile", "left_out": ["id (names the row)"], "notes": []}
    told = dict(of_stats("table", stats))
    assert told["numbers"].startswith("n0, n1, n2") and told["numbers"].endswith("more (30 columns)")
    assert told["categories"] == "job (1 column)" and "columns" not in told and told["notes"] == "none"
    assert readable([0.123456789] * 3) == "0.123457, 0.123457, 0.123457"
    assert readable(list(range(20))) == "0, 1, 2, 3, 4, 5, 6, 7, ... (20 in all)"
    assert readable("x" * 300).endswith("(300 characters)") and readable(True) == "yes" and readable([]) == "none"
