"""Home of SQuAD's rules for short answers (Rajpurkar et al. 2016 and 2018), on which QuAC's build: words in normal form, best over
the references; a question without an answer is right only when none is given.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1.0 if the prediction equals a reference in normal form, else 0.0; no references: if the prediction is empty."""
    return float(normalize(prediction) in _normal(references))


def f1(prediction: str, references: Sequence[str]) -> float:
    """Word-overlap F1 in normal form, best over the references; no references: 1.0 if the prediction is empty, else 0.0."""
    words = normalize(prediction).split()
    return max(overlap_f1(words, one.split()) for one in _normal(references))


def _normal(references: Sequence[str]) -> list[str]:
    return [one for one in map(normalize, references) if one] or [""]


def overlap_f1(prediction: Sequence[str], reference: Sequence[str]) -> float:
    """F1 of two bags of words; where one is empty, 1.0 if both are."""
    if not prediction or not reference:
        return float(not prediction and not reference)
    shared = sum((Counter(prediction) & Counter(reference)).values())
    return 2 * shared / (len(prediction) + len(reference))
