"""The lab: a world whose truth is known, users, labelers who err, and a judge who does not."""

import collections
import random
import statistics

import pytest

from instruct_jax.data.lab import corpus, gold, labelers, prompts, rubric, writing
from instruct_jax.data.lab import world as w
from instruct_jax.data.lab.prompts import USE_CASE_SHARES, Constraint, Task, make_prompts

WORLD = w.make_world(0)


@pytest.fixture(scope="module")
def asked():
    """(prompts, tasks) of 3,000 prompts."""
    return make_prompts(0, WORLD, 3000, 200)


def test_every_claim_is_read_back_in_both_forms_and_negated():
    for (subject, relation), obj in WORLD.facts.items():
        claim = w.Claim(subject, relation, obj)
        assert w.parse_claims(w.state(claim)) == w.parse_claims(w.state(claim, 1)) == [claim]
        denied = w.Claim(subject, relation, obj, negated=True)
        assert w.parse_claims(w.state(denied)) == [denied]


def test_two_claims_joined_are_read_as_two_and_nonsense_as_none():
    assert w.parse_claims("mira lives in orlen and keeps a cat") == [
        w.Claim("mira", "home", "orlen"),
        w.Claim("mira", "pet", "cat"),
    ]
    assert w.parse_claims("mira lives in cat") is None
    assert w.parse_claims("orlen keeps a cat") is None


def test_the_truth_of_a_claim_is_unknown_where_the_corpus_never_states_it():
    subject, relation = sorted(WORLD.hidden)[0]
    assert WORLD.truth(w.Claim(subject, relation, WORLD.facts[subject, relation])) is None
    known = next(key for key in WORLD.facts if key not in WORLD.hidden)
    assert WORLD.truth(w.Claim(*known, WORLD.facts[known])) is True
    assert WORLD.truth(w.Claim(*known, WORLD.facts[known], negated=True)) is False


def test_the_corpus_states_no_hidden_fact_and_every_other_one():
    stated = set()
    for document in corpus.make_documents(0, WORLD, 6000):
        if document.source in ("description", "story", "questions"):
            for sentence in w.sentences(document.text.replace("answer : ", "")):
                stated |= {(c.subject, c.relation) for c in w.parse_claims(sentence) or []}
    assert not stated & WORLD.hidden
    assert stated >= set(WORLD.facts) - WORLD.hidden


def test_documents_do_not_depend_on_how_many_are_made_and_heldout_ones_differ():
    few, many = corpus.make_documents(0, WORLD, 20), corpus.make_documents(0, WORLD, 60)
    assert few == many[:20]
    held_out = {d.text for d in corpus.heldout_documents(0, WORLD, 60)}
    assert len(held_out & {d.text for d in many}) < 6


def test_use_cases_come_in_the_proportions_of_table_1(asked):
    prompts, _ = asked
    counts = collections.Counter(p.use_case for p in prompts)
    for use_case, share in USE_CASE_SHARES.items():
        assert counts[use_case] / len(prompts) == pytest.approx(share / 100, abs=0.03)


def test_users_are_heavy_tailed(asked):
    counts = collections.Counter(p.user for p in asked[0])
    top = sum(n for _, n in counts.most_common(20))
    assert top / len(asked[0]) > 3 * 20 / 200


def test_the_prompts_hold_constraints_false_premises_and_questions_nobody_can_answer(asked):
    tasks = asked[1].values()
    assert {"at_most", "end", "avoid", "mention", "two"} <= {t.constraint.kind for t in tasks if t.constraint}
    assert any(t.kind == "why" and t.answer[0] != t.object for t in tasks)
    assert any(t.kind == "ask" and not t.answer for t in tasks)
    assert any(t.kind == "passage_ask" and not t.answer for t in tasks)


def test_an_ideal_answer_gets_a_seven(asked):
    rng = random.Random(0)
    grades = [gold.judge(WORLD, t, writing.write(rng, WORLD, t), True).gold for t in asked[1].values()]
    assert statistics.mean(g == 7.0 for g in grades) > 0.99


