"""Sweeps: what a file may say, names and commands, running, interrupting, going on, and the report. Trials are a stand-in script."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from instruct_jax import sweep
from instruct_jax.errors import InputError
from instruct_jax.stages.sweeps import draws, plan, running

ROOT = Path(__file__).resolve().parent.parent
CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(dict(
        stage="sft", name="n", seed=0, wandb="", init="", mesh=dict(data=1, fsdp=1, tensor=1),
        text=dict(tokenizer="", template="plain", max_prompt=8, max_response=8),
        model=dict(variant="tiny", context=16, dropout=0.0),
        data=dict(dir="", kind="demonstrations", batch_size=8, packed=False),
        optimizer=dict(learning_rate=1e-3), train=dict(epochs=2.0),
    )).lock()
"""
HH = CONFIG.replace(
    'stage="sft"', 'stage="hh", hh=dict(pairs="", held_out=1, seeds=(0, 1), max_tokens=8, batch_size=8)'
)
HH = HH.replace('kind="demonstrations", batch_size=8, packed=False', "batch_size=8, k_max=2")
# Stands for python -m instruct_jax.main --config BASE --workdir DIR …: fails for epochs=3.0, else leaves what a run leaves.
STAND_IN = """#!/bin/sh
workdir="$6"
echo "$*" >> "$workdir/calls"
case "$*" in *epochs=3.0*) echo "error: loss is nan"; exit 1;; esac
cp "$workdir/../config.of.${workdir##*/}" "$workdir/config.json"
echo '{"metrics": {"valid/loss": 1.5}}' > "$workdir/done.json"
echo '{}' > "$workdir/finished.json"
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a sweep file in an empty folder that is also the current one; returns its name."""
    monkeypatch.chdir(tmp_path)
    Path("base.py").write_text(CONFIG)

    def write(body, head='BASE = "base.py"\nMETRICS = {"valid/loss": {"better": "min"}}\n'):
        Path("mine.py").write_text(head + body)
        return "mine.py"

    return write


EPOCHS = "def trials(draw):\n    return draw.grid({'train.epochs': [1.0, 3.0, 4.0]})\n"


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """The script in place of Python, with the configs that it is to leave."""
    script = tmp_path / "stand_in"
    script.write_text(STAND_IN)
    script.chmod(0o755)
    monkeypatch.setattr(running.sys, "executable", str(script))
    checked = sweep.checked

    def keep(*arguments, **to_run):
        trials = checked(*arguments, **to_run)
        for trial in trials:
            Path("out").mkdir(exist_ok=True)
            Path(f"out/config.of.{trial.name}").write_text(json.dumps(trial.config))
        return trials

    monkeypatch.setattr(sweep, "checked", keep)


def call(*words):
    return sweep.main(["sweep", *words])


def test_a_grid_has_every_combination_and_the_last_field_changes_fastest():
    assert draws.grid({"a": [1, 2], "b": "xy"}) == [
        {"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}
    ]  # fmt: skip
    assert draws.seeds([{"a": 1}], 2) == [{"a": 1, "seed": 0}, {"a": 1, "seed": 1}]


def test_zipped_fields_go_together_and_must_be_equally_many():
    assert draws.zipped({"a": [1, 2], "b": [3, 4]}) == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]
    with pytest.raises(InputError, match="a 2, b 1"):
        draws.zipped({"a": [1, 2], "b": [3]})


def test_log_steps_are_equal_factors_with_both_ends():
    # The paper's range of PPO learning rates; 2.55e-6 times 10^(1/6) is the 3.74e-6 that it names.
    rates = draws.log_steps(2.55e-6, 2.55e-5, 7)
    assert rates[0] == 2.55e-6 and rates[-1] == 2.55e-5 and rates[1] == pytest.approx(3.74e-6, rel=2e-3)
    assert draws.log_steps(1, 100, 3) == [1.0, 10.0, 100.0]


def test_random_draws_stay_the_same_when_more_are_asked_for_and_fill_their_range():
    axes = {"rate": draws.log_uniform(1e-4, 1.0), "size": [8, 16], "share": draws.uniform(2, 3)}
    few, many = draws.random(axes, 5, seed=1), draws.random(axes, 400, seed=1)
    assert few == many[:5] and few != draws.random(axes, 5, seed=2)
    assert {t["size"] for t in many} == {8, 16} and all(2 <= t["share"] <= 3 for t in many)
    decades = [sum(10**k <= t["rate"] < 10 ** (k + 1) for t in many) for k in range(-4, 0)]
    assert all(60 < n < 140 for n in decades)  # 100 each, give or take 4.6 deviations
    for bad in (
        lambda: draws.log_uniform(0, 1),
        lambda: draws.uniform(2, 2),
        lambda: draws.log_steps(1, 2, 1),
    ):
        with pytest.raises(InputError):
            bad()


