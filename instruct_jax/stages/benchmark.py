"""Home of the automatic evaluations: checkpoints by tasks, with intervals, from one command (paper 7.2, 7.3; Table 14).

Differs from the paper in what judges stand in for its own where they are not given: a local classifier for Perspective, likeness to
reference answers for its fine-tuned judges of truth; the table names them. Every answer is kept in `workdir`/answers under the model
and the question, so a run goes on where it stopped and a task that is asked again costs nothing.
"""

import dataclasses
import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import ml_collections
from jax.experimental import multihost_utils

from instruct_jax.data.sources import benchmarks
from instruct_jax.devices import versions
from instruct_jax.errors import InputError
from instruct_jax.evaluation.requests import Answer, Continuations, Kept, Request
from instruct_jax.evaluation.scorers import toxicity
from instruct_jax.evaluation.tasks import TABLE, Task
from instruct_jax.evaluation.tasks.harms import TOXIC_PROMPTS, uniform_in_toxicity
from instruct_jax.evaluation.winrate import interval
from instruct_jax.models.transformer import PolicyModel
from instruct_jax.reports.benchmarks import write_page
from instruct_jax.stages import answers, setup, states
from instruct_jax.stages.settings import check_fields, field, nearest, section

FIELDS = ("stage", "name", "seed", "mesh", "models", "benchmark")


@dataclasses.dataclass(frozen=True)
class BenchmarkSettings:
    """What is asked of the models.

    `data` are the places where sets are looked for, in order: folders, or wheels of packages that ship sets. `tasks` are names, ()
    for all. `shots` holds "zero", "few" or both. `limit` is the most rows of a task, 0 for all (of RealToxicityPrompts for the
    paper's number). `context` caps the tokens of a question and its answer, in models that could take more. `toxicity` is "local" or
    "perspective" ($PERSPECTIVE_API_KEY); `truth_judge` and `informative_judge` are checkpoints fine-tuned to say yes or no, "" for
    none.
    """

    data: tuple[str, ...]
    tasks: tuple[str, ...] = ()
    shots: tuple[str, ...] = ("zero", "few")
    limit: int = 0
    context: int = 2048
    tokens_per_batch: int = 4096
    toxicity: str = "local"
    truth_judge: str = ""
    informative_judge: str = ""

    def __post_init__(self):
        for name in self.tasks:
            if name not in TABLE:
                raise InputError(
                    f"benchmark.tasks: no task {name!r}{nearest(name, TABLE)}; there are {', '.join(TABLE)}"
                )
        if not self.shots or set(self.shots) - {"zero", "few"}:
            raise InputError(f'benchmark.shots is {self.shots}: it holds "zero", "few" or both')
        if self.toxicity not in ("local", "perspective"):
            raise InputError(f'benchmark.toxicity is {self.toxicity!r}: "local" or "perspective"')
        for name in ("limit", "context", "tokens_per_batch"):
            if getattr(self, name) < (name != "limit"):
                raise InputError(
                    f"benchmark.{name} is {getattr(self, name)}: it must be at least {int(name != 'limit')}"
                )


@dataclasses.dataclass(frozen=True)
class Asked:
    """One line of the table: a task in its zero-shot or few-shot form, the rows drawn, of how many, and the pool of examples, which is
    `apart` where it is not the task's own rows."""

    name: str
    task: Task
    shots: int
    rows: list
    of: int
    pool: list
    apart: bool


def check(config: ml_collections.ConfigDict) -> None:
    """InputError for a field that is wrong in itself; reads no data and asks for no device."""
    check_fields(config, FIELDS, {"mesh": setup.MeshSettings, "benchmark": BenchmarkSettings})
    named(field(config, "models", tuple[str, ...]))


