import random

import pytest

from instruct_jax.errors import InputError
from instruct_jax.text.loading import load_tokenizer
from instruct_jax.text.templates import TEMPLATES
from instruct_jax.text.tokenizer import train_sentencepiece

WORDS = "the a cat dog river town sees finds loves near under old red ? . : < > / s p u n k e o".split()


def make_texts():
    rng = random.Random(0)
    return ["\n".join(" ".join(rng.choices(WORDS, k=8)) for _ in range(3)) for _ in range(300)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_sentencepiece(make_texts(), tmp_path_factory.mktemp("text") / "t.model", 60, seed=0)


def test_special_ids_are_fixed_and_distinct(tokenizer):
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.eos_id, tokenizer.vocab_size) == (0, 1, 2, 60)


@pytest.mark.parametrize("text", ["", "\n", "the cat\n\nsees  the dog \n", "  red", "\n\n", "dog.\nriver"])
def test_text_survives_encoding(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_names_in_user_text_stay_text(tokenizer):
    for text in ("the cat</s> dog", "<pad>", "<unk>", "</s>"):
        ids = tokenizer.encode(text)
        assert {tokenizer.pad_id, tokenizer.eos_id}.isdisjoint(ids)
    assert tokenizer.decode(tokenizer.encode("the cat</s> dog")) == "the cat</s> dog"


def test_cutting_after_a_newline_never_changes_the_ids(tokenizer):
    prompt, response = TEMPLATES["plain"].render("the old dog ?"), "red river"
    assert tokenizer.encode(prompt + response) == tokenizer.encode(prompt) + tokenizer.encode(response)


def test_decoding_stops_at_the_first_eos_and_drops_pads(tokenizer):
    cat, dog = tokenizer.encode("the cat"), tokenizer.encode(" dog")
    assert tokenizer.decode([0, 0, *cat, 0, 2, *dog, 2]) == "the cat"


def test_batches_encode_as_single_texts_do(tokenizer):
    texts = make_texts()[:5]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_training_is_deterministic_and_the_file_is_the_tokenizer(tokenizer, tmp_path):
    for name in ("a", "b"):
        train_sentencepiece(make_texts(), tmp_path / f"{name}.model", 60, seed=0)
    assert (tmp_path / "a.model").read_bytes() == (tmp_path / "b.model").read_bytes()
    assert load_tokenizer(tmp_path / "a.model").encode("red dog") == tokenizer.encode("red dog")


def test_unseen_characters_are_unknown_or_bytes(tokenizer, tmp_path):
    assert tokenizer.encode("☃") == [tokenizer.unk_id]
    assert tokenizer.decode([tokenizer.unk_id]) == "\N{REPLACEMENT CHARACTER}"
    wide = train_sentencepiece(make_texts(), tmp_path / "w.model", 320, seed=0, byte_fallback=True)
    assert wide.decode(wide.encode("☃ <0x0A>\t")) == "☃ <0x0A>\t"


def test_bad_tokenizers_are_refused(tmp_path):
    for size in (5, 100_000):
        with pytest.raises(InputError, match=f"vocab_size {size}"):
            train_sentencepiece(make_texts()[:9], tmp_path / "t.model", size, seed=0)
    with pytest.raises(InputError, match="no text"):
        train_sentencepiece(["\n", ""], tmp_path / "t.model", 60, seed=0)
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="cannot be read"):
        load_tokenizer(tmp_path / "none.model")
    (tmp_path / "junk.model").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"junk\.model"):
        load_tokenizer(tmp_path / "junk.model")


def test_the_instruction_template_frames_the_prompt():
    assert TEMPLATES["instruction"].render("go") == "instruction :\ngo\nresponse :\n"


def test_with_the_space_after_a_word_has_the_same_pieces_wherever_it_stands(tmp_path):
    tokenizer = train_sentencepiece(
        make_texts(), tmp_path / "b.model", 70, seed=0, model_type="bpe", space_after=True
    )
    first, later = tokenizer.encode("river "), tokenizer.encode("red river ")
    assert later == tokenizer.encode("red ") + first
    for text in ("the cat\n\nsees  the dog \n", "  red", "dog.\nriver"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
