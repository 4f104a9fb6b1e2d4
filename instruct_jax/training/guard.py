"""The home of what stops a run: a second run in its folder, SIGTERM, and numbers that are no longer finite (limits.py).

The paper does not speak of any of these. A stop never loses more than the steps since the last checkpoint.
"""

import contextlib
import fcntl
import itertools
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from instruct_jax.errors import InputError

BEAT_SECONDS = 5.0
SILENCE_SECONDS = 20.0


class TrainingError(Exception):
    """Training went wrong in a way that no retry mends; the message names the step, the metric and the way out."""


class SaveError(TrainingError):
    """Something of a run could not be written; what lay there before is as it was."""


class Preempted(Exception):
    """SIGTERM came; the state has been saved and the same command goes on from there."""


@contextlib.contextmanager
def lock(workdir: Path | str):
    """Hold a run's folder for this process; InputError naming the process that holds it already.

    On one machine the kernel's lock decides, which dies with its process. File systems that several hosts share do not always
    carry it from host to host: so the holder also beats in a file beside it, and what another host left there is watched for
    SILENCE_SECONDS. A process may lock again what it holds.
    """
    path = Path(workdir) / ".lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise InputError(
            f"{workdir} cannot be a run's folder ({error.strerror}): choose another --workdir"
        ) from error
    mine = f"{os.getpid()} on {socket.gethostname()}"
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip()
            if holder != mine:
                raise _in_use(workdir, holder) from None
            yield
            return
        beat = path.with_name(".lock.beat")
        _watch(beat, workdir)
        file.truncate(0)
        file.write(mine)
        file.flush()
        with _beating(beat, mine):
            yield


def _in_use(workdir, holder: str) -> InputError:
    return InputError(
        f"{workdir} is in use by process {holder}: wait for it, stop it, or choose another --workdir"
    )


def _machine() -> str:
    """What tells this machine, since its start, from every other."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{boot.read_text().strip() if boot.exists() else ''}/{socket.gethostname()}"


def _watch(beat: Path, workdir) -> None:
    """InputError if a process of another machine beats in the folder; one of this machine would hold the kernel's lock."""
    before = beat.read_text() if beat.exists() else ""
    count, machine, holder = (before.rstrip("\n").split(" ", 2) + ["", "", ""])[:3]
    if not count or machine == _machine():
        return
    print(
        f"{workdir} was held by process {holder}: watching for {SILENCE_SECONDS:g} s whether it is alive",
        file=sys.stderr,
    )
    until = time.monotonic() + SILENCE_SECONDS
    while time.monotonic() < until:
        time.sleep(min(BEAT_SECONDS, SILENCE_SECONDS) / 4)
        if not beat.exists():
            return
        if beat.read_text() != before:
            raise _in_use(workdir, holder)


@contextlib.contextmanager
def _beating(beat: Path, mine: str):
    """While entered, a number in the file grows every BEAT_SECONDS; it is written in place, which a full disk allows."""
    beat.write_text(f"{0:012d} {_machine()} {mine}\n")
    done = threading.Event()

    def beats():
        for count in itertools.count(1):
            if done.wait(BEAT_SECONDS):
                return
            with contextlib.suppress(OSError), open(beat, "r+") as file:
                file.write(f"{count:012d}")

    thread = threading.Thread(target=beats, name="lock_beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        beat.unlink(missing_ok=True)


def as_the_first_says(flag: bool) -> bool:
    """The flag of process 0, whose view of the folder counts: on a file system that hosts share, another's may lag. All must ask."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.broadcast_one_to_all(np.int32(flag)))


_asked_so_far = itertools.count()


class StopRequest:
    """While entered, a notice of preemption raises a flag instead of ending the process.

    For one process the notice is SIGTERM, and a second one ends it. For several it is JAX's own: SIGTERM to any of them, and all
    stop at the same step.
    """

    def __init__(self):
        self._asked = False
        self._previous = None

    def __enter__(self):
        # Python allows handlers in the main thread alone; elsewhere SIGTERM keeps its meaning. JAX has its own for several processes.
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_):
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _note(self, *_):
        self._asked = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def asked(self) -> bool:
        """Whether to stop now; every process of a run asks after every step, and all hear the same."""
        if jax.process_count() == 1:
            return self._asked
        # The steps of one stage after another's would go back to 0, and the protocol wants numbers that grow.
        return multihost_utils.reached_preemption_sync_point(next(_asked_so_far))
