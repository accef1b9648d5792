"""A setting of a recipe as a command line has it: `--set key=value`, its value in YAML."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rewardft.recipe import strict_yaml


def key_of(setting: str) -> str:
    """The key of a `key=value`."""
    return setting.partition("=")[0].strip()


def value_of(setting: str) -> Any:
    """The value of a `key=value`."""
    return strict_yaml.parse(setting.partition("=")[2]).data


def as_words(settings: Iterable[str]) -> list[str]:
    """The words of a command that has them: `--set` before each."""
    return [word for setting in settings for word in ("--set", setting)]
