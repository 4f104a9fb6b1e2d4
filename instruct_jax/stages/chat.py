"""Home of talking to a model: a checkpoint opened with its tokenizer, and answers that come token by token.

Prompts are left-padded to a length bucket (powers of two); each bucket compiles one prefill and one decode step, whatever
is said. Differs from algorithms/decode.py's `generate` only in who waits: the same tokens, handed out one at a time.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from instruct_jax.algorithms.decode import SamplingConfig, choose
from instruct_jax.errors import InputError
from instruct_jax.models.cache import init_cache
from instruct_jax.models.transformer import PolicyModel
from instruct_jax.stages import setup
from instruct_jax.text.tokenizer import Tokenizer

SHORTEST = 32  # tokens of the narrowest bucket
READ_AGAIN = 64  # tokens; reading a whole answer again for every token would take the square of its length


@dataclass(frozen=True)
class Speaker:
    """A model that can be talked to; `template` is the name of the one that its prompts are framed with, `tokenizer_path` where its
    tokenizer is from."""

    model: PolicyModel
    params: dict
    tokenizer: Tokenizer
    template: str
    tokenizer_path: str = ""


def open_speaker(
    path: str | Path, template: str | None = None, step: int | None = None, mesh=None
) -> Speaker:
    """The language model of a run's folder (of `step`, or the latest), a Hugging Face folder or a .gguf file, on the mesh (None: on
    one device).

    `template` None takes what the model was trained with, of a checkpoint of other tools its chat template where it has one.
    InputError where there is no language model, no tokenizer or no such template."""
    opened = setup.open_model(path, step)
    if opened.scalar:
        raise InputError(f"{path} is a reward model, which does not answer: name a policy")
    text = setup.TextSettings(opened.tokenizer, opened.template, max_prompt=0, max_response=0)
    tokenizer = setup.load_tokenizer(text)
    own = opened.template if opened.template != "chat" or tokenizer.chat_template else "plain"
    setup.template(template or own, tokenizer)
    params = opened.load(mesh or setup.open_mesh(setup.MeshSettings()))
    return Speaker(PolicyModel(opened.config), params, tokenizer, template or own, opened.tokenizer)


def ids_of(tokenizer: Tokenizer, template: str, messages: Sequence[dict[str, str]]) -> list[int]:
    """A talk ({"role", "content"}, the user's message last) as ids up to where the answer begins.

    "chat" is the tokenizer's own template; with another the turns stand one after the other, each on a line of its own.
    """
    if template == "chat":
        return tokenizer.encode_talk(messages)
    around, pieces = setup.template(template, tokenizer), []
    for message in messages:
        said = (message["content"], False)
        asked = [(around.prefix, True), said, (around.suffix, True)]
        pieces += asked if message["role"] == "user" else [said, ("\n", True)]
    return tokenizer.encode_pieces(pieces)


class Talker:
    """A model that answers rows of ids; `begin` and `go_on` are its two compiled programs."""

    def __init__(self, speaker: Speaker, sampling: SamplingConfig):
        """InputError where `sampling` leaves no room for a prompt in the model's context."""
        self._speaker, self._turns = speaker, sampling.max_new_tokens
        self.widest = speaker.model.config.context - self._turns
        if self.widest < 1:
            raise InputError(
                f"max_new_tokens is {self._turns}, the model's context {speaker.model.config.context}: ask for fewer"
            )
        model, take = speaker.model, functools.partial(_take, sampling=sampling)

        @jax.jit
        def begin(params, tokens_BP, mask_BP, keys_B):
            B, P = tokens_BP.shape
            cache = init_cache(model.config, B, P + sampling.max_new_tokens)
            logits_BV, cache = model.apply({"params": params}, tokens_BP, mask_BP, cache, method="prefill")
            return take(logits_BV, keys_B, 0), cache

        @functools.partial(jax.jit, donate_argnums=2)
        def go_on(params, token_B, cache, keys_B, step):
            logits_BV, cache = model.apply({"params": params}, token_B, cache, method="decode")
            return take(logits_BV, keys_B, step), cache

        self.begin, self.go_on = begin, go_on

    def __call__(self, rows: Sequence[list[int]], key) -> Iterator[list[int | None]]:
        """For every turn the next token of each row, None once a row has ended.

        A row ends with one of the tokenizer's stop ids, which is not handed out, or after `max_new_tokens`. InputError for
        a row that leaves no room for them in the model's context, or has an id that the model has no embedding for."""
        params, tokenizer = self._speaker.params, self._speaker.tokenizer
        largest, vocab = max(itertools.chain(*rows), default=0), self._speaker.model.config.vocab
        if largest >= vocab:
            raise InputError(
                f"{self._speaker.tokenizer_path}: the text has token {largest}, the model embeddings for {vocab}: this is "
                "another model's tokenizer"
            )
        tokens_BP, mask_BP = padded(rows, self.widest, tokenizer.pad_id)
        keys_B = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(len(rows)))
        token_B, cache = self.begin(params, tokens_BP, mask_BP, keys_B)
        alive = [True] * len(rows)
        for step in range(1, self._turns + 1):
            said = np.asarray(token_B).tolist()
            alive = [live and token not in tokenizer.stop_ids for live, token in zip(alive, said)]
            yield [token if live else None for token, live in zip(said, alive)]
            if not any(alive) or step == self._turns:
                return
            token_B, cache = self.go_on(params, token_B, cache, keys_B, np.int32(step))


