"""Items of one patient, recording or picture stay together when some are set aside."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

import selfsame as ss
from selfsame.downstream.split import grouped_split
from selfsame.downstream.tasks.classification import Classification
from selfsame.errors import UserError
from selfsame.jobs.adapt import Adapt
from selfsame.jobs.evaluate import Evaluate
from selfsame.jobs.evaluating import parts
from selfsame.jobs.grouping import groups_of, parts_together
from selfsame.jobs.labelled import opened
from selfsame.modalities import image
from tests.conftest import paint
from tests.modalities.image import clips

PATIENTS, EACH = 12, 4


@pytest.fixture(scope="module")
def encoder():
    stats = image.Stats(
        items=8, channels=3, bits=8, white=255, mean=(0.5,) * 3, std=(0.25,) * 3, height=16, width=16, uniform=True
    )
    torch.manual_seed(0)
    return image.make_encoder("resnet10t@0.125", 16, stats)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Four pictures of each patient, of one of two kinds; a list that says all."""
    folder = tmp_path_factory.mktemp("scans")
    with (folder / "list.csv").open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "Patient"])
        for k in range(PATIENTS * EACH):
            patient = k // EACH
            place = folder / "scans" / f"kind{patient % 2}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(paint(patient % 2, k, 16)).save(place / f"p{patient:02d}_{k}.png")
            rows.writerow([f"scans/kind{patient % 2}/p{patient:02d}_{k}.png", f"kind{patient % 2}", f"p{patient:02d}"])
    return folder


def patients(labels, items):
    return {labels.examples.name(i).rpartition("/")[2][:3] for i in items}


@pytest.mark.parametrize("groups", ["/(p[0-9]+)_", "FILE::patient", "Patient"])
def test_no_patient_stands_on_both_sides_however_they_are_named(encoder, scans, groups):
    given = groups.replace("FILE", str(scans / "list.csv"))
    for seed in range(3):
        settings = {"run_folder": "run", "task": Classification(), "labels": str(scans / "list.csv"), "seed": seed}
        labels = opened(Classification(), encoder, Adapt(labelled=str(scans / "scans"), groups=given, **settings))
        learn, check = patients(labels, labels.learn), patients(labels, labels.check)
        assert not learn & check and learn | check == {f"p{k:02d}" for k in range(PATIENTS)}
        assert 2 * EACH <= len(labels.check) <= 3 * EACH  # of 48 pictures a fifth
        assert {labels.examples.name(i).split("/")[0] for i in labels.check} == {"kind0", "kind1"}
    plain = opened(Classification(), encoder, Adapt(labelled=str(scans / "scans"), **settings))
    assert patients(plain, plain.learn) & patients(plain, plain.check)


def test_evaluate_splits_a_test_part_off_by_patients(encoder, scans):
    job = Evaluate(run_folder="run", labelled=str(scans / "scans"), groups="(p[0-9]+)_")
    train, test, _ = parts(job, encoder)
    sides = [{part.data.source.name(i).rpartition("/")[2][:3] for i in part.items} for part in (train, test)]
    assert not sides[0] & sides[1] and len(sides[1]) in (2, 3)
    with pytest.raises(UserError, match="there is one already"):
        parts(job.changed(test=str(scans / "scans")), encoder)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("(p[0-9]+", "no pattern that can be read"),
        ("(p)([0-9]+)", "one part in parentheses names the group, here are 2"),
        ("(q[0-9]+)_", r"48 of 48 names \(kind0/p00_0.png, .*do not have it"),
        ("(kind)", "all 48 items are of one group"),
        ("none.csv", "no such file"),
        ("FILE::ward", "has no column 'ward'"),
        ("ward", "give `folders`, a pattern"),
    ],
)
def test_groups_that_are_none_are_refused_in_a_line(encoder, scans, given, message):
    source = image.open_source(str(scans / "scans"))
    names = [source.name(i) for i in range(len(source))]
    given = given.replace("FILE", str(scans / "list.csv"))
    with pytest.raises(UserError, match=message) as error:
        groups_of(given, str(scans / "scans"), str(scans / "list.csv"), encoder.spec, source, names, names)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="with --val none are"):
        ss.adapt("run", str(scans / "scans"), groups=given, val=str(scans / "scans"))


def test_objects_of_a_picture_stay_together_unasked(tmp_path, encoder):
    from selfsame.downstream.tasks.keypoints import Keypoints
    from tests.scenes import scene, write_coco

    pytest.importorskip("pycocotools")
    write_coco(tmp_path, [scene(k, 32) for k in range(12)])
    job = Adapt(run_folder="run", labelled=str(tmp_path / "images"), labels=str(tmp_path / "annotations.json"))
    labels = opened(Keypoints(), encoder, job)
    sides = [{labels.examples.part_of(i) for i in items} for items in (labels.learn, labels.check)]
    assert len(labels.examples) > 12 and not sides[0] & sides[1] and parts_together(labels.examples) is not None


def test_a_split_by_groups_keeps_shares_of_classes():
    """Of 200 groups of 1 to 9 items, of three classes: within 2 % of a fifth of each, groups whole, seeds differ."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 10, 200)
    groups = torch.from_numpy(np.repeat(np.arange(200), sizes))
    labels = torch.from_numpy(np.repeat(rng.integers(0, 3, 200), sizes))
    sides = []
    for seed in (0, 1):
        kept, held = grouped_split(labels, groups, 0.2, seed)
        assert sorted([*kept.tolist(), *held.tolist()]) == list(range(len(labels)))
        assert not set(groups[kept].tolist()) & set(groups[held].tolist())
        shares = labels[held].bincount(minlength=3) / labels.bincount(minlength=3)
        assert (shares - 0.2).abs().max() < 0.02
        sides.append(held.tolist())
    assert sides[0] != sides[1]
    kept, held = grouped_split(torch.tensor([0, 0, 1, 1]), torch.tensor([5, 5, 9, 9]), 0.2, 0)
    assert len(kept) == len(held) == 2  # the least that can be set aside
    with pytest.raises(UserError, match="of one group"):
        grouped_split(torch.zeros(4), torch.zeros(4), 0.2, 0)


def test_frames_of_a_video_stay_together(encoder, tmp_path):
    pytest.importorskip("av", reason="videos need av")
    for k in range(12):
        clips.clip(tmp_path / "films" / f"kind{k % 2}" / f"{k}.mp4", 4)
    job = Adapt(run_folder="run", task=Classification(), labelled=str(tmp_path / "films"))
    labels = opened(Classification(), encoder, job)
    learn, check = ({labels.examples.name(i).rpartition("/")[0] for i in part} for part in (labels.learn, labels.check))
    assert len(learn | check) == 12 and check and not learn & check
