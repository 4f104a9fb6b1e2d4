"""google-tunix's worker: PeftTrainer for SFT, the vanilla Sampler for decoding, PPOLearner on an RLCluster for PPO, all on one device."""

import argparse
import importlib.metadata
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from beside.sizes import Size
from beside.worker import Laps, Line
from tunix.generate.sampler import CacheConfig, Sampler
from tunix.models.qwen2.model import ModelConfig
from tunix.models.qwen2.params import create_model_from_safe_tensors
from tunix.rl.ppo.ppo_learner import PPOConfig, PPOLearner
from tunix.rl.rl_cluster import ClusterConfig, RLCluster, RLTrainingConfig, Role
from tunix.rl.rollout.base_rollout import RolloutConfig
from tunix.rl.utils import create_critic_model
from tunix.sft import peft_trainer

ROUNDS = 10**6


class Words:
    """A tokenizer of as many words as there are ids; what pads and what ends a text is no id of the model, so that nothing ends early."""

    def __init__(self, size: Size):
        self.vocab = size.vocab

    def encode(self, text: str, **more) -> list[int]:
        return [int(word[1:]) for word in text.split()]

    def decode(self, ids, **more) -> str:
        return " ".join(f"w{i}" for i in ids)

    def bos_id(self) -> int:
        return 0  # tunix puts none in front for 0

    def eos_id(self) -> int:
        return self.vocab + 1

    def pad_id(self) -> int:
        return self.vocab


def texts(tokens_BP) -> list[str]:
    return [" ".join(f"w{i}" for i in row) for row in tokens_BP]


def load(size: Size, folder: str, dtype: str, mesh):
    """The language model."""
    config = ModelConfig(
        num_layers=size.layers, vocab_size=size.vocab, embed_dim=size.width, hidden_dim=size.mlp, num_heads=size.heads,
        head_dim=size.width // size.heads, num_kv_heads=size.kv_heads, rope_theta=10_000, norm_eps=1e-6, use_tied_embedding=size.tied,
        dtype=jnp.dtype(dtype),
    )  # fmt: skip
    return create_model_from_safe_tensors(folder, config, mesh, dtype=jnp.float32)


def parameters(*models) -> int:
    from flax import nnx

    return sum(leaf.size for model in models for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def sft(size: Size, folder: str, dtype: str, mesh):
    """(rounds of `size.steps` steps of PeftTrainer, but one in the first; parameters)."""
    model = load(size, folder, dtype, mesh)
    config = peft_trainer.TrainingConfig(eval_every_n_steps=ROUNDS, max_steps=ROUNDS)
    trainer = peft_trainer.PeftTrainer(model, optax.adamw(1e-5), config)

    def model_input(batch):
        tokens = batch.input_tokens
        seen = jnp.tril(jnp.ones((tokens.shape[1], tokens.shape[1]), bool))
        return {
            "input_tokens": tokens, "input_mask": batch.input_mask,
            "positions": jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape),
            "attention_mask": jnp.broadcast_to(seen, (tokens.shape[0], *seen.shape)),
        }  # fmt: skip

    trainer.with_gen_model_input_fn(model_input)
    trainer.is_managed_externally = True  # train() may be called again
    tokens = [size.tokens(seed, size.rows, size.length) for seed in range(4)]
    done = [0]

    def run_round():
        batches, steps = [], size.steps if done[0] else 1
        for _ in range(steps):
            rows = tokens[done[0] % len(tokens)]
            batches.append(peft_trainer.TrainingInput(input_tokens=rows, input_mask=np.ones_like(rows)))
            done[0] += 1
        start = time.perf_counter()
        trainer.train(batches)
        jax.block_until_ready(jax.tree.leaves(trainer.optimizer.opt_state))
        return {"step": (time.perf_counter() - start) / steps}

    return run_round, parameters(model)


