"""A step with a bad number leaves no trace in the state, or stops the run; its batch is kept either way."""

import dataclasses
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from test_stages import lm_case, ppo_config, rm_case, state_of, tokens

from instruct_jax.batches import Rollout, TokenBatch
from instruct_jax.errors import InputError
from instruct_jax.stages import setup, states, train_ppo
from instruct_jax.training import guard, limits
from instruct_jax.training.limits import GuardConfig
from instruct_jax.training.loop import fit
from instruct_jax.training.metrics import read_metrics
from instruct_jax.training.optim import OptimizerConfig, apply_gradients, make_optimizer
from instruct_jax.training.state import init_state

SKIP = GuardConfig(action="skip", max_skips=2)
TX = make_optimizer(OptimizerConfig(0.05), 12)


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def toy_step(config):
    def step(state, batch, key):
        loss, grads = jax.value_and_grad(lambda params: jnp.mean((batch["x"] @ params["w"]) ** 2))(
            state.params
        )
        new, norm = apply_gradients(state, grads, TX, 0.9)
        return limits.held(state, new, {"lm/loss": loss, "lm/grad_norm": norm}, config)

    return jax.jit(step, donate_argnums=0)


TOYS = {config: toy_step(config) for config in (SKIP, limits.STOP, GuardConfig("skip", max_loss=100.0))}


def fresh():
    return init_state({"w": jnp.ones(4)}, TX, ema=True)


def batch_with(bad):
    """Batch i of ordinary numbers, or scaled by what `bad` says of i."""

    def batch_at(i):
        x = np.random.default_rng(i).normal(size=(8, 4)).astype(np.float32)
        return {"x": x * np.float32(bad.get(i, 1))}

    return batch_at


def run(workdir, bad, config=SKIP, save_every=3, batch_at=None, **options):
    return fit(
        TOYS[config], fresh(), batch_at or batch_with(bad), total_steps=10, key=jax.random.key(0), workdir=workdir, log_every=1,
        save_every=save_every, meta={}, name="toy", tensorboard=False, guard_config=config, **options,
    )  # fmt: skip


def test_a_run_with_skipped_steps_is_the_run_without_their_batches_bit_for_bit(tmp_path):
    bad = {2: np.nan, 3: np.inf, 9: np.nan}
    state = run(tmp_path, bad)
    expected = fresh()
    for i in range(10):
        if i not in bad:
            expected, _ = TOYS[limits.STOP](expected, batch_with({})(i), jax.random.key(0))
    assert bits(state) == bits(expected)
    assert [row["guard/bad"] for row in read_metrics(tmp_path)] == [0, 0, 1, 1, 0, 0, 0, 0, 0, 1]
    assert sorted(path.name for path in (tmp_path / "offending").iterdir()) == [
        "step_00000003.npz", "step_00000004.npz", "step_00000010.npz",
    ]  # fmt: skip


def test_a_number_above_its_limit_is_skipped_as_one_that_is_not_finite(tmp_path):
    config = GuardConfig("skip", max_loss=100.0)
    state = run(tmp_path, {4: 8.0}, config)
    assert int(state.step) == 9
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows if row["guard/max_loss"]] == [5]
    assert rows[4]["lm/loss"] > 100


def test_too_many_skipped_steps_in_a_row_stop_the_run_and_a_good_one_between_starts_the_count_anew(tmp_path):
    run(tmp_path / "apart", {1: np.nan, 2: np.nan, 4: np.nan, 5: np.nan})
    with pytest.raises(
        guard.TrainingError, match="at step 7 and 3 steps in a row were skipped.*step 6 .*is good"
    ):
        run(tmp_path / "together", {4: np.nan, 5: np.nan, 6: np.nan, 7: np.nan})


