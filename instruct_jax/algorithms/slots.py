"""The home of generation in slots: rows that end leave, waiting prompts take their place, all in one dispatch.

Row by row it samples what decode.generate does, which is its reference: the same keys, and other batches only round differently.
The paper does not say how it sampled. All slots write at one position: a prompt that joins is put right before it, however far
the others are, and positions that no slot needs any more are shifted out. So nothing is scattered, and every slot is busy until
no prompt waits.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import lax

from instruct_jax.algorithms.decode import SamplingConfig, choose, row_keys
from instruct_jax.batches import PromptBatch
from instruct_jax.errors import InputError
from instruct_jax.models import layers
from instruct_jax.models.cache import KVCache, SlotCache, init_cache, init_slots, insert, shift, take
from instruct_jax.models.transformer import check_length
from instruct_jax.sharding import batch_parts, by_rows, gather_fsdp

GROUP = 8  # a group of slots is filled at once: this part of all slots
SLACK = 8  # positions beside the longest row's: this part of its length
PIECES = 4  # of the cache: those that are not reached are not read
WIDTHS = 2  # how many lengths of prompts are told apart in prefilling them
DRAIN = 4  # when no prompt waits and this part of the slots is busy, the others are dropped


@dataclass(frozen=True)
class Run:
    """What is fixed over one device's prompts; `order_N` is the queue."""

    model: object
    params: dict
    layers_N: list | None
    prompts: PromptBatch
    keys_N: jax.Array
    order_N: jax.Array
    sampling: SamplingConfig
    ends: jax.Array
    group: int

    def token(self, logits_XV, row_X, step_X):
        """The token that each row says as its number `step`; i32[X]."""
        keys_X = jax.vmap(jax.random.fold_in)(self.keys_N[row_X], step_X)
        return choose(logits_XV, keys_X, self.sampling)

    def ended(self, token_X, step_X):
        """Whether a row ends with this token, its number `step`."""
        return jnp.isin(token_X, self.ends) | (step_X + 1 == self.sampling.max_new_tokens)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """What a turn of the loop changes: how much of the queue is taken, and for every slot its prompt, the last token, its number, and
    whether the slot is free."""

    taken: jax.Array
    row_S: jax.Array
    token_S: jax.Array
    step_S: jax.Array
    free_S: jax.Array
    cache: SlotCache
    response_NR: jax.Array


