"""Folders for transformers: network and tokenizer, reloaded without a network connection."""

import socket

import pytest
import torch
from torch import nn

from selfsame.errors import UserError
from selfsame.modalities import text
from selfsame.modalities.text.tokens import Codec
from tests.modalities.text.made import TINY, TINY_TOKENS
from tests.modalities.text.test_encoder import batch

tf = pytest.importorskip("transformers")
TEXTS = ["the wave and the harbour", "nobody forgets", "a knife without a lemon is like a storm " * 5]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refused(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)


def encoder(stats, name=TINY_TOKENS, causal=False):
    torch.manual_seed(0)
    made = text.make_encoder(name, 12, stats).eval()
    if causal:
        made.use_causal()
    return made


@pytest.mark.parametrize(
    ("name", "causal"), [(TINY_TOKENS, False), (f"{TINY_TOKENS}:class", False), (TINY_TOKENS, True)]
)
def test_texts_have_the_same_vectors_there(stats, tmp_path, name, causal):
    """From the text on: by its own tokenizer and network, and by the encoder and what it was made with."""
    one = encoder(stats, name, causal)
    facts = text.export(one, "transformers", tmp_path / "hub")
    assert facts["difference"] <= 1e-5 and facts["class"] == "BertModel"
    with torch.no_grad():
        ours = one(torch.from_numpy(Codec(stats.tokenizer).padded(TEXTS, 12)))
        tokenizer = tf.AutoTokenizer.from_pretrained(tmp_path / "hub", local_files_only=True)
        model = tf.AutoModel.from_pretrained(tmp_path / "hub", local_files_only=True).eval()
        given = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
        states = model(**given).last_hidden_state
    there = given["attention_mask"][..., None]
    theirs = states[:, 0] if name.endswith(":class") else (states * there).sum(1) / there.sum(1)
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-4)
    assert model.config.is_decoder is causal


def test_its_snippets_run_as_they_are(stats, tmp_path):
    facts = text.export(encoder(stats, f"{TINY_TOKENS}:class"), "transformers", tmp_path / "hub")
    names: dict = {}
    exec(facts["snippet"], names)
    exec(facts["tokens_of"], names)
    assert names["vectors"].shape == (2, facts["dim"]) and names["tokens"].shape[0] == 2
    assert (names["tokens"][:, 0] == stats.vocabulary).all()  # the class token is the last word


def test_a_folder_that_it_wrote_is_a_network_to_start_from(stats, tmp_path):
    """What is exported can be trained further: it is loaded as any local folder is."""
    one = encoder(stats)
    text.export(one, "transformers", tmp_path / "hub")
    again = text.make_encoder(str(tmp_path / "hub"), 12, stats.changed(given=True)).eval()
    torch.testing.assert_close(again(batch(12, 5)), one(batch(12, 5)), atol=1e-5, rtol=1e-4)


def test_half_precision(stats, tmp_path):
    facts = text.export(encoder(stats), "transformers", tmp_path / "hub", half=True)
    assert 0.999 <= facts["cosine"] <= 1 and facts["difference"] > 1e-6
    assert tf.AutoModel.from_pretrained(tmp_path / "hub").dtype == torch.float16


@pytest.mark.parametrize(
    ("kind", "message"), [("conv", "no network of that library"), ("own", "a network of your own")]
)
def test_networks_of_others_are_refused(stats, tmp_path, kind, message):
    one = encoder(stats, TINY) if kind == "conv" else text.own_encoder(nn.Embedding(stats.vocabulary, 4), 12, stats)
    with pytest.raises(UserError, match=f"{message}.*onnx or torch"):
        text.export(one, "transformers", tmp_path / "hub")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [TINY, TINY_TOKENS])
def test_programs_of_any_size_give_maps_of_shorter_texts_too(stats, tmp_path, name):
    one = encoder(stats, name)
    facts = text.export(one, "torch", tmp_path / "it", maps=True, any_size=True)
    program = torch.export.load(facts["files"][0]).module()
    view = batch(8, 3, n=8)
    with torch.no_grad():
        vector, *maps = program(view)
    torch.testing.assert_close(vector, one(view), atol=1e-5, rtol=1e-4)
    for found, expected in zip(maps, one.maps(view), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match="--preprocessing is for images"):
        text.export(one, "torch", tmp_path / "it", preprocessing="hwc")
