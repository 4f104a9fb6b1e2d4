"""Home of the page on the automatic evaluations: what stages/benchmark found, tasks down and models across, in Markdown and a plot."""

import os
from pathlib import Path

from instruct_jax.reports.text import amount, count


def write_page(folder: Path, summary: dict) -> None:
    """README.md and scores.png in `folder`, each replaced whole."""
    # matplotlib loads only when a plot is drawn
    from instruct_jax.reports.marks import save
    from instruct_jax.reports.plots import benchmark_scores

    save(benchmark_scores, folder / ".scores.png", summary["models"])
    os.replace(folder / ".scores.png", folder / "scores.png")
    temporary = folder / "README.md.tmp"
    temporary.write_text(page(summary))
    os.replace(temporary, folder / "README.md")


def page(summary: dict) -> str:
    """The table; intervals are 95 % bootstraps over passages, dialogues or questions (BLEU: over sentences)."""
    models = list(summary["models"])
    lines = [["task", "metric", *models, "n"], ["---"] * (len(models) + 3)]
    tasks = list(dict.fromkeys(task for scores in summary["models"].values() for task in scores))
    for task in tasks:
        entries = [summary["models"][model].get(task) for model in models]
        there = [one for one in entries if one]
        # A model that no row was scored for has no metric.
        metrics = list(dict.fromkeys(m for one in there for m in (one["metric"], *one["also"]) if m)) or [""]
        for i, metric in enumerate(metrics):
            name = metric.replace("_", " ") or "nothing to score"
            lines.append(["" if i else task, name + ("" if there[0]["higher_is_better"] else " (less is better)"),
                          *(_cell(one, metric) for one in entries), _rows(there, metric)])  # fmt: skip
    lines += [
        [task, f"not run: {why}", *[""] * len(models), ""] for task, why in summary.get("not_run", {}).items()
    ]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n".join(["# Automatic evaluations\n", *_notes(summary), "", table, ""])


def _notes(summary: dict) -> list[str]:
    """What a reader must know of how the figures came about."""
    settings = summary["config"]["benchmark"]
    classifier = {"local": "alt-profanity-check, not Perspective", "perspective": "the Perspective API"}
    notes = ["Mean [95 % interval]; n: rows scored, of how many in the set. All at temperature 0."]
    entries = [
        (f"{task} ({model})", entry)
        for model, scores in summary["models"].items()
        for task, entry in scores.items()
    ]
    if any(entry["metric"] == "toxicity" for _, entry in entries):
        notes.append(f"Toxicity is judged by {classifier[settings['toxicity']]}.")
    if any("rouge_l_to_true" in (entry["metric"], *entry["also"]) for _, entry in entries):
        notes.append(
            "TruthfulQA: ROUGE-L to the nearest true reference answer is no judgement of truth; for that, name truth_judge."
            if not settings["truth_judge"]
            else f"Truth is judged by {settings['truth_judge']}."
        )
    if any(not entry["examples_apart"] for _, entry in entries):
        notes.append("Few-shot examples are other rows of the same set where it has no training rows.")
    fewer = [
        f"{entry['shots_shown']:.1f} of {entry['shots']} in {name}"
        for name, entry in entries
        if entry["shots_shown"] is not None and round(entry["shots_shown"], 1) < entry["shots"]
    ]
    if fewer:
        notes.append(
            "Examples that the context or the set had room for, on average: " + ", ".join(fewer) + "."
        )
    cut = [f"{count(entry['too_long'])} of {name}" for name, entry in entries if entry["too_long"]]
    if cut:
        notes.append("Too long for the context and left out: " + ", ".join(cut) + ".")
    return notes


def _cell(entry: dict | None, metric: str) -> str:
    return "" if entry is None else amount(_value(entry, metric), 2 if metric == "bleu" else 3)


def _value(entry: dict, metric: str) -> dict:
    return entry if metric == entry["metric"] else entry["also"].get(metric, {"mean": None, "n": 0})


def _rows(entries: list[dict], metric: str) -> str:
    """How many rows a metric is of, for each model where they differ, and of how many in the set."""
    numbers, of = [_value(one, metric)["n"] for one in entries], entries[0]["of"]
    if len(set(numbers)) > 1:
        return f"{', '.join(map(count, numbers))} of {count(of)}"
    return count(of) if numbers[0] == of else f"{count(numbers[0])} of {count(of)}"