def test_a_name_reads_as_its_overrides_and_depends_on_nothing_else():
    assert plan.trial_name({"ppo.kl_coef": 0.02, "seed": 1}) == "kl_coef=0.02,seed=1"
    assert plan.trial_name({"a.rate": 1e-5, "b.rate": 2}) == "a.rate=1e-05,b.rate=2"
    assert plan.trial_name({"init": "runs/a b", "o.betas": (0.9, 0.95)}) == "init=runs-a-b,betas=-0.9,-0.95-"
    assert plan.trial_name({}) == "base"
    long = [plan.trial_name({"init": "x" * 300 + end}) for end in "ab"]
    assert len(set(long)) == 2 and max(map(len, long)) < 140


def test_commands_are_quoted_for_a_shell_and_say_the_very_values(write, capsys):
    trial = {"init": "it's; $HOME", "data.packed": True, "train.epochs": 3}
    file = write(f"def trials():\n    yield {trial!r}")
    assert call(file, "--out", "runs/my sweep") == 0
    got = shlex.split(capsys.readouterr().out)
    assert got[:6] == ["python", "-m", "instruct_jax.main", "--config", "base.py", "--workdir"]
    assert got[6] == "runs/my sweep/init=it-s-HOME,packed=True,epochs=3"
    config, _ = sweep.trial_main.parse(got[2:])
    assert (config.init, config.data.packed, config.train.epochs) == ("it's; $HOME", True, 3.0)


@pytest.mark.parametrize("how", [[], ["--over", "tpu_vm"], ["--parallel", "1"], ["--report"]])
def test_trials_in_a_bucket_are_refused_before_their_commands_are_printed(write, capsys, how):
    file = write(EPOCHS)
    assert call(file, *how, "--out", "gs://b/x") == 2
    said = capsys.readouterr()
    assert said.out == "" and "--out gs://b/x: it must be a path" in said.err
    assert not Path("gs:").exists()


def test_a_field_of_several_values_is_set_as_a_whole(write, capsys):
    Path(write("", head="")).with_name("base.py").write_text(HH)
    assert call(write("def trials():\n    yield {'hh.seeds': (3, 4, 5)}\n")) == 0
    words = shlex.split(capsys.readouterr().out)
    assert sweep.trial_main.parse(words[2:])[0].hh.seeds == (3, 4, 5)
    assert call(write("def trials():\n    yield {'hh.seeds[0]': 3}\n")) == 2
    assert "set the whole field hh.seeds" in capsys.readouterr().err


BAD = [
    ("def trials(:\n", "mine.py, line 3: "),
    ("import nowhere\n", "mine.py, line 3: ModuleNotFoundError: No module named 'nowhere'"),
    ("def trials():\n    yield {}\n    yield 1 / 0\n", "mine.py, line 5: ZeroDivisionError"),
    ("", "trials is missing"),
    ("trials = 3", "trials is 3"),
    ("def trials():\n    return []\n", "yields no trial"),
    ("def trials():\n    return None\n", "TypeError"),
    ("def trials():\n    while True:\n        yield {'seed': 1}\n", "more than 1000 trials"),
    ("def trials():\n    yield 3\n", "trial 0 is 3"),
    ("def trials():\n    yield {1: 2}\n", "trial 0 is {1: 2}"),
    ("def trials():\n    yield {'seed': 1}\n    yield {'seed': 1}\n", "yields seed=1 twice"),
    ("def trials():\n    yield {'init': 'a b'}\n    yield {'init': 'a/b'}\n", "yields init=a-b for"),
    ("def trials(draw):\n    return draw.zipped({'seed': [1], 'init': []})\n", "mine.py: zipped: "),
    ("def trials():\n    yield {'optimizer.learning_rat': 1.0}\n", "did you mean config.optimizer.learning_rate?"),
    ("def trials():\n    yield {'seed.more': 1}\n", "no such field"),
    ("def trials():\n    yield {'seed': 1.5}\n", "trial seed=1.5: "),
    ("def trials():\n    yield {'seed': '1'}\n", "seed is '1' (str), which the config reads as 1"),
    ("def trials():\n    yield {'data.packed': 1}\n", "data.packed is 1 (int)"),
    ("def trials():\n    yield {'optimizer': 3}\n", "trial optimizer=3"),
    ("def trials():\n    yield {'stage': 'stf'}\n", "did you mean sft?"),
    ("def trials():\n    yield {'model.variant': ''}\n", "set exactly one of them"),
    ("def trials():\n    yield {}\nMETRICS = 3", "METRICS is 3"),
    ("def trials():\n    yield {}\nMETRICS = {'a': {'better': 'most'}}", "METRICS['a']"),
    ("def trials():\n    yield {}\nMETRICS = {'a': {'better': 'max', 'lable': 'x'}}", "did you mean label?"),
]  # fmt: skip


