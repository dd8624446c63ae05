"""Maps one column wide: gradients are written, and nothing else changes."""

import pytest
import torch
from torch import nn

from selfsame.nn.columns import widen_single_columns


def spoil_memory():
    """Freed memory of all sizes is full of what is not a number."""
    for size in (64, 256, 1024, 4096, 16384, 65536):
        kept = [torch.full((size,), torch.nan) for _ in range(6)]
        del kept


@pytest.mark.parametrize(
    ("conv", "shape"),
    [
        (nn.Conv2d(16, 32, 3, 2, 1, bias=False), (8, 16, 1, 1)),
        (nn.Conv2d(16, 32, 3, 2, 1, bias=False), (8, 16, 4, 1)),
        (nn.Conv2d(16, 32, 7, 2, 3, bias=False), (8, 16, 2, 1)),
        (nn.Conv1d(64, 64, 3, 2, 1, bias=False), (8, 64, 1)),
    ],
)
def test_weights_that_meet_padding_alone_have_no_gradient_in_bfloat16(conv, shape):
    x = torch.randn(shape)
    plain = conv(x)
    (wanted,) = torch.autograd.grad(plain.sum(), conv.weight)
    widen_single_columns(conv)
    assert torch.equal(conv(x), plain)
    for _ in range(3):
        spoil_memory()
        with torch.autocast("cpu", torch.bfloat16):
            loss = conv(x).sum()
        spoil_memory()
        (found,) = torch.autograd.grad(loss, conv.weight)
        middle = conv.kernel_size[-1] // 2
        assert not found[..., :middle].any() and not found[..., middle + 1 :].any()
        torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.1)


def test_wider_maps_and_other_convolutions_are_left_alone():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 1, 2), nn.Conv2d(8, 8, 2, 2)
    )
    x = torch.randn(2, 3, 16, 16)
    before = net(x)
    widen_single_columns(net)
    assert torch.equal(net(x), before)
    assert [len(part._forward_pre_hooks) for part in net] == [1, 0, 0, 0]
