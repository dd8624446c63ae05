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
from selfsame.nn.fused.networks import fuse
from selfsame.records import ViewPlan
from selfsame.types import Draws
from tests.methods.room import ITEMS, settings_of, surveyed, views_of
from tests.nn.fused import differences
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_kernels_compute_what_their_twins_do(dtype):
    found = differences("cuda", dtype, large=True)
    assert len(found) > 100
    # Products of float32 are in tf32 in kernels.
    assert max(found.values()) < (2e-3 if dtype == torch.float32 else 1e-2), found


def learner_and_views(name: str, seed: int = 0):
    torch.manual_seed(seed)
    method = ss.methods.BYOL(hidden=64, out=32, output_norm="none")
    # With zeros for the last norms of blocks, as is usual, nothing within the blocks would have a gradient.
    net = timm.create_model(name, num_classes=0, zero_init_last=False)
    learner = method.build(ss.encoder(net, 32)).to(GPU)
    shape = (32, 3, 64, 64) if name == "resnet50" else (32, 3, 32, 32)
    views = [torch.rand(shape, device=GPU).contiguous(memory_format=torch.channels_last) for _ in range(2)]
    return learner.to(memory_format=torch.channels_last).train(), views


@pytest.mark.parametrize(("name", "precision"), [("resnet18", "fp32"), ("resnet18", "bf16"), ("resnet50", "bf16")])
def test_compiled_networks_compute_the_same(name, precision):
    """In bf16 they are fused and recorded: their distance from full precision is that of the networks as they were."""
    found = {}
    for way in ("plain", "half", "quick"):
        learner, views = learner_and_views(name)
        if way == "quick":
            compiled(learner, precision)
        half = precision == "bf16" and way != "plain"
        for _ in range(4):  # the third pass is recorded
            state = {key: value.clone() for key, value in learner.state_dict().items()}
            learner.zero_grad()
            with torch.autocast("cuda", torch.bfloat16, enabled=half):
                loss = learner(views).loss
            loss.backward()
            moved = {key: value.clone() for key, value in learner.state_dict().items()}
            learner.load_state_dict(state)
        found[way] = float(loss.detach()), learner.encoder.trunk.conv1.weight.grad.clone(), moved
        if way == "quick" and precision == "bf16":
            assert learner.encoder.forward.made and not learner.encoder.forward.failed
    apart = {way: float((found[way][1] - found["plain"][1]).norm() / found["plain"][1].norm()) for way in found}
    assert apart["quick"] < (2e-2 if precision == "fp32" else 1.2 * apart["half"] + 0.05)
    assert found["quick"][0] == pytest.approx(found["plain"][0], rel=1e-3 if precision == "fp32" else 3e-2)
    for key, value in found["plain"][2].items():
        if "running" in key:
            torch.testing.assert_close(found["quick"][2][key], value, rtol=0.1, atol=0.05)
        if "tracked" in key:
            assert torch.equal(found["quick"][2][key], value)
    with as_it_is(), torch.no_grad():
        assert learner.encoder.eval()(views[0][:3]).shape[0] == 3


@pytest.mark.parametrize("sizes", [[32], [32, 24]])
@pytest.mark.parametrize("micro", [1, 2, 3])
def test_recorded_passes_add_up_gradients_of_several_batches(sizes, micro):
    """Of views of several sizes too; and losses that are still held do not break a recording off."""
    learner, _ = learner_and_views("resnet18")
    torch.manual_seed(0)
    views = [torch.rand(micro, 32, 3, size, size, device=GPU) for size in sizes]
    state = {key: value.clone() for key, value in learner.state_dict().items()}
    encoder, gradients, held = learner.encoder, [], []
    for record in (False, True):
        if record:
            compiled(learner, "bf16")
        else:
            fuse(encoder)
        for _ in range(4 if record else 1):
            learner.load_state_dict(state)
            learner.zero_grad()
            for k in range(micro):
                with torch.autocast("cuda", torch.bfloat16):
                    parts = [encoder(view[k].contiguous(memory_format=torch.channels_last)) for view in views]
                    held.append(sum(part.float().square().sum() for part in parts))
                held[-1].backward()
        gradients.append({name: p.grad.clone() for name, p in encoder.named_parameters()})
    assert len(encoder.forward.made) == len(sizes) and not encoder.forward.failed
    for name, wanted in gradients[0].items():
        assert float((gradients[1][name] - wanted).norm() / wanted.norm()) < 0.05, name


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
