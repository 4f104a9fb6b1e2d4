"""The home of the limits on a step's numbers: a step that breaks them is not applied, or stops the run; its batch is kept.

The paper does not speak of this. The decision is made inside the compiled step, on the very numbers of that step, so that a state
that was donated need not be kept; the loop hears of it by the metric guard/bad.
"""

import dataclasses
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from instruct_jax.errors import InputError
from instruct_jax.sharding import fetched, returned

ACTIONS = ("stop", "skip")
MOST_KEPT = 20  # offending batches in a run's folder

# What each limit is held against, of the metrics that a step has.
MEASURED = {
    "max_loss": ("lm/loss", "rm/loss", "ppo/policy_loss", "ppo/value_loss", "ppo/ptx_loss"),
    "max_grad_norm": ("lm/grad_norm", "rm/grad_norm", "ppo/policy_grad_norm", "ppo/value_grad_norm"),
    "max_kl": ("objective/kl",),
    "max_ratio": ("ppo/ratio_max",),
}


@dataclasses.dataclass(frozen=True)
class GuardConfig:
    """What happens to a step with a number that is not finite or above a limit (None: no limit): "stop" ends the run, "skip" leaves
    the state as it was before the step, and ends the run after more than `max_skips` such steps in a row.

    In PPO a minibatch is such a step, and an iteration whose KL (nats a response) is above `max_kl` is left out as a whole."""

    action: str = "stop"
    max_skips: int = 3
    max_loss: float | None = None
    max_grad_norm: float | None = None
    max_kl: float | None = None
    max_ratio: float | None = None

    def __post_init__(self):
        if self.action not in ACTIONS:
            raise InputError(f"train.guard.action is {self.action!r}: it is one of {', '.join(ACTIONS)}")
        if self.max_skips < 0:
            raise InputError(f"train.guard.max_skips is {self.max_skips}: it must be at least 0")
        for field in MEASURED:
            limit = getattr(self, field)
            if limit is not None and not limit > 0:
                raise InputError(f"train.guard.{field} is {limit}: it must be above 0, or None")


STOP = GuardConfig()


def faults(metrics: dict, config: GuardConfig) -> dict:
    """{"guard/bad": f32 [], 1 where a number is not finite or above a limit, and guard/<limit> for each that is set}; traceable.

    InputError for a limit on something that this step does not measure.
    """
    finite = [jnp.isfinite(value).all() for value in metrics.values()]
    found = {"guard/bad": ~jnp.stack(finite).all()}
    for field, names in MEASURED.items():
        limit, there = getattr(config, field), [metrics[name] for name in names if name in metrics]
        if limit is None:
            continue
        if not there:
            raise InputError(f"train.guard.{field}: this stage has none of {', '.join(names)}; leave it out")
        found[f"guard/{field}"] = jnp.stack(there).max() > limit
    found["guard/bad"] = jnp.stack(list(found.values())).any()
    return {name: flag.astype(jnp.float32) for name, flag in found.items()}


def held(old, new, metrics: dict, config: GuardConfig) -> tuple:
    """(state, metrics with `faults`) of a step from `old` to `new`: with "skip" a bad one's state is `old`, bit for bit; traceable."""
    flags = faults(metrics, config)
    return chosen(flags["guard/bad"] > 0, old, new, config), {**metrics, **flags}


def chosen(bad, old, new, config: GuardConfig):
    """`old` where `bad` and skipping, else `new`; trees of arrays."""
    if config.action != "skip":
        return new
    kept = jax.tree.map(lambda a, b: jnp.where(bad, a, b), fetched(old), fetched(new))
    return returned(kept, new)


def first_fault(numbers: dict[str, float], config: GuardConfig) -> str | None:
    """What is wrong with the numbers of a step, in words that name the metric or the limit; None where nothing is."""
    for name, value in numbers.items():
        if not math.isfinite(value):
            return f"{name} is {value}"
    for field, names in MEASURED.items():
        if numbers.get(f"guard/{field}"):
            limit, shown = getattr(config, field), {name: numbers[name] for name in names if name in numbers}
            there = ", ".join(f"{name} {value:.4g}" for name, value in shown.items())
            # Of a PPO iteration the numbers are means, and each minibatch is judged.
            where = "" if max(shown.values()) > limit else "in a minibatch; means of the step: "
            return f"train.guard.{field} = {limit} was passed ({where}{there})"
    return "a number of a part of it is not finite" if numbers.get("guard/bad") else None


def keep_batch(workdir: Path, step: int, batch, numbers: dict[str, float]) -> str:
    """Saves a batch (tree of arrays; of several processes each its own rows) as workdir/offending/step_<n>.npz with the step and its
    metrics (JSON), at most MOST_KEPT; returns words that say where. No pickle: np.load reads it as it is."""
    of = f"_process_{jax.process_index()}" if jax.process_count() > 1 else ""
    path = workdir / "offending" / f"step_{step:08d}{of}.npz"
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    arrays = {jax.tree_util.keystr(path, simple=True, separator="/"): _rows(leaf) for path, leaf in leaves}
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() and len(list(path.parent.glob(f"*{of}.npz"))) >= MOST_KEPT:
            return f"its batch is not kept, {path.parent} holds {MOST_KEPT}"
        with open(temporary, "wb") as file:
            np.savez(file, step=step, metrics=json.dumps(numbers), **arrays)
        temporary.replace(path)
    except OSError as error:  # what went wrong with the step matters more
        return f"its batch could not be kept in {path} ({error.strerror})"
    return f"its batch is in {path}"


def _rows(leaf) -> np.ndarray:
    """A leaf on the host: whole, or the rows that this process holds."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return np.asarray(leaf)
    parts = {shard.index[0].start or 0: shard.data for shard in leaf.addressable_shards}
    return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])
