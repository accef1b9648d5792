"""One `test_hook_<name>` for every hook: what it changes, or what it is told, in a real run."""

import json
import os
import subprocess
import sys
from textwrap import dedent

import pytest
import torch

from rewardft.engine import train
from rewardft.errors import ComponentError, RecipeError
from rewardft.plugins import load_plugins
from rewardft.recipe import load_recipe
from rewardft.resolve import resolve
from rewardft.testing import run_recipe
from rewardft.testing.tiny import TinyDenoiser

RECIPE = """
plugins: [rewardft.testing.tiny]
seed: 5
model: {use: tiny, prediction: v_prediction, width: 8}
sampler: {use: ddim, steps: 3}
data: {use: tiny_blobs, size: 6, batch_size: 2}
rewards: [{use: tiny_brightness}]
algorithm: {use: draft_k, train_steps: 1}
adapter: {kind: lora, rank: 2}
optimizer: {use: adamw, lr: 1e-2}
train: {steps: 3, log_every: 1}
"""
HEADER = "import torch\nfrom rewardft import hookimpl\nfrom rewardft.testing.tiny import TinyModel\n\nLOG = []\n\n"


class Bench:
    """A folder with a recipe, the plugin files of a test, and the runs that it makes."""

    def __init__(self, folder):
        self.folder, self.names = folder, ["rewardft.testing.tiny"]
        self.recipe = folder / "recipe.yaml"
        self.recipe.write_text(RECIPE)

    def plugin(self, stem, source):
        """Write `./stem.py`, which is listed after those before it; LOG is a list that its functions can fill."""
        path = self.folder / f"{stem}.py"
        path.write_text(HEADER + dedent(source))
        self.names.append(f"./{stem}.py")
        return path

    def run(self, *overrides, out="run"):
        return run_recipe(self.recipe, self.folder / out, f"plugins=[{', '.join(self.names)}]", *overrides)

    def log(self, stem):
        """LOG of the plugin file, in the module that the run imported."""
        path = str(self.folder / f"{stem}.py")
        return next(m for m in list(sys.modules.values()) if getattr(m, "__file__", None) == path).LOG


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def line_of(path, text):
    """The number of the line that contains `text`."""
    return next(i for i, line in enumerate(path.read_text().splitlines(), 1) if text in line)


# -- registration ----------------------------------------------------------------------------------------------------


def test_hook_register_models(bench):
    """The recipe's model is the plugin's: its images are half as bright as those of `tiny`, to the digit."""
    bench.plugin(
        "dim",
        """
        class Dim(TinyModel):
            def decode(self, x0):
                return super().decode(x0) / 2

        def mean_pixel(rollout, batch):
            return rollout.decoded.flatten(1).mean(1)

        @hookimpl
        def register_models():
            return {"dim": Dim}

        @hookimpl
        def register_rewards():
            return {"mean_pixel": mean_pixel}
        """,
    )
    plain = bench.run("rewards=[{use: mean_pixel}]", out="plain")
    dim = bench.run("rewards=[{use: mean_pixel}]", "model.use=dim", out="dim")
    assert dim.column("reward")[0] == pytest.approx(plain.column("reward")[0] / 2, rel=1e-5)


def test_hook_register_samplers(bench):
    """A sampler of two steps costs two denoiser calls per optimizer step, where the recipe's ddim costs three."""
    bench.plugin(
        "short",
        """
        from rewardft.samplers.ddim import DDIM

        class Short(DDIM):
            def __init__(self, eta: float = 0.0):
                super().__init__(steps=2, eta=eta)

        @hookimpl
        def register_samplers():
            return {"short": Short}
        """,
    )
    assert bench.run(out="three").summary["denoiser_forwards"] == 3 * 3
    assert bench.run("sampler={use: short}", out="two").summary["denoiser_forwards"] == 3 * 2


