"""Fixtures of the whole suite. Threads are limited because spinning threads slow each other down."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch

from rewardft.plugins import sources

torch.set_num_threads(1)
sources.PATIENCE = 3600.0  # a busy machine imports plugins slowly, and stderr is compared


@pytest.fixture(autouse=True)
def _isolated_random_state():
    """A test may seed the global generator; the next one must not notice."""
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


@pytest.fixture
def recipe(request, tmp_path):
    """The module's RECIPE as a file in the test's folder."""
    path = tmp_path / "recipe.yaml"
    path.write_text(request.module.RECIPE)
    return path
