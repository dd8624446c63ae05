import json
import shutil

import pytest

import selfsame as ss
from tests.conftest import QUICK
from tests.jobs.test_pretrain import contents, refused


def related_run(data, out, **settings):
    return ss.pretrain(data, out=out, **{**QUICK, **settings})


def pairs_of(run):
    return next((line["why"] for line in run.plan["lines"] if line["name"] == "pairs"), None)


def table(folder, text):
    (folder / "pairs.csv").write_text(text)
    return str(folder / "pairs.csv")


@pytest.fixture(scope="module")
def by_folder(pictures, tmp_path_factory):
    return related_run(pictures, tmp_path_factory.mktemp("runs") / "run", related="folders", related_window=1)


def test_related_pairs_are_learned_from_and_the_plan_says_which(by_folder, finished):
    assert by_folder.result["steps"] == 8
    assert pairs_of(by_folder).startswith("by folder, 4 groups, up to 1 apart in the order of names")
    assert pairs_of(ss.Run(finished)) is None
    losses = [[row["loss"] for row in run.log if "loss" in row] for run in (by_folder, ss.Run(finished))]
    assert losses[0] != losses[1]


def test_pairs_are_the_same_where_other_processes_read_them(by_folder, pictures, tmp_path):
    other = related_run(pictures, tmp_path / "run", related="folders", related_window=1, workers=2)
    assert contents(other.folder)["encoder.safetensors"] == contents(by_folder.folder)["encoder.safetensors"]


def test_items_that_have_no_relative_are_counted(pictures, tmp_path):
    rows = "".join(f"disc/{k:02d}.png,{k // 4},{k}\n" for k in range(16))
    run = related_run(pictures, tmp_path / "run", related=table(tmp_path, "path,group,time\n" + rows))
    assert pairs_of(run).startswith("by pairs.csv, 4 groups; ")
    alone = int(pairs_of(run).split("; ")[1].split(" of ")[0])
    assert 45 <= alone <= 50 and pairs_of(run).endswith("of 61 items have no relative and pair with themselves")


def test_a_list_that_has_changed_is_refused(pictures, tmp_path):
    rows = "".join(f"disc/{k:02d}.png,{k // 4}\n" for k in range(16))
    run = related_run(pictures, tmp_path / "run", related=table(tmp_path, "path,group\n" + rows))
    table(tmp_path, "path,group\n" + rows.replace("disc/00.png,0", "disc/00.png,1"))
    refused(pictures, "has changed since", out=run.folder, related=str(tmp_path / "pairs.csv"), epochs=3)
    refused(pictures, 'related was ".*pairs.csv", now "folders"', out=run.folder, related="folders")


def test_runs_from_before_there_were_pairs_go_on(finished, pictures, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    job = json.loads((run / "job.json").read_text())
    del job["related"], job["related_window"]
    (run / "job.json").write_text(json.dumps(job))
    assert related_run(pictures, run, epochs=3).result["steps"] == 11


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"related_window": 2}, "--related-window says how far related items may be apart: give --related too"),
        ({"related": "none.csv"}, r"--related none.csv: no such file"),
        ({"related": "folder"}, r"--related folder: give `folders`, or a \.csv"),
        ({"related": "folders", "related_window": 0}, r"--related-window 0: input should be greater than 0"),
        ({"related": "folders", "related_window": 0.5}, r"none of the 61 items .* within 0.5. Raise --related-window"),
    ],
)
def test_pairs_that_cannot_be_made_are_refused_and_nothing_is_left(pictures, tmp_path, settings, message):
    refused(pictures, message, out=tmp_path / "r", **settings)
    assert not (tmp_path / "r").exists()


def test_one_folder_alone_tells_nothing(pictures, tmp_path):
    refused(pictures / "disc", "lie in no folders", out=tmp_path / "r", related="folders")
    shutil.copytree(pictures / "disc", tmp_path / "data" / "disc")
    refused(tmp_path / "data", "all items of .* lie in one folder", out=tmp_path / "r", related="folders", batch_size=4)
