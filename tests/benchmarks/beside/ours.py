"""Our worker: the steps that stages/ trains with and algorithms/ samples and scores with, on one size, one round at a request."""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from beside import limits
from beside.limits import Work
from beside.sizes import Size
from beside.worker import Line
from ml_collections import ConfigDict

from instruct_jax import devices
from instruct_jax.algorithms import rollout as rollouts
from instruct_jax.algorithms.decode import SamplingConfig, generate
from instruct_jax.batches import PromptBatch, RankingBatch, TokenBatch
from instruct_jax.models.transformer import PolicyModel
from instruct_jax.models.variants import TransformerConfig
from instruct_jax.pretrained import export, families
from instruct_jax.sharding import make_mesh
from instruct_jax.stages import setup, states, train_lm, train_ppo, train_rm
from instruct_jax.stages.settings import section
from instruct_jax.training.optim import OptimizerConfig, make_optimizer

NEVER, PAD = -1, 0  # the id that ends a response: none, so that all are of full length
RING = 4  # batches that steps take in turn


class Cell(NamedTuple):
    """A stage made ready: `run_round` returns seconds a step by part, `work` what each part cannot do without."""

    run_round: Callable[[], dict[str, float]]
    work: dict[str, Work]
    parameters: int


def write_weights(size: Size, folder: Path) -> None:
    """Fresh random weights of a size as a Hugging Face folder, which every worker loads."""
    config = families.to_config(size.config_json())
    params = jax.jit(lambda key: states.init_params(PolicyModel(config), key))(jax.random.key(0))
    export.export_policy(params, config, folder)


def config_of(size: Size, folder: Path, dtype: str, **more) -> ConfigDict:
    """The config of a stage as a file of configs/ would give it; `more` are its own sections."""
    model = dict(pretrained=str(folder), context=size.length, dtype=dtype, unroll=True)
    return ConfigDict(
        dict(
            seed=0, model=model, reward_model=dict(model), optimizer=dict(learning_rate=1e-5),
            text=dict(tokenizer="", template="plain", max_prompt=size.prompt, max_response=size.response), **more,
        )
    )  # fmt: skip


def least_flops(make_programs: Callable, config: ConfigDict, size: Size, mesh) -> dict[str, float]:
    """Operations of a stage's programs where nothing is computed twice: with all logits at once, none is made again for a gradient."""
    config = ConfigDict(config.to_dict())
    config.model.logit_chunk = size.rows * size.length
    return {name: limits.flops(call, *shapes) for name, (call, shapes) in make_programs(config, mesh).items()}


def shape(config: ConfigDict) -> TransformerConfig:
    return setup.transformer(section(config, "model", setup.ModelSettings))


def text_rows(size: Size, seed: int, rows: int) -> TokenBatch:
    """Rows of random text, a loss on every token."""
    tokens_BT = size.tokens(seed, rows, size.length)
    loss_mask_BT = np.ones_like(tokens_BT, bool)
    loss_mask_BT[:, 0] = False
    return TokenBatch(tokens_BT, np.ones_like(tokens_BT), loss_mask_BT)


def ranking_rows(size: Size, seed: int) -> RankingBatch:
    """Completions in rows of their own, ranked in order."""
    tokens_XT = size.tokens(seed, size.rows, size.length)
    row_BK = np.arange(size.rows, dtype=np.int32).reshape(-1, size.completions)
    ranks_BK = np.broadcast_to(np.arange(1, size.completions + 1, dtype=np.int32), row_BK.shape).copy()
    return RankingBatch(
        tokens_XT, np.ones_like(tokens_XT), row_BK, np.full_like(row_BK, size.length - 1), ranks_BK
    )


def prompt_rows(size: Size, seed: int) -> PromptBatch:
    """Prompts of full length."""
    tokens_BP = size.tokens(seed, size.rows, size.prompt)
    return PromptBatch(tokens_BP, np.ones_like(tokens_BP, bool), np.arange(size.rows, dtype=np.int32))


def training(size: Size, config: ConfigDict, make_programs: Callable, params, batches: list, mesh) -> Cell:
    """The cell of a train step: one step in the first round, `size.steps` in others, each with its batch put on the mesh."""
    step, _ = make_programs(config, mesh)["train_step"]
    tx = make_optimizer(section(config, "optimizer", OptimizerConfig), 1000)
    held = [states.state_from(params, tx, mesh)]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(held[0].params))
    done = [0]

    def run_round():
        steps = size.steps if done[0] else 1
        start = time.perf_counter()
        for _ in range(steps):
            batch = setup.put(batches[done[0] % len(batches)], mesh)
            held[0], metrics = step(held[0], batch, jax.random.fold_in(jax.random.key(0), done[0]))
            done[0] += 1
        jax.block_until_ready((held[0], metrics))
        return {"step": (time.perf_counter() - start) / steps}

    flops = least_flops(make_programs, config, size, mesh)["train_step"]
    work = Work(flops, limits.training_bytes(parameters), size.rows * size.length)
    return Cell(run_round, {"step": work}, parameters)


