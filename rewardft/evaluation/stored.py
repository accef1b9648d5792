"""The file of an evaluation in a run folder: the values per sample of one step."""

from __future__ import annotations

from pathlib import Path

from rewardft.evaluation.evaluate import Evaluation
from rewardft.files.json_text import read_object, reading

KEYS = {"ids": list, "groups": list, "per_sample": dict, "overall": dict, "settings": dict}


def evaluation_path(run: Path, step: int) -> Path:
    """Where the evaluation of a step is kept."""
    return run / "evaluations" / f"step-{step:08d}.json"


def read_evaluation(path: Path, fix: str) -> Evaluation:
    """The evaluation in a file. Raises CheckpointError for a damaged one, which ends with `fix`."""
    with reading(path, fix):
        return Evaluation.from_json(read_object(path, KEYS, fix))
