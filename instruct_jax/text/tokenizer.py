"""Home of the tokenizer: SentencePiece unigram models, trained here or loaded.

Differs from the paper, which uses GPT-3's BPE of 50,257 ids: a small vocabulary that fits small models. As
there, nothing is added before the first word, so cutting a text after a newline never changes its ids. PAD
and EOS are distinct ids that no user text encodes to.
"""

import io
import itertools
import os
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from instruct_jax.errors import InputError

_MAX_LINES = 1_000_000


class Tokenizer:
    """Text ↔ ids of one SentencePiece model; `pad_id` 0, `unk_id` 1, `eos_id` 2."""

    pad_id = 0
    unk_id = 1
    eos_id = 2

    def __init__(self, model: bytes):
        self._model = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size = self._model.vocab_size()

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Tokenizer":
        """Loads a .model file; InputError if it is missing, is no SentencePiece model or has other special
        ids.
        """
        try:
            tokenizer = cls(Path(path).read_bytes())
        except OSError as error:
            raise InputError(f"{path}: tokenizer cannot be read ({error.strerror})") from error
        except RuntimeError as error:
            raise InputError(f"{path}: is not a SentencePiece model") from error
        model = tokenizer._model
        if (model.pad_id(), model.unk_id(), model.eos_id()) != (cls.pad_id, cls.unk_id, cls.eos_id):
            raise InputError(
                f"{path}: special ids are pad {model.pad_id()}, unk {model.unk_id()}, eos {model.eos_id()}; "
                f"needed are {cls.pad_id}, {cls.unk_id}, {cls.eos_id}: train it with train_sentencepiece"
            )
        return tokenizer

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without EOS; "</s>" and the like in it stay ordinary characters."""
        return self._model.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts, several times faster."""
        return self._model.encode(list(texts))

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids up to the first EOS; pads are dropped."""
        # PAD is a control symbol, which SentencePiece itself decodes to nothing.
        return self._model.decode(
            list(itertools.takewhile(lambda token: token != self.eos_id, map(int, ids)))
        )


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

    "\\n" is a symbol of its own; characters that `texts` lack become `unk_id`, or bytes (256 of the
    vocabulary) with `byte_fallback`. `seed` draws the lines where there are more than a million. InputError
    if the texts cannot fill or do not fit `vocab_size`.
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
            pad_id=Tokenizer.pad_id,
            unk_id=Tokenizer.unk_id,
            eos_id=Tokenizer.eos_id,
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
    return Tokenizer(model.getvalue())
