"""Bodies in a few plain poses, rendered once."""

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def rendered_bodies():
    """Six stored views of 8 bodies of the shipped clips: normals, colours, labels, joints, joints2d (see `Drpose15k`)."""
    pytest.importorskip("smplx")
    from rewardft_plugins.humans.appearance import generator, random_look
    from rewardft_plugins.humans.body import load_body
    from rewardft_plugins.humans.camera import project
    from rewardft_plugins.humans.motion import shipped_clips
    from rewardft_plugins.humans.render import render

    body = load_body()
    clips = [clip for clip in shipped_clips() if clip.plain]
    poses = np.stack([clips[i % len(clips)].poses[10 + i] for i in range(8)]).astype(np.float32)
    vertices, joints = body.pose(poses)
    centre = (vertices.min(axis=1, keepdims=True) + vertices.max(axis=1, keepdims=True)) / 2
    views = render(
        body, vertices - centre, [random_look(generator(0, str(i))) for i in range(8)], 64
    )
    return {
        "normals": torch.from_numpy(views.normals).float() / 255,
        "colours": torch.from_numpy(views.colours).float() / 255,
        "labels": torch.from_numpy(views.labels),
        "joints": torch.from_numpy(joints - joints[:, :1]),
        "joints2d": torch.from_numpy(project(joints - centre)),
    }
