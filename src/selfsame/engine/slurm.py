"""A process's place among others, where Slurm's srun has started it. Loads no torch.

srun tells its tasks who they are in words of its own; `take_seat` says the same in the words of torchrun, which all
else here reads. The tasks meet on the first host of the step, at a port that follows from the number of the step.
"""

import os
import re
from collections.abc import Mapping

from selfsame.errors import UserError

PORTS = 12000, 20000  # first, and how many: below those that systems hand out to programs (Linux: from 32768)


def take_seat() -> None:
    """Set RANK, WORLD_SIZE and the like from Slurm's words, in a task of a step of several; else do nothing.

    Raises UserError where Slurm's words are not what they should be.
    """
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        os.environ.update(seat(os.environ))


def seat(told: Mapping[str, str]) -> dict[str, str]:
    """torchrun's words for what srun tells a task; empty outside a step of several tasks.

    SLURM_STEP_NUM_TASKS is what tells a task from the batch script, which runs once, whatever --ntasks says.
    """
    try:
        count = int(told.get("SLURM_STEP_NUM_TASKS", 1))
        if count == 1 or "SLURM_PROCID" not in told:
            return {}
        rank, local = int(told["SLURM_PROCID"]), int(told["SLURM_LOCALID"])
        here = shares(told["SLURM_STEP_TASKS_PER_NODE"])[int(told["SLURM_NODEID"])]
        job, step = int(told["SLURM_JOB_ID"]), int(told["SLURM_STEP_ID"])
        host = first_host(told.get("SLURM_STEP_NODELIST") or told["SLURM_JOB_NODELIST"])
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(
            f"srun has started several tasks, but what it tells them cannot be read ({type(error).__name__}: {error}). "
            "Start them by torchrun, which needs no word of Slurm."
        ) from None
    start, span = PORTS
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_RANK": str(local),
        "LOCAL_WORLD_SIZE": str(here),
        "MASTER_ADDR": told.get("MASTER_ADDR", host),
        "MASTER_PORT": told.get("MASTER_PORT", str(start + (job + 1009 * step) % span)),
    }


def first_host(hosts: str) -> str:
    """The first name of a list in Slurm's short form: gpu[07-09,12],login1 begins with gpu07."""
    first = re.match(r"(?:[^,\[\]]|\[[^\[\]]+\])+", hosts)
    if first is None:
        raise ValueError(f"no list of hosts: {hosts!r}")
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0])


def shares(tasks: str) -> list[int]:
    """Tasks of each node in Slurm's short form: 4(x2),3 are 4, 4, 3."""
    found = [re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part) for part in tasks.split(",")]
    if not all(found):
        raise ValueError(f"no numbers of tasks: {tasks!r}")
    return [int(part[1]) for part in found if part for _ in range(int(part[2] or 1))]
