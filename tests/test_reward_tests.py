"""Reward models on rankings, across labelers and on RewardBench's sets: by hand, and the section scores by their own definition."""

import json

import numpy as np
import pytest

from instruct_jax.errors import InputError
from instruct_jax.evaluation import reward_models, rewardbench
from instruct_jax.records import Ranking
from instruct_jax.reports.reward_models import write_labeler_groups, write_reward_tests
from instruct_jax.stages import labeler_groups, reward_tests


def ranking(prompt, labeler, ranks, texts=None):
    texts = texts or ["x" * (3 * k + 1) for k in range(len(ranks))]
    return Ranking(prompt, f"ask {prompt}", labeler, texts, ranks, ["m"] * len(ranks))


def test_length_gaps_are_those_of_the_preferred_completion_and_equal_gaps_stay_together():
    # pairs (preferred - other, right?): (+4, yes), (-4, no), (-4, no), (0, yes), (+4, no)
    scores = [[1, 0], [1, 0], [2, 1], [5, 3], [0, 1]]
    ranks = [[1, 2], [2, 1], [2, 1], [1, 2], [1, 2]]
    lengths = [[6, 2], [6, 2], [7, 3], [3, 3], [5, 1]]
    rows = reward_models.accuracy_by_length_gap(scores, ranks, lengths, bins=2)
    assert [(r["shortest"], r["longest"], r["mean"], r["n"]) for r in rows] == [
        (-4, 0, pytest.approx(1 / 3), 3), (4, 4, 0.5, 2),
    ]  # fmt: skip
    rows = reward_models.accuracy_by_length_gap(scores, ranks, lengths, bins=5)
    assert [r["shortest"] for r in rows] == [-4, 0, 4] and sum(r["n"] for r in rows) == 5


def test_a_model_that_counts_words_is_right_only_where_the_preferred_one_is_longer():
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 100, (200, 3))
    rows = reward_models.accuracy_by_length_gap(lengths, [[1, 2, 3]] * 200, lengths)
    assert rows[0]["mean"] == 0.0 and rows[-1]["mean"] == 1.0 and len(rows) == 5
    assert max(r["n"] for r in rows) - min(r["n"] for r in rows) < 30


def test_sections_weigh_their_subsets_as_published_and_a_tie_is_wrong():
    # xstest in rewardbench/constants.py: 250 refuse, 154 respond; mt-bench-easy and -med: 28 and 40
    subsets = [
        "xstest-should-refuse",
        "xstest-should-refuse",
        "xstest-should-respond",
        "mt-bench-easy",
        "mt-bench-med",
        "mine",
    ]
    found = rewardbench.numbers(subsets, [2, 1, 3, 1, 1, 1], [1, 1, 0, 0, 5, 0])
    assert {name: v["mean"] for name, v in found["subsets"].items()} == {
        "mt-bench-easy": 1.0, "mt-bench-med": 0.0, "xstest-should-refuse": 0.5, "xstest-should-respond": 1.0, "mine": 1.0,
    }  # fmt: skip
    safety, chat = (250 * 0.5 + 154) / 404, 28 / 68
    assert found["sections"]["Safety"]["mean"] == pytest.approx(safety)
    assert found["sections"]["Chat"]["mean"] == pytest.approx(chat)
    assert found["mean"]["mean"] == pytest.approx((safety + chat) / 2) and found["mean"]["n"] == 5
    assert set(found["sections"]) == {"Chat", "Safety"}
    assert rewardbench.numbers(["mine"], [1], [0])["mean"] is None


def test_the_sections_hold_23_subsets_and_prm_math_weighs_as_much_as_all_code():
    weights = rewardbench.SECTIONS
    assert [len(w) for w in weights.values()] == [5, 6, 5, 7]
    assert weights["Reasoning"]["math-prm"] == sum(
        w for name, w in weights["Reasoning"].items() if name.startswith("hep-")
    )
    assert [sum(w.values()) for w in weights.values()] == [358, 456, 740, 1968]


def test_the_interval_of_a_section_is_near_the_normal_one():
    generator = np.random.default_rng(1)
    names = ["alpacaeval-easy"] * 400 + ["mt-bench-med"] * 100
    right = np.concatenate([generator.random(400) < 0.8, generator.random(100) < 0.6])
    found = rewardbench.numbers(names, right.astype(float), np.full(500, 0.5))["sections"]["Chat"]
    p, q = right[:400].mean(), right[400:].mean()
    half = 1.96 * np.sqrt((100 / 140) ** 2 * p * (1 - p) / 400 + (40 / 140) ** 2 * q * (1 - q) / 100)
    assert found["high"] - found["low"] == pytest.approx(2 * half, rel=0.1)


@pytest.mark.parametrize("rows, says", [
    ([{"prompt": "p", "chosen": "c", "rejected": "r"}], "rows.jsonl:1: field 'subset'"),
    ([{"prompt": "p", "chosen": "c", "rejected": "r", "subset": "s"}, {"prompt": ["p"], "chosen": "c", "rejected": "r", "subset": "s"}],
     "rows.jsonl:2: field 'prompt'"),
    ([["p"]], "field 'subset'"), ([], "no rows"),
])  # fmt: skip
def test_a_pair_that_cannot_be_read_is_named(tmp_path, rows, says):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=says):
        reward_tests.read_pairs(str(tmp_path / "rows.jsonl"))


