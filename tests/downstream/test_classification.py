import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import selfsame as ss
from selfsame import modalities
from selfsame.downstream.adapting import SCRATCH, Adapted, Pace, drawn, share_for, shares
from selfsame.downstream.task import Model
from selfsame.downstream.tasks.classification import (
    Classes,
    Classification,
    Linear,
    Scores,
    calibration_error,
    of_classes,
    of_tags,
)
from selfsame.engine.feed import Patient
from selfsame.engine.optim import make_optimizer, set_rates
from selfsame.errors import UserError
from selfsame.modalities import image
from selfsame.types import Draws
from tests.conftest import Tiny, TinyTokens, paint
from tests.test_tasks import stats

LOGITS = torch.tensor([[2.0, 1, 0], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]])
CLASS = torch.tensor([0, 1, 2, 0, 2, 2])
TAGS = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1]])
SAID = np.array([[0.9, 0.2, 0.8], [0.1, 0.7, 0.3], [0.4, 0.6, 0.2], [0.5, 0.1, 0.1]])


def test_scores_of_classes_are_the_field_s():
    found = of_classes(LOGITS.softmax(1).double().numpy(), np.eye(3)[CLASS])
    wanted = {
        "accuracy": 0.6666667,
        "balanced accuracy": 0.7222222,
        "macro F1": 0.6555556,
        "nll": 0.7409394,
    }
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-6)
    assert "top 5" not in found  # of three classes it would be 1, whatever is said
    said = np.arange(6.0)[None] / 15  # of six classes the first is the last choice
    assert [of_classes(said, np.eye(6)[[k]])["top 5"] for k in (0, 1)] == [0, 1]


def test_scores_of_tags_are_the_field_s():
    found = of_tags(SAID, TAGS.astype(float))
    assert found["mAP"] == pytest.approx((0.833333 + 1 + 0.75) / 3, abs=1e-5)
    assert found["micro AP"] == pytest.approx(0.888889, abs=1e-5)
    assert found["LRAP"] == pytest.approx(0.833333, abs=1e-5)


def test_a_tag_that_no_item_has_changes_no_mean():
    wider = np.hstack([TAGS, np.zeros((4, 1))]), np.hstack([SAID, np.full((4, 1), 0.9)])
    assert of_tags(wider[1], wider[0])["mAP"] == pytest.approx(of_tags(SAID, TAGS.astype(float))["mAP"])


def test_parts_and_order_of_the_items_change_no_score():
    facts = Classes(classes=("a", "b", "c"), several=False)
    p, y = LOGITS.softmax(1).double().numpy(), np.eye(3)[CLASS]
    one, other = Scores(facts), Scores(facts)
    for i in range(6):
        one.add(p[i], y[i])
        other.add(p[5 - i], y[5 - i])
    assert one.found() == pytest.approx(other.found())


def test_calibration_error_of_sure_and_right_is_none_and_of_sure_and_wrong_is_all():
    sure = np.ones(4)
    assert calibration_error(sure, np.ones(4, bool)) == 0
    assert calibration_error(sure, np.zeros(4, bool)) == 1
    assert calibration_error(np.full(4, 0.75), np.array([1, 1, 1, 0], bool)) == pytest.approx(0)


def test_blocks_in_front_learn_slower_and_the_last_norm_as_what_follows():
    encoder = TinyTokens()
    found = shares(encoder, 0.1, 0.5)
    assert found["places"] == found["body.0.weight"] == pytest.approx(0.1 * 0.5**3)
    assert found["body.1.own.weight"] == pytest.approx(0.1 * 0.5**2)
    assert found["body.2.own.weight"] == pytest.approx(0.1 * 0.5)


def test_an_encoder_may_come_equally_far_in_runs_of_any_length_between_the_whole_rate_and_a_tenth():
    assert [share_for(steps) for steps in (1, 100, 200, 400, 1000, 50_000)] == [1, 1, 0.5, 0.25, 0.1, 0.1]


@pytest.mark.parametrize("pace", [Pace(1.0), Pace(0.1), Pace(1.0, 0.5), SCRATCH])
def test_adam_moves_each_weight_by_the_share_of_the_rate_that_its_pace_gives(pace):
    facts, rate = Classes(classes=("a", "b"), several=False), 1e-3
    model = Model(TinyTokens(), Linear(8, facts, 0, 0), Classification(), facts, 12)
    adapted = Adapted(model, pace, 16).train()
    was = {name: p.detach().clone() for name, p in model.encoder.named_parameters()}
    optimizer = make_optimizer("adamw", adapted, rate, 0.0)
    set_rates(optimizer, rate, rate, 0.0)
    adapted([torch.rand(16, 3, 12, 12), torch.arange(16) % 2]).loss.backward()
    optimizer.step()
    given = shares(model.encoder, pace.top, pace.decay)
    for name, p in model.encoder.named_parameters():
        moved = (p.detach() - was[name]).abs().max().item()
        assert moved == pytest.approx(rate * given[name], rel=0.01), name


def test_under_small_batches_a_pretrained_encoder_keeps_its_statistics_and_one_from_scratch_does_not():
    facts = Classes(classes=("a", "b"), several=False)
    for rows, scratch, moves in ((4, False, False), (16, False, True), (4, True, True)):
        encoder = Tiny()
        before = encoder.body[1].running_mean.clone()
        model = Model(encoder, Linear(8, facts, 0, 0), Classification(), facts, 12)
        adapted = Adapted(model, SCRATCH if scratch else Pace(0.1), rows).train()
        adapted([torch.rand(rows, 3, 12, 12), torch.zeros(rows, dtype=torch.long)])
        assert torch.equal(encoder.body[1].running_mean, before) != moves


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return image.make_encoder("resnet10t@0.125", 32, stats())


