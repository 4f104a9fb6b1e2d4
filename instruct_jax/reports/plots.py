"""Home of the report's plots: one function a figure, data in, matplotlib Figure out (Figs 1, 4, 5, 28; gold
score against KL).

The paper's figures have model size as their axis; a run here has one size, so models are rows, with their
95 % intervals.
"""

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from instruct_jax.reports.marks import (
    INK,
    PERCENT,
    POOLS,
    RATES,
    RULE,
    SOFT,
    canvas,
    colour,
    dot,
    dots,
    in_order,
    label,
    marker_of,
    model_key,
    name_above,
    name_curves,
    name_ends,
    reference_line,
    row_names,
    small_multiples,
)


def win_rate(rates: dict) -> Figure:
    """Win rate against SFT by model (Fig. 1); hollow marks: ties left out."""
    models = in_order(rates)
    figure, axes = canvas(0.9 + 0.42 * len(models), left=0.235, right=0.87, top=0.26)
    dots(axes, [(label(m), rates[m], colour(m)) for m in models], "{:.0%}")
    for row, model in enumerate(models):
        if rates[model].get("non_tie_mean") is not None:
            axes.plot(
                rates[model]["non_tie_mean"],
                row,
                "o",
                mfc="white",
                mec=colour(model),
                mew=1.2,
                ms=4.5,
                zorder=2.5,
            )
    reference_line(axes, 0.5, "as good as SFT")
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PERCENT)
    axes.set_xlabel("preferred to SFT (hollow marks: ties left out)")
    return figure


def gold(means: dict) -> Figure:
    """Mean gold score, a probability, by model."""
    models = in_order(means)
    figure, axes = canvas(0.8 + 0.38 * len(models), left=0.235, right=0.87)
    dots(axes, [(label(m), means[m], colour(m)) for m in models], "{:.2f}")
    axes.set_xlim(0, 1)
    axes.set_xlabel("mean gold score, from 0 (negative) to 1 (positive)")
    return figure


def likert(means: dict) -> Figure:
    """Mean 1-7 quality by model (Fig. 5)."""
    models = in_order(means)
    figure, axes = canvas(0.8 + 0.38 * len(models), left=0.235, right=0.87)
    dots(axes, [(label(m), means[m], colour(m)) for m in models], "{:.2f}")
    axes.set_xlim(0.9, 7.1)
    axes.set_xticks(range(1, 8))
    axes.set_xlabel("mean Likert score, 1 (worst) to 7 (best)")
    return figure


def flag_rates(flags: dict) -> Figure:
    """The four metadata rates by model (Fig. 4), one panel each."""
    models = in_order(flags)
    rates = [rate for rate in RATES if any(rate in flags[m] for m in models)]
    panels = [(RATES[rate], [(m, flags[m][rate]) for m in models if rate in flags[m]]) for rate in rates]
    figure, grid = small_multiples(panels, "{:.0%}")
    for axes in grid:
        axes.set_xlim(-0.03, 1.03)
        axes.set_xticks([0, 0.5, 1])
        axes.xaxis.set_major_formatter(PERCENT)
    return figure


def win_rate_by_use_case(by_use_case: dict) -> Figure:
    """Win rate against SFT in each use case, for the models trained by reinforcement (or else for all)."""
    everyone = in_order({model for rates in by_use_case.values() for model in rates})
    models = [m for m in everyone if m in ("ppo", "ppo_ptx")] or [m for m in everyone if m != "sft"]
    figure, axes = canvas(
        1.0 + (0.22 + 0.14 * len(models)) * len(by_use_case), left=0.235, right=0.97, top=0.3
    )
    step = 0.7 / max(len(models), 2)
    for place, model in enumerate(models):
        rows = [(row, rates[model]) for row, rates in enumerate(by_use_case.values()) if model in rates]
        shift = (place - (len(models) - 1) / 2) * step
        for row, value in rows:
            dot(axes, row + shift, value, colour(model), marker_of(model))
    row_names(axes, [name.replace("_", " ") for name in by_use_case])
    reference_line(axes, 0.5, None)
    model_key(figure, axes, models)
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(PERCENT)
    axes.set_xlabel("preferred to the SFT response, ties count half")
    return figure


