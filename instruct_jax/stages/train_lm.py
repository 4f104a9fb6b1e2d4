"""Home of pretraining and supervised fine-tuning: one step with two masks (paper App. C.1, C.3).

Pretraining reads documents with a loss on every token; SFT reads demonstrations with a loss on the response, and mixes in a share
of pretraining rows for the PPO-init model. Where the paper is silent: a row is one demonstration or, `packed`, as many as fit; EOS
closes a response.
"""

import dataclasses
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from instruct_jax.algorithms.masked import masked_mean
from instruct_jax.algorithms.pieces import accumulate
from instruct_jax.algorithms.sft import lm_loss
from instruct_jax.batches import TokenBatch
from instruct_jax.data import builders, pipeline
from instruct_jax.devices import peak_flops
from instruct_jax.errors import InputError
from instruct_jax.models.transformer import PolicyModel
from instruct_jax.sharding import check_divides
from instruct_jax.stages import setup, speed, states
from instruct_jax.stages.settings import SHARED, check_fields, profile, section, wandb_project
from instruct_jax.training.limits import STOP, GuardConfig, held
from instruct_jax.training.loop import fit
from instruct_jax.training.optim import OptimizerConfig, apply_gradients, make_optimizer, make_schedule
from instruct_jax.training.pace import Watch
from instruct_jax.training.state import TrainState

_log = logging.getLogger(__name__)

FIELDS = (*SHARED, "profile", "data", "optimizer", "train", "init")
PATHS = ("text.tokenizer", "data.dir")  # without one of them run() ends with status 2


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """The data set directory and what of it is read; `pretraining_fraction` is the share of document rows in a batch, `packed` puts
    as many demonstrations into a row as fit (then `batch_size` counts such rows)."""

    dir: str
    kind: str  # "documents" or "demonstrations"
    batch_size: int
    split: str = "train"
    valid_split: str = "valid"
    valid_batch_size: int = 16
    pretraining_fraction: float = 0.0
    loss_on_prompt: bool = False
    packed: bool = False


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """How long to train (steps or epochs) and what to keep; `keep_epochs` keeps the checkpoint of every epoch. Gradients are taken of
    `microbatch_size` rows at once (None: of the batch), which changes memory and, but for rounding and dropout, nothing else.
    `offload` ("optimizer",) keeps Adam's moments in the memory of the devices' hosts between their uses."""

    steps: int | None = None
    epochs: float | None = None
    keep_epochs: bool = False
    microbatch_size: int | None = None
    offload: tuple[str, ...] = ()
    log_every: int = 20
    save_every: int = 500
    valid_batches: int = 4
    guard: GuardConfig = STOP

    def __post_init__(self):
        states.check_offload(self.offload, ("optimizer",))
        states.check_at_least_1(self, "log_every", "save_every", "valid_batches")


def make_step(model: PolicyModel, tx, schedule, pieces: int = 1, guard: GuardConfig = STOP):
    """The pure train step (state, TokenBatch, key) → (state, metrics): mean loss per target token, one update."""

    def step(state: TrainState, batch: TokenBatch, key):
        count = batch.loss_mask_BT[:, 1:].sum()
        rows_B = jnp.arange(batch.tokens_BT.shape[0])

        def loss(params, piece):
            rows, index = piece
            dropout_key = key if pieces == 1 else jax.random.fold_in(key, index[0])
            nll_BX, mask_BX, metrics = lm_loss(
                model, params, rows, dropout_key if model.config.dropout else None, count
            )
            return masked_mean(nll_BX, mask_BX, count), metrics

        grads, metrics = accumulate(loss, state.params, (batch, rows_B), pieces)
        new_state, norm = apply_gradients(state, grads, tx)
        metrics = {**metrics, "lm/grad_norm": norm, "lm/learning_rate": schedule(state.step)}
        return held(state, new_state, metrics, guard)

    return step


def check(config: ml_collections.ConfigDict) -> None:
    """InputError for a field that is wrong in itself; reads no data and asks for no device."""
    sections = {"data": DataSettings, "optimizer": OptimizerConfig, "train": TrainSettings}
    check_fields(config, FIELDS, setup.SECTIONS | sections)


