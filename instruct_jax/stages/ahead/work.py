"""Home of what an experiment has to compute: how often each of its programs runs, and the operations that this takes at the least.

The paper's own accounting is 6 x parameters x tokens. Here the vocabulary head counts where it is needed, and causal attention counts
half of the square, as for the models that published utilisations are compared with.
"""

import math
from typing import NamedTuple

from ml_collections import ConfigDict

from instruct_jax.data.streams import mixed_rows
from instruct_jax.errors import InputError
from instruct_jax.models.variants import TransformerConfig
from instruct_jax.stages import setup, train_lm, train_ppo, train_rm
from instruct_jax.stages.settings import section

PAPER_ROWS = {"sft": 12_725, "rm": 33_207}  # prompts to train on (Table 6)


class Work(NamedTuple):
    """{program: (runs in the experiment, operations of one run)}, tokens of one round of programs, and what was assumed."""

    programs: dict[str, tuple[int, float]]
    tokens: int
    assumed: tuple[str, ...]


def matrices(model: TransformerConfig) -> int:
    """Weights of one layer's products."""
    D, heads, kv = model.width, model.heads * model.head_dim, model.kv_heads * model.head_dim
    return D * (2 * heads + 2 * kv) + D * model.mlp * (3 if model.gated else 2)


def forward(model: TransformerConfig, rows: int, length: int, predicted: int = 0) -> float:
    """Operations of one forward pass over rows of `length` tokens, of which `predicted` a row go through the vocabulary head."""
    tokens = rows * length
    attention = 2.0 * model.layers * model.heads * model.head_dim * length * tokens
    head = 2.0 * model.width * model.vocab * rows * predicted
    return 2.0 * model.layers * matrices(model) * tokens + attention + head


def layers(config: ConfigDict) -> frozenset[int]:
    """How many layers the models of a config have."""
    names = [name for name in ("model", "reward_model") if name in config]
    return frozenset(setup.transformer(section(config, name, setup.ModelSettings)).layers for name in names)


def of(config: ConfigDict, rows: int | None = None) -> Work:
    """The work of a config's experiment. `rows` is the size of the training set where the config counts epochs (None: the paper's)."""
    text = section(config, "text", setup.TextSettings)
    length = text.max_prompt + text.max_response
    if config.stage == "ppo":
        return _ppo(config, text, length)
    model = setup.transformer(section(config, "model", setup.ModelSettings))
    if config.stage == "rm":
        data, train = (
            section(config, "data", train_rm.DataSettings),
            section(config, "train", train_rm.TrainSettings),
        )
        batch = train_rm.rows_at_most(data, text)
        flops = 3 * forward(model, batch, length)
        prompts, assumed = _prompts(train.epochs, rows, "rm")
        steps = math.ceil(train.epochs * prompts / data.batch_size)
        each = (
            f"of {text.max_response} tokens behind one prompt of {text.max_prompt}"
            if data.shared_prompts
            else f"each a row of {length} tokens by itself"
        )
        assumed += (f"every prompt has {data.k_max} completions, {each}",)
    elif config.stage in ("sft", "pretrain"):
        data, train = (
            section(config, "data", train_lm.DataSettings),
            section(config, "train", train_lm.TrainSettings),
        )
        batch, flops = data.batch_size, 3 * forward(model, data.batch_size, length, length)
        steps, assumed = _lm_steps(data, train, rows)
        assumed += (f"a row of {length} tokens counts whole, padding or not",)
    else:
        raise InputError(
            f"config.stage is {config.stage!r}: pretrain, sft, rm and ppo have programs to compile ahead"
        )
    return Work({"train_step": (steps, flops)}, batch * length, assumed)


def _lm_steps(data: train_lm.DataSettings, train: train_lm.TrainSettings, rows: int | None):
    """Steps of an SFT run, and what was assumed."""
    if train.epochs is None:
        return setup.whole_steps(train.steps, None, 0), ()
    prompts, assumed = _prompts(train.epochs, rows, "sft")
    if data.kind == "demonstrations" and data.pretraining_fraction:
        prompts = mixed_rows(prompts, data.pretraining_fraction)
        assumed += (f"{data.pretraining_fraction:.0%} of the rows are pretraining's, on top of the prompts",)
    if data.kind == "demonstrations" and data.packed:
        assumed += ("every demonstration is a row of its own: packed ones take fewer steps",)
    return setup.whole_steps(train.steps, train.epochs, math.ceil(prompts / data.batch_size)), assumed


def _prompts(epochs: float, rows: int | None, kind: str) -> tuple[int, tuple[str, ...]]:
    total = rows or PAPER_ROWS[kind]
    whose = "as given" if rows else "the paper's (Table 6)"
    return total, (f"{total} prompts to train on, {whose}, {epochs:g} epochs",)


def _ppo(config: ConfigDict, text: setup.TextSettings, length: int) -> Work:
    train, ppo = (
        section(config, "train", train_ppo.TrainSettings),
        section(config, "ppo", train_ppo.PPOConfig),
    )
    policy, scalar = (
        setup.transformer(section(config, name, setup.ModelSettings)) for name in ("model", "reward_model")
    )
    B, R = train.batch_size, text.max_response
    said = forward(policy, B, length, R)
    judged = forward(scalar, B, length)
    scoring = 2 * said + 2 * judged  # by policy and reference, reward model and value
    pretraining = B * train.inner_epochs * train.ptx_ratio if ppo.ptx_coef else 0
    update = 3 * train.inner_epochs * (said + judged)
    update += 3 * forward(policy, pretraining, train.ptx_length, train.ptx_length)
    runs = train.iterations
    assumed = (
        f"every prompt has {text.max_prompt} tokens and every response runs to {R}: shorter ones cost less",
        "loading, checkpoints and the host's part of an iteration take no time",
    )
    return Work(
        {"rollout": (runs, said), "scoring": (runs, scoring), "update": (runs, update)},
        B * length + pretraining * train.ptx_length,
        assumed,
    )
