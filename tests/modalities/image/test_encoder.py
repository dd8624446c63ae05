import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from selfsame import types
from selfsame.errors import UserError
from selfsame.modalities.image.defaults import size_told
from selfsame.modalities.image.encoder import build_encoder, load_encoder, make_encoder, own_encoder, save_encoder
from selfsame.modalities.image.networks import OPTIONS, check_saved, resolve
from selfsame.modalities.image.stats import Stats
from selfsame.modalities.image.views import plain_box
from selfsame.types import Hidden


@dataclass(frozen=True)
class Measured:
    """What the encoder reads of a source's Stats."""

    channels: int = 3
    white: int = 255
    mean: tuple[float, ...] = (0.5, 0.4, 0.3)
    std: tuple[float, ...] = (0.2, 0.25, 0.3)
    items: int = 10
    bits: int = 8
    height: int = 32
    width: int = 32
    uniform: bool = True


RGB = Measured()
GREY = Measured(channels=1, mean=(0.5,), std=(0.2,))


class Conv(nn.Module):
    """Two convolutions; gives [b d h w]."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.coarse = nn.Conv2d(8, 6, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.coarse(self.fine(x))


def tiny_vit(library: str) -> nn.Module:
    if library == "timm":
        return timm.models.VisionTransformer(
            img_size=32, patch_size=8, depth=2, embed_dim=32, num_heads=2, num_classes=0
        )
    vit = torchvision.models.VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64)
    vit.heads = nn.Identity()
    return vit


def images(b: int = 2, c: int = 3, size: int = 32) -> Tensor:
    return torch.randint(0, 256, (b, c, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def small() -> nn.Module:
    torch.manual_seed(0)
    return Conv()


def test_it_normalises_by_its_own_statistics():
    encoder = own_encoder(nn.Identity(), 4, RGB).eval()
    stored = torch.full((1, 3, 4, 4), 51, dtype=torch.uint8)  # 0.2 on the [0, 1] scale
    torch.testing.assert_close(encoder(stored), torch.tensor([[-0.3 / 0.2, -0.2 / 0.25, -0.1 / 0.3]]))


def test_integers_and_floats_of_the_same_pixels_give_the_same_vector(small):
    encoder = own_encoder(small, 32, RGB).eval()
    assert torch.equal(encoder(images()), encoder(images().float() / 255))
    assert torch.equal(encoder(images()), encoder(images().int()))


def test_an_8_bit_image_keeps_its_own_white_beside_deeper_ones():
    encoder = own_encoder(nn.Identity(), 4, Measured(1, 65535, (0.0,), (1.0,), bits=16)).eval()
    eight = torch.full((1, 1, 4, 4), 51, dtype=torch.uint8)
    torch.testing.assert_close(encoder(eight), encoder(eight.float() / 255))
    torch.testing.assert_close(encoder(eight.int() * 257), encoder(eight))


def test_deep_pixels_are_divided_by_their_own_white():
    encoder = own_encoder(nn.Identity(), 4, Measured(1, 4095, (0.0,), (1.0,), bits=16)).eval()
    assert float(encoder(torch.full((1, 1, 4, 4), 4095, dtype=torch.int32))) == 1.0


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        (images().float(), "divide by 255 or pass uint8"),
        (torch.full((1, 3, 8, 8), -1.5), "already normalised"),
        (torch.zeros(3, 8, 8), r"x\[None\]"),
        (torch.zeros(8, 8), "accepted is a batch"),
        (torch.zeros(1, 1, 8, 8), "1 channels.*takes 3"),
        (torch.zeros(1, 8, 8, 3), "channels last"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.bool), "bool"),
    ],
)
def test_it_cannot_be_fed_wrongly(small, wrong, advice):
    with pytest.raises(UserError, match=advice):
        own_encoder(small, 32, RGB).eval()(wrong)


def test_colour_transformations_may_leave_the_range_a_little_and_training_is_not_slowed_by_looking(small):
    encoder = own_encoder(small, 32, RGB)
    assert encoder.eval()(torch.full((2, 3, 8, 8), 1.2)).isfinite().all()
    assert encoder.train()(torch.full((2, 3, 8, 8), 100.0)).isfinite().all()


def test_the_width_is_found_without_a_trace(small):
    small.train()
    small.fine.eval()
    state, draws = {key: value.clone() for key, value in small.state_dict().items()}, torch.get_rng_state()
    small.drop = nn.Dropout()
    assert own_encoder(small, 32, RGB).dim == 6
    assert torch.equal(torch.get_rng_state(), draws)
    assert all(torch.equal(value, small.state_dict()[key]) for key, value in state.items())
    assert small.training and not small.fine.training and small.coarse.training


def test_a_network_that_gives_no_tensor_is_refused():
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(UserError, match=r"tuple.*\[b d\]"):
        own_encoder(Pair(), 32, RGB)


def test_unknown_names_come_with_the_nearest():
    with pytest.raises(UserError, match="resnet18"):
        make_encoder("resnet_18", 32, RGB)
    with pytest.raises(UserError, match="torchvision/resnet18"):
        make_encoder("torchvision/resnet_18", 32, RGB)


def test_small_images_get_a_stem_that_keeps_their_size():
    for name in ("resnet18", "torchvision/resnet18"):
        small, large = make_encoder(name, 32, GREY), make_encoder(name, 96, GREY)
        assert small.spec["small_stem"] and not large.spec["small_stem"]
        assert small.trunk.conv1.weight.shape == (64, 1, 3, 3) and large.trunk.conv1.weight.shape == (64, 1, 7, 7)
        assert small.eval().stage(images(2, 1), "layer1").shape == (2, 64, 32, 32)
        assert large.eval().stage(images(2, 1), "layer1").shape == (2, 64, 8, 8)


def test_patches_that_are_too_large_or_do_not_divide_the_size_are_refused_with_advice():
    with pytest.raises(UserError, match="vit_tiny_patch4_32"):
        make_encoder("vit_tiny_patch16_224", 32, RGB)
    with pytest.raises(UserError, match="96 or 112"):
        make_encoder("vit_tiny_patch16_224", 100, RGB)
    assert make_encoder("vit_tiny_patch4_32", 32, RGB).trunk.patch_embed.num_patches == 64


def test_a_vision_transformer_names_the_size_it_takes():
    with pytest.raises(UserError, match=r"40x40.*32x32"):
        make_encoder("torchvision/vit_b_16", 32, RGB).eval()(images(size=40))


def test_a_vision_transformer_of_timm_takes_views_of_other_sizes_in_whole_patches():
    encoder = make_encoder("vit_tiny_patch8_32", 32, RGB).eval()
    assert encoder(images(2, size=16)).shape == encoder(images(2, size=40)).shape == (2, 192)
    assert encoder.grid(images(2, size=40)) == (5, 5)
    with pytest.raises(UserError, match=r"36x36 px.*8x8 px. Give multiples"):
        encoder(images(size=36))


def test_the_vector_and_the_tokens_come_in_one_pass():
    for name in ("vit_tiny_patch8_32", "torchvision/vit_b_16"):
        encoder = make_encoder(name, 32, RGB).eval()
        vector, tokens = encoder.both(images(2))
        torch.testing.assert_close(vector, encoder(images(2)), rtol=1e-4, atol=1e-5)
        assert torch.equal(tokens, encoder.tokens(images(2)))
        assert tokens.shape[1] == math.prod(encoder.grid(images(2)))
        layers = encoder.last_layers(images(2), 2)
        assert len(layers) == 2 and layers[1].shape == tokens.shape
        with pytest.raises(UserError, match="99 of the last blocks were asked for; the encoder has 12"):
            encoder.last_layers(images(2), 99)


def test_hidden_tokens_do_not_show_what_they_hid():
    encoder = make_encoder("vit_tiny_patch8_32", 32, RGB).eval()
    one, two = images(2), images(2)
    two[:, :, :8, :8] = 1 - two[:, :, :8, :8]  # the first patch differs
    stand_in = torch.zeros(192)
    where = torch.zeros(2, 16, dtype=torch.bool)
    assert not torch.equal(encoder.tokens(one), encoder.tokens(two))
    where[:, 0] = True
    hide = Hidden(where, stand_in)
    assert torch.equal(encoder.tokens(one, hide=hide), encoder.tokens(two, hide=hide))
    assert not torch.equal(encoder.tokens(one, hide=hide), encoder.tokens(one))
    with pytest.raises(UserError, match=r"hide.where has shape \[2, 9\]"):
        encoder.tokens(one, hide=Hidden(where[:, :9], stand_in))


def test_pieces_are_square_and_overlap_by_half():
    view = images(2, size=32)
    pieces = make_encoder("resnet18", 32, RGB).pieces(view)
    assert pieces.shape == (2, 7, 7, 3, 8, 8)
    assert torch.equal(pieces[:, 1, 2], view[:, :, 4:12, 8:16])


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch8_32", "torchvision/mobilenet_v3_small", "resnet10t@0.5"])
def test_a_loaded_encoder_is_equal_to_the_bit(name, tmp_path):
    torch.manual_seed(0)
    encoder = make_encoder(name, 32, GREY).train()
    encoder(images(4, 1))  # moves the running statistics
    save_encoder(encoder, tmp_path)
    draws = torch.get_rng_state()
    loaded = load_encoder(tmp_path)
    assert torch.equal(torch.get_rng_state(), draws)
    assert torch.equal(loaded(images(2, 1)), encoder.eval()(images(2, 1)))
    assert loaded.spec == encoder.spec and loaded.dim == encoder.dim == loaded(images(2, 1)).shape[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder.json", "encoder.safetensors"]


def test_an_encoder_with_group_norm_loads_too(tmp_path):
    encoder = make_encoder("resnet18", 32, GREY)
    encoder.use_group_norm()
    save_encoder(encoder, tmp_path)
    assert torch.equal(load_encoder(tmp_path)(images(2, 1)), encoder.eval()(images(2, 1)))


def test_a_module_of_the_users_own_is_asked_for_again(small, tmp_path):
    encoder = own_encoder(small, 32, RGB).eval()
    save_encoder(encoder, tmp_path)
    with pytest.raises(UserError, match=r"ss.load\(run, encoder=module\)"):
        load_encoder(tmp_path)
    assert torch.equal(load_encoder(tmp_path, Conv())(images()), encoder(images()))
    with pytest.raises(UserError, match="width"):
        load_encoder(tmp_path, nn.Conv2d(3, 5, 1))
    with pytest.raises(UserError, match="another network"):
        load_encoder(tmp_path, nn.Conv2d(3, 6, 1))


def test_a_factory_of_the_users_own_is_found_by_its_path(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\ndef tiny(): return nn.Conv2d(3, 5, 3)\ndef wrong(): return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    encoder = make_encoder("my_nets:tiny", 8, RGB).eval()
    save_encoder(encoder, tmp_path / "run")
    assert torch.equal(load_encoder(tmp_path / "run")(images()), encoder(images())) and encoder.dim == 5
    for name, reason in [("my_nets:wrong", "gave int"), ("my_nets:none", "none"), ("no_nets:x", "no_nets")]:
        with pytest.raises(UserError, match=reason):
            make_encoder(name, 8, RGB)


def test_damaged_or_newer_files_are_named(small, tmp_path):
    with pytest.raises(UserError, match=r"encoder\.json is missing"):
        load_encoder(tmp_path)
    save_encoder(own_encoder(small, 32, RGB), tmp_path)
    tensors, text = tmp_path / "encoder.safetensors", tmp_path / "encoder.json"
    whole = tensors.read_bytes()
    for cut in (0, 5, 200, len(whole) - 1):
        tensors.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"encoder\.safetensors is damaged"):
            load_encoder(tmp_path, Conv())
    tensors.write_bytes(whole)
    spec = json.loads(text.read_text())
    for wrong, reason in [
        ({**spec, "format": 2}, "format 2"),
        ({**spec, "size": "large"}, "size"),
        ({**spec, "stats": {}}, "white"),
        ({**spec, "format": None}, "damaged"),
        ([], "damaged"),
    ]:
        text.write_text(json.dumps(wrong))
        with pytest.raises(UserError, match=reason):
            load_encoder(tmp_path, Conv())
    text.write_text("{")
    with pytest.raises(UserError, match="damaged"):
        load_encoder(tmp_path, Conv())


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        (
            "resnet18",
            {"options": {"checkpoint_path": "x.pth"}},
            "checkpoint_path='x.pth' of timm's resnet18; accepted: img_size, patch_size, dynamic_img_size",
        ),
        ("resnet18", {"options": {"pretrained_cfg": {"file": "x.pth"}}}, "asks for pretrained_cfg="),
        ("resnet18", {"options": {"img_size": "x"}}, "asks for img_size='x'"),
        ("resnet18", {"name": "hf-hub:someone/net"}, "no network 'hf-hub:someone/net'"),
        ("resnet18", {"name": "local-dir:x"}, "no network 'local-dir:x'"),
        ("torchvision/resnet18", {"options": {"progress": 1}}, "progress=1 of torchvision's resnet18"),
        ("torchvision/resnet18", {"name": "fasterrcnn_resnet50_fpn"}, "no network 'fasterrcnn_resnet50_fpn'"),
        ("tests.nets:tiny", {"options": {"channels": 3}}, "channels=3 of own's tests.nets:tiny; accepted: none"),
    ],
)
def test_a_file_cannot_ask_for_other_networks_and_options_than_are_ever_saved(name, changes, reason, tmp_path):
    save_encoder(make_encoder(name, 32, RGB), tmp_path)
    load_encoder(tmp_path)
    text = tmp_path / "encoder.json"
    text.write_text(json.dumps({**json.loads(text.read_text()), **changes}))
    with pytest.raises(UserError, match=reason) as error:
        load_encoder(tmp_path)
    assert "\n" not in str(error.value)


def test_every_option_that_is_given_may_be_read_back():
    names = (
        "resnet10t@0.5",
        "vit_tiny_patch4_32@128x6",
        "torchvision/resnet18",
        "torchvision/vit_b_16",
        "torchvision/maxvit_t",
    )
    found: dict[str, set[str]] = {"timm": set(), "torchvision": set(), "own": set()}
    for name in (*names, "torchvision/googlenet", "torchvision/inception_v3", "tests.nets:tiny"):
        library, bare, options = resolve(name, 32)
        check_saved(library, bare, json.loads(json.dumps(options)))
        found[library] |= options.keys()
    assert found == {library: set(options) for library, options in OPTIONS.items()}


def test_a_failed_save_leaves_the_old_encoder(small, tmp_path, monkeypatch):
    encoder = own_encoder(small, 32, RGB).eval()
    save_encoder(encoder, tmp_path)
    expected = encoder(images())
    nn.init.zeros_(small.coarse.weight)
    encoder.spec["wrong"] = object()  # not JSON
    with pytest.raises(TypeError):
        save_encoder(encoder, tmp_path)
    assert torch.equal(load_encoder(tmp_path, Conv())(images()), expected)


def test_maps_are_the_last_of_each_resolution_fine_to_coarse():
    shapes = [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]
    for name in ("resnet18", "torchvision/resnet18"):
        encoder = make_encoder(name, 32, RGB).eval()
        maps = encoder.maps(images())
        assert [tuple(one.shape[1:]) for one in maps] == shapes
        torch.testing.assert_close(maps[-1].mean((2, 3)), encoder(images()))
        torch.testing.assert_close(maps[1], encoder.stage(images(), "layer2"))


def test_channels_of_maps_are_known_without_a_view_and_leave_the_network_as_it_was(small):
    for encoder in (
        make_encoder("resnet18@0.25", 32, RGB),
        own_encoder(small, 32, RGB),
        own_encoder(tiny_vit("timm"), 32, RGB),
    ):
        state = {name: value.clone() for name, value in encoder.state_dict().items()}
        assert encoder.map_widths == tuple(one.shape[1] for one in encoder.maps(images()))
        encoder.load_state_dict(state)
        assert encoder.train().map_widths and all(part.training for part in encoder.modules())
        assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())
    with pytest.raises(TypeError, match="method maps"):
        _ = own_encoder(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), 8, RGB).map_widths


def test_an_own_network_gives_maps_by_its_parts_or_not_at_all(small):
    encoder = own_encoder(small, 32, RGB).eval()
    assert [tuple(one.shape[1:]) for one in encoder.maps(images())] == [(8, 32, 32), (6, 16, 16)]
    flat = own_encoder(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), 8, RGB)
    with pytest.raises(TypeError, match="method maps"):
        flat.maps(images(size=8))
    with pytest.raises(TypeError, match="vision transformer"):
        encoder.tokens(images())


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_tokens_of_kept_patches_do_not_see_the_others(library):
    torch.manual_seed(0)
    encoder = own_encoder(tiny_vit(library), 32, RGB).eval()
    x = images()
    every = torch.arange(16).expand(2, -1)
    torch.testing.assert_close(encoder.tokens(x, every), encoder.tokens(x))
    keep = torch.tensor([[5, 0, 9], [2, 15, 3]])
    some = encoder.tokens(x, keep)
    assert some.shape == (2, 3, 32)
    other = x.clone()
    other[0, :, 24:] = 0  # patches 12 to 15, which the first image does not keep
    torch.testing.assert_close(encoder.tokens(other, keep), some)
    assert not torch.allclose(encoder.tokens(other), encoder.tokens(x))
    torch.testing.assert_close(encoder.tokens(x, keep.flip(1)), some.flip(1))  # they keep their places
    with pytest.raises(UserError, match="one row"):
        encoder.tokens(x, keep[:1])


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_the_map_of_a_vision_transformer_is_its_tokens_laid_out(library):
    torch.manual_seed(0)
    encoder = own_encoder(tiny_vit(library), 32, RGB).eval()
    (one,) = encoder.maps(images())
    torch.testing.assert_close(one.flatten(2).transpose(1, 2), encoder.tokens(images()))


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_the_mean_of_the_tokens_takes_the_place_of_a_class_token_and_is_recorded(library, tmp_path):
    torch.manual_seed(0)
    vit = tiny_vit(library)
    encoder = own_encoder(vit, 32, RGB).eval()
    before = encoder(images())
    encoder.average_tokens()
    assert not torch.allclose(encoder(images()), before)
    torch.testing.assert_close(encoder(images()), encoder.tokens(images()).mean(1))
    torch.testing.assert_close(encoder.both(images())[0], encoder(images()))
    save_encoder(encoder, tmp_path)
    again = load_encoder(tmp_path, tiny_vit(library))
    assert torch.equal(again(images()), encoder(images()))


def test_a_network_without_tokens_has_no_mean_of_them(small):
    with pytest.raises(TypeError, match="no tokens"):
        own_encoder(small, 32, RGB).average_tokens()


def test_large_views_show_the_middle_of_a_picture_and_small_ones_all_of_it():
    for size, crop in ((64, 1.0), (96, 0.875)):
        assert make_encoder("resnet10t@0.25", size, RGB).crop == crop
        assert plain_box(400, 200, size).tolist()[0][2:] == [200 * crop, 200 * crop]


def test_vector_and_maps_come_together_and_widths_are_known_before(small):
    torch.manual_seed(0)
    stemmed = (make_encoder(name, 96, RGB) for name in ("resnet18@0.25", "torchvision/resnet18"))
    for encoder in (make_encoder("resnet18@0.25", 32, RGB), own_encoder(small, 32, RGB), *stemmed):
        encoder.eval()
        views = images(size=encoder.spec["size"])
        vector, maps = encoder.with_maps(views)
        torch.testing.assert_close(vector, encoder(views))
        for one, other in zip(maps, encoder.maps(views), strict=True):
            torch.testing.assert_close(one, other)
        assert encoder.train().map_widths == tuple(one.shape[1] for one in maps)
        assert all(part.training for part in encoder.modules())
    with pytest.raises(TypeError, match="no maps"):
        _ = types.Encoder().map_widths


def test_stages_go_by_name_or_number(small):
    encoder = own_encoder(small, 32, RGB).eval()
    assert encoder.stages == ["fine", "coarse"]
    slow = small.fine(encoder.normalised(images()))
    torch.testing.assert_close(encoder.stage(images(), "fine"), slow)
    torch.testing.assert_close(encoder.stage(images(), 0), slow)
    torch.testing.assert_close(encoder.stage(images(), "fine.2"), slow)
    with pytest.raises(UserError, match="coarse"):
        encoder.stage(images(), "coarser")
    with pytest.raises(UserError, match="has 2"):
        encoder.stage(images(), 2)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_of_another_library_prefix_and_channel_count_are_taken(suffix, tmp_path):
    torch.manual_seed(0)
    source = torchvision.models.resnet18(weights=None)
    state = {f"module.encoder_q.{key}": value.clone() for key, value in source.state_dict().items()}
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"epoch": 3, "state_dict": {**state, "queue": torch.zeros(3)}}, file)
    else:
        save_file(state, file)
    encoder = make_encoder("resnet18", 96, GREY, weights=str(file)).eval()
    report = encoder.spec["weights"]
    assert report["prefix"] == "module.encoder_q." and report["missing"] == [] and report["adapted"] == ["conv1.weight"]
    assert report["loaded"] == report["of"] == 100 and json.dumps(encoder.spec)
    source.fc = nn.Identity()
    normal = encoder.normalised(images(2, 1, 96))  # a grey image is three equal channels
    torch.testing.assert_close(
        encoder(images(2, 1, 96)), source.eval()(normal.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4
    )


def test_weights_of_a_saved_encoder_and_of_another_size_are_taken(tmp_path):
    torch.manual_seed(0)
    save_encoder(make_encoder("vit_tiny_patch8_32", 32, RGB), tmp_path)
    encoder = make_encoder("vit_tiny_patch8_64", 64, RGB, weights=str(tmp_path / "encoder.safetensors"))
    report = encoder.spec["weights"]
    assert report["missing"] == [] and report["adapted"] == ["pos_embed"] and report["prefix"] == "trunk."


def test_weights_that_do_not_fit_are_refused_with_what_is_missing(tmp_path):
    save_file(timm.create_model("resnet34").state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"only 0 of the 150 .*blocks\.0\.attn"):
        make_encoder("vit_tiny_patch8_32", 32, RGB, weights=str(tmp_path / "other.safetensors"))
    with pytest.raises(UserError, match="Nothing is downloaded"):
        make_encoder("resnet18", 32, RGB, weights="resnet18.a1_in1k")
    torch.save({"model": Path("x"), "net": nn.Linear(2, 2)}, tmp_path / "code.pt")
    (tmp_path / "noise.pt").write_bytes(b"no tensors here")
    (tmp_path / "noise.safetensors").write_bytes(b"no tensors here")
    for name in ("code.pt", "noise.pt", "noise.safetensors"):
        with pytest.raises(UserError, match=r"cannot be read as tensors"):
            make_encoder("resnet18", 32, RGB, weights=str(tmp_path / name))


def test_group_norm_is_recorded_and_refused_where_there_is_no_batch_norm(small):
    encoder = own_encoder(small, 32, RGB)
    encoder.use_group_norm()
    assert encoder.spec["norm"] == "group"
    assert build_encoder(encoder.spec, Conv()).state_dict().keys() == encoder.state_dict().keys()
    with pytest.raises(UserError, match="no batch norm"):
        own_encoder(tiny_vit("timm"), 32, RGB).use_group_norm()


def test_a_width_narrows_the_stages_of_a_residual_net_and_its_deep_stem():
    for name, dim, stem in (("resnet18@0.25", 128, 64), ("resnet10t@0.5", 256, 32), ("resnet50@0.5", 1024, 64)):
        encoder = make_encoder(name, 96, RGB)
        assert encoder.dim == dim and encoder.trunk.bn1.num_features == stem
        whole = make_encoder(name.partition("@")[0], 96, RGB)
        assert [len(stage) for stage in (encoder.trunk.layer1, encoder.trunk.layer4)] == [
            len(stage) for stage in (whole.trunk.layer1, whole.trunk.layer4)
        ]
    assert make_encoder("resnet18@0.01", 96, RGB).dim == 8  # never below eight channels


def test_a_transformer_has_the_width_and_the_blocks_that_are_given(tmp_path):
    torch.manual_seed(0)
    encoder = make_encoder("vit_tiny_patch8_32@64x2", 32, GREY)
    assert encoder.dim == 64 and len(encoder.trunk.blocks) == 2 and encoder.trunk.blocks[0].attn.num_heads == 2
    save_encoder(encoder, tmp_path)
    view = torch.rand(2, 1, 48, 48)  # views of other sizes too, for multi-crop
    assert torch.equal(load_encoder(tmp_path).eval()(view), encoder.eval()(view))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vit_tiny_patch16_224@0.5", "width and blocks are given, as in vit_tiny_patch16_224@128x6"),
        ("densenet121@0.5", "for the residual nets of timm, such as resnet18@0.5"),
        ("resnet18@128x6", "are for plain vision transformers of timm, .* of the width is given: resnet18@0.5"),
        ("vit_tiny_patch8_96@100x6", "the width is a multiple of 32"),
        ("vit_tiny_patch8_96@64x0", "the number of blocks 1 to 100"),
        ("resnet18@0", "above 0 and up to 4"),
        ("resnet18@wide", "above 0 and up to 4"),
        ("resnot18@0.5", "Did you mean 'resnet18'"),
    ],
)
def test_a_width_that_cannot_be_had_is_refused(name, said):
    with pytest.raises(UserError, match=said):
        make_encoder(name, 96, RGB)


def test_the_weights_of_a_network_with_group_norms_start_a_new_one(tmp_path):
    torch.manual_seed(0)
    trained = make_encoder("resnet10t@0.25", 32, RGB)
    trained.use_group_norm()
    save_encoder(trained, tmp_path)
    fresh = make_encoder("resnet10t@0.25", 32, RGB, weights=str(tmp_path / "encoder.safetensors"))
    assert fresh.spec["weights"]["missing"] == []
    fresh.use_group_norm()
    x = images(4, 3)
    torch.testing.assert_close(fresh.eval()(x), trained.eval()(x))


def test_a_network_with_batch_norms_is_not_started_without_its_statistics(tmp_path):
    state = make_encoder("resnet10t@0.25", 32, RGB).trunk.state_dict()
    save_file({name: value for name, value in state.items() if "running" not in name}, tmp_path / "bare.safetensors")
    with pytest.raises(UserError, match=r"bn1.running_mean"):
        make_encoder("resnet10t@0.25", 32, RGB, weights=str(tmp_path / "bare.safetensors"))


def test_views_larger_than_the_images_are_told_as_such():
    stats = Stats(
        items=4, channels=3, bits=8, white=255, mean=(0.5,) * 3, std=(0.2,) * 3, height=32, width=48, uniform=True
    )
    assert [size_told(size, stats) for size in (32, 33)] == ["32 px", "33 px, enlarged from 48 x 32"]
