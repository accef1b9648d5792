"""Hooks that observe a run, and the rules that hold for all hooks."""

import json

import pytest
import torch

from rewardft.engine.train import train
from rewardft.plugins.loading import load_plugins
from rewardft.plugins.resolve import resolve
from rewardft.recipe.recipe import load_recipe
from rewardft.testing.tiny import TinyDenoiser
from tests.bench import Bench, line_of


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


# -- observers -------------------------------------------------------------------------------------------------------


def test_hook_on_run_start(bench):
    """The folder and everything live exist; nothing has been trained or sampled."""
    bench.plugin(
        "watch",
        """
        @hookimpl
        def on_run_start(run):
            files = sorted(p.name for p in run.folder.iterdir())
            LOG.append((run.folder.name, run.is_main, run.steps, run.sampler.steps, run.recipe.seed, files))
            LOG.append({n: p.abs().sum().item() for n, p in run.model.trainable.named_parameters() if "lora_B" in n})
        """,
    )
    bench.run()
    facts, adapter = bench.log("watch")
    assert facts == ("run", True, 3, 3, 5, ["manifest.json", "recipe.yaml"])
    assert set(adapter.values()) == {0.0}, "the adapter is in place and at its initialisation"


STEP_WATCH = """
@hookimpl
def on_step_end(run, step, metrics, rollout):
    LOG.append((step, dict(metrics), rollout))
"""


def test_hook_on_step_end(bench):
    """Once per optimizer step, in order, with plain numbers; what it is told is what metrics.jsonl holds."""
    bench.plugin("watch", STEP_WATCH)
    run = bench.run("train.accumulate=2")
    told = bench.log("watch")
    assert [step for step, _, _ in told] == [1, 2, 3]
    for step, metrics, rollout in told:
        assert all(type(value) in (float, int) for value in metrics.values()), (
            "no tensors: reading one would wait"
        )
        assert {"loss", "reward", "reward/tiny_brightness", "gradient_norm", "learning_rate"} < set(
            metrics
        )
        assert {"step": step, **metrics} == run.steps[step - 1]
        assert len(rollout.noise) == 2


def test_hook_on_step_end_is_called_when_metrics_are_read(bench):
    """With log_every: 2 the steps come in pairs, each with its own metrics and with the newest rollout."""
    bench.plugin("watch", STEP_WATCH)
    bench.run("train.steps=5", "train.log_every=2")
    told = bench.log("watch")
    assert [step for step, _, _ in told] == [1, 2, 3, 4, 5]
    newest = [id(rollout) for _, _, rollout in told]
    assert newest[0] == newest[1] != newest[2] == newest[3] != newest[4]
    assert len({metrics["loss"] for _, metrics, _ in told}) == 5


def test_hook_on_evaluation_end(bench):
    """Means by name and by group, and the last evaluated batch with decoded samples."""
    bench.plugin(
        "watch",
        """
        @hookimpl
        def on_evaluation_end(run, step, metrics, rollout):
            LOG.append((step, dict(metrics), tuple(rollout.decoded.shape)))
        """,
    )
    run = bench.run("evaluate={every: 2, samples: 6, batch_size: 4}")
    told = bench.log("watch")
    assert [(step, shape) for step, _, shape in told] == [
        (0, (2, 3, 8, 8)),
        (2, (2, 3, 8, 8)),
        (3, (2, 3, 8, 8)),
    ]
    groups = [f"class{i}/" for i in range(4)]
    assert set(told[0][1]) == {prefix + "reward/tiny_brightness" for prefix in ["", *groups]}
    for step, metrics, _ in told:
        table = json.loads((run.folder / "evaluations" / f"step-{step:08d}.json").read_text())
        values = table["per_sample"]["reward/tiny_brightness"]
        assert metrics["reward/tiny_brightness"] == pytest.approx(sum(values) / 6)


def test_hook_on_samples_drawn(bench):
    """The path is the finished picture, of the base first."""
    bench.plugin(
        "watch",
        """
        @hookimpl
        def on_samples_drawn(run, step, path):
            LOG.append((step, str(path.relative_to(run.folder)), path.read_bytes()[:4]))
        """,
    )
    bench.run("samples.every=2")
    names = [(step, f"samples/grid-{step:08d}.png", b"\x89PNG") for step in (0, 2, 3)]
    assert bench.log("watch") == names


def test_hook_on_checkpoint_saved(bench):
    """The path is the finished checkpoint: complete, in its place, and good to resume from."""
    bench.plugin(
        "watch",
        """
        @hookimpl
        def on_checkpoint_saved(run, step, path):
            LOG.append((step, str(path.relative_to(run.folder)), sorted(p.name for p in path.iterdir())))
        """,
    )
    run = bench.run("save={every: 2, keep: 1}")
    told = bench.log("watch")
    places = [(2, "checkpoints/step-00000002"), (3, "checkpoints/step-00000003")]
    assert [(step, path) for step, path, _ in told] == places
    final = run.folder / "checkpoints" / "step-00000003"
    assert {tuple(names) for _, _, names in told} == {
        tuple(sorted(p.name for p in final.iterdir()))
    }
    assert "adapter_model.safetensors" in told[0][2]


def test_hook_on_run_end(bench):
    """Once, with the summary that is on disk too; the last checkpoint and the adapter are there already."""
    bench.plugin(
        "watch",
        """
        @hookimpl
        def on_run_end(run, summary):
            LOG.append((dict(summary), (run.folder / "checkpoints" / "step-00000003").is_dir()))
            LOG.append((run.folder / "adapter" / "adapter_model.safetensors").is_file())
        """,
    )
    run = bench.run()
    assert bench.log("watch") == [(run.summary, True), True]
    assert json.loads((run.folder / "summary.json").read_text()) == run.summary
    assert (run.summary["status"], run.summary["step"], run.summary["samples"]) == (
        "finished",
        3,
        6,
    )


