"""Text encoders: padding, tokens and places, saving, wrong input, local networks."""

import json

import pytest
import torch
from torch import nn

from selfsame import methods
from selfsame.errors import UserError
from selfsame.jobs.deciding import Deciding
from selfsame.jobs.pretrain import Pretrain
from selfsame.methods import SimCLR
from selfsame.modalities import text
from selfsame.modalities.text.places import owners
from selfsame.nn.norm import at_rest
from selfsame.types import Hidden
from tests.modalities.text.made import TINY, TINY_BAG, TINY_TOKENS, make

NAMES = (TINY, TINY_TOKENS, f"{TINY_TOKENS}:class", TINY_BAG)


@pytest.fixture(scope="module", params=NAMES)
def encoder(request, stats):
    torch.manual_seed(0)
    return text.make_encoder(request.param, 12, stats).eval()


@pytest.fixture(scope="module")
def transformer(stats):
    torch.manual_seed(0)
    return text.make_encoder(TINY_TOKENS, 12, stats).eval()


def batch(*lengths, n=12, seed=0):
    ids = torch.randint(1, 300, (len(lengths), n), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    return ids * (torch.arange(n) < torch.tensor(lengths)[:, None])


def test_padding_has_no_influence(encoder):
    view = batch(12, 5, 1, 8)
    together = encoder(view)
    assert together.shape == (4, encoder.dim) and together.isfinite().all()
    for row, length in enumerate((12, 5, 1, 8)):
        torch.testing.assert_close(encoder(view[row : row + 1, :length]), together[row : row + 1], atol=1e-5, rtol=1e-4)
    assert torch.equal(encoder(view.long()), together)


def test_every_word_has_an_influence(encoder):
    view = batch(6)
    for place in range(6):
        other = view.clone()
        other[0, place] = 1 + (other[0, place] + 7) % 299
        assert (encoder(other) - encoder(view)).abs().max() > 1e-4


def test_dropout_alone_makes_two_equal_views_differ(encoder):
    view = batch(12, 7)
    encoder.train()
    try:
        assert (encoder(view) - encoder(view)).abs().max() > 1e-3
    finally:
        encoder.eval()
    assert torch.equal(encoder(view), encoder(view))


def test_saved_and_loaded_it_gives_the_same_to_the_bit(encoder, tmp_path):
    text.save_encoder(encoder, tmp_path)
    again = text.load_encoder(tmp_path)
    view = batch(12, 3, 9)
    assert torch.equal(again(view), encoder(view)) and again.spec == encoder.spec and not again.training
    assert json.loads((tmp_path / "encoder.json").read_text())["modality"] == "text"


def test_maps_are_spread_over_all_places(encoder):
    vector, maps = encoder.with_maps(batch(12, 3))
    torch.testing.assert_close(vector, encoder(batch(12, 3)))
    assert tuple(one.shape[1] for one in maps) == encoder.map_widths
    if encoder.has_tokens:
        assert maps[0].shape[2] == 12
    else:
        assert [one.shape[2] for one in maps] == [12, 6, 3][: len(maps)]
    assert torch.equal(maps[0][1, :, 0], maps[0][1, :, 3])  # of three words each has four places
    assert not torch.equal(maps[0][1, :, 3], maps[0][1, :, 4])


def test_pieces_hold_words_of_short_texts_too(encoder):
    view = batch(12, 2, 8)
    pieces = encoder.pieces(view)
    assert pieces.shape[:2] == (3, 7) and (pieces[..., 0] != 0).all()
    of_eight = [[int(i) for i in piece if i] for piece in pieces[2]]
    assert of_eight == [view[2, k : k + 2].tolist() for k in range(7)]  # a quarter of 8, half over the next
    assert encoder(pieces.flatten(0, 1)).isfinite().all()
    with pytest.raises(UserError, match=r"too short to cut into pieces"):
        encoder.pieces(view[:, :6])


def test_a_bag_is_the_mean_of_its_words_in_any_order(stats):
    torch.manual_seed(0)
    bag = text.make_encoder(TINY_BAG, 12, stats)
    view, words = batch(12, 5), bag.trunk.words.weight
    expected = torch.stack([words[row[row != 0].long()].mean(0) for row in view])
    torch.testing.assert_close(bag.eval()(view), expected)
    torch.testing.assert_close(bag(view[:1].flip(1)), expected[:1])
    assert bag.dim == 32 and not bag.has_tokens and not bag.has_words


def test_a_bag_in_training_is_the_mean_of_half_of_its_words_and_never_of_none(stats):
    torch.manual_seed(0)
    bag = text.make_encoder(TINY_BAG, 12, stats).train()
    with torch.no_grad():
        bag.trunk.words.weight[1:] = 0
        bag.trunk.words.weight[7] = 1
        bag.trunk.words.weight[8] = -1
    of_one, of_two = torch.full((2000, 12), 7).int(), torch.tensor([7, 8]).repeat(4000, 6).int()
    torch.testing.assert_close(bag(of_one), torch.ones(2000, 32))  # however many stay, their mean is theirs
    short = of_one * (torch.arange(12) < 1)
    torch.testing.assert_close(bag(short), torch.ones(2000, 32))
    spread = bag(of_two)[:, 0]
    assert spread.mean().abs() < 0.05
    # The mean of k of the 12 signs has variance (12 - k) / (11 k); k is binomial.
    k = torch.arange(1, 13).double()
    chance = torch.tensor([924, 792, 495, 220, 66, 12, 1]).double()
    share = torch.cat([chance[1:].flip(0)[1:], chance]) / 4096
    assert spread.var().item() == pytest.approx(float((share * (12 - k) / (11 * k)).sum()), rel=0.15)
    assert (bag(torch.zeros(3, 12, dtype=torch.int32)) == 0).all()  # of no words


def test_a_cpu_takes_a_bag_unless_the_method_needs_tokens_or_words():
    assert text.default_encoder(32, False) == text.encoder_for(("pieces", "maps"), 32, False)[0] == "bag-small"
    assert text.encoder_for((), 32, False)[1] == "averaged word vectors, for short runs"
    for need in ("tokens", "words"):
        assert text.encoder_for((need,), 32, False)[0] == "bert-tiny"
    assert text.default_encoder(32, True) == text.encoder_for(("words",), 32, True)[0] == "bert-small"


@pytest.mark.parametrize(("method", "network"), [("simclr", "bag-small"), ("maskedwords", "bert-tiny")])
def test_the_plan_of_a_run_says_which_network_was_taken_and_why(tmp_path, method, network):
    run = Deciding(Pretrain(data=make(tmp_path, 24), method=method, device="cpu"))
    run.opened()
    encoder = run.decided()
    reason = text.encoder_for(methods.load(method).needs, 32, False)[1]
    assert (run.name, encoder.spec["name"]) == (network, network) and run.why_encoder(encoder).endswith(f"; {reason}")


def test_words_of_one_kind_come_together_where_a_bag_is_compared_without_a_head(source, stats):
    """Waves and sails stand in texts of one kind, onions in others: nothing says so but that."""
    torch.manual_seed(0)
    learner = SimCLR(layers=0).build(text.make_encoder(TINY_BAG, 16, stats))
    assert {name for name, _ in learner.named_parameters()} == {"encoder.trunk.words.weight"}
    ids = source.codec.padded([source.read(i) for i in range(64)], 16)
    kinds = torch.arange(64) % 2
    view, optimizer = torch.from_numpy(ids), torch.optim.AdamW(learner.parameters(), 4e-3)

    def apart() -> float:
        with torch.no_grad(), at_rest(learner):
            v = nn.functional.normalize(learner.encoder(view) - learner.encoder(view).mean(0), dim=1)
        same = kinds[:, None] == kinds
        return float((v @ v.T)[same].mean() - (v @ v.T)[~same].mean())

    before = apart()
    for _ in range(60):
        optimizer.zero_grad()
        learner([view, view]).loss.backward()
        optimizer.step()
    assert apart() > 1.5 * before > 0


# Tokens --------------------------------------------------------------------------------------------------------------


def test_places_belong_to_tokens_in_equal_shares():
    assert owners(batch(12, 4, 5)).tolist() == [
        list(range(12)),
        [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3],
        [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4],
    ]


def test_tokens_of_a_full_row_are_those_of_its_places(transformer):
    view = batch(12, 6)
    vector, tokens = transformer.both(view)
    words = transformer.word_tokens(view)
    assert torch.equal(vector, transformer(view)) and transformer.grid(view) == (12,)
    assert torch.equal(tokens[0], words[0]) and torch.equal(tokens[1, ::2], words[1, :6])
    assert (words[1, 6:] == 0).all()
    torch.testing.assert_close(tokens.mean(1), vector)  # 12 places of 6 words: each has two
    layers = transformer.last_layers(view, 2)
    assert len(layers) == 2 and torch.equal(layers[-1], tokens)


def test_what_is_not_kept_is_not_seen(transformer):
    view = batch(12, 12)
    keep = torch.tensor([[7, 2, 5], [0, 1, 11]])
    vector, tokens = transformer.both(view, keep=keep)
    other = torch.where(torch.zeros_like(view).bool().scatter(1, keep, True), view, 1 + (view + 5) % 299)
    again, same = transformer.both(other.int(), keep=keep)
    torch.testing.assert_close(again, vector)
    torch.testing.assert_close(same, tokens)
    assert tokens.shape == (2, 3, transformer.dim)
    _, turned = transformer.both(view, keep=keep.flip(1))
    torch.testing.assert_close(turned.flip(1), tokens)
    everything = torch.arange(12).expand(2, -1)
    torch.testing.assert_close(transformer.both(view, keep=everything)[1], transformer.tokens(view))


def test_keeping_places_of_a_short_text_keeps_its_words(transformer):
    view = batch(3)
    _, tokens = transformer.both(view, keep=torch.tensor([[10, 11]]))  # both belong to the last of three words
    assert torch.equal(tokens[0, 0], tokens[0, 1])
    other = view.clone()
    other[0, :2] = 9
    torch.testing.assert_close(transformer.both(other, keep=torch.tensor([[10, 11]]))[1], tokens)


def test_hidden_words_are_not_seen_and_padding_is_never_hidden(transformer):
    view = batch(12, 4)
    where = torch.zeros(2, 12, dtype=torch.bool)
    where[:, 5] = True  # in the second row a place of its second word
    stand_in = torch.randn(transformer.dim)
    vector, tokens = transformer.both(view, hide=Hidden(where, stand_in))
    other = view.clone()
    other[0, 5], other[1, 1] = 9, 9
    again, same = transformer.both(other, hide=Hidden(where, stand_in))
    assert torch.equal(again, vector) and torch.equal(same, tokens)
    assert (transformer.tokens(view) - tokens).abs().amax(dim=(1, 2)).min() > 1e-3
    with pytest.raises(UserError, match=r"hide.where has shape \[2, 3\]; the view has \[2, 12\]"):
        transformer.both(view, hide=Hidden(where[:, :3], stand_in))
    with pytest.raises(UserError, match=r"keep has shape"):
        transformer.both(view, keep=torch.zeros(1, 3, dtype=torch.long))


def test_word_places_hide_places_of_the_view_themselves(transformer):
    view = batch(12, 4)
    where = torch.zeros(2, 12, dtype=torch.bool)
    where[:, 2] = True
    tokens = transformer.word_tokens(view, hide=Hidden(where, torch.zeros(transformer.dim)))
    other = view.clone()
    other[:, 2] = 9
    assert torch.equal(transformer.word_tokens(other, hide=Hidden(where, torch.zeros(transformer.dim))), tokens)
    assert torch.equal(transformer.word_places(view), view != 0)
    assert transformer.word_vectors.shape == (transformer.vocabulary, transformer.dim)
    assert transformer.embedding.weight is transformer.word_vectors


def test_a_causal_network_sees_nothing_behind_and_stays_so(stats, tmp_path):
    torch.manual_seed(0)
    encoder = text.make_encoder(f"{TINY_TOKENS}:class", 12, stats).eval()
    encoder.use_causal()
    view = batch(12, 7)
    for place in range(1, 12):
        other = view.clone()
        other[0, place] = 1 + (other[0, place] + 3) % 299
        one, two = encoder.word_tokens(view)[0], encoder.word_tokens(other)[0]
        torch.testing.assert_close(one[:place], two[:place])
        assert (one[place] - two[place]).abs().max() > 1e-4
    torch.testing.assert_close(encoder(view)[1], encoder.word_tokens(view)[1, :7].mean(0))
    text.save_encoder(encoder, tmp_path)
    assert torch.equal(text.load_encoder(tmp_path)(view), encoder(view))


def test_a_class_token_can_be_given_up(stats, tmp_path):
    torch.manual_seed(0)
    encoder = text.make_encoder(f"{TINY_TOKENS}:class", 12, stats).eval()
    view = batch(12, 7)
    assert not torch.allclose(encoder(view), encoder.both(view)[1].mean(1))
    encoder.average_tokens()
    torch.testing.assert_close(encoder(view)[0], encoder.tokens(view)[0].mean(0))
    assert not any("class_token" in name for name, _ in encoder.named_parameters())
    text.save_encoder(encoder, tmp_path)
    assert torch.equal(text.load_encoder(tmp_path)(view), encoder(view))


# Wrong use -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (torch.ones(12, dtype=torch.int32), r"accepted is a batch \[b, n\]. It looks like one text"),
        (torch.ones(2, 12), r"got tokens of torch.float32; accepted are whole numbers"),
        (torch.ones(2, 12, dtype=torch.bool), r"got tokens of torch.bool"),
        (torch.full((2, 12), 10**6), r"this encoder knows 0 to \d+. They must come from its own tokenizer"),
        (torch.full((2, 12), -1), r"got tokens from -1"),
    ],
)
def test_wrong_tokens_are_refused(encoder, view, reason):
    with pytest.raises(UserError, match=reason):
        encoder(view)


