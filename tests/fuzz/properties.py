"""What must hold for an input of each class."""

import base64
import io
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image
from rewardft_plugins.dpo.pairs import PreferencePairs
from rewardft_plugins.drpose.data.dataset import Drpose15k
from rewardft_plugins.drpose.data.storage import verify_dataset
from rewardft_plugins.humans.motion import read_motions
from rewardft_plugins.rewards.server import RewardServer
from rewardft_plugins.rewards.transport import retry_after
from rewardft_plugins.rewards.wire import WireError, encode_request
from rewardft_plugins.text2image.data import Prompts
from rewardft_plugins.text2image.images import ImageFolder

from rewardft.cli import main
from rewardft.plugins.loading import load_installed
from rewardft.plugins.sources import installed
from rewardft.types import Batch

from . import strategies as some
from .harness import call, command, place


def import_plugins():
    """A name that no listed plugin has is looked for in all that are installed; what that imports
    is imported once, and counts as the time of no input."""
    for name in installed():
        load_installed(name)


def check_recipe(content):
    with place():
        Path("r.yaml").write_bytes(content)
        command("recipes", "check", "r.yaml")


def check_settings(settings):
    with place():
        Path("r.yaml").write_bytes(some.TEXT)
        command("overrides", "check", "r.yaml", *(w for text in settings for w in ("--set", text)))


def copy_recipe(words):
    """Names and targets of `cp`, which may write below the current folder alone here."""
    name, target = words
    with place():
        Path("r.yaml").write_bytes(some.TEXT)
        command("names", "cp", name, target.replace("..", "").lstrip("/~"))


def read_motion(given):
    name, content = given
    with place():
        Path(name).write_bytes(content)
        for clip in call("motions", read_motions, Path(name)) or ():
            assert clip.poses.dtype == np.float32 and np.isfinite(clip.poses).all()
            assert clip.poses.shape[1:] == (22, 3) and clip.fps > 0


def read_index(index):
    with place():
        Path("c.npz").write_bytes(some.MOTIONS["c.npz"])
        Path("c.json").write_text(json.dumps(index))
        call("motions", read_motions, Path("c.npz"))


PROMPTS = {
    "p.txt": b"a dog\na cat\n\nan owl\n",
    "p.jsonl": b'{"prompt": "a dog", "label": 3}\n{"prompt": "a cat", "label": 4}\n',
}
prompt_files = st.sampled_from(sorted(PROMPTS)).flatmap(
    lambda name: st.tuples(st.just(name), some.damaged(PROMPTS[name]))
)


def read_prompts(given):
    name, content = given
    with place():
        Path(name).write_bytes(content)
        data = call("data", lambda: Prompts(str(Path(name).absolute()), held_out=0))
        for item in (data[i] for i in range(len(data or ()))):
            assert item["prompt"].strip() == item["prompt"] != ""


def picture(size=8):
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (200, 100, 50)).save(buffer, format="PNG")
    return buffer.getvalue()


PAIR = {"winner": "w.png", "loser": "l.png", "prompt": "a dog", "id": "1", "label": 0.0}
pair_files = st.tuples(
    st.one_of(
        st.just(json.dumps(PAIR).encode()),
        some.changed(PAIR).map(lambda row: json.dumps(row).encode()),
        some.damaged(json.dumps(PAIR).encode()),
    ),
    st.one_of(st.just(picture()), some.damaged(picture())),
)


def read_pairs(given):
    rows, image = given
    with place():
        Path("pairs.jsonl").write_bytes(rows)
        Path("w.png").write_bytes(image)
        Path("l.png").write_bytes(picture())

        def read():
            pairs = PreferencePairs(Path("pairs.jsonl").absolute(), size=8)
            return [pairs[i] for i in range(len(pairs))]

        for item in call("data", read) or ():
            assert item["winner"].shape == (3, 8, 8) and item["winner"].isfinite().all()


def dataset(folder):
    """A data set of two samples, made once."""
    from rewardft_plugins.drpose.data.build import build_dataset
    from rewardft_plugins.drpose.data.splits import SplitPlan
    from rewardft_plugins.humans.body import load_body
    from rewardft_plugins.humans.clip import Clip

    clip = Clip("walk", np.zeros((3, 22, 3), np.float32))
    plan = SplitPlan("train", [clip], poses=1, neighbours=1, yaws=2, targets=False)
    build_dataset(folder, [plan], load_body("anny_lowpoly"), size=8)
    return folder


_DATASET: dict[str, bytes] = {}


def dataset_files():
    if not _DATASET:
        with place() as folder:
            made = dataset(folder / "set")
            _DATASET.update({path.name: path.read_bytes() for path in sorted(made.iterdir())})
    return _DATASET


@st.composite
def damaged_datasets(draw):
    files = dataset_files()
    name = draw(st.sampled_from(sorted(files)))
    if name.endswith(".json") and draw(st.booleans()):
        return name, json.dumps(draw(some.changed(json.loads(files[name])))).encode()
    return name, draw(some.damaged(files[name]))


def read_dataset(given):
    name, content = given
    with place():
        Path("set").mkdir()
        for other, sound in dataset_files().items():
            (Path("set") / other).write_bytes(sound)
        (Path("set") / name).write_bytes(content)

        def read():
            data = Drpose15k(str(Path("set").absolute()), split="train")
            return [data[i] for i in range(len(data))]

        for item in call("data", read) or ():
            assert item["image"].isfinite().all() and item["pose"].isfinite().all()
        call("data", verify_dataset, Path("set"))


