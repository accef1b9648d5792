"""Random looks: skin, clothes, hair, light and body shape, as a function of seed and sample
alone."""

from __future__ import annotations

import colorsys
import hashlib

import numpy as np
from numpy.typing import NDArray
from rewardft_plugins.humans.body import PARTS
from rewardft_plugins.humans.body_file import BETAS
from rewardft_plugins.humans.render import HAIR, Appearance

Floats = NDArray[np.float32]

# Standard deviations; with the limit below nearly every body stays inside the picture
SHAPE_SPREAD = 0.5
SHAPE_LIMIT = 1.0
_LIGHT_SKIN, _DARK_SKIN = np.array([0.96, 0.80, 0.69]), np.array([0.36, 0.22, 0.15])


def generator(seed: int, key: str) -> np.random.Generator:
    """A random generator that depends on the seed and a text only: the same on every machine and
    in every order."""
    # Python's own hash of a text differs from process to process.
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def random_shape(rng: np.random.Generator) -> Floats:
    """Shape coefficients `(10,)`."""
    return np.clip(rng.normal(size=BETAS) * SHAPE_SPREAD, -SHAPE_LIMIT, SHAPE_LIMIT).astype(
        np.float32
    )


def random_look(rng: np.random.Generator) -> Appearance:
    """Skin, shirt with long, short or no sleeves, long or short trousers, shoes, hair; light from
    the front."""
    skin = _LIGHT_SKIN + rng.uniform() * (_DARK_SKIN - _LIGHT_SKIN)
    shirt, trousers, shoes, hair = (_cloth(rng) for _ in range(4))
    sleeves, short = rng.integers(3), rng.uniform() < 0.3
    materials = {
        "head": skin,
        "torso": shirt,
        "upper_arm": shirt if sleeves > 0 else skin,
        "forearm": shirt if sleeves > 1 else skin,
        "hand": skin,
        "thigh": trousers,
        "shin": skin if short else trousers,
        "foot": shoes,
    }
    albedo = np.zeros((HAIR + 1, 3))
    for part in range(1, len(PARTS)):
        material = materials[PARTS[part].removeprefix("left_").removeprefix("right_")]
        # Parts of one garment differ a little, so that limbs show before the trunk.
        albedo[part] = material * rng.uniform(0.92, 1.0)
    # Darker than cloth: front and back of a head must be told apart.
    albedo[HAIR] = 0.6 * hair
    # No surface is black or white: light would not show on it.
    return Appearance(
        albedo.clip(0.02, 0.95).astype(np.float32), _light(rng), float(rng.uniform(0.45, 0.6))
    )


def _cloth(rng: np.random.Generator) -> Floats:
    hue, saturation, value = rng.uniform(), rng.uniform(0.1, 0.9), rng.uniform(0.25, 0.9)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value), dtype=np.float32)


def _light(rng: np.random.Generator) -> Floats:
    # In front of the body and above it, so that the condition view is never in the dark.
    azimuth, elevation = np.deg2rad(rng.uniform(-70, 70)), np.deg2rad(rng.uniform(10, 70))
    flat = np.cos(elevation)
    return np.array(
        [flat * np.sin(azimuth), np.sin(elevation), flat * np.cos(azimuth)], dtype=np.float32
    )
