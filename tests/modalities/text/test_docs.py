"""What docs/text.md shows runs."""

import re
from pathlib import Path

import pytest

from selfsame import cli
from selfsame.modalities.text.recipes import recipes

PAGE = (Path(__file__).parents[3] / "docs" / "text.md").read_text(encoding="utf-8")


def test_the_python_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    space: dict = {}
    exec(block, space)
    assert space["vectors"].vectors.shape == (80, 32) and (tmp_path / "runs/texts/report/views.txt").exists()


def test_every_recipe_stands_on_the_page():
    for name in recipes():
        assert f"| {name} |" in PAGE


@pytest.mark.parametrize("flags", [["--reading.lower=false"], ["--reading.items", "lines", "--views", "words"]])
def test_the_flags_of_the_page_are_understood(tmp_path, monkeypatch, flags):
    from tests.modalities.text.made import make

    monkeypatch.chdir(tmp_path)
    assert cli.main(["views", make(tmp_path, 8), "--out", "v.png", *flags]) == 0
    assert "view 1" in (tmp_path / "v.txt").read_text()
