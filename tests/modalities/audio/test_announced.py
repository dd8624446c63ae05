"""WAVs whose header says another thing than the file holds."""

import io

import numpy as np
import pytest

from selfsame.errors import UserError
from selfsame.modalities import audio
from selfsame.modalities.audio.announced import Announced, announced

sf = pytest.importorskip("soundfile")


def wav(samples=8000, form="WAV", **settings):
    held = io.BytesIO()
    sf.write(held, np.random.default_rng(0).normal(size=samples) * 0.1, 8000, format=form, **settings)
    return held.getvalue()


def folder(root, **files):
    for name, data in files.items():
        (root / f"{name}.wav").write_bytes(data)
    return audio.open_source(str(root))


def test_what_a_header_announces_is_read_from_its_first_chunks():
    whole = wav()
    assert announced(io.BytesIO(whole)) == Announced(8000, 0.0)
    assert announced(io.BytesIO(whole[: 44 + 4000])) == Announced(8000, 0.75)
    noted = whole[:12] + b"LIST\x03\0\0\0abc\0" + whole[12:]  # a chunk of odd length is filled up
    assert announced(io.BytesIO(noted)) == Announced(8000, 0.0)
    streamed = whole[:40] + b"\xff\xff\xff\xff" + whole[44:]
    assert announced(io.BytesIO(streamed)) == Announced(8000, 0.0)
    assert announced(io.BytesIO(wav(form="RF64"))) == Announced(8000, 0.0)


@pytest.mark.parametrize("data", [b"", b"RIFF", wav(form="FLAC"), wav()[:20], b"RIFF\0\0\0\0WAVE" + b"\0" * 4000])
def test_what_is_no_wav_announces_nothing(data):
    assert announced(io.BytesIO(data)) is None


def test_recordings_that_were_cut_off_are_counted_and_named_and_read_as_far_as_they_go(tmp_path):
    source = folder(tmp_path, a=wav(), b=wav()[: 44 + 4000], c=wav())
    stats, skipped = audio.measure(source)
    assert skipped == {} and stats.cut_off == ("b.wav (75% lost)",) and stats.cut_off_count == 1
    assert "1 cut off before the end that the header says" in stats.summary
    (told,) = stats.cautions
    assert told.startswith("1 recording ends before the length that the header says") and "b.wav" in told
    assert len(source.read(1)) == 2000


def test_a_rate_of_zero_is_told_in_a_sentence_of_ours(tmp_path):
    whole = wav()
    source = folder(tmp_path, a=whole, b=whole[:24] + b"\0\0\0\0" + whole[28:])
    assert audio.measure(source)[1] == {1: "its header says 0 samples a second: write the rate that it was recorded at"}
    (tmp_path / "a.wav").unlink()
    with pytest.raises(UserError, match="0 samples a second"):
        audio.measure(audio.open_source(str(tmp_path)))
