"""Malformed tokenizers and checkpoints: Hugging Face folders, safetensors and GGUF headers, and our own."""

import json
import pickle
import shutil
import struct
import sys
from pathlib import Path

from hostile_world import Case, change, remove, write

sys.path.insert(0, str(Path(__file__).parent.parent))
from gguf_files import write_llama

TRAIN = ["--config", "config.py", "--workdir", "out"]
EXPORT = ["--model", "model", "--out", "out"]
WEIGHTS, CONFIG = "model/model.safetensors", "model/config.json"
HUGE = 2**62


class Touch:
    """Pickled, it makes a canary when it is read."""

    def __reduce__(self):
        return Path.touch, (Path("canary"),)


def tokenizer(name, file, content, *says, settings=None):
    """Training with this tokenizer file, in a folder with these settings."""

    def damage(folder):
        write(f"tok/{file}", content)(folder)
        for other, text in (settings or {}).items():
            write(f"tok/{other}", text if isinstance(text, str | bytes) else json.dumps(text))(folder)

    path = f"tok/{file}" if file != "tokenizer.json" else "tok"
    return Case(
        f"tokenizer-{name}", "main", [*TRAIN, f"--config.text.tokenizer={path}"], says or (file,), damage
    )


def bpe(**changes):
    """A small tokenizer.json with changed parts."""
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "</s>": 3}, "merges": [["a", "b"]]}
    whole = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": None,
        "post_processor": None, "decoder": None, "model": model,
    }  # fmt: skip
    return json.dumps(
        {
            **whole,
            **{k: v for k, v in changes.items() if k != "model"},
            "model": model | changes.get("model", {}),
        }
    )


END = {"tokenizer_config.json": {"eos_token": "</s>"}}
JSON = "tokenizer.json"
TOKENIZERS = [
    tokenizer("empty", "x.model", b""),
    tokenizer("text", "x.model", "hello"),
    tokenizer("random", "x.model", bytes(range(256)) * 40),
    tokenizer("pickle", "x.model", pickle.dumps(Touch())),
    tokenizer("zip", "x.model", b"PK\3\4" + bytes(100)),
    Case("tokenizer-cut", "main", TRAIN, ("tokenizer.model",), change("tokenizer.model", lambda data: data[:1000])),
    Case("tokenizer-doubled", "main", TRAIN, ("tokenizer.model",), change("tokenizer.model", lambda data: data + data)),
    tokenizer("nothing", "readme.txt", "hello"),
    tokenizer("json-empty", JSON, ""),
    tokenizer("json-cut", JSON, bpe()[:80], settings=END),
    tokenizer("json-list", JSON, "[]", settings=END),
    tokenizer("json-deep", JSON, "[" * 100_000, settings=END),
    tokenizer("json-binary", JSON, bytes(range(256)), settings=END),
    tokenizer("json-kind", JSON, bpe(model={"type": "Pickle"}), settings=END),
    tokenizer("json-vocab", JSON, bpe(model={"vocab": [1, 2]}), settings=END),
    tokenizer("json-id-text", JSON, bpe(model={"vocab": {"a": "0"}}), settings=END),
    tokenizer("json-id-below", JSON, bpe(model={"vocab": {"a": -1}}), settings=END),
    tokenizer("json-id-huge", JSON, bpe(model={"vocab": {"a": 2**70}}), settings=END),
    tokenizer("json-merges", JSON, bpe(model={"merges": [["x", "y"]]}), settings=END),
    tokenizer("json-merges-text", JSON, bpe(model={"merges": "ab"}), settings=END),
    tokenizer("json-regex", JSON, bpe(pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated",
         "invert": False}), settings=END),
    tokenizer("json-no-end", JSON, bpe(), "end-of-text"),
    tokenizer("json-end-missing", JSON, bpe(), "</end>", settings={"tokenizer_config.json": {"eos_token": "</end>"}}),
    tokenizer("json-end-number", JSON, bpe(), "end-of-text", settings={"tokenizer_config.json": {"eos_token": 3}}),
    tokenizer("json-end-id", JSON, bpe(), "999", settings={"generation_config.json": {"eos_token_id": 999}}),
    tokenizer("json-end-below", JSON, bpe(), "-1", settings={"generation_config.json": {"eos_token_id": -1}}),
    tokenizer("settings-cut", JSON, bpe(), "tokenizer_config.json", settings={"tokenizer_config.json": "{"}),
    tokenizer("settings-list", JSON, bpe(), "tokenizer_config.json", settings={"tokenizer_config.json": "[]"}),
    tokenizer("settings-binary", JSON, bpe(), "special_tokens_map.json", settings=END | {"special_tokens_map.json": b"\xff\0"}),
    tokenizer("settings-folder", "tokenizer.model/x", "", "tok"),
]  # fmt: skip


