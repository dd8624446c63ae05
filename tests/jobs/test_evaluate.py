import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import selfsame as ss
from selfsame.cli import main
from selfsame.jobs.evaluating import reinitialise
from tests.conftest import paint

KINDS = ("across", "down", "disc", "chequer")


@pytest.fixture
def run(finished, tmp_path):
    """A copy: an evaluation is kept in the run folder."""
    return shutil.copytree(finished, tmp_path / "run")


def measured(run, labelled, **settings):
    return ss.evaluate(run, labelled, **{"workers": 0, "seeds": 1, **settings})


def kept(run):
    return json.loads((run / "evaluation.json").read_text())


def keys(rows):
    return [(row["features"], row["protocol"], row["labels"]) for row in rows]


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """train/ with 8 and test/ with 4 pictures of each kind."""
    root = tmp_path_factory.mktemp("split")
    for part, count in (("train", 8), ("test", 4)):
        for kind, name in enumerate(KINDS):
            (root / part / name).mkdir(parents=True)
            for k in range(count):
                picture = Image.fromarray(paint(kind, 1000 + 100 * kind + 10 * (part == "test") + k))
                picture.save(root / part / name / f"{k}.png")
    return root


# Results -------------------------------------------------------------------------------------------------------------


def test_the_json_has_the_stated_form_with_rows_for_encoder_random_and_raw(run, pictures, capsys):
    argv = ["evaluate", str(run), str(pictures), "--seeds", "2", "--workers", "0", "--budgets", "all,4/class", "--json"]
    assert main(argv) == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert result == kept(run)
    assert set(keys(result["rows"])) == {
        (features, protocol, labels)
        for features in ("encoder", "random", "raw")
        for protocol in ("knn", "linear")
        for labels in ("all", "4/class")
    }
    for row in result["rows"]:
        assert set(row) == {"features", "protocol", "labels", "mean", "std", "seeds"}
        assert 0 <= row["mean"] <= 1 and row["std"] >= 0 and row["seeds"] in (1, 2)
    assert result["classes"] == 4 and result["train"] + result["test"] == 64
    assert len(result["verdicts"]) == 8 and all("the encoder" in verdict for verdict in result["verdicts"])
    assert "encoder" in shown.err and "knn" in shown.err


def test_the_numbers_stand_in_the_report_and_the_model_card(run, pictures):
    rows = measured(run, pictures, protocols="knn")
    shown = f"{next(row['mean'] for row in rows if row['features'] == 'encoder'):.3f} ±"
    assert shown in (run / "report.html").read_text() and shown in (run / "README.md").read_text()


def test_the_same_seed_gives_the_same_numbers(run, pictures):
    assert measured(run, pictures, seed=3) == measured(run, pictures, seed=3)


def test_fine_tuning_and_training_with_labels_only_have_rows(run, pictures):
    rows = measured(run, pictures, protocols="finetune", budgets="8/class", epochs=2)
    assert keys(rows) == [("encoder", "finetune", "8/class"), ("supervised", "finetune", "8/class")]
    rows = measured(run, pictures, protocols="knn", supervised=True, epochs=2)
    assert keys(rows)[-1] == ("supervised", "finetune", "all") and len(rows) == 4


def test_fine_tuning_leaves_the_encoder_of_the_run_as_it_was(run, pictures):
    before = (run / "encoder.safetensors").read_bytes()
    measured(run, pictures, protocols="finetune", epochs=1)
    assert (run / "encoder.safetensors").read_bytes() == before


