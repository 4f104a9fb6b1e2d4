"""The home of rotary positions: a head's channels i and i + n/2 turn together, by the position times a frequency of their own."""

import jax
import jax.numpy as jnp
import numpy as np

from instruct_jax.models.variants import RopeScaling, TransformerConfig

Angles = tuple[jax.Array, jax.Array]  # cosines and sines, f32[B, T, n/2] each


def angles(positions_BT: jax.Array, theta: float, config: TransformerConfig, scaling: RopeScaling | None) -> Angles:  # fmt: skip
    """Cosines and sines of every position's turns, f32[B, T, rotary_dim / 2] each."""
    frequencies_C = _frequencies(theta, config.rotary_dim, scaling)
    turns_BTC = positions_BT.astype(jnp.float32)[..., None] * frequencies_C[None, None]
    return jnp.cos(turns_BTC), jnp.sin(turns_BTC)


def rotate(x_BHTC: jax.Array, at: Angles) -> jax.Array:
    """Queries or keys turned to their positions; channels past the angles' stay."""
    cos_B1TC, sin_B1TC = (part[:, None] for part in at)
    half = cos_B1TC.shape[-1]
    x32 = x_BHTC.astype(jnp.float32)
    first, second, rest = x32[..., :half], x32[..., half : 2 * half], x_BHTC[..., 2 * half :]
    turned = [first * cos_B1TC - second * sin_B1TC, second * cos_B1TC + first * sin_B1TC]
    return jnp.concatenate([*(part.astype(x_BHTC.dtype) for part in turned), rest], axis=-1)


def _frequencies(theta: float, channels: int, scaling: RopeScaling | None) -> np.ndarray:
    frequencies_C = theta ** -(np.arange(0, channels, 2, dtype=np.float64) / channels)
    if scaling is None:
        return frequencies_C.astype(np.float32)
    slowed_C = frequencies_C / scaling.factor
    if not scaling.original_context:
        return slowed_C.astype(np.float32)
    turns_C = scaling.original_context * frequencies_C / (2 * np.pi)
    share_C = np.clip((turns_C - scaling.low) / (scaling.high - scaling.low), 0.0, 1.0)
    return (slowed_C * (1 - share_C) + frequencies_C * share_C).astype(np.float32)
