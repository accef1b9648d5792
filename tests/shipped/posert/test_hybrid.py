"""Roll-outs and replays of words and poses against transformers and torch.distributions."""

import pytest
import torch
from rewardft_plugins.posert.generation import Decoding, generate, pick
from rewardft_plugins.posert.head import density, draw
from rewardft_plugins.posert.hybrid import Hybrid
from rewardft_plugins.posert.text import ANSWER_TEXT
from torch.distributions import Independent, MultivariateNormal, Normal
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from rewardft.errors import ComponentError
from rewardft.noise import Noise
from rewardft.policy.policy import Policy
from rewardft.types import Plan
from tests.shipped.posert.conftest import small

PLAN = Plan(stop=2, keep=frozenset({0, 1}))


def roll_out(model, batch, seed=0, **options):
    sampler, policy = Hybrid(length=8, **options), Policy(model)
    sampler.setup(model)
    with torch.no_grad():
        rollout = sampler.rollout(
            policy, model.encode(batch), PLAN, Noise(seed, batch.ids, batch.epochs)
        )
    return sampler, policy, rollout


def test_greedy_answers_and_their_scores_are_those_of_transformers(batch):
    model = small()
    prompt = model.encode(batch)
    with torch.no_grad():
        ours = generate(
            model.trainable, prompt, torch.zeros(6, 8), Decoding(0.0, 1.0, 8), model.end
        )
        theirs = model.trainable.lm.generate(
            inputs_embeds=model.trainable.embed(prompt),
            attention_mask=prompt["mask"].long(),
            max_new_tokens=8,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        scores = model.trainable.lm.compute_transition_scores(
            theirs.sequences, theirs.logits, normalize_logits=True
        )
    length = ours.tokens.shape[1]
    found = torch.where(ours.mask, ours.tokens, 0)
    assert torch.equal(found, torch.where(ours.mask, theirs.sequences[:, :length], 0))
    assert (ours.log_probs - scores[:, :length])[ours.mask].abs().max() < 1e-5


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_replay_gives_the_log_probabilities_of_the_rollout_in_one_pass(batch, rank, temperature):
    model = small(rank=rank)
    sampler, policy, rollout = roll_out(model, batch, temperature=temperature)
    assert policy.forward_samples == 6
    tokens, pose = sampler.replay_all(policy, rollout)
    assert policy.forward_samples == 12 and policy.backward_samples == 0
    for k, step in enumerate((tokens, pose)):
        assert (step.log_prob - rollout.log_probs[k]).abs().max() < 1e-5
    (tokens.log_prob + pose.log_prob).sum().backward()
    assert policy.backward_samples == 6
    assert model.trainable.lm.get_input_embeddings().weight.grad.any()
    assert model.trainable.head.enter.weight.grad.any()


def test_token_scores_are_the_language_models_own_at_the_temperature(batch):
    """Plain logits of an uncached forward, divided and normalised here."""
    model = small()
    rollout = roll_out(model, batch, temperature=0.7)[2]
    x0, prompt = rollout.x0, rollout.cond
    words = model.trainable.lm.get_input_embeddings()(x0["tokens"])
    for row in range(6):
        real, count = prompt["mask"][row], int(x0["mask"][row].sum())
        embedded = torch.cat(
            [model.trainable.embed(prompt)[row][real], words[row, :count]]
        )  # no padding at all
        logits = model.trainable.lm(inputs_embeds=embedded[None]).logits[0]
        own = (logits[int(real.sum()) - 1 : -1] / 0.7).log_softmax(-1)
        expected = own.gather(-1, x0["tokens"][row, :count, None]).mean()
        assert abs(float(expected.detach() - rollout.log_probs[0][row])) < 1e-5


@pytest.mark.parametrize("rank", [0, 2])
def test_pose_densities_are_those_of_the_full_covariance(rank):
    torch.manual_seed(0)
    mean, deviation = torch.randn(3, 132).double(), torch.rand(3, 132).double() + 0.1
    factor = 0.3 * torch.randn(3, 132, rank).double()
    covariance = factor @ factor.mT + torch.diag_embed(deviation**2)
    x = draw(mean, deviation, factor, torch.randn(3, 132 + rank).double())
    expected = MultivariateNormal(mean, covariance).log_prob(x)
    assert (density(mean, deviation, factor).log_prob(x) - expected).abs().max() < 1e-5
    plain = Independent(Normal(mean, deviation), 1).log_prob(x)
    assert rank > 0 or torch.allclose(density(mean, deviation, factor).log_prob(x), plain)


def test_draws_have_the_covariance_of_the_head():
    generator = torch.Generator().manual_seed(1)
    mean, deviation = torch.zeros(1, 132), torch.linspace(0.1, 0.5, 132)[None]
    factor = 0.4 * torch.randn(1, 132, 1, generator=generator)
    count = 40000
    noise = torch.randn(count, 133, generator=generator)
    found = draw(*(t.expand(count, *t.shape[1:]) for t in (mean, deviation, factor)), noise)
    expected = (factor @ factor.mT)[0] + torch.diag(deviation[0] ** 2)
    assert (torch.cov(found.T) - expected).abs().max() < 0.02


def test_an_answer_does_not_depend_on_its_batch(batch):
    model = small()
    whole = roll_out(model, batch)[2]
    for row in range(6):
        alone = roll_out(model, batch.select(slice(row, row + 1)))[2]
        assert alone.decoded["text"][0] == whole.decoded["text"][row]
        assert (alone.x0["pose"][0] - whole.x0["pose"][row]).abs().max() < 1e-4
    assert roll_out(model, batch, seed=1)[2].decoded["text"] != whole.decoded["text"]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 0.8), (1.4, 0.5)])
