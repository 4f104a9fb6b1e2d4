"""The home of the GPT-3 transformer and of its two models: the policy (vocabulary head) and the scalar model.

As the paper's: pre-LN, learned absolute positions, tanh-GELU, biases, tied embeddings, residual dropout. Unlike it,
all attention layers are dense, and computation is float32 or bfloat16 where the paper used fp16. Parameters are a
plain dict with every layer stacked on a leading axis N, so policy, reward and value model share all but the head.
"""

import math
from operator import itemgetter

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from instruct_jax.errors import InputError
from instruct_jax.models import heads
from instruct_jax.models.attention.xla import attend, causal_mask
from instruct_jax.models.cache import KVCache, fill, write
from instruct_jax.models.variants import TransformerConfig
from instruct_jax.sharding import constrain_rows

NORM_EPS = 1e-5


class Backbone(nn.Module):
    """Embeddings, layers and final norm; the parameters of both models."""

    config: TransformerConfig

    def setup(self):
        self.embed = self.param("embed", _init_embed, self.config)
        self.layers = self.param("layers", _init_layers, self.config)
        self.norm = self.param("norm", _init_norm, (self.config.width,))

    def hidden(self, tokens_BT, segments_BT, *, deterministic: bool = True) -> jax.Array:
        """States after the final norm, f32[B, T, D]; drops out only with deterministic=False."""
        _check_length(tokens_BT.shape[1], self.config)
        mask_BTS = causal_mask(segments_BT)
        dropout_key = None if deterministic or not self.config.dropout else self.make_rng("dropout")
        x_BTD = self._embedded(tokens_BT, _positions(mask_BTS))

        def body(x_BTD, layer_and_key):
            layer, key = layer_and_key
            attention = lambda q, k, v: (attend(q, k, v, mask_BTS), None)  # noqa: E731
            return _block(x_BTD, layer, attention, self.config, key)

        keys_N = None if dropout_key is None else jax.random.split(dropout_key, self.config.layers)
        x_BTD, _ = self._scan(_remat(body, self.config), x_BTD, (self.layers, keys_N))
        return _layer_norm(x_BTD.astype(jnp.float32), self.norm)

    def _scan(self, body, carry, xs):
        return lax.scan(body, carry, xs, unroll=self.config.unroll)

    def _embedded(self, tokens_BT, positions_BT):
        x_BTD = self.embed["tokens"][tokens_BT] + self.embed["positions"][positions_BT]
        return constrain_rows(x_BTD.astype(self.config.dtype))


class PolicyModel(Backbone):
    """The language model: log-probabilities of given tokens, and next-token logits for generation."""

    def __call__(self, tokens_BT, segments_BT, **options):
        return self.logprobs(tokens_BT, segments_BT, **options)

    def logprobs(
        self, tokens_BT, segments_BT, *, start: int = 1, temperature=1.0, deterministic: bool = True
    ):
        """(logprobs, entropy), f32[B, T - start], of tokens_BT[:, start:], each predicted from the token before.

        Logits are divided by `temperature` (paper.md 12 row 21). The head runs on those positions only.
        """
        hidden_BTD = self.hidden(tokens_BT, segments_BT, deterministic=deterministic)
        hidden_BXD = (hidden_BTD[:, start - 1 : -1] / temperature).astype(self.config.dtype)
        return heads.token_logprobs(
            hidden_BXD, tokens_BT[:, start:], self.embed["tokens"], self.config.vocab, self.config.logit_chunk
        )

    def prefill(self, tokens_BP, mask_BP, cache: KVCache) -> tuple[jax.Array, KVCache]:
        """Fills an empty cache with left-padded prompts; f32[B, V] logits of the next token, and the cache."""
        B, P = tokens_BP.shape
        _check_length(cache.mask_BS.shape[1], self.config)
        mask_BTS = causal_mask(mask_BP.astype(jnp.int32))
        x_BPD = self._embedded(tokens_BP, _positions(mask_BTS))

        def body(x_BPD, layer):
            attention = lambda q, k, v: (attend(q, k, v, mask_BTS), (k, v))  # noqa: E731
            return _block(x_BPD, layer, attention, self.config)

        x_BPD, (keys_NBHPC, values_NBHPC) = self._scan(body, x_BPD, self.layers)
        cache = KVCache(
            keys=fill(cache.keys, keys_NBHPC),
            values=fill(cache.values, values_NBHPC),
            mask_BS=lax.dynamic_update_slice(cache.mask_BS, mask_BP.astype(bool), (0, 0)),
            length=jnp.asarray(P, jnp.int32),
        )
        return self._next_logits(x_BPD[:, -1]), cache

    def decode(self, token_B, cache: KVCache) -> tuple[jax.Array, KVCache]:
        """Appends one token to every row of the cache; f32[B, V] logits of the one after it, and the cache."""
        at = cache.length
        positions_B = cache.mask_BS.sum(axis=1, dtype=jnp.int32)
        mask_BS = cache.mask_BS.at[:, at].set(True)
        x_B1D = self._embedded(token_B[:, None], positions_B[:, None])

        def step(x_B1D, layer, keys, values, n=None):
            def attention(q_BH1C, k_BH1C, v_BH1C):
                kept = write(keys, k_BH1C, at, n), write(values, v_BH1C, at, n)
                k_BHSC, v_BHSC = kept if n is None else (kept[0][n], kept[1][n])
                return attend(q_BH1C, k_BHSC, v_BHSC, mask_BS[:, None]), kept

            return _block(x_B1D, layer, attention, self.config)

        if self.config.unroll:
            kept = []
            for n, (keys, values) in enumerate(zip(cache.keys, cache.values, strict=True)):
                x_B1D, pair = step(x_B1D, jax.tree.map(itemgetter(n), self.layers), keys, values)
                kept.append(pair)
            keys, values = zip(*kept, strict=True)
        else:

            def body(carry, layer_and_n):
                (x_B1D, keys, values), (layer, n) = carry, layer_and_n
                x_B1D, pair = step(x_B1D, layer, keys, values, n)
                return (x_B1D, *pair), None

            carry = (x_B1D, cache.keys, cache.values)
            (x_B1D, keys, values), _ = lax.scan(body, carry, (self.layers, jnp.arange(self.config.layers)))
        return self._next_logits(x_B1D[:, 0]), KVCache(keys, values, mask_BS, at + 1)

    def _next_logits(self, x_BD):
        hidden_BD = _layer_norm(x_BD.astype(jnp.float32), self.norm).astype(self.config.dtype)
        return heads.next_logits(hidden_BD, self.embed["tokens"], self.config.vocab)