@pytest.mark.parametrize("stopped_at", [6, 8, 9])
def test_the_count_of_skipped_steps_in_a_row_survives_a_stop(tmp_path, stopped_at):
    bad = {4: np.nan, 5: np.nan, 6: 1, 7: np.nan, 8: np.nan, 9: np.nan}

    def batch_or_stop(i):
        if i == stopped_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch_with(bad)(i)

    with pytest.raises(guard.Preempted, match=f"step {stopped_at};"):
        run(tmp_path, None, batch_at=batch_or_stop)
    with pytest.raises(guard.TrainingError, match="at step 10 and 3 steps in a row were skipped"):
        run(tmp_path, bad)


def test_a_stopped_run_keeps_the_batch_with_its_step_and_metrics_and_says_where(tmp_path):
    with pytest.raises(guard.TrainingError, match=r"is nan at step 5; .*offending/step_00000005.npz"):
        run(tmp_path, {4: np.nan}, limits.STOP)
    with np.load(tmp_path / "offending" / "step_00000005.npz", allow_pickle=False) as kept:
        assert np.isnan(kept["x"]).all() and kept["x"].shape == (8, 4)
        assert int(kept["step"]) == 5
        assert np.isnan(json.loads(str(kept["metrics"]))["lm/loss"])


def test_what_a_step_saw_beside_its_batch_is_kept_too(tmp_path):
    def step(state, batch, key):
        return state, {"loss": jnp.nan}, {"seen": jnp.arange(3)}

    with pytest.raises(guard.TrainingError, match="loss is nan at step 1"):
        fit(
            step, fresh(), batch_with({}), total_steps=2, key=jax.random.key(0), workdir=tmp_path, log_every=1,
            save_every=9, meta={}, name="toy", tensorboard=False, guard_config=SKIP,
        )  # fmt: skip
    with np.load(tmp_path / "offending" / "step_00000001.npz") as kept:
        assert set(kept) == {"step", "metrics", "0/x", "1/seen"} and kept["1/seen"].tolist() == [0, 1, 2]


