"""Home of the scores of longer texts against references: corpus BLEU as sacreBLEU has it, ROUGE-L as rouge-score has it.

Both libraries are the reference implementations; each is imported when its score is asked for.
"""

import functools
from collections.abc import Sequence

import numpy as np

from instruct_jax.errors import InputError

ADVICE = "the scores of this task need {0}: bash launch/setup.sh --eval, or pip install {0}"


def rouge_l(prediction: str, reference: str) -> float:
    """ROUGE-L F-measure, words stemmed (Lin 2004)."""
    return rouge_scorer().score(reference, prediction)["rougeL"].fmeasure


@functools.cache
def rouge_scorer():
    """rouge-score's scorer of ROUGE-L, words stemmed; InputError where it is not installed."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise InputError(ADVICE.format("rouge-score")) from error
    return RougeScorer(["rougeL"], use_stemmer=True)


def bleu_counts(prediction: str, reference: str) -> list[int]:
    """What a sentence adds to corpus BLEU: n-gram matches (4), n-grams (4), its length, the reference's."""
    one = bleu_metric().corpus_score([prediction], [[reference]])
    return [*map(int, one.counts), *map(int, one.totals), one.sys_len, one.ref_len]


def bleu(counts: Sequence[Sequence[int]]) -> float:
    """Corpus BLEU, 0 to 100, from every sentence's counts: sacreBLEU's default (13a, exponential smoothing)."""
    total = np.asarray(counts).sum(axis=0).tolist()
    metric = bleu_metric()
    return metric.compute_bleu(
        total[:4],
        total[4:8],
        total[8],
        total[9],
        smooth_method=metric.smooth_method,
        smooth_value=metric.smooth_value,
    ).score


def bleu_interval(counts: Sequence[Sequence[int]], samples: int = 500, seed: int = 0) -> dict:
    """{mean, low, high, n}: corpus BLEU with a 95 % bootstrap over sentences; None for the bounds of one alone."""
    rows = np.asarray(counts)
    if len(rows) < 2:
        return {"mean": bleu(rows), "low": None, "high": None, "n": len(rows)}
    generator = np.random.default_rng(seed)
    drawn = [bleu(rows[generator.integers(0, len(rows), len(rows))]) for _ in range(samples)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"mean": bleu(rows), "low": float(low), "high": float(high), "n": len(rows)}


@functools.cache
def bleu_metric():
    """sacreBLEU's metric with its defaults; InputError where it is not installed."""
    try:
        from sacrebleu.metrics import BLEU
    except ImportError as error:
        raise InputError(ADVICE.format("sacrebleu")) from error
    return BLEU(effective_order=False)
