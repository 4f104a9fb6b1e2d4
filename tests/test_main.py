import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from instruct_jax import devices, main
from instruct_jax.errors import InputError
from instruct_jax.stages.settings import SHARED, known_fields, snapshot
from instruct_jax.training.guard import Preempted, TrainingError

ROOT = Path(__file__).resolve().parent.parent
CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({
        "stage": "sft", "name": "study", "seed": 1,
        "optimizer": {"learning_rate": 1e-3, "betas": (0.9, 0.95), "tf_style": True},
    })
"""


def fake_stage(run):
    """What main needs of a stage's module."""
    return SimpleNamespace(run=run, FIELDS=(*SHARED, "optimizer"))


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """Runs main with a stage that notes what it got; returns (call, notes)."""
    path, notes = tmp_path / "study.py", []
    path.write_text(CONFIG)
    stage = fake_stage(lambda config, workdir: notes.append((config, workdir)))
    monkeypatch.setattr(main, "load_stage", lambda name: stage)
    monkeypatch.setattr(devices, "enable_compile_cache", lambda path: None)

    def call(*words, workdir=tmp_path / "run"):
        return main.main(["main", "--config", str(path), "--workdir", str(workdir), *words])

    return call, notes


def test_overrides_reach_the_stage_and_the_snapshot(experiment, tmp_path):
    call, notes = experiment
    words = ["--config.optimizer.learning_rate=2", "--config.seed", "7", "--noconfig.optimizer.tf_style"]
    assert call(*words, "--config.optimizer.betas=(0.8, 0.9)") == 0
    config, workdir = notes[0]
    assert workdir == tmp_path / "run"
    assert config.optimizer.to_dict() == {"learning_rate": 2.0, "betas": (0.8, 0.9), "tf_style": False}
    assert (workdir / "finished.json").exists()
    kept = json.loads((workdir / "config.json").read_text())
    assert kept["seed"] == 7 and kept["optimizer"]["learning_rate"] == 2.0 and kept["stage"] == "sft"


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["--config.optimizer.learning_rat=1"],
            "no such field (did you mean config.optimizer.learning_rate?)",
        ),
        (
            ["--config.optimiser.learning_rate=1"],
            "no such field (did you mean config.optimizer.learning_rate?)",
        ),
        (["--config.seed.more=1"], "no such field (did you mean config.seed?)"),
        (["--config.seed=many"], "config.seed=many"),
        (["--config.optimizer.tf_style=perhaps"], "config.optimizer.tf_style=perhaps"),
        (["--wrkdir=x"], "wrkdir"),
        (["stray"], "'stray' belongs to no flag"),
    ],
)
def test_a_mistyped_flag_is_one_line_and_status_2(experiment, capsys, words, message):
    call, notes = experiment
    assert call(*words) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and "Traceback" not in error
    assert not notes


def test_who_of_several_processes_this_is_comes_with_the_command_line(experiment, monkeypatch, capsys):
    call, notes = experiment
    joined = []
    monkeypatch.setattr(devices, "start_distributed", lambda *who: joined.append(who))
    assert call("--config.seed=7") == 0
    assert call("--processes=2", "--config.seed", "7", "--process", "1", "--coordinator=one:1234") == 0
    assert joined == [(None, None, None), ("one:1234", 2, 1)]
    assert call("--processes=two") == 2 and "processes" in capsys.readouterr().err


def test_of_several_processes_the_first_alone_keeps_the_config(experiment, monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "start_distributed", lambda *who: None)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert experiment[0]() == 0 and len(experiment[1]) == 1
    assert not (tmp_path / "run").exists()


def test_a_stage_for_one_process_is_refused_on_several(experiment, monkeypatch, tmp_path, capsys):
    call, notes = experiment
    left = []
    monkeypatch.setattr(devices, "start_distributed", lambda *who: None)
    monkeypatch.setattr(devices, "leave", left.append)
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    assert call() == 0 and len(notes) == 1  # sft
    assert call("--config.stage=recipe", workdir=tmp_path / "other") == 2
    said = capsys.readouterr().err
    assert "stage 'recipe' runs as one process, here are 4: start it on one machine alone" in said
    assert len(notes) == 1 and left == [2] and not (tmp_path / "other").exists()


def test_the_traceback_is_shown_when_asked_for(experiment, capsys):
    assert experiment[0]("--config.sed=1", "--traceback") == 2
    assert "Traceback" in capsys.readouterr().err


