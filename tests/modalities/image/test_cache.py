"""The pixel cache: what it keeps is what a decoding gives, whoever fills it and whatever happens meanwhile."""

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selfsame.modalities import image
from selfsame.modalities.image import cache
from selfsame.modalities.image.cache import ABOUT, PIXELS, READY, CachedSource, cached, home, plan_cache
from selfsame.modalities.image.decode import resized
from selfsame.records import ViewPlan
from selfsame.types import Draws
from tests.conftest import paint

SIZE = 16  # of the views: images are kept with a short side of 24


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("SELFSAME_CACHE", str(tmp_path / "caches"))


@pytest.fixture
def photos(tmp_path) -> Path:
    """Six images: larger than what is kept, as large, smaller, oblong, and a gray one."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, (height, width) in enumerate([(96, 80), (24, 24), (9, 12), (30, 90), (200, 48)]):
        values = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(values).resize((width, height)).save(folder / f"{i}.png")
    Image.fromarray(paint(0, 7, 40)).convert("L").save(folder / "5.jpg")
    return folder


def opened(folder: Path, most: int | None = None) -> CachedSource:
    source = image.open_source(str(folder))
    stats, broken = image.measure(source)
    source.fit(stats)
    items = np.setdiff1d(np.arange(len(source)), list(broken))
    plan = plan_cache(source, items, image.recipe("auto", SIZE, stats), most)
    return cached(source, items, plan)


def read(source, items=range(6)) -> list[np.ndarray]:
    return [np.array(source.open(i).pixels()) for i in items]


def ready(source: CachedSource) -> list[int]:
    return list((source.folder / READY).read_bytes())


def test_what_is_kept_is_the_decoded_image_no_larger_than_views_need(photos):
    source = opened(photos)
    for i, pixels in enumerate(read(source)):
        whole = source.source.read(i)
        height, width = whole.shape[:2]
        scale = min(1, 24 / min(height, width))
        assert pixels.shape == (round(height * scale), round(width * scale), 3)
        wanted = resized(whole, pixels.shape[:2], source.form) if scale < 1 else whole
        assert np.array_equal(pixels, wanted)


def test_the_second_time_nothing_is_decoded(photos, monkeypatch):
    source = opened(photos)
    first = read(source)
    assert ready(source) == [1] * 6
    monkeypatch.setattr(source.source, "open", None)  # what is called is no function
    for again in (source, pickle.loads(pickle.dumps(source)), opened(photos)):
        assert all(map(np.array_equal, first, read(again)))


def test_views_are_the_same_from_an_empty_and_from_a_full_cache(photos):
    source = opened(photos)
    views = image.recipe("auto", SIZE, image.measure(source.source)[0])
    made = [image.sample(source, range(6), ViewPlan(full=2, plain=1), views, Draws(0, 0, 6)) for _ in range(2)]
    assert all((one == two).all() for one, two in zip(*made, strict=True))


def test_what_has_no_place_is_read_at_its_full_size(photos):
    most = 24 * 24 * 3 + 29 * 24 * 3
    source = opened(photos, most)
    total = 0
    for i, pixels in enumerate(read(source)):
        kept = i < len(source.items)
        total += pixels.size if kept else 0
        assert kept or np.array_equal(pixels, source.source.read(i))
    assert 0 < len(source.items) < 6 and total <= most == (source.folder / PIXELS).stat().st_size + most - total
    assert (
        plan_cache(source.source, np.arange(6), image.recipe("auto", SIZE, image.measure(source.source)[0]), 9) is None
    )


def test_16_bits_and_many_channels_are_kept_too(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    (tmp_path / "deep").mkdir()
    values = np.random.default_rng(0).integers(0, 4096, (3, 60, 40, 5), dtype=np.uint16)
    for i, value in enumerate(values):
        tifffile.imwrite(tmp_path / "deep" / f"{i}.tif", value, photometric="minisblack", planarconfig="contig")
    source = opened(tmp_path / "deep")
    first, second = read(source, range(3)), read(source, range(3))
    assert first[0].dtype == np.uint16 and first[0].shape == (36, 24, 5) and ready(source) == [1] * 3
    assert all(map(np.array_equal, first, second))


def test_arrays_need_no_cache(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((8, 40, 40, 3), np.uint8))
    source = image.open_source(str(tmp_path / "a.npy"))
    stats, _ = image.measure(source)
    assert plan_cache(source, np.arange(8), image.recipe("auto", SIZE, stats), None) is None


def test_changed_data_get_another_cache_and_the_old_one_goes(photos):
    old = opened(photos)
    before = read(old)
    Image.fromarray(paint(1, 3, 96)).save(photos / "0.png")
    new = opened(photos)
    assert new.folder != old.folder and not np.array_equal(read(new)[0], before[0])
    assert old.folder.exists()  # a run may be reading it
    os.utime(old.folder / ABOUT, (time.time() - 7200,) * 2)
    (photos / "9.png").write_bytes((photos / "1.png").read_bytes())
    assert opened(photos).folder != new.folder
    assert new.folder.exists() and not old.folder.exists()


def test_a_file_of_the_same_size_and_another_date_counts_as_changed(photos):
    old = opened(photos)
    os.utime(photos / "3.png", (1, 1))
    assert opened(photos).folder != old.folder


def test_caches_long_unused_and_the_oldest_of_too_many_are_removed(photos, tmp_path, monkeypatch):
    places = []
    for name, age in (("ancient", 40 * 86400), ("old", 9000), ("older", 9999)):
        folder = shutil.copytree(photos, tmp_path / name)
        Image.fromarray(paint(1, age, 96)).save(folder / "0.png")
        source = opened(folder)
        read(source)
        os.utime(source.folder / ABOUT, (time.time() - age,) * 2)
        places.append(source.folder)
    opened(photos)
    assert [place.exists() for place in places] == [False, True, True]
    usage = shutil.disk_usage(tmp_path)
    held = cache.held(home())
    # Just too little is free for all of them: the one unused for longest goes.
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage._replace(free=held + 2 * 13_000 - 1))
    (photos / "9.png").write_bytes((photos / "1.png").read_bytes())
    opened(photos)
    assert [place.exists() for place in places] == [False, True, False]


def test_a_full_disk_costs_the_cache_not_the_run(photos, monkeypatch):
    source = opened(photos)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.os, "pwrite", full)
    assert all(map(np.array_equal, read(source), read(source)))
    assert ready(source) == [0] * 6


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_on_which_no_cache_can_be_made_costs_the_cache_not_the_run(photos, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(cache, "write", refuse)
    source = opened(photos)
    assert all(map(np.array_equal, read(source), read(source)))
    assert not source.folder.exists()


def test_a_cache_half_made_by_a_process_that_was_killed_is_removed(photos):
    for name, age in (("old", 9000), ("new", 9)):
        draft = home() / f".making-{name}"
        draft.mkdir(parents=True)
        os.utime(draft, (time.time() - age,) * 2)
    opened(photos)
    assert [place.name for place in home().glob(".making-*")] == [".making-new"]


def test_a_cache_that_is_removed_or_damaged_is_made_again(photos):
    source = opened(photos)
    first = read(source)
    with (source.folder / PIXELS).open("rb+") as file:
        file.truncate(100)
    again = opened(photos)
    assert again.folder == source.folder and ready(again) == [0] * 6
    assert all(map(np.array_equal, first, read(again)))
    worker = pickle.loads(pickle.dumps(again))
    shutil.rmtree(again.folder)
    assert all(map(np.array_equal, first, read(worker)))  # one that comes too late reads without it
    (home() / again.folder.name).mkdir()
    (again.folder / ABOUT).write_text("{")
    assert all(map(np.array_equal, first, read(opened(photos))))


def test_without_a_place_to_write_there_is_no_cache(photos, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SELFSAME_CACHE", str(tmp_path / "file" / "x"))
    source = image.open_source(str(photos))
    stats, _ = image.measure(source)
    source.fit(stats)
    assert plan_cache(source, np.arange(6), image.recipe("auto", SIZE, stats), None) is None


def test_after_the_machine_went_down_only_what_was_forced_to_disk_is_trusted(photos):
    source = opened(photos)
    first = read(source, range(3))
    source.sync()
    read(source, range(3, 6))
    about = source.folder / ABOUT
    about.write_text(json.dumps({**json.loads(about.read_text()), "boot": "another"}))
    again = opened(photos)
    assert ready(again) == [1, 1, 1, 0, 0, 0]
    assert all(map(np.array_equal, first, read(again)))
    about.write_text(json.dumps({**json.loads(about.read_text()), "boot": "another"}))
    (source.folder / "synced").unlink()
    assert ready(opened(photos)) == [0] * 6


def fill(folder: Path, step: int, begun: Event) -> None:
    source = opened(folder)
    begun.set()
    while True:
        read(source, range(len(source))[::step])


@pytest.mark.parametrize("seed", range(3))
def test_processes_that_fill_it_at_once_and_are_killed_leave_whole_images(tmp_path, seed):
    folder, context = tmp_path / "many", multiprocessing.get_context("fork")  # as the processes that read are started
    folder.mkdir()
    for i in range(300):
        Image.fromarray(paint(i % 4, i, 64)).save(folder / f"{i:03}.png")
    source = opened(folder)
    begun = [context.Event(), context.Event()]
    processes = [context.Process(target=fill, args=(folder, step, begun[step < 0])) for step in (1, -1)]
    try:
        for process in processes:
            process.start()
        assert all(one.wait(60) for one in begun)
        while sum(ready(source)) < 20 + 90 * seed and all(process.is_alive() for process in processes):
            time.sleep(0.001)
    finally:
        for process in processes:
            process.kill()
            process.join()
    assert [process.exitcode for process in processes] == [-signal.SIGKILL] * 2
    there = np.flatnonzero(ready(source))
    assert len(there) >= 20
    for i in there.tolist():
        assert np.array_equal(source.open(i).pixels(), resized(source.source.read(i), (24, 24), source.form)), i
