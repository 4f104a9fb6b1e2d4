"""Home of PPO-ptx: shaped rewards, GAE, clipped losses, the policy's gradient (paper Eq. 2, App. C.4).

Differs from the paper where it is silent: lambda, value clipping, whitening and the missing-EOS score are
inherited from its predecessors (docs/decisions.md, 24), and both PPO's and the pretraining loss are means
per token over the minibatch, which is what the coefficient 27.8 is relative to.
"""

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from instruct_jax.algorithms.masked import last_true_index, masked_mean, masked_var, whiten
from instruct_jax.algorithms.pieces import accumulate
from instruct_jax.algorithms.sft import lm_loss
from instruct_jax.batches import Rollout, TokenBatch
from instruct_jax.errors import InputError


@dataclass(frozen=True)
class PPOConfig:
    """The numbers of App. C.4 or, where it is silent, of its predecessors; None switches a piece off."""

    clip: float = 0.2
    value_clip: float | None = 0.2
    gamma: float = 1.0
    lam: float = 0.95
    kl_coef: float = 0.02
    adaptive_kl_target: float | None = None
    adaptive_kl_horizon: float = 10000
    whiten_rewards: bool = False
    whiten_advantages: bool = True
    missing_eos_score: float | None = None
    temperature: float = 1.0
    ptx_coef: float = 27.8
    value_coef: float = 1.0

    def __post_init__(self):
        above = ("clip", "value_clip", "adaptive_kl_target", "adaptive_kl_horizon", "temperature")
        for field in (*above, "gamma", "lam", "kl_coef", "ptx_coef", "value_coef"):
            value = getattr(self, field)
            most = 1 if field in ("gamma", "lam") else math.inf
            if value is not None and not (
                0 <= value <= most and value < math.inf and (value or field not in above)
            ):
                raise InputError(f"ppo.{field} is {value}, which is outside its range")


def apply_missing_eos(scores_B, has_eos_B, value):
    """Give a response that never ended the score `value`; None changes nothing."""
    return scores_B if value is None else jnp.where(has_eos_B, scores_B, value)


def shape_rewards(scores_B, logprobs_BR, ref_logprobs_BR, mask_BR, kl_coef):
    """Per-token rewards [B, R]: -kl_coef * log-ratio at every token, plus the score at the last one (Eq. 2).

    Returns (rewards_BR, kl_BR), both 0 outside the mask; kl_BR is the log-ratio of the sampled tokens itself.
    """
    kl_BR = jnp.where(mask_BR, logprobs_BR - ref_logprobs_BR, 0.0)
    last_BR = mask_BR & (jnp.arange(mask_BR.shape[1])[None] == last_true_index(mask_BR)[:, None])
    return jnp.where(last_BR, scores_B[:, None], 0.0) - kl_coef * kl_BR, kl_BR


def adaptive_kl(kl_coef, kl, n, target, horizon):
    """Nudge kl_coef towards a target KL, by at most 20 % of n / horizon."""
    error = jnp.clip(kl / target - 1.0, -0.2, 0.2)
    return kl_coef * (1.0 + error * n / horizon)


def gae(rewards_BR, values_BR, mask_BR, gamma, lam):
    """Generalised advantage estimation backwards over the tokens; nothing follows a row's last token.

    Returns (advantages_BR, returns_BR), 0 outside the mask; returns are advantages before whitening + values.
    """
    rewards_BR, values_BR = jnp.where(mask_BR, rewards_BR, 0.0), jnp.where(mask_BR, values_BR, 0.0)

    def backwards(carry, step):
        next_advantage_B, next_value_B = carry
        reward_B, value_B = step
        advantage_B = reward_B + gamma * next_value_B - value_B + gamma * lam * next_advantage_B
        return (advantage_B, value_B), advantage_B

    zeros_B = jnp.zeros_like(values_BR[:, 0])
    _, advantages_RB = jax.lax.scan(backwards, (zeros_B, zeros_B), (rewards_BR.T, values_BR.T), reverse=True)
    advantages_BR = advantages_RB.T
    return advantages_BR, advantages_BR + values_BR


