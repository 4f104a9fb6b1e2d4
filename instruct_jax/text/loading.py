"""Home of reading tokenizers from files: SentencePiece models, tokenizer.json, and Hugging Face folders with their settings."""

import json
import os
from pathlib import Path

import tokenizers

from instruct_jax import steady
from instruct_jax.errors import InputError
from instruct_jax.text.tokenizer import Tokenizer, sentencepiece_engine, sentencepiece_tokenizer

NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def load_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """The tokenizer of a SentencePiece .model file, a tokenizer.json, or a Hugging Face folder that holds either.

    A .model file stands for itself; a tokenizer.json is read with the settings beside it, as its folder is. InputError
    names the file that is missing or broken.
    """
    path = Path(path)
    if path.is_dir():
        return _from_folder(path)
    if path.suffix == ".json":
        return _from_json(path, _Settings(path.parent))
    return sentencepiece_tokenizer(_read(path), path)


def _read(path: Path) -> bytes:
    try:
        return steady.read_file(path)
    except OSError as error:
        raise InputError(f"{path}: tokenizer cannot be read ({error.strerror})") from error


def _from_folder(folder: Path) -> Tokenizer:
    settings = _Settings(folder)
    if (folder / "tokenizer.json").is_file():
        return _from_json(folder / "tokenizer.json", settings)
    path = folder / "tokenizer.model"
    if not path.is_file():
        raise InputError(
            f"{folder}: holds neither tokenizer.json nor tokenizer.model: save one there first (transformers: "
            "AutoTokenizer.from_pretrained, save_pretrained)"
        )
    engine = sentencepiece_engine(_read(path), path)
    own = {k: i for k, i in engine.own_ids.items() if i is not None}
    named = {f"{name}_token": engine.token(i) for name, i in own.items()}
    found = _assembled(engine, named | settings.named, settings, path, begins=own.get("bos"))
    used = (token for token in settings.added if token in (settings.chat_template or ""))
    found.lacks = next((token for token in used if engine.token_id(token) is None), None)
    return found


def _from_json(path: Path, settings: "_Settings") -> Tokenizer:
    text = _read(path)
    try:
        model = tokenizers.Tokenizer.from_buffer(text)
    except Exception as error:  # the library raises nothing more exact
        raise InputError(f"{path}: is not a tokenizer of the tokenizers library ({error})") from error
    model.no_truncation()
    model.no_padding()
    engine = TokenizersEngine(model, settings.named.values())
    begun, bare = (model.encode("a", add_special_tokens=flag).ids for flag in (True, False))
    begins = begun[0] if begun[:1] != bare[:1] else None
    return _assembled(engine, settings.named, settings, path, begins)


def _assembled(
    engine, named: dict[str, str], settings: "_Settings", path: Path, begins: int | None
) -> Tokenizer:
    """The tokenizer of an engine and what the files beside it say; `begins` is the id that the engine's file puts first."""
    ids = {name: engine.token_id(token) for name, token in named.items()}
    given = {name: settings.ids(f"{name}_id") for name in ("bos_token", "eos_token", "pad_token")}
    eos = ids.get("eos_token")
    if eos is None and named.get("eos_token") and "eos_token" in settings.named:
        raise InputError(
            f"{path}: has no token {named['eos_token']!r}, which the settings beside it call eos_token"
        )
    eos = next((i for i in (eos, *given["eos_token"]) if i is not None), None)
    if eos is None:
        raise InputError(
            f"{path}: no end-of-text token is known; name eos_token in tokenizer_config.json beside it"
        )
    if settings.add_bos is not None:
        candidates = [ids.get("bos_token"), begins, *given["bos_token"]] if settings.add_bos else []
        begins = next((i for i in candidates if i is not None), None)
    pad = next((i for i in (ids.get("pad_token"), *given["pad_token"]) if i is not None), None)
    for i in (eos, begins, pad, *given["eos_token"]):
        if i is not None and not 0 <= i < engine.vocab_size:
            raise InputError(
                f"{path}: has {engine.vocab_size} tokens, but the settings beside it name token {i}"
            )
    return Tokenizer(engine, eos_id=eos, pad_id=pad, bos_id=begins, stop_ids=given["eos_token"],
                     chat_template=settings.chat_template, named_tokens=named)  # fmt: skip


