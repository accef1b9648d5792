"""`rewardft show KIND NAME`: one component, without a recipe."""

from rewardft.cli import main


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
