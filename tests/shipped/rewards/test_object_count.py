"""`object_count` on tiny detectors of the real classes: counts against another computation, scores by hand, refusals."""

import json
import math

import numpy as np
import pytest
import torch
from rewardft_plugins.rewards.detectors import count_apart
from rewardft_plugins.rewards.object_count import ObjectCount, read_counts
from transformers import AutoImageProcessor, OwlViTProcessor

from rewardft.errors import ComponentError, RewardError
from rewardft.testing import check_reward, make_rollout

from .checkpoints import save_clip
from .detectors import CLASSES, save_detr, save_owlvit
from .pictures import batch_of, smooth_pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("detectors")
    models = {"detr": save_detr(root / "detr"), "owlvit": save_owlvit(root / "owlvit")}
    save_clip(root / "clip")
    return root, models


PICTURES = smooth_pictures(6, 48, 32, seed=2)


def apart(boxes, scores, overlap):
    """Greedy non-maximum suppression in numpy, on boxes (centre, size)."""
    corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    left = []
    for i in np.argsort(-scores):
        for j in left:
            low = np.maximum(corners[i, :2], corners[j, :2])
            high = np.minimum(corners[i, 2:], corners[j, 2:])
            shared = np.prod(np.maximum(high - low, 0))
            if shared / (boxes[i, 2:].prod() + boxes[j, 2:].prod() - shared) > overlap:
                break
        else:
            left.append(i)
    return len(left)


def in_numpy(outputs, probabilities, threshold, overlap, classes):
    """[picture][class] counts from a detector's own outputs."""
    table = []
    for boxes, row in zip(outputs.pred_boxes.double().numpy(), probabilities.double().numpy()):
        best, score = row.argmax(1), row.max(1)
        chosen = [(best == c) & (score > threshold) for c in range(classes)]
        table.append([apart(boxes[one], score[one], overlap) for one in chosen])
    return table


@torch.no_grad()
def detr_counts(root, model, threshold, overlap):
    processor = AutoImageProcessor.from_pretrained(root / "detr")
    eight_bits = [(p.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8) for p in PICTURES]
    outputs = model(**processor(images=eight_bits, return_tensors="pt"))
    return in_numpy(outputs, outputs.logits.softmax(-1)[..., :-1], threshold, overlap, 3)


@torch.no_grad()
def owlvit_counts(root, model, threshold, overlap, names):
    processor = OwlViTProcessor.from_pretrained(root / "owlvit")
    eight_bits = [(p.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8) for p in PICTURES]
    queries = [[f"a photo of a {name}" for name in names]] * len(eight_bits)
    outputs = model(**processor(text=queries, images=eight_bits, return_tensors="pt"))
    return in_numpy(outputs, outputs.logits.sigmoid(), threshold, overlap, len(names))


def relative(found, wanted):
    return np.mean([max(0.0, 1 - abs(d - n) / max(n, 1)) for d, n in zip(found, wanted)])


WANTED = [
    {"dog": 2, "cat": 1, "potted plant": 0},
    {"dog": 0, "cat": 0, "potted plant": 3},
    {"dog": 1, "cat": 1, "potted plant": 1},
    {"dog": 5, "cat": 2, "potted plant": 1},
    {"dog": 1, "cat": 3, "potted plant": 2},
    {"dog": 2, "cat": 2, "potted plant": 2},
]


@pytest.mark.parametrize("overlap", [0.3, 0.99])
def test_detr_counts_as_numpy_does(folder, overlap):
    root, models = folder
    found = detr_counts(root, models["detr"], 0.4, overlap)
    assert len({tuple(row) for row in found}) > 1 and np.ptp(found) >= 2
    batch = batch_of(6, objects=WANTED)
    rollout = make_rollout(PICTURES, batch)
    settings = {"weights": str(root / "detr"), "threshold": 0.4, "overlap": overlap, "batch": 4}
    values = ObjectCount(**settings)(rollout, batch)
    assert values.tolist() == pytest.approx(
        [relative(d, w.values()) for d, w in zip(found, WANTED)]
    )
    truth = batch_of(6, objects=[dict(zip(CLASSES, row)) for row in found])
    assert ObjectCount(**settings, form="exact")(rollout, truth).tolist() == [1.0] * 6
    less = batch_of(6, objects=[{n: max(d - 1, 0) for n, d in zip(CLASSES, r)} for r in found])
    exact = ObjectCount(**settings, form="exact")(rollout, less)
    assert exact.tolist() == [float(not any(row)) for row in found]
    at_least = ObjectCount(**settings, form="exact", at_least=True)(rollout, less)
    assert at_least.tolist() == [1.0] * 6


def test_fewer_boxes_are_left_where_they_must_overlap_less(folder):
    root, models = folder
    strict, loose = (np.sum(detr_counts(root, models["detr"], 0.4, o)) for o in (0.3, 0.99))
    assert strict < loose


