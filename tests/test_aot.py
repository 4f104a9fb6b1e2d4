"""Compiling ahead, short of the compiler: what an experiment costs, what would fit, which mesh is best, what is said of bad input."""

import dataclasses
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from instruct_jax import aot, devices
from instruct_jax.errors import InputError
from instruct_jax.models.variants import variant
from instruct_jax.reports import ahead
from instruct_jax.sharding import make_mesh
from instruct_jax.stages import train_ppo
from instruct_jax.stages.ahead import compiling, fitting, sending, work

ROOT = Path(__file__).parent.parent


def load(path, *part):
    spec = importlib.util.spec_from_file_location("a_config", ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*part)


@pytest.mark.parametrize(
    "words, told",
    [
        (["--config", "configs/sft/gpt3_1p3b.py"], "--topology is missing"),
        (
            ["--config", "configs/sft/gpt3_1p3b.py", "--topology", "v9:2x2"],
            "v6e, tpu7x, as in v5e:4x4 or v5p:8x8x8 (for a newer one, add its peaks to devices.CHIPS)",
        ),
        (
            ["--config", "configs/sft/gpt3_1p3b.py", "--topology", "v5p:4x4"],
            "give v5p 3 sizes, as in v5p:4x4x4",
        ),
        (
            ["--config", "configs/evaluate/human.py", "--topology", "v5e:4x4"],
            "pretrain, sft, rm and ppo have programs",
        ),
        (
            [
                "--config",
                "configs/sft/gpt3_1p3b.py",
                "--topology",
                "v5e:4x4",
                "--choose",
                "--only",
                "train_step",
            ],
            "leave out --sweep and --only",
        ),
        (
            ["--config", "configs/sft/gpt3_1p3b.py", "--topology", "v5e:4x4", "--config.mesh.fspd=2"],
            "did you mean config.mesh.fsdp",
        ),
        (
            ["--config", "configs/sft/gpt3_1p3b.py", "--topology", "v5e:4x4"],
            "needs libtpu: run `bash launch/setup.sh --tpu`",
        ),
    ],
)
def test_bad_input_is_one_clear_line(words, told, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(devices, "libtpu_version", lambda: None)
    monkeypatch.setattr(devices, "prepare_to_compile_ahead", lambda: None)
    assert aot.main(["aot", *words]) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "path, days, low, high",
    # The paper: 4.9 and 60 petaflop/s-days; ours count attention, and the policy's second look at what it said.
    [("configs/sft/gpt3_175b.py", "train_step", 4.9, 5.4), ("configs/ppo/gpt3_175b.py", "update", 57, 62)],
)
def test_the_papers_experiments_cost_what_the_paper_says(path, days, low, high):
    runs, flops = work.of(load(path)).programs[days]
    assert low <= runs * flops / 8.64e19 <= high


@pytest.mark.parametrize(
    "path, fields, steps",
    [
        # 12,725 prompts are every row but each tenth of 14,138, 441.8 batches of 32.
        ("sft", {"train.epochs": 2.0, "data.pretraining_fraction": 0.1}, 2 * 442),
        ("sft", {"train.epochs": 2.0}, 2 * 398),
        ("sft", {"train.epochs": 2.0, "data.pretraining_fraction": 0.1, "data.kind": "documents"}, 2 * 398),
        ("sft", {"train.epochs": None, "train.steps": 7, "data.pretraining_fraction": 0.1}, 7),
        ("rm", {"train.epochs": 1.5, "data.batch_size": 64}, 779),  # 778.3
    ],
)
def test_a_run_counts_the_steps_that_the_stage_takes(path, fields, steps):
    file = {"sft": "configs/sft/gpt3_1p3b.py", "rm": "configs/rm/gpt3_6b.py"}[path]
    assert work.of(fitting.changed(load(file), fields)).programs["train_step"][0] == steps


