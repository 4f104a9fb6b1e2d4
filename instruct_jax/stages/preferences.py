"""Home of the paper's main evaluation (7.1, Figs. 1, 3, 4 and 5): models of any kind answer the same prompts, judges and people compare
them with a named baseline; best-of-n beside them as the optimiser that needs no training, and scores against KL.

People are those of the labeling application, by its exported records, or the lab's labelers, who are asked here.
"""

import dataclasses
import json
import random
from pathlib import Path

import jax
import ml_collections
import numpy as np

from instruct_jax.algorithms import preference_tests
from instruct_jax.data.lab.prefixes import as_pages
from instruct_jax.errors import InputError
from instruct_jax.evaluation import comparisons, human
from instruct_jax.evaluation.comparisons import Response
from instruct_jax.evaluation.winrate import interval
from instruct_jax.records import Prompt, Ranking, Rating, read_jsonl, write_jsonl
from instruct_jax.reports.win_rates import write_win_rates
from instruct_jax.stages import judging, setup
from instruct_jax.stages.arena import Arena, Contestant, SampleSettings, prefix_of
from instruct_jax.stages.settings import check_fields, field, names_in, section

FIELDS = (
    "stage",
    "name",
    "seed",
    "baseline",
    "models",
    "prompts",
    "sample",
    "judges",
    "people",
    "optimisers",
)


@dataclasses.dataclass(frozen=True)
class PromptSettings:
    """Files of Prompt records, how many of each source (chosen by the seed; None: all), what to call the sources in tables, and whether
    the lab's prompts are also asked as pages to be continued, as users of a raw model write them."""

    files: tuple[str, ...]
    count: int | None = None
    styles: dict[str, str] = dataclasses.field(default_factory=dict)
    pages: bool = False

    def __post_init__(self):
        if not self.files or (self.count is not None and self.count < 1):
            raise InputError(
                f"prompts: files is {self.files}, count {self.count}: name a file, and a count of at least 1 or None"
            )


@dataclasses.dataclass(frozen=True)
class PeopleSettings:
    """Rankings and ratings of people by pool, as the labeling application exports them; or the folder of a lab's recipe, whose
    labelers are asked: `each` of each pool a prompt. Judges compare the outputs of these rankings too, for agreement."""

    rankings: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    ratings: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    lab: str = ""
    each: int = 2


@dataclasses.dataclass(frozen=True)
class OptimiserSettings:
    """What KL is measured to; the judge that best-of-n chooses by, its n and how many samples a prompt it is estimated from; runs whose
    kept checkpoints are a curve each; and how many prompts these two take."""

    reference: str
    chooser: str
    n: tuple[int, ...] = (1, 2, 4, 8, 16)
    samples: int = 16
    curves: dict[str, str] = dataclasses.field(default_factory=dict)
    prompts: int = 100


