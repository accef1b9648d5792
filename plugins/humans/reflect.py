"""Reflect a body left to right in its stored views: a second pose for every rendered one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from rewardft_plugins.humans.body import JOINTS, PARTS
from torch import Tensor

# The reflected body's right view is the old left view reflected, and left views are stored
# reflected already: those two swap as they are stored. The other views come from their
# counterparts, reflected.
SOURCE = (0, 5, 4, 3, 2, 1)
REFLECTED = (True, True, False, True, False, True)


def counterparts(names: Sequence[str]) -> list[int]:
    """Index of each name's counterpart on the other side; of itself where it has none."""
    index = {name: i for i, name in enumerate(names)}
    return [index[_other_side(name)] for name in names]


def _other_side(name: str) -> str:
    if name.startswith("left_"):
        return "right_" + name[5:]
    return "left_" + name[6:] if name.startswith("right_") else name


def reflect(
    normals: Tensor, joints: Tensor, joints2d: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Reflect samples as `Drpose15k` gives them, each argument with a leading batch dimension.

    Normals are reflected where the labels show a body; a half-covered edge pixel keeps its shade.
    """
    # Views, pixels, normals, joints and part labels all change, each in its own way.
    source, flips = list(SOURCE), torch.tensor(REFLECTED)
    normals, labels, places = normals[:, source], labels[:, source], joints2d[:, source]
    # Over (b, 6, s, s).
    turned = flips.view(6, 1, 1)
    labels = torch.where(turned, labels.flip(-1), labels)
    normals = torch.where(turned[:, None], normals.flip(-1), normals)
    # Reflection turns the normal's x round, which is 1 - x as a colour; the background stays white.
    x = torch.where(labels > 0, 1 - normals[:, :, 0], normals[:, :, 0])
    normals = torch.cat([x[:, :, None], normals[:, :, 1:]], dim=2)
    sign = torch.where(flips, -1.0, 1.0).view(6, 1)
    # Left and right joints change names as well as sides.
    places = torch.stack([places[..., 0] * sign, places[..., 1]], dim=-1)[
        :, :, counterparts(JOINTS)
    ]
    joints = (joints * torch.tensor([-1.0, 1.0, 1.0]))[:, counterparts(JOINTS)]
    return (
        normals,
        joints,
        places,
        torch.tensor(counterparts(PARTS), dtype=labels.dtype)[labels.long()],
    )


def reflect_pictures(pictures: Tensor) -> Tensor:
    """The six stored views `(b, 6, 3, s, s)` of the reflected body, where colours do not change."""
    flips = torch.tensor(REFLECTED, device=pictures.device).view(6, 1, 1, 1)
    views = pictures[:, list(SOURCE)]
    return torch.where(flips, views.flip(-1), views)
