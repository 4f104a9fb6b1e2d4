import logging

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct_jax.algorithms.pieces import split
from instruct_jax.data import pipeline
from instruct_jax.data.packing import pack
from instruct_jax.errors import InputError
from instruct_jax.records import Demonstration, Document, Prompt, Ranking
from instruct_jax.text.templates import Template

PLAIN = Template("", "\n")


class Letters:
    """A tokenizer to work rows out by hand: a is 10, b is 11, ..., newline is 3."""

    pad_id, unk_id, eos_id, bos_id = 0, 1, 2, None

    def encode_batch(self, texts):
        return [[3 if letter == "\n" else ord(letter) - ord("a") + 10 for letter in text] for text in texts]

    def encode_prompts(self, template, prompts):
        return self.encode_batch([template.render(prompt) for prompt in prompts])


def make_demonstrations(rows, **options):
    defaults = dict(batch_size=1, max_prompt=4, max_response=3, seed=0)
    return pipeline.demonstrations(rows, Letters(), PLAIN, **(defaults | options))


def make_prompts(count, batch_size, seed=0):
    rows = [Prompt(f"p{i}", "a" * (i % 3 + 1)) for i in range(count)]
    return pipeline.prompts(rows, Letters(), PLAIN, batch_size=batch_size, max_prompt=5, seed=seed)


def assert_same(a, b):
    for name, value in vars(a).items():
        np.testing.assert_array_equal(value, getattr(b, name), name)


def test_a_demonstration_is_prompt_response_eos_and_padding():
    batch = make_demonstrations([Demonstration("p", "ab", "c")]).at(0)
    np.testing.assert_array_equal(batch.tokens_BT, [[10, 11, 3, 12, 2, 0, 0]])
    np.testing.assert_array_equal(batch.segments_BT, [[1, 1, 1, 1, 1, 0, 0]])
    np.testing.assert_array_equal(batch.loss_mask_BT, np.array([[0, 0, 0, 1, 1, 0, 0]], bool))
    assert (batch.tokens_BT.dtype, batch.segments_BT.dtype) == (np.int32, np.int32)


def test_loss_on_the_prompt_leaves_out_only_the_first_token_and_padding():
    batch = make_demonstrations([Demonstration("p", "ab", "c")], loss_on_prompt=True).at(0)
    np.testing.assert_array_equal(batch.loss_mask_BT, np.array([[0, 1, 1, 1, 1, 0, 0]], bool))


def test_packed_demonstrations_share_a_row_as_segments_with_the_loss_on_each_response():
    rows = [Demonstration("p", "a", "c"), Demonstration("q", "b", "")]
    batch = make_demonstrations(rows, packed=True).at(0)
    np.testing.assert_array_equal(batch.tokens_BT, [[10, 3, 12, 2, 11, 3, 2]])
    first, second = batch.segments_BT[0, 0], batch.segments_BT[0, 4]
    assert first != second and 0 not in (first, second)
    np.testing.assert_array_equal(batch.segments_BT, [[first] * 4 + [second] * 3])
    np.testing.assert_array_equal(batch.loss_mask_BT, np.array([[0, 0, 1, 1, 0, 0, 1]], bool))


def test_packing_keeps_every_demonstration_whole_and_once():
    rows = [Demonstration(f"p{i}", "abc"[: i % 3 + 1], "de"[: i % 2]) for i in range(300)]
    plain, packed = (make_demonstrations(rows, packed=p) for p in (False, True))

    def sequences(batches):
        batch = batches.take(0, batches.rows)
        return sorted(
            tuple(zip(tokens[segments == s], loss[segments == s], strict=True))
            for tokens, segments, loss in zip(
                batch.tokens_BT, batch.segments_BT, batch.loss_mask_BT, strict=True
            )
            for s in set(segments[segments > 0])
        )

    assert sequences(packed) == sequences(plain)
    assert packed.rows < 0.9 * plain.rows


