"""A side of `benchmarks/peers.py`: flow_grpo's released script, `scripts/train_sd3.py` of a clone,
as it is. Given from outside: its configuration, the prompts and the reward."""

from __future__ import annotations

import json
import os
import runpy
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from checkpoint import PROMPTS, Judge
from lockstep import Lockstep

# One batch of a group of `batch` samples an epoch, one update of it, no KL: the rest is theirs.
CONFIG = """
import sys
sys.path.insert(0, {clone!r} + "/config")
import base

def get_config():
    config = base.get_config()
    config.logdir, config.dataset = {logs!r}, {data!r}
    config.pretrained.model = {folder!r}
    config.mixed_precision, config.allow_tf32 = {precision!r}, False
    config.resolution = {pixels}
    config.prompt_fn, config.reward_fn = "general_ocr", {{"judge": 1.0}}
    config.eval_freq = config.save_freq = 10**9
    config.sample.num_steps, config.sample.eval_num_steps = {steps}, 1
    config.sample.guidance_scale = {guidance}
    config.sample.train_batch_size = config.sample.num_image_per_prompt = {batch}
    config.sample.num_batches_per_epoch = 1
    config.train.batch_size, config.train.gradient_accumulation_steps = {batch}, 1
    config.train.timestep_fraction = 0.99
    return config
"""


def judge_images() -> Any:
    """In the place of flow_grpo's own reward functions, by their signature."""
    judge = Judge()

    def score(images: Any, prompts: Any, metadata: Any, only_strict: bool = True) -> Any:
        with torch.no_grad():
            values = judge(images.float()).tolist()
        return {"judge": values, "avg": values}, {}

    return score


def write_inputs(folder: Path, case: dict[str, Any]) -> Path:
    """The prompts and the configuration; returns the latter's path."""
    (folder / "train.txt").write_text("\n".join(PROMPTS))
    (folder / "test.txt").write_text(PROMPTS[0])
    path = folder / "config.py"
    path.write_text(CONFIG.format(**case, data=str(folder), logs=str(folder / "logs")))
    return path


def main() -> None:
    import accelerate  # noqa: F401 (what the script imports is at rest, as on the other sides)
    import peft  # noqa: F401
    import wandb  # noqa: F401
    from diffusers import StableDiffusion3Pipeline  # noqa: F401
    from torch.optim.optimizer import register_optimizer_step_post_hook

    case = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    os.environ["WANDB_MODE"] = "disabled"
    lockstep, left = Lockstep(case["device"]), [case["count"]]

    def note(*_: Any) -> None:
        lockstep.next()
        left[0] -= 1
        if not left[0]:
            os._exit(0)  # the script has no last step

    register_optimizer_step_post_hook(note)
    sys.path.insert(0, case["clone"])
    import flow_grpo.rewards

    flow_grpo.rewards.multi_score = lambda device, weights: judge_images()
    with tempfile.TemporaryDirectory() as folder:
        config = write_inputs(Path(folder), case)
        script = Path(case["clone"]) / "scripts" / "train_sd3.py"
        sys.argv = [str(script), f"--config={config}"]
        lockstep.start()
        runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
