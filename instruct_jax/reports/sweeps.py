"""Home of a sweep's report: a table of settings and one plot a metric over what was swept (paper Figs. 33 to 38).

As there, the swept coefficient is on the axis, logarithmic where it spans more than a power of ten, and a model that was not trained
at all is a dashed line. Unlike there, every mean stands with Student's 95 % interval over seeds and with its seeds as dots.
"""

import json
import math
import os
from pathlib import Path

from instruct_jax.reports.text import amount

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b65f94", "#56a0d3", "#7a7a7a")  # Okabe and Ito's, as in marks
MARKERS = "ovs^D*"


def write_sweep(path: Path, data: dict) -> str:
    """Writes README.md, sweep.json and, where any trial is done, a PNG a metric into `path`; returns the page.

    `data` is what stages/sweeps/results.collect gives. Curves join the settings that differ in the first axis alone; where there
    would be more than six curves, as in a random search, every axis has a plot of dots.
    """
    path.mkdir(parents=True, exist_ok=True)
    for metric in data["metrics"] if data["best"] is not None else ():
        _plot(path / f"{file_name(metric)}.png", data, metric)
    page = sweep_page(data)
    _write(path / "sweep.json", json.dumps(data, indent=1, allow_nan=False, default=str) + "\n")
    _write(path / "README.md", page)
    return page


def file_name(metric: str) -> str:
    """The metric's name as a file's."""
    return metric.replace("/", "_")


def sweep_page(data: dict) -> str:
    """The page in Markdown: the best setting, the table, what is missing, the plots."""
    metric, settings = data["metric"], data["settings"]
    left = len(data["missing"])
    fixed = ", ".join(f"`{field}` = {value}" for field, value in data["fixed"].items())
    parts = [
        f"# Sweep {Path(data['sweep']).stem}",
        f"From `{data['base']}`{f' with {fixed}' if fixed else ''}. {data['trials'] - left} of {data['trials']} trials are done.",
    ]
    if data["best"] is not None:
        best = settings[data["best"]]
        so_far = " so far" if left else ""
        parts.append(
            f"Best{so_far} by {_title(data, metric)}: **{_said(best['overrides'], data['axes'])}**, {_interval(best['values'][metric])}. "
            "Means over seeds, with Student's 95 % intervals where there are two seeds or more."
        )
    parts.append(_table(data))
    if left:
        rows = [
            f"- {m['name']}: {m['state']}" + (f", log in {m['log']}" if m["log"] else "")
            for m in data["missing"]
        ]
        parts.append("Missing:\n\n" + "\n".join(rows))
    if data["best"] is not None:
        parts += [f"![{_title(data, name)}]({file_name(name)}.png)" for name in data["metrics"]]
    return "\n\n".join(parts) + "\n"


def short(field: str, fields: list[str]) -> str:
    """The field by its last word, or whole where two share it."""
    last = field.rpartition(".")[2]
    return last if [other.rpartition(".")[2] for other in fields].count(last) == 1 else field


def _title(data: dict, metric: str) -> str:
    told = data["metrics"][metric]
    return f"{told['label']} ({'higher' if told['better'] == 'max' else 'lower'} is better)"


def _said(overrides: dict, axes: list[str]) -> str:
    return (
        ", ".join(f"{short(a, axes)} = {overrides[a]}" for a in axes if a in overrides)
        or "the base's settings"
    )


def _interval(value: dict) -> str:
    """A mean to three digits, its interval to the same place."""
    size = abs(value["mean"]) or abs(value["high"] or 0) or 1.0
    return amount(value, min(max(2 - math.floor(math.log10(size)), 0), 8))


def _table(data: dict) -> str:
    axes, metrics = data["axes"], list(data["metrics"])
    lines = [[*(short(a, axes) for a in axes), "seeds", *(_title(data, m) for m in metrics)]]
    lines.append(["---"] * len(lines[0]))
    for place, row in enumerate(data["settings"]):
        cells = [str(row["overrides"].get(a, "–")) for a in axes]
        if place == data["best"]:
            cells = [f"**{cell}**" for cell in cells]
        values = [_interval(row["values"][m]) if m in row["values"] else "–" for m in metrics]
        lines.append([*cells, f"{row['done']} of {len(row['trials'])}", *values])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def curves(data: dict) -> dict[str, list[dict]]:
    """{what a curve is at: its settings that have results}, the curves of the plots over the first axis."""
    found: dict[str, list[dict]] = {}
    for row in data["settings"]:
        if row["done"]:
            others = {a: row["overrides"][a] for a in data["axes"][1:] if a in row["overrides"]}
            found.setdefault(_said(others, list(others)) if others else "", []).append(row)
    return found


