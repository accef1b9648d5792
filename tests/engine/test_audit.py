"""The start-up audit explains what would not train; and the autocast trap that it was built for."""

import json

import pytest
import torch
from torch import nn

from rewardft.engine.audit import audit_first_step
from rewardft.errors import AuditError
from rewardft.policy.policy import Policy
from rewardft.testing.tiny import TinyModel


def parameters(**gradients):
    named = {}
    for name, gradient in gradients.items():
        named[name] = nn.Parameter(torch.zeros(2))
        named[name].grad = None if gradient is None else torch.tensor(gradient)
    return named


GOOD = parameters(a=[1.0, 0.0], b=[0.0, 0.0])


def test_a_healthy_step_is_reported_in_numbers():
    facts = {
        "decoded_min": torch.tensor(0.1),
        "decoded_max": torch.tensor(0.9),
        "decoded_clamped": torch.tensor(0.0),
    }
    facts["skipped"] = {"s": {"batches": 2, "failed": 1, "error": "ValueError: no"}}
    report = audit_first_step(GOOD, {**facts, "reward_gradient_norm": {"r": torch.tensor(2.0)}})
    assert report["skipped"] == {"s": {"batches": 2, "failed": 1, "error": "ValueError: no"}}
    assert report["tensors_with_zero_gradient"] == 1 and report["gradient_norm"] == 1.0
    assert report["trainable_parameters"] == 4 and report["reward_gradient_norm"] == {"r": 2.0}
    assert report["decoded_max"] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("named", "facts", "problem"),
    [
        ({}, {}, "nothing is trainable: the adapter matched no layer"),
        (
            parameters(a=[1.0, 1.0], b=None),
            {},
            "1 of 2 trainable tensors got no gradient at all (b). Either the model never calls these layers (narrow "
            "`adapter.targets`), or a detach or no_grad cuts the graph.",
        ),
        (
            parameters(a=[float("nan"), 1.0], b=[1.0, 1.0]),
            {},
            "1 trainable tensors have NaN or infinite gradients (a). Try `train.precision: fp32`, fewer trained steps or "
            "`input_gradient` stopped (drtune).",
        ),
        (
            parameters(a=[0.0, 0.0]),
            {},
            "every gradient is exactly zero: the optimizer would change nothing. The reward is flat at these samples (a "
            "hinge beyond its target, a clamped image), compares them with their own mean, or its gradient is cut before "
            "the samples.",
        ),
        (
            GOOD,
            {"decoded_min": -1.0, "decoded_max": 1.0, "decoded_clamped": 0.5},
            "decoded samples range over [-1, 1] instead of [0, 1]: `decode` must map the decoder's output (usually "
            "x / 2 + 0.5) before rewards see it.",
        ),
        (
            GOOD,
            {"decoded_min": 0.0, "decoded_max": 1.0, "decoded_clamped": 0.99},
            "99% of the decoded values sit at or beyond the ends of [0, 1]: a hard clamp there passes no gradient. Check "
            "the mapping to [0, 1], or use a soft clamp.",
        ),
        (
            GOOD,
            {"reward_gradient_norm": {"r": None}},
            "reward 'r' has no gradient at the samples: it detaches them",
        ),
        (
            parameters(a=[0.0, 0.0]),
            {"skipped": {"r": {"batches": 2, "failed": 2, "error": "ValueError: no face"}}},
            "reward 'r' failed on all of the first step: ValueError: no face. `on_error: skip` is for batches that fail "
            "now and then; fix the reward or remove it.",
        ),
        (
            GOOD,
            {"reward_gradient_norm": {"r": torch.tensor(float("nan"))}},
            "reward 'r' has a NaN or infinite gradient at the samples. Look in it for a root, logarithm, norm or division at 0, "
            "and keep its operand away from 0, such as by (x + 1e-6).sqrt().",
        ),
    ],
)
def test_failures_are_explained(named, facts, problem):
    with pytest.raises(AuditError) as error:
        audit_first_step(named, facts)
    assert (
        str(error.value)
        == f"the start-up audit stopped the run; nothing was trained\n  - {problem}"
    )


def test_a_no_grad_prefix_under_autocast_does_not_cut_the_graph():
    """With autocast's weight cache on, a cast made under no_grad is reused with gradients on: grad is None."""
    model = TinyModel()
    model.trainable.requires_grad_(True)
    x, t, cond = torch.randn(2, 3, 8, 8), torch.tensor([5, 5]), {"label": torch.tensor([0, 1])}
    policy = Policy(model, torch.bfloat16)
    with torch.autocast(
        "cpu", dtype=torch.bfloat16
    ):  # a user's own autocast around everything, cache on
        with torch.no_grad():
            policy.denoise(x, t, cond)
        policy.denoise(x, t, cond).sum().backward()
    missing = [n for n, p in model.trainable.named_parameters() if p.grad is None]
    assert missing == []


