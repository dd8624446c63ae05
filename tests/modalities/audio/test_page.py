"""What docs/audio.md shows runs, and what it names is there."""

import re
from pathlib import Path

import pytest
import torch

from selfsame.modalities.audio.reading import Reading
from selfsame.modalities.audio.recipes import View, recipes

PAGE = (Path(__file__).parents[3] / "docs" / "audio.md").read_text(encoding="utf-8")


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict = {}
    exec(code.replace("epochs=10", "epochs=1, workers=0"), names)
    encoder = names["encoder"]
    assert (tmp_path / "vectors.npy").exists() and (tmp_path / "run" / "report.html").exists()
    assert encoder(torch.zeros(1, 4000)).shape == (1, encoder.dim)


def test_its_tables_name_all_recipes_and_strengths() -> None:
    assert set(re.findall(r"^\| (\w+) \|.*\|.*\|.*\|$", PAGE, re.MULTILINE)) >= set(recipes())
    for field in View.model_fields:
        shown = field.replace("_", "-")
        assert f"`{shown}`" in PAGE or any(f"`{shown[: -len(end)]}`" in PAGE for end in ("-at", "-octaves", "-db")), (
            field
        )
    for field in Reading.model_fields:
        assert f"--reading.{field.replace('_', '-')}" in PAGE, field
