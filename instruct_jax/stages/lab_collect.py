"""Home of the lab's rankings: its labelers rank and rate what the policies answered, written as records (paper 1.10)."""

from collections.abc import Callable
from pathlib import Path

import ml_collections

from instruct_jax.data.lab import labelers
from instruct_jax.records import Generation, Prompt, Ranking, Rating, write_jsonl
from instruct_jax.stages import setup
from instruct_jax.stages.collect import CollectSettings, generate, rank_all
from instruct_jax.stages.lab_data import LabSettings, make_lab
from instruct_jax.stages.settings import SHARED, check_fields, section

FIELDS = (*SHARED, "collect", "lab", "policies", "records_dir")


def lab_ranker(
    lab, people: list[labelers.Labeler], prompts: list[Prompt], policies: int
) -> Callable[[int, Generation], Ranking]:
    """A callable that gives generation i to one of `people`, each of whom sees outputs of all the policies, which take turns."""
    by_id = {p.id: p for p in prompts}

    def rank(i: int, g: Generation) -> Ranking:
        person, n = people[i // policies % len(people)], len(g.completions)
        return labelers.rank(
            person,
            lab.world,
            by_id[g.prompt_id],
            lab.tasks[g.prompt_id],
            g.completions,
            [g.model] * n,
            g.finished,
        )

    return rank


def rate_first(lab, prompts: list[Prompt], generations: list[Generation], policies: int) -> list[Rating]:
    """The first completion of every prompt, graded 1-7 with the Table 3 flags by one labeler."""
    rows = zip(prompts, generations, strict=True)
    return [
        labelers.rate(
            lab.labelers[i // policies % len(lab.labelers)],
            lab.world,
            p,
            lab.tasks[p.id],
            g.completions[0],
            g.model,
            g.finished[0],
        )
        for i, (p, g) in enumerate(rows)
    ]


def check(config: ml_collections.ConfigDict) -> None:
    """InputError for a field that is wrong in itself; reads no data and asks for no device."""
    check_fields(config, FIELDS, setup.SECTIONS | {"collect": CollectSettings, "lab": LabSettings})


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Samples from the policies in config.policies (name → checkpoint) and writes train and validation rankings to config.records_dir."""
    lab = make_lab(section(config, "lab", LabSettings), section(config, "text", setup.TextSettings))
    records, policies = Path(config.records_dir), len(config.policies)
    asked = {"train": lab.sets["rm"], "valid": lab.sets["rm_valid"]}
    for split, generations in generate(config, asked).items():
        pools = {split: lab.labelers}
        if split == "valid":
            # Two labelers of each pool see the same outputs: agreement and both accuracies come from these.
            pools["valid_second"] = lab.labelers[1:] + lab.labelers[:1]
            pools["valid_heldout"] = lab.heldout_labelers
            pools["valid_heldout_second"] = lab.heldout_labelers[1:] + lab.heldout_labelers[:1]
            write_jsonl(records / "ratings.valid.jsonl", rate_first(lab, asked[split], generations, policies))
        for pool, people in pools.items():
            rankings = rank_all(generations, lab_ranker(lab, people, asked[split], policies))
            write_jsonl(records / f"rankings.{pool}.jsonl", rankings)