def template(name, source, *says):
    """A chat template from a stranger."""
    settings = {"tokenizer_config.json": {"eos_token": "</s>", "chat_template": source}}
    case = tokenizer(f"template-{name}", JSON, bpe(), *says, settings=settings)
    return Case(
        case.name,
        case.command,
        [*case.words, "--config.text.template=chat"],
        says or ("chat template",),
        case.damage,
    )


TEMPLATES = [
    template("syntax", "{% if %}"),
    template("unknown-tag", "{% run %}"),
    template("raises", "{{ raise_exception('no') }}", "no"),
    template("import", "{% import 'os' as os %}{{ messages[0].content }}"),
    template("open", "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ messages[0].content }}"),
    template("globals", "{{ raise_exception.__globals__['__builtins__']['open']('canary', 'w') }}{{ messages[0].content }}"),
    template("cycler", "{{ cycler.__init__.__globals__.os.mkdir('canary') }}{{ messages[0].content }}"),
    template("memory", "{{ 'x' * 10000000000 }}"),
    template("loop", "{% for i in range(10000000000) %}{% endfor %}"),
    template("silent", "hello"),
    template("twice", "{{ messages[0].content }}{{ messages[0].content }}"),
    template("divides", "{{ 1 / 0 }}"),
    template("deep", "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}"),
]  # fmt: skip


def weights(name, content, *says):
    """A Hugging Face folder whose model.safetensors is this, or is changed so."""
    damage = change(WEIGHTS, content) if callable(content) else write(WEIGHTS, content)
    return Case(f"safetensors-{name}", "export", EXPORT, says or ("model.safetensors",), damage)


def header(name, make, *says):
    """The same, with a changed header."""

    def edit(data):
        (size,) = struct.unpack("<Q", data[:8])
        found = json.loads(data[8 : 8 + size])
        text = make(found)
        text = (text if isinstance(text, str) else json.dumps(found)).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text + data[8 + size :]

    return weights(f"header-{name}", edit, *says)


def entry(found):
    """The header's first tensor."""
    return found[next(name for name in found if name != "__metadata__")]


SAFETENSORS = [
    weights("empty", b""),
    weights("short", b"\1\0"),
    weights("text", "hello there, this is text"),
    weights("pickle", pickle.dumps(Touch())),
    weights("length-huge", lambda data: struct.pack("<Q", 2**63) + data[8:]),
    weights("length-beyond", lambda data: struct.pack("<Q", len(data) * 2) + data[8:]),
    weights("length-gigabyte", lambda data: struct.pack("<Q", 99_000_000) + data[8:]),
    weights("length-zero", lambda data: struct.pack("<Q", 0) + data[8:]),
    weights("cut", lambda data: data[:-1000]),
    weights("cut-header", lambda data: data[:500]),
    weights("longer", lambda data: data + bytes(1000)),
    header("list", lambda found: "[]"),
    header("cut-json", lambda found: json.dumps(found)[:-5]),
    header("deep", lambda found: "[" * 100_000),
    header("not-utf8", lambda found: json.dumps(found).replace("embed", "\ud800", 1) if False else "\\xff"),
    header("dtype", lambda found: entry(found).update(dtype="F7")),
    header("dtype-integer", lambda found: entry(found).update(dtype="I16")),
    header("shape-huge", lambda found: entry(found).update(shape=[HUGE, HUGE])),
    header("shape-below", lambda found: entry(found).update(shape=[-1, 32])),
    header("shape-text", lambda found: entry(found).update(shape="32")),
    header("shape-other", lambda found: entry(found).update(shape=entry(found)["shape"][::-1]), "shape"),
    header("offsets-beyond", lambda found: entry(found).update(data_offsets=[0, HUGE])),
    header("offsets-swapped", lambda found: entry(found).update(data_offsets=entry(found)["data_offsets"][::-1])),
    header("offsets-below", lambda found: entry(found).update(data_offsets=[-8, 8])),
    header("overlap",
         lambda found: [tensor.update(data_offsets=entry(found)["data_offsets"]) for tensor in list(found.values())[1:3]] and None),
    header("renamed", lambda found: json.dumps(found).replace("model.norm.weight", "model.nrom.weight"), "model.norm.weight"),
    header("surplus", lambda found: json.dumps(found).replace("model.norm.weight", "../../canary"), "model.norm.weight"),
]  # fmt: skip


