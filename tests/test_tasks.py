"""What every task promises, on the labelled items that tests/tasks/NAME.py makes."""

import importlib
import json
import os
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import selfsame as ss
from selfsame.downstream import saved, tasks
from selfsame.downstream.adapting import Pace
from selfsame.engine.loop import Interrupted, Loop
from selfsame.errors import UserError
from selfsame.jobs import adapting, fitting, scoring
from selfsame.jobs.adapt import Adapt
from selfsame.jobs.fitting import tuned
from selfsame.modalities import image
from tests.conftest import paint

NETS = {"residual": "resnet10t@0.125", "transformer": "tests.nets:tokens"}


def made(name):
    return importlib.import_module(f"tests.tasks.{name}")


def stats(channels=3, bits=8):
    white = 2**bits - 1
    return image.Stats(
        items=8, channels=channels, bits=bits, white=white, mean=(0.5,) * channels, std=(0.25,) * channels,
        height=32, width=32, uniform=True,
    )  # fmt: skip


@pytest.fixture(scope="session")
def encoders(tmp_path_factory):
    """Folders that hold an encoder with random weights, by kind."""
    place = tmp_path_factory.mktemp("encoders")
    for kind, net in NETS.items():
        torch.manual_seed(0)
        (place / kind).mkdir()
        image.save_encoder(image.make_encoder(net, 32, stats()), place / kind)
    return place


@pytest.fixture(scope="session", params=tasks.names())
def labelled(request, tmp_path_factory):
    """(name of the task, path, labels)"""
    return request.param, *made(request.param).labelled(tmp_path_factory.mktemp(request.param))


def quick(**more):
    return {"epochs": 2, "batch_size": 4, "workers": 0, "device": "cpu", "save_every": 3, "precision": "fp32", **more}


@pytest.fixture(scope="session")
def adapted(labelled, encoders, tmp_path_factory):
    """A finished task run."""
    name, path, labels = labelled
    out = tmp_path_factory.mktemp("adapted") / name
    return ss.adapt(encoders / "residual", path, task=name, labels=labels, out=out, **quick())


def test_a_task_run_holds_what_it_takes_to_use_it(adapted, labelled, encoders, tmp_path):
    name, path, _ = labelled
    model = saved.load(adapted.folder)
    assert type(model.task).name == name
    for file in ("encoder.safetensors", "head.safetensors", "task.json", "result.json", "report.html", "README.md"):
        assert (adapted.folder / file).stat().st_size > 0
    assert ss.load(adapted.folder).dim == ss.load(encoders / "residual").dim
    found = ss.predict(adapted, path, workers=0)
    assert len(found) == len({name for name, _ in found}) >= 8
    suffix = model.task.suffixes()[0]
    story = ss.predict(adapted, path, tmp_path / f"out{suffix}", workers=0)
    assert story["items"] == len(found) and all(Path(file).exists() for file in story["files"])
    with pytest.raises(UserError, match="are written to"):
        ss.predict(adapted, path, tmp_path / "out.odd", workers=0)


def test_what_is_written_is_counted_by_parts_and_pictures(adapted, labelled, tmp_path, capsys):
    task = saved.load(adapted.folder).task
    found = ss.predict(adapted, labelled[1], workers=0)
    capsys.readouterr()
    out = tmp_path / f"out{task.suffixes()[0]}"
    ss.predict(adapted, labelled[1], out, workers=0)
    said = " ".join(capsys.readouterr().err.split())
    parts = sum(task.count(one) for _, one in found)
    pictures = len({name.partition("#")[0] for name, _ in found})
    wanted = f"{parts:,} {task.parts[1]} in {pictures} pictures are in" if task.parts[1] else f"{parts} predictions are"
    assert wanted in said


GUESSES = {
    "classification": "most frequent class", "segmentation": "guess by colour", "depth": "median depth",
    "detection": "usual boxes", "keypoints": "mean places",
}  # fmt: skip


