"""Named parts, antithetic timesteps, ranges and the anchor: against ADHMR's formulas, written out
by hand."""

import copy

import pytest
import torch
from rewardft_plugins.dpo.diffusion_dpo import DiffusionDPO
from rewardft_plugins.dpo.kto import DiffusionKTO
from rewardft_plugins.dpo.noised import Visits, timestep_draws
from rewardft_plugins.dpo.online_dpo import OnlineDPO
from torch.nn.functional import logsigmoid

from rewardft.errors import ComponentError
from rewardft.policy.weighted_reward import WeightedReward
from rewardft.testing import check_algorithm
from tests.gradients import relative_error, run_losses
from tests.shipped.dpo.cases import context, pairs
from tests.shipped.dpo.vectors import JOINTS, SIZE, vector_context, vector_pairs

PARTS = {"joints": 1.0, "twists": 1.0}


def released_batch(ctx, batch, stream):
    """xinj, xint, ej, et, t and both networks' predictions as ADHMR's training loop makes them,
    winners before losers."""
    n = len(batch)
    noise = ctx.noise(batch)
    e = noise.draw(f"{stream}/noise", (SIZE,)).double().repeat(2, 1)
    first = (noise.uniform(f"{stream}/timestep") * 1000).long()[: n // 2 + 1]
    t = torch.cat([first, 1000 - first - 1])[:n].repeat(2)
    a = ctx.policy.scheduler.alphas_cumprod.double()[t][:, None]
    x = torch.cat([batch["winner"], batch["loser"]]) * a.sqrt() + e * (1 - a).sqrt()
    cond = batch["cond"].repeat(2, 1)
    policy = copy.deepcopy(ctx.adapter.module)
    return e, policy, policy(x, t, cond), ctx.adapter.reference(x, t, cond).detach()


def released_errors(batch, output, e):
    """Per sample: mean over ALL 29 x 3 of vis * error^2, and over all 23 x 2 of weight *
    error^2."""
    joints = (output[:, :JOINTS] - e[:, :JOINTS]).square() * batch["joints_seen"].repeat(2, 1)
    twists = (output[:, JOINTS:] - e[:, JOINTS:]).square() * batch["twists_seen"].repeat(2, 1)
    return joints.mean(1), twists.mean(1)


@pytest.mark.parametrize("count", [6, 7])
def test_loss_and_gradient_are_those_of_adhmrs_training_loop(count):
    """t and T - 1 - t in the halves, one noise for both of a pair, two unweighted log-sigmoids,
    beta 100."""
    ctx, batch = vector_context(), vector_pairs(count)
    ours = run_losses(ctx, DiffusionDPO(100.0, column="pose", parts=PARTS, antithetic=True), batch)
    e, policy, output, reference = released_batch(ctx, batch, "dpo")
    total = 0
    for mine, theirs in zip(
        released_errors(batch, output, e), released_errors(batch, reference, e)
    ):
        w, lose = mine.chunk(2)
        rw, rl = theirs.chunk(2)
        total = total - logsigmoid(-0.5 * 100 * ((w - lose) - (rw - rl))).mean()
    total.backward()
    assert ours[0] == pytest.approx(float(total.detach()), abs=1e-12)
    assert relative_error(ours[1], [p.grad for p in policy.parameters()]) < 1e-9


def test_weights_and_anchor_add_what_they_say():
    """Part weights multiply the log-sigmoids; the anchor is the winners' weighted errors."""
    ctx, batch = vector_context(), vector_pairs()
    options = {"beta": 30.0, "column": "pose", "antithetic": True}
    joints, twists = (
        run_losses(ctx, DiffusionDPO(**options, parts={p: 1.0}), batch)[0] for p in PARTS
    )
    both = run_losses(ctx, DiffusionDPO(**options, parts={"joints": 2.0, "twists": 0.5}), batch)[0]
    assert both == pytest.approx(2 * joints + 0.5 * twists, rel=1e-12)
    e, _, output, _ = released_batch(ctx, batch, "dpo")
    errors = [error[: len(batch)].mean() for error in released_errors(batch, output, e)]
    anchored = run_losses(
        ctx, DiffusionDPO(**options, parts={"joints": 2.0, "twists": 0.5}, anchor=5.0), batch
    )[0]
    assert anchored - both == pytest.approx(
        5 * float((2 * errors[0] + 0.5 * errors[1]).detach()), rel=1e-9
    )


def test_one_part_that_is_the_whole_sample_is_diffusion_dpo():
    ctx, batch = vector_context(), vector_pairs()
    ctx.policy.model.parts = {"all": slice(0, SIZE)}
    whole = run_losses(ctx, DiffusionDPO(30.0, column="pose"), batch)
    part = run_losses(ctx, DiffusionDPO(30.0, column="pose", parts={"all": 1.0}), batch)
    assert part[0] == pytest.approx(whole[0], rel=1e-12)
    assert relative_error(part[1], whole[1]) < 1e-12


def test_the_log_tells_when_both_of_a_pair_are_lost():
    """Errors less the reference's, of winners and of losers apart, in sums over the parts."""
    ctx, batch = vector_context(), vector_pairs()
    run_losses(ctx, DiffusionDPO(30.0, column="pose", parts=PARTS, antithetic=True), batch)
    records = ctx.take_records()
    e, _, output, reference = released_batch(ctx, batch, "dpo")
    ours, theirs = (sum(released_errors(batch, one, e)) for one in (output, reference))
    winner, loser = (ours - theirs).detach().chunk(2)
    count = records["winner_error_change"][1]
    assert records["winner_error_change"][0] / count == pytest.approx(float(winner.mean()))
    assert records["loser_error_change"][0] / count == pytest.approx(float(loser.mean()))


def test_images_have_parts_too():
    """A slice of an image's first dimension, its channels; means of parts of one size have the
    whole's mean."""
    ctx = context()
    ctx.policy.model.parts = {"red": slice(0, 1), "rest": slice(1, 3)}
    run_losses(ctx, DiffusionDPO(3.0, parts={"red": 1.0, "rest": 1.0}), pairs())
    margins = ctx.take_records()["implicit_margin"]
    whole = context()
    run_losses(whole, DiffusionDPO(3.0), pairs())
    assert margins[1] == 6.0 and whole.take_records()["implicit_margin"][1] == 3.0


@pytest.mark.parametrize(
    "algorithm",
    [
        DiffusionDPO(30.0, column="pose", parts=PARTS, antithetic=True, anchor=2.0),
        DiffusionKTO(30.0, column="pose", parts=PARTS, antithetic=True, anchor=2.0),
        OnlineDPO(3, 30.0, parts=PARTS, antithetic=True, anchor=2.0, timesteps=2),
    ],
    ids=lambda a: type(a).__name__,
)
def test_the_promises(algorithm):
    """Antithetic pairs lie in different micro-batches, and are of the first and the second half."""

    def make(size):
        ctx = vector_context(size)
        ctx.rewards = [WeightedReward("r", lambda rollout, batch: rollout.x0.sin().mean(1))]
        return ctx

    sizes = (1, 2, 6)
    check_algorithm(algorithm, make, vector_pairs(), order_matters=True, micro_batches=sizes)


def test_kto_has_a_reference_point_for_each_part():
    ctx, batch, beta = vector_context(), vector_pairs(), 40.0
    algorithm = DiffusionKTO(beta, 1.5, 0.5, column="pose", parts=PARTS, anchor=0.1)
    loss, gradient = run_losses(ctx, algorithm, batch)
    doubled = batch.repeat(2)
    noise = ctx.noise(doubled)
    e = noise.draw("kto/noise", (SIZE,)).double()
    t = (noise.uniform("kto/timestep") * 1000).long()
    a = ctx.policy.scheduler.alphas_cumprod.double()[t][:, None]
    x = (
        torch.stack([batch["winner"], batch["loser"]], 1).flatten(0, 1) * a.sqrt()
        + e * (1 - a).sqrt()
    )
    policy = copy.deepcopy(ctx.adapter.module)
    total = 0
    for place, seen in ((slice(0, JOINTS), "joints_seen"), (slice(JOINTS, SIZE), "twists_seen")):
        error, base = (
            ((net(x, t, doubled["cond"]) - e)[:, place].square() * doubled[seen]).mean(1)
            for net in (policy, ctx.adapter.reference)
        )
        h = -beta * (error - base.detach())
        q = h.detach().mean().clamp(min=0)
        good, bad = 1.5 * torch.sigmoid(q - h[0::2]), 0.5 * torch.sigmoid(h[1::2] - q)
        total = total + torch.cat([good + 0.1 * error[0::2], bad]).mean()
    total.backward()
    assert loss == pytest.approx(float(total.detach()), rel=1e-12)
    assert relative_error(gradient, [p.grad for p in policy.parameters()]) < 1e-9


def test_timesteps_stay_in_their_range_and_mirror_within_it():
    ctx, batch = vector_context(), vector_pairs(40)
    t = (timestep_draws(ctx, batch, "s", Visits(t_range=(0.2, 0.5), antithetic=True)) * 1000).long()
    assert int(t.min()) >= 200 and int(t.max()) < 500
    assert torch.equal(t[21:], 699 - t[:19])
    plain = timestep_draws(ctx, batch, "s", Visits(t_range=(0.2, 0.5)))
    assert torch.equal((plain * 1000).long()[:21], t[:21]) and len(set(t.tolist())) > 20
    assert torch.equal(
        timestep_draws(ctx, batch, "s", Visits()), ctx.noise(batch).uniform("s/timestep")
    )


def test_bad_options_are_refused():
    message = r"^t_range must be two numbers 0 <= low < high <= 1, got \[0.5, 0.5\]$"
    with pytest.raises(ComponentError, match=message):
        DiffusionDPO(t_range=(0.5, 0.5))
    message = r"^parts must name at least one part, with weights above 0; got {'joints': 0.0}$"
    with pytest.raises(ComponentError, match=message):
        OnlineDPO(parts={"joints": 0.0})
    with pytest.raises(ComponentError, match=r"^anchor must not be negative, got -1.0$"):
        DiffusionKTO(anchor=-1.0)


def test_a_part_that_the_model_does_not_have_is_named():
    algorithm = DiffusionDPO(column="pose", parts={"joint": 1.0})
    with pytest.raises(ComponentError) as error:
        list(algorithm.losses(vector_context(), vector_pairs()))
    assert str(error.value) == (
        "parts: VectorModel has the parts joints, twists, not 'joint'. Did you mean 'joints'?"
    )
    with pytest.raises(ComponentError) as error:
        list(DiffusionDPO(parts={"joints": 1.0}).losses(context(), pairs()))
    assert str(error.value) == "parts: TinyModel names no parts of its samples, not 'joints'."
