"""Frames of videos by number: the right one, from any place, in any process; and what is wrong with a video."""

import multiprocessing
import os
import pickle
import shutil
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from selfsame import modalities
from selfsame.errors import UnreadableItem, UserError
from selfsame.modalities import image
from selfsame.modalities.image import video
from selfsame.modalities.image.video import Decoder, taken
from selfsame.records import ViewPlan
from selfsame.types import Draws
from tests.conftest import paint
from tests.modalities.image.clips import HEIGHT, WIDTH, clip, number_in, numbered, write

av = pytest.importorskip("av", reason="needs the extra video")

X264 = {"g": "10", "bf": "3"}
OPEN = {"x264-params": "keyint=10:bframes=3:open-gop=1"}  # frames that come before a key frame and refer to it
FILES = {
    "a.mp4": ("mpeg4", None),
    "a.mov": ("libx264", X264),
    "open.mp4": ("libx264", OPEN),
    "a.mkv": ("libx264", X264),
    "a.webm": ("libvpx-vp9", {"g": "10", "cpu-used": "8"}),
    "a.avi": ("mpeg4", {"g": "10", "bf": "0"}),
    "order.avi": ("libx264", X264),  # AVI does not say when its frames are shown
}
SHUFFLED = np.random.default_rng(0).permutation(30).tolist()


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Each kind of file for which there is an encoder here, by name."""
    root = tmp_path_factory.mktemp("clips")
    kinds = {name: kind for name, kind in FILES.items() if kind[0] in av.codecs_available}
    return {name: clip(root / name, codec=codec, options=options) for name, (codec, options) in kinds.items()}


def found(source, items):
    return [number_in(source.read(i)) for i in items]


def opened(path, fps=None, **more):
    return image.open_source(str(path), reading=image.Reading(fps=fps), **more)


# The right frame -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_frame_is_the_one_of_its_number_wherever_reading_comes_from(clips, name):
    if name not in clips:
        pytest.skip(f"this FFmpeg has no encoder {FILES[name][0]}")
    source = opened(clips[name])
    assert len(source) == 30 and source.name(7) == f"{name}/000007" and list(source.names)[-1] == f"{name}/000029"
    assert source.header(3)[:4] == (HEIGHT, WIDTH, 3, 8) and source.stored(0) > 10
    in_order = [source.read(i) for i in range(30)]
    assert [number_in(pixels) for pixels in in_order] == list(range(30))
    assert all((source.read(i) == in_order[i]).all() for i in SHUFFLED)
    assert (source.read(-1) == in_order[-1]).all()


def test_a_frame_is_decoded_from_the_key_frame_before_it_and_the_next_from_there(clips, monkeypatch):
    decoded = []
    kept = Decoder.onward

    def onward(self, moment):
        before = self.last
        frame = kept(self, moment)
        decoded.append((before, self.last))
        return frame

    source = opened(clips["a.mp4"])
    assert found(source, [25]) == [25]
    decoder = source.decoder(0)
    assert [number_in(decoder.last[1].to_ndarray(format="rgb24"))] == [25]
    monkeypatch.setattr(Decoder, "led_to", lambda self, key: pytest.fail("it should have gone on from where it was"))
    monkeypatch.setattr(Decoder, "onward", onward)
    assert found(source, [26, 26, 27]) == [26, 26, 27] and len(decoded) == 3
    monkeypatch.undo()
    led, kept = [], Decoder.led_to
    monkeypatch.setattr(Decoder, "led_to", lambda self, key: led.append(key) or kept(self, key))
    assert found(source, [3, 4, 27]) == [3, 4, 27] and len(led) == 2  # back, and over key frames between


def test_where_a_table_leads_elsewhere_decoding_begins_at_the_start(clips):
    source = opened(clips["a.mp4"])
    assert len(source.keys) >= 3
    decoder = source.decoder(0)
    decoder.container = Elsewhere(decoder.container, int(source.moments[13]))  # behind a key frame, which it refers to
    assert found(source, [16]) == [16]
    assert not isinstance(decoder.container, Elsewhere)
    source.keys = source.moments[::4]  # few of them are key frames
    assert found(source, SHUFFLED[:8]) == SHUFFLED[:8]


class Elsewhere:
    def __init__(self, container, moment):
        self.container, self.moment = container, moment

    def __getattr__(self, name):
        return getattr(self.container, name)

    def seek(self, _, stream):
        self.container.seek(self.moment, stream=stream, any_frame=True)


def test_threads_and_processes_read_the_same_frames(clips):
    source = opened(clips["a.mp4"])
    source.read(5)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda i: number_in(source.read(i)), SHUFFLED)) == SHUFFLED
    again = pickle.loads(pickle.dumps(source))
    assert found(again, SHUFFLED[:5]) == SHUFFLED[:5]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_process_forked_while_videos_are_open_reads_on(clips):
    """Nothing of FFmpeg's that has threads may come through the fork: the other process would wait for them."""
    source = opened(clips["a.mp4"])
    assert found(source, [5, 20]) == [5, 20]
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=lambda: answers.put(found(source, SHUFFLED)))
    process.start()
    try:
        assert answers.get(timeout=30) == SHUFFLED
    finally:
        process.kill()
    assert found(source, [21, 6]) == [21, 6]


