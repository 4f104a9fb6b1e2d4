"""Home of what the report says: headline numbers, figures with their captions, and tables, each from the
data alone.

A section is {id, title, figures, tables}, a figure {file, draw, arguments, alt, lead, caption}, a table
{title, columns, rows, text_columns}. Captions say what to read off and on how many items it rests; they
never say how a run should come out.
"""

from instruct_jax.reports import continuations, plots
from instruct_jax.reports.layout import figure, section, table
from instruct_jax.reports.marks import POOLS, RATES, colour, in_order, label
from instruct_jax.reports.text import THIN, amount, count, duration, ns, number, percent, share, use_case


def sections(data: dict) -> list[dict]:
    """The sections whose data are there, in reading order."""
    makers = (
        _preference,
        continuations.gold_scores,
        _quality,
        _use_cases,
        _reward_model,
        _training,
        _tasks,
        continuations.judges,
        _stages,
    )
    return [made for maker in makers if (made := maker(data))]


def _n(value: dict | None) -> str:
    return count((value or {}).get("n"))


def _preference(data: dict) -> dict | None:
    rates = data.get("win_rate_vs_sft")
    if not rates:
        return None
    rates = {model: rates[model] for model in in_order(rates)}
    ties = ", ".join(f"{count(rate['ties'])} ({label(model)})" for model, rate in rates.items())
    prompts = max(rate["prompts"] for rate in rates.values())
    own = " SFT stands against a second set of its own samples." if "sft" in rates else ""
    caption = (
        "Read off how often the gold judge prefers a model's response to SFT's for the same prompt; right of the line is "
        f"better than SFT. Bars are 95{THIN}% intervals.{own} {ns(rates, 'comparisons')}, on {count(prompts)} prompts; "
        f"ties: {ties}."
    )
    rows = [
        [
            label(model),
            share(rate),
            share({key: rate[f"non_tie_{key}"] for key in ("mean", "low", "high")}),
            count(rate["ties"]),
            count(rate["n"]),
            count(rate["non_tie_n"]),
        ]
        for model, rate in rates.items()
    ]
    columns = ["Model", "Win rate, ties half", "Win rate, ties left out", "Ties", "n", "n decided"]
    return section(
        "preference",
        "Preference against SFT",
        [figure("win_rate", plots.win_rate, (rates,), "Win rate against SFT.", caption)],
        [table("Win rate against SFT, gold judge", columns, rows)],
    )


def _quality(data: dict) -> dict | None:
    likert, flags, lengths = (data.get(key) or {} for key in ("likert", "flags", "lengths"))
    figures = []
    if not (likert or flags):
        return None
    if likert:
        ordered = {model: likert[model] for model in in_order(likert)}
        caption = f"Read off the gold judge's mean score of a model's responses. {ns(ordered, 'responses')}."
        figures.append(figure("likert", plots.likert, (ordered,), "Overall quality.", caption))
    if flags:
        parts = []
        for rate, name in RATES.items():
            values = {model: flags[model][rate] for model in in_order(flags) if rate in flags[model]}
            if values:
                parts.append(f"{name}: {ns(values, 'responses')}")
        caption = (
            "Read off the share of responses with each mark; lower is better for hallucination only. Hallucination counts "
            f"prompts that bring their own facts, the constraint those that state one. {'; '.join(parts)}."
        )
        figures.append(figure("flags", plots.flag_rates, (flags,), "What the responses do.", caption))
    models = in_order({**likert, **flags, **lengths})

    def rows(*cells):
        return [[label(model), *(cell(model) for cell in cells)] for model in models]

    def marked(rate):
        return lambda model: share((flags.get(model) or {}).get(rate))

    def marked_n(rate):
        return lambda model: _n((flags.get(model) or {}).get(rate))

    def of_length(text, key):
        return lambda model: text((lengths.get(model) or {}).get(key))

    def responses(model):
        return _n(likert.get(model) or (flags.get(model) or {}).get("attempts_task") or lengths.get(model))

    grades = rows(lambda model: amount(likert.get(model)), marked("attempts_task"), responses)
    kept, invented = "satisfies_constraint", "hallucination"
    faults = rows(marked(kept), marked_n(kept), marked(invented), marked_n(invented))
    conduct = rows(marked("appropriate"), of_length(lambda x: number(x, 1), "mean"), of_length(percent, "finished"),
                   responses)  # fmt: skip
    tables = [
        table("Grade", ["Model", "Likert", "Attempts the task", "n"], grades),
        table("Constraints and hallucination", ["Model", "Keeps the constraint", "n with one", "Halluci\u00adnates",
                                                 "n closed domain"], faults),
        table("Conduct and length", ["Model", "Appro\u00adpriate", "Tokens", "Ends itself", "n"], conduct),
    ]  # fmt: skip
    return section("quality", "Quality and conduct", figures, tables if models else [])


