"""A sixth modality is one module of the user's own: the example of docs/modality.md, in a folder of its own."""

import json
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import selfsame as ss
from selfsame import methods
from selfsame.cli import main
from selfsame.types import Modality
from tests.test_contracts import PROMISED

EXAMPLE = Path(__file__).parents[1] / "examples" / "dna.py"


@pytest.fixture
def genes(tmp_path, monkeypatch) -> Path:
    """The example copied to a folder on the import path, and a file of sequences of two kinds."""
    (tmp_path / "code").mkdir()
    shutil.copy(EXAMPLE, tmp_path / "code" / "dna.py")
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    draw = random.Random(0)
    with (tmp_path / "genes.fasta").open("w") as file:
        for k in range(40):
            words = ["ACG", "TTA", "GGC"] if k % 2 else ["CAT", "TGA", "AAC"]
            file.write(f">gene{k} {'odd' if k % 2 else 'even'}\n{''.join(draw.choices(words, k=20))}\n")
        file.write(">short odd\nAC\n")
    yield tmp_path / "genes.fasta"
    sys.modules.pop("dna", None)


def test_it_has_all_names_of_the_protocol(genes):
    import dna

    assert [name for name in sorted(PROMISED) if not hasattr(dna, name)] == [] and isinstance(dna, Modality)


def test_every_command_takes_it(genes, tmp_path, capsys):
    out = tmp_path / "run"
    small = ["--modality", "dna", "--batch-size", "8", "--workers", "0", "--precision", "fp32", "--max-skipped", "0.1"]
    assert main(["pretrain", str(genes), "--out", str(out), *small, "--epochs", "4", "--reading.least", "10"]) == 0
    assert "short" in (out / "skipped.csv").read_text() and "10 are asked for" in (out / "skipped.csv").read_text()
    assert main(["evaluate", str(out), str(genes), "--seeds", "1", "--max-skipped", "0.1"]) == 0
    assert json.loads((out / "evaluation.json").read_text())["raw"] == "shares of words of three letters"
    assert main(["embed", str(out), str(genes), "--out", str(tmp_path / "v.npy"), "--max-skipped", "0.1"]) == 0
    assert np.load(tmp_path / "v.npy").shape == (40, ss.load(out).dim)
    assert (
        main(["views", str(genes), "--modality", "dna", "--out", str(tmp_path / "v.png"), "--max-skipped", "0.1"]) == 0
    )
    assert "item  " in (tmp_path / "v.txt").read_text() and "gene" in (out / "report.html").read_text()
    assert main(["export", str(out), "torch"]) == 0
    assert main(["pretrain", str(genes), "--modality", "dna", "--reading.most", "3"]) == 2
    assert "most" in capsys.readouterr().err


def test_every_method_that_needs_vectors_alone_learns_on_it(genes):
    import dna

    from selfsame.records import Budget, ViewPlan
    from selfsame.types import Draws

    source = dna.open_source(str(genes))
    stats, _ = dna.measure(source)
    views = dna.recipe("auto", 48, stats)
    for name in methods.names():
        kind = methods.load(name)
        if kind.needs:
            continue
        encoder = dna.make_encoder("cnn-8", 48, stats)
        method = kind().fitted(Budget(items=12, batch=12, steps=100, dim=encoder.dim))
        learner, plan = method.build(encoder, 12), method.plan
        if learner.surveys(0):
            plain = dna.sample(source, list(range(12)), ViewPlan(full=0, plain=1), views, Draws(0, 0, 12))
            with torch.no_grad():
                learner.survey([([plain[0]], torch.arange(12))])
        samples = dna.sample(source, list(range(12)), plan, views, Draws(0, 0, 12, stream=1))
        made = dna.make_views(samples, plan, views, stats, Draws(0, 0, 12, stream=2))
        loss = (learner(made, torch.arange(12)) if learner.by_item else learner(made)).loss
        loss.backward()
        assert loss.isfinite(), name
