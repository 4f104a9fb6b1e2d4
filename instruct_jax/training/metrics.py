"""The home of what a run says about itself: metrics.jsonl, TensorBoard events, wandb if asked, and progress lines.

The paper publishes curves, not logs. One JSON row a step: {"step": steps done, "loss": ..., ...}; NaN becomes null.
"""

import contextlib
import json
import math
import os
import re
import struct
import sys
import time
from pathlib import Path

import jax

from instruct_jax.errors import InputError
from instruct_jax.training.guard import SaveError


def _keep_rows_to(path: Path, step: int) -> None:
    """Drop rows beyond `step` and a torn last line, so that a resumed run doubles nothing."""
    kept = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row["step"] <= step:
            kept.append(line + "\n")
    if path.exists():
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text("".join(kept))
        temporary.replace(path)


def read_metrics(workdir: Path | str) -> list[dict]:
    """The rows of a run's metrics.jsonl, in order; InputError when there is none."""
    path = Path(workdir) / "metrics.jsonl"
    if not path.exists():
        raise InputError(f"no metrics.jsonl in {workdir}: has that run started?")
    return [json.loads(line) for line in path.read_text().splitlines()]


def _start_wandb(project: str, workdir: Path, config: dict):
    try:
        import wandb
    except ImportError:
        raise InputError(
            f"config.wandb is {project!r}, but wandb is not installed: pip install wandb, or leave config.wandb empty"
        ) from None
    identity = re.sub(r"[^\w-]", "-", str(workdir.absolute()))[-64:]
    return wandb.init(
        project=project, name=workdir.name, id=identity, dir=workdir, config=config, resume="allow"
    )


class _Growing:
    """A file that is only added to; what a full disk did not take is kept and goes before what comes next."""

    def __init__(self, path: Path):
        self._path, self._file, self._left = path, open(path, "ab", buffering=0), b""

    def add(self, data: bytes) -> None:
        """To be written at the next flush."""
        self._left += data

    def flush(self) -> None:
        """All that was added is in the file when this returns; SaveError where it cannot be."""
        try:
            while self._left:
                self._left = self._left[self._file.write(self._left) :]
        except OSError as error:
            raise SaveError(
                f"{self._path} could not be written ({error.strerror}): make room; the same command goes on from the last checkpoint"
            ) from error

    def sync(self) -> None:
        """Flush, and it survives a loss of power."""
        self.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and let go."""
        try:
            self.flush()
        finally:
            self._file.close()


class _Events(_Growing):
    """TensorBoard's file of a session. tensorboardX's own writer is a thread behind a short queue: a full disk ends the thread, and
    then whoever puts a number into the queue waits for ever."""

    def __init__(self, folder: Path, step: int):
        from tensorboardX.proto import event_pb2, summary_pb2
        from tensorboardX.record_writer import masked_crc32c

        self._event, self._summary, self._checksum = event_pb2, summary_pb2.Summary, masked_crc32c
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder / f"events.out.tfevents.{int(time.time())}.{os.getpid()}")
        self._add(file_version="brain.Event:2")
        # Of what an earlier session showed, TensorBoard drops the steps from here on.
        self._add(step=step + 1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def _add(self, **fields) -> None:
        data = self._event.Event(wall_time=time.time(), **fields).SerializeToString()
        size = struct.pack("<Q", len(data))
        for part in (size, data):
            self.add(part + struct.pack("<I", self._checksum(part)))

    def add_row(self, step: int, metrics: dict[str, float]) -> None:
        """Each number as a scalar of that step."""
        values = [self._summary.Value(tag=name, simple_value=float(value)) for name, value in metrics.items()]
        self._add(step=step, summary=self._summary(value=values))


class MetricWriter:
    """Writes rows of numbers under `workdir`, going on after `step` (rows beyond it are dropped).

    `wandb` is a project name, None for no wandb. Only the first process of a pod writes. What cannot be written (SaveError) is kept
    and tried again with what comes next.
    """

    def __init__(
        self, workdir, step=0, tensorboard=True, wandb: str | None = None, config: dict | None = None
    ):
        self._file = self._events = self._wandb = None
        if jax.process_index() != 0:
            return
        workdir = Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        self._wandb = _start_wandb(wandb, workdir, config or {}) if wandb else None
        _keep_rows_to(workdir / "metrics.jsonl", step)
        self._file = _Growing(workdir / "metrics.jsonl")
        if tensorboard:
            self._events = _Events(workdir / "tensorboard", step)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """One row; it is on disk when this returns."""
        if self._file is None:
            return
        row = {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.add((json.dumps({"step": step, **row}) + "\n").encode())
        if self._events:
            self._events.add_row(step, metrics)
        if self._wandb:
            self._wandb.log(metrics, step=step)
        self._file.flush()
        if self._events:
            self._events.flush()

    def sync(self) -> None:
        """Rows survive a loss of power from here on: no checkpoint may outlive the rows before it."""
        if self._file:
            self._file.sync()

    def close(self) -> None:
        """Flush and let go."""
        with contextlib.ExitStack() as stack:
            if self._wandb:
                stack.callback(self._wandb.finish)
            for file in (self._file, self._events):
                if file is not None:
                    stack.callback(file.close)


def duration(seconds: float) -> str:
    """Seconds as a reader says them: 9.1s, 3m20s, 2h05m."""
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


class Progress:
    """Says how far a run is: a live line on a terminal, else one plain line at most every `every` seconds.

    `show` names the metrics to print. Rates count from the end of the first step, so compiling is not in them.
    """

    def __init__(self, name, start, total, show=(), stream=None, every=5.0, clock=time.perf_counter):
        self._name, self._total, self._show = name, total, show
        self._stream, self._every, self._clock = stream or sys.stderr, every, clock
        self._first, self._since = start, clock()
        self._printed = -math.inf
        self._silent = jax.process_index() != 0
        self._status = None
        if self._stream.isatty() and not self._silent:
            from rich.console import Console

            self._console = Console(file=self._stream)
            self._status = self._console.status(name)
            self._status.start()

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._status:
            self._console.print(f"{self._name}: {text}", markup=False, highlight=False)
        elif not self._silent:
            print(f"{self._name}: {text}", file=self._stream, flush=True)

    def compiled(self, step: int, seconds: float) -> None:
        """The first step is done: state its time apart and start the clock of the rates."""
        self._first, self._since = step, self._clock()
        self.say(f"first step took {duration(seconds)}, compiling included")

    def update(self, step: int, metrics: dict[str, float], speed: str = "") -> None:
        """`step` steps are done, the last with these metrics; `speed` is said beside."""
        now = self._clock()
        if self._silent or (not self._status and step < self._total and now - self._printed < self._every):
            return
        self._printed = now
        parts = [f"step {step}/{self._total}"]
        done, passed = step - self._first, now - self._since
        if done > 0 and passed > 0:
            rate = done / passed
            pace = f"{rate:.2f} steps/s" if rate >= 1 else f"{1 / rate:.2f} s/step"
            parts += [pace, f"{duration((self._total - step) / rate)} left"]
        parts += [f"{name} {metrics[name]:.4g}" for name in self._show if name in metrics]
        parts += [speed] if speed else []
        line = ", ".join(parts)
        if self._status and step < self._total:
            from rich.markup import escape

            self._status.update(escape(f"{self._name}: {line}"))
        else:
            self.say(line)

    def close(self) -> None:
        """Give the terminal back."""
        if self._status:
            self._status.stop()
