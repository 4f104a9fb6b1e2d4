"""The benchmark beside others: its arithmetic with numbers worked by hand, its limits, its options, its talk with workers, and our side of
it at the smallest size. The others' sides need environments of their own and run only in the benchmark itself."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import run  # noqa: E402
from beside import growth, limits, ours, table, worker  # noqa: E402
from beside.sizes import SIZES  # noqa: E402

from instruct_jax.models.transformer import PolicyModel  # noqa: E402
from instruct_jax.pretrained import families  # noqa: E402
from instruct_jax.sharding import make_mesh  # noqa: E402
from instruct_jax.stages import states, train_lm  # noqa: E402

TINY = SIZES["tiny"]
US, THEM = "ours float32", "trl float32"


def cell(**more) -> dict:
    rounds = [
        {US: {"step": mine}, THEM: {"step": theirs}} for mine, theirs in ((1.0, 3.0), (2.0, 5.0), (1.0, 4.0))
    ]
    return {
        "stage": "sft", "size": "tiny", "dtype": {US: "float32", THEM: "float32"}, "tokens": 40, "rounds": rounds, "failed": {},
        "machine": {"float32": [{"flops": 1e9, "bytes": 2e8}, {"flops": 4e9, "bytes": 1e8}]}, "again": {US: 2.5},
        "work": {US: {"step": [2e9, 4e7, 40]}}, "first": {US: 9.0, THEM: 1.0}, "peak": {US: 2**30, THEM: 2**31},
        "parameters": {US: 7, THEM: 8}, **more,
    }  # fmt: skip


def test_a_ratio_is_taken_within_a_round_and_told_with_its_spread():
    assert table.ratios(cell(), THEM, US) == (2.5, 3.0, 4.0)  # of the medians it would be 4
    told = table.render(cell())
    assert "| trl float32 | 4 (3 to 5) | 10 | 3.00 (2.50 to 4.00) | 1.0 | 2.00 |" in told
    assert "Difference of work, trl" in told and "ours float32 7; trl float32 8" in told


def test_a_limit_is_the_larger_of_products_and_bytes_at_the_best_that_the_machine_did():
    # 2e9 operations at 4e9 a second are 0.5 s, 4e7 bytes at 2e8 a second 0.2 s; the median step takes 1 s.
    assert table.achieved(cell(), US) == {"step": (1.0, 0.5, "products")}
    assert limits.least_seconds((2e9, 4e8), 4e9, 2e8) == (2.0, "memory")


def test_the_least_of_parts_that_follow_one_another_adds_up():
    parts = {"rollout": [2e9, 0.0, 40], "update": [4e9, 0.0, 40], "step": [6e9, 0.0, 40]}
    rounds = [{US: {"step": 4.0, "rollout": 1.0, "update": 2.0}}]
    found = table.achieved(cell(work={US: parts}, rounds=rounds), US)
    assert found["rollout"][1] == 0.5 and found["update"][1] == 0.5
    assert found["step"] == (4.0, 1.5 / 4.0, "sum")


def test_a_power_law_gives_its_exponent():
    assert table.slope([1, 2, 4, 8], [3.0, 12.0, 48.0, 192.0]) == pytest.approx(2.0)
    axes = {"length": {"stage": "sft", "points": [(10, 1.0), (20, 2.0)]}}
    assert "| length | sft | 10 1, 20 2 | 1.00 |" in table.render_growth(axes)


def test_products_and_bytes_are_those_counted_by_hand():
    multiply = jax.jit(jnp.matmul)
    assert limits.flops(multiply, jnp.ones((3, 5)), jnp.ones((5, 7))) == 2 * 3 * 5 * 7
    # A layer: queries and out 32 x 32, keys and values 32 x 16, three of 32 x 64; a head of 32 x 128.
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64
    assert limits.matrix_bytes(TINY, 4, vocabulary=True) == 4 * (2 * layer + 32 * 128)
    # Tokens 2 to 6 of 4 rows read 5 to 9 keys and values of 2 heads of 8 channels in 2 layers.
    cache = 4 * (5 + 6 + 7 + 8 + 9) * 2 * 2 * 2 * 8 * 4
    assert limits.decode_bytes(TINY, 4) == 5 * 4 * (2 * layer + 32 * 128) + cache
    assert limits.training_bytes(10) == 280


@pytest.mark.parametrize("name", SIZES)
def test_a_size_counts_its_parameters_as_the_model_has_them(name):
    size = SIZES[name]
    model = PolicyModel(families.to_config(size.config_json()))
    there = jax.tree.leaves(states.abstract_params(model))
    assert sum(leaf.size for leaf in there) == size.parameters
    assert {"17m": 16.9e6, "135m": 134.5e6}.get(name, size.parameters) == pytest.approx(
        size.parameters, rel=0.01
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--stages", "sft,rl"], "--stages: 'rl' is none of sft, rm"),
        (["--dtypes", "float16"], "--dtypes: 'float16' is none of float32"),
        (["--sizes", "7b"], "--sizes: '7b' is none of tiny, 17m"),
        (["--peers", "verl"], "--peers: 'verl' is none of trl"),
        (["--rounds", "0"], "--rounds is 0"),
        (["--threads", "9999"], "--threads is 9999: this machine has"),
        (["--python", "no-such-python", "--peers", ""], "--python: found no no-such-python"),
        (["--show", "no-such-file.json"], "--show: no-such-file.json cannot be read"),
    ],
)
def test_a_wrong_option_is_told_in_one_message(given, said, capsys):
    assert run.main(given) == 2
    assert said in capsys.readouterr().err


def test_everybody_takes_part_in_what_it_can_do_and_no_more():
    peers = list(run.PEERS)
    assert run.participants("rm", ["float32"], peers) == [US, THEM]
    assert run.participants("ppo", ["float32", "bfloat16_weights"], peers) == [
        US, "trl_ppo float32", "trl_ppo bfloat16_weights", "tunix float32",
    ]  # fmt: skip
    assert run.participants("phases", ["float32"], peers) == [US]


FAKE = """
import sys
from pathlib import Path
from beside.worker import Line
line, name, said = Line(), sys.argv[1], Path(sys.argv[2])
print("noise on standard output")
line.reply(parameters=5, versions={}, **({"work": {"step": [1e9, 0.0, 1]}} if name.startswith("ours") else {}))
turns = []
def run_round():
    turns.append(0)
    with said.open("a") as file:
        file.write(name.split()[0] + "\\n")
    if name.startswith("tunix") and len(turns) == 4:
        raise SystemExit("out of memory")
    return {"flops": 1e9, "bytes": 1e9} if name.startswith("machine") else {"step": 1.0 + (len(turns) == 1)}
