"""The parsers on inputs that nobody thought of: each is read, or refused by an InputError; nothing else may come out.

FUZZ_EXAMPLES sets how many inputs each test tries (40); with it they are drawn anew at every run.
"""

import functools
import json
import os
import shutil
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).parent.parent))
from gguf_files import write_llama
from hostile_models import bpe
from hostile_world import CONFIG, FIXTURES

from instruct_jax import main, sweep
from instruct_jax.errors import InputError
from instruct_jax.pretrained import families, huggingface
from instruct_jax.pretrained.gguf_header import read_header
from instruct_jax.records import Generation, Prompt, Ranking, Rating, scan_jsonl
from instruct_jax.stages.lab_base import ASSETS
from instruct_jax.stages.sweeps import plan
from instruct_jax.text.gguf import gguf_tokenizer
from instruct_jax.text.loading import load_tokenizer
from instruct_jax.text.templates import chat_template

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 0))
fuzz = settings(max_examples=EXAMPLES or 40, deadline=None, derandomize=not EXAMPLES)
slow_fuzz = settings(max_examples=max(EXAMPLES // 20, 5), deadline=None, derandomize=not EXAMPLES)

leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-2, 300), st.floats(), st.text(max_size=6),
    st.sampled_from([2**31, -(2**31), 2**63, 2**64, 10**30, "", "0", "../x", "\0", "\ud800", float("nan")]),
)  # fmt: skip
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
     max_leaves=8)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all inputs of this module: they follow one another."""
    return tmp_path_factory.mktemp("fuzz")


def tolerated(work):
    """work()'s value, None where it refused its input."""
    try:
        return work()
    except InputError as error:
        assert str(error)
        return None


def places(tree, path=()):
    """The path of every node of a tree of JSON."""
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def replaced(tree, path, value):
    """The tree with another value at a path."""
    if not path:
        return value
    tree = dict(tree) if isinstance(tree, dict) else list(tree)
    tree[path[0]] = replaced(tree[path[0]], path[1:], value)
    return tree


def mutated(data, tree, times=2):
    """A tree of which some nodes are something else."""
    for _ in range(data.draw(st.integers(1, times))):
        tree = replaced(tree, data.draw(st.sampled_from(list(places(tree)))), data.draw(values))
    return tree


