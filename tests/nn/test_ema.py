import pytest
import torch
from torch import nn

from selfsame.nn.ema import Target, cosine


def test_the_cosine_rises_through_its_golden_values():
    rising = [cosine(0.996, 1.0, k / 4) for k in range(5)]
    assert rising == pytest.approx([0.996, 0.99658579, 0.998, 0.99941421, 1.0], abs=1e-8)
    rising = [cosine(0.99, 1.0, k / 4) for k in range(5)]
    assert rising == pytest.approx([0.99, 0.99146447, 0.995, 0.99853553, 1.0], abs=1e-8)


def test_three_steps_towards_zero():
    online = nn.Linear(1, 1, bias=False)
    online.weight.data.fill_(1.0)
    target = Target(online)
    online.weight.data.zero_()
    seen = []
    for _ in range(3):
        target.follow(online, 0.9)
        seen.append(target.net.weight.item())
    assert seen == pytest.approx([0.9, 0.81, 0.729])


def test_a_thousand_steps_keep_the_golden_share():
    online = nn.Linear(1, 1, bias=False).double()
    online.weight.data.fill_(1.0)
    target = Target(online)
    online.weight.data.zero_()
    for _ in range(1000):
        target.follow(online, 0.996)
    assert target.net.weight.item() == pytest.approx(0.01816931, abs=1e-8)


def test_momentum_one_keeps_and_momentum_zero_copies(tiny):
    target = Target(tiny)
    with torch.no_grad():
        for p in tiny.parameters():
            p.add_(1.0)
    before = [p.clone() for p in target.parameters()]
    target.follow(tiny, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, target.parameters(), strict=True))
    target.follow(tiny, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(tiny.parameters(), target.parameters(), strict=True))


def test_the_counter_of_batch_norm_survives_averaging():
    net = nn.BatchNorm1d(3)
    target = Target(net, buffers="average")
    for _ in range(5):
        net(torch.randn(4, 3))
        target.follow(net, 0.9)
    assert int(target.net.num_batches_tracked) == 5
