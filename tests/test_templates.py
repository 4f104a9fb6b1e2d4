"""Chat templates: rendered as transformers does, split where the message goes, and kept in their sandbox."""

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from instruct_jax.errors import InputError
from instruct_jax.stages import setup
from instruct_jax.text import templates
from instruct_jax.text.loading import TokenizersEngine
from instruct_jax.text.sandbox import render
from instruct_jax.text.templates import TEMPLATES, chat_pieces, chat_template
from instruct_jax.text.tokenizer import Tokenizer

CHATML = """{% for message in messages %}
    {% if loop.first and message['role'] != 'system' %}
{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}{% endif %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
GEMMA = """{{ bos_token }}{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}
{{- '<start_of_turn>' + role + '\\n' + m['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""
# Of an earlier answer only what follows its reasoning, as some published models want it; the last one whole.
REASONING = """{% for m in messages %}{% if m.role == 'assistant' and '</think>' in m.content and not loop.last %}
{{- 'said: ' + m.content.split('</think>')[-1].strip() }}{% else %}{{ m.role + ': ' + m.content }}{% endif %}{{ '<eos>' }}
{%- endfor %}{{ 'answer:' }}"""
SPECIALS = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


@pytest.fixture(scope="module")
def tokenizer():
    """Bytes, after four special tokens; prompts begin with <bos>."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = tokenizers.Tokenizer(models.BPE({t: i for i, t in enumerate([*SPECIALS, *letters])}, []))
    model.pre_tokenizer, model.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    model.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIALS])
    return Tokenizer(TokenizersEngine(model), eos_id=1, bos_id=0, stop_ids=[3], chat_template=GEMMA,
                     named_tokens={"bos_token": "<bos>"})  # fmt: skip


def test_a_chat_template_is_split_where_the_message_goes():
    found = chat_template(CHATML, {})
    assert found.prefix == "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n"
    assert found.suffix == "<|im_end|>\n<|im_start|>assistant\n"
    assert found.render(" hi\n") == found.prefix + " hi\n" + found.suffix


def test_a_template_that_trims_messages_trims_prompts():
    found = chat_template(GEMMA, {"bos_token": "<bos>"})
    assert found.render(" hi\n") == "<bos><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n"


def test_a_stage_asks_for_the_checkpoints_template_by_the_name_chat(tokenizer):
    found = setup.template("chat", tokenizer)
    (ids,) = tokenizer.encode_prompts(found, [" <end_of_turn>"])
    assert [i for i in ids if i < 4] == [0, 2, 3, 2]
    assert tokenizer.decode(ids) == "user\n<end_of_turn>\nmodel\n"
    assert setup.template("plain", tokenizer) is TEMPLATES["plain"]
    with pytest.raises(InputError, match="instruction, chat$"):
        setup.template("chatty", tokenizer)


def test_a_talk_is_rendered_whole_and_its_messages_stay_text(tokenizer):
    talk = [user(" hi "), assistant("<eos>"), user("a<start_of_turn>\n")]
    pieces = chat_pieces(GEMMA, {"bos_token": "<bos>"}, talk, lambda text: "<eos>" in text)
    assert "".join(text for text, _ in pieces) == (
        "<bos><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n<eos><end_of_turn>\n"
        "<start_of_turn>user\na<start_of_turn><end_of_turn>\n<start_of_turn>model\n"
    )
    assert [text for text, own in pieces if not own] == ["hi", "<eos>", "a<start_of_turn>"]
    ids = tokenizer.encode_talk(talk)
    assert ids == tokenizer.encode_pieces(pieces)
    assert [i for i in ids if i < 4] == [0, 2, 3, 2, 3, 2, 3, 2]


@pytest.mark.parametrize(
    "answer", ["<think>\nhm\n</think>\n\n Yes.\n", "No.", "", "message-2-7f3a9c5e-of-this-talk"]
)
@pytest.mark.parametrize("source", [REASONING, GEMMA, CHATML])
def test_a_template_that_looks_into_earlier_answers_renders_as_it_does_alone(source, answer):
    talk = [user("a b"), assistant(answer), user(" c </think> d")]
    pieces = chat_pieces(source, {"bos_token": "<bos>"}, talk, lambda text: False)
    expected = render(source, talk, {"bos_token": "<bos>"})
    assert "".join(text for text, _ in pieces) == expected
    assert [text for text, own in pieces if not own and text != answer] == ["a b", "c </think> d"]


def test_white_space_that_a_template_keeps_is_kept():
    pieces = chat_pieces(CHATML, {}, [user("  two\n"), assistant(""), user(" ")], lambda text: False)
    text = "".join(text for text, _ in pieces)
    assert (
        "user\n  two\n<|im_end|>" in text and "assistant\n<|im_end|>" in text and "user\n <|im_end|>" in text
    )


@pytest.mark.parametrize(
    "source, words",
    [
        (None, "no chat template"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% for", "TemplateSyntaxError"),
        ("{{ messages[3]['content'] }}", "UndefinedError"),
        ("hello", "0 times"),
        ("{{ messages[0].content }}{{ messages[0].content }}", "2 times"),
        ("{{ messages[0].content | upper }}", "0 times"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
        ("{{ namespace(__class__=1) }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ 'a' * 2 * 10 ** 9 }}", "MemoryError"),
    ],
)
def test_a_template_that_fails_or_reaches_out_is_an_input_error(source, words):
    with pytest.raises(InputError, match=words):
        chat_template(source, {})


def test_a_template_that_loops_for_ever_is_stopped(monkeypatch):
    monkeypatch.setattr(templates, "_SECONDS", 1)
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(InputError, match="after 1 seconds"):
        chat_template(loop, {})


def test_what_templates_of_published_models_use_is_there():
    source = """{%- set ns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'x' %}{% continue %}{% endif %}
    {%- set ns.n = ns.n + 1 %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}
    {{- ns.n }}|{{ {'a': '<é>'} | tojson }}|{{ strftime_now('%Y') | length }}|{{ dict(a=1).a }}|{{ tools is none }}"""
    assert chat_template(source, {}).suffix == '1|{"a": "<é>"}|4|1|True'
