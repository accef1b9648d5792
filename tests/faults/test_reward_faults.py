"""Rewards that fail in a run: what is counted, what is said, and what stops it."""

import pytest
import torch

from rewardft.errors import AuditError, RewardError
from rewardft.storage.recorder import dump_samples
from rewardft.testing import make_rollout
from rewardft.types import Batch

RECIPE = """\
plugins: [toy, ./mine.py]
model: {use: toy, prediction: v_prediction}
sampler: {use: ddim, steps: 4}
data: {use: toy_blobs, batch_size: 4, size: 16}
rewards: [{use: mine, on_error: skip}]
algorithm: {use: draft_k, train_steps: 1}
adapter: {rank: 2}
optimizer: {lr: 5e-3}
train: {steps: 3, log_every: 1, micro_batch: 2}
"""
HEAD = """\
import torch
from rewardft import hookimpl

calls = []

@hookimpl
def register_rewards():
    return {"mine": mine}

def mine(rollout, batch):
    calls.append(len(batch))
    value = rollout.decoded.flatten(1).mean(1)
"""


@pytest.fixture
def run(run_recipe):
    def start(body, *overrides):
        (run_recipe.folder / "mine.py").write_text(HEAD + body)
        return run_recipe(RECIPE, *overrides)

    return start


def test_a_skipped_batch_of_the_only_reward_is_counted_and_warned_of_once(run):
    """Two parts a step: the second step loses one of them, the third both; the run goes on with a zero slope."""
    body = "    if len(calls) in (4, 5, 6):\n        raise ValueError(f'call {len(calls)}')\n    return value\n"
    with pytest.warns(UserWarning) as caught:
        finished = run(body)
    assert finished.summary["status"] == "finished"
    assert finished.column("skipped/mine") == [0.0, 0.5, 1.0]
    norms = finished.column("gradient_norm")
    assert norms[0] > 0 and norms[1] > 0 and norms[2] == 0
    assert [str(w.message) for w in caught if "skipped" in str(w.message)] == [
        "reward 'mine' failed and is skipped for this batch (`on_error: skip`): ValueError: call 4. Later failures are "
        "counted in `skipped/mine` alone."
    ]


@pytest.mark.filterwarnings("ignore:reward 'mine' failed")
@pytest.mark.parametrize("beside", ["", ", {use: brightness}"])
def test_a_reward_that_fails_on_the_whole_first_step_stops_the_run(run, beside):
    with pytest.raises(AuditError) as caught:
        run("    raise ValueError('no face')\n", f"rewards=[{{use: mine, on_error: skip}}{beside}]")
    assert str(caught.value) == (
        "the start-up audit stopped the run; nothing was trained\n"
        "  - reward 'mine' failed on all of the first step: ValueError: no face. `on_error: skip` is for batches that "
        "fail now and then; fix the reward or remove it."
    )


def test_a_reward_whose_slope_is_nan_where_it_does_not_apply_is_named_with_the_samples(run):
    body = "    return value * (batch['label'] > 0) / (batch['label'] > 0)\n"
    with pytest.raises(RewardError) as caught:
        run(body, "train.micro_batch=4", "data.size=4")
    assert str(caught.value).startswith(
        "reward 'mine' is NaN (not applicable) for the samples train/0, and so is its gradient there:"
    )


def test_a_failing_dump_does_not_hide_the_rewards_error(run, tmp_path):
    """Here `failures` is a file, so that no folder can be made in it."""
    body = (
        f"    import pathlib\n    pathlib.Path({str(tmp_path / 'run' / 'failures')!r}).write_text('')\n"
        "    raise ValueError('no face')\n"
    )
    with pytest.raises(ValueError) as caught:
        run(body, "rewards=[{use: mine}]")
    assert str(caught.value) == "no face"
    note, made, place = caught.value.__notes__
    assert made.startswith("reward 'mine' is made at ") and made.endswith("mine.py:10")
    assert place == f"at step 0; the whole traceback is in {tmp_path / 'run' / 'error.txt'}"
    assert note.startswith("the samples that reward 'mine' failed on could not be written: ")
    assert "failures" in note


def test_a_reward_that_fails_on_held_out_samples_is_named_with_them_too(run, tmp_path):
    with pytest.raises(ValueError) as caught:
        run(
            "    raise ValueError('no face')\n",
            "evaluate.every=1",
            "evaluate.samples=2",
            "rewards=[{use: mine}]",
        )
    first = caught.value.__notes__[0]
    assert first.startswith(
        "reward 'mine' failed at step 0 on the samples train/0, train/1; dumped to "
    )
    assert list((tmp_path / "run" / "failures").iterdir())


def test_a_slope_that_is_nan_is_dumped_with_the_step_and_the_rewards_place(run):
    body = "    return value * (batch['label'] > 0) / (batch['label'] > 0)\n"
    with pytest.raises(RewardError) as caught:
        run(body, "data.size=4")
    first, second = caught.value.__notes__
    assert (
        first.startswith("reward 'mine' failed at step 0 on the samples ") and "dumped to" in first
    )
    assert second.endswith("mine.py:10")


@pytest.mark.parametrize(
    ("levels", "error", "notes"),
    [
        (["0.8", "2"], TypeError("no"), 2),
        (["0.8", "high"], TypeError("no"), 1),
        (["0.8", "2"], KeyError("no"), 1),
        (torch.tensor([0.8, 2.0]), TypeError("no"), 1),
    ],
)
def test_numbers_that_a_csv_gives_as_text_are_pointed_at(tmp_path, levels, error, notes):
    columns = {"prompt": ["a fox", "an owl"], "level": levels}
    batch = Batch(ids=("a", "b"), epochs=(0, 0), columns=columns)
    dump_samples(
        tmp_path / "dump", 3, "level", error, make_rollout(torch.zeros(2, 1), batch), batch
    )
    assert len(error.__notes__) == notes
    assert notes == 1 or error.__notes__[1] == (
        "the column 'level' holds numbers as text, such as '0.8', which is all that a .csv can hold; a .jsonl has numbers."
    )