def _plot(path: Path, data: dict, metric: str) -> None:
    # matplotlib loads only when a plot is drawn
    from instruct_jax.reports.marks import save

    temporary = path.with_name(f".{path.name}")
    save(_draw, temporary, data, metric)
    os.replace(temporary, path)


def _draw(data: dict, metric: str):
    from matplotlib.figure import Figure

    from instruct_jax.reports.marks import WIDTH

    drawn, axes = curves(data), data["axes"] or ["seed"]
    if len(drawn) > len(COLOURS):
        drawn = {"": [row for rows in drawn.values() for row in rows]}
    else:
        axes = axes[:1]
    height = 3.1 * len(axes)
    figure = Figure(figsize=(WIDTH, height))
    for place, field in enumerate(axes):
        box = (0.145, 1 - (place + 1) * 3.1 / height + 0.62 / height, 0.83, 2.15 / height)
        panel(figure.add_axes(box), data, metric, field, drawn)
    if drawn.keys() != {""}:
        legend(figure.axes[0], 3)
    return figure


def panel(axes, data: dict, metric: str, field: str, drawn: dict) -> None:
    """A metric of a sweep over one field, into `axes`: a line for each of the `curves` in `drawn`, the reference dashed."""
    from instruct_jax.reports.marks import RULE, SOFT

    values = [row["overrides"].get(field) for rows in drawn.values() for row in rows]
    places, log = positions(values)
    joined = len(data["axes"]) < 2 or len(drawn) > 1
    zero, width = (places.get(_key(0)) if log else None), max(places.values()) - min(places.values())
    for i, (name, rows) in enumerate(drawn.items()):
        apart = i - (len(drawn) - 1) / 2  # so that intervals do not hide one another
        points = []
        for row in (row for row in rows if metric in row["values"]):
            place = places[_key(row["overrides"].get(field))]
            moved = place * 1.05**apart if log else place + 0.01 * width * apart
            points.append((moved, row["values"][metric], joined and place != zero))
        _curve(axes, sorted(points, key=lambda point: point[0]), name, COLOURS[i], MARKERS[i])
    if metric in data["references"]:
        told = data["references"][metric]
        axes.axhline(told["mean"], color=SOFT, lw=0.9, ls=(0, (4, 3)), zorder=1)
        place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right"}
        axes.annotate(told["name"].split("/")[0], (1, told["mean"]), (0, 3), fontsize=8, color=SOFT, **place)
    if log:
        axes.set_xscale("log")
        axes.minorticks_off()
    if len(places) <= 12:
        order = sorted(places.items(), key=lambda item: item[1])
        axes.set_xticks([place for _, place in order], [name for name, _ in order])
    axes.set_xlabel(field)
    axes.set_ylabel(data["metrics"][metric]["label"])
    axes.grid(axis="y", color=RULE, lw=0.6)


def legend(axes, columns: int) -> None:
    """The curves' names above the left end of `axes`."""
    place = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1.0), "borderaxespad": 0.1}
    axes.legend(ncols=columns, frameon=False, fontsize=8.5, **place)


def _curve(axes, points: list, name: str, tint: str, marker: str) -> None:
    """(place, interval, whether joined to the others): means with intervals and seeds. A coefficient of 0, which a logarithmic axis
    does not reach, is not joined."""
    for place, value, _ in points:
        if value["low"] is not None:
            axes.plot([place, place], [value["low"], value["high"]], color=tint, lw=1.8, alpha=0.45, zorder=2)
        axes.plot([place] * len(value["each"]), value["each"], ".", color=tint, ms=3.5, alpha=0.6, zorder=2)
    line = [(place, value["mean"]) for place, value, joined in points if joined]
    axes.plot([place for place, _ in line], [mean for _, mean in line], color=tint, lw=1.4, zorder=3)
    means = [value["mean"] for _, value, _ in points]
    axes.plot([place for place, _, _ in points], means, marker, color=tint, ms=5, zorder=4, label=name)


def positions(values: list) -> tuple[dict[str, float], bool]:
    """({value as text: its place}, whether the axis is logarithmic): numbers at themselves, 0 left of a logarithmic axis's others,
    and anything else in the order that it comes in.
    """
    numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    if not numeric:
        return {name: float(i) for i, name in enumerate(dict.fromkeys(map(_key, values)))}, False
    above = [v for v in values if v > 0]
    log = bool(above) and min(values) >= 0 and max(above) >= 10 * min(above)
    return {_key(v): (v if v or not log else min(above) / 5) for v in values}, log


def _key(value) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
