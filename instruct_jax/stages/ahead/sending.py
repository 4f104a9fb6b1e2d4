"""Home of the law for what a train step sends: bytes a chip, from the model's shape and the mesh alone.

Parameters and gradients cross the links in the number type of the computation. Every use of a slice needs the whole once: forward,
backward, once more where layers are computed again, and the gradient comes back in slices. What a compiler made is compared with it.
"""

import jax.numpy as jnp
from ml_collections import ConfigDict

from instruct_jax.models.variants import TransformerConfig
from instruct_jax.sharding import AXES
from instruct_jax.stages import setup, train_lm, train_ppo, train_rm
from instruct_jax.stages.ahead.work import matrices
from instruct_jax.stages.settings import section


def gradient(model: TransformerConfig, rows: int, length: int, mesh) -> float:
    """Bytes that a chip of `mesh` sends for one gradient over rows of `length` tokens: parameters gathered over fsdp x sequence and their
    gradient scattered, its slices summed over data, activations summed over tensor."""
    size, again = jnp.dtype(model.dtype).itemsize, model.remat == "full"
    data, fsdp, sequence, tensor = (mesh.shape[axis] for axis in AXES)
    sliced = fsdp * sequence
    layers = model.layers * matrices(model)
    table = model.padded_vocab * model.width * (1 if model.tied else 2)
    uses = (4 if again else 3) * layers + 3 * table
    gathered = size * uses / tensor * (sliced - 1) / sliced
    summed = size * (layers + table) / (tensor * sliced) * 2 * (data - 1) / data
    tokens = rows * length / (data * sliced)
    reduced = (6 if again else 4) * model.layers * size * tokens * model.width * 2 * (tensor - 1) / tensor
    return gathered + summed + reduced


def of(config: ConfigDict, mesh) -> dict[str, float]:
    """{program: bytes that a chip sends in one run} of the programs that train."""
    text = section(config, "text", setup.TextSettings)
    model = setup.transformer(section(config, "model", setup.ModelSettings))
    if config.stage == "ppo":
        train = section(config, "train", train_ppo.TrainSettings)
        scalar = setup.transformer(section(config, "reward_model", setup.ModelSettings))
        episodes = train.minibatch_size // train.pieces
        sent = train.pieces * sum(gradient(each, episodes, text.length, mesh) for each in (model, scalar))
        if section(config, "ppo", train_ppo.PPOConfig).ptx_coef:
            rows = train.ptx_rows // train.ptx_pieces
            sent += train.ptx_pieces * gradient(model, rows, train.ptx_length, mesh)
        return {"update": train.minibatches * train.inner_epochs * sent}
    kind = train_rm if config.stage == "rm" else train_lm
    data, train = section(config, "data", kind.DataSettings), section(config, "train", kind.TrainSettings)
    pieces = data.batch_size // (train.microbatch_size or data.batch_size)
    rows = data.batch_size * (data.k_max if config.stage == "rm" else 1) // pieces
    return {"train_step": pieces * gradient(model, rows, text.length, mesh)}
