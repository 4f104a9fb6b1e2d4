"""The table over several seeds, and the paper's claims read off it."""

import copy
import math

import pytest

from instruct_jax.reports.pooled import pool, pooled_page


def interval(mean, half=0.02, n=100, **more):
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n} | more


def won(mean):
    untied = {"non_tie_mean": mean, "non_tie_low": mean - 0.02, "non_tie_high": mean + 0.02, "non_tie_n": 80}
    return interval(mean, ties=20) | untied


def summary(seed):
    """A study in which every claim holds."""
    rates = {"base": 0.1, "prompted": 0.3, "sft": 0.5, "ppo": 0.66, "ppo_ptx": 0.7}
    flags = {model: {"satisfies_constraint": interval(0.2 + rate / 2), "hallucination": interval(0.6 - rate / 2)}
             for model, rate in rates.items()}  # fmt: skip
    loss = {"base": 1.0, "sft": 1.1, "ppo": 1.2, "ppo_ptx": 1.05}
    return {
        "seed": seed,
        "win_rate_vs_sft": {model: won(rate) for model, rate in rates.items()},
        "likert": {model: interval(3 + rate) for model, rate in rates.items()},
        "flags": flags,
        "rm_accuracy": {pool: interval(0.71, ties=5) for pool in ("training_labelers", "heldout_labelers")},
        "rm_accuracy_both_decided": {pool: interval(0.72, ties=9) for pool in ("training_labelers", "heldout_labelers")},
        "rm_ceiling": {pool: interval(0.84, ties=5) for pool in ("training_labelers", "heldout_labelers")},
        "labeler_agreement": interval(0.73, ties=9),
        "labeler_agreement_heldout": interval(0.73, ties=9),
        "pretraining_tasks": {model: {"language modelling": interval(nats, higher_is_better=False)}
                              for model, nats in loss.items()},
    }  # fmt: skip


def claims(summaries):
    """{claim: holds} as the page says them."""
    lines = pooled_page(summaries).split("| Claim |")[1].splitlines()[2:]
    return {line.split(" | ")[0].strip("| "): line.split(" | ")[1] for line in lines if line}


def test_pooled_intervals_shrink_with_the_root_of_the_seeds_and_weigh_by_n():
    pooled = pool([interval(0.5), interval(0.5), interval(0.5), interval(0.5)])
    assert pooled == pytest.approx({"mean": 0.5, "low": 0.49, "high": 0.51, "n": 400})
    assert pool([interval(0.0, n=300), interval(1.0, n=100)])["mean"] == 0.25
    lopsided = pool([{"mean": 0.9, "low": 0.7, "high": 1.0, "n": 5}] * 2)
    assert lopsided["low"] == pytest.approx(0.9 - 0.2 / math.sqrt(2)) and lopsided["high"] < 1


def test_the_same_items_asked_again_give_no_narrower_interval():
    pooled = pool([interval(0.5), interval(0.6)], shared=True)
    assert pooled == pytest.approx({"mean": 0.55, "low": 0.53, "high": 0.57, "n": 100})


def test_every_claim_that_holds_is_said_to_hold():
    found = claims([summary(0), summary(1)])
    assert len(found) == 11 and set(found.values()) == {"yes"}


@pytest.mark.parametrize(
    "path, value, claim",
    [
        (("win_rate_vs_sft", "prompted"), won(0.48), "SFT above Base, prompted"),
        (("win_rate_vs_sft", "ppo_ptx"), won(0.6), "PPO-ptx preferred"),
        (("flags", "ppo_ptx", "hallucination"), interval(0.5), "PPO-ptx hallucinates"),
        (("flags", "ppo_ptx", "satisfies_constraint"), interval(0.1), "PPO-ptx keeps"),
        (("rm_accuracy", "heldout_labelers"), interval(0.68),
         "Reward model at most 4 points below the agreement of held-out labelers, on all"),
        (("rm_accuracy_both_decided", "training_labelers"), interval(0.68),
         "Reward model at most 4 points below the agreement of training labelers, on the pairs"),
        (("pretraining_tasks", "ppo", "language modelling"), interval(1.01, higher_is_better=False), "PPO loses"),
        (("pretraining_tasks", "ppo_ptx", "language modelling"), interval(1.15, higher_is_better=False), "PPO loses"),
    ],
)  # fmt: skip
def test_a_claim_that_fails_is_said_to_fail(path, value, claim):
    broken = copy.deepcopy(summary(0))
    at = broken
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    failed = [text for text, holds in claims([broken]).items() if holds == "**no**"]
    assert any(text.startswith(claim) for text in failed) and len(failed) == 1


def test_the_page_names_the_seeds_and_their_own_values():
    page = pooled_page([summary(2), summary(0)])
    assert "seeds 0, 2" in page and "| 200 | 70.0 %, 70.0 % |" in page.replace("\u202f", " ")
