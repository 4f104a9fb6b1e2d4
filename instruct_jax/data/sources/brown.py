"""Home of the Brown corpus (Francis and Kucera 1964): 500 texts of tagged words in, documents of plain prose out.

Pretraining text for a language model that others trained: about a million words of American English of 1961, in fifteen genres.
"""

import os
import re

from instruct_jax.data.sources.archives import read_members
from instruct_jax.errors import InputError
from instruct_jax.records import Document

_NAME = re.compile(r"(?:.*/)?c[a-r][0-9][0-9]")
_CLOSING = re.compile(r" (''|[,.;:?!)])")
_OPENING = re.compile(r"(``|\() ")


def read_documents(path: str | os.PathLike) -> list[Document]:
    """The texts of the packed corpus by name, a line to a paragraph; InputError for a file that is not tagged as Brown's are."""
    documents = []
    for name, text in read_members(path, _NAME.fullmatch):
        label = name.rpartition("/")[2]
        documents.append(Document(f"brown-{label}", prose(text, f"{path}: {name}"), "brown"))
    if not documents:
        raise InputError(f"{path}: holds no file named as the Brown corpus's are (ca01 to cr09)")
    return sorted(documents, key=lambda document: document.id)


def prose(text: str, where: str) -> str:
    """Tagged lines ("The/at jury/nn said/vbd ./.") as prose: an indented line begins a paragraph; InputError names the line."""
    paragraphs: list[list[str]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        words = []
        for token in line.split():
            word, slash, tag = token.rpartition("/")
            if not (word and slash and tag):
                raise InputError(f"{where}:{number}: {token!r:.40} is no word/tag")
            # The corpus doubles the marks at the end of a quotation, and has a full stop after "Jr.".
            if not (words and word in ".;?!" and words[-1].endswith(word)):
                words.append(word)
        if line[0].isspace() or not paragraphs:
            paragraphs.append([])
        paragraphs[-1] += words
    return "\n".join(_joined(words) for words in paragraphs)


def _joined(words: list[str]) -> str:
    text = _CLOSING.sub(r"\1", _OPENING.sub(r"\1", " ".join(words)))
    return text.replace("``", '"').replace("''", '"')
