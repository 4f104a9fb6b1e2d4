"""Home of what would fit, and of which mesh is best: both by compiling, never by a formula alone."""

import itertools
from collections.abc import Callable, Iterator

import jax
from ml_collections import ConfigDict

from instruct_jax.errors import InputError
from instruct_jax.sharding import batch_devices
from instruct_jax.stages.ahead import compiling, work
from instruct_jax.stages.ahead.compiling import Slice

PIECES = {
    "update": ("train.microbatch_size", "train.ptx_microbatch_size"),
    "rollout": ("train.rollout_size",),
    "scoring": ("train.microbatch_size",),
    "train_step": ("train.microbatch_size",),
}
REMATS = ("none", "dots", "full")
AWAY = {
    "ppo": ("optimizer", "average", "frozen")
}  # what may lie in the hosts' memory; of the other stages the optimizer


def changed(config: ConfigDict, overrides: dict) -> ConfigDict:
    """A copy of the config with dotted fields set."""
    config = config.copy_and_resolve_references()
    for field, value in overrides.items():
        *path, last = field.split(".")
        node = config
        for part in path:
            node = node[part]
        with node.unlocked():
            node[last] = value
    return config.lock()


def suggest(
    config: ConfigDict, programs: Callable, place: Slice, report: dict, say: Callable = print
) -> list[dict]:
    """What was tried for each program of `report` that does not fit, in order, each change on top of the last, up to one that fits; what
    made one fit is kept for the next. Last the whole experiment with all of it, where each program has something that fits."""
    tried, taken = [], {}
    for name in [name for name, found in report["programs"].items() if not found["fits"]]:
        overrides = taken
        for change in itertools.chain([{}] if taken else [], changes(changed(config, taken), place, name)):
            overrides = overrides | change
            found = _attempt(changed(config, overrides), programs, place, name)
            tried.append({"program": name, "overrides": overrides} | found)
            say(told(tried[-1]))
            if found["fits"]:
                break
        if not tried or not tried[-1]["fits"]:
            return tried
        taken = overrides
    if len(report["programs"]) > 1:
        tried.append(_together(config, programs, place, tried))
        say(told(tried[-1]))
    return tried


def _together(config: ConfigDict, programs: Callable, place: Slice, tried: list[dict]) -> dict:
    """The whole experiment with what the last attempt changed, as an attempt; its programs that were tried so are not compiled again."""
    overrides = tried[-1]["overrides"]
    known = {one["program"]: dict(one) for one in tried if one["overrides"] == overrides}
    entry = {"program": "all together", "overrides": overrides}
    try:
        report = compiling.examine(
            changed(config, overrides), programs, place, say=lambda told: None, known=known
        )
    except InputError as error:
        return entry | {"fits": False, "refused": str(error)}
    finally:
        jax.clear_caches()
    found = report["programs"]
    refused = [
        f"{name}: {one.get('refused', 'does not fit')}" for name, one in found.items() if not one["fits"]
    ]
    needed = [one["needed_bytes"] for one in found.values()]
    entry |= {"fits": not refused, "needed_bytes": None if None in needed else max(needed)}
    entry["compile_seconds"] = sum(one["compile_seconds"] for name, one in found.items() if name not in known)
    seconds = {"seconds": report["cost"]["seconds_a_run"]} if report["cost"] else {}
    return entry | seconds | ({"refused": "; ".join(refused)} if refused else {})


def told(one: dict) -> str:
    """What is printed of an attempt."""
    fields = " ".join(f"{field}={value}" for field, value in one["overrides"].items())
    seconds = f", predicted {one['seconds']:.3g} s" if "seconds" in one else ""
    return f"{one['program']}, tried {fields}: " + (
        f"fits{seconds}" if one["fits"] else one.get("refused", "does not fit")
    )


def _models(config: ConfigDict) -> list[str]:
    return [name for name in ("model", "reward_model") if name in config]


def _attempt(config: ConfigDict, programs: Callable, place: Slice, name: str) -> dict:
    try:
        return compiling.examine(config, programs, place, only=name, say=lambda told: None)["programs"][name]
    except InputError as error:
        return {"fits": False, "refused": str(error)}
    finally:
        jax.clear_caches()


