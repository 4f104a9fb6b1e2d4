import json
import os
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instruct_jax.errors import InputError
from instruct_jax.training import guard
from instruct_jax.training.checkpoint import Checkpoints, Saving, read_meta
from instruct_jax.training.loop import LoopConfig, fit
from instruct_jax.training.metrics import read_metrics
from instruct_jax.training.optim import OptimizerConfig, apply_gradients, make_optimizer
from instruct_jax.training.state import init_state

STEPS = 12
TX = make_optimizer(OptimizerConfig(0.05, warmup_steps=3), STEPS)


def train_step(state, batch, key):
    """Linear regression with noisy inputs, so that a wrong batch or a wrong key shows in every bit."""

    def loss_of(params):
        x = batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape)
        return jnp.mean((x @ params["w"] + params["b"] - batch["y"]) ** 2)

    loss, grads = jax.value_and_grad(loss_of)(state.params)
    state, norm = apply_gradients(state, grads, TX, 0.9)
    return state, {"loss": loss, "grad_norm": norm}


jitted = jax.jit(train_step, donate_argnums=0)


def batch_at(i):
    rng = np.random.default_rng(i)
    x = rng.normal(size=(8, 4)).astype(np.float32)
    return {"x": x, "y": x.sum(axis=1)}


def fresh():
    return init_state({"w": jnp.zeros(4), "b": jnp.zeros(())}, TX, ema=True)


def run(workdir, step=jitted, total_steps=STEPS, state=None, **options):
    options = {"log_every": 2, "save_every": 5, "tensorboard": False, "meta": {"stage": "toy"}, **options}
    key = jax.random.key(3)
    return fit(
        step, state or fresh(), options.pop("batch_at", batch_at), total_steps=total_steps, key=key, workdir=workdir,
        name="toy", **options,
    )  # fmt: skip


def bits(state):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def losses(workdir):
    return [(row["step"], row.get("loss"), row.get("eval/w")) for row in read_metrics(workdir)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: its folder and the bits of its last state."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, bits(
        run(workdir, eval_every=4, evaluate=lambda state, done: {"eval/w": state.params["w"][0]})
    )


class Kill(Exception):
    pass


@pytest.mark.parametrize("killed_at", [3, 5, 8, 11])
def test_stop_and_resume_equals_one_run_in_every_bit_and_every_row(tmp_path, whole, killed_at):
    def batch_or_kill(i):
        if i == killed_at:
            raise Kill
        return batch_at(i)

    options = {"eval_every": 4, "evaluate": lambda state, done: {"eval/w": state.params["w"][0]}}
    with pytest.raises(Kill):
        run(tmp_path, batch_at=batch_or_kill, **options)
    assert bits(run(tmp_path, **options)) == whole[1]
    assert losses(tmp_path) == losses(whole[0])


def test_the_rows_are_those_of_plain_calls_of_the_step(whole):
    state, expected = fresh(), {}
    for i in range(STEPS):
        state, metrics = jitted(state, batch_at(i), jax.random.fold_in(jax.random.key(3), i))
        expected[i + 1] = float(metrics["loss"])
    assert bits(state) == whole[1]
    found = {step: loss for step, loss, _ in losses(whole[0])}
    assert found == {step: expected[step] for step in (1, 2, 4, 6, 8, 10, 12)}
    assert [step for step, _, evaluated in losses(whole[0]) if evaluated is not None] == [4, 8, 12]


def test_a_finished_run_returns_its_state_without_a_step(tmp_path, whole):
    def never(*_):
        raise AssertionError("a step was taken")

    run(tmp_path)
    before, report = losses(tmp_path), (tmp_path / "done.json").read_text()
    state = run(tmp_path, step=never, batch_at=never)
    assert int(state.step) == STEPS and losses(tmp_path) == before
    # The times stay those of the run that trained.
    assert (tmp_path / "done.json").read_text() == report
    done = json.loads(report)
    assert done["step"] == STEPS and done["metrics"]["step"] == STEPS
    assert read_meta(tmp_path)["stage"] == "toy"


