"""Home of the reward model's loss: all pairs of one prompt's K ranked completions (paper section 3.5, Eq. 1).

Differs from the paper in two decisions it leaves open: the score is read at the last real token (the EOS when
there is one), and a prompt's loss is divided by its untied pairs unless the literal C(K, 2) is asked for.
"""

import jax
import jax.numpy as jnp

from instruct_jax.algorithms.masked import last_true_index, masked_mean
from instruct_jax.batches import RankingBatch
from instruct_jax.errors import InputError


def last_scores(values_BT, mask_BT):
    """Each row's score [B] at its last real token; a row without tokens scores 0."""
    last_B = last_true_index(mask_BT)
    scores_B = jnp.take_along_axis(values_BT, last_B[:, None], axis=1)[:, 0]
    return jnp.where(mask_BT.any(axis=1), scores_B, 0.0)


def ranking_counts(ranks_BK):
    """What a batch's means are over: (prompts with an untied pair, untied pairs, filled slots), each []."""
    better_BKK = _better(ranks_BK)
    return better_BKK.any(axis=(1, 2)).sum(), better_BKK.sum(), (ranks_BK > 0).sum()


def _better(ranks_BK):
    filled_BK = ranks_BK > 0
    filled_BKK = filled_BK[:, :, None] & filled_BK[:, None, :]
    return filled_BKK & (ranks_BK[:, :, None] < ranks_BK[:, None, :])


def ranking_loss(scores_BK, ranks_BK, divide_by="valid_pairs", counts=None):
    """Mean of -log sigmoid(better - worse) over each prompt's pairs (Eq. 1).

    Ranks: 1 is best, equal numbers are a tie, 0 is an empty slot. Ties and empty slots contribute nothing.
    `divide_by` is "valid_pairs" (untied pairs) or "all_pairs" (C(K, 2) of the filled slots, the paper's
    letter). Returns (loss_B, weight_B, metrics); weight is 0 for a prompt that holds no untied pair and 1
    otherwise: the batch's loss is the weighted mean. With the `counts` of a batch that this is a piece of,
    metrics are its share of the batch's.
    """
    if divide_by not in ("valid_pairs", "all_pairs"):
        raise InputError(f'rm.divide_by: {divide_by!r} is not known; use "valid_pairs" or "all_pairs"')
    filled_BK, better_BKK = ranks_BK > 0, _better(ranks_BK)
    prompts, pairs, slots = (None,) * 3 if counts is None else counts
    scores_BK = jnp.where(filled_BK, scores_BK, 0.0)
    margin_BKK = scores_BK[:, :, None] - scores_BK[:, None, :]
    valid_B = better_BKK.sum(axis=(1, 2))
    slots_B = filled_BK.sum(axis=1)
    pairs_B = valid_B if divide_by == "valid_pairs" else slots_B * (slots_B - 1) // 2
    loss_BKK = jnp.where(better_BKK, jax.nn.softplus(-margin_BKK), 0.0)
    loss_B = loss_BKK.sum(axis=(1, 2)) / jnp.maximum(pairs_B, 1)
    weight_B = (valid_B > 0).astype(jnp.float32)
    right_BKK = jnp.where(margin_BKK == 0, 0.5, (margin_BKK > 0).astype(jnp.float32))
    metrics = {
        "rm/loss": masked_mean(loss_B, weight_B > 0, prompts),
        "rm/accuracy": masked_mean(right_BKK, better_BKK, pairs),
        "rm/margin": masked_mean(margin_BKK, better_BKK, pairs),
        "rm/score_mean": masked_mean(scores_BK, filled_BK, slots),
        "rm/pairs": valid_B.sum().astype(jnp.float32),
    }
    return loss_B, weight_B, metrics


def rm_loss(model, params, batch: RankingBatch, divide_by="valid_pairs", counts=None):
    """Score every completion in one forward over the packed rows; returns ranking_loss of them (section 3.5)."""
    values_XT = model.apply({"params": params}, batch.tokens_XT, batch.segments_XT, batch.stems_XT)
    return ranking_loss(values_XT[batch.row_BK, batch.column_BK], batch.ranks_BK, divide_by, counts)


def shift_bias(params, mean_score):
    """Move the head's bias so that demonstrations, which averaged `mean_score`, average 0 (App. C.2)."""
    head = params["head"]
    return {**params, "head": {**head, "bias": head["bias"] - mean_score}}
