"""Home of the rows in which several texts lie side by side, and of rankings in such rows.

A prompt's completions can follow one copy of it (`shared`): it is then computed once for all of them (models/attention: `branch_mask`),
as in the rows of evaluation/packing.py.
"""

from dataclasses import dataclass

import numpy as np

from instruct_jax.batches import RankingBatch
from instruct_jax.data.streams import Share, part


def pack(lengths, width: int) -> tuple[list[int], list[int]]:
    """Row and first column of every text, the longest first into the fullest row that still has room; empty ones at (0, 0)."""
    rows, columns, used = [0] * len(lengths), [0] * len(lengths), []
    for s in sorted(range(len(lengths)), key=lambda s: -lengths[s]):
        if not lengths[s]:
            break
        fitting = [(used[r], -r) for r in range(len(used)) if used[r] + lengths[s] <= width]
        row = -max(fitting)[1] if fitting else len(used)
        if row == len(used):
            used.append(0)
        rows[s], columns[s] = row, used[row]
        used[row] += int(lengths[s])
    return rows, columns


@dataclass(frozen=True)
class RankingPacker:
    """All completions of N prompts, each behind its prompt in `flat` (`lengths_NK` counts both, 0 is none), and how a batch is packed.

    With `groups`, every n-th prompt is packed with its like into every n-th row."""

    flat: np.ndarray
    prompts_N: np.ndarray
    starts_NK: np.ndarray
    lengths_NK: np.ndarray
    ranks_NK: np.ndarray
    width: int
    pad_id: int
    groups: int
    shared: bool

    @property
    def sizes_N(self) -> np.ndarray:
        """Tokens that each prompt's ranking takes, where one copy of a shared prompt is enough."""
        copies_N = (self.lengths_NK > 0).sum(axis=1) - 1
        return self.lengths_NK.sum(axis=1) - self.shared * copies_N * self.prompts_N

    def places(self, index_B: np.ndarray) -> np.ndarray:
        """Where each completion of these prompts lies, i32[4, B, K]: row among its group's, first column, tokens of its prompt that another
        has written, and the number of the copy of its prompt that it follows, from 1 (0 where there is no completion)."""
        places_4BK = np.zeros((4, len(index_B), self.lengths_NK.shape[1]), np.int32)
        number = 0
        for group in range(self.groups):
            copies = [
                (b, ks, size) for b in range(group, len(index_B), self.groups) for ks, size in self._copies(index_B[b])
            ]  # fmt: skip
            for (b, ks, _), row, column in zip(
                copies, *pack([size for *_, size in copies], self.width), strict=True
            ):
                number, before = number + 1, 0
                for k in ks:
                    places_4BK[:, b, k] = row, column, before, number
                    column += self.lengths_NK[index_B[b], k] - before
                    before = self.prompts_N[index_B[b]]
        return places_4BK

    def _copies(self, n: int) -> list[tuple[list[int], int]]:
        """Each copy of prompt n's: the completions that follow it, as many as a row has room for, and the tokens of all."""
        copies, prompt = [], self.prompts_N[n]
        for k in np.flatnonzero(self.lengths_NK[n]):
            own = self.lengths_NK[n, k] - prompt
            # An empty completion is judged by the last token of its copy of the prompt, so it comes first behind one.
            if not self.shared or not copies or not own or copies[-1][1] + own > self.width:
                copies.append(([], prompt))
            copies[-1] = [*copies[-1][0], k], copies[-1][1] + own
        return copies

    def batch(
        self, index_B: np.ndarray, live_B: np.ndarray, places_4BK: np.ndarray, height: int, share: Share
    ) -> RankingBatch:
        """A share of a batch at these places; the slots of prompts that are not live are empty."""
        row_BK, column_BK, before_BK, copy_BK = places_4BK
        lengths_BK = self.lengths_NK[index_B] * live_B[:, None]
        mine, mine_B = part(height, share), part(len(index_B), share)
        tokens_XT = np.full((mine.stop - mine.start, self.width), self.pad_id, np.int32)
        segments_XT, stems_XT = np.zeros_like(tokens_XT), np.zeros_like(tokens_XT)
        for s, (b, k) in enumerate(np.argwhere(lengths_BK), 1):
            row, before, length = (
                row_BK[b, k] * self.groups + b % self.groups,
                before_BK[b, k],
                lengths_BK[b, k],
            )
            if not mine.start <= row < mine.stop:
                continue
            start, stem = self.starts_NK[index_B[b], k], lengths_BK.size + copy_BK[b, k]
            place = row - mine.start, slice(column_BK[b, k], column_BK[b, k] + length - before)
            tokens_XT[place] = self.flat[start + before : start + length]
            segments_XT[place], stems_XT[place] = s, stem
            if self.shared and not before:
                segments_XT[place][: self.prompts_N[index_B[b]]] = stem
        last_BK = np.maximum(column_BK + lengths_BK - before_BK - 1, 0).astype(np.int32)
        ranks_BK = (self.ranks_NK[index_B] * live_B[:, None]).astype(np.int32)
        return RankingBatch(
            tokens_XT, segments_XT, row_BK[mine_B], last_BK[mine_B], ranks_BK[mine_B], stems_XT if self.shared else None
        )  # fmt: skip