def check(config: ml_collections.ConfigDict) -> None:
    """InputError for a field that is wrong in itself; reads no data and asks for no device."""
    sections = {
        "prompts": PromptSettings,
        "sample": SampleSettings,
        "people": PeopleSettings,
        "optimisers": OptimiserSettings,
    }
    check_fields(config, FIELDS, sections)
    for name in names_in(config, "models"):
        prefix_of(section(config, f"models.{name}", Contestant))
    judges = {
        name: section(config, f"judges.{name}", judging.JudgeSettings) for name in names_in(config, "judges")
    }
    pools = {"training", "heldout", *section(config, "people", PeopleSettings).rankings}
    if pools & set(judges):
        raise InputError(
            f"config.judges: {', '.join(sorted(pools & set(judges)))} is the name of a pool of people; call it otherwise"
        )
    if field(config, "baseline", str) not in config.models:
        raise InputError(
            f"config.baseline is {config.baseline!r}: none of config.models ({', '.join(config.models)})"
        )
    if "optimisers" in config:
        chooser = config.optimisers.chooser
        if chooser not in judges or judges[chooser].chat:
            raise InputError(f"config.optimisers.chooser is {chooser!r}: name a judge that scores")
        optimisers = section(config, "optimisers", OptimiserSettings)
        wrong = [n for n in optimisers.n if not 1 <= n <= optimisers.samples]
        if wrong:
            raise InputError(
                f"config.optimisers.n holds {wrong[0]}: the best of n is from 1 to optimisers.samples, {optimisers.samples}"
            )


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Writes to `workdir`: responses.jsonl, the people's records where the lab's were asked, preferences.json, and the report
    (index.html, README.md, plots)."""
    check(config)
    settings, people = section(config, "sample", SampleSettings), section(config, "people", PeopleSettings)
    prompts = read_prompts(section(config, "prompts", PromptSettings), config.seed)
    styles = {
        p.id: section(config, "prompts", PromptSettings).styles.get(p.source, p.source or "all")
        for p in prompts
    }
    workdir.mkdir(parents=True, exist_ok=True)
    arena = Arena(settings, config.seed)
    judges = {}
    for name in config.judges:
        judges[name] = judging.open_judge(
            name, section(config, f"judges.{name}", judging.JudgeSettings), arena.mesh,
            settings.max_prompt + settings.max_response + 16, settings.batch_size, workdir / f"replies_{name}.jsonl",
            frozenset(p.id for p in prompts if p.source in settings.continued),
        )  # fmt: skip
    with jax.set_mesh(arena.mesh):
        said, kl = everyone(config, arena, prompts)
        optimised = optimise(config, arena, judges, prompts, said) if "optimisers" in config else {}
    pools = ask(people, prompts, said, workdir)
    pairs = comparisons.pairs_of(
        {m: {i: (p.text, Response(s.text, s.finished)) for i, (p, s) in by.items()} for m, by in said.items()}, config.baseline
    )  # fmt: skip
    found, told = [], {}
    for judge in judges.values():
        own, about = judging.compare(judge, pairs)
        found += own
        told |= {judge.name: about} if about else {}
    by_people = [
        c
        for pool, (rankings, _) in pools.items()
        for c in comparisons.from_rankings(rankings, config.baseline, pool)
    ]
    # People's outputs are those just sampled only where the lab's were asked.
    seen = [] if people.lab else judged_as_people_saw(pools, judges, config.baseline)
    result = {
        "baseline": config.baseline,
        "models": {name: config.models[name].path for name in config.models},
        "prompts": {style: list(styles.values()).count(style) for style in dict.fromkeys(styles.values())},
        "win_rates": comparisons.win_table([*by_people, *found], styles),
        "between": comparisons.between_models([*by_people, *found], styles),
        "agreement": comparisons.agreement([*by_people, *(seen or found)]),
        "readers": told, "kl": kl, "optimisers": optimised,
    }  # fmt: skip
    result |= quality(pools, judges, said, config.baseline)
    with open(workdir / "responses.jsonl", "w") as file:
        for model, by_prompt in said.items():
            for prompt, s in by_prompt.values():
                row = {"model": model, "prompt_id": prompt.id, "prompt": prompt.text, "source": prompt.source,
                       "response": s.text, "finished": s.finished}  # fmt: skip
                file.write(json.dumps(row) + "\n")
    write_win_rates(workdir, result)


def read_prompts(settings: PromptSettings, seed: int) -> list[Prompt]:
    """The prompts to ask; InputError where there is none, or two of them have one id."""
    prompts = [p for path in settings.files for p in read_jsonl(setup.expand(path), Prompt)]
    if not prompts:
        raise InputError(f"prompts.files: no prompt is in {', '.join(settings.files)}")
    by_source: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        by_source.setdefault(prompt.source, []).append(prompt)
    chosen = []
    for source, rows in by_source.items():
        if settings.count is not None and settings.count < len(rows):
            rows = random.Random(f"prompts {seed} {source}").sample(rows, settings.count)
        chosen += rows
    chosen += as_pages(chosen) if settings.pages else []
    if len({p.id for p in chosen}) < len(chosen):
        raise InputError(
            "prompts.files: two prompts have the same id; what was said to which could not be told"
        )
    return chosen


def everyone(config, arena: Arena, prompts: list[Prompt]) -> tuple[dict, dict]:
    """({model: {prompt_id: (prompt, what it said)}}, {model: KL from the reference}); the baseline answers twice, as itself and as
    `<baseline>_again`."""
    said, kl = {}, {}
    reference = arena.open(Contestant(config.optimisers.reference)) if "optimisers" in config else None
    for salt, name in enumerate(config.models):
        contestant = section(config, f"models.{name}", Contestant)
        speaker = arena.open(contestant)
        answers = arena.answers(speaker, contestant, prompts, salt)
        if not answers:
            raise InputError(
                f"config.models.{name}: every prompt has more than sample.max_prompt tokens; raise it, or ask shorter ones"
            )
        said[name] = {a.prompt.id: (a.prompt, a.sampled) for a in answers}
        if name == config.baseline:
            again = arena.answers(speaker, contestant, prompts, salt + 1000)
            said[f"{name}_again"] = {a.prompt.id: (a.prompt, a.sampled) for a in again}
        plain = not contestant.prefix_file and contestant.temperature is None
        if reference is not None and plain and contestant.path != config.optimisers.reference:
            own = [a for a in answers if a.prompt.source not in arena.settings.continued]
            if own:
                kl[name] = interval(arena.kl(speaker, reference, own), [a.prompt.id for a in own])
    return said, kl


def optimise(config, arena: Arena, judges: dict, prompts: list[Prompt], said: dict) -> dict:
    """Best-of-n of the reference and the kept checkpoints of runs, on the first prompts that the baseline answered: {"best_of_n":
    [point], curve: [point]}, a point {kl, n or step, scores: {judge: interval}, win: {judge: interval}}."""
    settings = section(config, "optimisers", OptimiserSettings)
    scoring = {name: judge for name, judge in judges.items() if judge.score}
    answered = [p for p in prompts if p.id in said[config.baseline]]
    asked = [p for p in answered if p.source not in arena.settings.continued][: settings.prompts]
    if not asked:
        raise InputError("config.optimisers: the baseline answered no prompt to ask; raise sample.max_prompt")
    contestant = Contestant(settings.reference)
    reference = arena.open(contestant)
    answers = arena.answers(reference, contestant, asked, 2000, each=settings.samples)
    rows = [(a.prompt.id, a.prompt.text, a.sampled.text, a.sampled.finished) for a in answers]
    scores = {name: np.reshape(judge.score(rows), (-1, settings.samples)) for name, judge in scoring.items()}
    owners = [row[0] for row in rows[:: settings.samples]]
    theirs = _baseline_scores(scoring, said[config.baseline], owners)
    points = []
    for n in settings.n:
        best = {
            name: preference_tests.best_of_n(scores[settings.chooser], values, n)
            for name, values in scores.items()
        }
        wins = {name: preference_tests.best_of_n(scores[settings.chooser], _outcome(values, theirs[name][:, None]), n)
                for name, values in scores.items()}  # fmt: skip
        points.append({"n": n, "kl": preference_tests.best_of_kl(n)} | _point(best, wins, owners))
    found = {"best_of_n": points}
    for curve, path in settings.curves.items():
        found[curve] = []
        for step in setup.checkpoint_steps(setup.expand(path)):
            contestant = Contestant(path, step)
            speaker = arena.open(contestant)
            answers = arena.answers(speaker, contestant, asked, 3000)
            rows = [(a.prompt.id, a.prompt.text, a.sampled.text, a.sampled.finished) for a in answers]
            ids = [row[0] for row in rows]
            values = {name: np.array(judge.score(rows)) for name, judge in scoring.items()}
            theirs = _baseline_scores(scoring, said[config.baseline], ids)
            wins = {name: _outcome(value, theirs[name]) for name, value in values.items()}
            kl = float(np.mean(arena.kl(speaker, reference, answers)))
            found[curve].append({"step": step, "kl": kl} | _point(values, wins, ids))
    return found


def _baseline_scores(scoring: dict, said: dict, ids: list[str]) -> dict[str, np.ndarray]:
    rows = [(i, said[i][0].text, said[i][1].text, said[i][1].finished) for i in ids]
    return {name: np.array(judge.score(rows)) for name, judge in scoring.items()}


def _outcome(mine, theirs) -> np.ndarray:
    return np.where(np.abs(mine - theirs) <= 1e-6, 0.5, mine > theirs)


def _point(scores: dict, wins: dict, owners: list[str]) -> dict:
    return {"scores": {name: interval(v, owners) for name, v in scores.items()},
            "win": {name: interval(v, owners) for name, v in wins.items()}}  # fmt: skip


def ask(
    people: PeopleSettings, prompts: list[Prompt], said: dict, workdir: Path
) -> dict[str, tuple[list, list]]:
    """{pool: (rankings, ratings)}: from the files, or from the lab's labelers, whose records are written to `workdir`."""
    names = dict.fromkeys([*people.rankings, *people.ratings])
    pools = {
        name: ([r for path in people.rankings.get(name, ()) for r in read_jsonl(setup.expand(path), Ranking)],
               [r for path in people.ratings.get(name, ()) for r in read_jsonl(setup.expand(path), Rating)])
        for name in names
    }  # fmt: skip
    if people.lab:
        responses = {
            m: {i: s for i, (_, s) in by.items()} for m, by in said.items() if not m.endswith("_again")
        }
        asked = judging.ask_people(judging.open_lab(people.lab), prompts, responses, people.each)
        for pool, (rankings, ratings) in asked.items():
            write_jsonl(workdir / f"rankings.{pool}.jsonl", rankings)
            write_jsonl(workdir / f"ratings.{pool}.jsonl", ratings)
        pools |= asked
    return pools


