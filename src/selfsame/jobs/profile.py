"""Where the time goes: the steps of a training on the user's own data and machine, part by part."""

import tempfile
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from selfsame.jobs.checked import checked
from selfsame.jobs.pretrain import Pretrain, Training, path_of


class Profile(Training):
    """Say where the time of a training goes; nothing is kept but the pixel cache."""

    steps: Annotated[int, Field(ge=1, le=10_000)] = 10
    """steps that are timed, after two that are not"""

    def run(self) -> dict[str, Any]:
        """{"parts": {part: seconds of a step}, "reading": {part: seconds of an item}, ...}, shown as a table."""
        from selfsame.jobs.profiling import profiled

        given = self.model_dump(exclude={"steps"})
        with tempfile.TemporaryDirectory() as folder:
            job = checked(Pretrain, {**given, "method": self.method, "out": Path(folder) / "run"})
            return profiled(job, self.steps)


def profile(data: str | Path, **settings: Any) -> dict[str, Any]:
    """Say where the time of a training goes; settings are the fields of `Profile`."""
    return checked(Profile, {"data": path_of(data), **settings}).run()
