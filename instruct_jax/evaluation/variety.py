"""Home of how varied a model's responses are: distinct-n, the share of n-grams that are not repeats (Li et al. 2016).

The paper does not measure it; a policy that has found one phrase which scores well shows here first.
"""

from collections.abc import Iterable, Sequence


def distinct(texts: Iterable[str], n: int) -> float | None:
    """Different n-grams of words over all n-grams, across the texts together; None where no text has n words.

    It falls as texts get longer or more: compare models on the same prompts, beside their lengths.
    """
    grams = [gram for text in texts for gram in _grams(text.casefold().split(), n)]
    return len(set(grams)) / len(grams) if grams else None


def _grams(words: Sequence[str], n: int) -> list[tuple]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
