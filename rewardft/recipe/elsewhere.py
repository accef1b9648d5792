"""What other trainers call the keys of a recipe, for hints; docs/coming-from-trl.md has more."""

from __future__ import annotations

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
    "train.report_to": "log_with",
    "train.micro_batch": "per_device_train_batch_size",
    "data.batch_size": "train_batch_size sample_batch_size",
    "evaluate.every": "eval_steps eval_freq log_image_freq",
    "save.every": "save_steps save_freq checkpointing_steps",
    "save.keep": "save_total_limit num_checkpoint_limit",
    "adapter.rank": "lora_rank lora_r",
    "adapter.alpha": "lora_alpha",
    "adapter.targets": "target_modules lora_target_modules",
    "adapter.dropout": "lora_dropout",
    "sampler.steps": "num_inference_steps sample_num_steps",
    "sampler.eta": "sample_eta",
    "model.guidance": "guidance_scale sample_guidance_scale",
    "--out": "output_dir logdir",
    "--resume": "resume_from resume_from_checkpoint",
}
HERE = {other: key for key, others in NAMES.items() for other in others.split()}


def elsewhere(key: str) -> str:
    """' Here it is optimizer.lr.' for `learning_rate`; '' for a key that no other trainer has."""
    return f" Here it is {HERE[key.casefold()]}." if key.casefold() in HERE else ""