def _use_cases(data: dict) -> dict | None:
    groups = data.get("win_rate_by_use_case")
    if not groups:
        return None
    sizes = ", ".join(
        f"{use_case(name)} {count(max(r['n'] for r in rates.values()))}" for name, rates in groups.items()
    )
    caption = (
        "Read off in which kinds of task training by reinforcement helps; the line is SFT. Kinds with few prompts have "
        f"wide intervals. n, comparisons a model: {sizes}."
    )
    models = in_order({model for rates in groups.values() for model in rates})
    rows = [
        [
            use_case(name),
            *(share(rates.get(model)) for model in models),
            count(max(r["n"] for r in rates.values())),
        ]
        for name, rates in groups.items()
    ]
    shown = {use_case(name): rates for name, rates in groups.items()}
    return section(
        "use-cases",
        "By use case",
        [
            figure(
                "use_cases",
                plots.win_rate_by_use_case,
                (shown,),
                "Win rate against SFT by use case.",
                caption,
            )
        ],
        [table("Win rate against SFT by use case", ["Use case", *map(label, models), "n"], rows)],
    )


def _reward_model(data: dict) -> dict | None:
    accuracy, ceiling, agreement = (
        data.get(key) or {} for key in ("rm_accuracy", "rm_ceiling", "labeler_agreement")
    )
    figures, tables = [], []
    if accuracy:
        parts = [f"Accuracy: {ns(accuracy, 'pairs', POOLS.get)}"]
        if agreement:
            parts.append(f"agreement: n = {count(agreement['n'])} pairs")
        if ceiling:
            parts.append(f"ceiling: {ns(ceiling, 'pairs', POOLS.get)}")
        caption = (
            "Read off how often the reward model orders two responses as a labeler did. The band is how often a second "
            f"labeler does, the bar how often a ranker would that knows the world and how these people take each answer on "
            f"average. {'; '.join(parts)}. Pairs that a labeler tied "
            "are left out."
        )
        figures.append(
            figure(
                "reward_model",
                plots.reward_model,
                (accuracy, ceiling, agreement),
                "Reward-model accuracy.",
                caption,
            )
        )
        tables.append(_ordered_alike(data))
    if data.get("rm_calibration"):
        bins = data["rm_calibration"]
        caption = (
            "Read off whether a large score gap means a safe preference: dashed is the probability the gap stands for, dots "
            f"what labelers said. n = {count(sum(row['n'] for row in bins))} pairs in {len(bins)} bins."
        )
        figures.append(
            figure("calibration", plots.calibration, (bins,), "Calibration of the reward model.", caption)
        )
    if data.get("rm_by_use_case"):
        rows = [[use_case(name), *_pairs(value)] for name, value in data["rm_by_use_case"].items()]
        tables.append(
            table(
                "Reward-model accuracy by use case",
                ["Use case", "Accuracy", "n pairs", "Tied, left out"],
                rows,
            )
        )
    return section("reward-model", "Reward model", figures, tables)


def _ordered_alike(data: dict) -> dict:
    rows = [
        [text.format(pool=POOLS[pool].lower()), *_pairs(data[key][pool])]
        for key, text in (
            ("rm_accuracy", "Reward model, {pool}"),
            ("rm_accuracy_both_decided", "Reward model, pairs that two {pool} decided"),
            ("rm_ceiling", "Ceiling, {pool}"),
        )
        for pool in POOLS
        if pool in (data.get(key) or {})
    ]
    for key, text in (
        ("labeler_agreement", "Two labelers"),
        ("labeler_agreement_heldout", "Two held-out labelers"),
    ):
        rows += [[text, *_pairs(data[key])]] if data.get(key) else []
    return table("Pairs ordered alike", ["", "Alike", "n pairs", "Tied, left out"], rows)


def _pairs(value: dict) -> list[str]:
    return [share(value), count(value["n"]), count(value.get("ties"))]


def _training(data: dict) -> dict | None:
    curves, figures = data.get("kl_curve") or {}, []
    for score, lead, read in (
        (
            "gold",
            "Gold score against KL.",
            "whether the responses really get better as the policy leaves its reference",
        ),
        (
            "rm",
            "Reward-model score against KL.",
            "what training maximises; a gain here without one in gold is over-optimisation",
        ),
    ):
        lowest = {
            model: min((p[score] for p in points if p.get(score)), key=lambda value: value["n"])
            for model, points in curves.items()
            if any(p.get(score) and p["kl"] is not None for p in points)
        }
        if lowest:
            sizes = ns(lowest, "responses").replace("=", "≥")
            caption = (
                f"Read off {read}. Prompts of validation users; one dot an evaluation, shade the 95{THIN}% interval. "
                f"At every dot {sizes}."
            )
            figures.append(figure(f"kl_{score}", plots.against_kl, (curves, score), lead, caption))
    final = data.get("kl") or {}
    rows = []
    for model in in_order({**curves, **final}):
        last = (curves.get(model) or [{}])[-1]
        scored = (last.get("gold") or last.get("rm") or {}).get("n")
        marks = [
            amount(last.get("gold")),
            amount(last.get("rm")),
            count(scored),
        ]
        # The final KL is of the responses that were judged, the scores are of the last dot's.
        measured = ((data.get("likert") or {}).get(model) or {}).get("n") if model in final else scored
        kl = final.get(model, last.get("kl"))
        shown = [amount(kl), count(kl["n"])] if isinstance(kl, dict) else [number(kl), count(measured)]
        rows.append([label(model), count(last.get("episodes")), *shown, *marks])
    columns = ["Model", "Episodes", "KL, nats a response", "n of KL", "Gold score", "RM score", "n of scores"]
    return section(
        "training",
        "PPO training",
        figures,
        [table("At the end", columns, rows)] if rows else [],
    )


