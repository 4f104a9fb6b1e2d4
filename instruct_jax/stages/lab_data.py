"""Home of the lab's door into the pipeline: users' prompts cleaned and split, demonstrations and documents, written as records.

The lab's records take the same way as real ones: JSON lines, TFDS data sets, one batch pipeline. Order as in the paper's 1.2:
deduplication by long common prefix, a cap per user, a length filter, splits by user.
"""

import dataclasses
import functools
import json
import random
from pathlib import Path

import ml_collections

from instruct_jax.data import builders
from instruct_jax.data.cleaning.dedup import cap_per_owner, drop_long, drop_shared_prefixes
from instruct_jax.data.cleaning.fewshot import expand_few_shot
from instruct_jax.data.cleaning.splits import split_by_owner
from instruct_jax.data.lab import corpus, labelers
from instruct_jax.data.lab.prompts import Task, make_prompts, make_task
from instruct_jax.data.lab.world import World, make_world
from instruct_jax.data.lab.writing import write
from instruct_jax.errors import InputError
from instruct_jax.records import Demonstration, Prompt, write_jsonl
from instruct_jax.stages import setup
from instruct_jax.stages.settings import section

# Kinds short enough for several to stand in one few-shot prompt.
FEW_SHOT_KINDS = ("list", "kind_of", "after", "count", "repeat")


@dataclasses.dataclass(frozen=True)
class LabSettings:
    """Sizes and seeds of one lab; `world_seed` fixes the facts, `seed` users, labelers and their work."""

    seed: int
    world_seed: int
    prompts: int
    users: int
    documents: int
    valid_documents: int
    labelers: int
    heldout_labelers: int
    sft_share: float = 0.35
    rm_share: float = 0.5
    few_shot: int = 40
    flan: int = 0
    cap_per_user: int = 200
    prefix_tokens: int = 24
    prefix_share: float = 0.8
    prefix_shortest: int = 3


@dataclasses.dataclass(frozen=True)
class Lab:
    """A lab in memory: the world, the hidden task of every prompt id, people, and prompts by what they are used for."""

    world: World
    tasks: dict[str, Task]
    labelers: list[labelers.Labeler]
    heldout_labelers: list[labelers.Labeler]
    sets: dict[str, list[Prompt]]
    removed: dict[str, int]

    def task(self, prompt_id: str) -> Task:
        """The hidden task of a prompt; its id may go on behind "/", for the same task asked otherwise. InputError for another's prompt."""
        name = prompt_id.partition("/")[0]
        if name not in self.tasks:
            raise InputError(f"prompt {prompt_id}: is none of this lab's; a lab judges its own prompts alone")
        return self.tasks[name]


@functools.lru_cache(maxsize=1)
def make_lab(settings: LabSettings, text: setup.TextSettings) -> Lab:
    """The lab of these settings, equal for equal settings; not to be changed. Its `sets`: sft, rm, ppo, each also with _valid, and test."""
    world = make_world(settings.world_seed)
    tokenizer = setup.load_tokenizer(text)
    template = setup.template(text.template, tokenizer)
    prompts, tasks = make_prompts(settings.seed, world, settings.prompts, settings.users)
    removed = {}
    prompts, removed["long common prefix"] = drop_shared_prefixes(
        prompts,
        tokenizer,
        long=settings.prefix_tokens,
        share=settings.prefix_share,
        shortest=settings.prefix_shortest,
    )
    prompts, removed["over the cap per user"] = cap_per_owner(prompts, settings.cap_per_user)
    prompts, removed["too long"] = drop_long(prompts, tokenizer, template, text.max_prompt)
    by_split = split_by_owner(prompts, {"train": 0.72, "valid": 0.08, "test": 0.2}, settings.seed)
    sets = {"test": by_split["test"]}
    for split, suffix in (("train", ""), ("valid", "_valid")):
        deal = random.Random(f"deal {settings.seed} {split}")
        for prompt in by_split[split]:
            point = deal.random()
            used = (
                "sft"
                if point < settings.sft_share
                else "rm"
                if point < settings.sft_share + settings.rm_share
                else "ppo"
            )
            # Ranked prompts are sampled from again in RL, as the paper's API prompts were.
            for name in {used, "ppo"} - ({"ppo"} if used == "sft" else set()):
                sets.setdefault(name + suffix, []).append(prompt)
    people = labelers.make_labelers(settings.seed, settings.labelers)
    others = labelers.make_labelers(settings.seed, settings.heldout_labelers, held_out=True)
    return Lab(world, tasks, people, others, sets, removed)


