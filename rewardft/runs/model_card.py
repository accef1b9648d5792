"""The README.md of exported weights: a header that model hubs read, how to load them, what they
were trained for, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rewardft.engine.held_out import trained_values
from rewardft.evaluation.alarms import find_alarms
from rewardft.evaluation.evaluate import Evaluation, Paired, compare, compare_sets
from rewardft.evaluation.stored import evaluation_path, read_evaluation
from rewardft.files.json_text import read_object
from rewardft.files.paths import looks_local
from rewardft.recipe import strict_yaml
from rewardft.recipe.recipe import Recipe
from rewardft.runs.table import difference_of, shown

# FOLDER: where the files lie, or their id on a hub.
LOADING = {
    "diffusers": """from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("BASE")
pipe.load_lora_weights("FOLDER")""",
    "peft": """from peft import PeftModel

# network: the base's denoiser, such as `pipe.unet` or `pipe.transformer`
network = PeftModel.from_pretrained(network, "FOLDER")""",
    "kohya": "Put NAME.safetensors into the folder `models/loras` of ComfyUI.",
    "merged": """from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("FOLDER")""",
    "network": """from safetensors.torch import load_file

# network: the base's denoiser, built as for training
network.load_state_dict(load_file("FOLDER/model.safetensors"))""",
}
COSTS = {
    "reward_evaluations": "rewards",
    "denoiser_forward_samples": "forwards of the denoiser",
    "denoiser_backward_samples": "backwards",
    "train_seconds": "s",
}
ENDS = {"status": str, "step": int}
WITHOUT = "Delete it to export without it."


def model_card(recipe: Recipe, run: Path, to: str, step: int, name: str, whole: bool = True) -> str:
    """The card of a run's weights in the layout `to`, as Markdown.

    step: of the weights. whole: whether merged weights are a whole checkpoint. Paths of this
    machine are cut to their last part.
    """
    file = run / "summary.json"
    ended = read_object(file, ENDS, WITHOUT) if file.is_file() else {}
    parts = [
        f"---\n{strict_yaml.dump(header(recipe, to))}---",
        f"# {name}",
        opening(recipe, to, step),
        "## Use\n\n" + use_of(to if whole else "network", name, weights_of(recipe)),
        "## Results\n\n" + "\n\n".join(results(recipe, run, step)),
        "## Training\n\n" + "\n".join(f"* {line}" for line in training(recipe, ended)),
        "## Limits\n\n" + LIMITS,
        f"## Recipe\n\n```yaml\n{strict_yaml.dump(without_paths(recipe.as_options()))}```",
    ]
    return "\n\n".join(parts) + "\n"


LIMITS = (
    "The intervals above are over held-out samples of one training run with one seed; another seed "
    "may give another result. A reward measures only what it was made to measure: samples can "
    "score higher without being better, and what no value above covers was not looked at."
)


def header(recipe: Recipe, to: str) -> dict[str, Any]:
    """The card's metadata."""
    facts: dict[str, Any] = {"library_name": "diffusers" if to != "peft" else "peft"}
    base = base_of(recipe)
    # Hubs refuse a card whose base is no id.
    if base is not None:
        relation = "finetune" if to == "merged" else "adapter"
        facts |= {"base_model": base, "base_model_relation": relation}
    kind = ["lora"] if recipe.adapter.kind == "lora" else []
    return {**facts, "tags": ["rewardft", "reward-fine-tuning", recipe.algorithm.use, *kind]}


def base_of(recipe: Recipe) -> str | None:
    """The hub id of the base model; None where it is a folder, or made by the plugin."""
    weights = recipe.model.options.get("weights")
    return weights if isinstance(weights, str) and not looks_local(weights) else None


def weights_of(recipe: Recipe) -> str | None:
    """The same, or the name of its folder; None where the plugin makes it."""
    named = base_of(recipe) or without_paths(recipe.model.options).get("weights")
    return named if isinstance(named, str) else None