def test_sampling_that_refills_is_counted_as_sampling_that_does_not_but_for_its_memory(monkeypatch):
    chip, real = SimpleNamespace(coords=(0, 0, 0)), compiling.compile_one
    slice_of_one = SimpleNamespace(size=1, devices=np.array([chip]))
    mesh = make_mesh(devices=jax.devices()[:1])
    monkeypatch.setattr(compiling.Slice, "mesh", lambda self, config: mesh)
    monkeypatch.setattr(compiling, "compile_one", lambda a, b, mesh, *more: real(a, b, slice_of_one, *more))
    place = compiling.Slice("v5e:1x1", [chip], devices.CHIPS["v5e"])

    def rollout(refill):
        config = load("tests/configs/tiny_pod.py", "ppo")
        config = fitting.changed(config, {"train.rollout_size": 4, "train.refill": refill})
        report = compiling.examine(config, train_ppo.programs, place, only="rollout", say=lambda told: None)
        return report["programs"]["rollout"], report["assumed"]

    (plain, before), (refilled, after) = rollout(False), rollout(True)
    for counted in ("flops_per_chip", "memory_traffic_bytes", "seconds"):
        assert refilled[counted] == plain[counted]
    assert refilled["temporary_bytes"] != plain["temporary_bytes"]
    assert [one for one in after if one not in before] == [compiling.REFILLED]


def report_of(needed, seconds=2.0, name="update"):
    """A report as examine makes it, of one program that needs so many GiB of 16."""
    fits = needed <= 16
    program = {
        "compile_seconds": 1.0, "compile_cpu_seconds": 1.0, "fits": fits, "needed_bytes": needed * 2**30, "argument_bytes": 2**30,
        "temporary_bytes": 2**30, "peak_bytes": 2**30, "resident_bytes": 0, "hbm_bytes": 16 * 2**30, "runs": 3,
        "flops_per_chip": {"loop": 0.0, "rest": 1e12}, "seconds": seconds, "bound": "compute", "sent_bytes": 1.2 * 2.0**30,
        "law_bytes": {"least": 2.0**30, "again": 1.3 * 2.0**30}, "waited_for_bytes": 3.0 * 2**20,
        "phases": {"rest": {"compute": seconds, "memory": 1.0, "links": 0.5, "exposed": 0.0, "bound": "compute", "seconds": seconds}},
        "collectives": [
            {"kind": "all-gather", "chips": 4, "phase": "rest", "overlapped": True, "count": 2, "wire_bytes": 2.0**30, "seconds": 0.5}
        ],
    }  # fmt: skip
    cost = {"runs": 3, "seconds_a_run": seconds, "hours": 3 * seconds / 3600, "chip_hours": 1.0, "useful_flops": 1e12, "mfu": 0.4,
            "hfu": 0.5, "tokens_a_second": 1e3}  # fmt: skip
    return {"experiment": "mine <b>", "topology": "v5e:4x4", "chips": 16, "mesh": {"data": 1, "fsdp": 16, "tensor": 1}, "fits": fits,
            "programs": {name: program}, "cost": cost, "assumed": ["nothing"], "config": {}}  # fmt: skip


PLACE = compiling.Slice("v5e:4x4", list(range(16)), devices.CHIPS["v5e"])


def test_what_does_not_fit_is_tried_smaller_until_it_fits(monkeypatch):
    seen = []

    def examine(config, programs, place, only, say):
        seen.append(config)
        rows = config.train.microbatch_size
        return report_of(40 if config.model.remat != "full" else 10 + rows / 8)

    monkeypatch.setattr(compiling, "examine", examine)
    config = fitting.changed(
        load("configs/ppo/gpt3_1p3b.py"),
        {"model.remat": "none", "train.microbatch_size": 64, "train.ptx_microbatch_size": 512},
    )
    tried = fitting.suggest(config, None, PLACE, report_of(60), say=lambda told: None)
    assert [one["fits"] for one in tried] == [False, True]
    both = {"model.remat": "full", "reward_model.remat": "full"}
    assert tried[0]["overrides"] == both
    assert tried[1]["overrides"] == both | {"train.microbatch_size": 16, "train.ptx_microbatch_size": 128}
    assert seen[1].model.remat == "full" and config.model.remat == "none"


PPO = {"rollout": 8.0, "scoring": 20.0, "update": 20.0}  # GiB of 16


