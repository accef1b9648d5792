"""Inputs: sound ones with damage, and things that nobody would write."""

import io
import json
import string

import numpy as np
import yaml
from hypothesis import strategies as st

from tests.shipped.humans.test_variants import bvh

RECIPE = {
    "plugins": ["toy"],
    "seed": 0,
    "model": {"use": "toy", "prediction": "v_prediction", "guidance": 2.0},
    "sampler": {"use": "ddim", "steps": 4, "eta": 0.0},
    "data": {"use": "toy_blobs", "batch_size": 4},
    "rewards": [{"use": "brightness", "weight": 1.0, "target": 0.8}],
    "regularizers": [{"use": "kl", "weight": 0.01}],
    "algorithm": {"use": "draft_k", "train_steps": 2},
    "adapter": {"kind": "lora", "rank": 4},
    "optimizer": {"use": "adamw", "lr": 5e-3, "betas": [0.9, 0.99]},
    "train": {"steps": 3, "budget": None, "report_to": []},
    "evaluate": {"every": 2, "samples": 4, "data": {"split": "val"}},
    "save": {"every": 2, "keep": 2},
}
KEYS = sorted(set(RECIPE) | {k for v in RECIPE.values() if isinstance(v, dict) for k in v})
NASTY = (
    "", " ", ".", "..", "../../x", "/", "~", "~nosuchuser/x.py", "./x.py", "a/b/c", "\0", "x\0y.py",
    "\ud800", "\u202e", "é", "[/b]", "[red]", "{use: x}", "!!python/object:os.system", "*a", "&a",
    "9" * 5000, "1e999", "-0", "0x" + "f" * 40, "nan", ".inf", "true", "null", "x" * 5000,
    "brightness", "toy", "toyy", "draft", "5000-calls", "10m", "9" * 400 + "-rewards", "%s", "${x}",
)  # fmt: skip
text = st.one_of(st.sampled_from(NASTY), st.text(max_size=12), st.sampled_from(KEYS))
scalar = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.integers(-3, 12),
    st.floats(),
    text,
)
value = st.recursive(
    scalar,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(text, inner, max_size=4)),
    max_leaves=8,
)


def paths_of(node, here=()):
    """Every place in nested data."""
    yield here
    items = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    for key, inner in items:
        yield from paths_of(inner, (*here, key))


PLACES = [path for path in paths_of(RECIPE) if path]


@st.composite
def changed(draw, data=RECIPE):
    """The data with one to three values replaced, removed, or added."""
    copy = json.loads(json.dumps(data))
    places = [path for path in paths_of(data) if path]
    for _ in range(draw(st.integers(1, 3))):
        *front, last = draw(st.sampled_from(places))
        node = copy
        try:
            for key in front:
                node = node[key]
            kind = draw(st.sampled_from(("replace", "remove", "add")))
            if kind == "remove":
                del node[last]
            elif kind == "add" and isinstance(node, dict):
                node[draw(text)] = draw(value)
            else:
                node[last] = draw(value)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    return copy


@st.composite
def damaged(draw, raw):
    """Bytes with some of them cut off, changed, repeated or put in."""
    data = bytearray(raw)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(("cut", "flip", "insert", "drop", "repeat")))
        size = draw(st.integers(1, 12))
        if kind == "cut":
            del data[at:]
        elif kind == "flip" and data:
            data[at] ^= draw(st.integers(1, 255))
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=12))
        elif kind == "drop":
            del data[at : at + size]
        else:
            data[at:at] = data[at : at + size] * draw(st.integers(1, 50))
    return bytes(data)


TEXT = yaml.safe_dump(RECIPE, sort_keys=False).encode()
recipes = st.one_of(
    damaged(TEXT),
    changed().map(lambda data: yaml.safe_dump(data, allow_unicode=False).encode(errors="replace")),
    changed().map(lambda data: json.dumps(data).encode()),
    st.text(max_size=60).map(lambda t: t.encode(errors="replace")),
)
dotted = st.one_of(
    st.sampled_from([".".join(map(str, path)) for path in PLACES]),
    st.lists(st.one_of(text, st.sampled_from(KEYS)), min_size=1, max_size=4).map(".".join),
    st.integers(50, 4000).map(lambda n: ".".join(["a"] * n)),
)
settings = st.lists(
    st.one_of(
        st.tuples(dotted, value.map(json.dumps)).map("=".join),
        st.tuples(dotted, text).map("=".join),
        text,
    ),
    min_size=1,
    max_size=3,
)


def arrays(**named):
    buffer = io.BytesIO()
    np.savez(buffer, **named)
    return buffer.getvalue()


def array(rows):
    buffer = io.BytesIO()
    np.save(buffer, rows)
    return buffer.getvalue()


_POSES = np.full((4, 165), 0.1)
_FRAME = [1 / 30, 0.0, 1.0, 0.0, *([1.0, 0.0, 0.0, 0.0] * 10)]
MOTIONS = {
    "a.bvh": bvh().encode(),
    "b.npz": arrays(poses=_POSES, mocap_framerate=60.0),
    "c.npz": arrays(walk=np.zeros((4, 22, 3), np.float32), jump=np.ones((3, 22, 3), np.float16)),
    "d.npz": arrays(global_orient=_POSES[:, :3], body_pose=_POSES[:, 3:66], fps=30),
    "e.npy": array(np.zeros((4, 322), np.float32)),
    "f.txt": json.dumps({"Loop": "none", "Frames": [_FRAME[:44]] * 3}).encode(),
}
motions = st.sampled_from(sorted(MOTIONS)).flatmap(
    lambda name: st.tuples(st.just(name), damaged(MOTIONS[name]))
)
indexes = changed({"clips": {"walk": {"plain": True, "split": "val", "fps": 30, "licence": "x"}}})
words = st.text(string.printable, max_size=30)
