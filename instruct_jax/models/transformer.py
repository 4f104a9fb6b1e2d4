"""The home of the transformer and of its two models: the policy (vocabulary head) and the scalar model.

The paper's GPT-3 by default: pre-LN, learned absolute positions, tanh-GELU, biases, tied embeddings, residual dropout. Unlike it,
all attention layers are dense, and computation is float32 or bfloat16 where the paper used fp16. TransformerConfig's switches make
other families of it. Parameters are a plain dict with every layer stacked on a leading axis N, so policy, reward and value model
share all but the head.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from instruct_jax.errors import InputError
from instruct_jax.models import heads, layers, rope
from instruct_jax.models.attention.choice import over_rows
from instruct_jax.models.attention.xla import attend, branch_mask, causal_mask, near_mask
from instruct_jax.models.cache import KVCache, fill, write
from instruct_jax.models.variants import TransformerConfig
from instruct_jax.sharding import constrain_rows, constrain_tokens, fetched, look_up


class Sight(NamedTuple):
    """What a layer's queries may read and the turns of their positions; None where no layer or no rotation needs it."""

    mask_BTS: jax.Array | None
    angles: rope.Angles | None


class Backbone(nn.Module):
    """Embeddings, layers and final norm; the parameters of both models."""

    config: TransformerConfig

    def setup(self):
        embed = fetched(self.param("embed", _init_embed, self.config))
        self.embed = lax.stop_gradient(embed) if self.config.freeze_embed else embed
        self.layers = self.param("layers", layers.init_layers, self.config)
        self.norm = fetched(self.param("norm", lambda _key: layers.init_norm(self.config, self.config.width)))

    def hidden(self, tokens_BT, segments_BT, stems_BT=None, *, deterministic: bool = True) -> jax.Array:
        """States after the final norm, f32[B, T, D]; drops out only with deterministic=False.

        With `stems_BT` a token also reads the segment that stems_BT names, as in `branch_logprobs`, by plain attention whatever the
        config says. Rows may then be longer than the context, in which a segment and its stem must be."""
        if stems_BT is None:
            check_length(tokens_BT.shape[1], self.config)
            mask_BTS = causal_mask(segments_BT)
            positions_BT = _positions(mask_BTS)
            sights = _sights(mask_BTS, positions_BT, jnp.arange(tokens_BT.shape[1]), self.config)
        else:
            positions_BT, sights = _branch_sights(segments_BT, stems_BT, self.config)
        dropout_key = None if deterministic or not self.config.dropout else self.make_rng("dropout")
        attend = self._over_rows(segments_BT, stems_BT)
        x_BTD = look_up(self._embedded, tokens_BT, positions_BT)

        def body(x_BTD, of_layer):
            layer, local, key = of_layer
            sight = _sight(sights, local)
            attention = lambda q, k, v: (attend(q, k, v, sight.mask_BTS, local), None)  # noqa: E731
            x_BTD, _ = layers.block(x_BTD, layer, attention, self.config, key, sight.angles)
            return constrain_tokens(x_BTD), None

        keys_N = None if dropout_key is None else jax.random.split(dropout_key, self.config.layers)
        x_BTD, _ = self._scan(layers.remat(body, self.config), x_BTD, keys_N)
        return layers.norm(x_BTD.astype(jnp.float32), self.norm, self.config)

    def _scan(self, body, carry, *xs):
        """`body(carry, (layer, whether it has the window, *xs))` over the layers, fetched one by one if they lie in host memory."""
        local_N = _local(self.config)
        alike = len(set(local_N)) == 1

        def once(carry, x):
            layer, local, *rest = x
            return body(carry, (fetched(layer), local_N[0] if alike else local, *rest))

        return lax.scan(once, carry, (self.layers, jnp.array(local_N), *xs), unroll=self.config.unroll)

    def _over_rows(self, segments_BT, stems_BT=None):
        # Parameters are made from a row of two tokens, which no kernel need be able to cut; the other kernels know no stems.
        plain = self.is_initializing() or stems_BT is not None
        return over_rows(segments_BT, self.config, "xla" if plain else None)

    def _attend(self, q, keys, values, mask_BTS):
        scale = self.config.attention_scale or self.config.head_dim**-0.5
        return attend(q, keys, values, mask_BTS, scale=scale, softcap=self.config.attention_softcap)

    def _embedded(self, tokens_BT, positions_BT):
        x_BTD = self.embed["tokens"][tokens_BT]
        if self.config.embed_scale:
            # Rounded to the model's number type, as where these families were trained.
            x_BTD = x_BTD * jnp.asarray(self.config.width**0.5, self.config.dtype).astype(jnp.float32)
        if self.config.positions == "learned":
            x_BTD = x_BTD + self.embed["positions"][positions_BT + self.config.position_offset]
        return x_BTD.astype(self.config.dtype)


