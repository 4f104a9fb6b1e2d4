"""Home of model selection by reward-model score on validation prompts: the SFT epoch, the FLAN checkpoint, the base model's prefix.

The paper found this to predict human preference better than the validation loss (App. C.1, C.5, 6).
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import ml_collections

from instruct_jax.algorithms.decode import SamplingConfig
from instruct_jax.algorithms.statistics import bootstrap_mean
from instruct_jax.data import builders
from instruct_jax.data.lab.prefixes import PREFIXES
from instruct_jax.models.transformer import PolicyModel, ScalarModel
from instruct_jax.sharding import check_divides
from instruct_jax.stages import inference, setup
from instruct_jax.stages.settings import SHARED, check_fields, section
from instruct_jax.text.templates import Template

_log = logging.getLogger(__name__)

FIELDS = (*SHARED, "select", "reward_model", "groups", "base", "reward", "data_dir")
PATHS = ("text.tokenizer", "reward", "data_dir")  # without one of them run() ends with status 2


@dataclasses.dataclass(frozen=True)
class SelectSettings:
    """How many validation prompts every candidate answers, and at which temperature."""

    prompts: int
    batch_size: int
    max_prompt: int
    temperature: float = 1.0


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way to answer: parameters behind a prompt template."""

    name: str
    load: Callable
    template: Template


def score_candidates(candidates: Sequence[Candidate], prompts: Sequence[str], sampler: Callable, scorer: Callable, plain: Template,
                     key) -> dict[str, dict]:  # fmt: skip
    """Mean reward-model score of every candidate on the same prompts and the same randomness, with its interval."""
    table = {}
    for candidate in candidates:
        sampled = sampler(candidate.load(), prompts, candidate.template, key)
        scores = scorer([(p, s.text, s.finished) for p, s in zip(prompts, sampled, strict=True)], plain)
        table[candidate.name] = dataclasses.asdict(bootstrap_mean(scores))
    return table


def best(table: dict[str, dict]) -> str:
    """The candidate with the highest mean score."""
    return max(table, key=lambda name: table[name]["mean"])


def check(config: ml_collections.ConfigDict) -> None:
    """InputError for a field that is wrong in itself; reads no data and asks for no device."""
    check_fields(config, FIELDS, setup.SECTIONS | {"select": SelectSettings})


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Scores the checkpoints of config.groups (group → run folder whose every checkpoint competes) and the prefixes of config.base;
    writes `workdir`/select.json: {group: {"best": name, "scores": {name: interval}, "prompts": asked, "prompts_too_long": left out}}."""
    settings, text = section(config, "select", SelectSettings), section(config, "text", setup.TextSettings)
    mesh = setup.open_mesh(section(config, "mesh", setup.MeshSettings))
    check_divides(settings.batch_size, mesh, "config.select.batch_size")
    tokenizer = setup.load_tokenizer(text)
    plain = setup.template(text.template, tokenizer)
    policy = PolicyModel(
        setup.transformer(section(config, "model", setup.ModelSettings), tokenizer.vocab_size)
    )
    scalar = ScalarModel(
        setup.transformer(section(config, "reward_model", setup.ModelSettings), tokenizer.vocab_size)
    )
    asked = prompts = [p.text for p in builders.open_source(config.data_dir, "prompts", "valid")]
    for shots in PREFIXES.values() if config.base else ():
        fits = inference.fitting(prompts, shots, tokenizer, settings.max_prompt)
        prompts = [p for p, fit in zip(prompts, fits, strict=True) if fit]
    too_long, prompts = len(asked) - len(prompts), prompts[: settings.prompts]
    if too_long:
        _log.warning(
            "%d of %d prompts do not fit behind every prefix: nobody is asked them", too_long, len(asked)
        )
    sampling = SamplingConfig(max_new_tokens=text.max_response, temperature=settings.temperature)
    chosen = {}
    with jax.set_mesh(mesh):
        reward = setup.load(config.reward, scalar, mesh)
        score = inference.make_scorer(scalar, tokenizer, mesh, width=text.max_prompt + text.max_response + 16,
                                      batch_size=settings.batch_size)  # fmt: skip
        groups = {}
        for group, folder in sorted(config.groups.items()):
            groups[group] = (
                text.max_prompt,
                [
                    Candidate(str(step), lambda f=folder, s=step: setup.load(f, policy, mesh, step=s), plain)
                    for step in setup.checkpoint_steps(folder)
                ],
            )
        if config.base:
            base = setup.load(config.base, policy, mesh)
            groups["prefix"] = (
                settings.max_prompt,
                [Candidate(n, lambda: base, t) for n, t in PREFIXES.items()],
            )
        for group, (width, candidates) in groups.items():
            sample = inference.make_sampler(
                policy, sampling, tokenizer, mesh, max_prompt=width, batch_size=settings.batch_size
            )
            table = score_candidates(candidates, prompts, sample, lambda rows, t: score(reward, rows, t), plain,
                                     jax.random.key(config.seed))  # fmt: skip
            chosen[group] = {
                "best": best(table),
                "scores": table,
                "prompts": len(prompts),
                "prompts_too_long": too_long,
            }
    if jax.process_index() == 0:
        (workdir / "select.json").write_text(json.dumps(chosen, indent=2) + "\n")
