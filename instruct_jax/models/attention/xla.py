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


def attend(q_BHTC, k_BHSC, v_BHSC, mask_BTS) -> jax.Array:
    """Softmax attention in f32 of T queries over S keys; [B, H, T, C] in the queries' dtype.

    Normalised after the product with the values: T x C divisions instead of T x S.
    """
    scale = q_BHTC.shape[-1] ** -0.5
    bias_B1TS = jnp.where(mask_BTS, 0.0, MASKED)[:, None]
    scores_BHTS = jnp.einsum("BHTC,BHSC->BHTS", q_BHTC * scale, k_BHSC, preferred_element_type=jnp.float32)
    scores_BHTS = scores_BHTS + bias_B1TS
    peak_BHT1 = jax.lax.stop_gradient(scores_BHTS.max(axis=-1, keepdims=True))
    weights_BHTS = jnp.exp(scores_BHTS - peak_BHT1)
    mixed_BHTC = jnp.einsum(
        "BHTS,BHSC->BHTC", weights_BHTS.astype(v_BHSC.dtype), v_BHSC, preferred_element_type=jnp.float32
    )
    return (mixed_BHTC / weights_BHTS.sum(axis=-1, keepdims=True)).astype(q_BHTC.dtype)
