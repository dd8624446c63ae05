"""What torch compiles of the views is what the steps do one by one."""

import os
import shutil

import pytest
import torch
from torch import Tensor

from selfsame.modalities.image import graph, kernel
from selfsame.modalities.image.recipes import View, Views, recipe
from selfsame.modalities.image.stats import Stats
from selfsame.modalities.image.views import graph_of, make_views
from selfsame.records import ViewPlan
from selfsame.types import Draws

PLAN = ViewPlan(full=2, part=1, plain=1)
RARE = View(vertical_flip=0.5, rotate=0.5, blur=0.5, box_blur=0.5, sharpen=0.5, solarize=0.5, cutout=0.5)
QUIET = View(jitter=0, gray=0, blur=0)
KINDS = [(1, 255), (3, 255), (5, 255), (1, 4095), (3, 4095), (5, 4095)]  # channels, white
compiler = pytest.mark.skipif(
    not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))), reason="there is no C++ compiler"
)


@pytest.fixture(autouse=True)
def compiling(monkeypatch):
    """Views are compiled on the CPU too, and never by the kernel."""
    monkeypatch.setenv("SELFSAME_COMPILE", "1")
    monkeypatch.setattr(graph, "failed", False)
    monkeypatch.setattr(graph, "BACKEND", "aot_eager")  # the whole way but for the code, which takes it long to write
    monkeypatch.setattr(kernel, "compiled", lambda: None)
    graph_of.cache_clear()
    yield
    graph_of.cache_clear()


def stats(channels: int, white: int) -> Stats:
    measured = {"mean": (0.5,) * channels, "std": (0.25,) * channels, "height": 24, "width": 24, "uniform": True}
    return Stats(items=16, channels=channels, bits=8 if white == 255 else 16, white=white, **measured)


def samples(channels: int, white: int, count: int, sides: tuple[int, ...]) -> list[Tensor]:
    """Stored values, channels last in memory, as the worker half gives them."""
    generator = torch.Generator().manual_seed(0)
    kind = torch.uint8 if white == 255 else torch.int32
    shapes = [(count, side, side, channels) for side in sides]
    return [torch.randint(0, white + 1, s, generator=generator).to(kind).permute(0, 3, 1, 2) for s in shapes]


def made(values: list[Tensor], views: Views, step: int = 0, white: int = 255) -> list[Tensor]:
    count, channels = values[0].shape[:2]
    return make_views(values, PLAN, views, stats(channels, white), Draws(0, step, count))


