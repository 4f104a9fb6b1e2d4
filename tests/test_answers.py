"""A model's answers: continuations packed behind their contexts score as each would alone; completions are generate's, cut."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct_jax.algorithms.decode import SamplingConfig, generate
from instruct_jax.errors import InputError
from instruct_jax.evaluation.packing import branch, pack
from instruct_jax.evaluation.requests import Completion, Continuations, Kept, Scored
from instruct_jax.models.transformer import PolicyModel
from instruct_jax.sharding import make_mesh
from instruct_jax.stages import answers, setup


class Engine:
    """Token 10 is a, 11 is b, …; 3 is a newline, 4 a space."""

    def decode(self, ids):
        return "".join({3: "\n", 4: " "}.get(i, chr(ord("a") + i - 10)) for i in ids if i > 2)


class Letters:
    """A tokenizer of one token a character; 2 ends a text."""

    eos_id, pad_id, bos_id, stop_ids, vocab_size, engine = 2, 0, None, (2,), 36, Engine()

    def encode_prompts(self, template, prompts):
        return [[{"\n": 3, " ": 4}.get(x, ord(x) - ord("a") + 10) for x in text] for text in prompts]

    def encode(self, text):
        return self.encode_prompts(None, [text])[0]

    def decode(self, ids):
        return self.engine.decode(int(i) for i in ids)


QUESTIONS = [
    Continuations("abc def", (" gh", " g", " hijk", "x yz")),
    Continuations("the same ", ("story", "once more")),
    Continuations("", ("he", "she is")),
    Continuations("a longer context than the others have", (" yes", " no")),
]


def alone(model, params, question):
    """The log-probabilities of each option by the model's own function, each in a row of its own."""
    tokens_BT = np.zeros((4, 56), np.int32)
    rows = [Letters().encode(question.context + option) for option in question.options]
    rows = rows if question.context else [[2, *row] for row in rows]
    for b, row in enumerate(rows):
        tokens_BT[b, : len(row)] = row
    start = max(len(question.context.rstrip()), 1)
    segments_BT = (tokens_BT > 0).astype(np.int32)
    logprobs_BX, _ = model.apply({"params": params}, tokens_BT, segments_BT, method="logprobs")
    return [
        (float(logprobs_BX[b, start - 1 : len(row) - 1].sum()), len(row) - start)
        for b, row in enumerate(rows)
    ]


def asked(model, params, questions, mesh=None, tokens_per_batch=256, context=64):
    mesh = mesh or make_mesh(devices=jax.devices()[:1])
    answerer = answers.make_answerer(
        model, Letters(), mesh, context=context, tokens_per_batch=tokens_per_batch
    )
    with jax.set_mesh(mesh):
        return dict(pair for batch in answerer(params, questions) for pair in batch)


def check(model, params, **options):
    found = asked(model, params, QUESTIONS, **options)
    for i, question in enumerate(QUESTIONS):
        for one, (total, tokens) in zip(found[i], alone(model, params, question), strict=True):
            assert one.tokens == tokens
            assert one.total == pytest.approx(total, abs=2e-4)


def test_options_that_share_a_row_and_a_context_score_as_each_does_alone(tiny_model, tiny_params):
    check(tiny_model, tiny_params)


def test_branches_keep_their_places_under_a_window_and_turned_positions():
    opened = setup.open_model("tests/pretrained/fixtures/gemma3_text")
    mesh = make_mesh(devices=jax.devices()[:1])
    assert opened.config.window == 8 and opened.config.positions == "rope"
    check(PolicyModel(opened.config), opened.load(mesh))


def test_scores_are_the_same_over_a_mesh(tiny_model, tiny_params):
    mesh = make_mesh(2, 2, 2)
    one, many = (
        asked(tiny_model, tiny_params, QUESTIONS, mesh=m)
        for m in (make_mesh(devices=jax.devices()[:1]), mesh)
    )
    for i in range(len(QUESTIONS)):
        np.testing.assert_allclose([x.total for x in one[i]], [x.total for x in many[i]], atol=2e-4)


def test_an_option_is_greedy_just_when_the_model_would_write_it(tiny_model, tiny_params):
    [written] = asked(tiny_model, tiny_params, [Completion("abc", 1)]).values()
    others = "ab" if written not in "ab" else "cd"
    if written:
        found = asked(tiny_model, tiny_params, [Continuations("abc", (written, *others))])[0]
        assert [one.greedy for one in found] == [True, False, False]
    best = max(found, key=lambda one: one.total)
    assert best == found[0]


def test_completions_are_greedy_text_up_to_the_first_newline(tiny_model, tiny_params):
    contexts = ["abc", "a b c d e f", "the cat", "x" * 40]
    found = asked(tiny_model, tiny_params, [Completion(text, 12) for text in contexts])
    prompts = answers._left_padded([Letters().encode(text) for text in contexts], 4, 40, 0)
    sampling = SamplingConfig(12, temperature=0.0)
    tokens_BR, mask_BR = generate(tiny_model, tiny_params, prompts, jax.random.key(0), sampling, 2, 0)
    for i, (tokens_R, mask_R) in enumerate(zip(np.asarray(tokens_BR), np.asarray(mask_BR))):
        assert found[i] == Letters().decode(tokens_R[mask_R]).partition("\n")[0].strip()