def _take(logits_BV, keys_B, step, *, sampling: SamplingConfig):
    step_keys_B = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, step)
    return choose(logits_BV, step_keys_B, sampling)


def padded(rows: Sequence[list[int]], widest: int, pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Left-padded tokens [B, P] and their mask, P the narrowest power of two (from 32, at most `widest`) that holds the rows."""
    longest = max(map(len, rows))
    check_room(longest, widest)
    width = min(max(SHORTEST, 1 << (longest - 1).bit_length()), widest)
    tokens_BP, mask_BP = np.full((len(rows), width), pad, np.int32), np.zeros((len(rows), width), bool)
    for b, row in enumerate(rows):
        tokens_BP[b, width - len(row) :], mask_BP[b, width - len(row) :] = row, True
    return tokens_BP, mask_BP


def check_room(length: int, widest: int, what: str = "the text") -> None:
    """InputError where a text of `length` tokens is over the `widest` one."""
    if length > widest:
        raise InputError(
            f"{what} has {length} tokens, over the {widest} that the model's context leaves: shorten it, or "
            "lower --max_new_tokens (in a talk: /reset)"
        )


class Transcript:
    """The text of an answer that comes in tokens; characters whose bytes are not all there yet are held back.

    Some tokenizers read a whole run of bytes otherwise once one of them is wrong. What was shown stays then, and what the tokens
    after it read by themselves follows; `text` is what all of them read together."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer, self._ids = tokenizer, []
        self._first, self._shown = 0, ""  # what was shown of the tokens from `first` on
        self._whole = 0  # so many tokens have nothing held back
        self._mark = 0  # where reading may begin next

    @property
    def text(self) -> str:
        """What is said so far, half characters included."""
        return self._tokenizer.decode(self._ids)

    def add(self, token: int) -> str:
        """What this token adds to the text that is certain by now."""
        self._ids.append(token)
        if self._shown.startswith(self._read(last=False)):  # nothing new, or less: the next bytes may mend it
            return ""
        new = self._show(last=False)
        if self._whole == len(self._ids) > self._first + READ_AGAIN:
            self._first, self._mark = self._mark, self._whole
            self._shown = self._read(last=False)
        return new

    def end(self) -> str:
        """What is left to show once no token follows."""
        return self._show(last=True)

    def _read(self, last: bool) -> str:
        text = self._tokenizer.decode(self._ids[self._first :])
        return text if last else text.rstrip("\N{REPLACEMENT CHARACTER}")

    def _show(self, last: bool) -> str:
        if not self._read(last).startswith(self._shown):
            self._first = self._mark = self._whole
            self._shown = ""
        text = self._read(last)
        new, self._shown = text[len(self._shown) :], text
        if text == self._read(last=True):
            self._whole = len(self._ids)
        return new


def answers(
    talk: Talker, speaker: Speaker, prompts: Sequence[str], key, batch_size: int = 8
) -> Iterator[tuple[str, str, bool]]:
    """(prompt, response, whether it ended by itself) of every prompt, in order; `batch_size` rows at a time.

    InputError for a prompt that is too long, before any is answered."""
    # The template is rendered once, not in a process for every prompt.
    ids = speaker.tokenizer.encode_prompts(setup.template(speaker.template, speaker.tokenizer), prompts)
    for prompt, row in zip(prompts, ids, strict=True):
        check_room(len(row), talk.widest, f"the prompt {prompt!r:.60}")
    for first in range(0, len(ids), batch_size):
        rows = ids[first : first + batch_size]
        full = [*rows, *[rows[0]] * (batch_size - len(rows))]  # a shape for each bucket, no more
        said = [[] for _ in full]
        ended = [False] * len(full)
        for turn in talk(full, jax.random.fold_in(key, first)):
            for b, token in enumerate(turn):
                ended[b] |= token is None
                said[b] += [] if token is None else [token]
        for b, prompt in enumerate(prompts[first : first + batch_size]):
            yield prompt, speaker.tokenizer.decode(said[b]), ended[b]
