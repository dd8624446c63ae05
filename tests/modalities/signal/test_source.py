"""Series from files: what is read, what is refused and how it is said."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from selfsame import modalities
from selfsame.errors import UnreadableItem, UserError
from selfsame.modalities import signal
from selfsame.modalities.signal.reading import Reading
from selfsame.modalities.signal.source import SignalSource
from tests.modalities.signal.made import labelled, make, series, written_table

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402

WINDOW = Reading(window=16)


def written(folder: Path, text: str, name: str = "table.csv") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def ts(folder: Path, cases: str, head: str = "@classLabel true a b\n", name: str = "set.ts") -> str:
    return written(folder, f"# made here\n@problemName Made\n@timeStamps false\n{head}@data\n{cases}", name)


def read_all(path: str, **settings: object) -> list[np.ndarray]:
    source = signal.open_source(path, reading=Reading(**settings))
    return [source.read(i) for i in range(len(source))]


# Arrays --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int16", "int64", ">f4"])
@pytest.mark.parametrize("save", ["npy", "npz", "packed"])
def test_arrays_of_any_number_come_as_float32(dtype: str, save: str, tmp_path: Path) -> None:
    x = (100 * np.random.default_rng(0).normal(size=(5, 2, 20))).astype(dtype)
    path = tmp_path / ("x.npy" if save == "npy" else "x.npz")
    if save == "npy":
        np.save(path, x)
    else:
        (np.savez if save == "npz" else np.savez_compressed)(path, x)
    source = signal.open_source(str(path))
    assert len(source) == 5 and source.channels == 2 and source.read(3).dtype == np.float32
    assert np.array_equal(source.read(3), x[3].astype(np.float32))
    assert signal.reads(str(path)) == 1 and modalities.of(str(path)).name == "signal"


def test_axes_are_told_by_their_number_and_the_window(tmp_path: Path) -> None:
    x = np.arange(600, dtype=np.float32)
    shapes = {(30, 20): (30, 1, 20), (10, 3, 20): (10, 3, 20)}
    for shape, (n, c, t) in shapes.items():
        np.save(tmp_path / "x.npy", x.reshape(shape))
        source = signal.open_source(str(tmp_path / "x.npy"))
        assert (len(source), *source.read(0).shape) == (n, c, t)
    # With a window: [t], [t c], and [n t] where a row holds a window.
    for shape, n, c in (((600,), 37, 1), ((300, 2), 18, 2), ((30, 20), 30, 1)):
        np.save(tmp_path / "x.npy", x.reshape(shape))
        source = signal.open_source(str(tmp_path / "x.npy"), reading=WINDOW)
        assert (len(source), *source.read(n - 1).shape) == (n, c, 16)
    np.save(tmp_path / "x.npy", x.reshape(300, 2))
    source = signal.open_source(str(tmp_path / "x.npy"), reading=WINDOW)
    assert np.array_equal(source.read(1), x.reshape(300, 2)[16:32].T) and source.name(1) == "0@16"


def test_windows_overlap_by_the_stride_and_short_records_stay_whole(tmp_path: Path) -> None:
    path = ts(tmp_path, "1,2,3,4,5,6,7,8,9,10:a\n1,2,3:b\n")
    source = signal.open_source(path, reading=Reading(window=4, stride=3))
    assert [source.name(i) for i in range(len(source))] == ["0@0", "0@3", "0@6", "1@0"]
    assert source.read(2).tolist() == [[7, 8, 9, 10]] and source.read(3).tolist() == [[1, 2, 3]]
    assert source.labels == ["a", "a", "a", "b"]


def test_a_long_record_is_mapped_not_loaded(tmp_path: Path) -> None:
    for name, save in (("x.npy", np.save), ("x.npz", lambda path, x: np.savez(path, signal=x))):
        save(tmp_path / name, np.zeros((100_000, 2), np.int16))
        source = signal.open_source(str(tmp_path / name), reading=Reading(window=1000))
        values = source.records.values
        while values.base is not None and not isinstance(values, np.memmap):
            values = values.base
        assert isinstance(values, np.memmap), name
        assert source.read(99).shape == (2, 1000) and source.array is None


def test_one_of_several_arrays_is_asked_for(tmp_path: Path) -> None:
    path = str(tmp_path / "x.npz")
    np.savez(path, left=np.zeros((4, 20)), right=np.ones((4, 20)))
    with pytest.raises(UserError, match=r"several arrays: left, right\. Name one, as in .*::left"):
        signal.open_source(path)
    assert signal.open_source(f"{path}::right").read(0).mean() == 1
    with pytest.raises(UserError, match=r"unknown array in .* 'rigt'"):
        signal.open_source(f"{path}::rigt")


def test_what_lies_beside_the_series_is_used(tmp_path: Path) -> None:
    path = str(tmp_path / "x.npz")
    x = np.random.default_rng(0).normal(size=(4, 2, 20))
    np.savez(path, x_train=x, y_train=np.array([1, 0, 1, 0]), fs=np.array(50), leads=np.array(["I", "II"]))
    source = signal.open_source(path)
    assert source.labels == ["1", "0", "1", "0"] and source.rate == 50 and source.names_of_channels == ("I", "II")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.zeros((5, 3, 20), complex), "complex128; floats and whole numbers are read"),
        (np.zeros((5, 3, 20, 2)), "5 x 3 x 20 x 2; series are"),
        (np.zeros((0, 20)), "0 x 20; series are"),
        (np.zeros(50_000), r"one long record\. Give --reading\.window STEPS"),
        (np.zeros((50_000, 3)), r"one long record\. Give --reading\.window STEPS .* save it as \[n 1 t\]"),
    ],
)
def test_arrays_that_are_no_series_say_what_to_do(values: np.ndarray, said: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(UserError, match=said):
        signal.open_source(str(tmp_path / "x.npy"))


def test_arrays_of_pixels_are_left_to_images(tmp_path: Path) -> None:
    for x in (np.zeros((5, 20, 30), np.uint8), np.zeros((5, 20, 20, 3), np.float32)):
        np.save(tmp_path / "x.npy", x)
        assert signal.reads(str(tmp_path / "x.npy")) == 0
    np.save(tmp_path / "x.npy", np.zeros((5, 28, 28), np.float32))
    with pytest.raises(UserError, match="could be image and signal"):
        modalities.of(str(tmp_path / "x.npy"))


# .ts -----------------------------------------------------------------------------------------------------------------


def test_a_ts_file_gives_its_series_and_labels(tmp_path: Path) -> None:
    path = ts(tmp_path, "1,2,?:10,20,30:a\n4,5,6,7:1,2:b\n")
    first, second = read_all(path)
    assert np.array_equal(first, [[1, 2, np.nan], [10, 20, 30]], equal_nan=True)
    assert np.array_equal(second, [[4, 5, 6, 7], [1, 2, np.nan, np.nan]], equal_nan=True)
    source = signal.open_source(path)
    assert source.labels == ["a", "b"] and signal.reads(path) == 1
    stats, unreadable = signal.measure(source)
    assert (stats.shortest, stats.longest, stats.channels, unreadable) == (3, 4, 2, {})
    assert stats.missing == pytest.approx(3 / 14)


def test_a_ts_file_without_labels_has_none(tmp_path: Path) -> None:
    path = ts(tmp_path, "1,2,3:4,5,6\n", "@classLabel false\n")
    assert signal.open_source(path).labels is None and read_all(path)[0].shape == (2, 3)


def test_cases_of_a_ts_file_that_cannot_be_read_are_listed_not_lost(tmp_path: Path) -> None:
    path = ts(tmp_path, "1,2:3,4:a\n1,2:a\n1,x:3,4:b\n?,?:?,?:b\n5,6:7,8:b\n", "@dimensions 2\n@classLabel true a b\n")
    source = signal.open_source(path)
    stats, unreadable = signal.measure(source)
    assert len(source) == 5 and stats.items == 2
    assert unreadable == {
        1: "line 8: 1 dimensions where there are 2",
        2: "line 9: 'x' is no number",
        3: "it has no value",
    }


@pytest.mark.parametrize(
    ("cases", "head", "said"),
    [
        ("(0,1),(1,2):a\n", "@timeStamps true\n", "time stamps .*only even steps are read. Resample"),
        ("1,2,3\n", "@classLabel true a\n", "1 of 1 lines .* have no ':' and so no label"),
        ("", "@classLabel true a\n", "no series follow @data"),
    ],
)
def test_ts_files_that_are_refused(cases: str, head: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        signal.open_source(ts(tmp_path, cases, head))


def test_typescript_and_films_are_no_series(tmp_path: Path) -> None:
    code = written(tmp_path, "import { x } from 'y';\nexport const z = 1;\n", "code.ts")
    (tmp_path / "film.ts").write_bytes(b"\x47\x40\x00" * 1000)
    assert signal.reads(code) == 0 and signal.reads(str(tmp_path / "film.ts")) == 0
    with pytest.raises(UserError, match="no file of series"):
        signal.open_source(code)


def test_the_archive_s_sets_are_read(shared: Path) -> None:
    lengths = {"JapaneseVowels": (12, 7, 26, 9), "BasicMotions": (6, 100, 100, 4), "OSULeaf": (1, 427, 427, 6)}
    for name, (channels, shortest, longest, classes) in lengths.items():
        source = signal.open_source(str(shared / "data" / "ucr_series" / name / f"{name}_TRAIN.ts"))
        stats, unreadable = signal.measure(source)
        assert (stats.channels, stats.shortest, stats.longest) == (channels, shortest, longest) and not unreadable
        assert len(set(source.labels or [])) == classes


# Tables --------------------------------------------------------------------------------------------------------------

IDS = "id,x,y,label\nb,1,10,up\na,5,50,down\nb,2,20,up\na,6,,down\nb,3,30,up\n"


def test_ids_out_of_order_come_together(tmp_path: Path) -> None:
    path = written(tmp_path, IDS)
    source = signal.open_source(path)
    assert [source.name(i) for i in range(2)] == ["b", "a"] and source.labels == ["up", "down"]
    assert source.names_of_channels == ("x", "y") and source.read(0).tolist() == [[1, 2, 3], [10, 20, 30]]
    assert np.array_equal(source.read(1), [[5, 6], [50, np.nan]], equal_nan=True)
    assert signal.reads(path) == 5


def test_a_row_without_any_value_is_a_step_that_is_missing(tmp_path: Path) -> None:
    (values,) = read_all(written(tmp_path, "x,y\n1,2\n,\n3,4\n\n"), window=3)
    assert np.array_equal(values, [[1, np.nan, 3], [2, np.nan, 4]], equal_nan=True)
    (values,) = read_all(written(tmp_path, "id,x\na,2\na,4\n,\n"))  # as spreadsheets end
    assert values.tolist() == [[2, 4]]


def test_a_table_of_series_is_not_silently_taken_for_rows(tmp_path: Path) -> None:
    rows = [(k // 50, k % 50, k * 0.5, -k) for k in range(5000)]
    (tmp_path / "many").mkdir()
    text = "id,time,x,y\n" + "".join(f"{i},{t},{x},{y}\n" for i, t, x, y in rows)
    columns = dict(zip(("id", "time", "x", "y"), zip(*rows, strict=True), strict=True))
    packed = parquet(tmp_path / "p.parquet", **columns)
    for path in (written(tmp_path, text), str(Path(written(tmp_path / "many", text)).parent), packed):
        with pytest.raises(UserError, match=r"could be .*signal.*--modality") as said:
            modalities.of(path)
        assert "table" in str(said.value)


def test_a_label_is_named_and_never_a_channel(tmp_path: Path) -> None:
    path = written(tmp_path, "id,x,walking\n" + "".join(f"{k // 5},{k},{k // 5 % 2}\n" for k in range(20)))
    source = signal.open_source(path, "walking")
    assert source.names_of_channels == ("x",) and source.labels == ["0", "1", "0", "1"]
    stats, _ = signal.measure(source)
    # Without the label its column is a channel, unless it is left out; what an encoder learned from is found by name.
    assert signal.open_source(path).names_of_channels == ("x", "walking")
    assert signal.open_source(path, reading=Reading(leave_out=("walking",))).names_of_channels == ("x",)
    later = signal.open_source(path)
    later.fit(stats)
    assert later.channels == 1 and later.read(0).tolist() == source.read(0).tolist()
    with pytest.raises(UserError, match=r"unknown column of .* 'walkng'. Did you mean 'walking'"):
        signal.open_source(path, "walkng")


def test_windows_take_the_label_of_most_of_their_steps(tmp_path: Path) -> None:
    rows = "".join(f"{k},{'rest' if k < 9 else 'run'}\n" for k in range(16))
    path = written(tmp_path, "x,activity\n" + rows)
    source = signal.open_source(path, "activity", Reading(window=8))
    assert source.labels == ["rest", "run"] and source.channels == 1
    by_id = written(tmp_path, "id,x,label\n1,1,a\n1,2,b\n", "two.csv")
    with pytest.raises(UserError, match=r"series 1 have several labels \(a, b\)"):
        _ = signal.open_source(by_id).labels


def test_rows_are_put_in_the_order_of_time(tmp_path: Path) -> None:
    path = written(tmp_path, "time,id,x\n2.0,a,3\n0.0,a,1\n1.0,a,2\n0,b,7\n1,b,8\n")
    source = signal.open_source(path)
    assert source.read(0).tolist() == [[1, 2, 3]] and source.read(1).tolist() == [[7, 8]] and source.rate == 1


@pytest.mark.parametrize("stamp", ["2024-05-01T12:00:{:09.6f}", "2024-05-01 12:00:{:09.6f}+02:00"])
def test_dates_tell_the_rate_although_they_are_rounded(stamp: str, tmp_path: Path) -> None:
    rows = "".join(f"{stamp.format(round(k / 360, 3))},{k}\n" for k in range(100))
    source = signal.open_source(written(tmp_path, "timestamp,x\n" + rows), reading=Reading(window=50))
    assert source.rate == pytest.approx(360, rel=0.01) and len(source) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("time,x\n0,1\n1,2\n2.4,3\n3,4\n", "steps of 'time' differ, from 0.6 to 1.4; only even .*resample.*np.interp"),
        ("time,x\n0,1\n1,2\n1,3\n2,4\n", r"two rows have one time \(1\)"),
        ("time,x\nsoon,1\n1,2\n", r"'soon' in the time column 'time' \(row 2\) is no time"),
        ("id,time,x\na,0,1\na,1,1\nb,0,1\nb,2,1\n", "different rates, a step every 1.5 and every"),
        ("x,y\n1,2\n3\n4,5\n", r"1 of 4 rows \(3\) do not have 2 cells"),
        ("x,y\n", "only a header, no rows"),
        ("", "this table is empty"),
        ("1,2\n3,4\n", r"the first line has numbers, not the names .*\.npy \[n t\]"),
        ("x,mood\n1,good\n2,bad\n", r"column 'mood' holds 'good' \(row 2\), which is no number. .*leave-out mood"),
        ("x,x\n1,2\n", "have the same name"),
        ("id,x\n,1\na,2\n", "1 of 2 rows .* have no id"),
        ("id\na\na\n", "no column is left for a channel"),
    ],
)
def test_tables_that_are_refused_say_where(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        signal.open_source(written(tmp_path, text), reading=WINDOW if "id" not in text else None)


def test_a_table_without_ids_or_window_asks_which_it_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"its 3 rows are one long record, or many series\? Give --reading.window"):
        signal.open_source(written(tmp_path, "x,y\n1,2\n3,4\n5,6\n"))


def test_files_without_columns_are_asked_for_none(tmp_path: Path) -> None:
    for path in (make(tmp_path), ts(tmp_path, "1,2:a\n")):
        with pytest.raises(UserError, match=r"--reading\.columns is for tables"):
            signal.open_source(path, reading=Reading(columns=("x",)))


def test_columns_are_chosen_and_ordered(tmp_path: Path) -> None:
    path = written(tmp_path, IDS)
    assert signal.open_source(path, reading=Reading(columns=("y", "x"))).read(0).tolist() == [[10, 20, 30], [1, 2, 3]]
    assert signal.open_source(path, reading=Reading(leave_out=("x",))).names_of_channels == ("y",)
    with pytest.raises(UserError, match=r"unknown column of .* 'z'"):
        signal.open_source(path, reading=Reading(columns=("z",)))
    with pytest.raises(UserError, match="x is named as a channel and as something else"):
        signal.open_source(path, reading=Reading(columns=("x",), leave_out=("x",)))


def parquet(path: Path, groups: int = 1, **columns: object) -> str:
    table = pa.table(columns)
    pq.write_table(table, path, row_group_size=-(-len(table) // groups))
    return str(path)


def test_parquet_is_read_by_row_groups(tmp_path: Path) -> None:
    x = np.arange(1000.0)
    path = parquet(tmp_path / "x.parquet", 10, x=x, y=-x)
    source = signal.open_source(path, reading=Reading(window=60))
    assert len(source) == 16 and source.channels == 2
    for i in range(16):
        assert np.array_equal(source.read(i), np.stack([x, -x])[:, 60 * i : 60 * i + 60].astype(np.float32)), i
    assert len(source.records.held) <= 2, "a long record fills the memory"
    # Items are taken in runs that one or two groups hold.
    blocks = source.blocks
    assert blocks is not None and blocks[0] == 0 and (np.diff(blocks) > 0).all() and len(blocks) == 10
    assert [source.place(int(i))[1] // 100 for i in blocks] == list(range(10))


def test_parquet_with_ids_in_runs_and_apart(tmp_path: Path) -> None:
    near = parquet(
        tmp_path / "near.parquet", 3, id=["a"] * 5 + ["b"] * 4, x=list(range(9)), label=["u"] * 5 + ["v"] * 4
    )
    apart = parquet(tmp_path / "apart.parquet", 3, id=["a", "b"] * 4, x=[0, None, 2, 3, 4, 5, 6, 7])
    source = signal.open_source(near)
    assert source.read(1).tolist() == [[5, 6, 7, 8]] and source.labels == ["u", "v"] and signal.reads(near) == 9
    first, second = read_all(apart)
    assert first.tolist() == [[0, 2, 4, 6]] and np.array_equal(second, [[np.nan, 3, 5, 7]], equal_nan=True)


def test_times_of_parquet_are_numbers_dates_or_texts(tmp_path: Path) -> None:
    seconds = np.arange(12) / 4
    dates = (np.datetime64("2024-05-01T00:00:00", "us") + (seconds * 1e6).astype("timedelta64[us]")).tolist()
    for name, times in (("n", seconds), ("d", dates), ("t", [str(date) for date in dates])):
        path = parquet(tmp_path / f"{name}.parquet", 3, time=times, x=list(range(12)))
        source = signal.open_source(path, reading=Reading(window=6))
        assert source.rate == pytest.approx(4) and source.read(1).tolist() == [[6, 7, 8, 9, 10, 11]], name
    path = parquet(tmp_path / "lost.parquet", 1, time=[0.0, None, 2.0], x=[1, 2, 3])
    with pytest.raises(UserError, match=r"'None' in the time column 'time' \(row 3\) is no time"):
        signal.open_source(path, reading=WINDOW)


def test_parquet_that_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", x=[1.0, 2.0], note=["a", "b"])
    with pytest.raises(UserError, match="column 'note' is of type string, no number"):
        signal.open_source(path, reading=WINDOW)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(UserError, match="no Parquet file, or a damaged one"):
        signal.open_source(str(tmp_path / "bad.parquet"), reading=WINDOW)


# Folders -------------------------------------------------------------------------------------------------------------


def test_files_of_a_folder_are_a_record_each_and_folders_are_labels(tmp_path: Path) -> None:
    for kind in ("calm", "wild"):
        (tmp_path / kind).mkdir()
        for k in range(2):
            written(tmp_path / kind, "x,y\n" + f"{k},{k}\n" * (3 + k), f"{k}.csv")
    source = signal.open_source(str(tmp_path))
    assert source.labels == ["calm", "calm", "wild", "wild"] and source.name(3) == "wild/1.csv"
    assert source.read(3).shape == (2, 4)
    assert signal.open_source(str(tmp_path / "*" / "0.csv")).labels == ["calm", "wild"]
    (tmp_path / "wild" / "9.csv").write_text("x\n1\n")
    with pytest.raises(UserError, match=r"wild/9.csv and calm/0.csv have different columns \(y\)"):
        signal.open_source(str(tmp_path))


def test_arrays_of_a_folder_have_a_step_a_row(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((50, 2)))
    np.save(tmp_path / "b.npy", np.ones((60, 2)))
    source = signal.open_source(str(tmp_path))
    assert [source.read(i).shape for i in range(2)] == [(2, 50), (2, 60)] and signal.reads(str(tmp_path)) == 2
    np.save(tmp_path / "c.npy", np.ones((60, 3)))
    with pytest.raises(UserError, match=r"c.npy has 3 channels and a.npy has 2"):
        signal.open_source(str(tmp_path))


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_few_files_of_a_folder_are_open_at_once(kind: str, tmp_path: Path) -> None:
    for k in range(20):
        x = np.full(30, float(k))
        np.save(tmp_path / f"{k:02d}.npy", x) if kind == "npy" else parquet(tmp_path / f"{k:02d}.parquet", x=x)
    source = signal.open_source(str(tmp_path))
    parts = source.records.parts
    for i in [*range(20), 0, 7]:
        assert (source.read(i) == i).all()
        opened = [part for part in parts if (part.loaded if kind == "npy" else part.file) is not None]
        assert 1 <= len(opened) <= 16


def test_places_with_nothing_to_read_say_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        signal.open_source(str(tmp_path / "nowhere.csv"))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"no series here, only 1 \.txt"):
        signal.open_source(str(tmp_path))
    ts(tmp_path, "1,2:a\n", name="A_TRAIN.ts")
    ts(tmp_path, "1,2:a\n", name="A_TEST.ts")
    with pytest.raises(UserError, match=r"2 files \(A_TEST.ts, A_TRAIN.ts\); which one\?"):
        signal.open_source(str(tmp_path))
    with pytest.raises(UserError, match="no source of series"):
        signal.open_source(str(tmp_path / "notes.txt"))


# Labels --------------------------------------------------------------------------------------------------------------


def test_labels_come_from_arrays_by_item_record_or_step(tmp_path: Path) -> None:
    path, labels = labelled(tmp_path)
    found = signal.open_source(path, labels).labels
    assert found is not None and len(found) == 48 and found[:3] == ["sine", "square", "ramp"]
    record = str(tmp_path / "r.npz")
    np.savez(record, x=np.zeros((64, 2)), step=np.repeat([0, 1], 32), few=np.zeros(3, int))
    assert signal.open_source(record, f"{record}::step", WINDOW).labels == ["0", "0", "1", "1"]
    with pytest.raises(UserError, match=r"3 labels for 4 items of .* 64 steps"):
        signal.open_source(record, f"{record}::few", WINDOW)


def test_labels_come_from_a_csv_by_name_of_item_or_record(tmp_path: Path) -> None:
    path = written(tmp_path, IDS)
    labels = written(tmp_path, "path,label\na,low\nb,high\n", "labels.csv")
    assert signal.open_source(path, labels).labels == ["high", "low"]
    windows = written(tmp_path, "path,label\nb,high\na,low\nb@2,top\n", "windows.csv")
    assert signal.open_source(path, windows, Reading(window=2, stride=1)).labels == ["high", "high", "low"]
    with pytest.raises(UserError, match=r"a has two labels, low and mid\."):
        signal.open_source(path, written(tmp_path, "path,label\na,low\nb,high\na,mid\n", "two.csv"))
    with pytest.raises(UserError, match=r"1 of 2 series \(b\) have no label"):
        signal.open_source(path, written(tmp_path, "path,label\na,low\n", "few.csv"))


# Bad values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda x: x.__setitem__((2, 1, 5), np.inf), "channel 1 is infinite, or beyond float32, at step 5"),
        (lambda x: x.__setitem__((2, 0, 3), 1e39), "channel 0 is infinite, or beyond float32, at step 3"),
        (lambda x: x.__setitem__(2, np.nan), "it has no value"),
    ],
)
def test_a_series_that_cannot_be_used_is_one_unreadable_item(
    spoil: Callable[[np.ndarray], None], said: str, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).normal(size=(4, 2, 20))
    spoil(x)
    np.save(tmp_path / "x.npy", x)
    source = signal.open_source(str(tmp_path / "x.npy"))
    stats, unreadable = signal.measure(source)
    assert stats.items == 3 and list(unreadable) == [2] and said in unreadable[2]
    with pytest.raises(UnreadableItem, match=said):
        source.read(2)


def test_empty_and_constant_channels_are_named_and_safe(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(4, 3, 20)).astype(np.float32)
    x[:, 0], x[:, 2] = np.nan, 7
    np.savez(tmp_path / "x.npz", x=x, names=np.array(["dead", "live", "flat"]))
    stats, unreadable = signal.measure(signal.open_source(str(tmp_path / "x.npz")))
    assert not unreadable and stats.empty == (0,) and stats.constant == (2,)
    assert stats.std[0] == stats.std[2] == 1 and stats.mean[0] == 0 and stats.mean[2] == 7
    assert stats.summary == "3 channels, 20 steps, 33.3% missing, constant: flat, empty: dead"


def test_values_that_float32_cannot_hold_apart_are_refused(tmp_path: Path) -> None:
    x = np.int64(2**53) + np.arange(80).reshape(4, 20)
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(UserError, match=r"channel 0 varies by 23.1 about 9.0072e.15, which float32 does not hold"):
        signal.measure(signal.open_source(str(tmp_path / "x.npy")))
    rows = "".join(f"a,{1714521600000 + k}\n" for k in range(20))  # milliseconds since 1970
    with pytest.raises(UserError, match=r"column 'ms' varies by .* float32 does not hold"):
        signal.open_source(written(tmp_path, "id,ms\n" + rows))


def test_very_short_series_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(6, 3)))
    source = signal.open_source(str(tmp_path / "x.npy"))
    stats, _ = signal.measure(source)
    assert stats.longest == 3 and signal.default_size(stats, False) == 8 and source.read(0).shape == (1, 3)


def test_measure_equals_numpy(tmp_path: Path) -> None:
    path = make(tmp_path)
    source = signal.open_source(path)
    stats, unreadable = signal.measure(source)
    x = np.load(path)["x"].astype(np.float64)
    assert not unreadable and stats.items == 32 and stats.uniform
    assert np.allclose(stats.mean, np.nanmean(x, axis=(0, 2))) and np.allclose(stats.std, np.nanstd(x, axis=(0, 2)))
    assert stats.missing == pytest.approx(np.isnan(x).mean())
    far = x + 1e4  # sums are about the first value: nothing is lost far from zero
    np.save(tmp_path / "far.npy", far)
    assert np.allclose(signal.measure(signal.open_source(str(tmp_path / "far.npy")))[0].std, stats.std, rtol=1e-3)


def test_channels_are_found_by_name_or_refused(tmp_path: Path) -> None:
    stats, _ = signal.measure(signal.open_source(written(tmp_path, IDS)))
    turned = signal.open_source(written(tmp_path, "id,y,x\nb,10,1\nb,20,2\n", "turned.csv"))
    turned.fit(stats)
    assert turned.read(0).tolist() == [[1, 2], [10, 20]]
    other = signal.open_source(written(tmp_path, "id,x,z\nb,10,1\nb,20,2\n", "other.csv"))
    with pytest.raises(UserError, match="has no channel y; wanted are x, y, and it has x, z"):
        other.fit(stats)
    np.save(tmp_path / "x.npy", np.zeros((4, 3, 20)))
    with pytest.raises(UserError, match="has 3 channels; wanted are 2"):
        signal.open_source(str(tmp_path / "x.npy")).fit(stats)


def test_another_rate_is_refused(tmp_path: Path) -> None:
    def at(rate: float) -> SignalSource:
        np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(4, 1, 20)), fs=np.array(rate))
        return signal.open_source(str(tmp_path / "x.npz"))

    stats, _ = signal.measure(at(100))
    at(102).fit(stats)
    at(0).fit(stats)
    with pytest.raises(UserError, match=r"has 250 steps a second; wanted are 100, .*resample_poly"):
        at(250).fit(stats)


@pytest.mark.parametrize("kind", ["npz", "csv", "parquet", "apart", "ts"])
def test_sources_survive_pickling(kind: str, tmp_path: Path) -> None:
    path = {
        "npz": lambda: make(tmp_path),
        "csv": lambda: written(tmp_path, IDS),
        "parquet": lambda: parquet(tmp_path / "x.parquet", 2, id=list("aaabbb"), x=list(range(6))),
        "apart": lambda: parquet(tmp_path / "y.parquet", 2, id=list("ababab"), x=list(range(6))),
        "ts": lambda: ts(tmp_path, "1,2,3:a\n4,5:b\n"),
    }[kind]()
    source = signal.open_source(path)
    source.fit(signal.measure(source)[0])
    packed = pickle.dumps(source)
    copy = pickle.loads(packed)
    assert len(packed) < 5000, "a source carries its series with it"
    for i in range(len(source)):
        assert np.array_equal(copy.read(i), source.read(i), equal_nan=True) and copy.name(i) == source.name(i)


def test_series_of_the_made_set_differ(tmp_path: Path) -> None:
    table = written_table(tmp_path)
    source = signal.open_source(table, "kind")
    assert source.channels == 2 and source.rate == pytest.approx(50) and len(set(source.labels or [])) == 3
    assert signal.reads(table) == 0, "a column of text that is no usual label is for the user to explain"
    assert not np.allclose(series(0, 1), series(1, 1)) and modalities.of(make(tmp_path)).name == "signal"


def test_a_damaged_group_met_while_labels_are_read_is_told_in_one_line(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", 3, x=list(range(900)), label=[f"class {k % 7}" for k in range(900)])
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(1)
    data = bytearray(Path(path).read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    Path(path).write_bytes(data)
    with pytest.raises(
        UserError, match="group 1 of its rows, column 'label', cannot be read: the file is dam"
    ) as error:
        signal.open_source(path, reading=Reading(window=30))
    assert "\n" not in str(error.value)


def test_an_encoder_that_learned_from_columns_reads_arrays_too(tmp_path):
    learned = Reading(columns=("x", "y"), id="who", time="when", leave_out=("label",), window=16)
    assert signal.reading_for(learned, "more.csv") == learned
    assert signal.reading_for(learned, "more.npz::x_train") == Reading(window=16)
    np.save(tmp_path / "more.npy", np.zeros((3, 40), np.float32))
    with pytest.raises(UserError, match=r"--reading.columns is for tables; .*more.npy has no columns"):
        signal.open_source(str(tmp_path / "more.npy"), reading=learned)
    assert len(signal.open_source(str(tmp_path / "more.npy"), reading=signal.reading_for(learned, "more.npy"))) == 6
