"""Times of a run: whose they are, what rates are made of, and that nothing waits to be timed."""

import gzip
import json
import threading

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from instruct_jax.errors import InputError
from instruct_jax.stages.settings import profile
from instruct_jax.training.checkpoint import read_meta
from instruct_jax.training.loop import fit
from instruct_jax.training.metrics import read_metrics
from instruct_jax.training.pace import SHARE, Pace, Timeline, Watch, Work, short, words

TIMEOUT = 5.0  # seconds, of what a test that fails waits for


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Result:
    """An array that comes when it is let, at a time of the clock."""

    def __init__(self, clock, at):
        self.clock, self.at, self.let = clock, at, threading.Event()

    def block_until_ready(self):
        assert self.let.wait(TIMEOUT)
        self.clock.now = self.at


def at(clock, now, action, *arguments):
    clock.now = now
    return action(*arguments)


def busy(timeline, clock, cause, began, ended):
    clock.now = began
    with timeline.host(cause):
        clock.now = ended


def played(timeline, clock):
    """Two programs sent at once while the host makes a batch, then a checkpoint, then a third; [0, 20]."""
    a, b, c = Result(clock, 10.0), Result(clock, 14.0), Result(clock, 20.0)
    busy(timeline, clock, "data", 0.0, 2.0)
    at(clock, 3.0, timeline.launching)
    at(clock, 3.5, timeline.launched, "rollout", a)
    at(clock, 3.6, timeline.launched, "update", b)
    busy(timeline, clock, "data", 4.0, 6.0)
    a.let.set(), b.let.set()
    first = timeline.take(2)
    busy(timeline, clock, "checkpoint", 15.0, 18.0)
    at(clock, 19.0, timeline.launching)
    at(clock, 19.5, timeline.launched, "rollout", c)
    c.let.set()
    return first, timeline.take(3)


def test_devices_time_is_what_they_did_or_else_what_the_host_was_at_meanwhile():
    clock = Clock()
    with Timeline(clock) as timeline:
        first, second = played(timeline, clock)
    assert first == {"data": 2, "rest": 1, "rollout": 7, "update": 4}  # the second batch cost nothing
    assert second == {"checkpoint": 3, "rest": 2, "rollout": 1}


def launch(timeline, clock, now, *programs):
    """Programs (phase, when it is done) sent together at a time of the clock and done."""
    at(clock, now, timeline.launching)
    results = [(phase, Result(clock, done)) for phase, done in programs]
    for phase, result in results:
        timeline.launched(phase, result)
    for _, result in results:
        result.let.set()
    with timeline._changed:
        assert timeline._changed.wait_for(
            lambda: timeline._taken + len(timeline._spent) == timeline.count, TIMEOUT
        )


def test_rates_leave_pauses_out_shares_do_not_and_a_programs_parts_are_told_by_their_operations():
    clock = Clock()
    work = Work(100, lambda metrics: 6.0 * metrics["length"], 4.0, "by hand", {"update": {"ptx": 0.25}})
    with Timeline(clock) as timeline:
        pace = Pace(timeline, work)
        launch(timeline, clock, 0.0, ("step", 5.0))
        pace.started(1)
        assert pace.row(1, 1, {"length": 9.0}) == {}
        launch(timeline, clock, 6.0, ("rollout", 10.0), ("update", 18.0))
        row = pace.row(3, 3, {"length": 2.0})
        assert row == {
            "perf/steps_per_second": 2 / 13, "perf/tokens_per_second": 200 / 13, "perf/mfu": pytest.approx(24 / 13 / 4),
            SHARE + "rest": 1 / 13, SHARE + "rollout": 4 / 13, SHARE + "update": 6 / 13, SHARE + "ptx": 2 / 13,
        }  # fmt: skip
        busy(timeline, clock, "checkpoint", 19.0, 29.0)
        launch(timeline, clock, 30.0, ("rollout", 34.0))
        row = pace.row(4, 4, {"length": 1.0})
        assert row["perf/tokens_per_second"] == 100 / 6 and row["perf/mfu"] == 6 / 6 / 4
        assert row[SHARE + "checkpoint"] == 10 / 16 and row[SHARE + "rest"] == 2 / 16
        whole = pace.whole()
        assert whole["perf/steps_per_second"] == 3 / 19 and whole["perf/mfu"] == pytest.approx(30 / 19 / 4)
        assert whole[SHARE + "checkpoint"] == 10 / 29 and SHARE + "start" not in whole
        assert pace.seconds == {
            "start": 5, "rest": 3, "rollout": 8, "update": 6, "ptx": 2, "checkpoint": 10
        }  # fmt: skip


