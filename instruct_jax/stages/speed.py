"""Home of what a training step computes, counted once in its jaxpr, beside the most that the devices could: what MFU is made of.

A model's operations, as published utilisations count them: layers that are computed again for the gradient count once, sampled rows
up to where they ended, and padding like text. Attention counts its whole square (MaxText now halves it).
"""

import dataclasses
from collections.abc import Callable

import jax

from instruct_jax.costs import flops
from instruct_jax.training.pace import Work


def without_remat(model):
    """The model that computes nothing twice; itself where it is one."""
    if model.config.remat == "none":
        return model
    return dataclasses.replace(model, config=dataclasses.replace(model.config, remat="none"))


def of_step(step: Callable, peak: tuple[float, str]) -> Callable:
    """fit's `work` for a step of one program on batches of tokens; `peak` is devices.peak_flops. `step` is only traced."""

    def work(state, batch, key) -> Work:
        operations = flops.count(jax.make_jaxpr(step)(state, batch, key)).total
        return Work(jax.tree.leaves(batch)[0].size, lambda metrics: operations, *peak)

    return work


def of_iteration(iteration: Callable, most: int, peak: tuple[float, str]) -> Callable:
    """fit's `work` for a PPO iteration whose responses have at the `most` so many tokens. Tokens are those of prompts, responses and
    pretraining rows, once each; ptx has the share of the update's time that it has of the update's operations."""

    def work(state, batch, key) -> Work:
        programs = flops.programs(jax.make_jaxpr(iteration)(state, batch, key))
        rollout, scoring, update = (
            flops.count(programs[name]) for name in ("rollout", "scoring", "update_and_adapt")
        )
        rest = rollout.rest + scoring.total + update.total

        def operations(metrics: dict) -> float:
            sampled = (metrics["ppo/response_length"] - 1) / max(
                most - 1, 1
            )  # the first comes from the prompt
            return rest + rollout.loop * sampled

        prompts = batch.prompts.tokens_BP
        tokens = prompts.size + most * prompts.shape[0]
        if batch.pretraining is None:
            return Work(tokens, operations, *peak)
        ptx = flops.count(programs["update_and_adapt"], "ptx").total / update.total
        return Work(
            tokens + batch.pretraining.tokens_BT.size, operations, *peak, parts={"update": {"ptx": ptx}}
        )

    return work
