"""The vectors of `embed` from processes of a Ray cluster: of this machine, or of many that see the data by one path.

The items are cut into blocks of whole batches, the batches of the plain path; each process reads and encodes block
after block, and the batches come back in the order of the items. A cluster started here listens on loopback alone,
under a token of its own, without dashboard and usage reports, and leaves nothing behind.

Ray moves blocks, encoder and vectors between its own processes by pickle: that is its transport, to be trusted as far
as the cluster is. No file of the user is read that way.
"""

import contextlib
import copy
import json
import logging
import os
import platform
import re
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from jaxtyping import Float32

from selfsame.engine import dist
from selfsame.engine.plan import cores
from selfsame.engine.watch import counted, say
from selfsame.errors import UserError
from selfsame.jobs.data import Data, encoded, open_like
from selfsame.types import Encoder

BLOCK = 4096  # items, about: some seconds of work, so that handing blocks out costs next to nothing
MOST_BLOCKS = 20_000  # the driver keeps a record of each
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_LOG_LEVEL": "CRITICAL", "RAY_BACKEND_LOG_LEVEL": "fatal"}
QUIET["RAY_NUM_REDIS_GET_RETRIES"] = "2"  # of 40 s, to find a cluster
ALONE = {  # a cluster of this machine only
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's switch for "no cluster": every server binds to loopback
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # its processes run in this environment; nothing is installed
    "RAY_worker_niceness": "0",  # as nice as the command: Ray's 15 stand still on a machine that is busy
}


def spread(
    encoder: Encoder, data: Data, cluster: str, batch: int, processes: int | None, device: str
) -> Generator[tuple[list[int], Float32[np.ndarray, "b d"]], None, None]:
    """(items, vectors) batch by batch, in order, as `data.encoded` gives them; unreadable items go to data.skipped.

    Args:
        cluster: "local" to start one, "auto" for the one that runs here, or an address.
        processes: how many read and encode; None for one on each GPU or, where there are none, each core.
    """
    with joined(cluster, processes, device):
        import ray.data

        seats, each = seating(processes, device)
        block = batch * blocking(len(data.source), batch, seats)
        blocks = -(-len(data.source) // block)
        seats = min(seats, blocks)
        machines = sum(node["Alive"] for node in ray.nodes())
        say(f"Ray: {counted(seats, 'process', 'es')} on {counted(machines, 'machine')}, {counted(blocks, 'block')}")
        share = Share(
            data.path,
            data.fingerprint(),
            block,
            batch,
            "cuda" if each["num_gpus"] else "cpu",
            each["num_cpus"],
            data.reading.model_dump(),
        )
        numbers = ray.data.range(blocks, override_num_blocks=blocks)
        numbers.context.execution_options.preserve_order = True
        numbers.context.enable_progress_bars = False
        rows = numbers.map_batches(
            Process,
            fn_constructor_args=(share, copy.deepcopy(encoder).cpu()),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=seats),
            **each,
        ).iter_rows()
        due = 0
        for items, vectors in received(rows, data):
            if items[0] < due:
                raise RuntimeError(f"Ray gave item {items[0]} after {due - 1}")
            due = items[-1] + 1
            yield items, vectors


def received(rows: Iterable[dict[str, Any]], data: Data) -> Iterator[tuple[list[int], Float32[np.ndarray, "b d"]]]:
    """What the processes sent, unpacked. Raises UserError where one of them did, or has not got what it needs."""
    from ray.exceptions import RayActorError

    try:
        for row in rows:
            if row["failed"]:
                raise UserError(row["failed"])
            data.skipped.update({int(item): why for item, why in json.loads(row["skipped"]).items()})
            items = np.frombuffer(row["items"], np.int64).tolist()
            if items:
                yield items, np.frombuffer(row["vectors"], np.float32).reshape(len(items), -1)
    except RayActorError as error:
        if lacking := re.search(r"No module named '([\w.]+)'", str(error)):
            raise UserError(
                f"a machine of the Ray cluster has no Python module {lacking[1]}. Install the same selfsame on "
                "each, and what the encoder is made of."
            ) from error
        raise


