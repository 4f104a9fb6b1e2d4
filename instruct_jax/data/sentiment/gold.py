"""Home of the gold judge of sentiment: the classifier of the ratings that the labeler never saw. For evaluation alone; no training
stage reaches it."""

from collections.abc import Sequence

from instruct_jax.data.sentiment.classifier import Judge, fit
from instruct_jax.data.sentiment.snippets import Snippet


def fit_gold(snippets: Sequence[Snippet]) -> Judge:
    """The gold judge, fitted on its own half of the ratings."""
    return fit([s for s in snippets if s.judge == "gold"])
