"""The model card of a run: README.md beside the weights, in GitHub's Markdown. Every figure in it comes from a record.

Source of the form: Mitchell et al. 2019, "Model Cards for Model Reporting", arXiv 1810.03993.
Raises: UserError where the file cannot be written.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfsame.engine.health import ADVICE, Verdict
from selfsame.engine.state import write_text
from selfsame.report.scores import Row, cell, markdown_table, scores_markdown

__all__ = ["write_card", "write_task_card"]

Pairs = Mapping[str, Any] | Sequence[tuple[str, Any]]

LIMITS = (
    "It learned what its data show. On items of another kind measure it before you rely on it.",
    "It was trained without labels: only labelled items can tell whether it sees the differences your task needs.",
    "Biases of the data are in the vectors too. Look at the neighbours in report.html before you decide about people.",
)


def write_card(
    folder: Path,
    *,
    title: str,
    encoder: Pairs,
    data: Pairs,
    method: Pairs,
    training: Pairs,
    command: str,
    verdict: Verdict,
    numbers: Sequence[Row] | None = None,
    measured_on: str = "",
    versions: Pairs = (),
    limits: Sequence[str] = (),
) -> Path:
    """Write `folder`/README.md, whole or not at all, and return its path.

    The pairs are (name, value), shown in their order: `encoder` its name, width and input; `data` the path, items,
    size, mean and std; `method` its name and settings; `training` steps, time, machine and seed. `command` is the
    line that makes the run again, `verdict` a key of `health.ADVICE`; `limits` are sentences beside the general ones.
    """
    load = f"import selfsame as ss\n\nencoder = ss.load({_quoted(str(folder))})  # a torch.nn.Module: [b ...] -> [b d]"
    evaluate = f"selfsame evaluate {shlex.quote(str(folder))} LABELLED"
    measured = (
        f"{cell(measured_on)} Each score stands beside random weights and raw input, measured in the same way.\n\n"
        + scores_markdown(numbers)
        if numbers
        else "Not measured against labels yet. To measure it beside random weights and raw input:\n\n"
        + _fenced("sh", evaluate)
    )
    sections = [
        ("Load it", _fenced("python", load) + "\n\nIt normalises its input itself: give it items as they are read."),
        ("Encoder", _table(encoder)),
        ("Data", _table(data)),
        ("Method", _table(method)),
        ("Training", _table(training) + "\n\n" + _fenced("sh", command)),
        ("Health", f"**{cell(verdict[:1].upper() + verdict[1:])}.** {cell(ADVICE.get(verdict, ''))}".strip()),
        ("Numbers", measured),
        ("Versions", _table(versions)),
        ("Limits", "\n".join(f"- {cell(limit)}" for limit in (*limits, *LIMITS))),
        ("Licence", "The code of selfsame is under Apache-2.0. The weights belong to whoever trained them."),
    ]
    body = "\n\n".join(f"## {name}\n\n{text}" for name, text in sections if text)
    opening = "An encoder trained without labels by selfsame: it maps an item to a vector. Its pictures: report.html."
    text = f"# {cell(title)}\n\n{opening}\n\n{body}\n"
    path = folder / "README.md"
    # File names that are no UTF-8 reach Python with lone surrogates, which no file can hold.
    write_text(path, text.encode("utf-8", "replace").decode("utf-8"))
    return path


def write_task_card(
    folder: Path,
    *,
    title: str,
    task: Pairs,
    data: Pairs,
    training: Pairs,
    scores: Pairs,
    measured: str,
    command: str,
    versions: Pairs = (),
) -> Path:
    """The card of a task run: what it says of an item, what it learned from, how well it does. See `write_card`."""
    place = _quoted(str(folder))
    use = (
        f"import selfsame as ss\n\nfound = ss.predict({place}, PATH)  # [(name, prediction), ...]\n"
        f"encoder = ss.load({place})  # the encoder alone, as it was adapted"
    )
    sections = [
        ("Use it", _fenced("sh", f"selfsame predict {shlex.quote(str(folder))} PATH --out OUT")),
        ("", _fenced("python", use)),
        ("Task", _table(task)),
        ("Data", _table(data)),
        ("Training", _table(training) + "\n\n" + _fenced("sh", command)),
        ("Scores", f"{cell(measured)}\n\n{_table(scores)}"),
        ("Versions", _table(versions)),
        ("Limits", "\n".join(f"- {cell(limit)}" for limit in (LIMITS[0], LIMITS[2]))),
        ("Licence", "The code of selfsame is under Apache-2.0. The weights belong to whoever trained them."),
    ]
    body = "\n\n".join(f"## {name}\n\n{text}" if name else text for name, text in sections if text)
    text = f"# {cell(title)}\n\nAn encoder and a head for a task, made by selfsame. Pictures: report.html.\n\n{body}\n"
    path = folder / "README.md"
    write_text(path, text.encode("utf-8", "replace").decode("utf-8"))
    return path


def _table(pairs: Pairs) -> str:
    rows = list(dict(pairs).items())
    return markdown_table(["", ""], rows) if rows else ""


def _fenced(language: str, text: str) -> str:
    """A code block whose fence is longer than any run of backticks in it."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}{language}\n{text}\n{fence}"


def _quoted(text: str) -> str:
    """A Python string literal in double quotes, as the formatter writes it."""
    return repr(text) if '"' in text or "\\" in text or "'" in text or not text.isprintable() else f'"{text}"'
