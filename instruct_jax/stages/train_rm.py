"""Home of the reward model's training: all pairs of a prompt's K completions, one epoch, then a bias that centres it (App. C.2).

Differs from the paper in its start: the policy it is given (the paper's was a 6B model tuned on public tasks; it reports that an SFT
or GPT-3 start does as well).
"""

import dataclasses
import json
import math
from pathlib import Path

import jax
import ml_collections
import numpy as np

from instruct_jax.algorithms.masked import masked_mean
from instruct_jax.algorithms.pieces import accumulate
from instruct_jax.algorithms.rm import last_scores, ranking_counts, rm_loss, shift_bias
from instruct_jax.batches import RankingBatch
from instruct_jax.data import builders, pipeline
from instruct_jax.devices import peak_flops
from instruct_jax.errors import InputError
from instruct_jax.models.transformer import PolicyModel, ScalarModel
from instruct_jax.models.variants import TransformerConfig
from instruct_jax.sharding import batch_devices, fetch
from instruct_jax.stages import setup, speed, states
from instruct_jax.stages.settings import SHARED, check_fields, profile, section, wandb_project
from instruct_jax.training.checkpoint import Checkpoints
from instruct_jax.training.limits import STOP, GuardConfig, held
from instruct_jax.training.loop import fit
from instruct_jax.training.optim import OptimizerConfig, apply_gradients, make_optimizer, make_schedule
from instruct_jax.training.pace import Watch
from instruct_jax.training.state import TrainState

FIELDS = (*SHARED, "profile", "data", "optimizer", "train", "init")
PATHS = ("text.tokenizer", "data.dir", "init")  # without one of them run() ends with status 2


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """The data set directory, prompts per batch, completions per prompt at most, and where demonstrations to centre on are (None:
    there are none, and the bias stays).

    With `shared_prompts` a prompt is computed once for those of its completions that lie in its row, by plain attention: for rows that
    are not too long for it, where prompts are long or completions many."""

    dir: str
    batch_size: int
    k_max: int
    shared_prompts: bool = False
    split: str = "train"
    demonstrations_split: str | None = "train"


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """`epochs` is 1 in the paper: more overfits. `divide_by`: "valid_pairs" or "all_pairs", see algorithms/rm. Gradients are taken of
    `microbatch_size` prompts with all their completions at once (None: of the batch). `offload` is train_lm's."""

    epochs: float
    divide_by: str = "valid_pairs"
    microbatch_size: int | None = None
    offload: tuple[str, ...] = ()
    log_every: int = 10
    save_every: int = 200
    guard: GuardConfig = STOP

    def __post_init__(self):
        states.check_offload(self.offload, ("optimizer",))
        states.check_at_least_1(self, "log_every", "save_every")
        if self.divide_by not in ("valid_pairs", "all_pairs"):
            raise InputError(f'train.divide_by is {self.divide_by!r}: use "valid_pairs" or "all_pairs"')
        if not 0 < self.epochs < math.inf:
            raise InputError(f"train.epochs is {self.epochs}: it must be above 0")


def make_step(model: ScalarModel, tx, schedule, divide_by: str, pieces: int = 1, guard: GuardConfig = STOP):
    """The pure train step (state, RankingBatch, key) → (state, metrics): the mean over prompts of Eq. 1, one update."""

    def step(state: TrainState, batch: RankingBatch, key):
        counts = ranking_counts(batch.ranks_BK)

        def loss(params, piece):
            loss_B, weight_B, metrics = rm_loss(model, params, piece, divide_by, counts)
            return masked_mean(loss_B, weight_B > 0, counts[0]), metrics

        grads, metrics = accumulate(loss, state.params, batch, pieces, "prompts or packed rows")
        new_state, norm = apply_gradients(state, grads, tx)
        metrics = {**metrics, "rm/grad_norm": norm, "rm/learning_rate": schedule(state.step)}
        return held(state, new_state, metrics, guard)

    return step


def check_sharing(
    data: DataSettings, model: setup.ModelSettings, names: str = "config.data.shared_prompts and config.model"
) -> None:
    """InputError where prompts are to be shared under an attention kernel that cannot."""
    if data.shared_prompts and model.attention not in ("auto", "xla"):
        raise InputError(
            f"{names}.attention = {model.attention!r} do not go together: sharing needs plain attention, 'auto' or 'xla'"
        )


def row_width(data: DataSettings, text: setup.TextSettings, model: TransformerConfig) -> int:
    """Columns of the packed rows: of one prompt and completion, or three times as many where prompts are shared, so that rankings fit."""
    return setup.row_length(text, model) * (3 if data.shared_prompts else 1)


def rows_at_most(data: DataSettings, text: setup.TextSettings) -> int:
    """How many rows of one prompt and completion have as many tokens as a batch can have."""
    if not data.shared_prompts:
        return data.batch_size * data.k_max
    return math.ceil(data.batch_size * (text.max_prompt + data.k_max * text.max_response) / text.length)


def check(config: ml_collections.ConfigDict) -> None:
    """InputError for a field that is wrong in itself; reads no data and asks for no device."""
    sections = {"data": DataSettings, "optimizer": OptimizerConfig, "train": TrainSettings}
    check_fields(config, FIELDS, setup.SECTIONS | sections)
    check_sharing(section(config, "data", DataSettings), section(config, "model", setup.ModelSettings))


