"""The export command and the tokenizers it writes: other tools must get the ids that the model was trained on."""

import json
import sys
from pathlib import Path

import jax
import pytest
import tokenizers

from instruct_jax import export
from instruct_jax.errors import InputError
from instruct_jax.stages import chat, setup, states
from instruct_jax.stages.lab_base import ASSETS
from instruct_jax.text.loading import load_tokenizer
from instruct_jax.text.sandbox import render
from instruct_jax.text.saving import save_tokenizer, special_ids
from instruct_jax.text.templates import TEMPLATES, Template, as_jinja
from instruct_jax.text.tokenizer import train_sentencepiece
from instruct_jax.training.checkpoint import Checkpoints
from instruct_jax.training.state import TrainState

sys.path.insert(0, str(Path(__file__).parent / "pretrained"))
from varied_strings import varied_strings

TEXTS = ("Write two lines about the river Ander .\nEnd with thanks .", "  two  spaces ", "naïve → ☃\n\n", "")


@pytest.mark.parametrize("kind", ["lab", "bytes"])
def test_a_sentencepiece_model_gives_other_tools_the_same_ids(kind, tmp_path):
    if kind == "lab":
        ours = load_tokenizer(ASSETS / "tokenizer.model")
    else:
        lines = ["the river runs to the sea and back", "under the  hill by the sea"] * 20
        ours = train_sentencepiece(
            lines, tmp_path / "trained.model", 300, 0, model_type="bpe", byte_fallback=True
        )
    save_tokenizer(ours, tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    theirs.encode_special_tokens = True
    for text in (*TEXTS, *varied_strings()):
        ids = ours.encode(text)
        assert theirs.encode(text, add_special_tokens=False).ids == ids, text
        if ours.unk_id not in ids and "\x00" not in text:  # SentencePiece spells the unknown its own way
            assert theirs.decode(ids) == ours.decode(ids), text
    again = load_tokenizer(tmp_path)
    assert (again.eos_id, again.pad_id, again.bos_id) == (ours.eos_id, ours.pad_id, ours.bos_id)


def test_a_byte_level_tokenizer_keeps_ids_bos_and_chat_template(tmp_path):
    (tmp_path / "from").mkdir()
    model = tokenizers.ByteLevelBPETokenizer()
    model.train_from_iterator(["the river runs to the sea and back"] * 4, 300, special_tokens=["<s>", "</s>"])
    model.save(str(tmp_path / "from" / "tokenizer.json"))
    settings = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "add_bos_token": True,
        "chat_template": "{{ messages[0]['content'] }}",
    }
    (tmp_path / "from" / "tokenizer_config.json").write_text(json.dumps(settings))
    ours = load_tokenizer(tmp_path / "from")
    (tmp_path / "to").mkdir()
    save_tokenizer(ours, tmp_path / "to")
    again = load_tokenizer(tmp_path / "to")
    plain = setup.template("plain", ours)
    assert again.encode_prompts(plain, TEXTS) == ours.encode_prompts(plain, TEXTS)
    assert again.encode_prompts(plain, TEXTS)[0][0] == ours.bos_id is not None
    assert (again.eos_id, again.chat_template) == (ours.eos_id, settings["chat_template"])
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "to" / "tokenizer.json"))
    assert theirs.encode("the sea").ids == [ours.bos_id, *ours.encode("the sea")]


