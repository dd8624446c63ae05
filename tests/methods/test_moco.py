"""What is true of MoCo alone. Golden values: JOINT B0, B1 and B2, computed in float64."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from selfsame.errors import UserError
from selfsame.methods.moco import MoCo
from selfsame.nn.contrast import logits_against
from selfsame.nn.split import SplitBatch
from selfsame.records import Budget
from selfsame.types import Encoder
from tests.conftest import Tiny

SMALL = {"hidden": 16, "out": 4, "queue": 24, "rows": 4}
Q, K = torch.tensor([[1.0, 0]]).expand(2, 2), torch.tensor([[0.6, 0.8]]).expand(2, 2)
HELD = torch.tensor([[0.0, 1], [-1, 0], [0.8, 0.6]])


class Bare(Encoder):
    """Its vectors are its views."""

    dim = 2

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        return view


def bare(queue: int, **settings: object) -> nn.Module:
    """A learner without weights, so that what is compared is what is given."""
    learner = MoCo(out=2, queue=queue, **settings).build(Bare())
    learner.head, learner.target.net = nn.Identity(), nn.Identity()
    return learner


def plain(tiny: Tiny, **settings: object) -> nn.Module:
    """Batch norms over all rows, so that nothing is drawn."""
    return MoCo(**{**SMALL, "batch_norm": "sync", **settings}).build(tiny)


@pytest.mark.parametrize(("temperature", "expected"), [(0.07, 2.912997), (0.2, 1.326652), (1.0, 1.089272)])
def test_the_loss_has_its_golden_values(temperature, expected):
    learner = bare(3, temperature=temperature)
    learner.queue.rows.copy_(HELD)
    assert_close(learner([Q, K]).loss, torch.tensor(expected), rtol=1e-5, atol=1e-6)
    learner.queue.rows.copy_(HELD)
    assert_close(learner([3 * Q, 0.1 * K]).loss, torch.tensor(expected), rtol=1e-5, atol=1e-6)  # directions count


def test_the_logits_and_their_gradient_are_golden():
    logits = (logits_against(Q[:1], K[:1], HELD) / 0.2).requires_grad_()
    assert_close(logits.detach(), torch.tensor([[3.0, 0, -5, 4]]))
    assert_close(logits.detach().softmax(1), torch.tensor([[0.26536, 0.013212, 0.000089, 0.72133]]), rtol=0, atol=1e-5)
    F.cross_entropy(logits, torch.tensor([0])).backward()
    assert float(logits.grad[0, 0]) == pytest.approx(-0.73464, abs=1e-5)


@pytest.mark.parametrize(
    ("queue", "expected"), [(1, 0.693147), (255, 5.545177), (4096, 8.318010), (65_535, 11.090355), (65_536, 11.090370)]
)
def test_where_all_are_alike_the_loss_is_the_logarithm_of_the_candidates(queue, expected):
    learner = bare(queue)
    learner.queue.rows.copy_(Q[:1].expand(queue, 2))
    step = learner([Q, Q])
    assert float(step.loss) == pytest.approx(expected, abs=2e-6) == pytest.approx(math.log(1 + queue), abs=2e-6)


def test_keys_replace_the_oldest_and_are_no_negatives_of_their_own_step():
    learner = bare(4)
    start = learner.queue()
    batches = [F.normalize(torch.randn(2, 2, generator=torch.Generator().manual_seed(k)), dim=1) for k in range(3)]
    held = [start]
    for keys in batches:
        expected = F.cross_entropy(logits_against(keys, keys, held[-1]) / 0.2, torch.zeros(2, dtype=torch.long))
        assert_close(learner([keys, 7 * keys]).loss, expected)
        held.append(learner.queue())
    zero, one, two = batches
    golden = torch.cat([zero, start[2:]]), torch.cat([zero, one]), torch.cat([two, one])
    for found, expected in zip(held[1:], golden, strict=True):
        assert_close(found, expected)
    assert int(learner.queue.place) == 2 and int(learner.queue.pushed) == 6
    assert_close(learner.queue().norm(dim=1), torch.ones(4))


def test_only_training_moves_the_queue(tiny, views):
    learner = plain(tiny).eval()
    with torch.no_grad():
        learner(views)
    assert int(learner.queue.pushed) == 0


def test_steps_are_those_of_the_reference_order(tiny, views):
    """q, then the slow copy moves, then k, then the queue; here it moves at the end of the step before."""
    learner = plain(tiny, momentum=0.9)
    online, slow = copy.deepcopy(learner.online), copy.deepcopy(learner.online)
    held, place = learner.queue(), 0
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9) for net in (learner, online)]
    for step in range(4):
        optimizers[0].zero_grad()
        loss = learner(views).loss
        loss.backward()
        optimizers[0].step()
        learner.after_step(step / 4)
        q = F.normalize(online(views[0]), dim=1)
        with torch.no_grad():
            for mine, theirs in zip(slow.parameters(), online.parameters(), strict=True):
                mine.mul_(0.9).add_(theirs, alpha=0.1)
            k = F.normalize(slow(views[1]), dim=1)
        scores = torch.cat([(q * k).sum(1, keepdim=True), q @ held.T], dim=1) / 0.2
        expected = F.cross_entropy(scores, torch.zeros(len(q), dtype=torch.long))
        optimizers[1].zero_grad()
        expected.backward()
        optimizers[1].step()
        held = held.clone()
        held[place : place + 12] = k
        place = (place + 12) % 24
        assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    assert_close(learner.queue(), held, rtol=1e-4, atol=1e-5)


def test_no_gradient_reaches_the_keys(tiny, views):
    learner = MoCo(**SMALL).build(tiny)
    learner(views).loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in learner.target.parameters())
    assert all(p.grad is not None for p in learner.parameters() if p.requires_grad)


def test_the_copy_stays_where_the_momentum_is_one_and_is_equal_where_it_is_zero(tiny):
    for momentum, share in ((1.0, 0.0), (0.0, 1.0)):
        learner = plain(tiny, momentum=momentum)
        before = [p.clone() for p in learner.target.parameters()]
        with torch.no_grad():
            for p in learner.online.parameters():
                p.add_(1)
        learner.after_step(0.0)
        for was, now in zip(before, learner.target.parameters(), strict=True):
            assert_close(now, was + share)


def test_heads_are_those_of_the_versions():
    one, two = (MoCo(head=head, queue=4).build(Tiny()).head for head in ("linear", "mlp"))
    assert [type(layer) for layer in one] == [nn.Linear] and one[0].weight.shape == (128, 8)
    assert [type(layer) for layer in two] == [nn.Linear, nn.ReLU, nn.Linear]
    assert two[0].weight.shape == (2048, 8) and two[2].weight.shape == (128, 2048) and two[2].bias is not None


def test_symmetric_adds_both_directions_and_keeps_the_keys_of_both(tiny, views):
    learner = plain(tiny, symmetric=True)
    twins = [plain(tiny) for _ in range(2)]
    for twin in twins:
        twin.load_state_dict(learner.state_dict())
    one, two = twins[0](views), twins[1](views[::-1])
    step = learner(views)
    assert_close(step.loss, one.loss + two.loss)
    assert_close(learner.queue(), torch.cat([twins[0].queue()[:12], twins[1].queue()[:12]]))
    other = plain(tiny, symmetric=True)
    other.load_state_dict({**learner.state_dict(), "queue.rows": learner.queue()})
    held = other.queue()
    first = other(views).loss
    other.queue.rows.copy_(held)
    assert_close(other(views[::-1]).loss, first)


def test_queries_and_keys_are_normalised_in_different_groups(tiny, views):
    learner = MoCo(**SMALL).build(tiny)
    assert sum(isinstance(part, SplitBatch) for part in learner.encoder.modules()) == 2
    assert sum(isinstance(part, SplitBatch) for part in learner.target.modules()) == 2
    torch.manual_seed(0)
    with torch.no_grad():
        query, keys = learner.query(views[0]), [learner.key(views[0]) for _ in range(2)]
    alike = [F.cosine_similarity(query, key) for key in keys]
    assert all((one < 1 - 1e-4).any() for one in alike)  # the same network and view, among other rows
    assert not torch.allclose(keys[0], keys[1])
    with torch.no_grad():
        learner.target.net.eval()
        assert_close(learner.key(views[0]), F.normalize(learner.target.net(views[0]), dim=1))


def test_the_encoder_that_is_kept_is_an_ordinary_one(tiny, views):
    learner = MoCo(**SMALL).build(tiny)
    learner(views)
    other = Tiny()
    other.load_state_dict(learner.encoder.state_dict(), strict=True)
    assert torch.equal(other.eval()(views[0]), learner.encoder.eval()(views[0]))


def test_batch_norm_may_give_way_to_group_norm():
    learner = MoCo(**{**SMALL, "batch_norm": "group"}).build(Tiny())
    assert not learner.shuffles and any(isinstance(part, nn.GroupNorm) for part in learner.encoder.modules())


def test_an_encoder_without_batch_norm_needs_no_shuffling():
    assert not MoCo(out=2, queue=4).build(Bare()).shuffles


def test_a_wrong_number_of_views_is_refused(tiny, views):
    learner = MoCo(**SMALL).build(tiny)
    for given in (views[:1], [*views, views[0]], [views[0], views[1][:3]]):
        with pytest.raises(UserError, match="MoCo needs a list of 2 full views"):
            learner(given)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"batch_norm": "sync"}, "give the pairs away"),
        ({"momentum": 0.9}, "converge"),
        ({"momentum": 1}, "never moves"),
    ],
)
def test_settings_known_to_end_badly_have_a_caution(settings, word):
    (text,) = MoCo(**settings).cautions()
    assert word in text


@pytest.mark.parametrize(
    ("settings", "budget", "cure"),
    [
        ({"queue": 2000}, {}, "Give --method.queue 125"),
        ({"queue": 32}, {}, "--method.queue 64 or more"),
        ({"rows": 24}, {}, "Give --method.rows 2, 4, 8, 16, 32, 64"),
        ({"rows": 32}, {"cuts": 4}, "Give --method.rows 2, 4, 8, 16"),
    ],
)
def test_what_does_not_go_together_is_told_with_its_cure(settings, budget, cure):
    budget = Budget(**{"items": 1000, "batch": 64, "steps": 100, "dim": 32, **budget})
    (text,) = MoCo(**settings).fitted(budget).misfits(budget)
    assert cure in text
    assert MoCo(batch_norm="group", rows=24).fitted(budget).misfits(budget) == []


def test_the_papers_run_keeps_the_papers_settings():
    budget = Budget(items=1_281_167, batch=256, steps=1_000_000, dim=2048, cuts=8)
    fitted = MoCo().fitted(budget)
    assert (fitted.queue, fitted.rows, fitted.hidden, fitted.momentum) == (65_536, 32, 2048, 0.999)
    assert fitted.misfits(budget) == []


def test_a_short_run_gets_a_shorter_queue_and_a_copy_that_is_still_slow():
    budget = Budget(items=10_000, batch=64, steps=600, dim=256)
    fitted = MoCo().fitted(budget)
    assert (fitted.queue, fitted.rows, fitted.hidden, fitted.momentum) == (1250, 8, 512, 0.996)
    assert fitted.cautions() == []


@pytest.mark.parametrize("batch", [4, 7, 12, 30, 64, 96, 256])
@pytest.mark.parametrize("cuts", [1, 2, 3])
def test_any_run_gets_settings_that_fit(batch, cuts):
    if batch // cuts < 2 or batch % cuts:
        pytest.skip("refused before")
    for items in (batch, 1000):
        budget = Budget(items=items, batch=batch, steps=50, dim=8, cuts=cuts)
        assert MoCo().fitted(budget).misfits(budget) == []
