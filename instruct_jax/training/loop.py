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
from instruct_jax.training.metrics import MetricWriter, Progress, read_metrics


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
    tokens_per_step: int | None = None,
    guard_config: limits.GuardConfig = limits.STOP,
):
    """Run `total_steps` steps in `workdir` and return the final state, resuming from the latest checkpoint there.

    `step(state, batch, key) -> (state, metrics)`, metrics a dict of scalars; a third value, if there is one, is kept with a batch
    that went wrong. `batch_at(i)` is the batch of step i from 0, prepared while the device works on step i - 1; the key of step i is
    fold_in(key, i). `state` is consumed, as by a donating step. `evaluate(state, steps_done) -> dict of floats` runs at the end and
    every `eval_every` steps. `meta` (JSON) goes with each checkpoint; `show` names the metrics of the progress line. Writes
    checkpoints/, metrics.jsonl, tensorboard/ and, at the end, done.json; a finished workdir returns at once.

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
            contextlib.closing(Checkpoints(workdir / "checkpoints", keep, saving))
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
        run = _Run(config, name, workdir, meta, checkpoints, writer, progress, stop, evaluate, tokens_per_step,
                   guard_config, skipped=saved.get("skipped", 0))  # fmt: skip
        return run.steps(step, state, batch_at, key, start)


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
    tokens_per_step: int | None
    guard_config: limits.GuardConfig
    row: dict = dataclasses.field(default_factory=dict)  # the metrics of the step that is saved next
    skipped: int = 0  # steps in a row; goes with every checkpoint
    first_seconds: float | None = None
    window: tuple[int, float] = (0, 0.0)  # steps done and clock at the previous row, pauses taken out

    def steps(self, step, state, batch_at, key, start):
        """Steps `start` to the last; returns the state."""
        began = time.perf_counter()
        late = None
        batch = batch_at(start) if start < self.config.total_steps else None
        for i in range(start, self.config.total_steps):
            launched = time.perf_counter()
            state, metrics, *seen = step(state, batch, jax.random.fold_in(key, i))
            seen, done = (batch, *seen), i + 1
            if i == start:
                jax.block_until_ready(metrics)
                self.first_seconds = time.perf_counter() - launched
                self.progress.compiled(done, self.first_seconds)
                self.window = (done, time.perf_counter())
            if done < self.config.total_steps:
                batch = batch_at(done)
            if late:
                self._settle(*late)
            late = (done, metrics, seen)
            self._tell_failed_save(self.checkpoints.check)
            stopping = self.stop.asked()
            if stopping or self._pauses(done):
                self._settle(done, metrics, seen, state)
                late = None
                self._save(done, state, stopping)
        if late:
            self._settle(*late)
        self._finish(time.perf_counter() - began)
        if self.stop.asked():  # in the last step: whoever called must not start another stage
            raise guard.Preempted(f"{self.name}: SIGTERM at the last step; finished and saved")
        return state

    def _is_last(self, done):
        return done == self.config.total_steps

    def _evaluates(self, done):
        every = self.config.eval_every
        return self.evaluate is not None and (
            self._is_last(done) or (every is not None and done % every == 0)
        )

    def _pauses(self, done):
        return done % self.config.save_every == 0 or self._is_last(done) or self._evaluates(done)

    def _settle(self, done, metrics, seen, state=None):
        """Read the metrics of a step, stop if they are bad, and log; given the state, evaluate if due."""
        numbers = {metric: float(value) for metric, value in jax.device_get(metrics).items()}
        self._check(done, numbers, seen)
        self.progress.update(done, numbers)
        logs = done == 1 or done % self.config.log_every == 0 or self._is_last(done)
        evaluates = state is not None and self._evaluates(done)
        row = (numbers | self._speed(done)) if logs else {}
        if evaluates:
            paused = time.perf_counter()
            row |= {metric: float(value) for metric, value in self.evaluate(state, done).items()}
            self._forget(time.perf_counter() - paused)
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

    def _speed(self, done):
        """Steps and tokens per second since the previous row; nothing on the first, which compiles."""
        (before, since), now = self.window, time.perf_counter()
        if done <= before:
            return {}
        self.window = (done, now)
        rate = (done - before) / max(now - since, 1e-9)
        speed = {"perf/steps_per_second": rate}
        return speed | (
            {"perf/tokens_per_second": rate * self.tokens_per_step} if self.tokens_per_step else {}
        )

    def _forget(self, seconds):
        self.window = (self.window[0], self.window[1] + seconds)

    def _save(self, done, state, stopping):
        """Save where it is due; when stopping, wait for it and raise Preempted."""
        last = self._is_last(done)
        if not (stopping or done % self.config.save_every == 0 or last):
            return
        paused = time.perf_counter()
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
        self._forget(time.perf_counter() - paused)
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
        if jax.process_index() != 0:
            return
        report = {
            "name": self.name,
            "step": self.config.total_steps,
            "session_seconds": round(seconds, 3),
            "first_step_seconds": self.first_seconds and round(self.first_seconds, 3),
            "peak_rss_bytes": peak_rss_bytes(),
            "metrics": read_metrics(self.workdir)[-1],
        }
        temporary = self.workdir / "done.json.tmp"
        temporary.write_text(json.dumps(report, indent=2) + "\n")
        temporary.replace(self.workdir / "done.json")