def test_a_line_says_rates_and_the_larger_shares_first():
    perf = {"perf/steps_per_second": 2.0, "perf/tokens_per_second": 21_140.0, "perf/mfu": 0.3391}
    shares = {SHARE + "rest": 0.001, SHARE + "update": 0.3, SHARE + "rollout": 0.699}
    assert words(perf | shares) == "21.1k tokens/s, MFU 34%, rollout 70%, update 30%"
    assert words({"perf/steps_per_second": 1.0, SHARE + "step": 1.0}) == "step 100%"
    assert words({}) == ""
    assert [short(x) for x in (0.5, 812, 999.6, 1.25e6, 3.07e11)] == ["0.5", "812", "1k", "1.25M", "307G"]


def test_a_line_at_the_end_of_a_run_and_its_rows_say_where_the_time_went(tmp_path, capsys):
    def work(state, batch, key):
        return Work(8, lambda metrics: 1e3 + metrics["loss"], 1e6, "by hand")

    trained(tmp_path, plain_step, Watch(work), evaluate=lambda state, done: {"valid/loss": 1.0}, save_every=3)
    said = capsys.readouterr().err
    assert "a step is of 8 tokens, MFU of 1MFLOP/s (by hand)" in said
    assert "to the first step, then" in said and "tokens/s, MFU" in said
    rows = read_metrics(tmp_path)
    assert not any(name.startswith("perf/") for name in rows[0])
    for row in rows[1:]:
        assert row["perf/mfu"] == pytest.approx(row["perf/steps_per_second"] * (1e3 + row["loss"]) / 1e6)
        assert row["perf/tokens_per_second"] == pytest.approx(8 * row["perf/steps_per_second"])
        assert sum(row[name] for name in row if name.startswith(SHARE)) == pytest.approx(1)
    assert rows[3][SHARE + "checkpoint"] > 0  # the fourth step came after the save
    done = json.loads((tmp_path / "done.json").read_text())
    assert {"start", "step", "rest", "checkpoint", "evaluation"} <= set(done["seconds"])
    assert sum(done["seconds"].values()) == pytest.approx(done["session_seconds"], rel=0.1)
    assert not any(name.startswith("perf/") for name in read_meta(tmp_path)["metrics"])


def plain_step(state, batch, key):
    return state + 1, {"loss": state.sum()}


def trained(workdir, step, watch=None, steps=5, batch_at=lambda i: i, **options):
    options = {"log_every": 1, "save_every": 100, **options}
    return fit(
        step, jnp.zeros(()), batch_at, total_steps=steps, key=jax.random.key(0), workdir=workdir, meta={}, name="toy",
        tensorboard=False, watch=watch, **options,
    )  # fmt: skip


def test_chosen_steps_are_recorded_for_xprof_and_perfetto(tmp_path, capsys):
    trained(tmp_path, jax.jit(plain_step), Watch(profile=(3, 2)))
    (folder,) = (tmp_path / "profile" / "plugins" / "profile").iterdir()
    assert len(list(folder.glob("*.xplane.pb"))) == 1
    (trace,) = folder.glob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    steps = {event["args"]["step_num"] for event in events if event.get("name") == "toy"}
    assert steps == {"3", "4"}
    assert f"steps 3 to 4 are profiled in {tmp_path / 'profile'}" in capsys.readouterr().err
    trained(tmp_path, jax.jit(plain_step), Watch(profile=(3, 2)), steps=6)  # goes on after step 5
    assert "steps 3 to 4 were taken by an earlier session" in capsys.readouterr().err
    assert len(list(folder.parent.iterdir())) == 1


def test_steps_that_are_not_there_cannot_be_profiled(tmp_path):
    with pytest.raises(InputError, match="--profile 5:2 asks for steps 5 to 6, but toy has 5"):
        trained(tmp_path, plain_step, Watch(profile=(5, 2)))


@pytest.mark.parametrize("asked", ["10", "0:3", "3:0", "3:x", "-1:2", ":", "3:2:1"])
def test_what_is_no_range_of_steps_is_told_the_form(asked):
    with pytest.raises(InputError, match="as in --profile 10:3"):
        profile(ConfigDict({"profile": asked}))
    assert profile(ConfigDict({"profile": "10:3"})) == (10, 3)
    assert profile(ConfigDict({})) is profile(ConfigDict({"profile": None})) is None
