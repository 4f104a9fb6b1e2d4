"""Home of the outputs to be ranked: K samples per prompt from one or more policies, shown to a labeler (paper 1.10)."""

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path

import jax
import ml_collections

from instruct_jax.algorithms.decode import SamplingConfig
from instruct_jax.models.transformer import PolicyModel
from instruct_jax.records import Generation, Prompt, Ranking, write_jsonl
from instruct_jax.sharding import check_divides
from instruct_jax.stages import inference, setup
from instruct_jax.stages.settings import section

SALTS = {"train": 2, "valid": 8}  # added to the seed, so that the splits are sampled apart


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
    """Rankings of generations; equal texts of one prompt, alike in whether they ended, are shown to the
    labeler once, so that fewer than k_min may be left; a prompt with one is not ranked."""
    rankings = []
    for i, g in enumerate(generations):
        seen = list(dict.fromkeys(zip(g.completions, g.finished, strict=True)))
        once = dataclasses.replace(
            g, completions=[text for text, _ in seen], finished=[end for _, end in seen]
        )
        if len(seen) > 1:
            rankings.append(rank(i, once))
    return rankings


def generate(
    config: ml_collections.ConfigDict, prompts: dict[str, list[Prompt]]
) -> dict[str, list[Generation]]:
    """Samples from the policies in config.policies (name → checkpoint) for the prompts of each split, train or valid; writes
    them to config.records_dir as well."""
    settings, text = section(config, "collect", CollectSettings), section(config, "text", setup.TextSettings)
    mesh = setup.open_mesh(section(config, "mesh", setup.MeshSettings))
    check_divides(settings.batch_size, mesh, "config.collect.batch_size")
    tokenizer = setup.load_tokenizer(text)
    model = PolicyModel(
        setup.transformer(section(config, "model", setup.ModelSettings), tokenizer.vocab_size)
    )
    found = {}
    with jax.set_mesh(mesh):
        policies = [
            Policy(name, setup.load(path, model, mesh)) for name, path in sorted(config.policies.items())
        ]
        sampling = SamplingConfig(max_new_tokens=text.max_response, temperature=settings.temperature)
        sampler = inference.make_sampler(model, sampling, tokenizer, mesh, max_prompt=text.max_prompt,
                                         batch_size=settings.batch_size)  # fmt: skip
        for split, asked in prompts.items():
            seed = config.seed + SALTS[split]
            drawn = sample_k(
                sampler, policies, asked, setup.template(text.template, tokenizer), settings, seed
            )
            how = dict(
                top_p=sampling.top_p, top_k=sampling.top_k, max_new_tokens=sampling.max_new_tokens, seed=seed
            )
            found[split] = [dataclasses.replace(generation, **how) for generation in drawn]
            write_jsonl(Path(config.records_dir) / f"generations.{split}.jsonl", found[split])
    return found
