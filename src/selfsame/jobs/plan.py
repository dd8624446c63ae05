"""What a training would cost on other machines, before it is begun."""

import tempfile
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from selfsame.engine.cards import card_of
from selfsame.errors import UserError
from selfsame.jobs.checked import checked
from selfsame.jobs.pretrain import Pretrain, Training, path_of

OWN = ("gpus", "gpu", "items", "network")  # the fields that are not pretrain's
USUAL = "h100"


class Plan(Training):
    """Say what a training would cost in time, memory, network and disk; it is not begun."""

    gpus: Annotated[int, Field(ge=0, le=100_000)] = 0
    """how many; 0 for this machine as it is, measured"""
    gpu: str | None = None
    """which: a100, h100, h200, b200, mi300x, l40s, rtx4090, rtx3090 [h100]"""
    items: Annotated[int | None, Field(ge=4)] = None
    """as if there were so many items such as these"""
    network: Annotated[float | None, Field(gt=0)] = None
    """GB/s between servers, a GPU, one direction [that of the GPU's usual server]"""

    @field_validator("gpu")
    @classmethod
    def _gpu(cls, given: str | None) -> str | None:
        if given is not None:
            card_of(given)
        return given

    def run(self) -> dict[str, Any]:
        """The cost as one document, shown as a table. Raises UserError for what no machine could train."""
        from selfsame.jobs.planning import measured, priced_on

        odd = [f"--{name} {value}" for name in ("gpu", "network") if (value := getattr(self, name)) is not None]
        if odd and not self.gpus:
            raise UserError(f"{' '.join(odd)} needs --gpus N, how many; without, this machine is measured as it is.")
        given = self.model_dump(exclude=set(OWN))
        with tempfile.TemporaryDirectory() as folder:
            job = checked(Pretrain, {**given, "method": self.method, "out": Path(folder) / "run"})
            if not self.gpus:
                return measured(job, self.items)
            return priced_on(job, card_of(self.gpu or USUAL), self.gpus, self.items, self.network)


def plan(data: str | Path, **settings: Any) -> dict[str, Any]:
    """Say what a training would cost; settings are the fields of `Plan`."""
    return checked(Plan, {"data": path_of(data), **settings}).run()
