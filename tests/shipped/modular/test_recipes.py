"""The recipes for published weights: checked without them, and run whole on tiny weights of the same classes."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from rewardft_plugins.modular import settings
from rewardft_plugins.modular.model import Modular

from rewardft.recipe.recipe import load_recipe
from rewardft.testing import run_recipe
from tests.shipped.modular.test_edits import qwen_edit
from tests.shipped.rewards.checkpoints import save_clip

FOLDER = Path(__file__).resolve().parents[3] / "recipes"
SMALL = [
    "train.steps=1",
    "train.accumulate=1",
    "evaluate.samples=2",
    "evaluate.every=0",
    "save.every=0",
    "adapter.rank=2",
    "data.batch_size=1",
    "sampler.steps=3",
    "train.precision=fp32",
    "model.dtype=fp32",
]
LIGHT = "{use: mean_brightness}"
CASES = {
    "flux2_klein_drtune": ("flux2_klein", 32, [f"rewards=[{LIGHT}]"]),
    "qwen_image_flow_grpo": ("qwen_image", 32, [f"rewards=[{LIGHT}]", "algorithm.group_size=2"]),
    "z_image_draft_k": ("z_image", 64, [f"rewards=[{LIGHT}]"]),
    "wan_t2v_drtune": ("wan", 32, [f"rewards.0.reward={LIGHT}", "rewards.0.every=2", "model.frames=5", "algorithm.early_stop=2"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_recipe_runs_on_tiny_weights(name, folders, tmp_path):
    family, size, changes = CASES[name]
    if "evaluate.sampler" in (FOLDER / f"{name}.yaml").read_text() or name.startswith("qwen_image"):
        changes = [*changes, "evaluate.sampler.steps=3"]
    sizes = [f"model.weights={folders[family]}", f"model.height={size}", f"model.width={size}"]
    run = run_recipe(FOLDER / f"{name}.yaml", tmp_path / "run", *SMALL, *sizes, *changes)
    assert run.summary["status"] == "finished" and run.steps[-1]["gradient_norm"] > 0


def test_every_recipe_is_tried_here():
    named = {p.stem for p in FOLDER.glob("*.yaml") if "use: modular" in p.read_text()}
    assert named == {*CASES, "qwen_edit_nft"}
    for name in named:
        assert load_recipe(FOLDER / f"{name}.yaml").model.use == "modular"


OF_EDITS = ("evaluate.samples", "sampler.steps", "model.dtype")  # set otherwise there
PLUGIN = """
from rewardft import hookimpl
from tests.shipped.modular.test_recipes import tiny_edit

@hookimpl
def register_models():
    return {"tiny_edit": tiny_edit}
"""


def tiny_edit() -> Modular:
    """Qwen-Image-Edit in memory: its processor cannot be loaded without torchvision."""
    wanted = settings.Settings(workflow="image_conditioned", guidance=1.0, height=32, width=32)
    return Modular(qwen_edit(), wanted)


tiny_edit.provides = Modular.provides


@pytest.mark.slow  # the family scales every picture to a megapixel
def test_the_recipe_of_edits(tmp_path):
    (tmp_path / "tiny_edit.py").write_text(PLUGIN)
    save_clip(tmp_path / "clip")
    row = {"prompt": "make it red", "source": "a cat", "target": "a red cat"}
    rows = []
    for n in range(3):
        Image.new("RGB", (64, 64), (40 * n, 90, 200)).save(tmp_path / f"{n}.png")
        rows.append(json.dumps({"image": f"{n}.png", **row}))
    (tmp_path / "edits.jsonl").write_text("\n".join(rows))
    small = [change for change in SMALL if change.partition("=")[0] not in OF_EDITS]
    run = run_recipe(
        FOLDER / "qwen_edit_nft.yaml",
        tmp_path / "run",
        *small,
        f"plugins=[{tmp_path}/tiny_edit.py, editing, rewards, nft]",
        "model={use: tiny_edit}",
        f"data.path={tmp_path}/edits.jsonl",
        "data.held_out=1",
        "data.height=64",
        "data.width=64",
        f"rewards.0.weights={tmp_path}/clip",
        "algorithm.group_size=2",
        "evaluate.samples=1",
        "sampler.steps=1",
    )
    assert run.summary["status"] == "finished" and run.steps[-1]["gradient_norm"] > 0
    assert torch.isfinite(torch.tensor(run.column("reward/preservation"))).all()
