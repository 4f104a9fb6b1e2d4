"""launch/tpu_vm.sh run --until-done: what it does about preemptions, crashes and lost connections, until the run is done."""

import os
import subprocess
import time

import pytest
from cloud_fixture import ROOT, START, Laptop

SHAPE = ["--type", "v5litepod-16", "--version", "v2-alpha-tpuv5-lite"]
FLAGS = ["mine", *SHAPE, "--zone=us-west4-a", "--spot", "--bucket=b", "--until-done"]
HINT, THERE = "bash launch/tpu_vm.sh", "mine --zone=us-west4-a\n"
RUN = ["--", "--workdir", "runs/x", "a 'b'"]
PREEMPTED = {**START, "state": "ACTIVE", "node": "PREEMPTED"}
BUSY = "ERROR: There is no more capacity in the zone"
UNREACHABLE = "ERROR: [/usr/bin/ssh] exited with return code [255]."
CREATE, DELETE = "queued-resources create", "queued-resources delete"


@pytest.fixture
def laptop(tmp_path):
    return Laptop(tmp_path)


def until_done(laptop):
    return laptop.run("run", *FLAGS, *RUN)


def runs(laptop, worker=0):
    return laptop.got(worker).count("instruct_jax.main")


def test_it_creates_sets_up_runs_and_ends_when_the_run_is_done(laptop):
    status, said = until_done(laptop)
    assert status == 0 and f"done; the TPU still costs: {HINT} delete {THERE}" in said, said
    verbs = laptop.verbs()
    assert verbs[:2] == ["queued-resources describe", CREATE]
    assert [verb for verb in verbs if "describe" not in verb and verb != "ssh status"] == [
        CREATE,
        "tpu-vm scp",
        "ssh setup",
        "ssh run",
    ]
    assert verbs[-1] == "ssh status"
    for worker in (0, 1):
        assert laptop.got(worker) == ["-m", "instruct_jax.main", "--workdir", "runs/x", "a 'b'"]


@pytest.mark.parametrize("state", ["ACTIVE", "SUSPENDING", "SUSPENDED", "FAILED"])
def test_after_a_preemption_it_asks_for_another_tpu_and_runs_the_same_command_on_what_the_bucket_kept(
    laptop, state
):
    laptop.set("preempted.json", **{**PREEMPTED, "state": state})
    laptop.outcomes("preempt", "0")
    status, said = until_done(laptop)
    assert status == 0, said
    assert [verb for verb in laptop.verbs() if verb in (CREATE, DELETE)] == [CREATE, DELETE, CREATE]
    assert runs(laptop) == runs(laptop, 1) == 2
    assert laptop.got()[:5] == laptop.got()[5:]
    assert (laptop.cloud / "bucket/runs/x/checkpoints").read_text().split()[1::2].count("preempt") == 2


def test_a_tpu_preempted_in_the_middle_of_setup_is_replaced(laptop):
    gone = "ERROR: TPU is in state PREEMPTED"
    laptop.set(coming=[None, "ACTIVE", "SUSPENDED"], fail={"tpu-vm scp": [gone]})
    status, said = until_done(laptop)
    assert status == 0 and "mine is SUSPENDED: asking for another" in said, said
    assert [verb for verb in laptop.verbs() if verb in (CREATE, DELETE)] == [CREATE, DELETE, CREATE]
    assert runs(laptop) == 1


@pytest.mark.parametrize("number", [134, 137, 139, 143])
def test_a_run_that_was_killed_or_saved_itself_is_started_again_on_the_same_tpu(laptop, number):
    laptop.outcomes(number, "0", worker=0)
    laptop.outcomes(134, "0", worker=1)
    # Without a wait between looks a slow stand-in would be taken for one that hangs, and run a third time.
    status, said = laptop.run("run", *FLAGS, *RUN, TPU_VM_POLL="1")
    assert status == 0 and "trying again" in said, said
    assert laptop.verbs().count(CREATE) == 1 and DELETE not in laptop.verbs()
    assert runs(laptop) == runs(laptop, 1) == 2


