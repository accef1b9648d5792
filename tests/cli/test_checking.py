"""What `check` finds before a run does, and `--version`."""

from pathlib import Path

import pytest

from rewardft import __version__
from rewardft.cli import main
from rewardft.recipe.elsewhere import hint

COMPARISON = """\
recipes: [toy_draft]
variants:
  k1: {algorithm: {use: draft_k, train_steps: 1}}
  other: {algorithm: {use: ALGORITHM}}
seeds: 2
"""


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rewardft {__version__}\n"


def test_a_name_of_other_trainers_is_translated(capsys):
    assert main(["check", "toy_draft", "--set", "optimizer.learning_rate=1"]) == 2
    assert capsys.readouterr().err.endswith(
        "  - --set optimizer.learning_rate=1: optimizer has no key 'learning_rate'. "
        "Here it is optimizer.lr.\n"
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("algorithm.micro_batch", "algorithm 'draft_k' has no option 'micro_batch'. Its place is train.micro_batch."),
        ("algorithm.steps", "algorithm 'draft_k' has no option 'steps'. Its place is train.steps or sampler.steps."),
        ("algorithm.learning_rate", "algorithm 'draft_k' has no option 'learning_rate'. Here it is optimizer.lr."),
        ("train.train_batch_size", "train has no key 'train_batch_size'. Here it is data.batch_size, or train.micro_batch for what fits into memory."),
        ("algorithm.train_cfg", "algorithm 'draft_k' has no option 'train_cfg'. Here it is model.guidance."),
        ("train.rewards", "train has no key 'rewards'. Its place is rewards or evaluate.rewards."),
        ("optimizer.clip_norm", "optimizer has no key 'clip_norm'. Its place is train.clip_norm."),
        ("batch_size", "a recipe has no key 'batch_size'. Its place is data.batch_size or evaluate.batch_size."),
        ("allow_tf32", "a recipe has no key 'allow_tf32'. Nothing takes its place: it is PyTorch's own switch. A plugin file can set torch.backends.cuda.matmul.allow_tf32."),
        ("train.push_to_hub", "train has no key 'push_to_hub'. Nothing is pushed: push what `rewardft export` writes."),
        ("pretrained_model_name_or_path", "a recipe has no key 'pretrained_model_name_or_path'. Here it is model.weights."),
        ("train.seed", "train has no key 'seed'. Its place is seed or evaluate.seed."),
        ("train.project_kwargs", "train has no key 'project_kwargs'. Here it is --out for the folder, and save.keep for how many checkpoints are kept."),
        ("dataset_name", "a recipe has no key 'dataset_name'. Data sets of the hub are not fetched: save the set as files, and give their place as data.path."),
        ("data.dataset_config_name", "data set 'toy_blobs' has no option 'dataset_config_name'. Data sets of the hub are not fetched: save the set as files, and give their place as data.path."),
        ("data.max_train_samples", "data set 'toy_blobs' has no option 'max_train_samples'. Choose one of: batch_size, size, split, use."),
    ],
)  # fmt: skip
def test_a_key_in_the_wrong_place_is_told_its_own(given, said, capsys):
    assert main(["check", "toy_draft", "--set", f"{given}=1"]) == 2
    assert capsys.readouterr().err.endswith(f"  - --set {given}=1: {said}\n")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("adapter.r=4", "adapter has no key 'r'. Here it is adapter.rank."),
        (
            "adapter.alpha=None",
            "adapter.alpha: expected a number above 0 or null, got 'None' (text); write null.",
        ),
        (
            "optimizer.use=adam",
            "there is no optimizer 'adam'. Did you mean 'adamw'? No listed plugin has the hook `create_optimizer`, which adds others.",
        ),
    ],
)
def test_a_slip_is_told_what_to_write(given, said, capsys):
    assert main(["check", "toy_draft", "--set", given]) == 2
    assert capsys.readouterr().err.endswith(f"  - --set {given}: {said}\n")


