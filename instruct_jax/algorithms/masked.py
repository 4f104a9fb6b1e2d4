"""The home of sums and means that see only real tokens, and of whitening.

Variances are biased and epsilon is 1e-8, as in the paper's predecessors.
"""

import jax
import jax.numpy as jnp

WHITEN_EPS = 1e-8


def masked_sum(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Sum of x where mask is True; f32[]. Masked entries may be anything, NaN too."""
    return jnp.where(mask, x, 0.0).sum(dtype=jnp.float32)


def masked_mean(x: jax.Array, mask: jax.Array, count: jax.Array | None = None) -> jax.Array:
    """Mean of x where mask is True, 0 where it never is; f32[]. With `count`, the sum over that instead: a piece's share of the
    mean of a batch that has so many."""
    count = mask.sum() if count is None else count
    return masked_sum(x, mask) / jnp.maximum(count.astype(jnp.float32), 1.0)


def masked_var(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Biased variance of x where mask is True; f32[]."""
    return masked_mean(jnp.square(x - masked_mean(x, mask)), mask)


def whiten(x: jax.Array, mask: jax.Array, shift_mean: bool = True) -> jax.Array:
    """x with unit variance, and mean 0 unless shift_mean is False; masked entries come back 0."""
    mean = masked_mean(x, mask)
    whitened = (x - mean) * jax.lax.rsqrt(masked_var(x, mask) + WHITEN_EPS)
    return jnp.where(mask, whitened if shift_mean else whitened + mean, 0.0)


def last_true_index(mask_BT: jax.Array) -> jax.Array:
    """Column of the last True of every row, 0 for a row without any; i32[B]."""
    T = mask_BT.shape[1]
    return jnp.max(jnp.where(mask_BT, jnp.arange(T, dtype=jnp.int32)[None], 0), axis=1)
