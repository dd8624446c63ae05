"""The cost model: what is counted, against what is known and what torch does; what is priced, by its laws."""

import json

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from selfsame.engine import cost
from selfsame.engine.cards import CARDS, card_of
from selfsame.engine.cost import Job, gathered_in, priced, reduced_in, roofline
from selfsame.engine.optim import make_optimizer
from selfsame.engine.rehearse import rehearsed
from selfsame.errors import UserError
from selfsame.methods.byol import BYOL
from selfsame.types import Learner, Step
from tests.conftest import Tiny

CARD = CARDS["h100"]
JOB = Job(items=1_000_000, batch=4096, steps=1000, at_rest=1e5, cached=4e5, read_files=2e-3, read_cache=1e-3)


class Supervised(Learner):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, views):
        return Step(F.cross_entropy(self.net(views[0]).float(), torch.zeros(len(views[0]), dtype=torch.long)))


def byol(**settings):
    torch.manual_seed(0)
    return BYOL(**{"hidden": 16, "out": 8, **settings}).build(Tiny())


def counted(learner=None, rows=32, together=False, bf16=False, side=16, optimizer="sgd"):
    return rehearsed(learner or byol(), [torch.zeros(2, 3, side, side)] * 2, rows, bf16, optimizer, together)


def flops_of(found, *parts):
    return sum(one.flops for one in found.operations if one.part in parts or not parts)


@pytest.fixture(scope="module")
def resnet50():
    learner = Supervised(timm.create_model("resnet50")).to(memory_format=torch.channels_last)
    return rehearsed(learner, [torch.rand(2, 3, 224, 224)], 256, True, "sgd", False)


# Counted -------------------------------------------------------------------------------------------------------------


def test_resnet50_has_its_known_4_1_gigamacs_and_thrice_as_much_with_the_backward_pass(resnet50):
    assert flops_of(resnet50, "forward") / 256 == pytest.approx(2 * 4.09e9, rel=0.01)
    # The first layer needs no gradient of its input.
    assert flops_of(resnet50) / flops_of(resnet50, "forward") == pytest.approx(3, rel=0.02)


def test_the_share_of_the_roofline_is_the_published_rate_of_resnet50_over_the_model(resnet50):
    assert 2470 * roofline(resnet50.operations, CARDS["a100"]) / 256 == pytest.approx(cost.SHARE, rel=0.01)