def test_tokens_are_drawn_as_transformers_draws_them(temperature, top_p):
    """Shares of many draws against the warped distribution."""
    logits = torch.tensor([[2.0, 1.5, 0.3, -0.5, 1.0, -2.0]])
    warped = TemperatureLogitsWarper(temperature)(None, logits)
    warped = TopPLogitsWarper(top_p)(None, warped) if top_p < 1 else warped
    count = 20001
    draws = torch.arange(count) / count
    found = pick(logits.expand(count, -1), draws, Decoding(temperature, top_p))
    shares = torch.bincount(found, minlength=6) / count
    assert (shares - warped.softmax(-1)[0]).abs().max() < 2e-4


def test_mean_decoding_is_the_same_whatever_the_noise(batch):
    model = small()
    options = {"temperature": 0.0, "pose": "mean"}
    one, other = (roll_out(model, batch, seed, **options)[2] for seed in (0, 1))
    assert one.decoded["text"] == other.decoded["text"]
    assert torch.equal(one.x0["pose"], one.info["mean"])
    assert torch.equal(one.x0["pose"], other.x0["pose"])


def test_an_answer_without_a_pose_gets_that_of_the_answer_in_form(batch):
    model = small()
    plain, complete = (roll_out(model, batch, complete=c)[2] for c in (False, True))
    valid = plain.x0["valid"]
    texts = plain.decoded["text"]
    assert valid.tolist() == [text.count("<POSE>") == 1 for text in texts]
    assert int((~valid).sum()) > 0
    assert torch.equal(complete.x0["valid"], valid)
    assert torch.equal(complete.info["mean"][valid], plain.info["mean"][valid])
    tokens, mask = model.spell([ANSWER_TEXT] * 6, torch.device("cpu"))
    with torch.no_grad():
        asked = model.answer(plain.cond, tokens, mask)[1]
    assert torch.allclose(complete.info["mean"][~valid], asked[~valid], atol=1e-6)


def test_what_a_sampler_refuses(batch):
    model = small()
    message = (
        r"^expected temperature >= 0, top_p in \(0, 1\] and length >= 1, got temperature=-1, "
        r"top_p=1.0, length=24$"
    )
    with pytest.raises(ComponentError, match=message):
        Hybrid(temperature=-1)
    sampler, policy, rollout = roll_out(model, batch)
    with pytest.raises(ComponentError, match=r"^hybrid: tokens have no gradient"):
        sampler.replay(policy, rollout, 0, input_gradient=True)
    with pytest.raises(ComponentError, match=r"^hybrid runs both steps"):
        sampler.rollout(policy, rollout.cond, Plan(stop=1), rollout.noise)
    with pytest.raises(ComponentError, match=r"^hybrid needs a model with `speak` and `answer`"):
        sampler.setup(object())
