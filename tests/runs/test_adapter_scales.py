"""Adapter strengths after training, the knee, and samples of both models side by side."""

import json
import math
import shlex

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import rewardft
from rewardft.cli import main
from rewardft.engine.session import run_evaluation
from rewardft.errors import ComponentError
from rewardft.evaluation.evaluate import Evaluation
from rewardft.evaluation.pictures import as_pictures, enlarge, file_name, save_grid, save_pictures
from rewardft.files.json_text import encode
from rewardft.runs.open import load_trained, open_run
from rewardft.runs.samples import held_out_pictures
from rewardft.runs.strengths import evaluate_scales, find_knee
from rewardft.testing import make_rollout, run_recipe
from rewardft.types import Batch

RECIPE = """\
plugins: [rewardft.testing.tiny, metrics]
model: {use: tiny, prediction: v_prediction, width: 8}
sampler: {use: ddim, steps: 2}
data: {use: tiny_blobs, size: 10, batch_size: 4}
rewards: [{use: tiny_brightness, weight: 2.0}]
algorithm: {use: draft_k, train_steps: 1}
adapter: {kind: lora, rank: 2}
optimizer: {use: adamw, lr: 3e-2}
train: {steps: 4}
evaluate:
  samples: 6
  data: {split: val}
  metrics: [{use: diversity, spaces: [latents]}]
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of four steps."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "recipe.yaml").write_text(RECIPE)
    return run_recipe(folder / "recipe.yaml", folder / "run").folder


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    (folder / "recipe.yaml").write_text(RECIPE)
    sets = ["adapter={kind: full}", "optimizer.lr=1e-3", "train.steps=1"]
    return run_recipe(folder / "recipe.yaml", folder / "run", *sets).folder


def evaluation(out, step):
    return Evaluation.from_json(
        json.loads((out / "evaluations" / f"step-{step:08d}.json").read_text())
    )


# -- strengths -------------------------------------------------------------------------------------------------------


def test_strengths_from_python_are_those_of_the_command(trained):
    found = rewardft.evaluate_strengths(trained, [1.0, 0.5])
    result = evaluate_scales(trained, [1.0, 0.5])
    assert vars(found) == result
    assert found.table.column("scale") == [0.0, 0.5, 1.0]
    kl = [point["means"][found.kl] for point in result["points"]]
    assert found.table.column(found.kl) == kl and found.verdict in found._repr_html_()
    for bad in ([-1.0], [math.nan], [math.inf]):
        with pytest.raises(ComponentError) as error:
            rewardft.evaluate_strengths(trained, bad)
        assert str(error.value) == f"strengths are numbers of at least 0, got {bad}"


def test_strength_0_is_the_base_and_1_what_was_trained(trained):
    """On the values of the run's own evaluations, bit by bit; each strength is evaluated once."""
    result = evaluate_scales(trained, [1.0, 0.5, 0.5])
    base, tuned = evaluation(trained, 0), evaluation(trained, 4)
    points = result["points"]
    assert [p["scale"] for p in points] == [0.0, 0.5, 1.0] and (
        result["step"],
        result["samples"],
    ) == (4, 6)
    for point, expected in ((points[0], base), (points[2], tuned)):
        means = expected.means()
        assert {name: point["means"][name] for name in means} == means
        assert point["reward"] == 2 * means["reward/tiny_brightness"]
    assert points[0]["kl"] == 0 < points[1]["kl"] < points[2]["kl"]
    assert result["kl"] == "kl/epsilon_mse"
    row = next(row for row in points[2]["versus_base"] if row["name"] == "reward/tiny_brightness")
    differences = np.array(tuned.per_sample[row["name"]]) - base.per_sample[row["name"]]
    assert row["difference"] == pytest.approx(differences.mean())
    assert json.loads((trained / "adapter_scales.json").read_text()) == json.loads(encode(result))


def test_half_the_strength_is_half_the_update(trained):
    """Merged by hand: W + s alpha / r B A in the base's layers gives the same samples."""
    session = open_run(trained)
    load_trained(session, trained)
    session.adapter.scale(0.5)
    scaled = run_evaluation(session, 6).per_sample["reward/tiny_brightness"]
    session.adapter.scale(1.0)
    with torch.no_grad():
        for layer in session.adapter.layers:
            layer.lora_B["default"].weight *= 0.5
    assert run_evaluation(session, 6).per_sample["reward/tiny_brightness"] == pytest.approx(
        scaled, rel=1e-5
    )


