"""Home of the report on preferences: who is preferred to the baseline by whom, by how sure a test, at equal length; grades and marks; how
alike the judges are; what optimising costs in KL."""

from pathlib import Path

from instruct_jax.reports import grids
from instruct_jax.reports.layout import figure, section, table
from instruct_jax.reports.marks import in_order, label
from instruct_jax.reports.publish import publish
from instruct_jax.reports.text import THIN, amount, count, number, percent, share

_ABOUT = (
    "Every model answers the same prompts once; judges and people compare each answer with the baseline's. A tie counts half. "
    f"Intervals are 95{THIN}% bootstraps over prompts, and over labelers where there are several. p are two-sided, not corrected for "
    "their number, and of the labelers who were asked: only the intervals allow for others. At equal length: a logistic regression of "
    "the outcome on the difference in characters, read off where that is 0."
)


def write_win_rates(path: Path, result: dict) -> None:
    """The report of what stages/preferences found, with preferences.json."""
    styles = ", ".join(f"{count(n)} {style}" for style, n in result["prompts"].items())
    chapters = [
        made
        for make in (_preference, _tests, _between, _quality, _marks, _judges, _readers, _optimisers)
        if (made := make(result))
    ]
    publish(
        path, result, name="preferences", title=f"Preferred to {label(result['baseline'])}", about=_ABOUT,
        standfirst=f"Prompts: {styles}", chapters=chapters, facts=[(label(m), result["models"][m]) for m in in_order(result["models"])],
    )  # fmt: skip


def p_value(p: float | None) -> str:
    """A p in two significant digits, small ones as a bound."""
    if p is None:
        return "–"
    return f"<{THIN}0.0001" if p < 1e-4 else f"{p:.2g}"


def _cells(result: dict):
    for judge, by_style in result["win_rates"].items():
        for style, rates in by_style.items():
            for model in in_order(rates):
                yield judge, style, model, rates[model]


def _preference(result: dict) -> dict | None:
    if not result["win_rates"]:
        return None
    rows = []
    for judge, style, model, rate in _cells(result):
        untied = {key: rate[f"non_tie_{key}"] for key in ("mean", "low", "high")}
        rows.append([_name(judge), style, label(model), share(rate), share(untied), share(rate.get("equal_length")), count(rate["ties"]),
                     count(rate["n"]), count(rate["labelers"])])  # fmt: skip
    caption = (
        f"Read off how often each model's response is preferred to {label(result['baseline'])}'s, by judge (down) and by the prompts' "
        f"source (across); right of the line is better. Bars are 95{THIN}% intervals. Prompts to be continued are asked of every model "
        "as they are."
    )
    shown = figure(
        "win_rates", grids.win_grid, (result["win_rates"], result["baseline"]), "Win rates.", caption
    )
    columns = [
        "Judge",
        "Prompts",
        "Model",
        "Win rate, ties half",
        "Ties left out",
        "At equal length",
        "Ties",
        "n",
        "Labelers",
    ]
    return section(
        "preference",
        f"Preference against {label(result['baseline'])}",
        [shown],
        [table("Win rates", columns, rows, 3)],
    )


def _tests(result: dict) -> dict | None:
    rows = [
        [_name(judge), style, label(model), number(100 * (rate["mean"] - 0.5), 1), p_value(rate["sign_p"]), p_value(rate["permutation_p"]),
         number(rate["equal_length"]["slope"])]
        for judge, style, model, rate in _cells(result) if "sign_p" in rate
    ]  # fmt: skip
    columns = [
        "Judge",
        "Prompts",
        "Model",
        "Points over half",
        "p, sign test",
        "p, permutation",
        "Taste for length",
    ]
    title = f"Against {label(result['baseline'])}, paired by prompt"
    return section("tests", "Paired tests", [], [table(title, columns, rows, 3)] if rows else [])


def _between(result: dict) -> dict | None:
    """Only models that are neighbours in the order of the recipe; preferences.json has every two."""
    order = in_order({name for row in result["between"] for name in (row["first"], row["second"])})
    rows = []
    for row in result["between"]:
        places = order.index(row["first"]), order.index(row["second"])
        if abs(places[0] - places[1]) == 1:
            sign = 100 if places[0] > places[1] else -100
            names = [label(order[place]) for place in sorted(places, reverse=True)]
            keys = ("mean", "low", "high") if sign > 0 else ("mean", "high", "low")
            points = {
                k: None if row[key] is None else sign * row[key]
                for k, key in zip(("mean", "low", "high"), keys)
            }
            rows.append([_name(row["judge"]), row["style"], f"{names[0]} over {names[1]}", amount(points, 1), count(row["prompts"]),
                         count(row["n"]), p_value(row["permutation_p"])])  # fmt: skip
    columns = ["Judge", "Prompts", "Models", "Points", "n prompts", "n judgements", "p, permutation"]
    title = "Difference of their win rates, with the same labelers on the same prompts"
    return section(
        "between", "Neighbours against each other", [], [table(title, columns, rows, 3)] if rows else []
    )