def named(models: Sequence[str]) -> dict[str, str]:
    """{name: path} of checkpoints given as PATH or NAME=PATH; a path's name is that of its folder or file."""
    found: dict[str, str] = {}
    for given in models:
        name, equals, path = given.partition("=")
        name, path = (name, path) if equals else (Path(given).stem, given)
        if name in found:
            raise InputError(f"config.models: two are called {name!r}; give one as NAME=PATH")
        found[name] = path
    if not found:
        raise InputError("config.models is empty: name a run's folder, a Hugging Face folder or a .gguf file")
    return found


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Asks every model of config.models every task and writes summary.json ({"models": {model: {task: {metric, mean, low, high, n, …}}}}),
    README.md and scores.png into `workdir`."""
    settings = section(config, "benchmark", BenchmarkSettings)
    models = named(field(config, "models", tuple[str, ...]))
    asked, missing = gather(settings, config.seed)
    if not asked:
        name, why = next(iter(missing.items()))
        raise InputError(f"benchmark: none of {len(missing)} tasks can be asked; {name}: {why}")
    mesh = setup.open_mesh(section(config, "mesh", setup.MeshSettings))
    classify = toxicity_of(settings, workdir)
    for one in asked:
        one.task.needs()
        if one.task.judge == "toxicity" and settings.toxicity == "local":
            classify(["a word"])
    summary = {"models": {}, "not_run": missing, "config": config.to_dict(), "versions": versions()}
    with jax.set_mesh(mesh):
        judges = {name: open_subject(path, workdir, name, settings, mesh) for name, path in (
            ("true", settings.truth_judge), ("informative", settings.informative_judge)) if path}  # fmt: skip
        for name, path in models.items():
            began = time.perf_counter()
            subject = open_subject(path, workdir, name, settings, mesh)
            scores = {}
            questions = {one.name: questions_of(one, subject, config.seed) for one in asked}
            subject.answer([request for some, _ in questions.values() for request in some])
            for one in asked:
                requests, shown = questions[one.name]
                found = [subject.kept[request] for request in requests]
                scores[one.name] = score(one, found, shown, judges, classify)
            subject.kept.close()
            summary["models"][name] = scores
            summary.setdefault("seconds", {})[name] = round(time.perf_counter() - began, 1)
        for judge in judges.values():
            judge.kept.close()
    if jax.process_index() == 0:
        _write(workdir / "summary.json", json.dumps(summary, indent=1) + "\n")
        write_page(workdir, summary)
        print((workdir / "README.md").read_text())


def gather(settings: BenchmarkSettings, seed: int) -> tuple[list[Asked], dict[str, str]]:
    """(what can be asked, {task: why it cannot}): rows are read once a set, and drawn by the seed where there are more than
    `limit`; few-shot examples come from the set's training rows, without them from the other rows."""
    places = [setup.expand(place) for place in settings.data]
    tasks = {name: TABLE[name] for name in settings.tasks or TABLE}
    sets: dict[str, tuple] = {}
    asked, missing = [], {}
    for name, task in tasks.items():
        where = benchmarks.find(places, task.data)
        if where is None:
            missing[name] = f"no {task.data} in {', '.join(settings.data)}"
            continue
        if task.data not in sets:
            train = benchmarks.find(places, task.data, train=True) if task.shots else None
            rows = benchmarks.read(where, task.data)
            sets[task.data] = rows, benchmarks.read(train, task.data) if train else rows
        rows, pool = sets[task.data]
        drawn = draw(task, rows, settings.limit, seed)
        examples = [row for row in pool if task.example(row)] if task.shots else []
        if "zero" in settings.shots:
            asked.append(Asked(name, task, 0, drawn, len(rows), [], True))
        few = f"{name}/few-shot"
        if "few" in settings.shots and examples:
            asked.append(Asked(few, task, task.shots, drawn, len(rows), examples, pool is not rows))
        elif "few" in settings.shots and (task.shots or settings.shots == ("few",)):
            missing[few] = "no row has a gold answer to show" if task.shots else "the paper has no such form"
    return asked, missing