def test_rows_that_do_not_fit_are_dropped_counted_and_named_never_cut(caplog):
    rows = [
        Demonstration("fits", "abc", "de"),
        Demonstration("long-prompt", "abcd", "d"),
        Demonstration("long-response", "a", "def"),
    ]
    with caplog.at_level(logging.WARNING):
        batches = make_demonstrations(rows)
    assert (batches.rows, batches.dropped) == (1, 2)
    assert "2 of 3 rows dropped: 1 with a prompt" in caplog.text and "first: long-prompt" in caplog.text
    np.testing.assert_array_equal(batches.at(0).tokens_BT, [[10, 11, 12, 3, 13, 14, 2]])
    with pytest.raises(InputError, match="no row is left"):
        make_demonstrations(rows[1:])


def test_documents_are_one_text_led_by_eos_and_cut_into_rows():
    rows = [Document("x", "abc"), Document("y", "de"), Document("z", "f")]
    batches = pipeline.documents(rows, Letters(), batch_size=2, length=4, seed=0)
    assert batches.rows == 2  # 9 tokens: the last is left out
    batch = batches.at(0)
    np.testing.assert_array_equal(batch.segments_BT, np.ones((2, 4)))
    np.testing.assert_array_equal(batch.loss_mask_BT, np.array([[0, 1, 1, 1]] * 2, bool))
    texts = {(2, 10, 11, 12), (2, 13, 14), (2, 15)}
    orders = [(a, b, c) for a in texts for b in texts for c in texts if len({a, b, c}) == 3]
    possible = {tuple(sorted((sum(o, ())[:4], sum(o, ())[4:8]))) for o in orders}
    assert tuple(sorted(map(tuple, batch.tokens_BT.tolist()))) in possible
    with pytest.raises(InputError, match="too few for one row of length 10"):
        pipeline.documents(rows, Letters(), batch_size=1, length=10, seed=0)


def test_every_row_of_documents_begins_with_bos_where_there_is_one(monkeypatch):
    monkeypatch.setattr(Letters, "bos_id", 9)
    rows = [Document("x", "abc"), Document("y", "abc")]
    batch = pipeline.documents(rows, Letters(), batch_size=2, length=4, seed=0).take(0, 2)
    assert sorted(batch.tokens_BT.tolist()) == [[9, 2, 10, 11], [9, 12, 2, 10]]
    assert not batch.loss_mask_BT[:, 0].any() and batch.loss_mask_BT[:, 1:].all()


def test_the_seed_orders_the_documents():
    rows = [Document(f"d{i}", letter) for i, letter in enumerate("abcdefgh")]

    def text(seed):
        return (
            pipeline.documents(rows, Letters(), batch_size=1, length=16, seed=seed).at(0).tokens_BT.tolist()
        )

    assert text(1) == text(1) != text(2)


def make_rankings(rows, **options):
    defaults = dict(batch_size=1, max_prompt=3, max_response=3, k_max=3, seed=0)
    return pipeline.rankings(rows, Letters(), PLAIN, **(defaults | options))


def completions_of(batch):
    """{slot: ids} read back from the packed rows by the segment that ends at the slot's place."""
    found = {}
    for slot in zip(*np.nonzero(batch.ranks_BK), strict=True):
        row, column = batch.row_BK[slot], batch.column_BK[slot]
        own = batch.segments_XT[row] == batch.segments_XT[row, column]
        assert np.flatnonzero(own)[-1] == column and batch.segments_XT[row, column] > 0
        found[tuple(map(int, slot))] = batch.tokens_XT[row][own].tolist()
    return found


def test_a_ranking_is_k_slots_and_only_finished_completions_end_in_eos():
    row = Ranking("p", "ab", "l", ["c", "def"], [2, 1], ["m", "m"], [True, False])
    batch = make_rankings([row]).at(0)
    assert completions_of(batch) == {(0, 0): [10, 11, 3, 12, 2], (0, 1): [10, 11, 3, 13, 14, 15]}
    np.testing.assert_array_equal(batch.ranks_BK, [[2, 1, 0]])


def test_short_completions_share_packed_rows_and_every_batch_has_as_many():
    rows = [
        Ranking(f"p{i}", "a", "l", ["b"] * (2 + i % 2), [1, 2, 3][: 2 + i % 2], ["m"] * (2 + i % 2))
        for i in range(9)
    ]
    batches = make_rankings(rows, batch_size=3, max_prompt=4, max_response=8)
    for i in range(batches.steps_per_epoch):
        batch = batches.at(i)
        assert batch.tokens_XT.shape == (8, 12)  # 3 sequences of 4 tokens a row, in a multiple of 8 rows
        assert set(map(tuple, completions_of(batch).values())) == {(10, 3, 11, 2)}
        assert (batch.segments_XT > 0).sum() == 4 * (batch.ranks_BK > 0).sum()


