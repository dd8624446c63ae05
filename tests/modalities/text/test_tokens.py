"""The tokenizer: trained alike each time, its size by the text, a local one checked."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from selfsame.errors import UserError
from selfsame.modalities import text
from selfsame.modalities.text.tokens import Codec, trained, vocabulary_for

TEXTS = [f"The wave {k} and the gull met near the harbour, number {k * k}." for k in range(200)]
ODD = ["", "日本語 and ünïcode", "tab\tand\nline", "🙂🙃", "a" * 50, "\x00\x01", "[PAD] is a word"]


def test_the_same_texts_give_the_same_tokenizer_in_any_process(tmp_path):
    here = trained(TEXTS, 400, True)
    assert here == trained(iter(TEXTS), 400, True)
    code = (
        "import json, sys; from selfsame.modalities.text.tokens import trained;"
        "sys.stdout.write(trained(json.load(open(sys.argv[1])), 400, True))"
    )
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    run = [sys.executable, "-c", code, str(tmp_path / "texts.json")]
    there = subprocess.run(run, capture_output=True, text=True, check=True, env=seeded())
    assert there.stdout == here


def seeded():
    import os

    return {**os.environ, "PYTHONHASHSEED": "123", "PYTHONPATH": str(Path(text.__file__).parents[3])}


def test_any_text_goes_to_tokens_and_back_without_loss():
    codec = Codec(trained(TEXTS, 400, False))
    for one in (*TEXTS[:3], *ODD):
        assert codec.text_of(codec.ids(one, 1000)) == one.strip()
    assert all(0 not in codec.ids(one, 1000) for one in TEXTS[:3])  # padding is no text
    assert codec.vocabulary == 400 and codec.specials == [0]
    lower = Codec(trained(TEXTS, 400, True))
    assert lower.text_of(lower.ids("The WAVE", 9)) == "the wave"


def test_rows_are_filled_up_with_zeros():
    codec = Codec(trained(TEXTS, 400, True))
    out = codec.padded(["the wave", TEXTS[0]], 6)
    assert out.shape == (2, 6) and out[0].tolist() == [
        *codec.ids("the wave", 6),
        *[0] * (6 - len(codec.ids("the wave", 6))),
    ]
    assert (out[1] != 0).all()


def test_the_vocabulary_grows_with_the_root_of_the_text():
    assert vocabulary_for(100) == 512 and vocabulary_for(10**12) == 32_768
    assert vocabulary_for(1_000_000) == 8000 and vocabulary_for(4_000_000) == 16_000


def test_a_local_tokenizer_is_used_and_must_pad_with_0(tmp_path, lines):
    tk = pytest.importorskip("tokenizers")
    made = tk.Tokenizer(
        tk.models.WordPiece({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "wave": 4, "gull": 5}, unk_token="[UNK]")
    )
    made.pre_tokenizer = tk.pre_tokenizers.Whitespace()
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    made.post_processor = tk.processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.save(str(tmp_path / "tokenizer.json"))
    path = lines("wave gull wave\ngull\n")
    for given in (str(tmp_path), str(tmp_path / "tokenizer.json")):
        source = text.open_source(path, reading={"tokenizer": given})
        stats, _ = text.measure(source)
        source.fit(stats)
        assert stats.given and stats.vocabulary == 6 and stats.specials == (0, 1, 2, 3)
        assert source.codec.ids("wave gull", 9) == [2, 4, 5, 3]
    bad = tk.Tokenizer(tk.models.WordLevel({"<s>": 0, "<pad>": 1, "wave": 2}, unk_token="<s>"))
    bad.save(str(tmp_path / "roberta.json"))
    with pytest.raises(UserError, match=r"number 0 must be its padding token, as BERT's .* this one has 1"):
        text.measure(text.open_source(path, reading={"tokenizer": str(tmp_path / "roberta.json")}))
    (tmp_path / "none.json").write_text("{}")
    with pytest.raises(UserError, match=r"this is no tokenizer"):
        text.measure(text.open_source(path, reading={"tokenizer": str(tmp_path / "none.json")}))
    with pytest.raises(UserError, match=r"Give a local tokenizer.json"):
        text.measure(text.open_source(path, reading={"tokenizer": "bert-base-uncased"}))


def test_without_the_package_the_error_names_the_installation(monkeypatch, lines):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(
        UserError, match=r"text needs the package tokenizers. Install it with: pip install 'selfsame\[text\]'"
    ):
        text.measure(text.open_source(lines("a wave\nanother wave\n")))


def test_statistics_go_through_json_and_hide_their_tokenizer_from_the_line_of_the_plan(stats):
    assert text.Stats.model_validate(json.loads(stats.model_dump_json())) == stats
    assert len(stats.summary) < 200 and "merges" not in stats.summary
    assert text.default_size(stats, large=False) % 8 == 0 and text.size_told(16, stats) == "16 tokens"
    long = stats.changed(lengths=(9, 99, 200, 900, 9000))
    assert (text.default_size(long, False), text.default_size(long, True)) == (128, 256)
