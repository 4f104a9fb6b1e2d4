"""The home of the language-modelling loss: pretraining, supervised fine-tuning (App. C.1), and PPO's ptx term.

The paper does not say whether prompt tokens count; here the batch's loss mask decides, so all three are one function.
"""

import jax

from instruct_jax.algorithms.masked import masked_mean
from instruct_jax.batches import TokenBatch


def lm_loss(
    model, params, batch: TokenBatch, dropout_key=None, count=None
) -> tuple[jax.Array, jax.Array, dict]:
    """Negative log-probability of every next token, unreduced: (nll_BX f32, mask_BX bool, metrics), X = T - 1.

    Reduce over all valid tokens of the global batch, `count` of them where this is a piece of it: metrics then are its share.
    With `dropout_key` the model's dropout is on (App. C.1).
    """
    rngs = {} if dropout_key is None else {"dropout": dropout_key}
    logprobs_BX, entropy_BX = model.apply(
        {"params": params}, batch.tokens_BT, batch.segments_BT, deterministic=dropout_key is None, rngs=rngs
    )
    nll_BX, mask_BX = -logprobs_BX, batch.loss_mask_BT[:, 1:]
    metrics = {
        "lm/loss": masked_mean(nll_BX, mask_BX, count),
        "lm/entropy": masked_mean(jax.lax.stop_gradient(entropy_BX), mask_BX, count),
        "lm/tokens": mask_BX.sum(),
    }
    return nll_BX, mask_BX, metrics
