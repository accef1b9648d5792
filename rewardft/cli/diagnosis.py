"""`doctor`: what is installed here, what it can use, and what does not go together.

Versions come from the packages' metadata, so nothing is imported for them but torch, which alone
knows what it was built for. No GPU is touched: a context on each would take its memory.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from rewardft.cli.tables import print_table
from rewardft.plugins.component_index import cache_file
from rewardft.plugins.loading import list_installed_plugins

PATIENCE = 60  # seconds for nvidia-smi, which waits for a driver that hangs

# Versions that were tried and do not work, beyond what the requirements exclude.
BAD_PAIRS = (
    ("peft", "<0.18", "diffusers", ">=0.42", "peft does not import beside it"),
    ("peft", "<0.18", "transformers", ">=5", "peft does not import beside it"),
    ("diffusers", "<0.42", "peft", "<0.18", "a saved adapter loads to another result"),
)


@dataclass(frozen=True)
class Wanted:
    """A requirement, of the core ("") or of an extra, and what there is."""

    extra: str
    requirement: Requirement
    version: str | None

    @property
    def problem(self) -> str:
        """'' where it is met."""
        name, wanted = self.requirement.name, self.requirement.specifier
        if self.version is None:
            return f"{name} is not installed"
        good = wanted.contains(self.version, prereleases=True)
        return "" if good else f"{name} {self.version} does not fit {wanted}"


def diagnose() -> None:
    """Print what there is; exit code 1 where the core or a listed plugin cannot work."""
    found = requirements()
    core = [one for one in found if not one.extra]
    rows = [(one.requirement.name, one.version or "-", one.problem or "ok") for one in core]
    print_table("versions", ("what", "version", "state"), [*about_python(), *rows])
    print_table("devices", ("what", "value"), list(devices()))
    print_table("extras", ("extra", "state"), list(extras(found)))
    print_table("folders", ("what", "path", "state"), list(folders()))
    problems = [one.problem for one in core if one.problem] + list(bad_pairs())
    problems += [row.problem for row in list_installed_plugins() if row.problem]
    problems += [problem] if (problem := driver()[1]) else []
    for problem in problems:
        print(f"\nproblem: {problem}")
    if problems:
        raise typer.Exit(1)
    print("\nno problem found")


def version_of(package: str) -> str | None:
    """As it is now, not as it was when it was first asked for; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def about_python() -> list[tuple[str, str, str]]:
    """Python and this package; the former was checked when the latter was installed."""
    return [
        ("rewardft", version_of("rewardft") or "-", "ok"),
        ("python", platform.python_version(), "ok"),
    ]


def requirements() -> list[Wanted]:
    """What the core and each of its extras requires on this platform."""
    every = importlib.metadata.metadata("rewardft").get_all("Provides-Extra") or ()
    found = []
    for text in importlib.metadata.requires("rewardft") or ():
        one = Requirement(text)
        # The marker of an extra is `extra == "report"`; the core's own hold without any.
        of = [""] if is_wanted(one, "") else [extra for extra in every if is_wanted(one, extra)]
        found += [Wanted(extra, one, version_of(one.name)) for extra in of]
    return found


def is_wanted(requirement: Requirement, extra: str) -> bool:
    """Whether it is required here, with this extra."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def extras(found: Sequence[Wanted]) -> Iterator[tuple[str, str]]:
    """Each extra, and what it lacks."""
    for extra in dict.fromkeys(one.extra for one in found if one.extra):
        lacking = [one.problem for one in found if one.extra == extra and one.problem]
        cure = f"; pip install 'rewardft[{extra}]'" if lacking else ""
        yield extra, "; ".join(lacking) + cure if lacking else "complete"


def bad_pairs() -> Iterator[str]:
    """A sentence for each pair of installed versions that is known not to work."""
    for first, of_first, second, of_second, what in BAD_PAIRS:
        one, other = version_of(first), version_of(second)
        if one is None or other is None:
            continue
        if one in SpecifierSet(of_first) and other in SpecifierSet(of_second):
            yield f"{first} {one} with {second} {other}: {what}."


def devices() -> Iterator[tuple[str, str]]:
    """What torch can compute on, and the GPUs that the driver lists."""
    import torch

    # Counted through NVML where there is one: `is_available` would start CUDA.
    count = torch.cuda.device_count()
    built = torch.version.cuda or torch.version.hip
    yield "torch", f"built for {f'CUDA {built}' if built else 'the CPU alone'}, {count} GPUs usable"
    yield "threads", f"{torch.get_num_threads()} of torch, {os.cpu_count()} cores"
    yield from (("GPU", line) for line in driver()[0])


@functools.cache
def driver() -> tuple[list[str], str | None]:
    """The GPUs that nvidia-smi lists, and what is wrong with it; nothing where it is not
    installed."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return [], None
    asked = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [], f"{program}: {error}"
    said = (done.stdout or done.stderr).splitlines()
    if done.returncode:
        return [], f"{program} ended with exit code {done.returncode}: {' '.join(said)}"
    return said, None


def folders() -> Iterator[tuple[str, str, str]]:
    """Where downloads and lists of components are kept, with the space that is left there."""
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    for name, path in (("hub downloads", Path(home).expanduser()), ("components", cache_file())):
        # A cache that is not there yet is made in the nearest folder that is.
        there = next(parent for parent in (path, *path.parents) if parent.exists())
        free = f"{shutil.disk_usage(there).free / 1e9:.0f} GB free"
        yield name, str(path), free if os.access(there, os.W_OK) else f"{free}, not writable"