line.serve(run_round)
"""


class FakeBenchmark:
    """Workers that do nothing, but tunix, which dies in its second timed round."""

    def __init__(self, folder: Path):
        self.folder = folder

    def start(self, who, stage, size, devices=None):
        command = [sys.executable, "-c", FAKE, who, str(self.folder / "said")]
        return worker.Worker(command, {"PYTHONPATH": str(BENCHMARKS)}, self.folder / f"{who}.log", 20.0)


def test_rounds_interleave_from_another_worker_on_each_and_go_on_without_one_that_dies(tmp_path):
    saved = []
    found = run.measure(
        FakeBenchmark(tmp_path),
        "ppo",
        "tiny",
        [US, "tunix float32"],
        3,
        lambda cell: saved.append(len(cell["rounds"])),
    )
    said = (tmp_path / "said").read_text().split()
    assert said[:6] == [
        "ours",
        "ours",
        "tunix",
        "tunix",
        "machine",
        "machine",
    ]  # a first call each and one more
    assert said[6:9] == ["ours", "tunix", "machine"] and said[9:12] == ["tunix", "machine", "ours"]
    assert said[12:14] == ["ours", "machine"]
    assert [sorted(each) for each in found["rounds"]] == [[US, "tunix float32"], [US], [US]]
    assert saved == [1, 2, 3]
    assert "out of memory" in found["failed"]["tunix float32"]
    assert found["first"][US] == 2.0 and found["peak"][US] > 0 and found["again"][US] > 0
    assert "did not run: ended with status 1" in table.render(found)


def test_what_was_saved_is_shown_again(tmp_path, capsys):
    file = tmp_path / "out.json"
    run._save(file, {"command": "run.py --stages sft", "cells": [cell()], "growth": {}})
    assert run.main(["--show", str(file)]) == 0
    shown = capsys.readouterr().out
    assert (
        "`run.py --stages sft`" in shown and "3.00 (2.50 to 4.00)" in shown and json.loads(file.read_text())
    )


def test_a_training_loop_that_waits_between_rounds_gives_the_seconds_of_its_parts(monkeypatch):
    class FakeLine:
        waits, replies = 0, []

        def wait(self):
            self.waits += 1

        def reply(self, **found):
            self.replies.append(found["seconds"])

    clock = iter([0.0, 1.0, 4.0, 4.0, 10.0, 12.0, 20.0, 20.0, 20.0])
    monkeypatch.setattr(worker.time, "perf_counter", lambda: next(clock))
    line = FakeLine()
    laps = worker.Laps(line, 2)
    laps.begin()  # at 0
    laps.mark("generation"), laps.mark("update")  # at 1 and 4
    laps.lap()  # at 4; the next round begins at 10
    laps.mark("update"), laps.lap()  # at 12: two steps a round after the first
    laps.mark("update"), laps.lap()  # at 20: they add up
    assert line.replies == [{"step": 4.0, "generation": 1.0, "update": 3.0}, {"step": 5.0, "update": 5.0}]
    assert line.waits == 3


def test_each_axis_of_growth_changes_what_it_names():
    assert growth.varied(TINY, "batch", 2)[0].rows == 8
    assert growth.varied(TINY, "length", 2)[1] == 2 * TINY.length
    assert growth.varied(TINY, "devices", 4) == (TINY, 4, 4)
    wider, parameters, _ = growth.varied(TINY, "parameters (width)", 2)
    assert (wider.width, wider.heads, wider.mlp) == (64, 8, 128) and parameters == wider.parameters
    size, completions, _ = growth.varied(SIZES["17m"], "completions, one prompt each", 8)
    assert (size.rows, size.completions, completions) == (32, 8, 8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beside") / "weights"
    ours.write_weights(TINY, folder)
    return folder


@pytest.mark.parametrize(
    ("stage", "parts"),
    [
        ("sft", {"step"}),
        ("rm", {"step"}),
        ("decode", {"step"}),
        ("ppo_ptx", {"step", "rollout", "scoring", "update"}),
        ("phases", {"step", "prefill", "decode", "scoring"}),
    ],
)
def test_our_worker_times_every_phase_and_knows_its_work(stage, parts, weights):
    made = ours.make(stage, TINY, weights, "float32", make_mesh(data=2, devices=jax.devices()[:2]))
    first, second = made.run_round(), made.run_round()
    assert set(first) == set(second) == set(made.work) == parts
    assert second["step"] > 0 and all(work.flops > 0 and work.bytes > 0 for work in made.work.values())
    scalar = TINY.scalar_parameters + 1  # our heads have a bias
    assert made.parameters == {"rm": scalar, "sft": TINY.parameters, "decode": TINY.parameters}.get(
        stage, TINY.parameters + scalar
    )


@pytest.mark.parametrize(
    "rows", [4, 512]
)  # 512: more logits than are alive at once, which are made again for the gradient
def test_our_training_counts_the_products_that_the_formula_gives(weights, rows):
    size = dataclasses.replace(TINY, rows=rows)
    data = dict(dir="", kind="documents", batch_size=rows)
    config = ours.config_of(size, weights, "float32", data=data, train=dict(steps=1000))
    mesh = make_mesh(data=2, devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        found = ours.least_flops(train_lm.programs, config, size, mesh)
    # Forward, and twice that backward: every matrix for every token, the head for every token but a row's last, and attention's
    # two products of 10 x 10 scores with 4 heads of 8 channels in 2 layers.
    head = rows * (size.length - 1) * size.vocab * size.width
    attention = size.layers * rows * 2 * size.length**2 * 4 * 8
    assert found == {"train_step": 3 * 2 * (rows * size.length * size.blocks + head + attention)}


def test_a_worker_that_cannot_start_is_told_with_its_last_words(tmp_path):
    broken = worker.Worker(
        [sys.executable, "-c", "raise SystemExit('no such model')"], {}, tmp_path / "log", 20.0
    )
    with pytest.raises(worker.Failed, match=r"ended with status 1: no such model"):
        broken.read()


def test_ours_has_as_many_devices_as_asked_for_and_one_a_core_otherwise(tmp_path):
    options = run.read_options(["--threads", "1"])
    assert options.devices == 1
    options = run.read_options(["--threads", "1", "--devices", "3"])
    assert "--devices 3" in run.described(options)["command"]
    made = run.Benchmark({}, options.threads, tmp_path, options.devices).environment("ours")
    assert made["XLA_FLAGS"] == "--xla_force_host_platform_device_count=3"
