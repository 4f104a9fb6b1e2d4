"""The configs at the paper's values: they have its shapes and its numbers (paper Apps. B and C)."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from instruct_jax.algorithms.ppo import PPOConfig
from instruct_jax.stages import setup, train_lm, train_ppo, train_rm
from instruct_jax.stages.settings import section
from instruct_jax.training.optim import OptimizerConfig

ROOT = Path(__file__).parent.parent


def load_config(path):
    spec = importlib.util.spec_from_file_location("a_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def count(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


PARAMETERS = {"1p3b": 1.3e9, "6b": 6.6e9, "175b": 174.6e9}


@pytest.mark.parametrize("size", PARAMETERS)
@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_the_paper_value_configs_have_the_papers_shapes(stage, size):
    config = load_config(ROOT / "configs" / stage / f"gpt3_{size}.py")
    module = {"sft": train_lm, "rm": train_rm, "ppo": train_ppo}[stage]
    mesh = setup.open_mesh(setup.MeshSettings())
    with jax.set_mesh(mesh):
        programs = module.programs(config, mesh)
        for name, (jitted, arguments) in programs.items():
            out = jax.eval_shape(jitted, *arguments)
            if name in ("train_step", "update"):
                same = jax.tree.map(
                    lambda a, b: a.shape == b.shape and a.dtype == b.dtype, arguments[0], out[0]
                )
                assert all(jax.tree.leaves(same))
    state = programs["update" if stage == "ppo" else "train_step"][1][0]
    policy = state.policy if stage == "ppo" else state
    assert count(policy.params) == pytest.approx(PARAMETERS[size], rel=0.02)
    if stage == "ppo":
        assert count(state.value.params) == pytest.approx(PARAMETERS["6b"], rel=0.02)
        ptx = programs["update"][1][2]
        assert ptx.tokens_BT.shape == (512 * 8, 2048)
        assert config.train.episodes // config.train.batch_size == 500


PAPER = {
    "sft": dict(
        data=dict(batch_size=32, pretraining_fraction=0.0), optimizer=dict(learning_rate=9.65e-6),
        train=dict(epochs=16.0, keep_epochs=True), model=dict(dropout=0.2),
    ),
    "rm": dict(
        data=dict(batch_size=64, k_max=9), optimizer=dict(learning_rate=9e-6), train=dict(epochs=1.0, divide_by="all_pairs")
    ),
    "ppo": dict(
        policy_optimizer=dict(schedule="constant", warmup_steps=10), value_optimizer=dict(learning_rate=9e-6, warmup_steps=10),
        ppo=dict(kl_coef=0.02, ptx_coef=27.8, clip=0.2, gamma=1.0, lam=0.95, temperature=1.0, value_clip=0.2, missing_eos_score=None),
        train=dict(episodes=256_000, batch_size=512, minibatch_size=64, inner_epochs=1, ptx_ratio=8, ptx_length=2048, ema_decay=0.992),
    ),
}  # fmt: skip
# What the paper gives another value at 175B.
LARGEST = {
    "sft": dict(data=dict(batch_size=8), optimizer=dict(learning_rate=5.03e-6)),
    "ppo": dict(policy_optimizer=dict(learning_rate=2.55e-6), value_optimizer=dict(learning_rate=5e-6)),
}
CLASSES = {
    ("sft", "data"): train_lm.DataSettings, ("sft", "train"): train_lm.TrainSettings, ("rm", "data"): train_rm.DataSettings,
    ("rm", "train"): train_rm.TrainSettings, ("ppo", "train"): train_ppo.TrainSettings, "ppo": PPOConfig,
    "optimizer": OptimizerConfig, "policy_optimizer": OptimizerConfig, "value_optimizer": OptimizerConfig, "model": setup.ModelSettings,
}  # fmt: skip


@pytest.mark.parametrize("size", PARAMETERS)
@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_the_paper_value_configs_have_the_papers_numbers(stage, size):
    config = load_config(ROOT / "configs" / stage / f"gpt3_{size}.py")
    expected = {name: dict(values) for name, values in PAPER[stage].items()}
    for name, values in LARGEST.get(stage, {}).items() if size == "175b" else ():
        expected[name].update(values)
    for name, values in expected.items():
        found = section(config, name, CLASSES.get((stage, name)) or CLASSES[name])
        assert {key: getattr(found, key) for key in values} == values, name
    for name in {"optimizer", "policy_optimizer", "value_optimizer"} & set(config):
        found = section(config, name, OptimizerConfig)
        assert (found.b1, found.b2, found.eps, found.tf_style) == (0.9, 0.95, 1e-5, True)
        warm, cosine = (0, "cosine") if stage != "ppo" else (10, "constant")
        assert (found.warmup_steps, found.schedule, found.final_fraction) == (warm, cosine, 0.1)
        assert found.warmup_steps == 0 or found.warmup_start == 0.1
