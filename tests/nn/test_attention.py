"""Attention written out is torch's attention."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from selfsame.nn import attention as written
from selfsame.nn.attention import FUSED, attention, chosen, written_out


def rows(dtype=torch.float64, n=7, m=5, d=8):
    torch.manual_seed(0)
    return [torch.randn(2, 3, length, d, dtype=dtype, requires_grad=True) for length in (n, m, m)]


MASKS = {
    "none": None,
    "of keys": torch.tensor([[True, True, False, True, False]]),
    "of pairs": torch.rand(2, 1, 7, 5, generator=torch.Generator().manual_seed(1)) < 0.6,
    "some see none": torch.arange(7)[:, None].expand(7, 5) > 2,
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("scale", [None, 0.3])
def test_values_and_gradients_are_torchs(mask, scale):
    q, k, v = rows()
    weights = torch.randn(2, 3, 7, 8, dtype=torch.float64)
    for mine, theirs in zip(
        torch.autograd.grad((attention(q, k, v, MASKS[mask], scale) * weights).sum(), (q, k, v)),
        torch.autograd.grad((FUSED(q, k, v, attn_mask=MASKS[mask], scale=scale) * weights).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(attention(q, k, v, MASKS[mask], scale), FUSED(q, k, v, MASKS[mask], scale=scale))


def called(monkeypatch, *tensors, **kwargs):
    """Whether the attention written out did it."""
    calls = []
    monkeypatch.setattr(written, "attention", lambda *args: calls.append(1) or attention(*args))
    made = chosen(*tensors, **kwargs)
    torch.testing.assert_close(made, FUSED(*tensors, **kwargs), atol=0.03, rtol=0.03)
    return bool(calls)


def test_it_is_chosen_for_short_rows_in_bfloat16_and_meant_as_torchs(monkeypatch):
    few = [x.detach().bfloat16() for x in rows()]
    assert called(monkeypatch, *few)
    assert called(monkeypatch, *few, attn_mask=MASKS["of pairs"])
    assert not called(monkeypatch, *[x.float() for x in few])
    assert not called(monkeypatch, *few, is_causal=True)
    assert not called(monkeypatch, *few, attn_mask=torch.randn(7, 5).bfloat16())
    monkeypatch.setattr(written, "LONGEST", 6)
    assert not called(monkeypatch, *few)


NETS = {
    "timm": lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, num_classes=0, depth=2),
    "torch": lambda: nn.Sequential(
        nn.Conv1d(3, 32, 16, 16),
        nn.Flatten(2),
        nn.TransformerEncoderLayer(64, 4, 64, dropout=0.0, batch_first=True),
        nn.Flatten(),
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_networks_compute_the_same_with_it(monkeypatch, name):
    torch.manual_seed(0)
    net, calls = NETS[name](), []
    x = torch.rand(2, 3, 32, 32) if name == "timm" else torch.rand(2, 3, 1024)
    monkeypatch.setattr(written, "attention", lambda *args: calls.append(1) or attention(*args))
    with torch.autocast("cpu", torch.bfloat16):
        plain = net(x)
        assert not calls
        with written_out():
            other = copy.deepcopy(net)(x)
    assert calls
    assert F.cosine_similarity(plain.float().flatten(), other.float().flatten(), dim=0) > 0.999


def test_torchs_function_is_put_back_even_after_an_error():
    def within():
        with written_out():
            assert F.scaled_dot_product_attention is chosen
            raise KeyError

    with pytest.raises(KeyError):
        within()
    assert F.scaled_dot_product_attention is FUSED
