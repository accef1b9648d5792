"""The parts of a run in progress, as the trainer and the rescue of a failed run work with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewardft.contracts.run import Run
from rewardft.engine.ema import Ema
from rewardft.engine.failure import Peers
from rewardft.engine.grids import Grids
from rewardft.engine.held_out import HeldOut
from rewardft.engine.meter import Meter
from rewardft.engine.optimizer import Updater
from rewardft.engine.saving import Saver
from rewardft.engine.session import Session
from rewardft.engine.state import TrainState
from rewardft.engine.step_log import StepLog
from rewardft.policy.batches import Stream


@dataclass(frozen=True)
class Parts:
    """What a trainer works with, built by `rewardft.engine.train.build_trainer`."""

    run: Run
    plugins: Any
    accelerator: Any
    session: Session
    state: TrainState
    stream: Stream
    ema: Ema
    updater: Updater
    meter: Meter
    held_out: HeldOut
    grids: Grids
    saver: Saver
    log: StepLog
    peers: Peers

    def tell_of_checkpoint(self, path: Path) -> None:
        """Observers hear of the checkpoint that was just saved."""
        # Not `state.step`: after a failure the checkpoint is of an earlier, whole step.
        step = self.saver.saved
        self.plugins.call("on_checkpoint_saved", run=self.run, step=step, path=path)
