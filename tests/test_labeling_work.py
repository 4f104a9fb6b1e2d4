"""A labeler's work over HTTP: tasks, drafts, submissions that are stored once, skips, undo, and what comes out."""

import json
import sqlite3

import pytest
from labeling_site import Person, filled, make_store, rank_task, serving, state_of

from instruct_jax.data.cleaning.fewshot import expand_few_shot
from instruct_jax.errors import InputError
from instruct_jax.labeling import auth, drafts, export, work
from instruct_jax.labeling.tasks import Task
from instruct_jax.records import Demonstration, Prompt, Ranking, Rating, Skip, read_jsonl

TEXTS = ("red", "green", "blue", "grey")
OTHERS = [
    Task("demonstrate", "ask", {"prompt": "Why?"}),
    Task("write_prompt", "plain", {"brief": "rivers", "style": "plain"}),
    Task("write_prompt", "shots", {"brief": "sums", "style": "few_shot"}),
]


@pytest.fixture
def site(tmp_path):
    store, tokens = make_store(tmp_path, [rank_task("p", TEXTS), *OTHERS])
    with serving(store) as url:
        yield store, Person(url, tokens["ann"])
    store.close()


def texts_shown(person, address, k=4):
    """The outputs as the pages show them, in order."""
    shown = []
    for number in range(1, k + 1):
        html = person.get(f"{address}?output={number}").text
        shown += [text for text in TEXTS if f">{text}<" in html]
    return shown


def test_every_kind_of_task_comes_out_as_records_that_read_back(site, tmp_path):
    store, person = site
    address, state = person.task()
    shown = texts_shown(person, address)
    assert sorted(shown) == sorted(TEXTS)
    likert = [7 - TEXTS.index(text) for text in shown]
    ranks = [{"red": 1, "green": 1, "blue": 4, "grey": 3}[text] for text in shown]
    flags = [{"violent": text == "grey", "hallucination": text == "red"} for text in shown]
    assert person.submit(address, filled(state["draft"], ranks, likert, flags)).json() == {"next": "/task"}
    while task := person.task():
        assert person.submit(task[0], filled(task[1]["draft"])).status_code == 200

    written = export.write(store, tmp_path / "out", expand_few_shot)
    assert written == {
        "rankings.train.jsonl": 1, "ratings.train.jsonl": 4, "demonstrations.train.jsonl": 3, "prompts.train.jsonl": 1,
    }  # fmt: skip
    with store.read() as connection:
        counted = {f"{row['name']}.jsonl": row["rows"] for row in export.counts(connection, expand_few_shot)}
    assert {name: number for name, number in counted.items() if number} == written and len(counted) == 10
    (ranking,) = read_jsonl(tmp_path / "out/rankings.train.jsonl", Ranking)
    assert ranking == Ranking("p", "prompt of p", "ann", list(TEXTS), [1, 1, 4, 3], ["model-secret"] * 4)
    ratings = read_jsonl(tmp_path / "out/ratings.train.jsonl", Rating)
    assert [(row.completion, row.likert, row.seconds) for row in ratings] == [
        ("red", 7, 1.0), ("green", 6, 1.0), ("blue", 5, 1.0), ("grey", 4, 1.0),
    ]  # fmt: skip
    assert [row.flags["violent"] for row in ratings] == [False, False, False, True]
    assert [row.flags["hallucination"] for row in ratings] == [True, False, False, False]
    assert "satisfies_constraint" not in ratings[0].flags and len(ratings[0].flags) == 10
    assert read_jsonl(tmp_path / "out/demonstrations.train.jsonl", Demonstration) == [
        Demonstration("ask", "Why?", "an answer", "ann"),
        Demonstration("shots/ann/0", "Add.\n\n3 + 3\n6\n\n2 + 2", "4", "ann"),
        Demonstration("shots/ann/1", "Add.\n\n2 + 2\n4\n\n3 + 3", "6", "ann"),
    ]
    assert read_jsonl(tmp_path / "out/prompts.train.jsonl", Prompt) == [
        Prompt("plain/ann", "Write about rivers.", "labeler", "ann")
    ]


