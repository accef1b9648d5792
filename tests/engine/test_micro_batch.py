"""`train.micro_batch` without a number: the default, what `auto` chooses from which times, and that a run keeps it."""

import json
from dataclasses import replace

import pytest
import torch

from rewardft.engine import micro_batch
from rewardft.engine.session import build_session, lay_out
from rewardft.errors import ComponentError, RecipeError
from rewardft.plugins.resolve import open_recipe
from rewardft.policy import context, rollout_weights
from rewardft.policy.batches import Stream
from rewardft.recipe.recipe import load_recipe
from rewardft.testing import run_recipe
from rewardft.types import Plan
from tests.bench import RECIPE


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.mark.parametrize(
    ("seconds", "size"),
    [
        ({1: 1.0, 2: 1.0, 4: 1.0}, 1),  # a CPU with a large network: nothing is won by more
        ({1: 1.09, 2: 1.05, 4: 1.0}, 1),
        ({1: 4.0, 2: 2.0, 4: 1.0}, 4),  # a GPU that one sample does not fill
        ({1: 2.0, 2: 1.02, 4: 1.0}, 2),
        ({1: 1.0, 2: 3.0, 4: 9.0}, 1),
        ({1: 5.0}, 1),
    ],
)
def test_the_fewest_that_are_nearly_the_quickest(seconds, size):
    assert micro_batch.fewest(seconds) == size


def test_sizes_are_powers_of_two_and_the_batch():
    assert [micro_batch.sizes_up_to(n) for n in (1, 2, 3, 8, 12)] == [
        [1],
        [1, 2],
        [1, 2, 3],
        [1, 2, 4, 8],
        [1, 2, 4, 8, 12],
    ]


def opened(path, *overrides):
    recipe, _, resolved = open_recipe(path, overrides)
    session = build_session(recipe, resolved, torch.device("cpu"))
    return session, Stream(resolved.dataset.build(), recipe.seed).next_batch(4)


def test_measuring_leaves_no_trace(path):
    """No gradient, no counted call, no record, and the same noise afterwards."""
    session, batch = opened(path)
    ctx = session.context
    before = ctx.noise(batch).draw("initial", (2,))
    weights = [p.detach().clone() for p in session.adapter.parameters]
    assert micro_batch.choose_micro_batch(session, batch) in (1, 2, 4)
    assert all(p.grad is None for p in session.adapter.parameters)
    assert set(ctx.cost.values()) == {0} and ctx.take_records() == {}
    assert torch.equal(ctx.noise(batch).draw("initial", (2,)), before)
    assert all(torch.equal(p, w) for p, w in zip(session.adapter.parameters, weights))


def test_what_does_not_fit_is_not_taken(path, monkeypatch):
    session, batch = opened(path)
    tried = []

    def limited(session, part):
        tried.append(len(part))
        if len(part) > 2:
            raise torch.OutOfMemoryError("two fit")

    monkeypatch.setattr(micro_batch, "differentiate", limited)
    assert micro_batch.choose_micro_batch(session, batch) in (1, 2)
    assert tried == [1, 1, 2, 2, 4]


def test_one_sample_that_does_not_fit_is_an_error(path, monkeypatch):
    session, batch = opened(path)

    def refused(session, part):
        raise torch.OutOfMemoryError("none fits")

    monkeypatch.setattr(micro_batch, "differentiate", refused)
    with pytest.raises(torch.OutOfMemoryError, match="none fits"):
        micro_batch.choose_micro_batch(session, batch)


def test_memory_that_ends_in_a_backward_pass_leaves_no_gradient(path):
    """The first step of the run would add its own to it."""
    session, batch = opened(path)

    def full(parameter):
        raise torch.OutOfMemoryError("full")

    hooks = [p.register_post_accumulate_grad_hook(full) for p in session.adapter.parameters]
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        micro_batch.choose_micro_batch(session, batch)
    for hook in hooks:
        hook.remove()
    assert all(p.grad is None for p in session.adapter.parameters)


