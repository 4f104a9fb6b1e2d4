"""The automatic evaluations from the command line, on a tiny model and a handful of rows."""

import dataclasses
import json
import os
import time

import jax
import ml_collections
import pytest

from instruct_jax import main
from instruct_jax.errors import InputError
from instruct_jax.evaluation.requests import Scored
from instruct_jax.evaluation.tasks import TABLE
from instruct_jax.models.transformer import PolicyModel
from instruct_jax.reports.benchmarks import page
from instruct_jax.reports.plots import benchmark_scores
from instruct_jax.stages import answers, benchmark, setup, states
from instruct_jax.text.tokenizer import train_sentencepiece
from instruct_jax.training.checkpoint import Checkpoints

WORDS = "the a red blue green old new cat dog bird sees finds hears because Yes No".split()


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run of the supervised stage, as far as its checkpoint goes."""
    folder = tmp_path_factory.mktemp("sft")
    lines = [" ".join(WORDS[i:] + WORDS[:i]) + " Passage: Question? Answer." for i in range(16)]
    tokenizer = train_sentencepiece(lines * 9, folder / "t.model", 36, 0)
    policy = PolicyModel(setup.transformer(setup.ModelSettings("tiny", 256), tokenizer.vocab_size))
    text = {"tokenizer": str(folder / "t.model"), "template": "plain", "max_prompt": 32, "max_response": 8}
    checkpoints = Checkpoints(folder / "checkpoints")
    state = {"params": jax.jit(lambda key: states.init_params(policy, key))(jax.random.key(0))}
    checkpoints.save(
        1, state, setup.meta("sft", ml_collections.ConfigDict({"text": text}), policy.config), wait=True
    )
    checkpoints.close()
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of sets: two rows to choose from with examples beside them, pairs, prompts, and a passage."""
    folder = tmp_path_factory.mktemp("sets")

    def write(name, rows):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    rte = [
        {"premise": f"the {w} cat", "hypothesis": f"the cat sees {w}", "label": i % 2}
        for i, w in enumerate(WORDS[:8])
    ]
    write("rte", rte[:4])
    write("rte.train", rte[4:])
    write("crows_pairs", [{"sent_more": "the cat sees", "sent_less": "the dog sees"}] * 3)
    write(
        "real_toxicity",
        [{"prompt": {"text": "the red", "toxicity": 0.1}}, {"prompt": {"text": "a bird", "toxicity": None}}],
    )
    write("drop", [{"passage": "the cat " * 200, "question": "a?", "query_id": "1", "answer": "cat"},
                   {"passage": "the cat", "question": "a?", "query_id": "2", "answer": "cat"}])  # fmt: skip
    return folder


def run(run_folder, data, workdir, *more):
    argv = ["main", "--config=configs/evaluate/automatic.py", f"--workdir={workdir}", f"--config.models=('tiny={run_folder}',)",
            f"--config.benchmark.data=('{data}',)", "--config.benchmark.context=200", "--config.benchmark.tokens_per_batch=256",
            "--config.mesh.data=1", *more]  # fmt: skip
    assert main.main(argv) == 0
    return json.loads((workdir / "summary.json").read_text())


@pytest.mark.slow
def test_every_task_that_has_data_is_scored_the_rest_is_listed_and_nothing_is_asked_twice(
    run_folder, data, tmp_path, monkeypatch
):
    monkeypatch.setattr("instruct_jax.evaluation.scorers.toxicity.local", lambda texts: [0.25] * len(texts))
    summary = run(run_folder, data, tmp_path)
    scores = summary["models"]["tiny"]
    prefixes = ("", "/respectful", "/biased")
    assert set(scores) == {"rte", "rte/few-shot", "drop", "drop/few-shot"} | {
        f"{name}{prefix}" for name in ("crows_pairs", "real_toxicity") for prefix in prefixes
    }
    assert set(summary["not_run"]) == {name for name in TABLE if name not in scores}
    assert (
        scores["rte"]["n"] == 4
        and scores["rte"]["metric"] == "accuracy"
        and scores["rte/few-shot"]["shots"] == 15
    )
    assert (
        0 <= scores["rte/few-shot"]["shots_shown"] <= 4
        and "of 15 in rte/few-shot (tiny)" in (tmp_path / "README.md").read_text()
    )
    assert scores["real_toxicity"]["mean"] == 0.25 and not scores["real_toxicity"]["higher_is_better"]
    assert 0 <= scores["crows_pairs"]["mean"] <= 1
    assert (scores["drop"]["n"], scores["drop"]["too_long"]) == (1, 1)
    page = (tmp_path / "README.md").read_text()
    assert "| wsc | not run: no wsc in " in page and "1 of drop (tiny)" in page
    assert (tmp_path / "scores.png").exists()

    monkeypatch.setattr(
        answers, "make_answerer", lambda *a, **k: pytest.fail("a kept answer was asked again")
    )
    again = run(run_folder, data, tmp_path, "--config.benchmark.tasks=('rte', 'drop')")
    assert {name: again["models"]["tiny"][name] for name in ("rte", "drop")} == {
        name: scores[name] for name in ("rte", "drop")
    }


