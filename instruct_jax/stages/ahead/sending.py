"""Home of the law for what a train step sends: bytes a chip, from the model's shape and the mesh alone.

Parameters and gradients cross the links in the number type of the computation: gathered forward, gathered backward, the gradient
scattered. Where layers are computed again in the backward pass a compiler may gather them for that too, or use what it gathers
backward. What a compiler made is compared with both.
"""

from typing import NamedTuple

import jax.numpy as jnp
from ml_collections import ConfigDict

from instruct_jax.models.variants import TransformerConfig
from instruct_jax.sharding import AXES
from instruct_jax.stages import setup, train_lm, train_ppo, train_rm
from instruct_jax.stages.ahead.work import matrices
from instruct_jax.stages.settings import section


class Sent(NamedTuple):
    """Bytes that a chip sends: at the least, and with layers gathered once more to be computed again."""

    least: float
    again: float


def gradient(model: TransformerConfig, rows: int, length: int, mesh) -> Sent:
    """What a chip of `mesh` sends for one gradient over rows of `length` tokens: parameters gathered over fsdp x sequence and their
    gradient scattered, its slices summed over data, activations summed over tensor."""
    size, full = jnp.dtype(model.dtype).itemsize, model.remat == "full"
    data, fsdp, sequence, tensor = (mesh.shape[axis] for axis in AXES)
    sliced = fsdp * sequence
    layers = model.layers * matrices(model)
    table = model.padded_vocab * model.width * (1 if model.tied else 2)
    once = size / tensor * (sliced - 1) / sliced
    summed = size * (layers + table) / (tensor * sliced) * 2 * (data - 1) / data
    tokens = rows * length / (data * sliced)
    reduced = (6 if full else 4) * model.layers * size * tokens * model.width * 2 * (tensor - 1) / tensor
    least = 3 * (layers + table) * once + summed + reduced
    return Sent(least, least + full * layers * once)


def of(config: ConfigDict, mesh) -> dict[str, Sent]:
    """{program: what a chip sends in one run} of the programs that train."""
    text = section(config, "text", setup.TextSettings)
    model = setup.transformer(section(config, "model", setup.ModelSettings))
    if config.stage == "ppo":
        train = section(config, "train", train_ppo.TrainSettings)
        scalar = setup.transformer(section(config, "reward_model", setup.ModelSettings))
        episodes, times = train.minibatch_size // train.pieces, train.minibatches * train.inner_epochs
        parts = [
            (times * train.pieces, gradient(each, episodes, text.length, mesh)) for each in (model, scalar)
        ]
        if section(config, "ppo", train_ppo.PPOConfig).ptx_coef:
            rows = train.ptx_rows // train.ptx_pieces
            parts.append((times * train.ptx_pieces, gradient(model, rows, train.ptx_length, mesh)))
        return {"update": Sent(*(sum(times * sent[i] for times, sent in parts) for i in range(2)))}
    kind = train_rm if config.stage == "rm" else train_lm
    data, train = section(config, "data", kind.DataSettings), section(config, "train", kind.TrainSettings)
    pieces = data.batch_size // (train.microbatch_size or data.batch_size)
    rows = (train_rm.rows_at_most(data, text) if config.stage == "rm" else data.batch_size) // pieces
    return {"train_step": Sent(*(pieces * bytes for bytes in gradient(model, rows, text.length, mesh)))}
