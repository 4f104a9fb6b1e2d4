"""The home of the layouts in which other tools keep a parameter, and of the way between theirs and ours."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Layout:
    """How one of their tensors becomes arrays of ours, and back; `rows` is the axis of ours that their first axis is, if it is one.

    `shape` turns the shape of one array of ours into that of their tensor.
    """

    split: Callable[[np.ndarray], list[np.ndarray]]
    join: Callable[[list[np.ndarray]], np.ndarray]
    shape: Callable[[tuple[int, ...]], tuple[int, ...]]
    rows: int | None


SAME = Layout(lambda x: [x], lambda parts: parts[0], lambda shape: shape, rows=0)
LINEAR = Layout(lambda x: [x.T], lambda parts: parts[0].T, lambda shape: shape[::-1], rows=1)
SCORE = Layout(lambda x: [x[0]], lambda parts: parts[0][None], lambda shape: (1, *shape), rows=None)
COLUMNS = Layout(
    lambda x: np.split(x, 3, axis=-1),
    lambda parts: np.concatenate(parts, axis=-1),
    lambda shape: (*shape[:-1], 3 * shape[-1]),
    rows=None,
)


def interleaved(heads: int) -> Layout:
    """Query, key and value of head 0, then of head 1, and so on: GPT-NeoX's rows."""

    def split(x):
        parts = np.moveaxis(x.reshape(heads, 3, -1, *x.shape[1:]), 1, 0)
        return [part.reshape(-1, *x.shape[1:]).T for part in parts]

    def join(parts):
        stacked = np.stack([part.T.reshape(heads, -1, *part.T.shape[1:]) for part in parts], axis=1)
        return stacked.reshape(-1, *parts[0].T.shape[1:])

    return Layout(split, join, lambda shape: (3 * shape[-1], *shape[:-1]), rows=None)
