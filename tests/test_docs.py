"""Pages that are made of the code say what the code says."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_pages_of_methods_are_those_that_bench_pages_would_write(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench/pages.py", "--check"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "bench" / "pages.py"), run_name="__main__")
    assert ended.value.code == 0, ended.value.code
