"""What is true of BYOL alone. Golden values: computed in float64 from equation 2 and its variants."""

import itertools

import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from selfsame import methods
from selfsame.errors import UserError
from selfsame.methods.byol import BYOL, distance
from selfsame.nn.ema import momentum_for
from selfsame.records import Budget

P = tensor([[1.0, 2, 2], [0, 3, 4]])
Z = tensor([[2.0, 1, 2], [4, 0, 3]])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"loss": "nmse"}, 0.631111),
        ({"loss": "cosine"}, -0.684444),
        ({"loss": "dot"}, -10.0),
        ({"loss": "l2"}, 14.0),
        ({"loss": "mse"}, 4.666667),
        ({"loss": "l2", "normalize": "both"}, 0.631111),
        ({"loss": "mse", "normalize": "both"}, 0.631111 / 3),
        ({"loss": "dot", "normalize": "both"}, -0.684444),
        ({"loss": "xent", "temperature": 1.0, "target_temperature": 1.0}, (1.284314 + 3.225372) / 2),
        ({"loss": "xent"}, (5.693170 + 40.000045) / 2),
    ],
)
def test_distances_have_their_golden_values(settings, expected):
    assert_close(distance(P, Z, BYOL(**settings)), tensor(expected), rtol=1e-5, atol=1e-5)


def test_the_rows_of_the_distance_are_two_minus_two_cosines():
    rows = [distance(P[i : i + 1], Z[i : i + 1], BYOL()) for i in range(2)]
    assert_close(torch.stack(rows), tensor([0.222222, 1.04]), rtol=1e-5, atol=1e-5)


def test_the_gradient_is_golden_and_orthogonal_to_the_prediction():
    p = P.clone().requires_grad_()
    distance(p, Z, BYOL()).backward()
    expected = tensor([[-0.123457, 0.086420, -0.024691], [-0.16, 0.0576, -0.0432]])
    assert_close(p.grad, expected, rtol=1e-4, atol=1e-6)
    assert_close((p.grad * P).sum(1), torch.zeros(2), rtol=0, atol=1e-6)


def test_only_directions_count_in_the_default_distance():
    assert_close(distance(3 * P, 0.2 * Z, BYOL()), distance(P, Z, BYOL()))


def test_no_gradient_reaches_the_target(tiny, views):
    learner = BYOL(hidden=16, out=4).build(tiny)
    learner(views).loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in learner.target.parameters())
    assert all(p.grad is not None for p in learner.parameters() if p.requires_grad)


def test_the_target_stands_still_until_the_step_is_done_and_then_moves_by_one_minus_momentum(tiny, views):
    learner = BYOL(hidden=16, out=4, momentum=0.9, schedule="constant").build(tiny)
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
    before = [p.clone() for p in learner.target.parameters()]
    learner(views).loss.backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, learner.target.parameters(), strict=True))
    learner.after_step(0.0)
    for was, now, online in zip(before, learner.target.parameters(), learner.online.parameters(), strict=True):
        assert_close(now, 0.9 * was + 0.1 * online)


def test_momentum_rises_from_its_start_to_one(tiny):
    learner = BYOL(hidden=16, out=4, momentum=0.5).build(tiny)
    moved = []
    for progress in (0.0, 0.5, 1.0):
        with torch.no_grad():
            for p in learner.target.parameters():
                p.zero_()
        learner.after_step(progress)
        target, online = (next(net.parameters()) for net in (learner.target, learner.online))
        moved.append(float((target / online).mean().detach()))
    assert moved == pytest.approx([0.5, 0.25, 0.0])


def test_the_loss_does_not_change_when_the_views_are_swapped(tiny, views):
    learner = BYOL(hidden=16, out=4).build(tiny)
    with torch.no_grad():
        assert_close(learner(views).loss, learner(views[::-1]).loss)
        assert 0 <= learner(views).loss <= 8


def test_without_symmetry_the_first_view_predicts_the_second(tiny, views):
    learner = BYOL(hidden=16, out=4, symmetric=False).build(tiny)
    with torch.no_grad():
        expected = distance(learner.predict(views[0]), learner.target(views[1]), learner.method)
        assert_close(learner(views).loss, expected)


def test_one_transformed_side_asks_for_one_random_and_one_plain_view(tiny, views):
    for side in ("online", "target"):
        method = BYOL(hidden=16, out=4, transformed=side, symmetric=False)
        assert (method.plan.full, method.plan.plain) == (1, 1)
        learner = method.build(tiny)
        x, y = views if side == "online" else views[::-1]
        with torch.no_grad():
            assert_close(learner(views).loss, distance(learner.predict(x), learner.target(y), method))


def test_copying_every_third_step(tiny):
    learner = BYOL(hidden=16, out=4, copy_every=3).build(tiny)
    same = []
    for step in range(6):
        with torch.no_grad():
            for p in learner.online.parameters():
                p.add_(1)
        learner.after_step(step / 6)
        pairs = zip(learner.target.parameters(), learner.online.parameters(), strict=True)
        same.append(all(torch.equal(a, b) for a, b in pairs))
    assert same == [False, False, True, False, False, True]


def test_updating_every_second_step(tiny):
    learner = BYOL(hidden=16, out=4, update_every=2, momentum=0.5).build(tiny)
    with torch.no_grad():
        for p in learner.online.parameters():
            p.add_(1)
    first = [p.clone() for p in learner.target.parameters()]
    learner.after_step(0.0)
    assert all(torch.equal(a, b) for a, b in zip(first, learner.target.parameters(), strict=True))
    learner.after_step(0.1)
    assert not any(torch.equal(a, b) for a, b in zip(first, learner.target.parameters(), strict=True))


