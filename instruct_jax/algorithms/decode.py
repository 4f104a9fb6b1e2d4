"""The home of generation: one prefill, then one token a turn under lax.while_loop until every row has ended.

The paper samples at temperature 1 with no truncation; top-k and top-p are for evaluation.
Each row has its own random key, so what it samples does not depend on the batch around it.
"""

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import lax

from instruct_jax.algorithms.pieces import join, split
from instruct_jax.batches import PromptBatch
from instruct_jax.errors import InputError
from instruct_jax.models import layers
from instruct_jax.models.cache import KVCache, init_cache
from instruct_jax.sharding import by_rows, gather_fsdp, rows_apart

EXCLUDED = -1e30
BLOCK = 128  # tokens


@dataclass(frozen=True)
class SamplingConfig:
    """How tokens are chosen: temperature 0 is greedy, top_k 0 and top_p 1 leave the distribution whole."""

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise InputError(f"sampling.max_new_tokens is {self.max_new_tokens}: it must be at least 1")
        if not 0 <= self.temperature < math.inf:
            raise InputError(f"sampling.temperature is {self.temperature}: use 0 (greedy) or more")
        if self.top_k < 0:
            raise InputError(f"sampling.top_k is {self.top_k}: use 0 (off) or more")
        if not 0 < self.top_p <= 1:
            raise InputError(f"sampling.top_p is {self.top_p}: it must be in (0, 1]")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Everything that one turn of the loop reads and writes; `token_B` is the last one chosen."""

    step: jax.Array
    token_B: jax.Array
    cache: KVCache
    response_BR: jax.Array
    mask_BR: jax.Array
    done_B: jax.Array


def generate(
    model,
    params,
    prompts: PromptBatch,
    key,
    sampling: SamplingConfig,
    eos_id,
    pad_id: int,
    chunks: int = 1,
):
    """Samples a response to every prompt: (response_BR i32, response_mask_BR bool), R = sampling.max_new_tokens.

    `eos_id` is an id, or the ids that end a response. The mask is True up to and including it; after it the response
    holds `pad_id`. The batch is taken in `chunks`, one after another: their caches are never alive together, and the tokens are the
    same. InputError where P + R is longer than the model's context, or where the batch does not divide.
    """
    rows = prompts.tokens_BP.shape[0]
    # Once, or the slices of a model that lies over fsdp would be gathered for every token.
    params = gather_fsdp(layers.compute_dtype(params, model.config))
    both = params, layers.rollout_layout(params, model.config)

    def respond(params, batch):
        def one(part):
            return _generate(model, *params, *part, sampling, eos_id, pad_id)

        return one(batch) if chunks == 1 else join(lax.map(one, split(batch, chunks, "prompts")))

    # Each device by itself where it can, or after every token all would ask each other whether all rows have ended.
    respond = by_rows(respond, rows) if rows_apart(rows // chunks) else respond
    return respond(both, (prompts, row_keys(key, rows)))


def row_keys(key, rows: int) -> jax.Array:
    """A key for every row; its token t is drawn with fold_in(the row's key, t)."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(rows))


def _generate(
    model, params, layers_N, prompts: PromptBatch, keys_B, sampling: SamplingConfig, eos_id, pad_id: int
):
    B, P = prompts.tokens_BP.shape
    R = sampling.max_new_tokens

    def append(state: State, logits_BV) -> State:
        step_keys_B = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, state.step)
        token_B = jnp.where(state.done_B, pad_id, choose(logits_BV, step_keys_B, sampling))
        return State(
            step=state.step + 1,
            token_B=token_B,
            cache=state.cache,
            response_BR=lax.dynamic_update_slice(state.response_BR, token_B[:, None], (0, state.step)),
            mask_BR=lax.dynamic_update_slice(state.mask_BR, ~state.done_B[:, None], (0, state.step)),
            done_B=state.done_B | jnp.isin(token_B, ends),
        )

    def turn(state: State) -> State:
        logits_BV, cache = model.apply(
            {"params": params}, state.token_B, state.cache, layers_N, method="decode"
        )
        return append(replace(state, cache=cache), logits_BV)

    ends = jnp.asarray(eos_id)
    cache = init_cache(model.config, B, P + R)
    logits_BV, cache = model.apply(
        {"params": params}, prompts.tokens_BP, prompts.mask_BP, cache, method="prefill"
    )
    empty = State(
        step=jnp.zeros((), jnp.int32),
        token_B=jnp.zeros((B,), jnp.int32),
        cache=cache,
        response_BR=jnp.full((B, R), pad_id, jnp.int32),
        mask_BR=jnp.zeros((B, R), bool),
        done_B=jnp.zeros((B,), bool),
    )
    end = lax.while_loop(lambda state: (state.step < R) & ~state.done_B.all(), turn, append(empty, logits_BV))
    return end.response_BR, end.mask_BR