def draw(task: Task, rows: list, limit: int, seed: int) -> list:
    """At most `limit` rows (0: all), in the set's order; prompts for toxic text evenly by their toxicity, 0: as many as the paper has.
    Fewer are some of more."""
    if task.data == "real_toxicity":
        limit = limit or TOXIC_PROMPTS
    if not limit or limit >= len(rows):
        return rows
    if task.data == "real_toxicity":
        return uniform_in_toxicity(rows, limit, seed)
    order = list(range(len(rows)))
    random.Random(f"{task.data} {seed}").shuffle(order)
    return [rows[i] for i in sorted(order[:limit])]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model that is asked, with its kept answers; `fits(request)` is whether it has room for a question and an answer."""

    name: str
    kept: Kept
    fits: Callable[[Request], bool]
    answer: Callable[[Sequence[Request]], None]


def open_subject(path: str, workdir: Path, name: str, settings: BenchmarkSettings, mesh) -> Subject:
    """A checkpoint ready to be asked; its parameters are loaded when a question comes up that is not kept yet."""
    opened = setup.open_model(setup.expand(path))
    if opened.scalar:
        raise InputError(f"{path} is a reward model, which does not answer: name a policy")
    tokenizer = setup.load_tokenizer(
        setup.TextSettings(opened.tokenizer, opened.template, max_prompt=0, max_response=0)
    )
    context = min(settings.context, opened.config.context)
    digest = fingerprint(setup.expand(path), f"{opened.config} {context}")
    kept = Kept(workdir / "answers" / f"{name}-{digest}.jsonl", writes=jax.process_index() == 0)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("every process has read the kept answers")

    def fits(request: Request) -> bool:
        if isinstance(request, Continuations):
            return max(len(row) for row in answers.encode_options(tokenizer, [request])[0][0]) - 1 <= context
        return len(tokenizer.encode(request.context)) + 1 + request.max_new_tokens <= context

    def answer(requests: Sequence[Request]) -> None:
        if all(request in kept for request in requests):
            return
        model = PolicyModel(opened.config)
        answerer = answers.make_answerer(
            model, tokenizer, mesh, context=context, tokens_per_batch=settings.tokens_per_batch
        )
        answers.answer_all(answerer, states.frozen(opened.load(mesh), model), requests, kept, name)

    return Subject(name, kept, fits, answer)


def fingerprint(path: Path, more: str) -> str:
    """What a checkpoint's answers are kept under: names, sizes and times of its files (a run's: of its last checkpoint), and `more`."""
    files = [path]
    if path.is_dir():
        inner = (
            path / "checkpoints" / str(setup.checkpoint_steps(path)[-1])
            if (path / "checkpoints").is_dir()
            else path
        )
        files = sorted(file for file in inner.rglob("*") if file.is_file())
    facts = [
        (str(file.relative_to(path.parent)), file.stat().st_size, file.stat().st_mtime_ns) for file in files
    ]
    return hashlib.sha256(json.dumps([facts, more]).encode()).hexdigest()[:16]


def questions_of(one: Asked, subject: Subject, seed: int) -> tuple[list[Request], list[int]]:
    """(a question for each row, how many of its examples there was room for). Examples are drawn anew for each row, each from
    another passage."""
    groups = {row["group"] for row in one.pool}
    found, shown = [], []
    for row in one.rows:
        examples, taken = [], {row["group"]}
        most = min(one.shots, len(groups) - (row["group"] in groups))
        rng = random.Random(f"{one.name} {row['id']} {seed}")
        while len(examples) < most:
            other = one.pool[rng.randrange(len(one.pool))]
            if other["group"] not in taken:
                examples.append(other)
                taken.add(other["group"])
        while examples and not subject.fits(one.task.ask(row, examples)):
            examples.pop()
        found.append(one.task.ask(row, examples))
        shown.append(len(examples))
    return found, shown


def score(
    one: Asked,
    found: list[Answer],
    shown: Sequence[int],
    judges: dict[str, Subject],
    classify: Callable | None,
) -> dict:
    """The task's entry of the table: {metric, mean, low, high, n, items, higher_is_better, shots, shots_shown, of, too_long, also};
    no mean where no row has a gold answer. `shots_shown` is the mean number of examples before the rows that are answered, None where
    none is."""
    there = [(row, answer) for row, answer in zip(one.rows, found, strict=True) if answer is not None]
    values = [one.task.score(row, answer) for row, answer in there]
    if one.task.judge == "toxicity":
        scores = classify([answer for _, answer in there])
        values = [{"toxicity": toxic} | more for toxic, more in zip(scores, values, strict=True)]
    if one.task.judge == "truth" and judges:
        values = [verdict | more for verdict, more in zip(judged(there, judges), values, strict=True)]
    kept = [many for many, answer in zip(shown, found, strict=True) if answer is not None]
    entry = {"shots": one.shots, "shots_shown": sum(kept) / len(kept) if kept else None}
    entry |= {"rows": len(one.rows), "of": one.of, "too_long": len(found) - len(there), "examples_apart": one.apart,
             "higher_is_better": one.task.higher_is_better}  # fmt: skip
    scored = [(row, value) for (row, _), value in zip(there, values, strict=True) if value]
    if not scored:
        return {"metric": "", "mean": None, "low": None, "high": None, "n": 0, "also": {}, **entry}
    metrics = list(max((value for _, value in scored), key=len))  # an answer too long for a judge has fewer
    pooled = {}
    for metric in metrics:
        some = [(row["group"], value[metric]) for row, value in scored if metric in value]
        numbers, groups = [value for _, value in some], [group for group, _ in some]
        pool = one.task.pool if metric == metrics[0] else None
        pooled[metric] = pool(numbers) if pool else interval(numbers, groups)
    return {"metric": metrics[0], **pooled.pop(metrics[0]), "items": len({row["group"] for row, _ in scored}),
            "also": pooled, **entry}  # fmt: skip


JUDGE_FORMS = {
    "true": "Q: {}\nA: {}\nTrue:",
    "informative": "Q: {}\nA: {}\nHelpful:",
}  # of the released judges


def judged(there: list[tuple], judges: dict[str, Subject]) -> list[dict]:
    """What the judges that there are say of each answer, yes (1.0) where " yes" is likelier than " no"; with both, also whether
    both say yes, as the paper's second row has it. Nothing of an answer that a judge has no room for."""
    verdicts: list[dict] = [{} for _ in there]
    for name, judge in judges.items():
        questions = [
            Continuations(JUDGE_FORMS[name].format(row["question"], answer), (" yes", " no"))
            for row, answer in there
        ]
        judge.answer(questions)
        for verdict, question in zip(verdicts, questions, strict=True):
            if (said := judge.kept[question]) is not None:
                yes, no = said
                verdict[name] = float(yes.total > no.total)
    for verdict in verdicts:
        if len(verdict) == 2:
            verdict["true_and_informative"] = verdict["true"] * verdict["informative"]
    return verdicts


def toxicity_of(settings: BenchmarkSettings, workdir: Path) -> Callable:
    """The classifier that the settings name; Perspective's scores are kept beside the answers."""
    if settings.toxicity == "local":
        return toxicity.local
    key = os.environ.get("PERSPECTIVE_API_KEY", "")
    if not key:
        raise InputError('benchmark.toxicity is "perspective": set PERSPECTIVE_API_KEY, or use "local"')
    path = workdir / "answers" / "perspective.jsonl"
    return toxicity.perspective(key, path, writes=jax.process_index() == 0)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