class PolicyModel(Backbone):
    """The language model: log-probabilities of given tokens, and next-token logits for generation."""

    def setup(self):
        super().setup()
        if not self.config.tied:
            self.unembed = fetched(self.param("unembed", _init_unembed, self.config))

    def __call__(self, tokens_BT, segments_BT, **options):
        return self.logprobs(tokens_BT, segments_BT, **options)

    def logprobs(
        self, tokens_BT, segments_BT, *, start: int = 1, temperature=1.0, deterministic: bool = True
    ):
        """(logprobs, entropy), f32[B, T - start], of tokens_BT[:, start:], each predicted from the token before.

        Logits are divided by `temperature`. The head runs on those positions only.
        """
        hidden_BTD = self.hidden(tokens_BT, segments_BT, deterministic=deterministic)
        if self.config.logit_softcap is None:
            hidden_BXD, after = hidden_BTD[:, start - 1 : -1] / temperature, 1.0
        else:
            hidden_BXD, after = hidden_BTD[:, start - 1 : -1], temperature
        return heads.token_logprobs(
            hidden_BXD.astype(self.config.dtype), tokens_BT[:, start:], self._vocabulary(), self.config.vocab,
            self.config.logit_chunk, softcap=self.config.logit_softcap, temperature=after,
        )  # fmt: skip

    def logits(self, tokens_BT, segments_BT) -> jax.Array:
        """f32[B, T, V] over the padded vocabulary: for looking at a few rows, never for training."""
        return self._next_logits(self.hidden(tokens_BT, segments_BT))

    def branch_logprobs(self, tokens_BT, segments_BT, stems_BT, at_BX, targets_BX):
        """(logprobs f32, whether it is the likeliest token), [B, X]: of targets_BX, each predicted from column at_BX of its row.

        A token reads those before it of its own segment and of the segment stems_BT, so that many continuations follow one context
        that is computed once. Positions go on from the context's, as if a continuation stood alone behind it.
        """
        check_length(tokens_BT.shape[1], self.config)
        positions_BT, sights = _branch_sights(segments_BT, stems_BT, self.config)

        def body(x_BTD, of_layer):
            layer, local = of_layer
            sight = _sight(sights, local)
            attention = lambda q, k, v: (self._attend(q, k, v, sight.mask_BTS), None)  # noqa: E731
            return layers.block(x_BTD, layer, attention, self.config, angles=sight.angles)

        x_BTD, _ = self._scan(body, self._embedded(tokens_BT, positions_BT))
        x_BXD = jnp.take_along_axis(x_BTD, at_BX[:, :, None], axis=1)
        hidden_BXD = layers.norm(x_BXD.astype(jnp.float32), self.norm, self.config).astype(self.config.dtype)
        return heads.target_logprobs(
            hidden_BXD, targets_BX, self._vocabulary(), self.config.vocab, self.config.logit_chunk,
            self.config.logit_softcap,
        )  # fmt: skip

    def prefill(self, tokens_BP, mask_BP, cache: KVCache) -> tuple[jax.Array, KVCache]:
        """Fills an empty cache with left-padded prompts; f32[B, V] logits of the next token, and the cache."""
        B, P = tokens_BP.shape
        check_length(cache.mask_BS.shape[1], self.config)
        mask_BTS = causal_mask(mask_BP.astype(jnp.int32))
        positions_BP = _positions(mask_BTS)
        sights = _sights(mask_BTS, positions_BP, jnp.arange(P), self.config)
        attend = self._over_rows(mask_BP.astype(jnp.int32))
        x_BPD = constrain_rows(self._embedded(tokens_BP, positions_BP))

        def body(x_BPD, of_layer):
            layer, local = of_layer
            sight = _sight(sights, local)
            attention = lambda q, k, v: (attend(q, k, v, sight.mask_BTS, local), (k, v))  # noqa: E731
            return layers.block(x_BPD, layer, attention, self.config, angles=sight.angles)

        x_BPD, (keys_NBGPC, values_NBGPC) = self._scan(body, x_BPD)
        cache = KVCache(
            keys=fill(cache.keys, keys_NBGPC),
            values=fill(cache.values, values_NBGPC),
            mask_BS=lax.dynamic_update_slice(cache.mask_BS, mask_BP.astype(bool), (0, 0)),
            length=jnp.asarray(P, jnp.int32),
        )
        return self._last_logits(x_BPD[:, -1]), cache

    def decode(
        self, token_B, cache: KVCache, unstacked=None, before: tuple[tuple, tuple] = ((), ())
    ) -> tuple[jax.Array, KVCache]:
        """Appends one token to every row of the cache; f32[B, V] logits of the one after it, and the cache.

        A loop over tokens passes `unstacked` (layers.rollout_layout), or every turn would copy each layer out of the stack.
        `before` are the keys and the values of the pieces of a SlotCache before the one that `cache` has as its own keys and values.
        """
        at, piece = cache.length, jax.tree.leaves(cache.keys)[0].shape[-2]
        offset = piece * len(before[0])
        positions_B1 = cache.mask_BS.sum(axis=1, dtype=jnp.int32)[:, None]
        mask_BS = cache.mask_BS.at[:, at].set(True)
        sights = _sights(mask_BS[:, None, : offset + piece], positions_B1, at[None], self.config)
        x_B1D = constrain_rows(self._embedded(token_B[:, None], positions_B1))

        def step(x_B1D, layer, local, keys, values, earlier, n=None):
            sight = _sight(sights, local)

            def attention(q_BH1C, k_BG1C, v_BG1C):
                kept = write(keys, k_BG1C, at - offset, n), write(values, v_BG1C, at - offset, n)
                own = kept if n is None else (kept[0][n], kept[1][n])
                read = ((*pieces, last) for pieces, last in zip(earlier, own, strict=True))
                return self._attend(q_BH1C, *read, sight.mask_BTS), kept

            return layers.block(x_B1D, layer, attention, self.config, angles=sight.angles)

        if self.config.unroll:
            kept = []
            unstacked = (
                layers.unstacked({"layers": self.layers}, self.config) if unstacked is None else unstacked
            )
            each = zip(unstacked, _local(self.config), cache.keys, cache.values, strict=True)
            for n, (layer, local, keys, values) in enumerate(each):
                earlier = [[piece[n] for piece in pieces] for pieces in before]
                x_B1D, pair = step(x_B1D, layer, local, keys, values, earlier)
                kept.append(pair)
            keys, values = zip(*kept, strict=True)
        else:

            def body(carry, of_layer):
                (x_B1D, keys, values), (layer, local, n) = carry, of_layer
                earlier = [[piece[n] for piece in pieces] for pieces in before]
                x_B1D, pair = step(x_B1D, layer, local, keys, values, earlier, n)
                return (x_B1D, *pair), None

            carry = (x_B1D, cache.keys, cache.values)
            (x_B1D, keys, values), _ = self._scan(body, carry, jnp.arange(self.config.layers))
        return self._last_logits(x_B1D[:, 0]), KVCache(keys, values, mask_BS, at + 1)

    def _last_logits(self, x_BD):
        return self._next_logits(layers.norm(x_BD.astype(jnp.float32), self.norm, self.config))

    def _next_logits(self, hidden):
        return heads.next_logits(
            hidden.astype(self.config.dtype), self._vocabulary(), self.config.vocab, self.config.logit_softcap
        )

    def _vocabulary(self):
        return (self.embed if self.config.tied else self.unembed)["tokens"]


