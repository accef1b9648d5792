"""What a comparison says of its own fairness, before it runs and in its report; values at equal divergence."""

import math

import numpy as np
import pytest

from rewardft.cli import main
from rewardft.comparisons.api import Options, build_request
from rewardft.comparisons.fairness import starts, unfair
from rewardft.comparisons.matching import at_equal_divergence, interpolated, parse_match
from rewardft.comparisons.members import expand
from rewardft.comparisons.read_runs import RunResults
from rewardft.contracts.records import RunRecord, load_comparison
from rewardft.errors import RecipeError
from rewardft.evaluation.evaluate import Evaluation

RECIPE = """
plugins: [rewardft.testing.tiny]
model: {use: tiny, prediction: v_prediction, width: 8}
sampler: {use: ddim, steps: 3}
data: {use: tiny_blobs, size: 10, batch_size: 2}
rewards: [{use: tiny_brightness}]
regularizers: [{use: kl, weight: 0.01}]
algorithm: {use: draft_k}
adapter: {kind: lora, rank: 2}
optimizer: {lr: 1e-2}
train: {steps: 4}
evaluate: {every: 1, samples: 8, data: {split: val}}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


LONG = ["sampler.steps=12"]  # enough for the defaults of all algorithms


def said(folder, *vary, settings=(), recipes=("recipe.yaml",), matched=False):
    members = expand(build_request(recipes, Options(vary, settings)), folder / "out")
    return unfair(members, matched=matched)


def test_nothing_is_said_of_what_is_fair(folder):
    assert said(folder, "optimizer.lr=1e-2,1e-3") == []
    assert said(folder) == []
    given = ["optimizer.lr=1e-3", "regularizers=[]", *LONG]
    assert said(folder, "algorithm=draft_k,drtune", settings=given) == []


def test_other_weights_are_what_a_sweep_compares(folder):
    two = "rewards=[{use: tiny_brightness, name: a}, {use: tiny_brightness, name: b}]"
    (folder / "c.yaml").write_text("recipes: [recipe.yaml]\npareto: {rewards: [a, b], points: 3}\n")
    request = build_request(["c.yaml"], Options([], [two]))
    members = expand(request, folder / "out")
    assert len(members) == 3 and "different rewards" in unfair(members)[0]
    assert unfair(members, weighed=True) == []


def test_scales_under_a_shared_regularizer(folder):
    (penalty,) = said(folder, "algorithm=draft_k,refl", settings=["optimizer.lr=1e-3", *LONG])
    assert penalty == (
        "Losses of different scales (algorithm.scale: draft_k 1, refl 0.001), while the regularizer kl has the "
        "weight 0.01 in all variants: beside its loss it weighs 1000 times as much in refl as in draft_k. Give all "
        "one scale."
    )


def test_algorithms_under_a_shared_regularizer(folder):
    (penalty,) = said(folder, "algorithm=draft_k,drtune", settings=["optimizer.lr=1e-3", *LONG])
    assert penalty.startswith("Different algorithms, while the regularizer kl has the weight 0.01")
    assert penalty.endswith(" --match divergence compares at equal divergence from the base.")
    # Where that is done, no regularizer decides.
    rate_of_its_own = ["optimizer.lr=1e-3", *LONG]
    vary = "algorithm=draft_k,drtune"
    assert said(folder, vary, settings=rate_of_its_own, matched=True) == []
    # One that is held back a thousand times as strongly sets how far all are compared.
    (scale,) = said(folder, "algorithm=draft_k,refl", settings=rate_of_its_own, matched=True)
    assert scale.startswith("Losses of different scales")
    # Weights that differ are what is compared.
    assert said(folder, "regularizers.0.weight=0.01,0.1") == []


def test_a_rate_of_another_algorithm(folder):
    (rate,) = said(folder, "algorithm=draft_k,drtune", settings=["regularizers=[]", *LONG])
    assert rate == (
        "Tuned for one side: optimizer.lr 0.01 of recipe was set for draft_k, and drtune borrows it. "
        "--tune optimizer.lr=0.003,0.01,0.03 gives every variant the same search."
    )


def test_bases_and_judges(folder):
    given = ["evaluate.sampler={use: ddim, steps: 3}"]
    (base,) = said(folder, "model.prediction=v_prediction,epsilon", settings=given)
    assert base == (
        "Different base models: prediction=v_prediction: prediction v_prediction; prediction=epsilon: prediction "
        "epsilon. No verdict is given across them."
    )
    (judge,) = said(folder, "sampler.steps=3,4")
    assert judge == (
        "Evaluated with different samplers: steps=3: steps 3; steps=4: steps 4. Set evaluate.sampler to judge all "
        "by one."
    )


SCRATCH = """
from rewardft import hookimpl
from rewardft.testing.tiny import TinyModel

