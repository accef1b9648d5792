"""Hints for a key that is in the wrong place, or has the name that other trainers give it;
docs/coming-from-trl.md has more of these names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from rewardft.errors import did_you_mean
from rewardft.recipe.sections import Sections, section_of

# TRL's, diffusers' and transformers' names, by the keys here.
NAMES = {
    "optimizer.lr": "learning_rate train_learning_rate",
    "optimizer.betas": "adam_beta1 adam_beta2 train_adam_beta1 train_adam_beta2",
    "optimizer.weight_decay": "adam_weight_decay train_adam_weight_decay",
    "optimizer.eps": "adam_epsilon train_adam_epsilon",
    "optimizer.schedule": "lr_scheduler lr_scheduler_type",
    "optimizer.warmup": "warmup_steps lr_warmup_steps warmup_ratio",
    "train.steps": "num_epochs num_train_epochs max_steps max_train_steps epochs",
    "train.accumulate": "gradient_accumulation_steps train_gradient_accumulation_steps",
    "train.clip_norm": "max_grad_norm train_max_grad_norm",
    "train.precision": "mixed_precision bf16 fp16",
    "train.checkpointing": "gradient_checkpointing",
    "train.log_every": "logging_steps",
    "train.report_to": "log_with tracker_project_name tracker_kwargs",
    "train.micro_batch": "per_device_train_batch_size",
    "data.batch_size": "sample_batch_size sample_num_batches_per_epoch",
    # TRL's holds samples in memory, that of diffusers' scripts is the batch.
    "data.batch_size, or train.micro_batch for what fits into memory": "train_batch_size",
    "evaluate.every": "eval_steps eval_freq log_image_freq",
    "save.every": "save_steps save_freq checkpointing_steps",
    "save.keep": "save_total_limit num_checkpoint_limit",
    "adapter.rank": "r lora_rank lora_r",
    "adapter.alpha": "lora_alpha",
    "adapter.targets": "target_modules lora_target_modules",
    "adapter.dropout": "lora_dropout",
    "sampler.steps": "num_inference_steps sample_num_steps",
    "sampler.eta": "sample_eta",
    "model.guidance": "guidance_scale sample_guidance_scale train_cfg",
    "model.negative_prompt": "negative_prompts",
    "algorithm.clip": "clip_range train_clip_range",
    "algorithm.advantage_clip": "adv_clip_max train_adv_clip_max",
    "algorithm.inner_epochs": "num_inner_epochs train_num_inner_epochs",
    "algorithm.timestep_fraction": "train_timestep_fraction",
    "algorithm.group_by": "per_prompt_stat_tracking",
    "algorithm.buffer": "per_prompt_stat_tracking_buffer_size",
    "algorithm.min_count": "per_prompt_stat_tracking_min_count",
    "algorithm.truncation": "truncated_rand_backprop_minmax",
    "optimizer.use": "use_8bit_adam train_use_8bit_adam",
    "--out": "output_dir logdir exp_name run_name",
    "--resume": "resume_from resume_from_checkpoint",
}
HERE = {other: key for key, others in NAMES.items() for other in others.split()}


def hint(key: str, here: str, known: Iterable[str]) -> str:
    """What to write instead of a key that is not `known` in the section `here`: the key of another
    section, or one of its own that is nearly the same, or both.

    ' Here it is optimizer.lr.' for `learning_rate`, ' Its place is train.micro_batch.' for
    `micro_batch`, " Did you mean 'seeds'? If not, its place is seed." for `seed` beside `seeds`.
    """
    folded, own = key.casefold(), {name.casefold(): name for name in known}
    section, _, option = HERE.get(folded, "").rpartition(".")
    # A component without the option is not told that it has it.
    if folded in HERE and (section != here or option in own):
        return f" Here it is {HERE[folded]}."
    places = [p for p in _paths() if p.rpartition(".")[2] == folded and p != f"{here}.{folded}"]
    if not places:
        return did_you_mean(key, own.values())
    place = f"ts place is {' or '.join(places)}."
    # The very word is there: only a key that differs by a letter or two is as likely.
    near = difflib.get_close_matches(folded, own, n=1, cutoff=0.8)
    return f" Did you mean {own[near[0]]!r}? If not, i{place}" if near else f" I{place}"


def _paths() -> Iterator[str]:
    """Every fixed key, and the options that most components of a kind have: `seed`,
    `train.steps`, `sampler.steps`."""
    for name, info in Sections.model_fields.items():
        yield name
        section = section_of(Sections, name)
        # The keys of a list's items have no path of their own.
        if section is not None and not isinstance(info.default, list):
            fixed = [key for key in section.model_fields if key not in ("use", "options")]
            yield from (f"{name}.{key}" for key in fixed)
    yield from ("sampler.steps", "sampler.eta", "model.guidance")
