"""The home of the training loop: one `fit` for every stage, exact to resume.

The paper describes no loop. Batches are a function of the step number and keys are folded from it, so a run that
was stopped and resumed computes the very numbers of one that was not. Metrics are read one step late, while the
device works on the next; only a save, an evaluation or the end waits for the freshest.
"""

import contextlib
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax

from instruct_jax.devices import peak_rss_bytes
from instruct_jax.errors import InputError
from instruct_jax.training import guard, limits
from instruct_jax.training.checkpoint import LATEST_ALONE, Checkpoints, Saving
from instruct_jax.training.metrics import MetricWriter, Progress, duration, read_metrics
from instruct_jax.training.pace import (
    CHECKPOINT,
    DATA,
    EVALUATION,
    SHARE,
    STEP,
    Pace,
    Timeline,
    Watch,
    short,
    words,
)
from instruct_jax.training.profiling import Profiler


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How often the loop speaks, saves and evaluates; every number counts steps. The fields are arguments of `fit`."""

    total_steps: int
    log_every: int
    save_every: int
    eval_every: int | None = None
    keep: int = 2  # the latest checkpoints
    saving: Saving = LATEST_ALONE
    tensorboard: bool = True
    wandb: str | None = None  # project name

    def __post_init__(self):
        for field in ("total_steps", "log_every", "save_every", "eval_every", "keep"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise InputError(f"loop.{field} is {value}: it must be at least 1")

    def saves(self, done: int) -> bool:
        """Whether a checkpoint is due after so many steps."""
        return done % self.save_every == 0 or done == self.total_steps


def fit(
    step: Callable,
    state,
    batch_at: Callable,
    *,
    total_steps: int,
    key: jax.Array,
    workdir: Path | str,
    log_every: int,
    save_every: int,
    meta: dict,
    name: str,
    eval_every: int | None = None,
    evaluate: Callable | None = None,
    keep: int = 2,
    saving: Saving = LATEST_ALONE,
    tensorboard: bool = True,
    wandb: str | None = None,
    show: tuple[str, ...] = (),
    watch: Watch | None = None,
    guard_config: limits.GuardConfig = limits.STOP,
):
    """Run `total_steps` steps in `workdir` and return the final state, resuming from the latest checkpoint there.

    `step(state, batch, key) -> (state, metrics)`, metrics a dict of scalars; a third value, if there is one, is kept with a batch
    that went wrong. `batch_at(i)` is the batch of step i from 0, prepared while the device works on step i - 1; the key of step i is
    fold_in(key, i). `state` is consumed, as by a donating step. `evaluate(state, steps_done) -> dict of floats` runs at the end and
    every `eval_every` steps. `meta` (JSON) goes with each checkpoint; `show` names the metrics of the progress line; `watch` says
    what is measured. Writes checkpoints/, metrics.jsonl, tensorboard/ and, at the end, done.json; a finished workdir returns at once.

    The batch of a step that training/limits found bad is kept in offending/; where `guard_config` skips and the step left the state as
    it was, the run goes on, else TrainingError is raised and that state never saved; so it is when a checkpoint cannot be written,
    unless `saving` says to go on. Raises Preempted after SIGTERM (the state is saved first), InputError when another process or a
    longer run holds the workdir, all its checkpoints are damaged, or meta["anchors"] are not those of the checkpoint resumed from.
    """
    config = LoopConfig(total_steps, log_every, save_every, eval_every, keep, saving, tensorboard, wandb)
    workdir = Path(workdir)
    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0:
            stack.enter_context(guard.lock(workdir))
        checkpoints = stack.enter_context(
            contextlib.closing(Checkpoints(workdir / "checkpoints", keep, saving, config.saves))
        )
        start = checkpoints.newest_whole(lambda text: _warn(name, text)) or 0
        saved = checkpoints.meta(start) if start else {}
        if start:
            _check_same_run(saved, meta, total_steps, workdir)
            state = _resume(checkpoints, state, start)
        if _was_done(workdir / "done.json", start == total_steps):
            return state
        progress = stack.enter_context(contextlib.closing(Progress(name, start, total_steps, show)))
        if start:
            progress.say(f"resuming after step {start}")
        writer = MetricWriter(workdir, start, tensorboard, wandb, meta.get("config"))
        stack.enter_context(contextlib.closing(writer))
        stop = stack.enter_context(guard.StopRequest())
        run = _Run(config, name, workdir, meta, checkpoints, writer, progress, stop, evaluate, watch or Watch(),
                   guard_config, skipped=saved.get("skipped", 0))  # fmt: skip
        return run.run(step, state, batch_at, key, start)


def _warn(name: str, text: str) -> None:
    if jax.process_index() == 0:
        print(f"{name}: {text}", file=sys.stderr, flush=True)


def _was_done(report: Path, last: bool) -> bool:
    """Whether the run was done before, as process 0 sees it; a report of anything else is removed."""
    done = guard.as_the_first_says(last and report.exists())
    if not done and jax.process_index() == 0:
        report.unlink(missing_ok=True)
    return done


def _check_same_run(saved: dict, meta: dict, total_steps: int, workdir: Path) -> None:
    """InputError where the checkpoint is of a longer run, or of one with another reference or reward model."""
    if saved["step"] > total_steps:
        raise InputError(
            f"{workdir} holds a checkpoint of step {saved['step']}, beyond total_steps = {total_steps}: "
            "choose another --workdir or raise the number of steps"
        )
    began, now = saved.get("anchors", {}), meta.get("anchors", {})
    for anchor in began:
        if began[anchor] != now.get(anchor):
            raise InputError(
                f"{anchor} is not the model that this run started with (its parameters differ): put that one back, or choose another "
                "--workdir"
            )


def _resume(checkpoints: Checkpoints, state, step: int):
    """The saved state in the layout of `state`, whose own memory is let go first: two states may not fit."""
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    for leaf in jax.tree.leaves(state):
        leaf.delete()
    return checkpoints.restore(abstract, step)


@dataclasses.dataclass
class _Run:
    """One session of `fit`: the loop and what it keeps between steps."""

    config: LoopConfig
    name: str
    workdir: Path
    meta: dict
    checkpoints: Checkpoints
    writer: MetricWriter
    progress: Progress
    stop: guard.StopRequest
    evaluate: Callable | None
    watch: Watch
    guard_config: limits.GuardConfig
    row: dict = dataclasses.field(default_factory=dict)  # the metrics of the step that is saved next
    skipped: int = 0  # steps in a row; goes with every checkpoint
    first_seconds: float | None = None
    profiler: Profiler | None = None
    timeline: Timeline | None = None
    pace: Pace | None = None
    said: str = ""  # of the speed, at the previous row

    def run(self, step, state, batch_at, key, start):
        """Steps `start` to the last, measured; returns the state."""
        folder, total = self.workdir / "profile", self.config.total_steps
        self.profiler = Profiler(self.watch.profile, folder, self.name, start, total, self.progress.say)
        self.timeline = self.watch.timeline
        with self.timeline, contextlib.closing(self.profiler):
            return self.steps(step, state, batch_at, key, start)

    def steps(self, step, state, batch_at, key, start):
        """Steps `start` to the last; returns the state."""
        began = time.perf_counter()
        late, running = None, ()
        batch = self._batch(batch_at, start)
        self._prepare(state, batch, key)
        for i in range(start, self.config.total_steps):
            done, launched = i + 1, time.perf_counter()
            self.profiler.before(done, running)
            state, running, *seen = self._launch(step, state, batch, jax.random.fold_in(key, i), done)
            this = (done, self.timeline.count, running, (batch, *seen))
            self.profiler.after(done, running)
            if i == start:
                jax.block_until_ready(running)
                self.first_seconds = time.perf_counter() - launched
                self.progress.compiled(done, self.first_seconds)
                self.pace.started(done)
            batch = self._batch(batch_at, done)
            if late:
                self._settle(*late)
            late = this
            self._tell_failed_save(self.checkpoints.check)
            stopping = self.stop.asked()
            if stopping or self._pauses(done):
                self._settle(*late, state)
                late = None
                with self.timeline.host(CHECKPOINT):
                    self._save(done, state, stopping)
        if late:
            self._settle(*late)
        self._finish(time.perf_counter() - began)
        if self.stop.asked():  # in the last step: whoever called must not start another stage
            raise guard.Preempted(f"{self.name}: SIGTERM at the last step; finished and saved")
        return state

    def _prepare(self, state, batch, key):
        """Say what a step computes and what its speed is held against."""
        work = self.watch.work(state, batch, key) if self.watch.work and batch is not None else None
        self.pace = Pace(self.timeline, work)
        if work:
            self.progress.say(
                f"a step is of {short(work.tokens)} tokens, MFU of {short(work.peak)}FLOP/s ({work.peak_from})"
            )

    def _batch(self, batch_at, i):
        """The batch of step i, None after the last."""
        if i >= self.config.total_steps:
            return None
        with self.timeline.host(DATA):
            return batch_at(i)

    def _launch(self, step, state, batch, key, done):
        """What a step returns; one that tells the timeline of no programs is a single one."""
        before = self.timeline.count
        self.timeline.launching()
        with jax.profiler.StepTraceAnnotation(self.name, step_num=done):
            found = step(state, batch, key)
        if self.timeline.count == before:
            self.timeline.launched(STEP, found[1])
        return found

    def _is_last(self, done):
        return done == self.config.total_steps

    def _evaluates(self, done):
        every = self.config.eval_every
        return self.evaluate is not None and (
            self._is_last(done) or (every is not None and done % every == 0)
        )

    def _pauses(self, done):
        return self.config.saves(done) or self._evaluates(done)

    def _settle(self, done, launches, metrics, seen, state=None):
        """Read the metrics of a step, stop if they are bad, and log; given the state, evaluate if due."""
        numbers = {metric: float(value) for metric, value in jax.device_get(metrics).items()}
        self._check(done, numbers, seen)
        logs = done == 1 or done % self.config.log_every == 0 or self._is_last(done)
        perf = self.pace.row(done, launches, numbers) if logs else {}
        self.said = words(perf) or self.said
        self.progress.update(done, numbers, self.said)
        row = (numbers | perf) if logs else {}
        if state is not None and self._evaluates(done):
            with self.timeline.host(EVALUATION):
                row |= {metric: float(value) for metric, value in self.evaluate(state, done).items()}
        if row:
            self._tell_failed_save(lambda: self.writer.write(done, row))
        self.row = numbers | row

    def _check(self, done, numbers, seen):
        fault = limits.first_fault(numbers, self.guard_config)
        if fault is None:
            self.skipped = 0
            return
        where = limits.keep_batch(self.workdir, done, seen[0] if len(seen) == 1 else seen, numbers)
        in_a_row = ""
        if self.guard_config.action == "skip" and numbers.get("guard/bad"):
            self.skipped += 1
            if self.skipped <= self.guard_config.max_skips:
                self.progress.say(f"step {done} was skipped: {fault}; {where}")
                return
            in_a_row = f" and {self.skipped} steps in a row were skipped, more than train.guard.max_skips"
        good = self.checkpoints.latest()
        kept = f"the checkpoint of step {good} in {self.workdir} is good" if good else "nothing was saved yet"
        raise guard.TrainingError(
            f"{self.name}: {fault} at step {done}{in_a_row}; stopped, {kept}, {where}. The same command would meet the "
            "same batch: look at it, lower the learning rate, or set optimizer.grad_clip"
        )

    def _save(self, done, state, stopping):
        """Save where it is due; when stopping, wait for it and raise Preempted."""
        last = self._is_last(done)
        if not (stopping or self.config.saves(done)):
            return
        self._check_best(done)
        self._tell_failed_save(self.checkpoints.wait)
        row = {
            name: value
            for name, value in self.row.items()
            if math.isfinite(value) and not name.startswith("perf/")
        }
        beside = {**self.meta, "metrics": row, "skipped": self.skipped}

        def write():
            self.writer.sync()
            self.checkpoints.save(done, state, beside, wait=stopping or last)

        saved = self._tell_failed_save(write, last)
        if stopping and not last:
            here = "saved" if saved else "not saved"
            raise guard.Preempted(
                f"{self.name}: SIGTERM at step {done}; {here}, the same command goes on from the last checkpoint"
            )

    def _tell_failed_save(self, write: Callable, last: bool = False) -> bool:
        """Whether writing went well; a failure is said, and raised where the config says so or no other chance is left."""
        try:
            write()
        except guard.SaveError as error:
            if last or self.config.saving.on_error == "stop":
                raise
            self.progress.say(f"{error}; going on, as saving.on_error says")
            return False
        return True

    def _check_best(self, done):
        best = self.config.saving.keep_best
        if best and best not in self.row and (self.evaluate is None or self._evaluates(done)):
            raise InputError(
                f"saving.keep_best is {best!r}, which is no metric of this run: it has {', '.join(sorted(self.row))}"
            )

    def _finish(self, seconds):
        perf = self.pace.whole()
        if jax.process_index() != 0:
            return
        spent = {phase: round(spent, 3) for phase, spent in self.pace.seconds.items()}
        start = f"{duration(spent['start'])} to the first step, " if "start" in spent else ""
        self.progress.say(f"done in {duration(seconds)}: {start}then {words(perf)}")
        report = {
            "name": self.name,
            "step": self.config.total_steps,
            "session_seconds": round(seconds, 3),
            "first_step_seconds": self.first_seconds and round(self.first_seconds, 3),
            "peak_rss_bytes": peak_rss_bytes(),
            "seconds": spent,
            "speed": {name.removeprefix("perf/"): value for name, value in perf.items() if SHARE not in name},
            "metrics": read_metrics(self.workdir)[-1],
        }
        temporary = self.workdir / "done.json.tmp"
        temporary.write_text(json.dumps(report, indent=2) + "\n")
        temporary.replace(self.workdir / "done.json")
