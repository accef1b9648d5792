"""Every way to write a recipe wrongly, with the whole message."""

import pytest

from rewardft.errors import RecipeError
from rewardft.plugins.resolve import open_recipe
from rewardft.recipe.recipe import load_recipe

BASE = """\
model: {use: tiny}
sampler: {use: ddim}
data: {use: blobs}
algorithm: {use: draft}
optimizer: {lr: 1e-4}
train: {steps: 10}
"""


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def problems_of(text, overrides=(), name="r.yaml"):
    """The problems, with the head line of the message checked."""
    with open(name, "wb") as file:
        file.write(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecipeError) as caught:
        load_recipe(name, overrides)
    problems = caught.value.problems
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    assert str(caught.value) == f"{name}: {count}\n" + "\n".join(f"  - {p}" for p in problems)
    return problems


# What is added to BASE (from line 7 on), and the one problem that it makes.
ADDED = {
    "unknown section": (
        "trian: {steps: 3}",
        "r.yaml:7: a recipe has no key 'trian'. Did you mean 'train'?",
    ),
    "unknown key": ("save: {evry: 3}", "r.yaml:7: save has no key 'evry'. Did you mean 'every'?"),
    "unknown key, nothing close": (
        "save:\n  zzz: 3",
        "r.yaml:8: save has no key 'zzz'. Choose one of: best, every, keep, patience.",
    ),
    "a key without letters": (
        "'': null",
        "r.yaml:7: a recipe has no key ''. Choose one of: adapter, algorithm, data, evaluate, model, optimizer, plugins, "
        "regularizers, rewards, sampler, samples, save, seed, train.",
    ),
    "text for a number": (
        "save: {every: often}",
        "r.yaml:7: save.every: expected a whole number of at least 0, got 'often' (text).",
    ),
    "quoted number": (
        "save: {every: '5'}",
        "r.yaml:7: save.every: expected a whole number of at least 0, got '5' (text); "
        "write the number without quotes, underscores or units.",
    ),
    "underscore in a number": (
        "save: {every: 1_000}",
        "r.yaml:7: save.every: expected a whole number of at least 0, got '1_000' (text); "
        "write the number without quotes, underscores or units.",
    ),
    "float for a whole number": (
        "seed: 1.0",
        "r.yaml:7: seed: expected a whole number of at least 0, got 1.0 (a number); write 1.",
    ),
    "truth value for a number": (
        "seed: true",
        "r.yaml:7: seed: expected a whole number of at least 0, got true.",
    ),
    "number for text": (
        "adapter: {targets: 3}",
        "r.yaml:7: adapter.targets: expected a list (each text), text or null, got 3 (a whole number); "
        "put it in quotes.",
    ),
    "a name alone for a list of components": (
        "rewards: brightness",
        "r.yaml:7: rewards: expected a list (each a mapping), got 'brightness' (text); write [{use: brightness}].",
    ),
    "one component for a list of them": (
        "rewards: {use: brightness, weight: 2}",
        "r.yaml:7: rewards: expected a list (each a mapping), got a mapping with the keys use, weight; "
        "put it in a list: [{use: brightness, ...}].",
    ),
    "a name that would be a path": (
        "rewards:\n- {use: a, name: ../../esc}",
        "r.yaml:8: rewards.0.name: expected text (letters, numbers, - and _; dots inside) or null, "
        "got '../../esc' (text).",
    ),
    "a name of dots": (
        "regularizers:\n- {use: kl, weight: 1, name: ..}",
        "r.yaml:8: regularizers.0.name: expected text (letters, numbers, - and _; dots inside) or null, "
        "got '..' (text).",
    ),
    "nested without end": (
        "rewards: " + "[" * 3000 + "]" * 3000,
        "r.yaml:7: nested more than 50 levels deep; a recipe needs a handful.",
    ),
    "nested too deeply": (
        "seed: " + "{a: " * 60 + "}" * 60,
        "r.yaml:7: nested more than 50 levels deep; a recipe needs a handful.",
    ),
    "outside the bounds": (
        "adapter: {dropout: 1}",
        "r.yaml:7: adapter.dropout: expected a number of at least 0 and below 1, got 1 (a whole number).",
    ),
    "not one of the words": (
        "rewards:\n- {use: a, on_error: sotp}",
        "r.yaml:8: rewards.0.on_error: expected one of 'stop', 'skip', got 'sotp' (text).",
    ),
    "text for a list": (
        "plugins: toy",
        "r.yaml:7: plugins: expected a list (each text that is not empty), got 'toy' (text); write [toy].",
    ),
    "empty list section": (
        "rewards:",
        "r.yaml:7: rewards: expected a list (each a mapping), got nothing (null); give a value or remove the line.",
    ),
    "mapping for a list": (
        "rewards: {use: a}",
        "r.yaml:7: rewards: expected a list (each a mapping), got a mapping with the keys use; "
        "put it in a list: [{use: a}].",
    ),
    "number in a list of sections": (
        "rewards:\n- {use: a}\n- 3",
        "r.yaml:9: rewards.1: expected a mapping, got 3 (a whole number).",
    ),
    "name without use": (
        "rewards: [brightness]",
        "r.yaml:7: rewards.0: expected a mapping, got 'brightness' (text); write {use: brightness}.",
    ),
    "missing use": (
        "rewards: [{weight: 1}]",
        "r.yaml:7: rewards.0.use is required: text that is not empty.",
    ),
    "empty use": (
        "rewards: [{use: ''}]",
        "r.yaml:7: rewards.0.use: expected text that is not empty, got '' (text).",
    ),
    "regularizer without weight": (
        "regularizers: [{use: kl}]",
        "r.yaml:7: regularizers.0.weight is required: a number of at least 0.",
    ),
    "rewards of one name": (
        "rewards:\n- {use: a}\n- {use: A}",
        "r.yaml:9: rewards.1 has the name of rewards.0, 'a'; give one of them another `name:`.",
    ),
    "metrics of one name": (
        "evaluate:\n  metrics: [{use: m}, {use: m}]",
        "r.yaml:8: evaluate.metrics.1 has the name of evaluate.metrics.0, 'm'; remove one of them.",
    ),
    "repeated key": (
        "seed: 1\nseed: 2",
        "r.yaml:8: the key 'seed' is repeated; it is first given on line 7.",
    ),
    "repeated key inside": (
        "save: {keep: 1, keep: 2}",
        "r.yaml:7: the key 'keep' is repeated; it is first given on line 7.",
    ),
    "key that is no text": ("save: {3: 1}", "r.yaml:7: a key must be text, got '3'."),
    "key that is a list": (
        "? [a, b]\n: 1",
        "r.yaml:7: a key must be text, got 'a list or mapping'.",
    ),
    "tag": (
        "rewards: [{use: a, b: !!python/object/apply:os.system ['true']}]",
        "r.yaml:7: '!!python/object/apply:os.system' is a tag; recipes are data and have none: remove it.",
    ),
    "local tag": (
        "seed: !x 3",
        "r.yaml:7: '!x' is a tag; recipes are data and have none: remove it.",
    ),
    "anchor": ("seed: &s 3", "r.yaml:7: '&s' is an anchor; recipes have none: remove it."),
    "not a number": ("adapter: {alpha: .nan}", "r.yaml:7: numbers must be finite, got .nan."),
    "infinite option": (
        "rewards: [{use: a, target: .inf}]",
        "r.yaml:7: numbers must be finite, got .inf.",
    ),
    "too large": (
        "rewards: [{use: a, target: 1e999}]",
        "r.yaml:7: numbers must be finite, got 1e999.",
    ),
}