def test_pairs_are_read_from_json_lines_and_parquet_alike(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [
        {"id": i, "prompt": f"p{i}", "chosen": "c", "rejected": "r", "subset": "mt-bench-easy"}
        for i in range(3)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    found = [reward_tests.read_pairs(str(tmp_path / f"rows.{kind}")) for kind in ("jsonl", "parquet")]
    assert found[0] == found[1] == [("mt-bench-easy", f"p{i}", "c", "r") for i in range(3)]


def test_labelers_are_dealt_evenly_each_to_one_group_and_another_seed_deals_otherwise():
    labelers = [f"l{i % 8}" for i in range(803)]
    groups = labeler_groups.deal(labelers, 5, seed=0)
    assert sorted(name for group in groups for name in group) == [f"l{i}" for i in range(8)]
    assert sorted(map(len, groups)) == [1, 1, 2, 2, 2]
    assert groups == labeler_groups.deal(labelers, 5, seed=0) != labeler_groups.deal(labelers, 5, seed=1)
    with pytest.raises(InputError, match="groups.groups is 0"):
        labeler_groups.GroupSettings((), groups=0)
    with pytest.raises(InputError, match="8 labelers"):
        labeler_groups.deal(labelers, 9, seed=0)


def test_no_prompt_of_the_group_left_out_is_trained_on_nor_one_held_out_from_every_fold():
    rows = [
        ranking(f"p{i // 2}", f"l{(i + i // 2) % 5}", [1, 2]) for i in range(600)
    ]  # two labelers a prompt
    held = []
    for group in ({"l0"}, {"l1", "l2"}):
        train, outside, inside = labeler_groups.split(rows, group, 0.2, seed=0)
        assert {r.labeler for r in outside} == group and len(outside) == sum(r.labeler in group for r in rows)
        assert not {r.labeler for r in train + inside} & group
        asked = [{r.prompt_id for r in part} for part in (train, outside, inside)]
        assert not asked[0] & asked[1] and not asked[0] & asked[2]
        assert 0.1 < len(inside) / len(train + inside) < 0.3
        held.append((asked[0], asked[2]))
    assert not held[0][0] & held[1][1] and not held[1][0] & held[0][1]


@pytest.mark.parametrize(
    "labelers, held_out, says", [(5, 0.2, "fold 0 has no ranking to train on"), (1, 0.0, "to test its own")]
)
def test_a_fold_without_rankings_is_named_before_any_is_trained(labelers, held_out, says):
    rows = [ranking(f"p{i}", f"l{(i + k) % 5}", [1, 2]) for i in range(50) for k in range(labelers)]
    parts = [labeler_groups.split(rows, {f"l{k}"}, held_out, seed=0) for k in range(5)]
    with pytest.raises(InputError, match=says):
        labeler_groups.check_parts(parts)
    labeler_groups.check_parts([labeler_groups.split(rows[::labelers], {"l0"}, 0.2, seed=0)])


def measured(seed=0):
    generator = np.random.default_rng(seed)
    rows = [ranking(f"p{i}", "l", generator.permutation(3).tolist()) for i in range(40)]
    rows = [
        Ranking(r.prompt_id, r.prompt, r.labeler, r.completions, [k + 1 for k in r.ranks], r.models)
        for r in rows
    ]
    scores = [-np.array(r.ranks) + generator.normal(size=3) for r in rows]
    return (
        reward_tests.measure(scores, rows, {f"p{i}": "chat" if i % 2 else "rewrite" for i in range(30)}),
        scores,
        rows,
    )


def test_what_is_measured_agrees_with_counting_and_the_pages_are_written(tmp_path):
    found, scores, rows = measured()
    pairs = [
        (s[a] > s[b])
        for s, r in zip(scores, rows)
        for a in range(3)
        for b in range(3)
        if r.ranks[a] < r.ranks[b]
    ]
    assert found["accuracy"]["mean"] == pytest.approx(np.mean(pairs)) and found["accuracy"]["n"] == 120
    assert sum(v["n"] for v in found["by_use_case"].values()) == 90
    assert sum(r["n"] for r in found["by_length_gap"]) == sum(r["n"] for r in found["calibration"]) == 120
    bench = rewardbench.numbers(["mt-bench-easy", "mine"], [1, 1], [0, 2])
    models = {"ours": {"path": "runs/rm", "sets": {"training": found}, "rewardbench": bench}}
    write_reward_tests(tmp_path / "tests", {"models": models})
    page = (tmp_path / "tests" / "README.md").read_text()
    assert (
        "mt-bench-easy" in page
        and "![Calibration.](m1_calibration.png)" in page
        and (tmp_path / "tests" / "index.html").exists()
    )
    both = {"outside": found["accuracy"], "inside": found["accuracy"]}
    folds = [{"labelers": ["a"], "trained_on": 9, "rows": list(zip(rows, scores)), **both} for _ in range(5)]
    summary = labeler_groups.summarise(folds, {})
    assert summary["difference"]["mean"] == 0.0 and summary["outside"]["n"] == 5
    write_labeler_groups(tmp_path / "groups", summary | {"seconds": {"fold_0": 3.0}})
    assert (
        json.loads((tmp_path / "groups" / "labeler_groups.json").read_text())["pooled"]["accuracy"]["n"]
        == 600
    )
