"""`rewardft show KIND NAME`: one component, without a recipe."""

import pytest

from rewardft.cli import main
from rewardft.plugins.component import option_parameters
from rewardft.plugins.described import every_component, option_help
from tests.documents import files_in


def test_options_tags_and_description(capsys):
    assert main(["show", "algorithm", "draft_k"]) == 0
    said = capsys.readouterr().out
    rows = {line.split("  ")[0]: " ".join(line.split()) for line in said.splitlines() if line}
    assert rows["needs"] == "needs differentiable_sampler, reward_gradient"
    assert rows["train_steps"].startswith("train_steps a whole number")
    assert said.rstrip().endswith("In a recipe: {use: draft_k, option: value}")


def test_names_do_not_tell_case_and_plugins_need_not_be_listed(capsys):
    assert main(["show", "reward", "Brightness"]) == 0
    said = capsys.readouterr().out
    assert "reward 'brightness'" in said and "target" in said


def test_what_there_is_not(capsys):
    assert main(["show", "rewrd", "brightness"]) == 2
    assert capsys.readouterr().err == (
        "error: there is no kind 'rewrd' of component. Did you mean 'reward'?\n"
    )


def test_a_name_that_is_not_there(capsys):
    assert main(["show", "algorithm", "draft_j"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "error: unknown algorithm 'draft_j' in the installed plugins. Did you mean"
    )
    assert said.endswith("? For one of a file, add --plugin FILE.\n")


WORDS = {
    ("algorithm",): (
        "error: algorithm is a kind of component; name one: rewardft show algorithm NAME. "
        "`rewardft ls algorithms` lists them.\n"
    ),
    ("datasets",): (
        "error: datasets is a kind of component; name one: rewardft show data NAME. "
        "`rewardft ls datasets` lists them.\n"
    ),
    ("toy_draft", "--plugin", "toy"): (
        "error: --plugin is for one component, as in `rewardft show reward NAME --plugin FILE`; a recipe lists "
        "its own plugins.\n"
    ),
    ("algorithm", "draft_k", "--set", "train.steps=1"): (
        "error: --set changes a recipe, and one component has none.\n"
    ),
    ("algorithm", "draft_k", "--no-load"): (
        "error: --no-load is for a recipe; of one component no model is built.\n"
    ),
    ("model", "toy", "--load"): (
        "error: --load is for a recipe; of one component no model is built.\n"
    ),
}


@pytest.mark.parametrize("words", WORDS)
def test_words_that_do_not_go_together(words, capsys):
    assert main(["show", *words]) == 2
    assert capsys.readouterr().err == WORDS[words]


def test_a_component_of_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "redness.py").write_text(files_in("README.md")["redness.py"])
    assert main(["show", "reward", "redness", "--plugin", "./redness.py"]) == 0
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "target a number 0.5" in rows and "plugin redness" in rows
    assert "In a recipe: {use: Redness, option: value}" in rows
    assert main(["show", "reward", "rednes", "--plugin", "./redness.py"]) == 2
    assert capsys.readouterr().err == (
        "error: unknown reward 'rednes' in the installed plugins. Did you mean 'Redness'?\n"
    )


def test_help_of_options_paper_and_recipes(capsys):
    assert main(["show", "algorithm", "drtune"]) == 0
    said = capsys.readouterr().out
    rows = [" ".join(line.split()) for line in said.splitlines()]
    assert "paper https://arxiv.org/abs/2405.00760" in rows
    recipes = next(row for row in rows if row.startswith("recipes "))
    assert recipes.split()[1].rstrip(",") == "toy_drtune" and "sd15_drtune" in recipes
    assert "Try it: rewardft run toy_drtune" in rows


def test_what_a_docstring_says_of_an_option(capsys):
    assert main(["show", "model", "toy"]) == 0
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert (
        "guidance a number of at least 0 1.0 classifier-free guidance scale; 1 means no second pass."
        in rows
    )
    both = "`inside`: both halves carry gradient; `outside`: the unconditional half does not."
    assert any(row.endswith(both) for row in rows)


def test_a_preset_and_a_family_have_the_help_of_what_they_are_made_of(capsys):
    """The options of `drtune` are those of `Direct`, `sdxl` inherits most of its own, and those of
    `voxel_scene` that need one sentence take two lines."""
    said = {
        "algorithm drtune": "scale a number 1.0 of that function; the loss is scale * shape(r).",
        "algorithm dance_grpo": "inner_epochs a whole number of at least 1 1 passes over each batch.",
        "model sdxl": "weights text (required) a folder in diffusers' layout, or a hub id.",
        "model voxel_scene": "seed a whole number 0 see `GaussianScene`.",
    }
    for words, row in said.items():
        assert main(["show", *words.split()]) == 0
        rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
        assert row in rows, rows


def test_every_option_that_ships_has_help():
    lacking = {
        f"{entry.kind} {entry.name}": missing
        for entry in every_component()
        if (missing := sorted(option_parameters(entry).keys() - option_help(entry).keys()))
    }
    assert lacking == {}


def test_the_name_of_a_component_alone_is_told_its_kind(tmp_path, monkeypatch, capsys):
    """Also beside a folder of that name, as `rewardft new plugin` makes it."""
    monkeypatch.chdir(tmp_path)
    for word, said in {
        "Brightness": "rewardft show reward Brightness",
        "drtune": "rewardft show algorithm drtune",
        "toy_blobs": "rewardft show data toy_blobs",
    }.items():
        (tmp_path / word).mkdir()
        assert main(["show", word]) == 2
        assert capsys.readouterr().err == (
            f"error: {word} is no recipe but a component; write: {said}\n"
        )
