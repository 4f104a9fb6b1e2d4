"""The home of what a run says about itself: metrics.jsonl, TensorBoard events, wandb if asked, and progress lines.

The paper publishes curves, not logs. One JSON row a step: {"step": steps done, "loss": ..., ...}; NaN becomes null.
"""

import json
import math
import os
import re
import sys
import time
from pathlib import Path

import jax

from instruct_jax.errors import InputError


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


class MetricWriter:
    """Writes rows of numbers under `workdir`, going on after `step` (rows beyond it are dropped).

    `wandb` is a project name, None for no wandb. Only the first process of a pod writes.
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
        self._file = open(workdir / "metrics.jsonl", "a")
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """One row; it is on disk when this returns."""
        if self._file is None:
            return
        row = {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, **row}) + "\n")
        self._file.flush()
        if self._events:
            for name, value in metrics.items():
                self._events.add_scalar(name, float(value), step)
        if self._wandb:
            self._wandb.log(metrics, step=step)

    def sync(self) -> None:
        """Rows survive a loss of power from here on: no checkpoint may outlive the rows before it."""
        if self._file:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and let go."""
        for sink in (self._file, self._events):
            if sink is not None:
                sink.close()
        if self._wandb:
            self._wandb.finish()


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
