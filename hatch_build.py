"""Compiles the kernel of the image views while the package is installed, where there is a C compiler.

Without one nothing fails: the same steps are then done in torch, more slowly.
"""

import os
import platform
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

IMAGE = Path("src/selfsame/modalities/image")
FLAGS = ["-O3", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]


class Kernel(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        source, made = Path(self.root) / IMAGE / "kernel.c", []
        for name, level in levels().items():
            library = source.with_name(name)
            if compiled(source, library, level):
                made.append(library)
            else:
                library.unlink(missing_ok=True)  # of an older source
        if not made:
            self.app.display_warning("no C compiler was found: the image views will be made in torch, more slowly")
            return
        build_data["artifacts"] += [str(IMAGE / library.name) for library in made]
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def levels() -> dict[str, list[str]]:
    """File name -> flags: one for every processor of the kind, on x86-64 another for those with AVX2 and FMA."""
    known = {"libkernel.so": []}
    if platform.machine().lower() in ("x86_64", "amd64"):
        known["libkernel-v3.so"] = ["-march=x86-64-v3"]
    return known


def compiled(source: Path, library: Path, level: list[str]) -> bool:
    if sys.platform == "win32":  # its usual compiler lacks the vector types
        return False
    compiler = shlex.split(os.environ.get("CC", "cc"))
    try:
        done = subprocess.run([*compiler, *FLAGS, *level, "-o", str(library), str(source)], capture_output=True)
    except OSError:
        return False
    return done.returncode == 0