def decode(size: Size, folder: str, dtype: str, mesh):
    """(rounds of the sampler, parameters)."""
    model = load(size, folder, dtype, mesh)
    cache = CacheConfig(size.length, size.layers, size.kv_heads, size.width // size.heads)
    sampler = Sampler(model, Words(size), cache)
    done = [0]

    def run_round():
        prompts = texts(size.tokens(done[0] % 4, size.rows, size.prompt))
        done[0] += 1
        start = time.perf_counter()
        out = sampler(
            prompts, max_generation_steps=size.response, max_prompt_length=size.prompt, temperature=1.0, top_p=1.0, seed=done[0]
        )  # fmt: skip
        seconds = time.perf_counter() - start
        if any(len(row) != size.response for row in out.tokens):
            raise SystemExit("tunix's sampler ended responses early")
        return {"step": seconds}

    return run_round, parameters(model)


def ppo(size: Size, folder: str, dtype: str, mesh, line: Line) -> None:
    """Replies that it is ready, then trains; the iterator of prompts waits between iterations."""
    actor, reference = (load(size, folder, dtype, mesh) for _ in range(2))
    critic, reward = (create_critic_model(actor, seed, lm_head_to_replace="lm_head") for seed in range(2))
    rollout = RolloutConfig(
        max_tokens_to_generate=size.response, max_prompt_length=size.prompt, kv_cache_size=size.length, temperature=1.0, top_p=1.0,
        seed=0,
    )  # fmt: skip
    training = RLTrainingConfig(
        actor_optimizer=optax.adamw(1e-5), critic_optimizer=optax.adamw(1e-5), eval_every_n_steps=ROUNDS, max_steps=ROUNDS,
        mini_batch_size=size.rows, train_micro_batch_size=size.rows, rollout_micro_batch_size=size.rows,
        compute_logps_micro_batch_size=size.rows,
    )  # fmt: skip
    cluster = RLCluster(
        actor=actor, critic=critic, reference=reference, reward=reward, tokenizer=Words(size),
        cluster_config=ClusterConfig(
            role_to_mesh=dict.fromkeys(Role, mesh), rollout_engine="vanilla", training_config=training, rollout_config=rollout
        ),
    )  # fmt: skip
    learner = PPOLearner(
        rl_cluster=cluster, ppo_config=PPOConfig(num_iterations=1, beta=0.05, kl_method="kl")
    )
    line.reply(parameters=parameters(actor, critic), versions=versions())
    laps = Laps(line, 1)

    def batches():
        laps.begin()
        for number in range(ROUNDS):
            rollout.seed = number  # or the sampler repeats its noise
            yield {"prompts": np.array(texts(size.tokens(number % 4, size.rows, size.prompt)))}
            laps.lap()  # asked for more: the iteration is over

    watch(cluster, laps)
    learner.train(batches())


def watch(cluster: RLCluster, laps: Laps) -> None:
    """Marks where generation, scoring and the two updates end."""

    def marked(name, before):
        call = getattr(cluster, name)

        def run(*arguments, **more):
            if before:
                laps.mark(before)
            out = call(*arguments, **more)
            if name != "update_actor":
                laps.mark("generation" if name == "generate" else "update")
            return out

        setattr(cluster, name, run)

    marked("generate", None)
    marked("update_actor", "scoring")
    marked("update_critic", None)


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("google-tunix", "jax", "flax")}


def main():
    parser = argparse.ArgumentParser()
    for name in ("--stage", "--size", "--folder", "--dtype", "--scratch"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    size, line = Size(**json.loads(options.size)), Line()
    mesh = jax.make_mesh(
        (1, 1), ("fsdp", "tp"), devices=jax.devices()[:1], axis_types=(jax.sharding.AxisType.Auto,) * 2
    )
    with mesh:
        if options.stage == "ppo":
            ppo(size, options.folder, options.dtype, mesh, line)
            return
        run_round, count = {"sft": sft, "decode": decode}[options.stage](
            size, options.folder, options.dtype, mesh
        )
        line.reply(parameters=count, versions=versions())
        line.serve(run_round)


if __name__ == "__main__":
    main()