@pytest.mark.parametrize("case", ADDED)
def test_one_problem(case):
    text, expected = ADDED[case]
    problems = problems_of(BASE + text + "\n")
    if case == "not a number":  # the fixed key has bounds of its own
        assert (
            problems.pop()
            == "r.yaml:7: adapter.alpha: expected a number above 0 or null, got nan (a number)."
        )
    assert problems == [expected]


# What replaces a line of BASE, and the problem.
CHANGED = {
    "required section": ("model: {use: tiny}", "# none", "r.yaml: model is required: a mapping."),
    "required key": (
        "{steps: 10}",
        "{log_every: 5}",
        "r.yaml:6: train.steps is required: a whole number of at least 1.",
    ),
    "truth word": (
        "{steps: 10}",
        "{steps: 10, checkpointing: on}",
        "r.yaml:6: train.checkpointing: expected true or false, got 'on' (text); write true or false, without quotes.",
    ),
    "no for null": (
        "{steps: 10}",
        "{steps: 10, clip_norm: no}",
        "r.yaml:6: train.clip_norm: expected a number above 0 or null, got 'no' (text).",
    ),
    "component by name": (
        "{use: ddim}",
        "ddim",
        "r.yaml:2: sampler: expected a mapping, got 'ddim' (text); write {use: ddim}.",
    ),
    "option of adamw": (
        "{lr: 1e-4}",
        "{lr: 1e-4, weight_deacy: 0}",
        "r.yaml:5: optimizer has no key 'weight_deacy'. Did you mean 'weight_decay'?",
    ),
    "wrong pair": (
        "{lr: 1e-4}",
        "{lr: 1e-4, betas: [0.9]}",
        "r.yaml:5: optimizer.betas: expected a list of 2 values (a number of at least 0 and below 1, "
        "a number of at least 0 and below 1), got [0.9] (a list).",
    ),
    "learning rate of zero": (
        "{lr: 1e-4}",
        "{lr: 0}",
        "r.yaml:5: optimizer.lr: expected a number above 0, got 0 (a whole number).",
    ),
    "batch of none": (
        "{use: blobs}",
        "{use: blobs, batch_size: 0}",
        "r.yaml:3: data.batch_size: expected a whole number of at least 1 and of at most 1000000, got 0 (a whole number).",
    ),
}


