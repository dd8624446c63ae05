import json

import pytest

from selfsame.engine.watch import Watch, duration, read_log, say
from selfsame.errors import UserError


def rows(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_progress_and_words_go_to_stderr_and_stdout_stays_free(tmp_path, capsys):
    watch = Watch(tmp_path, 10, 0, 32)
    with watch.progress():
        say("reading photos")
        watch.tick(1)
        watch.row(1, loss=0.5, verdict="healthy")
    shown = capsys.readouterr()
    assert shown.out == "" and "reading photos" in shown.err


def test_words_in_brackets_are_shown_as_they_are(capsys):
    say("cannot read [red]x[/red].png: photos[1].jpg")
    assert "[red]x[/red].png: photos[1].jpg" in capsys.readouterr().err


def test_numbers_that_are_not_finite_are_null_so_that_every_line_is_json(tmp_path):
    Watch(tmp_path, 10, 0, 32).row(3, loss=float("nan"), lr=float("inf"), rank=2.5)

    def refuse(constant):
        raise ValueError(constant)

    line = (tmp_path / "log.jsonl").read_text().splitlines()[0]
    assert json.loads(line, parse_constant=refuse) == {"step": 3, "loss": None, "lr": None, "rank": 2.5}


def test_small_numbers_keep_six_digits(tmp_path):
    Watch(tmp_path, 10, 0, 32).row(1, lr=1.23456789e-9, loss=1234567.8)
    assert rows(tmp_path) == [{"step": 1, "lr": 1.23457e-9, "loss": 1234570.0}]


def test_rows_after_the_step_a_run_goes_on_from_are_forgotten(tmp_path):
    watch = Watch(tmp_path, 10, 0, 32)
    for step in (0, 2, 4, 6):
        watch.row(step, loss=1.0)
    Watch(tmp_path, 10, 4, 32)
    assert [row["step"] for row in rows(tmp_path)] == [0, 2, 4]
    Watch(tmp_path, 10, 0, 32)  # begun anew: step 0 will be looked at again
    assert rows(tmp_path) == []


def test_a_last_line_cut_short_is_left_out_and_mended(tmp_path):
    watch = Watch(tmp_path, 10, 0, 32)
    watch.row(1, loss=1.0)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert [row["step"] for row in read_log(tmp_path / "log.jsonl")] == [1]
    Watch(tmp_path, 10, 1, 32).row(2, loss=0.5)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]


def test_a_log_that_does_not_exist_is_empty(tmp_path):
    assert read_log(tmp_path / "log.jsonl") == []


def test_a_log_that_cannot_be_written_is_said_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*log.jsonl: a part of this path is a file"):
        Watch(tmp_path / "file", 10, 0, 32)


def test_the_rate_counts_items_since_this_process_began(tmp_path, monkeypatch):
    clock = iter([100.0, 102.0])
    monkeypatch.setattr("selfsame.engine.watch.time.monotonic", lambda: next(clock))
    watch = Watch(tmp_path, 1000, 500, 32)
    assert watch.rate(510) == 10 * 32 / 2


def test_tensorboard_gets_the_numbers_and_not_the_words(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watch = Watch(tmp_path, 10, 0, 32)
    with watch.progress():
        watch.row(2, loss=0.25, verdict="healthy")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(2, 0.25)]


def test_what_is_left_is_told_in_seconds_below_a_minute_and_a_half():
    seconds = (40, 89, 100, 6000, 400_000)
    assert [duration(s) for s in seconds] == ["40 s", "89 s", "2 min", "1.7 h", "4.6 days"]