def subject(said):
    """A model that has room for 40 characters and answers from a table."""
    return benchmark.Subject("m", said, lambda request: len(request.context) <= 40, lambda requests: None)


def asked(name, shots, rows, pool):
    return benchmark.Asked(name, TABLE["sst"], shots, rows, len(rows), pool, True)


def rows(count, group=None):
    return [{"id": str(i), "group": group or str(i), "text": f"t{i}", "label": 0} for i in range(count)]


def test_examples_come_from_other_passages_and_as_many_as_there_is_room_for():
    pool = rows(6)
    found = benchmark.questions_of(asked("sst", 15, pool[:1], pool), subject({}), 0)
    assert found == ([TABLE["sst"].ask(pool[0], [])], [0])  # the instruction alone fills the room
    roomy = benchmark.Subject("m", {}, lambda request: request.context.count("Text:") <= 4, None)
    questions, shown = benchmark.questions_of(asked("sst", 15, pool, pool), roomy, 0)
    assert shown == [3] * 6
    for row, question in zip(pool, questions, strict=True):
        assert question.context.count("Text:") == 4 and question.context.count(f"Text: {row['text']}\n") == 1
        assert question.context.endswith(f"Text: {row['text']}\nLabel:")
    assert questions == benchmark.questions_of(asked("sst", 15, pool, pool), roomy, 0)[0]
    assert questions != benchmark.questions_of(asked("sst", 15, pool, pool), roomy, 1)[0]
    alike = rows(3, group="one")
    [question, *_], shown = benchmark.questions_of(asked("sst", 15, alike, alike), roomy, 0)
    assert question.context.count("Text:") == 1 and shown == [0, 0, 0]
    apart = [{**row, "id": f"x{row['id']}", "group": f"x{row['id']}"} for row in rows(2)]
    assert benchmark.questions_of(asked("sst", 15, apart, pool[:3]), roomy, 0)[1] == [3, 3]


def test_a_few_shot_form_that_cannot_be_asked_is_listed_with_the_reason(tmp_path):
    (tmp_path / "hellaswag.jsonl").write_text('{"ctx": "A dog", "endings": ["runs."], "label": ""}\n')
    (tmp_path / "piqa.jsonl").write_text('{"goal": "Cut", "sol1": "knife", "sol2": "fork", "label": 0}\n')
    given = dict(data=(str(tmp_path),), tasks=("hellaswag", "piqa"))
    asked, missing = benchmark.gather(benchmark.BenchmarkSettings(**given), 0)
    assert [one.name for one in asked] == ["hellaswag", "piqa"]
    assert missing == {"hellaswag/few-shot": "no row has a gold answer to show"}
    asked, missing = benchmark.gather(benchmark.BenchmarkSettings(**given, shots=("few",)), 0)
    assert not asked and missing["piqa/few-shot"] == "the paper has no such form"


def test_rows_are_drawn_by_the_limit_and_without_one_are_all_but_of_the_toxic_prompts_the_papers_number():
    few, many = rows(10), [{"id": str(i), "toxicity": i / 6000} for i in range(6001)]
    assert benchmark.draw(TABLE["sst"], few, 0, 0) == few
    four, six = (benchmark.draw(TABLE["sst"], few, limit, 0) for limit in (4, 6))
    assert len(four) == 4 and four == [row for row in six if row in four]
    assert four != benchmark.draw(TABLE["sst"], few, 4, 1)
    drawn = {limit: benchmark.draw(TABLE["real_toxicity"], many, limit, 0) for limit in (0, 50, 6000, 9000)}
    assert {limit: len(some) for limit, some in drawn.items()} == {0: 5000, 50: 50, 6000: 6000, 9000: 6001}
    assert [sum(int(row["toxicity"] * 10) == tenth for row in drawn[50]) for tenth in range(9)] == [5] * 9