def opening(recipe: Recipe, to: str, step: int) -> str:
    """What it is, in two sentences."""
    what = "low-rank adapter" if recipe.adapter.kind == "lora" and to != "merged" else "model"
    rewards = ", ".join(f"`{reward.name}` (weight {reward.weight:g})" for reward in recipe.rewards)
    wanted = f" for {rewards}" if rewards else ""
    base, model = weights_of(recipe), recipe.model.use
    origin = f"{base}, loaded as `{model}`" if base else f"that of rewardft's model `{model}`"
    return (
        f"A {what} of step {step}, fine-tuned{wanted} with the algorithm `{recipe.algorithm.use}` "
        f"of rewardft. The base is {origin}."
    )


def use_of(to: str, name: str, base: str | None) -> str:
    """The lines that load it."""
    lines = LOADING[to].replace("NAME", name).replace("BASE", base or "BASE")
    return lines if to == "kohya" else f"```python\n{lines}\n```"


def results(recipe: Recipe, run: Path, step: int) -> Iterator[str]:
    """The held-out values before and after, and the alarms."""
    before, after = read_values(run, 0), read_values(run, step)
    if before is None or after is None or before.settings != after.settings or step == 0:
        yield "These weights were not evaluated against the base model."
        return
    yield "Held-out samples, the same noise for both models; differences with 95 % intervals."
    start = recipe.adapter.start
    if recipe.adapter.init is not None:
        initial = without_paths(recipe.adapter.init)
        yield f"The start is not the base, but the weights of `{initial}` (`adapter.init`)."
    yield table(
        ["value", "samples", start, "tuned", "difference"],
        [
            [row.name, str(row.count), shown(row.before), shown(row.after), interval(row)]
            for row in compare(before, after)
        ],
    )
    if sets := compare_sets(before, after):
        rows = [[row.name, shown(row.before), shown(row.after)] for row in sets]
        yield table(["value of the set", start, "tuned"], rows)
    least = recipe.evaluate.min_diversity
    alarms = find_alarms(before, after, trained_values(recipe), least, start)
    none = "No alarm: none of the signs of a hacked reward that are looked for was found."
    yield "\n".join(f"**Alarm:** {alarm.sentence}" for alarm in alarms) or none


def read_values(run: Path, step: int) -> Evaluation | None:
    """The evaluation of a step; None where the run made none."""
    path = evaluation_path(run, step)
    return read_evaluation(path, WITHOUT) if path.is_file() else None


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def interval(row: Paired) -> str:
    """'+0.12 ± 0.01', and whether it can be told from none."""
    apart = "" if row.separable else " (not separable)"
    return difference_of(row) + apart


def training(recipe: Recipe, ended: Mapping[str, Any]) -> Iterator[str]:
    """Data, length and cost."""
    data = without_paths(recipe.data.options)
    options = ", ".join(f"{key}: {value}" for key, value in data.items())
    yield f"data: `{recipe.data.use}`" + (f" ({options})" if options else "")
    length = f"{ended['step']} of {recipe.train.steps}" if ended else f"{recipe.train.steps}"
    budget = f", budget {recipe.train.budget}" if recipe.train.budget else ""
    yield f"optimizer steps: {length}{budget}, batches of {recipe.data.batch_size}"
    if not ended:
        return
    reason = f" ({ended['reason']})" if ended.get("reason") else ""
    yield f"how it ended: {ended['status']}{reason}"
    known = [
        f"{ended[key]:,.0f} {words}" for key, words in COSTS.items() if is_number(ended.get(key))
    ]
    if known:
        yield f"cost: {', '.join(known)}"


def is_number(value: Any) -> bool:
    """Whether a summary knows it; null stands for NaN."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def without_paths(value: Any) -> Any:
    """Plain data with absolute paths cut to their last part: a card is for others to read."""
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    if isinstance(value, Mapping):
        return {key: without_paths(item) for key, item in value.items()}
    return [without_paths(item) for item in value] if isinstance(value, (list, tuple)) else value
