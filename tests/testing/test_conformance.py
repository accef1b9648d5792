"""The conformance checks pass what ships, and each finds the fault that it is there for."""

import dataclasses

import pytest
import torch

from rewardft.algorithms.direct_presets import draft, draft_k, draft_lv, drtune
from rewardft.samplers.ddim import DDIM
from rewardft.samplers.ddpm import DDPM
from rewardft.samplers.flow import FlowEuler
from rewardft.testing import check_algorithm, check_dataset, check_model, check_sampler
from rewardft.testing.conformance import tiny_batch, tiny_context
from rewardft.testing.tiny import TinyBlobs, TinyModel


def surroundings(micro_batch):
    return tiny_context(DDIM(4, eta=0.3), micro_batch=micro_batch)


@pytest.mark.parametrize("algorithm", [draft(), draft_k(1), draft_lv(2), drtune(2, 2)])
def test_shipped_algorithms(algorithm):
    check_algorithm(algorithm, surroundings)


class Faulty:
    """draft_k with one fault."""

    needs = frozenset()

    def __init__(self, fault):
        self.fault, self.inner = fault, draft_k(1)

    def calls(self, steps, rng, reference):
        forwards, backwards = self.inner.calls(steps, rng, reference)
        return forwards + (self.fault == "calls"), backwards

    def losses(self, ctx, batch):
        if self.fault == "micro" and ctx.micro_batch:
            ctx.seed += 1
        if self.fault == "order":
            batch = dataclasses.replace(batch, ids=tuple(sorted(batch.ids)))
        for loss in () if self.fault == "none" else self.inner.losses(ctx, batch):
            value = loss.value * (0 if self.fault == "zero" else 1)
            yield dataclasses.replace(loss, value=value, step=loss.step and self.fault != "open")


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("none", "the algorithm yields no loss"),
        ("open", "the last loss does not close the step"),
        ("zero", "every gradient is zero"),
        ("calls", "`calls` says"),
        ("micro", "a micro-batch of 1 changes the gradients"),
        ("order", "the order of the batch changes the gradients"),
    ],
)
def test_faults_of_algorithms(fault, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_algorithm(Faulty(fault), surroundings)


@pytest.mark.parametrize(
    ("sampler", "prediction"),
    [
        (DDIM(4), "epsilon"),
        (DDIM(4, eta=0.5), "v_prediction"),
        (DDPM(4), "epsilon"),
        (FlowEuler(4), "flow"),
    ],
)
def test_shipped_samplers(sampler, prediction):
    check_sampler(sampler, TinyModel(prediction=prediction, width=8))


class Skewed(DDIM):
    """Replays another step than it took."""

    def replay(self, model, rollout, k, *, input_gradient):
        step = super().replay(model, rollout, k, input_gradient=input_gradient)
        return dataclasses.replace(step, next=step.next + 0.1)


class Leaky(DDIM):
    """The mean over the batch leaks into each sample."""

    def rollout(self, model, cond, plan, noise):
        rollout = super().rollout(model, cond, plan, noise)
        return rollout.with_x0(rollout.x0 + rollout.x0.mean())


class Forgetful(DDPM):
    """The density of the state that it draws now, not of the one that was kept."""

    def transition(self, k, state, output, noise, taken=None):
        return super().transition(k, state, output, noise)


class HalfForgetful(Forgetful):
    """The same, but for its replays."""

    def replay(self, model, rollout, k, *, input_gradient):
        inner = DDPM(self.steps)
        inner.setup(model)
        return inner.replay(model, rollout, k, input_gradient=input_gradient)


class Silent(DDIM):
    """Has densities and does not say so: no algorithm that needs them would take it."""

    @staticmethod
    def tags(eta):
        return frozenset()


class Boastful(DDIM):
    """Says that it has densities, and has none at eta 0."""

    provides = DDIM.provides | {"log_prob"}


class Shy(DDPM):
    provides = frozenset({"differentiable_sampler", "log_prob", "stochastic"})


@pytest.mark.parametrize(
    ("sampler", "sentence"),
    [
        (Silent(3, eta=1.0), "the tag 'log_prob' is earned and not declared"),
        (Boastful(3), "the tag 'log_prob' is declared and not earned"),
        (Shy(3), "the tag 'renoise' is earned and not declared"),
        (Skewed(3), "replaying step 0 leads elsewhere"),
        (Leaky(3), "depends on the batch it is in"),
        (Forgetful(3), "step 0: `replay` gives the log-probability of another state than `taken`"),
        (HalfForgetful(3), "step 0: `transition` gives the log-probability of another state"),
    ],
)
def test_faults_of_samplers(sampler, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_sampler(sampler)


class Bright(TinyModel):
    def decode(self, x0):
        return 3 * x0


class Cut(TinyModel):
    def decode(self, x0):
        return torch.sigmoid(x0.detach())


class Mixed(TinyModel):
    def denoise(self, x, t, cond):
        return super().denoise(x - x.mean(), t, cond)


def test_a_model():
    check_model(TinyModel(width=8), tiny_batch())


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Bright, "decoded samples range over"),
        (Cut, "decode detaches"),
        (Mixed, "depends on the batch"),
    ],
)
def test_faults_of_models(model, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_model(model(width=8), tiny_batch())


class Twins(TinyBlobs):
    def __getitem__(self, index):
        return {**super().__getitem__(index), "id": "same"}


class Restless(TinyBlobs):
    drawn = 0

    def __getitem__(self, index):
        self.drawn += 1
        return {**super().__getitem__(index), "value": float(self.drawn)}


def test_a_data_set():
    check_dataset(TinyBlobs())


@pytest.mark.parametrize(
    ("data", "sentence"),
    [(Twins, "two items have the same id"), (Restless, "column 'value' is another one")],
)
def test_faults_of_data_sets(data, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_dataset(data())
