"""What the pages of docs/ are made from: results of the scripts, as they are stored, and tables and plots of them."""

import json
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results"
DOCS = HERE.parent / "docs"


def read(name: str) -> dict | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def table(head: list[str], rows: list[list[object]]) -> list[str]:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines] + [""]


def noted(result: dict) -> list[str]:
    return [f"{result['note']}\n"] if "note" in result else []


def spread(mean: float, std: float | None) -> str:
    return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"


def plot(name: str, says: str) -> list[str]:
    path = DOCS / f"speed-{name}.svg"
    return [f"![{says}]({path.name})\n"] if path.exists() else []