class ScalarModel(Backbone):
    """The reward and the value model: the policy's parameters plus {"head": {"kernel", "bias"}}."""

    def setup(self):
        super().setup()
        self.head = self.param("head", heads.init_head, self.config.width)

    def __call__(self, tokens_BT, segments_BT) -> jax.Array:
        """One f32 value per token, [B, T]."""
        return heads.scalar_values(self.hidden(tokens_BT, segments_BT), self.head)


def _positions(mask_BTS):
    # Pads count for nothing, so left padding and packing leave every document's positions as they are alone.
    return jnp.maximum(mask_BTS.sum(axis=-1, dtype=jnp.int32) - 1, 0)


def _block(x_BTD, layer, attention, config, dropout_key=None):
    """One layer; `attention(q, k, v)` returns its output [B, H, T, C] and whatever the caller wants to keep."""
    B, T, D = x_BTD.shape
    keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
    normed_BTD = _layer_norm(x_BTD, layer["attention_norm"])
    # Three products: on a CPU that is a tenth faster than slicing a fused one.
    parts = (_dense(normed_BTD, jax.tree.map(itemgetter(i), layer["qkv"])) for i in range(3))
    split = (part.reshape(B, T, config.heads, config.head_dim).swapaxes(1, 2) for part in parts)
    mixed_BHTC, kept = attention(*split)
    mixed_BTD = mixed_BHTC.swapaxes(1, 2).reshape(B, T, D)
    x_BTD = x_BTD + _dropout(_dense(mixed_BTD, layer["out"]), config.dropout, keys[0])
    mlp_BTF = nn.gelu(_dense(_layer_norm(x_BTD, layer["mlp_norm"]), layer["up"]), approximate=True)
    x_BTD = x_BTD + _dropout(_dense(mlp_BTF, layer["down"]), config.dropout, keys[1])
    return x_BTD, kept


def _dense(x_BTD, params):
    # Tokens in two dimensions: with three, XLA:CPU copies and transposes for the weight's gradient.
    x = x_BTD.reshape(-1, x_BTD.shape[-1])
    y = lax.dot_general(x, params["kernel"].astype(x.dtype), (((1,), (0,)), ((), ())))
    y = y + params["bias"].astype(x.dtype)[None]
    return y.reshape(*x_BTD.shape[:2], -1)


def _layer_norm(x, params):
    scale, bias = (params[name].reshape((1,) * (x.ndim - 1) + (-1,)) for name in ("scale", "bias"))
    x32 = x.astype(jnp.float32)
    centred = x32 - x32.mean(axis=-1, keepdims=True)
    inverse = lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + NORM_EPS)
    return (centred * inverse * scale + bias).astype(x.dtype)


def _dropout(x, rate, key):
    if key is None:
        return x
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), 0.0).astype(x.dtype)


def _remat(body, config):
    if config.remat == "none":
        return body
    policies = jax.checkpoint_policies
    policy = (
        policies.nothing_saveable if config.remat == "full" else policies.dots_with_no_batch_dims_saveable
    )
    return jax.checkpoint(body, policy=policy, prevent_cse=config.unroll)


def _check_length(length: int, config: TransformerConfig) -> None:
    if length > config.context:
        raise InputError(
            f"rows of {length} tokens are longer than model.context = {config.context}: shorten them or raise it"
        )


def _init_embed(key, config):
    token_key, position_key = jax.random.split(key)
    return {
        "tokens": 0.02 * jax.random.normal(token_key, (config.padded_vocab, config.width)),
        "positions": 0.01 * jax.random.normal(position_key, (config.context, config.width)),
    }


def _init_layers(key, config):
    N, D, F = config.layers, config.width, config.mlp
    qkv, out, up, down = jax.random.split(key, 4)
    into_residual = 0.02 / math.sqrt(2 * N)

    def dense(key, std, shape):
        kernel = std * jax.random.normal(key, (N, *shape))
        return {"kernel": kernel, "bias": jnp.zeros((N, *shape[:-2], shape[-1]))}

    return {
        "attention_norm": _init_norm(None, (N, D)),
        "qkv": dense(qkv, 0.02, (3, D, D)),
        "out": dense(out, into_residual, (D, D)),
        "mlp_norm": _init_norm(None, (N, D)),
        "up": dense(up, 0.02, (D, F)),
        "down": dense(down, into_residual, (F, D)),
    }


def _init_norm(_key, shape):
    return {"scale": jnp.ones(shape), "bias": jnp.zeros(shape)}