class Scratch(TinyModel):
    from_scratch = True

@hookimpl
def register_models():
    return {"scratch": Scratch}
"""


def test_what_begins_from_nothing_is_compared_by_where_it_ends(folder, capsys):
    """Its options are what is compared, and no base that is trained further."""
    (folder / "scratch.py").write_text(SCRATCH)
    sets = ["plugins=[rewardft.testing.tiny, ./scratch.py]", "train.steps=2"]
    (folder / "mine.yaml").write_text(RECIPE.replace("use: tiny,", "use: scratch,"))
    words = [word for one in sets for word in ("--set", one)] + ["--vary", "model.width=8,12"]
    assert main(["compare", "mine.yaml", *words, "--out", "out", "--pictures", "0"]) == 0
    assert "not fair" not in capsys.readouterr().err
    record = load_comparison(folder / "out" / "comparison.json")
    (note,) = (note for note in record.notes if "starts from nothing" in note)
    assert note == (
        "Each variant starts from nothing, with a model of its own: width=8: width 8; width=12: width 12. Verdicts are "
        "of where they end; their changes are from different starts."
    )
    assert not any("The base's own" in note for note in record.notes)
    first, second = (
        next(v for v in variant.values if v.name == "reward/tiny_brightness")
        for variant in record.variants
    )
    gap = first.after.value - second.after.value
    assert first.best == "width=12" and first.versus_best.value == pytest.approx(gap)
    # Beside a model with a base there are two bases again.
    other = ["mine.yaml", "recipe.yaml"]
    members = expand(build_request(other, Options((), sets)), folder / "out")
    (base,) = (text for text in unfair(members) if text.startswith("Different base models: "))
    assert base.startswith("Different base models: mine: scratch; recipe: tiny.")
    assert starts(members) == []


def test_rewards_of_other_names_and_weights(folder):
    (other,) = said(folder, "rewards=[[{use: tiny_brightness}],[{use: tiny_brightness, name: b}]]")
    assert other.startswith("Trained for different rewards: ") and other.endswith(": b.")
    (weights,) = said(folder, "rewards.0.weight=1.0,10.0")
    assert (
        weights == "The reward tiny_brightness has different weights: weight=1.0 1, weight=10.0 10."
    )


def evaluation(divergence, value, **settings):
    columns = {"kl/gaussian": list(divergence), "reward/r": list(value)}
    ids = [str(i) for i in range(len(columns["reward/r"]))]
    return Evaluation(
        ids=ids,
        per_sample=columns,
        settings={"seed": 1, "data": {}, "model": {}, "rewards": {"r": {}}, **settings},
        higher_is_better={"reward/r": True},
    )


def run_of(divergences, values):
    """A run with evaluations at steps 0, 1, ...; rows are samples' values at each step."""
    record = RunRecord(seed=0, folder="x", status="finished")
    along = {i: evaluation(d, v) for i, (d, v) in enumerate(zip(divergences, values))}
    return RunResults(None, record, along[0], along[max(along)], ["reward/r"], along)


