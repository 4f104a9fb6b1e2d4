"""Home of PPO and PPO-ptx: respond, score, shape, then one optimizer step per minibatch for policy and value (paper 3.5, App. C.4).

One iteration is one step of the loop. Policy and value are separate networks with an optimizer each; the value starts as a copy of
the reward model; the reference is the policy's own start. The pretraining gradient joins PPO's before the policy's one step. Where
the paper is silent, algorithms/ppo says what is inherited.
"""

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from instruct_jax.algorithms import ppo as algorithm
from instruct_jax.algorithms.decode import SamplingConfig
from instruct_jax.algorithms.ppo import PPOConfig
from instruct_jax.algorithms.rollout import RolloutParams, respond, score_responses, split_minibatches
from instruct_jax.batches import PromptBatch, TokenBatch
from instruct_jax.data import builders, pipeline
from instruct_jax.devices import peak_flops
from instruct_jax.errors import InputError
from instruct_jax.models.transformer import PolicyModel, ScalarModel
from instruct_jax.sharding import check_divides, check_tokens
from instruct_jax.stages import setup, speed, states
from instruct_jax.stages.settings import SHARED, check_fields, profile, section, wandb_project
from instruct_jax.training.limits import STOP, GuardConfig, chosen, held
from instruct_jax.training.loop import fit
from instruct_jax.training.optim import OptimizerConfig, apply_gradients, make_optimizer, make_schedule
from instruct_jax.training.pace import Watch
from instruct_jax.training.state import TrainState

FIELDS = (
    *SHARED, "profile", "reward_model", "policy_optimizer", "value_optimizer", "ppo", "train", "data_dir", "init", "reward",
)  # fmt: skip
PATHS = ("text.tokenizer", "data_dir", "init", "reward")  # without one of them run() ends with status 2


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Episodes in all, per iteration and per optimizer step; passes over an iteration's episodes; the weight average's decay,
    None for no average (and a fifth less memory).

    `ptx_ratio` pretraining rows of `ptx_length` tokens go with every episode (8 rows in the paper). What is taken at once, None for
    all: `rollout_size` episodes in sampling, `microbatch_size` episodes in scoring and under a gradient, `ptx_microbatch_size`
    pretraining rows under one. With `refill`, an episode that ends in sampling makes place for one that waits, instead of waiting for
    the others. They change memory and speed, and results by rounding alone.

    `offload` names what lies in the memory of the devices' hosts but while it is used: "optimizer" (Adam's moments of policy and
    value), "average" (of the weights), "frozen" (reference and reward model, then read layer by layer)."""

    episodes: int
    batch_size: int
    minibatch_size: int
    inner_epochs: int = 1
    ema_decay: float | None = 0.992
    ptx_ratio: int = 8
    ptx_length: int = 2048
    rollout_size: int | None = None
    refill: bool = False
    microbatch_size: int | None = None
    ptx_microbatch_size: int | None = None
    offload: tuple[str, ...] = ()
    log_every: int = 1
    save_every: int = 50
    keep: int = 2
    guard: GuardConfig = STOP

    def __post_init__(self):
        states.check_offload(self.offload, (*states.STATE_PARTS, "frozen"))
        counts = ("episodes", "batch_size", "minibatch_size", "inner_epochs", "ptx_ratio", "ptx_length")
        states.check_at_least_1(self, *counts, "log_every", "save_every", "keep")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise InputError(
                f"train.ema_decay is {self.ema_decay}: it must be at least 0 and below 1, or None"
            )
        if self.batch_size % self.minibatch_size:
            raise InputError(
                f"train.batch_size {self.batch_size} does not split into minibatches of train.minibatch_size "
                f"{self.minibatch_size}: use a divisor of {self.batch_size}"
            )
        if self.episodes % self.batch_size:
            raise InputError(
                f"train.episodes {self.episodes} is not a whole number of iterations of train.batch_size {self.batch_size}: "
                f"use {self.episodes // self.batch_size * self.batch_size or self.batch_size}"
            )
        for whole, part in (
            ("batch_size", "rollout_size"),
            ("minibatch_size", "microbatch_size"),
            ("ptx_rows", "ptx_microbatch_size"),
        ):
            size, rows = getattr(self, part), getattr(self, whole)
            if size is not None and (size < 1 or rows % size):
                raise InputError(f"train.{part} is {size}: it must divide train.{whole} {rows}")

    def check_mesh(self, length: int, mesh) -> None:
        """InputError unless everything that is taken at once, episodes of `length` tokens among it, divides over the mesh."""
        check_tokens(length, mesh)
        check_tokens(self.ptx_length, mesh)
        for name in ("minibatch_size", "microbatch_size", "rollout_size", "ptx_microbatch_size"):
            if getattr(self, name) is not None:
                check_divides(getattr(self, name), mesh, f"config.train.{name}")

    @property
    def ptx_rows(self) -> int:
        """Pretraining rows of one optimizer step."""
        return self.minibatch_size * self.ptx_ratio

    @property
    def slots(self) -> int | None:
        """Episodes that are sampled at once with others taking their place, None without refilling."""
        return (self.rollout_size or self.batch_size) if self.refill else None

    @property
    def chunks(self) -> int:
        """Parts of an iteration's episodes that are sampled one after another."""
        return self.batch_size // (self.rollout_size or self.batch_size)

    @property
    def pieces(self) -> int:
        """Parts of a minibatch's episodes that have their gradients taken one after another."""
        return self.minibatch_size // (self.microbatch_size or self.minibatch_size)

    @property
    def ptx_pieces(self) -> int:
        """Parts of a minibatch's pretraining rows that do."""
        return self.ptx_rows // (self.ptx_microbatch_size or self.ptx_rows or 1)

    @property
    def iterations(self) -> int:
        return self.episodes // self.batch_size

    @property
    def subtree(self) -> str:
        """Where the policy to be used lies in a checkpoint: its average, or itself where there is none."""
        return "policy/params" if self.ema_decay is None else "policy/ema"

    @property
    def minibatches(self) -> int:
        return self.batch_size // self.minibatch_size


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PPOState:
    """What an iteration changes: both networks with their optimizers, and the KL coefficient."""

    policy: TrainState
    value: TrainState
    kl_coef: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IterationBatch:
    """One iteration's prompts and pretraining rows (None without ptx)."""

    prompts: PromptBatch
    pretraining: TokenBatch | None