def test_it_is_the_sampler_of_the_training_that_is_measured(path):
    """That of the evaluations may have no steps to visit."""
    session, batch = opened(path)
    session = replace(session, eval_sampler=object())
    assert micro_batch.choose_micro_batch(session, batch) in (1, 2, 4)


def test_a_run_keeps_what_was_measured(path, tmp_path, monkeypatch):
    """It trains what that number trains, and a resumed run does not measure again."""
    sets = ["data.batch_size=4", "train.micro_batch=auto", "save.every=1"]
    monkeypatch.setattr("rewardft.engine.train.choose_micro_batch", lambda *_: 2)
    run = run_recipe(path, tmp_path / "run", *sets, "train.steps=3")
    assert json.loads((run.folder / "manifest.json").read_text())["micro_batch"] == 2
    plain = run_recipe(path, tmp_path / "plain", "data.batch_size=4", "train.micro_batch=2")
    assert run.column("gradient_norm") == plain.column("gradient_norm")
    assert json.loads((plain.folder / "manifest.json").read_text())["micro_batch"] == 2
    monkeypatch.setattr("rewardft.engine.train.choose_micro_batch", lambda *_: 1)
    last = sorted((run.folder / "checkpoints").iterdir())[-1]
    for file in sorted(last.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    last.rmdir()
    again = run_recipe(path, run.folder, *sets, "train.steps=3", resume=True)
    assert json.loads((again.folder / "manifest.json").read_text())["micro_batch"] == 2
    assert again.column("gradient_norm") == plain.column("gradient_norm")


def test_a_real_measurement_is_written_down(path, tmp_path):
    run = run_recipe(path, tmp_path / "run", "data.batch_size=4", "train.micro_batch=auto")
    assert json.loads((run.folder / "manifest.json").read_text())["micro_batch"] in (1, 2, 4)
    whole = run_recipe(path, tmp_path / "whole", "data.batch_size=4")
    assert json.loads((whole.folder / "manifest.json").read_text())["micro_batch"] is None
    assert run.column("gradient_norm") == pytest.approx(whole.column("gradient_norm"), rel=1e-4)


def test_the_default_of_a_large_network_on_a_cpu(path, tmp_path, monkeypatch):
    """One for a gradient through the decoder, else four; decoded one by one in any case."""
    session, _ = opened(path)
    assert micro_batch.default_micro_batch(session) == (None, None)
    monkeypatch.setattr(rollout_weights, "LARGE", 0)
    assert micro_batch.default_micro_batch(session) == (1, 1)
    black_box = replace(session, algorithm=object())
    assert micro_batch.default_micro_batch(black_box) == (4, 1)
    on_gpu = replace(session, context=replace(session.context, device=torch.device("cuda")))
    assert micro_batch.default_micro_batch(on_gpu) == (None, None)
    sizes, evaluate = [], context.evaluate_rewards

    def note(rewards, rollout, batch, gradient, *others):
        sizes.extend([len(batch)] if gradient else [])
        return evaluate(rewards, rollout, batch, gradient, *others)

    monkeypatch.setattr(context, "evaluate_rewards", note)
    sets = ["data.batch_size=4", "save.every=1"]
    run = run_recipe(path, tmp_path / "run", *sets, "train.steps=2")
    assert json.loads((run.folder / "manifest.json").read_text())["micro_batch"] == 1
    assert set(sizes) == {1}
    sizes.clear()
    two = run_recipe(path, tmp_path / "two", *sets, "train.micro_batch=2", "train.steps=2")
    assert json.loads((two.folder / "manifest.json").read_text())["micro_batch"] == 2
    assert set(sizes) == {2}
    assert run.column("gradient_norm") == pytest.approx(two.column("gradient_norm"), rel=1e-5)
    assert run.column("reward") == pytest.approx(two.column("reward"), rel=1e-5)


def test_the_whole_batch_can_be_asked_for(path, tmp_path, monkeypatch):
    sets = ["data.batch_size=4", "save.every=1", "train.steps=2"]
    plain = run_recipe(path, tmp_path / "plain", *sets)
    monkeypatch.setattr(rollout_weights, "LARGE", 0)
    run = run_recipe(path, tmp_path / "run", *sets, "train.micro_batch=all")
    facts = json.loads((run.folder / "manifest.json").read_text())
    assert "micro_batch" in facts and facts["micro_batch"] is None
    assert run.column("gradient_norm") == pytest.approx(plain.column("gradient_norm"), rel=1e-5)
    # One for each step of the optimizer; the default has four.
    assert [step["denoiser_backwards"] for step in run.steps] == [1, 2]


def test_a_large_network_on_a_cpu_has_its_channels_last(path, monkeypatch):
    """The same numbers; files are written as before, whatever the order in memory."""
    plain, batch = opened(path)
    monkeypatch.setattr(rollout_weights, "LARGE", 0)
    session, _ = opened(path)

    def is_last(opened):
        return opened.model.trainable.enter.weight.is_contiguous(memory_format=torch.channels_last)

    assert is_last(session) and not is_last(plain)
    outputs = []
    for ctx in (plain.context, session.context):
        rollout = ctx.rollout(batch, Plan(stop=3, keep=frozenset(range(3))))
        outputs.append(rollout.x0)
        step = ctx.replay(rollout, 0)
        step.next.square().sum().backward()
    assert torch.allclose(*outputs, rtol=0, atol=1e-6)
    for one, other in zip(plain.adapter.parameters, session.adapter.parameters):
        assert torch.allclose(one.grad, other.grad, rtol=0, atol=1e-5)
    whole, _ = opened(path, "adapter={kind: full}")
    assert not is_last(whole)


def test_networks_of_videos_keep_their_layout(path, monkeypatch):
    """Torch refuses channels last for five dimensions."""
    monkeypatch.setattr(rollout_weights, "LARGE", 0)
    session, _ = opened(path)
    video = torch.nn.Sequential(torch.nn.Conv3d(2, 4, 3), torch.nn.Conv2d(4, 4, 3))
    session.model.decoder = video
    lay_out(session.recipe, session.model, torch.device("cpu"))
    assert all(p.is_contiguous() for p in video.parameters())
    assert session.model.trainable.enter.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("key", "mark"),
    [("checkpointing", "checkpointed"), ("decode_checkpointing", "decoder_checkpointed")],
)
def test_the_policy_knows_what_is_computed_again(path, monkeypatch, key, mark):
    monkeypatch.setattr("rewardft.engine.session.switch_checkpointing", lambda recipe, model: None)
    for value in ("true", "false"):
        session, _ = opened(path, "train.precision=bf16", f"train.{key}={value}")
        for ctx in (session.context, session.evaluation_context()):
            assert getattr(ctx.policy, mark) is (value == "true")
            assert ctx.policy.precision == torch.bfloat16