def test_convolutions_in_groups_and_attention_are_counted_as_what_they_are():
    separable = Supervised(
        nn.Sequential(nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    )
    found = rehearsed(separable, [torch.rand(2, 8, 10, 10).requires_grad_()], 4, False, "sgd", False)
    forward = 2 * 4 * 8 * 8 * 8 * 9
    assert flops_of(found, "forward") == forward
    assert flops_of(found, "backward") == forward  # of the weight; views ask for none

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            q = x.flatten(2) * self.scale  # [b heads n d] of 3 heads, 16 tokens
            q = q.unflatten(2, (16, 16)).contiguous()
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                return F.scaled_dot_product_attention(q, q, q).mean((1, 2))

    found = counted(Supervised(Attention()), rows=4)
    assert flops_of(found, "forward") == 4 * 4 * 3 * 16 * 16 * 16
    assert flops_of(found, "backward") == 10 * 4 * 3 * 16 * 16 * 16


def test_the_target_costs_the_forward_pass_of_the_online_network_without_its_predictor():
    found, plain = counted(), counted(byol(predictor=False))
    assert flops_of(found, "target") == flops_of(plain, "target") == flops_of(plain, "forward")
    assert flops_of(found, "forward") - flops_of(found, "target") == 2 * 32 * 2 * (8 * 16 + 16 * 8)


def test_arithmetic_and_views_grow_with_the_rows_and_gradients_do_not():
    one, two = counted(rows=16), counted(rows=32)
    assert flops_of(two) == 2 * flops_of(one)
    assert two.views == 2 * one.views == 2 * 2 * 16 * 3 * 16 * 16 * 4
    assert (one.gradients, one.weights, one.kept) == (two.gradients, two.weights, two.kept)
    assert len(one.operations) == len(two.operations)


@pytest.mark.parametrize(("optimizer", "copies"), [("sgd", 1), ("lars", 1), ("adamw", 2)])
def test_gradients_and_the_optimisers_state_are_those_of_a_real_step(optimizer, copies):
    learner = byol()
    learning = [p for p in learner.parameters() if p.requires_grad]
    found = counted(learner, optimizer=optimizer)
    assert found.gradients == 4 * sum(p.numel() for p in learning)
    assert found.weights == sum(t.numel() * t.itemsize for t in [*learner.parameters(), *learner.buffers()])
    assert found.kept == pytest.approx(copies * found.gradients, rel=1e-3)
    real = make_optimizer(optimizer, learner, 0.1, 0.1)
    learner([torch.rand(8, 3, 16, 16)] * 2).loss.backward()
    real.step()
    state = sum(
        t.numel() for one in real.state.values() for t in one.values() if isinstance(t, torch.Tensor) and t.ndim
    )
    assert found.kept == pytest.approx(4 * state, rel=1e-3)


@pytest.mark.filterwarnings("ignore:.*Profiler clears events")  # torch 2.11 says so of every profile
def test_the_memory_at_the_peak_is_what_torch_allocates(tmp_path):
    learner, rows, side = byol(), 64, 32
    found = counted(learner, rows=rows, side=side)
    views = [torch.rand(rows, 3, side, side).contiguous(memory_format=torch.channels_last) for _ in range(2)]
    learner.train()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        learner(views).loss.backward()
    seen.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    changes = [event["args"]["Bytes"] for event in events if event["name"] == "[memory]"]
    live = peak = 0
    for change in changes:
        live += change
        peak = max(peak, live)
    assert found.peak == pytest.approx(peak, rel=0.1)


def test_counting_leaves_the_learner_and_the_process_as_they_were():
    learner = byol()
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    torch.manual_seed(5)
    counted(learner, together=True)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))
    assert all(torch.equal(value, learner.state_dict()[name]) for name, value in before.items())
    assert all(p.grad is None for p in learner.parameters())
    assert not torch.distributed.is_initialized()
    learner([torch.rand(4, 3, 16, 16)] * 2).loss.backward()


def test_the_exchanges_of_batch_statistics_are_counted():
    """Both views of both networks: a gather a norm; on the way back a sum, of the online network alone."""
    assert counted(together=False).exchanges == ()
    found = counted(together=True).exchanges
    encoder, heads = [8, 8], [16, 16]  # channels; of projector and predictor
    gathers, sums = [one.bytes for one in found if one.gather], [one.bytes for one in found if not one.gather]
    forward = 2 * [*encoder, *heads] + 2 * [*encoder, heads[0]]
    assert sorted(gathers) == sorted(4 * (2 * channels + 1) for channels in forward)
    assert sorted(sums) == sorted(4 * 2 * channels for channels in 2 * [*encoder, *heads])


def test_a_network_whose_course_depends_on_values_is_refused_with_the_way_out():
    class Wilful(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, x):
            x = x.mean((2, 3))
            return self.layer(x) if bool(x.sum() > 0) else self.layer(-x)

    with pytest.raises(UserError, match=r"cannot be counted without running it.*Leave out --gpus"):
        counted(Supervised(Wilful()))


# Priced --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny():
    return counted(together=True, rows=64)