def index(name, content, *says):
    """A folder in shards with this index."""

    def damage(folder):
        (folder / WEIGHTS).rename(folder / "model/a.safetensors")
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / "model/model.safetensors.index.json").write_text(text)

    return Case(f"index-{name}", "export", EXPORT, says or ("index.json",), damage)


def hugging_face(name, key, value, *says):
    """A config.json with another value of a key, None for none."""

    def edit(data):
        found = json.loads(data)
        found[key] = value
        if value is None:
            del found[key]
        return json.dumps(found).encode()

    return Case(f"hf-{name}", "export", EXPORT, says or ("config.json", key), change(CONFIG, edit))


def pickled(folder):
    (folder / WEIGHTS).unlink()
    (folder / "model/pytorch_model.bin").write_bytes(pickle.dumps(Touch()))


FOLDERS = [
    index("cut", "{"),
    index("list", "[]"),
    index("no-map", {}),
    index("map-empty", {"weight_map": {}}),
    index("map-list", {"weight_map": ["a"]}),
    index("traversal", {"weight_map": {"model.norm.weight": "../../run/x.safetensors"}}),
    index("absolute", {"weight_map": {"model.norm.weight": "/etc/passwd"}}),
    index("number", {"weight_map": {"model.norm.weight": 3}}),
    index("no-file", {"weight_map": {"model.norm.weight": "b.safetensors"}}, "b.safetensors"),
    index("no-tensor", {"weight_map": {"model.nrom.weight": "a.safetensors"}}, "model.nrom.weight"),
    index("some", {"weight_map": {"model.norm.weight": "a.safetensors"}}, "missing"),
    Case("hf-pickled", "export", EXPORT, ("pytorch_model.bin", "pickled"), pickled),
    Case("hf-no-weights", "export", EXPORT, ("model.safetensors", "missing"), remove(WEIGHTS)),
    Case("hf-no-config", "export", EXPORT, ("model",), remove(CONFIG)),
    Case("hf-config-cut", "export", EXPORT, ("config.json",), change(CONFIG, lambda data: data[:30])),
    Case("hf-config-list", "export", EXPORT, ("config.json",), write(CONFIG, "[]")),
    Case("hf-config-deep", "export", EXPORT, ("config.json",), write(CONFIG, "[" * 100_000)),
    Case("hf-config-binary", "export", EXPORT, ("config.json",), write(CONFIG, bytes(range(256)))),
    Case("hf-config-folder", "export", EXPORT, ("config.json",), lambda folder: ((folder / CONFIG).unlink(), (folder / CONFIG).mkdir())),
    Case("hf-no-tokenizer", "export", EXPORT, ("tokenizer",), remove("model/tokenizer.model")),
    hugging_face("type", "model_type", "evil_llama", "config.json", "evil_llama"),
    hugging_face("type-none", "model_type", None, "config.json"),
    hugging_face("type-number", "model_type", 3, "config.json"),
    hugging_face("type-list", "model_type", ["llama"], "config.json"),
    hugging_face("no-width", "hidden_size", None),
    hugging_face("layers-huge", "num_hidden_layers", 10**9, "layers"),
    hugging_face("layers-below", "num_hidden_layers", -1, "config.json", "layers"),
    hugging_face("layers-zero", "num_hidden_layers", 0, "config.json", "layers"),
    hugging_face("layers-text", "num_hidden_layers", "two", "config.json", "layers"),
    hugging_face("layers-bool", "num_hidden_layers", True, "config.json", "layers"),
    hugging_face("layers-float", "num_hidden_layers", 2.0, "config.json", "layers"),
    hugging_face("width-huge", "hidden_size", 2**40, "width"),
    hugging_face("width-odd", "hidden_size", 33, "model"),
    hugging_face("heads-zero", "num_attention_heads", 0, "config.json", "heads"),
    hugging_face("heads-many", "num_attention_heads", 10**12, "model"),
    hugging_face("kv-heads", "num_key_value_heads", 3, "config.json"),
    hugging_face("vocab-huge", "vocab_size", 10**15, "vocab"),
    hugging_face("vocab-below", "vocab_size", -5, "config.json", "vocab"),
    hugging_face("context-below", "max_position_embeddings", -1, "config.json"),
    hugging_face("eps-text", "rms_norm_eps", "small", "config.json"),
    hugging_face("eps-below", "rms_norm_eps", -1.0, "config.json"),
    hugging_face("act", "hidden_act", "canary", "config.json", "canary"),
    hugging_face("act-list", "hidden_act", ["silu"], "config.json"),
    hugging_face("rope-kind", "rope_parameters", {"rope_type": "magic", "rope_theta": 1.0}, "magic"),
    hugging_face("rope-list", "rope_parameters", [1], "config.json"),
    hugging_face("rope-none", "rope_parameters", {"full_attention": None}, "rope_parameters"),
    hugging_face("rope-empty", "rope_parameters", {"rope_type": "llama3"}, "config.json"),
    hugging_face("rope-zero", "rope_parameters", {"rope_theta": 0}, "config.json"),
    hugging_face("bias", "reward_bias", "big", "reward_bias"),
    hugging_face("head-dim", "head_dim", 17, "config.json"),
]  # fmt: skip


