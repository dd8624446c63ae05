import math

import pytest
import torch

from selfsame.errors import UserError
from selfsame.methods.ts2vec import TS2Vec, among_rows, among_steps, halved, halved_mask, hierarchical
from selfsame.modalities import signal
from selfsame.records import Budget
from tests.modalities.signal.made import TINY
from tests.modalities.signal.room import batch, stats_of

A = torch.tensor([[[1.0, 0], [0, 1]], [[0, 1], [1, 1]]])
B = torch.tensor([[[1.0, 0], [0, 2]], [[0, 1], [1, 0]]])
ALL = torch.ones(2, 2, dtype=torch.bool)


def test_losses_equal_the_reference_code():
    assert among_rows(A, B, ALL) == pytest.approx(0.684362, abs=1e-6)
    assert among_steps(A, B, ALL) == pytest.approx(0.619503, abs=1e-6)
    assert hierarchical(A, B, ALL) == pytest.approx(0.623026, abs=1e-6)
    zeros = torch.zeros(2, 8, 3)
    assert among_rows(zeros, zeros, torch.ones(2, 8, dtype=torch.bool)) == pytest.approx(math.log(3), abs=1e-6)


def test_the_loss_is_the_same_for_swapped_views_and_turned_rows():
    one, two = torch.randn(4, 9, 3), torch.randn(4, 9, 3)
    seen = torch.rand(4, 9) < 0.7
    order = torch.randperm(4)
    loss = hierarchical(one, two, seen)
    assert torch.allclose(hierarchical(two, one, seen), loss, atol=1e-5)
    assert torch.allclose(hierarchical(one[order], two[order], seen[order]), loss, atol=1e-5)


def test_what_one_view_does_not_see_changes_nothing():
    one, two = torch.randn(4, 9, 3), torch.randn(4, 9, 3)
    seen = torch.ones(4, 9, dtype=torch.bool)
    seen[0, :4], seen[1, 6:], seen[2, 5] = False, False, False
    other = torch.where(seen[..., None], one, 77.0)
    assert torch.allclose(hierarchical(one, two, seen), hierarchical(other, two, seen), atol=1e-5)
    # As many steps that nobody sees: the contrasts of the finest scale are those of the rest.
    shorter = among_steps(one[:1, 4:], two[:1, 4:], seen[:1, 4:])
    assert torch.allclose(among_steps(one[:1], two[:1], seen[:1]), shorter, atol=1e-5)


def test_halving_takes_the_largest_of_what_is_seen():
    z = torch.tensor([[[1.0], [5.0], [2.0], [9.0], [7.0]]])
    seen = torch.tensor([[True, True, True, False, True]])
    assert halved(z, seen).flatten().tolist() == [5, 2] and halved_mask(seen).tolist() == [[True, True]]
    none = torch.zeros(1, 5, dtype=torch.bool)
    assert halved(z, none).abs().max() == 0 and not halved_mask(none).any()


@pytest.mark.parametrize("name", [TINY, "dilated@0.125", "vit_nano"])
def test_it_learns_to_find_steps_in_the_other_crop(name):
    torch.manual_seed(0)
    encoder = signal.make_encoder(name, 48, stats_of())
    learner = TS2Vec().build(encoder)
    views = [batch(8), batch(8)]
    views[0][:, :, 40:], views[1][:, :, :8] = float("nan"), float("nan")
    optimizer = torch.optim.AdamW(learner.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        step = learner(views)
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
        losses.append(float(step.loss.detach()))
    assert losses[-1] < 0.8 * losses[0] and step.logs["spread"] > 0


def test_long_views_are_compared_from_a_coarser_scale_on():
    torch.manual_seed(0)
    encoder = signal.make_encoder("dilated@0.125", 48, stats_of()).eval()
    views = [batch(4, steps=64), batch(4, steps=64)]
    coarse = TS2Vec(most=16).build(encoder)(views).loss
    (one, seen), (two, _) = encoder.steps(views[0]), encoder.steps(views[1])
    for _ in range(2):
        one, two, seen = halved(one, seen), halved(two, seen), halved_mask(seen)
    assert torch.allclose(coarse, hierarchical(one, two, seen), atol=1e-5)


def test_what_cannot_be_learned_from_is_refused():
    encoder = signal.make_encoder(TINY, 48, stats_of())
    views = [batch(), batch()]
    views[0][:, :, 20:], views[1][:, :, :20] = float("nan"), float("nan")
    with pytest.raises(UserError, match=r"no two views of an item overlap. Give --views ts2vec"):
        TS2Vec().build(encoder)(views)
    assert TS2Vec(instance=1.0).misfits(Budget(items=4, batch=1, steps=9, dim=8)) and not TS2Vec().cautions()
