"""A folder with a recipe, plugin files and runs: what a test of hooks needs."""

import sys
from textwrap import dedent

from rewardft.testing import run_recipe

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
        """Write `stem.py`, which is listed after those before it; LOG is a list that its functions can fill."""
        path = self.folder / f"{stem}.py"
        path.write_text(HEADER + dedent(source))
        self.names.append(str(path))
        return path

    def run(self, *overrides, out="run"):
        return run_recipe(
            self.recipe, self.folder / out, f"plugins=[{', '.join(self.names)}]", *overrides
        )

    def log(self, stem):
        """LOG of the plugin file, in the module that the run imported."""
        path = str(self.folder / f"{stem}.py")
        return next(
            m for m in list(sys.modules.values()) if getattr(m, "__file__", None) == path
        ).LOG


def line_of(path, text):
    """The number of the line that contains `text`."""
    return next(i for i, line in enumerate(path.read_text().splitlines(), 1) if text in line)