def test_a_batch_in_groups_comes_apart_into_pieces_that_hold_whole_prompts():
    texts = ["c", "de", "f", "ghi"]
    rows = [
        Ranking(f"p{i}", "ab"[: 1 + i % 2], "l", texts[i % 3 : i % 3 + 2], [1, 2], ["m"] * 2)
        for i in range(6)
    ]
    whole, grouped = (make_rankings(rows, batch_size=6, max_response=4, groups=n).at(0) for n in (1, 3))
    taken = split(grouped, 3)
    expected = completions_of(whole)
    for group in range(3):
        mine = completions_of(jax.tree.map(lambda x, g=group: np.asarray(x[g]), taken))
        assert mine == {(b, k): expected[group + 3 * b, k] for b, k in mine} and len(mine) == 4


def shared_completions_of(batch):
    """As `completions_of`, each with the segment before it that it branches off from."""
    found = {}
    for slot in zip(*np.nonzero(batch.ranks_BK), strict=True):
        row, column = batch.row_BK[slot], batch.column_BK[slot]
        segments, stems = batch.segments_XT[row], batch.stems_XT[row]
        read = np.isin(segments, [segments[column], stems[column]]) & (np.arange(len(segments)) <= column)
        found[tuple(map(int, slot))] = batch.tokens_XT[row][read].tolist()
    return found


def groups_of(batch, groups):
    return [jax.tree.map(lambda x, g=g: np.asarray(x[g]), split(batch, groups)) for g in range(groups)]


def test_a_text_without_tokens_moves_no_other_completion():
    empty = Ranking("e", "", "l", ["", "abc", "de"], [1, 2, 3], ["m"] * 3, [False] * 3)
    other = Ranking("o", "xy", "l", ["f", "gh", "i"], [1, 2, 3], ["m"] * 3, [False] * 3)
    for width in (None, 12):
        batch = pipeline.rankings(
            [empty, other], Letters(), Template("", ""), batch_size=2, max_prompt=3, max_response=3, k_max=3, seed=0, shared_width=width
        ).at(0)  # fmt: skip
        places = [(batch.row_BK[b, k], batch.column_BK[b, k]) for b in (0, 1) for k in (1, 2)]
        ends = [batch.tokens_XT[place] for place in places]
        own = [int((batch.segments_XT == batch.segments_XT[place]).sum()) for place in places]
        prompt = 2 * (width is None)  # shared, it is a segment of its own
        expected = {(12, 14): (3, 2), (17, 18): (2 + prompt, 1 + prompt)}  # c and e, h and i
        assert {tuple(ends[i : i + 2]): tuple(own[i : i + 2]) for i in (0, 2)} == expected


LENGTHS = st.lists(st.tuples(st.integers(1, 3), st.lists(st.integers(0, 4), min_size=2, max_size=5)), min_size=6, max_size=6)  # fmt: skip


@given(LENGTHS, st.integers(1, 2))
def test_completions_that_share_their_prompt_read_it_and_themselves_and_take_fewer_tokens(drawn, groups):
    rows = [
        Ranking(f"p{i}", "abc"[:size], "l", ["d" * n for n in own], [1] * len(own), ["m"] * len(own), [j % 2 == 0 for j in range(len(own))])
        for i, (size, own) in enumerate(drawn)
    ]  # fmt: skip
    options = dict(batch_size=6, max_prompt=4, max_response=5, k_max=5, groups=groups)
    alone, shared = (
        make_rankings(rows, **options).at(0),
        make_rankings(rows, shared_width=14, **options).at(0),
    )
    # The order depends on what rankings take, so they are compared without it.
    found = [
        completion for of in groups_of(shared, groups) for completion in shared_completions_of(of).values()
    ]
    assert sorted(found) == sorted(c for of in groups_of(alone, groups) for c in completions_of(of).values())
    taken = [int((batch.segments_XT > 0).sum()) for batch in (shared, alone)]
    assert taken[0] <= taken[1] - min(size + 1 for size, _ in drawn) or any(0 in own for _, own in drawn)
    assert shared.tokens_XT.shape[1] == 14


