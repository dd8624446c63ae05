"""The fused kernels compiled for a card that need not be there: types, and room in shared memory, are checked so.

    python -m tests.nn.compiled 90 232448        # compute capability, bytes of shared memory of a block

Every form of every kernel that `tests.nn.fused` computes, in bf16. Nothing is launched.
"""

import json
import sys
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.errors import OutOfResources
from triton.runtime.jit import JITFunction

from selfsame.nn.fused.kernels import products, tiles
from tests.nn import fused


class Card:
    """What Triton asks its driver."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def compiled(capability: int, room: int) -> dict[str, Any]:
    """How many forms of each kernel were compiled, what failed, and which forms need more room than there is."""
    driver.set_active(Card(capability))
    tiles.processors = products.processors = lambda device: 132
    run, done, failed, large = JITFunction.run, {}, {}, []

    def compile_only(self: Any, *given: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        name = self.fn.__name__
        try:
            kernel = run(self, *given, grid=grid, warmup=True, **options)
        except Exception as error:  # whatever its passes may raise
            failed[name] = f"{type(error).__name__}: {error}"[:2000]
            return None
        done.setdefault(name, set()).add(kernel.hash)
        if kernel.metadata.shared > room:
            large.append(f"{name} {options}")
            raise OutOfResources(kernel.metadata.shared, room, "shared memory")
        return kernel

    JITFunction.run = compile_only
    fused.apart = lambda one, two: 0.0  # nothing was computed
    fused.differences("cpu", torch.bfloat16, large=True)
    return {"compiled": {name: len(forms) for name, forms in done.items()}, "failed": failed, "large": large}


if __name__ == "__main__":
    print(json.dumps(compiled(*map(int, sys.argv[1:]))))