class ScalarModel(Backbone):
    """The reward and the value model: the policy's parameters, less an untied vocabulary head, plus {"head": {"kernel", "bias"}}."""

    def setup(self):
        super().setup()
        self.head = fetched(self.param("head", heads.init_head, self.config.width))

    def __call__(self, tokens_BT, segments_BT, stems_BT=None) -> jax.Array:
        """One f32 value per token, [B, T]; `stems_BT` as in `hidden`."""
        return heads.scalar_values(self.hidden(tokens_BT, segments_BT, stems_BT), self.head)


def _positions(mask_BTS):
    # Pads count for nothing, so left padding and packing leave every document's positions as they are alone.
    return jnp.maximum(mask_BTS.sum(axis=-1, dtype=jnp.int32) - 1, 0)


def _local(config: TransformerConfig) -> tuple[bool, ...]:
    """Which layers have the window."""
    if not config.window:
        return (False,) * config.layers
    return config.windowed or (True,) * config.layers


def _sights(mask_BTS, positions_BT, queries_T, config: TransformerConfig) -> tuple[Sight, Sight]:
    """What layers without and with the window see; the queries are the keys' positions `queries_T` of a row."""
    local_N = _local(config)
    near_BTS = mask_BTS
    if any(local_N):
        near_BTS = mask_BTS & near_mask(queries_T, mask_BTS.shape[-1], config.window)
    if config.positions != "rope":
        return Sight(mask_BTS, None), Sight(near_BTS, None)
    whole = rope.angles(positions_BT, config.rope_theta, config, config.rope_scaling)
    near = whole
    if config.rope_local_theta is not None and any(local_N):
        near = rope.angles(positions_BT, config.rope_local_theta, config, None)
    return Sight(mask_BTS, whole), Sight(near_BTS, near)