@pytest.mark.parametrize("number", [1, 2, 130])
def test_a_run_that_no_restart_mends_ends_with_its_status_even_where_the_others_aborted(laptop, number):
    laptop.outcomes(134, worker=0)
    laptop.outcomes(number, worker=1)
    status, said = until_done(laptop)
    assert status == number and runs(laptop) == 1, said


def test_a_killed_worker_is_the_cause_and_its_peers_failure_the_consequence(laptop):
    laptop.outcomes("1", "0", worker=0)
    laptop.outcomes("137", "0", worker=1)
    assert until_done(laptop)[0] == 0 and runs(laptop) == 2


def test_a_worker_that_hangs_after_the_others_ended_is_ended_and_all_start_again(laptop):
    laptop.outcomes("137", "0", worker=0)
    laptop.outcomes("wait", "0", worker=1)
    status, said = until_done(laptop)
    assert status == 0 and "hangs on others" in said, said
    assert runs(laptop) == runs(laptop, 1) == 2


def test_stop_ends_the_watching_too(laptop):
    laptop.outcomes("wait")
    watching = laptop.start("run", *FLAGS, *RUN)
    for _ in range(100):
        if "ssh run" in laptop.verbs() and laptop.got(1):
            break
        time.sleep(0.1)
    assert laptop.run("stop", "mine")[0] == 0
    said = watching.communicate(timeout=30)[0]
    assert watching.returncode == 143 and "stopped, as tpu_vm.sh stop asked" in said
    assert runs(laptop) == 1


def test_the_same_command_watches_a_run_that_is_going_on_and_another_is_refused(laptop):
    laptop.outcomes("wait", "0")
    first = laptop.start("run", *FLAGS, *RUN)
    for _ in range(100):
        if "ssh status" in laptop.verbs()[-1:] and laptop.got(1):
            break
        time.sleep(0.1)
    first.kill()
    first.communicate()
    status, said = laptop.run("run", *FLAGS, "--", "--workdir", "runs/other")
    assert status == 1 and f"another run is going on there; end it: {HINT} stop {THERE}" in said, said
    second = laptop.start("run", *FLAGS, *RUN)
    time.sleep(1)
    assert laptop.run("stop", "mine")[0] == 0
    said = second.communicate(timeout=30)[0]
    assert second.returncode == 143 and "the run is going on: watching" in said
    assert runs(laptop) == 1 and laptop.verbs().count("ssh setup") == 1


def test_lost_connections_and_a_lack_of_capacity_are_waited_out(laptop):
    laptop.set(
        fail={
            "queued-resources create": [BUSY, BUSY],
            "worker.sh status": ["", "", UNREACHABLE],
            "worker.sh setup": [UNREACHABLE],
        }
    )
    laptop.outcomes("wait", "0")
    watching = laptop.start("run", *FLAGS, *RUN)
    for _ in range(200):
        if laptop.verbs().count("ssh status") > 4:
            break
        time.sleep(0.1)
    laptop.run("stop", "mine")
    said = watching.communicate(timeout=30)[0]
    assert said.count("no capacity there now") == 2 and said.count("cannot be reached") == 2, said
    assert laptop.verbs().count(CREATE) == 3 and runs(laptop) == 1


def test_it_gives_up_after_ten_short_attempts(laptop):
    laptop.set(fail={"queued-resources create": ["ERROR: something else"] * 20})
    status, said = laptop.run("run", *FLAGS, *RUN)
    assert status == 1 and f"gave up after 10 short attempts in a row; see: {HINT} logs {THERE}" in said
    assert laptop.verbs().count(CREATE) == 10


def test_a_lack_of_capacity_is_waited_out_for_as_long_as_it_lasts(laptop):
    several = [BUSY] * 6 + ["ERROR: something else"] * 6
    laptop.set(fail={"queued-resources create": several + several})
    status, said = laptop.run("run", *FLAGS, *RUN)
    assert status == 0 and laptop.verbs().count(CREATE) == 25, said
    assert "done; the TPU" in said and runs(laptop) == 1


@pytest.mark.parametrize("why, done", [(BUSY, True), ("Quota exceeded: RESOURCE_EXHAUSTED", False)])
def test_a_request_that_failed_for_want_of_capacity_is_made_again(laptop, why, done):
    laptop.set(coming=[None, *["FAILED"] * 25, "ACTIVE"], why=why)
    status, said = laptop.run("run", *FLAGS, *RUN)
    assert (status == 0) == done and laptop.verbs().count(CREATE) == (13 if done else 10), said


