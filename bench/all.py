"""Every script whose results stand on docs/performance.md, one after the other. What cannot run here is named.

    python bench/all.py                  # about an hour on two cores; then: make bench-page

Results of scripts that are left out stay as they are.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PEER = ("lightly", HERE.parents[1] / "shared" / "bench")  # package, folder with the contenders
SCRIPTS: list[tuple[str, bool]] = [  # command, whether it needs the peer
    ("views.py", True),
    ("cache.py", False),
    ("graph.py", False),
    ("step.py --rounds 4", True),
    ("encoders.py --size 32 resnet18 resnet18@0.5", False),
    ("encoders.py --size 96 resnet18 resnet10t@0.5 resnet18@0.5", False),
    ("startup.py", False),
    ("memory.py", False),
    ("scaling.py", False),
    ("kills.py --kills 50", False),
]


def main() -> int:
    package, folder = PEER
    lacking = [
        *([f"the package {package}"] if importlib.util.find_spec(package) is None else []),
        *([f"the folder {folder}"] if not folder.is_dir() else []),
    ]
    failed = []
    for script, needs_peer in SCRIPTS:
        if needs_peer and lacking:
            print(f"bench/{script}: left out, for it needs {' and '.join(lacking)}", flush=True)
            continue
        print(f"bench/{script}", flush=True)
        name, *flags = script.split()
        settings = {**os.environ, "OMP_NUM_THREADS": "1"}
        if subprocess.run([sys.executable, str(HERE / name), *flags], env=settings).returncode:
            failed.append(script)
    for script in failed:
        print(f"bench/{script} failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
