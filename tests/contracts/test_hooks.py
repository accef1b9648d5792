"""One `test_hook_<name>` for every hook: registration and questions here, observers in `test_hooks_observers.py`."""

import json
import os
import subprocess
import sys
from textwrap import dedent

import pytest

from rewardft.errors import ComponentError, RecipeError
from tests.bench import Bench


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


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
    assert len(size) == 4 and size == sorted(size, reverse=True) and size[-1] < size[0]
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
    assert run.column("reward") == pytest.approx(
        [0.5 * 2 + 10 * level for level in run.column("reward/level")]
    )


def test_hook_register_regularizers(bench):
    """A penalty sees the same visit under the tuned and the reference model: 0 at first, weighed later."""
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
    weak, strong = (
        bench.run(
            f"regularizers=[{{use: far, weight: {weight}}}]", "train.steps=6", out=f"weight{weight}"
        )
        for weight in (0.0, 1e4)
    )
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
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(site)}
    )
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
    assert (bench.log("last"), bench.log("first")) == ([("both", 0.9)], []), (
        "the second was never asked"
    )
    assert both.column("learning_rate") == [0.5] * 3
    bench.log("last").clear()
    one = bench.run("optimizer={use: one, lr: 0.1}", out="one")
    assert (bench.log("last"), bench.log("first")) == ([("one", None)], [("one", None)])
    assert one.column("learning_rate") == [0.0] * 3
    assert (
        bench.run("optimizer={use: adamw, lr: 0.01}", out="core").column("learning_rate")
        == [0.01] * 3
    )
    assert [use for use, _ in bench.log("first")] == ["one", "adamw"], (
        "the core answers after all plugins"
    )


def test_hook_create_optimizer_when_nobody_answers(bench):
    bench.plugin("silent", "@hookimpl\ndef create_optimizer(options):\n    return None\n")
    with pytest.raises(ComponentError) as error:
        bench.run("optimizer={use: lion, lr: 0.1}")
    assert str(error.value) == (
        "optimizer.use: unknown optimizer 'lion'. The core has 'adamw'; "
        "a plugin adds others with the hook `create_optimizer`."
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
    assert (run.summary["status"], run.summary["reason"], run.summary["step"]) == (
        "stopped",
        "last says stop at 2",
        2,
    )
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
    assert (summary["status"], summary["reason"], summary["step"]) == (
        "stopped",
        "the loss is NaN",
        1,
    )