def choose(
    config: ConfigDict, programs: Callable, place: Slice, *, rows: int | None = None, say: Callable = print
) -> dict:
    """Remat and pieces by trial -> examine's report of the config that was chosen, with the `chosen` fields and what was `tried`.

    For every kind of recomputation the largest pieces that fit, from the whole batch down by halves; of those the least predicted time.
    Sampling comes after the update, with what that chose.
    """
    tried, chosen, found = [], {}, {}
    for name in [name for name in PIECES if name in work.of(config, rows).programs]:
        steps = list(ladder(config, place, name, chosen))
        if not steps:
            continue

        def attempt(overrides: dict, name=name) -> dict:
            one = _attempt(changed(config, overrides), programs, place, name)
            tried.append({"program": name, "overrides": overrides} | one)
            say(told(tried[-1]))
            return tried[-1]

        best = None
        for remat in ("",) if name == "rollout" else REMATS:
            recompute = {f"{model}.remat": remat for model in _models(config) if remat}
            first = chosen | recompute | steps[0]
            largest = first_that_fits([chosen | recompute | sizes for sizes in steps], attempt)
            if largest and (best is None or largest["seconds"] < best["seconds"]):
                best = largest
            if largest and largest["overrides"] == first:
                break  # the whole at once: to compute more again would buy nothing
        best = best or tried[-1]
        chosen = best["overrides"]
        found[name] = {field: value for field, value in best.items() if field not in ("program", "overrides")}
    report = compiling.examine(changed(config, chosen), programs, place, rows=rows, say=say, known=found)
    return report | {"chosen": chosen, "tried": tried}


def first_that_fits(steps: list[dict], attempt: Callable[[dict], dict]) -> dict | None:
    """What `attempt` makes of the first step that fits, where all after one that fits do; few attempts, for each compiles."""
    best = attempt(steps[0])
    if best["fits"] or len(steps) == 1:
        return best if best["fits"] else None
    best, bad, good = attempt(steps[-1]), 0, len(steps) - 1
    while best["fits"] and good - bad > 1:
        middle = (bad + good) // 2
        found = attempt(steps[middle])
        bad, good, best = (bad, middle, found) if found["fits"] else (middle, good, best)
    return best if best["fits"] else None


