"""Compiling ahead by the real compiler: every stage for a small slice, two slices as one mesh, and what that may take."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from jax.experimental import topologies

from instruct_jax import devices
from instruct_jax.errors import InputError

ROOT = Path(__file__).parent.parent
CPU_SECONDS = 240  # of all tests here, on one core
TEXT = [
    "text.max_prompt=32",
    "text.max_response=32",
    "model.variant=tiny",
    "model.context=64",
    "model.vocab=128",
    "mesh.fsdp=4",
]
TINY = {
    "sft": [*TEXT, "model.variant=gpt3_125m", "data.batch_size=8"],
    "rm": [*TEXT, "model.variant=gpt3_125m", "data.batch_size=8", "data.k_max=2"],
    "ppo": [*TEXT, "reward_model.variant=tiny", "reward_model.context=64", "reward_model.vocab=128", "train.episodes=32",
            "train.batch_size=32", "train.minibatch_size=16", "train.rollout_size=16", "train.microbatch_size=8", "train.ptx_ratio=1",
            "train.ptx_length=32", "train.ptx_microbatch_size=8"],
}  # fmt: skip


@pytest.fixture(scope="module")
def spent():
    """CPU seconds of each process that was started."""
    return []


@pytest.fixture
def compiles(spent):
    """A call that starts Python with some words, in a process of its own: libtpu is loaded nowhere else."""
    if devices.libtpu_version() is None:
        missing = "no libtpu: bash launch/setup.sh --dev installs it on Linux"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)

    def start(*words, xla_flags=""):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ran = subprocess.run(
            [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=600,
            env=os.environ | {"XLA_FLAGS": xla_flags},
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(sum(after[:2]) - sum(before[:2]))
        return ran

    return start


def kernels_in(text):
    """The attention kernels that a compiled program calls."""
    calls = [line for line in text.splitlines() if 'custom_call_target="tpu_custom_call"' in line]
    return set(re.findall(r"%(splash_mha_(?:fwd|dkv|dq))", "\n".join(calls)))


AHEAD = ("-m", "instruct_jax.aot", "--config")


@pytest.mark.libtpu
@pytest.mark.parametrize("stage", TINY)
def test_every_stage_compiles_for_a_slice_that_is_not_there_and_sends_what_the_law_says(
    stage, compiles, tmp_path
):
    overrides = [f"--config.{field}" for field in TINY[stage]]
    ran = compiles(*AHEAD, f"configs/{stage}/gpt3_1p3b.py", "--topology", "v5e:2x2", "--json", *overrides,
                   xla_flags=f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text")  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    report = json.loads(ran.stdout)
    assert (report["chips"], report["mesh"], report["fits"]) == (
        4,
        {"data": 1, "fsdp": 4, "sequence": 1, "tensor": 1},
        True,
    )
    assert set(report["programs"]) == ({"rollout", "scoring", "update"} if stage == "ppo" else {"train_step"})
    for program in report["programs"].values():
        assert 0 < program["argument_bytes"] < program["needed_bytes"] < program["hbm_bytes"]
        assert program["collectives"] and program["flops_per_chip"]["rest"] > 0
        assert program["seconds"] == sum(phase["seconds"] for phase in program["phases"].values()) > 0
    if stage == "ppo":
        rollout, update = report["programs"]["rollout"], report["programs"]["update"]
        assert rollout["flops_per_chip"]["loop"] > 0 and update["flops_per_chip"]["loop"] == 0
        # While sampling, the moments of both networks and the average lie there too; while updating, reference and reward model.
        assert rollout["resident_bytes"] > 2 * rollout["argument_bytes"] / 4 and update["resident_bytes"] > 0
        assert not [
            row for row in rollout["collectives"] if row["phase"] == "loop"
        ]  # decoding asks no other chip
    else:
        step = report["programs"]["train_step"]
        law = step["law_bytes"]  # how much is gathered again differs by the compiler's version
        assert 0.8 * law["least"] <= step["sent_bytes"] <= 1.1 * law["again"]
        assert step["waited_for_bytes"] <= 64 * 2**20
    assert 0 < report["cost"]["mfu"] <= report["cost"]["hfu"] < 1
    kernels = [kernels_in(path.read_text()) for path in tmp_path.glob("*.after_optimizations.txt")]
    assert len([each for each in kernels if "splash_mha_fwd" in each]) == len(report["programs"])
    backward = [each for each in kernels if {"splash_mha_fwd", "splash_mha_dkv", "splash_mha_dq"} <= each]
    assert len(backward) == 1, "the program that trains has the kernel's gradient too"


@pytest.mark.libtpu
def test_what_cannot_fit_is_said_without_compiling_and_a_wrong_slice_in_one_line(compiles):
    ran = compiles(
        *AHEAD,
        "configs/sft/gpt3_175b.py",
        "--topology",
        "v5e:2x2",
        "--config.mesh.fsdp=4",
        "--config.mesh.tensor=1",
        "--nosuggest",
    )
    assert ran.returncode == 1 and "by themselves" in ran.stdout
    wrong = compiles(*AHEAD, "configs/sft/gpt3_1p3b.py", "--topology", "v5e:3x3")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1
    assert (
        "its first two sides must be even, as in v5e:2x2, v5e:2x4, v5e:4x4, v5e:8x16 (INVALID" in wrong.stderr
    )
    other = compiles(*AHEAD, "configs/sft/gpt3_1p3b.py", "--topology", "v5e:2x2")
    assert other.returncode == 2 and "1 x 16 x 1 x 1 = 16 devices, but v5e:2x2 has 4" in other.stderr


def test_a_libtpu_that_cannot_be_used_is_not_taken_for_a_wrong_slice(monkeypatch):
    def broken(**asked):
        raise OSError("libtpu.so: cannot open shared object file")

    monkeypatch.setattr(devices, "libtpu_version", lambda: "0.1")
    monkeypatch.setattr(topologies, "get_topology_desc", broken)
    with pytest.raises(
        InputError, match=r"libtpu 0.1 cannot be used .* cannot open .*: run `bash launch/setup.sh --tpu`"
    ):
        devices.topology("v5e:4x4")
    with pytest.raises(
        InputError, match=r"first two sides must be even, as in v5p:2x2x1, v5p:2x2x4, v5p:4x4x4"
    ):
        devices.topology("v5p:4x3x4")


TWO_SLICES = """
import json

