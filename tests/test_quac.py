"""QuAC: its published forms, its prompts, and its official score worked by hand."""

import pytest
from test_tasks import rows_of

from instruct_jax.data.sources import benchmark_packages
from instruct_jax.errors import InputError
from instruct_jax.evaluation.requests import Completion
from instruct_jax.evaluation.scorers import quac
from instruct_jax.evaluation.tasks import TABLE


def test_quac_gives_the_earlier_turns_with_their_answers(tmp_path):
    def turn(n, question, *answers):
        return {
            "id": f"d_q#{n}",
            "question": question,
            "answers": [{"text": a} for a in answers],
            "orig_answer": {"text": answers[0]},
        }

    turns = [turn(0, "who?", "Ann", "Ann Lee"), turn(1, "why?", "CANNOTANSWER"), turn(2, "when?", "in May")]
    paragraph = {"context": "Ann came in May. CANNOTANSWER", "id": "d", "qas": turns}
    rows = rows_of("quac", [{"data": [{"title": "Ann", "paragraphs": [paragraph]}]}], tmp_path)
    assert TABLE["quac"].ask(rows[2], []) == Completion(
        "Answer each question using information in the preceding background paragraph.\n"
        'If there is not enough information provided, answer with "I don\'t know."\n\n'
        "TITLE: Ann\n\nPARAGRAPH: Ann came in May.\n\nQ: who?\n\nA: Ann\n\nQ: why?\n\nA: I don't know.\n\nQ: when?\n\nA:",
        50,
    )
    assert [row["group"] for row in rows] == ["d"] * 3
    texts = [[a["text"] for a in one["answers"]] for one in turns]
    hub = {
        "dialogue_id": "d", "wikipedia_page_title": "Ann", "context": paragraph["context"],
        "turn_ids": [one["id"] for one in turns], "questions": [one["question"] for one in turns],
        "orig_answers": {"texts": [some[0] for some in texts]},
    }  # fmt: skip
    for answers in ({"texts": texts}, [{"texts": some} for some in texts]):
        assert rows_of("quac", [hub | {"answers": answers}], tmp_path) == rows
    with pytest.raises(InputError, match="quac.jsonl:1: field 'data'.*authors' file"):
        rows_of("quac", [{"context": "c", "question": "who?", "answers": {}, "orig_answer": {}}], tmp_path)
    score = TABLE["quac"].score
    # Of Ann (2/3) and Ann Lee (1) each is left out once.
    assert score(rows[0], "Ann Lee")["f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert score(rows[1], "I don't know.") == {"f1": 1.0, "unfiltered_f1": 1.0}
    for row, said in ((rows[1], "in May"), (rows[1], "I do know."), (rows[2], "I don't know.")):
        assert score(row, said) == {"f1": 0.0, "unfiltered_f1": 0.0}


def test_quac_has_no_answer_where_at_least_half_of_the_people_found_none(tmp_path):
    none = "CANNOTANSWER"
    votes = (["in May", none, "May"], ["May", none], [none, "May", none], ["May", "June", "May"])
    turns = [
        {"id": f"d_q#{n}", "question": "when?", "answers": [{"text": text} for text in some]}
        for n, some in enumerate(votes)
    ]
    paragraph = {"context": "In May or June.", "id": "d", "qas": turns}
    rows = rows_of("quac", [{"data": [{"title": "T", "paragraphs": [paragraph]}]}], tmp_path)
    assert [row["answers"] for row in rows] == [["in May", "May"], [], [], ["May", "June", "May"]]
    assert [answer for _, answer in rows[-1]["before"]] == ["in May", "", ""]
    together = {"passage": "In May or June.", "question": "question1: when?\nquestion2: why?",
                "answer": f"possible answers for question1:\nMay May {none}\npossible answers for question2:\nMay {none}"}  # fmt: skip
    package = benchmark_packages._quac(together)
    assert [row["answers"] for row in package] == [["May", "May"], []]


def test_questions_of_quac_on_which_people_disagree_count_in_the_unfiltered_score_alone():
    score = TABLE["quac"].score
    assert score({"answers": ["in May", "on foot"]}, "on foot") == {"unfiltered_f1": 0.5}
    assert score({"answers": ["May", "on foot", "May"]}, "May") == {"f1": 1.0, "unfiltered_f1": 1.0}


@pytest.mark.parametrize(
    "said, references, f1, agreed",
    [
        ("The cat!", ["a cat"], 1.0, 1.0),
        ("cat", ["cat", "dog"], 0.5, 0.0),  # with "cat" left out, 0; with "dog", 1
        ("black cat", ["cat", "black cat", "black cat"], 1.0, 8 / 9),  # one of two equal ones is always left
        (
            "cat",
            ["cat", "black cat", "old black cat"],
            8 / 9,
            34 / 45,
        ),  # (2/3 + 1 + 1) / 3; (2/3 + 4/5 + 4/5) / 3
        (None, [], 1.0, 1.0),
        (None, ["cat"], 0.0, 1.0),
        ("cat", [], 0.0, 1.0),
        ("the", ["the"], 0.0, 1.0),  # nothing is left of either
    ],
)
def test_quac_scores_as_worked_by_hand(said, references, f1, agreed):
    assert quac.f1(said, references) == pytest.approx(f1)
    assert quac.agreement(references) == pytest.approx(agreed)
