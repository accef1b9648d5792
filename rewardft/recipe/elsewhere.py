"""Hints for a key that is in the wrong place, or has the name that other trainers give it;
docs/coming-from-trl.md has more of these names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator

from rewardft.errors import did_you_mean
from rewardft.recipe.sections import Sections, section_of

# TRL's, diffusers' and transformers' names, by the keys here; by a sentence where there is no key.
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
    "train.compile": "torch_compile",
    "train.shard": "fsdp fsdp_config deepspeed",
    "train.log_every": "logging_steps",
    "train.report_to": "log_with tracker_project_name tracker_kwargs tracker_name",
    "train.micro_batch": "per_device_train_batch_size",
    "data.batch_size": "sample_batch_size sample_num_batches_per_epoch",
    # TRL's holds samples in memory, that of diffusers' scripts is the batch.
    "data.batch_size, or train.micro_batch for what fits into memory": "train_batch_size",
    "data.path": "train_data_dir",
    "data.column": "caption_column",
    "data.limit": "max_train_samples",
    "evaluate.every": "eval_steps eval_freq eval_strategy validation_steps validation_epochs "
    "log_image_freq",
    "evaluate.samples": "num_validation_images",
    "evaluate.data": "validation_prompt validation_prompts eval_dataset",
    "evaluate.batch_size": "per_device_eval_batch_size",
    "save.every": "save_steps save_freq save_strategy checkpointing_steps",
    "save.keep": "save_total_limit num_checkpoint_limit checkpoints_total_limit",
    "save.best": "load_best_model_at_end metric_for_best_model",
    "save.patience": "early_stopping_patience",
    "adapter.rank": "r lora_rank lora_r",
    "adapter.alpha": "lora_alpha",
    "adapter.targets": "target_modules lora_target_modules",
    "adapter.dropout": "lora_dropout",
    "sampler.steps": "num_inference_steps sample_num_steps",
    "sampler.eta": "sample_eta",
    "model.weights": "pretrained_model_name_or_path pretrained_model",
    "model.revision": "pretrained_revision",
    "model.height and model.width": "resolution",
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
    "Write algorithm: {use: alignprop}.": "truncated_backprop_rand",
    "Write algorithm: {use: draft_k, train_steps: K} for the last K steps.": (
        "truncated_backprop_timestep"
    ),
    "algorithm.group_size": "num_generations",
    "rewards, each with its weight": "reward_fn reward_function reward_funcs reward_weights",
    "data, such as {use: NAME, path: FILE}": "prompt_fn prompt_function",
    "rewards: [{use: remote, ...}]": "async_reward_computation max_workers",
    "train.ema": "use_ema ema_decay",
    "optimizer.use": "use_8bit_adam train_use_8bit_adam optim",
    "--out": "output_dir logdir logging_dir exp_name run_name",
    "--resume": "resume_from resume_from_checkpoint",
    "A run is never overwritten: give another --out, or --resume.": "overwrite_output_dir",
    "Nothing takes its place: it is PyTorch's own switch. A plugin file can set "
    "torch.backends.cuda.matmul.allow_tf32.": "allow_tf32 tf32",
    "Nothing is pushed: push what `rewardft export` writes.": (
        "push_to_hub hub_model_id hub_token hub_strategy hub_private_repo"
    ),
    "`accelerate launch` sets devices and processes.": "accelerator_kwargs local_rank",
    "--out for the folder, and save.keep for how many checkpoints are kept": "project_kwargs",
    "Data sets of the hub are not fetched: save the set as files, and give their place as "
    "data.path.": "dataset_name dataset_config_name",
    "Nothing takes its place: batches are read in the process that trains.": (
        "dataloader_num_workers num_workers"
    ),
    "Nothing takes its place: PyTorch's own attention is used.": (
        "enable_xformers_memory_efficient_attention"
    ),
    "Nothing takes its place: the learning rate is used as it is written.": "scale_lr",
    "Set HF_HOME in the environment.": "cache_dir",
}
HERE = {other: key for key, others in NAMES.items() for other in others.split()}
# Options that a component may have itself, by other trainers' names for them.
OWN = {
    "cache_dir": "cache",
    "max_workers": "concurrency",
    "mixed_precision": "precision",
    "resolution": "height width",
    "train_batch_size": "batch_size",
}


def hint(key: str, here: str, known: Iterable[str]) -> str:
    """What to write instead of a key that is not `known` in the section `here`: one of its own that
    is nearly the same, or the key of another section, or both.

    ' Here it is optimizer.lr.' for `learning_rate`, ' Its place is train.micro_batch.' for
    `micro_batch`, " Did you mean 'seeds'? If not, its place is seed." for `seed` beside `seeds`,
    " Nothing is pushed: ..." where no key is its own.
    """
    folded, own = key.casefold(), {name.casefold(): name for name in known}
    name = HERE.get(folded, "")
    place = re.match(r"(\w+)\.(\w+)", name)
    section, option = place.groups() if place else ("", "")
    meant = OWN.get(folded, "").split()
    # A component's own option is nearer than the key of another section.
    if section != here and meant and own.keys() >= set(meant):
        return f" Did you mean {' and '.join(repr(own[one]) for one in meant)}?"
    if name.endswith("."):
        return f" {name}"
    # A component without the option is not told that it has it.
    if name and (section != here or option in own):
        return f" Here it is {name}."
    places = [p for p in _paths() if p.rpartition(".")[2] == folded and p != f"{here}.{folded}"]
    if not places:
        return did_you_mean(key, own.values())
    said = f"ts place is {' or '.join(places)}."
    # The very word is there: only a key that differs by a letter or two is as likely.
    near = difflib.get_close_matches(folded, own, n=1, cutoff=0.8)
    return f" Did you mean {own[near[0]]!r}? If not, i{said}" if near else f" I{said}"


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
