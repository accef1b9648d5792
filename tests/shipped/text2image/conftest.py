"""One set of tiny checkpoints for all tests of the plugin."""

import pytest

from tests.shipped.text2image import checkpoints


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """{family: folder}."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: build(root / name) for name, build in checkpoints.FAMILIES.items()}