def choose(logits_BV: jax.Array, keys_B: jax.Array, sampling: SamplingConfig) -> jax.Array:
    """One token a row from f32 logits, row b with key b; i32[B]."""
    if sampling.temperature == 0:
        return likeliest(logits_BV)
    return draw(truncate(logits_BV / sampling.temperature, sampling.top_k, sampling.top_p), keys_B)


def likeliest(logits_BV: jax.Array) -> jax.Array:
    """The first of the largest entries of every row; i32[B]. By blocks as in `draw`: one argmax over V takes ten times as long on a CPU."""
    blocks_BNX = _blocks(logits_BV, -jnp.inf)
    block_B = jnp.argmax(blocks_BNX.max(axis=-1), axis=-1)
    values_BX = jnp.where(_picked(block_B, blocks_BNX), blocks_BNX, -jnp.inf).max(axis=1)
    return (block_B * BLOCK + jnp.argmax(values_BX, axis=-1)).astype(jnp.int32)


def draw(logits_BV: jax.Array, keys_B: jax.Array) -> jax.Array:
    """One token a row with the probabilities of its softmax, row b with key b; i32[B].

    First a block of tokens by its share of the whole, then a token by its share of the block: two random numbers a row. Gumbel
    noise needs V, which cost three times as much as the logits of a vocabulary of 262k.
    """
    weights_BNX = jnp.exp(_blocks(logits_BV, EXCLUDED) - logits_BV.max(axis=-1)[:, None, None])
    chances_B2 = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys_B)
    block_B = _pick(weights_BNX.sum(axis=-1), chances_B2[:, 0])
    weights_BX = jnp.where(_picked(block_B, weights_BNX), weights_BNX, 0.0).sum(axis=1)
    return (block_B * BLOCK + _pick(weights_BX, chances_B2[:, 1])).astype(jnp.int32)


def _blocks(x_BV, padding) -> jax.Array:
    B, V = x_BV.shape
    return jnp.pad(x_BV, ((0, 0), (0, -V % BLOCK)), constant_values=padding).reshape(B, -1, BLOCK)


def _picked(block_B, x_BNX) -> jax.Array:
    """Where each row's block is: to sum out, not to index, so that a vocabulary that lies over `tensor` stays where it is."""
    return (block_B[:, None] == jnp.arange(x_BNX.shape[1])[None])[:, :, None]


def _pick(weights_BX: jax.Array, chance_B: jax.Array) -> jax.Array:
    """The entry of every row that `chance` in [0, 1) falls on; never one of weight 0, whatever the sums' rounding."""
    upto_BX, possible_BX = jnp.cumsum(weights_BX, axis=-1), weights_BX > 0
    total_B = jnp.where(possible_BX, upto_BX, 0.0).max(axis=-1)
    return jnp.argmax(possible_BX & (upto_BX > (chance_B * total_B)[:, None]), axis=-1)


def truncate(logits_BV: jax.Array, top_k: int, top_p: float) -> jax.Array:
    """Logits outside the top_k largest, or outside the smallest set of mass top_p, become -1e30.

    Ties with the last one kept stay in.
    """
    if top_k:
        kth_B1 = lax.top_k(logits_BV, min(top_k, logits_BV.shape[-1]))[0][:, -1:]
        logits_BV = jnp.where(logits_BV >= kth_B1, logits_BV, EXCLUDED)
    if top_p < 1.0:
        sorted_BV = -jnp.sort(-logits_BV, axis=-1)
        probs_BV = jax.nn.softmax(sorted_BV, axis=-1)
        kept_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV < top_p
        least_B1 = jnp.min(jnp.where(kept_BV, sorted_BV, jnp.inf), axis=-1, keepdims=True)
        logits_BV = jnp.where(logits_BV >= least_B1, logits_BV, EXCLUDED)
    return logits_BV
