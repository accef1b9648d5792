"""A model that draws its weights without a seed of its own is the same base in every run."""

import torch

from rewardft.engine.session import build_session
from rewardft.plugins.resolve import open_recipe
from rewardft.testing import run_recipe

PLUGIN = """
from rewardft import hookimpl
from rewardft.testing.tiny import TinyDenoiser, TinyModel


class Fresh(TinyModel):
    def __init__(self):
        super().__init__()
        self.trainable = TinyDenoiser()  # of the global generator


@hookimpl
def register_models():
    return {"fresh": Fresh}
"""
RECIPE = """
plugins: [rewardft.testing.tiny, ./fresh.py]
seed: {seed}
model: {{use: fresh}}
sampler: {{use: ddim, steps: 2}}
data: {{use: tiny_blobs, batch_size: 2}}
rewards: [{{use: tiny_brightness}}]
algorithm: {{use: draft}}
optimizer: {{use: adamw, lr: 1e-3}}
train: {{steps: 1}}
evaluate: {{samples: 4}}
"""


def base(path):
    """The base's weights, without the adapter."""
    recipe, _, resolved = open_recipe(path)
    session = build_session(recipe, resolved, torch.device("cpu"))
    weights = session.model.trainable.state_dict()
    return {name: value for name, value in weights.items() if ".lora_" not in name}


def test_the_base_depends_neither_on_the_global_generator_nor_on_the_seed_of_the_run(tmp_path):
    (tmp_path / "fresh.py").write_text(PLUGIN)
    found = []
    for seed in (0, 1):
        path = tmp_path / f"{seed}.yaml"
        path.write_text(RECIPE.format(seed=seed))
        torch.rand(3 + seed)  # as other work in the process would
        before = torch.get_rng_state()
        found.append(base(path))
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(found[1][name], value) for name, value in found[0].items())


def test_a_run_in_the_same_process_is_evaluated_on_the_base_that_it_trained(tmp_path):
    (tmp_path / "fresh.py").write_text(PLUGIN)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(seed=0))
    first, second = (
        run_recipe(path, tmp_path / name, "evaluate.every=1").summary["evaluation"] for name in "ab"
    )
    assert first == second
