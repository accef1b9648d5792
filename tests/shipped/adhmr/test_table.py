"""The tables of the documentation, from a comparison that is written here."""

import pytest
from rewardft_plugins.adhmr.table import tables

from rewardft.cli import main
from rewardft.contracts.records import ComparisonRecord, Interval, Value, VariantRecord
from rewardft.errors import DataError


def variant(name, values):
    return VariantRecord(name=name, recipe="r", algorithm="a", runs=[], values=values)


def value(name, before, base, best=None):
    made = [
        None if span is None else Interval(value=span[0], low=span[1], high=span[2])
        for span in ((before, before, before), base, best)
    ]
    return Value(
        name=name,
        role="held_out",
        samples=2,
        before=made[0],
        versus_base=made[1],
        versus_best=made[2],
    )


@pytest.fixture
def record():
    mpjpe, right = "tilted/hmr_errors/mpjpe", "plain/hmr_errors/pair_right"
    variants = [
        variant(
            "dpo",
            [
                value(mpjpe, 418.0, (-48.9, -56.0, -41.8), (-10.0, -17.6, -2.4)),
                value(right, 0.829, (0.01, -0.02, 0.04)),
            ],
        ),
        variant("winners", [value(mpjpe, 418.0, (-38.9, -44.1, -33.7))]),
    ]
    return ComparisonRecord(title="t", date="d", command="c", seeds=[0], variants=variants)


def test_groups_apart_with_changes_intervals_and_the_difference_of_two(record):
    assert tables(record).splitlines() == [
        "| tilted | base | dpo | winners | dpo less winners |",
        "| --- | --- | --- | --- | --- |",
        "| each hypothesis, MPJPE | 418.0 | −48.9 ± 7.1 | −38.9 ± 5.2 | −10.0 ± 7.6 |",
        "",
        "| plain | base | dpo | winners | dpo less winners |",
        "| --- | --- | --- | --- | --- |",
        "| best scored truly better than worst | 0.83 | +0.01 ± 0.03 (n. s.) | - | - |",
    ]


def test_the_command_prints_them_and_says_when_there_is_nothing(record, tmp_path, capsys):
    record.save(tmp_path / "comparison.json")
    assert main(["adhmr", "table", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("| tilted | base | dpo")
    empty = record.model_copy(update={"variants": [variant("dpo", [])]})
    with pytest.raises(DataError, match="has no values of hmr_errors; no run has finished"):
        tables(empty)
    assert main(["adhmr", "table", str(tmp_path / "nowhere")]) == 2
    assert "not a comparison as `rewardft compare` writes it" in capsys.readouterr().err
