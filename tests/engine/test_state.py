import errno
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import selfsame as ss
from selfsame.engine.state import KEPT, States, claimed, resume, saved, write_text, write_whole
from selfsame.errors import UserError
from tests.conftest import QUICK, Tiny

LARGE = {"weights": torch.zeros(100_000)}


def optimizer_of(learner):
    optimizer = torch.optim.AdamW(learner.parameters(), lr=0.1)
    learner(torch.rand(4, 3, 12, 12)).square().mean().backward()
    optimizer.step()
    return optimizer


def save(folder, step, learner, optimizer, extra, kept=KEPT):
    with States(folder, kept) as states:
        states.save(step, learner, optimizer, extra)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def small_disk(tmp_path, request):
    """A real disk, of 64 KiB unless the test says otherwise."""
    folder = tmp_path / "small"
    folder.mkdir()
    size = getattr(request, "param", "64k")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("this user cannot mount a disk of its own")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


# Writing -------------------------------------------------------------------------------------------------------------


def test_a_writer_that_fails_leaves_the_old_file_and_no_draft(tmp_path):
    path = tmp_path / "plan.json"
    write_text(path, "old")

    def half(draft):
        draft.write_text("ne")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_whole(path, half)
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["plan.json"]


def test_a_refusal_or_a_ctrl_c_while_it_writes_leaves_no_draft_either(tmp_path):
    for error in (UserError("too many unreadable"), KeyboardInterrupt()):

        def half(draft, error=error):
            draft.write_text("ne")
            raise error

        with pytest.raises(type(error)):
            write_whole(tmp_path / "x.csv", half)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    "write",
    [
        lambda draft: draft.write_bytes(bytes(200_000)),
        lambda draft: save_file(LARGE, draft),
    ],
    ids=["bytes", "safetensors"],
)
def test_a_full_disk_is_said_in_one_line_whoever_writes(small_disk, write):
    (small_disk / "x").write_text("old")
    with pytest.raises(UserError, match=r"cannot write .*/x: the disk is full. Free some space") as error:
        write_whole(small_disk / "x", write)
    assert "\n" not in str(error.value)
    assert names_in(small_disk) == ["x"] and (small_disk / "x").read_text() == "old"


def test_a_state_for_which_the_disk_has_no_room_leaves_the_one_before(small_disk):
    learner = torch.nn.Linear(50, 50)
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
    save(small_disk, 1, learner, optimizer, {})
    with pytest.raises(UserError, match="the disk is full"):
        save(small_disk, 2, torch.nn.Linear(500, 500), optimizer, {})
    assert [path.name for path in small_disk.iterdir()] == ["step-000000001.pt"]
    assert resume(small_disk, learner, optimizer) == (1, {})


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EACCES, "no permission, or a read-only disk. Choose another folder with --out"),
        (errno.EROFS, "no permission, or a read-only disk"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_what_the_system_refuses_is_said_in_words(tmp_path, number, words):
    def refuse(draft):
        raise OSError(number, os.strerror(number))

    with pytest.raises(UserError, match=words) as error:
        write_whole(tmp_path / "x", refuse)
    assert str(tmp_path / "x") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="no permission"):
        write_text(tmp_path / "run" / "job.json", "{}")


def test_a_path_through_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match=r"a part of this path is a file. Choose another folder with --out"):
        write_text(tmp_path / "run" / "job.json", "{}")


def test_an_error_of_the_writer_itself_is_not_blamed_on_the_disk(tmp_path):
    def wrong(draft):
        raise RuntimeError("cannot write this kind of vector")

    with pytest.raises(RuntimeError, match="this kind of vector"):
        write_whole(tmp_path / "x", wrong)


# States --------------------------------------------------------------------------------------------------------------


def test_two_states_are_kept_and_the_newest_is_loaded(tmp_path, tiny):
    optimizer = optimizer_of(tiny)
    for step in (4, 8, 12):
        with torch.no_grad():
            tiny.body[0].bias.fill_(step)
        save(tmp_path, step, tiny, optimizer, {"health": {"bad": step, "start": None}})
    assert [path.name for path in saved(tmp_path)] == ["step-000000008.pt", "step-000000012.pt"]
    other = Tiny()
    moments = torch.optim.AdamW(other.parameters(), lr=0.5)
    assert resume(tmp_path, other, moments) == (12, {"health": {"bad": 12, "start": None}})
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), tiny.state_dict().values(), strict=True))
    assert moments.param_groups[0]["lr"] == 0.1
    ours, theirs = optimizer.state_dict()["state"], moments.state_dict()["state"]
    assert all(torch.equal(ours[k]["exp_avg_sq"], theirs[k]["exp_avg_sq"]) for k in ours)


def test_as_many_states_are_kept_as_asked(tmp_path, tiny):
    for step in range(1, 6):
        save(tmp_path, step, tiny, optimizer_of(tiny), {}, kept=3)
    assert [path.name[5:14] for path in saved(tmp_path)] == ["000000003", "000000004", "000000005"]
    save(tmp_path, 6, tiny, optimizer_of(tiny), {}, kept=1)
    assert [path.name[5:14] for path in saved(tmp_path)] == ["000000006"]


