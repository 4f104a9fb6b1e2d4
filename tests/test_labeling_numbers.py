"""Screening, agreement and the researchers' other numbers, by hand and against the krippendorff package."""

import json
import time
import warnings

import krippendorff
import numpy as np
import pytest
from labeling_site import Person, filled, make_store, rank_task, serving, slots

from instruct_jax.algorithms.statistics import krippendorff_alpha, krippendorff_interval
from instruct_jax.data.cleaning.fewshot import expand_few_shot
from instruct_jax.errors import InputError
from instruct_jax.labeling import agreement, assignment, auth, screening, tasks, work
from instruct_jax.labeling.agreement import Numbers
from instruct_jax.records import Prompt, Ranking, Rating, write_jsonl

NAN = float("nan")


def random_tables():
    """150 tables of 2-6 labelers, up to 40 items and 2-9 values, with 0 to 60 % of the values missing."""
    generator = np.random.default_rng(0)
    for _ in range(150):
        labelers, items, values = generator.integers([2, 2, 2], [7, 41, 10])
        table = generator.integers(1, values + 1, (labelers, items)).astype(float)
        table[generator.random(table.shape) < generator.choice([0, 0.3, 0.6])] = NAN
        if (np.isfinite(table).sum(axis=0) >= 2).any() and len(np.unique(table[np.isfinite(table)])) > 1:
            yield table


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_alpha_equals_the_krippendorff_packages_on_random_tables_with_missing_values(level):
    compared = 0
    for table in random_tables():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = krippendorff.alpha(reliability_data=table, level_of_measurement=level)
        ours = krippendorff_alpha(table, level)
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)
        interval = krippendorff_interval(table, level, np.arange(table.shape[1]) // 3, samples=20)
        np.testing.assert_allclose(interval.mean, ours, rtol=1e-12, atol=1e-12)
        compared += np.isfinite(ours)
    assert compared >= 100


def test_alphas_interval_is_that_of_a_bootstrap_written_out():
    generator = np.random.default_rng(1)
    truth = generator.integers(1, 6, 60)
    table = np.where(generator.random((3, 60)) < 0.6, truth, generator.integers(1, 6, (3, 60))).astype(float)
    clusters = np.arange(60) // 4
    alphas = []
    for _ in range(2000):
        drawn = np.concatenate([np.flatnonzero(clusters == c) for c in generator.integers(0, 15, 15)])
        alphas.append(krippendorff_alpha(table[:, drawn], "ordinal"))
    interval = krippendorff_interval(table, "ordinal", clusters, samples=2000)
    np.testing.assert_allclose([interval.low, interval.high], np.percentile(alphas, [2.5, 97.5]), atol=0.02)
    assert interval.low < interval.mean < interval.high and interval.n == 60


def label(store, person, task, ranks, likert, flags=None, seconds=10.0, key=None):
    """Submits what a person says of the outputs in their stored order."""
    with store.read() as connection:
        order = work.open_task(connection, person, task.id)["order"]
    shown = [[column[k] for k in order] for column in (ranks, likert, flags or [{}] * len(ranks))]
    empty = {"outputs": [{}] * len(ranks)}
    assert not work.submit(store, person, task.id, key or f"key {task.id}", 1, filled(empty, *shown), seconds)


@pytest.fixture
def two(tmp_path):
    """(store, tasks): ann and bob have labeled three tasks, and ann a fourth."""
    work_ = [rank_task(f"p{i}") for i in range(4)]
    store, _ = make_store(tmp_path, work_, ["ann", "bob"], overlap=1.0)
    label(store, "ann", work_[0], [1, 2, 3], [6, 5, 4], [{"violent": True}, {}, {}], seconds=5.0)
    label(store, "bob", work_[0], [1, 2, 3], [5, 4, 3], [{"violent": True}, {}, {}])
    met = [{"satisfies_constraint": True}, {"satisfies_constraint": False, "opinion": True}, {}]
    label(store, "ann", work_[1], [1, 2, 2], [6, 5, 5], met, seconds=9.0)
    label(store, "bob", work_[1], [3, 2, 1], [2, 5, 6], seconds=20.0)
    label(store, "ann", work_[2], [1, 2, 3], [7, 6, 5], seconds=50.0)
    label(store, "bob", work_[2], [2, 1, 3], [7, 6, 5], seconds=30.0)
    label(store, "ann", work_[3], [1, 2, 3], [7, 6, 5], seconds=1.0)
    yield store, work_
    store.close()


def test_the_researchers_numbers_by_hand(two):
    store, _ = two
    found = Numbers(store, expand_few_shot).get()
    rows = {row["name"]: row for row in found["agreement"]["rows"]}
    assert found["agreement"]["tasks"] == 3
    # Pairs that both decided: 3 alike of 3; 0 of 2 (one tied); 2 of 3.
    assert rows["Ranked pairs"]["mean"] == pytest.approx(5 / 8) and rows["Ranked pairs"]["n"] == 8
    assert "1 tied" in rows["Ranked pairs"]["detail"]
    ranks = [[1, 2, 3, 1, 2, 2, 1, 2, 3], [1, 2, 3, 3, 2, 1, 2, 1, 3]]
    likert = [[6, 5, 4, 6, 5, 5, 7, 6, 5], [5, 4, 3, 2, 5, 6, 7, 6, 5]]
    for name, table in (("Ranks", ranks), ("Quality", likert)):
        expected = krippendorff.alpha(reliability_data=np.array(table, float), level_of_measurement="ordinal")
        assert rows[name]["mean"] == pytest.approx(expected) and rows[name]["n"] == 9
    assert rows["Flag violent"]["mean"] == pytest.approx(1.0) and "Flag sexual" not in rows
    # ann's quality minus bob's: 1 1 1, 4 0 -1, 0 0 0
    assert found["bias"]["ann"]["mean"] == pytest.approx(6 / 9) and found["bias"]["ann"]["n"] == 9
    assert found["bias"]["bob"]["mean"] == pytest.approx(-6 / 9)
    with store.read() as connection:
        ann, bob = agreement.people(connection, found["bias"])
        day = agreement.throughput(connection, store.now())
        later = agreement.throughput(connection, store.now() + 3 * 86_400)
        much_later = agreement.throughput(connection, store.now() + 30 * 86_400)
    assert (ann["submissions"], ann["left"], ann["median_seconds"], ann["skips"]) == (4, 0, 7.0, 0)
    assert (bob["submissions"], bob["left"], bob["median_seconds"]) == (3, 1, 20.0)
    assert day["totals"] == [7] and [row["total"] for row in day["rows"]] == [4, 3]
    assert later["totals"] == [7, 0, 0, 0] and len(later["days"]) == 4
    assert much_later["totals"] == [0] and much_later["total"] == 7


def test_the_task_whose_rankings_are_furthest_apart_comes_first(two):
    store, work_ = two
    found = Numbers(store, expand_few_shot).get()
    assert [task["prompt_id"] for task in found["disagreements"]] == ["p1", "p2"] and found["differing"] == 2
    # p1: two pairs the other way round and one that one of them ties; p2: one pair the other way round.
    assert [task["distance"] for task in found["disagreements"]] == pytest.approx([2.5 / 3, 1 / 3])
    first = found["disagreements"][0]["outputs"][0]
    assert (first["text"], first["ranks"], first["likert"]) == ("one", [1, 3], [6, 2])


def test_to_meet_a_constraint_is_no_fault_and_to_miss_it_is_one(two):
    outputs = Numbers(two[0], expand_few_shot).get()["disagreements"][0]["outputs"]
    of_ann = [[(remark["words"], remark["fault"]) for remark in output["remarks"][0]] for output in outputs]
    assert of_ann == [
        [("meets the constraint", False)],
        [("opinion", True), ("does not meet the constraint", True)],
        [],
    ]


def test_the_numbers_follow_what_is_submitted_and_undone(two):
    store, work_ = two
    numbers = Numbers(store, expand_few_shot)
    before = numbers.get()
    assert numbers.get() is before
    label(store, "bob", work_[3], [3, 2, 1], [1, 2, 3])
    assert numbers.get()["agreement"]["tasks"] == 4
    work.undo(store, "bob")
    assert numbers.get()["agreement"] == before["agreement"]


def test_pools_are_kept_apart_and_nothing_labeled_is_no_error(tmp_path):
    task = rank_task("p")
    store, _ = make_store(tmp_path, [task], ["ann", "bob"], overlap=1.0)
    assert Numbers(store, expand_few_shot).get()["agreement"] == {"tasks": 0, "rows": []}
    for person in ("eve", "joe"):
        auth.add_person(store, person, "labeler", "heldout")
    for person, ranks in (("ann", [1, 2, 3]), ("bob", [1, 2, 3]), ("eve", [1, 2, 3]), ("joe", [3, 2, 1])):
        label(store, person, task, ranks, [4, 4, 4])
    rows = Numbers(store, expand_few_shot).get()["agreement"]["rows"]
    assert [(row["detail"].split(":")[0], row["mean"]) for row in rows if row["name"] == "Ranked pairs"] == [
        ("training labelers", 1.0),
        ("held-out labelers", 0.0),
    ]


def test_ten_thousand_submissions_are_summed_up_in_seconds_and_shown_again_at_once(tmp_path):
    store, _ = make_store(tmp_path, [], [f"person-{i}" for i in range(5)], overlap=1.0)
    tasks.load(store, [rank_task(f"p{i}", ("a", "b", "c", "d")) for i in range(5000)])
    generator = np.random.default_rng(0)
    flags = dict.fromkeys(tasks.SENSITIVE, False)
    with store.write() as connection:
        pairs = connection.execute("SELECT person, task FROM slots").fetchall()
        rows = []
        for number, (person, task) in enumerate(pairs):
            outputs = [
                {"likert": int(v), "flags": flags, "notes": "", "seconds": 1.0}
                for v in generator.integers(1, 8, 4)
            ]
            answer = json.dumps({"outputs": outputs, "ranks": generator.integers(1, 5, 4).tolist()})
            rows.append((person, task, str(number), answer))
        connection.executemany(
            "INSERT INTO outcomes (person, task, key, answer, seconds, at) VALUES (?, ?, ?, ?, 1, 0)", rows
        )
    assert len(pairs) == 10_000
    auth.add_person(store, "boss", "researcher")
    numbers = Numbers(store, expand_few_shot)
    start = time.process_time()
    numbers.get()
    first = time.process_time() - start
    start = time.process_time()
    numbers.get()
    assert first < 5 and time.process_time() - start < 0.1


SENSITIVE, FINE = {"violent": True, "opinion": True}, {"violent": False, "opinion": True}


def screening_files(folder):
    """Two prompts that a researcher ranked and rated, and one to answer."""
    rankings = [Ranking(f"s{i}", "ask", "boss", ["a", "b", "c"], [1, 2, 3], ["m"] * 3) for i in range(2)]
    ratings = [
        Rating(f"s{i}", "ask", text, "m", "boss", 4, SENSITIVE if text == "c" else FINE)
        for i in range(2)
        for text in "abc"
    ]
    write_jsonl(folder / "rankings.jsonl", rankings)
    write_jsonl(folder / "ratings.jsonl", ratings)
    write_jsonl(folder / "prompts.jsonl", [Prompt("sensitive", "How do I ...?")])
    return tasks.read_screening([folder / f"{name}.jsonl" for name in ("rankings", "ratings", "prompts")])


def answer_screening(store, person, tests, ranks, sensitive):
    for task in tests[:2]:
        label(store, person, task, ranks, [4] * 3, [{"sexual": yes} for yes in sensitive])
    work.submit(store, person, tests[2].id, "key of it", 1, {"response": "Please do not."}, 1.0)


@pytest.mark.parametrize(
    "ranks, sensitive, grade, passed",
    [
        ([1, 2, 3], [False, False, True], 6, True),
        ([1, 2, 2], [False, False, True], 7, True),  # the tied pair is not counted: 2 of 2 each
        ([2, 1, 3], [False, False, True], 7, False),  # 2 of 3 pairs
        ([1, 2, 3], [True, False, True], 7, False),  # 2 of 3 outputs
        ([1, 2, 3], [False, False, True], 5, False),
    ],
)
def test_a_labeler_passes_with_the_papers_thresholds_and_then_gets_work(
    tmp_path, ranks, sensitive, grade, passed
):
    tests = screening_files(tmp_path)
    store, _ = make_store(tmp_path, [*tests, rank_task("p")], ["new"])
    assert set(slots(store)) == {"s0", "s1", "sensitive"}
    answer_screening(store, "new", tests, ranks, sensitive)
    with store.read() as connection:
        assert screening.result(connection, "new")["passed"] is None
        assert screening.result(connection, "new")["demonstrations"]["ungraded"] == 1
        (waiting,) = screening.to_grade(connection)
        assert work.next_task(connection, "new") is None
    screening.grade(store, waiting["submission"], grade)
    with store.read() as connection:
        assert screening.result(connection, "new")["passed"] is passed
        assert (work.next_task(connection, "new") is not None) == passed
    assert Numbers(store, expand_few_shot).get()["agreement"]["tasks"] == 0
    if not passed:
        screening.waive(store, "new")
        assert "p" in slots(store)
    with pytest.raises(work.Refused):
        work.undo(store, "new")


def test_screening_comes_first_by_http_and_grades_come_from_researchers_without_a_name(tmp_path):
    tests = screening_files(tmp_path)
    store, tokens = make_store(tmp_path, [rank_task("p"), *tests], ["new"])
    tokens["boss"] = auth.add_person(store, "boss", "researcher")
    with serving(store) as url:
        new, boss = (Person(url, tokens[name]) for name in ("new", "boss"))
        while task := new.task():
            assert new.submit(task[0], filled(task[1]["draft"])).status_code == 200
        html = boss.get("/researcher/screening").text
        assert "How do I ...?" in html and "an answer" in html
        with store.read() as connection:
            number = screening.to_grade(connection)[0]["submission"]
        assert boss.send(f"/researcher/screening/{number}/grade", grade="8").status_code == 422
        assert boss.send(f"/researcher/screening/{number + 100}/grade", grade="7").status_code == 422
        assert boss.send(f"/researcher/screening/{number}/grade", grade="7").status_code == 303
        assert new.get("/task").headers["location"] == "/"
        assert boss.send("/researcher/people/new/waive").status_code == 303
        assert new.task()


def test_heldout_labelers_are_not_screened_and_bad_screening_files_are_named(tmp_path):
    tests = screening_files(tmp_path)
    store, _ = make_store(tmp_path, [*tests, rank_task("p")], [])
    auth.add_person(store, "out", "labeler", "heldout")
    assert slots(store) == {"p": {"out"}}
    write_jsonl(tmp_path / "stray.jsonl", [Rating("s9", "ask", "a", "m", "boss", 4)])
    with pytest.raises(InputError, match="s9: has ratings and no ranking"):
        tasks.read_screening([tmp_path / "rankings.jsonl", tmp_path / "stray.jsonl"])
    write_jsonl(tmp_path / "stray.jsonl", [Rating("s1", "ask", "z", "m", "boss", 4)])
    with pytest.raises(InputError, match="s1: a rating is of a completion"):
        tasks.read_screening([tmp_path / "rankings.jsonl", tmp_path / "stray.jsonl"])
    write_jsonl(tmp_path / "more.jsonl", [Ranking("s1", "ask", "joe", ["b", "a"], [1, 2], ["m"] * 2)])
    with pytest.raises(InputError, match="s1: its rankings must hold the same completions"):
        tasks.read_screening([tmp_path / "rankings.jsonl", tmp_path / "more.jsonl"])


def test_a_distance_of_rankings_is_symmetric_and_between_0_and_1():
    assert agreement.distance([1, 2, 3], [1, 2, 3]) == 0 and agreement.distance([1, 2, 3], [3, 2, 1]) == 1
    assert agreement.distance([1, 1], [1, 2]) == agreement.distance([1, 2], [1, 1]) == 0.5
    assert agreement.distance([1], [1]) == 0
    assert assignment.POOLS == ("training", "heldout")
