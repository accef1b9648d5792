"""Rewards that are computed elsewhere are begun before they are waited for, and nothing else changes."""

import os
import signal
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from rewardft_plugins.rewards.remote import Remote
from rewardft_plugins.rewards.vlm_judge import VlmJudge

from rewardft.engine.session import build_session
from rewardft.errors import ComponentError, NonFiniteError, RewardError
from rewardft.evaluation.evaluate import evaluate
from rewardft.plugins.loading import load_plugins
from rewardft.plugins.resolve import resolve
from rewardft.policy.begun import Begun
from rewardft.policy.weighted_reward import WeightedReward
from rewardft.recipe.recipe import load_recipe
from rewardft.testing import check_same_run, run_recipe
from tests import processes
from tests.shipped.rewards.servers import Scripted, address, running, says

RECIPE = """
plugins: [rewardft.testing.tiny, rewards, ddpo]
seed: 5
model: {use: tiny, prediction: v_prediction, width: 8}
sampler: {use: ddim, steps: 3, eta: 1.0}
data: {use: tiny_blobs, size: 6, batch_size: 2}
rewards: [{use: remote, url: "http://127.0.0.1:8000/"}]
algorithm: {use: ddpo, min_count: 2}
adapter: {kind: lora, rank: 2}
optimizer: {use: adamw, lr: 1e-2}
train: {steps: 4, log_every: 1}
evaluate: {samples: 6, batch_size: 2, every: 2}
save: {every: 1}
"""
PATIENCE = 30  # seconds until a thread that should have been let go fails the test


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    path = tmp_path_factory.mktemp("session") / "recipe.yaml"
    path.write_text(RECIPE)
    recipe = load_recipe(path)
    plugins = load_plugins(recipe.plugins, recipe.base)
    return build_session(recipe, resolve(recipe, plugins), torch.device("cpu"))


class Plain:
    """Brightness; `hold` is called first, with the batch."""

    def __init__(self, hold=lambda batch: None):
        self.hold = hold

    def __call__(self, rollout, batch):
        return self.value(rollout.decoded, batch)

    def value(self, pixels, batch):
        self.hold(batch)
        return pixels.flatten(1).mean(1)


class Beside(Plain):
    """The same on a thread."""

    def __init__(self, hold=lambda batch: None):
        super().__init__(hold)
        self.pool = ThreadPoolExecutor(1)

    def begin_scoring(self, rollout, batch):
        return self.pool.submit(self.value, rollout.decoded, batch)


class Told:
    """A sampler that tells of each rollout, with its number, before it is made."""

    def __init__(self, sampler, tell):
        self.sampler, self.tell, self.rollouts = sampler, tell, 0

    def __getattr__(self, name):
        return getattr(self.sampler, name)

    def rollout(self, *arguments):
        self.rollouts += 1
        self.tell(self.rollouts)
        return self.sampler.rollout(*arguments)


class Torn:
    """A data set that cannot be read from item `start` on."""

    def __init__(self, dataset, start):
        self.dataset, self.start = dataset, start

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, i):
        if i >= self.start:
            raise ValueError(f"item {i} is torn")
        return self.dataset[i]


def evaluated(session, *rewards, tell=lambda number: None, torn=6):
    """Three batches of two; items from number `torn` on cannot be read."""
    ctx = session.evaluation_context()
    ctx.rewards = [WeightedReward(str(i), reward) for i, reward in enumerate(rewards)]
    ctx.sampler = Told(ctx.sampler, tell)
    return evaluate(ctx, Torn(session.resolved.eval_dataset.build(), torn), {}, 6, 2)


def failure(session, *rewards, **settings):
    """What is raised, with its notes."""
    with pytest.raises((ValueError, NonFiniteError)) as error:
        evaluated(session, *rewards, **settings)
    return traceback.format_exception_only(error.value)


def test_values_are_those_of_rewards_that_are_waited_for(session):
    ahead, plain = (evaluated(session, kind(), Plain()) for kind in (Beside, Plain))
    assert ahead.per_sample == plain.per_sample and ahead.ids == plain.ids
    assert ahead.per_sample["reward/0"] == ahead.per_sample["reward/1"]
    assert len(set(ahead.per_sample["reward/0"])) == 6


def test_the_next_batch_is_rolled_out_while_one_is_scored(session):
    drawn = {number: threading.Event() for number in (1, 2, 3)}
    first = session.resolved.eval_dataset.build()[0]["id"]

    def hold(batch):
        # The first batch has no value before the second one is being drawn.
        if first in batch.ids:
            assert drawn[2].wait(PATIENCE), "nothing was rolled out meanwhile"

    found = evaluated(session, Beside(hold), tell=lambda number: drawn[number].set())
    assert found.per_sample == evaluated(session, Plain()).per_sample


def test_the_rewards_of_a_batch_are_asked_side_by_side(session):
    together = threading.Barrier(2, timeout=PATIENCE)

    def hold(batch):
        together.wait()

    found = evaluated(session, Beside(hold), Beside(hold))
    assert found.per_sample["reward/0"] == evaluated(session, Plain()).per_sample["reward/0"]


def at(number, error):
    """Raises `error` in the rollout of that number."""

    def tell(now):
        if now == number:
            raise error

    return tell


