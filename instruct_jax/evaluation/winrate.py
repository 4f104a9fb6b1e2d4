"""Home of what judged responses say about a model: win rate against SFT, Likert, metadata rates, lengths.

The paper (7.1) leaves the treatment of ties and the number of samples open. Here a tie is half a win, the
rate among decided comparisons stands beside it, and every interval is a 95 % bootstrap over prompts, since
samples of one prompt are not independent.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from instruct_jax.algorithms.statistics import Interval, bootstrap_mean, win_rate
from instruct_jax.errors import InputError


@dataclass(frozen=True)
class Judged:
    """One response with the gold judge's verdict; `rm_score` is None where no reward model scored it."""

    model: str
    prompt_id: str
    use_case: str
    prompt: str
    response: str
    gold: float
    likert: int | None  # None where the judge gives no grade
    flags: dict[str, bool]
    rm_score: float | None
    length: int
    closed_domain: bool
    has_constraint: bool
    finished: bool


def as_dict(estimate: Interval) -> dict:
    """{mean, low, high, n} for JSON: None where the interval has no number (fewer than two prompts)."""
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in asdict(estimate).items()
    }


def interval(values: Sequence[float], clusters: Sequence | None = None) -> dict:
    """{mean, low, high, n} of `values`, 95 % bootstrap over `clusters` (prompt ids); n counts the values."""
    return as_dict(bootstrap_mean(values, clusters))


def win_rates(judged: Iterable[Judged], baseline: str = "sft", eps: float = 1e-6) -> dict[str, dict]:
    """How often each model's response is preferred to the baseline's for the same prompt (paper 7.1, Fig. 1).

    Sample i of a prompt meets the baseline's sample i. The baseline itself is compared through a second
    sample set, the model `<baseline>_again`, and is left out where there is none.

    Returns:
      {model: {mean, low, high, n, ties, non_tie_mean, non_tie_low, non_tie_high, non_tie_n, prompts}}:
      golds within `eps` tie and count half; the non_tie numbers are None where nothing was decided; n
      counts comparisons.

    Raises:
      InputError: no baseline rows, a response without a partner, or a gold score that is not finite.
    """
    samples = _by_model_and_prompt(judged)
    if baseline not in samples:
        raise InputError(
            f"win_rates: no rows of the baseline {baseline!r}, only of: {', '.join(samples) or 'no model'}"
        )
    again = f"{baseline}_again"
    result = {}
    for model, prompts in samples.items():
        if model == again:
            continue
        if model != baseline:
            result[model] = _against(model, prompts, samples[baseline], eps)
        elif again in samples:
            result[model] = _against(again, samples[again], samples[baseline], eps)
    return result


def by_use_case(judged: Iterable[Judged], baseline: str = "sft", eps: float = 1e-6) -> dict[str, dict]:
    """`win_rates` within each use case: {use_case: {model: ...}}, the one with the most prompts first."""
    groups: dict[str, list[Judged]] = {}
    for row in judged:
        groups.setdefault(row.use_case, []).append(row)
    order = sorted(groups, key=lambda name: (-len({row.prompt_id for row in groups[name]}), name))
    return {name: win_rates(groups[name], baseline, eps) for name in order}


def likert_means(judged: Iterable[Judged]) -> dict[str, dict]:
    """Mean 1-7 quality of each model (Fig. 5): {model: {mean, low, high, n}}."""
    return {
        model: interval([row.likert for row in rows], [row.prompt_id for row in rows])
        for model, rows in _by_model(judged).items()
    }


# name of the rate: (flag it reads, value that counts, which responses it is a rate of)
_RATES = {
    "attempts_task": ("fails_task", False, lambda row: True),
    "satisfies_constraint": ("satisfies_constraint", True, lambda row: row.has_constraint),
    "hallucination": ("hallucination", True, lambda row: row.closed_domain),
    "appropriate": ("inappropriate", False, lambda row: True),
}


