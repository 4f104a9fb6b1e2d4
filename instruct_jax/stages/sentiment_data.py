"""Home of the sentiment recipe's data: prompts, demonstrations and pretraining text as records, and the labeler's rankings.

As Ziegler et al. (2019), whose prompts are openings that a model goes on from. Here they are the first words of sentences of movie
reviews, and the demonstrations are how their authors went on; the pretraining text is the Brown corpus.
"""

import dataclasses
import functools
import json
import random
from pathlib import Path

import ml_collections

from instruct_jax.data import builders
from instruct_jax.data.sentiment import labeler
from instruct_jax.data.sentiment.snippets import Snippet, assign, cut, read_snippets
from instruct_jax.data.sources import brown
from instruct_jax.errors import InputError
from instruct_jax.records import Demonstration, Prompt, read_jsonl, write_jsonl
from instruct_jax.stages import inference, setup
from instruct_jax.stages.collect import generate, rank_all
from instruct_jax.stages.settings import section


@dataclasses.dataclass(frozen=True)
class SentimentSettings:
    """The packed ratings and the packed Brown corpus; how many sentences are demonstrations, how many prompts are ranked for training
    and for validation, how many documents are held out; the words of a prompt; and below which difference the labeler ties."""

    ratings: str
    documents: str
    demonstrations: int
    ranked: int
    ranked_valid: int
    valid_documents: int = 60
    least_words: int = 4
    most_words: int = 6
    margin: float = 0.05


@dataclasses.dataclass(frozen=True)
class Sets:
    """Everything that the recipe's records are written from."""

    demonstrations: dict[str, list[Demonstration]]
    prompts: dict[str, list[Prompt]]
    removed: dict[str, int]


@functools.lru_cache(maxsize=1)
def snippets_of(
    settings: SentimentSettings, text: setup.TextSettings, seed: int
) -> tuple[tuple[Snippet, ...], int]:
    """The rated sentences with splits and judges, and how many were removed; equal for equal arguments."""
    snippets, removed = assign(
        read_snippets(setup.expand(settings.ratings)), setup.load_tokenizer(text), seed
    )
    return tuple(snippets), removed


def deal(snippets, settings: SentimentSettings, text: setup.TextSettings, seed: int) -> Sets:
    """Sentences dealt to their uses; no two prompts are equal, so that none is in two splits.

    In training, demonstrations first, then the prompts to be ranked; PPO asks those again and all that are left, as the paper's did.
    InputError where there are too few.
    """
    tokenizer = setup.load_tokenizer(text)
    template = setup.template(text.template, tokenizer)
    pairs = [(s, cut(s, settings.least_words, settings.most_words, seed)) for s in snippets]
    openings = {pair[0].casefold(): (s, pair) for s, pair in reversed(pairs) if pair}
    kept = list(reversed(openings.values()))
    removed = {"too short": sum(pair is None for _, pair in pairs)}
    removed["with another's opening"] = len(pairs) - removed["too short"] - len(kept)
    fits = inference.fitting([p for _, (p, _) in kept], template, tokenizer, text.max_prompt)
    removed["over the prompt's limit"] = fits.count(False)
    splits: dict[str, list] = {"train": [], "valid": [], "test": []}
    for (snippet, pair), fit in zip(kept, fits, strict=True):
        if fit:
            splits[snippet.split].append((snippet.id, *pair))
    for split, rows in splits.items():
        random.Random(f"deal {seed} {split}").shuffle(rows)
    short = {split: _short(splits[split], tokenizer, text.max_response) for split in ("train", "valid")}
    if len(short["train"]) < settings.demonstrations:
        raise InputError(
            f"sentiment: {settings.demonstrations} demonstrations are asked for, {len(short['train'])} sentences are "
            "short enough: lower sentiment.demonstrations or raise text.max_response"
        )
    count = {"train": settings.demonstrations, "valid": len(short["valid"]) // 2}
    demonstrations = {
        split: [Demonstration(*row, "reviewer") for row in rows[: count[split]]]
        for split, rows in short.items()
    }
    written = {d.prompt_id for rows in demonstrations.values() for d in rows}
    prompts = {
        split: [Prompt(i, opening, "review") for i, opening, _ in rows if i not in written]
        for split, rows in splits.items()
    }
    for split, count in (("train", settings.ranked), ("valid", settings.ranked_valid)):
        if len(prompts[split]) < count:
            raise InputError(
                f"sentiment: {count} prompts are to be ranked for {split}, there are {len(prompts[split])}: "
                "lower sentiment.ranked, ranked_valid or demonstrations"
            )
    ranked = {
        "ranked": prompts["train"][: settings.ranked],
        "ranked_valid": prompts["valid"][: settings.ranked_valid],
    }
    return Sets(demonstrations, prompts | ranked, removed)


def _short(rows, tokenizer, max_response: int) -> list:
    """The (id, opening, rest) rows whose rest fits a response with its EOS."""
    ids = tokenizer.encode_batch([rest for _, _, rest in rows])
    return [row for row, tokens in zip(rows, ids, strict=True) if len(tokens) < max_response]


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Writes the records into config.records_dir, builds their TFDS data sets in config.data_dir, and says in `workdir`/data.json what
    was removed."""
    settings, text = (
        section(config, "sentiment", SentimentSettings),
        section(config, "text", setup.TextSettings),
    )
    snippets, alike = snippets_of(settings, text, config.seed)
    sets = deal(snippets, settings, text, config.seed)
    records = Path(config.records_dir)
    for split, rows in sets.demonstrations.items():
        write_jsonl(records / f"demonstrations.{split}.jsonl", rows)
    for split, rows in sets.prompts.items():
        write_jsonl(records / f"prompts.{split}.jsonl", rows)
    documents = brown.read_documents(setup.expand(settings.documents))
    random.Random(f"documents {config.seed}").shuffle(documents)
    if len(documents) <= settings.valid_documents:
        raise InputError(
            f"sentiment.valid_documents is {settings.valid_documents} of {len(documents)}: lower it"
        )
    write_jsonl(records / "documents.valid.jsonl", documents[: settings.valid_documents])
    write_jsonl(records / "documents.train.jsonl", documents[settings.valid_documents :])
    counts = builders.build(records, config.data_dir)
    removed = {"begin alike": alike, **sets.removed}
    (workdir / "data.json").write_text(json.dumps({"rows": counts, "removed": removed}, indent=2) + "\n")


def collect(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Samples from config.policies for the prompts to be ranked and writes the labeler's train and validation rankings."""
    settings, text = (
        section(config, "sentiment", SentimentSettings),
        section(config, "text", setup.TextSettings),
    )
    judge = labeler.fit_labeler(snippets_of(settings, text, config.seed)[0])
    records = Path(config.records_dir)
    asked = {
        split: read_jsonl(records / f"prompts.{name}.jsonl", Prompt)
        for split, name in (("train", "ranked"), ("valid", "ranked_valid"))
    }
    for split, generations in generate(config, asked).items():
        rankings = rank_all(generations, lambda _, g: labeler.rank(judge, g, settings.margin))
        write_jsonl(records / f"rankings.{split}.jsonl", rankings)
