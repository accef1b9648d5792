"""Reflecting a rendered body gives what rendering the reflected body would."""

import torch
from rewardft_plugins.drpose.judges.pose_judge import silhouette_iou
from rewardft_plugins.humans.body import JOINTS, PARTS
from rewardft_plugins.humans.camera import project
from rewardft_plugins.humans.reflect import counterparts, reflect


def test_counterparts():
    assert [JOINTS[i] for i in counterparts(JOINTS)[:3]] == ["pelvis", "right_hip", "left_hip"]
    assert sorted(counterparts(PARTS)) == list(range(len(PARTS)))


def test_places_are_those_of_the_reflected_joints():
    joints = torch.randn(2, 23, 3) * 0.3
    places = torch.from_numpy(project(joints.numpy()))
    white, empty = torch.ones(2, 6, 3, 8, 8), torch.zeros(2, 6, 8, 8, dtype=torch.uint8)
    _, reflected, moved, _ = reflect(white, joints, places, empty)
    torch.testing.assert_close(
        moved, torch.from_numpy(project(reflected.numpy())), rtol=0, atol=1e-6
    )
    assert torch.equal(
        reflected[:, JOINTS.index("left_knee"), 0], -joints[:, JOINTS.index("right_knee"), 0]
    )


def test_pictures_follow_their_labels_and_a_second_reflection_undoes_the_first(rendered_bodies):
    given = [rendered_bodies[name] for name in ("normals", "joints", "joints2d", "labels")]
    once = reflect(*given)
    assert (silhouette_iou(once[0], once[3]) - silhouette_iou(given[0], given[3])).abs().max() < 0.1
    for back, original in zip(reflect(*once), given):
        torch.testing.assert_close(back, original, rtol=0, atol=1e-5)


def test_parts_stay_under_their_joints(rendered_bodies):
    """The left foot's label is found at the left foot's joint before and after."""
    given = [rendered_bodies[name] for name in ("normals", "joints", "joints2d", "labels")]
    for _, _, places, labels in (given, reflect(*given)):
        at = ((places[..., JOINTS.index("left_foot"), :] + 1) * 32).long().clamp(0, 63)
        found = labels[torch.arange(8)[:, None], torch.arange(6), at[..., 1], at[..., 0]]
        assert (found == PARTS.index("left_foot")).float().mean() > 0.5
        assert (found == PARTS.index("right_foot")).float().mean() < 0.3
