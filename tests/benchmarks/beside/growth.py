"""How the cost of our steps grows with the model, the length, the batch, the completions and the (pretended) devices."""

import dataclasses
import statistics

from beside.sizes import Size

# Axis: (stage, factors). Devices share the machine's cores: what grows there is what spreading costs.
AXES = {
    "parameters (width)": ("sft", (0.5, 1, 1.5, 2)),
    "length": ("sft", (0.5, 1, 2, 4)),
    "batch": ("sft", (0.25, 0.5, 1, 2)),
    "completions, one prompt each": ("rm", (2, 4, 8)),
    "devices": ("sft", (1, 2, 4, 8)),
}


def varied(size: Size, axis: str, factor: float) -> tuple[Size, int, int | None]:
    """(the size changed along an axis, the value there, devices or None)."""
    if axis == "devices":
        return size, int(factor), int(factor)
    if axis == "batch":
        rows = int(size.rows * factor)
        return dataclasses.replace(size, rows=rows), rows, None
    if axis == "length":
        longer = dataclasses.replace(
            size, prompt=int(size.prompt * factor), response=int(size.response * factor)
        )
        return longer, longer.length, None
    if axis.startswith("completions"):
        prompts, completions = max(size.rows // 8, 1), int(factor)
        return (
            dataclasses.replace(size, rows=prompts * completions, completions=completions),
            completions,
            None,
        )
    width = int(size.width * factor)
    wider = dataclasses.replace(size, width=width, heads=max(int(size.heads * factor), 1),
                                kv_heads=max(int(size.kv_heads * factor), 1), mlp=int(size.mlp * factor))  # fmt: skip
    return wider, wider.parameters, None


def measure(benchmark, size: Size, rounds: int) -> dict:
    """{axis: {"stage", "points": [(value, median seconds a step)]}}; the points of an axis are measured in turn."""
    found = {}
    for axis, (stage, factors) in AXES.items():
        points, workers = [], []
        try:
            for factor in factors:
                changed, value, devices = varied(size, axis, factor)
                worker = benchmark.start("ours float32", stage, changed, devices)
                workers.append((value, worker, []))
                worker.read()
                worker.round()
            for _ in range(rounds):
                for _, worker, taken in workers:
                    taken.append(worker.round()["seconds"]["step"])
            points = [(value, statistics.median(taken)) for value, _, taken in workers]
        finally:
            for _, worker, _ in workers:
                worker.stop()
        found[axis] = {"stage": stage, "points": points}
    return found