def gguf(name, damage, *says):
    """A .gguf file, damaged; `damage` makes keys for the writer, or new bytes of old ones."""

    def write_one(folder):
        path = folder / "x.gguf"
        tokens = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": [f"piece{n}" for n in range(40)]}
        tokens |= {"tokenizer.ggml.scores": [0.0] * 40, "tokenizer.ggml.token_type": [1] * 40}
        keys = damage if isinstance(damage, dict) else {}
        write_llama(path, keys=tokens | keys)
        if not isinstance(damage, dict):
            path.write_bytes(damage(path.read_bytes()))

    return Case(f"gguf-{name}", "export", ["--model", "x.gguf", "--out", "out"], ("x.gguf", *says), write_one)


def number(at, code, value):
    """Bytes with another number at a place."""
    return lambda data: data[:at] + struct.pack("<" + code, value) + data[at + struct.calcsize(code) :]


GGUFS = [
    Case("gguf-missing", "export", ["--model", "no.gguf", "--out", "out"], ("no.gguf",)),
    gguf("empty", lambda data: b""),
    gguf("text", lambda data: b"hello"),
    gguf("magic", lambda data: b"GGML" + data[4:], "GGUF"),
    gguf("version", number(4, "I", 9), "version"),
    gguf("tensors-huge", number(8, "Q", HUGE)),
    gguf("keys-huge", number(16, "Q", HUGE)),
    gguf("key-huge", number(24, "Q", HUGE)),
    gguf("cut", lambda data: data[:-64]),
    gguf("cut-header", lambda data: data[:300]),
    gguf("layers", {"llama.block_count": 4_000_000_000}),
    gguf("no-layers", {"llama.block_count": None}, "llama.block_count"),
    gguf("heads", {"llama.attention.head_count": 0}),
    gguf("eps", {"llama.attention.layer_norm_rms_epsilon": float("nan")}),
    gguf("no-tokens", {"tokenizer.ggml.tokens": None, "llama.vocab_size": 40}, "tokenizer.ggml.tokens"),
    gguf("tokenizer-kind", {"tokenizer.ggml.model": "evil"}, "tokenizer.ggml.model"),
    gguf("tokenizer-types", {"tokenizer.ggml.token_type": [1]}, "token_type"),
    gguf("tokenizer-scores", {"tokenizer.ggml.scores": [1.0]}, "scores"),
    gguf("tokenizer-end", {"tokenizer.ggml.eos_token_id": None}, "eos_token_id"),
    gguf("tokenizer-end-beyond", {"tokenizer.ggml.eos_token_id": 4000}, "eos_token_id"),
    gguf("tokenizer-pre", {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "x", "tokenizer.ggml.merges": ["p i"]}, "tokenizer.ggml"),
    gguf("tokenizer-merges", {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": ["nothing"]}, "merges"),
    gguf("alignment", {"general.alignment": ("uint32", 48)}, "general.alignment"),
]  # fmt: skip

STEP = "run/checkpoints/1"


def meta_of(folder):
    return next(
        path
        for path in (folder / STEP / "meta").iterdir()
        if path.is_file() and not path.name.startswith("_")
    )


def meta(name, make, *says):
    """Our checkpoint, whose meta says something else."""

    def damage(folder):
        path = meta_of(folder)
        found = json.loads(path.read_text())
        text = make(found)
        path.write_text(text if isinstance(text, str) else json.dumps(found))

    return Case(
        f"checkpoint-meta-{name}", "export", ["--model", "run", "--out", "out"], ("run", *says), damage
    )


def model(name, **changes):
    """Our checkpoint, whose model has other fields."""
    return meta(f"model-{name}", lambda found: found["model"].update(changes), next(iter(changes)))


def checkpoint(name, damage, *says, words=("--model", "run", "--out", "out")):
    """Our checkpoint, damaged."""
    return Case(f"checkpoint-{name}", "export", list(words), ("run", *says), damage)


def each_file(make):
    """Changes every file with arrays of the checkpoint."""

    def damage(folder):
        for path in (folder / STEP / "state").rglob("*"):
            if path.is_file() and path.stat().st_size > 500:
                path.write_bytes(make(path.read_bytes()))

    return damage


CHECKPOINTS = [
    checkpoint("gone", remove("run/checkpoints"), "no checkpoint"),
    checkpoint("empty", lambda folder: (shutil.rmtree(folder / STEP),), "no checkpoint"),
    checkpoint("no-state", remove(f"{STEP}/state")),
    checkpoint("no-meta", remove(f"{STEP}/meta")),
    checkpoint("file-as-step", lambda folder: (shutil.rmtree(folder / STEP), (folder / STEP).write_text("x"))),
    checkpoint("state-cut", each_file(lambda data: data[: len(data) // 2])),
    checkpoint("state-empty", each_file(lambda data: b"")),
    checkpoint("state-text", each_file(lambda data: b"hello" * 100)),
    meta("cut", lambda found: "{", "meta"),
    meta("list", lambda found: "[]"),
    meta("binary", lambda found: "\0\1\2"),
    meta("deep", lambda found: "[" * 100_000),
    meta("no-model", lambda found: found.pop("model") and None, "model"),
    meta("no-config", lambda found: found.pop("config") and None, "config"),
    meta("no-stage", lambda found: found.pop("stage") and None, "stage"),
    meta("config-list", lambda found: found.update(config=[]), "config"),
    meta("text-number", lambda found: found["config"].update(text=3)),
    meta("tokenizer-gone", lambda found: found["config"]["text"].update(tokenizer="no.model")),
    meta("subtree", lambda found: found.update(subtree="../../x")),
    meta("subtree-number", lambda found: found.update(subtree=3)),
    model("unknown", wdith=3),
    model("width-text", width="x"),
    model("width-huge", width=2**40, heads=2**10),
    model("layers-below", layers=-1),
    model("layers-other", layers=3),
    model("vocab-huge", vocab=10**13),
    model("heads-zero", heads=0),
    model("family", family="evil"),
    model("rope", rope_scaling=3),
]  # fmt: skip
CHECKPOINTS = [
    Case(
        case.name,
        case.command,
        case.words,
        () if "model-" in case.name or "meta-t" in case.name else case.says[:1],
        case.damage,
    )
    for case in CHECKPOINTS
]

CASES = [*TOKENIZERS, *TEMPLATES, *SAFETENSORS, *FOLDERS, *GGUFS, *CHECKPOINTS]
