"""Home of the report on the alignment tax: one picture of what fine-tuning costs and pretraining gradients win back, then every task over
the models' sizes (Figs. 28 and 29), then sweeps (Figs. 33 to 36)."""

import math
from pathlib import Path

from instruct_jax.reports import grids, sweeps
from instruct_jax.reports.layout import figure, section, table
from instruct_jax.reports.marks import PERCENT, RULE, WIDTH, in_order, label
from instruct_jax.reports.pooled import pool
from instruct_jax.reports.publish import publish
from instruct_jax.reports.text import THIN, amount, count, number, percent

_ABOUT = (
    "What each model does on the tasks of its pretraining, beside its base model. Runs of one size are pooled: they ask the same items, so "
    f"their intervals do not shrink for it. Bars are 95{THIN}% intervals. Where less is better (losses, toxicity, the lab's choice "
    "entropy) tasks count downwards."
)


def write_tax(path: Path, result: dict) -> None:
    """The report of what stages/tax gathered, with tax.json."""
    scores = pooled(result["scores"])
    cost = costs(scores, result["base"])
    chapters = [_picture(cost, result["base"])]
    for shots, title in (
        ("", "Tasks without examples (Fig. 28)"),
        ("few-shot", "Tasks with a few examples (Fig. 29)"),
    ):
        chapters.append(_tasks(scores, result["base"], shots, title))
    chapters += [_sweep(name, data) for name, data in result["sweeps"].items()]
    publish(
        path, result | {"costs": cost}, name="tax", title="The alignment tax", about=_ABOUT,
        standfirst=", ".join(dict.fromkeys(row["run"] for row in result["scores"])), chapters=[c for c in chapters if c], facts=[],
    )  # fmt: skip


def pooled(rows: list[dict]) -> dict:
    """{task: {size: {model: interval + {metric, higher_is_better}}}} of the runs' scores."""
    groups: dict[str, dict] = {}
    for row in rows:
        by_model = groups.setdefault(row["task"], {}).setdefault(row["size"], {})
        by_model.setdefault(row["model"], []).append(row)
    return {
        task: {
            size: {m: _as_one(found) for m, found in models.items()} for size, models in sorted(sizes.items())
        }
        for task, sizes in groups.items()
    }


def _as_one(found: list[dict]) -> dict:
    keys = ("mean", "low", "high", "n")
    whole = all(row["low"] is not None for row in found)
    if len(found) > 1 and whole:
        value = pool([{k: row[k] for k in keys} for row in found], shared=True)
    else:
        value = {k: found[0][k] for k in keys}
        value["mean"] = sum(row["mean"] for row in found) / len(found)
        if len(found) > 1:
            value["low"] = value["high"] = None
    return value | {"metric": found[0]["metric"], "higher_is_better": found[0].get("higher_is_better", True)}


def costs(scores: dict, base: str) -> list[dict]:
    """[{task, size, model, lost, low, high, won_back}]: how much worse than the base, as a share of the base's score; `won_back` is, of
    what PPO lost, the share that PPO-ptx did not, None where PPO's interval reaches the base's score. The interval is of the model's score
    alone."""
    found = []
    for task, sizes in scores.items():
        for size, models in sizes.items():
            there = models.get(base)
            if there is None or not there["mean"]:
                continue
            lost = {m: _lost(v, there) for m, v in models.items() if m != base}
            for model in in_order(lost):
                row = {"task": task, "size": size, "model": model} | lost[model] | {"won_back": None}
                if model == "ppo_ptx" and (lost.get("ppo", {}).get("low") or 0) > 1e-6:
                    row["won_back"] = 1 - lost["ppo_ptx"]["lost"] / lost["ppo"]["lost"]
                found.append(row)
    return found


def _lost(value: dict, there: dict) -> dict:
    sign = 1 if value["higher_is_better"] else -1
    ends = [
        None if x is None else sign * (there["mean"] - x) / abs(there["mean"])
        for x in (value["mean"], value["low"], value["high"])
    ]
    low, high = (ends[2], ends[1]) if sign > 0 else (ends[1], ends[2])
    return {"lost": ends[0], "low": low, "high": high}


def _picture(cost: list[dict], base: str) -> dict | None:
    if not cost:
        return None
    caption = (
        f"Read off what each way of training costs: how much worse than {label(base)} a model is on a task, as a share of "
        f"{label(base)}'s score. Right of the line is worse. The axis is cut at 100{THIN}%."
    )
    sizes = len({row["size"] for row in cost}) > 1
    rows = [
        [row["task"] + (f", {_size(row['size'])}" if sizes else ""), label(row["model"]), _share(row),
         "" if row["won_back"] is None else percent(row["won_back"])]
        for row in cost
    ]  # fmt: skip
    shown = figure("tax", draw_costs, (cost,), "The alignment tax.", caption)
    columns = ["Task", "Model", f"Worse than {label(base)}", "Of PPO's loss won back"]
    return section(
        "tax", "What is lost", [shown], [table("Lost, as a share of the base's score", columns, rows, 2)]
    )


def _share(row: dict) -> str:
    bounds = "" if row["low"] is None else f" [{number(100 * row['low'], 1)}, {number(100 * row['high'], 1)}]"
    return f"{number(100 * row['lost'], 1)}{THIN}%{bounds}"


def _size(size: float) -> str:
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{size / unit:g}{name}"
    return f"{size:g}"


