"""When a pass is recorded, when the recording is played, and when a pass is done as it is."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from selfsame.engine import replaying
from selfsame.engine.replaying import Pass, Recording, Replayed, aliased
from tests.engine import graphs


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        self.passes = 0

    def forward(self, view):
        self.passes += 1
        return self.inner(view)


class Tape(Recording):
    """A recording that computes: what a graph does, without one."""

    def __init__(self, encoder, plain, learning, view):
        self.learning, self.pending, self.view, self.played = learning, None, view.clone(), 0
        self.plain = weakref.WeakMethod(plain) if plain is not None else None

    def __call__(self, view):
        self.played += 1
        token = Pass()
        self.pending = weakref.ref(token)
        out = self.plain()(view)
        out.grad_fn.metadata["token"] = token  # lives as long as the graph of the pass
        return out


@pytest.fixture
def net(monkeypatch):
    monkeypatch.setattr(replaying, "DEVICE", "cpu")
    monkeypatch.setattr(replaying, "Recording", Tape)
    net = Net()
    replaying.replayed(net)
    return net


def played(net):
    return sum(tape.played for tape in net.forward.made.values())


def test_the_third_pass_of_a_size_is_recorded_and_played(net):
    view = torch.rand(5, 4)
    for _ in range(4):
        net(view).sum().backward()
    assert len(net.forward.made) == 1 and played(net) == 2
    net(torch.rand(6, 4)).sum().backward()
    assert len(net.forward.made) == 1 and played(net) == 2  # another size is met for the first time


def test_a_second_pass_before_the_gradient_of_the_first_is_done_as_it_is(net):
    view = torch.rand(5, 4)
    for _ in range(3):
        net(view).sum().backward()
    one = net(view)
    before = played(net)
    two = net(view)
    assert played(net) == before
    (one.sum() + two.sum()).backward()
    del one, two
    gc.collect()
    net(view)
    assert played(net) == before + 1


def test_passes_that_differ_in_mode_are_not_played_for_each_other(net):
    view = torch.rand(5, 4)
    for _ in range(4):
        net(view).sum().backward()
    kinds = {net.forward.kind(view)}
    with torch.no_grad():
        kinds.add(net.forward.kind(view))
    net.inner[1].eval()
    kinds.add(net.forward.kind(view))
    net.inner[1].train()
    net.inner[1].track_running_stats = False
    kinds.add(net.forward.kind(view))
    net.inner[0].requires_grad_(False)
    kinds.add(net.forward.kind(view))
    net.inner[0].requires_grad_(True)
    net.inner[1].requires_grad_(False)  # as many, but others
    kinds.add(net.forward.kind(view))
    net.inner[1].momentum = 0.5
    kinds.add(net.forward.kind(view))
    with torch.autocast("cpu", torch.bfloat16):
        kinds.add(net.forward.kind(view))
    assert len(kinds) == 8 and None not in kinds


def test_watched_passes_those_in_eval_mode_and_those_with_gradients_of_views_are_done_as_they_are(net):
    view = torch.rand(5, 4)
    assert net.forward.kind(view) is not None
    assert net.forward.kind(view.clone().requires_grad_()) is None
    handle = net.inner[0].register_forward_hook(lambda *_: None)
    assert net.forward.kind(view) is None
    handle.remove()
    assert net.eval().forward.kind(view) is None


def test_where_nothing_can_be_recorded_it_is_said_once_and_passes_go_on(net, monkeypatch, caplog):
    def refuse(*_):
        raise torch.OutOfMemoryError("no room\nfor this")

    monkeypatch.setattr(replaying, "Recording", refuse)
    view = torch.rand(5, 4)
    for _ in range(5):
        net(view).sum().backward()
    assert net.passes == 5
    assert [record.message for record in caplog.records] == ["the encoder's passes are launched one by one: no room"]


def test_where_a_second_size_cannot_be_recorded_the_first_is_given_up_too(net, monkeypatch):
    for _ in range(3):
        net(torch.rand(5, 4)).sum().backward()
    assert net.forward.made

    def refuse(*_):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(replaying, "Recording", refuse)
    for _ in range(3):
        net(torch.rand(6, 4)).sum().backward()
    assert not net.forward.made


def test_no_more_than_some_sizes_are_recorded(net):
    for rows in range(2, 8):
        for _ in range(3):
            net(torch.rand(rows, 4)).sum().backward()
    assert len(net.forward.made) == replaying.MOST


def test_a_copy_records_for_itself(net):
    view = torch.rand(5, 4)
    for _ in range(3):
        net(view).sum().backward()
    twin = copy.deepcopy(net)
    assert isinstance(twin.forward, Replayed) and twin.forward.encoder is twin and not twin.forward.made
    torch.testing.assert_close(twin(view), net(view))
    assert list(twin.state_dict()) == list(Net().state_dict())


def test_views_are_laid_where_the_recording_wants_them(net):
    views = list(torch.rand(5, 4).split([2, 3]))
    assert torch.equal(net.forward.room(views), torch.cat(views)) and not net.forward.made
    for _ in range(3):
        net(torch.cat(views)).sum().backward()
    (tape,) = net.forward.made.values()
    assert net.forward.room(views).data_ptr() == tape.view.data_ptr()
    torch.testing.assert_close(tape.view, torch.cat(views))
    with torch.no_grad():  # another kind of pass, of which there is no recording
        assert net.forward.room(views).data_ptr() != tape.view.data_ptr()


def test_gradients_of_an_earlier_pass_of_the_step_are_kept():
    layer = nn.Linear(2, 2, bias=False)
    written = torch.ones(2, 2)
    tape = Tape(None, None, [layer.weight], torch.zeros(1))
    tape.gradients = [written]
    layer.weight.grad = written.detach()
    tape.free_gradients()
    written.fill_(5)
    assert torch.equal(layer.weight.grad, torch.ones(2, 2))


def test_recordings_go_with_the_encoder(net):
    mine = Net()
    replaying.replayed(mine)
    for _ in range(3):
        mine(torch.rand(5, 4)).sum().backward()
    (tape,) = mine.forward.made.values()
    left = weakref.ref(tape)
    gc.collect()
    gc.disable()  # what a circle holds would stay
    try:
        del tape, mine
        assert left() is None
    finally:
        gc.enable()


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
        )

    def forward(self, view):
        return self.net(view)


@pytest.fixture
def recorded(monkeypatch):
    """Two networks alike, of which the second is recorded, in pretence."""
    graphs.pretend(monkeypatch)
    monkeypatch.setattr(replaying, "DEVICE", "cpu")
    torch.manual_seed(0)
    plain = Conv()
    mine = copy.deepcopy(plain)
    replaying.replayed(mine)
    return plain, mine


def steps(net, sizes, micro):
    """What three steps of plain descent leave, in which each micro-batch has views of these sizes; losses are held."""
    torch.manual_seed(1)
    held = []
    for _ in range(3):
        net.zero_grad()
        for _ in range(micro):
            loss = sum(net(torch.rand(5, 3, size, size)).square().sum() for size in sizes)
            loss.backward()
            held.append(loss)
        with torch.no_grad():
            for p in net.parameters():
                p -= 0.01 * p.grad
    return [loss.item() for loss in held], {name: value.clone() for name, value in net.state_dict().items()}


@pytest.mark.parametrize("sizes", [[8], [8, 6], [8, 6, 5]])
@pytest.mark.parametrize("micro", [1, 2, 3])
def test_recorded_passes_learn_what_plain_ones_do(recorded, sizes, micro):
    (wanted, state), (found, other) = (steps(net, sizes, micro) for net in recorded)
    forward = recorded[1].forward
    assert len(forward.made) == len(sizes) and not forward.failed
    assert all(one.backward.played == 3 * micro - replaying.FIRST for one in forward.made.values())
    assert found == pytest.approx(wanted, rel=1e-5)
    for name, value in state.items():
        torch.testing.assert_close(other[name], value, rtol=1e-5, atol=1e-6)


def test_a_recording_leaves_alone_what_belongs_to_earlier_passes(recorded):
    _, mine = recorded
    view = torch.rand(5, 3, 8, 8)
    loss = mine(view).sum()  # its graph, and the nodes that take gradients, live on
    for p in mine.parameters():
        torch.autograd.graph.get_gradient_edge(p).node.metadata["earlier"] = True
    kept = list(mine.parameters())
    with aliased(mine) as alias:
        assert all(alias[p] is other for p, other in zip(kept, mine.parameters(), strict=True))
        assert all(alias[p].data_ptr() == p.data_ptr() for p in kept)
        edges = [torch.autograd.graph.get_gradient_edge(p) for p in mine.parameters()]
        assert not any(edge.node.metadata for edge in edges)
    assert all(one is other for one, other in zip(kept, mine.parameters(), strict=True))
    loss.backward()
    assert all(p.grad is not None for p in kept)


def test_gradients_are_recorded_of_other_leaves(recorded, monkeypatch):
    _, mine = recorded
    asked = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda out, leaves, *rest, **more: (
        asked.extend(leaves), grad(out, leaves, *rest, **more))[1])  # fmt: skip
    for _ in range(3):
        mine(torch.rand(5, 3, 8, 8)).sum().backward()
    assert len(asked) == 2 * len(list(mine.parameters()))  # the trial, and the recording
    assert not {id(leaf) for leaf in asked} & {id(p) for p in mine.parameters()}


def test_a_recording_that_breaks_off_leaves_all_as_it_was(recorded, monkeypatch, caplog):
    mine = recorded[1]
    tried = []
    monkeypatch.setattr(torch.cuda, "graph", graphs.Broken)
    monkeypatch.setattr(replaying, "settle_random_numbers", lambda: tried.append(graphs.place.now))
    kept = list(mine.parameters())
    (wanted, state), (found, other) = (steps(net, [8], 2) for net in recorded)
    assert graphs.place.now == "main" and tried == ["main"]
    assert mine.forward.failed and not mine.forward.made
    assert [record.message for record in caplog.records] == [
        "the encoder's passes are launched one by one: operation failed due to a previous error during capture"
    ]
    assert all(one is other for one, other in zip(kept, mine.parameters(), strict=True))
    assert found == wanted and all(torch.equal(value, other[name]) for name, value in state.items())
