"""Home of QuAC's rules (Choi et al. 2018), as its official script has them: people answer too, and a model is held to what one of them
could reach.

No answer (None, or no references) is right only together with no answer.
"""

from collections.abc import Sequence

from instruct_jax.evaluation.scorers import squad

LEAST_AGREEMENT = 0.4  # questions on whose answer people agree less do not count


def f1(prediction: str | None, references: Sequence[str]) -> float:
    """Word F1 in normal form, best over the references; of several, the mean of that over leaving each of them out once."""
    if prediction is None or not references:
        return float(prediction is None and not references)
    found = [_overlap(prediction, one) for one in references]
    if len(found) == 1:
        return found[0]
    return sum(max(found[:i] + found[i + 1 :]) for i in range(len(found))) / len(found)


def agreement(references: Sequence[str]) -> float:
    """F1 of each reference against its best match among the others, their mean; 1.0 where there are fewer than two."""
    if len(references) < 2:
        return 1.0
    best = [
        max(_overlap(one, other) for j, other in enumerate(references) if j != i)
        for i, one in enumerate(references)
    ]
    return sum(best) / len(best)


def _overlap(prediction: str, reference: str) -> float:
    mine, theirs = squad.normalize(prediction).split(), squad.normalize(reference).split()
    return squad.overlap_f1(mine, theirs) if mine and theirs else 0.0
