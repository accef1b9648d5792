"""Sums of logged values, beside Python's own over the same numbers."""

import math

import torch

from rewardft.policy.records import sums_of


def test_sums_and_counts_of_values_of_several_lengths():
    nan = math.nan
    values = {
        "reward": torch.tensor([0.5, nan, 2.25], dtype=torch.float64),
        "norm": torch.tensor([3.0]),
        "ties": torch.tensor([True, False, True]),
        "absent": torch.tensor([nan, nan, nan]),
        "tokens": torch.arange(5),
    }
    found = sums_of(values)
    assert list(found) == list(values)
    for name, value in values.items():
        known = [float(v) for v in value if not math.isnan(v)]
        assert found[name].tolist() == [sum(known), len(known)], name
    assert sums_of({}) == {}


def test_a_value_beside_others_is_summed_to_the_same_bits():
    torch.manual_seed(0)
    for count in (1, 7, 8, 100, 1000):
        values = {str(n): torch.randn(count) for n in range(5)}
        for name, value in sums_of(values).items():
            assert torch.equal(value, sums_of({name: values[name]})[name])
            assert value[0] == values[name].nansum()
