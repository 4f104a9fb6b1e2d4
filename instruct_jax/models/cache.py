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
    """Keys and values of all layers, the filled positions' mask and their number.

    A tuple of groups of layers, [N of the group, B, H, S, C] each: one group where the layers are scanned, one per
    layer where they are written out (slicing a layer off a stack copies it, every token). Heads come before
    positions so that attention reads the cache as it lies.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    mask_BS: jax.Array
    length: jax.Array


def init_cache(config: TransformerConfig, batch: int, size: int, dtype=None) -> KVCache:
    """An empty cache for `batch` rows of at most `size` tokens, in `dtype` (None: the model's)."""
    groups = config.layers if config.unroll else 1
    shape = (config.layers // groups, batch, config.heads, size, config.head_dim)
    dtype = config.dtype if dtype is None else dtype
    return KVCache(
        keys=tuple(jnp.zeros(shape, dtype) for _ in range(groups)),
        values=tuple(jnp.zeros(shape, dtype) for _ in range(groups)),
        mask_BS=jnp.zeros((batch, size), bool),
        length=jnp.zeros((), jnp.int32),
    )


def fill(groups: tuple, new_NBHPC: jax.Array) -> tuple:
    """The groups with the first P positions of every layer written."""
    size = new_NBHPC.shape[0] // len(groups)
    parts = (new_NBHPC[g * size : (g + 1) * size] for g in range(len(groups)))
    return tuple(write(group, part, 0, 0) for group, part in zip(groups, parts, strict=True))


def write(cache_NBHSC: jax.Array, new_NBHTC: jax.Array, layer, position) -> jax.Array:
    """The cache with `new` written from `layer` and `position` on, in place where XLA owns the buffer."""
    return lax.dynamic_update_slice(cache_NBHSC, new_NBHTC.astype(cache_NBHSC.dtype), (layer, 0, 0, position, 0))
