"""Model calls on text: how prompts are dealt into batches of few shapes."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct_jax.algorithms.decode import SamplingConfig
from instruct_jax.errors import InputError
from instruct_jax.sharding import make_mesh
from instruct_jax.stages import inference
from instruct_jax.stages.bench import Bench
from instruct_jax.stages.inference import (
    Sampled,
    _by_width,
    _sampled,
    make_logprobs,
    make_sampler,
    make_scorer,
    right_padded,
)
from instruct_jax.text.templates import TEMPLATES


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 9))
def test_every_row_is_in_one_group_wide_enough_and_only_the_last_batch_is_not_full(lengths, batch_size):
    groups = _by_width(lengths, 40, batch_size)
    assert sorted(i for _, rows in groups for i in rows) == list(range(len(lengths)))
    assert all(lengths[i] <= width <= 40 for width, rows in groups for i in rows)
    assert all(len(rows) % batch_size == 0 for width, rows in groups if width < 40)


def test_short_rows_keep_to_the_narrow_width_where_they_fill_batches_enough_to_be_worth_a_program():
    assert [(width, len(rows)) for width, rows in _by_width([5] * 17 + [40], 40, 4)] == [(15, 16), (40, 2)]
    assert [(width, len(rows)) for width, rows in _by_width([5] * 15 + [40], 40, 4)] == [(40, 16)]


def test_a_prompt_over_the_limit_is_refused_with_both_numbers():
    with pytest.raises(InputError, match="41 tokens, over the limit of 40"):
        _by_width([3, 41], 40, 2)


def test_a_row_that_is_cut_is_counted_in_the_log(caplog):
    tokens_BT, mask_BT = right_padded([[5, 6, 7], [8]], 3, 2, 0)
    assert tokens_BT.tolist() == [[5, 6], [8, 0], [0, 0]]
    assert mask_BT.tolist() == [[True, True], [True, False], [False, False]]
    assert "1 of 2 rows have more than 2 tokens" in caplog.text


class Letters:
    """Token 3 is a newline, 10 is a, 11 is b, ...; 2 ends a text, and so does 4, which has a spelling."""

    eos_id, stop_ids = 2, (2, 4)

    def decode(self, ids):
        return "".join({3: "\n", 4: "<end>"}.get(i, chr(ord("a") + i - 10)) for i in ids if i != 2)

    def encode_batch(self, texts):
        return [[3 if x == "\n" else ord(x) - ord("a") + 10 for x in text] for text in texts]


def test_a_response_ends_at_its_eos_or_before_the_templates_stop():
    tokens_R, mask_R = np.array([10, 3, 11, 12]), np.array([True, True, True, True])
    assert _sampled(tokens_R, mask_R, Letters(), "") == Sampled("a\nbc", False, [10, 3, 11, 12])
    assert _sampled(tokens_R, mask_R, Letters(), "\n") == Sampled("a", True, [10, 2])
    ended = _sampled(np.array([10, 2, 0, 0]), np.array([True, True, False, False]), Letters(), "\n")
    assert ended == Sampled("a", True, [10, 2])


def test_a_stop_that_ends_a_response_is_no_part_of_its_text():
    ended = _sampled(np.array([10, 4, 0]), np.array([True, True, False]), Letters(), "")
    assert ended == Sampled("a", True, [10, 4])
    assert _sampled(np.array([4, 0, 0]), np.array([True, False, False]), Letters(), "").text == ""


class Numbers:
    """A prompt is its tokens; 2 ends a text, and so does what a test sets beside it."""

    eos_id, pad_id, stop_ids = 2, 0, (2,)

    def encode_prompts(self, template, prompts):
        return prompts

    def decode(self, ids):
        return " ".join(map(str, ids))


def test_any_of_a_checkpoints_stops_ends_a_response(tiny_model, tiny_params):
    mesh, sampling = make_mesh(devices=jax.devices()[:1]), SamplingConfig(8, temperature=0)

    def sample(tokenizer):
        sampler = make_sampler(tiny_model, sampling, tokenizer, mesh, max_prompt=4, batch_size=1)
        return sampler(tiny_params, [[7, 8, 9]], TEMPLATES["verbatim"], jax.random.key(0))[0]

    free, tokenizer = sample(Numbers()), Numbers()
    assert len(free.ids) == 8 and not free.finished
    tokenizer.stop_ids = (2, free.ids[5])
    first = free.ids.index(free.ids[5])
    ids = free.ids[: first + 1]
    assert sample(tokenizer) == Sampled(tokenizer.decode(ids[:-1]), True, ids)


class Summing:
    """A model whose score at a token is the sum of all tokens up to it; notes the shapes that it is traced in."""

    def __init__(self):
        self.shapes = []

    def apply(self, variables, tokens_BT, segments_BT):
        self.shapes.append(tokens_BT.shape)
        return (tokens_BT * segments_BT).cumsum(axis=1).astype(np.float32)


class Lists:
    """A text is its length: that many tokens 7."""

    eos_id, pad_id = 2, 0

    def encode_batch(self, texts):
        return [[7] * int(text) for text in texts]

    def encode_prompts(self, template, prompts):
        return self.encode_batch(prompts)


def test_rows_are_scored_in_few_widths_and_come_back_in_their_order():
    model, rng = Summing(), np.random.default_rng(0)
    score = make_scorer(model, Lists(), make_mesh(devices=jax.devices()[:1]), width=40, batch_size=4)
    lengths = rng.integers(1, 39, 100)
    rows = [("1".zfill(i + 1), str(n), bool(n % 2)) for i, n in enumerate(lengths)]
    expected = [7 * (1 + n) + 2 * (n % 2) for n in lengths]
    np.testing.assert_array_equal(score({}, rows, None), expected)
    np.testing.assert_array_equal(score({}, rows, None), expected)
    assert sorted(model.shapes) == [(4, 15), (4, 25), (4, 40)]
    np.testing.assert_array_equal(score({}, [("1", "99", True)], None), [7 * 40])  # cut, as ever


def test_equal_rows_are_scored_once(monkeypatch):
    scored = []
    monkeypatch.setattr(
        inference, "right_padded", lambda ids, *given: scored.extend(ids) or right_padded(ids, *given)
    )
    score = make_scorer(Summing(), Lists(), make_mesh(devices=jax.devices()[:1]), width=40, batch_size=4)
    rows = [("1", "3", True), ("1", "5", False), ("1", "3", True), ("1", "3", False)]
    np.testing.assert_array_equal(score({}, rows, None), [30, 42, 30, 28])
    assert len(scored) == 3


def test_no_document_has_no_loss():
    bench = SimpleNamespace(batch_size=4, mesh=make_mesh(devices=jax.devices()[:2], data=2), tokenizer=SimpleNamespace(
        bos_id=None, eos_id=2, encode_batch=lambda texts: []))  # fmt: skip
    assert Bench.document_losses(bench, {}, [], 8) == []


class Spelled:
    """A model whose log-probability of a token is minus what was read before it; notes the shapes that it is traced in."""

    def __init__(self):
        self.shapes = []

    def apply(self, variables, tokens_BT, segments_BT, start, temperature, method):
        self.shapes.append(tokens_BT.shape)
        before_BT = (tokens_BT * segments_BT).cumsum(axis=1)[:, start - 1 : -1]
        return -before_BT.astype(np.float32) / temperature, None


def test_a_responses_log_probability_does_not_depend_on_the_prompts_beside_it():
    mesh, model = make_mesh(devices=jax.devices()[:1]), Spelled()
    logprobs = make_logprobs(model, Lists(), mesh, max_prompt=40, max_response=3, batch_size=4)
    lengths = [5] * 16 + [40, 12, 30]
    sampled = [Sampled("", True, [1, 2, 2][: 1 + n % 3]) for n in range(len(lengths))]
    found = logprobs(None, lengths, sampled, None, 2.0)
    # read before the tokens: 7 a prompt token, then 1, then 3
    want = [-sum((7 * n, 7 * n + 1, 7 * n + 3)[: len(s.ids)]) / 2 for n, s in zip(lengths, sampled)]
    assert found.tolist() == want
    assert model.shapes == [(4, 15 + 3), (4, 40 + 3)]