def sft(size: Size, folder: Path, dtype: str, mesh) -> Cell:
    """Supervised fine-tuning or pretraining: stages/train_lm's step."""
    data = dict(dir="", kind="documents", batch_size=size.rows)
    config = config_of(size, folder, dtype, data=data, train=dict(steps=1000))
    params = setup.load(folder, PolicyModel(shape(config)), mesh)
    batches = [text_rows(size, seed, size.rows) for seed in range(RING)]
    return training(size, config, train_lm.programs, params, batches, mesh)


def rm(size: Size, folder: Path, dtype: str, mesh) -> Cell:
    """The reward model's training: stages/train_rm's step."""
    data = dict(dir="", batch_size=size.rows // size.completions, k_max=size.completions)
    config = config_of(size, folder, dtype, data=data, train=dict(epochs=1.0))
    policy = setup.load(folder, PolicyModel(shape(config)), mesh)
    batches = [ranking_rows(size, seed) for seed in range(RING)]
    params = states.as_scalar(policy, jax.random.key(1))
    return training(size, config, train_rm.programs, params, batches, mesh)


def decode(size: Size, folder: Path, dtype: str, mesh) -> Cell:
    """Sampling at temperature 1, prompts included: algorithms/decode, as a rollout calls it."""
    model = PolicyModel(shape(config_of(size, folder, dtype)))
    params = setup.load(folder, model, mesh)
    sampling = SamplingConfig(max_new_tokens=size.response)
    sample = jax.jit(lambda params, prompts, key: generate(model, params, prompts, key, sampling, NEVER, PAD))
    done = [0]

    def run_round():
        prompts = setup.put(prompt_rows(size, done[0] % RING), mesh)
        start = time.perf_counter()
        jax.block_until_ready(sample(params, prompts, jax.random.key(done[0])))
        done[0] += 1
        return {"step": time.perf_counter() - start}

    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    prompts = setup.put(prompt_rows(size, 0), mesh)
    number = np.dtype(jnp.dtype(dtype)).itemsize
    moved = limits.matrix_bytes(size, number, vocabulary=True) + limits.decode_bytes(size, number)
    work = Work(limits.flops(sample, params, prompts, jax.random.key(0)), moved, size.rows * size.response)
    return Cell(run_round, {"step": work}, parameters)


class PPO:
    """What an iteration of stages/train_ppo needs, with or without pretraining rows (as many as episodes, as long as they)."""

    def __init__(self, size: Size, folder: Path, dtype: str, mesh, ptx: bool):
        self.size, self.mesh, self.ptx = size, mesh, ptx
        train = dict(
            episodes=1000 * size.rows, batch_size=size.rows, minibatch_size=size.rows, ema_decay=0.992 if ptx else None,
            ptx_ratio=1, ptx_length=size.length,
        )  # fmt: skip
        optimizer = dict(learning_rate=1e-5, schedule="constant")
        config = config_of(
            size, folder, dtype, policy_optimizer=optimizer, value_optimizer=optimizer, train=train,
            ppo=dict(kl_coef=0.05, ptx_coef=27.8 if ptx else 0.0),
        )  # fmt: skip
        self.config = config
        self.pieces = p = train_ppo.build(config, None, NEVER, PAD)
        policy = setup.load(folder, p.policy, mesh)
        value = states.as_scalar(policy, jax.random.key(1))
        self.reference, self.reward = states.frozen(policy, p.policy), states.frozen(value, p.scalar)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves((policy, value)))
        self.state = train_ppo.PPOState(
            states.state_from(policy, p.policy_tx, mesh, ema=ptx), states.state_from(value, p.value_tx, mesh),
            jnp.float32(p.ppo.kl_coef),
        )  # fmt: skip
        abstract = train_ppo.abstract_state(p, mesh)
        self.iteration, _ = train_ppo.make_iteration(p, self.reference, self.reward, mesh, abstract)
        self.done = 0

    def batch(self):
        """The prompts and pretraining rows of the iteration to come."""
        rows = text_rows(self.size, self.done % RING, self.size.rows) if self.ptx else None
        return setup.put(prompt_rows(self.size, self.done % RING), self.mesh), setup.put(rows, self.mesh)

    def iterate(self):
        """One iteration of train_ppo's own, waiting for each of its programs to time it."""
        ends = [time.perf_counter()]
        parts = {}

        def launched(name, result):
            jax.block_until_ready(result)
            ends.append(time.perf_counter())
            parts[name] = ends[-1] - ends[-2]

        key = jax.random.fold_in(jax.random.key(0), self.done)
        batch = train_ppo.IterationBatch(*self.batch())
        self.state, _, _ = jax.block_until_ready(self.iteration(self.state, batch, key, launched))
        self.done += 1
        return {"step": time.perf_counter() - ends[0], **parts}

    def work(self, dtype: str) -> dict[str, Work]:
        """Of rollout, scoring, update and all three."""
        size, number = self.size, np.dtype(jnp.dtype(dtype)).itemsize
        flops = least_flops(train_ppo.programs, self.config, size, self.mesh)
        matrices, bodies = (limits.matrix_bytes(size, number, head) for head in (True, False))
        moved = {
            "rollout": matrices + limits.decode_bytes(size, number), "scoring": 2 * matrices + 2 * bodies,
            "update": limits.training_bytes(self.parameters),
        }  # fmt: skip
        work = {name: Work(flops[name], moved[name], size.rows * size.length) for name in moved}
        return {**work, "step": work["rollout"].plus(work["scoring"]).plus(work["update"])}


