"""Home of the rankings' making: K samples per prompt from one or more policies, ranked by a labeler, written as records (paper 1.10)."""

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path

import jax
import ml_collections

from instruct_jax.algorithms.decode import SamplingConfig
from instruct_jax.data.lab import labelers
from instruct_jax.models.transformer import PolicyModel
from instruct_jax.records import Generation, Prompt, Ranking, Rating, write_jsonl
from instruct_jax.stages import inference, setup
from instruct_jax.stages.lab_data import LabSettings, make_lab
from instruct_jax.stages.settings import SHARED, section

FIELDS = (*SHARED, "collect", "lab", "policies", "records_dir")


@dataclasses.dataclass(frozen=True)
class CollectSettings:
    """K is drawn between `k_min` and `k_max` per prompt, as the paper's labelers had 4 to 9 outputs before them."""

    k_min: int
    k_max: int
    batch_size: int
    temperature: float = 1.0


@dataclasses.dataclass(frozen=True)
class Policy:
    """A named policy to sample from."""

    name: str
    params: object


def sample_k(sampler: Callable, policies: list[Policy], prompts: list[Prompt], template, settings: CollectSettings, seed: int
             ) -> list[Generation]:  # fmt: skip
    """K completions for every prompt, all of one prompt from one policy; the policies share the prompts evenly."""
    rng = random.Random(f"collect {seed}")
    counts = [rng.randint(settings.k_min, settings.k_max) for _ in prompts]
    generations: list[Generation | None] = [None] * len(prompts)
    for n, policy in enumerate(policies):
        mine = range(n, len(prompts), len(policies))
        rows = [prompts[i].text for i in mine for _ in range(counts[i])]
        key = jax.random.fold_in(jax.random.key(seed), n)
        found = iter(sampler(policy.params, rows, template, key))
        for i in mine:
            texts = [next(found) for _ in range(counts[i])]
            generations[i] = Generation(prompts[i].id, prompts[i].text, policy.name, [t.text for t in texts],
                                        settings.temperature, [t.finished for t in texts])  # fmt: skip
    return generations


def rank_all(generations: list[Generation], rank: Callable[[int, Generation], Ranking]) -> list[Ranking]:
    """Rankings of generations; equal texts of one prompt are shown to the labeler once."""
    rankings = []
    for i, g in enumerate(generations):
        seen = dict(zip(g.completions, g.finished, strict=True))
        once = dataclasses.replace(g, completions=list(seen), finished=list(seen.values()))
        if len(seen) > 1:
            rankings.append(rank(i, once))
    return rankings


def lab_ranker(
    lab, people: list[labelers.Labeler], prompts: list[Prompt]
) -> Callable[[int, Generation], Ranking]:
    """A callable that gives generation i to one of `people`."""
    by_id = {p.id: p for p in prompts}

    def rank(i: int, g: Generation) -> Ranking:
        person, n = people[i % len(people)], len(g.completions)
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


def rate_first(lab, prompts: list[Prompt], generations: list[Generation]) -> list[Rating]:
    """The first completion of every prompt, graded 1-7 with the Table 3 flags by one labeler."""
    rows = zip(prompts, generations, strict=True)
    return [
        labelers.rate(
            lab.labelers[i % len(lab.labelers)],
            lab.world,
            p,
            lab.tasks[p.id],
            g.completions[0],
            g.model,
            g.finished[0],
        )
        for i, (p, g) in enumerate(rows)
    ]


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Samples from the policies in config.policies (name → checkpoint) and writes train and validation rankings to config.records_dir."""
    settings, text = section(config, "collect", CollectSettings), section(config, "text", setup.TextSettings)
    lab = make_lab(section(config, "lab", LabSettings), text)
    mesh = setup.open_mesh(section(config, "mesh", setup.MeshSettings))
    tokenizer = setup.load_tokenizer(text)
    model = PolicyModel(
        setup.transformer(section(config, "model", setup.ModelSettings), tokenizer.vocab_size)
    )
    records = Path(config.records_dir)
    with jax.set_mesh(mesh):
        policies = [
            Policy(name, setup.load(path, model, mesh)) for name, path in sorted(config.policies.items())
        ]
        sampling = SamplingConfig(max_new_tokens=text.max_response, temperature=settings.temperature)
        sampler = inference.make_sampler(model, sampling, tokenizer, mesh, max_prompt=text.max_prompt,
                                         batch_size=settings.batch_size)  # fmt: skip
        for split, name in (("train", "rm"), ("valid", "rm_valid")):
            prompts = lab.sets[name]
            generations = sample_k(
                sampler,
                policies,
                prompts,
                setup.template(text.template, tokenizer),
                settings,
                config.seed + len(name),
            )
            write_jsonl(records / f"generations.{split}.jsonl", generations)
            pools = {split: lab.labelers}
            if split == "valid":
                # Two labelers of each pool see the same outputs: agreement and both accuracies come from these.
                pools["valid_second"] = lab.labelers[1:] + lab.labelers[:1]
                pools["valid_heldout"] = lab.heldout_labelers
                pools["valid_heldout_second"] = lab.heldout_labelers[1:] + lab.heldout_labelers[:1]
                write_jsonl(records / "ratings.valid.jsonl", rate_first(lab, prompts, generations))
            for pool, people in pools.items():
                write_jsonl(
                    records / f"rankings.{pool}.jsonl",
                    rank_all(generations, lab_ranker(lab, people, prompts)),
                )
