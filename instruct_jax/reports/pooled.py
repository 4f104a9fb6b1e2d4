"""Home of the table over several seeds: their summaries in, one page of Markdown out, with the paper's claims marked true or false.

A pooled mean weighs the seeds by their n; its 95 % interval comes from theirs, which are independent (other users, labelers and
training runs, the same world and base model), except for the pretraining tasks, which ask every seed the same. The seeds' own values
stand beside it: three are too few for an interval over seeds.
"""

import math

from instruct_jax.reports.marks import in_order, label
from instruct_jax.reports.text import amount, count, percent, share

ORDER = ("base", "prompted", "sft", "ppo_ptx")


def pool(values: list[dict], shared: bool = False) -> dict:
    """Intervals {mean, low, high, n} as one: of independent items or, `shared`, of the same items in every seed, whose n does not
    add up and whose errors do not cancel.
    """
    n = sum(value["n"] for value in values)
    weights = [value["n"] / n for value in values]
    mean = sum(weight * value["mean"] for weight, value in zip(weights, values))

    def reach(bound: str) -> float:
        parts = [weight * abs(value[bound] - value["mean"]) for weight, value in zip(weights, values)]
        return sum(parts) if shared else math.sqrt(sum(part**2 for part in parts))

    n = max(value["n"] for value in values) if shared else n
    return {"mean": mean, "low": mean - reach("low"), "high": mean + reach("high"), "n": n}


def pooled_page(summaries: list[dict]) -> str:
    """The page of these summaries (summary.json of one study each)."""
    summaries = sorted(summaries, key=lambda s: s["seed"])
    seeds = ", ".join(str(s["seed"]) for s in summaries)
    spread = "Intervals are over prompts, of these runs alone: another seed may lie outside of them, as these seeds' own figures do.\n"
    parts = [f"# The lab study, seeds {seeds}\n", spread, _models(summaries), _reward_model(summaries), _tasks(summaries),
             _claims(summaries)]  # fmt: skip
    return "\n".join(parts)


def _values(summaries, *path) -> list[dict]:
    found = []
    for value in summaries:
        for key in path:
            value = value.get(key, {}) if isinstance(value, dict) else {}
        if value and value.get("mean") is not None:
            found.append(value)
    return found


def _pooled(summaries, *path) -> dict | None:
    values = _values(summaries, *path)
    return pool(values, shared=path[0] == "pretraining_tasks") if values else None


def _untied(summaries, model) -> dict | None:
    keys = {"mean": "non_tie_mean", "low": "non_tie_low", "high": "non_tie_high", "n": "non_tie_n"}
    values = [
        {k: value[name] for k, name in keys.items()} for value in _values(summaries, "win_rate_vs_sft", model)
    ]
    return pool(values) if values else None


def _table(columns, rows) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _seeds(values, text=percent) -> str:
    return ", ".join(text(value["mean"]) for value in values)


def _models(summaries) -> str:
    rows = []
    for model in in_order(summaries[0]["win_rate_vs_sft"]):
        won = _pooled(summaries, "win_rate_vs_sft", model)
        flags = [
            _pooled(summaries, "flags", model, flag) for flag in ("satisfies_constraint", "hallucination")
        ]
        rows.append([label(model), share(won), count(won["n"]), _seeds(_values(summaries, "win_rate_vs_sft", model)),
                     share(_untied(summaries, model)), amount(_pooled(summaries, "likert", model)), *map(share, flags)])  # fmt: skip
    columns = ["Model", "preferred to SFT (ties half)", "n", "each seed", "among decided", "mean grade, 1-7",
               "keeps the constraint", "hallucinates, closed tasks"]  # fmt: skip
    return _table(columns, rows)


def _reward_model(summaries) -> str:
    rows = []
    for name, path in (("Reward model, training labelers", ("rm_accuracy", "training_labelers")),
                       ("The same, pairs that a second one decided too", ("rm_accuracy_both_decided", "training_labelers")),
                       ("Two training labelers", ("labeler_agreement",)),
                       ("Ceiling of the world, training labelers", ("rm_ceiling", "training_labelers")),
                       ("Reward model, held-out labelers", ("rm_accuracy", "heldout_labelers")),
                       ("The same, pairs that a second one decided too", ("rm_accuracy_both_decided", "heldout_labelers")),
                       ("Two held-out labelers", ("labeler_agreement_heldout",)),
                       ("Ceiling of the world, held-out labelers", ("rm_ceiling", "heldout_labelers"))):  # fmt: skip
        values = _values(summaries, *path)
        if values:
            ties = sum(value.get("ties", 0) for value in values)
            value = pool(values)
            rows.append([name, share(value), count(value["n"]), count(ties), _seeds(values)])
    return _table(["Pairs ordered alike", "", "n pairs", "tied, left out", "each seed"], rows)