def test_every_command_of_mains_help_and_of_a_configs_docstring_is_one_that_main_takes(monkeypatch):
    monkeypatch.chdir(ROOT)
    commands = []
    for path in (Path("instruct_jax/main.py"), *sorted(Path("configs").rglob("*.py"))):
        text = (ast.get_docstring(ast.parse(path.read_text())) or "").replace("\\\n", " ")
        commands += re.findall(r"python -m instruct_jax\.main (.*)", text)
    assert len(commands) > 20
    for command in commands:
        main.parse(["main", *shlex.split(command)])
    named = re.findall(r"configs/[\w/]+\.py", Path("instruct_jax/main.py").read_text())
    assert len(named) > 1 and all(map(os.path.isfile, named))


def test_missing_files_flags_and_stages_are_named(tmp_path, capsys):
    path = tmp_path / "study.py"
    path.write_text(CONFIG.replace('"sft"', '"stf"'))
    for words, message in [
        (["--workdir", "x"], "--config is missing"),
        (["--config", str(tmp_path / "no.py"), "--workdir", "x"], "no file"),
        (["--config", str(path)], "--workdir is missing"),
        (["--config", str(path), "--workdir", "gs://b/x"], "--workdir gs://b/x: a run's folder is a path"),
        (
            ["--config", str(path), "--workdir", str(tmp_path / "x")],
            "config.stage is 'stf' (did you mean sft?)",
        ),
    ]:
        assert main.main(["main", *words]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "error, status",
    [(InputError("no"), 2), (TrainingError("nan"), 1), (Preempted("later"), 143), (KeyboardInterrupt(), 130)],
)
def test_each_end_has_its_own_status(experiment, monkeypatch, capsys, tmp_path, error, status):
    def fails(config, workdir):
        raise error

    monkeypatch.setattr(main, "load_stage", lambda name: fake_stage(fails))
    assert experiment[0]() == status
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "run" / "finished.json").exists()


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left", "x/select.json"), OSError(27, "File too large", "x")]
)
def test_a_full_disk_is_told_in_a_line(experiment, monkeypatch, capsys, error):
    def fails(config, workdir):
        raise error

    monkeypatch.setattr(main, "load_stage", lambda name: fake_stage(fails))
    assert experiment[0]() == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said and str(error) in said and "make room" in said


def test_a_section_that_the_stage_does_not_have_is_named_with_its_nearest(experiment, tmp_path, capsys):
    call, notes = experiment
    path = tmp_path / "study.py"
    path.write_text(CONFIG.replace('"seed": 1,', '"seed": 1, "optimiser": {"learning_rate": 1e-3},'))
    assert call() == 2 and not notes
    assert "config.optimiser: no such field (did you mean optimizer?)" in capsys.readouterr().err


def test_every_shipped_config_is_what_its_stage_wants():
    sweeps = (ROOT / "configs" / "sweeps").iterdir()
    for path in sorted(set((ROOT / "configs").glob("**/*.py")) - set(sweeps)):
        config, _ = main.parse(["main", "--config", str(path), "--workdir", "x"])
        stage = main.load_stage(config.stage)
        known_fields(config, stage.FIELDS)
        if config.stage not in ("sentiment", "lab_trial"):  # which read files that may not be here
            stage.check(config)


@pytest.mark.parametrize(
    "stage", ["lab_base", "pretrain", "rm", "ppo", "collect", "select", "evaluate", "hh", "instructions"]
)
def test_each_stage_names_a_wrong_field_of_its_config_before_it_runs(stage):
    check = main.load_stage(stage).check
    with pytest.raises(
        InputError, match=r"config.text.max_promt: no such field \(did you mean max_prompt\?\)"
    ):
        check(ConfigDict({"stage": stage, "text": {"max_promt": 3}}))