@pytest.mark.parametrize("case", CHANGED)
def test_one_changed_line(case):
    old, new, expected = CHANGED[case]
    assert problems_of(BASE.replace(old, new)) == [expected]


WHOLE_FILES = {
    "empty": (
        "",
        "r.yaml: the file is empty; a recipe needs model, sampler, data, algorithm, optimizer, train.",
    ),
    "comments only": (
        "# nothing\n",
        "r.yaml: the file is empty; a recipe needs model, sampler, data, algorithm, optimizer, train.",
    ),
    "a list": ("- a\n- b\n", "r.yaml:1: a recipe is a mapping (`key: value` lines), got a list."),
    "a word": ("hello\n", "r.yaml:1: a recipe is a mapping (`key: value` lines), got 'hello'."),
    "tab": (
        BASE + "save:\n\tevery: 3\n",
        "r.yaml:8: a tab character cannot be used here; indent with spaces.",
    ),
    "unclosed bracket": (
        "model: {use: tiny\nsampler: {use: ddim}\n",
        "r.yaml:2: expected ',' or '}': the '{' of line 1 is not closed.",
    ),
    "unclosed bracket at the end": (
        BASE + "save: {every: 3\n\n\n",
        "r.yaml:7: the '{' is not closed before the end.",
    ),
    "missing comma": (
        BASE + "save: {every: 3 keep: 2}\n",
        "r.yaml:7: expected ',' or '}': is a comma missing, or the '{' not closed?",
    ),
    "two documents": (
        BASE + "---\n" + BASE,
        "r.yaml:7: a second document starts here; one file holds one recipe: remove the '---'.",
    ),
    "not UTF-8": (
        BASE.encode() + b"# caf\xe9\n",
        "r.yaml:7: not UTF-8 text (byte 0xe9); save the file as UTF-8.",
    ),
    "control character": (
        BASE + "# \x07\n",
        "r.yaml:7: not YAML: the character '\\x07' is not allowed.",
    ),
    "binary": (
        b"\x89PNG\r\n\x1a\n",
        "r.yaml:1: not UTF-8 text (byte 0x89); save the file as UTF-8.",
    ),
}


@pytest.mark.parametrize("case", WHOLE_FILES)
def test_files_that_are_no_recipes(case):
    text, expected = WHOLE_FILES[case]
    assert problems_of(text) == [expected]


def test_an_alias_is_named_beside_its_anchor():
    problems = problems_of(BASE + "seed: &s 3\nsave: {every: *s}\n")
    assert problems[:2] == [
        "r.yaml:7: '&s' is an anchor; recipes have none: remove it.",
        "r.yaml:8: '*s' is an alias; recipes have none: repeat the value.",
    ]


@pytest.mark.parametrize("name", ["clip", "clip-2", "CLIP_2.1", "gr\u00f6\u00dfe", "7"])
def test_names_that_are_good_for_a_folder(name):
    with open("r.yaml", "w", encoding="utf-8") as file:
        file.write(BASE + f"rewards: [{{use: a, name: '{name}'}}]\n")
    assert load_recipe("r.yaml").rewards[0].name == name


def test_missing_file():
    problems_of("seed: 1\n", name="toy_draft.yaml")
    with pytest.raises(RecipeError) as caught:
        load_recipe("toy_darft.yaml")
    assert str(caught.value) == (
        "toy_darft.yaml: 1 problem\n  - toy_darft.yaml: there is no such file. Did you mean 'toy_draft.yaml'?"
    )