def _tasks(summaries) -> str:
    tasks = summaries[0].get("pretraining_tasks", {})
    models = in_order(tasks)
    names = list(dict.fromkeys(task for model in models for task in tasks[model]))
    rows = [
        [name, *(amount(_pooled(summaries, "pretraining_tasks", model, name), 3) for model in models)]
        for name in names
    ]
    return _table(["Pretraining task", *map(label, models)], rows)


def _claims(summaries) -> str:
    rows = [[text, "yes" if holds else "**no**", detail] for text, holds, detail in
            (*_order(summaries), *_preference(summaries), *_labelers(summaries), _tax(summaries))]  # fmt: skip
    return _table(["Claim", "holds", "figures"], rows)


def _order(summaries):
    won = {model: _pooled(summaries, "win_rate_vs_sft", model) for model in ORDER}
    for worse, better in zip(ORDER, ORDER[1:]):
        if won[worse] and won[better]:
            holds = won[better]["low"] > won[worse]["high"]
            yield (
                f"{label(better)} above {label(worse)}, intervals apart",
                holds,
                f"{share(won[better])} and {share(won[worse])}",
            )


def _preference(summaries):
    untied = _untied(summaries, "ppo_ptx")
    yield (
        "PPO-ptx preferred to SFT in at least 65 % of decided comparisons",
        untied["mean"] >= 0.65,
        share(untied),
    )
    for flag, text, sign in (("hallucination", "PPO-ptx hallucinates less than SFT on closed tasks", -1),
                             ("satisfies_constraint", "PPO-ptx keeps constraints more often than SFT", 1)):  # fmt: skip
        ours, theirs = (_pooled(summaries, "flags", model, flag) for model in ("ppo_ptx", "sft"))
        yield text, sign * (ours["mean"] - theirs["mean"]) > 0, f"{share(ours)} and {share(theirs)}"


def _labelers(summaries):
    for whose, pool_name, agreement in (("training", "training_labelers", "labeler_agreement"),
                                        ("held-out", "heldout_labelers", "labeler_agreement_heldout")):  # fmt: skip
        for key, pairs in (("rm_accuracy_both_decided", "the pairs that two decided"),
                           ("rm_accuracy", "all pairs that one decided")):  # fmt: skip
            ours, theirs = _pooled(summaries, key, pool_name), _pooled(summaries, agreement)
            gap = 100 * (theirs["mean"] - ours["mean"])
            yield (f"Reward model at most 4 points below the agreement of {whose} labelers, on {pairs}", gap <= 4,
                   f"{gap:.1f} points: {share(ours)} and {share(theirs)}")  # fmt: skip


def _tax(summaries):
    """Tasks on which PPO is outside the base model's interval, and how much of the loss PPO-ptx wins back."""
    found, back = [], 0
    for task in summaries[0].get("pretraining_tasks", {}).get("ppo", {}):
        base, ppo, ptx = (
            _pooled(summaries, "pretraining_tasks", model, task) for model in ("base", "ppo", "ppo_ptx")
        )
        sign = 1 if summaries[0]["pretraining_tasks"]["ppo"][task].get("higher_is_better", True) else -1
        lost, kept = sign * (base["mean"] - ppo["mean"]), sign * (ptx["mean"] - ppo["mean"])
        if lost > max(base["high"] - base["low"], ppo["high"] - ppo["low"]) / 2:
            found.append(
                f"{task}: {amount(base, 3)}, PPO {amount(ppo, 3)}, PPO-ptx {amount(ptx, 3)}, {100 * kept / lost:.0f} % won back"
            )
            back += kept >= lost / 2
    text = "PPO loses on a pretraining task by more than the interval, and PPO-ptx wins back at least half of one such loss"
    return text, back > 0, f"in {back} of {len(found)}: {'; '.join(found)}" if found else "PPO loses on none"
