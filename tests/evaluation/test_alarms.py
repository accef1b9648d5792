"""Alarms: each rule on made-up figures, then a reward that is hacked and one that is not, in real runs."""

import json
import random

import numpy as np
import pytest

from rewardft.cli import main
from rewardft.errors import CheckpointError
from rewardft.evaluation.alarms import find_alarms, quantile
from rewardft.evaluation.evaluate import Evaluation
from rewardft.testing import run_recipe

TRAINED = ["reward/x"]


def noisy(center, count=40, seed=0):
    generator = random.Random(seed)
    return [center + generator.gauss(0, 0.1) for _ in range(count)]


def made_up(better=None, overall=None, **values):
    """An evaluation of 40 samples; `reward__x` is written for `reward/x`."""
    table = {name.replace("__", "/"): column for name, column in values.items()}
    better = {"reward/x": True, "reward/y": True, "judge/score": True, "judge/error": False} | (
        better or {}
    )
    ids = [f"s{i}" for i in range(40)]
    return Evaluation(
        ids, [], table, overall or {}, higher_is_better={n: better.get(n) for n in table}
    )


def names(baseline, now, **options):
    return [alarm.name for alarm in find_alarms(baseline, now, TRAINED, **options)]


# -- held-out values -------------------------------------------------------------------------------------------------


def test_a_held_out_value_that_falls_while_the_reward_rises():
    before = made_up(
        reward__x=[0.0] * 40, judge__score=[1.0] * 40, judge__error=[5.0] * 40, reward__y=[0.0] * 40
    )
    after = made_up(
        reward__x=noisy(0.5),
        judge__score=noisy(0.8, seed=1),
        judge__error=noisy(6.0, seed=2),
        reward__y=noisy(0.2, seed=3),
    )
    found = find_alarms(before, after, TRAINED)
    x, score, error = (
        np.array(after.per_sample[n]) - before.per_sample[n]
        for n in ("reward/x", "judge/score", "judge/error")
    )

    def half(v):
        return 1.96 * v.std(ddof=1) / len(v) ** 0.5

    rise = f"while reward/x got better, by {x.mean():+.3g} ± {half(x):.2g} (95 % intervals of paired differences, 40 samples)"
    assert [(alarm.name, alarm.sentence) for alarm in found] == [
        (
            "judge/score",
            f"judge/score got worse, by {score.mean():+.3g} ± {half(score):.2g}, {rise}",
        ),
        (
            "judge/error",
            f"judge/error got worse, by {error.mean():+.3g} ± {half(error):.2g}, {rise}",
        ),
    ]
    assert score.mean() < 0 < error.mean(), "an error that grows is worse"


def test_no_alarm_without_a_gain_without_a_loss_and_without_a_direction():
    before = made_up(reward__x=noisy(0.0), judge__score=noisy(1.0), kl__gaussian=[0.0] * 40)
    low, same = noisy(0.5, seed=5), noisy(0.0, seed=6)
    assert names(before, made_up(reward__x=same, judge__score=low, kl__gaussian=low)) == []
    assert (
        names(before, made_up(reward__x=low, judge__score=noisy(1.02, seed=7), kl__gaussian=low))
        == []
    )
    worse = made_up({"judge/score": None}, reward__x=low, judge__score=low, kl__gaussian=low)
    assert names(before, worse) == []
    assert names(before, made_up(reward__x=low, judge__score=low, kl__gaussian=low)) == [
        "judge/score"
    ]


def test_a_reward_of_negative_weight_is_better_when_it_falls():
    before = made_up({"reward/x": False}, reward__x=noisy(0.0), judge__score=noisy(1.0))
    assert names(
        before, made_up({"reward/x": False}, reward__x=noisy(-1.0, seed=1), judge__score=noisy(0.0))
    ) == ["judge/score"]
    assert (
        names(
            before,
            made_up({"reward/x": False}, reward__x=noisy(1.0, seed=1), judge__score=noisy(0.0)),
        )
        == []
    )