def test_a_longer_run_in_the_folder_is_refused(tmp_path):
    run(tmp_path, total_steps=6)
    with pytest.raises(InputError, match="step 6, beyond total_steps = 4"):
        run(tmp_path, total_steps=4)


@pytest.mark.parametrize("bad, steps_done", [("loss", 8), ("grad_norm", 10)])
def test_a_metric_that_is_not_finite_stops_the_run_and_keeps_the_good_checkpoint(tmp_path, bad, steps_done):
    def breaks(state, batch, key):
        done = int(state.step) + 1
        state, metrics = jitted(state, batch, key)
        return state, {**metrics, bad: jnp.nan} if done == steps_done else metrics

    with pytest.raises(guard.TrainingError, match=f"{bad} is nan at step {steps_done}.*checkpoint of step 5"):
        run(tmp_path, step=breaks)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest() == 5
    checkpoints.close()
    assert not (tmp_path / "done.json").exists()


def test_sigterm_saves_and_the_next_run_goes_on(tmp_path, whole):
    def terminated(i):
        if i == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch_at(i)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(guard.Preempted, match="step 7"):
        run(tmp_path, batch_at=terminated)
    assert signal.getsignal(signal.SIGTERM) == before
    assert read_meta(tmp_path)["step"] == 7
    assert bits(run(tmp_path)) == whole[1]


BEST = Saving(keep_every=3, keep_best="loss", best_is="highest")


@pytest.mark.parametrize(
    "kept, expected", [(dict(keep=STEPS), [5, 10, 12]), (dict(keep=1, saving=BEST), [12])]
)
def test_an_interrupted_run_keeps_the_checkpoints_of_one_that_was_not(tmp_path, kept, expected):
    def told_to_stop(i):
        if i == stopped_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch_at(i)

    def steps_in(folder):
        return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())

    whole = bits(run(tmp_path / "whole", **kept))
    for stopped_at in (3, 4):
        with pytest.raises(guard.Preempted):
            run(tmp_path / "stopped", batch_at=told_to_stop, **kept)
        assert steps_in(tmp_path / "stopped")[-1] == stopped_at
    assert bits(run(tmp_path / "stopped", **kept)) == whole
    assert steps_in(tmp_path / "stopped") == steps_in(tmp_path / "whole") == expected


def test_metrics_are_read_one_step_late(tmp_path):
    order = []

    class Metric:
        def __init__(self, i):
            self.i = i

        def __float__(self):
            order.append(f"read {self.i}")
            return 0.0

        def block_until_ready(self):
            if threading.current_thread() is threading.main_thread():
                order.append(f"await {self.i}")

    def step(state, batch, key):
        order.append(f"start {batch}")
        return state, {"loss": Metric(batch)}

    run(tmp_path, step=step, batch_at=lambda i: i, total_steps=4, save_every=100)
    assert order == [
        "start 0", "await 0", "start 1", "read 0", "start 2", "read 1", "start 3", "read 2", "read 3"
    ]  # fmt: skip


HOLD = """
import sys, time
from instruct_jax.training import guard
with guard.lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_in_a_folder_is_refused_naming_the_first(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"in use by process {holder.pid} "):
            run(tmp_path)
    finally:
        holder.kill()
        holder.wait()
    for _ in range(50):  # the kernel lets the lock go as the process is reaped
        try:
            with guard.lock(tmp_path), guard.lock(tmp_path):
                break
        except InputError:
            time.sleep(0.1)
    else:
        pytest.fail("the lock outlived its process")


def test_numbers_of_the_loop_are_checked():
    with pytest.raises(InputError, match="loop.save_every is 0"):
        LoopConfig(total_steps=1, log_every=1, save_every=0)
