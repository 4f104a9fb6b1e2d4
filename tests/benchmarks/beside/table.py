"""The benchmark's arithmetic on what workers replied, and its tables in Markdown."""

import statistics

from beside.limits import least_seconds

# What others do more or less than we do in a round of a stage, as read in their sources.
DIFFERENCES = {
    ("sft", "trl"): "clips gradients to norm 1 (so do we compute the norm); also computes each token's entropy, as we do, and accuracy",
    ("sft", "tunix"): "its loss holds one-hot targets and log-probabilities [rows, tokens, vocabulary]; weight decay; no entropy",
    ("rm", "trl"): "pairs only, the same number of rows; clips gradients to norm 1",
    ("decode", "transformers"): "a cache that grows by concatenation, a call of the model a token",
    ("decode", "tunix"): "takes and returns text (words of one id each)",
    ("ppo", "trl_ppo"): "keeps the logits of every generated token and takes the old log-probabilities from them: one forward pass of the "
    "policy fewer than ours; its heads run on prompts too; policy and value share one optimizer; computes each token's entropy",
    ("ppo", "tunix"): "its heads run on prompts too; rewards of the reward model are cut to whole numbers; weight decay; prompts "
    "and responses go through text",
}  # fmt: skip


def spread(values: list[float]) -> tuple[float, float, float]:
    """(least, median, greatest)."""
    return min(values), statistics.median(values), max(values)


def seconds(cell: dict, who: str, part: str = "step") -> list[float]:
    """Of a part, by round."""
    return [each[who][part] for each in cell["rounds"] if who in each]


def ratios(cell: dict, who: str, ours: str) -> tuple[float, float, float]:
    """How many times as long as ours a step of `who` takes, of pairs of the same round: (least, median, greatest)."""
    pairs = [
        (each[who]["step"], each[ours]["step"]) for each in cell["rounds"] if who in each and ours in each
    ]
    return spread([theirs / mine for theirs, mine in pairs])


def achieved(cell: dict, who: str) -> dict[str, tuple[float, float, str]]:
    """{part: (median seconds, its least seconds over them, what binds)} of one of ours, by the best that the machine did in the run.

    The least of a whole is the sum of its parts' where they follow one another."""
    peaks = {
        unit: max(each[unit] for each in cell["machine"][cell["dtype"][who]]) for unit in ("flops", "bytes")
    }
    least = {
        part: least_seconds(work, peaks["flops"], peaks["bytes"]) for part, work in cell["work"][who].items()
    }
    parts = [part for part in least if part != "step"]
    if parts:
        least["step"] = sum(least[part][0] for part in parts), "sum"
    found = {}
    for part, (bound, what) in least.items():
        median = statistics.median(seconds(cell, who, part))
        found[part] = median, bound / median, what
    return found


def render(cell: dict) -> str:
    """A stage of a size: everybody's seconds, ratios to ours, first calls, memory; then ours against their limits."""
    ours = [who for who in cell["dtype"] if who.startswith("ours ") and seconds(cell, who)]
    head = [
        "",
        "s a step",
        "tokens/s",
        *(f"times as long as {who}" for who in ours),
        "first call, s",
        "peak, GiB",
    ]
    lines = [f"### {cell['stage']}, {cell['size']}", "", _row(head), _row(["---"] * len(head))]
    for who in cell["dtype"]:
        if who in cell["failed"]:
            lines.append(_row([who, f"did not run: {cell['failed'][who]}", *[""] * (len(head) - 2)]))
            continue
        low, median, high = spread(seconds(cell, who))
        against = [_ratio(ratios(cell, who, mine)) if not who.startswith("ours ") else "" for mine in ours]
        lines.append(_row([who, f"{median:.3g} ({low:.3g} to {high:.3g})", f"{cell['tokens'] / median:,.0f}", *against,
                           f"{cell['first'][who]:.1f}", f"{cell['peak'][who] / 2**30:.2f}"]))  # fmt: skip
    lines += ["", *_limits(cell, ours), *_parts(cell), *_again(cell), *_differences(cell)]
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _ratio(found: tuple[float, float, float]) -> str:
    low, median, high = found
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def _limits(cell: dict, ours: list[str]) -> list[str]:
    lines = []
    for who in ours:
        peaks = {
            unit: max(each[unit] for each in cell["machine"][cell["dtype"][who]])
            for unit in ("flops", "bytes")
        }
        told = ", ".join(f"{part} {median:.3g} s, {share:.0%} of the limit ({what})"
                         for part, (median, share, what) in achieved(cell, who).items())  # fmt: skip
        lines.append(
            f"- {who}: {told}. The machine: {peaks['flops'] / 1e9:.0f} GFLOP/s, {peaks['bytes'] / 1e9:.0f} GB/s."
        )
    return lines


def _parts(cell: dict) -> list[str]:
    """The seconds of the parts of others' steps."""
    lines = []
    for who in cell["dtype"]:
        parts = [part for part in cell["rounds"][0].get(who, {}) if part != "step"]
        if parts and not who.startswith("ours "):
            told = ", ".join(f"{part} {statistics.median(seconds(cell, who, part)):.3g} s" for part in parts)
            lines.append(f"- {who}: {told}.")
    return lines


def _again(cell: dict) -> list[str]:
    return [f"- {who}, started again with its compiled programs: {found:.1f} s from the start of the process to the end of the first step."
            for who, found in cell.get("again", {}).items()]  # fmt: skip


def _differences(cell: dict) -> list[str]:
    names = dict.fromkeys(who.split(" ")[0] for who in cell["dtype"])
    told = [(name, DIFFERENCES.get((cell["stage"], name))) for name in names]
    shapes = "; ".join(f"{who} {count:,}" for who, count in cell["parameters"].items())
    lines = [f"- Difference of work, {name}: {text}." for name, text in told if text]
    return [*lines, f"- Parameters that are trained or sampled from: {shapes}."]


def slope(xs: list[float], ys: list[float]) -> float:
    """The exponent of the power law through the points, by least squares of logarithms."""
    import math

    logs = [(math.log(x), math.log(y)) for x, y in zip(xs, ys, strict=True)]
    mean_x, mean_y = (sum(values) / len(logs) for values in zip(*logs, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)


def render_growth(axes: dict) -> str:
    """Seconds of a step along every axis, with the fitted exponent."""
    lines = [_row(["axis", "step", "points: value, s", "grows as the power"]), _row(["---"] * 4)]
    for name, found in axes.items():
        points = ", ".join(f"{x:,} {y:.3g}" for x, y in found["points"])
        lines.append(
            _row([name, found["stage"], points, f"{slope(*zip(*found['points'], strict=True)):.2f}"])
        )
    return "\n".join(lines)
