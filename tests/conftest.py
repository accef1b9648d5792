"""Fixtures of the whole suite. Threads are limited because spinning threads slow each other down."""

import gc
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest

from rewardft.plugins import sources

sources.PATIENCE = 3600.0  # a busy machine imports plugins slowly, and stderr is compared


def pytest_collection_finish(session):
    """What was imported stays: the garbage collector need not look through it again and again."""
    gc.collect()
    gc.freeze()
    # And seldom: what a test leaves in circles is little.
    gc.set_threshold(20_000, 50, 100)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    # Here and not above: the process that hands the tests out to workers needs no torch.
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _nothing_waits_for_the_disk():
    """Files need not survive a power cut here, and waiting takes as long as the runs themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(autouse=True)
def _isolated_random_state():
    """A test may seed the global generator; the next one must not notice."""
    import torch

    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


@pytest.fixture
def recipe(request, tmp_path):
    """The module's RECIPE as a file in the test's folder."""
    path = tmp_path / "recipe.yaml"
    path.write_text(request.module.RECIPE)
    return path
