"""What a run says while it works: a progress line on stderr, log.jsonl always, TensorBoard if it is installed."""

import contextlib
import importlib.util
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from selfsame.engine import dist
from selfsame.engine.state import cannot_write, write_text

console = Console(stderr=True, highlight=False)


def counted(number: int, word: str, plural: str = "s") -> str:
    """As in: 1 item, 2,000 items, 3 processes."""
    return f"{number:,} {word}{plural if number != 1 else ''}"


def duration(seconds: float) -> str:
    """As in: 40 s, 12 min, 3.5 h, 2.1 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"


def say(text: str, style: str = "") -> None:
    """One line for the person watching. Only the first process speaks; stdout stays free for results."""
    if dist.first():
        console.print(text, style=style, markup=False, soft_wrap=True)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Under it nothing is said."""
    was, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = was


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log.jsonl; a last line cut short by a kill is left out."""
    rows = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                rows.append(json.loads(line))
    return rows


class Watch:
    """The log of one run. `row` adds a line; numbers that are not finite are written as null."""

    def __init__(self, folder: Path, steps: int, first: int, total_images: int) -> None:
        self.path = folder / "log.jsonl"
        self.steps = steps
        self.images = total_images  # items in one step, over all processes
        self.began, self.began_at = time.monotonic(), first
        self.board: Any = None
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        if dist.first():
            self._cut_back(first)
            if importlib.util.find_spec("tensorboard"):
                from torch.utils.tensorboard import SummaryWriter

                self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=first)

    def _cut_back(self, step: int) -> None:
        """Forget rows after the step a resumed run goes on from: they will be made again, the same.

        A run that begins anew keeps none: it looks at step 0 again.
        """
        kept = [row for row in read_log(self.path) if row.get("step", 0) <= step] if step else []
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    @contextlib.contextmanager
    def progress(self) -> Iterator[None]:
        """Show the bar while the block runs; it disappears with its end."""
        if not dist.first():
            yield
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as self.bar:
            self.task = self.bar.add_task("learning", total=self.steps, completed=self.began_at, note="")
            try:
                yield
            finally:
                self.bar = None
                if self.board is not None:
                    self.board.close()

    def tick(self, step: int) -> None:
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=step)

    def rate(self, step: int) -> float:
        """Items a second since this process began."""
        return (step - self.began_at) * self.images / max(1e-9, time.monotonic() - self.began)

    def row(self, step: int, **values: Any) -> None:
        if not dist.first():
            return
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        line = {"step": step, **{k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in clean.items()}}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        if self.board is not None:
            for name, value in clean.items():
                if isinstance(value, int | float):
                    self.board.add_scalar(name, value, step)
        if self.bar is not None and self.task is not None and "loss" in clean:
            loss, speed = clean["loss"], self.rate(step)
            shown = "loss nan" if loss is None else f"loss {loss:.3f}"
            health = self.bar.tasks[0].fields.get("health", "")
            self.bar.update(self.task, note=f"{shown}  {speed:,.0f} items/s  {health}")
        if self.bar is not None and self.task is not None and "verdict" in clean:
            self.bar.update(self.task, health=clean["verdict"])
            if not console.is_terminal:  # a log file has no bar: a line with each look at the health instead
                left = (self.steps - step) * self.images / max(1e-9, self.rate(step)) if step > self.began_at else None
                told = f", {duration(left)} left" if left is not None else ""
                say(f"step {step:,} of {self.steps:,}: {clean['verdict']}{told}")