SAMPLES = torch.linspace(0, 1, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
REQUEST = encode_request(
    SAMPLES, Batch(("a", "b"), (0, 0), {"prompt": ["x", "y"]}), {"prompt": ["x", "y"]},
    "safetensors", True,
)  # fmt: skip
PICTURES = encode_request(SAMPLES, Batch(("a", "b"), (0, 0), {}), {}, "png", False)
requests = st.one_of(
    some.damaged(REQUEST),
    some.damaged(PICTURES),
    some.changed(json.loads(REQUEST)).map(lambda m: json.dumps(m).encode()),
    some.changed(json.loads(PICTURES)).map(lambda m: json.dumps(m).encode()),
    some.damaged(picture()).map(
        lambda raw: json.dumps(
            json.loads(PICTURES) | {"ids": ["a"], "samples": [base64.b64encode(raw).decode()]}
        ).encode()
    ),
    st.binary(max_size=40),
)


def brightness(rollout, batch):
    return rollout.decoded.flatten(1).mean(1)


_SERVER: list[RewardServer] = []


def answer_request(body):
    if not _SERVER:
        _SERVER.append(RewardServer(brightness, "brightness", True))
    answer = call("requests", _SERVER[0].answer, body, errors=(WireError,))
    if answer is not None:
        assert isinstance(json.loads(answer)["rewards"], list)


def read_header(text):
    seconds = call("requests", retry_after, text)
    assert seconds is None or seconds >= 0


_RUN: dict[str, bytes] = {}


def run_files():
    """A finished run of the toy recipe, made once."""
    if not _RUN:
        with place() as folder:
            Path("r.yaml").write_bytes(some.TEXT)
            assert main(["run", "r.yaml", "--out", "run"]) == 0
            files = [path for path in (folder / "run").rglob("*") if path.is_file()]
            _RUN.update({str(p.relative_to(folder)): p.read_bytes() for p in files})
    return _RUN


COMMANDS = (
    ("evaluate", "run", "--samples", "2"),
    ("watch", "run", "--once"),
    ("export", "run", "--to", "peft"),
    ("soup", "run", "run", "--out", "soup"),
    ("compare", "run", "--out", "compared", "--pictures", "0"),
    ("run", "r.yaml", "--out", "run", "--resume"),
    ("run", "r.yaml", "--out", "run", "--resume", "--set", "train.steps=4"),
    ("run", "r.yaml", "--out", "run"),
    ("sample", "run", "--count", "1"),
    ("check", "run/recipe.yaml"),
)


@st.composite
def damaged_runs(draw):
    files = run_files()
    name = draw(st.sampled_from(sorted(files)))
    words = draw(st.sampled_from(COMMANDS))
    if name.endswith(".json") and draw(st.booleans()):
        return words, name, json.dumps(draw(some.changed(json.loads(files[name])))).encode()
    return words, name, draw(st.one_of(some.damaged(files[name]), st.none()))


def use_run(given):
    words, name, content = given
    with place():
        Path("r.yaml").write_bytes(some.TEXT)
        for other, sound in run_files().items():
            Path(other).parent.mkdir(parents=True, exist_ok=True)
            Path(other).write_bytes(sound)
        if content is None:
            Path(name).unlink()
        else:
            Path(name).write_bytes(content)
        # A comparison ends with 1 where a run has no result, and with the report that says so.
        codes = (0, 1, 2) if words[0] == "compare" else (0, 2)
        command("run folders", *words, codes=codes)
        shutil.rmtree("run")


CSV = b'file_name,text,label\na.png,a dog,3\n"b.jpg","a ""red"" cat",4\n'
TABLES = {
    "metadata.csv": CSV,
    "metadata.jsonl": b'{"file_name": "a.png", "text": "a dog"}\n{"file_name": "b.jpg", "text": "x"}\n',
}
image_folders = st.sampled_from(sorted(TABLES)).flatmap(
    lambda name: st.tuples(
        st.just(name),
        st.one_of(st.just(TABLES[name]), some.damaged(TABLES[name])),
        st.one_of(st.just(photo()), some.damaged(photo())),
    )
)


def photo():
    """A JPEG with the notes of a camera."""
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a maker"
    Image.new("RGB", (8, 8), (20, 90, 50)).save(buffer, format="JPEG", exif=exif)
    return buffer.getvalue()


def read_images(given):
    name, table, image = given
    with place():
        Path(name).write_bytes(table)
        Path("a.png").write_bytes(picture())
        Path("b.jpg").write_bytes(image)

        def read():
            data = ImageFolder(Path.cwd(), 8, 8)
            return [data[i] for i in range(len(data))]

        for item in call("data", read) or ():
            assert item["image"].shape == (3, 8, 8) and item["image"].isfinite().all()


# Class -> (strategy, what must hold, share of the inputs of a long run)
CLASSES = {
    "recipes": (some.recipes, check_recipe, 0.2),
    "overrides": (some.settings, check_settings, 0.2),
    "names": (st.tuples(st.one_of(st.just("r.yaml"), some.text), some.text), copy_recipe, 0.05),
    "motion files": (some.motions, read_motion, 0.15),
    "motion indexes": (some.indexes, read_index, 0.05),
    "prompt files": (prompt_files, read_prompts, 0.05),
    "pair files": (pair_files, read_pairs, 0.05),
    "image folders": (image_folders, read_images, 0.05),
    "data sets": (damaged_datasets(), read_dataset, 0.04),
    "server requests": (requests, answer_request, 0.1),
    "headers": (some.words, read_header, 0.05),
    "run folders": (damaged_runs(), use_run, 0.01),
}