class Pieces(NamedTuple):
    """All that is fixed over a run."""

    policy: PolicyModel
    scalar: ScalarModel
    policy_tx: object
    value_tx: object
    schedules: dict  # of the learning rates, by the names that they are logged under
    sampling: SamplingConfig
    ppo: PPOConfig
    train: TrainSettings
    eos_id: int | tuple[int, ...]
    pad_id: int


def make_rollout(p: Pieces):
    """(policy params, prompts, key) → (response_BR, response_mask_BR): sampling, prefill and decode; pure."""

    def rollout(policy, prompts: PromptBatch, key):
        return respond(p.policy, policy, prompts, key, p.sampling, p.ppo, p.eos_id, p.pad_id, p.train.chunks,
                       p.train.slots)  # fmt: skip

    return rollout


def make_scoring(p: Pieces):
    """(policy, reference, reward, value params, prompts, response_BR, mask_BR, kl_coef) → (Rollout, metrics); pure."""

    def scoring(policy, reference, reward, value, prompts: PromptBatch, response_BR, mask_BR, kl_coef):
        params = RolloutParams(policy, reference, reward, value)
        return score_responses(p.policy, p.scalar, params, prompts, response_BR, mask_BR, p.ppo, kl_coef, p.eos_id,
                               p.train.minibatches * p.train.pieces)  # fmt: skip

    return scoring


def make_update(p: Pieces):
    """(state, Rollout, pretraining rows or None, key, KL) → (state, metrics): every minibatch of every inner epoch, scanned; pure."""
    train = p.train

    def minibatch_step(state: PPOState, inputs, kl):
        minibatch, pretraining = inputs
        grads, metrics = algorithm.policy_gradient(
            p.policy, state.policy.params, minibatch, pretraining, p.ppo, train.pieces, train.ptx_pieces
        )
        value_grads, value_metrics = algorithm.value_gradient(
            p.scalar, state.value.params, minibatch, p.ppo, train.pieces
        )
        policy, norm = apply_gradients(state.policy, grads, p.policy_tx, train.ema_decay)
        value, value_norm = apply_gradients(state.value, value_grads, p.value_tx)
        norms = {"ppo/policy_grad_norm": norm, "ppo/value_grad_norm": value_norm, "objective/kl": kl}
        new = dataclasses.replace(state, policy=policy, value=value)
        return held(state, new, {**metrics, **value_metrics, **norms}, train.guard)

    def update(state: PPOState, rollout, pretraining, key, kl):
        epochs = [
            split_minibatches(rollout, jax.random.fold_in(key, e), train.minibatches)
            for e in range(train.inner_epochs)
        ]
        minibatches = jax.tree.map(lambda *x: jnp.concatenate(x), *epochs)
        steps = train.minibatches * train.inner_epochs
        rates = {name: schedule(state.policy.step) for name, schedule in p.schedules.items()}
        if pretraining is not None:
            # Step i takes rows i, i + steps, ...: a batch sharded by rows stays so.
            pretraining = jax.tree.map(
                lambda x: x.reshape(-1, steps, *x.shape[1:]).swapaxes(0, 1), pretraining
            )
        state, metrics = jax.lax.scan(
            functools.partial(minibatch_step, kl=kl), state, (minibatches, pretraining)
        )
        del metrics["objective/kl"]
        first = {f"{k}_first": metrics[k][0] for k in ("ppo/ratio_max", "ppo/clip_fraction")}
        return state, {**jax.tree.map(lambda x: x.mean(0), metrics), **first, **rates}

    return update


