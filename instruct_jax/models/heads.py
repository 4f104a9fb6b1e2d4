"""The home of what stands on top of the backbone: log-probabilities of given tokens, next-token logits, scalars.

The paper's reward and value models replace the vocabulary by a projection to a scalar. The logits of a whole batch
never exist: they are made chunk by chunk, and made again in the backward pass.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from instruct_jax.models.attention.xla import MASKED
from instruct_jax.models.products import times_rows
from instruct_jax.models.variants import VOCAB_MULTIPLE
from instruct_jax.sharding import BATCH_AXES, SLICED, current_mesh


def next_logits(
    hidden: jax.Array, tokens_VD: jax.Array, vocab: int, softcap: float | None = None
) -> jax.Array:
    """f32 logits over the padded vocabulary, whose padding is masked, of states [..., D]; [..., V]."""
    ids_V = jnp.arange(tokens_VD.shape[0])
    flat_XD = hidden.reshape(-1, hidden.shape[-1])
    logits_XV = times_rows(flat_XD, tokens_VD.astype(hidden.dtype), jnp.float32)
    logits_XV = _bent(logits_XV, ids_V, vocab, softcap, 1.0)
    return logits_XV.reshape(*hidden.shape[:-1], -1)


def token_logprobs(
    hidden_BXD,
    targets_BX,
    tokens_VD,
    vocab: int,
    chunk: int,
    *,
    softcap: float | None = None,
    temperature=1.0,
) -> tuple[jax.Array, jax.Array]:
    """Log-probability of each target and entropy of its distribution, both f32[B, X], from hidden states.

    Logits are bent to within ±softcap where one is given, then divided by `temperature`. At most `chunk` tokens' logits
    are alive on a device, forward and backward. Under a mesh the vocabulary matrix is gathered once for all chunks and
    stays split over `tensor`; its gradient is reduced once.
    """
    tokens_VD = tokens_VD.astype(hidden_BXD.dtype)
    score = partial(_score, vocab=vocab, softcap=softcap)
    mesh = current_mesh(hidden_BXD.shape[0])
    if mesh is None:
        score = partial(score, tokens_VD=tokens_VD, axis=None, temperature=temperature)
        return _chunked(hidden_BXD, targets_BX, score, chunk)
    rows, X = PartitionSpec(BATCH_AXES, "sequence"), hidden_BXD.shape[1]
    pad = -X % mesh.shape["sequence"]
    hidden_BXD = jnp.pad(hidden_BXD, ((0, 0), (0, pad), (0, 0)))
    targets_BX = jnp.pad(targets_BX, ((0, 0), (0, pad)))

    def local(hidden_BXD, targets_BX, tokens_VD, temperature):
        tokens_VD = lax.all_gather(tokens_VD, SLICED, axis=1, tiled=True)
        over_mesh = partial(score, tokens_VD=tokens_VD, axis="tensor", temperature=temperature)
        return _chunked(hidden_BXD, targets_BX, over_mesh, chunk)

    mapped = jax.shard_map(
        local, in_specs=(rows, rows, PartitionSpec("tensor", SLICED), PartitionSpec()), out_specs=(rows, rows)
    )
    logprobs_BX, entropy_BX = mapped(hidden_BXD, targets_BX, tokens_VD, jnp.asarray(temperature, jnp.float32))
    return logprobs_BX[:, :X], entropy_BX[:, :X]


def target_logprobs(hidden_BXD, targets_BX, tokens_VD, vocab: int, chunk: int, softcap: float | None = None):
    """(log-probability of each target f32, whether no token is likelier), [B, X], with the logits of about `chunk` at a time."""
    B, X, D = hidden_BXD.shape
    tokens_VD = tokens_VD.astype(hidden_BXD.dtype)

    def score(pair):
        hidden_BYD, targets_BY = pair
        logits_BYV = next_logits(hidden_BYD, tokens_VD, vocab, softcap)
        peak_BY = logits_BYV.max(axis=-1)
        total_BY = jnp.exp(logits_BYV - peak_BY[:, :, None]).sum(axis=-1)
        picked_BY = jnp.take_along_axis(logits_BYV, targets_BY[:, :, None], axis=-1)[:, :, 0]
        return picked_BY - peak_BY - jnp.log(total_BY), picked_BY >= peak_BY

    Y = min(X, max(chunk // B, 1))  # columns, so that rows stay on their devices
    count = -(-X // Y)
    hidden_BXD = jnp.pad(hidden_BXD, ((0, 0), (0, count * Y - X), (0, 0)))
    targets_BX = jnp.pad(targets_BX, ((0, 0), (0, count * Y - X)))
    parts = hidden_BXD.reshape(B, count, Y, D).swapaxes(0, 1), targets_BX.reshape(B, count, Y).swapaxes(0, 1)
    found = lax.map(score, parts)
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(B, count * Y)[:, :X], found)


def scalar_values(hidden_BTD: jax.Array, head: dict) -> jax.Array:
    """The scalar head on f32 states; f32[B, T]."""
    return jnp.sum(hidden_BTD * head["kernel"][None, None], axis=-1) + head["bias"]


def init_head(key: jax.Array, width: int) -> dict:
    """The scalar head's parameters: N(0, 1/sqrt(width + 1)) and bias 0."""
    return {"kernel": jax.random.normal(key, (width,)) * (width + 1) ** -0.5, "bias": jnp.zeros(())}