def test_a_fault_of_ours_keeps_its_traceback(experiment, monkeypatch):
    monkeypatch.setattr(main, "load_stage", lambda name: fake_stage(lambda config, workdir: 1 // 0))
    with pytest.raises(ZeroDivisionError):
        experiment[0]()


def test_a_second_main_in_the_folder_is_refused(experiment, monkeypatch, tmp_path, capsys):
    ours = f"{os.getpid()} on "
    code = "import sys, time\nfrom instruct_jax.training.guard import lock\nwith lock(sys.argv[1]):\n print(1, flush=True)\n time.sleep(60)"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        holder.stdout.readline()
        assert experiment[0]() == 2
    finally:
        holder.kill()
        holder.wait()
    error = capsys.readouterr().err
    assert f"process {holder.pid} on" in error and ours not in error


def test_a_folder_with_checkpoints_keeps_its_config(tmp_path):
    config = ConfigDict({"optimizer": {"learning_rate": 1.0}, "sizes": (1, 2), "mesh": {"data": 1}})
    snapshot(config, tmp_path)
    config.optimizer.learning_rate = 2.0
    snapshot(config, tmp_path)  # nothing trained yet: a corrected config replaces the first
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    snapshot(config, tmp_path)
    config.mesh.data = 4  # a checkpoint goes onto any mesh
    snapshot(config, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["mesh"] == {"data": 4}
    config.optimizer.learning_rate = 3.0
    with pytest.raises(InputError, match="config.optimizer.learning_rate = 2.0, now 3.0"):
        snapshot(config, tmp_path)


@pytest.mark.parametrize("how", ["times", "a stage's checkpoint", "a fold's"])
def test_so_does_a_folder_of_a_chain_of_which_something_is_done(how, tmp_path):
    config = ConfigDict({"rm": {"epochs": 1}, "mesh": {"data": 1}})
    snapshot(config, tmp_path)
    (tmp_path / "times.json").write_text(json.dumps({"data (unfinished)": 1.0}))
    (tmp_path / "another_run" / "checkpoints" / "5").mkdir(parents=True)
    (tmp_path / "another_run" / "config.json").write_text("{}")
    config.rm.epochs = 2
    snapshot(config, tmp_path)  # nothing done yet
    if how == "times":
        (tmp_path / "times.json").write_text(json.dumps({"data": 2.0, "rm (unfinished)": 1.0}))
    else:
        (tmp_path / ("sft" if "stage" in how else "fold_0/rm") / "checkpoints" / "5").mkdir(parents=True)
    config.mesh.data = 4
    snapshot(config, tmp_path)
    config.rm.epochs = 3
    with pytest.raises(InputError, match="config.rm.epochs = 2, now 3"):
        snapshot(config, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["rm"] == {"epochs": 2}


def test_help_answers_without_loading_jax():
    code = "import sys\nfrom instruct_jax.main import main\nstatus = main(['main', '--help'])\nsys.exit(status or 'jax' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (
        found.returncode == 0
        and "--workdir" in found.stdout
        and "--config.section.field=value" in found.stdout
    )


def test_the_command_itself_leaves_with_status_2(tmp_path):
    (tmp_path / "study.py").write_text(CONFIG)
    words = ["--config", str(tmp_path / "study.py"), "--workdir", "x", "--config.sed=1"]
    found = subprocess.run(
        [sys.executable, "-m", "instruct_jax.main", *words], capture_output=True, text=True, cwd=ROOT
    )
    assert found.returncode == 2
    assert "--config.sed" in found.stderr and "did you mean config.seed?" in found.stderr
    assert "Traceback" not in found.stderr


def test_the_compile_cache_goes_where_it_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("INSTRUCT_JAX_CACHE", str(tmp_path))
    assert devices.cache_dir() == tmp_path
    monkeypatch.setenv("INSTRUCT_JAX_CACHE", "off")
    assert devices.cache_dir() is None
    monkeypatch.delenv("INSTRUCT_JAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert devices.cache_dir() == tmp_path / "xdg" / "instruct_jax"


def test_the_machine_states_plausible_facts(monkeypatch):
    assert 10e6 < devices.peak_rss_bytes() < 1e12
    assert devices.matmul_gflops(size=128, repeats=2) > 0.01
    assert devices.versions()["python"] == sys.version.split()[0]
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    assert devices.malloc_hint() is None


def test_the_peak_is_a_tpus_data_sheet_times_its_devices_and_a_cpus_own_speed_whatever_they_are(monkeypatch):
    def mesh(kind, platform, *sizes):
        grid = np.full(sizes, SimpleNamespace(device_kind=kind, platform=platform))
        return SimpleNamespace(devices=grid, size=grid.size)

    assert devices.peak_flops(mesh("TPU v5 lite", "tpu", 4, 2), "float32")[0] == 8 * 197e12
    assert set(devices.KINDS.values()) == set(devices.CHIPS)
    monkeypatch.setattr(devices, "matmul_gflops", lambda size, dtype: 300.0 if size == 1024 else 7e5)
    devices._measured_flops.cache_clear()
    assert devices.peak_flops(mesh("cpu", "cpu", 2), "bfloat16") == (300e9, "measured here, bfloat16")
    assert devices.peak_flops(mesh("NVIDIA H100 80GB HBM3", "gpu", 2), "bfloat16")[0] == 2 * 7e14
    devices._measured_flops.cache_clear()


def test_steps_to_profile_reach_the_stage_and_are_no_part_of_the_experiment(experiment, monkeypatch, capsys):
    call, notes = experiment
    assert call("--profile=3:2") == 2 and "config.profile: no such field" in capsys.readouterr().err
    stage = fake_stage(lambda config, workdir: notes.append((config, workdir)))
    stage.FIELDS += ("profile",)
    monkeypatch.setattr(main, "load_stage", lambda name: stage)
    assert call("--profile=3") == 2 and "as in --profile 10:3" in capsys.readouterr().err
    assert call("--profile=3:2") == 0
    config, workdir = notes[0]
    assert config.profile == "3:2" and "profile" not in json.loads((workdir / "config.json").read_text())