def reward_model(accuracy: dict, ceiling: dict, agreement: dict | None) -> Figure:
    """Reward-model accuracy per pool of labelers, beside their agreement (band) and the ceiling that their tastes set (bar)."""
    pools = [pool for pool in POOLS if pool in accuracy]
    figure, axes = canvas(1.2 + 0.5 * len(pools), left=0.235, right=0.87, top=0.34)
    dots(axes, [(POOLS[pool], accuracy[pool], colour("ppo")) for pool in pools], "{:.1%}")
    values = [accuracy[pool][key] for pool in pools for key in ("mean", "low", "high")]
    if agreement and agreement["low"] is not None:
        axes.axvspan(agreement["low"], agreement["high"], color="#f3e3c3", lw=0, zorder=0)
    if agreement:
        axes.axvline(agreement["mean"], color="#c08a1e", lw=1.1, zorder=1)
        name_above(axes, agreement["mean"], "two labelers agree", "#94680f", "right")
        values += [agreement[key] for key in ("mean", "low", "high")]
    shown = [pool for pool in pools if pool in ceiling]
    for pool in shown:
        mean, row = ceiling[pool]["mean"], pools.index(pool)
        axes.plot([mean, mean], [row - 0.32, row + 0.32], color=INK, lw=1.6, solid_capstyle="butt", zorder=2)
        values.append(mean)
    if shown:
        name_above(axes, ceiling[shown[0]]["mean"], "ceiling", INK, "left")
    numbers = [value for value in values if value is not None]
    low, high = min([0.5, *numbers]), max(numbers)
    axes.set_xlim(low - 0.01, min(1.0, high + 0.06))
    axes.xaxis.set_major_formatter(PERCENT)
    axes.set_xlabel("pairs ordered as the labeler did (chance is 50 %)")
    return figure


def calibration(rows: list[dict]) -> Figure:
    """Accuracy against the gap of the two scores, beside the Bradley-Terry promise."""
    figure, axes = canvas(3.0, left=0.125, right=0.985)
    gaps = [row["gap"] for row in rows]
    axes.plot(gaps, [row["predicted"] for row in rows], color=SOFT, lw=1, ls=(0, (4, 3)), zorder=1)
    for row in rows:
        axes.plot([row["gap"]] * 2, [row["low"], row["high"]], color=colour("ppo"), lw=1.8, alpha=0.55)
    axes.plot(gaps, [row["mean"] for row in rows], "o-", color=colour("ppo"), lw=1, ms=5)
    name_ends(
        axes,
        [
            (gaps[-1], rows[-1]["predicted"], "promised", SOFT),
            (gaps[-1], rows[-1]["mean"], "observed", colour("ppo")),
        ],
    )
    axes.margins(x=0.02)
    axes.set_xlim(right=axes.get_xlim()[1] + 0.22 * (max(gaps) - min(gaps) or 1))
    axes.yaxis.set_major_formatter(PERCENT)
    axes.set_xlabel("score gap between the two completions of a pair")
    axes.set_ylabel("pairs ordered as labeled")
    axes.grid(axis="y", color=RULE, lw=0.6)
    return figure