@pytest.mark.parametrize("body, message", BAD)
def test_a_bad_sweep_file_is_one_message_before_anything_starts(write, capsys, body, message):
    assert call(write(body), "--parallel", "1") == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and "mine.py" in error
    assert len(error.splitlines()) == 1 and not Path("runs").exists()


def test_files_that_are_not_there_and_flags_that_do_not_go_together_are_named(write, capsys):
    good = 'BASE = "base.py"\nMETRICS = {"valid/loss": {"better": "min"}}\n'
    for head, words, message in [
        (good, ["none.py"], "no sweep file none.py"),
        ('BASE = "bse.py"\n', ["mine.py"], "there is no bse.py"),
        ("", ["mine.py"], "BASE is missing"),
        ("BASE = 3\n", ["mine.py"], "BASE is 3"),
        (good, ["mine.py", "--parallel", "0"], "--parallel 0"),
        (good, ["mine.py", "--metric", "x"], "--metric goes with --report"),
        (good, ["mine.py", "--report", "--metric", "x"], "--metric x: mine.py has valid/loss"),
        ('BASE = "base.py"\n', ["mine.py", "--report"], "METRICS is missing"),
        (good, ["mine.py", "--paralel", "2"], "--paralel"),
    ]:
        write(EPOCHS, head)
        assert call(*words) == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error


def test_a_failed_trial_is_named_at_the_end_with_its_log_and_the_others_run(write, stand_in, capsys):
    file = write(EPOCHS)
    assert call(file, "--parallel", "2", "--out", "out") == 1
    captured = capsys.readouterr()
    assert "failed: epochs=3.0, status 1, out/epochs=3.0/log.txt: error: loss is nan" in captured.err
    assert "2 of 3 trials are done" in captured.out
    assert [Path(f"out/epochs={e}/finished.json").exists() for e in (1.0, 3.0, 4.0)] == [True, False, True]
    assert Path("out/epochs=3.0/log.txt").read_text().startswith("$ ")


def test_run_again_only_what_is_not_done_runs(write, stand_in, capsys):
    call(write(EPOCHS), "--parallel", "1", "--out", "out")
    assert call("mine.py", "--out", "out") == 0
    shown = capsys.readouterr().out.splitlines()[-3:]
    assert (
        shown[0] == "# done: epochs=1.0"
        and shown[1].startswith("python -m")
        and shown[2] == "# done: epochs=4.0"
    )
    write("def trials(draw):\n    return draw.grid({'train.epochs': [1.0, 4.0, 5.0]})\n")
    assert call("mine.py", "--parallel", "1", "--out", "out") == 0
    calls = {path.parent.name: len(path.read_text().splitlines()) for path in Path("out").glob("*/calls")}
    assert calls == {"epochs=1.0": 1, "epochs=3.0": 1, "epochs=4.0": 1, "epochs=5.0": 1}


def test_a_folder_with_a_run_of_another_config_is_refused(write, stand_in, capsys):
    call(write(EPOCHS), "--parallel", "1", "--out", "out")
    Path("base.py").write_text(CONFIG.replace("batch_size=8", "batch_size=16"))
    capsys.readouterr()
    assert call("mine.py", "--parallel", "1", "--out", "out") == 2
    error = capsys.readouterr().err
    assert "out/epochs=1.0 was started with config.data.batch_size = 8, now 16" in error


