"""What a CUDA device promises beside the CPU. Run with: make gpu (where there is one)."""

import importlib
import json

import numpy as np
import pytest
import timm
import torch
from sklearn.datasets import load_digits

import selfsame as ss
from selfsame import methods, modalities
from selfsame.downstream import tasks
from selfsame.engine.compiling import as_it_is, compiled
from selfsame.modalities import image
from selfsame.modalities.image import graph
from selfsame.modalities.image.recipes import recipe
from selfsame.modalities.image.stats import Stats
from selfsame.modalities.image.views import make_views
from selfsame.records import ViewPlan
from selfsame.types import Draws
from tests.methods.room import ITEMS, settings_of, surveyed, views_of
from tests.test_contracts import learner_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("ignore"),  # compilers chat
]
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Convolutions in fp32 proper, so that the two devices can be compared."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def losses_of(name: str, on: torch.device, seed: int = 0) -> list[float]:
    """Of three steps of plain descent from the same weights; `seed` is of what the method draws for itself."""
    method = settings_of(name)
    learner, views = learner_of(method).to(on), [view.to(on) for view in views_of(method)]
    losses = []
    for step in range(3):
        torch.manual_seed(seed + step)
        if step == 0 and learner.surveys(0):
            with torch.no_grad():
                learner.survey([([x.to(on) for x in part], rows.to(on)) for part, rows in surveyed(ITEMS)])
        learner.zero_grad()
        loss = learner(views, torch.arange(len(views[0]), device=on)) if learner.by_item else learner(views)
        loss.loss.backward()
        learner.before_update(step / 3)
        with torch.no_grad():
            for p in learner.parameters():
                if p.grad is not None:
                    p -= 0.01 * p.grad
        learner.after_step(step / 3)
        losses.append(float(loss.loss.detach()))
    return losses


@pytest.mark.parametrize("name", methods.names())
def test_a_method_computes_on_a_gpu_what_it_does_on_a_cpu(name):
    found, wanted = losses_of(name, GPU), losses_of(name, CPU)
    assert np.isfinite(found).all()
    if losses_of(name, CPU, seed=9) == wanted:  # it draws nothing: the devices' random numbers are not the same
        assert found == pytest.approx(wanted, rel=2e-3, abs=2e-4)


@pytest.mark.parametrize("compile_them", [False, True])
@pytest.mark.parametrize("name", ["photo", "small"])
def test_views_are_those_of_the_cpu(name, compile_them, monkeypatch):
    stats = Stats(items=16, channels=3, bits=8, white=255, mean=(0.5,) * 3, std=(0.25,) * 3, height=48, width=48,
                  uniform=True)  # fmt: skip
    plan, views = ViewPlan(full=2, plain=1), recipe(name, 48, stats)
    values = [torch.randint(0, 256, (16, 48, 48, 3), dtype=torch.uint8).permute(0, 3, 1, 2) for _ in range(3)]
    wanted = make_views(values, plan, views, stats, Draws(0, 0, 16))
    monkeypatch.setenv("SELFSAME_COMPILE", str(int(compile_them)))
    made = make_views([one.to(GPU) for one in values], plan, views, stats, Draws(0, 0, 16))
    assert not graph.failed
    for one, other in zip(wanted, made, strict=True):
        assert other.device.type == "cuda"
        apart = (one - other.cpu()).abs()
        assert apart.flatten().quantile(0.999) < 1e-3 and apart.mean() < 1e-4


def test_compiled_networks_compute_the_same():
    torch.manual_seed(0)
    method = ss.methods.BYOL(hidden=64, out=32, output_norm="none")
    learner = method.build(ss.encoder(timm.create_model("resnet18", num_classes=0), 32)).to(GPU)
    learner = learner.to(memory_format=torch.channels_last).train()
    state = {name: value.clone() for name, value in learner.state_dict().items()}
    views = [torch.rand(32, 3, 32, 32, device=GPU).contiguous(memory_format=torch.channels_last) for _ in range(2)]
    plain = learner(views).loss
    plain.backward()
    gradient = learner.encoder.trunk.conv1.weight.grad.clone()
    learner.load_state_dict(state)
    learner.zero_grad()
    loss = compiled(learner)(views).loss
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(plain.detach()), rel=1e-3)
    other = learner.encoder.trunk.conv1.weight.grad
    assert float((other - gradient).norm() / gradient.norm()) < 2e-2
    with as_it_is(), torch.no_grad():
        assert learner.encoder.eval()(views[0][:3]).shape == (3, 512)


@pytest.mark.parametrize("quick", [True, False])
def test_a_run_learns_stops_and_goes_on(tmp_path, quick):
    """As on a CPU, but not to the bit: a GPU adds up in another order each time."""
    pixels = (load_digits().images * 16).clip(0, 255).astype(np.uint8)
    np.save(tmp_path / "digits.npy", pixels[:512].repeat(2, 1).repeat(2, 2))
    job = {"data": tmp_path / "digits.npy", "encoder": "resnet10t@0.25", "batch_size": 64, "device": "cuda",
           "out": tmp_path / "run", "compile": quick, "save_every": 10}  # fmt: skip
    ss.pretrain(**job, epochs=3)
    run = ss.pretrain(**job, epochs=5)  # further than it was planned
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    assert "NVIDIA" in run.result["machine"]
    encoder = ss.load(tmp_path / "run")
    some = torch.from_numpy(np.load(tmp_path / "digits.npy")[:8])[:, None]
    with torch.no_grad():
        on_cpu, on_gpu = encoder(some), encoder.to(GPU)(some.to(GPU)).cpu()
    assert torch.nn.functional.cosine_similarity(on_cpu, on_gpu).min() > 0.999


@pytest.mark.parametrize("name", modalities.names())
def test_every_kind_of_data_is_learned_from(name, tmp_path):
    made = importlib.import_module(f"tests.modalities.{name}.made")
    path = made.make(tmp_path / "data", 32)
    run = ss.pretrain(path, out=tmp_path / "run", epochs=2, batch_size=8, device="cuda", modality=name, workers=0)
    assert run.result["steps"] > 0 and "NVIDIA" in run.result["machine"]
    ss.embed(run, path, out=tmp_path / "vectors.npy", device="cuda", workers=0)
    assert (tmp_path / "vectors.npy").stat().st_size > 0


@pytest.mark.parametrize("name", tasks.names())
def test_every_task_is_learned(name, tmp_path):
    path, labels = importlib.import_module(f"tests.tasks.{name}").labelled(tmp_path / "data")
    torch.manual_seed(0)
    (tmp_path / "encoder").mkdir()
    stats = Stats(items=8, channels=3, bits=8, white=255, mean=(0.5,) * 3, std=(0.25,) * 3, height=32, width=32,
                  uniform=True)  # fmt: skip
    image.save_encoder(image.make_encoder("resnet10t@0.125", 32, stats), tmp_path / "encoder")
    run = ss.adapt(tmp_path / "encoder", path, task=name, labels=labels, out=tmp_path / "run", epochs=2, batch_size=4,
                   workers=0, device="cuda")  # fmt: skip
    rows = ss.evaluate(run, path, labels=labels, workers=0, device="cuda")
    assert all(np.isfinite(row["mean"]) for row in rows)
    assert len(ss.predict(run, path, workers=0, device="cuda")) >= 8