def test_the_folder_of_offending_batches_does_not_grow_for_ever_and_a_full_disk_hides_no_error(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(limits, "MOST_KEPT", 2)
    said = [limits.keep_batch(tmp_path, step, {"x": np.ones(2)}, {"loss": np.nan}) for step in (1, 2, 3)]
    assert "not kept" in said[2] and len(list((tmp_path / "offending").iterdir())) == 2
    monkeypatch.setattr(np, "savez", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
    assert "could not be kept" in limits.keep_batch(tmp_path, 2, {"x": np.ones(2)}, {})


@pytest.mark.parametrize(
    "fields, words",
    [
        (dict(action="ignore"), "train.guard.action"),
        (dict(max_skips=-1), "train.guard.max_skips"),
        (dict(max_kl=0.0), "train.guard.max_kl"),
        (dict(max_ratio=float("nan")), "train.guard.max_ratio"),
    ],
)
def test_settings_without_sense_are_named(fields, words):
    with pytest.raises(InputError, match=words):
        GuardConfig(**fields)


def test_a_limit_on_what_a_stage_does_not_measure_is_refused():
    with pytest.raises(InputError, match="train.guard.max_kl: this stage has none of objective/kl"):
        limits.faults({"lm/loss": jnp.float32(1)}, GuardConfig(max_kl=1.0))


def test_the_message_says_whether_a_minibatch_alone_passed_the_limit():
    guarded = GuardConfig("skip", max_grad_norm=24.0)
    numbers = {"guard/bad": 1.0, "guard/max_grad_norm": 1.0, "ppo/policy_grad_norm": 1.3}
    passed = limits.first_fault({**numbers, "ppo/value_grad_norm": 30.0}, guarded)
    assert (
        passed
        == "train.guard.max_grad_norm = 24.0 was passed (ppo/policy_grad_norm 1.3, ppo/value_grad_norm 30)"
    )
    assert "in a minibatch; means of the step: ppo/policy_grad_norm 1.3" in limits.first_fault(
        {**numbers, "ppo/value_grad_norm": 21.0}, guarded
    )


@pytest.mark.parametrize("case", [lm_case, rm_case])
def test_a_language_or_reward_model_over_its_limit_stays_as_it_was(case):
    module, config, batches = case()
    config.train.guard = ConfigDict({"action": "skip", "max_grad_norm": 1e-6})
    mesh = setup.open_mesh(setup.MeshSettings())
    with jax.set_mesh(mesh):
        step = module.programs(config, mesh)["train_step"][0]
        state = state_of(module, config, mesh)
        before = bits(state)
        state, metrics = step(state, setup.put(batches[0], mesh), jax.random.key(0))
    assert bits(state) == before and int(metrics["guard/max_grad_norm"]) == 1


@pytest.fixture(scope="module")
def ppo_update():
    """(update, fresh state, a rollout, pretraining rows) with limits on KL and ratio, an adaptive KL coefficient, skipping."""
    config = ppo_config()
    config.train.guard = ConfigDict({"action": "skip", "max_kl": 50.0, "max_ratio": 100.0})
    config.ppo.adaptive_kl_target = 6.0
    mesh = setup.open_mesh(setup.MeshSettings())
    p = train_ppo.build(config, None, eos_id=2, pad_id=0)
    with jax.set_mesh(mesh):
        policy, scalar = (
            states.init_params(m, jax.random.key(i)) for i, m in enumerate((p.policy, p.scalar))
        )
        update = train_ppo.make_iteration(p, None, None, mesh, train_ppo.abstract_state(p, mesh))[1]["update"]
    ones, rows = np.ones((16, 8), np.float32), np.ones((16, 20), np.int32)
    ptx = TokenBatch(tokens(16, 20), rows, rows > 0)
    rollout = Rollout(
        tokens(16, 12), np.ones((16, 12), bool), tokens(16, 8), np.ones((16, 8), bool), -4.8 * ones, -4.8 * ones, 0 * ones, ones[:, 0],
        ones, np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32), ones,
    )  # fmt: skip

    def call(kl=6.6, **changes):
        with jax.set_mesh(mesh):
            copy = jax.tree.map(jnp.copy, (policy, scalar))
            state = train_ppo.PPOState(
                states.state_from(copy[0], p.policy_tx, mesh, ema=True),
                states.state_from(copy[1], p.value_tx, mesh),
                jnp.float32(0.02),
            )
            before = bits(state)
            state, metrics = update(
                state,
                setup.put(dataclasses.replace(rollout, **changes), mesh),
                setup.put(ptx, mesh),
                jax.random.key(0),
                jnp.float32(kl),
            )
        return before, state, metrics

    return call, rollout


def test_a_sound_ppo_iteration_is_applied_and_moves_the_kl_coefficient(ppo_update):
    before, state, metrics = ppo_update[0]()
    assert float(metrics["guard/bad"]) == 0 and int(state.policy.step) == int(state.value.step) == 2
    assert float(state.kl_coef) == pytest.approx(0.02 * (1 + 0.1 * 16 / 10_000))
    assert "objective/kl" not in metrics


@pytest.mark.parametrize("kl", [50.1, np.nan, np.inf])
def test_an_iteration_whose_kl_explodes_leaves_policy_value_average_and_coefficient_as_they_were(
    ppo_update, kl
):
    before, state, metrics = ppo_update[0](kl=kl)
    assert bits(state) == before and float(metrics["guard/bad"]) == 1


@pytest.mark.parametrize(
    "field, value", [("advantages_BR", np.nan), ("logprobs_BR", -30.0), ("returns_BR", np.inf)]
)
def test_a_bad_minibatch_is_left_out_and_the_other_one_taken(ppo_update, field, value):
    call, rollout = ppo_update
    broken = getattr(rollout, field).copy()
    broken[3] = value
    _, state, metrics = call(**{field: broken})
    assert float(metrics["guard/bad"]) == 0.5
    assert int(state.policy.step) == int(state.value.step) == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert float(metrics["guard/max_ratio"]) == (0.5 if field == "logprobs_BR" else 0)
