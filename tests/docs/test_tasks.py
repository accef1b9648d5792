"""Commands of the documentation, run in their order in an empty folder, as a newcomer runs them."""

import shlex

import pytest
import torch
from safetensors.torch import load_file

import rewardft
from rewardft.cli import main
from tests.documents import blocks, files_in


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands(name, first):
    """The commands of rewardft in the block that begins with `first`."""
    (block,) = [block for block in blocks(name, "sh") if block.startswith(first)]
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    return [words[1:] for words in lines if words[:1] == ["rewardft"]]


def run_all(lines):
    for words in lines:
        assert main(words) == 0, shlex.join(words)


def test_the_commands_of_the_readme_on_recipes(empty, capsys):
    lines = commands("README.md", "rewardft ls ")
    assert [words[0] for words in lines] == [
        *["ls", "cp", "check", "show", "plan", "run", "run"],
        *["watch", "evaluate", "evaluate", "sample", "export"],
    ]
    # It serves until it is told to end; tests/comparisons/test_watching.py has it.
    run_all([words for words in lines if words[0] != "watch"])
    said = capsys.readouterr().out
    assert "finished at step 60: runs/mine" in said and "finished at step 100: runs/mine" in said
    files = ["samples/grid.png", "adapter_scales.json", "export/peft/README.md"]
    assert all((empty / "runs" / "mine" / file).is_file() for file in files)


def test_the_commands_that_give_help(empty, capsys):
    run_all(commands("docs/editor-and-help.md", "rewardft ls "))
    run_all(commands("docs/editor-and-help.md", "rewardft schema"))
    run_all(commands("docs/editor-and-help.md", "rewardft new"))
    files = {path.name for path in empty.iterdir()}
    assert files >= {"rewardft.schema.json", "my_reward.py", "test_my_algorithm.py", "my_plugin"}
    said = capsys.readouterr().out
    assert "no problem found" in said and "paper" in said and '"summary"' in said


def test_the_commands_on_soups(empty):
    """Of a run for bright images and one for dark ones, the soup is in between."""
    run_all(commands("docs/comparing.md", "rewardft run toy_draft --out runs/bright"))
    rewards = {}
    for name in ("bright", "dark", "both"):
        shown = rewardft.sample(f"runs/{name}", count=8).drawn.tuned["decoded"]
        rewards[name] = shown.mean().item()
    assert rewards["dark"] < rewards["both"] < rewards["bright"]


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux"])
def test_the_other_tiny_families_are_pipelines_of_diffusers(family, empty):
    from diffusers import DiffusionPipeline

    folder = empty / "tiny" / family
    first = commands("docs/text2image.md", "rewardft text2image tiny flux")[0]
    run_all([[*first[:2], family, str(folder)]])
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a fox", height=32, width=32, num_inference_steps=2).images[0]
    assert image.size == (32, 32) and len(image.getcolors(32 * 32)) > 100
    if family == "flux":
        run_all(commands("docs/text2image.md", "rewardft text2image tiny flux"))
        assert (empty / "runs" / "flux" / "adapter" / "pytorch_lora_weights.safetensors").is_file()


def test_a_tiny_stable_diffusion_travels_to_diffusers(empty):
    """The pages on text-to-image models and on exporting, one after the other."""
    (empty / "mine.yaml").write_text(files_in("docs/text2image.md")["mine.yaml"])
    run_all(commands("docs/text2image.md", "rewardft text2image tiny stable_diffusion"))
    run_all(commands("docs/exporting.md", "rewardft export runs/mine --to diffusers\n"))
    weights = load_file("runs/mine/export/diffusers/pytorch_lora_weights.safetensors")
    assert any(value.any() for name, value in weights.items() if "lora_B" in name or "up" in name)
    scope = {}
    lines = files_in("docs/exporting.md")["load.py"].split("pipe.unload")
    exec(lines[0], scope)
    assert scope["image"].size == (32, 32) and (empty / "fox.png").is_file()
    assert scope["pipe"].get_active_adapters() == ["mine"]
    pipe = scope["pipe"]

    def latents():
        noise = torch.Generator().manual_seed(0)
        return pipe("a fox", num_inference_steps=5, generator=noise, output_type="latent").images

    half = latents()
    pipe.set_adapters("mine", 1.0)
    whole = latents()
    exec("pipe.unload" + lines[1], scope)
    base = latents()
    assert 0 < (half - base).norm() < (whole - base).norm()
