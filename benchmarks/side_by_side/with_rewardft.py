"""The other side of `benchmarks/peers.py`: a recipe. It is a plugin too, for the reward and the
prompts."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewardft import Batch, Rollout, hookimpl

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # as a plugin, it is not where Python looks

from checkpoint import PROMPTS, Judge  # noqa: E402
from lockstep import Lockstep  # noqa: E402

RECIPE = """
plugins: [text2image, ddpo, {plugin}]
seed: 0
model: {{use: stable_diffusion, weights: {folder}, guidance: {guidance}}}
sampler: {{use: ddim, steps: {steps}}}
data: {{use: peer_prompts, batch_size: {batch}}}
rewards: [{{use: peer_judge}}]
algorithm: {{use: draft_k, train_steps: {trained}}}
adapter: {{kind: lora, rank: 4}}
optimizer: {{use: adamw, lr: 1e-4}}
train: {{steps: {count}}}
"""
DDPO = ["algorithm={use: ddpo}", "sampler.eta=1.0"]
GRPO = [
    "plugins=[text2image, grpo, {plugin}]",
    "model={{use: sd3, weights: {folder}, guidance: {guidance}, t5_length: 128}}",
    "model.guidance_gradient=outside",
    "sampler={{use: flow_sde, steps: {steps}}}",
    "data.batch_size=1",
    "algorithm={{use: flow_grpo, group_size: {batch}, updates: 1}}",
    "adapter={{kind: lora, rank: 32, alpha: 64}}",
]
BF16 = ["train.precision=bf16", "model.dtype=bf16", "model.vae_dtype=bf16"]


class Judged(nn.Module):
    """`Judge` as a reward."""

    provides = frozenset({"reward_gradient"})

    def __init__(self) -> None:
        super().__init__()
        self.judge = Judge()

    def forward(self, rollout: Rollout, batch: Batch) -> Tensor:
        return self.judge(rollout.decoded.float())


class PeerPrompts:
    """The prompts of the other side."""

    def __len__(self) -> int:
        return len(PROMPTS)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"id": str(index), "prompt": PROMPTS[index]}


@hookimpl
def register_datasets() -> dict[str, Any]:
    return {"peer_prompts": PeerPrompts}


@hookimpl
def register_rewards() -> dict[str, Any]:
    return {"peer_judge": Judged}


def sets_of(case: dict[str, Any]) -> list[str]:
    """The changes to the recipe that a case asks for."""
    grpo = [words.format(plugin=__file__, **case) for words in GRPO]
    own = {"draft": [], "ddpo": DDPO, "grpo": grpo}
    sets = [*own[case["algorithm"]], *case["settings"]]
    return sets + (BF16 if case["precision"] == "bf16" else [])


def main() -> None:
    import diffusers  # noqa: F401 (at rest too, as on the other side)
    from diffusers import StableDiffusionPipeline  # noqa: F401
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from rewardft.testing import run_recipe

    case = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    lockstep = Lockstep(case["device"])
    register_optimizer_step_post_hook(lambda *_: lockstep.next())
    sets = sets_of(case)
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_text(RECIPE.format(plugin=__file__, **case))
        lockstep.start()
        run_recipe(recipe, Path(folder) / "run", *sets)


if __name__ == "__main__":
    main()