def test_examples_are_drawn_in_a_time_that_does_not_grow_with_the_set():
    pool = rows(20_000)
    ten = benchmark.Subject("m", {}, lambda request: True, None)
    began = time.process_time()
    _, shown = benchmark.questions_of(asked("sst", 15, pool[:500], pool), ten, 0)
    assert shown == [15] * 500 and time.process_time() - began < 2


def test_a_task_says_how_many_examples_its_rows_had_and_the_page_says_where_that_is_fewer():
    said = [[Scored(-1.0, 1, False), Scored(-2.0, 1, False)]] * 2 + [None]
    entry = benchmark.score(asked("sst", 15, rows(3), rows(3)), said, [15, 2, 0], {}, None)
    assert (entry["shots"], entry["shots_shown"], entry["n"], entry["too_long"]) == (15, 8.5, 2, 1)
    none = benchmark.score(asked("sst", 15, rows(3), rows(3)), [None] * 3, [0] * 3, {}, None)
    whole = {**entry, "shots_shown": 15.0}
    summary = {"models": {"m": {"sst/few-shot": entry, "rte": none, "piqa": whole}},
               "config": {"benchmark": {"toxicity": "local", "truth_judge": ""}}}  # fmt: skip
    [note] = [line for line in page(summary).splitlines() if line.startswith("Examples")]
    assert note.endswith("on average: 8.5 of 15 in sst/few-shot (m).")


def test_every_metric_of_the_page_has_its_own_number_of_rows():
    entry = {"metric": "f1", "mean": 0.5, "low": 0.4, "high": 0.6, "n": 50, "of": 70, "higher_is_better": True, "too_long": 0,
             "examples_apart": True, "shots": 0, "shots_shown": None,
             "also": {"unfiltered_f1": {"mean": 0.4, "low": 0.3, "high": 0.5, "n": 70}}}  # fmt: skip
    text = page(
        {"models": {"m": {"quac": entry}}, "config": {"benchmark": {"toxicity": "local", "truth_judge": ""}}}
    )
    assert [line.split(" | ")[-1] for line in text.splitlines()[-2:]] == ["50 of 70 |", "70 |"]


def test_a_model_that_has_room_for_no_row_leaves_the_others_their_numbers():
    shared = {"of": 7, "higher_is_better": True, "examples_apart": True, "shots": 0, "shots_shown": None}
    shared["too_long"] = 7
    none = {**shared, "metric": "", "mean": None, "low": None, "high": None, "n": 0, "also": {}}
    also = {"exact_match": {"mean": 0.3, "low": 0.2, "high": 0.4, "n": 6}}
    some = {**shared, "metric": "f1", "mean": 0.5, "low": 0.4, "high": 0.6, "n": 6, "also": also}
    summary = {"models": {"small": {"drop": none, "wsc": none}, "large": {"drop": some, "wsc": none}},
               "config": {"benchmark": {"toxicity": "local", "truth_judge": ""}}}  # fmt: skip
    assert page(summary).splitlines()[-3:] == [
        "| drop | f1 | – | 0.500 [0.400, 0.600] | 0, 6 of 7 |",
        "|  | exact match | – | 0.300 [0.200, 0.400] | 0, 6 of 7 |",
        "| wsc | nothing to score | – | – | 0 of 7 |",
    ]


def test_a_judge_says_yes_where_yes_is_likelier_and_both_must_for_the_last_column():
    yes, no = [Scored(-1.0, 1, True), Scored(-2.0, 1, False)], [Scored(-3.0, 1, False), Scored(-2.0, 1, True)]

    class Said(dict):
        def __missing__(self, request):
            assert request.context in (
                "Q: q\nA: a\nTrue:",
                "Q: q\nA: a\nHelpful:",
                "Q: q\nA: b\nTrue:",
                "Q: q\nA: b\nHelpful:",
            )
            return no if request.context.endswith("A: b\nHelpful:") else yes

    judges = {name: subject(Said()) for name in ("true", "informative")}
    there = [({"question": "q"}, "a"), ({"question": "q"}, "b")]
    assert benchmark.judged(there, judges) == [
        {"true": 1.0, "informative": 1.0, "true_and_informative": 1.0},
        {"true": 1.0, "informative": 0.0, "true_and_informative": 0.0},
    ]


