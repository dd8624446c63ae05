"""What the README shows works: its Python runs, and its commands are understood by the command line."""

import functools
import re
import shlex
from pathlib import Path

import pytest
import torch

import selfsame
from selfsame import cli
from tests.conftest import Tiny

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    lines = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("selfsame ")]


class Quick:
    """`selfsame`, with runs as short as they can be."""

    pretrain = staticmethod(functools.partial(selfsame.pretrain, epochs=0.3, encoder="tests.nets:tiny", batch_size=8))

    def __getattr__(self, name: str) -> object:
        return getattr(selfsame, name)


def test_the_python_of_the_readme_runs(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to(pictures)
    space = {"my_module": Tiny().body, "views": [torch.rand(8, 3, 96, 96), torch.rand(8, 3, 96, 96)]}
    assert len(blocks("python")) == 2
    for block in blocks("python"):
        exec(block.replace("import selfsame as ss", ""), space | {"ss": Quick()}, space)
    assert len(space["vectors"]) == 64
    assert space["loss"].isfinite()


@pytest.mark.parametrize("line", commands())
def test_the_commands_of_the_readme_are_understood(line, monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "carry_out", lambda name, function, given: seen.append((name, given)) or 0)
    words = shlex.split(line)[1:]
    assert cli.main(words) == 0
    assert seen[0][0] == words[0] and seen[0][1]


def test_the_readme_names_the_two_commands_of_the_makefile():
    makefile = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test"):
        assert f"make {target} " in README
        assert f"\n{target}:" in makefile