def test_hook_register_algorithms(bench):
    """The plugin's losses are what the optimizer follows: this one shrinks the adapter, and logs how far it is."""
    bench.plugin(
        "shrink",
        """
        from rewardft import Loss

        class Shrink:
            needs = frozenset()

            def losses(self, ctx, batch):
                size = sum(p.square().sum() for p in ctx.adapter.parameters)
                ctx.record("size", size)
                yield Loss(size, step=True)

        @hookimpl
        def register_algorithms():
            return {"shrink": Shrink}
        """,
    )
    run = bench.run("algorithm={use: shrink}", "train.steps=4")
    size = run.column("size")
    assert len(size) == 4 and all(after < before for before, after in zip(size, size[1:]))
    assert run.summary["denoiser_forwards"] == 0, "nothing but the algorithm calls the network"


def test_hook_register_rewards(bench):
    """A function is the reward itself, a class is a factory of it; options, weights and names come from the recipe."""
    bench.plugin(
        "mine",
        """
        def constant(rollout, batch, *, value: float):
            return rollout.x0.flatten(1).mean(1) * 0 + value

        class Level:
            provides = frozenset({"reward_gradient"})

            def __init__(self, value: float):
                self.value = value

            def __call__(self, rollout, batch):
                return rollout.x0.flatten(1).mean(1) * 1e-3 + self.value

        @hookimpl
        def register_rewards():
            return {"Constant": constant, "level": Level}
        """,
    )
    rewards = "rewards=[{use: constant, value: 2.0, weight: 0.5, name: two}, {use: level, value: 3.0, weight: 10.0}]"
    run = bench.run(rewards)
    assert run.column("reward/two") == [2.0] * 3
    assert run.column("reward/level") == pytest.approx([3.0] * 3, abs=0.01)
    assert run.column("reward") == pytest.approx([0.5 * 2 + 10 * level for level in run.column("reward/level")])


def test_hook_register_regularizers(bench):
    """A penalty sees the same visit under the tuned and the reference model: 0 at first, weighed into the loss later."""
    bench.plugin(
        "far",
        """
        def far(new, reference, *, power: float = 2.0):
            return (new.next - reference.next).abs().pow(power).flatten(1).mean(1)

        @hookimpl
        def register_regularizers():
            return {"far": far}
        """,
    )
    weak, strong = (bench.run(f"regularizers=[{{use: far, weight: {w}}}]", "train.steps=6", out=f"w{w}") for w in (0.0, 1e4))
    assert weak.column("penalty/far")[0] == 0.0 and strong.column("penalty/far")[0] == 0.0
    assert 0.0 < strong.column("penalty/far")[-1] < weak.column("penalty/far")[-1]


def test_hook_register_datasets(bench):
    """The samples that are rolled out are the plugin's, by their ids."""
    bench.plugin(
        "three",
        """
        class Three:
            def __init__(self, prefix: str):
                self.prefix = prefix

            def __len__(self):
                return 3

            def __getitem__(self, index):
                return {"id": f"{self.prefix}{index}", "label": index}

        @hookimpl
        def register_datasets():
            return {"three": Three}

        @hookimpl
        def on_step_end(rollout):
            LOG.extend(rollout.noise.ids)
        """,
    )
    bench.run("data={use: three, prefix: clip, batch_size: 1}")
    assert sorted(bench.log("three")) == ["clip0", "clip1", "clip2"]


def test_hook_register_metrics(bench):
    """Values per sample are listed beside the ids, single numbers alone; both reach the run folder."""
    bench.plugin(
        "peak",
        """
        class Peak:
            def reset(self):
                self.values = []

            def update(self, rollout, batch):
                self.values.append(rollout.decoded.flatten(1).amax(1))

            def compute(self):
                peaks = torch.cat(self.values)
                return {"each": peaks, "highest": peaks.max()}

        @hookimpl
        def register_metrics():
            return {"peak": Peak}
        """,
    )
    run = bench.run("evaluate={samples: 5, batch_size: 2, metrics: [{use: peak}]}")
    table = json.loads((run.folder / "evaluations" / "step-00000000.json").read_text())
    assert len(table["ids"]) == len(table["per_sample"]["peak/each"]) == 5
    assert table["overall"] == {"peak/highest": max(table["per_sample"]["peak/each"])}
    assert "peak/each" in [row["name"] for row in run.summary["evaluation"]]