def test_more_videos_than_are_held_open_are_read(tmp_path):
    for k in range(video.OPEN + 2):
        clip(tmp_path / f"{k}.mp4", frames=3 + k)
    source = opened(tmp_path)
    for _ in range(2):
        assert [found(source, [int(start) + 2]) for start in source.starts[:-1]] == [[2]] * (video.OPEN + 2)
    assert len(source.local.held) == video.OPEN


def test_frames_of_uneven_distance_are_found_by_their_times(tmp_path):
    times = [0, 10, 20, 30, 500, 510, 1000, 1001, 1002, 2000]
    source = opened(clip(tmp_path / "uneven.mkv", frames=10, times=times))
    assert found(source, [9, 7, 8, 4, 0]) == [9, 7, 8, 4, 0]
    assert [name[-2:] for name in opened(tmp_path / "uneven.mkv", fps=2).names] == ["00", "04", "06", "08", "09"]


# Which frames --------------------------------------------------------------------------------------------------------


def test_frames_a_second_are_the_nearest_to_even_times():
    even = np.arange(30) / 30
    assert taken(even, 10).tolist() == list(range(0, 30, 3))
    assert taken(even, 1).tolist() == [0] and taken(even, None).tolist() == list(range(30))
    rounded = np.round(even, 3)  # Matroska has milliseconds
    assert taken(rounded, 30).tolist() == taken(even, 60).tolist() == list(range(30))
    assert taken(rounded, 15).tolist() == list(range(0, 30, 2))
    assert taken(np.arange(300) * 1001 / 30000, 30).tolist() == list(range(300))
    assert taken(np.zeros(1), 5).tolist() == [0]