def test_a_run_is_read_where_it_has_gone_as_far():
    """Means between two evaluations lie on the straight line; the base's values are as they were."""
    rng = np.random.default_rng(0)
    d = np.array([np.zeros(6), *(rng.uniform(0.5, 1.5, (3, 6)) * [[1], [2], [4]])])
    v = rng.normal(size=(4, 6)) + np.arange(4)[:, None]
    means = d.mean(1)
    roots = np.sqrt(means)
    level = float((roots[1] + 0.25 * (roots[2] - roots[1])) ** 2)
    found = at_equal_divergence({"a": [run_of(d, v)]}, level)
    (run,) = found.runs["a"]
    name = f"reward/r at kl/gaussian {level:.3g}"
    tuned = np.array(run.tuned.per_sample[name])
    assert tuned.mean() == pytest.approx(0.75 * v[1].mean() + 0.25 * v[2].mean())
    assert run.base.per_sample == {name: list(v[0])}
    # Each sample's share of what is not known of the place on the curve, by hand.
    slope = (v[2].mean() - v[1].mean()) / (roots[2] - roots[1])
    errors = [(d[k] - means[k]) / (2 * roots[k]) for k in (1, 2)]
    expected = 0.75 * (v[1] - slope * errors[0]) + 0.25 * (v[2] - slope * errors[1])
    assert tuned == pytest.approx(expected)


def test_the_influence_of_a_sample_is_that_of_leaving_it_out():
    """u_i - mean(u) against the jackknife of the whole estimate, for many samples."""
    rng = np.random.default_rng(1)
    n = 4000
    g = rng.lognormal(0, 0.5, n)
    d, v = (
        np.array([0.2 * g, 0.5 * g]),
        np.array([0.3 * g + rng.normal(size=n), 0.5 + rng.normal(size=n)]),
    )
    level = 0.4

    def estimate(keep):
        low, high = np.sqrt(d[0][keep].mean()), np.sqrt(d[1][keep].mean())
        share = (np.sqrt(level) - low) / (high - low)
        return (1 - share) * v[0][keep].mean() + share * v[1][keep].mean()

    u = interpolated((v[0], v[1]), (d[0], d[1]), level)
    everything = np.ones(n, bool)
    whole = estimate(everything)
    assert u.mean() == pytest.approx(whole)
    for i in range(5):
        keep = everything.copy()
        keep[i] = False
        assert (n - 1) * (whole - estimate(keep)) == pytest.approx(u[i] - u.mean(), abs=2e-3)


def test_the_level_is_as_far_as_every_run_goes_and_a_given_one_leaves_some_out():
    far = [run_of([[0, 0], [1, 1], [3, 3]], [[0, 0], [1, 1], [2, 2]])]
    near = [run_of([[0, 0], [0.5, 0.5], [1.5, 1.5]], [[0, 0], [3, 3], [4, 4]])]
    found = at_equal_divergence({"far": far, "near": near}, None)
    assert found.notes == (
        "At equal divergence: values at kl/gaussian 1.5 (as far as every run goes; the shortest way is that of near).",
    )
    early = at_equal_divergence({"far": far, "near": near}, 0.7)
    assert early.notes[1:] == (
        "Not fair: The level of equal divergence lies before the first evaluation of far, where a straight line is all "
        "that is known: evaluate more often.",
    )
    assert [
        found.runs[n][0].tuned.per_sample["reward/r at kl/gaussian 1.5"] for n in ("far", "near")
    ] == [
        pytest.approx([1 + (1.5**0.5 - 1) / (3**0.5 - 1)] * 2),
        [4, 4],
    ]
    given = at_equal_divergence({"far": far, "near": near}, 2.0)
    assert given.notes[0].endswith("(as asked). Not reached by all runs of near.")
    assert given.runs["near"] == []


def test_a_run_that_starts_beyond_the_level_is_left_out():
    """As one of `adapter.init`: its first evaluation is not that of the base."""
    base = [run_of([[0, 0], [1, 1]], [[0, 0], [1, 1]])]
    begun = [run_of([[2, 2], [3, 3]], [[5, 5], [6, 6]])]
    found = at_equal_divergence({"base": base, "begun": begun}, None)
    assert found.runs["begun"] == [] and len(found.runs["base"]) == 1
    assert found.notes[0].endswith(" Left out, as they start beyond it: begun.")