def write_records(lab: Lab, settings: LabSettings, text: setup.TextSettings, directory: Path) -> int:
    """Writes prompts, demonstrations and documents as JSON lines; rankings come when a policy has been sampled from. Returns how many
    few-shot demonstrations were too long for text.max_prompt and left out."""
    directory.mkdir(parents=True, exist_ok=True)
    write_jsonl(directory / "prompts.demonstrated.jsonl", lab.sets["sft"] + lab.sets["sft_valid"])
    for split, name in (("train", "ppo"), ("valid", "ppo_valid"), ("test", "test")):
        write_jsonl(directory / f"prompts.{split}.jsonl", lab.sets[name])
    for split, name in (("train", "sft"), ("valid", "sft_valid")):
        rows = _demonstrations(lab, lab.sets[name])
        if split == "train":
            few_shot, too_long = _few_shot(lab, settings, text)
            rows += few_shot
        write_jsonl(directory / f"demonstrations.{split}.jsonl", rows)
    if settings.flan:
        tasks = [*flan_tasks(lab.world, settings.seed, settings.flan)]
        write_jsonl(directory / "demonstrations.flan.jsonl", tasks)
    documents = corpus.make_documents(settings.world_seed, lab.world, settings.documents)
    write_jsonl(directory / "documents.train.jsonl", documents)
    write_jsonl(
        directory / "documents.valid.jsonl",
        corpus.heldout_documents(settings.world_seed, lab.world, settings.valid_documents),
    )
    return too_long


def _demonstrations(lab: Lab, prompts: list[Prompt]) -> list[Demonstration]:
    return [
        labelers.demonstrate(lab.labelers[i % len(lab.labelers)], lab.world, p, lab.tasks[p.id])
        for i, p in enumerate(prompts)
    ]


def _few_shot(lab: Lab, settings: LabSettings, text: setup.TextSettings) -> tuple[list[Demonstration], int]:
    """Labeler-written few-shot prompts, K = 2 pairs each (paper 1.1: several; the lab's rows are short), and how many were too long."""
    tokenizer, rows = setup.load_tokenizer(text), []
    template = setup.template(text.template, tokenizer)
    for i in range(settings.few_shot):
        rng = random.Random(f"few-shot {settings.seed} {i}")
        kind, labeler, pairs = rng.choice(FEW_SHOT_KINDS), lab.labelers[i % len(lab.labelers)], {}
        while len(pairs) < 2:
            task = make_task(rng, lab.world, rng.choice(("brainstorming", "classification", "other")))
            if task.kind == kind and task.constraint is None:
                pairs[task.text] = write(rng, lab.world, task, labelers.draw_slips(labeler, rng))
        name = f"few-shot-{settings.seed}-{i}"
        rows += expand_few_shot(name, "answer the last one .", list(pairs.items()), labeler.id)[0]
    encoded = tokenizer.encode_prompts(template, [row.prompt for row in rows])
    kept = [row for row, ids in zip(rows, encoded, strict=True) if len(ids) <= text.max_prompt]
    return kept, len(rows) - len(kept)


def flan_tasks(world: World, seed: int, count: int) -> list[Demonstration]:
    """An instruction mixture standing for FLAN/T0: public tasks with short right answers, in two phrasings each."""
    rng = random.Random(f"flan {seed}")
    rows = []
    while len(rows) < count:
        task = make_task(
            rng,
            world,
            rng.choice(("classification", "closed_qa", "extract", "open_qa", "rewrite", "summarization")),
        )
        if task.constraint is not None or not task.answer:
            continue
        answer = (
            " ".join(task.answer)
            if task.kind in ("rename", "past", "polite")
            else " , ".join(task.answer) + " ."
        )
        text = rng.choice(("task : {} answer :", "read and answer . {}")).format(task.text)
        rows.append(Demonstration(f"flan-{seed}-{len(rows)}", text, answer, "mixture"))
    return rows


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Writes the lab's records into `workdir`/records and builds their TFDS data sets in `workdir`/data."""
    settings, text = section(config, "lab", LabSettings), section(config, "text", setup.TextSettings)
    lab = make_lab(settings, text)
    too_long = write_records(lab, settings, text, workdir / "records")
    counts = builders.build(workdir / "records", workdir / "data")
    removed = lab.removed | {"too long with examples": too_long}
    (workdir / "lab.json").write_text(json.dumps({"rows": counts, "removed": removed}, indent=2) + "\n")
