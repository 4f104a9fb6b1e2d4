"""Home of the pages on published preferences: what the summaries of stages/hh and stages/instructions say, in Markdown."""

import os
from pathlib import Path

from instruct_jax.reports.text import amount, count, duration, number, percent, share


def write_page(folder: Path, summary: dict) -> None:
    """README.md and calibration.png in `folder`, each replaced whole."""
    # matplotlib loads only when a plot is drawn
    from instruct_jax.reports.marks import save
    from instruct_jax.reports.plots import calibration

    save(calibration, folder / ".calibration.png", summary["pooled"]["calibration"])
    os.replace(folder / ".calibration.png", folder / "calibration.png")
    temporary = folder / "README.md.tmp"
    temporary.write_text(page(summary))
    os.replace(temporary, folder / "README.md")


def page(summary: dict) -> str:
    """The tables in Markdown; intervals are 95 % bootstraps over dialogues."""
    left_out = ", ".join(f"{count(n)} for {reason}" for reason, n in summary["left_out"].items())
    held_out = (
        "of the training part, for tuning; the test part is untouched"
        if summary["tuning"]
        else "for the test"
    )
    parts = [
        "# A reward model of human preferences: HH-RLHF\n",
        f"{count(summary['read'])} pairs read; left out: {left_out}. Each seed splits by dialogue and holds pairs out {held_out}. "
        "Intervals: 95 % bootstraps over dialogues; pooled, a dialogue that several seeds tested counts as one.\n",
        _accuracy(summary),
        _calibration(summary["pooled"]),
    ]
    return "\n".join(parts)


def _accuracy(summary: dict) -> str:
    columns = ["seed", "trained on", "too long", "tested on", "too long", "reward model", "length alone", "difference", "loss, nats",
               "time"]  # fmt: skip
    lines = [columns, ["---"] * len(columns)]
    for one in summary["seeds"]:
        sizes = [count(one[key]) for key in ("train", "train_dropped", "test", "test_dropped")]
        lines.append([str(one["seed"]), *sizes, *_figures(one), duration(one["seconds"])])
    pooled = summary["pooled"]
    sizes = ["", "", count(pooled["accuracy"]["n"]), ""]
    lines.append(
        ["all", *sizes, *_figures(pooled), duration(sum(one["seconds"] for one in summary["seeds"]))]
    )
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return (
        f"{table}\n\nLength alone prefers the {pooled['length_prefers']} answer, as more training pairs do. A loss of "
        "0.693 nats is a coin's.\n"
    )


def _figures(value: dict) -> list[str]:
    difference = {key: 100 * value["difference"][key] for key in ("mean", "low", "high")}
    return [share(value["accuracy"]), share(value["length_accuracy"]), f"{amount(difference, 1)} points",
            amount(value["loss"], 3)]  # fmt: skip


def _calibration(pooled: dict) -> str:
    lines = ["| score gap | pairs | promised, sigmoid of the gap | observed |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {number(row['gap'])} | {count(row['n'])} | {percent(row['predicted'])} | {share(row)} |"
        for row in pooled["calibration"]
    ]
    error = pooled["calibration_error"]
    return "\n".join(lines) + (
        f"\n\nExpected calibration error {percent(error['error'])}; a calibrated model would show {percent(error['if_calibrated'])} "
        "on as many pairs, by chance alone.\n\n![calibration](calibration.png)\n"
    )


def instructions_page(summary: dict) -> str:
    """The tables of a summary of stages/instructions, in Markdown; intervals are 95 % bootstraps over prompts."""
    rules = list(summary["rules"])
    columns = ["model", "mean rank of 8", "ranked or tied first", *rules]
    models = [columns, ["---"] * len(columns)]
    for model, value in summary["models"].items():
        marks = [number(value["marks"][rule]) for rule in rules]
        models.append([model, amount(value["rank"]), share(value["first"]), *marks])
    agreement = [
        [
            "rule",
            "the labeler orders a pair as this rule alone",
            "pairs both decide",
            "pairs the rule decides",
        ],
        ["---"] * 4,
    ]
    for rule, value in summary["rules"].items():
        agreement.append([rule, share(value), count(value["n"]), percent(value["decided"])])
    batch = summary["batch"]
    loaded = (
        f"{count(batch['prompts'])} of the {count(summary['prompts'])} rankings fit the limits of the config and load as the reward "
        f"model's batches ({count(batch['dropped'])} dropped); the first, of {batch['batch_size']} prompts, holds "
        f"{count(batch['completions'])} completions and {count(batch['pairs'])} untied pairs in {batch['rows'][0]} rows of "
        f"{batch['rows'][1]} tokens."
    )
    parts = [
        "# Other systems' answers, ranked by rules: Self-Instruct's evaluation set\n",
        f"{count(summary['prompts'])} instructions by experts, 8 models' answers each; the rules and their weights stand in "
        "`instruct_jax/data/sources/rule_labeler.py`. Intervals: 95 % bootstraps over prompts; columns after the third are mean marks, "
        "0 to 1.\n",
        *(
            "\n".join("| " + " | ".join(line) + " |" for line in table) + "\n"
            for table in (models, agreement)
        ),
        "Each rule is a part of the labeler, so these agreements say which rule leads, not that it is right.\n",
        loaded + "\n",
    ]
    return "\n".join(parts)
