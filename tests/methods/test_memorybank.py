"""What is true of the memory bank alone. Golden values: JOINT B4."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn, tensor
from torch.testing import assert_close

from selfsame.errors import UserError
from selfsame.methods.memorybank import MemoryBank, nce
from selfsame.records import Budget
from selfsame.types import Encoder
from tests.methods.room import ITEMS, surveyed

BANK = tensor([[1.0, 0], [0, 1], [0.6, 0.8], [-1, 0]])


class Bare(Encoder):
    """Its vectors are its views."""

    dim = 2

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        return view


def bare(bank: torch.Tensor = BANK, **settings: object) -> nn.Module:
    learner = MemoryBank(out=2, **settings).build(Bare(), len(bank))
    learner.head = nn.Identity()
    learner.bank.copy_(bank)
    return learner


def test_the_full_softmax_has_its_golden_value():
    learner = bare(loss="softmax", temperature=0.07)
    step = learner([tensor([[0.6, 0.8]]).expand(2, 2)], tensor([2, 2]))
    assert_close(step.loss, tensor(0.058958), rtol=0, atol=1e-6)


def test_noise_contrast_has_its_golden_value():
    scores = tensor([[0.6, 0.1, -0.2, 0.0]]) / 0.5
    scale = 10 * scores.exp().mean()
    assert float(scale) == pytest.approx(15.529599, abs=1e-5)
    assert_close(nce(scores, scale, 10), tensor(1.438519), rtol=0, atol=1e-6)


def test_a_stored_vector_goes_half_of_the_way_and_back_to_the_sphere():
    learner = bare(loss="softmax")
    learner([tensor([[0.6, 0.8], [0.6, 0.8]])], tensor([0, 0]))
    assert_close(learner.bank[0], tensor([0.894427, 0.447214]), rtol=0, atol=1e-6)
    assert torch.equal(learner.bank[1:], BANK[1:])


@pytest.mark.parametrize("loss", ["softmax", "nce"])
def test_rows_are_read_before_they_are_written_and_no_gradient_enters_them(loss):
    learner = bare(loss=loss, noise=3, temperature=0.5)
    view = F.normalize(torch.randn(2, 2, generator=torch.Generator().manual_seed(0)), dim=1).requires_grad_()
    items = tensor([3, 1])
    torch.manual_seed(1)
    step = learner([view], items)
    step.loss.backward()
    torch.manual_seed(1)
    noise = torch.randint(4, (3,))
    if loss == "softmax":
        expected = F.cross_entropy(view @ BANK.T / 0.5, items)
    else:
        scores = torch.cat([(view * BANK[items]).sum(1, keepdim=True), view @ BANK[noise].T], dim=1) / 0.5
        expected = nce(scores, 4 * scores.exp().mean().detach(), 4)
    assert_close(step.loss, expected)
    assert not learner.bank.requires_grad and not torch.equal(learner.bank[items], BANK[items])
    assert_close(learner.bank[items], F.normalize((BANK[items] + view.detach()) / 2, dim=1))


def test_noise_contrast_learns_which_item_is_which(tiny):
    learner = MemoryBank(loss="nce", noise=5, out=8).build(tiny, 6)
    view = torch.rand(6, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(learner.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        learner([view], torch.arange(6)).loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = learner.head(learner.encoder(view)) @ learner.bank.T
    assert torch.equal(found.argmax(dim=1), torch.arange(6))


def test_the_normaliser_is_that_of_the_first_batch_and_is_kept_with_the_state():
    learner = bare(loss="nce", noise=3)
    assert float(learner.scale) == 0
    learner([F.normalize(torch.randn(2, 2), dim=1)], tensor([0, 1]))
    first = learner.scale.clone()
    assert first > 0
    learner([F.normalize(torch.randn(2, 2), dim=1)], tensor([2, 3]))
    assert torch.equal(learner.scale, first)
    other = bare(loss="nce", noise=3)
    other.load_state_dict(learner.state_dict())
    other([F.normalize(torch.randn(2, 2), dim=1)], tensor([0, 1]))
    assert torch.equal(other.scale, first)


def test_an_item_that_stands_twice_in_a_batch_counts_with_its_mean():
    learner = bare(loss="softmax")
    view = F.normalize(torch.randn(3, 2, generator=torch.Generator().manual_seed(0)), dim=1)
    learner([view], tensor([1, 0, 1]))
    assert_close(learner.bank[1], F.normalize(BANK[1] / 2 + (view[0] + view[2]) / 4, dim=0))


def test_the_bank_starts_with_lengths_of_about_one(tiny):
    learner = MemoryBank().build(tiny, 500)
    bound = 1 / (128 / 3) ** 0.5
    assert learner.bank.shape == (500, 128) and 0.98 * bound < learner.bank.abs().max() <= bound
    lengths = learner.bank.norm(dim=1)
    assert float(lengths.mean()) == pytest.approx(1, abs=0.02) and lengths.std() > 0.01


def test_only_training_writes_to_the_bank():
    learner = bare(loss="softmax").eval()
    learner([tensor([[0.6, 0.8], [0, 1]])], tensor([0, 1]))
    assert torch.equal(learner.bank, BANK)


def test_the_momentum_is_on_the_vectors_and_nothing_else_is_slow(tiny):
    learner = MemoryBank(out=8).build(tiny, 12)
    assert {name.split(".")[0] for name, _ in learner.named_parameters()} == {"encoder", "head"}
    assert learner.method.plan.full == 1 and learner.by_item


def test_without_the_number_of_items_it_cannot_be_built(tiny):
    with pytest.raises(UserError, match="keeps a vector of each item"):
        MemoryBank().build(tiny)


def test_a_wrong_number_of_views_or_items_is_refused(tiny, views):
    learner = MemoryBank(out=8).build(tiny, 12)
    for given in (views, []):
        with pytest.raises(UserError, match="memory bank needs a list of 1 full view"):
            learner(given, torch.arange(12))
    with pytest.raises(UserError, match="numbers of items"):
        learner(views[:1], torch.arange(5))


def test_few_items_get_the_full_softmax_and_many_the_noise():
    few, many = (Budget(items=n, batch=256, steps=1000, dim=64) for n in (10_000, 1_000_000))
    assert MemoryBank().fitted(few).loss == "softmax" and MemoryBank().fitted(many).loss == "nce"
    chosen = MemoryBank(loss="nce").fitted(few)
    assert chosen.loss == "nce" and chosen.misfits(few) == []


def test_short_runs_start_with_the_items_and_spread_their_vectors():
    short, long = (Budget(items=10_000, batch=256, steps=n, dim=64) for n in (1000, 100_000))
    fitted = MemoryBank().fitted(short)
    assert (fitted.start, fitted.output_norm) == ("items", "whiten")
    fitted = MemoryBank().fitted(long)
    assert (fitted.start, fitted.output_norm) == ("random", "none")
    assert MemoryBank(start="random").fitted(short).start == "random"


def test_a_bank_may_start_with_the_vectors_of_the_items(tiny):
    learner = MemoryBank(out=8, start="items", output_norm="plain").build(tiny, ITEMS).train()
    assert [learner.surveys(number) for number in range(3)] == [True, False, False]
    assert not MemoryBank(out=8).build(tiny, ITEMS).surveys(0)
    state = {name: value.clone() for name, value in tiny.state_dict().items()}
    learner.survey(surveyed(ITEMS, batch=4))
    assert all(torch.equal(state[name], value) for name, value in tiny.state_dict().items())
    (view,), items = list(surveyed(ITEMS, batch=4))[1]
    assert_close(learner.bank[items], F.normalize(learner.head(tiny(view)), dim=1))


def test_more_noise_than_items_is_refused():
    budget = Budget(items=1000, batch=64, steps=100, dim=64)
    (text,) = MemoryBank(loss="nce").fitted(budget).misfits(budget)
    assert "--method.loss softmax" in text
