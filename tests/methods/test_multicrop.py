"""How small crops pass through every method that can take some: by size, and never through a slow copy."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from selfsame import methods
from selfsame.engine.optim import make_optimizer
from selfsame.types import Encoder
from tests.methods.networks import around, slow_parts
from tests.methods.room import ITEMS, PART, SIDE, encoder_for, settings_of, surveyed, views_for

CROPPED = [name for name in methods.names() if "part_views" in methods.load(name).model_fields]
ODD = 12  # pixels of a part view of another size


def learner_of(name, **settings):
    torch.manual_seed(0)
    method = settings_of(name, **settings)
    learner = method.build(encoder_for(method), ITEMS)
    if learner.surveys(0):
        with torch.no_grad():
            learner.survey(surveyed(ITEMS))
    return learner


def passes(learner, views):
    """(whether of a slow copy, rows, side) of each pass of an encoder in a step."""
    slow, found, depth = slow_parts(learner), [], []

    def noted(network, call):
        def run(x, *args, **kwargs):
            if isinstance(network, Encoder) and not depth:
                found.append((network in slow, len(x), x.shape[-1]))
            depth.append(network)
            try:
                return call(x, *args, **kwargs)
            finally:
                depth.pop()

        return run

    with around(learner, noted):
        learner(views, torch.arange(ITEMS)) if learner.by_item else learner(views)
    return found


def test_the_methods_of_the_papers_with_multi_crop_are_among_those_looked_at():
    assert {"swav", "dino", "dinov2", "msn", "relic", "sce", "obow", "deepclusterv2", "lejepa"} <= set(CROPPED)


@pytest.mark.parametrize("name", CROPPED)
def test_slow_copies_see_no_small_crop_and_small_crops_of_a_size_pass_together(name):
    learner = learner_of(name, part_views=3)
    views = views_for(learner.method.plan)
    place = learner.method.plan.full + 2
    views[place] = F.interpolate(views[place], size=ODD)
    found = passes(learner, views)
    assert {side for slow, _, side in found if slow} <= {SIDE}
    assert [(slow, rows, side) for slow, rows, side in found if side != SIDE] == [
        (False, 2 * ITEMS, PART),
        (False, ITEMS, ODD),
    ]
    assert sum(rows for slow, rows, side in found if not slow and side == SIDE) == ITEMS * (
        1 if name == "msn" else learner.method.plan.full  # of MSN the first view is the target's alone
    )


@pytest.mark.parametrize("name", [name for name in CROPPED if slow_parts(learner_of(name))])
def test_small_crops_change_nothing_of_what_slow_copies_make(name):
    """Queues, centres, vocabularies, and the copies' own statistics."""
    kept = []
    for seed in (2, 3):
        learner = learner_of(name, part_views=2)
        views, full = views_for(learner.method.plan), learner.method.plan.full
        torch.manual_seed(seed)
        views[full : full + 2] = [torch.rand_like(view) for view in views[full : full + 2]]
        torch.manual_seed(0)
        learner(views)
        of_all = {id(buffer) for name, part in learner.named_children() if name != "target" for buffer in norms(part)}
        kept.append({name: buffer for name, buffer in learner.named_buffers() if id(buffer) not in of_all})
    assert kept[0].keys() and all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])


def norms(part):
    """Running statistics of batch norms."""
    return [b for one in part.modules() if isinstance(one, _BatchNorm) for b in one.buffers()]


@pytest.mark.parametrize("name", methods.names())
def test_the_optimiser_is_not_told_of_slow_copies(name):
    learner = learner_of(name)
    told = {id(p) for group in make_optimizer("sgd", learner, 0.1, 0.0).param_groups for p in group["params"]}
    assert told and not told & {id(p) for part in slow_parts(learner) for p in part.parameters()}