def test_a_resumed_run_keeps_what_was_the_default_when_it_began(path, tmp_path, monkeypatch):
    sets = ["data.batch_size=4", "save.every=1"]
    run = run_recipe(path, tmp_path / "run", *sets, "train.steps=2")
    monkeypatch.setattr(rollout_weights, "LARGE", 0)
    again = run_recipe(path, run.folder, *sets, "train.steps=2", resume=True)
    assert json.loads((again.folder / "manifest.json").read_text())["micro_batch"] is None


def test_samplers_without_steps_and_sharded_bases_are_refused(path):
    session, batch = opened(path)
    session.context.sampler = object()
    with pytest.raises(ComponentError) as error:
        micro_batch.choose_micro_batch(session, batch)
    assert str(error.value) == (
        "train.micro_batch: 'auto' measures one sampling step, and the sampler 'ddim' has none. "
        "Say a number."
    )
    with pytest.raises(RecipeError) as refused:
        load_recipe(path, ["train.micro_batch=auto", "train.shard=true"])
    assert (
        "train.micro_batch: 'auto' is measured by one process, and all of them must call a sharded "
        "base together. Say a number."
    ) in str(refused.value)
    with pytest.raises(RecipeError) as typo:
        load_recipe(path, ["train.micro_batch=atuo"])
    assert (
        "expected a whole number of at least 1 and of at most 1000000, one of 'auto', 'all' or null"
        in str(typo.value)
    )
