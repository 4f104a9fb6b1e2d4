"""Home of the numbers to read first: PPO-ptx (or PPO) against SFT, the reward model beside its labelers,
the cost of the run.
"""

from instruct_jax.reports.marks import POOLS, label
from instruct_jax.reports.text import THIN, amount, count, duration, ns, number, percent


def standfirst(data: dict) -> str:
    """The line under the title."""
    named = [
        f"{name} {data['versions'][name]}"
        for name in ("instruct_jax", "jax", "python")
        if name in data["versions"]
    ]
    return " · ".join([f"Seed {data['seed']}", *named])


def headlines(data: dict) -> list[dict]:
    """The numbers to read first: [{value, label, detail}]."""
    rates, flags, likert = (data.get(key, {}) for key in ("win_rate_vs_sft", "flags", "likert"))
    final = next((m for m in ("ppo_ptx", "ppo") if m in rates), None)
    cards = []
    if final:
        rate = rates[final]
        decided = f"{percent(rate['non_tie_mean'])} of the {count(rate['non_tie_n'])} decided"
        detail = f"{_interval_words(rate)}, n = {count(rate['n'])}; {decided}"
        name = f"{label(final)} preferred to SFT"
        cards.append({"value": percent(rate["mean"]), "label": name, "detail": detail})
    if final in likert and "sft" in likert:
        cards.append(_change("mean Likert score", likert["sft"], likert[final], final, number))
    gold, kl = data.get("gold", {}), data.get("kl", {})
    if final in gold and "sft" in gold:
        cards.append(_change("mean gold score", gold["sft"], gold[final], final, number))
        if final in kl:
            nats = kl[final]["mean"] if isinstance(kl[final], dict) else kl[final]
            cards[-1]["detail"] += f"; KL to SFT {number(nats, 1)} nats a response"
    cards += _tax(data.get("pretraining_tasks", {}))
    for name, words in (
        ("hallucination", "hallucination, closed domain"),
        ("satisfies_constraint", "constraint kept"),
    ):
        before, after = (flags.get(model, {}).get(name) for model in ("sft", final))
        if before and after:
            cards.append(_change(words, before, after, final, percent))
    accuracy = data.get("rm_accuracy", {})
    pool = next((p for p in ("heldout_labelers", "training_labelers", "labeler") if p in accuracy), None)
    if pool:
        agreement = data.get("labeler_agreement")
        detail = f"{_interval_words(accuracy[pool])}, n = {count(accuracy[pool]['n'])} pairs"
        if agreement:
            detail += f"; two labelers agree on {percent(agreement['mean'])}, n = {count(agreement['n'])}"
        name = f"reward-model accuracy, {POOLS[pool].lower()}"
        cards.append({"value": percent(accuracy[pool]["mean"]), "label": name, "detail": detail})
    memory, probe = number(data["peak_rss_bytes"] / 2**30, 1), number(data["matmul_gflops"], 0)
    cards.append(
        {
            "value": duration(data["wall_seconds"]),
            "label": "the whole run",
            "detail": f"peak memory {memory}{THIN}GiB, matmul probe {probe}{THIN}GFLOP/s",
        }
    )
    return cards


def _change(name: str, before: dict, after: dict, model: str, text) -> dict:
    return {
        "value": f"{text(before['mean'])} → {text(after['mean'])}".replace(f"{THIN}% →", " →"),
        "label": f"{name}, SFT → {label(model)}",
        "detail": ns({"sft": before, model: after}, "responses"),
    }


def _tax(tasks: dict) -> list[dict]:
    """The loss that each PPO adds on held-out pretraining text, where the run measured it document by document."""
    name = "loss above the base model's"
    found = {m: tasks[m][name] for m in ("ppo", "ppo_ptx", "sft") if name in tasks.get(m, {})}
    if not {"ppo", "ppo_ptx"} <= set(found):
        return []
    detail = [f"{label(model)} {amount(value, 3)}" for model, value in found.items()]
    documents = count(found["ppo"]["items"])
    return [{
        "value": f"{number(found['ppo']['mean'])} → {number(found['ppo_ptx']['mean'])}",
        "label": "nats a token lost on held-out text, PPO → PPO-ptx",
        "detail": f"{'; '.join(detail)}; {documents} documents",
    }]  # fmt: skip


def _interval_words(value: dict) -> str:
    if value["low"] is None:
        return "no interval"
    return f"95{THIN}% interval {100 * value['low']:.1f} to {100 * value['high']:.1f}{THIN}%"