def test_batches_of_rankings_take_nearly_as_many_tokens_each_and_an_epoch_has_every_ranking_once():
    rng = np.random.default_rng(0)
    rows = [
        Ranking(f"p{i}", "a", "l", ["b" * int(n) for n in rng.integers(1, 20, k)], [1] * k, ["m"] * k)
        for i, k in enumerate(rng.integers(2, 10, 410).tolist())
    ]
    batches = make_rankings(rows, batch_size=16, max_response=21, k_max=9, epochs=2)
    taken = [(batches.at(i).segments_XT > 0).sum() for i in range(26)]  # the last has rows of two epochs
    whole = [3 * len(r.completions) + sum(map(len, r.completions)) for r in rows]
    spread = np.std(np.random.default_rng(1).permutation(whole)[:400].reshape(25, 16).sum(axis=1))
    assert np.std(taken[:25]) < 0.1 * spread and abs(taken[25] - np.mean(taken)) < spread
    lengths = [sorted(map(len, completions_of(batches.at(i)).values())) for i in range(25)]
    first = batches.at(25)
    lengths.append(
        [n for (b, _), n in zip(completions_of(first), map(len, completions_of(first).values())) if b < 10]
    )
    assert sorted(sum(lengths, [])) == sorted(3 + len(text) for row in rows for text in row.completions)
    assert not np.array_equal(batches.at(0).ranks_BK, batches.at(26).ranks_BK)
    later = [(batches.at(i).segments_XT > 0).sum() for i in range(26, batches.steps(2) - 1)]
    assert np.std(later) < 0.1 * spread


@pytest.mark.parametrize(
    "devices, groups, rows", [(1, 1, 56), (4, 1, 56), (16, 1, 64), (3, 1, 72), (16, 2, 64)]
)
def test_packed_rows_divide_over_the_devices_and_one_that_divides_8_changes_none(devices, groups, rows):
    source = [Ranking(f"p{i}", "ab", "l", ["cdef"] * 2, [1, 2], ["m"] * 2) for i in range(28)]
    batches = make_rankings(source, batch_size=28, max_response=5, groups=groups, devices=devices)
    batch = batches.at(0)  # a row each for 56 completions
    assert batch.tokens_XT.shape == (rows, 8) and (batch.segments_XT > 0).any(axis=1).sum() == 56
    for group in jax.tree.leaves(split(batch.tokens_XT, groups)):
        assert group.shape[1] % devices == 0


@given(st.lists(st.integers(0, 7), min_size=1, max_size=12))
def test_packing_overlaps_nothing_and_leaves_nothing_out(lengths):
    rows, columns = pack(lengths, 7)
    taken = [(r, c + i) for r, c, n in zip(rows, columns, lengths, strict=True) for i in range(n)]
    assert len(set(taken)) == sum(lengths) and all(c < 7 for _, c in taken)


def test_a_completion_that_does_not_fit_leaves_its_ranking_and_takes_it_along_when_one_remains(caplog):
    three = Ranking("p3", "a", "l", ["c", "ddd", "e"], [1, 2, 3], ["m"] * 3)
    two = Ranking("p2", "a", "l", ["c", "ddd"], [1, 2], ["m"] * 2)
    long = Ranking("long", "abc", "l", ["c", "d"], [1, 2], ["m"] * 2)
    with caplog.at_level(logging.WARNING):
        batches = make_rankings([two, three, long])
    assert (batches.rows, batches.dropped) == (1, 2)
    assert "2 completions" in caplog.text
    np.testing.assert_array_equal(batches.at(0).ranks_BK, [[1, 3, 0]])
    assert completions_of(batches.at(0))[0, 1] == [10, 3, 14, 2]


def test_more_completions_than_slots_are_an_error_that_names_the_prompt():
    with pytest.raises(InputError, match=r"prompt p9 has 2 completions; raise k_max \(1\)"):
        make_rankings([Ranking("p9", "a", "l", ["c", "d"], [1, 2], ["m"] * 2)], k_max=1)


