"""Preferences, whoever judged: by hand, and against the win rates and agreement that other code computes."""

import numpy as np
import pytest

from instruct_jax.algorithms.statistics import krippendorff_alpha, pairwise_agreement, win_rate
from instruct_jax.errors import InputError
from instruct_jax.evaluation import comparisons as c
from instruct_jax.evaluation.comparisons import Comparison, Pair, Response
from instruct_jax.evaluation.human import flag_rates, grades
from instruct_jax.records import Ranking, Rating


def ranking(prompt, labeler, ranks, models, texts=None):
    return Ranking(
        prompt, f"ask {prompt}", labeler, texts or [f"{m} {prompt}" for m in models], ranks, models
    )


def test_a_score_prefers_the_higher_and_scores_each_response_once():
    seen = []

    def score(rows):
        seen.extend(rows)
        return [len(text) for _, _, text, _ in rows]

    short, long = Response("ab"), Response("abcd")
    pairs = [Pair("p", "ask", "ppo", long, short), Pair("p", "ask", "base", Response("x"), short),
             Pair("p", "ask", "twin", Response("yz"), short)]  # fmt: skip
    assert c.by_score(score)(pairs) == [1.0, 0.0, 0.5]
    assert [text for _, _, text, _ in seen] == ["abcd", "ab", "x", "yz"]
    with pytest.raises(InputError, match="nan"):
        c.by_score(lambda rows: [float("nan")] * len(rows))(pairs)


def test_every_model_meets_the_baseline_and_the_baseline_its_second_sample():
    said = {m: {"p": ("ask", Response(f"{m} speaks"))} for m in ("sft", "sft_again", "ppo")}
    said["ppo"]["q"] = ("ask q", Response("alone"))  # the baseline has no answer: no comparison
    pairs = c.pairs_of(said, "sft")
    assert [(p.model, p.first.text, p.second.text) for p in pairs] == [
        ("sft", "sft_again speaks", "sft speaks"), ("ppo", "ppo speaks", "sft speaks"),
    ]  # fmt: skip
    with pytest.raises(InputError, match="'gpt'.*sft"):
        c.pairs_of(said, "gpt")


def test_judged_pairs_have_the_win_rate_of_the_scores_themselves():
    generator = np.random.default_rng(0)
    mine, theirs = generator.integers(1, 5, 200), generator.integers(1, 5, 200)
    prompts = [f"p{i // 2}" for i in range(200)]
    pairs = [Pair(p, "ask", "ppo", Response(f"a{i}"), Response(f"b{i}")) for i, p in enumerate(prompts)]
    outcomes = np.where(mine == theirs, 0.5, mine > theirs)
    found = c.win_rate(c.judge_pairs(pairs, "gold", outcomes))
    want = win_rate(mine, theirs, prompts)
    assert (found["mean"], found["n"], found["ties"]) == (pytest.approx(want.rate.mean), 200, want.ties)
    assert found["non_tie_mean"] == pytest.approx(want.untied.mean)
    assert [found["low"], found["high"]] == pytest.approx([want.rate.low, want.rate.high], abs=0.02)
    assert (found["prompts"], found["labelers"]) == (100, 1)


def test_no_verdict_is_left_out_not_counted_as_a_tie():
    pairs = [Pair(f"p{i}", "ask", "ppo", Response("a"), Response("bcd")) for i in range(3)]
    found = c.judge_pairs(pairs, "chat", [1.0, None, 0.0])
    assert [(x.prompt_id, x.outcome, x.gap) for x in found] == [("p0", 1.0, -2), ("p2", 0.0, -2)]


def test_rankings_are_compared_by_pairs_with_their_mean_gap_in_characters():
    (found,) = c.from_rankings(
        [ranking("p", "ann", [1, 3, 2, 3], ["ppo", "ppo", "sft", "sft"], ["abcd", "ab", "a", "abc"])], "sft", "training"
    )  # fmt: skip
    assert (found.won, found.lost, found.pairs, found.judge) == (0.5, 0.25, 4, "training")
    assert found.gap == pytest.approx(3 - 2)


def test_the_table_is_by_judge_and_prompt_style():
    rows = [
        Comparison(j, j, f"p{i}", "ppo", 1.0 * (i % 2), 1.0 * (i % 2 == 0), 0, f"{i}")
        for i in range(4)
        for j in "xy"
    ]
    styles = {"p0": "gpt3", "p1": "instruct", "p2": "gpt3", "p3": "instruct"}
    table = c.win_table(rows, styles)
    assert {j: {s: t["ppo"]["mean"] for s, t in by.items()} for j, by in table.items()} == {
        j: {"gpt3": 0.0, "instruct": 1.0} for j in "xy"
    }
    assert c.win_table(rows, {})["x"]["all"]["ppo"]["mean"] == 0.5


def test_two_models_are_tested_on_the_prompts_they_share():
    rows = [Comparison("gold", "gold", f"p{i}", "ppo", 1.0, 0.0, 0, "a") for i in range(30)]
    rows += [
        Comparison("gold", "gold", f"p{i}", "base", float(i % 5 == 0), float(i % 5 > 0), 0, "b")
        for i in range(20)
    ]
    (found,) = c.between_models(rows, {})
    assert (found["first"], found["second"], found["n"]) == ("ppo", "base", 20)
    assert found["mean"] == pytest.approx(0.8) and found["permutation_p"] < 0.001
    same = [
        Comparison("gold", "gold", f"p{i}", m, i % 2, 1 - i % 2, 0, m) for i in range(10) for m in ("a", "b")
    ]
    assert c.between_models(same, {})[0]["permutation_p"] == 1.0