def test_tags_are_read_from_a_list_and_learned(tmp_path, encoder):
    (tmp_path / "items").mkdir()
    lines = ["path,label"]
    for k in range(16):
        Image.fromarray(paint(k % 4, k, 32)).save(tmp_path / "items" / f"{k}.png")
        lines.append(f"{k}.png,{('stripes|across', 'stripes', 'disc', '|')[k % 4]}")
    (tmp_path / "tags.csv").write_text("\n".join(lines) + "\n")
    image.save_encoder(encoder, tmp_path / "run")
    path, labels = str(tmp_path / "items"), str(tmp_path / "tags.csv")
    run = ss.adapt(tmp_path / "run", path, labels=labels, out=tmp_path / "tags", epochs=1, workers=0, device="cpu")
    facts = run.plan["facts"]
    assert facts == {"classes": ["across", "disc", "stripes"], "several": True}
    assert run.result["score"] == "mAP"
    out = ss.predict(run, path, tmp_path / "tags-said.csv", workers=0)["files"][0]
    head = Path(out).read_text().splitlines()[0]
    assert head == "name,label,probability,across,disc,stripes"


def test_probability_is_that_of_the_likeliest_class_in_either_form(tmp_path):
    found = [("a", np.array([0.25, 0.75])), ("b", np.array([0.4, 0.1]))]
    for several, labels in ((False, ["label", "cat"]), (True, ["label", ""])):
        facts = Classes(classes=("cat", "label"), several=several)  # a class may be called as a column is
        rows = json.loads(Classification().write(found, facts, tmp_path / "x.json")[0].read_text())
        assert rows == [
            {"name": "a", "label": labels[0], "probability": 0.75, "cat": 0.25},
            {"name": "b", "label": labels[1], "probability": 0.4, "cat": 0.4},
        ]
        table = Classification().write(found, facts, tmp_path / "x.csv")[0].read_text().splitlines()
        assert table[1:] == [f"a,{labels[0]},0.75,0.25,0.75", f"b,{labels[1]},0.4,0.4,0.1"]


def test_the_label_of_the_item_that_stands_in_is_learned(tmp_path, encoder):
    for k in range(8):
        (tmp_path / f"kind{k % 2}").mkdir(exist_ok=True)
        Image.fromarray(paint(k % 2, k, 32)).save(tmp_path / f"kind{k % 2}" / f"{k}.png")
    (tmp_path / "kind0" / "0.png").write_bytes(b"no picture")
    examples = Classification().open(str(tmp_path), None, encoder)
    lost = next(i for i in range(len(examples)) if examples.name(i).endswith("0.png"))
    patient = Patient(examples, np.arange(8))
    _, labels = drawn(patient, [lost, lost], Draws(0, 0, 2), 32)
    assert list(patient.skipped) == [lost]
    kinds = {}
    for i in range(8):
        if i != lost:
            kinds[i] = examples.sample([i], 32, Draws(0, 0, 1), learn=False)[0]
    # Of a plain view of the stand-in we know which item it is; its label must be that item's.
    plain = Patient(examples, np.arange(8))
    seen = examples.sample([lost], 32, Draws(0, 0, 1), learn=False, attempt=plain.attempt)[0]
    stood = next(i for i, view in kinds.items() if torch.equal(view, seen))
    assert labels[0].item() == examples.classes[stood][0]


def test_one_class_is_too_few_and_no_labels_are_said_to_be_none(tmp_path, encoder):
    (tmp_path / "only").mkdir()
    for k in range(4):
        Image.fromarray(paint(0, k, 32)).save(tmp_path / "only" / f"{k}.png")
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(f"{k}.png,cat\n" for k in range(4)))
    with pytest.raises(UserError, match="all 4 labels are 'cat'; classification needs two classes or more"):
        Classification().open(str(tmp_path / "only"), str(tmp_path / "labels.csv"), encoder)
    with pytest.raises(UserError, match="has no labels"):
        Classification().open(str(tmp_path / "only"), None, encoder)


@pytest.mark.parametrize("kind", modalities.names())
def test_items_of_every_kind_of_data_are_classified(kind, tmp_path):
    made = importlib.import_module(f"tests.modalities.{kind}.made")
    path, labels = made.labelled(tmp_path)
    known = modalities.load(kind)
    leave_out = {"leave_out": (labels,)} if getattr(made, "LEAVE_OUT", False) else {}
    reading = known.Reading(**leave_out)
    source = known.open_source(path, reading=reading)
    measured, _ = known.measure(source)
    source.fit(measured)
    torch.manual_seed(0)
    size = known.default_size(measured, False)
    encoder = known.make_encoder(made.TINY, size, measured)
    encoder.spec["reading"] = reading.model_dump(mode="json")
    known.save_encoder(encoder, tmp_path / "run")
    run = ss.adapt(tmp_path / "run", path, labels=labels, out=tmp_path / "out", epochs=1, workers=0, device="cpu")
    rows = ss.evaluate(run, path, labels=labels, workers=0)
    assert 0 <= rows[0]["mean"] <= 1
    assert len(ss.predict(run, path, workers=0)) == len(source)
    assert "<figure" in (run.folder / "report.html").read_text()