def test_a_text_of_several_models_comes_out_for_each_and_a_lone_output_is_no_ranking(tmp_path):
    contents = {"prompt": "ask", "outputs": [{"text": "x", "made_by": [["sft", True], ["ppo", False]]}]}
    store, _ = make_store(tmp_path, [Task("rank", "p", contents), rank_task("q", ["alone"])])
    for number, task in enumerate((Task("rank", "p", {}).id, Task("rank", "q", {}).id)):
        work.submit(store, "ann", task, f"key {number}", 1, filled({"outputs": [{}]}, [None]), 1.0)
    written = export.write(store, tmp_path, expand_few_shot)
    with store.read() as connection:
        counted = {f"{row['name']}.jsonl": row["rows"] for row in export.counts(connection, expand_few_shot)}
    assert {name: number for name, number in counted.items() if number} == written
    (ranking,) = read_jsonl(tmp_path / "rankings.train.jsonl", Ranking)
    assert (ranking.models, ranking.ranks, ranking.finished) == (["sft", "ppo"], [1, 1], [True, False])
    assert [row.model for row in read_jsonl(tmp_path / "ratings.train.jsonl", Rating)] == [
        "sft", "ppo", "model-secret",
    ]  # fmt: skip


def test_records_of_the_heldout_pool_go_to_files_of_their_own_and_nothing_stale_stays(site, tmp_path):
    store, _ = site
    auth.add_person(store, "out", "labeler", "heldout")
    work.skip(store, "out", rank_task("p").id, "a key", "unclear")
    assert export.write(store, tmp_path, expand_few_shot) == {"skips.heldout.jsonl": 1}
    assert read_jsonl(tmp_path / "skips.heldout.jsonl", Skip) == [Skip("p", "out", "unclear")]
    work.undo(store, "out")
    with pytest.raises(InputError, match=r"skips\.heldout\.jsonl"):
        export.write(store, tmp_path, expand_few_shot)


def test_a_replayed_submission_is_answered_alike_and_stored_once(site):
    store, person = site
    address, state = person.task()
    first = person.submit(address, filled(state["draft"]), key=state["key"])
    again = person.submit(address, filled(state["draft"]), key=state["key"])
    assert (first.status_code, first.json()) == (again.status_code, again.json()) == (200, {"next": "/task"})
    assert person.submit(address, filled(state["draft"])).status_code == 409
    other, state_2 = person.task()
    assert person.submit(other, filled(state_2["draft"]), key=state["key"]).status_code == 409
    with store.read() as connection:
        assert connection.execute("SELECT count(*) FROM outcomes").fetchone()[0] == 1


def test_the_database_itself_holds_no_second_submission_of_a_key_or_a_task(site):
    store, person = site
    address, state = person.task()
    person.submit(address, filled(state["draft"]), key=state["key"])
    copy = "INSERT INTO outcomes (person, task, key, answer, seconds, at) SELECT person, {}, {}, answer, 0, 0 FROM outcomes"
    for task, key in (("task + 1", "key"), ("task", "'another key'")):
        with pytest.raises(sqlite3.IntegrityError), store.write() as connection:
            connection.execute(copy.format(task, key))


def test_what_is_missing_is_said_field_by_field_and_output_by_output(site):
    _, person = site
    address, state = person.task()
    draft = filled(state["draft"], [1, None, 1, 2], [3, 3, None, 3])
    answer = person.submit(address, draft)
    assert answer.status_code == 422
    assert [(p["field"], p["output"]) for p in answer.json()["problems"]] == [("ranks", 2), ("likert", 3)]
    contents = {"style": "few_shot"}
    empty = drafts.empty("write_prompt", contents)
    pairs = [{"query": "q", "response": "r"}]
    cases = [
        ({}, {"instruction", "pairs"}),
        ({"instruction": "do", "pairs": pairs}, {"pairs"}),
        ({"instruction": "do", "pairs": [*pairs, {"query": "q", "response": "s"}]}, {"pairs"}),
        ({"instruction": "do", "pairs": [*pairs, {"query": "s", "response": " "}]}, {"pairs"}),
        ({"instruction": "do", "pairs": [*pairs, {"query": "s", "response": "t"}], "use_case": "odd"}, {"use_case"}),
        ({"instruction": "do", "pairs": [*pairs, {"query": "s", "response": "t"}]}, set()),
    ]  # fmt: skip
    for more, fields in cases:
        assert {p["field"] for p in drafts.problems("write_prompt", contents, empty | more)} == fields
    assert [p["field"] for p in drafts.problems("demonstrate", {}, {"response": " "})] == ["response"]
    assert [p["field"] for p in drafts.problems("write_prompt", {"style": "plain"}, empty)] == ["text"]


MALFORMED = [
    None, [], {}, {"outputs": []},
    *({"outputs": [{}] * 4, "ranks": bad} for bad in (None, [1, 2, 3], [1, 2, 3, 5], [0, 1, 2, 3], [1.0, 1, 2, 3], [True, 1, 2, 3])),
    *({"outputs": [{}, {}, {}, bad], "ranks": [1] * 4} for bad in (
        None, {"likert": 8}, {"likert": "3"}, {"flags": {"odd": True}}, {"flags": {"violent": 1}}, {"flags": []}, {"notes": 3},
        {"notes": "\ud800"}, {"seconds": -1}, {"seconds": 1e300}, {"seconds": 10**400}, {"seconds": True},
    )),
]  # fmt: skip


