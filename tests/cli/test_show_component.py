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
