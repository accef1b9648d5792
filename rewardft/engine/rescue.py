"""What a failed run still does: it tells of what was measured, saves what is good, and tells its
observers why it ends."""

from __future__ import annotations

from rewardft.engine.failure import explain, rescue
from rewardft.engine.parts import Parts
from rewardft.errors import AuditError
from rewardft.files.atomic import write_text
from rewardft.files.json_text import encode


def fail(parts: Parts, error: BaseException, is_forged: bool) -> BaseException:
    """Save and tell what there is; returns what to raise: `error` or what it has led to.

    is_forged: whether it is a KeyboardInterrupt that no user has sent.
    """
    cause = explain(error, parts.run.folder, parts.peers, not is_forged)
    rescue(
        cause,
        # In this order: metrics and weights before observers, which may fail themselves.
        lambda: parts.log.rescue(parts.stream.position),
        lambda: save_whole(parts, cause),
        lambda: tell_of_error(parts, cause),
    )
    return cause


def save_whole(parts: Parts, cause: BaseException) -> None:
    """Save the newest whole step, if it is good and not saved; what became of it is noted on
    `cause`."""
    saver = parts.saver
    # A save that has failed once would fail again, and hide the first error.
    if not parts.run.is_main or saver.step <= saver.saved or saver.has_failed:
        return
    if not parts.updater.is_good:
        cause.add_note(
            f"the weights of step {parts.state.step} are not saved: an update was cut off, or they "
            "hold NaN"
        )
        return
    path = saver.save(parts.tell_of_checkpoint)
    cause.add_note(f"step {saver.saved} is saved in {path}; once that is fixed, --resume")


def tell_of_error(parts: Parts, cause: BaseException) -> None:
    """The observers, and the audit's own file where it is the audit that ends the run."""
    if isinstance(cause, AuditError) and parts.run.is_main:
        write_text(parts.run.folder / "audit.json", encode({"failed": str(cause)}, indent=2))
    parts.plugins.call("on_run_error", run=parts.run, step=parts.state.step, error=cause)
