"""One side of `benchmarks/peers.py`: TRL's trainers, in an environment that has them."""

from __future__ import annotations

import itertools
import json
import sys
from typing import Any

import torch
from accelerate import PartialState
from checkpoint import PROMPTS, Judge
from lockstep import Lockstep
from trl import AlignPropConfig, AlignPropTrainer, DDPOConfig, DDPOTrainer
from trl.models import DefaultDDPOStableDiffusionPipeline


def trainer_of(case: dict[str, Any]) -> Any:
    """The trainer that does what the case says; its own defaults for the rest."""
    PartialState()  # the pipeline logs through it
    pipeline = DefaultDDPOStableDiffusionPipeline(case["folder"], use_lora=True)
    judge = Judge().to(PartialState().device)

    def reward(pictures: Any, prompts: Any, metadata: Any) -> tuple[Any, dict[str, Any]]:
        return judge(pictures.float()), {}

    prompts = itertools.cycle(PROMPTS)
    shared = {
        "mixed_precision": case["precision"],
        "sample_num_steps": case["steps"],
        "sample_guidance_scale": case["guidance"],
        "train_batch_size": case["batch"],
        "train_learning_rate": 1e-4,
        "train_adam_weight_decay": 0.01,
    }
    if case["algorithm"] == "ddpo":
        config = DDPOConfig(
            **shared,
            sample_eta=1.0,
            sample_batch_size=case["batch"],
            sample_num_batches_per_epoch=1,
        )
        return DDPOTrainer(config, reward, lambda: (next(prompts), {}), pipeline)
    config = AlignPropConfig(
        **shared,
        sample_eta=0.0,
        truncated_backprop_rand=False,
        truncated_backprop_timestep=case["steps"] - case["trained"],
    )
    return AlignPropTrainer(config, reward, lambda: (next(prompts), {}), pipeline)


def main() -> None:
    case = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    lockstep = Lockstep(case["device"])
    lockstep.start()
    trainer = trainer_of(case)
    for _ in range(case["count"]):
        trainer.step(0, 0)
        lockstep.next()


if __name__ == "__main__":
    main()
