"""The home of the key/value cache that one generation carries from token to token.

Prompts are left-padded, so every row writes at one position: a single dynamic_update_slice, no scatter.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from instruct_jax.models.variants import TransformerConfig


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KVCache:
    """Keys and values of all layers, the mask of real tokens and the number of filled positions.

    Keys and values are one stack [N, B, G, S, C] where the layers are scanned, and a tuple of N arrays [B, G, S, C]
    where they are written out: slicing a layer off a stack copies it, every token. Heads come before positions so
    that attention reads the cache as it lies.
    """

    keys: jax.Array | tuple[jax.Array, ...]
    values: jax.Array | tuple[jax.Array, ...]
    mask_BS: jax.Array
    length: jax.Array


def init_cache(config: TransformerConfig, batch: int, size: int, dtype=None) -> KVCache:
    """An empty cache for `batch` rows of at most `size` tokens, in `dtype` (None: the model's)."""
    shape = (batch, config.kv_heads, size, config.head_dim)
    dtype = config.dtype if dtype is None else dtype

    def empty():
        if config.unroll:
            return tuple(jnp.zeros(shape, dtype) for _ in range(config.layers))
        return jnp.zeros((config.layers, *shape), dtype)

    return KVCache(empty(), empty(), mask_BS=jnp.zeros((batch, size), bool), length=jnp.zeros((), jnp.int32))


def fill(cache, new_NBGPC: jax.Array):
    """The keys (or values) of every layer with the first P positions written."""
    if isinstance(cache, tuple):
        return tuple(write(layer, new_NBGPC[n], 0) for n, layer in enumerate(cache))
    return write(cache, new_NBGPC, 0)


def write(cache: jax.Array, new: jax.Array, position, layer=None) -> jax.Array:
    """`new` [..., T, C] written from `position` on, into one layer of a stack if `layer` is given; in place in a loop."""
    if layer is not None:
        new = new[None]
    start = [0 if layer is None else layer] + [0] * (cache.ndim - 1)
    start[-2] = position
    return lax.dynamic_update_slice(cache, new.astype(cache.dtype), start)