from instruct_jax import devices

devices.prepare_to_compile_ahead()
import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from instruct_jax import sharding

there = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2", num_slices=2).devices
mesh = sharding.make_mesh(data=4, fsdp=2, devices=there)
slices = [sorted({device.slice_index for device in part.flat}) for part in mesh.devices]
rows = jax.ShapeDtypeStruct((64, 256), jnp.bfloat16, sharding=sharding.batch_sharding(mesh))
layout = NamedSharding(mesh, PartitionSpec(*sharding.param_spec("layers/up/kernel")[1:]))
weights = jax.ShapeDtypeStruct((256, 256), jnp.bfloat16, sharding=layout)
gradient = jax.jit(jax.grad(lambda w, x: jnp.square(x @ w).sum()), out_shardings=layout)
text = gradient.trace(weights, rows).lower().compile().as_text()
print(json.dumps([slices, text.count(" send(")]))
"""


@pytest.mark.libtpu
def test_data_goes_over_several_slices_and_the_rest_stays_inside_one(compiles):
    ran = compiles("-c", TWO_SLICES)
    assert ran.returncode == 0, ran.stderr[-3000:]
    slices, sends = json.loads(ran.stdout)
    assert slices == [[0], [0], [1], [1]]
    assert sends == 1  # the gradient's sum alone crosses from slice to slice


@pytest.mark.libtpu
def test_together_they_take_four_minutes_at_the_most(spent):
    if not spent:
        pytest.skip("nothing was compiled")
    assert sum(spent) < CPU_SECONDS, spent
