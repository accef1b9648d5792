"""Sampling weights: how often items are drawn, with which noise, and that only the position is needed to go on."""

import math
from collections import Counter

import pytest
import torch

from rewardft.errors import DataError
from rewardft.noise import keyed_generator
from rewardft.policy.batches import Stream, evaluation_batches


class Weighted(list):
    def __init__(self, weights):
        super().__init__({"id": str(i)} for i in range(len(weights)))
        self.sampling_weights = weights


WEIGHTS = [3, 0.25, 0, 1, 1, 0.5, 7]


def drawn(weights, passes, seed=0, size=None):
    """The (id, epoch) of every draw."""
    stream, count = Stream(Weighted(weights), seed), len(weights)
    batches = [stream.next_batch(size or count) for _ in range(passes * count // (size or count))]
    return [pair for batch in batches for pair in zip(batch.ids, batch.epochs)]


def test_every_pass_has_each_item_as_often_as_its_weight_says_rounded_up_or_down():
    count, total = len(WEIGHTS), sum(WEIGHTS)
    pairs = drawn(WEIGHTS, 50)
    for start in range(0, len(pairs), count):
        seen = Counter(id_ for id_, _ in pairs[start : start + count])
        for i, weight in enumerate(WEIGHTS):
            share = count * weight / total
            assert math.floor(share) <= seen[str(i)] <= math.ceil(share)


def test_on_average_an_item_is_drawn_in_proportion_to_its_weight():
    passes, count, total = 600, len(WEIGHTS), sum(WEIGHTS)
    seen = Counter(id_ for id_, _ in drawn(WEIGHTS, passes))
    # A count that is rounded up or down has a standard deviation of at most 1/2 a pass.
    bound = 4.5 * 0.5 / math.sqrt(passes)
    for i, weight in enumerate(WEIGHTS):
        assert seen[str(i)] / passes == pytest.approx(count * weight / total, abs=bound)
    assert seen["2"] == 0


def test_neighbours_are_drawn_together_too():
    """With a fixed order of the items, two neighbours that share one draw would never both come."""
    weights = [1] * 6 + [8]  # half a draw for each of six, in a pass of seven
    pairs = drawn(weights, 100)
    together = [{"0", "1"} <= {id_ for id_, _ in pairs[i : i + 7]} for i in range(0, len(pairs), 7)]
    # Both, or neither, where an even number of halves stands between them: in 2 of 5 orders.
    assert 10 < sum(together) < 30


def test_a_sample_that_comes_again_has_other_noise():
    pairs = drawn(WEIGHTS, 40)
    assert len(set(pairs)) == len(pairs) and len({id_ for id_, _ in pairs}) == 6


def test_copies_are_spread_over_the_pass():
    places = [i % 7 for i, (id_, _) in enumerate(drawn(WEIGHTS, 200)) if id_ == "6"]
    assert min(Counter(places)[i] for i in range(7)) > 50


def test_equal_weights_draw_each_item_once_a_pass():
    pairs = drawn([0.1] * 9, 20)
    assert all(len({id_ for id_, _ in pairs[i : i + 9]}) == 9 for i in range(0, 180, 9))


def test_the_order_depends_on_the_seed_and_the_position_alone():
    single = drawn(WEIGHTS, 6, size=1)
    assert single == drawn(WEIGHTS, 6, size=7) == drawn(WEIGHTS, 6, size=3)
    assert single != drawn(WEIGHTS, 6, seed=1)
    resumed = Stream(Weighted(WEIGHTS), 0, position=17).next_batch(5)
    assert list(zip(resumed.ids, resumed.epochs)) == single[17:22]
    second_of_two = Stream(Weighted(WEIGHTS), 0).next_batch(4, rank=1, processes=2)
    assert list(zip(second_of_two.ids, second_of_two.epochs)) == single[4:8]


def test_without_weights_the_order_is_a_plain_permutation():
    data = [{"id": str(i)} for i in range(6)]
    order = torch.randperm(6, generator=keyed_generator(3, "order", 0)).tolist()
    batch = Stream(data, 3).next_batch(12)
    assert batch.ids[:6] == tuple(map(str, order)) and batch.epochs == (0,) * 6 + (1,) * 6


def test_huge_and_tiny_weights():
    seen = Counter(id_ for id_, _ in drawn([1e308, 1e308, 1e-308], 10))
    assert seen["2"] == 0 and abs(seen["0"] - seen["1"]) <= 20 and seen["0"] + seen["1"] == 30


def test_evaluations_take_each_item_once():
    (batch,) = evaluation_batches(Weighted(WEIGHTS), samples=7, size=7)
    assert batch.ids == tuple(map(str, range(7))) and batch.epochs == (0,) * 7


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([1, -1.0], "Weighted: expected finite sampling weights >= 0, got -1.0 for the item 1"),
        ([math.nan, 1], "Weighted: expected finite sampling weights >= 0, got nan for the item 0"),
        ([1, math.inf], "Weighted: expected finite sampling weights >= 0, got inf for the item 1"),
        ([0, 0.0], "Weighted: all sampling weights are 0, so there is nothing to draw"),
    ],
)
def test_weights_that_cannot_be_drawn_by(weights, said):
    with pytest.raises(DataError) as error:
        Stream(Weighted(weights), 0)
    assert str(error.value) == said


def test_one_weight_an_item():
    data = Weighted([1, 2])
    data.sampling_weights = [1, 2, 3]
    with pytest.raises(DataError) as error:
        Stream(data, 0)
    assert str(error.value) == "Weighted: expected 2 sampling weights, one an item, got (3)"


def test_what_is_no_number():
    with pytest.raises(
        DataError, match=r"^Weighted: expected sampling weights, one number an item "
    ):
        Stream(Weighted([1, "2"]), 0)
