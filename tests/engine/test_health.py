"""Each verdict is provoked by a training run that deserves it; the thresholds are tested on made-up signs."""

import contextlib
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from selfsame.engine.health import ADVICE, ENDS_BADLY, TOO_EARLY, Health, Output, Signs, judge, look, own_statistics
from selfsame.errors import TrainingStopped
from selfsame.types import Draws
from tests.conftest import Tiny
from tests.engine import room


class Wide(Tiny):
    """With directions to lose."""

    def __init__(self):
        super().__init__(dim=32)


def verdicts(folder, learner, plan, **settings):
    """The verdicts of a run in order, whether it came to its end or not."""
    with contextlib.suppress(TrainingStopped):
        room.run(folder, learner, plan, **settings)
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [row["verdict"] for row in lines if "verdict" in row]


def test_a_run_with_good_settings_is_healthy_all_the_way(tmp_path):
    found = verdicts(tmp_path, room.learner(), room.loop(120, health_every=20))
    assert found == [TOO_EARLY] + 6 * ["healthy"]


@pytest.mark.parametrize(("steps", "items"), [(2, 16), (120, 4)])
def test_of_few_steps_or_few_items_nothing_good_is_said(tmp_path, steps, items):
    learner = room.learner()
    health = room.health_of(learner)
    few = Health(learner.encoder, lambda: [view[:items] for view in health.views()])
    assert set(verdicts(tmp_path, learner, room.loop(steps, health_every=60), health=few)) == {TOO_EARLY}


def test_a_learning_rate_near_nothing_is_called_slow_once_a_quarter_is_done(tmp_path):
    """Its batch norms meet the data, so everything looks better than at the first step; the weights stay as drawn."""
    found = verdicts(tmp_path, room.learner(), room.loop(80, lr=1e-9, health_every=10))
    assert found == [TOO_EARLY] * 2 + ["slow"] * 7


def test_without_predictor_and_with_momentum_0_the_head_collapses_behind_an_encoder_with_batch_norm(tmp_path):
    learner = room.learner(predictor=False, momentum=0.0, schedule="constant")
    assert verdicts(tmp_path, learner, room.loop(200, lr=0.05, health_every=30))[1:] == ["full collapse"] * 2


def test_without_any_norm_the_encoder_itself_collapses(tmp_path):
    learner = room.learner(
        encoder=room.Bare, predictor=False, projector=False, momentum=0.0, schedule="constant", hidden=8
    )
    found = verdicts(tmp_path, learner, room.loop(200, lr=0.02, health_every=20))
    assert found[-2:] == ["full collapse"] * 2
    signs, _ = look(learner.encoder, room.health_of(learner).views())
    assert signs.spread < 0.03


def test_views_that_share_too_little_leave_few_directions(tmp_path):
    """All that two views have in common is how bright the picture is, so the vectors end along one direction."""

    def bright(samples, draws):
        level = torch.stack([sample.float().mean((1, 2, 3), keepdim=True) for sample in samples]).mean(0) / 255
        return [level + 0.05 * draws.normal(sample[0].numel()).view(sample.shape) for sample in samples]

    def held_out():
        return bright(room.cut(room.Pictures(), list(range(64, 80)), Draws(9, 0, 16)), Draws(9, 0, 16, stream=1))

    learner = room.learner(encoder=Wide)
    plan = room.loop(201, lr=0.01, health_every=67)
    found = verdicts(tmp_path, learner, plan, views=bright, health=Health(learner.encoder, held_out))
    assert found[0] == TOO_EARLY and found[-1] == "dimensional collapse"


def test_the_dot_product_of_free_vectors_diverges(tmp_path):
    learner = room.learner(loss="dot")
    with pytest.raises(TrainingStopped, match=r"^diverging found .*a loss without a lower bound.*normalised loss"):
        room.run(tmp_path, learner, room.loop(200, lr=1.0, optimizer="sgd"))


def test_a_loss_that_grows_a_thousandfold_is_diverging_while_all_is_finite(tmp_path):
    learner = room.learner(loss="dot")
    found = verdicts(tmp_path, learner, room.loop(200, lr=0.2, optimizer="sgd", health_every=1))
    assert found[-2:] == ["diverging"] * 2


# Thresholds ----------------------------------------------------------------------------------------------------------

START = Signs(spread=0.6, rank=20.0, alignment=0.5, uniformity=-1.5, agreement=0.2, length=3.0)
GOOD = Signs(spread=0.9, rank=60.0, alignment=0.4, uniformity=-2.5, agreement=0.7, length=5.0)
NAN = float("nan")