def generate(
    model,
    params,
    prompts: PromptBatch,
    key,
    sampling: SamplingConfig,
    eos_id,
    pad_id: int,
    slots: int,
):
    """decode.generate with at most `slots` rows alive at once: (response_NR i32, response_mask_NR bool), R = sampling.max_new_tokens.

    Under a mesh every device has slots and prompts of its own and waits for no other. InputError where the slots do not divide over
    the devices, or P + R is longer than the model's context.
    """
    N, P = prompts.tokens_BP.shape
    check_length(P + sampling.max_new_tokens, model.config)
    parts = batch_parts(N)
    if slots < 1 or slots % parts:
        raise InputError(f"{slots} slots do not divide over {parts} devices: use a multiple of {parts}")
    params = gather_fsdp(layers.compute_dtype(params, model.config))

    def respond(params, rows):
        return _generate(model, params, *rows, sampling, eos_id, pad_id, slots // parts)

    return by_rows(respond, N)(params, jax.tree.map(jnp.asarray, (prompts, row_keys(key, N))))


def _generate(model, params, prompts, keys_N, sampling, eos_id, pad_id, slots):
    N, P = prompts.tokens_BP.shape
    R, S = sampling.max_new_tokens, min(slots, N)
    longest_first_N = jnp.argsort(-prompts.mask_BP.sum(axis=1))
    run = Run(
        model, params, layers.rollout_layout(params, model.config), prompts, keys_N, longest_first_N, sampling, jnp.asarray(eos_id),
        group=-(-S // GROUP),
    )  # fmt: skip
    # A shift always frees this much: the oldest row has at most P + R positions.
    slack = -(-(P + R) // SLACK)
    cache = init_slots(model.config, S, P + R + slack, PIECES)
    state = State(
        taken=jnp.zeros((), jnp.int32),
        row_S=jnp.zeros((S,), jnp.int32),
        token_S=jnp.full((S,), pad_id, jnp.int32),
        step_S=jnp.zeros((S,), jnp.int32),
        free_S=jnp.ones((S,), bool),
        cache=replace(cache, length=jnp.asarray(P, jnp.int32)),
        response_NR=jnp.full((N, R), pad_id, jnp.int32),
    )
    few = S // DRAIN
    state = _until(run, state, few, slack)
    if few:
        busy_X = jnp.argsort(state.free_S)[:few]
        mine = jax.tree.map(lambda x_S: x_S[busy_X], (state.row_S, state.token_S, state.step_S, state.free_S))
        kept = State(state.taken, *mine, take(state.cache, busy_X), state.response_NR)
        state = _until(run, kept, 0, slack)
    ends_NR = jnp.isin(state.response_NR, run.ends)
    return state.response_NR, jnp.cumsum(ends_NR, axis=1) - ends_NR == 0


def _until(run: Run, state: State, few: int, slack: int) -> State:
    """The state when no prompt waits and at most `few` slots are busy."""
    N, S = run.order_N.shape[0], state.free_S.shape[0]

    def going(state):
        return (state.taken < N) | ((~state.free_S).sum() > few)

    def refills(state):
        return (state.taken < N) & (state.free_S.sum() >= min(run.group, S))

    def shifts(state):
        return _unread(run, state) >= slack

    def turn(state):
        state = lax.while_loop(shifts, lambda s: replace(s, cache=shift(s.cache, _unread(run, s))), state)
        state = lax.while_loop(refills, lambda s: _refill(run, s), state)
        for last in range(PIECES):
            end = state.cache.piece * (last + 1)
            more = lambda s, end=end: (s.cache.length < end) & going(s) & ~refills(s)  # noqa: E731
            state = lax.while_loop(more, lambda s, last=last: _decode(run, s, last), state)
        return state

    return lax.while_loop(going, turn, state)


def _unread(run: Run, state: State):
    """Positions at the beginning of the cache that no busy slot reads, as long as there is room for a prompt before the next."""
    read_S = (state.cache.mask_BS & ~state.free_S[:, None]).any(axis=0)
    first = jnp.where(read_S.any(), jnp.argmax(read_S), state.cache.length)
    return jnp.minimum(first, state.cache.length - run.prompts.tokens_BP.shape[1])


def _refill(run: Run, state: State) -> State:
    """The next prompts of the queue in free slots, with their first token."""
    N = run.order_N.shape[0]
    number_F = state.taken + jnp.arange(run.group)
    row_F = run.order_N[jnp.minimum(number_F, N - 1)]
    logits_FV, prompts = _prefill(run, row_F)
    step_F = jnp.zeros_like(row_F)
    token_F = run.token(logits_FV, row_F, step_F)
    beyond_F = number_F >= N
    slot_F = jnp.argsort(~state.free_S)[: run.group]
    return State(
        taken=state.taken + run.group,
        row_S=state.row_S.at[slot_F].set(row_F),
        token_S=state.token_S.at[slot_F].set(token_F),
        step_S=state.step_S.at[slot_F].set(step_F),
        free_S=state.free_S.at[slot_F].set(beyond_F | run.ended(token_F, step_F)),
        cache=insert(state.cache, prompts, slot_F),
        response_NR=state.response_NR.at[jnp.where(beyond_F, N, row_F), 0].set(token_F, mode="drop"),
    )


def _prefill(run: Run, row_F):
    """Next-token logits and the filled cache of these prompts, computed in the narrowest width that holds them."""
    tokens_FP, mask_FP = run.prompts.tokens_BP[row_F], run.prompts.mask_BP[row_F]
    F, P = tokens_FP.shape
    widths = sorted({-(-P * part // WIDTHS) for part in range(1, WIDTHS + 1)})

    def within(width):
        cache = init_cache(run.model.config, F, width)
        logits_FV, cache = run.model.apply(
            {"params": run.params},
            tokens_FP[:, P - width :],
            mask_FP[:, P - width :],
            cache,
            method="prefill",
        )
        wider = lambda x: jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(P - width, 0), (0, 0)])  # noqa: E731
        return logits_FV, jax.tree.map(wider, (cache.keys, cache.values))

    longest = mask_FP.sum(axis=1).max()
    choice = (longest > jnp.array(widths[:-1], longest.dtype)).sum()
    logits_FV, (keys, values) = lax.switch(choice, [lambda w=width: within(w) for width in widths])
    return logits_FV, KVCache(keys, values, mask_FP.astype(bool), jnp.asarray(P, jnp.int32))


def _decode(run: Run, state: State, last: int) -> State:
    """One more token of every busy slot, written to and read from the pieces of the cache up to the `last`."""
    keys, values, mask_SS, length = (getattr(state.cache, f) for f in ("keys", "values", "mask_BS", "length"))
    own, before = KVCache(keys[last], values[last], mask_SS, length), (keys[:last], values[:last])
    logits_SV, own = run.model.apply(
        {"params": run.params}, state.token_S, own, run.layers_N, before, method="decode"
    )
    step_S = state.step_S + 1
    token_S = run.token(logits_SV, state.row_S, step_S)
    row_S = jnp.where(state.free_S, state.response_NR.shape[0], state.row_S)
    free_S = state.free_S | run.ended(token_S, step_S)
    cache = SlotCache(
        keys=(*before[0], own.keys, *keys[last + 1 :]),
        values=(*before[1], own.values, *values[last + 1 :]),
        # What ended forgets its tokens, so that positions stay within the model's.
        mask_BS=own.mask_BS & ~free_S[:, None],
        length=own.length,
    )
    response_NR = state.response_NR.at[row_S, step_S].set(token_S, mode="drop")
    return replace(state, token_S=token_S, step_S=step_S, free_S=free_S, cache=cache, response_NR=response_NR)
