"""Talking to a model: the tokens that `generate` would give, one at a time, and the terminal around them."""

import dataclasses
import io
import itertools
import json
import os

import jax
import ml_collections
import numpy as np
import pytest
from tokenizers import decoders

from instruct_jax import chat as terminal
from instruct_jax.algorithms.decode import SamplingConfig, generate
from instruct_jax.batches import PromptBatch
from instruct_jax.errors import InputError
from instruct_jax.models.transformer import PolicyModel
from instruct_jax.stages import chat, setup, states
from instruct_jax.text.tokenizer import train_sentencepiece
from instruct_jax.training.checkpoint import Checkpoints

KEY = jax.random.key(3)


class Numbers:
    """Token n reads "n "; 2 and 5 end an answer."""

    pad_id, eos_id, stop_ids = 0, 2, (2, 5)
    chat_template, named_tokens = None, {}

    def decode(self, ids):
        return "".join(f"{i} " for i in ids)

    def encode_pieces(self, pieces):
        return [int(word) for text, _ in pieces for word in text.split()]


@pytest.fixture
def opened(tiny_model, tiny_params):
    return chat.Speaker(tiny_model, tiny_params, Numbers(), "plain")


def taken(turns):
    """The rows of tokens that a talk hands out."""
    return [[token for token in row if token is not None] for row in zip(*turns, strict=True)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_talk_hands_out_what_generate_samples_up_to_the_first_stop(opened, temperature):
    rows, sampling = [[7, 8, 9], [11] * 30], SamplingConfig(16, temperature=temperature)
    tokens_BP, mask_BP = chat.padded(rows, 48, 0)
    batch = PromptBatch(tokens_BP, mask_BP, np.arange(2, dtype=np.int32))
    whole_BR, _ = generate(opened.model, opened.params, batch, KEY, sampling, eos_id=999, pad_id=0)
    expected = []
    for row in np.asarray(whole_BR).tolist():
        ends = [i for i, token in enumerate(row) if token in (2, 5)]
        expected.append(row[: ends[0]] if ends else row)
    assert taken(chat.Talker(opened, sampling)(rows, KEY)) == expected


def test_every_stop_id_ends_a_row_and_is_not_handed_out(opened, monkeypatch):
    sampling = SamplingConfig(12, temperature=0)
    free = taken(chat.Talker(opened, sampling)([[7, 8]], KEY))[0]
    for position in (0, 3):
        monkeypatch.setattr(Numbers, "stop_ids", (2, free[position]))
        turns = list(chat.Talker(opened, sampling)([[7, 8]], KEY))
        first = free.index(free[position])
        assert taken(turns) == [free[:first]] and turns[-1] == [None]


def test_each_length_bucket_compiles_once_whatever_is_said(opened):
    talker = chat.Talker(opened, SamplingConfig(4))
    for length in (1, 7, 31, 32, 33, 50, 60):
        list(talker([[9] * length], KEY))
    assert talker.begin._cache_size() == 2 and talker.go_on._cache_size() == 2


@pytest.mark.parametrize("length, width", [(1, 32), (32, 32), (33, 64), (65, 100), (100, 100)])
def test_a_bucket_is_the_next_power_of_two_or_what_the_context_leaves(length, width):
    tokens_BP, mask_BP = chat.padded([[4] * length, [4]], 100, 0)
    assert tokens_BP.shape == (2, width) and mask_BP.sum(axis=1).tolist() == [length, 1]
    assert mask_BP[1, -1] and not mask_BP[1, 0]


def test_what_does_not_fit_the_context_is_refused_with_both_numbers(opened):
    with pytest.raises(InputError, match="101 tokens, over the 100"):
        chat.padded([[4] * 101], 100, 0)
    with pytest.raises(InputError, match=f"context {opened.model.config.context}"):
        chat.Talker(opened, SamplingConfig(opened.model.config.context))


def test_an_id_without_an_embedding_is_refused_by_its_tokenizer(opened):
    vocab = opened.model.config.vocab
    talker = chat.Talker(dataclasses.replace(opened, tokenizer_path="t.json"), SamplingConfig(2))
    list(talker([[vocab - 1]], KEY))
    with pytest.raises(
        InputError, match=f"t.json: the text has token {vocab}, the model embeddings for {vocab}"
    ):
        list(talker([[7], [vocab, 3]], KEY))


def test_turns_stand_one_after_the_other_where_there_is_no_chat_template():
    class Texts(Numbers):
        def encode_pieces(self, pieces):
            return pieces

    talk = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    text = "".join(piece for piece, _ in chat.ids_of(Texts(), "plain", talk))
    assert text == "a\nb\nc\n"
    framed = chat.ids_of(Texts(), "instruction", talk)
    assert [piece for piece, own in framed if not own] == ["a", "b", "c"]
    assert "".join(p for p, _ in framed).endswith("b\ninstruction :\nc\nresponse :\n")


def test_half_a_character_is_held_back_until_it_is_whole():
    class Bytes:
        def decode(self, ids):
            return bytes(ids).decode("utf-8", "replace")

    shown = chat.Transcript(Bytes())
    parts = [shown.add(byte) for byte in "aé€".encode()]
    assert parts == ["a", "", "é", "", "", "€"] and shown.end() == "" and shown.text == "aé€"
    assert chat.Transcript(Bytes()).end() == ""
    cut = chat.Transcript(Bytes())
    assert cut.add(0xE2) == "" and cut.end() == "\N{REPLACEMENT CHARACTER}"


class Fallback:
    """Reads as the ByteFallback decoder of Llama 2, Mistral and Gemma: below 256 bytes, whose runs are characters or as many signs of
    replacement; 300 is " x"."""

    def decode(self, ids):
        text = ""
        for byte, run in itertools.groupby(ids, lambda i: i < 256):
            run = list(run)
            try:
                text += bytes(run).decode() if byte else " x" * len(run)
            except UnicodeDecodeError:
                text += "\N{REPLACEMENT CHARACTER}" * len(run)
        return text


def test_an_answer_goes_on_after_bytes_that_are_no_character():
    e_acute, bad, x = [0xC3, 0xA9], 0xFF, 300
    shown = chat.Transcript(Fallback())
    parts = [shown.add(token) for token in [x, *e_acute, *e_acute, bad, x, x]]
    assert parts == [" x", "", "é", "", "é", "", "\N{REPLACEMENT CHARACTER} x", " x"]
    assert shown.text == " x" + 5 * "\N{REPLACEMENT CHARACTER}" + " x x" and shown.end() == ""
    cut = chat.Transcript(Fallback())
    assert [cut.add(token) for token in [*e_acute, bad]] == ["", "é", ""]
    assert cut.end() == "\N{REPLACEMENT CHARACTER}" and cut.text == 3 * "\N{REPLACEMENT CHARACTER}"


def test_a_long_answer_is_not_read_again_from_its_beginning():
    class Counting(Fallback):
        longest = 0

        def decode(self, ids):
            self.longest = max(self.longest, len(ids))
            return super().decode(ids)

    tokenizer = Counting()
    shown, said = chat.Transcript(tokenizer), 200 * [300, 0xC3, 0xA9, 0xE2, 0x82, 0xAC]
    assert "".join(map(shown.add, said)) == 200 * " xé€"
    assert tokenizer.longest < 3 * chat.READ_AGAIN and shown.text == 200 * " xé€"


def test_the_fallback_of_the_test_is_that_of_the_library():
    pieces = [f"<0x{i:02X}>" for i in range(256)]
    real = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    for ids in ([300, 0xC3, 0xA9], [0xC3, 0xA9, 0xFF, 300], [0xC3, 300, 0xA9]):
        assert real.decode([pieces[i] if i < 256 else "\u2581x" for i in ids]) == Fallback().decode(ids)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run of the supervised stage, as far as its checkpoint goes."""
    folder = tmp_path_factory.mktemp("run")
    words = "red blue green old new big cat dog bird sees finds hears".split()
    tokenizer = train_sentencepiece(
        [" ".join(words[i:] + words[:i]) for i in range(12)] * 9, folder / "t.model", 45, 0
    )
    text = {"tokenizer": str(folder / "t.model"), "template": "plain", "max_prompt": 32, "max_response": 8}
    policy = PolicyModel(setup.transformer(setup.ModelSettings("tiny", 64), tokenizer.vocab_size))
    checkpoints = Checkpoints(folder / "checkpoints")
    state = {"params": jax.jit(lambda key: states.init_params(policy, key))(jax.random.key(0))}
    config = ml_collections.ConfigDict({"text": text})
    checkpoints.save(1, state, setup.meta("sft", config, policy.config), wait=True)
    checkpoints.close()
    return folder


def command(run_folder, *words):
    return terminal.main(["chat", f"--model={run_folder}", "--max_new_tokens=8", *words])


def test_a_prompt_is_answered_and_the_same_seed_answers_the_same(run_folder, capsys):
    assert command(run_folder, "--prompt=red cat") == 0
    first = capsys.readouterr().out
    assert command(run_folder, "--prompt=red cat") == 0 and capsys.readouterr().out == first
    assert command(run_folder, "--prompt=red cat", "--seed=5") == 0 and capsys.readouterr().out != first


@pytest.mark.parametrize("how", ["--prompt", "--file", "talk"])
def test_an_answer_may_have_half_of_a_short_context_where_nobody_says_how_long(
    run_folder, tmp_path, monkeypatch, capsys, how
):
    (tmp_path / "p.txt").write_text("red cat\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("red cat\n"))
    words = {"--prompt": ["--prompt=red cat"], "--file": [f"--file={tmp_path / 'p.txt'}"], "talk": []}[how]
    lengths = []

    def noted(self, speaker, sampling):
        lengths.append(sampling.max_new_tokens)
        whole(self, speaker, SamplingConfig(4))

    whole = chat.Talker.__init__
    monkeypatch.setattr(chat.Talker, "__init__", noted)
    assert terminal.main(["chat", f"--model={run_folder}", *words]) == 0, capsys.readouterr().err
    assert lengths == [32]


def test_a_length_that_was_asked_for_is_refused_where_it_leaves_no_room_for_a_prompt(run_folder, capsys):
    assert terminal.main(["chat", f"--model={run_folder}", "--max_new_tokens=64", "--prompt=red"]) == 2
    assert "max_new_tokens is 64, the model's context 64" in capsys.readouterr().err


def test_a_file_becomes_a_line_of_json_for_every_prompt_in_order(run_folder, tmp_path, capsys):
    prompts = [f"{word} dog" for word in ("red", "blue", "old") * 4]
    (tmp_path / "p.txt").write_text("\n".join([*prompts[:5], "", *prompts[5:]]) + "\r\n")
    assert command(run_folder, f"--file={tmp_path / 'p.txt'}", "--temperature=0") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["prompt"] for row in rows] == prompts
    assert all(isinstance(row["response"], str) and isinstance(row["finished"], bool) for row in rows)
    assert rows[0]["response"] == rows[3]["response"] == rows[9]["response"]


def test_a_prompt_of_a_file_that_does_not_fit_is_named_before_any_is_answered(run_folder, tmp_path, capsys):
    (tmp_path / "p.txt").write_text("\n".join(["red cat"] * 9 + ["blue " * 99]))
    assert command(run_folder, f"--file={tmp_path / 'p.txt'}") == 2
    shown = capsys.readouterr()
    assert not shown.out and "the prompt 'blue blue" in shown.err


def test_a_files_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "p.txt").write_bytes("\ufeffred\n".encode())
    assert terminal.prompts_of(tmp_path / "p.txt") == ["red"]


def test_bytes_that_are_no_text_end_no_talk(run_folder, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\nred cat\n"), "utf-8"))
    assert command(run_folder) == 0
    assert capsys.readouterr().out.count("> ") == 3
    assert command(run_folder, "--prompt=caf\udce9") == 2
    assert "--prompt is not text in UTF-8" in capsys.readouterr().err


def test_a_file_is_answered_in_ascii_where_the_terminal_is_not_of_utf_8(run_folder, tmp_path, monkeypatch):
    (tmp_path / "p.txt").write_text("red \u4e2d\n", encoding="utf-8")
    shown = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(shown, "latin-1"))
    assert command(run_folder, f"--file={tmp_path / 'p.txt'}") == 0
    assert json.loads(shown.getvalue())["prompt"] == "red \u4e2d"


def test_a_reader_that_leaves_is_no_traceback(run_folder, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr("sys.stdout", os.fdopen(write, "w"))
    assert command(run_folder, "--prompt=red cat") == 141


@pytest.mark.parametrize(
    "words, complaint",
    [
        (["--prompt=a", "--file=b"], "give one of them"),
        (["--file=/no/such"], "/no/such"),
        (["--template=chat", "--prompt=a"], "no chat template"),
        (["--temperature=-1", "--prompt=a"], "temperature"),
        (["--prompt=" + "red " * 99], "shorten it"),
        (["hello"], "'hello'"),
        (["--template=x"], "template"),
        (["--model="], "--model is missing"),
        (["--model=/no/such", "--prompt=a"], "/no/such"),
    ],
)
def test_bad_input_is_one_line_and_status_2(run_folder, capsys, words, complaint):
    assert command(run_folder, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and complaint in error


def test_a_run_that_makes_no_language_model_is_refused(tiny_model, tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    meta = setup.meta("rm", ml_collections.ConfigDict(), tiny_model.config)
    checkpoints.save(1, {"params": {"x": jax.numpy.ones(2)}}, meta, wait=True)
    checkpoints.close()
    with pytest.raises(InputError, match="is a reward model"):
        chat.open_speaker(tmp_path)


def talk_in(monkeypatch, lines, say):
    """Runs the terminal's loop on `lines`; an exception among them is raised in their place."""
    given = iter(lines)

    def read(_):
        line = next(given, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr("builtins.input", read)
    terminal.converse(say)


def test_a_talk_goes_on_from_what_was_said_until_it_is_reset(monkeypatch, capsys):
    heard = []

    def say(messages, turn):
        heard.append([m["content"] for m in messages])
        return f"answer {turn}"

    talk_in(monkeypatch, ["a", "", "b", "/reset", KeyboardInterrupt(), "c", "/quit", "d"], say)
    assert heard == [["a"], ["a", "answer 0", "b"], ["c"]]
    assert "/quit" in capsys.readouterr().out


def test_a_message_that_does_not_fit_is_left_out_of_the_talk(monkeypatch, capsys):
    heard = []

    def say(messages, turn):
        heard.append([m["content"] for m in messages])
        if "long" in messages[-1]["content"]:
            raise InputError("too long")
        return "x"

    talk_in(monkeypatch, ["long", "a"], say)
    assert heard == [["long"], ["a"]] and "error: too long" in capsys.readouterr().out


def test_ctrl_c_stops_the_answer_and_not_the_program(run_folder, monkeypatch, capsys):
    once = iter([True])
    whole = chat.Talker.__call__

    def interrupted(self, rows, key):
        for i, turn in enumerate(whole(self, rows, key)):
            if i == 2 and next(once, False):
                raise KeyboardInterrupt
            yield turn

    monkeypatch.setattr(chat.Talker, "__call__", interrupted)
    monkeypatch.setattr("sys.stdin", io.StringIO("red cat\nblue dog\n"))
    assert command(run_folder) == 0
    assert capsys.readouterr().out.count("> ") == 3
