"""Home of the alignment tax over any set of runs: what each model does on the tasks of its pretraining beside what its base did (paper
Figs. 28 and 29), and over a coefficient what a sweep found (Figs. 33 to 36). Computes nothing anew.

Scores are {task: {metric, mean, low, high, n}}, more keys allowed, by model: under "models" in an automatic evaluation's summary.json,
under "pretraining_tasks" in the lab's evaluation.json and summary.json.
"""

import dataclasses
import json
from pathlib import Path

import ml_collections

from instruct_jax.errors import InputError
from instruct_jax.reports.tax import write_tax
from instruct_jax.stages import setup
from instruct_jax.stages.settings import check_fields, field, names_in, nearest, section

FIELDS = ("stage", "name", "seed", "base", "runs", "sweeps")
PLACES = ("summary.json", "evaluate/evaluation.json", "report/summary.json")


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """A run's folder or file of scores; the size of its models in parameters, for the axis; and what its models are called here, where
    that is not their own name (only these are taken then)."""

    path: str
    size: float
    models: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class SweepSettings:
    """A sweep's report (sweep.json or its folder), the figure's title, and which of its metrics are drawn (none: all)."""

    path: str
    title: str
    metrics: tuple[str, ...] = ()


def check(config: ml_collections.ConfigDict) -> None:
    """InputError for a field that is wrong in itself; reads no data and asks for no device."""
    check_fields(config, FIELDS, {})
    field(config, "base", str)
    for name in names_in(config, "runs"):
        section(config, f"runs.{name}", RunSettings)
    for name in names_in(config, "sweeps") if "sweeps" in config else ():
        section(config, f"sweeps.{name}", SweepSettings)


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Writes tax.json, README.md, index.html and the plots into `workdir`."""
    check(config)
    rows = []
    for name in config.runs:
        settings = section(config, f"runs.{name}", RunSettings)
        for model, tasks in read_scores(setup.expand(settings.path)).items():
            if not settings.models or model in settings.models:
                called = settings.models.get(model, model)
                rows += [
                    {"run": name, "model": called, "size": settings.size, "task": task, **value}
                    for task, value in tasks.items()
                ]
    known = sorted({row["model"] for row in rows})
    if config.base not in known:
        raise InputError(
            f"config.base is {config.base!r}{nearest(config.base, known)}: none of the runs' models ({', '.join(known)})"
        )
    sweeps = {}
    for name in config.get("sweeps", {}):
        settings = section(config, f"sweeps.{name}", SweepSettings)
        sweeps[name] = {"title": settings.title, **read_sweep(setup.expand(settings.path), settings.metrics)}
    write_tax(workdir, {"base": config.base, "scores": rows, "sweeps": sweeps})


def read_scores(path: Path) -> dict[str, dict[str, dict]]:
    """{model: {task: {metric, mean, low, high, n, …}}} of a run's folder or of a file, without tasks that have no number."""
    file = next((path / name for name in PLACES if (path / name).is_file()), path)
    found = _json(file, f"a run with {', '.join(PLACES)}, or one of these files")
    models = found.get("models") or found.get("pretraining_tasks") if isinstance(found, dict) else None
    if not isinstance(models, dict) or not models:
        raise InputError(f"{file}: has no scores: neither 'models' nor 'pretraining_tasks' by model and task")
    scores = {}
    for model, tasks in models.items():
        for task, value in tasks.items():
            missing = [
                key
                for key in ("metric", "mean", "low", "high", "n")
                if not isinstance(value, dict) or key not in value
            ]
            if missing:
                raise InputError(f"{file}: {model}, {task}: lacks {', '.join(missing)}")
            if value["mean"] is not None:
                scores.setdefault(model, {})[task] = value
    return scores


def read_sweep(path: Path, metrics: tuple[str, ...]) -> dict:
    """The numbers of a sweep's report; InputError for a metric that it has not."""
    file = next(
        (path / name for name in ("sweep.json", "report/sweep.json") if (path / name).is_file()), path
    )
    found = _json(file, "a sweep's report (python -m instruct_jax.sweep FILE --report)")
    for metric in metrics:
        if metric not in found["metrics"]:
            raise InputError(
                f"{file}: has no metric {metric!r}{nearest(metric, found['metrics'])}; it has {', '.join(found['metrics'])}"
            )
    if all(not row["done"] for row in found["settings"]):
        raise InputError(f"{file}: no trial of this sweep is done")
    return found | {"shown": list(metrics or found["metrics"])}


def _json(file: Path, wanted: str):
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as JSON ({type(error).__name__}); name {wanted}") from error