def test_longer_texts_than_it_has_positions_for_are_refused(transformer, stats):
    with pytest.raises(UserError, match=r"got texts of 13 tokens; .* takes up to 12"):
        transformer(torch.ones(1, 13, dtype=torch.int32))
    assert text.make_encoder(TINY, 12, stats).eval()(torch.ones(1, 40, dtype=torch.int32)).isfinite().all()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bert-tinny", r"unknown encoder 'bert-tinny'. Did you mean 'bert-tiny'"),
        ("resnet18", r"unknown encoder 'resnet18'.*conv-mini"),
        ("bert-tiny@0", r"the factor of the width is 0; give one from 0.1 to 4"),
        ("bert-tiny@1.2.3", r"the factor of the width is 1.2.3"),
        ("conv-tiny:class", r"a convolutional net has no class token"),
        ("bag-tiny:class", r"averaged word vectors have no class token"),
        ("nowhere:net", r"No module named 'nowhere'"),
        ("./nowhere", r"--encoder ./nowhere: .*tokenizer"),
    ],
)
def test_unknown_names_are_refused(stats, name, reason):
    with pytest.raises(UserError, match=reason):
        text.make_encoder(name, 12, stats)


class Own(nn.Module):
    def __init__(self, tokens: bool = False) -> None:
        super().__init__()
        self.words, self.tokens = nn.Embedding(2000, 6), tokens

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.words(ids) if self.tokens else self.words(ids).sum(1)