def test_no_more_trials_run_at_once_than_asked_for(tmp_path):
    script = "touch $4/on; sleep 0.3; ls $4/../*/on | wc -l > $4/seen; rm $4/on"
    trials = [plan.Trial(str(i), {}, str(tmp_path / str(i))) for i in range(5)]
    assert running.run_trials(trials, "base", 2, lambda line: None, ["sh", "-c", script, "x"]) == []
    seen = [int((trial.folder / "seen").read_text()) for trial in trials]
    assert max(seen) == 2 and min(seen) >= 1


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_an_interrupt_lets_running_trials_save_and_stops_them(tmp_path):
    script = 'trap "echo saved > $4/state; exit 143" TERM; echo $$ > $4/pid; while :; do sleep 0.02; done'
    trials = [plan.Trial(str(i), {}, str(tmp_path / str(i))) for i in range(3)]

    def interrupt(line):
        if line.startswith("1: started"):
            deadline = time.monotonic() + 10
            while not all((t.folder / "pid").exists() for t in trials[:2]) and time.monotonic() < deadline:
                time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        running.run_trials(trials, "base", 2, interrupt, ["sh", "-c", script, "x"])
    for trial in trials[:2]:
        assert (trial.folder / "state").read_text() == "saved\n"
        assert not alive(int((trial.folder / "pid").read_text()))
    assert not trials[2].folder.exists()


def test_a_trial_that_does_not_stop_is_killed_with_its_children(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "GRACE_SECONDS", 0.3)
    script = 'trap "" TERM; sleep 30 & echo $! > $4/pid; wait; wait'
    trial = plan.Trial("a", {}, str(tmp_path / "a"))

    def interrupt(line):
        while line.startswith("a: started") and not (trial.folder / "pid").exists():
            time.sleep(0.01)
        if "started" in line:
            time.sleep(0.1)
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        running.run_trials([trial], "base", 1, interrupt, ["sh", "-c", script, "x"])
    assert time.monotonic() - began < 10
    child = int((trial.folder / "pid").read_text())
    for _ in range(100):
        if not alive(child) or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2:3]:
            break
        time.sleep(0.02)
    else:
        pytest.fail("the trial's child goes on")


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_have_their_statuses(write, monkeypatch, number, status):
    def stopped(*_):
        signal.raise_signal(number)

    monkeypatch.setattr(running, "run_trials", stopped)
    before = signal.getsignal(signal.SIGTERM)
    # A shell starts a job in the background with SIGINT ignored, and Python keeps it so.
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert call(write(EPOCHS), "--parallel", "1", "--out", "out") == status
    finally:
        signal.signal(signal.SIGINT, interrupt)
    assert signal.getsignal(signal.SIGTERM) is before


def test_every_shipped_sweep_goes_with_its_config(tmp_path, monkeypatch, capsys):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    upstream = tmp_path / "runs" / "quickstart"
    for name in ("data", "records", "base", "ppo_init", "sft", "rm/reward", "select"):
        (upstream / name).mkdir(parents=True)
    (upstream / "select" / "select.json").write_text("{}")
    config, _ = sweep.trial_main.parse(["m", "--config", "configs/lab/quickstart.py", "--workdir", "x"])
    (upstream / "config.json").write_text(json.dumps(config.to_dict()))
    files = sorted(Path("configs/sweeps").glob("*.py"))
    kinds = ["kl", "ptx", "ppo_lr", "sft_epochs", "rm_lr"]
    assert {f.stem for f in files} >= {f"{scale}_{kind}" for scale in ("lab", "gpt3") for kind in kinds}
    for file in files:
        assert call(str(file)) == 0
        said = capsys.readouterr().out
        assert said.count("instruct_jax.main") == len(plan.read(str(file)).trials) >= 4
        assert plan.read(str(file)).metrics and file.stem in file.read_text().replace("{n}", "")
    (upstream / "rm" / "reward").rmdir()
    assert call("configs/sweeps/lab_kl.py") == 2
    assert "no finished recipe in runs/quickstart, rm/reward is missing" in capsys.readouterr().err
    assert call("configs/sweeps/lab_kl.py", "--report") == 0
    assert "0 of 30 trials are done" in capsys.readouterr().out


def test_reading_a_sweep_starts_no_device(tmp_path):
    code = (
        "import sys; from instruct_jax import sweep; status = sweep.main(['s', 'configs/sweeps/gpt3_kl.py'])\n"
        "from jax._src import xla_bridge; sys.exit(status or xla_bridge.backends_are_initialized())"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
