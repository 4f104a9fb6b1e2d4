"""Model calls on text: how prompts are dealt into batches of few shapes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct_jax.errors import InputError
from instruct_jax.stages.inference import Sampled, _by_width, _sampled, right_padded


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 9))
def test_every_row_is_in_one_group_wide_enough_and_only_the_last_batch_is_not_full(lengths, batch_size):
    groups = _by_width(lengths, 40, batch_size)
    assert sorted(i for _, rows in groups for i in rows) == list(range(len(lengths)))
    assert all(lengths[i] <= width <= 40 for width, rows in groups for i in rows)
    assert all(len(rows) % batch_size == 0 for width, rows in groups if width < 40)


def test_short_rows_keep_to_the_narrow_width_where_they_fill_a_batch():
    assert [(width, len(rows)) for width, rows in _by_width([5] * 9 + [40], 40, 4)] == [(15, 8), (40, 2)]


def test_a_prompt_over_the_limit_is_refused_with_both_numbers():
    with pytest.raises(InputError, match="41 tokens, over the limit of 40"):
        _by_width([3, 41], 40, 2)


def test_a_row_that_is_cut_is_counted_in_the_log(caplog):
    tokens_BT, mask_BT = right_padded([[5, 6, 7], [8]], 3, 2, 0)
    assert tokens_BT.tolist() == [[5, 6], [8, 0], [0, 0]]
    assert mask_BT.tolist() == [[True, True], [True, False], [False, False]]
    assert "1 of 2 rows have more than 2 tokens" in caplog.text


class Letters:
    """Token 3 is a newline, 10 is a, 11 is b, ...; 2 ends a text."""

    eos_id = 2

    def decode(self, ids):
        return "".join("\n" if i == 3 else chr(ord("a") + i - 10) for i in ids if i != 2)

    def encode_batch(self, texts):
        return [[3 if x == "\n" else ord(x) - ord("a") + 10 for x in text] for text in texts]


def test_a_response_ends_at_its_eos_or_before_the_templates_stop():
    tokens_R, mask_R = np.array([10, 3, 11, 12]), np.array([True, True, True, True])
    assert _sampled(tokens_R, mask_R, Letters(), "") == Sampled("a\nbc", False, [10, 3, 11, 12])
    assert _sampled(tokens_R, mask_R, Letters(), "\n") == Sampled("a", True, [10, 2])
    ended = _sampled(np.array([10, 2, 0, 0]), np.array([True, True, False, False]), Letters(), "\n")
    assert ended == Sampled("a", True, [10, 2])