def against_kl(curves: dict, score: str) -> Figure:
    """Gold or reward-model score ("gold", "rm") against the KL from the reference over PPO training, one
    curve a model.
    """
    figure, axes = canvas(3.0, left=0.125, right=0.985)
    drawn = {}
    for model in in_order(curves):
        points = [point for point in curves[model] if point.get(score) and point["kl"] is not None]
        if not points:
            continue
        kl, means = [p["kl"] for p in points], [p[score]["mean"] for p in points]
        if all(point[score]["low"] is not None for point in points):
            low, high = ([point[score][key] for point in points] for key in ("low", "high"))
            axes.fill_between(kl, low, high, color=colour(model), alpha=0.14, lw=0)
        axes.plot(kl, means, marker=marker_of(model), color=colour(model), lw=1.5, ms=4.5)
        drawn[model] = (kl, means)
    furthest = max(max(kl) for kl, _ in drawn.values()) or 1.0
    axes.set_xlim(-0.02 * furthest, 1.2 * furthest)
    name_curves(axes, drawn, furthest)
    axes.set_xlabel("KL from the reference, nats per response")
    axes.set_ylabel("gold score" if score == "gold" else "reward-model score")
    axes.grid(axis="y", color=RULE, lw=0.6)
    return figure


def pretraining_tasks(tasks: dict) -> Figure:
    """Pretraining tasks before and after fine-tuning (Fig. 28), one panel a task, the base model as a
    dashed line.
    """
    models = in_order(tasks)
    names = list(dict.fromkeys(task for model in models for task in tasks[model]))
    panels, shares = [], []
    for name in names:
        rows = [(m, tasks[m][name]) for m in models if name in tasks[m]]
        panels.append((name, rows))
        shares.append(
            all(
                0 <= value[key] <= 1
                for _, value in rows
                for key in ("low", "mean", "high")
                if value[key] is not None
            )
        )
    figure, grid = small_multiples(panels, None)
    for axes, (_, rows), share in zip(grid, panels, shares, strict=True):
        better = "" if rows[0][1].get("higher_is_better", True) else ", lower is better"
        axes.set_xlabel(rows[0][1].get("metric", "score") + better)
        base = dict(rows).get("base")
        if base:
            axes.axvline(base["mean"], color=SOFT, lw=0.9, ls=(0, (3, 3)), zorder=1)
        if share:
            axes.set_xlim(-0.03, 1.03)
            axes.set_xticks([0, 0.5, 1])
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        else:
            axes.margins(x=0.12)
            axes.xaxis.set_major_locator(MaxNLocator(4))
    return figure


def stage_times(stages: list[dict]) -> Figure:
    """Seconds of every stage of the run, in order."""
    figure, axes = canvas(0.55 + 0.27 * len(stages), left=0.30, right=0.9)
    seconds = [stage["seconds"] for stage in stages]
    axes.barh(range(len(stages)), seconds, height=0.58, color="#8fb3cf")
    for row, value in enumerate(seconds):
        text = f"{value:.1f} s" if value < 100 else f"{value:,.0f} s"
        axes.annotate(
            text, (value, row), (5, 0), textcoords="offset points", va="center", fontsize=8.5, color=SOFT
        )
    row_names(axes, [stage["name"] for stage in stages])
    axes.set_xlim(0, 1.06 * max([*seconds, 1e-9]))
    axes.set_xlabel("seconds")
    return figure


def benchmark_scores(models: dict) -> Figure:
    """Every task's score by model, with intervals (Figs 28, 29 have them by size); BLEU in hundredths."""
    tasks = list(
        dict.fromkeys(t for scores in models.values() for t, e in scores.items() if e["mean"] is not None)
    )
    longest = max(map(len, tasks), default=0)
    figure, axes = canvas(0.9 + 0.3 * len(tasks), left=0.02 + 0.0145 * longest, right=0.97)
    for number, (name, scores) in enumerate(models.items()):
        shift = 0.5 * ((number + 0.5) / len(models) - 0.5)
        for row, task in enumerate(tasks):
            if scores.get(task, {}).get("mean") is not None:
                parts = {key: scores[task][key] for key in ("mean", "low", "high")}
                scale = 100 if scores[task]["metric"] == "bleu" else 1
                parts = {key: None if value is None else value / scale for key, value in parts.items()}
                dot(axes, row + shift, parts, f"C{number}", "o")
        axes.plot([], [], "o", color=f"C{number}", label=name)
    row_names(axes, tasks)
    axes.set_xlim(0, 1)
    figure.legend(loc="lower center", ncols=min(len(models), 3), frameon=False)
    return figure
