"""A sweep's commands over TPU VMs: one shell command a line, which gives the TPU back, and names that stay."""

import re
import subprocess
from pathlib import Path

import pytest
from cloud_fixture import script

from instruct_jax import sweep
from instruct_jax.stages.sweeps import plan

ROOT = Path(__file__).resolve().parent.parent
CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(dict(
        stage="sft", name="n", seed=0, wandb="", init="", mesh=dict(data=1, fsdp=1, tensor=1),
        text=dict(tokenizer="runs/t.model", template="plain", max_prompt=8, max_response=8),
        model=dict(variant="tiny", context=16, dropout=0.0),
        data=dict(dir="runs/data", kind="demonstrations", batch_size=8), optimizer=dict(learning_rate=1e-3),
        train=dict(epochs=2.0),
    )).lock()
"""
NASTY = "it's\n; $(touch owned)\n\n'"
TRIALS = [{"train.epochs": 3.0}, {"train.epochs": 4.0}, {"name": NASTY}]
# Leaves what it was called with, and what it would say of a trial that fails.
TPU_VM = """#!/usr/bin/env bash
printf '%s\\0' "$@" >"calls/$1 $2"
case "$*" in *epochs=3.0*) exit 1 ;; esac
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a sweep of these trials in an empty folder that is also the current one; returns its name."""
    monkeypatch.chdir(tmp_path)
    Path("base.py").write_text(CONFIG)

    def write(trials, name="mine.py"):
        Path(name).write_text(f'BASE = "base.py"\n\n\ndef trials():\n    return {trials!r}\n')
        return name

    return write


def over(capsys, *words):
    """(status, lines, error) of a sweep over TPU VMs."""
    status = sweep.main(["sweep", *words, "--over", "tpu_vm"])
    said = capsys.readouterr()
    return status, said.out.splitlines(), said.err


def names(lines):
    found = [
        re.search(r"launch/tpu_vm.sh run (\S+) .* && bash launch/tpu_vm.sh delete (\S+) ", line)
        for line in lines
    ]
    assert all(match and match[1] == match[2] for match in found), lines
    return [match[1] for match in found]


@pytest.mark.parametrize("xargs", ["xargs -d '\\n'", "tr '\\n' '\\0' | xargs -0"])
def test_a_trial_that_is_done_gives_its_tpu_back_and_one_that_failed_keeps_it(write, capsys, xargs):
    status, lines, _ = over(capsys, write(TRIALS), "--out", "runs/my sweep")
    assert status == 0 and len(lines) == 3
    script(Path("launch/tpu_vm.sh"), TPU_VM)
    Path("calls").mkdir()
    done = subprocess.run(
        ["bash", "-c", f"{xargs} -P 4 -n 1 bash -c"], input="\n".join(lines) + "\n", text=True
    )
    failed, four, nasty = names(lines)
    calls = {path.name: path.read_text().split("\0")[:-1] for path in Path("calls").iterdir()}
    assert done.returncode == 123 and not Path("owned").exists()
    assert sorted(calls) == sorted(
        [*(f"run {name}" for name in names(lines)), f"delete {four}", f"delete {nasty}"]
    )
    settings = ["--settings", "tpu_vm.settings"]
    assert calls[f"delete {nasty}"] == ["delete", nasty, *settings]
    run = ["run", nasty, "--until-done", *settings, "--", "--config", "base.py", "--workdir"]
    assert calls[f"run {nasty}"] == [*run, "runs/my sweep/name=it-s-touch-owned-", f"--config.name={NASTY}"]


def test_a_command_that_runs_here_is_one_line_too(write, capsys):
    assert sweep.main(["sweep", write([{"name": NASTY}])]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    said = subprocess.run(
        ["bash", "-c", f"python() {{ printf '%s' \"${{@: -1}}\"; }}; {line}"], capture_output=True
    )
    assert said.stdout.decode() == f"--config.name={NASTY}"


def test_a_trial_keeps_the_name_of_its_tpu_when_others_come_and_go(write, capsys):
    first = names(over(capsys, write(TRIALS))[1])
    assert names(over(capsys, write([{"seed": 1}, *reversed(TRIALS)]))[1])[1:] == first[::-1]
    assert names(over(capsys, write(TRIALS), "--out", "./runs//sweeps/mine/")[1]) == first
    assert not {*first} & {*names(over(capsys, write(TRIALS), "--out", "runs/again")[1])}
    long = names(over(capsys, write(TRIALS, "My_" + "long" * 30 + ".v2.py"))[1])
    assert len({*first, *long}) == 6
    for name in first + long:
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) and len(name) <= 63


@pytest.mark.parametrize(
    "file, fields",
    [
        ("gpt3_kl", ["text.tokenizer", "data_dir", "init", "reward"]),
        ("gpt3_rm_lr", ["text.tokenizer", "data.dir", "init"]),
        ("gpt3_sft_epochs", ["text.tokenizer", "data.dir"]),
    ],
)
def test_a_config_without_paths_is_refused_before_a_command_is_printed_until_they_are_filled_in(
    tmp_path, monkeypatch, capsys, file, fields
):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    shipped = plan.read(f"configs/sweeps/{file}.py")
    status, lines, error = over(capsys, shipped.file)
    assert status == 2 and not lines and error.count("\n") == 1
    assert (
        f"nothing in {', '.join(f'config.{field}' for field in fields)}: fill in {shipped.base}, or a copy"
        in error
    )
    filled = Path(shipped.base).read_text()
    for field in fields:
        filled = filled.replace(f'{field.rpartition(".")[2]}=""', f'{field.rpartition(".")[2]}="runs/x"')
    Path("base.py").write_text(filled)
    Path("mine.py").write_text(Path(shipped.file).read_text().replace(shipped.base, "base.py"))
    status, lines, error = over(capsys, "mine.py")
    assert (status, error, len(names(lines))) == (0, "", len(shipped.trials))


def test_trials_may_say_the_paths_themselves(write, capsys):
    Path("base.py").write_text(CONFIG.replace("runs/data", ""))
    status, lines, error = over(capsys, write([{"data.dir": "runs/a"}, {"data.dir": "runs/b"}]))
    assert status == 0 and len(lines) == 2
    status, lines, error = over(capsys, write([{"data.dir": "runs/a"}, {"seed": 1}]))
    assert status == 2 and not lines and "trial seed=1: nothing in config.data.dir" in error