def ppo(size: Size, folder: Path, dtype: str, mesh, ptx: bool = False) -> Cell:
    """A whole iteration of PPO: stages/train_ppo's rollout and update."""
    run = PPO(size, folder, dtype, mesh, ptx)
    return Cell(run.iterate, run.work(dtype), run.parameters)


def ppo_ptx(size: Size, folder: Path, dtype: str, mesh) -> Cell:
    """A whole iteration of PPO-ptx, the average of the weights included."""
    return ppo(size, folder, dtype, mesh, ptx=True)


def phases(size: Size, folder: Path, dtype: str, mesh) -> Cell:
    """What a rollout consists of, each part called alone: prefill (with the first token), decode (the rest), scoring."""
    run = PPO(size, folder, dtype, mesh, ptx=False)
    p = run.pieces
    params = rollouts.RolloutParams(
        run.state.policy.params, run.reference, run.reward, run.state.value.params
    )

    def sampler(tokens: int):
        sampling = dataclasses.replace(p.sampling, max_new_tokens=tokens)
        return jax.jit(
            lambda params, prompts, key: generate(p.policy, params, prompts, key, sampling, NEVER, PAD)
        )

    @jax.jit
    def score(params, prompts, response, mask):
        return rollouts.score_responses(
            p.policy, p.scalar, params, prompts, response, mask, p.ppo, 0.05, NEVER
        )

    first, whole = sampler(1), sampler(size.response)

    def timed(call, *arguments):
        start = time.perf_counter()
        out = jax.block_until_ready(call(*arguments))
        return time.perf_counter() - start, out

    def run_round():
        prompts, key = run.batch()[0], jax.random.key(run.done)
        run.done += 1
        prefill, _ = timed(first, params.policy, prompts, key)
        both, (response, mask) = timed(whole, params.policy, prompts, key)
        scoring, _ = timed(score, params, prompts, response, mask)
        return {"step": both + scoring, "prefill": prefill, "decode": both - prefill, "scoring": scoring}

    prompts, number = run.batch()[0], np.dtype(jnp.dtype(dtype)).itemsize
    response = jnp.zeros((size.rows, size.response), jnp.int32)
    arguments = params.policy, prompts, jax.random.key(0)
    matrices, bodies = (limits.matrix_bytes(size, number, head) for head in (True, False))
    prefill = Work(limits.flops(first, *arguments), matrices, size.rows * size.prompt)
    both = limits.flops(whole, *arguments)
    decoding = Work(both - prefill.flops, limits.decode_bytes(size, number), size.rows * (size.response - 1))
    scoring = Work(
        limits.flops(score, params, prompts, response, response == 0), 2 * matrices + 2 * bodies, size.rows * size.length
    )  # fmt: skip
    work = {"prefill": prefill, "decode": decoding, "scoring": scoring}
    return Cell(run_round, {**work, "step": prefill.plus(decoding).plus(scoring)}, run.parameters)


CELLS = {"sft": sft, "rm": rm, "decode": decode, "ppo": ppo, "ppo_ptx": ppo_ptx, "phases": phases}


def make(stage: str, size: Size, folder: Path, dtype: str, mesh) -> Cell:
    """A stage made ready on a mesh."""
    with jax.set_mesh(mesh):
        cell = CELLS[stage](size, folder, dtype, mesh)

    def run_round():
        with jax.set_mesh(mesh):
            return cell.run_round()

    return cell._replace(run_round=run_round)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--stage", choices=[*CELLS, "weights"], required=True)
    parser.add_argument("--size", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    size = Size(**json.loads(options.size))
    if options.stage == "weights":
        write_weights(size, options.folder)
        return
    line = Line()
    cell = make(options.stage, size, options.folder, options.dtype, make_mesh(data=len(jax.devices())))
    line.reply(parameters=cell.parameters, versions=devices.versions(), work=cell.work)
    line.serve(cell.run_round)


if __name__ == "__main__":
    main()