def of_programs(needed):
    """A report of several programs, one of which may be known."""
    found = {
        name: one if isinstance(one, dict) else report_of(one)["programs"]["update"]
        for name, one in needed.items()
    }
    return report_of(1) | {"programs": found, "fits": all(one["fits"] for one in found.values())}


@pytest.mark.parametrize("again", [9, 18])
def test_what_makes_one_program_fit_is_kept_for_the_next_and_all_is_compiled_with_the_union(
    again, monkeypatch
):
    """Scoring fits with smaller pieces, the update with `fsdp` over the mesh as well; sampling then needs `again` GiB."""
    compiled = []

    def examine(config, programs, place, *, only=None, say=None, known=None):
        small, wide = config.train.microbatch_size == 4, config.mesh.fsdp == 16
        needed = {
            "rollout": again if wide else 8,
            "scoring": 12 if small else 20,
            "update": 13 if small and wide else 20,
        }
        needed = {name: size for name, size in needed.items() if only in (None, name)}
        compiled.extend((name, small, wide) for name in needed if name not in (known or {}))
        return of_programs(needed | (known or {}))

    monkeypatch.setattr(compiling, "examine", examine)
    ladder = [{"train.microbatch_size": 4}, {"mesh.data": 1, "mesh.fsdp": 16}]
    monkeypatch.setattr(
        fitting, "changes", lambda config, place, name: ladder[config.train.microbatch_size == 4 :]
    )
    config = fitting.changed(
        load("configs/ppo/gpt3_1p3b.py"), {"mesh.data": 2, "mesh.fsdp": 8, "train.microbatch_size": 16}
    )
    tried = fitting.suggest(config, None, PLACE, of_programs(PPO), say=lambda told: None)
    fits = again < 16
    assert [(one["program"], one["fits"]) for one in tried] == [
        ("scoring", True), ("update", False), ("update", True), ("all together", fits)
    ]  # fmt: skip
    union = {"train.microbatch_size": 4, "mesh.data": 1, "mesh.fsdp": 16}
    assert tried[2]["overrides"] == tried[3]["overrides"] == union
    assert compiled[3:] == [("rollout", True, True), ("scoring", True, True)]  # the update is known
    assert tried[3]["needed_bytes"] == (13 if fits else 18) * 2**30 and tried[3]["compile_seconds"] == 2
    assert fits or tried[3]["refused"] == "rollout: does not fit"
    assert "| all together " in ahead.text(report_of(20) | {"tried": tried})


def test_the_last_thing_tried_is_more_devices_for_one_model():
    config = fitting.changed(load("configs/ppo/gpt3_1p3b.py"), {"mesh.data": 2, "mesh.fsdp": 8})
    ladder = list(fitting.changes(config, PLACE, "update"))
    left_open = fitting.changed(config, {"mesh.data": -1})
    assert list(fitting.changes(left_open, PLACE, "update")) == ladder
    assert ladder[0] == {"mesh.data": 1, "mesh.fsdp": 16}
    assert ladder[1] == {"train.offload": ("optimizer", "average", "frozen")}
    assert ladder[2] == {"mesh.data": 1, "mesh.fsdp": 8, "mesh.sequence": 2}
    assert ladder[3] == {"mesh.data": 1, "mesh.fsdp": 8, "mesh.sequence": 1, "mesh.tensor": 2, "train.microbatch_size": 8,
                         "train.ptx_microbatch_size": 8}  # fmt: skip


class Compiler:
    """Stands in for the compiler: what a program needs is a number of GiB a row, more the less is computed again."""

    def __init__(self, gib_a_row):
        self.gib_a_row, self.compiled = gib_a_row, 0

    def examine(self, config, programs, place, *, only=None, rows=None, say=None, known=None):
        if known:
            return report_of(1) | {"programs": known, "fits": all(one["fits"] for one in known.values())}
        self.compiled += 1
        size = config.train.rollout_size if only == "rollout" else config.train.microbatch_size
        needed = size * (1 if only == "rollout" else self.gib_a_row[config.model.remat])
        again = {"none": 1.0, "dots": 1.1, "full": 1.3}[config.model.remat]
        return report_of(needed, seconds=again + 1 / size, name=only)


