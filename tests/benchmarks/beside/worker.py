"""How the benchmark talks to its workers: child processes that keep their state and run one round at a request. Standard library alone."""

import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


class Failed(Exception):
    """A worker that ended, or said nothing for too long; the message ends in the last lines that it wrote."""


class Line:
    """A worker's end of the line: requests come on standard input, replies go where standard output was; all else goes to stderr."""

    def __init__(self):
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def reply(self, **found) -> None:
        """Sends what was found, with the most memory that this process has held so far."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found["peak_bytes"] = peak if sys.platform == "darwin" else peak * 1024
        self._out.write(json.dumps(found) + "\n")
        self._out.flush()

    def wait(self) -> None:
        """Returns when a round is asked for; ends the process when none will be."""
        if sys.stdin.readline().strip() != "round":
            sys.stderr.flush()
            os._exit(0)

    def serve(self, run_round: Callable[[], dict[str, float]]) -> None:
        """Runs a round whenever one is asked for and replies its seconds."""
        while True:
            self.wait()
            self.reply(seconds=run_round())


class Laps:
    """Times a trainer that has a loop of its own: `lap` is called between two steps, replies after the first one and after every `steps`
    of them from there on, and waits there.

    `marks` name points inside a step; the seconds from one to the next are added up."""

    def __init__(self, line: Line, steps: int):
        self.line, self.later, self.steps, self.done, self.parts = line, steps, 1, 0, {}

    def begin(self) -> None:
        """Waits for the first round."""
        self.line.wait()
        self.start = self.last = time.perf_counter()

    def mark(self, name: str) -> None:
        """The part `name` of a step has ended."""
        now = time.perf_counter()
        self.parts[name] = self.parts.get(name, 0.0) + now - self.last
        self.last = now

    def lap(self) -> None:
        """A step has ended."""
        self.done += 1
        if self.done < self.steps:
            return
        parts = {"step": time.perf_counter() - self.start, **self.parts}
        self.line.reply(seconds={name: seconds / self.steps for name, seconds in parts.items()})
        self.steps, self.done, self.parts = self.later, 0, {}
        self.begin()


class Worker:
    """The benchmark's end: starts `command`, whose log goes to a file, and asks it for rounds."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path, patience: float):
        self.log, self.patience = log, patience
        self._log = log.open("w")
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, start_new_session=True
        )  # fmt: skip

    def read(self) -> dict:
        """The next reply; Failed where none comes."""
        ready, _, _ = select.select([self.process.stdout], [], [], self.patience)
        line = self.process.stdout.readline() if ready else ""
        if line:
            return json.loads(line)
        ended = self.process.poll() if not ready else self.process.wait()
        self.stop()
        what = f"said nothing for {self.patience:.0f} s" if ended is None else f"ended with status {ended}"
        last = [text for text in self.log.read_text(errors="replace").splitlines() if text.strip()][-3:]
        raise Failed(f"{what}: {' | '.join(last) or 'nothing was written'}")

    def round(self) -> dict:
        """Has a round run and returns its reply."""
        try:
            self.process.stdin.write("round\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # read says why
        return self.read()

    def stop(self) -> None:
        """Ends the process and all that it started."""
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self._log.close()
