"""Home of writing tokenizers for Hugging Face transformers: tokenizer.json, its settings and the chat template."""

import json
from pathlib import Path

import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import decoders, models, pre_tokenizers, processors

from instruct_jax.errors import InputError
from instruct_jax.text.loading import TokenizersEngine
from instruct_jax.text.tokenizer import SentencePieceEngine, Tokenizer

PIECE = sentencepiece_model_pb2.ModelProto.SentencePiece


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and, where there is one, chat_template.jinja into `folder`.

    A SentencePiece model is written as its unigrams, which AutoTokenizer reads, with the model itself beside it. InputError for
    one of another kind, or that changes text before it splits it.
    """
    engine = tokenizer.engine
    model = _unigrams(engine, folder) if isinstance(engine, SentencePieceEngine) else _copy(engine)
    if tokenizer.bos_id is not None:
        bos = model.id_to_token(tokenizer.bos_id)
        model.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.bos_id)]
        )
    model.save(str(folder / "tokenizer.json"))
    ids = {
        "bos_token": tokenizer.bos_id,
        "eos_token": tokenizer.eos_id,
        "pad_token": tokenizer.pad_id,
        "unk_token": tokenizer.unk_id,
    }
    named = {name: model.id_to_token(i) for name, i in ids.items() if i is not None}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
        "add_bos_token": tokenizer.bos_id is not None, **tokenizer.named_tokens, **named,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings, indent=2, ensure_ascii=False) + "\n", "utf-8"
    )
    if tokenizer.chat_template:
        (folder / "chat_template.jinja").write_text(tokenizer.chat_template, "utf-8")


def _copy(engine: TokenizersEngine) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(engine.model.to_str())


def _unigrams(engine: SentencePieceEngine, folder: Path) -> tokenizers.Tokenizer:
    proto = sentencepiece_model_pb2.ModelProto.FromString(engine.model.serialized_model_proto())
    plain = proto.normalizer_spec
    if proto.trainer_spec.model_type != proto.trainer_spec.UNIGRAM or plain.precompiled_charsmap:
        raise InputError(
            "this SentencePiece model is no plain unigram model: export it with its own tokenizer.json instead"
        )
    vocab = [(piece.piece, piece.score) for piece in proto.pieces]
    unigram = models.Unigram(vocab, engine.unk_id, proto.trainer_spec.byte_fallback)
    model = tokenizers.Tokenizer(unigram)
    scheme = "first" if plain.add_dummy_prefix else "never"
    model.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    model.decoder = decoders.Metaspace(prepend_scheme=scheme, split=False)
    for kind, special in ((PIECE.CONTROL, True), (PIECE.USER_DEFINED, False)):
        model.add_tokens(
            [
                tokenizers.AddedToken(p.piece, normalized=False, special=special)
                for p in proto.pieces
                if p.type == kind
            ]
        )
    (folder / "tokenizer.model").write_bytes(engine.model.serialized_model_proto())
    return model
