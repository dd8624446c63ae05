"""Audio encoders: front ends, what they take and refuse, tokens, maps, pieces; saved and built again."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from selfsame.errors import UserError
from selfsame.modalities.audio import front
from selfsame.modalities.audio.defaults import default_encoder
from selfsame.modalities.audio.encoder import (
    AudioEncoder,
    build_encoder,
    load_encoder,
    make_encoder,
    own_encoder,
    save_encoder,
)
from selfsame.modalities.audio.exports import export
from selfsame.modalities.audio.networks import BYOLA, Waves, over_time, resolve
from selfsame.types import Hidden
from tests.modalities.audio.made import TINY, TINY_TOKENS
from tests.modalities.audio.room import SIZE, stats_of

STATS = stats_of()
NAMES = [
    TINY,
    TINY_TOKENS,
    "byola@0.03",
    f"stft/{TINY}",
    f"mfcc/{TINY}",
    "wave/resnet10@0.125",
    "mobilenetv3_small_050",
]


class Net(nn.Module):
    """A convolution; gives [b d f t]."""

    def __init__(self, flat: bool = False) -> None:
        super().__init__()
        self.body, self.flat = nn.Conv2d(1, 6, 3, stride=2), flat

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).flatten(1).sum() if self.flat else self.body(x)


def tiny(name: str = TINY) -> AudioEncoder:
    torch.manual_seed(0)
    return make_encoder(name, SIZE, STATS).eval()


def waves(rows: int = 3, size: int = SIZE, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3000 * torch.randn(rows, size, generator=generator)).round().clamp(-32768, 32767).to(torch.int16)


@pytest.mark.parametrize("name", NAMES)
def test_an_encoder_takes_stored_waves_floats_and_other_lengths(name: str) -> None:
    encoder = tiny(name)
    vectors = encoder(waves())
    assert vectors.shape == (3, encoder.dim) and torch.isfinite(vectors).all()
    assert torch.allclose(encoder(front.scaled(waves())), vectors, atol=1e-5)
    assert encoder(waves(size=2 * SIZE + 7)).shape == encoder(waves(size=SIZE // 2)).shape == vectors.shape
    assert torch.isfinite(encoder(torch.zeros(1, SIZE, dtype=torch.int16))).all()


@pytest.mark.parametrize("name", [TINY, TINY_TOKENS, f"mfcc/{TINY}", "byola@0.03"])
def test_a_log_mel_spectrogram_is_as_good_as_its_wave(name: str) -> None:
    encoder = tiny(name)
    assert torch.equal(encoder(front.log_mel(front.scaled(waves()), STATS)), encoder(waves()))


@pytest.mark.parametrize("name", NAMES[:6])
def test_what_the_network_sees_is_normalised(name: str) -> None:
    mean, std = (front.cepstrum(front.log_mel(front.scaled(waves()), STATS)).mean((0, 2)), 3.0)
    stats = STATS.changed(mfcc_mean=tuple(mean.tolist()), mfcc_std=(std,) * 40)
    x = make_encoder(name, SIZE, stats).normalised(waves())
    rows = {"stft": 256, "mfcc": 40, "wave": None}.get(name.split("/")[0], 64)
    assert x.shape == ((3, 1, rows, 32) if rows else (3, 1, SIZE))
    if name.startswith("mfcc"):
        assert float(x.mean((0, 1, 3)).abs().max()) < 1e-4
    elif rows is None:
        assert float(x.std()) == pytest.approx(3000 / 32768 / 0.1, rel=0.02)
    else:
        made = front.log_mel if rows == 64 else front.log_power
        given = {64: (-8.0, 4.0), 256: (-7.0, 4.0)}[rows]
        assert torch.allclose(x[:, 0], (made(front.scaled(waves()), STATS) - given[0]) / given[1], atol=1e-5)


@pytest.mark.parametrize("name", NAMES[:6])
def test_at_one_loudness_a_distant_voice_is_a_near_one(name: str) -> None:
    quiet, loud = 0.02 * front.scaled(waves()), 2 * front.scaled(waves())
    kept = make_encoder(name, SIZE, STATS)
    assert float((kept.normalised(quiet) - kept.normalised(loud)).abs().max()) > 1
    encoder = make_encoder(name, SIZE, STATS.changed(loudness="same")).eval()
    assert torch.allclose(encoder.normalised(quiet), encoder.normalised(loud), atol=0.05)
    silence = torch.zeros(2, SIZE, dtype=torch.int16)
    assert torch.isfinite(encoder.normalised(silence)).all() and torch.isfinite(encoder(silence)).all()


def test_each_view_has_its_own_loudness() -> None:
    encoder = make_encoder(TINY, SIZE, STATS.changed(loudness="same")).eval()
    both = torch.stack([front.scaled(waves())[0], 0.01 * front.scaled(waves())[1]])
    assert torch.allclose(encoder(both), torch.cat([encoder(one[None]) for one in both]), atol=1e-5)


@pytest.mark.parametrize(
    ("view", "says"),
    [
        (torch.zeros(SIZE), r"Add the batch axis with x\[None\]"),
        (torch.zeros(2, 1, SIZE), r"Leave out the channel axis: x\[:, 0\]"),
        (torch.zeros(2, 40, 32), r"or log-mel spectrograms \[b, 64, frames\]"),
        (torch.zeros(2, 1, 64, 32), "accepted are waveforms"),
        (torch.zeros(2, 0), "accepted are waveforms"),
        (torch.zeros(2, SIZE, dtype=torch.int32), "accepted are int16"),
        (torch.zeros(2, 64, 32, dtype=torch.int16), "accepted are int16"),
        (torch.full((2, SIZE), 3000.0), "divide by 32768"),
        (torch.full((2, 64, 32), -60.0), "Pass the waveform instead"),
        (torch.full((2, 64, 32), 90.0), "Pass the waveform instead"),
    ],
)
def test_wrong_sound_is_refused(view: Tensor, says: str) -> None:
    with pytest.raises(UserError, match=says):
        tiny()(view)


def test_waves_are_asked_for_where_spectrograms_do_not_do() -> None:
    for name in (f"stft/{TINY}", "wave/resnet10@0.125"):
        with pytest.raises(UserError, match="--views wave"):
            tiny(name)(torch.full((2, 64, 32), -8.0))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet81", "Did you mean"),
        ("melspec/resnet18", "unknown front end 'melspec'"),
        ("wave/resnet50", "unknown encoder of raw waves"),
        ("vit_tiny_patch16_x", "unknown encoder"),
        ("vit_tiny_patch10", "do not divide 64 bands. Accepted: 4, 8, 16, 32, 64"),
        ("vit_tiny_patch16x5", "do not divide a view of 32 frames. Give a size of 30 or 35 frames"),
        ("vit_tiny_patch32x32", "too few to learn from"),
        ("vit_tiny_patch16_224.augreg_in21k", "say how spectrograms"),
        ("resnet18@9", "share of the usual"),
        ("vit_tiny_patch16_224@0.5", "a width is for the residual nets"),
        ("vit_tiny_patch16@0.5", "a width is for the residual nets"),
        ("vit_tiny_patch64x2@0.5", "a width is for the residual nets"),
        ("nowhere:net", "Give package.module:factory"),
    ],
)
def test_unknown_networks_are_refused(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        make_encoder(name, SIZE, STATS)


def test_names() -> None:
    assert resolve("resnet18", 64, 32) == ("logmel", "timm", "resnet18", {})
    assert resolve("vit_small_patch64x2", 64, 32)[2:] == (
        "vit_small_patch16_224",
        {"img_size": [64, 32], "patch_size": [64, 2], "dynamic_img_size": True},
    )
    assert resolve("resnet18@0.25", 64, 32)[3] == {"channels": [16, 32, 64, 128]}
    for large in (False, True):
        assert make_encoder(default_encoder(SIZE, large), SIZE, STATS).has_maps


def test_the_mean_over_bands_and_mean_plus_maximum_over_time() -> None:
    x = torch.arange(12.0).view(1, 1, 2, 6)
    assert over_time(x).tolist() == [[(5.5 + 8.0)]]  # bands 0..5 and 6..11: means 3..8, their mean 5.5, maximum 8
    assert over_time(x[:, :, 0]).tolist() == [[2.5 + 5]]


def test_byol_as_network_has_its_size() -> None:
    # arXiv 2103.06695, table I: d = 2048, 64 x 8 values of a frame after three poolings.
    net = BYOLA(64)
    assert [part.weight.shape for part in net.frame if isinstance(part, nn.Linear)] == [(2048, 512), (2048, 2048)]
    assert [one.shape[1:] for one in net.maps(torch.zeros(1, 1, 64, 96))] == [(64, 32, 48), (64, 16, 24), (64, 8, 12)]
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(5.3e6, rel=0.02)


def test_a_step_of_raw_waves_is_160_samples() -> None:
    assert [one.shape[2] for one in Waves((1, 1, 1, 1), 0.125).maps(torch.zeros(2, 1, 16_000))] == [800, 400, 200, 100]


# Maps, tokens, pieces ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_maps(name: str) -> None:
    encoder = tiny(name)
    vector, maps = encoder.with_maps(waves())
    assert encoder.has_maps and torch.allclose(vector, encoder(waves()), atol=1e-5)
    assert tuple(one.shape[1] for one in maps) == encoder.map_widths
    assert all(len(one) == 3 and one.ndim == (3 if name.startswith("wave") else 4) for one in maps)
    assert all(torch.equal(one, two) for one, two in zip(maps, encoder.maps(waves()), strict=True))


def test_tokens_lie_on_the_grid_and_can_be_kept_and_hidden() -> None:
    encoder = tiny(TINY_TOKENS)
    assert encoder.has_tokens and encoder.grid(waves()) == (4, 4)
    assert encoder.grid(torch.full((2, 64, 12), -8.0)) == (4, 2)  # a rest of a column is filled up
    vector, tokens = encoder.both(waves())
    assert tokens.shape == (3, 16, encoder.dim) and torch.allclose(vector, encoder(waves()), atol=1e-5)
    keep = torch.stack([torch.randperm(16)[:5] for _ in range(3)])
    assert encoder.tokens(waves(), keep=keep).shape == (3, 5, encoder.dim)
    everything = torch.arange(16).expand(3, -1)
    assert torch.allclose(encoder.tokens(waves(), keep=everything), tokens, atol=1e-5)
    hide = Hidden(torch.zeros(3, 16, dtype=torch.bool), torch.randn(encoder.dim))
    assert torch.allclose(encoder.tokens(waves(), hide=hide), tokens, atol=1e-5)
    hide.where[:, 3] = True
    other = waves()
    hidden = encoder.tokens(other, hide=hide)
    assert not torch.allclose(hidden, tokens, atol=1e-3)
    # What is hidden has no say: the last patch of the lowest bands may hold anything.
    spectrogram = front.log_mel(front.scaled(other), STATS)
    spectrogram[:, :16, 24:] = 3.0
    assert torch.allclose(encoder.tokens(spectrogram, hide=hide), hidden, atol=1e-4)
    assert [one.shape for one in encoder.last_layers(waves(), 2)] == [(3, 16, encoder.dim)] * 2
    encoder.average_tokens()
    assert torch.allclose(encoder(waves()), encoder.tokens(waves()).mean(1), atol=1e-5)


def test_a_transformer_sees_long_sound_window_by_window() -> None:
    encoder = tiny(TINY_TOKENS)
    twice = front.log_mel(front.scaled(waves(size=front.samples_for(64, 80))), STATS)
    halves = (encoder(twice[..., :32]) + encoder(twice[..., 32:])) / 2
    assert torch.allclose(encoder(twice), halves, atol=1e-5)
    more = encoder(twice[..., :40])  # two windows that overlap
    assert torch.allclose(more, (encoder(twice[..., :32]) + encoder(twice[..., 8:40])) / 2, atol=1e-5)


def test_residual_nets_have_no_tokens() -> None:
    for call in (lambda e: e.tokens(waves()), lambda e: e.grid(waves()), lambda e: e.average_tokens()):
        with pytest.raises(TypeError, match="vit_tiny_patch16"):
            call(tiny())


def test_pieces_follow_each_other_in_time() -> None:
    encoder = tiny()
    wave = torch.arange(SIZE, dtype=torch.int16).expand(2, -1)
    pieces = encoder.pieces(wave)
    assert encoder.has_pieces and encoder.piece_axes == 1
    assert pieces.shape == (2, 7, SIZE // 4) and pieces[1, 2, 0] == 2 * (SIZE // 8)
    spectrogram = torch.arange(32.0).expand(2, 64, 32)
    pieces = encoder.pieces(spectrogram)
    assert pieces.shape == (2, 7, 64, 8) and pieces[0, 3, 5].tolist() == list(range(12, 20))
    assert encoder(encoder.pieces(waves()).flatten(0, 1)).shape == (21, encoder.dim)
    with pytest.raises(UserError, match="too short"):
        encoder.pieces(spectrogram[..., :12])


def test_group_norm() -> None:
    for name in (TINY, "wave/resnet10@0.125", "byola@0.03"):
        encoder = tiny(name)
        encoder.use_group_norm()
        encoder.train()
        alone = encoder(waves()[:1]) if name != "byola@0.03" else None
        assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in encoder.modules())
        assert alone is None or torch.allclose(alone, encoder(waves())[:1], atol=1e-4)
        assert build_encoder(encoder.spec).state_dict().keys() == encoder.state_dict().keys()


# Saved and built again -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded_gives_the_same_to_the_bit(name: str, tmp_path: Path) -> None:
    encoder = tiny(name)
    encoder.spec["reading"] = {"rate": 8000}
    save_encoder(encoder, tmp_path)
    again = load_encoder(tmp_path)
    assert torch.equal(again(waves()), encoder(waves())) and not again.training
    assert again.spec == json.loads(json.dumps(encoder.spec)) and again.stats == STATS


def test_own_networks(tmp_path: Path) -> None:
    encoder = own_encoder(Net(), SIZE, STATS).eval()
    assert encoder.dim == 6 and not encoder.has_tokens and not encoder.has_maps
    with pytest.raises(TypeError, match=r"Give it a method maps\(x\)"):
        encoder.maps(waves())
    save_encoder(encoder, tmp_path)
    with pytest.raises(UserError, match="Make the module and pass it"):
        load_encoder(tmp_path)
    assert torch.equal(load_encoder(tmp_path, Net())(waves()), encoder(waves()))
    with pytest.raises(UserError, match="an encoder needs"):
        own_encoder(Net(flat=True), SIZE, STATS)
    assert make_encoder(f"{__name__}:Net", SIZE, STATS).dim == 6


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not the description of an audio encoder"):
        build_encoder({"modality": "audio"})
    spec = tiny().spec
    with pytest.raises(UserError, match="do not trust this file"):
        build_encoder({**spec, "options": {"checkpoint_path": 1}})
    with pytest.raises(UserError, match="no network 'resnet0'"):
        build_encoder({**spec, "name": "resnet0"})
    with pytest.raises(UserError, match="saved with width 7"):
        build_encoder({**spec, "dim": 7})


def test_weights_from_a_file(tmp_path: Path) -> None:
    source = tiny()
    save_encoder(source, tmp_path)
    torch.manual_seed(1)
    other = make_encoder(TINY, SIZE, STATS, str(tmp_path / "encoder.safetensors")).eval()
    assert torch.equal(other(waves()), source(waves()))
    assert other.spec["weights"]["loaded"] == other.spec["weights"]["of"]
    with pytest.raises(UserError, match=r"only \d+ of the"):
        make_encoder("resnet10t@0.25", SIZE, STATS, str(tmp_path / "encoder.safetensors"))
    with pytest.raises(UserError, match="Nothing is downloaded"):
        make_encoder(TINY, SIZE, STATS, str(tmp_path / "none.safetensors"))
    save_file({"a": torch.zeros(1)}, tmp_path / "bad.safetensors")
    (tmp_path / "worse.safetensors").write_text("x")
    with pytest.raises(UserError, match="cannot be read as tensors"):
        make_encoder(TINY, SIZE, STATS, str(tmp_path / "worse.safetensors"))


@pytest.mark.parametrize(("name", "to"), [("mfcc/" + TINY, "onnx"), (TINY_TOKENS, "torch")])  # and test_modalities.py
def test_export(name: str, to: str, tmp_path: Path) -> None:
    found = export(tiny(name), to, tmp_path / "encoder")
    assert found["difference"] <= 1e-4 and found["rate"] == 8000 and found["input_size"] == [SIZE]
    names: dict = {}
    exec(found["snippet"], names)
    assert torch.as_tensor(names["vectors"]).shape == (2, found["dim"])


def test_an_export_hears_at_one_loudness_too(tmp_path: Path) -> None:
    encoder = make_encoder(TINY, SIZE, STATS.changed(loudness="same")).eval()
    assert export(encoder, "onnx", tmp_path / "encoder")["difference"] <= 1e-4


def test_a_program_of_any_length_gives_maps_too_and_no_other_library_holds_sound(tmp_path: Path) -> None:
    encoder = make_encoder(TINY, 4 * SIZE, STATS).eval()
    try:
        found = export(encoder, "torch", tmp_path / "encoder", maps=True, any_size=True)
    except UserError as error:  # torch 2.11
        if "Guard failed" not in str(error):
            raise
        pytest.skip("this torch cannot follow maps of a sound of any length")
    waves = 0.1 * torch.randn(2, SIZE * 5)
    with torch.no_grad():
        vector, *maps = torch.export.load(found["files"][0]).module()(waves)
        expected, features = encoder.with_maps(waves)
    assert torch.allclose(vector, expected, atol=1e-4) and found["difference"] <= 1e-5
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(maps, features, strict=True))
    with pytest.raises(UserError, match="mmdetection does not hold this kind of encoder"):
        export(encoder, "mmdetection", tmp_path / "other")