@pytest.mark.parametrize(
    "gib_a_row, remat, rows, most",
    [
        ({"none": 0.2, "dots": 0.1, "full": 0.1}, "none", 64, 1),  # the whole fits as it is
        ({"none": 2.0, "dots": 0.6, "full": 0.2}, "dots", 16, 7),  # 16 rows at 1.16 s before 64 rows at 1.32
        ({"none": 2.0, "dots": 2.0, "full": 0.6}, "full", 16, 8),
    ],
)
def test_the_largest_that_fits_is_chosen_by_few_trials(gib_a_row, remat, rows, most, monkeypatch):
    compiler = Compiler(gib_a_row)
    monkeypatch.setattr(compiling, "examine", compiler.examine)
    monkeypatch.setattr(fitting, "batch_devices", lambda mesh: 16)
    monkeypatch.setattr(compiling.Slice, "mesh", lambda self, config: None)
    found = fitting.choose(load("configs/ppo/gpt3_1p3b.py"), None, PLACE, say=lambda told: None)
    assert found["fits"] and set(found["programs"]) == {"update", "rollout"}
    assert found["chosen"] == {"model.remat": remat, "reward_model.remat": remat, "train.microbatch_size": rows,
                               "train.ptx_microbatch_size": 8 * rows, "train.rollout_size": 16}  # fmt: skip
    of_update = [one for one in found["tried"] if one["program"] == "update"]
    assert len(of_update) <= most and compiler.compiled == len(found["tried"])
    assert f"Chosen: --config.model.remat={remat}" in ahead.text(found)


def test_where_nothing_fits_the_choice_says_so(monkeypatch):
    monkeypatch.setattr(compiling, "examine", Compiler({"none": 99, "dots": 99, "full": 99}).examine)
    monkeypatch.setattr(fitting, "batch_devices", lambda mesh: 16)
    monkeypatch.setattr(compiling.Slice, "mesh", lambda self, config: None)
    found = fitting.choose(load("configs/ppo/gpt3_1p3b.py"), None, PLACE, say=lambda told: None)
    assert not found["fits"] and found["chosen"]["train.microbatch_size"] == 16


def mesh_of(**sizes):
    return SimpleNamespace(shape={"data": 1, "fsdp": 1, "sequence": 1, "tensor": 1} | sizes)


def test_what_a_gradient_sends_is_the_law_worked_by_hand():
    model = variant("tiny", unroll=False, dtype="bfloat16")  # 2 layers of width 32, 128 tokens
    layers, table = 2 * 12 * 32 * 32, 128 * 32

    def law(mesh):
        found = sending.gradient(model, 8, 64, mesh)
        assert found.least == found.again  # nothing is computed again
        return found.least

    # Gathered forward and backward, the gradient scattered: 2 bytes a number, 3 of 4 parts from others.
    assert law(mesh_of(fsdp=4)) == law(mesh_of(fsdp=2, sequence=2)) == 3 * 2 * (layers + table) * 3 / 4
    full = dataclasses.replace(model, remat="full")
    least = law(mesh_of(fsdp=4))
    assert sending.gradient(full, 8, 64, mesh_of(fsdp=4)) == (least, least + layers * 2 * 3 / 4)
    # Copies: every chip's slice of the gradient summed by a ring, out and back.
    assert law(mesh_of(data=4)) == 2 * (layers + table) * 2 * 3 / 4
    assert law(mesh_of(data=2, fsdp=4)) == law(mesh_of(fsdp=4)) + 2 * (layers + table) / 4 * 2 / 2
    # Four sums of 8 x 64 tokens a layer.
    assert law(mesh_of(tensor=2)) == 4 * 2 * (2 * 8 * 64 * 32) * 2 / 2
    assert law(mesh_of()) == 0


