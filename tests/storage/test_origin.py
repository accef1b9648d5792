"""What determines a run beside its recipe is written down and checked when it goes on."""

import pytest

from rewardft.errors import CheckpointError
from rewardft.storage.origin import Origin, check_same_origin


def test_other_processes_are_refused():
    before = Origin(1, {}, {}).to_json()
    with pytest.raises(CheckpointError) as caught:
        check_same_origin(before, Origin(2, {}, {}), allow_changed_plugins=False)
    assert str(caught.value) == (
        "the checkpoint was saved by a run of 1 processes, and this one has 2: each takes data.batch_size samples a step, "
        "so resuming would not continue the same run. Start 1, or a new run with another --out."
    )


def test_other_data_are_refused():
    before = Origin(1, {}, {"a.npy": "1", "b.npy": "2"}).to_json()
    with pytest.raises(CheckpointError) as caught:
        check_same_origin(before, Origin(1, {}, {"a.npy": "1", "b.npy": "3"}), False)
    assert str(caught.value) == (
        "the data have changed since the checkpoint was saved: b.npy. Resuming would not continue the same run. Restore "
        "them, or start a new run with another --out."
    )