def test_a_task_run_is_scored_beside_what_is_said_without_an_encoder(adapted, labelled, capsys):
    name, path, labels = labelled
    rows = ss.evaluate(adapted, path, labels=labels, workers=0)
    assert [row["features"] for row in rows] == ["encoder", "trivial"]
    assert rows[1]["called"] == GUESSES[name] and GUESSES[name] in capsys.readouterr().err
    assert GUESSES[name] in (adapted.folder / "report.html").read_text()
    assert all(np.isfinite(row["mean"]) for row in rows)
    assert json.loads((adapted.folder / "evaluation.json").read_text())["rows"] == rows


def test_scores_on_the_items_learned_from_are_said_to_be_too_good(adapted, labelled):
    _, path, labels = labelled
    ss.evaluate(adapted, path, labels=labels, workers=0)
    assert json.loads((adapted.folder / "evaluation.json").read_text())["seen"]
    assert "from which the head was learned: too good" in (adapted.folder / "README.md").read_text()


def test_label_files_of_several_parts_may_speak_of_pictures_in_one_folder(encoders, tmp_path):
    """As COCO's train.json and val.json: of which pictures they speak says whether scores are too good."""
    path, labels = made("detection").labelled(tmp_path, 8)
    whole = json.loads(Path(labels).read_text())
    for name, few in (("train", range(5)), ("test", range(5, 8))):
        images = [one for one in whole["images"] if one["id"] in few]
        boxes = [one for one in whole["annotations"] if one["image_id"] in few]
        (tmp_path / f"{name}.json").write_text(json.dumps({**whole, "images": images, "annotations": boxes}))
    encoder, task = ss.load(encoders / "residual"), tasks.load("detection")()
    given = {"labelled": path, "labels": str(tmp_path / "train.json")}
    for name, seen in (("train.json", True), ("test.json", False), (Path(labels).name, True)):
        file = str(Path(labels).with_name(name)) if seen and "train" not in name else str(tmp_path / name)
        examples = task.open(path, file, encoder)
        model = SimpleNamespace(task=task, encoder=encoder, facts=examples.facts)
        assert scoring.learned_from(given, path, file, model, examples) == seen
    assert not scoring.learned_from({**given, "labelled": str(tmp_path)}, path, file, model, examples)


def test_an_encoder_is_set_beside_its_baselines(encoders, tmp_path):
    path, _ = made("classification").labelled(tmp_path / "items", 24)
    again = {"task": "classification", "budgets": "2/class,all", "seeds": 2, "head_samples": 12, "head_batch": 4}
    rows = ss.evaluate(encoders / "residual", path, workers=0, device="cpu", **again)
    starts = [("encoder", "frozen"), ("random", "frozen"), ("encoder", "finetune"), ("supervised", "finetune")]
    assert [(row["features"], row["protocol"]) for row in rows] == [*starts, ("trivial", "-")] * 2
    assert [row["items"] for row in rows] == [8] * 5 + [20] * 5
    assert all(row["seeds"] == 2 and row["mean"] == row["all"]["balanced accuracy"] for row in rows)
    place = encoders / "residual" / "tasks" / "classification"
    told = json.loads((place / "evaluation.json").read_text())["verdicts"]
    assert len(told) == 8 and "labels alone" in (place / "report.html").read_text()
    asked = {**again, "budgets": "2/class", "protocols": "frozen"}
    (place / "evaluation.json").unlink()
    assert ss.evaluate(encoders / "residual", path, workers=0, device="cpu", **asked) == [*rows[:2], rows[4]]