def test_a_step_sends_what_its_gradients_do():
    def sent(path, **fields):
        overrides = {field.replace("__", "."): value for field, value in fields.items()}
        config = fitting.changed(load(path), overrides)
        (found,) = sending.of(config, mesh_of(fsdp=16)).values()
        return np.array(found)

    def once(layers, width):
        kernels, table = layers * 12 * width**2, 50304 * width
        return 15 / 16 * 2 * np.array([3 * kernels + 3 * table, 4 * kernels + 3 * table])

    policy, value = once(24, 2048), once(32, 4096)
    np.testing.assert_allclose(sent("configs/sft/gpt3_1p3b.py"), policy)
    np.testing.assert_allclose(sent("configs/rm/gpt3_6b.py", train__microbatch_size=16), 4 * value)
    # 8 minibatches of 4 pieces of 16 episodes; 32 pieces of 16 pretraining rows in each
    plain = sent("configs/ppo/gpt3_1p3b.py", ppo__ptx_coef=0.0)
    np.testing.assert_allclose(plain, 8 * 4 * (policy + value))
    np.testing.assert_allclose(sent("configs/ppo/gpt3_1p3b.py"), plain + 8 * 32 * policy)


def test_a_sweep_ranks_what_fits_by_time_and_says_why_the_others_do_not(monkeypatch):
    def examine(config, programs, place, only, rows, say):
        if config.mesh.data == 16:
            raise InputError("64 rows do not divide")
        return report_of({1: 12, 2: 12, 4: 30}[config.mesh.data], seconds=1 / config.mesh.data)

    monkeypatch.setattr(compiling, "examine", examine)
    config = load("configs/ppo/gpt3_1p3b.py")
    found = fitting.sweep(
        config, None, PLACE, "1x16x1,16x1x1,4x4x1,2x8x1", only=None, rows=None, say=lambda told: None
    )
    assert [one["mesh"] for one in found["meshes"]] == ["2x8x1", "1x16x1", "4x4x1", "16x1x1"]
    assert (
        "does not fit" in found["meshes"][2]["why"] and found["meshes"][3]["why"] == "64 rows do not divide"
    )
    assert found["fits"] and "| 2x8x1 " in ahead.text(found)
    assert "Assumed:\n- nothing" in ahead.text(found)
    assert len(fitting.shapes("all", 16)) == 15
    with pytest.raises(InputError, match="give data x fsdp x tensor"):
        fitting.shapes("4x4", 16)


def test_a_sweep_is_over_what_the_sequence_axis_leaves(monkeypatch):
    seen = []

    def examine(config, programs, place, only, rows, say):
        seen.append(place.sizes(config))
        return report_of(12)

    monkeypatch.setattr(compiling, "examine", examine)
    config = fitting.changed(load("configs/sft/gpt3_1p3b.py"), {"mesh.sequence": 2})

    def sweep(config, which):
        return fitting.sweep(config, None, PLACE, which, only=None, rows=None, say=lambda told: None)

    found = sweep(config, "all")
    assert len(found["meshes"]) == 10 and all(one["fits"] for one in found["meshes"])
    assert {(mesh.sequence, mesh.data * mesh.fsdp * mesh.tensor) for mesh in seen} == {(2, 8)}
    assert ", mesh sequence 2" in ahead.text(found)
    assert not sweep(config, "1x16x1")["fits"]
    with pytest.raises(InputError, match="mesh.sequence is 3: make it a divisor of the slice's 16 devices"):
        sweep(fitting.changed(config, {"mesh.sequence": 3}), "all")


def test_the_report_is_a_page_with_plots_and_its_own_numbers(tmp_path):
    report = report_of(20) | {
        "tried": [
            {
                "program": "update",
                "overrides": {"train.microbatch_size": 16},
                "fits": True,
                "needed_bytes": 2**33,
            }
        ],
        "chosen": {"model.remat": "full"},
    }
    ahead.write_ahead(tmp_path, report)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    page, told = (tmp_path / "index.html").read_text(), (tmp_path / "README.md").read_text()
    assert "Chosen: <code>--config.model.remat=full</code>" in page
    assert "mine &lt;b&gt;" in page and "<b>" not in page
    assert "--config.train.microbatch_size=16" in told and "40.0% MFU" in told and "20.00" in told
    for plot in ("memory.png", "time.png"):
        assert (tmp_path / plot).read_bytes().startswith(b"\x89PNG") and plot in page
