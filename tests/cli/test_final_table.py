"""What a run prints at its end: paired values, and those that are one number for all samples."""

import json
import re

import torch

from rewardft.cli import main
from rewardft.cli.tables import print_comparison
from tests.bench import RECIPE

METRIC = """
import torch

from rewardft import hookimpl


class Spread:
    def reset(self):
        self.seen = []

    def update(self, rollout, batch):
        self.seen.append(rollout.decoded.flatten(1))

    def compute(self):
        return {"pixels": float(torch.cat(self.seen).std(0).mean()), "none": float("nan")}


@hookimpl
def register_metrics():
    return {"spread": Spread}
"""


def test_values_of_sets_stand_below_the_pairs(capsys):
    pair = {
        "name": "reward/a",
        "count": 4,
        "before": 1.0,
        "after": 2.0,
        "difference": 1.0,
        "half_width": 0.5,
    }
    sets = [
        {"name": "diversity/latents", "before": 0.8, "after": 0.6},
        {"name": "zero", "before": 0.0, "after": 0.25},
        {"name": "absent", "before": float("nan"), "after": 1.0},
    ]
    print_comparison([pair], sets)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[-4:] == [
        ["value", "base", "tuned", "change"],
        ["diversity/latents", "0.8", "0.6", "-25", "%"],
        ["zero", "0", "0.25", "+0.25"],
        ["absent", "nan", "1"],
    ]
    print_comparison([], [])
    assert capsys.readouterr().out == ""


def test_one_sample_has_no_interval(capsys):
    row = {"name": "m/a", "count": 1, "before": 1.0, "after": 2.0, "difference": 1.0}
    print_comparison([{**row, "half_width": float("inf")}])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[-1] == ["m/a", "1", "1", "2", "+1", "not", "separable"]


def test_a_run_prints_and_keeps_them(tmp_path, capsys):
    (tmp_path / "spread.py").write_text(METRIC)
    text = re.sub("plugins: .*", "plugins: [rewardft.testing.tiny, ./spread.py]", RECIPE)
    (tmp_path / "r.yaml").write_text(text + "evaluate: {samples: 4, metrics: [{use: spread}]}\n")
    assert main(["run", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    (spread, none) = summary["of_sets"]
    assert (spread["name"], none) == (
        "spread/pixels",
        {"name": "spread/none", "before": None, "after": None},
    )
    before, after = torch.tensor([spread["before"], spread["after"]])
    assert before > 0 and after > 0 and before != after
    assert f"spread/pixels {before:.4g} {after:.4g} {(after / before - 1):+.0%}".replace(
        "%", " %"
    ) in (re.sub(" +", " ", said))


def test_a_value_that_applies_to_no_sample_has_no_figures(capsys):
    nothing = float("nan")
    row = {"name": "m/a", "count": 0, "before": nothing, "after": nothing}
    print_comparison([{**row, "difference": nothing, "half_width": float("inf")}])
    printed = capsys.readouterr()
    assert "m/a 0 applies to no sample" in " ".join(printed.out.split())
    assert "nan" not in printed.out + printed.err