def test_an_evaluation_that_was_killed_goes_on_behind_what_is_measured(encoders, tmp_path, monkeypatch, capsys):
    path, _ = made("classification").labelled(tmp_path / "items", 24)
    run, settings = shutil.copytree(encoders / "residual", tmp_path / "run"), {"head_samples": 12, "head_batch": 4}
    again = {"task": "classification", "seeds": 2, "protocols": "frozen", "workers": 0, "device": "cpu", **settings}
    real, begun = scoring.Starts.trained, []

    def killed(self, one):
        if len(begun) == 3:
            raise KeyboardInterrupt
        begun.append(one.told)
        return real(self, one)

    monkeypatch.setattr(scoring.Starts, "trained", killed)
    with pytest.raises(KeyboardInterrupt):
        ss.evaluate(run, path, **again)
    told = " ".join(capsys.readouterr().err.split())
    assert re.search(r"4 trainings of 3 steps, about \d+ s training 1 of 4: encoder, frozen, labels all, seed 0", told)
    del begun[:2]
    rows = ss.evaluate(run, path, **again)
    told = " ".join(capsys.readouterr().err.split())
    assert "3 trainings of these settings are in" in told and "4 trainings of 3 steps, 1 of them left, about" in told
    assert begun == ["random, frozen, labels all, seed 0", "random, frozen, labels all, seed 1"]
    assert ss.evaluate(run, path, **again) == rows and "training 1 of" not in capsys.readouterr().err
    (run / "encoder.json").write_text((run / "encoder.json").read_text() + "\n")  # another encoder
    begun.clear()
    with pytest.raises(KeyboardInterrupt):
        ss.evaluate(run, path, **again)
    assert len(begun) == 3


@pytest.mark.parametrize("kind", NETS)
def test_a_frozen_encoder_stays_as_it_is_and_another_learns(labelled, encoders, tmp_path, kind):
    name, path, labels = labelled
    for freeze in (True, False):
        out = tmp_path / str(freeze)
        ss.adapt(encoders / kind, path, task=name, labels=labels, out=out, freeze=freeze, **quick(epochs=1))
        before = load_file(encoders / kind / "encoder.safetensors")
        states = sorted((out / "state").glob("*.pt"))
        after = torch.load(states[-1], weights_only=True)["learner"]
        same = [torch.equal(value, after[f"model.encoder.{key}"]) for key, value in before.items()]
        assert all(same) == freeze


def test_the_plan_says_how_fast_an_encoder_learns_and_what_learns_not_has_no_rate(adapted, encoders, tmp_path):
    lines = json.loads((adapted.folder / "plan.json").read_text())["lines"]
    (told,) = (line["why"] for line in lines if line["name"] == "encoder learns")
    assert told.startswith("fine-tuned at 1 of the head's rate (100 / steps, 0.1 to 1), 0.9 of it")
    job = {"run_folder": encoders / "residual", "labelled": "x", "encoder_lr": 0.3, "layer_decay": 0.5}
    assert tuned(Adapt(**job), ss.load(encoders / "residual"), 100) == Pace(0.3, 0.5)
    for way in ("freeze", "scratch"):
        with pytest.raises(UserError, match=f"--encoder-lr 0.3 .*--{way}"):
            ss.adapt(encoders / "residual", "x", encoder_lr=0.3, **{way: True})


def test_the_plan_tells_how_long_it_takes_and_what_goes_on_tells_where(encoders, tmp_path, monkeypatch, capsys):
    path, _ = made("classification").labelled(tmp_path / "items")
    again = {"task": "classification", "freeze": True, "out": tmp_path / "run", **quick()}

    def told():
        return " ".join(capsys.readouterr().err.split())

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fitting.Fit, "train", killed)
        with pytest.raises(KeyboardInterrupt):
            ss.adapt(encoders / "residual", path, **again)
    assert re.search(
        r"time \d+ s [\d,]+ items/s in a trial step here, and 2 looks at \d items .* memory \d\.\d GiB", told()
    )
    for act in (ss.predict, ss.evaluate):
        with pytest.raises(UserError, match="run is not finished: give its `selfsame adapt` again, and it goes on"):
            act(tmp_path / "run", path, workers=0)
    with monkeypatch.context() as patch:
        patch.setattr(adapting.Adapting, "keep", killed)
        with pytest.raises(KeyboardInterrupt):
            ss.adapt(encoders / "residual", path, **again)
    assert f"no state was saved before {tmp_path / 'run'} stopped: it begins anew" in told()
    ss.adapt(encoders / "residual", path, **again)
    text = told()
    assert (
        re.search(r"run goes on at step (\d+) of \1, 0 s left; plan in plan.json", text) and "learning rate" not in text
    )