def programs(config: ml_collections.ConfigDict, mesh) -> dict:
    """{name: (jitted, abstract arguments)} of this stage; reads no data."""
    model = ScalarModel(setup.transformer(section(config, "model", setup.ModelSettings)))
    optimizer, train = section(config, "optimizer", OptimizerConfig), section(config, "train", TrainSettings)
    text, data = section(config, "text", setup.TextSettings), section(config, "data", DataSettings)
    width = row_width(data, text, model.config)
    pieces = setup.pieces(data.batch_size, train.microbatch_size, width, mesh)
    tx = make_optimizer(optimizer, 1000, frozen=model.config.frozen)
    state = states.abstract_state(model, tx, mesh, train.offload)
    step = make_step(model, tx, make_schedule(optimizer, 1000), train.divide_by, pieces, train.guard)
    step = states.jit_step(step, state, mesh, train.offload)
    rows = setup.batch_sharding(mesh)
    # How well completions pack is known from data alone: a row for each is the most there can be, and where three fit into one, a row
    # more than two thirds, for of two rows at most half full one would not have been begun.
    most = data.batch_size // pieces * data.k_max
    if data.shared_prompts:
        most = min(most, -(-2 * most // 3) + 1)
    packed, slots = (
        (pipeline.ranking_rows(most, pieces, batch_devices(mesh)), width),
        (data.batch_size, data.k_max),
    )
    shapes = (packed, packed, slots, slots, slots, *([packed] if data.shared_prompts else []))
    batch = RankingBatch(*(jax.ShapeDtypeStruct(shape, np.int32, sharding=rows) for shape in shapes))
    return {"train_step": (step, (state, batch, jax.eval_shape(lambda: jax.random.key(0))))}


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Trains a reward model from the policy in config.init; the centred one lies in `workdir`/reward."""
    text, data = section(config, "text", setup.TextSettings), section(config, "data", DataSettings)
    optimizer, train = section(config, "optimizer", OptimizerConfig), section(config, "train", TrainSettings)
    mesh = setup.open_mesh(section(config, "mesh", setup.MeshSettings))
    tokenizer = setup.load_tokenizer(text)
    model = ScalarModel(
        setup.transformer(section(config, "model", setup.ModelSettings), tokenizer.vocab_size)
    )
    width = row_width(data, text, model.config)
    pieces = setup.pieces(data.batch_size, train.microbatch_size, width, mesh)
    batches = pipeline.rankings(
        builders.open_source(data.dir, "rankings", data.split), tokenizer, setup.template(text.template, tokenizer), k_max=data.k_max,
        batch_size=data.batch_size, max_prompt=text.max_prompt, max_response=text.max_response, seed=config.seed,
        epochs=train.epochs, groups=pieces, devices=batch_devices(mesh),
        shared_width=width if data.shared_prompts else None,
    )  # fmt: skip
    total = batches.steps(train.epochs)
    tx = make_optimizer(optimizer, total, frozen=model.config.frozen)
    peak = peak_flops(mesh, model.config.dtype)
    with jax.set_mesh(mesh):
        abstract = states.abstract_state(model, tx, mesh, train.offload)
        parts = tx, make_schedule(optimizer, total), train.divide_by, pieces, train.guard
        step = states.jit_step(make_step(model, *parts), abstract, mesh, train.offload)
        plain = speed.without_remat(model)
        counted = step if plain is model else make_step(plain, *parts)
        policy = setup.load(config.init, PolicyModel(model.config), mesh)
        key = jax.random.key(config.seed)
        start = states.as_scalar(policy, jax.random.fold_in(key, 2**31 - 1))
        state = states.state_from(start, tx, mesh, offload=train.offload)
        state = fit(
            step, state, lambda i: setup.put_step(batches, i, mesh), total_steps=total, key=key, workdir=workdir,
            show=("rm/loss", "rm/accuracy"), log_every=train.log_every, save_every=train.save_every, saving=setup.saving(config),
            meta=setup.meta("rm", config, model.config), name=config.name, wandb=wandb_project(config),
            watch=Watch(speed.of_step(counted, peak), profile(config)), guard_config=train.guard,
        )  # fmt: skip
        _centre(model, state, data, text, tokenizer, mesh, workdir, config)


def _centre(model, state, data, text, tokenizer, mesh, workdir, config) -> None:
    """Shifts the bias so that labelers' demonstrations score 0 on average, and saves the reward model (paper App. C.2)."""
    if data.demonstrations_split is None:
        _save_reward(state, state.params, setup.meta("rm", config, model.config), workdir)
        return
    rows = pipeline.demonstrations(
        builders.open_source(data.dir, "demonstrations", data.demonstrations_split), tokenizer, setup.template(text.template, tokenizer),
        batch_size=data.batch_size, max_prompt=text.max_prompt, max_response=text.max_response, seed=0,
    )  # fmt: skip

    @jax.jit
    def scores(params, batch):
        mask_BT = batch.segments_BT > 0
        return last_scores(model.apply({"params": params}, batch.tokens_BT, batch.segments_BT), mask_BT)

    found = [scores(state.params, setup.put_step(rows, i, mesh)) for i in range(rows.steps_per_epoch)]
    # The last batch of an epoch is filled up from the next one: those rows would count twice.
    mean = float(np.concatenate([fetch(x) for x in found])[: rows.rows].mean())
    params = jax.jit(shift_bias)(state.params, mean)
    meta = {**setup.meta("rm", config, model.config), "demonstration_mean": mean}
    _save_reward(state, params, meta, workdir)
    if jax.process_index() == 0:
        found = {"demonstration_mean_before": mean, "demonstrations": rows.rows}
        (Path(workdir) / "bias.json").write_text(json.dumps(found) + "\n")


def _save_reward(state, params, meta: dict, workdir) -> None:
    saved = Checkpoints(Path(workdir) / "reward", keep=1)
    saved.save(int(state.step), TrainState(state.step, params, (), None), meta, wait=True)
    saved.close()
