"""The home of plain attention, einsum and softmax: runs on every device, keeps the [B, H, T, S] scores.

The paper's GPT-3 alternates dense and locally banded layers; every layer here is dense.
"""

import jax
import jax.numpy as jnp

MASKED = -1e30  # finite: a row with nothing to attend to becomes uniform, never NaN


def causal_mask(segments_BT: jax.Array) -> jax.Array:
    """True where query t may read key s: s <= t, the same segment, and not padding; bool[B, T, T]."""
    same_BTS = segments_BT[:, :, None] == segments_BT[:, None, :]
    T = segments_BT.shape[1]
    return same_BTS & (segments_BT > 0)[:, None, :] & jnp.tri(T, dtype=bool)[None]


def attend(q_BTHC, k_BSHC, v_BSHC, mask_BTS) -> jax.Array:
    """Softmax attention in f32 of T queries over S keys; [B, T, H, C] in the queries' dtype."""
    scale = q_BTHC.shape[-1] ** -0.5
    scores_BHTS = jnp.einsum("BTHC,BSHC->BHTS", q_BTHC * scale, k_BSHC, preferred_element_type=jnp.float32)
    scores_BHTS = jnp.where(mask_BTS[:, None], scores_BHTS, MASKED)
    weights_BHTS = jax.nn.softmax(scores_BHTS, axis=-1).astype(v_BSHC.dtype)
    return jnp.einsum("BHTS,BSHC->BTHC", weights_BHTS, v_BSHC)