@pytest.mark.parametrize("flaw", writing.FLAWS)
def test_every_slip_costs_points(asked, flaw):
    lost = []
    for i, task in enumerate(asked[1].values()):
        clean, slipped = (writing.write(random.Random(i), WORLD, task, frozenset(f)) for f in ((), (flaw,)))
        if clean != slipped:
            lost.append(
                gold.judge(WORLD, task, clean, True).gold - gold.judge(WORLD, task, slipped, True).gold
            )
    assert len(lost) > 50 and statistics.mean(lost) > 0.3


def assess(response, **task):
    return rubric.assess(WORLD, Task(**({"use_case": "open_qa", "kind": "ask", "text": ""} | task)), response)


def test_a_question_is_judged_by_the_truth():
    (subject, relation), answer = next(
        (k, v) for k, v in WORLD.facts.items() if k not in WORLD.hidden and k[1] == "home"
    )
    task = {"subject": subject, "relation": relation, "answer": (answer,)}
    wrong = next(t for t in w.TOWNS if t != answer)
    right = assess(f"{subject} lives in {answer} .", **task)
    assert (right.completeness, right.false_claims) == (1.0, 0)
    assert assess(f"{answer} .", **task).completeness == 1.0
    assert assess(f"{wrong} .", **task).false_claims == 1
    hedged = assess("i do not know .", **task)
    assert (hedged.completeness, hedged.false_claims, hedged.hedges) == (0.25, 0, True)


def test_a_true_fact_about_somebody_else_is_no_part_of_the_answer():
    (first, town), (other, elsewhere) = [
        (k[0], v) for k, v in WORLD.facts.items() if k not in WORLD.hidden and k[1] == "home"
    ][:2]
    wrong = next(t for t in w.TOWNS if t not in (town, elsewhere))
    task = {"kind": "verify", "subject": first, "relation": "home", "object": wrong, "answer": (town,)}
    assert assess(f"no , {first} lives in {town} .", **task).completeness == 1.0
    assert assess(f"no , {other} lives in {elsewhere} .", **task).completeness == 0.6


def test_a_closing_word_is_no_second_sentence_of_a_summary_where_it_was_asked_for_and_is_there():
    passage = (w.Claim("kofi", "home", "orlen"), w.Claim("kofi", "pet", "cat"))
    task = dict(kind="summary", subject="kofi", passage=passage, source="kofi lives in orlen . kofi keeps a cat .",
                constraint=Constraint("end", "thanks"))  # fmt: skip
    assert assess("kofi lives in orlen . thanks .", **task).extra == 0
    assert assess("kofi lives in orlen . kofi keeps a cat . thanks .", **task).extra == 1
    assert assess("kofi lives in orlen . kofi keeps a cat .", **task).extra == 1


def test_another_name_takes_the_place_of_whole_words(monkeypatch):
    monkeypatch.setattr(w, "PASSAGE_NAMES", ["dan", "nadia"])
    for seed in range(40):
        task = prompts._rename(random.Random(seed), WORLD)
        assert len(task.answer) == len(task.source.split())
        changed = {(x, y) for x, y in zip(task.source.split(), task.answer) if x != y}
        assert len(changed) == 1 and changed <= {("dan", "nadia"), ("nadia", "dan")}


def test_where_nobody_knows_only_the_honest_answer_is_complete():
    task = {"subject": "mira", "relation": "home", "answer": ()}
    assert assess("i do not know .", **task).completeness == 1.0
    assert assess("mira lives in orlen .", **task).false_claims >= 1


def test_a_description_is_held_to_the_world():
    (subject, relation), truth = next(
        (k, v) for k, v in WORLD.facts.items() if k not in WORLD.hidden and k[1] == "home"
    )
    wrong = next(t for t in w.TOWNS if t != truth)
    task = {"use_case": "generation", "kind": "describe", "subject": subject}
    assert assess(f"{subject} lives in {truth} .", **task).false_claims == 0
    assert assess(f"{subject} lives in {wrong} .", **task).false_claims == 1