def _quality(result: dict) -> dict | None:
    tables, figures = [], []
    rows = [
        [_name(judge), label(m), amount(by[m]), count(by[m]["n"])]
        for judge, by in result["grades"].items()
        for m in in_order(by)
    ]
    if rows:
        tables.append(table("Mean grade, 1 (worst) to 7 (best)", ["Judge", "Model", "Likert", "n"], rows, 2))
    rows = [
        [_name(judge), label(m), amount(by[m]), count(by[m]["n"])]
        for judge, by in result["scores"].items()
        for m in in_order(by)
    ]
    if rows:
        tables.append(table("Mean score", ["Judge", "Model", "Score", "n"], rows, 2))
    lengths = result["lengths"]
    rows = [
        [label(m), number(lengths[m]["mean"], 1), percent(lengths[m]["finished"]), count(lengths[m]["n"])]
        for m in in_order(lengths)
    ]
    tables.append(table("Length", ["Model", "Characters", "Ends itself", "n"], rows))
    rows = [[label(m), amount(result["kl"][m]), count(result["kl"][m]["n"])] for m in in_order(result["kl"])]
    if rows:
        tables.append(table("KL from the reference", ["Model", "Nats a response", "n"], rows))
    for judge, by in list(result["grades"].items())[:1]:
        values = [(label(m), by[m]) for m in in_order(by)]
        shown = (values, f"mean grade by {judge}, 1 (worst) to 7 (best)", False)
        figures.append(
            figure(
                "grades",
                grids.rows_of,
                shown,
                "Overall quality.",
                f"Read off the mean grade that {judge} gave.",
            )
        )
    return section("quality", "Grades, scores and length", figures, tables)


def _marks(result: dict) -> dict | None:
    found = [m for by in result["flags"].values() for m in by.values()]
    flags = [
        f for f in dict.fromkeys(f for m in found for f in m) if any(m[f]["mean"] for m in found if f in m)
    ]
    rows = [
        [_name(judge), label(m), *(share(by[m].get(f)) for f in flags)]
        for judge, by in result["flags"].items()
        for m in in_order(by)
    ]
    columns = ["Judge", "Model", *(f.replace("_", " ") for f in flags)]
    title = "Shares of the outputs on which the mark was asked; marks that nobody ever set are left out"
    return section("marks", "Marks of Table 3", [], [table(title, columns, rows, 2)] if flags else [])


def _name(judge: str) -> str:
    return judge.replace("_", " ")


def _judges(result: dict) -> dict | None:
    rows = [
        [_name(f"{row['first']}, each other" if row["first"] == row["second"] else f"{row['first']} and {row['second']}"), share(row),
         number(row["kappa"]), amount(row["alpha"]), count(row["n"]), count(row["ties"])]
        for row in result["agreement"]
    ]  # fmt: skip
    columns = [
        "Judges",
        "Same order",
        "Cohen's kappa",
        "Krippendorff's alpha",
        "n decided by both",
        "Tied by one",
    ]
    title = "How alike the judges are, on the same outputs; pairs of the same text are left out"
    return section("judges", "The judges", [], [table(title, columns, rows)] if rows else [])


def _readers(result: dict) -> dict | None:
    rows = [
        [name, count(t["pairs"]), percent(t["consistent"]), percent(t["first"]), count(t["no_verdict"]), count(t["requests"])]
        for name, t in result["readers"].items()
    ]  # fmt: skip
    columns = [
        "Reader",
        "Pairs",
        "Same verdict both ways",
        "Verdicts for what stood first",
        "No verdict",
        "Requests made",
    ]
    title = "Each pair is asked in both orders; verdicts that contradict each other tie"
    return section("readers", "Judges that read", [], [table(title, columns, rows)] if rows else [])


def _optimisers(result: dict) -> dict | None:
    curves = result["optimisers"]
    figures, rows = [], []
    judges = list(dict.fromkeys(j for points in curves.values() for p in points for j in p["scores"]))
    for i, judge in enumerate(judges):
        caption = (
            "Read off what leaving the reference buys. Best-of-n (dashed) is the reference with the best of n samples by the chooser; "
            "its KL is computed, log n − (n − 1)/n, the others' is the mean log-ratio of their own samples. "
            "Shade: 95\u202f% interval over prompts."
        )
        figures.append(
            figure(
                f"kl_{i}",
                grids.score_against_kl,
                (curves, judge, "scores"),
                f"Score of {_name(judge)} against KL.",
                caption,
            )
        )
    for curve, points in curves.items():
        for p in points:
            where = f"n = {p['n']}" if "n" in p else f"step {count(p['step'])}"
            marks = [cell for j in judges for cell in (amount(p["scores"].get(j)), share(p["win"].get(j)))]
            rows.append([label(curve), where, number(p["kl"]), *marks])
    columns = ["Optimiser", "At", "KL, nats"]
    for judge in judges:
        columns += [f"Score, {_name(judge)}", f"Preferred, {_name(judge)}"]
    tables = [table("Against KL", columns, rows, 2)] if rows else []
    return section("optimisers", "Optimising against KL", figures, tables)