def test_a_module_of_ones_own_serves_as_an_encoder(stats, tmp_path):
    for tokens in (False, True):
        module = Own(tokens)
        encoder = text.own_encoder(module, 12, stats).eval()
        assert encoder(batch(12, 3)).shape == (2, 6) and not encoder.has_tokens and not encoder.has_maps
        text.save_encoder(encoder, tmp_path)
        with pytest.raises(UserError, match=r"Make the module and pass it"):
            text.load_encoder(tmp_path)
        assert torch.equal(text.load_encoder(tmp_path, Own(tokens))(batch(12, 3)), encoder(batch(12, 3)))
    torch.testing.assert_close(encoder(batch(3)), module.words(batch(3)[:, :3]).mean(1))
    with pytest.raises(UserError, match=r"an encoder needs \[b d\] or \[b n d\]"):
        text.own_encoder(nn.Sequential(nn.Embedding(2000, 6), nn.Flatten(0)), 12, stats)
    with pytest.raises(TypeError, match=r"has no tokens. Choose a transformer"):
        encoder.tokens(batch(3))
    with pytest.raises(TypeError, match=r"has no maps"):
        encoder.maps(batch(3))


# Weights -------------------------------------------------------------------------------------------------------------


def test_weights_of_a_run_are_taken_where_the_tokenizer_is_the_same(stats, tmp_path):
    first = text.make_encoder(TINY_TOKENS, 12, stats).eval()
    text.save_encoder(first, tmp_path)
    file = str(tmp_path / "encoder.safetensors")
    again = text.make_encoder(TINY_TOKENS, 12, stats, file).eval()
    assert torch.equal(again(batch(12, 4)), first(batch(12, 4))) and again.spec["weights"]["missing"] == []
    with pytest.raises(UserError, match=r"another tokenizer, .* --reading.tokenizer"):
        text.make_encoder(TINY_TOKENS, 12, stats.changed(tokenizer=stats.tokenizer + " "), file)
    with pytest.raises(UserError, match=r"only \d+ of the \d+ tensors"):
        text.make_encoder("bert-tiny", 12, stats, file)
    with pytest.raises(UserError, match=r"no weights at"):
        text.make_encoder(TINY_TOKENS, 12, stats, str(tmp_path / "none.safetensors"))