def on(found, gpus, **changes):
    return priced(found, JOB.changed(batch=64 * gpus, steps=max(1, 1_000_000 // (64 * gpus)), **changes), CARD, gpus)


@pytest.mark.parametrize("gpus", [1, 2, 4, 8, 16, 64, 128, 512])
def test_twice_the_cards_take_no_more_time_and_wait_no_less(tiny, gpus):
    one, two = on(tiny, gpus), on(tiny, 2 * gpus)
    assert two.total.seconds <= one.total.seconds
    assert two.network.statistics_seconds >= one.network.statistics_seconds
    assert two.network.gradient_seconds >= one.network.gradient_seconds
    assert two.network.received >= one.network.received
    assert two.compute == one.compute  # each does the same work
    assert two.total.gpu_hours >= one.total.gpu_hours * (1 - 1e-3)


def test_one_card_alone_exchanges_nothing():
    price = on(counted(rows=64), 1)
    talk = price.network
    assert (talk.gradients, talk.statistics, talk.received, talk.exchanges) == (0, 0, 0, 0)
    assert (talk.gradient_seconds, talk.statistics_seconds) == (0, 0)
    assert price.total.step == price.compute.seconds


def test_what_is_priced_adds_up(tiny):
    price = on(tiny, 16)
    talk, total, memory = price.network, price.total, price.memory
    assert sum(price.compute.parts.values()) == pytest.approx(price.compute.seconds)
    seen = talk.gradient_seconds - talk.hidden_seconds + talk.statistics_seconds
    assert total.step == pytest.approx(price.compute.seconds + seen)
    assert total.seconds == pytest.approx(total.step * total.steps)
    assert total.gpu_hours == pytest.approx(total.seconds * 16 / 3600)
    assert price.feeding.cores_files == pytest.approx(total.items_a_second / 16 * JOB.read_files)
    assert price.feeding.cores_cache == pytest.approx(price.feeding.cores_files / 2)
    assert price.storage.items == JOB.items * JOB.at_rest and price.storage.cache == JOB.items * JOB.cached
    assert memory.gradients == 2 * tiny.gradients  # the second copy is the one that is exchanged
    parts = memory.weights + memory.optimizer + memory.gradients + memory.activations + memory.views
    assert memory.total == parts


def test_micro_batches_multiply_the_work_and_the_exchanges_of_one(tiny):
    one, four = on(tiny, 8), on(tiny, 8, accumulate=4)
    assert four.network.exchanges - 1 == 4 * (one.network.exchanges - 1)  # gradients are summed once
    assert four.network.gradients == one.network.gradients
    assert four.compute.parts["backward"] == pytest.approx(4 * one.compute.parts["backward"])
    assert four.compute.parts["update"] == one.compute.parts["update"]
    assert four.memory == one.memory


def test_exchanges_take_the_time_of_their_bytes_and_of_their_hops():
    size = 10**9
    inside = 2 * 7 / 8 * size / (CARD.link * 1e9 * cost.WIRE)
    assert reduced_in(size, CARD, 8, CARD.network) == pytest.approx(inside, rel=0.01)
    between = 2 * size / (8 * CARD.network * 1e9 * cost.WIRE)
    assert reduced_in(size, CARD, 8 * 1024, CARD.network) == pytest.approx(inside + between, rel=0.01)
    assert reduced_in(4, CARD, 2, CARD.network) == pytest.approx(cost.TREE + 2 * CARD.hop * 1e-6, rel=1e-3)
    # A ring visits all: its hops grow with the cards, a tree's with their logarithm.
    assert gathered_in(4, CARD, 1024, CARD.network) > 10 * reduced_in(4, CARD, 1024, CARD.network)
    assert gathered_in(size, CARD, 16, 2 * CARD.network) < gathered_in(size, CARD, 16, CARD.network)


def test_a_step_takes_no_less_than_its_operations_take_to_start():
    few = counted(rows=2)
    price = priced(few, JOB.changed(batch=2), CARD, 1)
    assert price.compute.seconds >= cost.LAUNCH * len(few.operations) * (1 - 1e-9)


def test_cards_are_found_however_they_are_written_and_others_refused_with_the_nearest():
    assert card_of("H100") is card_of("h-100") is CARD
    with pytest.raises(UserError, match=r"unknown card 'h10'.*'h100'"):
        card_of("h10")