def flag_rates(judged: Iterable[Judged]) -> dict[str, dict]:
    """The four metadata rates of Fig. 4: {model: {rate: {mean, low, high, n}}}.

    Hallucination is a rate of closed-domain responses, satisfies_constraint of those whose prompt has a
    constraint; a rate of nothing is left out.
    """
    result: dict[str, dict] = {}
    for model, rows in _by_model(judged).items():
        result[model] = {}
        for rate, (flag, counted, applies) in _RATES.items():
            chosen = [row for row in rows if applies(row)]
            for row in chosen:
                if flag not in row.flags:
                    raise InputError(
                        f"flag_rates: {row.model}'s response to {row.prompt_id} has no flag {flag!r}"
                    )
            if chosen:
                hits = [row.flags[flag] == counted for row in chosen]
                result[model][rate] = interval(hits, [row.prompt_id for row in chosen])
    return result


def length_stats(judged: Iterable[Judged]) -> dict[str, dict]:
    """Response lengths in tokens: {model: {mean, low, high, n, median, p90, finished}}, `finished` the
    share that ended itself.
    """
    result = {}
    for model, rows in _by_model(judged).items():
        lengths = [row.length for row in rows]
        result[model] = interval(lengths, [row.prompt_id for row in rows]) | {
            "median": float(np.median(lengths)),
            "p90": float(np.quantile(lengths, 0.9)),
            "finished": float(np.mean([row.finished for row in rows])),
        }
    return result


def side_by_side(judged: Iterable[Judged], count: int, use_cases: Sequence[str] | None = None) -> list[dict]:
    """The first sample of every model for `count` prompts, for reading; one prompt a use case in turn, in
    the order given.

    Nothing is picked by its score. Returns [{prompt_id, use_case, prompt, responses: [Judged as a dict]}].
    """
    prompts: dict[str, list[Judged]] = {}
    for row in judged:
        rows = prompts.setdefault(row.prompt_id, [])
        if not row.model.endswith("_again") and row.model not in {other.model for other in rows}:
            rows.append(row)
    queues: dict[str, list[list[Judged]]] = {name: [] for name in use_cases or ()}
    for rows in filter(None, prompts.values()):
        if use_cases is None or rows[0].use_case in queues:
            queues.setdefault(rows[0].use_case, []).append(rows)
    chosen = []
    for turn in range(max(map(len, queues.values()), default=0)):
        chosen += [queue[turn] for queue in queues.values() if turn < len(queue)]
    return [
        {
            "prompt_id": rows[0].prompt_id,
            "use_case": rows[0].use_case,
            "prompt": rows[0].prompt,
            "responses": [asdict(row) for row in rows],
        }
        for rows in chosen[:count]
    ]


def _by_model(judged: Iterable[Judged]) -> dict[str, list[Judged]]:
    groups: dict[str, list[Judged]] = {}
    for row in judged:
        if not row.model.endswith("_again"):
            groups.setdefault(row.model, []).append(row)
    return groups


def _by_model_and_prompt(judged: Iterable[Judged]) -> dict[str, dict[str, list[Judged]]]:
    groups: dict[str, dict[str, list[Judged]]] = {}
    for row in judged:
        if not math.isfinite(row.gold):
            raise InputError(
                f"win_rates: {row.model}'s response to {row.prompt_id} has the gold score {row.gold}"
            )
        groups.setdefault(row.model, {}).setdefault(row.prompt_id, []).append(row)
    return groups


def _against(
    model: str, prompts: dict[str, list[Judged]], baseline: dict[str, list[Judged]], eps: float
) -> dict:
    mine, theirs, clusters = [], [], []
    for prompt_id, rows in prompts.items():
        partners = baseline.get(prompt_id, [])
        if len(partners) < len(rows):
            raise InputError(
                f"win_rates: {model} has {len(rows)} responses to {prompt_id}, the baseline {len(partners)}; "
                "sample the baseline as often on every prompt"
            )
        mine += [row.gold for row in rows]
        theirs += [partner.gold for partner in partners[: len(rows)]]
        clusters += [prompt_id] * len(rows)
    result = win_rate(mine, theirs, clusters, tie=0.5, eps=eps)
    untied = {f"non_tie_{key}": value for key, value in as_dict(result.untied).items()}
    return as_dict(result.rate) | {"ties": result.ties} | untied | {"prompts": len(prompts)}
