"""Home of the sentiment labeler: the classifier of its own half of the ratings, which ranks samples by how positive they sound."""

from collections.abc import Sequence

from instruct_jax.data.sentiment.classifier import Judge, fit
from instruct_jax.data.sentiment.snippets import Snippet
from instruct_jax.records import Generation, Ranking

NAME = "labeler"


def fit_labeler(snippets: Sequence[Snippet]) -> Judge:
    """The labeler's judge; it never reads a rating of the gold judge's half or of a test sentence."""
    return fit([s for s in snippets if s.judge == NAME])


def rank(judge: Judge, generation: Generation, margin: float, name: str = NAME) -> Ranking:
    """Completions by the judge's probability for prompt and completion together; those less than `margin` below the best of their
    group tie with it."""
    scores = judge([generation.prompt + completion for completion in generation.completions])
    ranks, best, current = [0] * len(scores), None, 0
    for k in sorted(range(len(scores)), key=lambda k: -scores[k]):
        if best is None or best - scores[k] >= margin:
            best, current = scores[k], current + 1
        ranks[k] = current
    models = [generation.model] * len(ranks)
    return Ranking(
        generation.prompt_id,
        generation.prompt,
        name,
        generation.completions,
        ranks,
        models,
        generation.finished,
    )