@pytest.mark.parametrize(
    "error", ["ERROR: gcloud auth login", "ERROR: Quota exceeded", "ERROR: INVALID_ARGUMENT"]
)
def test_what_waiting_does_not_mend_ends_it_at_once(laptop, error):
    laptop.set(fail={"queued-resources create": [error]})
    status, said = until_done(laptop)
    assert status == 1 and said.count("\n") == 1 and laptop.verbs().count(CREATE) == 1


def test_the_code_of_a_restart_is_that_of_the_start(laptop):
    laptop.set("preempted.json", **PREEMPTED)
    laptop.outcomes("preempt", "0")
    (laptop.repo / "model.py").write_text("first")
    watching = laptop.start("run", *FLAGS, *RUN)
    for _ in range(100):
        if "tpu-vm scp" in laptop.verbs():
            break
        time.sleep(0.1)
    (laptop.repo / "model.py").write_text("half an edit")
    assert watching.wait(timeout=60) == 0
    assert runs(laptop) == 2 and laptop.far("instruct_jax/code/model.py") == "first"


# Stands for tpu_vm.sh: every run takes a quarter of an hour and ends as the next line of `ends` says, the TPU is as `states` says.
STAND_IN = """
again=75 full=76 poll=${poll:-0} name=mine worker_script=w arguments=(x)
say() { :; }
complain() { echo "$*"; }
hint() { :; }
next() { head -n 1 "$1"; if (($(wc -l <"$1") > 1)); then sed -i 1d "$1"; fi; }
state() { next states; }
create() { :; }
delete() { :; }
await() { :; }
setup() { :; }
on_workers() {
  case "$*" in
    *status) sed "s/^/worker: run $(identity) /" now ;;
    *) next ends | tr , '\\n' >now; echo run >>runs; SECONDS=$((SECONDS + 900)) ;;
  esac
}
source "$ROOT/launch/tpu_until_done.sh"
touch now
until_done
"""


@pytest.mark.parametrize(
    "ends, states, expected",
    [
        (["ended 139,ended 134"], ["ACTIVE"], 21),
        (["ended 137,lost"], ["ACTIVE"], 21),
        (["ended 134"] * 15 + ["ended 134,ended 143"] + ["ended 134"], ["ACTIVE"], 16 + 21),
        (["ended 134"], ["ACTIVE"] * 15 + ["PREEMPTED"] + ["ACTIVE"], 15 + 21),
        (["ended 143"] * 40 + ["ended 0"], ["ACTIVE"], 41),
    ],
    ids=["crash", "killed", "saved between", "preempted between", "saved"],
)
def test_a_run_that_always_crashes_on_a_tpu_that_stays_is_given_up_after_twenty_restarts(
    tmp_path, ends, states, expected
):
    (tmp_path / "ends").write_text("\n".join(ends) + "\n")
    (tmp_path / "states").write_text("\n".join(states) + "\n")
    told = dict(
        cwd=tmp_path, env={**os.environ, "ROOT": str(ROOT)}, capture_output=True, text=True, timeout=60
    )
    done = subprocess.run(["bash", "-c", STAND_IN], **told)
    assert len((tmp_path / "runs").read_text().split()) == expected, done
    gave_up = "gave up after 20 restarts in a row that crashed" in done.stdout
    assert (done.returncode, gave_up) == ((0, False) if ends[-1] == "ended 0" else (1, True))


FULL = """
state() { echo NONE; }
create() { echo create >>creates; if (($(wc -l <creates) > 12)); then return 1; fi; return "$full"; }
sleep() { echo "$1" >>sleeps; }
"""


def test_a_lack_of_capacity_is_asked_about_ever_less_often(tmp_path):
    script = STAND_IN.replace("touch now\n", FULL)
    told = dict(cwd=tmp_path, env={**os.environ, "ROOT": str(ROOT), "poll": "60"}, timeout=60)
    assert subprocess.run(["bash", "-c", script], **told).returncode == 1
    assert [int(n) for n in (tmp_path / "sleeps").read_text().split()] == [120, 240, 480, *[600] * 9]
