"""The plugins that the documentation prints are run as they stand there."""

import importlib
import json
import sys

import numpy as np
import pytest
import torch
from rewardft_plugins.drpose.data.build import choose_samples
from rewardft_plugins.drpose.data.columns import column_path
from rewardft_plugins.drpose.data.splits import plan_splits
from rewardft_plugins.humans.body import load_body
from rewardft_plugins.humans.motion import read_motions
from safetensors.torch import save_file

import rewardft
from rewardft.contracts.protocols import DifferentiableSampler, RenoisingSampler
from rewardft.noise import Noise
from rewardft.runs.open import evaluate_run
from rewardft.testing import check_sampler, run_recipe
from rewardft.testing.tiny import TinyModel
from tests.documents import ROOT, blocks, files_in, read, table_rows, words


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """A run of the recipe in docs/writing-a-plugin.md with all of its plugin files."""
    folder = tmp_path_factory.mktemp("tour")
    for name, text in files_in("docs/writing-a-plugin.md").items():
        (folder / name).write_text(text)
    return run_recipe(folder / "tour.yaml", folder / "run")


def test_the_plugins_of_the_tour_train_together(tour):
    assert tour.summary["status"] == "finished" and len(tour.steps) == 4
    assert all(0 < value < 1 for value in tour.column("reward/contrast"))
    assert tour.column("reward") == pytest.approx(
        [2 * value for value in tour.column("reward/contrast")]
    )
    assert tour.column("penalty/pull")[0] == 0 and tour.column("penalty/pull")[-1] > 0
    assert tour.column("learning_rate") == [0.05] * 4
    row_names = [row["name"] for row in tour.summary["evaluation"]]
    assert {"spread/level", "even/spread/level", "odd/spread/level", "reward/contrast"} <= set(
        row_names
    )
    assert tour.summary["denoiser_backwards"] == 4 * 3, (
        "four sampling steps, of which the last draws no noise"
    )
    assert tour.summary["denoiser_forwards"] == 4 * (4 + 3 + 3), (
        "rolled out, visited, visited under the reference"
    )


def test_every_file_of_a_run_folder_is_documented(tour):
    rows = table_rows(
        read("docs/recipes.md").partition("\n## The run folder")[2].partition("\n## ")[0]
    )
    documented = {name.rstrip("/") for row in rows for name in words(row[0])}
    evaluate_run(tour.folder)
    assert {path.name for path in tour.folder.iterdir()} <= documented


def test_the_conformance_test_of_the_tour_passes(tmp_path, monkeypatch):
    for name in ("contrast.py", "test_contrast.py"):
        (tmp_path / name).write_text(files_in("docs/writing-a-plugin.md")[name])
    monkeypatch.syspath_prepend(str(tmp_path))
    # Forgotten at the end: another test collects a file of this name from another folder.
    for name in ("contrast", "test_contrast"):
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]
    tested = importlib.import_module("test_contrast")
    tested.test_contrast()
    # It can fail: a reward that mixes the samples of a batch is found out.
    mixing = lambda rollout, batch: rollout.decoded.mean().expand(len(batch))
    monkeypatch.setattr(tested, "contrast", mixing)
    with pytest.raises(AssertionError):
        tested.test_contrast()


def test_the_reward_with_weights_of_its_own(tmp_path):
    """Its option is a path that starts at the recipe, and its gradient draws samples to the picture."""
    (tmp_path / "likeness.py").write_text(files_in("docs/writing-a-plugin.md")["likeness.py"])
    picture = torch.full((3, 8, 8), 0.25)
    save_file({"picture": picture}, tmp_path / "picture.safetensors")
    text = (ROOT / "recipes" / "toy_draft.yaml").read_text()
    text = text.replace("plugins: [toy]", "plugins: [toy, ./likeness.py]")
    assert "{use: brightness}" in text
    text = text.replace(
        "{use: brightness}", "{use: likeness, file: picture.safetensors, scale: 2.0}"
    )
    (tmp_path / "recipe.yaml").write_text(text)
    settings = ["train.steps=20", "evaluate.every=20", "evaluate.samples=4"]
    run = run_recipe(tmp_path / "recipe.yaml", tmp_path / "run", *settings)
    drawn = rewardft.sample(run.folder, count=4).drawn
    (row,) = [r for r in run.summary["evaluation"] if r["name"] == "reward/likeness"]
    for value, decoded in (
        (row["before"], drawn.base["decoded"]),
        (row["after"], drawn.tuned["decoded"]),
    ):
        assert value == pytest.approx(-2.0 * (decoded - 0.25).square().mean().item(), rel=1e-5)
    assert row["after"] > row["before"] + row["half_width"]


