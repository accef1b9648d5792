"""Group preference: the formula by hand, and Diffusion-DPO for groups of two."""

import copy

import pytest
import torch
from rewardft_plugins.dpo.diffusion_dpo import DiffusionDPO
from rewardft_plugins.dpo.group_preference import GroupPreference, group_advantages

from rewardft.errors import ComponentError
from rewardft.policy.weighted_reward import WeightedReward
from rewardft.types import Plan
from tests.gradients import relative_error, run_losses
from tests.shipped.dpo.vectors import JOINTS, SIZE, vector_context, vector_pairs

NAN = float("nan")
PARTS = {"joints": 2.0, "twists": 0.5}


def sine(rollout, batch):
    return rollout.x0.sin().mean(1)


def by_hand(ctx, batch, samples, rewards, beta, anchor):
    """Group by group and sample by sample, on two networks."""
    policy = copy.deepcopy(ctx.adapter.module)
    noise = ctx.noise(batch)
    e = noise.draw("group/noise", (SIZE,)).double()
    t = (noise.uniform("group/timestep") * 1000).long()
    total = 0
    for i in range(len(batch)):
        r = rewards[i].double()
        advantage = (r - r.mean()) / r.std(unbiased=False)
        above = advantage.clamp(min=0)
        a = ctx.policy.scheduler.alphas_cumprod.double()[t[i]]
        for name, place in (("joints", slice(0, JOINTS)), ("twists", slice(JOINTS, SIZE))):
            inside, kept = 0, 0
            for n in range(len(r)):
                x = (a.sqrt() * samples[i, n] + (1 - a).sqrt() * e[i])[None]
                mine, base = (
                    ((net(x, t[i : i + 1], batch["cond"][i : i + 1])[0] - e[i])[place].square()
                     * batch[f"{name}_seen"][i]).mean()
                    for net in (policy, ctx.adapter.reference)
                )  # fmt: skip
                inside = inside - beta / len(r) * advantage[n] * (mine - base.detach())
                kept = kept + above[n] / above.sum() * mine
            total = total + PARTS[name] * (anchor * kept - torch.log(torch.sigmoid(inside)))
    (total / len(batch)).backward()
    return float(total.detach()) / len(batch), [p.grad for p in policy.parameters()]


@pytest.mark.parametrize("micro_batch", [None, 1, 10])
def test_given_groups_equal_the_formula(micro_batch):
    ctx, batch = vector_context(micro_batch), vector_pairs(4, group=5)
    algorithm = GroupPreference(beta=60.0, source="data", parts=PARTS, anchor=1.5)
    loss, gradient = run_losses(ctx, algorithm, batch)
    expected, theirs = by_hand(ctx, batch, batch["samples"], batch["scores"], 60.0, 1.5)
    assert loss == pytest.approx(expected, rel=1e-9)
    assert relative_error(gradient, theirs) < 1e-9


def test_the_policys_own_groups_equal_the_formula():
    ctx, batch = vector_context(), vector_pairs(3)
    ctx.rewards = [WeightedReward("r", sine)]
    loss, gradient = run_losses(ctx, GroupPreference(4, 60.0, parts=PARTS), batch)
    samples = ctx.rollout(batch.repeat(4), Plan(stop=3)).x0.view(3, 4, SIZE)
    expected, theirs = by_hand(ctx, batch, samples, samples.sin().mean(2), 60.0, 0.0)
    assert loss == pytest.approx(expected, rel=1e-9)
    assert relative_error(gradient, theirs) < 1e-9


def test_a_group_of_two_is_diffusion_dpo():
    """Advantages 1 and -1, whatever the rewards; the streams' names apart."""
    ctx, batch = vector_context(), vector_pairs(4, group=2)
    better = batch["scores"].argmax(1)
    rows = torch.arange(4)
    columns = {**batch.columns, "winner": batch["samples"][rows, better]}
    columns["loser"] = batch["samples"][rows, 1 - better]
    pairs = type(batch)(batch.ids, batch.epochs, columns)
    original = ctx.noise

    class OneStream:
        """The same draws for `dpo/...` and `group/...`."""

        def __init__(self, noise):
            self.noise = noise

        def draw(self, stream, shape):
            return self.noise.draw(stream.replace("group/", "dpo/"), shape)

        def uniform(self, stream):
            return self.noise.uniform(stream.replace("group/", "dpo/"))

    ctx.noise = lambda batch: OneStream(original(batch))
    one = run_losses(ctx, DiffusionDPO(60.0, column="pose", parts=PARTS), pairs)
    two = run_losses(ctx, GroupPreference(beta=60.0, source="data", parts=PARTS), batch)
    assert two[0] == pytest.approx(one[0], rel=1e-9)
    assert relative_error(two[1], one[1]) < 1e-9


def test_groups_without_a_preference_count_as_zero():
    ctx, batch = vector_context(), vector_pairs(2, group=3)
    columns = {**batch.columns, "scores": torch.tensor([[1.0, 1.0, 1.0], [1.0, 2.0, 4.0]])}
    tied = type(batch)(batch.ids, batch.epochs, columns)
    algorithm = GroupPreference(beta=60.0, source="data", anchor=1.0)
    loss, gradient = run_losses(ctx, algorithm, tied)
    assert ctx.take_records()["ties"].tolist() == [1.0, 2.0]
    alone = run_losses(ctx, algorithm, tied.select(slice(1, 2)))
    assert loss == pytest.approx(alone[0] / 2, rel=1e-12)
    assert relative_error(gradient, [g / 2 for g in alone[1]]) < 1e-9


def test_advantages_leave_out_what_is_missing():
    advantage, decided = group_advantages(torch.tensor([[1.0, NAN, 3.0], [NAN, NAN, 2.0]]))
    assert advantage.tolist() == [[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    assert decided.tolist() == [True, False]


def test_calls_are_those_of_the_docstring():
    ctx = vector_context()
    ctx.rewards = [WeightedReward("r", sine)]
    run_losses(ctx, GroupPreference(4), vector_pairs(3))
    assert (ctx.policy.forward_samples, ctx.policy.backward_samples) == (3 * 4 * 3 + 2 * 12, 12)


def test_bad_options_are_refused():
    with pytest.raises(ComponentError, match=r"^group_size must be at least 2, got 1$"):
        GroupPreference(group_size=1)
    with pytest.raises(ComponentError, match=r"^source is one of policy, data; got 'disk'$"):
        GroupPreference(source="disk")
