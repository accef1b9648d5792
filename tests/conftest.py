"""Fixtures of the whole suite. Threads are limited because spinning threads slow each other down."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _isolated_random_state():
    """A test may seed the global generator; the next one must not notice."""
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)
