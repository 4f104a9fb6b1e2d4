"""Home of writing tokenizers for Hugging Face transformers: tokenizer.json, its settings and the chat template."""

import json
from pathlib import Path

import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import decoders, models, normalizers, processors

from instruct_jax.errors import InputError
from instruct_jax.text.gguf import merges_of
from instruct_jax.text.loading import TokenizersEngine
from instruct_jax.text.tokenizer import SentencePieceEngine, Tokenizer

SPACE = "\u2581"
PIECE = sentencepiece_model_pb2.ModelProto.SentencePiece


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and, where there is one, chat_template.jinja into `folder`.

    A SentencePiece model is written as its pieces, which AutoTokenizer reads, with the model itself beside it. InputError for one
    that has no exact form there.
    """
    engine = tokenizer.engine
    model = _pieces(engine, folder) if isinstance(engine, SentencePieceEngine) else _copy(engine)
    if tokenizer.bos_id is not None:
        bos = model.id_to_token(tokenizer.bos_id)
        model.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.bos_id)]
        )
    model.save(str(folder / "tokenizer.json"))
    ids = {
        "bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "pad_token": special_pad(tokenizer), "unk_token": tokenizer.unk_id,
    }  # fmt: skip
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


def special_pad(tokenizer: Tokenizer) -> int | None:
    """The pad id for other tools, which drop it from text: None where ours is the id of an ordinary token."""
    return tokenizer.pad_id if tokenizer.pad_id in tokenizer.engine.special_ids else None


def special_ids(tokenizer: Tokenizer) -> dict:
    """The ids that a config.json names; every stop id as an end of text."""
    stops = list(tokenizer.stop_ids)
    ends = stops if len(stops) > 1 else tokenizer.eos_id
    return {"bos_token_id": tokenizer.bos_id, "eos_token_id": ends, "pad_token_id": special_pad(tokenizer)}


def _copy(engine: TokenizersEngine) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(engine.model.to_str())


def _pieces(engine: SentencePieceEngine, folder: Path) -> tokenizers.Tokenizer:
    proto = sentencepiece_model_pb2.ModelProto.FromString(engine.model.serialized_model_proto())
    trained, plain = proto.trainer_spec, proto.normalizer_spec
    if trained.model_type != trained.BPE or plain.precompiled_charsmap or plain.remove_extra_whitespaces:
        raise InputError(
            "this SentencePiece model is no BPE, or changes text before it splits it: it has no exact tokenizer.json"
        )
    model = tokenizers.Tokenizer(_bpe(proto, engine.unk_id, trained.byte_fallback))
    steps = [normalizers.Replace(" ", SPACE)]
    model.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), *steps] if plain.add_dummy_prefix else steps
    )
    undo = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    model.decoder = decoders.Sequence([*undo, decoders.Strip(" ", 1, 0)] if plain.add_dummy_prefix else undo)
    for kind, special in ((PIECE.CONTROL, True), (PIECE.USER_DEFINED, False)):
        named = [piece.piece for piece in proto.pieces if piece.type == kind]
        model.add_tokens([tokenizers.AddedToken(name, normalized=False, special=special) for name in named])
    (folder / "tokenizer.model").write_bytes(engine.model.serialized_model_proto())
    return model


def _bpe(proto, unk_id: int, byte_fallback: bool) -> models.BPE:
    normal = [piece for piece in proto.pieces if piece.type == PIECE.NORMAL]
    ranked = [piece.piece for piece in sorted(normal, key=lambda piece: -piece.score)]
    ids = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    unknown = proto.pieces[unk_id].piece
    return models.BPE(ids, merges_of(ranked), unk_token=unknown, fuse_unk=True, byte_fallback=byte_fallback)