def test_a_perfect_encoder_scores_1_and_the_raw_input_does_not(run, tmp_path):
    """Pictures of one colour with noise: the mean tells the class, which a tiny random network keeps as well."""
    rng = np.random.default_rng(0)
    for label, level in (("dark", 40), ("light", 210)):
        (tmp_path / "data" / label).mkdir(parents=True)
        for k in range(10):
            noisy = (level + rng.normal(0, 10, (24, 24, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(tmp_path / "data" / label / f"{k}.png")
    rows = measured(run, tmp_path / "data", protocols="linear")
    assert {row["features"]: row["mean"] for row in rows}["raw"] == 1.0


# Parts ---------------------------------------------------------------------------------------------------------------


def test_train_and_test_folders_are_used_as_such(run, split):
    measured(run, split, protocols="knn")
    assert (kept(run)["train"], kept(run)["test"], kept(run)["classes"]) == (32, 16, 4)


def test_a_test_path_gives_the_same_as_the_folders(run, split):
    by_name = measured(run, split)
    by_path = measured(run, split / "train", test=str(split / "test"))
    assert by_name == by_path


def test_without_a_test_part_the_seed_splits_every_class(run, pictures, capsys):
    measured(run, pictures, protocols="knn", test_share=0.25)
    assert (kept(run)["train"], kept(run)["test"]) == (48, 16)
    assert "25% of each class split off by seed 0" in capsys.readouterr().err


def test_a_csv_names_the_labels_of_a_flat_folder(run, pictures, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    rows = [["path", "label"]]
    for path in sorted(pictures.rglob("*.png")):
        name = f"{path.parent.name}-{path.name}"
        shutil.copy(path, flat / name)
        rows.append([name, path.parent.name])
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(ss.UserError, match=r"flat has no labels. Accepted: one folder a class, --labels FILE.csv"):
        measured(run, flat)
    by_csv = measured(run, flat, labels=str(tmp_path / "labels.csv"))
    assert {row["features"]: row["mean"] for row in by_csv} == {
        row["features"]: row["mean"] for row in measured(run, pictures)
    }


def test_one_csv_names_the_labels_of_both_parts(run, tmp_path):
    rows = [["path", "label"]]
    for part in ("train", "test"):
        (tmp_path / "data" / part).mkdir(parents=True)
        for k in range(16):
            Image.fromarray(paint(k % 4, k + 50 * (part == "test"))).save(tmp_path / "data" / part / f"{part}{k}.png")
            rows.append([f"data/{part}/{part}{k}.png", KINDS[k % 4]])
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    measured(run, tmp_path / "data", labels=str(tmp_path / "labels.csv"), protocols="knn")
    assert (kept(run)["train"], kept(run)["test"]) == (16, 16)


def test_an_archive_of_arrays_brings_its_parts_and_labels(run, tmp_path):
    def part(count, seed):
        x = np.stack([paint(k % 4, seed + k) for k in range(count)])
        return x, np.arange(count) % 4

    (x_train, y_train), (x_test, y_test) = part(32, 0), part(16, 500)
    np.savez(tmp_path / "data.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    measured(run, tmp_path / "data.npz", protocols="knn")
    assert (kept(run)["train"], kept(run)["test"], kept(run)["classes"]) == (32, 16, 4)
    np.savez(tmp_path / "x.npz", x=x_train)
    np.savez(tmp_path / "y.npz", numbers=y_train)
    measured(run, tmp_path / "x.npz", labels=f"{tmp_path / 'y.npz'}::numbers", protocols="knn")
    assert kept(run)["train"] + kept(run)["test"] == 32


def test_unreadable_files_are_left_out_of_every_row_alike(run, pictures, tmp_path):
    data = shutil.copytree(pictures, tmp_path / "data")
    (data / "disc" / "05.png").write_bytes(b"")
    with pytest.raises(ss.UserError, match=r"1 of 64 items .*disc/05.png"):
        measured(run, data)
    assert not (run / "evaluation.json").exists()
    rows = measured(run, data, max_skipped=0.05)
    assert kept(run)["train"] + kept(run)["test"] == 63 and len(rows) == 6


# Wrong input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"protocols": "knn,liner"}, r"unknown protocol 'liner'. Did you mean 'linear'"),
        ({"budgets": "5 items"}, r"labels '5 items' cannot be read. Accepted: all, a share"),
        ({"budgets": "99/class"}, r"the rarest class has 13 items. Ask for at most 13/class"),
        ({"protocols": "finetune", "budgets": "half"}, r"labels 'half' cannot be read"),
        ({"labels": "none.csv"}, r"none.csv: no such file or folder"),
        ({"test": "none"}, r"none: no such file or folder"),
        ({"seeds": 0}, r"--seeds 0: input should be greater than or equal to 1"),
        ({"protocol": "knn"}, r"unknown key 'protocol'. Did you mean 'protocols'"),
        ({"device": "tpu0"}, r"unknown device 'tpu0'"),
    ],
)
def test_wrong_settings_are_said_in_one_line_and_nothing_is_kept(run, pictures, settings, message):
    with pytest.raises(ss.UserError, match=message) as error:
        measured(run, pictures, **settings)
    assert "\n" not in str(error.value) and not (run / "evaluation.json").exists()


def test_one_class_and_one_item_a_class_are_refused(run, pictures, tmp_path):
    (tmp_path / "lone").mkdir()
    for name in KINDS:
        (tmp_path / "lone" / name).mkdir()
        shutil.copy(pictures / name / "00.png", tmp_path / "lone" / name)
    with pytest.raises(ss.UserError, match=r"one item of each class, so none can be split off. Give --test"):
        measured(run, tmp_path / "lone")
    with pytest.raises(ss.UserError, match=r"has no labels"):
        measured(run, pictures / "disc")


def test_an_unfinished_run_cannot_be_measured(run, pictures):
    (run / "encoder.json").unlink()
    with pytest.raises(ss.UserError, match="has no encoder yet: its run is unfinished"):
        measured(run, pictures)


def test_the_table_is_shown_even_where_the_folder_cannot_be_written(run, pictures, capsys):
    (run / "evaluation.json").mkdir()  # something is in the way
    with pytest.raises(ss.UserError, match=r"cannot write .*evaluation.json"):
        measured(run, pictures, protocols="knn")
    shown = capsys.readouterr().err
    assert "encoder" in shown and "random" in shown and "raw" in shown


# Random weights ------------------------------------------------------------------------------------------------------


class Learned(nn.Module):
    """A weight that no layer knows how to draw."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.arange(64.0).view(8, 8))
        self.layer = nn.Linear(8, 8)


def test_a_network_that_is_drawn_anew_keeps_nothing_it_has_learned():
    torch.manual_seed(0)
    module = Learned()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    reinitialise(module)
    after = module.state_dict()
    assert all((after[name] != before[name]).float().mean() > 0.8 for name in before)
    assert torch.equal(after["token"].flatten().sort().values, before["token"].flatten())  # of the same scale


def test_report_and_card_say_of_what_items_the_numbers_are(run, pictures):
    ss.evaluate(run, pictures, protocols="knn", seeds=1)
    for name in ("report.html", "README.md"):
        assert "test items of 4 classes" in (run / name).read_text(encoding="utf-8")


def test_pictures_of_other_channels_are_refused_with_the_reason(run, tmp_path):
    values = np.stack([paint(k % 4, k) for k in range(16)])[..., :2]
    np.savez(tmp_path / "two.npz", x=values, y=np.arange(16) % 4)
    with pytest.raises(ss.UserError, match=r"none of the \d+ items of .* can be read. \d+: 2 channels where 3"):
        measured(run, str(tmp_path / "two.npz"))


def test_parts_are_found_through_the_home_folder(run, split, monkeypatch):
    monkeypatch.setenv("HOME", str(split.parent))
    measured(run, f"~/{split.name}", protocols="knn")
    assert (kept(run)["train"], kept(run)["test"], kept(run)["classes"]) == (32, 16, 4)


def test_parts_are_not_taken_for_classes(run, split, tmp_path):
    shutil.copytree(split / "train", tmp_path / "set" / "train")
    shutil.copytree(split / "test", tmp_path / "set" / "dev")
    with pytest.raises(ss.UserError, match=r"dev and train are parts of a set, not classes.*--test"):
        measured(run, tmp_path / "set")
    (tmp_path / "set" / "dev").rename(tmp_path / "set" / "valid")  # of this name it is known to be the test part
    assert measured(run, tmp_path / "set") == measured(run, split / "train", test=str(split / "test"))


def test_a_test_part_without_labels_is_told_of_its_own_flag(run, split, tmp_path):
    shutil.copytree(split / "test" / "disc", tmp_path / "bare")
    with pytest.raises(ss.UserError, match=r"bare has no labels.*--test-labels FILE.csv"):
        measured(run, split / "train", test=str(tmp_path / "bare"))


def test_one_labelled_item_a_class_is_enough(run, split, tmp_path):
    for name in KINDS:
        (tmp_path / "few" / name).mkdir(parents=True)
        shutil.copy(split / "train" / name / "0.png", tmp_path / "few" / name)
    rows = measured(run, tmp_path / "few", test=str(split / "test"))
    assert {row["features"] for row in rows} == {"encoder", "random", "raw"}


def test_lists_may_have_blanks_and_wrong_budgets_are_refused_before_anything_is_read(run, pictures):
    rows = measured(run, pictures, protocols="knn, linear", budgets="all, 4/class")
    assert {row["labels"] for row in rows} == {"all", "4/class"}
    with pytest.raises(ss.UserError, match=r"labels 'some' cannot be read. Accepted: all"):
        measured(run, "nowhere", budgets="some")


def test_what_is_measured_stays_when_fine_tuning_is_stopped(run, pictures, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("selfsame.jobs.evaluating.tuned", stop)
    with pytest.raises(KeyboardInterrupt):
        measured(run, pictures, protocols="knn,finetune")
    assert keys(kept(run)["rows"]) == [(kind, "knn", "all") for kind in ("encoder", "random", "raw")]


def test_a_run_folder_that_cannot_be_written_to_is_refused_before_anything_is_read(run, monkeypatch):
    def refuse(**kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(ss.UserError, match=r"cannot write in .*: Permission denied. Copy it"):
        measured(run, "nowhere")


def test_a_damaged_archive_is_refused_in_one_line(run, tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK no zip")
    with pytest.raises(ss.UserError, match=r"x.npz: not a zip, or a damaged one"):
        measured(run, tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"task": "classification", "epochs": 2}, r"--epochs 2 would change nothing here.*give --head-samples"),
        ({"task": "classification", "batch_size": 8}, r"--batch-size 8 would.*given by --head-batch"),
        ({"task": "classification", "supervised": True}, r"--supervised would.*leave it out"),
        ({"head_samples": 100}, r"--head-samples 100 would.*goes with --task NAME"),
    ],
)
def test_what_would_be_passed_over_is_refused_before_anything_is_read(settings, told):
    with pytest.raises(ss.UserError, match=told):
        ss.evaluate("nowhere", "nothing", **settings)
