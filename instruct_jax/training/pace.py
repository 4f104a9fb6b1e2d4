"""The home of how fast a run goes: tokens a second, the share of the devices' peak, and what their time goes into.

The paper gives petaflop/s-days alone. Times are the devices': a thread of its own awaits what was sent to them, so nothing that
computes waits to be timed, and what the host does meanwhile costs nothing. Time without work counts for what the host was at.
"""

import contextlib
import dataclasses
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable

import jax

START, STEP, DATA, CHECKPOINT, EVALUATION, REST = "start", "step", "data", "checkpoint", "evaluation", "rest"
PAUSES = (CHECKPOINT, EVALUATION)  # no training is meant to happen: rates leave them out
SHARE = "perf/time_share/"
PATIENCE_SECONDS = 2  # at the end, for work that may never be done: another process can be gone


@dataclasses.dataclass(frozen=True)
class Work:
    """What one step computes: `tokens` that go through the model, padding among them; `flops(metrics)`, operations of products on all
    devices of a step with these metrics; `peak`, how many of these a second the devices could do, and `peak_from`, its source.
    `parts`: {phase: {part: its share of the phase's operations}} divides the time of a program that does several things."""

    tokens: int
    flops: Callable[[dict], float]
    peak: float
    peak_from: str
    parts: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)


class Timeline:
    """What the devices did and what they waited for, launch by launch. Its thread lives while it is entered."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._launches: queue.SimpleQueue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._watch, name="timeline", daemon=True)
        self._changed = threading.Condition()
        self._spent: list[Counter] = []  # of the launches that are done and were not taken
        self._taken = 0
        self._waits: list[tuple[str, float, float]] = []
        self.count = 0  # of launches

    def __enter__(self):
        self._since = self._free = self._clock()
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._launches.put(None)
        self._thread.join(PATIENCE_SECONDS)

    @contextlib.contextmanager
    def host(self, cause: str):
        """While entered, the host is at `cause`; so a profile says, too."""
        began = self._clock()
        with jax.profiler.TraceAnnotation(cause):
            yield
        self._waits.append((cause, began, self._clock()))

    def launching(self) -> None:
        """Work is about to be sent to the devices."""
        self._since = self._clock()

    def launched(self, phase: str, result) -> None:
        """Work was sent that is done when `result` is there, a tree of arrays that nothing donates; more may follow at once."""
        self._launches.put((phase, result, self._since, self._waits))
        self._waits, self.count, self._since = [], self.count + 1, self._clock()

    def _watch(self) -> None:
        while (launch := self._launches.get()) is not None:
            phase, result, since, waits = launch
            with contextlib.suppress(Exception):  # whoever reads the result meets it too
                jax.block_until_ready(result)
            done, spent = self._clock(), Counter()
            for cause, began, ended in waits:
                spent[cause] += max(min(ended, since) - max(began, self._free), 0.0)
            spent[REST] += max(since - self._free - spent.total(), 0.0)
            spent[phase] += done - max(since, self._free)
            self._free = done
            with self._changed:
                self._spent.append(spent)
                self._changed.notify_all()

    def take(self, count: int) -> Counter:
        """Seconds by phase and cause of the first `count` launches, less those that were taken before; waits until they are done."""
        with self._changed:
            self._changed.wait_for(lambda: self._taken + len(self._spent) >= count)
            new, self._taken = count - self._taken, count
            taken, self._spent = self._spent[:new], self._spent[new:]
        return sum(taken, Counter())


@dataclasses.dataclass(frozen=True)
class Watch:
    """What is measured of one run: `work(state, batch, key)`, asked once, gives the Work of a step; a step of several programs tells the
    `timeline` of each; `profile` (first step, how many) is recorded in the run's folder."""

    work: Callable | None = None
    profile: tuple[int, int] | None = None
    timeline: Timeline = dataclasses.field(default_factory=Timeline)


class Pace:
    """The speed of a session's steps, from one row of metrics to the next."""

    def __init__(self, timeline: Timeline, work: Work | None = None):
        self._timeline, self._work = timeline, work
        self._done = self._steps = self._operations = 0
        self.seconds = Counter()  # of the session, by phase

    def started(self, done: int) -> None:
        """The first step of the session is done: all until now was its start, compiling included."""
        self._done = done
        self.seconds[START] = self._timeline.take(self._timeline.count).total()

    def row(self, done: int, launches: int, metrics: dict[str, float]) -> dict[str, float]:
        """The perf/ metrics since the row before of the steps up to `done`, whose metrics and number of launches so far these are;
        none for the first step."""
        steps, self._done = done - self._done, done
        if not steps:
            return {}
        spent = self._take(launches)
        operations = steps * self._work.flops(metrics) if self._work else 0
        self._steps, self._operations = self._steps + steps, self._operations + operations
        return self._rates(steps, operations, spent) | _shares(spent)

    def whole(self) -> dict[str, float]:
        """The same of the session up to now, but for its start."""
        self._timeline.launching()
        self._timeline.launched(REST, None)
        self._take(self._timeline.count)
        spent = Counter({name: seconds for name, seconds in self.seconds.items() if name != START})
        rates = self._rates(self._steps, self._operations, spent) if self._steps else {}
        return rates | _shares(spent)

    def _take(self, launches: int) -> Counter:
        spent = self._timeline.take(launches)
        for phase, parts in self._work.parts.items() if self._work else ():
            whole = spent[phase]
            for part, share in parts.items():
                spent[part] += whole * share
                spent[phase] -= whole * share
        self.seconds.update(spent)
        return spent

    def _rates(self, steps: int, operations: float, spent: Counter) -> dict[str, float]:
        seconds = max(sum(s for name, s in spent.items() if name not in PAUSES), 1e-9)
        rates = {"perf/steps_per_second": steps / seconds}
        if self._work is None:
            return rates
        return rates | {
            "perf/tokens_per_second": steps * self._work.tokens / seconds,
            "perf/mfu": operations / seconds / self._work.peak,
        }


def _shares(spent: Counter) -> dict[str, float]:
    return {SHARE + name: seconds / max(spent.total(), 1e-9) for name, seconds in spent.items()}


def words(perf: dict[str, float]) -> str:
    """perf/ metrics as a line says them: "21.1k tokens/s, MFU 34%, rollout 48%, update 30%, rest 1%"."""
    parts = []
    if "perf/tokens_per_second" in perf:
        parts = [f"{short(perf['perf/tokens_per_second'])} tokens/s", f"MFU {100 * perf['perf/mfu']:.2g}%"]
    shares = {key.removeprefix(SHARE): value for key, value in perf.items() if key.startswith(SHARE)}
    largest = sorted((name for name in shares if shares[name] >= 0.005), key=shares.get, reverse=True)
    return ", ".join(parts + [f"{name} {shares[name]:.0%}" for name in largest])


def short(number: float) -> str:
    """A number in three figures: 812, 21.1k, 1.25M."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"
