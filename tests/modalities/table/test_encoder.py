"""Encoders of rows: what they take, what they refuse, how they are kept; rows shown to people; trivial features."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from selfsame.errors import UserError
from selfsame.modalities import table
from selfsame.modalities.table.encoder import build_encoder, load_encoder, make_encoder, own_encoder, save_encoder
from selfsame.modalities.table.measuring import measure
from selfsame.modalities.table.networks import Flat, Tokeniser
from selfsame.modalities.table.reading import Reading
from selfsame.modalities.table.source import open_source
from selfsame.types import Hidden
from tests.modalities.table.made import make


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    source = open_source(make(tmp_path_factory.mktemp("t"), 120))
    source.fit(measure(source)[0])
    return source


@pytest.fixture(scope="module")
def rows(source):
    return torch.from_numpy(source.array)


def encoder(source, name="mlp-tiny", seed=0):
    torch.manual_seed(seed)
    return make_encoder(name, 6, source.stats).eval()


@pytest.mark.parametrize(
    ("name", "dim"), [("mlp-tiny", 32), ("mlp", 256), ("mlp@0.5", 128), ("ft-tiny", 32), ("ft-small", 96), ("ft", 192)]
)
def test_networks_by_name(source, rows, name, dim):
    one = encoder(source, name)
    vectors = one(rows)
    assert vectors.shape == (120, dim) and one.dim == dim and vectors.isfinite().all()
    assert len(torch.unique(vectors.detach(), dim=0)) > 100
    vectors.sum().backward()
    used = [n for n, p in one.named_parameters() if p.grad is not None]
    assert len(used) == len(list(one.parameters()))


def test_missing_hidden_and_unknown_are_told_apart(source, rows):
    one = encoder(source)
    row = rows[:1].nan_to_num(1.0)
    found = []
    for value in (row[0, 1], float("nan"), float("inf"), 0.0):
        changed = row.clone()
        changed[0, 1] = value  # the city
        found.append(one(changed))
    assert all(not torch.allclose(a, b, atol=1e-6) for k, a in enumerate(found) for b in found[:k])


def test_scaling_is_inside_so_that_units_do_not_matter(tmp_path):
    """The same table in other units gives the same vectors: what is learned is not about metres or miles."""
    rng = np.random.default_rng(0)
    values = rng.normal(50, 10, (200, 2))
    sources = []
    for k, factor in enumerate((1.0, 1000.0)):
        lines = "".join(f"{a * factor:.5f},{b:.5f}\n" for a, b in values)
        (tmp_path / f"{k}.csv").write_text(f"a,b\n{lines}")
        source = open_source(str(tmp_path / f"{k}.csv"))
        source.fit(measure(source)[0])
        sources.append(source)
    made = []
    for source in sources:
        torch.manual_seed(0)
        made.append(make_encoder("mlp-tiny", 2, source.stats).eval()(torch.from_numpy(source.array)))
    torch.testing.assert_close(made[0], made[1], atol=1e-3, rtol=1e-3)


def test_dates_know_the_hour_the_weekday_and_the_season(source):
    tokens = Tokeniser(source.stats, 8)
    dates = [k for k, c in enumerate(source.stats.columns) if c.kind == "date"]
    features = tokens.numbers
    place = [c.kind for c in source.stats.columns if c.kind in ("number", "count", "ratio", "date")].index("date")
    days = torch.zeros(3, len(features.dates))
    days[:, place] = torch.tensor([18_000.25, 18_007.25, 18_000.75])
    found = features(days)[:, place, 9:]
    sin_week, sin_day, cos_week, cos_day = found[:, 1], found[:, 2], found[:, 4], found[:, 5]
    assert dates and torch.allclose(sin_week[0], sin_week[1], atol=1e-2) and abs(float(sin_day[0]) - 1) < 1e-2
    assert abs(float(sin_day[2]) + 1) < 1e-2 and abs(float(cos_day[0])) < 1e-2 and cos_week.shape == (3,)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.zeros(6), r"shape \[6\].*add the batch axis"),
        (torch.zeros(2, 7), r"rows of 7 numbers .*takes 6: age, city"),
        (torch.zeros(2, 6, dtype=torch.long), "accepted are floats"),
        (torch.full((2, 6), 0.37), r"got 0.37 in city; accepted are the codes 0 to 4"),
        (torch.full((2, 6), 99.0), r"got 99 in city"),
        (torch.full((2, 6), -1.0), r"got -1 in city"),
    ],
)
def test_rows_that_are_none_are_refused(source, given, said):
    with pytest.raises(UserError, match=said):
        encoder(source)(given)


@pytest.mark.parametrize("name", ["mlp-tiny", "ft-tiny"])
def test_saved_and_loaded_it_is_the_same_to_the_bit(source, rows, tmp_path, name):
    one = encoder(source, name).train()
    one(rows)
    one.eval()
    save_encoder(one, tmp_path)
    again = load_encoder(tmp_path)
    assert torch.equal(again(rows), one(rows)) and again.stats == source.stats
    spec = json.loads((tmp_path / "encoder.json").read_text())
    (tmp_path / "encoder.json").write_text(json.dumps({**spec, "dim": 5}))
    with pytest.raises(UserError, match="saved with width 5"):
        load_encoder(tmp_path)


def test_names_and_sizes_that_are_none(source):
    for name, said in (
        ("mpl", "Did you mean 'mlp'"),
        ("mlp@0", "above 0 and up to 16"),
        ("ft@2", "unknown encoder 'ft@2'"),
        ("no.such.module:net", "package.module:factory"),
    ):
        with pytest.raises(UserError, match=said):
            make_encoder(name, 6, source.stats)
    with pytest.raises(UserError, match="size 9: this table has 6 columns"):
        make_encoder("mlp", 9, source.stats)


def test_a_network_of_ones_own(source, rows, tmp_path):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.LazyLinear(7)

        def forward(self, x):
            return self.layer(x).relu()

    one = own_encoder(Net(), 6, source.stats)
    assert one(rows).shape == (120, 7) and not one.has_tokens and not one.has_maps
    save_encoder(one.eval(), tmp_path)
    with pytest.raises(UserError, match=r"cannot be rebuilt from its name.*encoder=module"):
        load_encoder(tmp_path)
    assert torch.equal(load_encoder(tmp_path, Net())(rows), one(rows))
    with pytest.raises(UserError, match=r"gives a tensor of shape \[2\]"):
        own_encoder(Bad(), 6, source.stats)
    with pytest.raises(TypeError, match="no maps"):
        one.maps(rows)
    with pytest.raises(TypeError, match="no tokens"):
        one.tokens(rows)


class Bad(nn.Module):
    def forward(self, x):
        return x.sum(dim=1)


def test_flat_features_are_numbers_one_hot_and_flags(source, rows):
    features = Flat(source.stats)(rows)
    assert features.shape == (120, 4 + 7 + 5 + 12) and features.isfinite().all()  # numbers, date, 5 codes, flags
    assert torch.equal(features[:, -12:-6], rows.isnan().float())
    codes = features[:, 11:16]
    assert torch.equal(codes.sum(dim=1), (~rows[:, 1].isnan()).float())


def test_tokens_are_columns(source, rows):
    one = encoder(source, "ft-tiny")
    vector, tokens = one.both(rows)
    assert tokens.shape == (120, 6, 32) and one.grid(rows) == (6,) and torch.allclose(vector, one(rows), atol=1e-6)
    order = torch.tensor([5, 3, 1]).repeat(120, 1)
    kept = one.tokens(rows, keep=order)
    shuffled = one.tokens(rows, keep=order[:, [2, 0, 1]])
    torch.testing.assert_close(kept[:, [2, 0, 1]], shuffled, atol=1e-5, rtol=1e-5)  # a token knows its own column
    where = torch.zeros(120, 6, dtype=torch.bool)
    where[:, 1] = True
    stand_in = torch.randn(32)
    changed = rows.clone()
    changed[:, 1] = 2.0
    hide = Hidden(where, stand_in)
    torch.testing.assert_close(one.tokens(rows, hide=hide), one.tokens(changed, hide=hide))
    assert not torch.allclose(one.tokens(rows), one.tokens(changed))
    assert [layer.shape for layer in one.last_layers(rows, 2)] == [(120, 6, 32)] * 2
    torch.testing.assert_close(one.trunk.norm(one.last_layers(rows, 1)[0]), tokens, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="3 of the last blocks"):
        one.last_layers(rows, 3)
    with pytest.raises(UserError, match="one truth value for each of 120 x 6"):
        one.tokens(rows, hide=Hidden(where[:, :3], stand_in))
    one.average_tokens()
    torch.testing.assert_close(one(rows), tokens.mean(dim=1))
    again = build_encoder(json.loads(json.dumps(one.spec))).eval()
    again.load_state_dict(one.state_dict())
    assert torch.equal(again(rows), one(rows))


def test_maps_are_columns_and_the_whole(source, rows):
    one = encoder(source)
    vector, (columns, whole) = one.with_maps(rows)
    assert columns.shape == (120, 4, 6) and whole.shape == (120, 32, 1) and one.map_widths == (4, 32)
    assert torch.equal(whole[..., 0], vector)
    (tokens,) = encoder(source, "ft-tiny").maps(rows)
    assert tokens.shape == (120, 32, 6)
    with pytest.raises(TypeError, match="a row has no pieces"):
        one.pieces(rows)


def test_batch_norms_can_be_replaced(source, rows, tmp_path):
    one = encoder(source)
    one.use_group_norm()
    one(rows[:1])
    save_encoder(one, tmp_path)
    assert torch.equal(load_encoder(tmp_path)(rows), one(rows))
    with pytest.raises(UserError, match="no batch norm"):
        encoder(source, "ft-tiny").use_group_norm()


def test_weights_of_another_table_start_it_and_its_scaling_stays(source, tmp_path):
    one = encoder(source, seed=3)
    save_encoder(one, tmp_path)
    wide = source.stats.changed(columns=tuple(c.changed(mean=c.mean + 5) for c in source.stats.columns))
    torch.manual_seed(0)
    two = make_encoder("mlp-tiny", 6, wide, str(tmp_path / "encoder.safetensors"))
    own, held = dict(one.named_parameters()), dict(two.named_parameters())
    assert all(torch.equal(own[name], held[name]) for name in own)
    assert not torch.equal(one.trunk.tokeniser.numbers.scaler.mean, two.trunk.tokeniser.numbers.scaler.mean)
    assert two.spec["weights"].startswith(f"{len(own)} of {len(own)}")
    with pytest.raises(UserError, match="no weights at"):
        make_encoder("mlp-tiny", 6, source.stats, str(tmp_path / "none.safetensors"))


@pytest.mark.parametrize(("name", "to"), [("mlp-tiny", "onnx"), ("ft-tiny", "torch"), ("ft-tiny", "onnx")])
def test_it_is_exported_whole(source, rows, tmp_path, name, to):
    if to == "onnx":
        pytest.importorskip("onnxruntime")
    one = encoder(source, name)
    facts = table.export(one, to, tmp_path / "net")
    assert facts["difference"] < 1e-4 and facts["columns"][1]["values"][0] in ("Bern", "Oslo", "Turin", "Lyon")
    names: dict = {}
    exec(facts["snippet"], names)
    assert names["vectors"].shape == (2, 32)
    with pytest.raises(UserError, match="unknown export 'timm'"):
        table.export(one, "timm", tmp_path / "other")


def test_it_is_exported_with_maps_and_only_with_its_columns(source, tmp_path):
    one = encoder(source, "mlp-tiny")
    facts = table.export(one, "torch", tmp_path / "net", maps=True)
    assert [features["channels"] for features in facts["maps"]] == list(one.map_widths)
    assert "stride" not in facts["maps"][0] and facts["difference"] <= 1e-5
    with pytest.raises(UserError, match="--any-size: mlp-tiny takes views of one size alone"):
        table.export(one, "torch", tmp_path / "other", any_size=True)
    with pytest.raises(UserError, match="--preprocessing is for images"):
        table.export(one, "torch", tmp_path / "other", preprocessing="chw")


# Rows for people, and the trivial feature ----------------------------------------------------------------------------


def test_rows_are_shown(source):
    assert table.picture(source, 0, side=200).size == (200, 200)
    html = table.fragment(source, 0)
    assert html.startswith("<table") and html.count("<tr>") == 6 and f"<td>{source.read(0)['city']}</td>" in html


def test_cells_of_a_fragment_are_escaped(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n<b>x</b>,1\n&,2\n")
    source = open_source(str(tmp_path / "t.csv"))
    source.fit(measure(source)[0])
    assert "<b>" not in table.fragment(source, 0) and "&lt;b&gt;x&lt;/b&gt;" in table.fragment(source, 0)


def test_the_sheet_shows_what_a_view_changes(source, rows):
    changed = rows[0].clone()
    changed[1] = float("inf")
    changed[0] = float("nan")
    text = table.contact_sheet(source, [0], [[rows[0], changed]], ["row 0"])
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.startswith("  ")}
    assert "row 0" in text and "6 columns" not in text and source.stats.summary in text
    assert lines["city"][-2:] == [".", "(hidden)"] and lines["age"][-1] == "(missing)" and lines["score"][-1] == "."


def test_trivial_features_are_fitted_on_the_first_part(source, rows):
    first, second = table.raw_vectors([(source, range(60)), (source, range(60, 120))], source.stats)
    assert first.shape[1] == second.shape[1] and abs(float(first[:, 0].mean())) < 1e-5
    swapped = table.raw_vectors([(source, range(60, 120)), (source, range(60))], source.stats)[1]
    assert not torch.allclose(first, swapped)
    assert table.raw_name == "one-hot and scaled numbers"


def test_defaults(source):
    assert table.default_size(source.stats, False) == 6 and table.size_told(6, source.stats) == "6 columns"
    assert table.default_encoder(6, False) == "mlp" and table.default_encoder(6, True) == "mlp@2"
    assert Reading() == Reading.model_validate({})
