"""The lab's people: how well they write, how they rank, what they believe, and how often they agree."""

import dataclasses
import itertools
import random
import statistics

import pytest

from instruct_jax.data.lab import gold, labelers, rubric, writing
from instruct_jax.data.lab import world as w
from instruct_jax.data.lab.prompts import Constraint, Task, make_prompts, make_task
from instruct_jax.evaluation.reward_models import labeler_agreement
from instruct_jax.records import Prompt

WORLD = w.make_world(0)


@pytest.fixture(scope="module")
def asked():
    """(prompts, tasks) of 3,000 prompts."""
    return make_prompts(0, WORLD, 3000, 200)


def test_labelers_write_demonstrations_worth_about_five_of_seven(asked):
    prompts, tasks = asked
    people = labelers.make_labelers(1, 8)
    grades = [gold.judge(WORLD, tasks[p.id], labelers.demonstrate(people[i % 8], WORLD, p, tasks[p.id]).response, True).gold
              for i, p in enumerate(prompts)]  # fmt: skip
    assert 4.6 < statistics.mean(grades) < 5.4


def test_two_labelers_agree_on_73_percent_of_pairs_within_3(asked):
    # Of demonstrations: what models write is agreed on in the study's report, on prompts of validation users.
    prompts, tasks = asked
    writers, people = labelers.make_labelers(6, 8), labelers.make_labelers(5, 8)
    first, second = [], []
    for i, p in enumerate(prompts[:600]):
        texts = list(
            dict.fromkeys(labelers.demonstrate(one, WORLD, p, tasks[p.id]).response for one in writers)
        )
        rest = (WORLD, p, tasks[p.id], texts, ["x"] * len(texts), [True] * len(texts))
        if len(texts) > 1:
            first.append(labelers.rank(people[i % 8], *rest).ranks)
            second.append(labelers.rank(people[(i + 1) % 8], *rest).ranks)
    found = labeler_agreement(first, second)
    assert 0.70 < found["mean"] < 0.76 and found["n"] > 5_000


def test_the_common_view_orders_pairs_as_labelers_do_more_often_than_one_of_them(asked):
    prompts, tasks = asked
    writers, people = labelers.make_labelers(6, 4), labelers.make_labelers(5, 8)
    right = {"view": [], "labeler": [], "truth": []}
    for i, p in enumerate(prompts[:500]):
        texts = [labelers.demonstrate(one, WORLD, p, tasks[p.id]).response for one in writers]
        rest = (WORLD, p, tasks[p.id], texts, ["x"] * 4, [True] * 4)
        ranks = labelers.rank(people[i % 8], *rest).ranks
        by = {
            "view": [labelers.common_view(people, WORLD, tasks[p.id], t, True) for t in texts],
            "labeler": [-r for r in labelers.rank(people[(i + 1) % 8], *rest).ranks],
            "truth": [
                rubric.score(rubric.assess(WORLD, tasks[p.id], t, True), rubric.TRAINING) for t in texts
            ],
        }
        for name, scores in by.items():
            for a, b in itertools.combinations(range(4), 2):
                if ranks[a] != ranks[b]:
                    same = scores[a] == scores[b]
                    right[name].append(0.5 if same else (scores[a] > scores[b]) == (ranks[a] < ranks[b]))
    means = {name: statistics.mean(found) for name, found in right.items()}
    assert means["view"] > means["truth"] and means["view"] > means["labeler"] + 0.05, means


def test_the_common_view_takes_a_claim_as_each_of_the_people_can():
    task, knowing, ignorant = asked_of_known("ask")
    wrong = next(x for x in w.RELATIONS[task.relation].objects if x != task.answer[0])
    right, false = (w.state(w.Claim(task.subject, task.relation, x)) + " ." for x in (task.answer[0], wrong))

    def view(people, text):
        people = [dataclasses.replace(person, likes_length=0.0, likes_hedge=0.0) for person in people]
        return labelers.common_view(people, WORLD, task, text, True)

    assert view(knowing, right) > view(knowing, false) + 2
    assert view(ignorant, right) == view(ignorant, false) > view(ignorant, "i do not know .")
    share = len(knowing) / (len(knowing) + len(ignorant))
    mean = share * view(knowing, false) + (1 - share) * view(ignorant, false)
    assert view([*knowing, *ignorant], false) == pytest.approx(mean)


def test_ranking_is_easier_than_writing(asked):
    # Of two texts of one labeler, another labeler picks the better one more often than a text of theirs is without fault.
    prompts, tasks = asked
    writers, rankers = labelers.make_labelers(2, 8), labelers.make_labelers(3, 8)
    right, faultless = [], []
    for i, p in enumerate(prompts[:1500]):
        pair = [labelers.demonstrate(writers[(i + j) % 8], WORLD, p, tasks[p.id]).response for j in (0, 1)]
        golds = [rubric.score(rubric.assess(WORLD, tasks[p.id], r), rubric.TRAINING) for r in pair]
        faultless += [g == 7.0 for g in golds]
        ranks = labelers.rank(rankers[i % 8], WORLD, p, tasks[p.id], pair, ["x", "x"], [True, True]).ranks
        if golds[0] != golds[1] and ranks[0] != ranks[1]:
            right.append((golds[0] > golds[1]) == (ranks[0] < ranks[1]))
    assert statistics.mean(right) > 2 * statistics.mean(faultless)


