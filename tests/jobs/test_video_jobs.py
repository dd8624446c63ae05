"""Videos through the jobs: masks carried along, maps, vectors, an index, predictions, pairs near in time."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

import selfsame as ss
from selfsame import cli
from selfsame.errors import UserError
from selfsame.jobs.data import open_data, open_frames, relations
from selfsame.jobs.on_ray import Process, Share
from selfsame.modalities import image
from tests.conftest import QUICK
from tests.modalities.image.clips import write
from tests.scenes import film, write_images

av = pytest.importorskip("av", reason="needs the extra video")

FRAMES = 10


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    """films/one.mp4 and films/two.mp4; frames/ of the first, as they come out of it; truth/ of the first."""
    root = tmp_path_factory.mktemp("film")
    (root / "truth").mkdir()
    for name, seed in (("one", 3), ("two", 4)):
        made = film(seed, 64, FRAMES)
        write(root / "films" / f"{name}.mp4", [one.image for one in made], options={"g": "5"})
        for k, one in enumerate(made if name == "one" else ()):
            Image.fromarray(one.instances).save(root / "truth" / f"{k:05d}.png")  # as DAVIS names them
    source = image.open_source(str(root / "films" / "one.mp4"))
    (root / "frames").mkdir()
    for k in range(FRAMES):
        Image.fromarray(source.read(k)).save(root / "frames" / f"{k:05d}.png")
    return root


def pixels(path):
    with Image.open(path) as opened:
        return np.asarray(opened)


def test_a_mask_goes_through_a_video_as_through_the_folder_of_its_frames(untrained, moving, tmp_path):
    first, path = moving / "truth" / "00000.png", moving / "films" / "one.mp4"
    story = ss.propagate(untrained, path, first, tmp_path / "a", overlay=True, truth=moving / "truth")
    ss.propagate(untrained, moving / "frames", first, tmp_path / "b")
    assert (story["frames"], story["fps"]) == (FRAMES, 30)
    assert story["rows"][0]["figures"]["J&F"]["mean"] > story["rows"][2]["figures"]["J&F"]["mean"]  # the first mask
    for k in range(FRAMES):
        assert (pixels(tmp_path / "a" / f"{k:06d}.png") == pixels(tmp_path / "b" / f"{k:05d}.png")).all()
    with av.open(str(tmp_path / "a" / "overlay.mp4")) as container:
        shown = [frame.to_ndarray(format="rgb24", threads=1) for frame in container.decode(video=0)]
        assert len(shown) == FRAMES and container.streams.video[0].average_rate == 30
    mask = pixels(tmp_path / "a" / "000006.png") == 1
    plain = image.open_source(str(path)).read(6)
    changed = abs(shown[6].astype(int) - plain).sum(axis=2)
    assert changed[mask].mean() > 3 * changed[pixels(tmp_path / "a" / "000006.png") == 0].mean()
    assert json.loads((tmp_path / "a" / "propagation.json").read_text())["fps"] == 30


def test_fewer_frames_a_second_and_the_overlay_of_a_folder(untrained, moving, tmp_path):
    first = moving / "truth" / "00000.png"
    story = ss.propagate(untrained, moving / "films" / "one.mp4", first, tmp_path / "a", fps=10)
    names = [path.name for path in sorted((tmp_path / "a").glob("0*.png"))]
    assert names == ["000000.png", "000003.png", "000006.png", "000009.png"] and story["fps"] == 10
    ss.propagate(untrained, moving / "frames", first, tmp_path / "b", overlay=True)
    with av.open(str(tmp_path / "b" / "overlay.mp4")) as container:
        assert container.streams.video[0].frames == FRAMES and container.streams.video[0].average_rate == 24


def test_videos_that_cannot_be_followed_are_refused(untrained, moving, tmp_path, monkeypatch):
    first = moving / "truth" / "00000.png"
    broken = tmp_path / "broken.mp4"
    broken.write_bytes((moving / "films" / "one.mp4").read_bytes()[:-300])
    write(tmp_path / "one.mkv", [np.zeros((64, 64, 3), np.uint8)])
    for data, mask, more, words in (
        (moving / "films", first, {}, "2 videos there. Give one of them: one.mp4"),
        (broken, first, {}, "broken.mp4 cannot be read: not a video, or a damaged one"),
        (tmp_path / "one.mkv", first, {}, "1 frame there"),
        (
            moving / "films" / "one.mp4",
            moving / "truth" / "00003.png",
            {},
            "called as frame 4, and the first is 000000",
        ),
        (moving / "frames", first, {"fps": 5}, "--fps 5 .* Leave it out"),
    ):
        with pytest.raises(UserError, match=words):
            ss.propagate(untrained, data, mask, tmp_path / "out", **more)
        assert not (tmp_path / "out").exists()
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"writing a video needs the package av. .*selfsame\[video\]"):
        ss.propagate(untrained, moving / "frames", first, tmp_path / "out", overlay=True)


def test_maps_vectors_and_an_index_of_frames(untrained, moving, tmp_path):
    films = moving / "films"
    assert ss.maps(untrained, films, tmp_path / "maps", fps=10, workers=0)["items"] == 8
    assert (tmp_path / "maps" / "two.mp4" / "000009.npz").is_file()
    in_order = ss.embed(untrained, films, workers=0)
    assert in_order.names[FRAMES + 1] == "two.mp4/000001" and len(in_order) == 2 * FRAMES
    assert np.allclose(ss.embed(untrained, films, workers=2, batch_size=5).vectors, in_order.vectors, atol=1e-5)
    few = ss.embed(untrained, films, fps=10, workers=0)
    assert np.allclose(few.vectors, in_order.vectors[[0, 3, 6, 9, 10, 13, 16, 19]], atol=1e-5)
    frames = ss.embed(untrained, moving / "frames", workers=0)
    assert np.allclose(frames.vectors, in_order.vectors[:FRAMES], atol=1e-5)
    data = open_frames(str(films), ss.load(untrained), None, 10)
    share = Share(data.path, data.fingerprint(), 32, 8, "cpu", 1, data.reading.model_dump())
    assert len(Process(share, ss.load(untrained)).data.source) == len(few)  # of a Ray cluster
    ss.index(untrained, films, tmp_path / "idx", fps=10, workers=0)
    (found,) = ss.search(tmp_path / "idx", moving / "frames" / "00006.png", k=1).names
    assert found == ["one.mp4/000006"]
    line = ["search", str(tmp_path / "idx"), str(moving / "frames" / "00006.png"), "-k", "2"]
    assert cli.main([*line, "--picture", str(tmp_path / "strip.png")]) == 0
    assert pixels(tmp_path / "strip.png").std() > 10
    with pytest.raises(UserError, match="--fps 3"):
        ss.embed(untrained, moving / "frames", fps=3, workers=0)


def test_predictions_of_a_task_for_the_frames_of_a_video(untrained, moving, tmp_path):
    made = film(3, 64, 6)
    write_images(tmp_path / "data" / "image", made)
    (tmp_path / "data" / "label").mkdir()
    for k, one in enumerate(made):
        Image.fromarray(one.mask).save(tmp_path / "data" / "label" / f"{k:02d}.png")
    run = ss.adapt(untrained, tmp_path / "data", task="segmentation", out=tmp_path / "run", epochs=1, workers=0)
    done = ss.predict(run, moving / "films" / "one.mp4", tmp_path / "masks", fps=10, workers=0)
    assert done["items"] == 4 and pixels(tmp_path / "masks" / "one.mp4" / "000009.png").shape == (64, 64)
    assert ss.predict(run, moving / "films", tmp_path / "all", workers=0)["items"] == 2 * FRAMES
    with pytest.raises(UserError, match="--fps 10"):
        ss.predict(run, moving / "frames", tmp_path / "none", fps=10, workers=0)


def test_frames_near_in_time_of_one_clip_are_positives(moving):
    found = relations(open_data(str(moving / "films")), "folders", 2)
    assert found.groups.tolist() == [0] * FRAMES + [1] * FRAMES
    assert found.times.tolist() == [*range(FRAMES)] * 2 and found.window == 2
    few = relations(open_data(str(moving / "films"), reading={"fps": 10}), "folders", 1)
    assert few.times.tolist() == [0, 1, 2, 3] * 2


def test_pretraining_reads_videos_and_the_encoder_remembers_how(moving, tmp_path):
    settings = {**QUICK, "epochs": 1, "batch_size": 4, "related": "folders", "related_window": 1}
    run = ss.pretrain(moving / "films", out=tmp_path / "run", reading={"fps": 15}, **settings)
    lines = {line["name"]: line["value"] for line in run.plan["lines"]}
    assert lines["videos"] == "2, 15 a second" and lines["data"] == "10 items, image"
    assert run.encoder.spec["reading"] == {"fps": 15.0}
    assert ss.embed(run, moving / "films", workers=0).names[:3] == [f"one.mp4/00000{k}" for k in (0, 2, 4)]
    assert len(ss.embed(run, moving / "films", fps=30, workers=0)) == 2 * FRAMES
    mask = moving / "truth" / "00000.png"
    assert ss.propagate(run, moving / "films" / "one.mp4", mask, tmp_path / "out")["frames"] == FRAMES  # all the same
