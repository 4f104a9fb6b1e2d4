"""Home of a PPO iteration's first half: from prompts to a scored Rollout, and its split into minibatches.

Differs from the paper only where it is silent: log-probs are recomputed by the loss's own function at the
minibatch's own shape rather than kept from sampling, and advantages are computed once per iteration.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from instruct_jax.algorithms.decode import SamplingConfig, generate
from instruct_jax.algorithms.masked import whiten
from instruct_jax.algorithms.pieces import join, split
from instruct_jax.algorithms.ppo import (
    PPOConfig,
    apply_missing_eos,
    gae,
    join_response,
    response_logprobs,
    response_values,
    shape_rewards,
)
from instruct_jax.algorithms.rm import last_scores
from instruct_jax.algorithms.slots import generate as generate_in_slots
from instruct_jax.batches import PromptBatch, Rollout
from instruct_jax.errors import InputError


class RolloutParams(NamedTuple):
    """The four trees of params behind a rollout; policy and reference share a model, the others another."""

    policy: Any
    reference: Any
    reward: Any
    value: Any


class _Responses(NamedTuple):
    prompt_BP: jax.Array
    prompt_mask_BP: jax.Array
    response_BR: jax.Array
    response_mask_BR: jax.Array


def respond(
    policy_model,
    params,
    prompts: PromptBatch,
    key,
    sampling: SamplingConfig,
    ppo: PPOConfig,
    eos_id,
    pad_id,
    chunks=1,
    slots=None,
):
    """Sample a response to every prompt, in `chunks` one after another or in as many `slots` (algorithms/slots)
    -> (response_BR i32, response_mask_BR bool); see decode.generate.

    Raises InputError for sampling whose log-probs PPO would compare wrongly: another temperature, greedy,
    top-k or top-p.
    """
    if sampling.temperature != ppo.temperature or ppo.temperature <= 0:
        raise InputError(
            f"ppo.temperature {ppo.temperature} and sampling.temperature {sampling.temperature} must be "
            "one positive number: log-probs are taken at the temperature that the responses were sampled at"
        )
    if sampling.top_k or sampling.top_p < 1:
        raise InputError(
            f"sampling.top_k {sampling.top_k}, sampling.top_p {sampling.top_p}: rollouts sample "
            "the whole distribution, which the log-probs are of; set top_k 0 and top_p 1"
        )
    sample, at_once = (generate, chunks) if slots is None else (generate_in_slots, slots)
    return sample(policy_model, params, prompts, key, sampling, eos_id, pad_id, at_once)


def score_responses(
    policy_model,
    scalar_model,
    params: RolloutParams,
    prompts: PromptBatch,
    response_BR,
    response_mask_BR,
    ppo: PPOConfig,
    kl_coef,
    eos_id,
    pieces=1,
):
    """Turn responses (mask True up to and including EOS) into a Rollout -> (Rollout, metrics) (App. C.4); `eos_id` as for `respond`.

    The forwards run over `pieces` of B / pieces rows, the shape that the losses will use: so the first ratio is
    exactly 1 on one device, and memory is a piece's. Metrics of the objective: KL and
    entropy are sums over tokens and means over the batch; the score is the one trained on (after the
    missing-EOS rule). Raises InputError where B does not divide.
    """
    responses = _Responses(prompts.tokens_BP, prompts.mask_BP, response_BR, response_mask_BR)
    stops_S = jnp.atleast_1d(jnp.asarray(eos_id))

    def forwards(piece):
        logprobs_BR, _ = response_logprobs(policy_model, params.policy, piece, ppo.temperature)
        ref_logprobs_BR, _ = response_logprobs(policy_model, params.reference, piece, ppo.temperature)
        # A reward model is trained on responses that end with the first of the stop ids.
        ended_BR = piece.response_mask_BR & jnp.isin(piece.response_BR, stops_S)
        judged = piece._replace(response_BR=jnp.where(ended_BR, stops_S[0], piece.response_BR))
        tokens_BT, segments_BT = join_response(judged)
        scores_BT = scalar_model.apply({"params": params.reward}, tokens_BT, segments_BT)
        values_BR = response_values(scalar_model, params.value, piece)
        return logprobs_BR, ref_logprobs_BR, last_scores(scores_BT, segments_BT > 0), values_BR

    scored = jax.lax.map(forwards, split(responses, pieces, "episodes"))
    logprobs_BR, ref_logprobs_BR, scores_B, values_BR = join(scored)
    has_eos_B = (response_mask_BR & jnp.isin(response_BR, stops_S)).any(axis=1)
    scores_B = apply_missing_eos(scores_B, has_eos_B, ppo.missing_eos_score)
    rewards_BR, kl_BR = shape_rewards(scores_B, logprobs_BR, ref_logprobs_BR, response_mask_BR, kl_coef)
    metrics = {
        "objective/kl": kl_BR.sum(axis=1).mean(),
        "objective/kl_coef": jnp.asarray(kl_coef, jnp.float32),
        "objective/entropy": -logprobs_BR.sum(axis=1).mean(),
        "objective/score": scores_B.mean(),
        "objective/score_total": rewards_BR.sum(axis=1).mean(),
        "ppo/eos_rate": has_eos_B.mean(dtype=jnp.float32),
        "ppo/response_length": response_mask_BR.sum(axis=1).mean(dtype=jnp.float32),
    }
    if ppo.whiten_rewards:
        rewards_BR = whiten(rewards_BR, response_mask_BR, shift_mean=False)
    advantages_BR, returns_BR = gae(rewards_BR, values_BR, response_mask_BR, ppo.gamma, ppo.lam)
    rollout = Rollout(
        *responses, logprobs_BR, ref_logprobs_BR, values_BR, scores_B, rewards_BR, advantages_BR, returns_BR
    )
    return rollout, metrics


def split_minibatches(rollout: Rollout, key, n):
    """Deal the rows out at random into n minibatches: every leaf [B, ...] becomes [n, B / n, ...].

    The paper's 512 become 8 x 64 (App. C.4). Raises InputError where B does not divide.
    """
    order_B = jax.random.permutation(key, rollout.prompt_BP.shape[0])
    return split(jax.tree.map(lambda x: x[order_B], rollout), n, "episodes, as ppo.minibatches,")
