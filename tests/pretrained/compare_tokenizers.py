"""Compares our tokenizers with the reference libraries on a thousand strings; needs transformers.

    python tests/pretrained/compare_tokenizers.py FILE...        (from the repository's root, with PYTHONPATH=.)

FILE is a .gguf (compared with transformers' AutoTokenizer reading the same file), a SentencePiece .model (with sentencepiece)
or a folder with tokenizer.json (with AutoTokenizer). Prints how many strings have the same ids, plain and with the special
tokens in them recognised, and how many texts come back the same; exit status 1 where any differs.
"""

import sys
from pathlib import Path

from varied_strings import varied_strings

from instruct_jax.text.gguf import gguf_tokenizer
from instruct_jax.text.loading import load_tokenizer
from instruct_jax.text.templates import Template


def read_metadata(path: Path) -> dict:
    """The metadata of a GGUF file, read by the gguf package."""
    import gguf

    fields = gguf.GGUFReader(path).fields
    return {name: field.contents() for name, field in fields.items()}


def published_split(metadata: dict, reference) -> str:
    """Gives the reference the split of SmolLM2's published tokenizer.json, single digits, where the file asks for it."""
    from tokenizers import pre_tokenizers

    if metadata.get("tokenizer.ggml.pre") != "smollm":
        return ""
    parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    reference.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    return " with the file's split of digits"


def compare(name: str, ours, plain, parsed, decoded, strings: list[str]) -> bool:
    """Prints and returns whether ids (plain, parsed) and texts agree with those of the reference."""
    as_template = [ours.encode_prompts(Template(s, ""), [""])[0] for s in strings]
    rows = {
        "plain": (ours.encode_batch(strings), [plain(s) for s in strings]),
        "special tokens recognised": (as_template, [parsed(s) for s in strings]),
        "decoded": ([ours.decode(plain(s)) for s in strings], [decoded(plain(s)) for s in strings]),
    }
    same = True
    for what, (mine, theirs) in rows.items():
        wrong = [i for i in range(len(strings)) if mine[i] != theirs[i]]
        same &= not wrong
        print(f"{name}: {what}: {len(strings) - len(wrong)} of {len(strings)} equal")
        for i in wrong[:3]:
            print(f"    {strings[i]!r}\n      ours   {mine[i]!r}\n      theirs {theirs[i]!r}")
    return same


def compare_chat(name: str, ours, reference) -> bool:
    """Whether a talk renders to the ids that apply_chat_template gives."""
    if not ours.chat_template:
        return True
    talk = [
        {"role": "user", "content": " Hello there! "},
        {"role": "assistant", "content": "<think>\nA greeting.\n</think>\n\nHi.\n"},
    ]
    same = True
    for messages in (talk[:1], [*talk, {"role": "user", "content": "1 + 1?"}]):
        mine = ours.encode_talk(messages)
        theirs = reference.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        same &= mine == theirs
        print(f"{name}: talk of {len(messages)}: {'equal' if mine == theirs else 'DIFFERS'}")
    return same


def against_transformers(path: Path, strings: list[str]) -> bool:
    """A .gguf file or a folder against AutoTokenizer."""
    from transformers import AutoTokenizer

    if path.suffix == ".gguf":
        metadata = read_metadata(path)
        ours = gguf_tokenizer(metadata, path)
        reference = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    else:
        metadata, ours, reference = {}, load_tokenizer(path), AutoTokenizer.from_pretrained(path)

    def run(name: str) -> bool:
        return compare(
            name,
            ours,
            lambda s: reference.encode(s, add_special_tokens=False, split_special_tokens=True),
            lambda s: begun(reference.encode(s, add_special_tokens=False), ours.bos_id),
            lambda ids: reference.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False),
            strings,
        )

    bare = reference.encode("a", add_special_tokens=False)
    same = begun(bare, ours.bos_id) == reference.encode("a")
    print(f"{path.name}: BOS {ours.bos_id}: {'equal' if same else 'DIFFERS'}")
    same &= compare_chat(path.name, ours, reference)
    corrected = published_split(metadata, reference)
    if corrected:
        asis = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        ids = [asis.encode(s, add_special_tokens=False, split_special_tokens=True) for s in strings]
        equal = sum(a == b for a, b in zip(ids, ours.encode_batch(strings), strict=True))
        print(f"{path.name}: plain, as transformers splits it: {equal} of {len(strings)} equal")
    return run(path.name + corrected) and same


def begun(ids: list[int], bos: int | None) -> list[int]:
    """The ids with BOS first, once."""
    return ids if bos is None or ids[:1] == [bos] else [bos, *ids]


def against_sentencepiece(path: Path, strings: list[str]) -> bool:
    """A .model file against sentencepiece itself, which parses no special tokens."""
    import sentencepiece

    ours, reference = load_tokenizer(path), sentencepiece.SentencePieceProcessor(str(path))
    ids = [reference.encode(s) for s in strings]
    texts = [reference.decode(row) for row in ids]
    prompts = ours.encode_prompts(Template("", ""), strings)
    rows = {
        "plain": (ours.encode_batch(strings), ids),
        "as prompts": (prompts, [begun(row, ours.bos_id) for row in ids]),
        "decoded": ([ours.decode(row) for row in ids], texts),
    }
    for what, (mine, theirs) in rows.items():
        print(f"{path.name}: {what}: {sum(map(list.__eq__, mine, theirs)) if what != 'decoded' else sum(map(str.__eq__, mine, theirs))} "
              f"of {len(strings)} equal")  # fmt: skip
    return all(mine == theirs for mine, theirs in rows.values())


def main(paths: list[str]) -> int:
    """Compares every file; 1 where any differs."""
    strings, same = varied_strings(), True
    for path in map(Path, paths):
        against = against_sentencepiece if ".model" in path.name else against_transformers
        same &= against(path, strings)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