def test_a_draft_of_another_shape_is_refused_and_nothing_is_kept(site):
    store, person = site
    address, _ = person.task()
    for bad in MALFORMED:
        for path, more in (("draft", {"version": 1}), ("submit", {"key": "a key or so", "version": 1})):
            answer = person.post(f"{address}/{path}", draft=bad, **more)
            assert answer.status_code == 422 and answer.json()["message"], (path, bad)
    with store.read() as connection:
        assert connection.execute("SELECT count(draft) FROM slots").fetchone()[0] == 0


def test_a_draft_is_there_again_and_an_older_one_does_not_replace_it(site):
    _, person = site
    address, state = person.task()
    draft = filled(state["draft"], [1, None, 2, None], [4, None, None, 7])
    assert (state["version"], person.post(f"{address}/draft", version=1, draft=draft).status_code) == (0, 200)
    assert person.post(f"{address}/draft", version=1, draft=draft).status_code == 200  # its answer was lost
    stale = person.post(f"{address}/draft", version=1, draft=filled(state["draft"]))
    assert (stale.status_code, stale.json()["version"]) == (409, 1)
    for key in ("outputs", "ranks"):
        assert stale.json()["draft"][key] == draft[key]
        assert state_of(person.get(address).text)["draft"][key] == draft[key]
    assert state_of(person.get(address).text)["version"] == 1


def test_a_submission_does_not_replace_a_newer_draft_and_is_answered_with_it(site):
    store, person = site
    address, state = person.task()
    older, newer = filled(state["draft"]), filled(state["draft"], likert=[7, 7, 7, 7])
    assert person.post(f"{address}/draft", version=1, draft=older).status_code == 200
    assert person.post(f"{address}/draft", version=2, draft=newer).status_code == 200
    for version in (0, 1, 2):
        stale = person.submit(address, older, version=version)
        assert (stale.status_code, stale.json()["version"]) == (409, 2)
        assert stale.json()["draft"]["outputs"] == newer["outputs"]
    assert state_of(person.get(address).text)["draft"]["outputs"] == newer["outputs"]
    assert person.submit(address, newer, version=2, key=state["key"]).status_code == 200
    assert person.submit(address, older, version=0, key=state["key"]).status_code == 200  # sent again
    with store.read() as connection:
        ratings = list(export.rows(connection, "ratings.train", expand_few_shot))
    assert [row.likert for row in ratings] == [7, 7, 7, 7]


def test_undo_reopens_the_last_task_with_its_draft_and_keeps_the_first_answer_on_record(site, tmp_path):
    store, person = site
    assert person.post("/undo").status_code == 409
    address, state = person.task()
    draft = filled(state["draft"], [1, 1, 2, 4])
    person.submit(address, draft)
    assert person.post(f"{address}/draft", version=9, draft=draft).json()["submitted"]
    assert person.post("/undo").json() == {"next": address}
    assert person.post("/undo").status_code == 409  # it was the only one
    found = state_of(person.get(address).text)
    assert found["draft"]["ranks"] == [1, 1, 2, 4] and found["version"] > state["version"]
    assert person.submit(address, filled(state["draft"], [4, 3, 2, 1]), key=found["key"]).status_code == 200
    export.write(store, tmp_path, expand_few_shot)
    assert sorted(read_jsonl(tmp_path / "rankings.train.jsonl", Ranking)[0].ranks) == [1, 2, 3, 4]
    with store.read() as connection:
        rows = connection.execute("SELECT undone IS NULL, answer FROM outcomes ORDER BY number").fetchall()
    assert [row[0] for row in rows] == [0, 1] and sorted(json.loads(rows[0][1])["ranks"]) == [1, 1, 2, 4]


def test_a_skip_is_recorded_and_progress_counts(site):
    store, person = site
    address, state = person.task()
    key = state["key"]
    for _ in range(2):
        assert person.post(f"{address}/skip", key=key, reason="unclear").json() == {"next": "/task"}
    address, state = person.task()
    person.submit(address, filled(state["draft"]), seconds=90.0)
    with store.read() as connection:
        progress = work.progress(connection, "ann", store.now())
        tomorrow = work.progress(connection, "ann", store.now() + 86400)
        position = work.position(connection, "ann")
    expected = {"today": 1, "total": 1, "left": 2, "skipped": 1, "minutes_today": 1.5, "screening": False}
    assert progress == expected
    assert tomorrow == expected | {"today": 0, "minutes_today": 0}
    assert position == {"done": 2, "total": 4}
    assert person.get("/").status_code == 200