def test_hook_register_commands(tmp_path):
    """`rewardft NAME ...` of an installed plugin, in a process of its own."""
    site = tmp_path / "site"
    info = site / "toyland-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toyland\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rewardft]\ntoyland = toyland\n")
    (site / "toyland.py").write_text(
        dedent(
            """
            import typer
            from rewardft import hookimpl

            app = typer.Typer()

            @app.command()
            def greet(name: str):
                print(f"hello, {name}")

            @app.command()
            def leave():
                print("goodbye")

            @hookimpl
            def register_commands():
                return {"toyland": app}
            """
        )
    )
    command = [sys.executable, "-m", "rewardft", "toyland", "greet", "reader"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(site)})
    assert (done.stdout, done.returncode) == ("hello, reader\n", 0), done.stderr


# -- questions -------------------------------------------------------------------------------------------------------


def test_hook_check_recipe(bench):
    """Every plugin's objections are reported together, and nothing is run."""
    for stem in ("one", "two"):
        bench.plugin(
            stem,
            f"""
            @hookimpl
            def check_recipe(recipe):
                if recipe.data.batch_size < 4:
                    yield f"{stem} wants batches of 4, got {{recipe.data.batch_size}}"
            """,
        )
    with pytest.raises(RecipeError) as error:
        bench.run()
    where = str(bench.recipe)
    assert str(error.value) == (
        f"{where}: 2 problems\n  - {where}: one wants batches of 4, got 2\n  - {where}: two wants batches of 4, got 2"
    )
    assert not (bench.folder / "run").exists()
    assert bench.run("data.batch_size=4").summary["status"] == "finished"


OPTIMIZERS = """
@hookimpl
def create_optimizer(parameters, options):
    LOG.append((options["use"], options.get("momentum")))
    if options["use"] == "{name}" or options["use"] == "both":
        return torch.optim.SGD(parameters, lr={rate})
"""


def test_hook_create_optimizer(bench):
    """The last listed plugin is asked first, the core last; the first answer wins and is what trains."""
    bench.plugin("first", OPTIMIZERS.format(name="one", rate=0.0))
    bench.plugin("last", OPTIMIZERS.format(name="two", rate=0.5))
    both = bench.run("optimizer={use: both, lr: 0.1, momentum: 0.9}", out="both")
    assert (bench.log("last"), bench.log("first")) == ([("both", 0.9)], []), "the second was never asked"
    assert both.column("learning_rate") == [0.5] * 3
    bench.log("last").clear()
    one = bench.run("optimizer={use: one, lr: 0.1}", out="one")
    assert (bench.log("last"), bench.log("first")) == ([("one", None)], [("one", None)])
    assert one.column("learning_rate") == [0.0] * 3
    assert bench.run("optimizer={use: adamw, lr: 0.01}", out="core").column("learning_rate") == [0.01] * 3
    assert [use for use, _ in bench.log("first")] == ["one", "adamw"], "the core answers after all plugins"


def test_hook_create_optimizer_when_nobody_answers(bench):
    with pytest.raises(ComponentError) as error:
        bench.run("optimizer={use: lion, lr: 0.1}")
    assert str(error.value) == (
        "optimizer.use: nobody knows 'lion'. The core has 'adamw'; a plugin adds others with the hook `create_optimizer`."
    )


def test_hook_stop_run(bench):
    """The first answer ends the run after the step, and becomes its reason; the last listed plugin is asked first."""
    for stem in ("first", "last"):
        bench.plugin(
            stem,
            f"""
            @hookimpl
            def stop_run(run, step, metrics):
                LOG.append(step)
                return f"{stem} says stop at {{step}}" if step == 2 else None
            """,
        )
    run = bench.run("train.steps=50")
    assert (run.summary["status"], run.summary["reason"], run.summary["step"]) == ("stopped", "last says stop at 2", 2)
    assert [step["step"] for step in run.steps] == [1, 2]
    assert (bench.log("first"), bench.log("last")) == ([1], [1, 2])
    assert [p.name for p in (run.folder / "checkpoints").iterdir()] == ["step-00000002"]


