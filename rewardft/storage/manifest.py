"""What one needs to repeat a run: `manifest.json`."""

from __future__ import annotations

import platform
import subprocess
import sys
from typing import Any

from rewardft.contracts.run import Run
from rewardft.files.versions import version_of
from rewardft.storage.origin import Origin

# Those that change numbers; a plugin's own packages are its affair.
PACKAGES = (
    "rewardft",
    "torch",
    "diffusers",
    "peft",
    "accelerate",
    "pluggy",
    "safetensors",
    "numpy",
)


def manifest(run: Run, plugins: Any, device: str, origin: Origin) -> dict[str, Any]:
    """Versions, plugins, seed, git state and hardware: what one needs to repeat the run."""
    import torch

    return {
        # As typed: the recipe alone would not tell which overrides came from the command.
        "command": sys.argv,
        "recipe": run.recipe.source,
        "recipe_sha256": run.recipe.digest(),
        "seed": run.recipe.seed,
        "versions": {name: version_of(name) for name in PACKAGES}
        | {"python": platform.python_version()},
        "plugins": [
            {"name": p.name, "version": p.version, "file": str(p.file), "sha256": p.sha256}
            for p in plugins.loaded
        ],
        "data": dict(origin.data),
        "git": git_state(),
        "hardware": {
            "platform": platform.platform(),
            "processor": platform.processor(),
            "device": device,
            "processes": origin.processes,
            "threads": torch.get_num_threads(),
        },
    }


def git_state() -> dict[str, Any] | None:
    """Commit and whether there are changes; None outside a repository, before its first commit or
    without git."""
    try:
        # With a limit: a repository on a network drive that hangs must not hang the run.
        done = subprocess.run(
            ["git", "status", "--porcelain=v2", "--branch", "--no-ahead-behind"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    # "# branch.oid COMMIT" and the like, then a line for each file that has changed.
    headers: list[str] = []
    changes: list[str] = []
    for line in done.stdout.splitlines():
        (headers if line.startswith("# ") else changes).append(line)
    commit = next((h.split()[2] for h in headers if h.startswith("# branch.oid ")), "(initial)")
    return None if commit == "(initial)" else {"commit": commit, "changed": bool(changes)}