class TokenizersEngine:
    """A tokenizer of the `tokenizers` library; `named` are tokens that count as special even if it does not mark them."""

    def __init__(self, model: tokenizers.Tokenizer, named=(), vocab_size: int = 0):
        self.model = model
        marked = {token.content for token in model.get_added_tokens_decoder().values() if token.special}
        unmarked = {token for token in named if token not in marked and model.token_to_id(token) is not None}
        if unmarked:
            model.add_special_tokens(
                [tokenizers.AddedToken(t, special=True, normalized=False) for t in sorted(unmarked)]
            )
        added = model.get_added_tokens_decoder()
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        self.vocab_size = vocab_size or max(model.get_vocab_size(), max(added, default=-1) + 1)
        # Some checkpoints name special tokens past their embeddings (Gemma 3's image token): text never has those.
        plain = [i for i in added if i not in self.special_ids]
        base = model.get_vocab_size(with_added_tokens=False)
        self.plain_size = vocab_size or max(base, max(plain, default=-1) + 1)
        self._unknown = getattr(model.model, "unk_token", None)
        self.unk_id = None if self._unknown is None else model.token_to_id(self._unknown)

    def token_id(self, token: str) -> int | None:
        """The id of a token's spelling, None for one that there is not."""
        return self.model.token_to_id(token)

    def serialized(self) -> bytes:
        """The tokenizer as a tokenizer.json holds it."""
        return self.model.to_str().encode()

    def names_unknown(self, text: str) -> bool:
        """Whether the text spells the unknown token."""
        return self.unk_id in self.special_ids and self._unknown in text

    def encode(self, texts: list[str], specials: bool) -> list[list[int]]:
        """Ids of each text, nothing added; with `specials` special tokens in it become their ids."""
        self.model.encode_special_tokens = not specials
        return [found.ids for found in self.model.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        """Text of the ids without special tokens."""
        return self.model.decode(ids, skip_special_tokens=True)


class _Settings:
    """What the files beside a tokenizer say of it; every one of them may be missing."""

    def __init__(self, folder: Path):
        config, more = _json(folder / "tokenizer_config.json"), _json(folder / "special_tokens_map.json")
        self._models = [_json(folder / "generation_config.json"), _json(folder / "config.json")]
        self._models += [
            part["text_config"] for part in self._models if isinstance(part.get("text_config"), dict)
        ]
        found = {name: _spelling(config.get(name) or more.get(name)) for name in NAMED}
        self.named = {name: token for name, token in found.items() if token}
        self.add_bos = config.get("add_bos_token")
        decoder = config.get("added_tokens_decoder")
        spelled = decoder.values() if isinstance(decoder, dict) else ()
        self.added = [*filter(None, (*map(_spelling, spelled), *_json(folder / "added_tokens.json")))]
        jinja = folder / "chat_template.jinja"
        alone = _json(folder / "chat_template.json").get("chat_template")
        self.chat_template = (
            _read(jinja).decode("utf-8", "replace")
            if jinja.is_file()
            else _default(config.get("chat_template") or alone)
        )

    def ids(self, name: str) -> list[int]:
        """The ids that generation_config.json, else config.json, gives under a name."""
        for model in self._models:
            given = model.get(name)
            if given is not None:
                ids = given if isinstance(given, list) else [given]
                return [i for i in ids if isinstance(i, int)]
        return []


def _spelling(token) -> str | None:
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) and token else None


def _default(template) -> str | None:
    if isinstance(template, list):  # several templates by name
        named = (t for t in template if isinstance(t, dict) and t.get("name") == "default")
        template = next((t.get("template") for t in named), None)
    return template if isinstance(template, str) else None


def _json(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds no JSON object")
    return found
