"""Home of the order of batches: endless streams of rows, cut into batches, addressed by step and by share.

Differs from the paper, which does not describe its loader. The order is a pure function of (seed, row number in
the stream): epoch e is the permutation that sorts raw Philox bits keyed by (seed, e), which numpy keeps stable
across its versions (rankings are evened by size in it); nothing is read to reach step n. A process makes only its
share of a batch, and the shares put together are the batch, whatever their number.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import jax
import numpy as np

from instruct_jax.errors import InputError

Share = tuple[
    int, int, int
]  # (start, stop, of): the rows from start / of to stop / of of every array of a batch
WHOLE: Share = (0, 1, 1)
EVENED = 32  # batches that are evened among themselves


@dataclass(frozen=True)
class Batches:
    """An endless stream of rows, cut into batches.

    The stream holds epoch after epoch of all `rows` rows, each epoch in an order of its own. The last batch
    of an epoch is completed from the next one, so a row can occur twice in that batch and in no other.
    `dropped` counts the source's rows that did not fit.
    """

    take: Callable[
        ..., Any
    ]  # (first, count, share) → the share of a batch of the rows [first, first + count)
    batch_size: int
    rows: int
    dropped: int = 0

    def __post_init__(self):
        if not 1 <= self.batch_size <= self.rows:
            raise InputError(
                f"batch_size {self.batch_size} does not fit {self.rows} rows ({self.dropped} were dropped as "
                f"too long): it must be 1 to {self.rows}, or give more data"
            )

    def at(self, step: int, share: Share = WHOLE):
        """The batch of a step, the same whatever was read before, or a share of it: only its rows are made."""
        return self.take(step * self.batch_size, self.batch_size, share)

    def steps(self, epochs: float) -> int:
        """Steps that see every row `epochs` times, the last batch counted whole."""
        return math.ceil(epochs * self.rows / self.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        return self.steps(1)


def part(rows: int, share: Share) -> slice:
    """The rows of an array that are in a share; InputError where they cannot be shared out evenly."""
    start, stop, of = share
    if rows % of:
        raise InputError(f"{rows} rows cannot be shared out to {of}: use a batch that {of} divides")
    return slice(rows // of * start, rows // of * stop)


def stream(gather: Callable, batch_size: int, rows: int, dropped: int, seed: int) -> Batches:
    """The stream of `gather(index_B)`, the rows of a source with these numbers, each made for itself."""
    numbers = numbering(rows, seed)

    def take(first: int, count: int, share: Share = WHOLE):
        return gather(numbers(first, count)[part(count, share)])

    return Batches(take, batch_size, rows, dropped)


def numbering(
    rows: int, seed: int, arrange: Callable = lambda order, before: order
) -> Callable[[int, int], np.ndarray]:
    """(first, count) → the numbers of the source's rows that stand there in the stream.

    `arrange` is given each epoch's order and how many rows come before it, and returns the order to have."""

    @functools.lru_cache(maxsize=2)
    def epoch_order(epoch: int) -> np.ndarray:
        return arrange(permutation(seed, epoch, rows), epoch * rows)

    def numbers(first: int, count: int) -> np.ndarray:
        epochs = range(first // rows, (first + max(count, 1) - 1) // rows + 1)
        return np.concatenate(
            [epoch_order(e)[max(first - e * rows, 0) : max(first + count - e * rows, 0)] for e in epochs]
        )

    return numbers


def evened(order: np.ndarray, sizes: np.ndarray, batch_size: int, before: int = 0) -> np.ndarray:
    """The order of an epoch with batches of nearly the same total size: each EVENED of them deal out their rows by size, to and fro.

    The stream has `before` rows ahead of this epoch's, so that its first batch may begin in the one before."""
    first, order = _apart(order, sizes, -before % batch_size)
    order, last = _apart(order, sizes, len(order) - len(order) % batch_size)
    many = EVENED * batch_size
    windows = np.split(order, range(many, len(order) - many + 1, many))
    return np.concatenate([first, *(window[_dealt(sizes[window], batch_size)] for window in windows), last])


def _apart(order: np.ndarray, sizes: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` rows at even distances by size, so that they are of all sizes, and the others; both in their order."""
    count, by_size = min(count, len(order)), np.argsort(-sizes[order], kind="stable")
    chosen = np.isin(
        np.arange(len(order)), by_size[(2 * np.arange(count) + 1) * len(order) // (2 * count or 1)]
    )
    return order[chosen], order[~chosen]


def _dealt(sizes: np.ndarray, batch_size: int) -> np.ndarray:
    dealt = np.argsort(-sizes, kind="stable").reshape(batch_size, -1)
    dealt[1::2] = dealt[1::2, ::-1].copy()
    batches = np.sort(dealt.T, axis=1)
    return batches[np.argsort(batches[:, 0])].ravel()  # in the order in which their first rows were drawn


def permutation(seed: int, epoch: int, rows: int) -> np.ndarray:
    """The permutation of an epoch; -1 is that of things that are ordered once."""
    key = np.array([seed % 2**64, epoch % 2**64], np.uint64)
    return np.argsort(np.random.Philox(key=key).random_raw(rows), kind="stable")


def mixture(a: Batches, b: Batches, fraction_b: float) -> Batches:
    """Streams batches of `a.batch_size` TokenBatch rows of which the share `fraction_b` comes from `b` (10 %
    pretraining data in the paper's PPO-init model, App. C.3), behind those of `a`.

    The share is exact in every batch where it is a whole number of rows, else within one row, and exact in
    total. One epoch is one pass over `a`. InputError if the rows differ in width or the fraction is outside
    [0, 1).
    """
    rows = mixed_rows(a.rows, fraction_b)
    widths = [one.take(0, 1).tokens_BT.shape[1] for one in (a, b)]
    if widths[0] != widths[1]:
        raise InputError(
            f"mixture: rows of {widths[0]} and {widths[1]} tokens; set length = max_prompt + max_response"
        )
    exact = Fraction(fraction_b).limit_denominator(10_000)

    def from_b(position: int) -> int:
        return position * exact.numerator // exact.denominator

    def take(first: int, count: int, share: Share = WHOLE):
        wanted, b_first, b_count = part(count, share), from_b(first), from_b(first + count) - from_b(first)
        border = min(max(count - b_count, wanted.start), wanted.stop)
        parts = (
            a.take(first - b_first + wanted.start, border - wanted.start),
            b.take(b_first + border - (count - b_count), wanted.stop - border),
        )
        return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)

    return Batches(take, a.batch_size, rows, a.dropped + b.dropped)


def mixed_rows(rows: int, fraction_b: float) -> int:
    """Rows of one epoch of a mixture that passes once over `rows` rows; InputError for a fraction outside [0, 1)."""
    if not 0 <= fraction_b < 1:
        raise InputError(f"fraction_b is {fraction_b}; it must be at least 0 and below 1")
    exact = Fraction(fraction_b).limit_denominator(10_000)
    # The least n with n - floor(n · exact) = rows.
    return (rows - 1) * exact.denominator // (exact.denominator - exact.numerator) + 1