def test_states_of_slow_steps_are_a_minute_apart_at_most(tmp_path):
    loop = Loop(steps=3000, batch=4, lr=1.0, weight_decay=0.0, warmup=0, save_every=300, health_every=150)
    job = {"run_folder": tmp_path, "labelled": "x"}
    for seconds, settings, every in ((0.01, {}, 300), (2.0, {}, 30), (90.0, {}, 1), (2.0, {"save_every": 300}, 300)):
        run = adapting.Adapting(Adapt(**job, **settings), None)
        assert run.saving(loop, fitting.Trial(seconds, 0.0, 0)).save_every == every
    trial = fitting.Trial(1.0, 10.0, 0)
    assert trial.seconds(loop) == 3000 + 21 * 10 and trial.seconds(loop, 300) == 2700 + 18 * 10


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(labelled, adapted, encoders, tmp_path, monkeypatch):
    name, path, labels = labelled
    calls = []
    real = fitting.drawn

    def stopping(patient, items, draws, size):
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(patient, items, draws, size)

    again = {"task": name, "labels": labels, "out": tmp_path / "run", **quick()}
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "drawn", stopping)
        with pytest.raises(Interrupted):
            ss.adapt(encoders / "residual", path, **again)
    ss.adapt(encoders / "residual", path, **again)
    for file in ("encoder.safetensors", "head.safetensors"):
        mine, theirs = load_file(tmp_path / "run" / file), load_file(adapted.folder / file)
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_labels_that_do_not_fit_are_refused_in_a_line(adapted, labelled, tmp_path):
    name, _, _ = labelled
    path, labels, word = made(name).wrong(tmp_path)
    with pytest.raises(UserError, match=word) as error:
        ss.evaluate(adapted, path, labels=labels, workers=0)
    assert "\n" not in str(error.value)


