"""The home of the optimizer: Adam, its learning-rate schedules and the weight average.

The paper gives Adam with betas 0.9 and 0.95, cosine to 10 % (SFT and RM) or constant after a warm-up (PPO), and an
average of 0.992; it does not give epsilon. Ours is the 1e-5 of its ancestors in TensorFlow's form, where epsilon is
added to sqrt(v) before the bias correction: the other form takes larger early steps. No weight decay.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from instruct_jax.errors import InputError
from instruct_jax.sharding import fetched, returned
from instruct_jax.training.state import TrainState

SCHEDULES = ("cosine", "constant")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Adam and its schedule; warm-up climbs in a line from `warmup_start` x the peak over `warmup_steps`."""

    learning_rate: float
    schedule: str = "cosine"
    warmup_steps: int = 0
    warmup_start: float = 0.1
    final_fraction: float = 0.1  # of the peak, where the cosine ends
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-5
    tf_style: bool = True
    grad_clip: float | None = None  # global norm

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            nearest = difflib.get_close_matches(self.schedule, SCHEDULES, n=1, cutoff=0)[0]
            raise InputError(
                f"optimizer.schedule is {self.schedule!r}; did you mean {nearest!r}? There are {', '.join(SCHEDULES)}"
            )
        checks = {
            "learning_rate": 0 <= self.learning_rate < math.inf,
            "warmup_steps": self.warmup_steps >= 0,
            "warmup_start": 0 <= self.warmup_start <= 1,
            "final_fraction": 0 <= self.final_fraction <= 1,
            "b1": 0 <= self.b1 < 1,
            "b2": 0 <= self.b2 < 1,
            "eps": self.eps > 0,
            "grad_clip": self.grad_clip is None or self.grad_clip > 0,
        }
        for field, holds in checks.items():
            if not holds:
                raise InputError(f"optimizer.{field} is {getattr(self, field)}, which is outside its range")


def make_schedule(config: OptimizerConfig, total_steps: int, steps_per_iteration: int = 1) -> Callable:
    """Learning rate as a function of the optimizer steps taken so far (paper App. C.1 to C.4).

    `total_steps` and `warmup_steps` count iterations, of `steps_per_iteration` optimizer steps each (PPO takes
    several to an iteration and its schedule counts iterations). The last iteration runs at exactly
    `final_fraction` of the peak under "cosine".
    """
    if total_steps < 1 or steps_per_iteration < 1:
        raise InputError(f"a schedule needs total_steps and steps_per_iteration >= 1, got {total_steps}, "
                         f"{steps_per_iteration}")  # fmt: skip
    decay_steps = max(total_steps - 1 - config.warmup_steps, 1)

    def schedule(step):
        iteration = jnp.asarray(step) // steps_per_iteration
        fraction = jnp.float32(1.0)
        if config.schedule == "cosine":
            progress = jnp.clip((iteration - config.warmup_steps) / decay_steps, 0.0, 1.0)
            cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
            fraction = config.final_fraction + (1.0 - config.final_fraction) * cosine
        if config.warmup_steps:
            climb = jnp.minimum(iteration / config.warmup_steps, 1.0)
            fraction = fraction * (config.warmup_start + (1.0 - config.warmup_start) * climb)
        return config.learning_rate * fraction

    return schedule


def scale_by_tf_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam's direction in TensorFlow's form: sqrt(1-b2^t)/(1-b1^t) * m/(sqrt(v)+eps)."""

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.zeros_like, params))

    def update(grads, state, params=None):
        del params
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, grads)
        correction = jnp.sqrt(1 - b2 ** count.astype(jnp.float32)) / (1 - b1 ** count.astype(jnp.float32))
        direction = jax.tree.map(lambda m, v: correction * m / (jnp.sqrt(v) + eps), mu, nu)
        return direction, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def make_optimizer(
    config: OptimizerConfig, total_steps: int, steps_per_iteration: int = 1, frozen: tuple[str, ...] = ()
) -> optax.GradientTransformation:
    """The optax transformation of `config`: clipping if asked, Adam, learning rate; see `make_schedule` for units.

    Parameters under the top-level names `frozen` are not moved and have no moments.
    """
    adam = scale_by_tf_adam if config.tf_style else optax.scale_by_adam
    tx = optax.chain(
        optax.identity() if config.grad_clip is None else optax.clip_by_global_norm(config.grad_clip),
        adam(config.b1, config.b2, config.eps),
        optax.scale_by_learning_rate(make_schedule(config, total_steps, steps_per_iteration)),
    )
    if not frozen:
        return tx

    def moved(params):
        return {name: name not in frozen for name in params}

    def held(params):
        return {name: name in frozen for name in params}

    return optax.chain(optax.masked(tx, moved), optax.masked(optax.set_to_zero(), held))


def ema_update(ema, params, decay: float):
    """decay * ema + (1 - decay) * params, leaf by leaf (paper App. C.4: 0.992, here once per optimizer step)."""
    return jax.tree.map(lambda average, new: decay * average + (1.0 - decay) * new, ema, params)


def apply_gradients(state: TrainState, grads, tx, ema_decay: float | None = None):
    """One optimizer step: (new state, global norm of the gradients before clipping); pure, to be called under jit.

    The average is moved only where the state holds one, and then needs `ema_decay`. What lies in host memory is fetched for
    the step and put back.
    """
    updates, opt_state = tx.update(grads, fetched(state.opt_state), state.params)
    opt_state = returned(opt_state, state.opt_state)
    params = optax.apply_updates(state.params, updates)
    ema = None
    if state.ema is not None:
        ema = returned(ema_update(fetched(state.ema), params, ema_decay), state.ema)
    return TrainState(state.step + 1, params, opt_state, ema), optax.tree.norm(grads)
