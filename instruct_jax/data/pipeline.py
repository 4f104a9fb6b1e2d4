"""Home of the batches: record sources in, endless shuffled streams (streams.py) of numpy batches out.

Differs from the paper, which does not describe its loader. A source is tokenised once, when its stream is
made: what labelers wrote into one flat array of ids (4 bytes a token), pretraining documents into a file where they
are many (tokens.py). A batch is then a gather. Rows are never cut: those that do not fit are dropped, counted and
logged.
"""

import logging
import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import jax
import numpy as np

from instruct_jax.batches import PromptBatch, TokenBatch
from instruct_jax.data.packing import RankingPacker, pack
from instruct_jax.data.streams import WHOLE, Batches, Share, evened, mixture, numbering, permutation, stream
from instruct_jax.data.tokens import JoinedText, encode_all
from instruct_jax.errors import InputError
from instruct_jax.records import Demonstration, Document, Prompt, Ranking
from instruct_jax.text.templates import Template
from instruct_jax.text.tokenizer import Tokenizer

__all__ = ["Batches", "demonstrations", "documents", "mixture", "prompts", "ranking_rows", "rankings"]

_log = logging.getLogger(__name__)

ROW_MULTIPLE = (
    8  # packed rows come in multiples of this, so that no mesh whose devices divide it changes a batch
)
PACK_WINDOW = 128  # demonstrations that are packed together: the cost of packing grows with its square


def demonstrations(
    source: Sequence[Demonstration],
    tokenizer: Tokenizer,
    template: Template,
    *,
    batch_size: int,
    max_prompt: int,
    max_response: int,
    seed: int,
    loss_on_prompt: bool = False,
    packed: bool = False,
) -> Batches:
    """Streams TokenBatch rows [max_prompt + max_response]: rendered prompt, response, EOS, then padding
    (paper 12 rows 7, 8), or, `packed`, as many demonstrations as fit, each a segment.

    The loss is on the response and its EOS, or on all but the first token with `loss_on_prompt` (the paper
    does not say which). `max_response` counts the EOS. Packed rows keep their company in every epoch.
    InputError if no row fits or fewer than `batch_size` do.
    """
    rows = list(source)
    prompts = tokenizer.encode_prompts(template, [row.prompt for row in rows])
    responses = tokenizer.encode_batch([row.response for row in rows])
    report = _Dropped("demonstrations", max_prompt, max_response)
    kept, prompt_lengths = [], []
    for row, prompt, response in zip(rows, prompts, responses, strict=True):
        if report.fits(row.prompt_id, len(prompt), len(response) + 1):
            kept.append([*prompt, *response, tokenizer.eos_id])
            prompt_lengths.append(len(prompt))
    report.check(len(rows), len(kept))
    loss_from = np.ones(len(kept), np.int64) if loss_on_prompt else np.maximum(prompt_lengths, 1)
    width = max_prompt + max_response
    if packed:
        rows_N = _packed_rows(kept, loss_from, width, tokenizer.pad_id, seed)
        take = lambda index_B: jax.tree.map(lambda x: x[index_B], rows_N)  # noqa: E731
        return stream(take, batch_size, len(rows_N.tokens_BT), report.count, seed)
    flat, starts, lengths = _flatten(kept)

    def gather(index_B):
        tokens_BT, mask_BT = _gather(flat, starts[index_B], lengths[index_B], width, tokenizer.pad_id)
        loss_mask_BT = mask_BT & (np.arange(width) >= loss_from[index_B, None])
        return TokenBatch(tokens_BT, mask_BT.astype(np.int32), loss_mask_BT)

    return stream(gather, batch_size, len(kept), report.count, seed)


def _packed_rows(sequences, loss_from, width: int, pad_id: int, seed: int) -> TokenBatch:
    """All sequences, in an order given by `seed`, as segments of rows [N, width]; targets from `loss_from` of each on."""
    order, windows = permutation(seed, -1, len(sequences)), []
    for first in range(0, len(order), PACK_WINDOW):
        window = order[first : first + PACK_WINDOW]
        rows, columns = pack([len(sequences[i]) for i in window], width)
        tokens_NT = np.full((max(rows) + 1, width), pad_id, np.int32)
        segments_NT, loss_mask_NT = np.zeros_like(tokens_NT), np.zeros(tokens_NT.shape, bool)
        for segment, (i, row, column) in enumerate(zip(window, rows, columns, strict=True), 1):
            end = column + len(sequences[i])
            tokens_NT[row, column:end], segments_NT[row, column:end] = sequences[i], segment
            loss_mask_NT[row, column + loss_from[i] : end] = True
        windows.append(TokenBatch(tokens_NT, segments_NT, loss_mask_NT))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *windows)


