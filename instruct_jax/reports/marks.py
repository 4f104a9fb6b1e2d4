"""Home of the look of the plots: names, colours and type, and the marks that the figures are put together
from.

Unlike the paper's line plots over model size: dots with 95 % intervals, every model with one name, colour
and marker throughout.
"""

import math

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import PercentFormatter

# Okabe and Ito's palette: told apart with every common colour blindness, and the markers differ too.
MODELS = {
    "base": ("Base", "#7a7a7a", "o"),
    "prompted": ("Base, prompted", "#56a0d3", "s"),
    "flan": ("FLAN-style", "#b65f94", "D"),
    "sft": ("SFT", "#009e73", "^"),
    "ppo": ("PPO", "#0072b2", "v"),
    "ppo_ptx": ("PPO-ptx", "#d55e00", "o"),
}
RATES = {
    "attempts_task": "Attempts the task",
    "satisfies_constraint": "Keeps the constraint",
    "hallucination": "Hallucinates",
    "appropriate": "Appropriate",
}
POOLS = {
    "training_labelers": "Training labelers",
    "heldout_labelers": "Held-out labelers",
    "labeler": "Labeler",
    "gold_judge": "Gold judge",
}

PERCENT = PercentFormatter(1, 0, symbol="\u202f%")
INK, SOFT, RULE = "#1d1d1f", "#6a6a70", "#dcdce0"
WIDTH = 5.2
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.labelsize": 9,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 9.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "text.color": INK,
    "lines.solid_capstyle": "round",
    "savefig.dpi": 200,
    "savefig.facecolor": "white",
}


def label(model: str) -> str:
    """The model's name as people read it; an unknown one keeps its key."""
    return MODELS.get(model, (model.replace("_", " "),))[0]


def colour(model: str) -> str:
    """The model's colour on every figure; grey where it has none."""
    return MODELS.get(model, ("", SOFT))[1]


def in_order(models) -> list[str]:
    """Models in the order the recipe makes them, unknown ones last."""
    return [m for m in MODELS if m in models] + sorted(m for m in models if m not in MODELS)


def save(draw, path, *arguments) -> None:
    """Draw a figure with this module's style and write it to `path` as PNG."""
    with rc_context(STYLE):
        draw(*arguments).savefig(path, format="png")


def canvas(height: float, left: float, right: float, top: float = 0.14):
    """A figure of `height` inches with one axes; `left` and `right` are shares of the width, `top` inches."""
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((left, 0.5 / height, right - left, 1 - (0.5 + top) / height))
    return figure, axes


def small_multiples(panels: list[tuple], text_format: str | None):
    """Small multiples in two columns: (title, [(model, interval)]) each."""
    columns, lines = 2, math.ceil(len(panels) / 2)
    deepest = max(len(rows) for _, rows in panels)
    tall = 0.95 + 0.25 * deepest
    figure = Figure(figsize=(WIDTH, tall * lines))
    grid = []
    for place, (title, rows) in enumerate(panels):
        line, column = divmod(place, columns)
        top = 1 - line / lines
        box = (
            0.245 + 0.395 * column,
            top - (tall - 0.52) / (tall * lines),
            0.265,
            (tall - 0.84) / (tall * lines),
        )
        axes = figure.add_axes(box)
        dots(axes, [(label(model), value, colour(model)) for model, value in rows], text_format, small=True)
        if column:
            axes.set_yticklabels([])
        axes.set_title(title, pad=7, x=0)
        grid.append(axes)
    return figure, grid


def dots(axes, rows: list[tuple], text_format: str | None, small: bool = False) -> None:
    """Rows of (name, interval, colour): a dot, its 95 % interval, and its value at the right edge."""
    for row, (_, value, tint) in enumerate(rows):
        dot(axes, row, value, tint, "o", 5 if small else 7)
        if text_format:
            axes.annotate(
                text_format.format(value["mean"]).replace("%", "\u202f%"),
                (1, row),
                (6, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="center",
                fontsize=8 if small else 10,
                fontweight="bold",
            )
    row_names(axes, [name for name, _, _ in rows])


def dot(axes, row: float, value: dict, tint: str, marker: str, size: float = 5.5) -> None:
    # a bound of None is drawn as nothing
    axes.plot([value["low"], value["high"]], [row, row], color=tint, lw=size * 0.34, alpha=0.6, zorder=2)
    axes.plot(value["mean"], row, marker, color=tint, ms=size, zorder=3)


def row_names(axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names, color=INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=RULE, lw=0.6)
    axes.set_axisbelow(True)


def reference_line(axes, x: float, text: str | None) -> None:
    axes.axvline(x, color=INK, lw=0.9, zorder=1)
    if text:
        axes.annotate(
            text,
            (x, 1),
            (4, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            fontsize=8,
            color=SOFT,
        )


def name_above(axes, x: float, text: str, tint: str, side: str) -> None:
    """A label over the axes at x, reading away from it to the left (`side` "right"-aligned) or right."""
    axes.annotate(
        text,
        (x, 1),
        (0, 4),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha=side,
        fontsize=8.5,
        color=tint,
    )


def name_ends(axes, ends: list[tuple]) -> None:
    """Names (x, y, text, colour) right of the ends of curves, pushed apart so that no two overlap."""
    low, high = axes.get_ylim()
    gap, last = 0.085 * (high - low), -math.inf
    for x, y, text, tint in sorted(ends, key=lambda end: end[1]):
        last = max(y, last + gap)
        axes.annotate(
            text, (x, last), (7, 0), textcoords="offset points", va="center", color=tint, fontweight="bold"
        )


def name_curves(axes, drawn: dict, furthest: float) -> None:
    """Each curve's name at its end: right of it, or on the side away from the others where one runs on
    beyond it.
    """
    ends = []
    for model, (kl, means) in drawn.items():
        beyond = [
            other
            for name, other in drawn.items()
            if name != model and max(other[0]) > kl[-1] + 0.08 * furthest
        ]
        if not beyond:
            ends.append((kl[-1], means[-1], label(model), colour(model)))
            continue
        others = sum(np.interp(kl[-1], *_sorted(other)) for other in beyond) / len(beyond)
        side = 1 if means[-1] >= others else -1
        place = {"textcoords": "offset points", "ha": "center", "va": "center", "fontweight": "bold"}
        text = axes.annotate(label(model), (kl[-1], means[-1]), (0, 13 * side), color=colour(model), **place)
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])
    name_ends(axes, ends)


def _sorted(curve: tuple) -> tuple:
    order = np.argsort(curve[0])
    return np.asarray(curve[0])[order], np.asarray(curve[1])[order]


def marker_of(model: str) -> str:
    return MODELS.get(model, ("", "", "o"))[2]


def model_key(figure, axes, models: list[str]) -> None:
    """Names of the models over the axes in their colours and markers."""
    left = axes.get_position().x0
    for place, model in enumerate(models):
        handle = axes.plot([], [], marker_of(model), color=colour(model), ms=6)
        figure.legend(
            handle,
            [label(model)],
            loc="upper left",
            bbox_to_anchor=(left + 0.2 * place, 1.0),
            frameon=False,
            labelcolor=[colour(model)],
            handletextpad=0.1,
            borderpad=0.2,
        )
