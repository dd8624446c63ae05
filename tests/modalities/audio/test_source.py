"""Recordings at rest: what is found, what is read, what is refused and why."""

import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from selfsame import modalities
from selfsame.errors import UnreadableItem, UserError
from selfsame.modalities.audio.measuring import measure
from selfsame.modalities.audio.opening import open_source, reads
from selfsame.modalities.audio.raw import heard, raw_vectors
from selfsame.modalities.audio.reading import Reading
from selfsame.modalities.audio.source import KEPT, AudioSource, ratio, resampled, sinc
from tests.modalities.audio.made import RATE, labelled, make, tone


def opened(folder: Path, **reading: object) -> AudioSource:
    source = open_source(str(folder), reading=Reading.model_validate(reading))
    source.fit(measure(source)[0])
    return source


def sine(rate: int, seconds: float, hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def test_a_folder_gives_items_and_labels_by_folder(tmp_path: Path) -> None:
    source = open_source(make(tmp_path, 6))
    assert len(source) == 6 and source.name(0) == "falls/000.wav"
    assert source.labels == ["falls"] * 3 + ["rises"] * 3


def test_labels_come_from_a_csv_a_list_and_a_glob(tmp_path: Path) -> None:
    path, csv = labelled(tmp_path)
    by_folder = open_source(path).labels
    assert open_source(path, csv).labels == by_folder == open_source(path, "folders").labels
    listing = tmp_path / "list.csv"
    listing.write_text("path,label\nsounds/falls/000.wav,down\nsounds/rises/001.wav,up\n")
    listed = open_source(str(listing))
    assert len(listed) == 2 and listed.labels == ["down", "up"]
    assert len(listed.read(1)) == round(0.35 * RATE)
    assert len(open_source(f"{path}/rises/*.wav")) == 16
    assert open_source(f"{path}/rises/001.wav").name(0) == "001.wav"


def test_what_is_told_where_labels_are_missing(tmp_path: Path) -> None:
    path, csv = labelled(tmp_path)
    Path(csv).write_text("path,label\nfalls/000.wav,down\n")
    with pytest.raises(UserError, match=r"31 of 32 recordings .* have no label"):
        open_source(path, csv)
    with pytest.raises(UserError, match="in no folders of their own"):
        open_source(f"{path}/falls", "folders")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_formats_rates_and_channels_go_together(tmp_path: Path, suffix: str) -> None:
    # Each is the same tone; read at one rate and of one channel, all agree.
    for rate, channels in ((8000, 1), (16000, 2), (44100, 1)):
        wave = sine(rate, 1.0)
        soundfile.write(tmp_path / f"{rate}.{suffix}", np.stack([wave] * channels, axis=1), rate)
    source = opened(tmp_path, rate=16000)
    assert source.stats is not None and source.stats.channels == 2
    wanted = sine(16000, 1.0)
    for i in range(3):
        read = source.read(i).astype(np.float32) / 32768
        assert abs(len(read) - 16000) <= 2400  # an encoder of frames pads
        middle = slice(4000, 12000)
        shift = range(-1300, 1301) if suffix == "mp3" else range(1)  # MP3 starts later
        error = min(float(np.abs(np.roll(read, k)[middle] - wanted[middle]).max()) for k in shift)
        assert error < (0.001 if suffix in ("wav", "flac") else 0.1)


def test_sixteen_bits_come_back_to_the_bit(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", stored, RATE)
    source = opened(tmp_path)
    assert (source.read(0) == stored).all()
    assert [len(piece) for piece in source.cut(0, lambda total: [(total - 10, 30), (-5, 8)])] == [30, 8]
    tail, head = source.cut(0, lambda total: [(total - 10, 30), (-5, 8)])
    assert (tail[:10] == stored[-10:]).all() and not tail[10:].any()
    assert (head[5:] == stored[:3]).all() and not head[:5].any()


@pytest.mark.parametrize(("have", "want"), [(44100, 16000), (8000, 16000), (22050, 8000), (11025, 16000)])
def test_a_piece_of_a_long_recording_is_what_the_whole_has_there(tmp_path: Path, have: int, want: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.2, have * 2), have, subtype="FLOAT")
    source = opened(tmp_path, rate=want)
    whole = source.cut(0, lambda total: [(0, total)])[0]
    source.kept.clear()
    places = [(0, 700), (1234, 901), (len(whole) - 500, 500), (len(whole) - 100, 300), (-50, 100)]
    pieces = source.cut(0, lambda total: places, whole=0)
    assert not source.kept
    for (at, count), piece in zip(places, pieces, strict=True):
        expected = np.pad(whole, (100, 400))[100 + at : 100 + at + count]
        assert np.abs(piece.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("rate", "level", "mode"), [(44100, 0.9, "VARIABLE"), (44100, 0.5, "CONSTANT"), (22050, 0.5, "VARIABLE")]
)
def test_a_piece_of_an_mp3_is_what_the_whole_has_there_and_nothing_is_said(tmp_path, capfd, rate, level, mode) -> None:
    """Frames borrow bits from those before, which a decoder that jumps between them lacks."""
    rng = np.random.default_rng(0)
    noise = np.repeat(rng.uniform(0.01, 0.3, 60), rate // 10) * rng.normal(
        size=6 * rate
    )  # loud and soft: bits are saved
    soundfile.write(tmp_path / "a.mp3", noise, rate, compression_level=level, bitrate_mode=mode)
    source = opened(tmp_path, rate=rate)
    whole = source.cut(0, lambda total: [(0, total)])[0]
    source.kept.clear()
    places = [(int(at), 3000) for at in rng.integers(0, len(whole) - 3000, 20)]
    for (at, count), piece in zip(places, source.cut(0, lambda total: places, whole=0), strict=True):
        assert np.abs(piece.astype(int) - whole[at : at + count]).max() <= 1
    os.write(2, b"heard again")
    assert capfd.readouterr().err == "heard again"


def test_an_mp3_that_does_not_tell_its_length_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 6 * 44100)
    soundfile.write(tmp_path / "a.mp3", noise, 44100, compression_level=0.99, bitrate_mode="CONSTANT")  # tells nothing
    tag = b"ID3" + bytes([3, 0, 0, 0, 0, 2, 16]) + b"Xing".ljust(2 * 128 + 16)  # a title may hold the word
    (tmp_path / "b.mp3").write_bytes(tag + (tmp_path / "a.mp3").read_bytes())
    for name in ("a.mp3", "b.mp3"):
        with soundfile.SoundFile(tmp_path / name) as sound:
            assert len(sound.read()) < sound.frames
        read = opened(tmp_path / name, rate=44100).read(0)
        assert 5.9 * 44100 < np.flatnonzero(read).max() < 6.1 * 44100
    soundfile.write(tmp_path / "c.mp3", noise, 44100)
    (tmp_path / "c.mp3").write_bytes((tmp_path / "c.mp3").read_bytes()[:20000])  # which told it
    with pytest.raises(UserError, match="it ends after"):
        opened(tmp_path / "c.mp3")