def test_values_that_do_not_apply_are_left_out():
    nan = float("nan")
    before = made_up(reward__x=[0.0] * 40, judge__score=[1.0] * 2 + [nan] * 38)
    after = made_up(reward__x=noisy(1.0), judge__score=[0.5, 0.4] + [nan] * 38)
    assert "2 samples" in find_alarms(before, after, TRAINED)[0].sentence
    after.per_sample["judge/score"][1] = nan
    assert names(before, after) == [], "one pair has no interval"


# -- diversity and image statistics ------------------------------------------------------------------------------------


def test_diversity_below_a_fraction_of_the_bases():
    before = made_up(
        overall={"diversity/latents": 0.8, "diversity/pixels": 0.0, "peak/highest": 4.0}
    )
    after = made_up(
        overall={"diversity/latents": 0.5, "diversity/pixels": 0.0, "peak/highest": 1.0}
    )
    assert [vars(alarm) for alarm in find_alarms(before, after, TRAINED)] == [
        {
            "name": "diversity/latents",
            "sentence": "diversity/latents fell to 62% of the base's, from 0.8 to 0.5 (the limit is 70%)",
        }
    ]
    assert names(before, after, min_diversity=0.6) == [] == names(before, after, min_diversity=0.0)


def test_a_statistic_that_leaves_the_range_of_the_bases_samples():
    base = [i / 39 for i in range(40)]
    before = made_up(
        image_statistics__contrast=base,
        image_statistics__saturation=[0.1 + 0.2] * 40,
        other__size=base,
    )
    low, high = np.quantile(base, [0.025, 0.975])
    inside = made_up(
        image_statistics__contrast=[0.96] * 40,
        image_statistics__saturation=[0.3] * 40,
        other__size=[9.0] * 40,
    )
    outside = made_up(
        image_statistics__contrast=[0.99] * 40, image_statistics__saturation=[0.2] * 40
    )
    assert names(before, inside) == [] and 0.96 < high < 0.99
    assert [alarm.sentence for alarm in find_alarms(before, outside, TRAINED)] == [
        f"image_statistics/contrast is 0.99 on average, outside the range {low:.3g} to {high:.3g} of 95 % of the base's "
        "samples",
        "image_statistics/saturation is 0.2 on average, outside the range 0.3 to 0.3 of 95 % of the base's samples",
    ]
    skewed = made_up(image_statistics__contrast=[0.0] * 39 + [40.0])
    assert names(skewed, skewed) == [], "the base itself is never out of its range"


def test_quantiles_are_numpys():
    values = noisy(3.0, count=23)
    for q in (0.0, 0.025, 0.5, 0.975, 1.0):
        assert quantile(values, q) == pytest.approx(np.quantile(values, q))
    assert quantile([2.0], 0.975) == 2.0


def test_a_model_that_has_not_changed_raises_few_alarms():
    """40 samples of the same distribution, 400 times: at most one in 40 for each held-out value, none for the rest."""
    counts = {"judge/score": 0}
    for seed in range(400):
        before = made_up(
            reward__x=[0.0] * 40,
            judge__score=noisy(0, seed=3 * seed),
            image_statistics__contrast=noisy(0, seed=3 * seed + 1),
        )
        after = made_up(
            reward__x=noisy(1.0),
            judge__score=noisy(0, seed=3 * seed + 2),
            image_statistics__contrast=noisy(0, seed=-seed - 1),
        )
        for name in names(before, after):
            counts[name] = counts.get(name, 0) + 1
    assert set(counts) == {"judge/score"} and 2 <= counts["judge/score"] <= 22, (
        counts
    )  # 10 expected


def test_evaluations_that_were_made_otherwise_are_refused():
    before, after = made_up(reward__x=noisy(0)), made_up(reward__x=noisy(0))
    after.settings = {"seed": 1}
    with pytest.raises(
        CheckpointError,
        match=r"^the two evaluations differ in their seed, so they cannot be compared",
    ):
        find_alarms(before, after, TRAINED)


def test_directions_survive_the_file():
    one = made_up(reward__x=[1.0] * 40, kl__gaussian=[0.0] * 40)
    loaded = Evaluation.from_json(json.loads(json.dumps(one.to_json())))
    assert loaded.higher_is_better == {"reward/x": True, "kl/gaussian": None}


