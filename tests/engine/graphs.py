"""CUDA graphs in pretence, on a CPU: operations are noted while one is recorded, and done again when it is played.

Into the same memory, as a graph does; and as graphs that share memory do, the first of them overwrites what the second
has made, when it is played again.
"""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Graph:
    def __init__(self) -> None:
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.second: Graph | None = None
        self.played = 0

    def pool(self) -> "Graph":
        return self

    def wipe(self) -> None:
        for _, given, _, made in self.operations:
            before = {one.untyped_storage().data_ptr() for one in tensors(given)}
            for one in tensors(made):
                if one.untyped_storage().data_ptr() not in before and one.is_floating_point():
                    one.fill_(float("nan"))

    @torch.no_grad()
    def replay(self) -> None:
        self.played += 1
        if self.second is not None:
            self.second.wipe()
        for what, given, options, made in self.operations:
            for old, new in zip(tensors(made), tensors(what(*given, **options)), strict=True):
                if old.data_ptr() != new.data_ptr():  # neither a view nor done in place
                    old.copy_(new)


def tensors(given: Any) -> list[Tensor]:
    return [one for one in tree_leaves(given) if isinstance(one, Tensor)]


class Recorder(TorchDispatchMode):
    """What torch.cuda.graph is."""

    def __init__(
        self, graph: Graph, pool: Graph | None = None, stream: Any = None, capture_error_mode: str = "global"
    ) -> None:
        super().__init__()
        self.graph = graph
        if pool is not None:
            pool.second = graph

    def __torch_dispatch__(self, what: Any, types: Any, given: Any = (), options: Any = None) -> Any:
        made = what(*given, **(options or {}))
        self.graph.operations.append((what, given, options or {}, made))
        return made


class Broken(Recorder):
    """One whose end fails, and leaves its stream behind, as torch does."""

    def __exit__(self, *_: object) -> None:
        super().__exit__(None, None, None)
        place.now = "side"
        raise RuntimeError("operation failed due to a previous error during capture\nin some file")


place = SimpleNamespace(now="main")  # the current stream


def pretend(monkeypatch: Any) -> None:
    """Let torch.cuda be this, for one test."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    place.now = "main"
    stands = {
        "CUDAGraph": Graph, "graph": Recorder, "Stream": lambda: stream, "current_stream": lambda: stream,
        "stream": lambda _: nullcontext(), "synchronize": lambda: None, "empty_cache": lambda: None,
        "set_stream": lambda _: setattr(place, "now", "main"),
    }  # fmt: skip
    for name, value in stands.items():
        monkeypatch.setattr(torch.cuda, name, value)
