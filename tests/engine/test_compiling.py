"""Encoders compiled one by one compute the same, and are not compiled again from step to step."""

import pytest
import timm
import torch

import selfsame as ss
from selfsame.engine import compiling, plan
from selfsame.engine.compiling import as_it_is, compiled, tried_out
from selfsame.engine.replaying import Replayed
from selfsame.nn.fused import networks, when
from tests.methods.room import settings_of, views_of
from tests.test_contracts import learner_of, stepped, trained


@pytest.fixture
def graphs(monkeypatch):
    """What was compiled so far; torch's part before the code is written, which takes long."""
    made = []

    def counted(graph, _):
        made.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(compiling, "BACKEND", counted)
    yield made
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["byol", "dino", "ijepa", "moco", "swav"])
def test_compiled_encoders_give_the_same_and_are_compiled_once(name, graphs):
    method = settings_of(name)
    plain, quick = learner_of(method), compiled(learner_of(method))
    assert list(plain.state_dict()) == list(quick.state_dict())
    views = views_of(method)
    torch.manual_seed(0)
    wanted = trained(plain, views, 3)
    torch.manual_seed(0)
    assert trained(quick, views, 3) == pytest.approx(wanted, rel=1e-5)
    known = len(graphs)
    assert 1 <= known <= 6
    with as_it_is(), torch.no_grad():
        quick.encoder.eval()(views[0][:3])
    quick.encoder.train()
    stepped(quick, views).loss.backward()
    assert len(graphs) == known or name == "ijepa"  # whose targets differ in number from step to step


def test_convolutions_are_tried_out_while_it_trains_alone():
    assert not torch.backends.cudnn.benchmark
    with tried_out():
        assert torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize(
    ("on", "epochs", "tokens", "processes", "wish", "chosen"),
    [
        ("cuda", 200.0, False, 1, {}, True),
        ("cuda", 2.0, False, 1, {}, False),  # too short
        ("cuda", 200.0, False, 1, {"compile": False}, False),
        ("cuda", 2.0, False, 1, {"compile": True}, True),
        ("cuda", 200.0, False, 2, {}, False),  # batch norms that meet other processes
        ("cuda", 200.0, True, 2, {}, True),
        ("cuda", 200.0, False, 1, {"checkpoint_activations": True}, False),
        ("cpu", 200.0, False, 1, {}, False),
    ],
)
def test_long_runs_on_a_gpu_are_compiled(on, epochs, tokens, processes, wish, chosen, monkeypatch):
    monkeypatch.setattr(plan, "has_bf16", lambda on: True)
    monkeypatch.setattr(plan, "able", lambda: True)
    wishes = plan.Wishes(epochs=epochs, batch_size=128, **wish)
    loop, lines = plan.plan_loop(10_000, tokens, wishes, torch.device(on), processes)
    assert loop.compile == chosen
    assert ("compiled" in {line.name for line in lines}) == chosen


@pytest.mark.parametrize("works", [True, False])
def test_residual_networks_in_half_precision_on_a_gpu_are_fused_where_that_works(works, monkeypatch, caplog):
    def refuse(*_):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(compiling, "on_gpu", lambda part: True)
    monkeypatch.setattr(when, "halved", lambda x: True)
    if not works:
        monkeypatch.setattr(when.twins, "moments", refuse)
    net = ss.encoder(timm.create_model("resnet18", num_classes=0), 32)
    torch._dynamo.reset()
    learner = compiled(ss.methods.BYOL(hidden=8, out=8).build(net), "bf16")
    fast = [part for part in (learner.encoder, learner.target.net[0]) if isinstance(part.forward, Replayed)]
    assert len(fast) == (2 if works else 0)
    assert bool(networks.fused_in(learner)) == works
    told = [record.message for record in caplog.records if record.name.startswith("selfsame")]
    assert told == ([] if works else ["the fused kernels do not work here, torch compiles: no such instruction"] * 2)


@pytest.mark.parametrize(("norm", "precision"), [("batch norm", "fp32"), ("group norm", "bf16")])
def test_all_others_are_compiled_by_torch(norm, precision, monkeypatch):
    monkeypatch.setattr(compiling, "on_gpu", lambda part: True)
    net = ss.encoder(timm.create_model("resnet18", num_classes=0), 32)
    if norm == "group norm":
        net.use_group_norm()
    learner = compiled(ss.methods.BYOL(hidden=8, out=8).build(net), precision)
    assert learner.encoder._compiled_call_impl is not None and not networks.fused_in(learner)
