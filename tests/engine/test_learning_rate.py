"""The learning rate that a step is logged with is the one that its update was made with."""

import math

import pytest

from tests.bench import Bench

OPTIMIZER = """
class Noting(torch.optim.SGD):
    def step(self, closure=None):
        LOG.append(self.param_groups[0]["lr"])
        return super().step(closure)

@hookimpl
def create_optimizer(parameters, options):
    if options["use"] == "noting":
        return Noting(parameters, lr=options["lr"])
"""


@pytest.mark.parametrize("log_every", [1, 4, 7])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_each_step_is_logged_with_its_own_rate(tmp_path, schedule, log_every):
    """Steps are told in bunches, and the schedule moves on before they are told."""
    bench = Bench(tmp_path)
    bench.plugin("noting", OPTIMIZER)
    sets = [f"train.log_every={log_every}", f"optimizer.schedule={schedule}", "optimizer.warmup=3"]
    run = bench.run("optimizer.use=noting", "optimizer.lr=0.5", "train.steps=7", *sets)
    logged = run.column("learning_rate")
    assert logged == bench.log("noting") and len(logged) == 7
    decays = {
        "constant": lambda done: 1.0,
        "linear": lambda done: 1 - done,
        "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    }
    after = [decays[schedule]((step - 3) / 4) for step in range(3, 7)]
    assert logged == pytest.approx([0.5 * f for f in (1 / 3, 2 / 3, 1.0, *after)])