def test_what_cannot_be_matched_says_why():
    still = [run_of([[0, 0], [0, 0]], [[0, 0], [1, 1]])]
    assert at_equal_divergence({"a": still}, None) == (
        "Not matched: a does not leave the base (kl/gaussian is 0)."
    )
    bare = RunResults(None, still[0].record, Evaluation(ids=["a"]), Evaluation(ids=["a"]))
    assert at_equal_divergence({"a": [bare]}, None).startswith("Not matched: the runs have no")


@pytest.mark.parametrize(
    "text",
    [
        "diverge",
        "divergence=",
        "divergence=-1",
        "divergence=nan",
        "divergence=inf",
        "divergence=0_5",
    ],
)
def test_a_word_that_will_not_do(text):
    with pytest.raises(RecipeError, match="expected divergence, or divergence="):
        parse_match(text)


def test_a_value_that_applies_to_some_samples_alone():
    u = interpolated(
        (np.array([1.0, math.nan, 3.0]), np.array([2.0, math.nan, 5.0])),
        (np.array([1.0, 1.0, 1.0]), np.array([3.0, 3.0, 3.0])),
        2.0,
    )
    half = (2**0.5 - 1) / (3**0.5 - 1)
    assert u[[0, 2]] == pytest.approx([1 + half, 3 + 2 * half]) and math.isnan(u[1])


def test_a_whole_comparison_at_equal_divergence(folder):
    """The report is about the matched value; its estimate is read off the runs' own evaluations."""
    words = ["compare", "recipe.yaml", "--vary", "optimizer.lr=1e-2,3e-2", "--seeds", "2"]
    given = ["--match", "divergence", "--out", "out", "--pictures", "0"]
    assert main([*words, *given]) == 0
    record = load_comparison(folder / "out" / "comparison.json")
    assert record.target.startswith("reward/tiny_brightness at kl/epsilon_mse ")
    level = float(record.target.split()[-1])
    for variant in record.variants:
        value = next(v for v in variant.values if v.name == record.target)
        reads = []
        for run in variant.runs:
            points = [
                (p.values["kl/epsilon_mse"], p.values["reward/tiny_brightness"])
                for p in run.evaluations
            ]
            last = next((i for i, (d, _) in enumerate(points) if d >= 0.999 * level))
            (d0, v0), (d1, v1) = points[last - 1 : last + 1]
            share = (level**0.5 - d0**0.5) / (d1**0.5 - d0**0.5)
            reads.append(v0 + (v1 - v0) * share)
        assert value.after.value == pytest.approx(np.mean(reads), rel=1e-2)
        assert value.versus_best is not None and len(value.seeds) == 2
    assert any(note.startswith("At equal divergence: ") for note in record.notes)


def test_what_is_not_fair_is_said_before_it_runs_and_in_the_report(folder, capsys):
    (folder / "mine.yaml").write_text(
        "recipes: [recipe.yaml]\nvary: {model.prediction: [v_prediction, epsilon]}\n"
        "set: {train.steps: 1, regularizers: []}\n"
    )
    assert main(["compare", "mine.yaml", "--out", "out", "--pictures", "0"]) == 0
    sentence = "Different base models: "
    err = capsys.readouterr().err
    assert err.index(f"not fair: {sentence}") < err.index("started")
    record = load_comparison(folder / "out" / "comparison.json")
    assert record.notes[0].startswith(f"Not fair: {sentence}")
    # No verdict across bases.
    values = [value for variant in record.variants for value in variant.values]
    assert values and all(value.versus_best is None for value in values)
    page = (folder / "out" / "report.md").read_text()
    assert "The variants are not on equal terms in 1 respect; see Notes." in page


def test_matching_needs_evaluations_along_the_way(folder, capsys):
    ends_alone = "evaluate={kl: true, fractions: 0}"
    assert main(["compare", "recipe.yaml", "--set", ends_alone, "--match", "divergence"]) == 2
    assert "has none on the way; add --set evaluate.every=10." in capsys.readouterr().err