def _tasks(data: dict) -> dict | None:
    tasks = data.get("pretraining_tasks")
    if not tasks:
        return None
    models = in_order(tasks)
    names = list(dict.fromkeys(task for model in models for task in tasks[model]))
    sizes, rows = [], []
    for name in names:
        value = next(tasks[model][name] for model in models if name in tasks[model])
        items = (
            f" tokens in {count(value['items'])} documents"
            if value.get("items", value["n"]) != value["n"]
            else ""
        )
        sizes.append(f"{name} {count(value['n'])}{items}")
        cells = (amount(tasks[model].get(name), 3) for model in models)
        rows.append([name, value.get("metric", "score"), *cells, count(value["n"])])
    caption = (
        "Read off what fine-tuning costs in what the base model could do, and what the pretraining gradient (ptx) wins back; "
        f"dashed is the base model. n a model: {', '.join(sizes)}."
    )
    return section(
        "tasks",
        "Pretraining tasks",
        [figure("pretraining_tasks", plots.pretraining_tasks, (tasks,), "Pretraining tasks.", caption)],
        [table("Pretraining tasks", ["Task", "Metric", *map(label, models), "n"], rows, text_columns=2)],
    )


def _stages(data: dict) -> dict | None:
    stages = [stage for stage in data.get("stages", []) if stage["seconds"] is not None]
    if not stages:
        return None
    total = sum(stage["seconds"] for stage in stages)
    caption = (
        f"Read off where the time went: {duration(total)} in {len(stages)} stages, compilation included."
    )
    return section(
        "time",
        "Stage times",
        [figure("stages", plots.stage_times, (stages,), "Stages.", caption)],
        [],
    )


def samples(data: dict) -> list[dict]:
    """Samples for reading: the data's, with chips {text, tone} and the models' names and colours."""
    shown = []
    for sample in data.get("samples", []):
        by_model = {response["model"]: response for response in sample["responses"]}
        responses = [
            {
                "name": label(m),
                "colour": colour(m),
                "text": by_model[m]["response"],
                "chips": _chips(by_model[m]),
            }
            for m in in_order(by_model)
        ]
        shown.append(
            {"use_case": use_case(sample["use_case"]), "prompt": sample["prompt"], "responses": responses}
        )
    return shown


def _chips(response: dict) -> list[dict]:
    flags = response["flags"]
    graded = response["likert"] is not None
    verdict = f"Likert {response['likert']}" if graded else f"gold {number(response['gold'])}"
    chips = [{"text": verdict, "tone": "plain"}]
    if response["has_constraint"]:
        kept = flags.get("satisfies_constraint")
        chips.append(
            {"text": f"constraint {'kept' if kept else 'missed'}", "tone": "good" if kept else "bad"}
        )
    if not response["finished"]:
        chips.append({"text": "cut off", "tone": "bad"})
    named = {"fails_task": "fails the task", "hallucination": "hallucinates"}
    for flag, raised in flags.items():
        if (
            raised
            and flag != "satisfies_constraint"
            and (flag != "hallucination" or response["closed_domain"])
        ):
            chips.append({"text": named.get(flag, flag.replace("_", " ")), "tone": "bad"})
    return chips


def card_table(given: dict) -> dict:
    """A table of the data card with its numbers written out."""
    rows = [[_cell(cell) for cell in row] for row in given["rows"]]
    return table(given["title"], given["columns"], rows)


def _cell(cell) -> str:
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        return "–" if cell is None else str(cell)
    return count(cell) if isinstance(cell, int) else number(cell, 1)


def run_facts(data: dict) -> list[tuple[str, str]]:
    """What ran, where and how long: [(name, value)]."""
    return [
        ("seed", str(data["seed"])),
        ("wall time", duration(data["wall_seconds"])),
        ("peak memory", f"{number(data['peak_rss_bytes'] / 2**30, 2)}{THIN}GiB"),
        ("matmul probe", f"{number(data['matmul_gflops'], 1)}{THIN}GFLOP/s"),
        *((name, str(version)) for name, version in data["versions"].items()),
    ]


def flat(config: dict, prefix: str = "") -> list[tuple[str, str]]:
    """A nested config as [(dotted key, value)]."""
    rows = []
    for key, value in config.items():
        rows += (
            flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", str(value))]
        )
    return rows
