"""Home of the report: one self-contained page, its plots beside it, and summary.json for machines.

Differs from the paper's figures in that every number stands with its n, on the page as in the summary.

`write_report(path, data)`: an *interval* is {mean, low, high, n}, low and high None where there are fewer than
two prompts; a *model* is one of base, prompted, flan, sft, ppo, ppo_ptx. Required keys of `data`:

    seed              int
    wall_seconds      float, from the first check to the page, without Python's imports; of a resumed run's earlier sessions, their stages
    peak_rss_bytes    int
    matmul_gflops     float, the probe of this run
    versions          {package: version}

Optional keys; a section whose data are missing is not on the page:

    title, about      str: the page's heading, and the paragraph that says what was measured
    win_rate_vs_sft   {model: interval + {ties, non_tie_mean, non_tie_low, non_tie_high, non_tie_n, prompts}}
    win_rate_by_use_case   {use case: {model: the same}}
    likert            {model: interval}
    gold              {model: interval} of a gold score that is a probability
    distinct          {model: {distinct_1, distinct_2}}, shares of words and pairs of words that are no repeats
    judges            {labeler: {mean, n}, gold_judge: the same, agreement: interval}: AUC, and how often both say the same
    flags             {model: {attempts_task | satisfies_constraint | hallucination | appropriate: interval}}
    lengths           {model: interval + {median, p90, finished}}, tokens
    rm_accuracy       {training_labelers | heldout_labelers | labeler | gold_judge: interval + {ties}}
    rm_accuracy_both_decided  the same, on the pairs that a second labeler decided too
    rm_ceiling        the same, of a ranker that knows the world and what its labelers believe and like on average
    labeler_agreement interval + {ties}; labeler_agreement_heldout the same of the held-out pool
    rm_by_use_case    {use case: interval + {ties}}
    rm_calibration    [{gap, predicted, mean, low, high, n}], smallest gap first
    kl                {model: final KL from the reference, nats per response, or its interval}
    kl_curve          {ppo | ppo_ptx: [{episodes, kl, gold: interval, rm: interval}]} in training order;
                      gold or rm may be None
    pretraining_tasks {model: {task: interval + {items, metric, higher_is_better}}}
    samples           [{use_case, prompt, responses: [{model, response, likert (None: gold is shown), gold, flags,
                      closed_domain, has_constraint, finished}]}], as evaluation.winrate.side_by_side gives them
    data_card         [{title, columns: [str], rows: [[cell]]}]
    stages            [{name, seconds}]
    config            {key or nested dict: value}

summary.json holds the keys of SUMMARY that `data` has, unchanged (numbers that are not finite become null).
"""

import difflib
import json
from collections.abc import Callable
from pathlib import Path

from instruct_jax.errors import InputError
from instruct_jax.reports import publish

SUMMARY = (
    "wall_seconds peak_rss_bytes matmul_gflops win_rate_vs_sft rm_accuracy rm_accuracy_both_decided rm_ceiling labeler_agreement "
    "labeler_agreement_heldout kl "
    "likert flags gold distinct judges pretraining_tasks versions seed"
).split()
_REQUIRED = "seed wall_seconds peak_rss_bytes matmul_gflops versions".split()
_PAGE_ONLY = (
    "title about win_rate_by_use_case lengths rm_by_use_case rm_calibration kl_curve samples data_card stages "
    "config"
).split()
_ABOUT = (
    "The lab is a small world made from a seed: entities, facts, documents about them, users who ask, and "
    "labelers who write, rank and rate with taste and with mistakes. Because every fact is known, a gold "
    "judge without noise can say what each response is worth. No training stage sees that judge: it is used "
    "on this page only, on prompts of users that no training set contains. Intervals are 95\u202f% bootstraps "
    "over prompts."
)


def write_report(path, data: dict, clock: Callable[[], float] | None = None) -> None:
    """Write index.html, its PNG plots and summary.json into the directory `path`; each file is replaced
    whole, the page last. `clock` gives wall_seconds anew when the plots are drawn, so that they count.

    Raises:
      InputError: a required key of `data` is missing or a key is unknown.
    """
    # matplotlib and jinja2 load only when a report is written
    from instruct_jax.reports.sections import sections

    _check(data)
    data = publish.finite(data)
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    chapters = sections(data)
    publish.draw(path, chapters)
    if clock is not None:
        data = data | {"wall_seconds": round(clock(), 1)}
    summary = {key: data[key] for key in SUMMARY if key in data}
    publish.write(path / "summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    publish.write(path / "index.html", render(data, chapters))


def render(data: dict, chapters: list[dict]) -> str:
    """The page as HTML; text from models and users is escaped."""
    from instruct_jax.reports import headlines, sections

    return publish.html(
        title=data.get("title", "From prompts to PPO-ptx"),
        about=data.get("about", _ABOUT),
        standfirst=headlines.standfirst(data),
        headlines=headlines.headlines(data),
        chapters=chapters,
        samples=sections.samples(data),
        data_card=[sections.card_table(table) for table in data.get("data_card", [])],
        facts=sections.run_facts(data),
        config=sections.flat(data.get("config", {})),
    )


def _check(data: dict) -> None:
    missing = [key for key in _REQUIRED if key not in data]
    if missing:
        raise InputError(f"write_report: data lacks {', '.join(missing)}")
    known = SUMMARY + _PAGE_ONLY
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"write_report: data has the unknown key {key!r}{hint}")