FAILING = """
@hookimpl
def on_step_end(step):
    if step == 2:
        raise ValueError("two is too many")
"""


def test_hook_on_run_error(bench):
    """Told the step and the error; on_run_end is not called, and the run folder has the traceback."""
    bench.plugin("bad", FAILING)
    bench.plugin(
        "watch",
        """
        @hookimpl
        def on_run_error(run, step, error):
            LOG.append((step, error))

        @hookimpl
        def on_run_end(summary):
            LOG.append("end")
        """,
    )
    with pytest.raises(ValueError) as error:
        bench.run()
    assert error.value.args == ("two is too many",)
    assert bench.log("watch") == [(2, error.value)]
    text = (bench.folder / "run" / "error.txt").read_text()
    assert text.startswith("step 2\n") and "ValueError: two is too many" in text


def test_hook_on_run_error_is_fenced(bench):
    """An observer that fails while an error is reported is noted; the first error survives."""
    path = bench.plugin("bad", FAILING)
    bench.plugin(
        "worse",
        """
        @hookimpl
        def on_run_error(error):
            raise RuntimeError("and I cannot even say so")
        """,
    )
    with pytest.raises(ValueError) as error:
        bench.run()
    assert error.value.args == ("two is too many",)
    first, saved, third, second = error.value.__notes__
    kept = bench.folder / "run" / "checkpoints" / "step-00000002"
    assert saved == f"step 2 is saved in {kept}; once that is fixed, --resume"
    assert third.startswith("at step 2; the whole traceback is in ") and third.endswith("error.txt")
    assert (
        first == f"raised by plugin 'bad' in hook 'on_step_end' ({path}:{line_of(path, 'raise')})"
    )
    assert second.startswith("while this error was being reported, another occurred: ")
    assert "RuntimeError('and I cannot even say so')" in second


# -- rules for all hooks ---------------------------------------------------------------------------------------------

RAISING = {
    "register_rewards": "def register_rewards():\n    raise KeyError('x')",
    "check_recipe": "def check_recipe(recipe):\n    raise KeyError('x')",
    "create_optimizer": "def create_optimizer(options):\n    raise KeyError('x')",
    "stop_run": "def stop_run(step):\n    raise KeyError('x')",
    "on_run_start": "def on_run_start(run):\n    raise KeyError('x')",
    "on_evaluation_end": "def on_evaluation_end(run):\n    raise KeyError('x')",
    "on_checkpoint_saved": "def on_checkpoint_saved(path):\n    raise KeyError('x')",
    "on_run_end": "def on_run_end(summary):\n    raise KeyError('x')",
}


@pytest.mark.parametrize("hook", RAISING)
def test_an_exception_names_the_plugin_and_the_hook(bench, hook):
    """Whatever the hook, the traceback's owner is named: as a note, or in the message that replaces the error."""
    path = bench.plugin("culprit", "@hookimpl\n" + RAISING[hook])
    with pytest.raises(Exception) as error:
        bench.run("evaluate.every=1")
    expected = f"raised by plugin 'culprit' in hook '{hook}' ({path}:{line_of(path, 'raise')})"
    assert expected in "\n".join([str(error.value), *getattr(error.value, "__notes__", [])])


@pytest.mark.parametrize("overrides", [[], ["train.checkpointing=true"], ["train.micro_batch=2"]])
def test_no_hook_runs_between_the_denoiser_calls_of_a_step(bench, monkeypatch, tmp_path, overrides):
    """The whole order of events of a run: a step is denoiser calls and backwards, with no hook among them."""
    events = []
    forward = TinyDenoiser.forward

    def watched(self, *inputs):
        output = forward(self, *inputs)
        events.append("denoise")
        if output.requires_grad:
            output.register_hook(lambda gradient: events.append("backward"))
        return output

    monkeypatch.setattr(TinyDenoiser, "forward", watched)
    settings = ["train.steps=2", "algorithm.train_steps=2", "regularizers=[{use: kl, weight: 0.1}]"]
    recipe = load_recipe(bench.recipe, [*settings, "evaluate={every: 2, samples: 2}", *overrides])
    plugins = load_plugins(recipe.plugins, recipe.base)
    resolved = resolve(recipe, plugins)
    plugins.manager.add_hookcall_monitoring(
        lambda name, impls, arguments: events.append(name), lambda *_: None
    )
    train(recipe, plugins, resolved, tmp_path / "run")
    rollout, visit = (
        ["denoise"] * 2,
        ["denoise", "denoise", "backward"],
    )  # a visit: tuned, reference, backward
    step = [*rollout, *visit, *visit, "on_step_end", "stop_run"]
    evaluation = ["denoise"] * 3 + ["on_evaluation_end"]
    assert events == [
        "create_optimizer",
        "on_run_start",
        *evaluation,
        *step,
        *step,
        "on_checkpoint_saved",
        *evaluation,
        "on_run_end",
    ]


def test_observers_cannot_change_a_run_by_reading_it(bench):
    """A run that is watched in every hook gives the same numbers as one that nobody watches."""
    alone = bench.run(out="alone")
    bench.plugin(
        "nosy",
        """
        @hookimpl
        def on_run_start(run):
            torch.rand(7)

        @hookimpl
        def on_step_end(run, metrics, rollout):
            torch.rand(7)
            LOG.append(sum(p.sum().item() for p in run.model.trainable.parameters()))
        """,
    )
    watched = bench.run(out="watched")
    for name in ("loss", "reward", "gradient_norm"):
        assert watched.column(name) == alone.column(name)
    assert len(bench.log("nosy")) == 3 and torch.tensor(bench.log("nosy")).isfinite().all()
