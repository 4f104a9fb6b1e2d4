"""Home of what the report says where responses continue a text and are judged by a probability: gold scores, variety, the judges.

Not in the paper: its judges are people, and its measures of quality the Likert score and the flags.
"""

from instruct_jax.reports import plots
from instruct_jax.reports.layout import figure, section, table
from instruct_jax.reports.marks import POOLS, in_order, label
from instruct_jax.reports.text import THIN, amount, count, ns, number, percent, share


def gold_scores(data: dict) -> dict | None:
    """Mean gold score of every model, how varied its responses are, and their length."""
    gold, variety, lengths = (data.get(key) or {} for key in ("gold", "distinct", "lengths"))
    if not gold:
        return None
    ordered = {model: gold[model] for model in in_order(gold)}
    caption = (
        "Read off how probably positive the gold judge finds a model's responses, with the prompt before them. Bars are "
        f"95{THIN}% intervals. {ns(ordered, 'responses')}."
    )
    rows = []
    for model in in_order({**gold, **variety, **lengths}):
        kinds, length = variety.get(model) or {}, lengths.get(model) or {}
        rows.append(
            [
                label(model),
                amount(gold.get(model)),
                number(kinds.get("distinct_1")),
                number(kinds.get("distinct_2")),
                number(length.get("mean"), 1),
                percent(length.get("finished")),
                count((gold.get(model) or {}).get("n")),
            ]
        )
    columns = ["Model", "Gold score", "Distinct-1", "Distinct-2", "Tokens", "Ends itself", "n"]
    return section(
        "gold",
        "Gold score and variety",
        [figure("gold", plots.gold, (ordered,), "Gold score.", caption)],
        [table("Gold score, variety and length", columns, rows)],
    )


def judges(data: dict) -> dict | None:
    """How good the two judges are, on sentences that neither was fitted on."""
    found = data.get("judges")
    if not found:
        return None
    rows = [
        [f"{POOLS[name]}, AUC", number(found[name]["mean"], 3), count(found[name]["n"])]
        for name in ("labeler", "gold_judge")
    ]
    rows.append(["Both say the same", share(found["agreement"]), count(found["agreement"]["n"])])
    return section("judges", "The judges", [], [table("On held-out rated sentences", ["", "", "n"], rows)])