def test_a_state_that_cannot_be_read_back_costs_no_older_one(tmp_path, tiny, monkeypatch):
    optimizer = optimizer_of(tiny)
    for step in (4, 8):
        save(tmp_path, step, tiny, optimizer, {})
    write = torch.save

    def failing_disk(content, file):
        write(content, file)
        file.seek(-2000, os.SEEK_CUR)
        file.write(b"\0" * 500)

    monkeypatch.setattr(torch, "save", failing_disk)
    with pytest.raises(UserError, match=r"cannot be read back: its disk is failing"):
        save(tmp_path, 12, tiny, optimizer, {}, kept=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000004.pt", "step-000000008.pt"]


def test_drafts_of_processes_that_were_killed_are_removed_by_the_next_run(tmp_path):
    (tmp_path / "state").mkdir()
    for place in (tmp_path, tmp_path / "state"):
        (place / ".step-000000004.pt.123.tmp").touch()
    (tmp_path / "notes.tmp").touch()
    with claimed(tmp_path):
        assert sorted(path.name for path in tmp_path.rglob("*")) == [".lock", "notes.tmp", "state"]


def test_a_folder_without_states_begins_at_step_0(tmp_path, tiny):
    assert resume(tmp_path / "none", tiny, torch.optim.SGD(tiny.parameters())) == (0, {})


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def scribbled(path: Path) -> None:
    path.write_bytes(b"not a state" * 100)


def of_something_else(path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, path)


def flipped(path: Path) -> None:
    """One bit in the middle of the largest tensor."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as parts:
        largest = max(parts.infolist(), key=lambda part: part.file_size)
    data[largest.header_offset + 200 + largest.file_size // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [halved, emptied, scribbled, of_something_else, flipped])
def test_a_damaged_newest_state_is_named_and_deleting_it_helps(tmp_path, tiny, damage):
    optimizer = optimizer_of(tiny)
    for step in (4, 8):
        save(tmp_path, step, tiny, optimizer, {})
    damage(tmp_path / "step-000000008.pt")
    with pytest.raises(UserError, match=r"step-000000008.pt is damaged .*Delete that file to go on from step-0+4") as e:
        resume(tmp_path, Tiny(), optimizer_of(Tiny()))
    assert "\n" not in str(e.value)
    (tmp_path / "step-000000008.pt").unlink()
    assert resume(tmp_path, tiny, optimizer) == (4, {})
    halved(tmp_path / "step-000000004.pt")
    with pytest.raises(UserError, match=r"step-000000004.pt is damaged .*Delete that file to start this run anew"):
        resume(tmp_path, tiny, optimizer)


def test_a_state_never_runs_code(tmp_path, tiny):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"step": Trap()}, tmp_path / "step-000000001.pt")
    with pytest.raises(UserError, match="is damaged"):
        resume(tmp_path, tiny, optimizer_of(tiny))
    assert not (tmp_path / "sprung").exists()


def test_the_state_of_another_network_is_refused_in_one_line(tmp_path, tiny):
    save(tmp_path, 4, tiny, optimizer_of(tiny), {})
    other = Tiny(dim=4)
    with pytest.raises(UserError, match=r"was saved by another network or version.*Choose another folder") as error:
        resume(tmp_path, other, optimizer_of(other))
    assert "\n" not in str(error.value)


def test_the_moments_of_another_optimiser_are_refused(tmp_path, tiny):
    save(tmp_path, 4, tiny, optimizer_of(tiny), {})
    with pytest.raises(UserError, match="another network or version"):
        resume(tmp_path, Tiny(), torch.optim.SGD(list(Tiny().parameters())[:2]))


def test_a_state_that_cannot_be_read_is_not_called_damaged(tmp_path, tiny, monkeypatch):
    save(tmp_path, 4, tiny, optimizer_of(tiny), {})

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(UserError, match=r"cannot be read: .*Permission denied.* The file is untouched"):
        resume(tmp_path, tiny, optimizer_of(tiny))


@pytest.mark.parametrize("small_disk", ["4m"], indirect=True)
def test_a_disk_that_is_full_during_a_save_stops_the_run_in_words_and_loses_nothing(small_disk, pictures, tmp_path):
    settings = {**QUICK, "save_every": 2, "epochs": 4, "cache": 0}
    whole = ss.pretrain(pictures, out=tmp_path / "whole", **settings)
    filler = small_disk / "filler"
    met = []

    def fill(*args, **more):
        """Somebody else takes what is left of the disk, but for a part of a state, before the third save."""
        met.append(1)
        if len(met) == 3:
            free = shutil.disk_usage(small_disk).free
            filler.write_bytes(bytes(free - 20_000))
        return saving(*args, **more)

    saving = torch.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", fill)
        with pytest.raises(
            UserError, match=r"cannot write .*step-.*: the disk is full. Free some space and run the same"
        ):
            ss.pretrain(pictures, out=small_disk / "run", **settings)
    states = sorted(path.name for path in (small_disk / "run" / "state").iterdir())
    assert len(met) == 3 and len(states) == 2  # those before it, and no draft
    filler.unlink()
    run = ss.pretrain(pictures, out=small_disk / "run", **settings)
    weights = [(folder / "encoder.safetensors").read_bytes() for folder in (whole.folder, run.folder)]
    assert weights[0] == weights[1]