def ladder(config: ConfigDict, place: Slice, program: str, fixed: dict) -> Iterator[dict]:
    """Sizes of a program's pieces that are not `fixed`, if any: the whole, then by halves as long as they divide over the devices."""
    devices = batch_devices(place.mesh(config))
    sizes = {field: _whole(config, field) for field in PIECES[program] if field not in fixed}
    smaller: dict = {}
    while smaller != sizes:
        sizes = smaller or sizes
        yield sizes
        smaller = {field: size // 2 if size % (2 * devices) == 0 else size for field, size in sizes.items()}


def changes(config: ConfigDict, place: Slice, program: str) -> Iterator[dict]:
    """What may make a program smaller, the cheapest first: recomputation, pieces by fours, parameters over all of the mesh, the hosts'
    memory, then more of the mesh for one row and for one model."""
    models = _models(config)
    if any(config[name].get("remat", "none") != "full" for name in models):
        yield {f"{name}.remat": "full" for name in models}
    mesh = place.sizes(config)
    sizes = {field: _size(config, field) for field in PIECES[program]}
    while any(size > mesh.data * mesh.fsdp for size in sizes.values()):
        sizes = {field: _smaller(size, mesh.data * mesh.fsdp) for field, size in sizes.items()}
        yield dict(sizes)
    fsdp, tensor = mesh.fsdp, mesh.tensor
    if mesh.data > 1:
        fsdp *= mesh.data
        yield {"mesh.data": 1, "mesh.fsdp": fsdp}
    away = AWAY.get(config.stage, ("optimizer",))
    if set(config.train.get("offload", ())) != set(away):
        yield {"train.offload": away}
    if mesh.sequence == 1 and fsdp % 2 == 0:
        yield {"mesh.data": 1, "mesh.fsdp": fsdp // 2, "mesh.sequence": 2}
    while tensor < 16 and fsdp % 2 == 0:
        fsdp, tensor = fsdp // 2, tensor * 2
        yield {"mesh.data": 1, "mesh.fsdp": fsdp, "mesh.sequence": mesh.sequence, "mesh.tensor": tensor} | {
            field: _smaller(size, fsdp) for field, size in sizes.items()
        }


def _size(config: ConfigDict, field: str) -> int:
    """How many rows are taken at once where a field says, and where it does not."""
    return config.train.get(field.removeprefix("train.")) or _whole(config, field)


def _whole(config: ConfigDict, field: str) -> int:
    """How many rows there are to cut into the pieces of a field."""
    train = config.train
    if field == "train.rollout_size":
        return train.batch_size
    if field == "train.ptx_microbatch_size":
        return train.minibatch_size * train.get("ptx_ratio", 8)
    return train.minibatch_size if "minibatch_size" in train else config.data.batch_size


def _smaller(size: int, devices: int) -> int:
    """A quarter of the rows, or half, or one a device: the first that divides over the devices."""
    for part in (4, 2):
        if size % part == 0 and size // part % devices == 0:
            return size // part
    return devices if size % devices == 0 else size


def sweep(
    config: ConfigDict,
    programs: Callable,
    place: Slice,
    which: str,
    *,
    only: str | None,
    rows: int | None,
    say: Callable = print,
) -> dict:
    """The experiment compiled for every mesh of `which` ("all" that have the slice's number of devices, or "1x16x1,2x8x1"), the best first:
    those that fit by the least time, then the others with the reason."""
    found, assumed = [], list(compiling.ASSUMED)
    sequence = config.mesh.get("sequence", 1)
    for data, fsdp, tensor in shapes(which, len(place.devices), sequence):
        overrides = {"mesh.data": data, "mesh.fsdp": fsdp, "mesh.tensor": tensor}
        entry: dict = {"mesh": f"{data}x{fsdp}x{tensor}", "fits": False, "cost": None}
        say(f"mesh {entry['mesh']}")
        try:
            report = compiling.examine(
                changed(config, overrides), programs, place, only=only, rows=rows, say=say
            )
        except InputError as error:
            found.append(entry | {"why": str(error)})
            continue
        seen, assumed = report["programs"], report["assumed"]
        needed = [one["needed_bytes"] for one in seen.values()]
        refused = [
            f"{name}: {one.get('refused', 'does not fit')}" for name, one in seen.items() if not one["fits"]
        ] + [f"{name}: no time, for {one['untimed']}" for name, one in seen.items() if "untimed" in one]
        entry |= {"fits": report["fits"], "cost": report["cost"], "programs": seen, "why": "; ".join(refused)}
        found.append(entry | {"needed_bytes": None if None in needed else max(needed)})
        jax.clear_caches()
    best = sorted(
        found,
        key=lambda one: (not one["fits"], one["cost"]["seconds_a_run"] if one["cost"] else float("inf")),
    )
    return {
        "experiment": config.name, "stage": config.stage, "config": config.to_dict(), "topology": place.name,
        "chips": round(len(place.devices) * place.chip.share), "mesh": {"sequence": sequence} if sequence > 1 else {}, "meshes": best,
        "fits": any(one["fits"] for one in best), "assumed": assumed,
    }  # fmt: skip


def shapes(which: str, devices: int, sequence: int = 1) -> list[tuple[int, int, int]]:
    """The meshes that a sweep is over, for what `sequence` leaves of the devices."""
    if which == "all":
        if sequence < 1 or devices % sequence:
            raise InputError(
                f"mesh.sequence is {sequence}: make it a divisor of the slice's {devices} devices"
            )
        devices //= sequence
        sizes = [size for size in range(1, devices + 1) if devices % size == 0]
        return [(d, f, t) for d, f, t in itertools.product(sizes, repeat=3) if d * f * t == devices]
    found = []
    for told in which.split(","):
        sizes = told.split("x")
        if len(sizes) != 3 or not all(size.isdigit() and int(size) for size in sizes):
            raise InputError(f"--sweep {told!r}: give data x fsdp x tensor, as in 1x16x1,2x8x1, or all")
        found.append(tuple(int(size) for size in sizes))
    return found
