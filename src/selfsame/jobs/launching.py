"""Several processes on this machine for one job: how many, their start, their signals, how they ended.

Each process runs this file. It is a small torchrun that never restarts: one that is asked to stop may take as long as
saving takes (torchrun kills after 30 s), and errors and exit codes come back as those of one process.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as td
from torch import nn

from selfsame.engine import dist
from selfsame.engine.loop import Interrupted, stopping
from selfsame.engine.plan import cores
from selfsame.engine.state import write_text
from selfsame.engine.watch import say
from selfsame.errors import TrainingStopped, UserError
from selfsame.jobs.adapt import Adapt
from selfsame.jobs.checked import checked
from selfsame.jobs.pretrain import Pretrain

GRACE = 60  # seconds that the others have to end by themselves when one has failed
HERE = "127.0.0.1"
JOBS: dict[str, type[Pretrain] | type[Adapt]] = {"Pretrain": Pretrain, "Adapt": Adapt}
KINDS: dict[str, type[UserError]] = {"UserError": UserError, "TrainingStopped": TrainingStopped}


def processes_for(job: Pretrain | Adapt, module: nn.Module | None = None) -> int:
    """How many processes to start: as many as asked for, else one a GPU where there are several, else one.

    `module` is an encoder of the user's own. Raises UserError for more than the device can serve, and for several where
    the job cannot be handed to them.
    """
    gpus = torch.cuda.device_count() if job.device in ("auto", "cuda") and torch.cuda.is_available() else 0
    count = max(1, gpus) if job.processes is None else job.processes
    if count == 1:
        return 1
    if (why := unsendable(job, module)) is not None:
        if job.processes is None:
            say(f"one of {gpus} GPUs is used: {why}", "yellow")
            return 1
        raise UserError(f"--processes {count} cannot be started: {why}")
    if gpus and count > gpus:
        raise UserError(
            f"--processes {count}: each process takes a GPU of its own, and there are {gpus}. "
            f"Give at most {gpus}, or --device cpu."
        )
    if not gpus and (on := dist.device(job.device)).type != "cpu":
        raise UserError(f"--processes {count} cannot share the one device {on}. Leave it out, or give --device cpu.")
    return count


def unsendable(job: Pretrain | Adapt, module: nn.Module | None = None) -> str | None:
    """Why the job cannot be written down for other processes; None where it can."""
    if module is not None or (isinstance(job, Pretrain) and not isinstance(job.encoder, str)):
        return (
            "an encoder given in Python stays in its process. Give the name of a function that makes it "
            "(encoder='package.module:factory')."
        )
    if isinstance(job, Adapt):
        if not type(job.task).name:
            return (
                f"the task {type(job.task).__qualname__} is known here alone. Put it into a module of its own and give "
                "its dotted name."
            )
        return None
    name = type(job.method).name
    if not name:
        return (
            f"the method {type(job.method).__qualname__} is known here alone. Put it into a module of its own and give "
            "its dotted name."
        )
    return None


def launch(job: Pretrain | Adapt, count: int) -> None:
    """Do the job in `count` processes on this machine, to its end.

    Raises what the processes raise: UserError, TrainingStopped, Interrupted, KeyboardInterrupt. UserError also where
    one of them was killed.
    """
    with tempfile.TemporaryDirectory(prefix="selfsame-") as name:
        folder = Path(name)
        write_text(folder / "job.json", json.dumps({"kind": type(job).__name__, **job.model_dump(mode="json")}))
        store = td.TCPStore(HERE, 0, is_master=True, wait_for_workers=False)
        processes: list[subprocess.Popen[bytes]] = []
        with forwarded(processes) as got:
            try:
                for rank in range(count):
                    command = [sys.executable, "-m", __name__, name]
                    # Of a session of its own, so that Ctrl-C in a terminal reaches it once, from here. When this
                    # process is gone, its end of stdin closes: see `watch_over`.
                    processes.append(
                        subprocess.Popen(
                            command,
                            env=environment(rank, count, store.port),
                            stdin=subprocess.PIPE,
                            stdout=2,  # results are printed here, once
                            start_new_session=True,
                        )
                    )
                for number in got:  # what came while they were started
                    forward(processes, number)
                codes = waited_for(processes)
            except BaseException:
                for process in processes:
                    process.kill()
                raise
            finally:
                for process in processes:
                    process.wait()
                    assert process.stdin is not None
                    process.stdin.close()
        raise_outcome(folder, codes, got)


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun would set, with a fair share of the cores for each process."""
    given = {"OMP_NUM_THREADS": str(max(1, cores() // count)), **os.environ}
    if sys.platform == "linux":
        given.setdefault("GLOO_SOCKET_IFNAME", "lo")  # whatever the name of the host resolves to
    return {
        **given,
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),  # all that can be imported here
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": HERE,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is here, not in the first process
    }


def waited_for(processes: list["subprocess.Popen[bytes]"]) -> dict[int, int]:
    """{rank: exit code} in the order in which they ended. When one fails, the others are killed after GRACE."""
    ended: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()

    def wait(rank: int) -> None:
        ended.put((rank, processes[rank].wait()))

    for rank in range(len(processes)):
        threading.Thread(target=wait, args=(rank,), daemon=True).start()
    codes: dict[int, int] = {}
    until = float("inf")
    while len(codes) < len(processes):
        left = until - time.monotonic()
        try:
            rank, code = ended.get(timeout=min(3600.0, max(0.0, left)))
        except queue.Empty:
            for process in processes if left <= 0 else ():
                process.kill()
            continue
        codes[rank] = code
        if code and until == float("inf"):
            until = time.monotonic() + GRACE
    return codes


@contextmanager
def forwarded(processes: list["subprocess.Popen[bytes]"]) -> Iterator[list[int]]:
    """Hand signals that ask to stop to all processes; a list of those that came."""
    got: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        got.append(number)
        forward(processes, number)

    with stopping(note):
        yield got


def forward(processes: list["subprocess.Popen[bytes]"], number: int) -> None:
    for process in processes:
        process.send_signal(number)


def raise_outcome(folder: Path, codes: dict[int, int], got: list[int]) -> None:
    """Raise how the processes ended, unless all ended well: the words of the lowest rank that said any."""
    outcomes = [json.loads(path.read_text()) for path in sorted(folder.glob("outcome-*.json"))]
    for outcome in outcomes:
        if outcome["kind"] == "Interrupted":
            raise Interrupted(outcome["step"], outcome["signal"])
        raise KINDS[outcome["kind"]](outcome["text"])
    failed = [(rank, code) for rank, code in codes.items() if code]
    if not failed:
        return
    if got:  # before there was anything to save: as one process would have ended
        if got[0] == signal.SIGINT:
            raise KeyboardInterrupt
        signal.signal(got[0], signal.SIG_DFL)
        os.kill(os.getpid(), got[0])
    rank, code = failed[0]
    if code < 0:
        raise UserError(
            f"process {rank} of {len(codes)} was ended by {signal.Signals(-code).name}, which the system sends where "
            "memory is short. The same command goes on from the last saved state."
        )
    raise RuntimeError(f"process {rank} of {len(codes)} failed with exit code {code}; its words stand above.")


# In each process ------------------------------------------------------------------------------------------------------


def main(folder: Path) -> int:
    """The job as one of several; what ends it is written down, for the launcher to say it once."""
    threading.Thread(target=watch_over, daemon=True).start()
    outcome: dict[str, Any]
    try:
        given = json.loads((folder / "job.json").read_text())
        checked(JOBS[given.pop("kind")], given).run()
        return 0
    except Interrupted as stop:
        outcome, code = {"kind": "Interrupted", "step": stop.step, "signal": stop.signal_number}, 128
    except UserError as error:
        kind = "TrainingStopped" if isinstance(error, TrainingStopped) else "UserError"
        outcome, code = {"kind": kind, "text": str(error)}, 2
    except KeyboardInterrupt:
        return 130
    write_text(folder / f"outcome-{dist.rank():06d}.json", json.dumps(outcome))
    return code + int(outcome.get("signal", 0))


def watch_over(stdin: int = 0) -> None:
    """End, after saving, when the launcher is gone: the other end of stdin is its own."""
    if os.read(stdin, 1) == b"":  # not sys.stdin, whose lock a thread that waits would hold while Python ends
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGTERM)  # one for the process may go to another thread, and not wake it


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
