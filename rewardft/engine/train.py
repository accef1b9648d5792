"""From a resolved recipe to a finished run: the parts are built, put back to a checkpoint, and
handed to the trainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewardft.contracts.run import Run
from rewardft.engine.ema import Ema
from rewardft.engine.failure import Peers, explain
from rewardft.engine.grids import Grids
from rewardft.engine.held_out import HeldOut
from rewardft.engine.initial import load_initial
from rewardft.engine.interrupts import Signals
from rewardft.engine.meter import Meter
from rewardft.engine.micro_batch import choose_micro_batch, default_micro_batch
from rewardft.engine.moments import Moments
from rewardft.engine.optimizer import Updater, build_optimizer, build_schedule, rates_of
from rewardft.engine.parts import Parts
from rewardft.engine.processes import alone_in, copy_from_main, main_decides, start_accelerator
from rewardft.engine.progress import ProgressLine
from rewardft.engine.saving import Saver
from rewardft.engine.session import Session, Training, build_session
from rewardft.engine.state import RandomState, TrainState
from rewardft.engine.step_log import StepLog
from rewardft.engine.summary import RunSummary
from rewardft.engine.trainer import Trainer
from rewardft.files.atomic import write_text
from rewardft.files.json_text import encode
from rewardft.files.surroundings import put_back
from rewardft.policy.batches import Stream
from rewardft.policy.facts import RewardFacts
from rewardft.recipe.recipe import Recipe
from rewardft.storage.checkpoint import Part, read_state
from rewardft.storage.folder import claim, resumptions, rewind_folder
from rewardft.storage.manifest import manifest
from rewardft.storage.origin import Origin, check_same_origin, data_digests
from rewardft.storage.recorder import Recorder, SampleDump, check_trackers
from rewardft.storage.resume import restore


@dataclass(frozen=True)
class Job:
    """What is to be run, where, and by which processes."""

    recipe: Recipe
    plugins: Any
    resolved: Any
    out: Path
    accelerator: Any
    resume: bool
    allow_changed_plugins: bool


@put_back()
def train(
    recipe: Recipe,
    plugins: Any,
    resolved: Any,
    out: Path,
    resume: bool = False,
    allow_changed_plugins: bool = False,
) -> RunSummary:
    """Run a recipe. Whatever can be saved is saved before an error is raised; RewardftError is for
    what a user can fix."""
    # Absolute: a component may change the current folder while the run goes on.
    out = Path(out).absolute()
    # First, as it costs nothing: a missing tracker must not surface after the model has loaded.
    check_trackers(recipe.source, recipe.train.report_to)
    accelerator = start_accelerator(recipe.train.report_to, out)
    job = Job(recipe, plugins, resolved, out, accelerator, resume, allow_changed_plugins)
    peers = Peers(accelerator)
    # Held until the rescue is over too: a restarted run must not write into the same folder.
    with alone_in(accelerator, out, make=not resume):
        trainer = None
        try:
            trainer = build_trainer(job, peers)
            return trainer.fit()
        except BaseException as error:
            # A second SIGTERM in the middle of the rescue would lose the checkpoint.
            with Signals():  # a launcher ends what is left of a run that has lost a process
                # Without a trainer nothing was trained, so there is nothing to save.
                cause = explain(error, out, peers, True) if trainer is None else trainer.fail(error)
            if cause is error:
                raise
            raise cause from error


def build_trainer(job: Job, peers: Peers) -> Trainer:
    """All parts of a run, as new or as a checkpoint has them, and its folder ready for it."""
    recipe, out, accelerator = job.recipe, job.out, job.accelerator
    checkpoint = main_decides(accelerator, lambda: claim(out, recipe, job.resume))
    state = TrainState()
    session = build_session_to_train(job, state, is_new=checkpoint is None)
    if checkpoint is None:
        # A resumed run has these weights in its checkpoint, trained further.
        load_initial(session.adapter, recipe)
    run = make_run(job, session)
    ema = Ema(session.adapter, recipe.train.ema)
    parameters = session.adapter.parameters
    optimizer = build_optimizer(recipe, job.plugins, session.adapter.named, rates_of(session.model))
    schedule = build_schedule(recipe, optimizer)
    stream = Stream(job.resolved.dataset.build(), recipe.seed)
    meter = Meter(recipe.train.budget, accelerator.num_processes)
    origin = origin_of(job, session)
    # Two kinds of parts, see `Saver`: those that only an update changes, and the others.
    held: dict[str, Part] = {"optimizer": optimizer, "schedule": schedule, "ema": ema}
    noted: dict[str, Part] = {"state": state, "stream": stream, "context": session.context}
    held["random"], noted["meter"] = RandomState(), meter
    changed = restore_parts(job, session, origin, held | noted, checkpoint)
    settle_micro_batch(job, session, stream, checkpoint)
    # After the counters are put back, so that a budget goes on where it was.
    meter.start(session.context.cost, state.step, state.seconds)
    copy_from_main(accelerator, [*parameters, *ema.weights.values()])
    facts, keep = {"recipe_sha256": recipe.digest(), **origin.to_json()}, recipe.save.keep
    moments = Moments(recipe, state, meter, accelerator)
    saver = Saver(out, session.adapter, held, noted, session.context.memory, facts, keep)
    saver.saved = state.step  # what was just loaded need not be saved again
    observe(job, run, state, origin, changed, session.context.micro_batch)
    parts = Parts(
        run=run,
        plugins=job.plugins,
        accelerator=accelerator,
        session=session,
        state=state,
        stream=stream,
        ema=ema,
        updater=Updater(parameters, optimizer, schedule, ema, recipe.train.clip_norm),
        meter=meter,
        held_out=HeldOut(session, run, job.plugins, accelerator, ema, moments),
        grids=Grids(session, run, job.plugins, accelerator, ema, state),
        saver=saver,
        log=StepLog(job.plugins, run, accelerator, stream.position),
        peers=peers,
    )
    return Trainer(parts)


def origin_of(job: Job, session: Session) -> Origin:
    """What a resumed run must have in common with this one."""
    files = job.resolved.dataset.flat_options | {"adapter.init": job.recipe.adapter.init}
    data = data_digests(files, job.recipe.base)
    return Origin(job.accelerator.num_processes, session.plugin_files, data)


def build_session_to_train(job: Job, state: TrainState, is_new: bool) -> Session:
    """The session, with what only training needs; a new run audits its first step."""
    accelerator = job.accelerator
    dump = SampleDump(job.out, state, accelerator.process_index, accelerator.num_processes)
    training = Training(accelerator.gather, RewardFacts() if is_new else None, dump)
    files = job.plugins.digests()
    return build_session(
        job.recipe,
        job.resolved,
        accelerator.device,
        plugin_files=files,
        training=training,
    )


def make_run(job: Job, session: Session) -> Run:
    """The run as observers see it."""
    recipe, is_main = job.recipe, job.accelerator.is_main_process
    sampler = session.context.sampler
    return Run(job.out, recipe, is_main, recipe.train.steps, session.model, sampler)


def restore_parts(
    job: Job,
    session: Session,
    origin: Origin,
    parts: Mapping[str, Part],
    checkpoint: Path | None,
) -> list[str] | None:
    """Go on from a checkpoint (None: from the start), and the run folder with it; returns the
    plugins that were edited since, None for a new run."""
    changed: list[str] = []
    if checkpoint is not None:
        facts = read_state(checkpoint)
        changed = check_same_origin(facts, origin, job.allow_changed_plugins)
        restore(checkpoint, session.adapter, parts, job.accelerator.device)
    if job.resume and job.accelerator.is_main_process:
        # After everything has been loaded: a checkpoint that does not fit must leave the folder as
        # it was.
        rewind_folder(job.out, job.recipe, checkpoint)
    return changed if job.resume else None


def settle_micro_batch(job: Job, session: Session, stream: Stream, checkpoint: Path | None) -> None:
    """For a new run without a number: the default, no limit with `all`, or with `auto` what the
    main process measures, for all of them. A checkpoint has it."""
    wanted = job.recipe.train.micro_batch
    if checkpoint is not None or wanted == "all" or isinstance(wanted, int):
        return
    if wanted is None:
        session.context.micro_batch, session.context.score_batch = default_micro_batch(session)
        return
    before = stream.state_dict()
    batch = stream.next_batch(job.recipe.data.batch_size).to(job.accelerator.device)
    stream.load_state_dict(before)
    size = main_decides(job.accelerator, lambda: choose_micro_batch(session, batch))
    session.context.micro_batch = size


def observe(
    job: Job,
    run: Run,
    state: TrainState,
    origin: Origin,
    changed: list[str] | None,
    micro_batch: int | None,
) -> None:
    """Register the engine's own observers, and write down what the run was made with."""
    manager, accelerator = job.plugins.manager, job.accelerator
    manager.register(Recorder(job.out, accelerator, run.is_main), name="recorder")
    if run.is_main:
        manager.register(ProgressLine(state.step, state.seconds), name="progress")
        # From the manifest that is about to be replaced.
        resumed = [] if changed is None else resumptions(job.out, state.step, changed)
        own = {"micro_batch": micro_batch, "resumed": resumed}
        facts = manifest(run, job.plugins, str(accelerator.device), origin)
        write_text(job.out / "manifest.json", encode(facts | own, indent=2))
    if job.recipe.train.report_to:
        accelerator.init_trackers("rewardft", config={"recipe": job.recipe.to_yaml()})
