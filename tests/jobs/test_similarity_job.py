"""`evaluate --protocols similarity` on made pairs."""

import json
import random
from pathlib import Path

import pytest
import torch

import selfsame as ss
from selfsame.errors import UserError
from tests.modalities.text.made import KINDS, TINY, labelled, make, sentence


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("similar")
    settings = {
        "epochs": 2,
        "batch_size": 16,
        "workers": 0,
        "encoder": TINY,
        "method": {"name": "simclr", "hidden": 16},
    }
    return ss.pretrain(make(folder, 64), modality="text", out=folder / "run", size=16, **settings)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    rng, rows = random.Random(3), []
    for k in range(40):
        kinds = (KINDS[k % 2], KINDS[(k // 2) % 2])
        rows.append(f'"{sentence(kinds[0], rng)}","{sentence(kinds[1], rng)}",{5.0 * (kinds[0] == kinds[1])}')
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    path.write_text("sentence1,sentence2,score\n" + "\n".join(rows) + "\n")
    return path


def test_pairs_are_measured_beside_random_weights_and_tf_idf(run, scored):
    rows = ss.evaluate(run, scored, labels="score", protocols="similarity", seeds=2)
    assert [row["features"] for row in rows] == ["encoder", "random", "raw"]
    assert [row["seeds"] for row in rows] == [1, 2, 1] and all(-1 <= row["mean"] <= 1 for row in rows)
    assert rows[2]["mean"] > 0.2  # words in common tell the kinds apart
    kept = json.loads((run.folder / "evaluation.json").read_text())
    assert kept["pairs"] == 40 and kept["raw"].startswith("TF-IDF") and len(kept["verdicts"]) == 2
    assert "40 pairs; Spearman" in (run.folder / "README.md").read_text()


def test_columns_of_other_names_are_named(run, scored, tmp_path):
    other = tmp_path / "p.csv"
    other.write_text(scored.read_text().replace("sentence1,sentence2,score", "left,right,likeness"))
    rows = ss.evaluate(run, other, labels="likeness", pairs="left,right", protocols="similarity", seeds=1)
    assert rows[0]["protocol"] == "similarity"
    with pytest.raises(UserError, match=r"unknown column in .*p.csv 'sentence1'"):
        ss.evaluate(run, other, labels="likeness", protocols="similarity")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"protocols": "similarity"}, r"needs --labels COLUMN"),
        ({"protocols": "similarity,knn", "labels": "score"}, r"similarity is measured on pairs"),
        ({"protocols": "similarity", "labels": "score", "pairs": "one"}, r"give the names of two columns"),
        ({"protocols": "similarity", "labels": "sentence2"}, r"must be numbers"),
    ],
)
def test_wrong_settings_are_refused(run, scored, settings, reason):
    with pytest.raises(UserError, match=reason):
        ss.evaluate(run, scored, **settings)


class Bag(torch.nn.Module):
    """The mean of word vectors."""

    def __init__(self, words):
        super().__init__()
        self.words = torch.nn.Embedding(words, 16)

    def forward(self, ids):
        return self.words(ids).mean(1)


def test_a_module_given_in_python_has_random_weights_beside_it(scored, tmp_path):
    settings = {"epochs": 1, "batch_size": 16, "workers": 0, "size": 16, "method": {"name": "simclr", "hidden": 16}}
    own = Bag(2000)
    trained = ss.pretrain(make(tmp_path, 64), modality="text", encoder=own, out=tmp_path / "run", **settings)
    rows = ss.evaluate(trained, scored, labels="score", protocols="similarity", seeds=2, encoder=own)
    assert [row["features"] for row in rows] == ["encoder", "random", "raw"]
    assert rows[1]["mean"] != rows[0]["mean"]


def test_a_row_of_another_width_is_skipped_not_a_class_or_a_score(run, scored, tmp_path):
    torn = tmp_path / "torn.csv"
    torn.write_text(scored.read_text() + "one,two,three,four\n")
    with pytest.raises(UserError, match=r"1 of 41 items .* cannot be read"):
        ss.evaluate(run, torn, labels="score", protocols="similarity", seeds=1)
    ss.evaluate(run, torn, labels="score", protocols="similarity", seeds=1, max_skipped=0.1)
    assert json.loads((run.folder / "evaluation.json").read_text())["pairs"] == 40

    path, column = labelled(tmp_path)
    with Path(path).open("a") as file:
        file.write("one,two,three,four\n")
    with pytest.raises(UserError, match=r"1 of 33 items .* cannot be read"):
        ss.evaluate(run, path, labels=column, protocols="knn", seeds=1)
    for test in ({}, {"test": path, "test_labels": column}):
        ss.evaluate(run, path, labels=column, protocols="knn", seeds=1, max_skipped=0.1, **test)
        found = json.loads((run.folder / "evaluation.json").read_text())
        assert found["classes"] == 2 and found["train"] + found["test"] == (64 if test else 32)


def test_a_column_of_labels_is_that_of_the_test_part_too(run, tmp_path):
    path, column = labelled(tmp_path / "train")
    test, _ = labelled(tmp_path / "test", 12)
    ss.evaluate(run, path, test=test, labels=column, protocols="knn", seeds=1)
    found = json.loads((run.folder / "evaluation.json").read_text())
    assert (found["train"], found["test"], found["classes"]) == (32, 12, 2)
    with pytest.raises(UserError, match="kinds"):
        ss.evaluate(run, path, test=test, labels=column, test_labels="kinds", protocols="knn", seeds=1)