def test_a_recipe_of_nearly_that_name_beside_it_is_suggested(capsys):
    Path("sub").mkdir()
    Path("sub/mine.yaml").write_text("")
    for name in ("sub/mine.yml", "sub/mien.yaml", "sub/mine"):
        assert main(["check", name]) == 2
        assert capsys.readouterr().err.endswith(
            f"  - {name}: there is no such file, and no shipped recipe of that name. Did you mean 'sub/mine.yaml'?\n"
        )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            "rewards=[{use: vlm_judge, cache_dir: c}]",
            "reward 'vlm_judge' has no option 'cache_dir'. Did you mean 'cache'?",
        ),
        (
            "rewards=[{use: vlm_judge, max_workers: 2}]",
            "reward 'vlm_judge' has no option 'max_workers'. Did you mean 'concurrency'?",
        ),
        (
            "rewards=[{use: remote, max_workers: 2}]",
            "reward 'remote' has no option 'max_workers'. Did you mean 'concurrency'?",
        ),
        (
            "rewards=[{use: remote, train_batch_size: 2}]",
            "reward 'remote' has no option 'train_batch_size'. Did you mean 'batch_size'?",
        ),
        (
            "rewards=[{use: clip_score, mixed_precision: bf16}]",
            "reward 'clip_score' has no option 'mixed_precision'. Did you mean 'precision'?",
        ),
        (
            "rewards=[{use: clip_score, cache_dir: c}]",
            "reward 'clip_score' has no option 'cache_dir'. Set HF_HOME in the environment.",
        ),
        (
            "data={use: image_folder, resolution: 8}",
            "data set 'image_folder' has no option 'resolution'. Did you mean 'height' and 'width'?",
        ),
        (
            "data={use: image_folder, max_train_samples: 8}",
            "data set 'image_folder' has no option 'max_train_samples'. Here it is data.limit.",
        ),
        (
            "model={use: stable_diffusion, resolution: 8}",
            "model 'stable_diffusion' has no option 'resolution'. Here it is model.height and model.width.",
        ),
    ],
)
def test_an_option_that_a_component_has_itself_comes_first(given, said, capsys):
    plugins = "plugins=[toy, text2image, rewards]"
    assert main(["check", "toy_draft", "--set", plugins, "--set", given]) == 2
    assert f"  - --set {given}: {said}" in capsys.readouterr().err.splitlines()


def test_a_sampler_without_an_option_of_others_is_not_told_that_it_has_it(capsys):
    """The flow sampler draws no noise, so `sampler.eta` is no answer."""
    settings = ["--set", "sampler={use: flow_euler, steps: 4, eta: 1.0}"]
    assert main(["check", "toy_draft", *settings]) == 2
    assert "sampler 'flow_euler' has no option 'eta'. Choose one of: " in capsys.readouterr().err


def test_a_name_of_trl_is_translated_where_the_algorithm_has_the_option(capsys):
    settings = [
        "--set",
        "plugins=[toy, ddpo]",
        "--set",
        "algorithm={use: ddpo, train_clip_range: 1e-4}",
    ]
    settings += ["--set", "sampler={use: ddim, steps: 4, eta: 1.0}"]
    assert main(["check", "toy_draft", *settings]) == 2
    said = capsys.readouterr().err
    assert said.endswith(
        "algorithm 'ddpo' has no option 'train_clip_range'. Here it is algorithm.clip.\n"
    )
    assert main(["check", "toy_draft", "--set", "algorithm.train_clip_range=1"]) == 2
    assert "'draft_k' has no option 'train_clip_range'. Choose one of: " in capsys.readouterr().err


def test_a_tracker_that_is_not_there_is_found_by_check(capsys):
    assert main(["check", "toy_draft", "--set", "train.report_to=[tensorboardd]"]) == 2
    assert "train.report_to: accelerate knows no tracker 'tensorboardd'." in capsys.readouterr().err


