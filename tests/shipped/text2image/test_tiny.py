"""`rewardft text2image tiny`: a checkpoint of random weights to try recipes on."""

from rewardft_plugins.text2image.tiny import FAMILIES, MODULAR, families

from rewardft.cli import main
from rewardft.files.digests import sha256


def digests(folder):
    return {path.name: sha256(path) for path in folder.rglob("*.safetensors")}


def test_it_says_what_a_recipe_needs_and_is_the_same_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["text2image", "tiny", "sd3", "a"]) == 0
    assert capsys.readouterr().out == "In a recipe: model: {use: sd3, weights: a}\n"
    first = digests(tmp_path / "a")
    assert main(["text2image", "tiny", "sd3", "a"]) == 0
    assert digests(tmp_path / "a") == first and len(first) > 0
    assert main(["text2image", "tiny", "z_image", "b"]) == 0
    assert "model: {use: modular, weights: b}\n" in capsys.readouterr().out


def test_a_family_or_a_folder_that_will_not_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["text2image", "tiny", "stable_difusion", "a"]) == 2
    assert capsys.readouterr().err == (
        "error: there is no tiny family 'stable_difusion'. Did you mean 'stable_diffusion'?\n"
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work.txt").write_text("dear")
    assert main(["text2image", "tiny", "flux", "mine"]) == 2
    assert "mine is in the way and was not made by rewardft" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "work.txt"]


def test_every_family_is_there():
    assert [name for name in FAMILIES + MODULAR if not callable(getattr(families, name))] == []