def test_folder_instead_of_a_file(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(RecipeError) as caught:
        load_recipe("folder")
    assert caught.value.problems == ["folder: expected a file, got a folder."]


OVERRIDES = {
    "no value": (
        "train.steps",
        "--set train.steps: expected key.path=value, such as train.steps=100.",
    ),
    "no path": ("=3", "--set =3: expected key.path=value, such as train.steps=100."),
    "empty word in the path": (
        "train..steps=3",
        "--set train..steps=3: expected key.path=value, such as train.steps=100.",
    ),
    "unknown key": (
        "train.setps=3",
        "--set train.setps=3: train has no key 'setps'. Did you mean 'steps'?",
    ),
    "unknown section": (
        "trian.steps=3",
        "--set trian.steps=3: a recipe has no key 'trian'. Did you mean 'train'?",
    ),
    "wrong type": (
        "train.steps=many",
        "--set train.steps=many: train.steps: expected a whole number of at least 1, got 'many' (text).",
    ),
    "past the end of a list": (
        "rewards.2.weight=1",
        "--set rewards.2.weight=1: there is no rewards.2: rewards is a list of 2 (bright, dark), counted from 0.",
    ),
    "name in a list": (
        "rewards.bright.weight=1",
        "--set rewards.bright.weight=1: there is no rewards.bright: rewards is a list of 2 (bright, dark), "
        "counted from 0.",
    ),
    "absent list": (
        "regularizers.0.weight=1",
        "--set regularizers.0.weight=1: there is no regularizers.0: the recipe has no regularizers.",
    ),
    "number in a mapping": (
        "train.0=1",
        "--set train.0=1: there is no train.0: train is a mapping, not a list; its keys are steps.",
    ),
    "below a value": (
        "seed.x=1",
        "--set seed.x=1: seed is 5, not a section: it has no 'x' to set.",
    ),
    "bad YAML": (
        "seed=[1",
        "--set seed=[1: the '[' is not closed before the end. Has the shell cut it at a blank? Put the whole in quotes: "
        "--set 'KEY=VALUE'.",
    ),
    "cut by a shell": (
        "rewards=[{use:",
        "--set rewards=[{use:: a '[' or '{' is not closed before the end. Has the shell cut it at a blank? Put the "
        "whole in quotes: --set 'KEY=VALUE'.",
    ),
    "brackets crossed": (
        "seed=[}",
        "--set seed=[}: expected a value, got '}'.",
    ),
    "nested without end": (
        "seed=" + "[" * 3000,
        f"--set seed={'[' * 175}... (3,005 characters): nested more than 50 levels deep; a recipe needs a handful.",
    ),
    "tag": (
        "seed=!!int 3",
        "--set seed=!!int 3: '!!int' is a tag; recipes are data and have none: remove it.",
    ),
}


@pytest.mark.parametrize("case", OVERRIDES)
def test_overrides(case):
    text, expected = OVERRIDES[case]
    assert problems_of(BASE + "seed: 5\nrewards: [{use: bright}, {use: dark}]\n", [text]) == [
        expected
    ]


def test_the_same_value_set_twice():
    assert problems_of(BASE, ["train.steps=3", "train.steps=4"]) == [
        "--set train.steps=4: train.steps is set twice; the other is --set train.steps=3."
    ]


def test_all_problems_are_reported_at_once_in_the_order_of_the_file():
    text = (
        BASE.replace("{lr: 1e-4}", "{lr: fast}") + "save: {evry: 1}\nseed: 1\nseed: 2\ntrian: 1\n"
    )
    assert problems_of(text, ["rewards.0.weight=1"]) == [
        "r.yaml:9: the key 'seed' is repeated; it is first given on line 8.",
        "--set rewards.0.weight=1: there is no rewards.0: the recipe has no rewards.",
        "r.yaml:5: optimizer.lr: expected a number above 0, got 'fast' (text).",
        "r.yaml:7: save has no key 'evry'. Did you mean 'every'?",
        "r.yaml:10: a recipe has no key 'trian'. Did you mean 'train'?",
    ]


PLUGIN = """\
from rewardft import hookimpl

@hookimpl
def register_rewards():
    return {"mine": lambda rollout, batch: 0.0}
"""
TINY = (
    BASE.replace("blobs", "tiny_blobs").replace("draft", "denoising")
    + "plugins: [rewardft.testing.tiny]\n"
)


def opened(text, overrides):
    with open("r.yaml", "w") as file:
        file.write(text)
    return open_recipe("r.yaml", overrides)


def test_sections_and_options_are_reported_together():
    with pytest.raises(RecipeError) as caught:
        opened(
            TINY,
            [
                "train.steps=abc",
                "sampler.stepz=4",
                "model={use: tinny}",
                "algorithm=draft",
                "evaluate.data=3",
            ],
        )
    assert caught.value.problems == [
        "--set algorithm=draft: algorithm: expected a mapping, got 'draft' (text); write {use: draft}.",
        "--set train.steps=abc: train.steps: expected a whole number of at least 1, got 'abc' (text).",
        "--set evaluate.data=3: evaluate.data: expected a mapping, got 3 (a whole number).",
        "--set model={use: tinny}: there is no model 'tinny'. Did you mean 'tiny'?",
        "--set sampler.stepz=4: sampler 'ddim' has no option 'stepz'. Did you mean 'steps'?",
    ]


def test_a_missing_plugin_hides_nothing_but_names_that_it_may_have(tmp_path):
    missing = f"r.yaml:7: plugin './gone.py': there is no file {tmp_path / 'gone.py'}."
    with pytest.raises(RecipeError) as caught:
        opened(
            TINY.replace("tiny]", "tiny, ./gone.py]"),
            ["train.steps=abc", "sampler.stepz=4", "rewards=[{use: his}]"],
        )
    assert caught.value.problems == [
        "--set train.steps=abc: train.steps: expected a whole number of at least 1, got 'abc' (text).",
        missing,
        "--set sampler.stepz=4: sampler 'ddim' has no option 'stepz'. Did you mean 'steps'?",
    ]
    with pytest.raises(RecipeError) as alone:
        opened(TINY.replace("tiny]", "tiny, ./gone.py]"), ["rewards=[{use: his}]"])
    assert alone.value.problems == [missing]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("plugin: [toy]", "a recipe has no key 'plugin'. Did you mean 'plugins'?"),
        (
            "plugins: toy",
            "plugins: expected a list (each text that is not empty), got 'toy' (text); write [toy].",
        ),
        (
            "plugins: [toy, 3]",
            "plugins: expected a list (each text that is not empty), got ['toy', 3] (a list).",
        ),
        (
            'plugins: [toy, "./a\\0.py"]',
            "plugins.1: './a\\x00.py' cannot be a path: a path has no NUL character.",
        ),
    ],
    ids=["name", "text", "number", "path"],
)
def test_a_wrong_list_of_plugins_is_the_one_problem(line, said):
    """That models and rewards are not known then follows from it."""
    text = TINY.replace("plugins: [rewardft.testing.tiny]", line)
    with pytest.raises(RecipeError) as caught:
        opened(text, ["rewards=[{use: his}]"])
    assert caught.value.problems == [f"r.yaml:7: {said}"]


