"""Rules of posecodes on poses made by hand."""

import math

import pytest
import torch
from rewardft_plugins.posert import posecodes
from rewardft_plugins.posert.rotations import joints, pack, pack_axis_angle, unpack

REST = {
    "left knee straight",
    "right knee straight",
    "left elbow straight",
    "right elbow straight",
    "left thigh down",
    "right thigh down",
    "torso upright",
    "left hand beside",
    "right hand beside",
}


def posed(**turns):
    """Joints of the rest pose with some joints turned, `NAME=(x, y, z)` in degrees of
    axis-angle."""
    numbers = {"root": 0, "l_hip": 1, "r_hip": 2, "l_knee": 4, "r_knee": 5}
    numbers |= {"l_shoulder": 16, "r_shoulder": 17, "l_elbow": 18, "r_elbow": 19}
    pose = torch.zeros(1, 22, 3)
    for name, turn in turns.items():
        pose[0, numbers[name]] = torch.tensor(turn) * math.pi / 180
    return joints(pack_axis_angle(pose))


def said(**turns):
    true = posecodes.true_phrases(posed(**turns))[0].tolist()
    return {posecodes.PHRASES[i] for i in true}


def test_the_rest_pose_stands_with_level_arms():
    phrases = said()
    assert phrases >= REST and len(phrases) == len(posecodes.CODES)
    assert {p for p in phrases if "hand at" in p} == {
        "left hand at shoulder",
        "right hand at shoulder",
    }


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ({"l_knee": (70.0, 0, 0)}, {"left knee bent", "right knee straight"}),
        ({"r_knee": (100.0, 0, 0)}, {"right knee very bent", "left knee straight"}),
        ({"l_elbow": (0, -60.0, 0)}, {"left elbow bent", "left hand in front"}),
        ({"r_elbow": (0, 110.0, 0)}, {"right elbow very bent"}),
        ({"l_hip": (-60.0, 0, 0)}, {"left thigh raised", "right thigh down"}),
        ({"l_hip": (-90.0, 0, 0)}, {"left thigh high"}),
        ({"l_shoulder": (0, 0, -75.0)}, {"left hand low", "right hand at shoulder"}),
        ({"r_shoulder": (0, 0, -75.0)}, {"right hand above head"}),
        ({"l_shoulder": (0, -80.0, 0)}, {"left hand in front"}),
        ({"r_shoulder": (0, -80.0, 0)}, {"right hand behind"}),
        ({"root": (30.0, 0, 0)}, {"torso leaning"}),
        ({"root": (90.0, 0, 0)}, {"torso horizontal"}),
        ({"root": (170.0, 0, 0)}, {"torso upside down"}),
        ({"l_hip": (0, 0, 15.0), "r_hip": (0, 0, -15.0)}, {"feet wide apart"}),
    ],
    ids=lambda value: ", ".join(sorted(value)) if isinstance(value, set) else "",
)
def test_a_turned_joint_is_said(turns, expected):
    assert said(**turns) >= expected


def test_captions_are_written_read_and_checked():
    text = posecodes.caption([0, 5, 6])
    assert text == "left knee very bent, left elbow straight, left hand low."
    assert posecodes.read(text) == posecodes.read(text.replace(",", " ,").upper()) == [0, 5, 6]
    pose = posed(l_shoulder=(0, 0, -75.0)).expand(3, -1, -1)
    texts = [text, "torso upright, who knows.", "nothing to be checked."]
    shares = posecodes.satisfied(texts, pose)
    assert shares[:2].tolist() == pytest.approx([2 / 3, 1.0]) and shares[2].isnan()


def test_rare_phrases_are_said_more_often():
    phrases = posecodes.true_phrases(posed()).expand(200, -1)
    frequency = torch.full((len(posecodes.PHRASES),), 0.9)
    rare = int(phrases[0, 3])
    frequency[rare] = 0.05
    chosen = posecodes.choose(phrases, frequency, 4, torch.Generator().manual_seed(0))
    assert all(len(set(row)) == 4 for row in chosen)
    counts = torch.bincount(torch.tensor(chosen).flatten(), minlength=len(posecodes.PHRASES))
    assert counts[rare] == counts.max() and counts[rare] > 140


def test_a_vector_is_a_pose_and_any_vector_is_one():
    x = torch.randn(5, 132).double()
    turned = unpack(x)
    identity = turned.mT @ turned
    assert torch.allclose(identity, torch.eye(3).double().expand_as(identity), atol=1e-9)
    assert torch.allclose(torch.linalg.det(turned), torch.ones(5, 22).double())
    assert torch.allclose(unpack(pack(turned)), turned)