def flipped(data, whole, end, most=6):
    """Bytes of which a few before `end` are others, or that end early."""
    damaged = bytearray(whole)
    for at, byte in data.draw(
        st.lists(st.tuples(st.integers(0, end - 1), st.integers(0, 255)), min_size=1, max_size=most)
    ):
        damaged[at] = byte
    return bytes(damaged[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else damaged)


def dump(value) -> bytes:
    return json.dumps(value).encode()


ROWS = {
    Prompt: {"id": "a", "text": "b", "source": "c", "user": "d", "use_case": "chat"},
    Generation: {"prompt_id": "a", "prompt": "b", "model": "m", "completions": ["c"], "temperature": 1.0, "finished": [True], "top_k": 3},
    Ranking: {"prompt_id": "a", "prompt": "b", "labeler": "c", "completions": ["d", "e"], "ranks": [1, 2], "models": ["m", "m"]},
    Rating: {"prompt_id": "a", "prompt": "b", "completion": "c", "model": "m", "labeler": "l", "likert": 4, "flags": {"opinion": True}},
}  # fmt: skip


@fuzz
@given(st.data())
def test_a_file_of_records_is_read_or_refused(folder, data):
    cls = data.draw(st.sampled_from(list(ROWS)))
    lines = [
        data.draw(st.binary(max_size=60)) if data.draw(st.booleans()) else dump(mutated(data, ROWS[cls]))
        for _ in range(3)
    ]
    path = folder / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    for row in tolerated(lambda: list(scan_jsonl(path, cls))) or []:
        assert isinstance(row, cls)
    kept = list(scan_jsonl(path, cls, "keep_aside"))
    assert all(isinstance(row, cls) for row in kept)


@fuzz
@given(st.data())
def test_a_safetensors_header_is_read_or_refused(folder, data):
    model = folder / "model"
    if not model.exists():
        shutil.copytree(FIXTURES / "llama", model)
    whole = (FIXTURES / "llama" / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", whole[:8])
    if data.draw(st.booleans()):
        damaged = flipped(data, whole, 8 + size)
    else:
        header = dump(mutated(data, json.loads(whole[8 : 8 + size])))
        length = data.draw(st.sampled_from([len(header), len(header) + 1, 0, 2**63]))
        damaged = struct.pack("<Q", length) + header + whole[8 + size :]
    (model / "model.safetensors").write_bytes(damaged)

    def read():
        source = huggingface.open_source(model)
        for name, shape in source.shapes.items():
            assert source.read(name, slice(None)).shape == shape

    tolerated(read)


@fuzz
@given(st.data())
def test_a_config_json_gives_a_model_or_is_refused(data):
    name = data.draw(st.sampled_from(["llama", "gpt2", "gemma3_text", "qwen2"]))
    found = mutated(data, json.loads((FIXTURES / name / "config.json").read_text()))
    if isinstance(found, dict):
        tolerated(lambda: families.to_config(found, "config.json"))


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory):
    tokens = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": [f"piece{n}" for n in range(40)]}
    tokens |= {"tokenizer.ggml.scores": [0.0] * 40, "tokenizer.ggml.token_type": [1] * 40}
    return write_llama(tmp_path_factory.mktemp("gguf") / "a.gguf", keys=tokens).read_bytes()


@fuzz
@given(st.data())
def test_a_gguf_header_and_its_tokenizer_are_read_or_refused(folder, gguf_bytes, data):
    path = folder / "a.gguf"
    path.write_bytes(flipped(data, gguf_bytes, gguf_bytes.index(b"token_embd")))

    def read():
        metadata, _ = read_header(path)
        tokenizer = gguf_tokenizer(metadata, path)
        tokenizer.decode(tokenizer.encode("some piece1 text"))

    tolerated(read)


@fuzz
@given(st.data())
def test_gguf_tokenizer_keys_of_any_value_are_read_or_refused(data):
    tokens = ["<s>", "</s>", "a", "b", "ab", "\u2581"]
    keys = {
        "model": "gpt2", "pre": "gpt2", "tokens": tokens, "merges": ["a b"], "scores": [0.0] * 6, "token_type": [3, 3, 1, 1, 1, 1],
        "bos_token_id": 0, "eos_token_id": 1, "add_bos_token": True, "add_space_prefix": True, "chat_template": "x",
    }  # fmt: skip
    keys["model"] = data.draw(st.sampled_from(["gpt2", "llama"]))
    found = mutated(data, keys)
    if isinstance(found, dict):
        metadata = {f"tokenizer.ggml.{key}": value for key, value in found.items()}
        tolerated(lambda: gguf_tokenizer(metadata, "a.gguf").encode("ab a"))


@fuzz
@given(st.data())
def test_a_tokenizer_json_with_its_settings_is_read_or_refused(folder, data):
    home = folder / "tok"
    home.mkdir(exist_ok=True)
    (home / "tokenizer.json").write_bytes(
        dump(mutated(data, json.loads(bpe()), 1)) if data.draw(st.booleans()) else bpe().encode()
    )
    settings_ = {"eos_token": "</s>", "bos_token": {"content": "a"}, "add_bos_token": True, "chat_template": [{"name": "default",
         "template": "x"}]}  # fmt: skip
    (home / "tokenizer_config.json").write_bytes(dump(mutated(data, settings_)))
    (home / "generation_config.json").write_bytes(
        dump(mutated(data, {"eos_token_id": [3], "pad_token_id": 0}))
    )
    tokenizer = tolerated(lambda: load_tokenizer(home))
    if tokenizer:
        tokenizer.decode(tokenizer.encode("ab</s> a"))


@fuzz
@given(st.data())
def test_a_sentencepiece_model_is_read_or_refused(folder, data):
    whole = (ASSETS / "tokenizer.model").read_bytes()
    path = folder / "tokenizer.model"
    path.write_bytes(flipped(data, whole, len(whole)))
    tokenizer = tolerated(lambda: load_tokenizer(path))
    if tokenizer:
        tokenizer.decode(tokenizer.encode("the river runs"))


words_of = st.one_of(
    st.sampled_from(["--config.seed", "--config.mesh.data=2", "--noconfig.seed", "--config.train.guard.action=skip", "--help=3"]),
    st.builds("--config.{}{}={}".format, st.sampled_from(["seed", "mesh", "mesh.data", "optimizer.b1", "data.dir", "train.epochs", "x",
         ""]),
              st.sampled_from(["", "[0]", ".x", "[", "]", "..", "=" ]), st.text(max_size=8) | st.sampled_from(["1", "(1, 2)", "[",
                   "None", "1e400", "{}"])),
    st.text(max_size=10),
)  # fmt: skip


@fuzz
@given(st.lists(words_of, max_size=3))
def test_a_command_line_is_a_config_or_is_refused(folder, words):
    path = folder / "config.py"
    if not path.exists():
        path.write_text(CONFIG)
    words = [word for word in words if not word.lstrip("-").startswith(("flagfile", "h", "help"))]
    asked = tolerated(lambda: main.parse(["main", "--config", str(path), "--workdir", "x", *words]))
    if asked:
        tolerated(lambda: main.load_stage(asked[0].stage).check(asked[0]))


@functools.cache
def shipped() -> list[dict]:
    """Every config in configs/ that a stage reads without files that may not be here."""
    found = []
    for path in sorted((Path(main.__file__).parents[1] / "configs").glob("*/*.py")):
        if path.parent.name != "sweeps":
            config, _ = main.parse(["main", "--config", str(path), "--workdir", "x"])
            found.append(config.to_dict())
    return [tree for tree in found if tree["stage"] not in ("sentiment", "lab_trial")]


@fuzz
@given(st.data())
def test_a_config_of_any_stage_passes_or_is_refused(data):
    tree = mutated(data, data.draw(st.sampled_from(shipped())))
    try:
        config = ConfigDict(tree)
    except (
        AttributeError,
        TypeError,
        ValueError,
    ):  # a name with a dot in it, or no section at all: no file can hold that
        return
    if "stage" in config:
        tolerated(lambda: main.load_stage(config.stage).check(config))


@fuzz
@given(st.data())
def test_a_sweep_file_is_a_plan_or_is_refused(folder, data):
    (folder / "base.py").write_text(CONFIG)
    fields = ["seed", "optimizer.learning_rate", "data.dir", "mesh", "train.epochs", "x", "", "optimizer.b1"]
    trials = data.draw(
        st.lists(st.dictionaries(st.sampled_from(fields), values, max_size=3) | values, max_size=3)
    )
    metrics = mutated(data, {"loss": {"better": "min", "label": "x"}})
    text = f"from math import inf, nan\nBASE = {str(folder / 'base.py')!r}\nMETRICS = {metrics!r}\ndef trials():\n    return {trials!r}\n"
    (folder / "sweep.py").write_bytes(text.encode("utf-8", "surrogatepass"))

    def made():
        found = plan.read(str(folder / "sweep.py"))
        return sweep.checked(found, plan.plan(found, str(folder / "out")), to_run=True)

    for trial in tolerated(made) or []:
        assert trial.config and Path(trial.workdir).parent == folder / "out"


parts = st.lists(
    st.sampled_from([
        "{{ messages[0]['content'] }}", "{{ messages[0].content | trim }}", "{% for m in messages %}", "{% endfor %}",
             "{{ m['role'] }}", "{{",
        "}}", "{% if true %}", "{% endif %}", "{{ eos_token }}", "{% set ns = namespace(x=1) %}", "{{ ns.__class__ }}", "{{ 1 // 0 }}",
        "{% generation %}", "{{ [].append }}", "{% break %}", "\x00", "{#", "{{ 'a' * 99999999 }}", "{{ dict.__base__ }}", "text",
    ]), max_size=6,
).map("".join)  # fmt: skip


@slow_fuzz
@given(parts)
def test_a_chat_template_renders_or_is_refused(source):
    found = tolerated(lambda: chat_template(source, {"eos_token": "</s>"}))
    assert found is None or "question" in found.render("question")