def test_a_sound_recipe_opens(tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    recipe, plugins, resolved = opened(
        TINY.replace("tiny]", "tiny, ./mine.py]"), ["rewards=[{use: mine}]"]
    )
    assert recipe.rewards[0].name == "mine" and [p.name for p in plugins.loaded][-1] == "mine"
    assert resolved.rewards[0][1].entry.plugin == "mine"


def test_plugin_files_of_an_override_are_relative_to_the_current_folder(tmp_path, monkeypatch):
    """And those of the file to the file, wherever the command is given."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(PLUGIN)
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "there" / "r.yaml").write_text(TINY.replace("tiny]", "tiny, ./mine.py]"))
    monkeypatch.chdir(tmp_path / "here")
    files = {
        "the file's": (),
        "a list's": ("plugins=[rewardft.testing.tiny, ./mine.py]",),
        "an item's": ("plugins.1=./mine.py",),
    }
    found = {
        case: open_recipe("../there/r.yaml", sets)[1].loaded[-1].file
        for case, sets in files.items()
    }
    here, there = tmp_path / "here" / "mine.py", tmp_path / "there" / "mine.py"
    assert found == {"the file's": there, "a list's": here, "an item's": here}
    setting = "plugins=[rewardft.testing.tiny, ./nope.py]"
    with pytest.raises(RecipeError) as caught:
        open_recipe("../there/r.yaml", [setting])
    gone = tmp_path / "here" / "nope.py"
    assert caught.value.problems == [
        f"--set {setting}: plugin '{gone}': there is no file {gone}. Did you mean 'mine.py'?"
    ]
    with pytest.raises(RecipeError) as caught:
        open_recipe("../there/r.yaml", ["plugins=[rewardft.testing.tiny, ./abcdefghijkl.py]"])
    assert str(caught.value).endswith(
        "/abcdefghijkl.py. Choose one of: mine.py."
    )  # and not `__init__.py`
