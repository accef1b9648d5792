"""Slow: every shipped recipe on a pretended device, made short; those for weights from the hub have tiny ones.

The device has no kernels of its own: torch takes attention and the gradient of SiLU (`math_silu_backward`) apart into
elementary operations, which round otherwise. Adam makes a step of the size of the learning rate out of any gradient,
however small, so that rounding alone moves a weight whose gradient is nearly nothing as far as learning would. Here its
`eps` is far above all gradients and these are brought to one length: each step goes along the gradient itself, and two
runs differ by rounding or by a mistake.
"""

import json
from functools import cached_property

import pytest

from rewardft.recipe.recipe import load_recipe
from rewardft.testing import run_recipe
from tests import pretended
from tests.engine.test_devices import RECIPES, run_on_the_device, weights
from tests.shipped.modular import conftest  # noqa: F401 (tiny families can be imported)
from tests.shipped.modular import test_recipes as modular
from tests.shipped.text2image import checkpoints
from tests.shipped.text2image import test_shipped_recipes as text2image

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(pretended.obstacle()), reason=str(pretended.obstacle())),
]
NAMES = [p.stem for p in sorted(RECIPES.glob("*.yaml")) if not p.stem.startswith("compare_")]
# Two steps along the gradient, each of this length over all weights.
LENGTH = 0.01
SHORT = {
    "train.steps": 2,
    "train.log_every": 1,
    "train.precision": "fp32",
    "train.clip_norm": 1e-6,
    "optimizer.eps": 1,
    "optimizer.lr": LENGTH * 1e6,
    "optimizer.weight_decay": 0,
    "optimizer.schedule": "constant",
    "optimizer.warmup": 0,
    "evaluate.every": 0,
    "evaluate.samples": 4,
    "evaluate.batch_size": 4,
    "save.every": 0,
    "data.batch_size": 2,
}
HYPOTHESES = {"data.hypotheses": 2, "evaluate.samples_per_item": 3}
OF_POSES = {"evaluate.data": "{split: val, limit: 2}"}
OF_VIEWS = {"data.limit": 4, "sampler.steps": 3}
SCENES = {"model.scenes": 2, "model.gaussians": 10}
# What else makes a recipe short.
CHANGES = {
    "adhmr_pretrain": OF_POSES | {"evaluate.samples_per_item": 2},
    "adhmr_mini": OF_POSES | HYPOTHESES,
    "adhmr_group": OF_POSES | HYPOTHESES,
    "adhmr_paper": OF_POSES | HYPOTHESES,
    "posert_mini": OF_POSES,
    "posert_grpo": OF_POSES,
    "posert_sft": OF_POSES
    | {"model.width": 16, "model.head_width": 8, "model.heads": 2, "data.limit": 4},
    "digits_diffusion_dpo": {"data.size": 8},
    "digits_diffusion_kto": {"data.size": 8},
    "drpose_mini": OF_VIEWS | {"algorithm.early_stop": 1, "evaluate.data.limit": 2},
    "drpose_pretrain": OF_VIEWS,
    "ddpo3d_digits": SCENES | {"data.scenes": 2},
    "ddpo3d_human": SCENES | {"data.of.limit": 1},
    "ddpo3d_text": {
        "model.prior.guidance": 2,
        "model.size": 16,
        "model.gaussians": 30,
        "model.scale": 0.2,
    },
}


class StandIns:
    """What recipes load, made when it is first asked for: tiny checkpoints, and rendered bodies."""

    def __init__(self, folder):
        self.folder, self.made = folder, {}

    def get(self, name, make):
        if name not in self.made:
            make(self.folder / name)
            self.made[name] = self.folder / name
        return self.made[name]

    def checkpoint(self, family):
        return self.get(family, checkpoints.FAMILIES[family])

    def modular(self, family):
        from rewardft_plugins.text2image.tiny import save

        return self.get(f"modular-{family}", lambda folder: save(family, folder))

    @cached_property
    def bodies(self):
        from rewardft_plugins.drpose.data.build import build_dataset
        from rewardft_plugins.drpose.data.splits import Sampling, plan_splits
        from rewardft_plugins.humans.body import load_body
        from rewardft_plugins.humans.motion import shipped_clips

        few = Sampling(poses=2, neighbours=1, val_samples=4, targets="all")
        plans, body = plan_splits(shipped_clips(), few), load_body("anny_lowpoly")
        return self.get("bodies", lambda folder: build_dataset(folder, plans, body))


def as_settings(words):
    return dict(word.split("=", 1) for word in words)


def made_short(name, stand_ins):
    """The overrides of a recipe."""
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    family, algorithm = recipe.model.use, recipe.algorithm.use
    own = dict(CHANGES.get(name, {}))
    if family in checkpoints.FAMILIES:
        words = [*text2image.SMALL, *text2image.SIZES.get(family, [])]
        words += text2image.CHOICES.get(algorithm, [])
        own |= as_settings(words) | {"model.weights": stand_ins.checkpoint(family)}
        own |= {"model.dtype": "fp32"}
    elif family == "modular":
        kind, size, changes = modular.CASES[name]
        own |= as_settings([*modular.SMALL, *changes])
        own |= {"model.weights": stand_ins.modular(kind), "model.height": size, "model.width": size}
        if recipe.evaluate.sampler is not None:
            own |= {"evaluate.sampler.steps": 3}
    elif name.startswith("drpose"):
        own |= {"data.root": stand_ins.bodies}
    elif name == "ddpo3d_human":
        own |= {"data.of.root": stand_ins.bodies}
    elif name == "ddpo3d_text":
        own |= {"model.prior.weights": stand_ins.checkpoint("stable_diffusion")}
    return [f"{key}={value}" for key, value in (own | SHORT).items()]


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    return StandIns(tmp_path_factory.mktemp("stand_ins"))


LEFT_OUT = {"qwen_edit_nft"}  # it scales every picture to a megapixel


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LEFT_OUT])
def test_a_recipe_ends_in_the_same_weights(name, stand_ins, tmp_path):
    path, sets = RECIPES / f"{name}.yaml", made_short(name, stand_ins)
    found = run_on_the_device(tmp_path, [[name, str(path), sets]])
    assert found[name]["error"] is None, found[name]["error"]
    own = run_recipe(path, tmp_path / "cpu", *sets)
    one, other = weights(own.folder), weights(tmp_path / name)
    worst = max(float((one[n] - other[n]).abs().max()) for n in one)
    norms = own.column("gradient_norm")
    print(json.dumps({"recipe": name, "worst": worst, "norms": norms}))
    assert min(norms) > 1e-6, "gradients are too small to be brought to the length of the others"
    assert worst < 1e-4 * LENGTH