def test_the_first_hook_of_the_hooks_page_runs(tmp_path, capsys):
    (tmp_path / "told.py").write_text(blocks("docs/hooks.md", "python")[0])
    settings = [f"plugins=[toy, {tmp_path}/told.py]", "train.steps=2", "evaluate.every=0"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text((ROOT / "recipes" / "toy_draft.yaml").read_text())
    run = run_recipe(recipe, tmp_path / "run", *settings)
    assert capsys.readouterr().out.splitlines() == [
        f"{i + 1} {reward}" for i, reward in enumerate(run.column("reward"))
    ]


def test_the_direct_algorithm_is_draft_with_one_step(tmp_path):
    (tmp_path / "last_step.py").write_text(files_in("docs/writing-a-plugin.md")["last_step.py"])
    settings = ["train.steps=4", "evaluate.every=0"]
    plugins = f"plugins=[toy, {tmp_path / 'last_step.py'}]"
    recipe = ROOT / "recipes" / "toy_draft.yaml"
    mine = run_recipe(recipe, tmp_path / "mine", plugins, "algorithm={use: last_step}", *settings)
    ours = run_recipe(
        recipe, tmp_path / "ours", "algorithm={use: draft_k, train_steps: 1}", *settings
    )
    assert mine.column("gradient_norm") == pytest.approx(ours.column("gradient_norm"), rel=1e-5)
    assert mine.column("reward") == pytest.approx(ours.column("reward"), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "make"), [("coarse", lambda s: s.Coarse(8)), ("reverse", lambda s: s.Reverse(4))]
)
def test_the_samplers_keep_their_contract(name, make, tmp_path, monkeypatch):
    (tmp_path / f"{name}.py").write_text(files_in("docs/writing-a-plugin.md")[f"{name}.py"])
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, name, None)
    del sys.modules[name]
    sampler = make(importlib.import_module(name))
    check_sampler(sampler)
    assert isinstance(sampler, DifferentiableSampler) and isinstance(sampler, RenoisingSampler)


def test_the_reverse_sampler_is_the_papers_with_all_timesteps():
    """Equation 46 of 2011.13456 with the model's own betas; the score by autograd."""
    scope = {}
    exec(files_in("docs/writing-a-plugin.md")["reverse.py"], scope)
    model, sampler = TinyModel(prediction="epsilon"), scope["Reverse"](1000)
    sampler.setup(model)
    noise = Noise(3, ["a", "b"], [0, 0], dtype=torch.float64)
    x, output = noise.draw("initial", (3, 4, 4)), noise.draw("output", (3, 4, 4))
    for k in (0, 500, 998):
        t = sampler.timesteps[k]
        beta = model.scheduler.betas.double()[t]
        sigma = (1 - model.scheduler.alphas_cumprod.double()[t]).sqrt()
        leaf = x.clone().requires_grad_(True)
        # log q(x_t | x0) with the network's estimate of the clean sample.
        density = torch.distributions.Normal(x - sigma * output, sigma).log_prob(leaf).sum()
        (score,) = torch.autograd.grad(density, leaf)
        expected = (2 - (1 - beta).sqrt()) * x + beta * score
        step = sampler.transition(k, x, output, noise)
        assert torch.allclose(step.mean, expected, atol=1e-6)
        assert step.std.item() == pytest.approx(beta.sqrt().item(), rel=1e-4)


def test_the_painter_of_the_drpose_page_paints_a_data_set(tmp_path, monkeypatch):
    """As it stands there, on two frames; its pictures come from files of the names that it reads."""
    (text,) = [body for body in blocks("docs/drpose.md", "python") if "class Portraits" in body]
    monkeypatch.chdir(tmp_path)
    for folder in ("motions", "painted"):
        (tmp_path / folder).mkdir()
    np.savez(tmp_path / "motions/mine.npz", standing=np.zeros((2, 22, 3), np.float32))
    body = load_body()
    for plan in plan_splits(read_motions(tmp_path / "motions/mine.npz")):
        for i, sample in enumerate(choose_samples(plan, body, seed=0)):
            picture = np.full((3, 64, 64), 10 * (i + 1), np.uint8)
            np.save(tmp_path / "painted" / f"{sample.id.replace('/', '_')}.npy", picture)
    exec(compile(text, "docs/drpose.md", "exec"), {"__name__": "page"})
    manifest = json.loads((tmp_path / "data/portraits/manifest.json").read_text())
    assert manifest["painter"] == "portraits"
    ((name, split),) = manifest["splits"].items()
    assert not split["targets"]
    images = np.load(column_path(tmp_path / "data/portraits", name, "images"))
    assert sorted(images.reshape(2, -1).max(1).tolist()) == [10, 20]