def policy_loss(logprobs_BR, old_logprobs_BR, advantages_BR, mask_BR, clip, count=None):
    """PPO's clipped loss per token, [B, R] and 0 outside the mask, with metrics.

    Metrics are means over the mask's tokens, or shares of the means over `count` tokens of which these are a part.
    """
    log_ratio_BR = jnp.where(mask_BR, logprobs_BR - old_logprobs_BR, 0.0)
    advantages_BR = jnp.where(mask_BR, advantages_BR, 0.0)
    ratio_BR = jnp.exp(log_ratio_BR)
    plain_BR = -advantages_BR * ratio_BR
    clipped_BR = -advantages_BR * jnp.clip(ratio_BR, 1.0 - clip, 1.0 + clip)
    loss_BR = jnp.maximum(plain_BR, clipped_BR)
    metrics = {
        "ppo/policy_loss": masked_mean(loss_BR, mask_BR, count),
        "ppo/approx_kl": 0.5 * masked_mean(log_ratio_BR**2, mask_BR, count),
        "ppo/clip_fraction": masked_mean((clipped_BR > plain_BR).astype(jnp.float32), mask_BR, count),
        "ppo/ratio_mean": masked_mean(ratio_BR, mask_BR, count),
        "ppo/ratio_square": masked_mean(jnp.square(ratio_BR - 1.0), mask_BR, count),
        "ppo/ratio_max": jnp.max(jnp.where(mask_BR, ratio_BR, 0.0)),
    }
    return loss_BR, metrics


def value_loss(values_BR, old_values_BR, returns_BR, mask_BR, clip, count=None):
    """Half squared error per token, the worse of plain and clipped around the old value; clip None is plain.

    Unreduced [B, R] and 0 outside the mask, with metrics as policy_loss's.
    """
    values_BR, old_values_BR, returns_BR = (
        jnp.where(mask_BR, x_BR, 0.0) for x_BR in (values_BR, old_values_BR, returns_BR)
    )
    plain_BR = (values_BR - returns_BR) ** 2
    clipped_BR = plain_BR
    if clip is not None:
        clipped_BR = (jnp.clip(values_BR, old_values_BR - clip, old_values_BR + clip) - returns_BR) ** 2
    loss_BR = 0.5 * jnp.maximum(plain_BR, clipped_BR)
    metrics = {
        "ppo/value_loss": masked_mean(loss_BR, mask_BR, count),
        "ppo/value_clip_fraction": masked_mean((clipped_BR > plain_BR).astype(jnp.float32), mask_BR, count),
        "ppo/value_mean": masked_mean(values_BR, mask_BR, count),
        "ppo/value_error": masked_mean(plain_BR, mask_BR, count),
    }
    return loss_BR, metrics


def join_response(rollout):
    """Prompt and response side by side, (tokens_BT, segments_BT); padding is segment 0 (row 1)."""
    tokens_BT = jnp.concatenate([rollout.prompt_BP, rollout.response_BR], axis=1)
    mask_BT = jnp.concatenate([rollout.prompt_mask_BP, rollout.response_mask_BR], axis=1)
    return tokens_BT, mask_BT.astype(jnp.int32)


def response_logprobs(policy_model, params, rollout, temperature):
    """(logprobs_BR, entropy_BR) of the response: the one function behind old, reference and new ones.

    Needs the rollout's four token arrays only. Outside the response mask both are 0.
    """
    tokens_BT, segments_BT = join_response(rollout)
    logprobs_BR, entropy_BR = policy_model.apply(
        {"params": params},
        tokens_BT,
        segments_BT,
        start=rollout.prompt_BP.shape[1],
        temperature=temperature,
        method="logprobs",
    )
    mask_BR = rollout.response_mask_BR
    return jnp.where(mask_BR, logprobs_BR, 0.0), jnp.where(mask_BR, entropy_BR, 0.0)


def response_values(scalar_model, params, rollout):
    """Values [B, R] of the response tokens, each read one position earlier, 0 outside the mask (row 25)."""
    values_BT = scalar_model.apply({"params": params}, *join_response(rollout))
    return jnp.where(rollout.response_mask_BR, values_BT[:, rollout.prompt_BP.shape[1] - 1 : -1], 0.0)