def programs(config: ml_collections.ConfigDict, mesh) -> dict:
    """{name: (jitted, abstract arguments)} of this stage; reads no data."""
    model = PolicyModel(setup.transformer(section(config, "model", setup.ModelSettings)))
    optimizer = section(config, "optimizer", OptimizerConfig)
    text, data = section(config, "text", setup.TextSettings), section(config, "data", DataSettings)
    train = section(config, "train", TrainSettings)
    pieces = setup.pieces(data.batch_size, train.microbatch_size, text.length, mesh)
    check_divides(data.valid_batch_size, mesh, "config.data.valid_batch_size")
    tx = make_optimizer(optimizer, 1000, frozen=model.config.frozen)
    state = states.abstract_state(model, tx, mesh, train.offload)
    step = make_step(model, tx, make_schedule(optimizer, 1000), pieces, train.guard)
    step = states.jit_step(step, state, mesh, train.offload)
    shape = (data.batch_size, text.max_prompt + text.max_response)
    rows = setup.batch_sharding(mesh)
    batch = TokenBatch(*(jax.ShapeDtypeStruct(shape, t, sharding=rows) for t in (np.int32, np.int32, bool)))
    return {"train_step": (step, (state, batch, jax.eval_shape(lambda: jax.random.key(0))))}


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Trains a language model as `config` says; leaves checkpoints, metrics and done.json in `workdir`."""
    text, data = section(config, "text", setup.TextSettings), section(config, "data", DataSettings)
    optimizer, train = section(config, "optimizer", OptimizerConfig), section(config, "train", TrainSettings)
    mesh = setup.open_mesh(section(config, "mesh", setup.MeshSettings))
    pieces = setup.pieces(data.batch_size, train.microbatch_size, text.length, mesh)
    check_divides(data.valid_batch_size, mesh, "config.data.valid_batch_size")
    tokenizer = setup.load_tokenizer(text)
    model = PolicyModel(
        setup.transformer(section(config, "model", setup.ModelSettings), tokenizer.vocab_size)
    )
    setup.row_length(text, model.config)
    rows, *documents = _streams(data, text, tokenizer, data.split, data.batch_size, config.seed)
    batches = pipeline.mixture(rows, *documents, data.pretraining_fraction) if documents else rows
    valid = _streams(data, text, tokenizer, data.valid_split, data.valid_batch_size, config.seed)
    total = setup.whole_steps(train.steps, train.epochs, batches.steps_per_epoch)
    tx = make_optimizer(optimizer, total, frozen=model.config.frozen)
    peak = peak_flops(mesh, model.config.dtype)
    with jax.set_mesh(mesh):
        abstract = states.abstract_state(model, tx, mesh, train.offload)
        parts = tx, make_schedule(optimizer, total), pieces, train.guard
        step = states.jit_step(make_step(model, *parts), abstract, mesh, train.offload)
        plain = speed.without_remat(model)
        counted = step if plain is model else make_step(plain, *parts)
        key = jax.random.key(config.seed)
        if config.init:
            state = states.state_from(setup.load(config.init, model, mesh), tx, mesh, offload=train.offload)
        else:
            state = states.fresh_state(lambda: states.init_params(model, key), tx, mesh, train.offload)
        fit(
            step, state, lambda i: setup.put_step(batches, i, mesh), total_steps=total, key=key, workdir=workdir,
            show=("lm/loss",), log_every=train.log_every, save_every=batches.steps_per_epoch if train.keep_epochs else train.save_every,
            keep=total if train.keep_epochs else 2, saving=setup.saving(config), eval_every=batches.steps_per_epoch,
            evaluate=_validation(model, valid, train.valid_batches, mesh), meta=setup.meta(config.stage, config, model.config),
            name=config.name, wandb=wandb_project(config), watch=Watch(speed.of_step(counted, peak), profile(config)),
            guard_config=train.guard,
        )  # fmt: skip


def _streams(
    data: DataSettings, text: setup.TextSettings, tokenizer, split: str, batch_size: int, seed: int
) -> list[pipeline.Batches]:
    """What the settings name, in batches of one shape: the documents, or the demonstrations and the documents to mix in, if any."""
    if data.kind not in ("documents", "demonstrations"):
        raise InputError(f"data.kind is {data.kind!r}: use 'documents' or 'demonstrations'")

    def documents():
        source = builders.open_source(data.dir, "documents", split)
        length = text.max_prompt + text.max_response
        return pipeline.documents(
            source, tokenizer, batch_size=batch_size, length=length, seed=seed, cache=source.token_cache
        )

    if data.kind == "documents":
        return [documents()]
    source = builders.open_source(data.dir, "demonstrations", split)
    rows = pipeline.demonstrations(
        source, tokenizer, setup.template(text.template, tokenizer), batch_size=batch_size, max_prompt=text.max_prompt,
        max_response=text.max_response, seed=seed, loss_on_prompt=data.loss_on_prompt, packed=data.packed,
    )  # fmt: skip
    return [rows, documents()] if data.pretraining_fraction else [rows]


def _validation(model, valid: list[pipeline.Batches], count: int, mesh):
    """evaluate(state, done) -> the loss per target token of each stream by itself: in a mixture the documents, whose rows have the
    most targets, would outweigh the demonstrations."""
    model = PolicyModel(dataclasses.replace(model.config, dropout=0.0))

    @jax.jit
    def loss(params, batch):
        nll_BX, mask_BX, _ = lm_loss(model, params, batch)
        return (nll_BX * mask_BX).sum(), mask_BX.sum()

    def mean(params, batches):
        sums = [loss(params, setup.put_step(batches, i, mesh)) for i in range(count)]
        return float(sum(s for s, _ in sums)) / float(sum(n for _, n in sums))

    def evaluate(state, done):
        names = ("valid/loss", "valid/pretraining_loss")
        return {name: mean(state.params, batches) for name, batches in zip(names, valid)}

    return evaluate