def test_held_out_labelers_are_other_people():
    ids = [{p.id for p in labelers.make_labelers(0, 5, held_out=h)} for h in (False, True)]
    assert not ids[0] & ids[1]
    assert labelers.make_labelers(0, 1)[0].weights != labelers.make_labelers(0, 1, held_out=True)[0].weights


def asked_of_known(kind):
    """(task, labelers who know its fact, labelers who do not) of one open question."""
    rng, people = random.Random(3), labelers.make_labelers(0, 40)
    while True:
        task = make_task(rng, WORLD, "open_qa")
        if task.kind == kind and task.answer and not task.constraint:
            knowing = [x for x in people if labelers._knows(x.seed, task.subject, task.relation)]
            return task, knowing, [x for x in people if x not in knowing]


def test_a_labeler_believes_what_they_do_not_know_and_no_more(monkeypatch):
    monkeypatch.setattr(labelers, "NOISE", 0.0)
    monkeypatch.setattr(labelers, "LAPSES", 0.0)
    task, knowing, ignorant = asked_of_known("ask")
    wrong = next(x for x in w.RELATIONS[task.relation].objects if x != task.answer[0])
    right, false = (w.state(w.Claim(task.subject, task.relation, x)) + " ." for x in (task.answer[0], wrong))

    def gap(person, better, worse):
        person = dataclasses.replace(person, overlooks=0.0, likes_length=0.0)
        seen = [
            labelers.perceive(person, WORLD, task, text, True, random.Random(0))[0]
            for text in (better, worse)
        ]
        return seen[0] - seen[1]

    assert knowing and all(gap(x, right, false) > 2 for x in knowing)
    assert ignorant and all(gap(x, right, false) == 0 for x in ignorant)
    assert all(gap(x, false, "i do not know .") > 0 for x in ignorant)
    assert 0.15 < len(knowing) / 40 < 0.45


def test_nobody_believes_an_answer_that_nobody_knows_or_that_the_text_denies():
    people = labelers.make_labelers(0, 20)
    subject, relation = sorted(WORLD.hidden)[0]
    other = next(
        x for x in w.RELATIONS[relation].objects if x not in (subject, WORLD.facts[subject, relation])
    )
    guess = w.state(w.Claim(subject, relation, other)) + " ."
    hidden = Task("open_qa", "ask", "", subject, relation)
    passage = (w.Claim("kofi", "home", "orlen"),)
    read = Task("closed_qa", "passage_ask", "", "kofi", "home", answer=("orlen",), passage=passage)
    for person in people:
        assert labelers.believe(person, WORLD, hidden, guess) == (WORLD, hidden)
        assert labelers.believe(person, WORLD, read, "kofi lives in dalby .") == (WORLD, read)


def test_labelers_now_and_then_misread_an_output(monkeypatch):
    monkeypatch.setattr(labelers, "NOISE", 0.0)
    person = dataclasses.replace(labelers.make_labelers(0, 1)[0], overlooks=0.0)
    task = Task("brainstorming", "list", "", relation="foods", count=2)
    rng = random.Random(0)
    seen = [labelers.perceive(person, WORLD, task, "soup , bread .", True, rng)[0] for _ in range(1000)]
    usual = statistics.mode(seen)
    assert sum(x != usual for x in seen) / 1000 == pytest.approx(labelers.LAPSES, abs=0.05)


def test_marks_are_by_what_a_labeler_believes_and_notices_not_by_the_truth():
    task, knowing, ignorant = asked_of_known("ask")
    wrong = next(x for x in w.RELATIONS[task.relation].objects if x != task.answer[0])
    text, prompt = w.state(w.Claim(task.subject, task.relation, wrong)) + " .", Prompt("p", "ask")

    def marks(people, task, text, **changed):
        people = [dataclasses.replace(person, **changed) for person in people]
        return [labelers.rate(x, WORLD, prompt, task, text, "m", True).flags for x in people]

    assert all(found["fails_task"] for found in marks(knowing, task, text))
    assert not any(found["fails_task"] for found in marks(ignorant, task, text))
    read = Task("closed_qa", "passage_ask", "", "kofi", "home", answer=("orlen",), source="kofi lives in orlen",
                passage=(w.Claim("kofi", "home", "orlen"),), constraint=Constraint("end", "done"))  # fmt: skip
    for overlooks, misread in ((0.0, False), (1.0, True)):
        found = marks(knowing + ignorant, read, "kofi lives in dalby .", overlooks=overlooks)
        taken = [not one["hallucination"] and one["satisfies_constraint"] for one in found]
        assert any(taken) == misread and (misread or all(one["hallucination"] for one in found))


def test_labelers_tie_what_seems_alike_and_ranks_count_from_one():
    people = labelers.make_labelers(0, 4)
    rng = random.Random(0)
    tied = 0
    for i in range(200):
        task = make_task(rng, WORLD, "brainstorming")
        prompt = make_prompts(i, WORLD, 1, 1)[0][0]
        texts = [writing.write(rng, WORLD, task) for _ in range(4)]
        ranks = labelers.rank(people[i % 4], WORLD, prompt, task, texts, ["m"] * 4, [True] * 4).ranks
        assert min(ranks) == 1 and set(ranks) == set(range(1, max(ranks) + 1))
        tied += any(a == b for a, b in itertools.combinations(ranks, 2))
    assert tied > 50


def test_agreement_counts_pairs_that_both_decided():
    assert labeler_agreement([[1, 2, 2]], [[1, 2, 3]])["n"] == 2