def policy_piece_loss(policy_model, policy_params, piece: Rollout, config: PPOConfig, count=None):
    """Policy loss of some episodes, summed over their response tokens and divided by `count` (None: their own number), which makes
    it a share of the minibatch's mean -> (loss [], metrics) (App. C.4). Advantages are taken as they are."""
    mask_BR = piece.response_mask_BR
    logprobs_BR, entropy_BR = response_logprobs(policy_model, policy_params, piece, config.temperature)
    loss_BR, metrics = policy_loss(
        logprobs_BR, piece.logprobs_BR, piece.advantages_BR, mask_BR, config.clip, count
    )
    metrics["ppo/entropy"] = masked_mean(entropy_BR, mask_BR, count)
    return masked_mean(loss_BR, mask_BR, count), metrics


def value_piece_loss(scalar_model, value_params, piece: Rollout, config: PPOConfig, count=None):
    """Value loss of some episodes, value_coef times their share of the minibatch's mean -> (loss [], metrics)."""
    mask_BR = piece.response_mask_BR
    values_BR = response_values(scalar_model, value_params, piece)
    loss_BR, metrics = value_loss(
        values_BR, piece.values_BR, piece.returns_BR, mask_BR, config.value_clip, count
    )
    return config.value_coef * masked_mean(loss_BR, mask_BR, count), metrics


def ptx_loss(policy_model, params, batch: TokenBatch, count=None):
    """Mean loss per target token of pretraining text, or a share of one over `count` -> (loss [], metrics) (Eq. 2's second term)."""
    nll_BX, mask_BX, _ = lm_loss(policy_model, params, batch)
    loss = masked_mean(nll_BX, mask_BX, count)
    return loss, {"ppo/ptx_loss": loss}


def policy_gradient(
    policy_model,
    params,
    minibatch: Rollout,
    pretraining: TokenBatch | None,
    config: PPOConfig,
    pieces: int = 1,
    ptx_pieces: int = 1,
):
    """The gradient of ONE optimizer step, PPO's + ptx_coef * pretraining's -> (grads, metrics) (App. C.4).

    The two are taken one after the other and added, as in the paper, so that only one graph's activations are
    alive, and each in so many pieces. Without pretraining text, or with ptx_coef 0, this is plain PPO.
    """
    if config.whiten_advantages:
        advantages_BR = whiten(minibatch.advantages_BR, minibatch.response_mask_BR)
        minibatch = replace(minibatch, advantages_BR=advantages_BR)
    count = minibatch.response_mask_BR.sum()

    def loss(params, piece):
        return policy_piece_loss(policy_model, params, piece, config, count)

    grads, metrics = accumulate(loss, params, minibatch, pieces, "episodes of a minibatch")
    spread = metrics.pop("ppo/ratio_square") - jnp.square(metrics["ppo/ratio_mean"] - 1.0)
    metrics = {**metrics, "ppo/ratio_var": spread, "ppo/grad_norm": _norm(grads)}
    if pretraining is None or config.ptx_coef == 0:
        return grads, metrics
    targets = pretraining.loss_mask_BT[:, 1:].sum()

    def lm(params, piece):
        return ptx_loss(policy_model, params, piece, targets)

    with jax.named_scope("ptx"):  # by this name its products are counted, and found in a profile
        ptx_grads, ptx_metrics = accumulate(
            lm, params, pretraining, ptx_pieces, "pretraining rows of a minibatch"
        )
    ptx_grads = jax.tree.map(lambda grad: config.ptx_coef * grad, ptx_grads)
    metrics = {**metrics, **ptx_metrics, "ppo/ptx_grad_norm": _norm(ptx_grads)}
    return jax.tree.map(jnp.add, grads, ptx_grads), metrics


def value_gradient(scalar_model, params, minibatch: Rollout, config: PPOConfig, pieces: int = 1):
    """The gradient of one optimizer step of the value, in so many pieces -> (grads, metrics)."""
    mask_BR = minibatch.response_mask_BR
    count = mask_BR.sum()

    def loss(params, piece):
        return value_piece_loss(scalar_model, params, piece, config, count)

    grads, metrics = accumulate(loss, params, minibatch, pieces, "episodes of a minibatch")
    variance = masked_var(minibatch.returns_BR, mask_BR)
    returns = {
        "ppo/returns_mean": masked_mean(minibatch.returns_BR, mask_BR),
        "ppo/returns_var": variance,
        "ppo/explained_variance": 1.0 - metrics["ppo/value_error"] / jnp.maximum(variance, 1e-8),
    }
    return grads, {**metrics, **returns}


def _norm(tree):
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree)))