def test_a_folder_of_videos_is_a_list_of_their_frames_with_the_labels_of_their_folders(tmp_path):
    for name, frames in (("run/a.mp4", 9), ("run/b.mp4", 5), ("sit/c.mp4", 30)):
        clip(tmp_path / name, frames=frames)
    (tmp_path / "notes.md").write_text("x")
    assert modalities.of(str(tmp_path)) is image
    source = opened(tmp_path, fps=10)
    assert list(source.names)[:6] == [f"run/a.mp4/00000{k}" for k in (0, 3, 6)] + [
        "run/b.mp4/000000", "run/b.mp4/000003", "sit/c.mp4/000000",
    ]  # fmt: skip
    assert source.labels == ["run"] * 5 + ["sit"] * 10 and source.left_out == "1 .md"
    assert source.roles == [("videos", "3, 10 a second", "15 of 44 frames")]
    assert source.rates.round(6).tolist() == [10, 10, 10]
    assert found(source, [4, 1, 14]) == [3, 3, 27]
    everything = opened(tmp_path / "*" / "*.mp4")
    assert len(everything) == 44 and everything.labels[13:15] == ["run", "sit"]
    (tmp_path / "labels.csv").write_text("path,label\nrun/a.mp4,x\nrun/b.mp4,y\nsit/c.mp4,z\n")
    assert opened(tmp_path, labels=str(tmp_path / "labels.csv")).labels == ["x"] * 9 + ["y"] * 5 + ["z"] * 30
    listed = opened(tmp_path / "labels.csv", fps=10)
    assert listed.labels == ["x"] * 3 + ["y"] * 2 + ["z"] * 10 and list(listed.names) == list(source.names)
    rows = "".join(f"{name},{k % 2}\n" for k, name in enumerate(source.names))
    (tmp_path / "frames.csv").write_text(f"path,label\n{rows}")
    assert opened(tmp_path, fps=10, labels=str(tmp_path / "frames.csv")).labels == [str(k % 2) for k in range(15)]
    with pytest.raises(UserError, match="have no label"):
        opened(tmp_path, labels=str(tmp_path / "frames.csv"))


def test_images_and_videos_in_one_folder(tmp_path):
    from PIL import Image

    clip(tmp_path / "a.mp4", frames=2)
    Image.fromarray(paint(0, 0)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"images and videos \(1 .png, 1 .mp4\). Say which, as in .*\*\*/\*.mp4"):
        opened(tmp_path)
    assert len(opened(tmp_path / "**" / "*.mp4")) == 2 and len(opened(tmp_path / "*")) == 1
    Image.fromarray(paint(0, 1)).save(tmp_path / "b.png")
    source = opened(tmp_path)
    assert list(source.names) == ["a.png", "b.png"] and source.left_out == "1 .mp4"


def test_what_was_found_is_kept_until_a_video_changes(tmp_path, monkeypatch):
    looks = []
    look = video.scan
    monkeypatch.setattr(video, "scan", lambda file: looks.append(1) or look(file))
    path = clip(tmp_path / "a.mp4", frames=4)
    assert len(opened(path)) == len(opened(path)) == 4 and len(looks) == 1
    clip(path, frames=6)
    assert len(opened(path)) == 6 and len(looks) == 2


# What frames are made of ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("turn", "times"), [((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_frames_are_upright(tmp_path, turn, times):
    """As phones write them: the matrix in the track's header says how to turn what lies there."""
    path = clip(tmp_path / "a.mp4", frames=3)
    plain = opened(path).read(1)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0
    a, b, c, d = (65536 * part for part in turn)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(data)
    source = opened(tmp_path / "turned.mp4")
    assert (source.read(1) == np.rot90(plain, times)).all()  # counted against the clock
    assert source.header(1)[:2] == source.read(1).shape[:2]


def test_gray_videos_have_one_channel_and_deep_ones_eight_bits(tmp_path):
    if "ffv1" not in av.codecs_available:
        pytest.skip("this FFmpeg has no encoder ffv1")
    pictures = [numbered(k) for k in range(3)]
    gray = opened(write(tmp_path / "gray.mkv", pictures, "ffv1", {"g": "1"}, pixels="gray"))
    assert gray.header(0).channels == 1 and gray.read(2).shape == (HEIGHT, WIDTH, 1) and number_in(gray.read(2)) == 2
    deep = opened(write(tmp_path / "deep.mkv", pictures, "ffv1", {"g": "1"}, pixels="yuv444p10le"))
    assert deep.read(1).dtype == np.uint8 and abs(deep.read(1).astype(int) - pictures[1]).max() <= 2