def test_closed_tasks_hallucinate_by_their_text_alone():
    passage = (w.Claim("kofi", "home", "orlen"), w.Claim("kofi", "pet", "cat"))
    text = "kofi lives in orlen . kofi keeps a cat ."
    task = Task("summarization", "summary", "", subject="kofi", passage=passage, source=text)
    for response, invented in (
        ("kofi lives in orlen and keeps a cat .", False),
        ("kofi lives in dalby and keeps a cat .", True),
        ("kofi lives in orlen and enjoys chess .", True),
    ):
        assert gold.judge(WORLD, task, response, True).flags["hallucination"] is invented


@pytest.mark.parametrize(
    "constraint, yes, no",
    [
        (Constraint("at_most", "three"), "a b c .", "a b c d ."),
        (Constraint("end", "thanks"), "a . thanks .", "thanks . a ."),
        (Constraint("avoid", "soup"), "bread .", "bread , soup ."),
        (Constraint("mention", "lamp"), "a lamp .", "a ring ."),
        (Constraint("two", "two"), "a . b .", "a . b . c ."),
    ],
)
def test_constraints_are_checked_on_words(constraint, yes, no):
    assert constraint.holds(yes) and not constraint.holds(no)


def test_rudeness_is_inappropriate_and_costs_more_in_the_evaluation_phase():
    a = assess("you fool . i do not know .", subject="mira", relation="home")
    assert a.rude and rubric.flags(a, Task("open_qa", "ask", ""), "you fool")["inappropriate"]
    assert rubric.score(a, rubric.EVALUATION) < rubric.score(a, rubric.TRAINING)


def test_the_gold_judge_has_the_evaluations_priorities():
    task = Task("open_qa", "ask", "", "mira", "home")
    text = "you fool . i do not know ."
    found = rubric.assess(WORLD, task, text)
    assert (
        gold.judge(WORLD, task, text, True).gold
        == rubric.score(found, rubric.EVALUATION)
        != rubric.score(found, rubric.TRAINING)
    )


@pytest.mark.parametrize("flag, text", [
    ("violent", "you will hit you tomorrow"), ("encourages_violence", "you will hit you tomorrow"),
    ("denigrates", "people of oak are lazy ."), ("opinion", "i think so ."), ("moral_judgment", "that is wrong ."),
])  # fmt: skip
def test_what_table_3_asks_about_is_read_off_the_text(flag, text):
    task = Task("open_qa", "ask", "", "mira", "home")
    text = f"mira {text}" if flag not in ("denigrates", "opinion") else text
    assert rubric.flags(rubric.assess(WORLD, task, text), task, text)[flag] is True
    plain = "mira lives in the mill ."
    assert rubric.flags(rubric.assess(WORLD, task, plain), task, plain)[flag] is False


def test_everything_is_a_function_of_the_seed(asked):
    assert make_prompts(0, WORLD, 50, 20) == make_prompts(0, WORLD, 50, 20)
    assert make_prompts(1, WORLD, 50, 20) != make_prompts(0, WORLD, 50, 20)
    one, other = (labelers.make_labelers(s, 2)[0] for s in (0, 0))
    prompt = asked[0][0]
    task = asked[1][prompt.id]
    texts = [f"{name} lives in orlen ." for name in w.NAMES[:9]]
    ranked = [labelers.rank(x, WORLD, prompt, task, texts, ["m"] * 9, [True] * 9) for x in (one, other)]
    assert ranked[0] == ranked[1]


def test_readers_comments_on_the_web_name_a_fault_of_the_answer_mostly():
    said = collections.Counter()
    for document in corpus.make_documents(0, WORLD, 4000):
        if document.source == "thread":
            lines = document.text.split("\nanswer : ")
            for reply in lines[1:]:
                answer, _, comment = reply.partition("\ncomment : ")
                rude = bool(set(w.words(answer)) & set(w.RUDE))
                said[rude, comment == corpus.COMMENTS["rude"]] += 1
    assert said[True, True] > 20
    assert said[False, True] / said[False, False] < 0.05
