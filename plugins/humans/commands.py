"""`rewardft humans ...`: motions of people, from the files that they come in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rewardft_plugins.humans.console import say

app = typer.Typer(
    help="People: motion clips for the plugins that build on them.", no_args_is_help=True
)


@app.callback()
def humans() -> None:
    """Keep `import-motion` a command of its own name while it is the only one."""


@app.command("import-motion")
def import_motion(
    out: Annotated[
        Path, typer.Argument(help="The .npz file to write; its index goes beside it as .json.")
    ],
    files: Annotated[
        list[Path], typer.Argument(help="BVH, DeepMimic .txt, AMASS or Motion-X files.")
    ],
) -> None:
    """Convert motion files to one file of SMPL-X poses; tags in an existing index are kept."""
    # Imported here, so that the help shows without loading scipy.
    from rewardft_plugins.humans.clip import check_unique
    from rewardft_plugins.humans.motion import read_motions, write_motions

    # All files are read before anything is written.
    clips = check_unique(clip for path in files for clip in read_motions(path))
    write_motions(out, clips)
    frames = sum(len(clip.poses) for clip in clips)
    say(
        "body: bone directions are those of anny, the shipped open body; it is NOT the SMPL-X "
        "model."
    )
    say(
        f"{out}: {len(clips)} clips, {frames} frames. Edit {out.with_suffix('.json')} to tag clips "
        "(plain, split)."
    )