def test_prompts_are_padded_on_the_left_and_carry_their_row_number():
    rows = [Prompt("long", "abcdefgh"), Prompt("p", "ab")]
    batches = pipeline.prompts(rows, Letters(), PLAIN, batch_size=1, max_prompt=5, seed=0)
    batch = batches.at(3)
    assert batches.dropped == 1
    np.testing.assert_array_equal(batch.tokens_BP, [[0, 0, 10, 11, 3]])
    np.testing.assert_array_equal(batch.mask_BP, np.array([[0, 0, 1, 1, 1]], bool))
    np.testing.assert_array_equal(batch.index_B, [1])
    assert batch.index_B.dtype == np.int32


def test_a_batch_larger_than_the_data_is_an_error_with_both_numbers():
    with pytest.raises(InputError, match="batch_size 4 does not fit 3 rows"):
        make_prompts(3, batch_size=4)


def test_a_step_gives_the_same_batch_whatever_was_read_before():
    read, fresh = make_prompts(11, 3), make_prompts(11, 3)
    for step in range(7):
        read.at(step)
    assert_same(read.at(7), fresh.at(7))
    assert_same(read.at(0), fresh.at(0))


def test_an_epoch_shows_each_row_once_and_the_last_batch_is_completed_from_the_next():
    batches = make_prompts(11, 4)
    assert batches.steps_per_epoch == 3 and batches.steps(16) == 44
    seen = np.concatenate([batches.at(step).index_B for step in range(11)])  # 44 rows: four epochs
    epochs = seen.reshape(4, 11)
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4, "each epoch has an order of its own"


def test_a_batch_can_span_several_epochs():
    counts = np.bincount(make_prompts(3, 3).take(3, 9).index_B)
    np.testing.assert_array_equal(counts, [3, 3, 3])


def test_the_seed_changes_the_order():
    orders = {tuple(make_prompts(20, 20, seed).at(0).index_B) for seed in (0, 1, -1)}
    assert len(orders) == 3


def make_mixture(fraction, batch_size):
    a = make_demonstrations(
        [Demonstration(f"p{i}", "a", "defghijkl"[i % 9]) for i in range(45)], batch_size=batch_size
    )
    text = [Document(f"d{i}", "ccccc" + "mnopqrst"[i % 8]) for i in range(40)]
    b = pipeline.documents(text, Letters(), batch_size=batch_size, length=7, seed=0)
    return a, b, pipeline.mixture(a, b, fraction)


def count_b(batch):
    return int((batch.tokens_BT == 12).any(axis=1).sum())


def test_a_mixture_holds_its_share_in_every_batch():
    a, _, mixed = make_mixture(0.1, 20)
    assert [count_b(mixed.at(step)) for step in range(6)] == [2] * 6
    assert mixed.at(0).tokens_BT.shape == (20, 7)
    assert mixed.rows == 49  # the 45 demonstrations and 4 rows between them


def test_a_share_that_is_no_whole_number_is_exact_in_total():
    _, _, mixed = make_mixture(0.1, 32)
    counts = [count_b(mixed.at(step)) for step in range(10)]
    assert set(counts) == {3, 4} and sum(counts) == 32


def test_a_mixture_reads_both_streams_in_order_without_gaps():
    a, b, mixed = make_mixture(0.25, 4)
    assert_same(mixed.at(5), make_mixture(0.25, 4)[2].at(5))
    first = mixed.at(2)
    np.testing.assert_array_equal(first.tokens_BT[:3], a.take(6, 3).tokens_BT)
    np.testing.assert_array_equal(first.tokens_BT[3:], b.take(2, 1).tokens_BT)


def test_a_mixture_refuses_other_widths_and_shares():
    a, b, _ = make_mixture(0.0, 4)
    with pytest.raises(InputError, match="fraction_b is 1"):
        pipeline.mixture(a, b, 1)
    narrow = pipeline.documents([Document("d", "c" * 60)], Letters(), batch_size=4, length=6, seed=0)
    with pytest.raises(InputError, match="7 and 6 tokens"):
        pipeline.mixture(a, narrow, 0.5)
