"""What every modality promises with every method, on a small data set of its own (tests/modalities/NAME/made.py)."""

import importlib
import json
import sys
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

import selfsame as ss
from selfsame import methods, modalities
from selfsame.cli import main
from selfsame.downstream import saved, tasks
from selfsame.downstream.task import Model
from selfsame.engine.optim import make_optimizer, set_rates
from selfsame.errors import UserError
from selfsame.jobs.deciding import check_fit
from selfsame.records import Budget, Record, ViewPlan
from selfsame.types import Draws, Encoder, Learner, Modality, Source
from tests.methods.room import ALSO, SMALL

ITEMS = 24
KINDS = modalities.names()


class Room(NamedTuple):
    """A modality with its small data, opened and measured."""

    modality: Modality
    made: ModuleType
    path: str
    source: Source
    stats: Any
    size: int

    def encoder(self, name: str, seed: int = 0) -> Encoder:
        torch.manual_seed(seed)
        return self.modality.make_encoder(name, self.size, self.stats)

    def samples(self, plan: ViewPlan, rows: slice = slice(0, 12), items: int = 12) -> list[torch.Tensor]:
        """Of the first items the rows of a batch."""
        numbers = list(range(items))[rows]
        views = self.modality.recipe("auto", self.size, self.stats)
        return self.modality.sample(self.source, numbers, plan, views, Draws(0, 0, items, rows, stream=1))

    def views(self, plan: ViewPlan, rows: slice = slice(0, 12), items: int = 12) -> list[torch.Tensor]:
        views = self.modality.recipe("auto", self.size, self.stats)
        draws = Draws(0, 0, items, rows, stream=2)
        return self.modality.make_views(self.samples(plan, rows, items), plan, views, self.stats, draws)


@pytest.fixture(scope="module", params=KINDS)
def room(request, tmp_path_factory) -> Room:
    name = request.param
    made = importlib.import_module(f"tests.modalities.{name}.made")
    path = made.make(tmp_path_factory.mktemp(name) / "data", ITEMS)
    modality = modalities.load(name)
    source = modality.open_source(path)
    stats, skipped = modality.measure(source)
    assert skipped == {}
    source.fit(stats)
    size = getattr(made, "SIZE", None) or modality.default_size(stats, large=False)
    return Room(modality, made, path, source, stats, size)


# Data ----------------------------------------------------------------------------------------------------------------


def test_what_it_makes_is_found_to_be_its_own(room):
    assert modalities.of(room.path).name == room.modality.name
    assert [name for name in KINDS if name != room.modality.name and modalities.load(name).reads(room.path)] == []


def test_a_source_counts_and_names_its_items(room):
    assert isinstance(room.source, Source) and len(room.source) >= ITEMS
    assert len({room.source.name(i) for i in range(len(room.source))}) == len(room.source)
    assert all(room.source.stored(i) > 0 for i in range(3)) and room.source.read(0) is not None


def test_records_go_through_json_and_back(room):
    for record in (room.stats, room.modality.recipe("auto", room.size, room.stats), room.modality.Reading()):
        assert isinstance(record, Record)
        assert type(record).model_validate(json.loads(record.model_dump_json())) == record
    assert room.modality.size_told(room.size, room.stats)
    with pytest.raises(UserError, match="nosuch"):
        room.modality.recipe("nosuch", room.size, room.stats)


def test_views_do_not_depend_on_how_a_batch_is_divided(room):
    """Over processes, micro-batches and workers: the same item gets the same views."""
    plan = ViewPlan(full=2, part=2, plain=1)
    whole = room.views(plan)
    parts = [room.views(plan, slice(start, start + 4)) for start in (0, 4, 8)]
    assert len(whole) == 5
    for k, view in enumerate(whole):
        assert torch.allclose(view, torch.cat([part[k] for part in parts]), atol=1e-5, equal_nan=True), k


def test_views_are_the_same_again_and_two_of_an_item_differ(room):
    plan = ViewPlan(full=2, plain=1)
    one, two = room.views(plan), room.views(plan)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(one, two, strict=True))
    changed = (one[0] != one[1]).flatten(1).any(dim=1)
    assert changed.float().mean() > 0.5  # now and then two crops are one


def test_the_trivial_feature_tells_items_apart(room):
    half = len(room.source) // 2
    items = [(room.source, list(range(half))), (room.source, list(range(half, len(room.source))))]
    first, second = room.modality.raw_vectors(items, room.stats)
    assert first.shape == (half, second.shape[1]) and first.isfinite().all() and second.isfinite().all()
    assert len(torch.unique(torch.cat([first, second]), dim=0)) > 2 and room.modality.raw_name