def _branch_sights(segments_BT, stems_BT, config: TransformerConfig) -> tuple[jax.Array, tuple[Sight, Sight]]:
    """Positions, and what layers without and with the window see, where segments branch off from stems."""
    mask_BTS = branch_mask(segments_BT, stems_BT)
    positions_BT = _positions(mask_BTS)
    sights = _sights(mask_BTS, positions_BT, jnp.arange(segments_BT.shape[1]), config)
    if config.window:  # columns between two branches are no distance
        near_BTS = positions_BT[:, :, None] - positions_BT[:, None] < config.window
        sights = sights[0], sights[1]._replace(mask_BTS=mask_BTS & near_BTS)
    return positions_BT, sights


def _sight(sights: tuple[Sight, Sight], local) -> Sight:
    """The one of the two that a layer has; `local` is a bool, or an array inside a scan over both kinds of layer."""
    if isinstance(local, bool):
        return sights[local]
    return jax.tree.map(lambda whole, near: jnp.where(local, near, whole), *sights)


def check_length(length: int, config: TransformerConfig) -> None:
    """InputError where rows of `length` tokens are longer than the model's context."""
    if length > config.context:
        raise InputError(
            f"rows of {length} tokens are longer than model.context = {config.context}: shorten them or raise it"
        )


def _init_embed(key, config):
    token_key, position_key = jax.random.split(key)
    embed = {"tokens": 0.02 * jax.random.normal(token_key, (config.padded_vocab, config.width))}
    if config.positions == "learned":
        shape = (config.context + config.position_offset, config.width)
        embed["positions"] = 0.01 * jax.random.normal(position_key, shape)
    return embed


def _init_unembed(key, config):
    return {"tokens": 0.02 * jax.random.normal(key, (config.padded_vocab, config.width))}