def test_the_command_prints_the_table_and_the_verdict(trained, capsys):
    assert main(["evaluate", str(trained), "--adapter-scale", "0,0.5,1"]) == 0
    out = capsys.readouterr().out.splitlines()
    written = json.loads((trained / "adapter_scales.json").read_text())
    assert out[1].strip() == "adapter strengths, same samples and noise"
    assert out[2].split() == [
        "scale",
        "reward/tiny_brightness",
        "kl/epsilon_mse",
        "diversity/latents",
        "diversity/latents_within_group",
    ]
    for line, point in zip(out[3:6], written["points"]):
        means = [f"{point['means'][name]:.4g}" for name in out[2].split()[1:]]
        assert line.split() == [f"{point['scale']:g}", *means]
    figure = trained / "adapter_scales.html"
    assert out[6:] == [written["verdict"], f"figure: {figure}"]
    drawn = figure.read_text()
    assert "<script src=" not in drawn and drawn.count('"mode":"lines+markers+text"') == 3, (
        "one for each value across"
    )
    assert all(json.dumps(f"{point['scale']:g}") in drawn for point in written["points"])
    sets = ["--set", "evaluate.metrics=[]"]
    assert main(["evaluate", str(trained), "--adapter-scale", "0,1", "--samples", "2", *sets]) == 0
    hint, _, command = capsys.readouterr().out.splitlines()[-1].partition(": rewardft ")
    assert hint == "with diversity as well"
    assert main([*shlex.split(command), "--samples", "2"]) == 0
    assert "diversity/latents" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["a", "0,,1", "-1", "nan", "0,inf", ""])
def test_strengths_that_are_none(trained, capsys, text):
    assert main(["evaluate", str(trained), f"--adapter-scale={text}"]) == 2
    assert capsys.readouterr().err == (
        f"error: --adapter-scale: expected numbers of at least 0 with commas between, such as 0,0.5,1, got {text!r}\n"
    )


@pytest.mark.parametrize(
    "command", [["evaluate", "--adapter-scale", "0,1"], ["sample", "--adapter-scale", "0.5"]]
)
def test_full_fine_tuning_has_no_strength(full, capsys, command):
    assert main([command[0], str(full), *command[1:]]) == 2
    assert (
        capsys.readouterr().err
        == "error: only LoRA adapters can be scaled; this run trained all weights\n"
    )


# -- the knee --------------------------------------------------------------------------------------------------------


def curve(kl, reward, scales=None):
    scales = [i / (len(kl) - 1) for i in range(len(kl))] if scales is None else scales
    return [{"scale": s, "kl": k, "reward": r} for s, k, r in zip(scales, kl, reward)]


def test_the_knee_of_the_papers_example_is_at_022():
    """Figure 2 of Satopaa et al.: y = -1 / (x + 0.1) + 5 on ten points."""
    x = np.linspace(0, 1, 10)
    place, _ = find_knee(curve(list(x), list(-1 / (x + 0.1) + 5)))
    assert place == pytest.approx(2 / 9)


def test_the_knee_is_where_the_slope_is_that_of_the_chord():
    """For 1 - exp(-5 x): x = ln(5 / (1 - exp(-5))) / 5, whatever the units of the axes and what comes after the top."""
    x = np.linspace(0, 1, 401)
    y = 1 - np.exp(-5 * x)
    expected = math.log(5 / (1 - math.exp(-5))) / 5
    assert find_knee(curve(list(x), list(y)))[0] == pytest.approx(expected, abs=1 / 400)
    worse = curve([*(1e-4 * x), 3e-4, 9e-4], [*(70 * y - 3), 60, 20], [*x, 1.5, 2.0])
    place, sentence = find_knee(worse)
    assert place == pytest.approx(expected, abs=1 / 400)
    earned = (1 - math.exp(-5 * place)) / (1 - math.exp(-5))
    assert sentence == (
        f"knee at scale {place:g}: {earned:.0%} of the highest gain in reward (scale 1) for {place:.0%} of its divergence"
    )


def test_curves_without_a_knee():
    straight = "no knee: up to scale 1, which has the highest reward, the reward does not rise faster than the divergence at first"
    cases = {
        "no knee: no scale has a higher reward than the base": curve([0, 1, 2], [1.0, 0.5, 0.2]),
        "no knee: no scale lies between the base and 0.5, which has the highest reward": curve(
            [0, 1, 2], [0.0, 0.5, 0.2]
        ),
        "no knee: the recipe has no reward that applies to these samples": curve(
            [0, 1, 2], [math.nan] * 3
        ),
    }
    for sentence, points in cases.items():
        assert find_knee(points) == (None, sentence)
    for reward in ([0.0, 0.5, 1.0], [0.0, 0.54, 1.0], [0.0, 0.1, 1.0]):
        assert find_knee(curve([0, 1, 2], reward)) == (None, straight)


