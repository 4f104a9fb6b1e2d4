"""Several processes: how they find each other, that four and two of them compute what one does, and what a death does.

The real ones run over loopback, 2 or 4 devices each (tests/pod_process.py); the rest is shown with jax.distributed noted.
"""

import json
import os
import random
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from instruct_jax import devices, main
from instruct_jax.data import builders
from instruct_jax.errors import InputError
from instruct_jax.models.transformer import PolicyModel
from instruct_jax.models.variants import variant
from instruct_jax.records import Demonstration, Document, Prompt, Ranking, write_jsonl
from instruct_jax.stages import lab_base, setup
from instruct_jax.training.metrics import read_metrics

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "tests/configs/tiny_pod.py"
TIMES = {"heartbeat_timeout_seconds": 30, "shutdown_timeout_seconds": 45}
MOST_SECONDS = 900  # after which processes that hang are killed
DEVICES = 8  # in all, whatever the number of processes
WORDS = "the old baker lives in a town near the river where Mira says yes and Tal says no".split()


@pytest.fixture
def joined(monkeypatch):
    """The calls of jax.distributed.initialize, none of which is made; no SLURM, no TPU."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *who, **how: calls.append((who, how)))
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS", raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    return calls


def test_a_process_by_itself_joins_nobody(joined):
    devices.start_distributed()
    assert joined == []


@pytest.mark.parametrize(
    "who",
    [
        ("one:1", 2, None),
        ("one:1", None, 0),
        (None, 2, 0),
        ("one", 2, 0),
        ("one:1", 2, 2),
        ("one:1", 2, -1),
    ],
)
def test_half_told_processes_are_bad_input(joined, who):
    with pytest.raises(InputError, match="--coordinator HOST:PORT, --processes N and --process I"):
        devices.start_distributed(*who)
    assert joined == []


def test_slurm_is_asked_where_srun_started_several_tasks(joined, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    devices.start_distributed()
    assert joined == []
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "16")
    devices.start_distributed()
    assert joined == [((), {"cluster_detection_method": "slurm"} | TIMES)]


def test_a_tpu_vm_is_asked_for_its_workers_unless_jax_is_kept_to_the_cpu(joined, monkeypatch):
    monkeypatch.setattr(devices, "_on_tpu", lambda: True)
    devices.start_distributed()
    assert joined == [((), TIMES)]
    monkeypatch.undo()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert not devices._on_tpu()


def test_a_process_that_waits_for_the_others_says_what_to_look_at(joined, monkeypatch, capsys):
    monkeypatch.setattr(devices, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *who, **how: time.sleep(0.5))
    devices.start_distributed("one:1", 2, 1)
    said = capsys.readouterr().err
    assert "still waiting for the other processes at one:1" in said and "port can be reached" in said
    monkeypatch.setattr(jax.distributed, "initialize", lambda *who, **how: None)
    devices.start_distributed("one:1", 2, 1)
    time.sleep(0.2)
    assert not capsys.readouterr().err


def test_of_several_processes_one_that_failed_leaves_without_the_others_and_the_first_goes_last(monkeypatch):
    left, waited = [], []
    monkeypatch.setattr(os, "_exit", left.append)
    monkeypatch.setattr(time, "sleep", waited.append)
    devices.leave(2)
    assert not left, "one process alone ends as any other"
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for index in (0, 1):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        devices.leave(2)
    assert left == [2, 2] and waited[0] > waited[1] > 0


def test_a_mesh_that_does_not_match_the_devices_says_what_would(monkeypatch):
    for sizes, message in [
        (dict(data=4, fsdp=4), "needs 16 devices, here are 8: lower mesh.data, mesh.fsdp, mesh.sequence or mesh.tensor"),
        (dict(data=-1, fsdp=3), r"all 8 devices, but mesh.fsdp x mesh.sequence x mesh.tensor is 3 x 1 x 1 = 3: make it a divisor of 8"),
        (dict(data=-1, tensor=0), "mesh.tensor is 0: it must be at least 1"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=message):
            setup.open_mesh(setup.MeshSettings(**sizes))
    assert dict(setup.open_mesh(setup.MeshSettings(data=-1, tensor=2)).shape) == dict(
        data=4, fsdp=1, sequence=1, tensor=2
    )
    monkeypatch.setattr(jax, "process_count", lambda: 2)  # whose devices are none of these
    with pytest.raises(
        InputError,
        match="takes 4 of 8 devices, which leaves 1 of 2 processes without one: set mesh.data to -1",
    ):
        setup.open_mesh(setup.MeshSettings(data=4))


class Pod:
    """A folder with data and runs, and the processes that are started on it."""

    def __init__(self, root: Path):
        self.root = root

    def make_data(self):
        rng, records = random.Random(0), self.root / "records"

        def say(most):
            return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, most)))

        asked = [Prompt(f"p{i}", say(5)) for i in range(24)]
        shown = [Demonstration(p.id, p.text, say(3)) for p in asked]
        ranked = [
            Ranking(p.id, p.text, "l", [say(3) for _ in range(3)], [1, 2, 2], ["m"] * 3, [True] * 3)
            for p in asked
        ]
        read = [Document(f"d{i}", " ".join(rng.choice(WORDS) for _ in range(60))) for i in range(16)]
        for name, rows in (("prompts.train", asked), ("prompts.valid", asked[:8]), ("demonstrations.train", shown),
                           ("rankings.train", ranked), ("documents.train", read)):  # fmt: skip
            write_jsonl(records / f"{name}.jsonl", rows)
        builders.build(records, self.root / "data")

    def command(self, run: str, part: str, mesh: str) -> list[str]:
        """The command line of a part in the folder RUN; every part starts from the models of the run "one"."""
        data, sft, reward = self.root / "data", self.root / "one" / "sft", self.root / "one" / "rm" / "reward"
        own = {
            "sft": {"data.dir": data},
            "rm": {"data.dir": data, "init": sft},
            "ppo": {"data_dir": data, "init": sft, "reward": reward},
            "select": {"data_dir": data, "groups.sft": sft, "reward": reward},
        }[part]
        shape = dict(zip(("mesh.data", "mesh.fsdp", "mesh.tensor"), mesh.split("x"), strict=True))
        fields = own | shape | {"text.tokenizer": lab_base.ASSETS / "tokenizer.model"}
        return ["--config", f"{CONFIG}:{part}", "--workdir", str(self.root / run / part),
                *(f"--config.{name}={value}" for name, value in fields.items())]  # fmt: skip

    def start(
        self, run: str, count: int, commands: list[list[str]], ends: tuple | None = None
    ) -> list[tuple]:
        """(status, stderr, seconds after the first end) of each of `count` processes; ends (process, how and step)."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES // count}",
            "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        }
        (self.root / run).mkdir(exist_ok=True)
        started = []
        for index in range(count):
            who = [f"--coordinator={address}", f"--processes={count}", f"--process={index}"]
            words = [commands[0] + who, *commands[1:]]
            end = ends[1] if ends and ends[0] == index else ""
            program = [
                sys.executable,
                "tests/pod_process.py",
                self.notes(run, index),
                end,
                json.dumps(words),
            ]
            with open(self.root / run / f"errors_{index}", "w") as errors:
                started.append(
                    subprocess.Popen(program, cwd=ROOT, env=environment, stdout=errors, stderr=errors)
                )
        ended, patience = [None] * count, time.monotonic() + MOST_SECONDS
        while None in ended:
            if time.monotonic() > patience:
                for process in started:
                    process.kill()
            for index, process in enumerate(started):
                if ended[index] is None and process.poll() is not None:
                    ended[index] = time.monotonic()
            time.sleep(0.1)
        errors = [(self.root / run / f"errors_{index}").read_text() for index in range(count)]
        return [(p.returncode, e, t - min(ended)) for p, e, t in zip(started, errors, ended, strict=True)]

    def notes(self, run: str, index: int) -> Path:
        return self.root / run / f"notes_{index}"

    def losses(self, run: str, part: str) -> list[dict]:
        return [
            {name: value for name, value in row.items() if name == "step" or "loss" in name or name == "objective/score"}
            for row in read_metrics(self.root / run / part)
        ]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with data alone."""
    pod = Pod(tmp_path_factory.mktemp("pod"))
    pod.make_data()
    return pod


@pytest.fixture(scope="module")
def pod(folder):
    """All runs: one process does SFT, RM, PPO and the selection; four do RM and PPO, and die in SFT after a checkpoint; two go
    on from there, on another mesh, and do the rest as well."""
    pod = folder
    for part in ("sft", "rm", "ppo", "select"):
        assert main.main(["main", *pod.command("one", part, "1x1x1")]) == 0
    mesh = "2x2x2"
    pod.died = pod.start(
        "four", 4, [pod.command("four", part, mesh) for part in ("rm", "ppo", "sft")], ends=(3, "killed:5")
    )
    mesh = "4x1x2"
    others = [pod.command("two", part, mesh) for part in ("rm", "ppo", "select")]
    pod.resumed = pod.start("two", 2, [pod.command("four", "sft", mesh), *others])
    return pod


@pytest.mark.slow
def test_a_death_ends_the_others_with_a_message_within_a_minute(pod):
    assert [status for status, _, _ in pod.died] == [-6, -6, -6, 9]  # SIGABRT is 134 to a shell
    for _, said, seconds in pod.died[:3]:
        assert "another task died" in said
        assert seconds < 60


@pytest.mark.slow
@pytest.mark.parametrize(
    "process, how, statuses, most",
    [
        (0, "killed", [9, -6], 10),
        (1, "error", [-6, -6], 20),  # after SHUTDOWN_SECONDS, together
        (1, "bad_input", [-6, 2], 40),
    ],
)
def test_whoever_ends_by_itself_the_other_ends_too(folder, process, how, statuses, most):
    run = f"two_{how}"
    found = folder.start(run, 2, [folder.command(run, "sft", "4x1x2")], ends=(process, f"{how}:2"))
    assert [status for status, _, _ in found] == statuses, found
    assert max(seconds for _, _, seconds in found) < most
    assert how == "killed" or "this process alone" in found[process][1]


@pytest.mark.slow
def test_the_relaunched_run_goes_on_with_another_number_of_processes_and_another_mesh(pod):
    assert [status for status, _, _ in pod.resumed] == [0, 0], pod.resumed
    assert re.search("resuming after step [24]", pod.resumed[0][1])
    assert [row["step"] for row in pod.losses("four", "sft")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
@pytest.mark.parametrize(
    "run, part", [("four", "sft"), ("four", "rm"), ("four", "ppo"), ("two", "rm"), ("two", "ppo")]
)
def test_losses_of_several_processes_are_those_of_one(pod, run, part):
    rows = pod.losses("one", part)
    assert len(rows) > 1 and any(
        np.ptp([row[name] for row in rows]) > 1e-3 for name in rows[0] if name != "step"
    )
    for row, expected in zip(pod.losses(run, part), rows, strict=True):
        assert row == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_the_reward_model_of_several_processes_is_centred_and_chooses_as_that_of_one(pod):
    def read(run, name):
        return json.loads((pod.root / run / name).read_text())

    for run in ("four", "two"):
        assert read(run, "rm/bias.json") == pytest.approx(read("one", "rm/bias.json"), abs=1e-5)
    chosen, expected = (read(run, "select/select.json")["sft"] for run in ("two", "one"))
    assert chosen["best"] == expected["best"]
    for name, interval in expected["scores"].items():
        assert chosen["scores"][name] == pytest.approx(interval, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("run, count", [("four", 4), ("two", 2)])
def test_each_process_makes_its_own_rows_and_together_they_make_all(pod, run, count):
    made = [[json.loads(line) for line in pod.notes(run, i).read_text().splitlines()] for i in range(count)]
    assert made[0]
    for batch in zip(*made):
        whole, shares = batch[0][3], {tuple(share) for _, share, _, _ in batch}
        parts = sorted((start / of, stop / of) for start, stop, of in shares)
        assert (
            parts == [(i / len(parts), (i + 1) / len(parts)) for i in range(len(parts))]
            and len(parts) == count
        )
        for _, (start, stop, of), rows, _ in batch:
            assert rows == [length * (stop - start) // of for length in whole]


@pytest.mark.slow
def test_a_checkpoint_of_several_processes_is_written_once_and_loads_onto_any_mesh(pod):
    def writers(run):
        state = pod.root / run / "sft" / "checkpoints" / "6" / "state"
        return {path.parts[-3] for path in state.glob("ocdbt.process_*/d/*") if path.stat().st_size}

    # Of four processes two hold the first copy along `data`; the second copy's, 2 and 3, write nothing.
    assert writers("one") == {"ocdbt.process_0"}
    assert writers("four") == {"ocdbt.process_0", "ocdbt.process_1"}
    mesh = setup.open_mesh(setup.MeshSettings(fsdp=2, tensor=4))
    vocab = setup.load_tokenizer(
        setup.TextSettings(str(lab_base.ASSETS / "tokenizer.model"), "plain", 16, 8)
    ).vocab_size
    model = PolicyModel(variant("tiny", vocab=vocab, context=64))
    with jax.set_mesh(mesh):
        found, expected = (setup.load(pod.root / run / "sft", model, mesh) for run in ("four", "one"))
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), atol=1e-5)