def judged_as_people_saw(pools: dict, judges: dict, baseline: str) -> list:
    """The judges' comparisons of the very outputs that people ranked, each model's beside the baseline's."""
    rankings = [ranking for ranked, _ in pools.values() for ranking in ranked]
    shown = list(dict.fromkeys(pairs for r in rankings for pairs, _ in comparisons.pairs_in(r, baseline)))
    return [c for judge in judges.values() for c in judging.compare_shown(judge, shown)] if shown else []


def quality(pools: dict, judges: dict, said: dict, baseline: str) -> dict:
    """{grades: {judge: {model}}, flags: {judge: {model: {flag}}}, scores: {judge: {model}}, lengths: {model}}."""
    grades = {pool: human.grades(ratings) for pool, (_, ratings) in pools.items() if ratings}
    flags = {pool: human.flag_rates(ratings) for pool, (_, ratings) in pools.items() if ratings}
    scores, lengths = {}, {}
    shown = {model: by for model, by in said.items() if not model.endswith("_again")}
    for name, judge in judges.items():
        rated = []
        for model, by_prompt in shown.items():
            rows = [(i, p.text, s.text, s.finished) for i, (p, s) in by_prompt.items()]
            if judge.score:
                scores.setdefault(name, {})[model] = interval(judge.score(rows), [row[0] for row in rows])
            if judge.verdict:
                for prompt_id, prompt, text, finished in rows:
                    v = judge.verdict(prompt_id, text, finished)
                    rated.append(Rating(prompt_id, prompt, text, model, name, v.likert, v.flags))
        if rated:
            grades[name], flags[name] = human.grades(rated), human.flag_rates(rated)
    for model, by_prompt in shown.items():
        sizes = [len(s.text) for _, s in by_prompt.values()]
        lengths[model] = interval(sizes) | {
            "finished": float(np.mean([s.finished for _, s in by_prompt.values()]))
        }
    return {"grades": grades, "flags": flags, "scores": scores, "lengths": lengths}
