"""The home of the key/value cache that one generation carries from token to token.

Prompts are left-padded, so every row writes at one position: a single dynamic_update_slice, no scatter.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from instruct_jax.models.variants import TransformerConfig


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KVCache:
    """Keys and values of every layer; `mask_BS` is True on real tokens and `length` counts filled positions."""

    keys_NBSHC: jax.Array
    values_NBSHC: jax.Array
    mask_BS: jax.Array
    length: jax.Array


def init_cache(config: TransformerConfig, batch: int, size: int, dtype=None) -> KVCache:
    """An empty cache for `batch` rows of at most `size` tokens, in `dtype` (None: the model's)."""
    shape = (config.layers, batch, size, config.heads, config.head_dim)
    dtype = config.dtype if dtype is None else dtype
    return KVCache(
        keys_NBSHC=jnp.zeros(shape, dtype),
        values_NBSHC=jnp.zeros(shape, dtype),
        mask_BS=jnp.zeros((batch, size), bool),
        length=jnp.zeros((), jnp.int32),
    )