def test_items_are_shown_to_people(room):
    picture = room.modality.picture(room.source, 0, side=96)
    assert 0 < max(picture.size) <= 96 and isinstance(room.modality.fragment(room.source, 0), str)
    views = room.views(ViewPlan(full=2), items=3, rows=slice(0, 3))
    of_item = [[view[k] for view in views] for k in range(3)]
    sheet = room.modality.contact_sheet(room.source, [0, 1, 2], of_item, ["a", "b", "c"])
    assert sheet if isinstance(sheet, str) else min(sheet.size) > 30


# Encoders ------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["TINY", "TINY_TOKENS"])
def network(request, room) -> str:
    return getattr(room.made, request.param)


def test_an_encoder_takes_views_and_samples_and_comes_back_from_disk_to_the_bit(room, network, tmp_path):
    plan = ViewPlan(full=1, part=1, plain=1)
    encoder = room.encoder(network).eval()
    samples, views = room.samples(plan), room.views(plan)
    assert encoder.spec["modality"] == room.modality.name and encoder.spec["size"] == room.size
    for view in (views[0], views[2], samples[2]):  # `embed` gives plain samples as they are
        vectors = encoder(view)
        assert vectors.shape == (12, encoder.dim) and vectors.isfinite().all()
    assert vectors.std(dim=0).max() > 0
    room.modality.save_encoder(encoder, tmp_path / "saved")
    loaded = room.modality.load_encoder(tmp_path / "saved")
    assert torch.equal(loaded(views[0]), encoder(views[0])) and loaded.spec == encoder.spec
    (tmp_path / "saved" / "encoder.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="damaged"):
        room.modality.load_encoder(tmp_path / "saved")


def test_tokens_can_be_left_out_and_hidden(room):
    encoder = room.encoder(room.made.TINY_TOKENS).eval()
    (view,) = room.views(ViewPlan(full=1))
    assert encoder.has_tokens and encoder.embedding is not None
    vector, tokens = encoder.both(view)
    count = tokens.shape[1]
    assert torch.allclose(vector, encoder(view), atol=1e-5) and int(np.prod(encoder.grid(view))) == count > 2
    keep = torch.arange(1, count).repeat(len(view), 1)
    assert encoder.tokens(view, keep=keep).shape == (len(view), count - 1, tokens.shape[2])
    from selfsame.types import Hidden

    where = torch.zeros(len(view), count, dtype=torch.bool)
    where[:, 0] = True
    hidden = encoder.tokens(view, hide=Hidden(where, torch.zeros(tokens.shape[2])))
    assert hidden.shape == tokens.shape and not torch.allclose(hidden, tokens)
    assert len(encoder.last_layers(view, 1)) == 1


def test_an_unknown_network_is_refused_with_those_that_are_known(room):
    with pytest.raises(UserError, match="nosuchnet"):
        room.modality.make_encoder("nosuchnet", room.size, room.stats)


# With every method ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=methods.names())
def learner(request, room) -> tuple[Learner, Any]:
    """The method at work on the network it needs, small; skipped where it says that it needs another kind of data."""
    kind = methods.load(request.param)
    small = {key: value for key, value in SMALL.items() if key in kind.model_fields}
    also = {key: value for key, value in ALSO.get(request.param, {}).items() if key != "queue"}
    also |= {"top": 2} if request.param == "data2vec" else {}  # the small transformers have two blocks
    wish = kind(**{**small, **also})
    encoder = room.encoder(encoder_name(room, wish))
    if {"words", "pieces", "steps"} & {need for need in kind.needs if not getattr(encoder, f"has_{need}")}:
        pytest.skip(f"{request.param} says that it needs {', '.join(kind.needs)}")
    budget = Budget(items=12, batch=12, steps=100, dim=encoder.dim, piece_axes=encoder.piece_axes)
    method = wish.fitted(budget)
    check_fit(method, encoder, budget, "the network")
    return method.build(encoder, 12), method


def test_every_method_learns_on_every_modality(room, learner, tmp_path):
    """A few steps on one batch lower its loss; its state, loaded, goes on to the bit; its encoder can be kept."""
    one, method = learner
    views = room.views(method.plan)

    def steps(learner: Learner, count: int, rate: float = 0.005) -> list[float]:
        optimizer = make_optimizer("adamw", learner, rate, 0.01)
        losses = []
        for step in range(count):
            if step == 0 and learner.surveys(0):
                with torch.no_grad():
                    learner.survey([([room.views(ViewPlan(full=0, plain=1))[0]], torch.arange(12))])
            set_rates(optimizer, rate, rate, 0.01)
            optimizer.zero_grad()
            loss = (learner(views, torch.arange(12)) if learner.by_item else learner(views)).loss
            loss.backward()
            learner.before_update(step / count)
            optimizer.step()
            learner.after_step(step / count)
            losses.append(float(loss.detach()))
        return losses

    losses = steps(one, 8)
    first, last = max(losses[:3]), min(losses[-4:])
    assert np.isfinite(losses).all() and last < first - 0.01 * abs(first)  # lower by more than rounding
    other = method.build(room.encoder(encoder_name(room, method), seed=5), 12)
    other.load_state_dict(one.state_dict(), strict=True)
    for each in (one, other):
        torch.manual_seed(3)
        steps(each, 2)
    mine, theirs = one.state_dict(), other.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    room.modality.save_encoder(one.encoder, tmp_path / "kept")
    kept = room.modality.load_encoder(tmp_path / "kept")
    plain = room.samples(ViewPlan(full=0, plain=1))[0]
    assert torch.equal(kept(plain), one.encoder.eval()(plain))


def encoder_name(room: Room, method: Any) -> str:
    needs = set(type(method).needs)
    if "pieces" in needs:
        return getattr(room.made, "TINY_PIECES", room.made.TINY)
    return room.made.TINY_TOKENS if {"tokens", "words"} & needs else room.made.TINY


# The commands --------------------------------------------------------------------------------------------------------


def test_one_command_does_it_all(room, tmp_path, capsys):
    """pretrain, going on, evaluate, embed, views, export, profile, plan: as a user would type them."""
    data, labels = room.made.labelled(tmp_path / "labelled")
    out = tmp_path / "run"
    small = ["--encoder", room.made.TINY, "--size", str(room.size), "--batch-size", "8", "--workers", "0"]
    small += ["--precision", "fp32"]
    left = ["--reading.leave-out", labels] if getattr(room.made, "LEAVE_OUT", False) else []
    assert main(["pretrain", data, "--out", str(out), *small, *left, "--epochs", "1"]) == 0
    run = ss.Run(out)
    assert (out / "report.html").exists() and (out / "README.md").exists() and run.verdict != "unfinished"
    assert any(line["name"] == "data" and room.modality.name in line["value"] for line in run.plan["lines"])
    assert main(["pretrain", data, "--out", str(out), *small, *left, "--epochs", "2"]) == 0
    assert run.result["steps"] == 2 * (run.result["items"] // 8) or run.result["steps"] > 0
    named = ["--labels", labels] if labels else []
    assert main(["evaluate", str(out), data, *named, "--seeds", "1", "--workers", "0"]) == 0
    measured = json.loads((out / "evaluation.json").read_text())
    assert {row["features"] for row in measured["rows"]} >= {"encoder", "random", "raw"}
    assert measured["raw"] == room.modality.raw_name
    assert main(["embed", str(out), data, "--out", str(tmp_path / "v.npy"), "--workers", "0"]) == 0
    assert np.load(tmp_path / "v.npy").shape == (measured["train"] + measured["test"], ss.load(out).dim)
    assert main(["views", data, "--out", str(tmp_path / "views.png"), "--size", str(room.size), *left]) == 0
    assert (tmp_path / "views.png").exists() or (tmp_path / "views.txt").read_text()
    assert main(["export", str(out), "torch"]) == 0
    assert main(["profile", data, *small, *left, "--steps", "1", "--cache", "0"]) == 0
    capsys.readouterr()


def test_a_whole_task_is_exported_and_says_what_predict_says(room, tmp_path):
    data, labels = room.made.labelled(tmp_path / "labelled")
    task, encoder = tasks.load("classification")(), room.encoder(room.made.TINY)
    examples = task.open(data, labels, encoder)
    model = Model(encoder, task.head(encoder, examples.facts, room.size), task, examples.facts, room.size).eval()
    torch.nn.init.normal_(model.head.layer.weight)
    saved.save(model, tmp_path / "run")
    facts = ss.export(tmp_path / "run", "torch", tmp_path / "net")
    held = {"selfsame": ""}
    program = torch.export.load(facts["files"][0], extra_files=held).module()
    told = json.loads(held["selfsame"])
    assert told["classes"] == list(examples.facts.classes) and told["task"] == "classification"
    samples = examples.sample(range(5), room.size, Draws(0, 0, 5), learn=False)
    views = examples.make_views(samples, Draws(0, 0, 5), learn=False)[0]
    if room.modality.name == "audio":  # whose views are spectrograms; the file takes waveforms
        views = samples[0].float() / 32768
    with torch.no_grad():
        (found,) = program(views)
    here = ss.predict(tmp_path / "run", data, workers=0)[:5]
    assert np.ptp(found.numpy(), axis=0).max() > 0.01  # it does not say the same of all
    np.testing.assert_allclose(found, np.stack([prediction for _, prediction in here]), atol=1e-5)


def test_items_are_found_in_an_index_by_name_and_by_file_and_drawn(room, tmp_path):
    room.modality.save_encoder(room.encoder(room.made.TINY), tmp_path / "run")
    index = ss.index(tmp_path / "run", room.path, tmp_path / "idx", workers=0)
    assert list(index.names) == [room.source.name(i) for i in range(ITEMS)]
    name = index.names[3]
    by_name = ss.search(index, name, 5)
    assert name not in by_name.names[0] and (np.diff(by_name.cosines) <= 0).all()
    by_file = ss.search(index, room.path, 6, picture=tmp_path / "found.png")  # each item of the data is a query
    assert len(by_file) == ITEMS and [n for n in by_file.names[3] if n != name][:4] == by_name.names[0][:4]
    with Image.open(tmp_path / "found.png") as page:
        assert page.height > ITEMS * 128 and len(page.convert("RGB").resize((64, 64)).getcolors(4096)) > 20


def test_a_wrong_name_on_the_line_is_answered_with_the_right_ones(room, capsys, tmp_path):
    assert main(["pretrain", room.path, "--out", str(tmp_path / "r"), "--encoder", "nosuchnet"]) == 2
    assert main(["pretrain", room.path, "--out", str(tmp_path / "r"), "--modality", "smell"]) == 2
    said = capsys.readouterr().err
    assert "nosuchnet" in said and "unknown modality 'smell'" in said and room.modality.name in said


# What a path holds ---------------------------------------------------------------------------------------------------


def test_a_place_of_two_kinds_is_asked_about(tmp_path):
    kinds = [name for name in ("image", "audio") if name in KINDS]
    for name in kinds:
        importlib.import_module(f"tests.modalities.{name}.made").make(tmp_path / name, 8)
    if len(kinds) == 2:
        with pytest.raises(UserError, match=r"could be .*image \(8 items\).*Which is it\? Say so with --modality"):
            modalities.of(str(tmp_path))


def test_a_list_of_many_rows_does_not_outnumber_the_files_it_lies_beside(tmp_path):
    for name in ("image", "audio"):
        importlib.import_module(f"tests.modalities.{name}.made").make(tmp_path / "data" / name, 8)
    (tmp_path / "data" / "about.csv").write_text("age,height\n" + "".join(f"{k},{k % 7}\n" for k in range(900)))
    with pytest.raises(UserError, match=r"could be audio and image and .*table.*Which is it\?"):
        modalities.of(str(tmp_path / "data"))
    importlib.import_module("tests.modalities.image.made").make(tmp_path / "photos", 24)
    (tmp_path / "photos" / "about.csv").write_text("age,kind\n" + "".join(f"{k},{'ab'[k % 2]}\n" for k in range(900)))
    assert modalities.of(str(tmp_path / "photos")).name == "image"


def test_an_empty_file_is_called_empty(tmp_path):
    for text, told in (("", "The file is empty."), ("\n \n", "The file holds blank lines alone.")):
        (tmp_path / "a.csv").write_text(text)
        with pytest.raises(UserError, match=told):
            modalities.of(str(tmp_path / "a.csv"))


def test_parquet_without_its_package_names_the_install_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "part.parquet").write_bytes(b"PAR1")
    for place in (tmp_path, tmp_path / "part.parquet"):
        with pytest.raises(UserError, match=r"needs the package pyarrow. Install it with: .*selfsame\[parquet\]"):
            modalities.of(str(place)).open_source(str(place))


def test_a_place_of_nothing_known_says_what_is_there_and_what_is_read(tmp_path):
    (tmp_path / "a.xyz").write_bytes(b"\x00\x01\x02")
    with pytest.raises(UserError, match=r"nothing here that selfsame reads. It holds 1 .xyz. It reads: .*image"):
        modalities.of(str(tmp_path))
    with pytest.raises(UserError, match="no such file or folder"):
        modalities.of(str(tmp_path / "nowhere"))
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 2, 2, 2, 2), np.uint8))
    with pytest.raises(UserError, match=r"1 .npz, 1 .xyz. Arrays are given by their file: FILE.npz::ARRAY. It reads"):
        modalities.of(str(tmp_path))
    with pytest.raises(UserError, match=r"no images .* It holds 1 .npz, 1 .xyz. Arrays .*: FILE.npz::ARRAY."):
        modalities.load("image").open_source(str(tmp_path))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.m4a").write_bytes(b"x")
    with pytest.raises(
        UserError, match=r"It holds 1 .m4a. Convert .m4a first, as with: ffmpeg -i in.m4a out.flac. It r"
    ):
        modalities.of(str(tmp_path / "b"))