# -- real runs -------------------------------------------------------------------------------------------------------

RECIPE = """\
plugins: [digits, metrics, ./pattern.py]
model: {use: digit_unet}
sampler: {use: ddim, steps: 6}
data: {use: digit_classes, batch_size: 32}
rewards: [{use: REWARD}]
algorithm: {use: drtune, train_steps: 2, early_stop: 2}
adapter: {kind: lora, rank: 4}
optimizer: {lr: 5e-3}
train: {steps: 16, log_every: 1}
evaluate:
  every: 8
  samples: 60
  batch_size: 60
  data: {split: val, size: 60}
  metrics: [{use: digit_judge}, {use: diversity}, {use: image_statistics}]
"""
PATTERN = '''\
"""A reward that one fixed picture maximises, whatever digit was asked for."""
import torch

from rewardft import hookimpl


def checkerboard(rollout, batch):
    cells = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    return -((rollout.decoded - cells) ** 2).flatten(1).mean(1)


@hookimpl
def on_evaluation_end(run, step, alarms):
    with (run.folder.parent / "told").open("a") as file:
        print(step, *[alarm.name for alarm in alarms], file=file)


@hookimpl
def register_rewards():
    return {"checkerboard": checkerboard}
'''


@pytest.fixture
def digits(tmp_path):
    """Runs the recipe above with a reward."""
    pytest.importorskip(
        "sklearn", reason="the digits come with scikit-learn: pip install 'rewardft[digits]'"
    )
    (tmp_path / "pattern.py").write_text(PATTERN)

    def run(reward, *overrides):
        (tmp_path / "recipe.yaml").write_text(RECIPE.replace("REWARD", reward))
        return run_recipe(tmp_path / "recipe.yaml", tmp_path / "run", *overrides)

    return run


def evaluation_lines(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["alarms"] for line in lines if "gradient_norm" not in line}


def test_a_hackable_reward_raises_alarms_and_can_stop_the_run(digits, capsys):
    run = digits("checkerboard", "evaluate.on_alarm=stop", "optimizer.lr=1e-2")
    summary = json.loads((run.folder / "summary.json").read_text())
    alarms = {alarm["name"]: alarm["sentence"] for alarm in summary["alarms"]}
    assert {"digit_judge/accuracy", "digit_judge/log_prob", "diversity/pixels_within_group"} <= set(
        alarms
    )
    assert any(name.startswith("image_statistics/") for name in alarms)
    assert "while reward/checkerboard got better, by +" in alarms["digit_judge/accuracy"]
    assert (summary["status"], summary["step"]) == ("stopped", 8)
    assert summary["reason"] == "alarm: " + "; ".join(alarms.values())
    assert evaluation_lines(run.folder) == {0: [], 8: list(alarms)}
    assert (run.folder.parent / "told").read_text().splitlines() == ["0", " ".join(["8", *alarms])]
    assert (run.folder / "checkpoints" / "step-00000008" / "state.json").is_file()
    shown = capsys.readouterr().err.splitlines()
    assert [line for line in shown if "alarm" in line] == [
        f"alarm at step 8:  {s}" for s in alarms.values()
    ]
    assert main(["evaluate", str(run.folder)]) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("alarm: ")] == [
        f"alarm: {s}" for s in alarms.values()
    ]
    assert json.loads((run.folder / "evaluation.json").read_text())["alarms"] == summary["alarms"]


def test_an_honest_reward_raises_none(digits):
    run = digits("digit_likelihood", "evaluate.on_alarm=stop")
    rows = {row["name"]: row for row in run.summary["evaluation"]}
    for name in ("reward/digit_likelihood", "digit_judge/log_prob"):
        assert rows[name]["difference"] > rows[name]["half_width"], name
    assert (run.summary["status"], run.summary["step"], run.summary["alarms"]) == (
        "finished",
        16,
        [],
    )
    assert evaluation_lines(run.folder) == {0: [], 8: [], 16: []}
