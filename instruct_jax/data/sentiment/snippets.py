"""Home of the rated sentences: about 10,600 of movie reviews, each rated from -4 to 4 by fifteen or more people (Hutto and
Gilbert 2014), and of who may see which.

Unlike Ziegler et al. (2019), whose prompts are excerpts of books: a prompt is the opening words of a sentence.
"""

import dataclasses
import hashlib
import html
import math
import os
import random
from collections.abc import Sequence

from instruct_jax.data.cleaning.dedup import drop_shared_prefixes
from instruct_jax.data.cleaning.splits import split_by_owner
from instruct_jax.data.sources.archives import read_members
from instruct_jax.errors import InputError
from instruct_jax.records import Prompt

FILE = "movieReviewSnippets_GroundTruth.txt"
SHARES = {"train": 0.8, "valid": 0.08, "test": 0.12}
SAME = dict(long=12, share=0.8, shortest=4)  # sentences that begin alike are one


@dataclasses.dataclass(frozen=True)
class Snippet:
    """A sentence with the mean of people's ratings, its split, and, unless that is test, the judge that may be fitted on it."""

    id: str
    text: str
    rating: float
    split: str = ""
    judge: str = ""  # "labeler" or "gold"


def read_snippets(path: str | os.PathLike) -> list[Snippet]:
    """The sentences of the packed data set, white space and quotation marks set right; InputError names a line that is wrong."""
    found = list(read_members(path, lambda name: name.rpartition("/")[2] == FILE))
    if not found:
        raise InputError(f"{path}: holds no {FILE}; fetch it again")
    snippets = []
    for number, line in enumerate(found[0][1].split("\n"), start=1):
        if not line.strip():
            continue
        fields = line.strip().split("\t")
        try:
            name, rating, text = fields[0], float(fields[1]), _clean(fields[2])
        except (IndexError, ValueError):
            raise InputError(f"{path}: {FILE}:{number}: is not id, rating and text split by tabs") from None
        if not math.isfinite(rating):
            raise InputError(f"{path}: {FILE}:{number}: the rating is {fields[1]}")
        snippets.append(Snippet(f"movie-{name}", text, rating))
    return snippets


def _clean(text: str) -> str:
    return " ".join(html.unescape(text).replace("''", '"').split())


def assign(snippets: Sequence[Snippet], tokenizer, seed: int) -> tuple[list[Snippet], int]:
    """Snippets with split and judge, and how many were removed because they begin as another does.

    Both hang on the id and `seed` alone. Nobody is fitted or trained on a test sentence; the others are dealt evenly to the two judges.
    """
    by_id = {s.id: s for s in snippets}
    prompts = [Prompt(s.id, s.text) for s in snippets]
    kept, removed = drop_shared_prefixes(prompts, tokenizer, **SAME)
    found = []
    for split, members in split_by_owner(kept, SHARES, seed).items():
        for prompt in members:
            odd = hashlib.sha256(f"judge {seed}/{prompt.id}".encode()).digest()[0] % 2
            judge = "" if split == "test" else ("labeler", "gold")[odd]
            found.append(dataclasses.replace(by_id[prompt.id], split=split, judge=judge))
    return found, removed


def cut(snippet: Snippet, least: int, most: int, seed: int) -> tuple[str, str] | None:
    """(opening words, the rest with the space before it): `least` to `most` words, drawn by id and `seed`; None for a sentence that
    has no more than `most` words."""
    words = snippet.text.split(" ")
    if len(words) <= most:
        return None
    count = random.Random(f"cut {seed} {snippet.id}").randint(least, most)
    return " ".join(words[:count]), " " + " ".join(words[count:])