def test_comparison_files_are_checked(capsys):
    Path("c.yaml").write_text(COMPARISON.replace("ALGORITHM", "drtune"))
    assert main(["check", "c.yaml"]) == 0
    assert capsys.readouterr().out == "c.yaml: ok (2 variants, 4 runs)\n"
    Path("c.yaml").write_text(COMPARISON.replace("ALGORITHM", "drtunee"))
    assert main(["check", "c.yaml"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: c.yaml: 1 problem\n  - other: ")
    assert "there is no algorithm 'drtunee'. Did you mean 'drtune'?" in said
    assert list(Path().iterdir()) == [Path("c.yaml")]


def test_a_key_of_another_section_hides_no_option_that_is_nearly_the_same():
    assert (
        hint("seed", "data", ["seeds", "size"])
        == " Did you mean 'seeds'? If not, its place is seed or evaluate.seed."
    )
    assert hint("seed", "data", ["size"]) == " Its place is seed or evaluate.seed."
    assert hint("sede", "data", ["seeds", "size"]) == " Did you mean 'seeds'?"
    assert hint("nothing", "data", ["size"]) == " Choose one of: size."


def test_layers_that_an_adapter_is_to_have_are_looked_for(capsys):
    """Where the model can be built without weights; else it is said that they were not."""
    assert main(["check", "toy_draft", "--set", "adapter.targets=[to_q, to_k]"]) == 2
    assert capsys.readouterr().err.endswith(
        "  - --set adapter.targets=[to_q, to_k]: adapter.targets: no linear or convolution layer of "
        "TinyDenoiser is called 'to_k'. Did you mean 'to_q'?\n"
    )
    for targets in ("[to_q]", "all-linear", "null"):
        assert main(["check", "toy_draft", "--set", f"adapter.targets={targets}"]) == 0
        assert capsys.readouterr().out.endswith("toy_draft.yaml: ok\n")
    assert main(["check", "sd15_ddpo", "--set", "adapter.targets=[to_k]"]) == 0
    assert capsys.readouterr().out.endswith(
        "sd15_ddpo.yaml: ok; adapter.targets is checked when the model is loaded\n"
    )


def test_what_has_another_trainers_name_is_not_missed_beside_it(capsys):
    settings = ["optimizer={learning_rate: 1e-3}", "train={max_steps: 10}"]
    assert main(["check", "toy_draft", *(w for s in settings for w in ("--set", s))]) == 2
    assert capsys.readouterr().err.splitlines()[1:] == [
        f"  - --set {settings[1]}: train has no key 'max_steps'. Here it is train.steps.",
        f"  - --set {settings[0]}: optimizer has no key 'learning_rate'. Here it is optimizer.lr.",
    ]


def test_a_wrong_value_is_told_beside_another_trainers_name_for_its_key(capsys):
    assert main(["check", "toy_draft", "--set", "train={steps: ten, epochs: 3}"]) == 2
    assert capsys.readouterr().err.splitlines()[1:] == [
        "  - --set train={steps: ten, epochs: 3}: train has no key 'epochs'. Here it is train.steps.",
        "  - --set train={steps: ten, epochs: 3}: train.steps: expected a whole number of at least 1, "
        "got 'ten' (text).",
    ]


LAYERS = """\
recipes: [toy_draft]
variants:
  sound: {adapter: {targets: [to_q]}}
  wrong: {adapter: {targets: [to_k]}}
seeds: 2
"""


def test_the_layers_of_each_variant_are_looked_for(capsys):
    Path("c.yaml").write_text(LAYERS)
    assert main(["check", "c.yaml"]) == 2
    assert capsys.readouterr().err == (
        "error: c.yaml: 1 problem\n"
        '  - wrong: --set adapter={"targets": ["to_k"]}: adapter.targets: no linear or convolution '
        "layer of TinyDenoiser is called 'to_k'. Did you mean 'to_q'?\n"
    )
    Path("c.yaml").write_text(LAYERS.replace("to_k", "to_out").replace("toy_draft", "sd15_ddpo"))
    assert main(["check", "c.yaml"]) == 0
    assert capsys.readouterr().out == (
        "c.yaml: ok (2 variants, 4 runs); adapter.targets is checked when the model is loaded\n"
    )


def test_a_comparison_of_one_run_is_counted_as_one(capsys):
    Path("c.yaml").write_text("recipes: [toy_draft]\n")
    assert main(["check", "c.yaml"]) == 0
    assert capsys.readouterr().out == "c.yaml: ok (1 variant, 1 run)\n"


BROKEN = """\
from rewardft import hookimpl


class Broken:
    light_to_build = True
    provides = frozenset({"denoiser", "betas"})

    def __init__(self):
        raise ValueError("no such network")


@hookimpl
def register_models():
    return {"broken": Broken}
"""


def test_a_model_that_cannot_be_built_is_told_with_its_line(capsys):
    Path("broken.py").write_text(BROKEN)
    settings = ["plugins=[toy, ./broken.py]", "model={use: broken}", "adapter.targets=[to_q]"]
    assert main(["check", "toy_draft", *(w for s in settings for w in ("--set", s))]) == 2
    place = Path("broken.py").absolute()
    assert capsys.readouterr().err.splitlines()[1:] == [
        f"  - --set model={{use: broken}}: model 'broken' (plugin 'broken', {place}:4) could not be "
        "built: ValueError: no such network"
    ]