def _chunked(hidden_BXD, targets_BX, score, chunk):
    B, X, D = hidden_BXD.shape
    hidden, targets = hidden_BXD.reshape(B * X, D), targets_BX.reshape(B * X)
    if B * X <= chunk:
        logprobs, entropy = score(hidden, targets)
    else:
        count = -(-B * X // chunk)
        # Of one size, or the last would be filled up: 1,520 tokens are two of 760, not of 1,024.
        chunk = -(-B * X // count)
        pad = count * chunk - B * X
        hidden = jnp.pad(hidden, ((0, pad), (0, 0))).reshape(count, chunk, D)
        targets = jnp.pad(targets, (0, pad)).reshape(count, chunk)
        logprobs, entropy = lax.map(jax.checkpoint(lambda pair: score(*pair)), (hidden, targets))
    return logprobs.reshape(-1)[: B * X].reshape(B, X), entropy.reshape(-1)[: B * X].reshape(B, X)


def _score(hidden_XD, targets_X, *, tokens_VD, vocab, axis, softcap, temperature):
    V = tokens_VD.shape[0]
    first = 0 if axis is None else lax.axis_index(axis) * V
    over_vocab = (lambda x: x) if axis is None else partial(lax.psum, axis_name=axis)
    logits_XV = lax.dot_general(
        hidden_XD, tokens_VD, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
    )
    logits_XV = _bent(logits_XV, first + jnp.arange(V), vocab, softcap, temperature)
    peak_X = lax.stop_gradient(logits_XV.max(axis=-1))
    peak_X = peak_X if axis is None else lax.pmax(peak_X, axis)
    weights_XV = jnp.exp(logits_XV - peak_X[:, None])
    total_X = over_vocab(weights_XV.sum(axis=-1))
    mean_X = over_vocab((weights_XV * logits_XV).sum(axis=-1)) / total_X
    # A masked sum, not a gather: the gather's gradient is a scatter of [X, V], twice as slow on a CPU.
    is_target_XV = (first + jnp.arange(V))[None] == targets_X[:, None]
    picked_X = over_vocab(jnp.where(is_target_XV, logits_XV, 0.0).sum(axis=-1))
    log_total_X = peak_X + jnp.log(total_X)
    return picked_X - log_total_X, log_total_X - mean_X


def _bent(logits_XV, ids_V, vocab, softcap, temperature):
    if softcap is not None:
        logits_XV = softcap * jnp.tanh(logits_XV / softcap) / temperature
    if vocab % VOCAB_MULTIPLE == 0:
        return logits_XV
    return jnp.where((ids_V < vocab)[None], logits_XV, MASKED)
