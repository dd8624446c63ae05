import pytest

from selfsame.errors import UserError
from selfsame.jobs.checked import spared


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ("{}/sounds/a.wav", []),
        ("{}/sounds/a.wav::x", []),
        ("{}/sounds", ["b.wav", "a.wav"]),
        ("{}/sounds/*.wav", ["a.wav@2.5s"]),
        ("{}", ["sounds/a.wav:12"]),
        ("{}/list.txt", ["{}/sounds/a.wav"]),
    ],
)
def test_a_file_that_is_read_is_not_written(data, names, tmp_path):
    (tmp_path / "sounds").mkdir()
    out = tmp_path / "sounds" / "a.wav"
    out.touch()
    with pytest.raises(UserError, match=f"--out {out} is .* which would be lost"):
        spared(out, data.format(tmp_path), [name.format(tmp_path) for name in names])


def test_other_files_may_be_written_again(tmp_path):
    for folder in ("sounds", "elsewhere"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.wav").touch()
    spared(tmp_path / "elsewhere" / "a.wav", str(tmp_path / "sounds"), ["a.wav"])
    spared(tmp_path / "sounds" / "a.wav", str(tmp_path / "sounds"), ["a.wave", "b/a.wav"])
    spared(tmp_path / "sounds" / "new.wav", str(tmp_path / "sounds"), ["new.wav"])  # made since the names were read