def test_a_sentencepiece_model_without_an_exact_form_says_so(tmp_path):
    words = train_sentencepiece(["a b c d a b"] * 20, tmp_path / "words.model", 9, 0, model_type="unigram")
    with pytest.raises(InputError, match="is no BPE"):
        save_tokenizer(words, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["words.model"]


def test_an_ordinary_token_is_never_named_as_padding(tmp_path):
    model = tokenizers.ByteLevelBPETokenizer()
    model.train_from_iterator(["wow!!"] * 4, 260, special_tokens=[])
    model.add_special_tokens(["<|endoftext|>"])
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    model.save(str(tmp_path / "from" / "tokenizer.json"))
    (tmp_path / "from" / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    ours = load_tokenizer(tmp_path / "from")
    assert ours.pad_id != ours.eos_id and ours.decode([ours.pad_id])
    save_tokenizer(ours, tmp_path / "to")
    assert "pad_token" not in json.loads((tmp_path / "to" / "tokenizer_config.json").read_text())
    assert special_ids(ours) == {"bos_token_id": None, "eos_token_id": ours.eos_id, "pad_token_id": None}


def test_special_tokens_past_the_embeddings_do_not_count_and_every_stop_is_named(tmp_path):
    model = tokenizers.ByteLevelBPETokenizer()
    model.train_from_iterator(["the sea"] * 4, 259, special_tokens=["<eos>", "<turn>"])
    size = model.get_vocab_size()
    model.add_special_tokens(["<image>"])
    model.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<eos>"}')
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [0, 1]}')
    ours = load_tokenizer(tmp_path)
    assert ours.vocab_size == size
    assert special_ids(ours)["eos_token_id"] == [0, 1]
    with pytest.raises(InputError, match=f"the template has token {size}, this vocabulary {size}"):
        ours.encode_prompts(Template("<image>", ""), ["the sea"])


@pytest.fixture
def run_folder(tmp_path):
    """A run's folder with a tiny policy as its checkpoint, as the SFT stage leaves it."""
    from ml_collections import ConfigDict

    from instruct_jax.models.transformer import PolicyModel

    text = dict(tokenizer=str(ASSETS / "tokenizer.model"), template="plain", max_prompt=8, max_response=8)
    tokenizer = load_tokenizer(text["tokenizer"])
    model = PolicyModel(setup.transformer(setup.ModelSettings("tiny", 64), tokenizer.vocab_size))
    params = jax.jit(lambda: states.init_params(model, jax.random.key(0)))()
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    state = TrainState(jax.numpy.zeros((), jax.numpy.int32), params, (), None)
    checkpoints.save(3, state, setup.meta("sft", ConfigDict(dict(text=text)), model.config), wait=True)
    checkpoints.close()
    return tmp_path / "run"


def test_a_run_is_exported_with_its_tokenizer_and_opens_again(run_folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert export.main(["export", "--model", str(run_folder), "--out", str(out)]) == 0
    assert "model.safetensors, tokenizer.json" in capsys.readouterr().out
    hf = json.loads((out / "config.json").read_text())
    assert (hf["architectures"], hf["eos_token_id"], hf["pad_token_id"]) == (["GPT2LMHeadModel"], 2, 0)
    mesh = setup.open_mesh(setup.MeshSettings())
    before, after = (setup.open_model(path).load(mesh) for path in (run_folder, out))
    assert jax.tree.all(jax.tree.map(lambda x, y: (x == y).all(), before, after))
    assert export.main(["export", "--model", str(run_folder), "--out", str(out)]) == 2
    assert "exists" in capsys.readouterr().err


def test_other_tools_frame_a_talk_as_the_run_was_trained(run_folder, tmp_path):
    out = tmp_path / "out"
    assert export.main(["export", "--model", str(run_folder), "--out", str(out)]) == 0
    plain, there = load_tokenizer(ASSETS / "tokenizer.model"), load_tokenizer(out)
    assert there.encode_prompts(setup.template("chat", there), [' a "b"\n']) == plain.encode_prompts(
        TEMPLATES["plain"], [' a "b"\n']
    )
    talk = [
        dict(role=role, content=said) for role, said in (("user", "a"), ("assistant", "b"), ("user", "c"))
    ]
    for name in ("plain", "instruction"):
        there.chat_template = as_jinja(TEMPLATES[name], begins=False)
        assert chat.ids_of(there, "chat", talk) == chat.ids_of(plain, name, talk)
    named = {"bos_token": "<s>", "eos_token": "</s>"}
    assert render(as_jinja(TEMPLATES["plain"], begins=False), talk[:2], named) == "a\nb</s>"
    assert render(as_jinja(TEMPLATES["plain"], begins=True), talk, named) == "<s>a\nb\nc\n"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--out", "x"], "--model is missing"),
        (["--model", "x"], "--out is missing"),
        (["--model", "nothing/there", "--out", "x"], "no checkpoint in"),
        (["--model", "x", "--out", "y", "--dtype", "int8"], "dtype"),
        (["--model", "x", "--out", "y", "z"], "'z' belongs to no flag"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert export.main(["export", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ")
    assert not list(tmp_path.iterdir())