@pytest.mark.parametrize("buffers", ["own", "copy", "average"])
def test_batch_norm_buffers_of_the_target(tiny, views, buffers):
    learner = BYOL(hidden=16, out=4, buffers=buffers, momentum=0.75, schedule="constant").build(tiny)
    learner([views[0], 0.1 * views[1]])
    names = [n for n, _ in learner.online.named_buffers() if n.endswith("running_mean")]
    online, target = dict(learner.online.named_buffers()), dict(learner.target.net.named_buffers())
    with torch.no_grad():
        for name in names:
            online[name].add_(1)
    before = {name: target[name].clone() for name in names}
    learner.after_step(0.0)
    for name in names:
        expected = {"own": before[name], "copy": online[name], "average": 0.75 * before[name] + 0.25 * online[name]}
        assert_close(target[name], expected[buffers])
    counts = [b for n, b in target.items() if n.endswith("num_batches_tracked")]
    assert all(int(count) == 2 for count in counts)


def test_the_adversary_makes_prediction_harder_within_its_ball_and_leaves_the_network_as_it_was(tiny, views):
    method = BYOL(hidden=16, out=4, adversary=5, epsilon=0.05, alpha=0.02)
    learner = method.build(tiny)
    state = {k: v.clone() for k, v in learner.state_dict().items()}
    torch.manual_seed(0)
    harder = learner.harder(views[0], views[1])
    assert (harder - views[0]).abs().max() <= 0.05 + 1e-6
    assert harder.min() >= 0 and harder.max() <= 1
    assert all(torch.equal(v, state[k]) for k, v in learner.state_dict().items())
    assert all(p.grad is None for p in learner.parameters())
    with torch.no_grad():
        target = learner.target(views[1])
        before = distance(learner.predict(views[0]), target, method)
        after = distance(learner.predict(harder), target, method)
    assert after > before


def test_group_norm_leaves_no_batch_statistics_anywhere(tiny, views):
    learner = BYOL(hidden=32, out=16, norm="group").build(tiny)
    assert not any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in learner.modules())
    alone = torch.cat([learner.predict(views[0][i : i + 1]) for i in range(4)])
    assert_close(alone, learner.predict(views[0][:4]), rtol=1e-4, atol=1e-5)


SWITCHES = {
    "projector": (True, False),
    "predictor": (True, False),
    "transformed": ("both", "online", "target"),
    "symmetric": (True, False),
    "loss": ("nmse", "mse", "l2", "cosine", "dot", "xent"),
}


@pytest.mark.parametrize("values", itertools.product(*SWITCHES.values()))
def test_every_combination_of_switches_trains_a_step(tiny, views, values):
    method = BYOL(hidden=8, out=4, **dict(zip(SWITCHES, values, strict=True)))
    learner = method.build(tiny)
    loss = learner(views).loss
    loss.backward()
    learner.after_step(0.0)
    assert loss.isfinite()
    assert all(p.grad is not None for p in learner.encoder.parameters())


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"predictor": False}, "predictor"),
        ({"momentum": 0.0}, "momentum"),
        ({"copy_every": 1}, "unstable"),
        ({"momentum": 1.0}, "never moves"),
        ({"loss": "dot"}, "lower bound"),
        ({"loss": "l2"}, "normalise the target"),
        ({"loss": "xent", "temperature": 0.02}, "uniform"),
    ],
)
def test_settings_that_end_badly_are_warned_about_with_the_reason(settings, word):
    assert any(word in text for text in BYOL(**settings).cautions())


def test_the_papers_settings_need_no_caution():
    assert BYOL().cautions() == []
    assert (BYOL().hidden, BYOL().out, BYOL().momentum) == (4096, 256, 0.996)


def test_momentum_is_fitted_to_batch_and_length_unless_given():
    budget = Budget(items=50_000, batch=256, steps=100_000, dim=512)
    assert BYOL().fitted(budget).momentum == pytest.approx(0.99)
    assert BYOL(momentum=0.5).fitted(budget).momentum == 0.5
    assert momentum_for(512, 100_000) == pytest.approx(0.99**2, abs=1e-6)
    short = momentum_for(64, 300)
    assert 1 / (1 - short) <= max(5.0, 0.016 * 300) + 1e-3


def test_projections_are_whitened_in_short_runs_unless_given():
    short, long = (Budget(items=500, batch=64, steps=steps, dim=128) for steps in (600, 100_000))
    assert [BYOL().fitted(budget).output_norm for budget in (short, long)] == ["whiten", "none"]
    assert BYOL(norm="group").fitted(short).output_norm == "plain"  # whitening goes by the batch
    assert BYOL(output_norm="none").fitted(short).output_norm == "none"


def test_a_misspelt_setting_is_refused():
    with pytest.raises(ValueError, match="momentun"):
        methods.load("byol").model_validate({"momentun": 0.9})


@pytest.mark.parametrize("kind", ["plain", "whiten"])
def test_an_output_norm_standardises_every_coordinate_of_the_projection(kind, tiny, views):
    learner = BYOL(hidden=16, out=4, output_norm=kind).build(tiny)
    z = learner.target(views[0])
    assert_close(z.mean(0), torch.zeros(4), rtol=0, atol=1e-5)
    assert_close(z.var(0, unbiased=False), torch.ones(4), rtol=0.05, atol=0)


def test_an_own_loop_is_told_of_wrong_views_and_progress(tiny, views):
    learner = BYOL(hidden=16, out=4).build(tiny)
    for wrong in (views[:1], [views[0], views[1][:3]]):
        with pytest.raises(UserError, match="2 full views"):
            learner(wrong)
    for progress in (float("nan"), -0.1, 5.0):
        with pytest.raises(UserError, match="from 0 to 1"):
            learner.after_step(progress)
    assert all(p.isfinite().all() for p in learner.target.parameters())
