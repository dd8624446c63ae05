import ast
import re
from pathlib import Path

import pytest

from selfsame.report.card import write_card
from selfsame.report.scores import cell


def written(folder: Path, **values) -> str:
    given = {
        "title": "photos",
        "encoder": {"name": "resnet18", "width": 512, "channels": 3},
        "data": {"path": "photos/", "items": 1797, "mean": [0.5], "std": [0.25]},
        "method": [("name", "byol"), ("momentum", 0.996)],
        "training": {"steps": 2000, "time": "1 h 4 min", "machine": "16 cores", "seed": 0},
        "command": "selfsame pretrain photos/ --out runs/photos",
        "verdict": "slow",
        "versions": {"torch": "2.8.0"},
        **values,
    }
    path = write_card(folder, **given)
    assert path == folder / "README.md"
    return path.read_text(encoding="utf-8")


def test_the_card_holds_what_the_records_say(tmp_path):
    card = written(tmp_path)
    for line in (
        "| width | 512 |",
        "| items | 1797 |",
        "| momentum | 0.996 |",
        "| time | 1 h 4 min |",
        "| torch | 2.8.0 |",
    ):
        assert line in card
    assert "```sh\nselfsame pretrain photos/ --out runs/photos\n```" in card
    assert "**Slow.** It does not yet tell items apart" in card
    assert "Apache-2.0" in card and "weights belong to whoever trained them" in card


@pytest.mark.parametrize("name", ["run", "my run", "it's", 'a "run"', "back\\slash", "three ``` ticks"])
def test_the_snippet_is_python_that_loads_this_folder(tmp_path, name):
    folder = tmp_path / name
    code = re.search(r"^(`{3,})python\n(.*?)\n\1$", written(folder), re.DOTALL | re.MULTILINE)
    assert code
    call = ast.parse(code[2]).body[1].value
    assert ast.unparse(call.func) == "ss.load" and call.args[0].value == str(folder)


def test_numbers_are_a_table_when_measured_and_a_command_when_not(tmp_path):
    assert f"selfsame evaluate {tmp_path} LABELLED" in written(tmp_path)
    rows = [
        {"features": "encoder", "protocol": "knn", "labels": "1%", "mean": 0.9, "std": 0.01, "seeds": 3},
        {"features": "raw pixels", "protocol": "knn", "labels": "1%", "mean": float("nan"), "std": None, "seeds": 3},
    ]
    card = written(tmp_path, numbers=rows)
    assert "| knn | 1% | encoder | 0.900 ± 0.010 | 3 |" in card and "| knn | 1% | raw pixels | – | 3 |" in card
    assert "LABELLED" not in card


def test_pipes_markup_and_newlines_stay_in_their_cell(tmp_path):
    card = written(tmp_path, data={"pa|th": "a|b\n| c | <script>`x`*"})
    row = next(line for line in card.splitlines() if line.startswith("| pa"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    assert "<script" not in card and r"\`x\`\*" in row


def test_plain_words_are_left_as_they_are():
    assert cell("items_per_second 0.5, photos/a-b.png") == "items_per_second 0.5, photos/a-b.png"
    assert cell("__init__") == r"\_\_init\_\_"


def test_a_sentence_of_limits_can_be_added(tmp_path):
    assert "- Pictures under 32 pixels were left out.\n" in written(
        tmp_path, limits=["Pictures under 32 pixels were left out."]
    )


def test_empty_sections_are_left_out(tmp_path):
    assert "## Versions" not in written(tmp_path, versions={})


def test_names_that_are_no_utf8_are_written_with_a_question_mark(tmp_path):
    assert "photos?/" in written(tmp_path, data={"path": "photos\udcff/"})