def adapt_kl(state: PPOState, kl, p: Pieces) -> PPOState:
    """Moves the KL coefficient where a target is set; InstructGPT's is fixed."""
    if p.ppo.adaptive_kl_target is None:
        return state
    coef = algorithm.adaptive_kl(
        state.kl_coef, kl, p.train.batch_size, p.ppo.adaptive_kl_target, p.ppo.adaptive_kl_horizon
    )
    return dataclasses.replace(state, kl_coef=coef)


def make_iteration(p: Pieces, reference, reward, mesh, abstract_state):
    """One PPO iteration as the paper's box reads: respond, score, shape rewards and advantages, update, adapt, log -> (iteration,
    {name: program}). `launched(name, result)` is told of each program that was sent to the devices."""

    def update_and_adapt(state, rollout, pretraining, key, kl):
        state, metrics = make_update(p)(state, rollout, pretraining, key, kl)
        none_taken = metrics["guard/bad"] == 1
        return chosen(none_taken, state, adapt_kl(state, kl, p), p.train.guard), metrics

    rollout_fn, scoring_fn = jax.jit(make_rollout(p)), jax.jit(make_scoring(p))
    update_fn = states.jit_step(update_and_adapt, abstract_state, mesh, p.train.offload)

    def iteration(state: PPOState, batch: IterationBatch, key, launched=lambda name, result: None):
        policy, value, prompts = state.policy.params, state.value.params, batch.prompts
        responses = rollout_fn(policy, prompts, jax.random.fold_in(key, 0))
        launched("rollout", responses)
        rollout, metrics = scoring_fn(policy, reference, reward, value, prompts, *responses, state.kl_coef)
        launched("scoring", metrics)
        state, update_metrics = update_fn(
            state, rollout, batch.pretraining, jax.random.fold_in(key, 1), metrics["objective/kl"]
        )
        launched("update", update_metrics)
        return state, {**metrics, **update_metrics}, rollout

    return iteration, {"rollout": rollout_fn, "scoring": scoring_fn, "update": update_fn}


def build(config: ml_collections.ConfigDict, vocab: int | None, eos_id, pad_id: int) -> Pieces:
    """The fixed pieces of a run from its config; reads no data. InputError names the field that is wrong."""
    text, train = section(config, "text", setup.TextSettings), section(config, "train", TrainSettings)
    optimizers = {n: section(config, f"{n}_optimizer", OptimizerConfig) for n in ("policy", "value")}
    steps = train.minibatches * train.inner_epochs
    ppo = section(config, "ppo", PPOConfig)
    policy, scalar = (
        setup.transformer(section(config, name, setup.ModelSettings), vocab)
        for name in ("model", "reward_model")
    )
    return Pieces(
        policy=PolicyModel(policy),
        scalar=ScalarModel(scalar),
        policy_tx=make_optimizer(optimizers["policy"], train.iterations, steps, policy.frozen),
        value_tx=make_optimizer(optimizers["value"], train.iterations, steps, scalar.frozen),
        schedules={f"ppo/{n}_learning_rate": make_schedule(of, train.iterations, steps) for n, of in optimizers.items()},
        sampling=SamplingConfig(max_new_tokens=text.max_response, temperature=ppo.temperature),
        ppo=ppo, train=train, eos_id=eos_id, pad_id=pad_id,
    )  # fmt: skip


def abstract_state(p: Pieces, mesh) -> PPOState:
    """Shapes and layout of the state."""
    offload = p.train.offload
    return PPOState(
        states.abstract_state(p.policy, p.policy_tx, mesh, offload, p.train.ema_decay is not None),
        states.abstract_state(p.scalar, p.value_tx, mesh, offload),
        jax.ShapeDtypeStruct((), np.float32, sharding=NamedSharding(mesh, PartitionSpec())),
    )


def check(config: ml_collections.ConfigDict) -> None:
    """InputError for a field that is wrong in itself; reads no data and asks for no device."""
    optimizers = {"policy_optimizer": OptimizerConfig, "value_optimizer": OptimizerConfig}
    check_fields(config, FIELDS, setup.SECTIONS | optimizers | {"ppo": PPOConfig, "train": TrainSettings})


