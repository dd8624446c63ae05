import csv
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import selfsame as ss
from selfsame import methods
from selfsame.engine import plan
from selfsame.engine.health import ADVICE
from selfsame.engine.loop import Interrupted
from selfsame.engine.state import LOCK, claimed, saved
from selfsame.errors import TrainingStopped
from selfsame.jobs import pretraining
from selfsame.jobs.data import open_data
from selfsame.jobs.pretrain import Pretrain
from selfsame.jobs.pretraining import Pretraining
from tests import nets
from tests.conftest import QUICK, paint

LEFT = {"README.md", "encoder.json", "encoder.safetensors", "job.json", "log.jsonl", "plan.json", "report.html"}
LEFT |= {"result.json", "skipped.csv", "report", "state"}


def folder_of(root, count, side=24):
    root.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        Image.fromarray(paint(k % 4, k, side)).save(root / f"{k:03d}.png")
    return root


def cut_short(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def refused(data, message, **settings):
    """The one line in which a run on this data with these settings is refused."""
    with pytest.raises(ss.UserError, match=message) as error:
        ss.pretrain(data, **{**QUICK, **settings})
    assert "\n" not in str(error.value)
    return str(error.value)


def listed(folder):
    """The names in skipped.csv; each must have its reason."""
    rows = list(csv.reader((folder / "skipped.csv").read_text().splitlines()))
    assert rows[0] == ["name", "reason"] and all(reason for _, reason in rows)
    return [name for name, _ in rows[1:]]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def log_of(run):
    return [{k: v for k, v in row.items() if k != "items_per_second"} for row in run.log]


# A run ---------------------------------------------------------------------------------------------------------------


def test_a_finished_run_holds_all_that_is_promised(finished):
    run = ss.Run(finished)
    assert {path.name for path in finished.iterdir()} >= LEFT
    assert not list(finished.rglob("*.tmp"))
    assert run.result["advice"] == ADVICE[run.verdict]
    assert run.result["steps"] == run.plan["loop"]["steps"] == run.log[-1]["step"] == 8
    assert run.result["items"] == 64 and run.result["skipped"] == 0
    assert "<html" in (finished / "report.html").read_text()[:200].lower()


def test_the_log_counts_every_step_once_and_the_labels_of_the_folders_are_nowhere_in_it(finished):
    steps = [row["step"] for row in ss.Run(finished).log if "loss" in row]
    assert steps == sorted(set(steps)) and steps[-1] == 8
    assert all("knn" not in row for row in ss.Run(finished).log)


def test_a_loaded_encoder_gives_the_same_outputs_to_the_bit(finished):
    x = torch.rand(5, 3, 16, 16)
    one, two = ss.load(finished), ss.load(str(finished))
    assert not one.training
    with torch.no_grad():
        expected = one(x)
        assert torch.equal(two(x), expected)
        assert torch.equal(ss.Run(finished).encoder(x), expected)
    state = torch.load(saved(finished / "state")[-1], weights_only=True)["learner"]
    kept = {f"encoder.{name}": value for name, value in one.state_dict().items()}
    assert kept.keys() <= state.keys() and all(torch.equal(state[name], kept[name]) for name in kept)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(finished, pictures, tmp_path):
    again = ss.pretrain(pictures, out=tmp_path / "again", **QUICK)
    assert log_of(again) == log_of(ss.Run(finished))
    weights = [ss.load(folder).state_dict() for folder in (finished, again.folder)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    other = ss.pretrain(pictures, out=tmp_path / "other", **{**QUICK, "seed": 1})
    assert log_of(other) != log_of(again)


def test_a_finished_run_is_left_as_it_is_when_it_is_asked_for_again(finished, pictures):
    before = contents(finished)
    assert ss.pretrain(pictures, out=finished, **QUICK).folder == finished
    assert contents(finished) == before


def test_a_run_that_was_stopped_goes_on_to_the_same_end(finished, pictures, tmp_path, monkeypatch):
    made, make_views = [], pretraining.Pretraining.make_views

    def stopping(self, samples, draws):
        made.append(1)
        if len(made) == 2 + 5:  # two in the trial step
            os.kill(os.getpid(), signal.SIGTERM)
        return make_views(self, samples, draws)

    monkeypatch.setattr(pretraining.Pretraining, "make_views", stopping)
    with pytest.raises(Interrupted, match="stopped after step 5; the state is saved"):
        ss.pretrain(pictures, out=tmp_path / "run", **QUICK)
    unfinished = ss.Run(tmp_path / "run")
    assert unfinished.verdict == "unfinished" and "unfinished" in repr(unfinished)
    with pytest.raises(ss.UserError, match="has no encoder yet: its run is unfinished"):
        ss.load(tmp_path / "run")
    monkeypatch.undo()
    run = ss.pretrain(pictures, out=tmp_path / "run", **{**QUICK, "workers": 1})  # workers may change
    assert log_of(run) == log_of(ss.Run(finished))
    weights = [ss.load(folder).state_dict() for folder in (finished, run.folder)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


CLUSTERED = {**QUICK, "epochs": 3, "method": {"name": "deepcluster", "clusters": 4, "every": 1}}


def test_a_run_that_looks_at_all_items_is_stopped_where_a_pass_ends_and_goes_on_to_the_same_end(pictures, tmp_path):
    """There are 61 items to learn from: a pass begins within the fourth step, and its look comes before the fifth."""
    whole = ss.pretrain(pictures, out=tmp_path / "whole", **CLUSTERED)
    assert whole.plan["method_settings"]["clusters"] == 4
    looks, survey = [], pretraining.Pretraining.survey

    def stopping(self, steps):
        looks.append(steps)
        if len(looks) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        yield from survey(self, steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining.Pretraining, "survey", stopping)
        with pytest.raises(Interrupted, match="stopped after step 5"):
            ss.pretrain(pictures, out=tmp_path / "run", **CLUSTERED)
    run = ss.pretrain(pictures, out=tmp_path / "run", **CLUSTERED, accumulate=1)
    assert log_of(run) == log_of(whole)
    ends = [torch.load(saved(one.folder / "state")[-1], weights_only=True)["learner"] for one in (whole, run)]
    assert int(ends[0]["clusterings"]) == 3
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_method_with_more_clusters_than_items_is_refused_before_it_begins(pictures, tmp_path):
    words = "--method deepcluster does not go together with this run. 900 clusters are more than the"
    refused(pictures, words, out=tmp_path / "run", method={"name": "deepcluster", "clusters": 900})
    assert not (tmp_path / "run" / "plan.json").exists()


def test_more_outputs_than_items_are_told_of_before_it_begins(pictures, tmp_path, capsys):
    method = {"name": "dino", "out": 200, "targets": "centre", "part_views": 0, "hidden": 16, "narrow": 8}
    ss.pretrain(pictures, out=tmp_path / "run", **{**QUICK, "epochs": 1, "method": method})
    told = capsys.readouterr()
    assert "caution: 200 outputs are more than the" in " ".join((told.out + told.err).split())


def test_a_finished_run_is_extended_and_only_its_length_changes(finished, pictures, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    before = ss.Run(tmp_path / "run")
    ss.evaluate(before, pictures, protocols="knn", seeds=1, workers=0)
    assert "raw" in (before.folder / "README.md").read_text()
    planned, log = before.plan, log_of(before)
    after = ss.pretrain(pictures, out=tmp_path / "run", **{**QUICK, "epochs": 4})
    assert after.result["steps"] == 15 and log_of(after)[: len(log)] == log
    for field in ("batch", "lr", "weight_decay", "warmup", "optimizer", "log_every", "precision"):
        assert after.plan["loop"][field] == planned["loop"][field], field
    assert after.plan["method_settings"] == planned["method_settings"]
    assert {line["name"] for line in after.plan["lines"]} == {line["name"] for line in planned["lines"]}
    # The numbers were those of the shorter run.
    assert not (after.folder / "evaluation.json").exists()
    assert "| raw" not in (after.folder / "README.md").read_text()
    refused(pictures, r"planned for 15 steps; --epochs now asks for 8. A run can be extended", out=tmp_path / "run")


def test_a_longer_run_keeps_the_batch_size_that_the_rules_gave_the_shorter_one(pictures, tmp_path, monkeypatch):
    """The rules alone would give a longer run a larger batch, and so fewer steps than it has done."""
    settings = {key: value for key, value in QUICK.items() if key != "batch_size"}
    short = ss.pretrain(pictures, out=tmp_path / "run", **{**settings, "epochs": 1})
    batch, steps = short.plan["loop"]["batch"], short.result["steps"]
    monkeypatch.setattr(plan, "LEAST_STEPS", 1)
    long = ss.pretrain(pictures, out=tmp_path / "run", **{**settings, "epochs": 3})
    assert long.plan["loop"]["batch"] == batch == 16
    assert long.result["steps"] == pytest.approx(3 * steps, abs=2)


def test_a_run_that_ended_while_its_report_was_written_gets_its_report(finished, pictures, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    before = (tmp_path / "run" / "result.json").read_bytes()
    ss.pretrain(pictures, out=tmp_path / "run", **QUICK)
    assert (tmp_path / "run" / "report.html").exists()
    assert (tmp_path / "run" / "result.json").read_bytes() == before


def test_watching_with_labels_logs_their_accuracy_and_changes_nothing_else(finished, pictures, tmp_path):
    watched = ss.pretrain(pictures, out=tmp_path / "run", labels="folders", **QUICK)
    looks = [row for row in watched.log if "verdict" in row]
    assert looks and all(0 <= row["knn"] <= 1 for row in looks)
    rest = [{k: v for k, v in row.items() if k != "knn"} for row in log_of(watched)]
    assert rest == log_of(ss.Run(finished))
    best = tmp_path / "run" / "best"
    assert json.loads((best / "score.json").read_text())["knn"] == max(row["knn"] for row in looks)
    assert ss.load(best)(torch.rand(2, 3, 16, 16)).shape == (2, ss.load(watched).dim)
    assert ss.embed(best, pictures).vectors.shape == ss.embed(watched, pictures).vectors.shape


def test_a_longer_run_keeps_the_better_of_its_encoders(pictures, tmp_path):
    ss.pretrain(pictures, out=tmp_path / "run", labels="folders", **QUICK)
    best = tmp_path / "run" / "best"
    (best / "score.json").write_text('{"knn": 2.0}')  # better than can be
    before = contents(best)
    ss.pretrain(pictures, out=tmp_path / "run", labels="folders", **{**QUICK, "epochs": 4})
    assert contents(best) == before


def test_weights_of_a_file_are_where_a_run_starts(finished, pictures, tmp_path):
    settings = {**QUICK, "lr": 1e-12, "method": {**QUICK["method"], "momentum": 0.5}}
    run = ss.pretrain(pictures, out=tmp_path / "run", init=finished / "encoder.safetensors", **settings)
    start, end = ss.load(finished).state_dict(), ss.load(run).state_dict()
    learned = [name for name in start if name.endswith("weight")]
    assert learned and all(torch.allclose(start[name], end[name], atol=1e-4) for name in learned)


# Modules of one's own ------------------------------------------------------------------------------------------------


def test_a_module_given_in_python_is_trained_loaded_and_measured(pictures, tmp_path):
    torch.manual_seed(5)
    module = nets.tiny()
    run = ss.pretrain(pictures, out=tmp_path / "run", **{**QUICK, "encoder": module})
    assert run.job["encoder"] == "a Sequential given in Python"
    with pytest.raises(ss.UserError, match=r"pass it: ss.load\(run, encoder=module\)"):
        ss.load(run)
    loaded = ss.load(run, encoder=nets.tiny())
    x = torch.rand(4, 3, 16, 16)
    loaded_again = ss.load(run.folder, encoder=nets.tiny())
    with torch.no_grad():
        assert torch.equal(loaded(x), loaded_again(x))
    vectors = np.asarray(ss.embed(loaded, pictures, workers=0))
    assert vectors.shape == (64, 8) and np.isfinite(vectors).all()
    rows = ss.evaluate(run, pictures, encoder=nets.tiny(), seeds=1, workers=0, protocols="knn")
    assert {row["features"] for row in rows} == {"encoder", "random", "raw"}


def test_a_module_as_encoder_takes_one_line():
    encoder = ss.encoder(nn.Conv2d(1, 4, 3), size=12, channels=1)
    assert encoder(torch.rand(2, 1, 12, 12)).shape == (2, 4)


# Unreadable files ----------------------------------------------------------------------------------------------------


def test_a_few_unreadable_files_are_skipped_and_listed(tmp_path):
    data = folder_of(tmp_path / "data", 30)
    cut_short(data / "007.png")
    (data / "011.png").write_bytes(b"")
    message = refused(data, r"2 of 30 items of .* cannot be read \(6.7%; at most 1.0% ", out=tmp_path / "r")
    assert "007.png" in message and "011.png" in message and "raise --max-skipped" in message
    assert listed(tmp_path / "r") == ["007.png", "011.png"]
    run = ss.pretrain(data, out=tmp_path / "r", **QUICK, max_skipped=0.1)  # the list is no foreign file
    assert listed(run.folder) == ["007.png", "011.png"]
    assert run.result["skipped"] == 2 and run.result["items"] == 30


def test_the_whole_list_of_many_unreadable_files_is_in_the_file_and_the_message_stays_short(tmp_path):
    data = folder_of(tmp_path / "data", 12)
    for k in range(8):
        cut_short(data / f"{k:03d}.png")
    message = refused(data, "8 of 12 items", out=tmp_path / "r")
    assert "and 3 more" in message and "All are in" in message
    assert listed(tmp_path / "r") == [f"{k:03d}.png" for k in range(8)]


def test_a_file_that_breaks_while_it_trains_is_listed_and_survives_a_stop(pictures, tmp_path, monkeypatch):
    from selfsame.jobs import deciding

    data = shutil.copytree(pictures, tmp_path / "data")
    opened, made = deciding.open_data, []

    def breaking(*given):  # after all has been measured
        found = opened(*given)
        if not made:
            cut_short(data / "disc" / "03.png")
            made.append(1)
        return found

    monkeypatch.setenv("SELFSAME_CACHE", str(tmp_path / "caches"))  # not one that has the file already
    monkeypatch.setattr(deciding, "open_data", breaking)
    run = ss.pretrain(data, out=tmp_path / "run", **QUICK, max_skipped=0.05)
    assert listed(run.folder) == ["disc/03.png"]
    assert run.result["skipped"] == 1


# Bad input -----------------------------------------------------------------------------------------------------------


def test_a_path_that_does_not_exist_is_answered_with_the_nearest_one(pictures, tmp_path):
    near = pictures.parent / "picture"
    refused(near, r"no such file or folder. Did you mean '.*/pictures", out=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_an_empty_folder_and_one_of_other_files_are_refused(tmp_path):
    (tmp_path / "data").mkdir()
    refused(tmp_path / "data", "nothing here that selfsame reads. The folder is empty", out=tmp_path / "r")
    (tmp_path / "data" / "notes.pdf").write_bytes(b"a")
    refused(tmp_path / "data", "nothing here that selfsame reads. It holds 1 .pdf", out=tmp_path / "r")
    refused(tmp_path / "data", "no images in this folder. It holds 1 .pdf", out=tmp_path / "r", modality="image")


@pytest.mark.parametrize(("count", "words"), [(1, "1 readable item; at least 4"), (3, "3 readable items; at least 4")])
def test_too_few_images_are_refused(tmp_path, count, words):
    refused(folder_of(tmp_path / "data", count), words, out=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_images_smaller_than_the_crop_are_enlarged(tmp_path):
    data = folder_of(tmp_path / "data", 24, side=8)
    run = ss.pretrain(data, out=tmp_path / "r", **{**QUICK, "size": 20})
    assert run.plan["size"] == 20 and run.result["steps"] == 3


def test_a_folder_without_one_readable_file_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    for k in range(5):
        (tmp_path / "data" / f"{k}.png").write_bytes(b"no image")
    refused(tmp_path / "data", r"none of the 5 images can be read. The first, 0.png: ", out=tmp_path / "r")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "bjol"}, r"unknown method 'bjol'. Did you mean 'byol'"),
        ({"method": {"name": "byol", "momentun": 0.9}}, r"unknown key of method 'momentun'. Did you mean 'momentum'"),
        ({"method": {"name": "byol", "momentum": 2}}, r"--method.momentum 2: input should be less than or equal to 1"),
        ({"method": {"name": "byol", "loss": "nsme"}}, r"--method.loss 'nsme': input should be 'nmse'"),
        ({"encoder": "resnet81"}, r"unknown encoder 'resnet81'. Did you mean 'resnet18'"),
        ({"encoder": "tests.nets:tyni"}, r"encoder 'tests.nets:tyni': .*has no attribute 'tyni'"),
        ({"encoder": 3}, r"--encoder 3: an encoder is a name, a dotted path"),
        ({"epoch": 3}, r"unknown key 'epoch'. Did you mean 'epochs'"),
        ({"epochs": "many"}, r"--epochs 'many': input should be a valid number"),
        ({"epochs": -1}, r"--epochs -1: input should be greater than 0"),
        ({"optimizer": "adam"}, r"--optimizer 'adam': input should be 'sgd', 'adamw' or 'lars'"),
        ({"views": "foto"}, r"unknown recipe of views 'foto'. Did you mean 'photo'"),
        ({"views": {"one": {"blurr": 1}}}, r"unknown key of views.one 'blurr'. Did you mean 'blur'"),
        ({"views": {"one": {"blur": 2}}}, r"--views.one.blur 2: input should be less than or equal to 1"),
        ({"views": {"on": {"blur": 1}}}, r"unknown key of views 'on'. Did you mean 'one'"),
        ({"device": "gpu"}, r"unknown device 'gpu'. Known: auto, cpu, cuda"),
        ({"modality": "imag"}, r"unknown modality 'imag'. Did you mean 'image'"),
        ({"batch_size": 1000}, r"--batch-size 1000 is larger than the 61 items"),
        ({"batch_size": 4, "accumulate": 3}, r"leaves fewer than 2 items"),
        ({"size": 4}, r"tests.nets:tiny cannot run on 3 channels of 4x4 px"),
        ({"init": "none.safetensors"}, r"none.safetensors"),
        ({"labels": "none.csv"}, r"none.csv: no such file or folder"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_accepted_and_nothing_is_left(pictures, tmp_path, settings, message):
    refused(pictures, message, out=tmp_path / "r", **settings)
    assert not (tmp_path / "r").exists()


def test_what_only_the_trial_step_can_tell_leaves_nothing_behind(pictures, tmp_path):
    method = {"name": "cpc", "skip": 8, "ahead": 9}
    refused(pictures, "pieces; to predict past 8 skipped", out=tmp_path / "r", **{**QUICK, "method": method})
    assert not (tmp_path / "r").exists()


def test_a_label_file_that_names_missing_files_is_refused(pictures, tmp_path):
    (tmp_path / "labels.csv").write_text("path,label\nacross/00.png,a\nacross/99.png,b\n")
    message = refused(pictures, "labels.csv", labels=str(tmp_path / "labels.csv"), out=tmp_path / "r")
    assert "across/99.png" in message and not (tmp_path / "r").exists()


def test_the_card_names_the_encoder_as_it_was_asked_for(pictures, tmp_path):
    run = ss.pretrain(pictures, out=tmp_path / "run", **{**QUICK, "encoder": "resnet10t@0.1"})
    assert (run.folder / "README.md").read_text().startswith("# resnet10t@0.1 trained with byol on")


def test_the_plan_names_the_strengths_that_were_given(pictures, tmp_path):
    views = {"name": "weak", "one": {"area": (0.25, 1.0), "flip": 0.0}}
    run = ss.pretrain(pictures, out=tmp_path / "run", **QUICK, views=views)
    line = next(line for line in run.plan["lines"] if line["name"] == "views")
    assert (line["value"], line["why"]) == ("weak", "one.area 0.25 to 1.0, one.flip 0.0")


def test_a_run_folder_of_other_settings_is_refused_and_untouched(finished, pictures, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    before = contents(run)
    refused(pictures, r"holds a run made with other settings: seed was 0, now 3. Choose another --out", out=run, seed=3)
    method = {**QUICK["method"], "momentum": 0.5}
    refused(pictures, r'method was \{.*\}, now \{.*"momentum": 0.5.*\}', out=run, method=method)
    with pytest.raises(
        ss.UserError,
        match=r"run holds a run of another command than adapt, or job.json is damaged.* Choose another --out",
    ):
        ss.adapt(finished, pictures, out=run, workers=0)
    assert contents(run) == before


def test_a_folder_of_somebody_else_is_refused_and_untouched(pictures, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("Ten years of work")
    refused(pictures, r"thesis is no run folder and not empty \(chapter1.tex, ...\)", out=tmp_path / "thesis")
    assert contents(tmp_path / "thesis") == {"chapter1.tex": b"Ten years of work"}


def test_two_runs_in_one_folder_do_not_meet(pictures, tmp_path):
    with claimed(tmp_path / "run"):
        said = refused(pictures, "another run is at work in .*run", out=tmp_path / "run")
    assert "--out" in said
    assert ss.pretrain(pictures, out=tmp_path / "run", **QUICK).verdict != "unfinished"  # the lock is given back


def claim_and_die(folder):
    with claimed(folder):
        os.kill(os.getpid(), signal.SIGKILL)


def test_the_lock_of_a_killed_run_is_free(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=claim_and_die, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / LOCK).exists()
    with claimed(tmp_path):
        pass


def test_items_found_unreadable_elsewhere_are_listed_and_counted_too(pictures, tmp_path):
    """Those that the look at labelled items met are in `skipped` before a worker meets them."""
    work = Pretraining(Pretrain(data=str(pictures), out=tmp_path, **{**QUICK, "max_skipped": 0.05}))
    work.data = open_data(str(pictures), None, 0.05, 0, tmp_path)
    work.data.skipped[3] = "cut short"
    work.found({3: "cut short"})
    assert listed(tmp_path) == [work.data.source.name(3)]
    work.data.skipped.update(dict.fromkeys(range(4, 10), "cut short"))
    with pytest.raises(ss.UserError, match="7 of 64 items"):
        work.found({4: "cut short"})
    assert len(listed(tmp_path)) == 7


def test_a_path_through_a_file_as_out_is_refused(pictures, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        refused(pictures, "a part of this path is a file. Choose another folder with --out", out=out)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_disk_that_fills_up_is_said_in_one_line_and_freeing_it_helps(finished, pictures, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user cannot mount a disk of its own")
    try:
        refused(pictures, "cannot write .*: the disk is full. Free some space", out=small / "run")
        subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
        run = ss.pretrain(pictures, out=small / "run", **QUICK)
        assert log_of(run) == log_of(ss.Run(finished))
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_as_out_is_refused(pictures, tmp_path):
    tmp_path.chmod(0o500)
    refused(pictures, "no permission, or a read-only disk", out=tmp_path / "run")


def test_a_state_cut_in_half_is_named_and_deleting_it_goes_on_exactly(finished, pictures, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    for name in ("result.json", "encoder.json", "encoder.safetensors"):
        (run / name).unlink()
    state = saved(run / "state")[-1]
    cut_short(state)
    refused(pictures, rf"{state} is damaged .*Delete that file", out=run)
    state.unlink()
    again = ss.pretrain(pictures, out=run, **QUICK)
    assert log_of(again) == log_of(ss.Run(finished))


@pytest.mark.parametrize("name", ["job.json", "plan.json"])
def test_a_damaged_file_of_the_run_is_named(finished, pictures, tmp_path, name):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / name).write_text((run / name).read_text()[:50])
    refused(pictures, rf"{name} is damaged .*choose another --out", out=run)
    (run / name).write_text("{}")
    refused(pictures, rf"{name} is damaged.*[Cc]hoose another --out", out=run)


def changed_by_one_more(data):
    Image.fromarray(paint(0, 999)).save(data / "disc" / "99.png")


def changed_by_one_less(data):
    (data / "disc" / "03.png").unlink()


def changed_by_other_pixels(data):
    Image.fromarray(paint(0, 999)).save(data / "disc" / "03.png")


def changed_by_damage(data):
    cut_short(data / "disc" / "03.png")


@pytest.mark.parametrize(
    "change", [changed_by_one_more, changed_by_one_less, changed_by_other_pixels, changed_by_damage]
)
def test_data_that_changed_since_the_run_began_is_refused(finished, pictures, tmp_path, change):
    data, run = shutil.copytree(pictures, tmp_path / "data"), shutil.copytree(finished, tmp_path / "run")
    job = json.loads((run / "job.json").read_text())
    (run / "job.json").write_text(json.dumps({**job, "data": str(data)}))
    change(data)
    refused(data, r"has changed since .* was begun.*and --init", out=run, epochs=3, max_skipped=0.05)


def test_settings_that_must_collapse_are_warned_about_and_stopped(pictures, tmp_path, capsys):
    settings = {
        **QUICK,
        "epochs": 60,
        "lr": 0.05,
        "method": {
            **QUICK["method"],
            "predictor": False,
            "momentum": 0.0,
            "schedule": "constant",
            "output_norm": "none",  # it alone would prevent the collapse
        },
    }
    with pytest.raises(TrainingStopped, match="full collapse found after step"):
        ss.pretrain(pictures, out=tmp_path / "r", **settings)
    said = " ".join(capsys.readouterr().err.split())
    assert "caution: without a predictor both sides can agree on a constant" in said
    assert list((tmp_path / "r" / "failure").glob("*.json"))


# The record ----------------------------------------------------------------------------------------------------------


def test_a_method_made_in_python_has_its_name_in_job_json_however_it_was_imported(monkeypatch):
    kind = methods.load("byol")
    monkeypatch.delattr(kind, "name")  # as it is when its file alone was imported
    assert kind.name == ""
    written = Pretrain(data="x", method=kind(momentum=0.9)).model_dump_json()
    assert json.loads(written)["method"] == {"name": "byol", "momentum": 0.9}


def test_one_way_of_writing_a_path_is_another(pictures):
    jobs = [Pretrain(data=data) for data in ("photos", "photos/", "./photos")]
    assert len({job.model_dump_json() for job in jobs}) == 1
    assert Pretrain(data="x.npz::x_train").data == "x.npz::x_train"


@pytest.mark.parametrize(
    ("data", "folder"),
    [
        ("photos/", "runs/photos"),
        ("a/b/photos", "runs/photos"),
        ("photos/**/*.jpg", "runs/photos"),
        ("cifar.npz::x_train", "runs/cifar"),
        ("list.csv", "runs/list"),
    ],
)
def test_the_run_folder_is_named_after_the_data(data, folder):
    assert Pretrain(data=data).folder == Path(folder)


def test_files_that_are_no_images_are_counted_in_the_plan(tmp_path):
    folder = folder_of(tmp_path / "photos", 32)
    for name in ("notes.pdf", "photo.dat", "LICENSE"):
        (folder / name).write_bytes(b"nothing to see")
    run = ss.pretrain(folder, out=tmp_path / "run", **QUICK)
    line = next(line["value"] for line in run.plan["lines"] if line["name"] == "data")
    assert line.startswith("32 items, image, left out: ")
    assert all(kind in line for kind in ("1 .dat", "1 .pdf", "1 without suffix"))


@pytest.mark.parametrize(("long", "passes"), [(1e9, 2), (0.0, 1)])
def test_a_step_is_tried_twice_or_once_where_it_is_long(long, passes, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "LONG_PASS", long)
    trial, make_views, taken = Pretraining.trial, Pretraining.make_views, []
    monkeypatch.setattr(Pretraining, "make_views", lambda *given: (taken.append(1), make_views(*given))[1])
    found = []
    monkeypatch.setattr(Pretraining, "trial", lambda *given: (trial(*given), found.append(len(taken)))[0])
    ss.pretrain(pictures, out=tmp_path / "run", **QUICK)
    assert found == [passes]


def test_the_time_in_the_plan_is_what_is_left(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Pretraining, "trial", lambda self, learner, steps: (3600.0, 0))
    for epochs, hours in ((2, "8.0 h"), (4, "7.0 h")):  # 8 steps, then 7 more
        ss.pretrain(pictures, out=tmp_path / "run", **{**QUICK, "epochs": epochs})
        told = capsys.readouterr().err
        assert f" {hours} " in told and ("warm-up epochs" in told) == (epochs == 2)
    # A run that goes on says so in one line, and of its plan only what is new.
    assert "run goes on at step 8 of 15, 7.0 h left" in told and "\nepochs " in told and "learning rate" not in told


@pytest.mark.parametrize("given", [{"method": 5}, {"method": ["byol"]}, {"views": 3}])
def test_settings_of_another_kind_are_refused_in_one_line(given, pictures, tmp_path):
    refused(pictures, "accepted are a name, or settings", out=tmp_path / "run", **given)


# The pixel cache


def test_a_run_is_the_same_with_an_empty_and_a_full_cache_and_says_what_it_keeps(tmp_path, monkeypatch):
    photos = folder_of(tmp_path / "photos", 40, side=64)
    weights = []
    for name, workers in (("fills", 0), ("reads", 0), ("workers", 2)):
        if name != "workers":
            monkeypatch.setenv("SELFSAME_CACHE", str(tmp_path / "caches"))
        else:
            monkeypatch.setenv("SELFSAME_CACHE", str(tmp_path / "other"))
        run = ss.pretrain(photos, out=tmp_path / name, **{**QUICK, "workers": workers})
        weights.append((run.folder / "encoder.safetensors").read_bytes())
        line = next(line for line in run.plan["lines"] if line["name"] == "cache")
        assert "at most 24 px" in line["why"] and run.plan["cache"]["items"] == 40
    assert weights[0] == weights[1] == weights[2]
    kept = list((tmp_path / "caches").glob("*/ready"))
    assert len(kept) == 1 and sum(kept[0].read_bytes()) == 38  # all but those held out


def test_without_a_cache_nothing_is_kept_and_a_run_keeps_what_it_decided(tmp_path, monkeypatch):
    monkeypatch.setenv("SELFSAME_CACHE", str(tmp_path / "caches"))
    photos = folder_of(tmp_path / "photos", 40, side=64)
    settings = QUICK
    ss.pretrain(photos, out=tmp_path / "off", cache=0, **settings)
    assert not (tmp_path / "caches").exists()
    run = ss.pretrain(photos, out=tmp_path / "on", **settings)
    before = run.plan["cache"]
    shutil.rmtree(tmp_path / "caches")
    longer = {**settings, "epochs": 2 * settings["epochs"]}
    assert ss.pretrain(photos, out=tmp_path / "on", **longer).plan["cache"] == before  # made anew where it is gone
    assert (tmp_path / "caches").exists()
    refused(photos, "cache was unset, now 0", out=tmp_path / "on", cache=0, **settings)


def test_a_method_may_change_the_derived_learning_rate_but_not_a_given_one(pictures, tmp_path):
    settings = {"data": str(pictures), "method": {"name": "msn"}, "encoder": "vit_tiny_patch4_32", "size": 32}

    def decided(name, **given):
        work = Pretraining(Pretrain(**settings, out=tmp_path / name, **given))
        work.opened()
        work.decided()
        return work.loop.lr, next(line for line in work.lines_of_loop if line.name == "learning rate")

    lr, line = decided("derived", epochs=20, batch_size=16)
    assert lr == pytest.approx(4 * 5e-4 * (16 / 256) ** 0.5) and line.value == f"{lr:g}"
    assert line.why == "0.0005 × √(batch / 256), times 4 for the method"
    lr, line = decided("given", epochs=20, batch_size=16, lr=0.1)
    assert (lr, line.why) == (0.1, "given")
