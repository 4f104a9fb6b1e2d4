"""Home of the tokenizer: one interface to every vocabulary, and SentencePiece models, trained here or loaded.

Differs from the paper, which uses GPT-3's BPE of 50,257 ids: the lab's is a small vocabulary that fits small
models, and a checkpoint that others trained brings its own (text/loading.py). In ours, as there, nothing is
added before the first word, so cutting a text after a newline never changes its ids. No user text encodes to
a special id, whatever it says.
"""

import hashlib
import io
import itertools
import os
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from instruct_jax.errors import InputError
from instruct_jax.text.templates import Template, chat_pieces

_MAX_LINES = 1_000_000


class Tokenizer:
    """Text ↔ ids of one vocabulary, behind an engine that knows its file format.

    `vocab_size` is one more than the largest id that text, BOS, EOS, pad and stops can have. `eos_id` ends a text;
    `stop_ids`, it among them, end an answer. `pad_id` is another id than `eos_id` unless the vocabulary has but
    one; it may be that of an ordinary token, for rows carry their mask. `bos_id` is set where prompts begin with
    it, else None. `chat_template` (Jinja) and `named_tokens` ({"bos_token": "<s>", …}), which it reads, come with
    a checkpoint; None and {} without one. `lacks` is a token that the chat template uses and the vocabulary does not have,
    None where there is none.
    """

    def __init__(self, engine, *, eos_id: int, pad_id: int | None = None, bos_id: int | None = None, stop_ids=(),
                 chat_template: str | None = None, named_tokens: dict[str, str] | None = None):  # fmt: skip
        self.engine = engine
        self.unk_id = engine.unk_id
        self.eos_id, self.bos_id = eos_id, bos_id
        self.pad_id = pad_id if pad_id not in (None, eos_id) else self._other_than(eos_id)
        self.stop_ids = tuple(dict.fromkeys((eos_id, *stop_ids)))
        named = [i for i in (self.bos_id, self.pad_id, self.unk_id, *self.stop_ids) if i is not None]
        self.vocab_size = max(engine.plain_size, *(i + 1 for i in named))
        self.chat_template, self.named_tokens = chat_template, named_tokens or {}
        self.lacks: str | None = None
        # The unknown id stands for text; only its own spelling in a prompt is suspicious.
        self._signs = engine.special_ids - {self.unk_id}

    @property
    def digest(self) -> str:
        """SHA-256 of the vocabulary and its rules: texts have the same ids where it is the same."""
        return hashlib.sha256(self.engine.serialized()).hexdigest()

    def _other_than(self, eos_id: int) -> int:
        below = self.engine.plain_size
        known = [self.unk_id, *sorted(i for i in self.engine.special_ids if i < below), *range(min(2, below))]
        return next((i for i in known if i not in (None, eos_id)), eos_id)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without BOS and EOS; "</s>" and the like in it stay ordinary characters."""
        return self.engine.encode([text], specials=False)[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts, several times faster."""
        return self.engine.encode(list(texts), specials=False)

    def encode_prompts(self, template: Template, prompts: Sequence[str]) -> list[list[int]]:
        """Ids of the rendered prompts, BOS first where prompts begin with one: the template's special tokens become their
        ids, the same strings in a prompt stay text."""
        prompts = [template.cleaned(prompt) for prompt in prompts]
        around = self.engine.encode([template.prefix, template.suffix], specials=True)
        past = [i for row in around for i in row if i >= self.vocab_size]
        if past:
            raise InputError(
                f"the template has token {past[0]}, this vocabulary {self.vocab_size}: use another template"
            )
        own = sum(map(self._specials_in, around))
        rows = self.engine.encode([template.prefix + p + template.suffix for p in prompts], specials=True)
        for i, prompt in enumerate(prompts):
            if self._specials_in(rows[i]) != own or self.engine.names_unknown(prompt):
                rows[i] = [*around[0], *self.encode(prompt), *around[1]]
        return [self._begun(row) for row in rows]

    def encode_pieces(self, pieces: Sequence[tuple[str, bool]]) -> list[int]:
        """Ids of a text in pieces (text, whether its special tokens count), BOS first where prompts begin with one."""
        own = sum(
            self._specials_in(self.engine.encode([text], True)[0]) for text, trusted in pieces if trusted
        )
        whole = self.engine.encode(["".join(text for text, _ in pieces)], specials=True)[0]
        foreign = any(self.engine.names_unknown(text) for text, trusted in pieces if not trusted)
        if foreign or self._specials_in(whole) != own:
            parts = (self.engine.encode([text], specials=trusted)[0] for text, trusted in pieces)
            whole = list(itertools.chain.from_iterable(parts))
        return self._begun(whole)

    def encode_talk(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Ids of a talk ({"role", "content"}, the user's message last), rendered by the checkpoint's own template up to where the
        answer begins; special tokens that a message spells stay text. InputError as for `chat_pieces`."""
        return self.encode_pieces(
            chat_pieces(self.chat_template, self.named_tokens, messages, self._has_specials)
        )

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids up to the first EOS; special tokens are dropped. Characters whose bytes lie in several tokens need
        them all in one call."""
        return self.engine.decode(
            list(itertools.takewhile(lambda token: token != self.eos_id, map(int, ids)))
        )

    def _specials_in(self, ids: list[int]) -> int:
        return sum(map(self._signs.__contains__, ids))

    def _has_specials(self, text: str) -> bool:
        return self.engine.names_unknown(text) or self._specials_in(self.engine.encode([text], True)[0]) > 0

    def _begun(self, ids: list[int]) -> list[int]:
        return ids if self.bos_id is None or ids[:1] == [self.bos_id] else [self.bos_id, *ids]


class SentencePieceEngine:
    """A SentencePiece model; its control symbols are the special tokens."""

    def __init__(self, model: bytes):
        self.model = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size = self.plain_size = self.model.vocab_size()
        self.unk_id = self.model.unk_id()
        self._ids = {self.model.id_to_piece(i): i for i in range(self.vocab_size) if self.model.is_control(i)}
        self.special_ids = frozenset(self._ids.values())
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    @property
    def own_ids(self) -> dict[str, int | None]:
        """The ids that the model itself names "bos", "eos" and "pad", None where it has none."""
        ids = {"bos": self.model.bos_id(), "eos": self.model.eos_id(), "pad": self.model.pad_id()}
        return {name: i if i >= 0 else None for name, i in ids.items()}

    def serialized(self) -> bytes:
        """The model as a file holds it."""
        return self.model.serialized_model_proto()

    def token(self, i: int) -> str:
        """The spelling of an id."""
        return self.model.id_to_piece(i)

    def token_id(self, token: str) -> int | None:
        """The id of a spelling, None for one that is no piece."""
        i = self.model.piece_to_id(token)
        return i if self.model.id_to_piece(i) == token else None

    def names_unknown(self, text: str) -> bool:
        """Never: the unknown symbol cannot be spelled."""
        return False

    def encode(self, texts: list[str], specials: bool) -> list[list[int]]:
        """Ids of each text; with `specials` its control symbols become their ids."""
        rows = self.model.encode(texts)
        for i, text in enumerate(texts if specials else ()):
            if self._special.search(text):
                rows[i] = self._with_specials(text)
        return rows

    def _with_specials(self, text: str) -> list[int]:
        found, at = [], 0
        for match in self._special.finditer(text):
            found += [*self.model.encode(text[at : match.start()]), self._ids[match.group()]]
            at = match.end()
        return found + self.model.encode(text[at:])

    def decode(self, ids: list[int]) -> str:
        """Text of the ids; SentencePiece decodes control symbols to nothing."""
        return self.model.decode(ids)


def sentencepiece_tokenizer(model: bytes, where) -> Tokenizer:
    """The tokenizer of a SentencePiece model with the special ids it names; InputError, naming `where`, for anything else."""
    engine = sentencepiece_engine(model, where)
    ids = engine.own_ids
    if ids["eos"] is None:
        raise InputError(f"{where}: the model has no end-of-text symbol; train it with one (eos_id)")
    named = {f"{name}_token": engine.token(i) for name, i in ids.items() if i is not None}
    return Tokenizer(engine, eos_id=ids["eos"], pad_id=ids["pad"], bos_id=ids["bos"], named_tokens=named)


def sentencepiece_engine(model: bytes, where) -> SentencePieceEngine:
    """The engine of a model file's bytes; InputError, naming `where`, if they are none."""
    try:
        return SentencePieceEngine(model)
    except (RuntimeError, UnicodeDecodeError) as error:
        raise InputError(f"{where}: is not a SentencePiece model") from error


def train_sentencepiece(
    texts: Iterable[str],
    path: str | os.PathLike,
    vocab_size: int,
    seed: int,
    *,
    model_type: str = "unigram",
    space_after: bool = False,
    byte_fallback: bool = False,
) -> Tokenizer:
    """Trains a model ("unigram" or "bpe") on `texts` and writes it to `path` (the same bytes each time).

    A word's piece holds the space before it, or the one after it with `space_after` (then a word is the same
    piece at the start of a line as within it).

    PAD is 0, unknown 1, EOS 2, "\\n" a symbol of its own; characters that `texts` lack become unknown, or bytes
    (256 of the vocabulary) with `byte_fallback`. `seed` draws the lines where there are more than a million.
    InputError if the texts cannot fill or do not fit `vocab_size`.
    """
    lines = [line for text in texts for line in text.split("\n") if line]
    if not lines:
        raise InputError("train_sentencepiece: there is no text to train on")
    if len(lines) > _MAX_LINES:
        lines = random.Random(seed).sample(lines, _MAX_LINES)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type=model_type,
            treat_whitespace_as_suffix=space_after,
            vocab_size=vocab_size,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            user_defined_symbols=["\n"],
            character_coverage=1.0,
            byte_fallback=byte_fallback,
            max_sentence_length=1 << 20,
            num_threads=1,
            pad_id=0,
            unk_id=1,
            eos_id=2,
            bos_id=-1,
            unk_surface="\N{REPLACEMENT CHARACTER}",
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"vocab_size {vocab_size} does not suit these {len(lines)} lines: {error}"
        ) from error
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    temporary.write_bytes(model.getvalue())
    os.replace(temporary, path)
    return sentencepiece_tokenizer(model.getvalue(), path)
