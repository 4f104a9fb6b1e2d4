"""Home of preferences between a model and a named baseline, whoever judged: people, a score or a reader; and of how alike they judge.

The paper (7.1) compares one output of a model with the 175B SFT model's, by labelers of two pools, on two prompt distributions
(Fig. 3). Here a comparison is one judgement of one prompt; where a ranking holds several outputs of either model it is the share of
pairs won. A tie counts half. Intervals are 95 % bootstraps over prompts and labelers, tests are paired by prompt.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from instruct_jax.algorithms import preference_tests as tests
from instruct_jax.algorithms.statistics import (
    bootstrap_mean,
    bootstrap_mean_crossed,
    krippendorff_interval,
)
from instruct_jax.errors import InputError
from instruct_jax.evaluation.winrate import as_dict
from instruct_jax.records import Ranking

_NOTHING = {"mean": None, "low": None, "high": None, "n": 0}


@dataclass(frozen=True)
class Response:
    """What a model said, and whether it ended by itself."""

    text: str
    finished: bool = True


@dataclass(frozen=True)
class Pair:
    """A model's response and the baseline's to one prompt."""

    prompt_id: str
    prompt: str
    model: str
    first: Response
    second: Response


@dataclass(frozen=True)
class Comparison:
    """One judgement: the shares of output pairs that the model `won` and `lost` (the rest are `pairs` tied), and by how many
    characters its response is longer. `judge` is a pool or a judge's name, `labeler` the person in it, `item` what was shown, `same`
    whether the outputs of every pair are the same text, which ties whoever judges."""

    judge: str
    labeler: str
    prompt_id: str
    model: str
    won: float
    lost: float
    gap: float
    item: str
    pairs: int = 1
    same: bool = False

    @property
    def outcome(self) -> float:
        return (1 + self.won - self.lost) / 2


def compared(judge: str, labeler: str, pairs: Sequence[Pair], outcomes: Sequence[float]) -> Comparison:
    """One judgement of pairs of one model and prompt, by their outcomes: 1 the first response, 0 the second, 0.5 a tie."""
    count, one = len(pairs), pairs[0]
    texts = [(p.first.text, p.second.text) for p in pairs]
    return Comparison(
        judge, labeler, one.prompt_id, one.model, sum(x == 1 for x in outcomes) / count, sum(x == 0 for x in outcomes) / count,
        sum(len(a) - len(b) for a, b in texts) / count, _item(one.prompt, one.model, *(text for two in texts for text in two)),
        count, all(a == b for a, b in texts),
    )  # fmt: skip


def judge_pairs(pairs: Sequence[Pair], judge: str, outcomes: Iterable[float | None]) -> list[Comparison]:
    """Comparisons of pairs and their outcomes: 1 the first response, 0 the second, 0.5 a tie, None no verdict (left out)."""
    met = zip(pairs, outcomes, strict=True)
    return [compared(judge, judge, [pair], [outcome]) for pair, outcome in met if outcome is not None]


def by_score(
    score: Callable[[list[tuple[str, str, str, bool]]], Sequence[float]], eps: float = 1e-6
) -> Callable[[Sequence[Pair]], list[float]]:
    """A judge of pairs from one that scores responses, (prompt_id, prompt, response, finished) each; scores within `eps` tie. A
    response that is in several pairs is scored once."""

    def prefer(pairs: Sequence[Pair]) -> list[float]:
        rows = dict.fromkeys(
            (p.prompt_id, p.prompt, r.text, r.finished) for p in pairs for r in (p.first, p.second)
        )
        scores = dict(zip(rows, score(list(rows)), strict=True))
        return [
            _ordered(*(scores[p.prompt_id, p.prompt, r.text, r.finished] for r in (p.first, p.second)), eps)
            for p in pairs
        ]

    return prefer


def _ordered(first: float, second: float, eps: float) -> float:
    if not np.isfinite([first, second]).all():
        raise InputError(f"judge: gave the scores {first} and {second}; a score is a finite number")
    return 0.5 if abs(first - second) <= eps else float(first > second)


def pairs_of(responses: dict[str, dict[str, tuple[str, Response]]], baseline: str) -> list[Pair]:
    """Every model's response beside the baseline's to the same prompt, of {model: {prompt_id: (prompt, response)}}. The baseline
    meets the second sample set `<baseline>_again` where there is one."""
    if baseline not in responses:
        raise InputError(f"baseline: {baseline!r} is none of the models, which are {', '.join(responses)}")
    theirs, again = responses[baseline], f"{baseline}_again"
    return [
        Pair(prompt_id, prompt, baseline if model == again else model, response, theirs[prompt_id][1])
        for model, found in responses.items() if model != baseline
        for prompt_id, (prompt, response) in found.items() if prompt_id in theirs
    ]  # fmt: skip


def pairs_in(ranking: Ranking, baseline: str) -> list[tuple[tuple[Pair, ...], list[float]]]:
    """For each model that stands beside the baseline in a ranking, its outputs with each of the baseline's, in the order of their texts,
    and which of the two stands better."""
    outputs = sorted(zip(ranking.completions, ranking.finished, ranking.models, ranking.ranks))
    theirs = [(Response(text, end), rank) for text, end, model, rank in outputs if model == baseline]
    found = []
    for model in sorted(set(ranking.models) - {baseline}) if theirs else ():
        mine = [(Response(text, end), rank) for text, end, name, rank in outputs if name == model]
        met = [(a, b) for a in mine for b in theirs]
        pairs = tuple(Pair(ranking.prompt_id, ranking.prompt, model, a, b) for (a, _), (b, _) in met)
        found.append((pairs, [0.5 if i == k else float(i < k) for (_, i), (_, k) in met]))
    return found


def from_rankings(rankings: Iterable[Ranking], baseline: str, judge: str) -> list[Comparison]:
    """What people's rankings say of each model that stands beside the baseline in them. A model's output and the baseline's of the
    same text tie."""
    return [
        compared(judge, ranking.labeler, *found)
        for ranking in rankings
        for found in pairs_in(ranking, baseline)
    ]


def _item(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def win_rate(comparisons: Sequence[Comparison], fair: bool = True) -> dict:
    """How often the model of these comparisons was preferred.

    Returns:
      {mean, low, high, n, non_tie_mean, …, ties, pairs, prompts, labelers}, as human.human_win_rates has them, and with `fair`
      {sign_p, permutation_p, equal_length: {mean, low, high, n, slope}}: the tests' null is a rate of one half, prompts are paired,
      and labelers are taken as they are, not as a draw of others.
      None where there is nothing to compare.
    """
    decided = [c for c in comparisons if c.won + c.lost]
    rate = _mean([c.outcome for c in comparisons], comparisons)
    untied = _mean([c.won / (c.won + c.lost) for c in decided], decided)
    result = rate | {f"non_tie_{key}": value for key, value in untied.items()}
    result |= {
        "ties": sum(round(c.pairs * (1 - c.won - c.lost)) for c in comparisons),
        "pairs": sum(c.pairs for c in comparisons),
        "prompts": len({c.prompt_id for c in comparisons}),
        "labelers": len({c.labeler for c in comparisons}),
    }
    if fair and comparisons:
        above, prompts = [c.outcome - 0.5 for c in comparisons], [c.prompt_id for c in comparisons]
        controlled = tests.length_controlled(
            [c.outcome for c in comparisons], [c.gap for c in comparisons], prompts, [c.labeler for c in comparisons]
        )  # fmt: skip
        result |= {
            "sign_p": tests.sign_test(above, prompts),
            "permutation_p": tests.permutation_test(above, prompts),
            "equal_length": as_dict(controlled.rate) | {"slope": controlled.slope},
        }
    return result


def _mean(values: list[float], found: Sequence[Comparison]) -> dict:
    if not values:
        return _NOTHING
    return as_dict(bootstrap_mean_crossed(values, [c.prompt_id for c in found], [c.labeler for c in found]))


def win_table(comparisons: Iterable[Comparison], styles: dict[str, str]) -> dict:
    """{judge: {style: {model: win_rate}}} (Figs. 1 and 3); `styles` names the distribution that each prompt is from."""
    cells: dict[str, dict[str, dict[str, list]]] = {}
    for c in comparisons:
        models = cells.setdefault(c.judge, {}).setdefault(styles.get(c.prompt_id, "all"), {})
        models.setdefault(c.model, []).append(c)
    return {
        judge: {style: {model: win_rate(found) for model, found in models.items()} for style, models in by_style.items()}
        for judge, by_style in cells.items()
    }  # fmt: skip


def between_models(comparisons: Iterable[Comparison], styles: dict[str, str]) -> list[dict]:
    """Paired tests of every two models against each other, through what each won of the baseline with the same labeler on the same
    prompt.

    Returns:
      [{judge, style, first, second, mean, low, high, n, prompts, permutation_p}]: the mean that of first - second over n pairs of a
      labeler and a prompt, interval over prompts and labelers. The test draws signs by prompt and takes the labelers as they are.
    """
    cells: dict[tuple, dict[str, dict[str, list]]] = {}
    for c in comparisons:
        models = cells.setdefault((c.judge, styles.get(c.prompt_id, "all")), {})
        models.setdefault(c.model, {}).setdefault((c.labeler, c.prompt_id), []).append(c.outcome)
    rows = []
    for (judge, style), models in cells.items():
        for first, second in combinations(models, 2):
            shared = sorted(models[first].keys() & models[second].keys())
            if shared:
                over = [np.mean(models[first][both]) - np.mean(models[second][both]) for both in shared]
                labelers, prompts = zip(*shared)
                rows.append({"judge": judge, "style": style, "first": first, "second": second}
                            | as_dict(bootstrap_mean_crossed(over, prompts, labelers))
                            | {"prompts": len(set(prompts)), "permutation_p": tests.permutation_test(over, prompts)})  # fmt: skip
    return rows


def agreement(comparisons: Iterable[Comparison]) -> list[dict]:
    """How alike judges see the same outputs, for every two judges and within each that is several people. Outputs of the same text
    are left out: nobody could judge them otherwise.

    Returns:
      [{first, second, mean, low, high, n, ties, kappa, alpha: {mean, low, high, n}}]: the mean is the share of judgement pairs that
      agree, of those in which both decided (`ties`: the others; n judgement pairs; interval over prompts). kappa is Cohen's on won,
      tied and lost; alpha Krippendorff's, ordinal, over all raters of the two judges.
    """
    items: dict[tuple, list[Comparison]] = {}
    for c in comparisons:
        if not c.same:
            items.setdefault((c.prompt_id, c.item), []).append(c)
    judges = list(dict.fromkeys(c.judge for found in items.values() for c in found))
    rows = []
    for first, second in [*((j, j) for j in judges), *combinations(judges, 2)]:
        met = [
            (key[0], two)
            for key, found in items.items()
            for two in combinations(found, 2)
            if sorted(c.judge for c in two) == sorted((first, second))
            and (two[0].judge, two[0].labeler) != (two[1].judge, two[1].labeler)
        ]
        if met:
            rows.append(
                {"first": first, "second": second}
                | _alike(met, first, second)
                | {"alpha": _alpha(items, {first, second})}
            )
    return rows


def _alike(met: list[tuple[str, tuple[Comparison, Comparison]]], first: str, second: str) -> dict:
    signs = [
        (prompt_id, *(int(np.sign(c.won - c.lost)) for c in sorted(two, key=lambda c: c.judge != first)))
        for prompt_id, two in met
    ]
    decided = [(prompt_id, a == b) for prompt_id, a, b in signs if a and b]
    same = _NOTHING
    if decided:
        same = as_dict(bootstrap_mean([float(alike) for _, alike in decided], [p for p, _ in decided]))
    left, right = [a for _, a, _ in signs], [b for *_, b in signs]
    # Two people of one pool have no order: each pair counts both ways.
    kappa = tests.cohen_kappa(*((left + right, right + left) if first == second else (left, right)))
    return same | {"ties": len(met) - len(decided), "kappa": None if np.isnan(kappa) else kappa}


def _alpha(items: dict, judges: set[str]) -> dict:
    raters = sorted({(c.judge, c.labeler) for found in items.values() for c in found if c.judge in judges})
    rows = {rater: n for n, rater in enumerate(raters)}
    shown = {key: [c for c in found if c.judge in judges] for key, found in items.items()}
    shown = {key: found for key, found in shown.items() if len(found) > 1}
    table = np.full((len(raters), len(shown)), np.nan)
    for column, found in enumerate(shown.values()):
        for c in found:
            table[rows[c.judge, c.labeler], column] = np.sign(c.won - c.lost)
    clusters = [prompt_id for prompt_id, _ in shown]
    return as_dict(krippendorff_interval(table, "ordinal", clusters, samples=500))