# -- samples side by side ----------------------------------------------------------------------------------------------


def test_sample_writes_both_models_with_the_same_noise(trained, tmp_path, capsys):
    """x0 of the base and of the tuned model are those of the evaluations, and the pictures are these pixels."""
    out = tmp_path / "out"
    assert main(["sample", str(trained), "--count", "3", "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "3 samples of the base and of step 4, adapter scale 1, same noise:",
        *(
            f"  {out}/{name}"
            for name in ("base.safetensors", "tuned.safetensors", "grid.png", "pictures")
        ),
    ]
    session = open_run(trained)
    expected = [run_evaluation(session, 3).rollout]
    load_trained(session, trained)
    expected.append(run_evaluation(session, 3).rollout)
    for name, rollout in zip(("base", "tuned"), expected):
        found = load_file(out / f"{name}.safetensors")
        assert torch.equal(found["x0"], rollout.x0) and torch.equal(
            found["decoded"], rollout.decoded
        )
        with safe_open(out / f"{name}.safetensors", "pt") as file:
            assert file.metadata() == {
                "ids": '["val/0", "val/1", "val/2"]',
                "step": "4",
                "adapter_scale": "1",
                "model": name,
            }
        for id_, pixels in zip(("val/0", "val/1", "val/2"), found["decoded"]):
            picture = np.array(Image.open(out / "pictures" / f"{name}-{file_name(id_)}.png"))
            assert np.array_equal(
                picture, (pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            )
    assert not torch.equal(expected[0].x0, expected[1].x0)
    assert len(list((out / "pictures").glob("*.png"))) == 6 and not list(out.glob(".*"))
    grid = np.array(Image.open(out / "grid.png"))
    assert grid.shape == (14 + 3 * (14 + 128 + 4), 2 * 128 + 4, 3)
    small = np.array(Image.open(out / "pictures" / f"tuned-{file_name('val/1')}.png"))
    assert np.array_equal(grid[174:302, 132:][::16, ::16], small)


def test_sample_takes_ids_and_a_strength(trained, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["sample", str(trained), "--samples", "val/7", "--samples", "val/2", "--out", str(out)]
    assert main([*words, "--adapter-scale", "0"]) == 0
    base, tuned = (load_file(out / f"{name}.safetensors") for name in ("base", "tuned"))
    assert torch.equal(base["x0"], tuned["x0"]) and len(base["x0"]) == 2
    every = tmp_path / "every"
    assert (
        main(
            ["sample", str(trained), "--count", "100", "--out", str(every), "--adapter-scale", "0"]
        )
        == 0
    )
    assert torch.equal(load_file(every / "base.safetensors")["x0"][[7, 2]], base["x0"])
    capsys.readouterr()
    assert main([*words[:3], "val/77"]) == 2
    assert (
        capsys.readouterr().err
        == "error: there is no held-out sample 'val/77'. Did you mean 'val/7'?\n"
    )


def test_sample_goes_into_the_run_folder_and_replaces_what_was_there(trained):
    (trained / "samples" / "pictures").mkdir(parents=True)
    (trained / "samples" / "pictures" / "old.png").write_bytes(b"")
    (trained / "samples" / "pictures" / ".rewardft").write_text("of an earlier call")
    (trained / "samples" / "painted.png").write_bytes(b"of a plugin")
    assert main(["sample", str(trained), "--count", "1"]) == 0
    names = sorted(p.name for p in (trained / "samples").iterdir())
    assert names == ["base.safetensors", "grid.png", "painted.png", "pictures", "tuned.safetensors"]
    assert len(list((trained / "samples" / "pictures").glob("*.png"))) == 2


MESH = """
from rewardft import hookimpl
from rewardft.testing.tiny import TinyModel


class Points(TinyModel):
    def decode(self, x0):
        return x0.sigmoid().flatten(1).view(len(x0), 64, 3)


@hookimpl
def register_models():
    return {"points": Points}
"""


def test_samples_that_are_no_pictures_are_written_as_tensors_alone(tmp_path, capsys):
    (tmp_path / "points.py").write_text(MESH)
    (tmp_path / "recipe.yaml").write_text(
        RECIPE.replace("metrics]\n", "./points.py]\n", 1)
        .replace("use: tiny,", "use: points,")
        .replace("steps: 4", "steps: 1")
    )
    run = run_recipe(tmp_path / "recipe.yaml", tmp_path / "run", "evaluate={samples: 2}").folder
    assert main(["sample", str(run), "--count", "2"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.rpartition("/")[2] for line in out[1:3]] == [
        "base.safetensors",
        "tuned.safetensors",
    ]
    assert out[3:] == [
        "no pictures: decoded samples are pictures when they are (c, h, w) or (v, c, h, w), c = 1 or 3, not (64, 3)"
    ]
    assert load_file(run / "samples" / "tuned.safetensors")["decoded"].shape == (2, 64, 3)
    assert sorted(p.name for p in (run / "samples").iterdir()) == [
        "base.safetensors",
        "tuned.safetensors",
    ]
    assert (
        held_out_pictures(run, 2, tmp_path / "pictures") == []
        and not (tmp_path / "pictures").exists()
    )


def test_held_out_pictures_come_in_pairs_with_their_groups(trained, tmp_path):
    pairs = held_out_pictures(trained, 2, tmp_path / "p")
    assert [(pair.sample, pair.group) for pair in pairs] == [
        ("val/0", "class0"),
        ("val/1", "class1"),
    ]
    assert pairs[0].base.name.startswith("base-val_0")
    assert pairs[1].tuned.name.startswith("tuned-val_1")
    assert all(path.is_file() for pair in pairs for path in (pair.base, pair.tuned))


# -- pictures --------------------------------------------------------------------------------------------------------


def test_views_stand_in_a_row_and_values_outside_are_clamped(tmp_path):
    views = torch.zeros(2, 3, 1, 4, 5)
    views[0, 1], views[0, 2] = 0.5, 7.0
    views[1, 0, 0, 0, 0] = float("nan")
    views[1, 1] = -3.0
    paths = save_pictures(views, ["a", "b/c"], tmp_path)
    first, second = (np.array(Image.open(path)) for path in paths)
    assert first.shape == (4, 15) and first[0].tolist() == [0] * 5 + [128] * 5 + [255] * 5
    assert second.max() == 0
    assert [p.name for p in paths] == ["a.png", f"{file_name('b/c')}.png"]
    bright = torch.full_like(views, 0.5)
    grid = np.array(
        Image.open(save_grid({"one": views, "two": bright}, ["a", "b"], tmp_path / "grid.png"))
    )
    assert grid.shape == (14 + 2 * (14 + 128 + 4), 2 * 15 * 32 + 4, 3)
    for top in (14 + 14, 14 + 146 + 14):
        assert (grid[top : top + 128, 15 * 32 + 4 :] == 128).all()
    assert (grid[28:156, : 5 * 32] == 0).all() and (grid[28:156, 10 * 32 : 15 * 32] == 255).all()
    for left, text in (
        (0, grid[:14, : 15 * 32]),
        (1, grid[:14, 15 * 32 + 4 :]),
        (2, grid[14:28]),
        (3, grid[160:174]),
    ):
        assert text.min() < 99, f"nothing is written at place {left}"


@pytest.mark.parametrize(
    ("height", "width", "factor"),
    [(8, 8, 16), (9, 9, 15), (128, 128, 1), (64, 768, 1), (64, 400, 2)],
)
def test_small_pictures_are_enlarged_by_whole_pixels_and_rows_of_views_not_too_wide(
    height, width, factor
):
    assert enlarge(torch.rand(3, height, width)).shape == (3, height * factor, width * factor)


def test_a_rollout_is_decoded_and_anything_else_is_no_picture(tmp_path):
    batch = Batch(("a", "b"), (0, 0), {})
    rollout = make_rollout(torch.rand(2, 3, 4, 4), batch, decode=lambda x: 1 - x)
    (path, _) = save_pictures(rollout, batch.ids, tmp_path, "x-")
    expected = ((1 - rollout.x0[0]) * 255).round().byte().permute(1, 2, 0).numpy()
    assert path.name == "x-a.png" and np.array_equal(np.array(Image.open(path)), expected)
    for other in (
        None,
        {"mesh": 1},
        torch.rand(2, 4, 8, 8),
        torch.rand(2, 3),
        torch.rand(2, 1, 2, 3, 4, 4),
    ):
        assert (
            as_pictures(other) is None and save_pictures(other, batch.ids, tmp_path / "none") == []
        )
    assert save_grid({"a": rollout.decoded, "b": None}, batch.ids, tmp_path / "none.png") is None
    assert not (tmp_path / "none").exists() and not (tmp_path / "none.png").exists()


def test_ids_that_would_share_a_file_name_do_not():
    names = [file_name(id_) for id_ in ("a/b", "a_b", "a b", "../a", ".hidden", "A-1.x")]
    assert len(set(names)) == 6 and names[1] == "a_b" and names[5] == "A-1.x"
    assert all("/" not in name and not name.startswith(".") for name in names)
