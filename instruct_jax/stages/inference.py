"""Home of model calls on text: prompts in, sampled responses out; prompt and response in, score out. Compiled once per shape."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence

import jax
import numpy as np

from instruct_jax.algorithms.decode import SamplingConfig, generate
from instruct_jax.algorithms.rm import last_scores
from instruct_jax.batches import PromptBatch
from instruct_jax.errors import InputError
from instruct_jax.models.transformer import PolicyModel, ScalarModel
from instruct_jax.sharding import fetch
from instruct_jax.stages.setup import put
from instruct_jax.text.templates import Template
from instruct_jax.text.tokenizer import Tokenizer

_log = logging.getLogger(__name__)

WORTH = 4  # batches


@dataclasses.dataclass(frozen=True)
class Sampled:
    """One response: its text, whether it ended by itself, and its token ids, the end included."""

    text: str
    finished: bool
    ids: list[int]


def fitting(prompts: Sequence[str], template: Template, tokenizer: Tokenizer, max_prompt: int) -> list[bool]:
    """Which prompts, rendered, have at most `max_prompt` tokens: the others are dropped and counted, never cut (paper 1.2)."""
    return [len(ids) <= max_prompt for ids in tokenizer.encode_prompts(template, prompts)]


def make_sampler(model: PolicyModel, sampling: SamplingConfig, tokenizer: Tokenizer, mesh, *, max_prompt: int,
                 batch_size: int) -> Callable:  # fmt: skip
    """sample(params, prompts, template, key) → [Sampled]; prompts of any number, in batches of one shape. Any of the tokenizer's
    stop ids ends a response.

    A prompt over `max_prompt` tokens raises InputError: filter before (the paper drops them)."""

    @jax.jit
    def respond(params, prompts, key):
        return generate(model, params, prompts, key, sampling, tokenizer.stop_ids, tokenizer.pad_id)

    def sample(params, prompts: Sequence[str], template: Template, key) -> list[Sampled]:
        ids = tokenizer.encode_prompts(template, prompts)
        pending = []
        for width, rows in _by_width([len(row) for row in ids], max_prompt, batch_size):
            for start in range(0, len(rows), batch_size):
                chosen = rows[start : start + batch_size]
                batch = _left_padded([ids[i] for i in chosen], batch_size, width, tokenizer.pad_id)
                pending.append(
                    (chosen, respond(params, put(batch, mesh), jax.random.fold_in(key, len(pending))))
                )
        found: list[Sampled | None] = [None] * len(ids)
        for chosen, (tokens_BR, mask_BR) in pending:
            for i, tokens_R, mask_R in zip(chosen, fetch(tokens_BR), fetch(mask_BR), strict=False):
                found[i] = _sampled(tokens_R, mask_R, tokenizer, template.stop)
        return found

    return sample


def _by_width(lengths: list[int], most: int, batch_size: int) -> list[tuple[int, list[int]]]:
    """Rows by the narrowest of three widths that holds them, whole batches of each: short rows are not padded to long ones.

    Rows that fill no batch join the next wider ones, so no batch but the last is partly empty; so do those of less than WORTH batches,
    which would take less time than the program of their width takes to compile."""
    if max(lengths, default=0) > most:
        raise InputError(
            f"a prompt has {max(lengths)} tokens, over the limit of {most}: drop it or raise the limit"
        )
    widths = sorted({-(-most * part // 8) for part in (3, 5, 8)})
    at, groups, left = np.searchsorted(widths, lengths), [], []
    for n, width in enumerate(widths):
        rows = left + np.flatnonzero(at == n).tolist()
        batches = len(rows) // batch_size
        whole = len(rows) if width == most else batches * batch_size if batches >= WORTH else 0
        groups.append((width, rows[:whole]))
        left = rows[whole:]
    return [(width, rows) for width, rows in groups if rows]


def _left_padded(ids: list[list[int]], rows: int, width: int, pad: int) -> PromptBatch:
    tokens_BP, mask_BP = np.full((rows, width), pad, np.int32), np.zeros((rows, width), bool)
    for b, row in enumerate(ids):
        tokens_BP[b, width - len(row) :], mask_BP[b, width - len(row) :] = row, True
    mask_BP[len(ids) :, -1] = True  # rows that only fill the batch up
    return PromptBatch(tokens_BP, mask_BP, np.arange(rows, dtype=np.int32))


def _sampled(tokens_R, mask_R, tokenizer: Tokenizer, stop: str) -> Sampled:
    ids = tokens_R[: int(mask_R.sum())].tolist()
    finished = bool(ids) and ids[-1] in tokenizer.stop_ids
    text = tokenizer.decode(ids[:-1] if finished else ids)
    if stop and stop in text:
        text = text.partition(stop)[0]
        return Sampled(text, True, [*tokenizer.encode_batch([text])[0], tokenizer.eos_id])
    return Sampled(text, finished, ids)


def make_logprobs(
    model: PolicyModel, tokenizer: Tokenizer, mesh, *, max_prompt: int, max_response: int, batch_size: int
) -> Callable:
    """logprobs(params, prompts, sampled, template, temperature) → f32[n]: the log-probability of each whole sampled response.

    Prompts of like length are taken together, in at most three widths, each compiled once."""

    @functools.partial(jax.jit, static_argnames="temperature")
    def total(params, tokens_BT, segments_BT, mask_BR, temperature):
        logprobs_BR, _ = model.apply(
            {"params": params},
            tokens_BT,
            segments_BT,
            start=tokens_BT.shape[1] - max_response,
            temperature=temperature,
            method="logprobs",
        )
        return (logprobs_BR * mask_BR).sum(axis=1)

    def logprobs(
        params, prompts, sampled: Sequence[Sampled], template: Template, temperature: float
    ) -> np.ndarray:
        ids, pending = tokenizer.encode_prompts(template, prompts), []
        for width, numbers in _by_width([len(row) for row in ids], max_prompt, batch_size):
            for start in range(0, len(numbers), batch_size):
                chosen = numbers[start : start + batch_size]
                batch = _left_padded([ids[i] for i in chosen], batch_size, width, tokenizer.pad_id)
                rows = [sampled[i].ids for i in chosen]
                response_BR, mask_BR = right_padded(rows, batch_size, max_response, tokenizer.pad_id)
                tokens_BT = np.concatenate([batch.tokens_BP, response_BR], axis=1)
                segments_BT = np.concatenate([batch.mask_BP, mask_BR], axis=1).astype(np.int32)
                totals_B = total(
                    params, *put((tokens_BT, segments_BT, mask_BR), mesh), temperature=temperature
                )
                pending.append((chosen, totals_B))
        found = np.zeros(len(ids), np.float32)
        for chosen, totals_B in pending:
            found[chosen] = fetch(totals_B)[: len(chosen)]
        return found

    return logprobs


def make_scorer(model: ScalarModel, tokenizer: Tokenizer, mesh, *, width: int, batch_size: int) -> Callable:
    """score(params, rows, template) → f32[n] for rows of (prompt, response, finished); the score at the last token.

    Rows of like length are scored together, in at most three widths, each compiled once; equal rows are scored once."""

    @jax.jit
    def scores(params, tokens_BT, mask_BT):
        return last_scores(model.apply({"params": params}, tokens_BT, mask_BT.astype(np.int32)), mask_BT)

    def score(params, rows: Sequence[tuple[str, str, bool]], template: Template) -> np.ndarray:
        asked, rows = rows, list(dict.fromkeys(rows))
        prompts = tokenizer.encode_prompts(template, [p for p, _, _ in rows])
        responses = tokenizer.encode_batch([r for _, r, _ in rows])
        ids = [
            [*p, *r, *([tokenizer.eos_id] if row[2] else [])]
            for p, r, row in zip(prompts, responses, rows, strict=True)
        ]
        pending = []
        for narrow, numbers in _by_width([min(len(row), width) for row in ids], width, batch_size):
            for start in range(0, len(numbers), batch_size):
                chosen = numbers[start : start + batch_size]
                batch = right_padded([ids[i] for i in chosen], batch_size, narrow, tokenizer.pad_id)
                pending.append((chosen, scores(params, *put(batch, mesh))))
        found = np.zeros(len(ids), np.float32)
        for chosen, scores_B in pending:
            found[chosen] = fetch(scores_B)[: len(chosen)]
        at = {row: i for i, row in enumerate(rows)}
        return found[[at[row] for row in asked]]

    return score


def make_nll(model: PolicyModel) -> Callable:
    """nll(params, tokens_BT, mask_BT) → (nats_B, tokens_B): the loss of each row of text, and how many tokens it is of."""

    @jax.jit
    def nll(params, tokens_BT, mask_BT):
        logprobs_BX, _ = model.apply(
            {"params": params}, tokens_BT, mask_BT.astype(np.int32), method="logprobs"
        )
        return -(logprobs_BX * mask_BT[:, 1:]).sum(axis=1), mask_BT[:, 1:].sum(axis=1)

    return nll


def right_padded(ids: list[list[int]], rows: int, width: int, pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Token rows [rows, width] and their mask. A sampled text may need more tokens than it was sampled in when it is encoded
    again; the tokens past `width` are left out of such a row, and a log line counts these rows."""
    cut = sum(len(row) > width for row in ids)
    if cut:
        _log.warning("%d of %d rows have more than %d tokens: the rest is left out", cut, len(ids), width)
    tokens_BT, mask_BT = np.full((rows, width), pad, np.int32), np.zeros((rows, width), bool)
    for b, row in enumerate(ids):
        row = row[:width]
        tokens_BT[b, : len(row)], mask_BT[b, : len(row)] = row, True
    return tokens_BT, mask_BT