def test_what_is_said_of_scored_items_is_of_those_that_are_read(encoders, tmp_path, capsys):
    """Not of the ones that were learned from, whose labels are read again for the trivial baseline."""
    path, _ = made("depth").labelled(tmp_path / "items")
    run = ss.adapt(encoders / "residual", path, task="depth", freeze=True, out=tmp_path / "depth", **quick(epochs=1))
    other, _ = made("depth").labelled(tmp_path / "other")
    for file in Path(other).glob("*.depth.png"):
        Image.fromarray((np.asarray(Image.open(file)) // 2).astype(np.uint16)).save(file)
    capsys.readouterr()
    ss.evaluate(run, other, workers=0)
    (near, far) = re.findall(r"median (\S+) m", capsys.readouterr().err)
    assert float(near) == pytest.approx(float(far) / 2, rel=0.01)


def test_what_was_left_out_of_the_labels_learned_from_is_not_said_of_others(encoders, tmp_path, capsys):
    path, labels = made("detection").labelled(tmp_path / "items")
    other, other_labels = made("detection").labelled(tmp_path / "other")
    content = json.loads(Path(labels).read_text())
    content["annotations"].append({**content["annotations"][0], "id": 10**6, "bbox": [3, 3, 0, 5]})
    Path(labels).write_text(json.dumps(content))
    again = {"task": "detection", "labels": labels, "freeze": True, **quick(epochs=1)}
    run = ss.adapt(encoders / "residual", path, out=tmp_path / "run", **again)
    assert "1 box is left out" in capsys.readouterr().err
    ss.evaluate(run, other, labels=other_labels, workers=0)
    told = capsys.readouterr().err
    assert "left out" not in told and "the head was made for" in told


def test_a_size_that_does_not_go_is_refused_by_its_own_name(encoders, tmp_path):
    path, labels = made("segmentation").labelled(tmp_path / "items")
    image.save_encoder(image.make_encoder("vit_tiny_patch8_32", 32, stats()), tmp_path)
    task = {"name": "segmentation", "tile": 5000}
    for act, more in ((ss.adapt, {}), (ss.evaluate, {"device": "cpu"})):
        with pytest.raises(UserError, match=r"--task.tile 5000: the pictures have sides of up to \d+ px"):
            act(encoders / "residual", path, labels=labels, task=task, **more)
        with pytest.raises(UserError, match=r"--task.tile 60: the encoder cannot take it: got images of 60x60 px"):
            act(tmp_path, "nothing is read", task={**task, "tile": 60}, **more)
        with pytest.raises(UserError, match=r"--size 60: the encoder cannot take it: got images of 60x60 px"):
            act(tmp_path, "nothing is read", task="segmentation", size=60, **more)


def test_one_class_is_too_few(encoders, tmp_path):
    (tmp_path / "items" / "hat").mkdir(parents=True)
    for k in range(3):
        Image.fromarray(paint(1, k, 32)).save(tmp_path / "items" / "hat" / f"{k}.png")
    with pytest.raises(UserError, match=r"items holds only one class \(hat\); classification needs two or more"):
        ss.adapt(encoders / "residual", tmp_path / "items", device="cpu")


def test_the_plan_names_the_encoder_in_full_and_counts_small_heads_finely(adapted):
    lines = {line["name"]: line for line in json.loads((adapted.folder / "plan.json").read_text())["lines"]}
    assert lines["encoder"]["value"].startswith("resnet10t@0.125, ")
    if type(saved.load(adapted.folder).task).name == "classification":
        assert re.fullmatch(r"\d+ parameters|\S+ K parameters", lines["head"]["value"])


def test_a_damaged_item_is_left_out_and_listed(adapted, labelled, tmp_path):
    name, _, _ = labelled
    path, _ = made(name).labelled(tmp_path)
    pictures_of(path)[0].write_bytes(b"no picture")
    with pytest.raises(UserError, match="cannot be read"):
        ss.predict(adapted, path, workers=0)
    found = ss.predict(adapted, path, workers=0, max_skipped=0.5)
    assert len(found) == len(ss.predict(adapted, str(labelled[1]), workers=0)) - 1


def test_predictions_that_are_refused_take_the_place_of_nothing(adapted, labelled, tmp_path):
    name, _, _ = labelled
    path, _ = made(name).labelled(tmp_path / "items")
    out = tmp_path / f"out{saved.load(adapted.folder).task.suffixes()[0]}"
    files = ss.predict(adapted, path, out, workers=0)["files"]
    before = [Path(file).read_bytes() for file in files]
    for file in pictures_of(path)[::2]:
        file.write_bytes(b"no picture")
    with pytest.raises(UserError, match="cannot be read"):
        ss.predict(adapted, path, out, workers=0)
    assert [Path(file).read_bytes() for file in files] == before


def test_training_goes_on_past_a_damaged_item_and_lists_it(labelled, encoders, tmp_path):
    name, _, _ = labelled
    path, labels = made(name).labelled(tmp_path / "items")
    spoilt = pictures_of(path)[::5]
    for file in spoilt:
        file.write_bytes(b"no picture")
    again = {"task": name, "labels": labels, **quick()}
    with pytest.raises(UserError, match="cannot be read"):
        ss.adapt(encoders / "residual", path, out=tmp_path / "strict", **again)
    run = ss.adapt(encoders / "residual", path, out=tmp_path / "lenient", max_skipped=0.9, **again)
    listed = (run.folder / "skipped.csv").read_text()
    assert 1 <= run.result["skipped"] <= len(spoilt) and any(file.name in listed for file in spoilt)


def test_damaged_items_to_choose_by_count_too(labelled, encoders, tmp_path):
    name, path, labels = labelled
    val, val_labels = made(name).labelled(tmp_path / "val")
    pictures_of(val)[0].write_bytes(b"no picture")
    again = {"task": name, "labels": labels, "val": val, "val_labels": val_labels, "freeze": True, **quick(epochs=0.2)}
    with pytest.raises(UserError, match=r"1 of 16 labelled items cannot be read \(6.2%; at most 1.0% may be\)"):
        ss.adapt(encoders / "residual", path, out=tmp_path / "strict", **again)
    assert pictures_of(val)[0].name in (tmp_path / "strict" / "skipped.csv").read_text()
    run = ss.adapt(encoders / "residual", path, out=tmp_path / "lenient", max_skipped=0.1, **again)
    assert run.result["skipped"] == 1 and pictures_of(val)[0].name in (run.folder / "skipped.csv").read_text()


FILES = {"segmentation": "onnx", "detection": "torch"}  # the others take long: with -m learns


def test_a_file_of_the_whole_task_says_what_predict_says(adapted, labelled, tmp_path):
    if labelled[0] not in FILES:
        pytest.skip("with -m learns")
    says_the_same(labelled[0], FILES[labelled[0]], adapted, tmp_path)


@pytest.mark.learns
@pytest.mark.parametrize("to", ["onnx", "torch"])
def test_each_file_of_a_whole_task_says_what_predict_says(adapted, labelled, tmp_path, to):
    says_the_same(labelled[0], to, adapted, tmp_path)


def says_the_same(name, to, adapted, tmp_path):
    """Of a picture as large as a view, and of one that is not square; stored values go in."""
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run = tmp_path / "run"
    shutil.copytree(adapted.folder, run)
    story = json.loads((run / "task.json").read_text())
    if name == "detection":  # after so few steps nothing is above the threshold
        (run / "task.json").write_text(json.dumps({**story, "settings": {**story["settings"], "threshold": 0.0}}))
    (tmp_path / "new").mkdir()
    for file, (height, width) in {"a.png": (32, 32), "b.png": (24, 44)}.items():
        Image.fromarray(paint(1, 3, 44)[:height, :width]).save(tmp_path / "new" / file)
    facts = ss.export(run, to, tmp_path / "net", preprocessing="hwc")
    assert facts["outputs"].keys() == saved.load(run).head.gives.keys() and facts["size"] == story["size"]
    if to == "onnx":
        session = runtime.InferenceSession(facts["files"][0], providers=["CPUExecutionProvider"])
        told = json.loads(session.get_modelmeta().custom_metadata_map["selfsame"])
    else:
        held = {"selfsame": ""}
        program = torch.export.load(facts["files"][0], extra_files=held).module()
        told = json.loads(held["selfsame"])
    assert told == {key: facts[key] for key in told} and told["task"] == name
    assert {key: value for key, value in story["facts"].items() if key in told} == {
        key: told[key] for key in story["facts"]
    }
    for (file, prediction), close in zip(ss.predict(run, tmp_path / "new", workers=0), (1e-4, 0.1), strict=True):
        pixels = np.asarray(Image.open(tmp_path / "new" / file.partition("#")[0]))[None]
        if to == "onnx":
            found = session.run(None, {"pixels": pixels})
        else:
            with torch.no_grad():
                found = [one.numpy() for one in program(torch.from_numpy(pixels.copy()))]
        made(name).agrees({key: one[0] for key, one in zip(told["outputs"], found, strict=True)}, prediction, close)


def test_what_no_file_can_hold_is_refused_and_the_encoder_is_had_alone(adapted, labelled, tmp_path, capsys):
    with pytest.raises(UserError, match="--maps are of the encoder alone: give --encoder-only too"):
        ss.export(adapted, "torch", tmp_path / "net", maps=True)
    with pytest.raises(UserError, match="a head is made for views of one size"):
        ss.export(adapted, "torch", tmp_path / "net", any_size=True)
    if labelled[0] != "classification":
        return  # encoders are the same whatever the task
    facts = ss.export(adapted, "torch", tmp_path / "net", encoder_only=True, maps=True)
    assert "maps" in facts and "task" not in facts
    ss.export(adapted, "timm", tmp_path / "weights")
    assert "timm has no place for the head" in " ".join(capsys.readouterr().err.split())


def test_an_encoder_of_another_kind_of_data_is_refused(labelled):
    name, _, _ = labelled
    task = tasks.load(name)()
    if not task.kinds:
        task.refuse(sounds())  # it is for all
        return
    with pytest.raises(UserError, match=f"--task {name} is for image data"):
        task.refuse(sounds())


def pictures_of(path):
    """The files of the items themselves, not of their labels."""
    files = sorted(file for file in Path(path).rglob("*") if file.suffix in (".png", ".jpg"))
    return [file for file in files if "label" not in file.parts and ".depth" not in file.name]


def sounds():
    from tests.conftest import Tiny

    encoder = Tiny()
    encoder.spec = {"modality": "audio", "name": "tiny"}
    return encoder
