"""Encoders of series: what they give, what is missing, what is kept, what is refused."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from selfsame.errors import UserError
from selfsame.modalities import signal
from selfsame.modalities.signal.encoder import SignalEncoder
from selfsame.modalities.signal.networks import patch_of
from selfsame.types import Hidden
from tests.modalities.signal.made import TINY, TINY_TOKENS
from tests.modalities.signal.room import batch, stats_of

NETS = [TINY, "resnet18@0.125", "dilated@0.125", TINY_TOKENS]
NAN = float("nan")


def encoder(name: str = TINY, channels: int = 2, size: int = 48) -> SignalEncoder:
    torch.manual_seed(0)
    made = signal.make_encoder(name, size, stats_of(channels))
    with torch.no_grad():
        for part in made.modules():
            if isinstance(part, nn.BatchNorm1d):  # as after some training
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 1.5)
    return made.eval()


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 6, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def maps(self, x: Tensor) -> list[Tensor]:
        return [self.conv(x)]


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("steps", [8, 20, 48, 70, 200])
def test_vectors_and_maps_of_views_of_any_length(name: str, steps: int) -> None:
    net = encoder(name)
    x = batch(3, steps=steps)
    vector, maps = net.with_maps(x)
    assert vector.shape == (3, net.dim) and net.map_widths == tuple(one.shape[1] for one in maps)
    assert torch.equal(vector, net(x)) and vector.isfinite().all() and net.has_maps
    assert [one.shape[2] for one in maps] == sorted((one.shape[2] for one in maps), reverse=True)


@pytest.mark.parametrize("name", NETS)
def test_missing_steps_behind_a_series_change_nothing(name: str) -> None:
    net = encoder(name, size=64)
    x = batch(3, steps=40)
    longer = torch.full((3, 2, 61), NAN)
    longer[:, :, :40] = x
    assert torch.allclose(net(longer), net(x), atol=1e-5)


@pytest.mark.parametrize("size", [64, 200])
@pytest.mark.parametrize("name", NETS)
def test_padding_changes_nothing_once_the_network_heeds_what_is_missing(name: str, size: int) -> None:
    net = encoder(name, size=size)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))  # as after training: no weight is exactly 0
    x = batch(3, steps=32)
    longer = torch.cat([x, torch.full((3, 2, 32), NAN)], dim=2)
    assert (net(longer) - net(x)).abs().max() < 1e-4 * net(x).abs().max()


@pytest.mark.parametrize("name", NETS)
def test_the_normalisation_is_inside(name: str) -> None:
    torch.manual_seed(0)
    one = signal.make_encoder(name, 48, stats_of()).eval()
    torch.manual_seed(0)
    two = signal.make_encoder(name, 48, stats_of(mean=(0.0, 0.0), std=(1.0, 1.0))).eval()
    x = batch()
    mean, std = torch.tensor(stats_of().mean)[:, None], torch.tensor(stats_of().std)[:, None]
    assert torch.allclose(one(x), two((x - mean) / std), atol=1e-5)
    assert torch.allclose(one(x.round().short()), one(x.round()), atol=1e-6) and one(x.double()).dtype == torch.float32


@pytest.mark.parametrize("name", NETS)
def test_missing_values_count_as_the_mean_and_are_told(name: str) -> None:
    net = encoder(name)
    x = batch()
    lost = x.clone()
    lost[:, 1, 10:20] = NAN
    filled = x.clone()
    filled[:, 1, 10:20] = stats_of().mean[1]
    assert torch.allclose(net(lost), net(filled), atol=1e-5), "a new network does not heed what it has not learned"
    for part in net.modules():
        if isinstance(part, nn.Conv1d | nn.Conv2d) and part.weight.shape[1] == 4:
            with torch.no_grad():
                part.weight[:, 2:].normal_()
    assert not torch.allclose(net(lost), net(filled), atol=1e-3), "the network is not told what is missing"


@pytest.mark.parametrize("name", NETS)
def test_a_view_without_any_value_gives_a_finite_vector(name: str) -> None:
    net = encoder(name)
    x = batch()
    x[2] = NAN
    vector = net(x)
    assert vector[2].abs().max() == 0 and vector.isfinite().all()
    net.train()
    net(x).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


def test_mean_and_largest_are_over_steps_with_a_value() -> None:
    net = encoder("dilated@0.125")
    x = batch()
    x[:, :, 5:30] = NAN
    (fine,) = net.maps(x)
    there = [*range(5), *range(30, 48)]
    assert torch.allclose(net(x)[:, : net.dim // 2], fine[:, :, there].mean(dim=2), atol=1e-5)
    assert torch.equal(net(x)[:, net.dim // 2 :], fine[:, :, there].amax(dim=2))


def test_hidden_steps_are_hidden_behind_the_first_layer_of_the_dilated_net() -> None:
    net = encoder("dilated@0.125")
    net.trunk.blocks = nn.ModuleList()
    x = batch()
    x[:, :, 7] = NAN
    assert net.maps(x)[0][:, :, 7].abs().max() == 0 and net.maps(x)[0][:, :, 8].abs().max() > 0


@pytest.mark.parametrize("name", NETS)
def test_saved_and_loaded_to_the_bit(name: str, tmp_path: Path) -> None:
    net = encoder(name)
    if not net.has_tokens and "dilated" not in name:
        net.use_group_norm()
    signal.save_encoder(net, tmp_path)
    again = signal.load_encoder(tmp_path)
    assert torch.equal(again(batch()), net(batch())) and again.spec == net.spec and not again.training


def test_weights_are_taken_from_a_file_and_the_normalisation_from_the_data(tmp_path: Path) -> None:
    net = encoder()
    signal.save_encoder(net, tmp_path)
    file = tmp_path / "encoder.safetensors"
    fresh = signal.make_encoder(TINY, 48, stats_of(mean=(0.0, 0.0)), str(file)).eval()
    mean = torch.tensor(stats_of().mean)[:, None]
    assert torch.allclose(fresh(batch() - mean), net(batch()), atol=1e-5) and fresh.spec["weights"]["file"] == str(file)


def test_what_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no encoder"):
        signal.load_encoder(tmp_path)
    signal.save_encoder(encoder(), tmp_path)
    with pytest.raises(UserError, match="is of another network"):
        signal.make_encoder("resnet@0.25", 48, stats_of(), str(tmp_path / "encoder.safetensors"))
    with pytest.raises(UserError, match="no weights at"):
        signal.make_encoder(TINY, 48, stats_of(), str(tmp_path / "none.safetensors"))
    with pytest.raises(UserError, match="not the description of an encoder of series"):
        signal.build_encoder({"modality": "image"})
    for spec, said in (({"dim": 7}, "saved with width 7"), ({"name": "os:getcwd"}, "do not trust")):
        with pytest.raises(UserError, match=said):
            signal.build_encoder({**encoder().spec, **spec})


def test_a_network_of_one_s_own() -> None:
    net = signal.own_encoder(Own(), 48, stats_of()).eval()
    x = batch()
    x[:, :, 40:] = NAN
    assert (
        net.dim == 6 and net.map_widths == (6,) and torch.allclose(net(x), net.maps(x)[0][:, :, :40].mean(2), atol=1e-5)
    )
    named = signal.make_encoder("tests.modalities.signal.test_encoder:Own", 48, stats_of())
    assert signal.build_encoder(named.spec).dim == 6
    with pytest.raises(UserError, match="cannot be rebuilt from its name"):
        signal.build_encoder(net.spec)
    with pytest.raises(UserError, match=r"needs \[b d\] or \[b d t\]"):
        signal.own_encoder(nn.Unflatten(2, (6, 8)), 48, stats_of())


# Tokens --------------------------------------------------------------------------------------------------------------


def test_tokens_are_kept_and_hidden() -> None:
    net = encoder(TINY_TOKENS)
    x = batch()
    vector, tokens = net.both(x)
    n = net.grid(x)[0]
    assert tokens.shape == (6, n, 32) and net.embedding is not None
    assert torch.allclose(vector, tokens.mean(dim=1), atol=1e-6)
    order = torch.randperm(n).expand(6, n)
    assert torch.allclose(net.tokens(x, keep=order), tokens.gather(1, order[..., None].expand(-1, -1, 32)), atol=1e-5)
    # What is not kept, and what is hidden, is not seen.
    other = x.clone()
    other[:, :, : net.patch] += 50
    rest = torch.arange(1, n).expand(6, n - 1)
    assert torch.allclose(net.tokens(x, keep=rest), net.tokens(other, keep=rest), atol=1e-5)
    where = torch.zeros(6, n, dtype=torch.bool)
    where[:, 0] = True
    hide = Hidden(where, torch.ones(32))
    assert torch.allclose(net.tokens(x, hide=hide), net.tokens(other, hide=hide), atol=1e-5)
    assert not torch.allclose(net.tokens(x, hide=hide), tokens, atol=1e-3)
    layers = net.last_layers(x, 6)
    assert len(layers) == 6 and torch.allclose(net.trunk.norm(layers[-1]), tokens, atol=1e-6)
    with pytest.raises(UserError, match="7 of the last blocks were asked for; the encoder has 6"):
        net.last_layers(x, 7)


def test_no_token_attends_to_what_is_missing() -> None:
    net = encoder(TINY_TOKENS)
    net.requires_grad_(False)
    x = batch()
    x[:, :, 24:] = NAN
    short = net.tokens(x[:, :, :24])
    assert torch.allclose(net.tokens(x)[:, : short.shape[1]], short, atol=1e-5)


def test_the_patch_is_named_or_follows_from_the_size() -> None:
    assert [patch_of("vit_tiny", size) for size in (8, 24, 48, 140, 427, 2048)] == [1, 1, 2, 8, 16, 16]
    assert encoder("vit_nano_patch6").grid(batch()) == (8,)
    with pytest.raises(UserError, match=r"too few to learn from .* vit_nano_patch3"):
        encoder("vit_nano_patch20")


def test_networks_without_tokens_say_so() -> None:
    for ask in (lambda: encoder().tokens(batch()), lambda: encoder().grid(batch()), encoder().average_tokens):
        with pytest.raises(TypeError, match=r"has no tokens. Choose a transformer"):
            ask()


# Pieces --------------------------------------------------------------------------------------------------------------


def test_pieces_follow_each_other_in_time() -> None:
    x = torch.arange(64.0).expand(2, 1, 64)
    pieces = encoder(channels=1).pieces(x)
    assert pieces.shape == (2, 15, 1, 8) and pieces[0, :, 0, 0].tolist() == [4.0 * k for k in range(15)]
    with pytest.raises(UserError, match="15 steps are too short to cut into pieces"):
        encoder().pieces(batch(steps=15))


# Wrong input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (batch()[0], r"add the batch axis with x\[None\]"),
        (batch().transpose(1, 2), r"channels last: use x.transpose\(1, 2\)"),
        (batch(channels=3), "got series of 3 channels"),
        (batch() > 20, "torch.bool; accepted are"),
        (batch() * 1e5, "standard deviations of the training data from its mean"),
        ((batch() - 20) * torch.tensor([[1e9], [0.0]]), "are they in other units"),
        (torch.full((2, 2, 48), float("inf")), "infinite values; write NaN"),
    ],
)
def test_wrong_input_is_refused(x: Tensor, said: str) -> None:
    with pytest.raises(UserError, match=said):
        encoder()(x)


def test_one_value_far_away_does_not_stop_a_batch() -> None:
    x = batch()
    x[3, 0, 5] = 1e7
    assert encoder()(x).isfinite().all()


def test_series_that_are_normalised_already_are_refused() -> None:
    net = signal.make_encoder(TINY, 48, stats_of(mean=(960.0, 20.0), std=(38.0, 5.0))).eval()
    x = torch.randn(4, 2, 48)
    with pytest.raises(UserError, match=r"trained on 960 ± 38\. They look normalised already"):
        net(x)
    net(x * torch.tensor([[38.0], [5.0]]) + torch.tensor([[960.0], [20.0]]))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet19", "unknown encoder 'resnet19'. Did you mean"),
        ("resnet@9", "above 0 and up to 4"),
        ("vit_tiny@0.5", "not in shares"),
        ("resnet_patch4", "unknown encoder"),
        ("no.such.module:net", "Give package.module:factory"),
        ("tests.modalities.signal.made:make", "missing|argument"),
    ],
)
def test_names_that_are_no_network(name: str, said: str) -> None:
    with pytest.raises((UserError, TypeError), match=said):
        signal.make_encoder(name, 48, stats_of())


# Export --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "to"), [(TINY_TOKENS, "torch"), (TINY, "onnx"), (TINY_TOKENS, "onnx")])
def test_an_exported_encoder_gives_the_same_also_where_values_are_missing(name: str, to: str, tmp_path: Path) -> None:
    if to == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    net = encoder(name)
    done = signal.export(net, to, tmp_path / "net")
    assert done["difference"] <= 1e-4 and "NaN where missing" in done["input"] and Path(done["files"][0]).exists()
    x = batch(2)
    x[0, 1, 5:20], x[1, :, 30:] = NAN, NAN
    names: dict = {}
    exec(done["snippet"], names)
    if to == "torch":
        made = names["model"](x)
    else:
        made = torch.from_numpy(names["session"].run(None, {"series": x.numpy()})[0])
    assert torch.allclose(made, net(x), atol=1e-4)


def test_a_program_of_any_length_gives_maps_too_and_no_other_library_holds_series(tmp_path: Path) -> None:
    net = encoder(TINY)
    done = signal.export(net, "torch", tmp_path / "net", maps=True, any_size=True)
    x = batch(2)[:, :, :30]
    vector, *maps = torch.export.load(done["files"][0]).module()(x)
    assert torch.allclose(vector, net(x), atol=1e-5) and done["difference"] <= 1e-5
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(maps, net.maps(x), strict=True))
    assert [one["channels"] for one in done["maps"]] == list(net.map_widths)
    with pytest.raises(UserError, match="transformers does not hold this kind of encoder"):
        signal.export(net, "transformers", tmp_path / "other")
    with pytest.raises(UserError, match=r"--any-size: .* takes views of one size alone"):
        signal.export(encoder(TINY_TOKENS), "torch", tmp_path / "other", any_size=True)