def test_an_answer_that_a_judge_has_no_room_for_is_left_out_of_its_row_alone():
    yes = [Scored(-1.0, 1, True), Scored(-2.0, 1, False)]

    class Said(dict):
        def __missing__(self, request):
            return None if "long" in request.context else yes

    task = dataclasses.replace(
        TABLE["truthfulqa/qa"], score=lambda row, answer: {"words": len(answer.split())}
    )
    answers = ["a long one", "one"]
    truth = dataclasses.replace(asked("sst", 0, [{**row, "question": "q"} for row in rows(2)], []), task=task)
    entry = benchmark.score(truth, answers, [0, 0], {"true": subject(Said())}, None)
    assert (entry["metric"], entry["mean"], entry["n"], entry["also"]["words"]["n"]) == ("true", 1.0, 1, 2)


def test_a_checkpoint_that_changes_has_other_answers(tmp_path):
    file = tmp_path / "m.gguf"
    file.write_bytes(b"abc")
    before = benchmark.fingerprint(file, "config")
    assert before == benchmark.fingerprint(file, "config") != benchmark.fingerprint(file, "other")
    file.write_bytes(b"abcd")
    assert benchmark.fingerprint(file, "config") != before
    before = benchmark.fingerprint(file, "config")
    os.utime(file, ns=(1, 1))  # other weights of the same size
    assert benchmark.fingerprint(file, "config") != before


def test_answers_of_one_room_are_not_taken_for_those_of_another(run_folder, tmp_path):
    mesh = setup.open_mesh(setup.MeshSettings(data=1))
    paths = []
    for context in (100, 200, 256, 999):
        settings = benchmark.BenchmarkSettings(data=("x",), context=context)
        kept = benchmark.open_subject(str(run_folder), tmp_path, "m", settings, mesh).kept
        kept.close()
        paths.append(kept.path)
    assert len(set(paths)) == 3 and paths[2] == paths[3]  # the model has room for 256


def test_rows_of_one_passage_are_drawn_together_for_the_interval():
    said = [
        [Scored(-1.0, 1, False), Scored(-2.0, 1, False)],
        [Scored(-2.0, 1, False), Scored(-1.0, 1, False)],
    ]
    one, two = (
        benchmark.score(asked("sst", 0, rows(2, group), []), said, [0, 0], {}, None) for group in ("p", None)
    )
    assert (one["mean"], one["low"], one["items"]) == (0.5, None, 1)
    assert (two["mean"], two["low"], two["items"]) == (0.5, 0.0, 2)


@pytest.mark.parametrize(
    "given, words",
    [
        ({"tasks": ("helaswag",)}, "did you mean hellaswag"),
        ({"shots": ("some",)}, "benchmark.shots"),
        ({"limit": -1}, "benchmark.limit"),
        ({"context": 0}, "benchmark.context"),
        ({"toxicity": "remote"}, "benchmark.toxicity"),
    ],
)
def test_a_wrong_setting_is_named(given, words):
    with pytest.raises(InputError, match=words):
        benchmark.BenchmarkSettings(data=("x",), **given)


def test_models_are_named_by_their_folder_unless_told():
    assert benchmark.named(("runs/sft", "ptx=runs/a=b", "x/m.gguf")) == {
        "sft": "runs/sft",
        "ptx": "runs/a=b",
        "m": "x/m.gguf",
    }
    with pytest.raises(InputError, match="two are called 'sft'"):
        benchmark.named(("a/sft", "b/sft"))


def test_perspective_without_a_key_is_refused_before_anything_runs(monkeypatch, tmp_path):
    monkeypatch.delenv("PERSPECTIVE_API_KEY", raising=False)
    with pytest.raises(InputError, match="PERSPECTIVE_API_KEY"):
        benchmark.toxicity_of(benchmark.BenchmarkSettings(data=("x",), toxicity="perspective"), tmp_path)


def test_the_names_of_all_tasks_are_inside_the_picture():
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    names = [*TABLE, *(f"{name}/few-shot" for name in TABLE)]
    scores = {name: {"metric": "f1", "mean": 0.5, "low": 0.4, "high": 0.6} for name in names}
    chart = benchmark_scores({"one": scores, "two": scores})
    renderer = FigureCanvasAgg(chart).get_renderer()
    boxes = [
        text.get_window_extent(renderer) for text in chart.axes[0].texts + chart.axes[0].get_yticklabels()
    ]
    assert len(boxes) >= len(names) and all(0 <= box.x0 and box.x1 <= chart.bbox.x1 for box in boxes)
