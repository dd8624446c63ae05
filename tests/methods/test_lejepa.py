"""What is true of LeJEPA alone. Golden values of fact sheet A5."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn, tensor
from torch.testing import assert_close

from selfsame.errors import UserError
from selfsame.methods.lejepa import LeJEPA, epps_pulley, sigreg
from selfsame.records import Budget, ViewPlan
from tests.methods.room import loss_alone, views_for

SMALL = {"hidden": 16, "out": 8, "directions": 8}


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("values", "golden"), [([-1.0, 0, 1], 0.032947), ([0.0] * 4, 1.608190), ([5.0] * 4, 15.759841)]
)
def test_the_statistic_is_golden(values, golden):
    assert float(epps_pulley(tensor(values, dtype=torch.float64))) == pytest.approx(golden, abs=1e-6)


def test_quantiles_of_the_normal_distribution_are_normal():
    places = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    assert float(epps_pulley(torch.special.ndtri(places))) == pytest.approx(3.5e-5, abs=1e-6)


def test_it_grows_with_the_number_of_rows_and_is_one_for_each_column():
    s = drawn(6, 3)
    found = epps_pulley(s)
    assert_close(found, torch.stack([epps_pulley(column) for column in s.T]))
    assert_close(epps_pulley(torch.cat([s, s])), 2 * found)


def test_normal_vectors_are_far_better_than_shifted_narrow_wide_or_flat_ones():
    z, directions = drawn(500, 4), F.normalize(drawn(4, 64), dim=0)
    good = float(sigreg(z, directions))
    flat = z * tensor([1, 1, 1, 0])
    for bad in (z + 1, 0.5 * z, 2 * z, flat):
        assert float(sigreg(bad, directions)) > 5 * good


def test_the_loss_weighs_distance_to_the_centre_and_distance_from_normal():
    """In one dimension every direction is 1 or -1, and the statistic does not tell them apart."""
    full_one, full_two, part = (tensor([[1.0], [-1.0]], dtype=torch.float64) * k for k in (0, 2, 4))
    views = [full_one, full_two, part]
    normality = sum(epps_pulley(view[:, 0]) for view in views) / 3
    for centre, distance in {"full": (1 + 1 + 9) / 3, "all": (4 + 0 + 4) / 3}.items():
        step = loss_alone(LeJEPA(part_views=1, out=1, weight=0.2, centre=centre), 1)(views)
        assert float(step.loss) == pytest.approx(0.8 * distance + 0.2 * float(normality))
        assert float(step.logs["invariance"]) == pytest.approx(distance)


def test_directions_are_new_each_step_and_follow_the_seed(tiny):
    learner = LeJEPA(**SMALL, part_views=1).build(tiny)
    views = views_for(learner.method.plan)
    torch.manual_seed(1)
    first, second = (learner(views).logs["sigreg"] for _ in range(2))
    torch.manual_seed(1)
    assert torch.equal(learner(views).logs["sigreg"], first) and not torch.equal(first, second)


def test_every_view_gets_a_gradient():
    views = [x.requires_grad_() for x in drawn(4, 6, 3)]
    loss_alone(LeJEPA(part_views=2, out=3, directions=8), 3)(views).loss.backward()
    assert all(view.grad.abs().min() > 0 for view in views)


def test_the_order_of_items_of_full_and_of_part_views_does_not_matter():
    views = list(drawn(4, 6, 3))
    learner = loss_alone(LeJEPA(part_views=2, out=3, directions=8), 3)
    found = []
    turned = [view[[2, 5, 0, 1, 4, 3]] for view in views]
    for given in (views, turned, [*views[:2], views[3], views[2]], [views[1], views[0], *views[2:]]):
        torch.manual_seed(0)
        found.append(learner(given).loss)
    for other in found[1:]:
        assert_close(other, found[0])


def test_half_precision_outside_does_not_change_the_statistic():
    z, directions = drawn(16, 2, 6).float(), F.normalize(drawn(6, 8), dim=0).float()
    exact = sigreg(z, directions)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sigreg(z, directions), exact)
    step = loss_alone(LeJEPA(part_views=0, out=6, directions=8), 6)([100 * z[:, 0].half(), 100 * z[:, 1].half()])
    assert step.loss.dtype == torch.float32 and step.loss.isfinite()


def test_the_projector_sees_all_views_at_once(tiny):
    learner = LeJEPA(**SMALL, part_views=2).build(tiny).train()
    seen = []
    learner.projector.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    learner(views_for(learner.method.plan))
    assert seen == [4 * 12]
    linear = [part for part in learner.projector if isinstance(part, nn.Linear)]
    assert [tuple(part.weight.shape) for part in linear] == [(16, 8), (16, 16), (8, 16)]
    assert all(part.bias is not None for part in linear)


def test_the_plan_follows_the_settings_and_others_are_refused(tiny, views):
    assert LeJEPA().plan == ViewPlan(full=2, part=6)
    assert LeJEPA(part_views=0).plan == ViewPlan(full=2)
    with pytest.raises(UserError, match="LeJEPA needs a list of 2 full and 1 part views"):
        LeJEPA(**SMALL, part_views=1).build(tiny)(views)


def test_large_batches_are_looked_at_along_more_directions_unless_given():
    budgets = [Budget(items=5000, batch=batch, steps=1000, dim=64) for batch in (64, 512)]
    assert [LeJEPA().fitted(budget).directions for budget in budgets] == [256, 1024]
    assert LeJEPA(directions=7).fitted(budgets[0]).directions == 7


@pytest.mark.parametrize(("weight", "word"), [(0, "full collapse"), (1, "nothing is learnt")])
def test_weights_that_end_badly_are_warned_about(weight, word):
    assert word in LeJEPA(weight=weight).cautions()[0]