def test_two_models_are_compared_with_the_same_labeler_on_the_same_prompt():
    def row(labeler, prompt, model, won):
        return Comparison("people", labeler, prompt, model, won, 1 - won, 0, model)

    rows = [row("ann", f"p{i}", m, won) for i in range(6) for m, won in (("ppo", 1.0), ("base", 0.5))]
    rows += [row("bob", f"p{i}", m, won) for i in range(6) for m, won in (("ppo", 0.0), ("base", 0.25))]
    rows += [row("eve", f"p{i}", "ppo", 1.0) for i in range(6)]  # who did not see the other model
    (found,) = c.between_models(rows, {})
    assert (found["mean"], found["n"], found["prompts"]) == (0.125, 12, 6)
    # A draw may be of one labeler alone: prompts agree, people do not.
    assert (found["low"], found["high"]) == (-0.25, 0.5)


def test_agreement_within_a_pool_is_that_of_its_rankings():
    generator = np.random.default_rng(0)
    rankings = [
        ranking(f"p{i}", f"l{(i + k) % 4}", generator.integers(1, 4, 2).tolist(), ["ppo", "sft"])
        for i in range(60) for k in range(2)
    ]  # fmt: skip
    (found,) = c.agreement(c.from_rankings(rankings, "sft", "training"))
    want = pairwise_agreement([[r.ranks for r in rankings if r.prompt_id == f"p{i}"] for i in range(60)])
    assert (found["first"], found["second"], found["n"]) == ("training", "training", want.rate.n)
    assert found["mean"] == pytest.approx(want.rate.mean) and found["ties"] == want.tied
    table = np.full((4, 60), np.nan)
    for r in rankings:
        table[int(r.labeler[1]), int(r.prompt_id[1:])] = np.sign(r.ranks[1] - r.ranks[0])
    assert found["alpha"]["mean"] == pytest.approx(krippendorff_alpha(table, "ordinal"))


def test_two_judges_agree_on_what_both_saw_and_kappa_takes_chance_away():
    def row(judge, labeler, i, sign):
        return Comparison(judge, labeler, f"p{i}", "ppo", float(sign > 0), float(sign < 0), 0, f"item {i}")

    gold, rm = [1, 1, 1, -1, -1, 0], [1, 1, -1, -1, 0, 0]
    rows = [row("gold", "gold", i, s) for i, s in enumerate(gold)] + [
        row("rm", "rm", i, s) for i, s in enumerate(rm)
    ]
    (found,) = c.agreement([*rows, row("rm", "rm", 99, 1)])
    assert (found["mean"], found["n"], found["ties"]) == (0.75, 4, 2)
    # 4 of 6 alike; by chance (3*2 + 2*2 + 1*2) / 36
    assert found["kappa"] == pytest.approx((4 / 6 - 12 / 36) / (1 - 12 / 36))
    assert c.agreement(rows[:6]) == []


def test_outputs_of_the_same_text_tie_in_win_rates_and_are_no_agreement():
    gold, rm = [1.0, 0.0, 1.0, 0.5], [1.0, 0.0, 0.0, 0.5]
    pairs = [Pair(f"p{i}", "ask", "ppo", Response(f"a{i}"), Response(f"b{i}")) for i in range(3)]
    pairs.append(Pair("p3", "ask", "ppo", Response("alike"), Response("alike")))
    judged = [x for name, said in (("gold", gold), ("rm", rm)) for x in c.judge_pairs(pairs, name, said)]
    assert c.win_rate(judged[:4])["ties"] == 1
    (found,) = c.agreement(judged)
    assert found == c.agreement([x for x in judged if x.prompt_id != "p3"])[0] and found["ties"] == 0
    alike = [
        ranking("p", who, [1, 1, 2], ["ppo", "sft", "base"], ["alike", "alike", "other"]) for who in "ab"
    ]
    ranked = c.from_rankings(alike, "sft", "people")
    assert [(x.model, x.same) for x in ranked] == [("base", False), ("ppo", True)] * 2
    assert c.agreement(ranked)[0]["n"] == 1 and c.agreement([x for x in ranked if x.same]) == []


def test_people_who_differ_widen_the_intervals_of_win_rates_grades_and_flags():
    people, prompts = [f"l{k}" for k in range(4)], [f"p{i}" for i in range(40)]
    ranked = [
        ranking(p, who, [1, 2] if who < "l2" else [2, 1], ["ppo", "sft"]) for p in prompts for who in people
    ]
    rated = [
        Rating(p, "ask", "text", "ppo", who, 7 if who < "l2" else 1, {"sexual": who < "l2"})
        for p in prompts
        for who in people
    ]
    rate = c.win_rate(c.from_rankings(ranked, "sft", "people"))
    for found in (rate, rate["equal_length"], flag_rates(rated)["ppo"]["sexual"]):
        assert found["low"] < 0.2 and found["high"] > 0.8  # each prompt alone says one half
    assert grades(rated)["ppo"]["low"] < 2 and grades(rated)["ppo"]["high"] > 6


def test_grades_and_flags_of_people_count_what_was_asked():
    def rating(prompt, labeler, likert, **flags):
        return Rating(prompt, "ask", "text", "ppo", labeler, likert, flags)

    rows = [
        rating("p1", "ann", 7, hallucination=False),
        rating("p1", "bob", 5),
        rating("p2", "ann", 3, hallucination=True),
    ]
    assert grades(rows)["ppo"]["mean"] == 5.0 and grades(rows)["ppo"]["n"] == 3
    assert flag_rates(rows)["ppo"].keys() == {"hallucination"}
    assert (
        flag_rates(rows)["ppo"]["hallucination"]["mean"],
        flag_rates(rows)["ppo"]["hallucination"]["n"],
    ) == (0.5, 2)
