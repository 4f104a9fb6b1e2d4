"""Who may hold a run's folder, and what a notice of preemption does: over processes, and over hosts as far as one machine can play two."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_damage import flip, largest, steps_in

from instruct_jax.errors import InputError
from instruct_jax.training import guard
from instruct_jax.training.checkpoint import read_meta

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "",
}


def start(script, *words):
    command = [sys.executable, "-c", script, *map(str, words)]
    return subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


# A file system that keeps its locks to each host: the other host's process gets its own, and is known by its beat alone.
ELSEWHERE = """
import fcntl, sys, time
from instruct_jax.training import guard
fcntl.flock = lambda *_: None
guard._machine = lambda: "another-machine"
guard.BEAT_SECONDS = 0.1
with guard.lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(guard, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(guard, "SILENCE_SECONDS", 3.0)


def test_a_run_on_another_host_is_seen_by_its_beat_and_its_death_by_the_silence(tmp_path, quick, capsys):
    other = start(ELSEWHERE, tmp_path)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"in use by process {other.pid} on "):
            with guard.lock(tmp_path):
                pass
        other.kill()
        other.wait()
        began = time.monotonic()
        with guard.lock(tmp_path):
            assert time.monotonic() - began >= 3.0
        assert f"held by process {other.pid} on" in capsys.readouterr().err
    finally:
        other.kill()
        other.wait()


def test_a_folder_that_was_let_go_is_taken_at_once(tmp_path, quick, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(guard, "_machine", lambda: "another-machine")
        with guard.lock(tmp_path):
            time.sleep(0.3)
            assert (tmp_path / ".lock.beat").read_text().startswith("0000000000")
            assert int((tmp_path / ".lock.beat").read_text().split()[0]) >= 1
    began = time.monotonic()
    with guard.lock(tmp_path):
        assert time.monotonic() - began < 2.0


def test_what_died_on_this_machine_is_not_watched(tmp_path, quick):
    (tmp_path / ".lock.beat").write_text(f"{7:012d} {guard._machine()} 1 on this one\n")
    began = time.monotonic()
    with guard.lock(tmp_path):
        assert time.monotonic() - began < 2.0


# The toy run of test_loop on two processes, with steps that take a while: a line a step, then how it ended.
TWO = """
import sys, time
from pathlib import Path
import jax
from instruct_jax import devices
exists = Path.exists
devices.start_distributed(sys.argv[1], 2, int(sys.argv[2]))
import numpy as np
from instruct_jax.sharding import make_mesh, param_shardings, place
from instruct_jax.training import guard
import test_loop
mesh = make_mesh(data=2)
whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
def batch_at(i):
    print("step", i, flush=True)
    time.sleep(float(sys.argv[4]))
    return place(test_loop.batch_at(i), whole)
with jax.set_mesh(mesh):
    def run(folder, steps, batch_at):
        state = place(test_loop.fresh(), whole)
        return test_loop.run(folder, total_steps=steps, batch_at=batch_at, state=state, save_every=3)
    for seen in (True, jax.process_index() == 1):  # a run that is done, which process 0 does not see the second time
        Path.exists = lambda path, **how: (path.name != "done.json" or seen) and exists(path, **how)
        run(sys.argv[3] + "/done_before", 1, lambda i: place(test_loop.batch_at(i), whole))
    try:
        state = run(sys.argv[3], int(sys.argv[5]), batch_at)
    except guard.Preempted as stop:
        print(stop, flush=True)
        sys.exit(143)
    print("ended", [float(x) for x in np.asarray(state.params["w"])], flush=True)
"""


def two(folder, pause, steps):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [start(TWO, address, index, folder, pause, steps) for index in (0, 1)]


def finish(processes):
    said = [process.communicate(timeout=300)[0] for process in processes]
    return [process.returncode for process in processes], said


@pytest.mark.slow
def test_two_processes_of_which_one_is_preempted_save_one_step_within_30_seconds_and_agree_on_what_is_whole_and_done(
    tmp_path,
):
    processes = two(tmp_path, 0.3, 10_000)
    for line in processes[1].stdout:
        if line.startswith("step 4"):
            break
    processes[1].send_signal(signal.SIGTERM)
    began = time.monotonic()
    statuses, said = finish(processes)
    assert statuses == [143, 143], said
    assert time.monotonic() - began < 30
    saved = read_meta(tmp_path)["step"]
    assert all(f"SIGTERM at step {saved}; saved" in text for text in said)
    flip(largest(tmp_path / "checkpoints" / str(saved)), random.Random(0))
    before = steps_in(tmp_path / "checkpoints")[-2]
    statuses, said = finish(two(tmp_path, 0.0, saved + 2))
    assert statuses == [0, 0], said
    for text in said:
        assert f"step {before}\n" in text and f"step {before - 1}\n" not in text
    assert f"the checkpoint of step {saved} is damaged" in said[0]
    ends = {line for text in said for line in text.splitlines() if line.startswith("ended")}
    assert len(ends) == 1
