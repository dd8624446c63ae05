import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfsame.storage.folders import walk
from selfsame.storage.names import Names, repeated

TEXTS = st.lists(st.text(st.characters(codec="utf-8"), max_size=12), max_size=30)


@given(TEXTS)
def test_names_are_a_sequence_like_a_list(texts):
    names = Names(texts)
    assert names == texts and list(names) == texts and len(names) == len(texts)
    assert [names[i] for i in range(-len(texts), len(texts))] == texts + texts
    assert names[1:-1:2] == texts[1:-1:2]
    assert pickle.loads(pickle.dumps(names)) == names == Names.of(names.text, names.ends)
    assert sorted(repeated(names)) == sorted({text for text in texts if texts.count(text) > 1})
    with pytest.raises(IndexError):
        names[len(texts)]


def test_names_that_are_no_utf8_stay_what_they_are():
    assert Names(["\udcff.png", "ä"])[0] == "\udcff.png"


@given(st.sets(st.lists(st.sampled_from(["a", "a-", "a.b", "b", "B", "ab", "ä"]), min_size=1, max_size=3).map(tuple)))
def test_a_walk_has_the_order_of_whole_names(tmp_path_factory, paths):
    root = tmp_path_factory.mktemp("walk")
    for parts in paths:
        place = root.joinpath(*(f"{part}_" for part in parts[:-1]), parts[-1])
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    found = list(walk(root))
    assert found == sorted(found) and len(found) == len(paths)


OPEN_MANY = """
import os, sys, time
from selfsame.modalities.image import opening

class Entry:
    def __init__(self, name, folder):
        self.name, self.folder = name, folder
    def is_symlink(self): return False
    def is_file(self): return not self.folder
    def is_dir(self): return self.folder

folders_, photos = map(int, sys.argv[1:])

class Listing:  # folders of photos, out of order as on a disk
    def __init__(self, path):
        top = str(path).endswith("photos")
        self.path, self.names = path, range(folders_ - 1, -1, -1) if top else range(photos - 1, -1, -1)
        self.form = "n{:08d}" if top else os.path.basename(path) + "_{:05d}.JPEG"
        self.folder = top
    def __enter__(self): return (Entry(self.form.format(k), self.folder) for k in self.names)
    def __exit__(self, *error): pass

def status(path):
    return type("S", (), {"st_dev": 1, "st_ino": hash(path)})()

import pathlib
from selfsame.storage import disk, folders
folders.os.scandir = Listing
folders.Path.stat = status
disk.Disk.is_folder = disk.Disk.exists = lambda self, path: True

def kibibytes(key):  # of this process alone: ru_maxrss begins with what the parent had
    (line,) = (line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1])

before = kibibytes("VmRSS:")
began = time.process_time()
source = opening.open_source("photos")
seconds = time.process_time() - began
last = folders_ - 1
assert len(source) == folders_ * photos
assert source.name(0) == "n00000000/n00000000_00000.JPEG"
assert source.name(len(source) - 1) == f"n{last:08d}/n{last:08d}_{photos - 1:05d}.JPEG"
print(seconds, (kibibytes("VmHWM:") - before) / 2**20)
"""


by_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks /proc for the memory in use")


def opened(folders):
    """Processor seconds and GiB that opening this many folders of 10,000 names takes."""
    done = subprocess.run(
        [sys.executable, "-c", OPEN_MANY, str(folders), "10000"],
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seconds, gibibytes = map(float, done.stdout.split())
    print(f"{seconds:.1f} s, {gibibytes:.2f} GiB")
    return seconds, gibibytes


@by_proc
def test_a_million_names_cost_three_seconds_and_64_megabytes():
    """The listing is made up: what is measured is all that comes after the system's answer."""
    seconds, gibibytes = opened(100)
    assert gibibytes < 1 / 16 and seconds < 3


@by_proc
@pytest.mark.learns
@pytest.mark.timeout(200)
def test_ten_million_names_cost_half_a_minute_and_less_than_a_gigabyte():
    seconds, gibibytes = opened(1000)
    assert gibibytes < 1 and seconds < 30
