"""The home of plain attention, einsum and softmax: runs on every device, keeps the [B, H, T, S] scores of up to 1,024 queries.

The paper's GPT-3 alternates dense and locally banded layers; ours are dense unless the config sets a window.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

MOST_QUERIES = 1024  # of a row whose scores are all alive at once; longer rows are taken in parts of at most half as many
MASKED = -1e30  # finite: a row with nothing to attend to becomes uniform, never NaN


def causal_mask(segments_BT: jax.Array) -> jax.Array:
    """True where query t may read key s: s <= t, the same segment, and not padding; bool[B, T, T]."""
    same_BTS = segments_BT[:, :, None] == segments_BT[:, None, :]
    T = segments_BT.shape[1]
    return same_BTS & (segments_BT > 0)[:, None, :] & jnp.tri(T, dtype=bool)[None]


def branch_mask(segments_BT: jax.Array, stems_BT: jax.Array) -> jax.Array:
    """`causal_mask` where query t may also read the segment stems_BT[t], from which its own branches off; bool[B, T, T]."""
    own_BTS = segments_BT[:, :, None] == segments_BT[:, None, :]
    stem_BTS = stems_BT[:, :, None] == segments_BT[:, None, :]
    T = segments_BT.shape[1]
    return (own_BTS | stem_BTS) & (segments_BT > 0)[:, None, :] & jnp.tri(T, dtype=bool)[None]


def near_mask(queries_T: jax.Array, size: int, window: int) -> jax.Array:
    """True where key s is among the `window` last before query t, itself included; bool[1, T, S] for S = size."""
    return (queries_T[:, None] - jnp.arange(size)[None] < window)[None]


def attend(q_BHTC, k_BGSC, v_BGSC, mask_BTS, *, scale: float, softcap: float | None = None) -> jax.Array:
    """Softmax attention in f32 of T queries over S keys; [B, H, T, C] in the queries' dtype.

    Keys and values may come as tuples of pieces, which one after another have the S positions.
    Every key head serves H / G query heads next to each other. Scores are bent to within ±softcap where one is given. More than
    MOST_QUERIES queries are taken in parts, whose scores are made again in the backward pass.
    """
    call = partial(_attend, scale=scale, softcap=softcap)
    B, H, T, C = q_BHTC.shape
    if T <= MOST_QUERIES:
        return call(q_BHTC, k_BGSC, v_BGSC, mask_BTS)
    parts = -(-2 * T // MOST_QUERIES)
    one = jax.checkpoint(lambda part: call(part[0], k_BGSC, v_BGSC, part[1]))
    mixed_XBHTC = lax.map(one, (_cut(q_BHTC, 2, parts), _cut(mask_BTS, 1, parts)))
    return jnp.moveaxis(mixed_XBHTC, 0, 3).reshape(B, H, -1, C)[:, :, :T]


def _cut(x, axis: int, parts: int):
    """[..., T, ...] -> [parts, ..., T / parts, ...], filled up with zeros; part i has the entries i, i + parts, ...: tokens that lie over
    `sequence` stay where they are."""
    ends = [(0, 0)] * x.ndim
    ends[axis] = (0, -x.shape[axis] % parts)
    x = jnp.pad(x, ends)
    return jnp.moveaxis(x.reshape(*x.shape[:axis], -1, parts, *x.shape[axis + 1 :]), axis + 1, 0)


def _attend(q_BHTC, k_BGSC, v_BGSC, mask_BTS, *, scale, softcap):
    # Normalised after the product with the values: T x C divisions instead of T x S.
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)
    keys, values = (x if isinstance(x, tuple) else (x,) for x in (k_BGSC, v_BGSC))
    B, H, T, C = q_BHTC.shape
    G, S = keys[0].shape[1], mask_BTS.shape[-1]
    grouped_BGXC = (q_BHTC * scale).reshape(B, G, H // G * T, C)
    scores_BGXS = jnp.concatenate(
        [product("BGXC,BGSC->BGXS", grouped_BGXC, piece) for piece in keys], axis=-1
    )
    if softcap is not None:
        scores_BGXS = softcap * jnp.tanh(scores_BGXS / softcap)
    bias_B1TS = jnp.where(mask_BTS, 0.0, MASKED)[:, None]
    scores_BHTS = scores_BGXS.reshape(B, H, T, S) + bias_B1TS
    peak_BHT1 = jax.lax.stop_gradient(scores_BHTS.max(axis=-1, keepdims=True))
    weights_BHTS = jnp.exp(scores_BHTS - peak_BHT1)
    weights_BGXS = weights_BHTS.astype(values[0].dtype).reshape(B, G, H // G * T, S)
    shares = jnp.split(weights_BGXS, len(values), axis=-1)
    mixed_BGXC = sum(
        product("BGXS,BGSC->BGXC", share, piece) for share, piece in zip(shares, values, strict=True)
    )
    mixed_BHTC = mixed_BGXC.reshape(B, H, T, C)
    return (mixed_BHTC / weights_BHTS.sum(axis=-1, keepdims=True)).astype(q_BHTC.dtype)