def test_precision_applies_to_the_network_and_its_output_is_float32():
    model = TinyModel()
    x, t, cond = torch.randn(2, 3, 8, 8), torch.tensor([5, 5]), {"label": torch.tensor([0, 1])}
    full, half = (
        Policy(model).denoise(x, t, cond),
        Policy(model, torch.bfloat16).denoise(x, t, cond),
    )
    assert half.dtype == torch.float32
    assert 1e-5 < float((full - half).abs().max()) < 0.1


def test_a_policy_gradient_may_be_flat_at_first_but_nothing_else_may_be():
    flat = parameters(a=[0.0, 0.0], b=[0.0, 0.0])
    assert audit_first_step(flat, {}, may_be_flat=True)["gradient_norm"] == 0
    with pytest.raises(AuditError, match=r"1 of 1 trainable tensors got no gradient at all \(a\)"):
        audit_first_step(parameters(a=None), {}, may_be_flat=True)
    with pytest.raises(AuditError, match="1 trainable tensors have NaN or infinite gradients"):
        audit_first_step(parameters(a=[float("nan"), 0.0]), {}, may_be_flat=True)


SPARSE = '''
import torch
from rewardft import hookimpl


def sparse(rollout, batch):
    """0 for all samples of the first step, in which the audit calls it again."""
    sparse.calls += 1
    some = torch.arange(len(batch)) % 2 if sparse.calls > 2 else torch.zeros(len(batch))
    return some.float()


sparse.calls = 0


@hookimpl
def register_rewards():
    return {"sparse": sparse}
'''


def test_a_sparse_reward_is_not_refused_by_luck(tmp_path):
    from rewardft.testing import run_recipe
    from tests.bench import RECIPE

    (tmp_path / "sparse.py").write_text(SPARSE)
    recipe = RECIPE.replace("[rewardft.testing.tiny]", "[rewardft.testing.tiny, grpo, ./sparse.py]")
    recipe = recipe.replace("{use: draft_k, train_steps: 1}", "{use: grpo, group_size: 2}")
    recipe = recipe.replace("steps: 3}", "steps: 3, eta: 1.0}")
    (tmp_path / "recipe.yaml").write_text(recipe)
    sets = ["rewards=[{use: sparse}]", "evaluate.every=0", "train.log_every=1"]
    run = run_recipe(tmp_path / "recipe.yaml", tmp_path / "run", *sets)
    assert [norm > 0 for norm in run.column("gradient_norm")] == [False, True, True]
    assert json.loads((tmp_path / "run" / "audit.json").read_text())["gradient_norm"] > 0


def test_regularizers_that_an_algorithm_never_applies_stop_the_run(tmp_path):
    from rewardft.testing import run_recipe

    (tmp_path / "mine.py").write_text(WITHOUT_PENALTY)
    (tmp_path / "recipe.yaml").write_text(LISTS_A_REGULARIZER)
    with pytest.raises(AuditError) as caught:
        run_recipe(tmp_path / "recipe.yaml", tmp_path / "run")
    assert str(caught.value) == (
        "the start-up audit stopped the run; nothing was trained\n  - the recipe lists regularizers (kl), and the "
        "algorithm took its first step without applying them (`ctx.penalty`). Leave `regularizers` out, or take an "
        "algorithm that applies them."
    )
    sound = run_recipe(tmp_path / "recipe.yaml", tmp_path / "other", "regularizers=[]")
    assert sound.summary["status"] == "finished"


WITHOUT_PENALTY = """\
from rewardft import Loss, Plan, hookimpl


class Plain:
    needs = frozenset()

    def losses(self, ctx, batch):
        steps = ctx.sampler.steps
        rollout = ctx.rollout(batch, Plan(stop=steps, keep=frozenset({steps - 1})))
        ctx.score(rollout, batch)
        yield Loss(ctx.replay(rollout, steps - 1).next.square().mean(), step=True)


@hookimpl
def register_algorithms():
    return {"plain": Plain}
"""
LISTS_A_REGULARIZER = """\
plugins: [toy, ./mine.py]
model: {use: toy, prediction: v_prediction}
sampler: {use: ddim, steps: 4}
data: {use: toy_blobs, batch_size: 2}
rewards: [{use: brightness}]
regularizers: [{use: kl, weight: 0.1}]
algorithm: {use: plain}
adapter: {rank: 2}
optimizer: {lr: 5e-3}
train: {steps: 1}
"""