def draw_costs(cost: list[dict]):
    """Dots with intervals: a row for each task and size, a colour for each model."""
    from matplotlib.figure import Figure

    from instruct_jax.reports.marks import colour, dot, marker_of, model_key, reference_line, row_names

    sizes = len({row["size"] for row in cost}) > 1
    names = list(dict.fromkeys((row["task"], row["size"]) for row in cost))
    models = in_order({row["model"] for row in cost})
    height = 0.95 + (0.2 + 0.12 * len(models)) * len(names)
    chart = Figure(figsize=(WIDTH, height))
    left = 0.3
    axes = chart.add_axes((left, 0.5 / height, 0.97 - left, 1 - 0.88 / height))
    step = 0.72 / max(len(models), 2)
    for row in cost:
        place = (
            names.index((row["task"], row["size"]))
            + (models.index(row["model"]) - (len(models) - 1) / 2) * step
        )
        value = {"mean": min(row["lost"], 1.0), "low": row["low"], "high": row["high"]}
        dot(axes, place, value, colour(row["model"]), marker_of(row["model"]))
    row_names(axes, [task + (f", {_size(size)}" if sizes else "") for task, size in names])
    furthest = max(
        [0.02, *(min(x, 1.0) for row in cost for x in (row["lost"], row["high"]) if x is not None)]
    )
    nearest = min([0.0, *(x for row in cost for x in (row["lost"], row["low"]) if x is not None)])
    axes.set_xlim(max(nearest, -1) - 0.04 * furthest, 1.06 * furthest)
    axes.xaxis.set_major_formatter(PERCENT)
    axes.set_xlabel("worse than the base model, of its score")
    reference_line(axes, 0.0, None)
    model_key(chart, axes, models)
    return chart


def _tasks(scores: dict, base: str, shots: str, title: str) -> dict | None:
    """The tasks whose name ends with "/few-shot" or, for no `shots`, the others."""
    chosen = {
        task.removesuffix("/few-shot").removesuffix("/zero-shot"): sizes
        for task, sizes in scores.items()
        if task.endswith("/few-shot") == bool(shots)
    }
    if not chosen:
        return None
    models = in_order({m for sizes in chosen.values() for found in sizes.values() for m in found})
    several = len({size for sizes in chosen.values() for size in sizes}) > 1
    found, rows = [], []
    for task, sizes in chosen.items():
        kind = next(v for by in sizes.values() for v in by.values())
        ends = [by[m] for by in sizes.values() for m in models if m in by]
        named = task if kind["higher_is_better"] else f"{task} ↓"
        if several:
            series = {m: [(size, by[m]) for size, by in sizes.items() if m in by] for m in models}
            line = None
        else:
            (by,) = sizes.values()
            series = {m: [(i, by[m])] for i, m in enumerate(models) if m in by}
            line = by[base]["mean"] if base in by else None
        found.append({"title": named, "y": kind["metric"], "series": series, "line": line})
        for size, by in sizes.items():
            name = task + (f", {_size(size)}" if several else "")
            rows.append([name, kind["metric"], *(amount(by.get(m), 3) for m in models), count(ends[0]["n"])])
    caption = "Read off each task's score by model" + (
        " over size; " if several else "; dashed is the base model. "
    )
    caption += f"Of tasks with an arrow less is better. Models: {', '.join(map(label, models))}."
    slug = f"tasks_{shots or 'all'}".replace("-", "_")
    shown = figure(
        slug, grids.panels, (found, "parameters" if several else "", several), f"{title}.", caption
    )
    columns = ["Task", "Metric", *map(label, models), "n"]
    return section(slug, title, [shown], [table("Scores", columns, rows, 2)])


def _sweep(name: str, data: dict) -> dict:
    said = ", ".join(data["metrics"][m]["label"] for m in data["shown"])
    left = f" {len(data['missing'])} of {data['trials']} trials are missing." if data["missing"] else ""
    caption = f"Read off {said} over {' and '.join(data['axes'])}; dashed is the base model.{left} Student's intervals over seeds."
    shown = figure(f"sweep_{name}", draw_sweep, (data,), f"{data['title']}.", caption)
    columns = [*data["axes"], "seeds", *(data["metrics"][m]["label"] for m in data["shown"])]
    rows = [
        [*(str(row["overrides"].get(a, "–")) for a in data["axes"]), str(row["done"]),
         *(amount(row["values"].get(m), 3) for m in data["shown"])]
        for row in data["settings"]
    ]  # fmt: skip
    return section(
        f"sweep-{name}", data["title"], [shown], [table(data["sweep"], columns, rows, len(data["axes"]))]
    )


def draw_sweep(data: dict):
    """A panel a metric, two across, over the sweep's first axis."""
    from matplotlib.figure import Figure

    shown, drawn, inch = data["shown"], sweeps.curves(data), 2.5
    lines = math.ceil(len(shown) / 2)
    chart = Figure(figsize=(WIDTH * 1.25, inch * lines))
    for place, metric in enumerate(shown):
        line, column = divmod(place, 2)
        box = (
            0.1 + 0.5 * column,
            1 - (inch * (line + 1) - 0.55) / (inch * lines),
            0.38,
            (inch - 0.95) / (inch * lines),
        )
        axes = chart.add_axes(box)
        sweeps.panel(axes, data, metric, data["axes"][0] if data["axes"] else "seed", drawn)
        axes.set_title("")
        axes.tick_params(labelsize=8)
        axes.grid(axis="y", color=RULE, lw=0.6)
    if drawn.keys() != {""}:
        sweeps.legend(chart.axes[0], 6)
    return chart
