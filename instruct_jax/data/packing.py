"""Home of the rows in which several texts lie side by side, and of rankings in such rows.

A prompt's completions can follow one copy of it (`shared`): it is then computed once for all of them (models/attention: `branch_mask`).
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

    def needed(self, index_B: np.ndarray) -> int:
        """Rows that the fullest group of these prompts fills."""
        return int(self._places(index_B)[0].max()) + 1

    def _copies(self, n: int) -> list[list[int]]:
        """The completions of prompt n that follow one copy of it, copy by copy: as many as a row has room for."""
        copies, room = [], 0
        for k, own in enumerate(self.lengths_NK[n][self.lengths_NK[n] > 0] - self.prompts_N[n]):
            # An empty completion is judged by the last token of its copy of the prompt, so it comes first behind one.
            if not self.shared or not copies or own > room or not own:
                copies.append([])
                room = self.width - self.prompts_N[n]
            copies[-1].append(k)
            room -= own
        return copies

    def _places(self, index_B: np.ndarray) -> np.ndarray:
        """Row among its group's, first column, and tokens of its prompt that stand before another, of every completion: i32[3, B, K]."""
        places_3BK = np.zeros((3, len(index_B), self.lengths_NK.shape[1]), np.int32)
        for group in range(self.groups):
            copies = [
                (b, ks) for b in range(group, len(index_B), self.groups) for ks in self._copies(index_B[b])
            ]
            spared = [(len(ks) - 1) * self.prompts_N[index_B[b]] for b, ks in copies]
            taken = [self.lengths_NK[index_B[b], ks].sum() - less for (b, ks), less in zip(copies, spared)]
            for (b, ks), row, column in zip(copies, *pack(taken, self.width), strict=True):
                before = 0
                for k in ks:
                    places_3BK[:, b, k] = row, column, before
                    column += self.lengths_NK[index_B[b], k] - before
                    before = self.prompts_N[index_B[b]]
        return places_3BK

    def batch(self, index_B: np.ndarray, height: int, share: Share) -> RankingBatch:
        """A share of a batch: the places of all completions are worked out, the tokens of the share's rows are read."""
        row_BK, column_BK, before_BK = self._places(index_B)
        lengths_BK = self.lengths_NK[index_B]
        mine, mine_B = part(height, share), part(len(index_B), share)
        tokens_XT = np.full((mine.stop - mine.start, self.width), self.pad_id, np.int32)
        segments_XT, stems_XT = np.zeros_like(tokens_XT), np.zeros_like(tokens_XT)
        for s, (b, k) in enumerate(np.argwhere(lengths_BK), 1):
            row, column, before = (
                row_BK[b, k] * self.groups + b % self.groups,
                column_BK[b, k],
                before_BK[b, k],
            )
            if not before:
                stem = lengths_BK.size + s
            if not mine.start <= row < mine.stop:
                continue
            place = row - mine.start, slice(column, column + lengths_BK[b, k] - before)
            start = self.starts_NK[index_B[b], k]
            tokens_XT[place] = self.flat[start + before : start + lengths_BK[b, k]]
            segments_XT[place], stems_XT[place] = s, stem
            if self.shared and not before:
                segments_XT[place[0], column : column + self.prompts_N[index_B[b]]] = stem
        last_BK = np.maximum(column_BK + lengths_BK - before_BK - 1, 0).astype(np.int32)
        ranks_BK = self.ranks_NK[index_B].astype(np.int32)
        return RankingBatch(
            tokens_XT, segments_XT, row_BK[mine_B], last_BK[mine_B], ranks_BK[mine_B], stems_XT if self.shared else None
        )  # fmt: skip