def test_an_answer_is_its_first_line_and_every_token_with_a_newline_ends_it():
    assert (
        answers.first_line(" yes, it is \nQ: and then?\nno") == "yes, it is"
        and answers.first_line("\nlate") == ""
    )
    assert answers.newline_ids(Letters()) == [3]


def test_what_does_not_fit_the_context_has_no_answer_and_the_rest_has(tiny_model, tiny_params):
    questions = [
        Continuations("a" * 60, ("b", "c")),
        Continuations("a", ("b", "c")),
        Completion("a" * 60, 5),
        Completion("a", 5),
    ]
    found = asked(tiny_model, tiny_params, questions, context=50)
    assert found[0] is None and found[2] is None
    assert len(found[1]) == 2 and isinstance(found[3], str)
    # From an option's last token nothing is predicted, so it may stand one past the context.
    edges = [Continuations("a" * n, ("b", "c")) for n in (50, 51)] + [
        Completion("a" * n, 5) for n in (45, 46)
    ]
    found = asked(tiny_model, tiny_params, edges, context=50)
    assert [found[i] is None for i in range(4)] == [False, True, False, True]


def test_an_option_without_tokens_is_named():
    with pytest.raises(InputError, match="option ''"):
        answers.encode_options(Letters(), [Continuations("abc", ("", "d"))])


texts = st.lists(st.integers(1, 5), min_size=1, max_size=12)


@given(st.lists(st.tuples(texts, st.lists(texts, min_size=1, max_size=4)), min_size=1, max_size=20))
def test_every_target_is_packed_once_behind_the_tokens_before_it(questions):
    found, wholes = [], {}
    for i, (context, options) in enumerate(questions):
        rows = [context + option for option in options]
        found += branch(i, rows, [len(context)] * len(rows), 64)
        wholes |= {(i, k): (row, len(context)) for k, row in enumerate(rows)}
    seen = {}
    for rows in pack(found, 256, 128, 2):
        assert rows.tokens_BT.shape[0] % 2 == 0
        for b in range(rows.tokens_BT.shape[0]):
            for at, target, owner in zip(rows.at_BX[b], rows.targets_BX[b], rows.owners_BX[b]):
                if owner >= 0:
                    segment, stem = rows.segments_BT[b, at], rows.stems_BT[b, at]
                    before = np.isin(rows.segments_BT[b, : at + 1], [segment, stem])
                    read = rows.tokens_BT[b, : at + 1][before].tolist()
                    seen.setdefault(rows.owned[owner], []).append((read, int(target)))
    expected = {
        key: [(row[:n], row[n]) for n in range(start, len(row))] for key, (row, start) in wholes.items()
    }
    assert seen == expected


@given(st.lists(st.integers(1, 99), min_size=1, max_size=50))
def test_prompts_are_dealt_into_batches_that_hold_them_once(lengths):
    dealt = list(answers.by_width(lengths, 80, 400, 8, 2))
    assert sorted(n for _, _, some in dealt for n in some) == [n for n, x in enumerate(lengths) if x <= 80]
    assert all(len(some) <= size and size % 2 == 0 for _, size, some in dealt)
    assert all(lengths[n] <= width for width, _, some in dealt for n in some)


def test_answers_are_kept_across_runs_and_a_torn_line_is_asked_again(tmp_path):
    path, request = tmp_path / "answers.jsonl", QUESTIONS[0]
    kept = Kept(path)
    kept.add([(request, [Scored(-1.5, 3, False)]), (Completion("a", 5), "text"), (Completion("b", 5), None)])
    kept.close()
    path.write_bytes(path.read_bytes() + b'{"key": "torn')
    again = Kept(path)
    assert again[request] == [Scored(-1.5, 3, False)] and again[Completion("a", 5)] == "text"
    assert again[Completion("b", 5)] is None and Completion("a", 6) not in again
    again.add([(Completion("c", 5), "d")])
    again.close()
    assert Kept(path, writes=False)[Completion("c", 5)] == "d"


def test_a_question_is_asked_once_and_never_again(tmp_path):
    calls = []

    def answerer(params, requests):
        calls.append(len(requests))
        yield [(i, request.context) for i, request in enumerate(requests)]

    kept = Kept(tmp_path / "answers.jsonl")
    questions = [Completion("a", 5), Completion("b", 5), Completion("a", 5)]
    answers.answer_all(answerer, None, questions, kept)
    answers.answer_all(answerer, None, [*questions, Completion("c", 5)], kept)
    assert calls == [2, 1] and kept[Completion("c", 5)] == "c"