def test_owlvit_is_asked_for_what_is_wanted(folder):
    """Also in a batch of rows that want different objects: nobody's queries change another's counts."""
    root, models = folder
    names = ["red bus", "tree"]
    wanted = [{"red bus": 2, "tree": 1}, {"owl": 3}] * 3
    found = owlvit_counts(root, models["owlvit"], 0.5, 0.5, names)
    owls = owlvit_counts(root, models["owlvit"], 0.5, 0.5, ["owl"])
    assert len({tuple(row) for row in found}) > 1 and np.sum(owls) > 0
    batch = batch_of(6, objects=wanted)
    reward = ObjectCount(str(root / "owlvit"), threshold=0.5)
    expected = [relative(found[i] if i % 2 == 0 else owls[i], wanted[i].values()) for i in range(6)]
    assert reward(make_rollout(PICTURES, batch), batch).tolist() == pytest.approx(expected)
    # Its own threshold is lower than that of others.
    assert ObjectCount(str(root / "owlvit")).detector.threshold == 0.1


@pytest.mark.parametrize("name", ["detr", "owlvit"])
def test_the_contract(folder, name):
    reward = ObjectCount(str(folder[0] / name), threshold=0.4)
    batch = batch_of(3, objects=[{"dog": 2}, None, {"cat": 1, "dog": 1}])
    report = check_reward(reward, PICTURES[:3], batch, differentiable=False)
    assert 0 <= report.low <= report.high <= 1 and report.not_applicable == pytest.approx(1 / 3)


def test_no_wanted_object_is_not_applicable(folder):
    reward = ObjectCount(str(folder[0] / "detr"))
    batch = batch_of(4, objects=[None, "", [], {}])
    assert all(map(math.isnan, reward(make_rollout(PICTURES[:4], batch), batch).tolist()))


def test_boxes_by_hand():
    """Two dogs side by side, and a second box around one of them: shared area 80, union 120."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 2, 10, 12], [20, 0, 30, 10], [20, 0, 20, 10]])
    assert [count_apart(boxes[:3], o) for o in (0.6, 0.7, 1.0)] == [2, 3, 3]
    assert count_apart(boxes[3:], 0.5) == 1 and count_apart(boxes[:0], 0.5) == 0


FORMS = [
    ({"dog": 2, "cat": None}, {"dog": 2}),
    ([{"class": "dog", "count": 2}, {"class": "cat", "count": 0}], {"dog": 2, "cat": 0}),
    ([{"class": "dog", "count": 2, "color": None}], {"dog": 2}),
    ('{"dog": 2}', {"dog": 2}),
    ('[{"class": " dog ", "count": 1}]', {"dog": 1}),
    ("", {}),
    (None, {}),
    ([], {}),
]


@pytest.mark.parametrize(("value", "counts"), FORMS)
def test_the_forms_of_a_row(value, counts):
    assert read_counts(value, "here") == counts


NO_COUNT = "here: expected a class and a whole number >= 0, got "
NO_ENTRY = 'here: expected {"class": "dog", "count": 2} and no other keys, got '


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (3, 'here: expected {"dog": 2} or the like, got 3'),
        ({"dog": -1}, NO_COUNT + "'dog': -1"),
        ({"dog": True}, NO_COUNT + "'dog': True"),
        ({"dog": 1.5}, NO_COUNT + "'dog': 1.5"),
        ({"dog": "two"}, NO_COUNT + "'dog': 'two'"),
        ({" ": 2}, NO_COUNT + "' ': 2"),
        ({"dog": 1, "Dog ": 2}, "here: a class is named twice, in {'dog': 1, 'Dog ': 2}"),
        ("two dogs", "here: not valid JSON (Expecting value: line 1 column 1 (char 0))"),
        (["dog"], NO_ENTRY + "'dog'"),
        ([{"class": "dog"}], NO_ENTRY + "{'class': 'dog'}"),
        (
            [{"class": "dog", "count": 1, "color": "red"}],
            NO_ENTRY + "{'class': 'dog', 'count': 1, 'color': 'red'}",
        ),
    ],
)
def test_rows_that_say_no_counts(value, said):
    with pytest.raises(RewardError) as caught:
        read_counts(value, "here")
    assert str(caught.value) == said


def test_what_the_detector_or_the_data_set_does_not_have(folder):
    reward = ObjectCount(str(folder[0] / "detr"))
    batch = batch_of(1, objects=[{"potted plants": 1}])
    with pytest.raises(RewardError) as caught:
        reward(make_rollout(PICTURES[:1], batch), batch)
    assert str(caught.value) == (
        f"object_count: {folder[0] / 'detr'} has no class 'potted plants'. Did you mean 'potted plant'?"
    )
    batch = batch_of(1, objekts=[{"dog": 1}])
    with pytest.raises(RewardError) as caught:
        reward(make_rollout(PICTURES[:1], batch), batch)
    assert str(caught.value) == (
        "object_count: the data set has no column 'objects' with the objects to show. Did you mean 'objekts'? The "
        "option `columns` of `prompts` names those that it gives."
    )


def test_weights_that_are_no_detector(folder, tmp_path):
    with pytest.raises(
        ComponentError, match=r"object_count: the weights of '.*clip' cannot be loaded"
    ):
        ObjectCount(str(folder[0] / "clip"))
    save_detr(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ComponentError, match=r"object_count: the weights of '.*' cannot be loaded"):
        ObjectCount(str(tmp_path))


def test_the_classes_of_a_checkpoint_are_read_from_it(folder):
    config = json.loads((folder[0] / "detr" / "config.json").read_text())
    assert ObjectCount(str(folder[0] / "detr")).detector.names == [
        name.casefold() for name in config["id2label"].values()
    ]