def test_resampling_keeps_what_fits_and_takes_away_what_does_not() -> None:
    from scipy.signal import resample_poly

    up, down = ratio(16000, 8000)
    noise = np.random.default_rng(0).normal(size=4000).astype(np.float32)
    assert np.abs(resampled(noise, up, down) - resample_poly(noise, up, down)).max() < 1e-5  # scipy's own filter
    assert sinc(up, down).sum() == pytest.approx(1)
    assert np.abs(resampled(sine(16000, 1, 7000), up, down)[1000:-1000]).max() < 0.005
    assert np.abs(resampled(sine(16000, 1, 1000), up, down)[1000:-1000]).max() == pytest.approx(0.5, abs=0.01)


def test_an_hour_is_read_by_pieces(tmp_path: Path) -> None:
    with soundfile.SoundFile(tmp_path / "hour.wav", "w", 16000, 1) as file:
        for second in range(0, 3600, 60):
            file.write(np.full(60 * 16000, second // 60 * 100, np.int16))
    source = opened(tmp_path)
    tracemalloc.start()
    (piece,) = source.cut(0, lambda total: [(total // 2, 16000)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert piece[0] == 3000 and len(piece) == 16000
    assert peak < 2 << 20  # the hour has 110 MB


def test_windows_of_a_recording_are_items(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    soundfile.write(tmp_path / "a" / "x.wav", np.repeat(np.arange(10, dtype=np.int16) * 100, RATE), RATE)
    soundfile.write(tmp_path / "b" / "y.wav", tone(0, 0), RATE)
    source = opened(tmp_path, window=3)
    assert [source.name(i) for i in range(len(source))] == ["a/x.wav@0s", "a/x.wav@3s", "a/x.wav@6s", "b/y.wav@0s"]
    assert source.labels == ["a", "a", "a", "b"]
    assert sorted(set(source.read(1).tolist())) == [300, 400, 500]
    assert len(source.read(3)) == len(tone(0, 0))
    assert len(opened(tmp_path, window=2, stride=1)) == 9 + 1  # the last second is in another already
    again = pickle.loads(pickle.dumps(source))
    assert (again.read(1) == source.read(1)).all() and again.name(2) == source.name(2)


def test_one_channel_may_be_chosen(tmp_path: Path) -> None:
    left, right = np.full(4000, 1000, np.int16), np.full(4000, -1000, np.int16)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), RATE)
    assert (opened(tmp_path, channel=1).read(0) == -1000).all()
    with pytest.raises(UserError, match=r"silent.*cancel.*--reading.channel 0"):
        opened(tmp_path)
    with pytest.raises(UserError, match="is 0 to 1, or mix; it was given 2"):
        opened(tmp_path, channel=2)


# Bad input -----------------------------------------------------------------------------------------------------------


def test_broken_recordings_are_listed_with_their_reasons(tmp_path: Path) -> None:
    make(tmp_path, 8)
    place = tmp_path / "sounds"
    soundfile.write(place / "empty.wav", np.zeros(0, np.float32), RATE)
    (place / "zero.wav").write_bytes(b"")
    (place / "text.wav").write_text("this is no recording")
    nan = tone(0, 0)
    nan[100] = np.nan
    soundfile.write(place / "nan.wav", nan, RATE, subtype="FLOAT")
    soundfile.write(place / "scale.wav", 30000 * tone(0, 0), RATE, subtype="FLOAT")
    whole = (place / "falls" / "000.wav").read_bytes()
    (place / "rate.wav").write_bytes(whole[:24] + b"\0\0\0\0" + whole[28:])
    (place / "link.wav").symlink_to(place / "gone.wav")
    flac = tmp_path / "cut.flac"
    soundfile.write(flac, np.random.default_rng(0).normal(0, 0.1, 40000), RATE)
    (place / "cut.flac").write_bytes(flac.read_bytes()[:9000])
    source = open_source(str(place))
    stats, broken = measure(source)
    reasons = {source.name(i): why for i, why in broken.items()}
    assert set(reasons) == {
        "empty.wav", "zero.wav", "text.wav", "nan.wav", "scale.wav", "rate.wav", "link.wav", "cut.flac",
    }  # fmt: skip
    assert "no samples" in reasons["empty.wav"] and "0 bytes" in reasons["zero.wav"]
    assert "not a recording" in reasons["text.wav"] and "NaN" in reasons["nan.wav"]
    assert "full scale is 1" in reasons["scale.wav"] and "No such file" in reasons["link.wav"]
    assert all("\n" not in why for why in reasons.values())
    assert stats.items == 8
    for i in broken:
        with pytest.raises(UnreadableItem):
            source.read(i)


def test_odd_recordings_are_read(tmp_path: Path) -> None:
    make(tmp_path, 4)
    place = tmp_path / "sounds"
    soundfile.write(place / "one.wav", np.array([0.5], np.float32), RATE)
    soundfile.write(place / "silent.wav", np.zeros(3000, np.float32), RATE)
    soundfile.write(place / "clipped.wav", 40 * tone(0, 1), RATE)
    soundfile.write(place / "hot.wav", 3 * tone(0, 1), RATE, subtype="FLOAT")
    (place / "really.mp3").write_bytes((place / "falls" / "000.wav").read_bytes())  # a wrong suffix
    source = opened(place)
    stats, broken = measure(source)
    assert (
        not broken
        and stats.silent == 1
        and stats.clipped >= 1
        and stats.seconds[0] == pytest.approx(1 / RATE, abs=1e-4)
    )
    assert "1 silent" in stats.summary and "clipped" in stats.summary
    read = {source.name(i): source.read(i) for i in range(len(source))}
    assert read["one.wav"].tolist() == [16384]
    assert (read["really.mp3"] == read["falls/000.wav"]).all()


def test_words_in_an_mp3_are_no_recording_and_the_decoder_says_nothing(tmp_path: Path, capfd) -> None:
    make(tmp_path, 4)
    (tmp_path / "sounds" / "words.mp3").write_text("no sound at all " * 40)
    source = open_source(str(tmp_path))
    _, broken = measure(source)
    assert list(broken.values()) == ["not a recording, or a damaged one"]
    assert capfd.readouterr().err == ""


def test_what_holds_no_recordings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no recordings in this folder\. It is empty"):
        open_source(str(tmp_path))
    (tmp_path / "a.m4a").write_bytes(b"x")
    (tmp_path / "b.txt").write_text("x")
    with pytest.raises(UserError, match=r"holds 1 .m4a, 1 .txt.*Convert .m4a first, as with: ffmpeg"):
        open_source(str(tmp_path))
    with pytest.raises(UserError, match="no source of recordings"):
        open_source(str(tmp_path / "a.m4a"))
    with pytest.raises(UserError, match="no such file or folder"):
        open_source(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="matches no file"):
        open_source(str(tmp_path / "*.wav"))
    (tmp_path / "c.wav").write_text("x")
    with pytest.raises(UserError, match=r"none of the 1 recordings can be read. The first, c.wav: not a recording"):
        measure(open_source(str(tmp_path)))
    soundfile.write(tmp_path / "c.wav", np.zeros(100), RATE)
    with pytest.raises(UserError, match="nothing can be heard: all of 1"):
        measure(open_source(str(tmp_path)))


def test_soundfile_is_asked_for_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path, 2)
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    assert reads(path) == 2
    with pytest.raises(UserError, match=r"pip install 'selfsame\[audio\]'"):
        open_source(path)


def test_it_knows_its_own(tmp_path: Path) -> None:
    path = make(tmp_path, 4)
    assert reads(path) == 4 and reads(f"{path}/falls/*.wav") == 2 and reads(f"{path}/falls/000.wav") == 1
    assert reads(str(tmp_path / "nowhere")) == reads("") == reads("*") == 0
    (tmp_path / "list.txt").write_text("sounds/falls/000.wav\n")
    assert reads(str(tmp_path / "list.txt")) == 1
    assert modalities.of(path).name == "audio"


def test_the_rate_is_that_of_most_and_at_most_16_khz(tmp_path: Path) -> None:
    for k, rate in enumerate((8000, 8000, 44100)):
        soundfile.write(tmp_path / f"{k}.wav", sine(rate, 0.2), rate)
    stats = measure(open_source(str(tmp_path)))[0]
    assert stats.rate == 8000 and stats.frame == 512 and stats.hop == 80
    (tmp_path / "0.wav").unlink()
    (tmp_path / "1.wav").unlink()
    assert measure(open_source(str(tmp_path)))[0].rate == 16000
    assert measure(open_source(str(tmp_path), reading=Reading(rate=44100)))[0].rate == 44100
    assert measure(open_source(str(tmp_path))) == measure(open_source(str(tmp_path)))


def test_what_is_kept_in_memory_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfsame.modalities.audio.source.KEPT", 3 * 2 * len(tone(0, 0)))
    source = opened(Path(make(tmp_path, 8)))
    first = [source.read(i) for i in range(8)]
    assert list(source.kept) == [5, 6, 7] and source.kept_bytes == 3 * 2 * len(tone(0, 0)) < KEPT
    assert all((source.read(i) == one).all() for i, one in enumerate(first))
    assert not pickle.loads(pickle.dumps(source)).kept


def test_statistics_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for k in range(4):
        soundfile.write(tmp_path / f"{k}.wav", rng.normal(0, 0.1, 16000 * (9 + k)), 16000)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            found.append(measure(open_source(str(tmp_path)))[0])
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_trivial_features_of_a_recording_with_damage_far_from_its_middle(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, bad in (("a", None), ("b", 28), ("c", 20), ("d", slice(0, 40))):
        sound = rng.normal(0, 0.1, (40, 8000)).astype(np.float32)
        if bad is not None:
            sound[bad] = np.nan
        soundfile.write(tmp_path / f"{name}.wav", sound.reshape(-1), 8000, subtype="FLOAT")
    source = open_source(str(tmp_path))
    stats = measure(source)[0]
    source.fit(stats)
    assert [len(heard(source, i, stats)) / 8000 for i in range(3)] == [30, 15, 15]
    np.testing.assert_array_equal(heard(source, 1, stats), source.cut(1, lambda n: [(n // 2 - 60000, 120000)])[0])
    np.testing.assert_array_equal(heard(source, 2, stats), source.cut(2, lambda n: [(0, 120000)])[0])
    assert raw_vectors([(source, [0, 1, 2])], stats)[0].isfinite().all()
    with pytest.raises(UnreadableItem, match="NaN"):
        heard(source, 3, stats)