def test_frames_are_measured_cut_cached_and_told_apart(tmp_path):
    clip(tmp_path / "a.mp4", frames=30)
    clip(tmp_path / "b.mp4", frames=12)
    source = opened(tmp_path)
    stats, broken = image.measure(source)
    assert (stats.items, stats.height, stats.width, stats.uniform, broken) == (42, HEIGHT, WIDTH, True, {})
    pixels = np.stack([source.read(i) for i in range(42)]) / 255
    assert np.allclose(stats.mean, pixels.mean((0, 1, 2)), atol=1e-6)
    source.fit(stats)
    views = image.recipe("weak", 32, stats)
    items = [40, 3, 11]
    plain = ViewPlan(full=0, plain=1)
    want = image.sample(source, items, plain, views, Draws(0, 0, 3))[0]
    plan = image.plan_cache(source, np.arange(42), views, None)
    cached = image.cached(source, np.arange(42), plan)
    for _ in range(2):  # filled, then read
        assert (image.sample(cached, items, plain, views, Draws(0, 0, 3))[0] == want).all()
    prints = [image.fingerprint(source, i) for i in (0, 30, 1)]
    assert prints[0].resolution == HEIGHT * WIDTH and prints[0].content != prints[2].content


def test_of_a_long_video_frames_behind_key_frames_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "LEAST", 2)
    source = opened(clip(tmp_path / "a.mp4", frames=30))
    assert 2 < len(source.keys) == source.counted < 6
    assert source.drawn(0, source.counted) == np.searchsorted(source.moments, source.keys).tolist()
    assert source.drawn(0, 30) == list(range(30)) and len(source.drawn(1, 7)) == 7


# What is wrong -------------------------------------------------------------------------------------------------------


def test_videos_that_cannot_be_read_are_one_item_with_the_reason(tmp_path):
    good = clip(tmp_path / "good.mp4")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no film\n" * 50)
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{good}\n")  # a list is no video, and opens no other file
    (tmp_path / "parts.mp4").write_text("ffconcat version 1.0\nfile good.mp4\n")  # the same
    (tmp_path / "cut.mp4").write_bytes(good.read_bytes()[:-600])  # its table stands at the end
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        sound.rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    source = opened(tmp_path)
    assert len(source) == 30 + 7
    _, broken = image.measure(source)
    reasons = {source.name(i): why for i, why in broken.items()}
    assert reasons.pop("empty.mp4/000000") == "it is empty: 0 bytes"
    assert reasons.pop("sound.mp4/000000") == "it holds no picture"
    assert "No such file" in reasons.pop("gone.mp4/000000")
    assert len(reasons) == 4 and all("not a video, or a damaged one" in why for why in reasons.values())
    assert found(source, [source.names.index("good.mp4/000017")]) == [17]
    for name in ("empty.mp4", "text.mp4"):
        with pytest.raises(UserError, match="none of the 1 images can be read"):
            image.measure(opened(tmp_path / name))


def test_a_video_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path):
    whole = clip(tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "half.mkv").write_bytes(whole[: len(whole) * 6 // 10])
    source = opened(tmp_path / "half.mkv")
    assert 8 <= len(source) < 30
    assert found(source, range(len(source) - 2)) == list(range(len(source) - 2))


def test_a_frame_that_does_not_come_is_an_unreadable_item_and_others_are_read(tmp_path):
    source = opened(clip(tmp_path / "a.mp4"))
    source.moments = source.moments.copy()
    source.moments[12] += 1  # a packet without a picture
    with pytest.raises(UnreadableItem, match=r"no frame comes at 0.400 s"):
        source.read(12)
    assert found(source, [13, 11]) == [13, 11]
    shutil.copy(tmp_path / "a.mp4", tmp_path / "b.mp4")
    other = opened(tmp_path / "b.mp4")
    (tmp_path / "b.mp4").write_bytes(b"changed meanwhile")
    with pytest.raises(UnreadableItem, match="not a video, or a damaged one"):
        other.read(3)


def test_without_the_package_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    path = clip(tmp_path / "a.mp4", frames=2)
    monkeypatch.setitem(sys.modules, "av", None)
    assert image.reads(str(path)) == image.reads(str(tmp_path)) == 1
    for place in (path, tmp_path, Path(tmp_path) / "*.mp4"):
        with pytest.raises(UserError, match=r"needs the package av. Install it with: pip install 'selfsame\[video\]'"):
            opened(place)