@pytest.fixture
def folder(tmp_path):
    """A network of another kind with its tokenizer, as a hub would give it."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "wave", "and", "gull"]
    words = {word: number for number, word in enumerate(known)}
    made = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    pairs = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=pairs)
    made.save(str(tmp_path / "tokenizer.json"))
    sizes = {"vocab_size": 8, "dim": 16, "n_heads": 2, "n_layers": 2, "hidden_dim": 32, "max_position_embeddings": 16}
    config = transformers.DistilBertConfig(**sizes)
    transformers.DistilBertModel(config).save_pretrained(tmp_path)
    return tmp_path


def test_a_local_network_is_used_with_its_own_tokenizer(folder, lines):
    import transformers

    path = lines("the wave and the gull\nthe gull\n", "texts/a.txt")
    source = text.open_source(path, reading={"tokenizer": str(folder)})
    stats, _ = text.measure(source)
    source.fit(stats)
    encoder = text.make_encoder(str(folder), 8, stats).eval()
    assert encoder.dim == 16 and encoder.has_tokens and encoder.has_words
    ids = torch.tensor(source.codec.padded([source.read(0), source.read(1)], 8))
    theirs = transformers.DistilBertModel.from_pretrained(folder).eval()
    out = theirs(input_ids=ids.long(), attention_mask=(ids != 0).long()).last_hidden_state
    weight = (ids != 0).float()[..., None]
    torch.testing.assert_close(encoder(ids), (out * weight).sum(1) / weight.sum(1), atol=1e-5, rtol=1e-4)
    assert encoder.word_places(ids)[1].tolist() == [False, True, True, False, False, False, False, False]
    text.save_encoder(encoder, folder / "run")
    assert torch.equal(text.load_encoder(folder / "run")(ids), encoder(ids))
    assert "auto_map" not in json.loads((folder / "run" / "encoder.json").read_text())["config"]


def test_a_local_network_needs_its_tokenizer_and_its_files(folder, stats):
    with pytest.raises(UserError, match=r"needs the tokenizer that it was trained with"):
        text.make_encoder(str(folder), 8, stats)
    given = stats.changed(given=True)
    with pytest.raises(UserError, match=r"knows 8 words, and the tokenizer has [\d,]+: they do not belong together"):
        text.make_encoder(str(folder), 8, given)
    small = given.changed(vocabulary=8)
    with pytest.raises(UserError, match=r"takes texts of up to 16 tokens, and views have 32"):
        text.make_encoder(str(folder), 32, small)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model.safetensors is missing"):
        text.make_encoder(str(folder), 8, small)


def test_code_of_a_folder_is_never_run(folder, lines):
    """A configuration may name Python of the folder: it must stay text."""
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    source = text.open_source(lines("the wave\nthe gull\n", "texts/a.txt"), reading={"tokenizer": str(folder)})
    stats, _ = text.measure(source)
    encoder = text.make_encoder(str(folder), 8, stats)
    assert encoder.dim == 16 and not (folder / "ran").exists()


def test_a_saved_encoder_that_names_code_or_an_unknown_network_is_refused(folder, lines, tmp_path):
    source = text.open_source(lines("the wave\nthe gull\n", "texts/a.txt"), reading={"tokenizer": str(folder)})
    encoder = text.make_encoder(str(folder), 8, text.measure(source)[0])
    for odd, reason in (
        ({"auto_map": {"AutoModel": "evil.Model"}}, r"names code of its own \(auto_map\), which is never run"),
        ({"model_type": "evil"}, r"has no network of the type 'evil'"),
    ):
        spec = {**encoder.spec, "config": {**encoder.spec["config"], **odd}}
        with pytest.raises(UserError, match=reason):
            text.build_encoder(spec)


def test_without_the_package_the_error_names_the_installation(monkeypatch, stats):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'selfsame\[text\]'"):
        text.make_encoder("bert-tiny", 12, stats)
    assert text.make_encoder("conv-tiny", 12, stats).dim == 128


@pytest.mark.parametrize(("to", "name"), [("onnx", TINY_TOKENS), ("torch", TINY_BAG)])
def test_exports_give_the_same_vectors(stats, tmp_path, to, name):
    if to == "onnx":
        pytest.importorskip("onnxruntime"), pytest.importorskip("onnxscript")
    encoder = text.make_encoder(name, 12, stats).eval()
    facts = text.export(encoder, to, tmp_path / "it")
    assert facts["difference"] < 1e-4 and facts["dim"] == encoder.dim
    names = {}
    exec(facts["tokens_of"], names)
    assert names["tokens"].shape == (2, 12) and names["tokens"].dtype == torch.int32
    assert len(facts["files"]) == 3