def test_failures_are_raised_in_the_order_of_the_batches(session):
    second = session.resolved.eval_dataset.build()[2]["id"]

    def hold(batch):
        if second in batch.ids:
            raise ValueError("the judge is asleep")

    plain = failure(session, Plain(hold))
    assert "the judge is asleep" in plain[0] and len(plain) > 1, "and notes on the samples"
    lines = [line.replace("Beside", "Plain") for line in failure(session, Beside(hold))]
    assert without_places(lines) == without_places(plain)
    # The third rollout fails too, while the second batch is still being scored.
    late = failure(session, Beside(hold), tell=at(3, ValueError("a late rollout")))
    also = "Before this was known, the next batch failed too: ValueError: {}\n"
    assert without_places(late) == [*without_places(plain), also.format("a late rollout")]
    # And so does the data set.
    late = failure(session, Beside(hold), torn=5)
    assert without_places(late) == [*without_places(plain), also.format("item 5 is torn")]
    # Of a batch that has its values nothing is said.
    assert failure(session, Beside(), tell=at(3, ValueError("a late rollout"))) == [
        "ValueError: a late rollout\n"
    ]
    assert failure(session, Beside(), torn=5) == ["ValueError: item 5 is torn\n"]


def without_places(lines):
    return [line.rpartition(" is made at ")[0] or line for line in lines]


def test_nothing_runs_on_after_an_interruption(session):
    asked = threading.Event()

    def busy(body):
        asked.set()
        return 503, {}, b"busy"

    with running(Scripted(busy)) as server:
        reward = Remote(address(server), backoff=10 * PATIENCE, max_wait=10 * PATIENCE)

        def tell(number):
            if number == 2:
                assert asked.wait(PATIENCE), "the first batch has not been sent"
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            evaluated(session, reward, tell=tell)
    assert [t.name for t in threading.enumerate() if t.name.startswith("remote-reward")] == []


def test_a_vision_language_model_is_asked_before_the_next_batch_is_rolled_out(session):
    asked, rolled_out = threading.Event(), threading.Event()

    def judge(body):
        asked.set()
        # Of the first batch: it is answered when the second one has been rolled out.
        assert rolled_out.wait(PATIENCE)
        return says({"choices": [{"message": {"content": "SCORE: 5"}}]})

    def tell(number):
        if number == 2:
            assert asked.wait(PATIENCE), "the first batch has not been asked"
            rolled_out.set()

    with running(Scripted(judge)) as server:
        found = evaluated(session, VlmJudge(address(server), "tiny", "How bright?"), tell=tell)
    assert found.per_sample["reward/0"] == [0.5] * 6


def test_all_are_told_to_end_before_one_is_waited_for():
    done = []

    class Waiting:
        def __init__(self, name):
            self.name = name

        def halt(self):
            done.append(f"halt {self.name}")

        def cancel(self):
            done.append(f"wait {self.name}")

    Begun(None, None, None, {name: Waiting(name) for name in "ab"}).cancel()
    assert done == ["halt a", "halt b", "wait a", "wait b"]


def test_what_cannot_be_waited_for_is_refused_and_who_changes_samples_is_named(session):
    class Forgetful(Plain):
        def begin_scoring(self, rollout, batch):
            pass

    class Greedy(Beside):
        def begin_scoring(self, rollout, batch):
            rollout.x0.zero_()
            return super().begin_scoring(rollout, batch)

    with pytest.raises(ComponentError) as caught:
        evaluated(session, Beside(), Forgetful())
    assert str(caught.value) == (
        "reward '1': begin_scoring must return what waits for the values, an object with result() "
        "and cancel(); got nothing (None)"
    )
    with pytest.raises(RewardError, match=r"reward '1' changed .* in place"):
        evaluated(session, Beside(), Greedy())


def test_one_that_cannot_be_begun_fails_when_its_turn_comes(session):
    class Broken(Plain):
        def begin_scoring(self, rollout, batch):
            raise ValueError("no such server")

    def asleep(batch):
        raise ValueError("the judge is asleep")

    ctx = session.evaluation_context()
    ctx.rewards = [WeightedReward("first", Plain(asleep)), WeightedReward("broken", Broken())]
    dataset = session.resolved.eval_dataset.build()
    with pytest.raises(ValueError, match="the judge is asleep"):
        evaluate(ctx, dataset, {}, 2, 2)
    ctx.rewards = [
        WeightedReward("broken", Broken(), on_error="skip"),
        WeightedReward("p", Plain()),
    ]
    with pytest.warns(UserWarning, match="'broken' failed and is skipped.*no such server"):
        found = evaluate(ctx, dataset, {}, 2, 2)
    assert all(value != value for value in found.per_sample["reward/broken"])


def brightness(body):
    """Made up from the ids: a number for each sample."""
    return says({"rewards": [sum(map(ord, name)) % 7 / 7 for name in body["ids"]]})


def test_a_run_that_is_killed_while_a_batch_is_scored_resumes_to_the_same_bits(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    children = []

    def killing(body):
        # The first question after it was saved is one of its evaluation.
        if children and (tmp_path / "run" / "checkpoints" / "step-00000002").is_dir():
            os.kill(children[0].pid, signal.SIGKILL)
        return brightness(body)

    with running(Scripted(killing)) as server:
        url = f"rewards.0.url={address(server)}"
        children.append(processes.Running(run_recipe, path, tmp_path / "run", url))
        assert children[0].wait(300).returncode == -signal.SIGKILL
        children.clear()
        resumed = run_recipe(path, tmp_path / "run", url, resume=True)
        whole = run_recipe(path, tmp_path / "whole", url)
    assert resumed.summary["status"] == "finished"
    check_same_run(whole, resumed, 0.0, ("reward", "gradient_norm"))
    files = sorted(p.name for p in Path(whole.folder, "evaluations").glob("*.json"))
    assert len(files) == 3
    for name in files:
        one, other = (Path(run.folder, "evaluations", name) for run in (whole, resumed))
        assert one.read_text() == other.read_text()