def blocking(items: int, batch: int, seats: int) -> int:
    """Batches in a block: about BLOCK items, fewer where some processes would have nothing to do near the end."""
    batches = -(-items // batch)
    wanted = min(-(-batches // (4 * seats)), max(1, BLOCK // batch))
    return max(wanted, -(-batches // MOST_BLOCKS))


def seating(wish: int | None, device: str) -> tuple[int, dict[str, Any]]:
    """How many processes, and what Ray sets aside for each. Raises UserError where the cluster has not got it."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus, cpus = (sum(int(node.get(kind, 0)) for node in nodes) for kind in ("GPU", "CPU"))
    if device == "cuda" and not gpus:
        raise UserError("--device cuda: the Ray cluster has no GPU. Give --device cpu, or start Ray with --num-gpus.")
    on_gpu = gpus > 0 and device != "cpu"
    most, kind = (gpus, "GPU") if on_gpu else (cpus, "core")
    if not most or (wish or 0) > most:
        raise UserError(f"--workers {wish or 1}: the Ray cluster has {counted(most, kind)}, one for each process.")
    # The other cores beside a GPU read ahead for it.
    beside = min(int(node.get("CPU", 0) // node["GPU"]) for node in nodes if node.get("GPU")) if on_gpu else 1
    return wish or most, {"num_cpus": max(1, beside), "num_gpus": int(on_gpu)}


@contextlib.contextmanager
def joined(cluster: str, processes: int | None, device: str) -> Iterator[None]:
    """In touch with the cluster while the block runs. One that this Python process is in already is used and kept."""
    with contextlib.ExitStack() as left:
        if "ray" in sys.modules and sys.modules["ray"].is_initialized():
            yield
            return
        alone = {**ALONE, "RAY_AUTH_TOKEN": secrets.token_hex(32)} if cluster == "local" else {}
        left.enter_context(environment({**QUIET, **alone}))
        import ray  # reads the environment

        left.enter_context(signals_kept())
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if cluster == "local":
            # Ray's sockets lie in this folder, and the name of a socket must be short.
            place = "/tmp" if Path("/tmp").is_dir() else None
            folder = tempfile.TemporaryDirectory(prefix="selfsame-ray-", dir=place, ignore_cleanup_errors=True)
            settings |= {"_temp_dir": left.enter_context(folder), "include_dashboard": False}
            settings |= {"num_cpus": max(cores(), processes or 0), "num_gpus": 0 if device == "cpu" else None}
        try:
            if cluster != "local":
                answers(cluster)
            left.callback(ray.shutdown)
            ray.init(cluster, **settings)
            answer_sigterm()
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            cure = (
                "Is there room in /tmp?" if cluster == "local" else "Start one with `ray start --head`, or --ray local."
            )
            raise UserError(
                f"--ray {cluster}: no Ray cluster can be had: {' '.join(str(error).split()).rstrip('.')}. {cure}"
            ) from error
        if cluster == "local" and not ray.util.get_node_ip_address().startswith("127."):
            raise UserError(
                "--ray local: Ray was loaded before, and its new cluster would listen on the network. "
                "Call ray.init() first to have that, or embed before ray is imported."
            )
        yield


def answers(cluster: str) -> None:
    """Raise OSError where nobody listens at the address: Ray would try again for a quarter of an hour."""
    if cluster == "auto":
        cluster = os.environ.get("RAY_ADDRESS", "")
    host, colon, port = cluster.rpartition("//")[2].rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@contextlib.contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Variables that hold in the block, and for the processes started in it; those that Ray sets go with them."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for key in set(os.environ) - set(before):
            del os.environ[key]
        os.environ.update(before)


@contextlib.contextmanager
def signals_kept() -> Iterator[None]:
    """Ray has SIGTERM answered in its own way; afterwards it is answered as before."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def answer_sigterm() -> None:
    """End at a SIGTERM as at an error, so that a cluster started here goes with its folder; Ray would just die."""
    if threading.current_thread() is threading.main_thread():

        def end(number: int, frame: FrameType | None) -> None:
            raise SystemExit(128 + number)

        signal.signal(signal.SIGTERM, end)


@dataclass(frozen=True)
class Share:
    """What every process is told."""

    path: str
    fingerprint: str
    block: int  # items
    batch: int
    device: str
    cores: int
    reading: dict[str, Any] = field(default_factory=dict)
    """fields of the modality's way of reading, where it is another than the encoder's"""


class Process:
    """A process of the cluster, once it is told what to do: numbers of blocks -> batches of vectors.

    A UserError is handed over as a value: raised here it would arrive as a traceback in text.
    """

    def __init__(self, share: Share, encoder: Encoder) -> None:
        self.share = share
        self.on = dist.device(share.device)
        self.encoder = encoder.to(self.on)

    @cached_property
    def data(self) -> Data:
        """Opened here by its path. Raises UserError where other items lie there than where the job was given."""
        data = open_like(self.share.path, self.encoder, **self.share.reading)
        if (found := data.fingerprint()) != self.share.fingerprint:
            raise UserError(
                f"{self.share.path} on {platform.node()} is not what it is where the job was started ({found} "
                f"instead of {self.share.fingerprint}). Give a path that is the same disk on all machines."
            )
        return data

    def __call__(self, blocks: dict[str, np.ndarray]) -> Iterator[dict[str, list]]:
        try:
            for number in blocks["id"].tolist():
                yield from self.block(number)
        except UserError as error:
            yield row(failed=str(error))

    def block(self, number: int) -> Iterator[dict[str, list]]:
        data = self.data
        items = range(number * self.share.block, min(len(data.source), (number + 1) * self.share.block))
        views = data.modality.recipe("weak", self.encoder.spec["size"], data.stats)
        readers = 0 if data.source.array is not None else self.share.cores - 1
        for kept, vectors in encoded(self.encoder, data, views, items, self.on, readers, self.share.batch):
            yield row(kept, vectors, data.skipped)
            data.skipped = {}
        yield row(skipped=data.skipped)  # of batches of which nothing was left
        data.skipped = {}


def row(
    items: list[int] | None = None,
    vectors: np.ndarray | None = None,
    skipped: dict[int, str] | None = None,
    failed: str = "",
) -> dict[str, list]:
    """One batch as Ray's tables hold it: plain bytes and text."""
    return {
        "items": [np.array(items or [], np.int64).tobytes()],
        "vectors": [b"" if vectors is None else np.ascontiguousarray(vectors, np.float32).tobytes()],
        "skipped": [json.dumps(skipped or {})],
        "failed": [failed],
    }
