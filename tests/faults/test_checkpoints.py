"""Checkpoints survive kills, full disks and meddling; what is read back is what was written."""

import json
import os
import signal
import sys

import pytest
import torch

from rewardft.errors import CheckpointError
from rewardft.files.atomic import write_text
from rewardft.storage.checkpoint import latest_checkpoint, read_state, read_tensors, save_checkpoint


class Weights:
    """What a checkpoint needs of an adapter."""

    def __init__(self, value=1.0):
        self.value = value

    def save(self, folder):
        from safetensors.torch import save_file

        save_file({"w": torch.full((4,), self.value)}, folder / "adapter_model.safetensors")


def save(run, step, keep=3):
    return save_checkpoint(
        run,
        step,
        Weights(step),
        {"optimizer": {"m": torch.ones(3) * step}},
        {"position": step},
        keep,
    )


def test_round_trip(tmp_path):
    path = save(tmp_path, 7)
    state = read_state(path)
    assert (state["step"], state["position"]) == (7, 7)
    assert read_tensors(path, torch.device("cpu"))["optimizer"]["m"].tolist() == [7, 7, 7]
    assert latest_checkpoint(tmp_path) == path


def test_only_the_last_are_kept(tmp_path):
    for step in range(1, 6):
        save(tmp_path, step, keep=2)
    assert [p.name for p in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step-00000004",
        "step-00000005",
    ]


@pytest.mark.parametrize("damage", ["truncate", "delete", "flip"])
def test_damage_is_found_and_named(tmp_path, damage):
    path = save(tmp_path, 1)
    file = path / "training.pt"
    data = file.read_bytes()
    if damage == "delete":
        file.unlink()
    else:
        file.write_bytes(data[:-5] if damage == "truncate" else data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointError) as error:
        read_state(path)
    facts = json.loads((path / "state.json").read_text())["files"]["training.pt"]
    assert str(error.value) == (
        f"{file}: missing, truncated or changed since it was saved (expected {facts['bytes']} bytes with SHA-256 "
        f"{facts['sha256'][:12]}...). Delete {path} to resume from an older checkpoint."
    )


def test_a_hostile_pickle_is_not_executed(tmp_path):
    """Even with a matching checksum, loading runs no code."""
    path = save(tmp_path, 1)

    class Bomb:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path}/pwned",))

    torch.save({"optimizer": Bomb()}, path / "training.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        read_tensors(path, torch.device("cpu"))
    assert not (tmp_path / "pwned").exists()


def save_and_die(run, point):
    """In a forked child: save step 2 and kill -9 oneself at the given file operation. Returns the wait status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    calls = 0

    def audit(event, args):
        nonlocal calls
        if event in (
            "open",
            "os.rename",
            "os.mkdir",
            "os.remove",
            "os.rmdir",
        ) and "checkpoints" in str(args[0]):
            calls += 1
            if calls == point:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)
    save(run, 2, keep=1)
    os._exit(0)


def test_kill_at_every_file_operation_leaves_a_complete_checkpoint(tmp_path):
    """The save of step 2 is killed at its 1st, 2nd, ... file operation: step 1 or step 2 is there, whole, every time."""
    found, point, status = set(), 0, None
    while status != 0:
        point += 1
        run = tmp_path / str(point)
        save(run, 1)
        status = save_and_die(run, point)
        path = latest_checkpoint(run)
        assert path is not None, f"killed at operation {point}: no checkpoint is left"
        state = read_state(path)
        tensors = read_tensors(path, torch.device("cpu"))
        assert tensors["optimizer"]["m"].tolist() == [state["step"]] * 3
        found.add((status, state["step"]))
    assert found == {(signal.SIGKILL, 1), (signal.SIGKILL, 2), (0, 2)} and point > 8


def test_an_unwritable_folder_is_a_clear_error(tmp_path):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(
        CheckpointError,
        match=r"step-00000001: could not be written \(.*\). What was saved before is untouched.",
    ):
        save(tmp_path, 1)
    with pytest.raises(CheckpointError, match="could not be written"):
        write_text(tmp_path / "missing" / "file.json", "{}")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_keeps_the_old_checkpoint(tmp_path):
    save(tmp_path, 1)

    class Full(Weights):
        def save(self, folder):
            with open("/dev/full", "w") as file:
                file.write("x" * 100000)

    with pytest.raises(CheckpointError, match="No space left on device"):
        save_checkpoint(tmp_path, 2, Full(), {}, {}, 3)
    assert read_state(latest_checkpoint(tmp_path))["step"] == 1
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000001"]
