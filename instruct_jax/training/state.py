"""The home of the train state: arrays only, so that it can be donated, sharded and saved as one tree.

The paper does not say how its state is held; the weight average (`ema`) is the one of App. C.4.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What one optimizer step reads and writes; the model and the optimizer are closed over by the step."""

    step: jax.Array  # i32[], optimizer steps taken
    params: Any
    opt_state: Any
    ema: Any = None  # None, or a tree like params


def init_state(params, tx, ema: bool = False) -> TrainState:
    """A fresh state at step 0 for optax transformation `tx`; `ema=True` starts the average at a copy of the params."""
    average = jax.tree.map(jnp.copy, params) if ema else None
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=tx.init(params), ema=average)
