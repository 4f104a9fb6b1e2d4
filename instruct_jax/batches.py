"""The home of the array batches that travel from data/ to algorithms/: numpy on the host, jax arrays on a device.

The paper packs nothing into these terms; padding is always told by a mask or a segment number, never by comparing
a token with the padding id, because a model may sample that id.
"""

from dataclasses import dataclass

import jax


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TokenBatch:
    """Rows of text for language modelling, several documents a row where packed.

    `segments_BT` is 0 on padding and equal on tokens of one document; `loss_mask_BT` is True where token t is a
    target, predicted from t - 1 (so column 0 is never one).
    """

    tokens_BT: jax.Array
    segments_BT: jax.Array
    loss_mask_BT: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RankingBatch:
    """The K ranked completions of B prompts, each a segment (prompt + completion) of one of X packed rows.

    Completion k of prompt b ends at [row_BK, column_BK]; `ranks_BK` is 1 for the best, equal on ties, 0 in empty slots. With `stems_XT`
    a prompt is a segment that its completions in the row share, each of them a segment that also reads the one stems_XT names.
    """

    tokens_XT: jax.Array
    segments_XT: jax.Array
    row_BK: jax.Array
    column_BK: jax.Array
    ranks_BK: jax.Array
    stems_XT: jax.Array | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PromptBatch:
    """LEFT-padded prompts, so that every row's next token is written at one position; `index_B` is the data-set row."""

    tokens_BP: jax.Array
    mask_BP: jax.Array
    index_B: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rollout:
    """Sampled responses with all that PPO reads of them, f32; `response_mask_BR` is True up to and including EOS."""

    prompt_BP: jax.Array
    prompt_mask_BP: jax.Array
    response_BR: jax.Array
    response_mask_BR: jax.Array
    logprobs_BR: jax.Array
    ref_logprobs_BR: jax.Array
    values_BR: jax.Array
    scores_B: jax.Array
    rewards_BR: jax.Array
    advantages_BR: jax.Array
    returns_BR: jax.Array