@pytest.mark.parametrize(
    ("now", "progress", "verdict"),
    [
        (START, 0.0, TOO_EARLY),
        (START, 0.2, TOO_EARLY),
        (GOOD, 0.01, "healthy"),
        (START, 0.25, "slow"),
        (GOOD, 1.0, "healthy"),
        (replace(GOOD, agreement=0.2), 1.0, "healthy"),  # agreement is no better, but items lie further apart
        (replace(START, agreement=0.3), 1.0, "healthy"),
        (replace(GOOD, rank=2.0), 0.1, "dimensional collapse"),
        (replace(GOOD, rank=4.0, agreement=0.1), 0.1, "dimensional collapse"),
        (replace(GOOD, rank=4.0), 0.1, "healthy"),  # few directions that tell items apart well: few classes
        (replace(GOOD, spread=0.05), 0.1, "full collapse"),
        (replace(GOOD, length=1e-4), 0.1, "full collapse"),
        (replace(GOOD, length=1e5), 0.1, "diverging"),
        (replace(GOOD, length=float("inf")), 0.1, "diverging"),
        (Signs(NAN, NAN, NAN, NAN, NAN, NAN), 0.1, "diverging"),
    ],
)
def test_the_verdict_follows_from_the_signs(now, progress, verdict):
    assert judge(now, START, progress) == verdict


@pytest.mark.parametrize("now", [START, GOOD])
def test_without_enough_to_go_by_neither_good_nor_slow_is_said_but_what_ends_badly_is(now):
    assert judge(now, START, 1.0, enough=False) == TOO_EARLY
    assert judge(replace(now, spread=0.01), START, 1.0, enough=False) == "full collapse"


@pytest.mark.parametrize(
    ("last", "first", "verdict"),
    [
        (Output(2.0, 0.9), Output(4.0, 0.9), "healthy"),
        (Output(0.0, 0.05), Output(4.0, 0.9), "full collapse"),
        (Output(0.0, 0.05), Output(4.0, 0.1), "healthy"),  # it began so: positive vectors lie close together
        (Output(0.0, None), Output(4.0, None), "healthy"),
        (Output(-5e3, 0.9), Output(-1.0, 0.9), "diverging"),
        (Output(NAN, 0.9), Output(4.0, 0.9), "diverging"),
    ],
)
def test_what_the_learner_says_of_its_loss_counts_too(last, first, verdict):
    assert judge(GOOD, START, 0.5, last, first) == verdict


def test_a_flat_start_does_not_make_every_network_a_collapsed_one():
    """Random weights after a ReLU give similar vectors."""
    flat = replace(START, spread=0.05, rank=1.2)
    assert judge(replace(flat, agreement=0.5), flat, 0.5) == "healthy"


def test_every_verdict_has_its_cause_and_cure_in_sentences():
    assert set(ENDS_BADLY) < set(ADVICE)
    for name, advice in ADVICE.items():
        assert advice[0].isupper() and advice.endswith(".")
        assert name == "healthy" or ("ikely cause" in advice and "Cure: " in advice)


# Looking -------------------------------------------------------------------------------------------------------------


def test_looking_changes_nothing(views):
    encoder = Tiny().train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    health = Health(encoder, lambda: views)
    first, second = health.look(0.0, 0), health.look(0.1, 20)
    assert encoder.training and all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    assert not any(part._forward_pre_hooks for part in encoder.modules())
    assert first != second  # the first look lends the batch norms the statistics of what they see


def test_under_own_statistics_a_batch_norm_normalises_what_it_is_given():
    norm = nn.BatchNorm2d(3, affine=False).eval()
    x = torch.rand(8, 3, 5, 5) * 7 + 3
    with own_statistics(norm), torch.no_grad():
        y = norm(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)
    assert torch.equal(norm.running_mean, torch.zeros(3)) and torch.equal(norm.running_var, torch.ones(3))


def test_two_bad_looks_in_a_row_are_hopeless_and_one_is_not(views, tiny):
    encoder = tiny
    health = Health(encoder, lambda: views)
    health.look(0.0, 0)
    good = {name: value.clone() for name, value in encoder.state_dict().items()}
    bad = {name: torch.zeros_like(value) for name, value in good.items()}
    hopeless = []
    for state in (bad, good, bad, bad):
        encoder.load_state_dict(state)
        health.look(0.1, 20)
        hopeless.append((health.verdict, health.hopeless))
    assert [verdict == "full collapse" for verdict, _ in hopeless] == [True, False, True, True]
    assert [end for _, end in hopeless] == [False, False, False, True]


def test_health_goes_on_after_a_stop_as_if_there_had_been_none(views):
    one = Health(Tiny(), lambda: views)
    one.look(0.0, 0)
    one.step({"loss": 3.0, "spread": 0.5})
    one.step({"loss": 2.0, "spread": 0.4})
    one.bad, one.verdict = 1, "full collapse"
    other = Health(Tiny(), lambda: views)
    other.restore(json.loads(json.dumps(one.state())))
    assert (other.start, other.first, other.bad, other.verdict) == (one.start, Output(3.0, 0.5), 1, "full collapse")