def programs(config: ml_collections.ConfigDict, mesh) -> dict:
    """{name: (jitted, abstract arguments)} of this stage: rollout, scoring and update; reads no data."""
    p = build(config, None, eos_id=0, pad_id=0)
    text, rows = section(config, "text", setup.TextSettings), setup.batch_sharding(mesh)
    p.train.check_mesh(text.length, mesh)
    state = abstract_state(p, mesh)
    reference, reward = (states.abstract_frozen(m, mesh, p.train.offload) for m in (p.policy, p.scalar))
    key = jax.eval_shape(lambda: jax.random.key(0))

    def arrays(*shapes):
        return (jax.ShapeDtypeStruct(shape, dtype, sharding=rows) for shape, dtype in shapes)

    B, P = p.train.batch_size, text.max_prompt
    prompts = PromptBatch(*arrays(((B, P), np.int32), ((B, P), bool), ((B,), np.int32)))
    shape = (B * p.train.inner_epochs * p.train.ptx_ratio, p.train.ptx_length)
    ptx = TokenBatch(*arrays((shape, np.int32), (shape, np.int32), (shape, bool))) if p.ppo.ptx_coef else None
    _, compiled = make_iteration(p, None, None, mesh, state)
    scalar = jax.ShapeDtypeStruct((), np.float32)
    policy, value = state.policy.params, state.value.params

    def by_rows(tree):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), tree)

    arguments = {"rollout": (policy, prompts, key)}
    responses = by_rows(jax.eval_shape(compiled["rollout"], *arguments["rollout"]))
    arguments["scoring"] = policy, reference, reward, value, prompts, *responses, scalar
    rollout = by_rows(jax.eval_shape(compiled["scoring"], *arguments["scoring"])[0])
    arguments["update"] = state, rollout, ptx, key, scalar
    return {name: (program, arguments[name]) for name, program in compiled.items()}


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Trains a policy by PPO (ppo.ptx_coef 0) or PPO-ptx from config.init against the reward model in config.reward."""
    text = section(config, "text", setup.TextSettings)
    mesh = setup.open_mesh(section(config, "mesh", setup.MeshSettings))
    tokenizer = setup.load_tokenizer(text)
    p = build(config, tokenizer.vocab_size, tokenizer.stop_ids, tokenizer.pad_id)
    p.train.check_mesh(text.length, mesh)
    setup.row_length(text, p.policy.config)
    prompts = pipeline.prompts(
        builders.open_source(config.data_dir, "prompts", "train"), tokenizer, setup.template(text.template, tokenizer),
        batch_size=p.train.batch_size, max_prompt=text.max_prompt, seed=config.seed,
    )  # fmt: skip
    pretraining = None
    if p.ppo.ptx_coef:
        text_source = builders.open_source(config.data_dir, "documents", "train")
        pretraining = pipeline.documents(
            text_source, tokenizer, cache=text_source.token_cache, length=p.train.ptx_length,
            batch_size=p.train.batch_size * p.train.inner_epochs * p.train.ptx_ratio, seed=config.seed,
        )  # fmt: skip

    def batch_at(i):
        rows = setup.put_step(pretraining, i, mesh) if pretraining else None
        return IterationBatch(setup.put_step(prompts, i, mesh), rows)

    peak = peak_flops(mesh, p.policy.config.dtype)
    with jax.set_mesh(mesh):
        policy = setup.load(config.init, p.policy, mesh)
        value = setup.load(config.reward, p.scalar, mesh)
        offload = p.train.offload
        reference, reward = (states.frozen(*of, offload) for of in ((policy, p.policy), (value, p.scalar)))
        state = PPOState(
            states.state_from(policy, p.policy_tx, mesh, p.train.ema_decay is not None, offload),
            states.state_from(value, p.value_tx, mesh, offload=offload),
            jnp.float32(p.ppo.kl_coef),
        )
        anchors = {
            "the reference policy (init)": states.fingerprint(reference),
            "the reward model": states.fingerprint(reward),
        }
        fixed = reference, reward, mesh, abstract_state(p, mesh)
        iteration, _ = make_iteration(p, *fixed)
        plain = p._replace(policy=speed.without_remat(p.policy), scalar=speed.without_remat(p.scalar),
                           train=dataclasses.replace(p.train, refill=False))  # fmt: skip
        counted = iteration if plain == p else make_iteration(plain, *fixed)[0]
        watch = Watch(speed.of_iteration(counted, text.max_response, peak), profile(config))
        step = functools.partial(iteration, launched=watch.timeline.launched)
        fit(
            step, state, batch_at, total_steps=p.train.iterations, key=jax.random.key(config.seed), workdir=workdir,
            show=("objective/score", "objective/kl"), log_every=p.train.log_every, save_every=p.train.save_every, keep=p.train.keep,
            saving=setup.saving(config), meta=setup.meta("ppo", config, p.policy.config, p.train.subtree) | {"anchors": anchors},
            name=config.name, wandb=wandb_project(config), guard_config=p.train.guard, watch=watch,
        )  # fmt: skip
