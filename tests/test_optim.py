import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from instruct_jax.errors import InputError
from instruct_jax.training.optim import (
    OptimizerConfig,
    apply_gradients,
    ema_update,
    make_optimizer,
    make_schedule,
)
from instruct_jax.training.state import init_state


def test_tf_adam_is_the_reference_formula():
    lr, b1, b2, eps = 3e-4, 0.9, 0.95, 1e-5
    tx = make_optimizer(OptimizerConfig(lr, schedule="constant", b1=b1, b2=b2, eps=eps), 100)
    grads = np.random.default_rng(0).normal(size=(20, 3)) * 10.0 ** np.arange(
        -6, -3
    )  # around eps, where forms differ
    params = jnp.zeros(3)
    opt_state = tx.init(params)
    m, v, expected = np.zeros(3), np.zeros(3), np.zeros(3)
    for t, grad in enumerate(grads, start=1):
        updates, opt_state = tx.update(jnp.asarray(grad, jnp.float32), opt_state, params)
        params = optax.apply_updates(params, updates)
        m = b1 * m + (1 - b1) * grad
        v = b2 * v + (1 - b2) * grad**2
        expected -= lr * math.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + eps)
        np.testing.assert_allclose(params, expected, rtol=2e-5)


def test_the_tf_form_takes_smaller_first_steps_than_the_usual_form():
    grads, sizes = {"w": jnp.full(2, 1e-5)}, {}
    for tf_style in (True, False):
        tx = make_optimizer(OptimizerConfig(1.0, schedule="constant", tf_style=tf_style), 10)
        updates, _ = tx.update(grads, tx.init(grads), grads)
        sizes[tf_style] = float(-updates["w"][0])
    # by hand: g / (g + eps) = 1/2 usually, and sqrt(.05)/.1 * .1 g / (sqrt(.05) g + eps) in TensorFlow's form
    assert sizes[False] == pytest.approx(0.5, rel=1e-4)
    assert sizes[True] == pytest.approx(math.sqrt(0.05) / (math.sqrt(0.05) + 1), rel=1e-4)


def test_cosine_starts_at_the_peak_without_warmup_and_ends_at_exactly_ten_percent():
    schedule = make_schedule(OptimizerConfig(1.0), 101)
    assert float(schedule(0)) == 1.0
    assert float(schedule(50)) == pytest.approx(0.55)
    assert np.float32(schedule(100)) == np.float32(0.1)
    assert np.float32(schedule(5000)) == np.float32(0.1)


def test_warmup_climbs_from_a_tenth_of_the_peak_over_ten_iterations_and_stays():
    schedule = make_schedule(OptimizerConfig(2.0, schedule="constant", warmup_steps=10), 500)
    assert float(schedule(0)) == pytest.approx(0.2)
    assert float(schedule(5)) == pytest.approx(1.1)
    assert [float(schedule(i)) for i in (10, 11, 499, 9999)] == [2.0] * 4


def test_the_schedule_counts_iterations_of_several_optimizer_steps():
    config = OptimizerConfig(1.0, schedule="constant", warmup_steps=10)
    by_iteration, by_step = make_schedule(config, 20), make_schedule(config, 20, steps_per_iteration=8)
    for step in (0, 7, 8, 79, 80, 159):
        assert float(by_step(step)) == float(by_iteration(step // 8))
    tx = make_optimizer(config, 20, steps_per_iteration=2)
    state, sizes = tx.init(jnp.zeros(1)), []
    for _ in range(4):
        updates, state = tx.update(jnp.ones(1), state, jnp.zeros(1))
        sizes.append(float(-updates[0]))
    np.testing.assert_allclose(sizes, [0.1, 0.1, 0.19, 0.19], rtol=1e-4)


def test_the_average_moves_by_one_minus_its_decay():
    ema = ema_update({"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([0.0, 1.0])}, 0.992)
    np.testing.assert_allclose(ema["w"], [0.992, 0.008], rtol=1e-6)


def test_a_step_reports_the_norm_before_clipping_and_moves_the_average():
    tx = make_optimizer(OptimizerConfig(0.5, schedule="constant", grad_clip=1e-3), 10)
    params = {"w": jnp.array([1.0, 1.0])}
    state = init_state(params, tx, ema=True)
    state, norm = jax.jit(lambda s, g: apply_gradients(s, g, tx, 0.9))(state, {"w": jnp.array([3.0, 4.0])})
    assert float(norm) == pytest.approx(5.0)
    assert int(state.step) == 1
    np.testing.assert_allclose(state.opt_state[1].mu["w"], [0.1 * 0.6e-3, 0.1 * 0.8e-3], rtol=1e-5)
    np.testing.assert_allclose(state.ema["w"], 0.9 + 0.1 * state.params["w"], rtol=1e-6)


def test_a_wrong_schedule_is_named_with_its_nearest():
    with pytest.raises(InputError, match="optimizer.schedule.*'cosin'.*'cosine'"):
        OptimizerConfig(1.0, schedule="cosin")
    with pytest.raises(InputError, match="optimizer.b2 is 1"):
        OptimizerConfig(1.0, b2=1.0)


def test_frozen_parameters_stay_and_have_no_moments_and_the_others_move_as_ever():
    config = OptimizerConfig(0.5, schedule="constant")
    params = {"embed": {"tokens": jnp.ones(3)}, "layers": {"up": jnp.ones(2)}}
    grads = jax.tree.map(lambda x: 2.0 * x, params)
    moved = {}
    for frozen in ((), ("embed",)):
        tx = make_optimizer(config, 10, frozen=frozen)
        state, _ = apply_gradients(init_state(params, tx), grads, tx)
        moved[frozen] = state.params
        sizes = [leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
        assert sorted(sizes) == ([2, 2] if frozen else [2, 2, 3, 3])
    np.testing.assert_array_equal(moved["embed",]["embed"]["tokens"], params["embed"]["tokens"])
    np.testing.assert_array_equal(moved["embed",]["layers"]["up"], moved[()]["layers"]["up"])