def test_hook_stop_run_of_the_core_ends_a_run_whose_loss_is_not_a_number(bench):
    bench.plugin(
        "lost",
        """
        from rewardft import Loss

        class Lost:
            needs = frozenset()

            def losses(self, ctx, batch):
                ctx.record("loss", torch.tensor([float("nan")]))
                yield Loss(sum(p.square().sum() for p in ctx.adapter.parameters), step=True)

        @hookimpl
        def register_algorithms():
            return {"lost": Lost}
        """,
    )
    summary = bench.run("algorithm={use: lost}").summary
    assert (summary["status"], summary["reason"], summary["step"]) == ("stopped", "the loss is NaN", 1)


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
        assert all(type(value) in (float, int) for value in metrics.values()), "no tensors: reading one would wait"
        assert {"loss", "reward", "reward/tiny_brightness", "gradient_norm", "learning_rate"} < set(metrics)
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
    assert [(step, shape) for step, _, shape in told] == [(0, (2, 3, 8, 8)), (2, (2, 3, 8, 8)), (3, (2, 3, 8, 8))]
    groups = [f"class{i}/" for i in range(4)]
    assert set(told[0][1]) == {prefix + "reward/tiny_brightness" for prefix in ["", *groups]}
    for step, metrics, _ in told:
        table = json.loads((run.folder / "evaluations" / f"step-{step:08d}.json").read_text())
        values = table["per_sample"]["reward/tiny_brightness"]
        assert metrics["reward/tiny_brightness"] == pytest.approx(sum(values) / 6)


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
    assert [(step, path) for step, path, _ in told] == [(2, "checkpoints/step-00000002"), (3, "checkpoints/step-00000003")]
    final = run.folder / "checkpoints" / "step-00000003"
    assert {tuple(names) for _, _, names in told} == {tuple(sorted(p.name for p in final.iterdir()))}
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
    assert (run.summary["status"], run.summary["step"], run.summary["samples"]) == ("finished", 3, 6)


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
    first, second = error.value.__notes__
    assert first == f"raised by plugin 'bad' in hook 'on_step_end' ({path}:{line_of(path, 'raise')})"
    assert second.startswith("while this error was reported, another came up: ")
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
    """The whole order of events of a run: an optimizer step is denoiser calls and backwards, with no hook among them."""
    events = []
    forward = TinyDenoiser.forward

    def watched(self, *inputs):
        output = forward(self, *inputs)
        events.append("denoise")
        if output.requires_grad:
            output.register_hook(lambda gradient: events.append("backward"))
        return output

    monkeypatch.setattr(TinyDenoiser, "forward", watched)
    settings = ["train.steps=2", "algorithm.train_steps=2", "regularizers=[{use: kl, weight: 0.1}]", "evaluate.samples=2"]
    recipe = load_recipe(bench.recipe, [*settings, "evaluate.every=2", *overrides])
    plugins = load_plugins(recipe.plugins, recipe.base)
    resolved = resolve(recipe, plugins)
    plugins.manager.add_hookcall_monitoring(lambda name, impls, arguments: events.append(name), lambda *_: None)
    train(recipe, plugins, resolved, tmp_path / "run")
    rollout, visit = ["denoise"] * 2, ["denoise", "denoise", "backward"]  # a visit: tuned, reference, backward
    step = [*rollout, *visit, *visit, "on_step_end", "stop_run"]
    evaluation = ["denoise"] * 3 + ["on_evaluation_end"]
    assert events == [
        "create_optimizer", "on_run_start", *evaluation, *step, *step, "on_checkpoint_saved", *evaluation, "on_run_end",
    ]  # fmt: skip


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
