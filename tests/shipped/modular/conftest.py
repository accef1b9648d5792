"""The tiny families of `benchmarks/modular/` can be imported, as when a command there runs."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks" / "modular"
sys.path.insert(0, str(BENCHMARKS))


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Folders of tiny weights in diffusers' layout, by family."""
    from rewardft_plugins.text2image.tiny import MODULAR, save

    folder = tmp_path_factory.mktemp("tiny")
    return {family: save(family, folder / family) for family in MODULAR}