def documents(
    source: Sequence[Document],
    tokenizer: Tokenizer,
    *,
    batch_size: int,
    length: int,
    seed: int,
    cache: Path | None = None,
) -> Batches:
    """Streams TokenBatch rows [length] of pretraining text, GPT-3's way: the documents, in an order given by
    `seed` and each led by EOS, are one long text that is cut into rows; a row is one segment with loss on all
    tokens but its first. Where the tokenizer has a BOS, each row begins with it, for a model that never met a text without.

    With `cache` (`Source.token_cache`, set where there is much text) the tokens lie in a file beside the data set.
    The tokens after the last whole row are left out. InputError if there are fewer rows than `batch_size`.
    """
    ids, lengths = encode_all(source, tokenizer, cache)
    text = JoinedText(ids, lengths, permutation(seed, -1, len(lengths)), tokenizer.eos_id)
    lead = 0 if tokenizer.bos_id is None else 1
    width = length - lead
    if len(text) < width:
        raise InputError(
            f"documents: {len(lengths)} documents have {len(text)} tokens, too few for one row of "
            f"length {length}"
        )
    loss_mask_T = np.arange(length) > 0

    def gather(index_B):
        tokens_BT = np.full((len(index_B), length), tokenizer.bos_id or 0, np.int32)
        if len(index_B):
            tokens_BT[:, lead:] = text.rows(index_B * width, width)
        return TokenBatch(tokens_BT, np.ones_like(tokens_BT), np.tile(loss_mask_T, (len(index_B), 1)))

    return stream(gather, batch_size, len(text) // width, 0, seed)


def rankings(
    source: Sequence[Ranking],
    tokenizer: Tokenizer,
    template: Template,
    *,
    batch_size: int,
    max_prompt: int,
    max_response: int,
    k_max: int,
    seed: int,
    epochs: float = 1,
    groups: int = 1,
    devices: int = 1,
    shared_width: int | None = None,
) -> Batches:
    """Streams RankingBatches: a prompt with all its completions, each after the rendered prompt and, where it
    finished, closed by EOS (paper 1.10, section 4), packed as segments into rows of max_prompt + max_response. With
    `shared_width` rows have that many columns, and completions in a row share a copy of their prompt.

    Batches are evened: each has its share of long and short rankings. Every batch has as many packed rows as the fullest
    one of `epochs` needs, so that the step compiles once, rounded up so that they divide over `devices`. Behind the last
    ranking of `epochs` slots are empty, and a batch that begins there raises InputError. With `groups`, every n-th prompt
    is packed with its like into every n-th row, and `row_BK` counts the group's rows: algorithms/pieces takes such a
    batch apart.

    A completion longer than `max_response` leaves its ranking; a ranking with a longer prompt, or that lost
    completions and has fewer than two left, is dropped. InputError if a ranking has more than `k_max`
    completions or fewer than `batch_size` remain.
    """
    rows = list(source)
    report = _Dropped("rankings", max_prompt, max_response)
    arrays = _encode_rankings(rows, tokenizer, template, k_max, report)
    shared = shared_width is not None
    width = shared_width if shared else max_prompt + max_response
    packer = RankingPacker(*arrays, width, tokenizer.pad_id, groups, shared)
    count = len(packer.prompts_N)
    sizes_N, planned = packer.sizes_N, math.ceil(epochs * count)
    numbers = numbering(count, seed, lambda order, before: evened(order, sizes_N, batch_size, before))

    def take(first: int, size: int, share: Share = WHOLE):
        if first >= planned:
            raise InputError(
                f"rankings: a batch past the {epochs} planned epochs was asked for: raise epochs"
            )
        index_B, live_B = numbers(first, size), np.arange(first, first + size) < planned
        return packer.batch(index_B, live_B, packer.places(index_B), height, share)

    batches = Batches(take, batch_size, count, report.count)
    fullest = max(
        packer.places(numbers(i * batch_size, batch_size))[0].max() for i in range(batches.steps(epochs))
    )
    height = ranking_rows(int(fullest) + 1, groups, devices)
    return batches


def _table(rows, width: int) -> np.ndarray:
    """i64[N, width] of rows of at most `width` numbers, filled up with zeros."""
    table = np.zeros((len(rows), width), np.int64)
    for n, row in enumerate(rows):
        table[n, : len(row)] = row
    return table


def ranking_rows(most: int, groups: int, devices: int) -> int:
    """Packed rows of a ranking batch whose fullest group fills `most`: each group's divide over `devices`, all over ROW_MULTIPLE."""
    multiple = math.lcm(ROW_MULTIPLE // math.gcd(ROW_MULTIPLE, groups), devices)
    return -(-most // multiple) * multiple * groups


def _encode_rankings(rows, tokenizer: Tokenizer, template: Template, k_max: int, report: "_Dropped"):
    """Tokens of all completions kept, each behind its prompt; and of prompts, lengths and their completions' starts, lengths and ranks."""
    prompts = tokenizer.encode_prompts(template, [row.prompt for row in rows])
    completions = iter(tokenizer.encode_batch([text for row in rows for text in row.completions]))
    sequences, slots, ranks, lengths = [], [], [], []
    for row, prompt in zip(rows, prompts, strict=True):
        if len(row.completions) > k_max:
            raise InputError(
                f"rankings: prompt {row.prompt_id} has {len(row.completions)} completions; raise k_max ({k_max})"
            )
        ends = [[tokenizer.eos_id] if finished else [] for finished in row.finished]
        closed = [[*next(completions), *end] for end in ends]
        fitting = [k for k, ids in enumerate(closed) if len(ids) <= report.max_response]
        report.completions += len(closed) - len(fitting)
        too_few = len(fitting) < min(2, len(closed))
        if report.fits(row.prompt_id, len(prompt), max(map(len, closed)) if too_few else 0):
            slots.append(range(len(sequences), len(sequences) + len(fitting)))
            sequences += [[*prompt, *closed[k]] for k in fitting]
            ranks.append([row.ranks[k] for k in fitting])
            lengths.append(len(prompt))
    report.check(len(rows), len(slots))
    flat, starts, of_all = _flatten(sequences)
    of_slots = [[values[slot.start : slot.stop] for slot in slots] for values in (starts, of_all)]
    return flat, np.array(lengths), *(_table(values, k_max) for values in (*of_slots, ranks))


def prompts(
    source: Sequence[Prompt],
    tokenizer: Tokenizer,
    template: Template,
    *,
    batch_size: int,
    max_prompt: int,
    seed: int,
) -> Batches:
    """Streams PromptBatch rows [max_prompt], rendered and left-padded; `index_B` is the row number in
    `source` (paper 12 rows 2, 4).

    InputError if no prompt fits or fewer than `batch_size` do.
    """
    rows = list(source)
    encoded = tokenizer.encode_prompts(template, [row.text for row in rows])
    report = _Dropped("prompts", max_prompt, 0)
    kept = np.array([i for i, ids in enumerate(encoded) if report.fits(rows[i].id, len(ids), 0)], np.int32)
    report.check(len(rows), len(kept))
    flat, starts, lengths = _flatten([encoded[i] for i in kept])

    def gather(index_B):
        tokens_BP, mask_BP = _gather(
            flat, starts[index_B], lengths[index_B], max_prompt, tokenizer.pad_id, pad_left=True
        )
        return PromptBatch(tokens_BP, mask_BP, kept[index_B])

    return stream(gather, batch_size, len(kept), report.count, seed)


class _Dropped:
    """Counts the rows of a source that do not fit, and says so in one log line."""

    def __init__(self, kind: str, max_prompt: int, max_response: int):
        self.kind, self.max_prompt, self.max_response = kind, max_prompt, max_response
        self.prompts = self.responses = self.completions = 0
        self.first = ""

    @property
    def count(self) -> int:
        return self.prompts + self.responses

    def fits(self, name: str, prompt_length: int, response_length: int) -> bool:
        long_prompt, long_response = prompt_length > self.max_prompt, response_length > self.max_response
        self.prompts += long_prompt
        self.responses += long_response and not long_prompt
        if long_prompt or long_response:
            self.first = self.first or name
        return not (long_prompt or long_response)

    def check(self, total: int, kept: int) -> None:
        found = (
            f"{self.kind}: {self.count} of {total} rows dropped: {self.prompts} with a prompt over "
            f"max_prompt = {self.max_prompt} tokens, {self.responses} with a response over max_response = "
            f"{self.max_response} (first: {self.first or 'none'})"
        )
        if not kept:
            raise InputError(f"{found}; no row is left: raise the limits or give data")
        if self.count:
            _log.warning(found)
        if self.completions:
            _log.warning("%s: %d completions over max_response were left out", self.kind, self.completions)


def _flatten(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token lists as one array with each list's start and length."""
    lengths = np.array([len(row) for row in rows], np.int64)
    flat = np.fromiter(chain.from_iterable(rows), np.int32, lengths.sum())
    return flat, np.cumsum(lengths) - lengths, lengths


def _gather(
    flat: np.ndarray, starts: np.ndarray, lengths: np.ndarray, width: int, pad_id: int, pad_left: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `flat` padded to `width`, with the mask of real tokens: [..., width] each."""
    columns = np.arange(width) - (width - lengths[..., None]) if pad_left else np.arange(width)
    mask = (columns >= 0) & (columns < lengths[..., None])
    index = np.where(mask, starts[..., None] + columns, 0)
    return np.where(mask, flat[index], np.int32(pad_id)), mask