def one_by_one(values: list[Tensor], views: Views, step: int = 0, white: int = 255) -> list[Tensor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFSAME_COMPILE", "0")
        return made(values, views, step, white)


def alike(compiled: list[Tensor], plain: list[Tensor]) -> None:
    assert not graph.failed
    for one, other in zip(compiled, plain, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        apart = (one - other).abs()
        apart = torch.minimum(apart, (one + other - 1).abs() + (other - 0.5).abs())  # on the threshold of solarisation
        assert apart.max() < 2e-5


def compare(name: str, channels: int, white: int) -> None:
    views = recipe(name, 24, stats(channels, white))
    values = samples(channels, white, 12, (24, 24, views.part_size, 24))
    alike(made(values, views, white=white), one_by_one(values, views, white=white))
    with torch.compiler.set_stance("fail_on_recompile"):  # other numbers, other rows for each step
        alike(made(values, views, 1, white), one_by_one(values, views, 1, white))


@pytest.mark.parametrize(
    ("name", "channels", "white"), [("photo", 3, 255), ("photo", 1, 4095), ("small", 5, 255), ("weak", 3, 4095)]
)
def test_a_recipe_is_one_graph_a_pipeline_and_none_is_made_again(name, channels, white):
    compare(name, channels, white)


@pytest.mark.compiles
@compiler
@pytest.mark.parametrize(("channels", "white"), KINDS)
@pytest.mark.parametrize("name", ["photo", "small", "weak"])
def test_compiled_to_machine_code_a_recipe_gives_what_the_steps_give(name, channels, white, monkeypatch):
    monkeypatch.setattr(graph, "BACKEND", "inductor")
    compare(name, channels, white)


@pytest.mark.compiles
@compiler
def test_compiled_to_machine_code_a_pipeline_gives_what_its_steps_give(monkeypatch):
    monkeypatch.setattr(graph, "BACKEND", "inductor")
    view = View(blur=0.5, solarize=0.5)
    values = samples(3, 255, 12, (16, 16, 16, 16))
    views = Views(size=16, one=view, two=view, part=view, part_size=16)
    alike(made(values, views), one_by_one(values, views))


def test_every_step_has_its_place_in_a_graph():
    views = Views(size=24, one=RARE, two=RARE, part=RARE, part_size=24)
    values = samples(3, 255, 12, (24, 24, 24, 24))
    alike(made(values, views), one_by_one(values, views))


@pytest.mark.parametrize("fill", ["gray", "other"])
def test_backgrounds_are_replaced_before_a_graph_begins(fill):
    view = RARE.changed(rotate=0, box_blur=0, background=0.5, background_fill=fill)
    views = Views(size=24, one=view, two=view, part=view, part_size=24)
    values = [x // 2 for x in samples(3, 255, 12, (24, 24, 24, 24))]
    for x in values:
        x[:, :, 8:16, 8:16] += 120
    alike(made(values, views), one_by_one(values, views))


def test_other_numbers_of_rows_are_compiled_for_once_all_together():
    views = Views(size=8, one=QUIET, two=QUIET, part=QUIET, part_size=8)
    for count in (12, 9):
        values = samples(3, 255, count, (8,) * 4)
        alike(made(values, views), one_by_one(values, views))
    with torch.compiler.set_stance("fail_on_recompile"):
        for count in (12, 10, 30):
            values = samples(3, 255, count, (8,) * 4)
            alike(made(values, views), one_by_one(values, views))


def test_a_process_may_have_any_number_of_pipelines(monkeypatch):
    monkeypatch.setattr(graph, "BACKEND", "eager")
    for k in range(1, 11):  # dynamo's own limit is 8
        values = samples(1, 255, 4, (8 + k,) * 4)
        view = QUIET.changed(flip=k / 12)
        views = Views(size=8 + k, one=view, two=view, part=view, part_size=8 + k)
        alike(made(values, views), one_by_one(values, views))


def test_where_torch_cannot_compile_one_line_says_so_and_the_steps_are_done_one_by_one(monkeypatch, caplog):
    tried = []

    def broken(*_):
        tried.append(1)
        raise RuntimeError("no Triton here\nand many lines more")

    monkeypatch.setattr(graph, "BACKEND", broken)
    views = Views(size=8, one=QUIET, two=QUIET, part=QUIET, part_size=8)
    values = samples(3, 255, 4, (8,) * 4)
    for step in range(2):
        assert all(map(torch.equal, made(values, views, step), one_by_one(values, views, step)))
    said = [record.getMessage() for record in caplog.records if record.name == graph.__name__]
    line = "torch cannot compile the views, so they are made step by step (SELFSAME_COMPILE=0 does not try): "
    assert said == [line + "no Triton here"] and len(tried) == 1


def test_too_little_memory_is_no_reason_to_go_on_without_a_compiler(monkeypatch):
    def short(*_):
        raise torch.OutOfMemoryError("2 GiB asked")

    monkeypatch.setattr(graph, "BACKEND", lambda *_: short)
    with pytest.raises(torch.OutOfMemoryError):
        made(samples(3, 255, 4, (8,) * 4), Views(size=8, one=QUIET, two=QUIET, part=QUIET, part_size=8))
    assert not graph.failed


@pytest.mark.parametrize(
    ("asked", "run", "compiled"),
    [
        (None, False, set()),
        (None, True, {"cuda"}),
        ("0", True, set()),
        ("1", False, {"cuda", "cpu", "mps"}),
        ("", True, {"cuda"}),
    ],
)
def test_it_is_for_compiled_runs_on_gpus_unless_the_user_says_otherwise(asked, run, compiled, monkeypatch):
    monkeypatch.delenv("SELFSAME_COMPILE") if asked is None else monkeypatch.setenv("SELFSAME_COMPILE", asked)
    monkeypatch.setattr(graph, "asked_for", False)
    graph.compile_views(run)
    assert {kind for kind in ("cuda", "cpu", "mps", "meta") if graph.wanted(torch.device(kind))} == compiled


def test_what_is_moved_together_arrives_as_it_was():
    given = [torch.arange(5.0), torch.rand(3, 7), torch.rand(2, 2, 2), torch.zeros(0, 4)]
    there = graph.moved(given, torch.device("cpu"))
    assert all(map(torch.equal, given, there))
    assert all(part.data_ptr() % 16 == there[0].data_ptr() % 16 and part.is_contiguous() for part in there)
