"""Files that libraries write: complete or absent, with the path in the message."""

import errno
import os
import threading
from pathlib import Path

import pytest
import torch

from rewardft.comparisons.runner import signal_name
from rewardft.errors import CheckpointError
from rewardft.evaluation.pictures import write_image
from rewardft.files.atomic import replacing, write_folder, write_text
from rewardft.policy.memory import Memory
from rewardft.runs.samples import save_tensors


class FullDisk:
    """An image whose file ends in the middle."""

    def save(self, path, format):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    with pytest.raises(CheckpointError) as error:
        write_image(path, FullDisk())
    assert str(error.value) == f"{path}: could not be written (No space left on device)"
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a.png", b"old")]


def test_an_interrupt_leaves_nothing_and_stays_what_it_is(tmp_path):
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "x") as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_tensors_in_a_folder_that_is_not_there(tmp_path):
    path = tmp_path / "none" / "t.safetensors"
    with pytest.raises(CheckpointError, match=rf"^{path}: could not be written \(.*No such file"):
        save_tensors(path, {"x": torch.zeros(1)}, {})


def test_the_copy_that_a_kill_left_aside_is_kept_until_the_new_one_is_whole(tmp_path):
    path, aside = tmp_path / "step", tmp_path / ".step.old"
    write_folder(path, lambda place: (place / "a").write_text("1"))
    path.rename(aside)  # killed between the two renames

    def fails(place):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CheckpointError):
        write_folder(path, fails)
    assert (aside / "a").read_text() == "1"
    write_folder(path, lambda place: (place / "a").write_text("2"))
    assert (path / "a").read_text() == "2" and not aside.exists()


def test_contents_are_on_the_disk_before_they_get_their_name(tmp_path, monkeypatch):
    """After a power cut there is the old file or the new one, whole."""
    done = []

    def fsync(handle):
        done.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)

    def renamed(rename):
        return lambda old, new: (done.append(f"-> {Path(new).name}"), rename(old, new))[1]

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", renamed(os.rename))
    monkeypatch.setattr(os, "replace", renamed(os.replace))
    write_text(tmp_path / "a.json", "{}")
    own = f"{os.getpid()}.{threading.get_ident()}"
    assert done == [f".a.json.{own}.tmp", "-> a.json"]
    done.clear()
    write_folder(tmp_path / "step", lambda place: (place / "a").write_text("1"))
    *contents, folder, name, parent = done
    assert sorted(contents) == [".rewardft", "a"]
    assert (folder, name, parent) == (f".step.{os.getpid()}.tmp", "-> step", tmp_path.name)


def test_real_time_signals_have_a_number():
    assert (signal_name(9), signal_name(35)) == ("SIGKILL", "signal 35")


def test_memory_may_hold_tensors_of_inference_mode():
    with torch.inference_mode():
        memory = Memory(x=torch.zeros(2))
    assert memory.versions() == [(id(memory["x"]), 0)]
