"""Noise belongs to samples and the order of the data is a function of the seed."""

import pytest
import torch

from rewardft.errors import DataError
from rewardft.noise import Noise
from rewardft.policy.batches import Stream, evaluation_batches
from rewardft.testing.tiny import TinyBlobs
from rewardft.types import Batch, select_rows


def test_a_sample_gets_the_same_noise_in_any_batch():
    whole = Noise(0, ["a", "b", "c"], [0, 0, 0]).draw("step1", (2, 3))
    assert torch.equal(whole[1:2], Noise(0, ["b"], [0]).draw("step1", (2, 3)))
    assert torch.equal(whole[2], Noise(0, ["x", "c"], [0, 0]).draw("step1", (2, 3))[1])
    assert torch.equal(
        whole[1:], Noise(0, ["a", "b", "c"], [0, 0, 0]).select(slice(1, 3)).draw("step1", (2, 3))
    )


def test_noise_differs_by_seed_pass_sample_and_stream():
    draws = [
        Noise(0, ["a"], [0]).draw("s", (64,)),
        Noise(1, ["a"], [0]).draw("s", (64,)),
        Noise(0, ["a"], [1]).draw("s", (64,)),
        Noise(0, ["b"], [0]).draw("s", (64,)),
        Noise(0, ["a"], [0]).draw("t", (64,)),
    ]
    for i in range(5):
        for j in range(i):
            assert (draws[i] - draws[j]).abs().max() > 0.5


def test_noise_is_standard_normal():
    draw = Noise(0, [str(i) for i in range(200)], [0] * 200).draw("s", (50,))
    assert abs(float(draw.mean())) < 0.03 and abs(float(draw.std()) - 1) < 0.03


def test_every_pass_sees_every_sample_once_in_another_order():
    stream = Stream(TinyBlobs(size=10), seed=0)
    ids = [id_ for _ in range(8) for id_ in stream.next_batch(5).ids]
    passes = [ids[i : i + 10] for i in range(0, 40, 10)]
    assert all(len(set(p)) == 10 for p in passes) and len({tuple(p) for p in passes}) == 4


def test_the_order_does_not_depend_on_the_batch_size_or_the_number_of_processes():
    one, four, two = (Stream(TinyBlobs(size=7), seed=3) for _ in range(3))
    single = [one.next_batch(1).ids[0] for _ in range(16)]
    assert single == [i for _ in range(4) for i in four.next_batch(4).ids]
    other = Stream(TinyBlobs(size=7), seed=3)
    ranks = []
    for _ in range(4):
        ranks += [*two.next_batch(2, 0, 2).ids, *other.next_batch(2, 1, 2).ids]
    assert single == ranks


def test_a_stream_resumes_from_its_position_alone():
    first = Stream(TinyBlobs(size=7), seed=3)
    [first.next_batch(3) for _ in range(4)]
    second = Stream(TinyBlobs(size=7), seed=3, position=first.position)
    assert first.next_batch(3).ids == second.next_batch(3).ids


def test_items_without_an_id_are_refused():
    with pytest.raises(DataError) as error:
        Stream([{"x": 1.0}], seed=0).next_batch(1)
    assert str(error.value) == (
        "every item of a data set needs an `id` (a string, unique): its noise is drawn by it. "
        "Item 0 of this batch has None."
    )
    with pytest.raises(DataError, match="the data set list is empty"):
        Stream([], seed=0)


def test_two_items_of_one_id_are_refused():
    """They would get the same noise. In another pass over the data the same id is another sample."""
    items = [{"id": "a", "x": 1.0}, {"id": "b", "x": 2.0}, {"id": "a", "x": 3.0}]
    expected = (
        "several items of the data set have the same `id` ('a'): their noise is drawn by it, so they would give "
        "the same samples. Give every item an id of its own."
    )
    with pytest.raises(DataError) as error:
        Stream(items, seed=0).next_batch(3)
    assert str(error.value) == expected
    with pytest.raises(DataError) as error:
        list(evaluation_batches(items, samples=3, size=2))
    assert str(error.value) == expected
    assert sorted(Stream(items[:2], seed=0).next_batch(4).ids) == ["a", "a", "b", "b"]


def test_evaluation_batches_are_the_first_samples_in_order():
    batches = list(evaluation_batches(TinyBlobs(split="val"), samples=5, size=2))
    assert [b.ids for b in batches] == [("val/0", "val/1"), ("val/2", "val/3"), ("val/4",)]
    assert batches[0]["image"].shape == (2, 3, 8, 8) and batches[0]["label"].tolist() == [0, 1]


def test_batches_say_which_columns_they_have():
    with pytest.raises(
        KeyError, match="the batch has no column 'prompt'; the data set gave: image, label"
    ):
        Batch(("a",), (0,), {"image": 1, "label": 2})["prompt"]


def test_select_rows_walks_nested_conditions():
    value = {
        "a": torch.arange(4),
        "b": [torch.arange(4)] * 4,
        "c": None,
        "d": {"e": torch.tensor(3)},
    }
    cut = select_rows(value, slice(1, 3))
    assert (
        cut["a"].tolist() == [1, 2]
        and len(cut["b"]) == 2
        and cut["c"] is None
        and cut["d"]["e"] == 3
    )


def test_a_group_repeats_samples_with_noise_of_their_own():
    batch = Batch(("a", "b"), (0, 1), {"x": torch.tensor([1.0, 2.0]), "prompt": ["p", "q"]}).repeat(
        2
    )
    assert batch.ids == ("a#0", "a#1", "b#0", "b#1") and batch.epochs == (0, 0, 1, 1)
    assert batch["x"].tolist() == [1, 1, 2, 2] and batch["prompt"] == ["p", "p", "q", "q"]
    noise = Noise(0, batch.ids, batch.epochs).draw("s", (8,))
    assert (noise[0] - noise[1]).abs().max() > 0.5
