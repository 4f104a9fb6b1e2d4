"""Home of what would fit, and of which mesh is best: both by compiling, never by a formula alone."""

import itertools
from collections.abc import Callable, Iterator

import jax
from ml_collections import ConfigDict

from instruct_jax.errors import InputError
from instruct_jax.stages import setup
from instruct_jax.stages.ahead import compiling
from instruct_jax.stages.ahead.compiling import Slice
from instruct_jax.stages.settings import section

PIECES = {
    "rollout": ("train.rollout_size",),
    "scoring": ("train.microbatch_size",),
    "update": ("train.microbatch_size", "train.ptx_microbatch_size"),
    "train_step": ("train.microbatch_size",),
}


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
    """What was tried for each program of `report` that does not fit, in order, each change on top of the last, up to one that fits."""
    tried = []
    for name, found in report["programs"].items():
        overrides: dict = {}
        for change in () if found["fits"] else changes(config, name):
            overrides = overrides | change
            tried.append(
                {"program": name, "overrides": overrides}
                | _attempt(changed(config, overrides), programs, place, name)
            )
            say(f"tried {' '.join(f'{field}={value}' for field, value in overrides.items())}: "
                + ("fits" if tried[-1]["fits"] else tried[-1].get("refused", "does not fit")))  # fmt: skip
            if tried[-1]["fits"]:
                break
    return tried


def _attempt(config: ConfigDict, programs: Callable, place: Slice, name: str) -> dict:
    try:
        return compiling.examine(config, programs, place, only=name, say=lambda told: None)["programs"][name]
    except InputError as error:
        return {"fits": False, "refused": str(error)}


def changes(config: ConfigDict, program: str) -> Iterator[dict]:
    """What may make a program smaller, the cheapest first: recomputation, pieces by fours, then more of the mesh for one model."""
    models = [name for name in ("model", "reward_model") if name in config]
    if any(config[name].get("remat", "none") != "full" for name in models):
        yield {f"{name}.remat": "full" for name in models}
    mesh = section(config, "mesh", setup.MeshSettings)
    sizes = {field: _size(config, field) for field in PIECES[program]}
    while any(size > mesh.data * mesh.fsdp for size in sizes.values()):
        sizes = {field: _smaller(size, mesh.data * mesh.fsdp) for field, size in sizes.items()}
        yield dict(sizes)
    fsdp, tensor = mesh.fsdp, mesh.tensor
    if mesh.data > 1:
        fsdp *= mesh.data
        yield {"mesh.data": 1, "mesh.fsdp": fsdp}
    while tensor < 16 and fsdp % 2 == 0:
        fsdp, tensor = fsdp // 2, tensor * 2
        yield {"mesh.data": 1, "mesh.fsdp": fsdp, "mesh.tensor": tensor} | {
            field: _smaller(size, fsdp) for field, size in sizes.items()
        }


def _size(config: ConfigDict, field: str) -> int:
    """How many rows are taken at once where a field says, and where it does not."""
    train = config.train
    whole = {
        "train.rollout_size": lambda: train.batch_size,
        "train.microbatch_size": lambda: (
            train.minibatch_size if "minibatch_size" in train else config.data.batch_size
        ),
        "train.ptx_microbatch_size": lambda: train.minibatch_size * train.get("ptx_ratio", 8),
    }[field]
    return train.get(field.removeprefix("train.")) or whole()


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
    found = []
    for data, fsdp, tensor in shapes(which, len(place.devices)):
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
        seen = report["programs"]
        needed = [one["needed_bytes"] for one in seen.values()]
        refused = [
            f"{name}: {one.get('refused', 'does not fit')}" for name, one in seen.items() if not one["fits"]
        ]
        entry |= {"fits": report["fits"], "cost": report["cost"], "programs": seen, "why": "; ".join(refused)}
        found.append(entry | {"needed_bytes": None if None in needed else max(needed)})
        jax.clear_caches()
    best = sorted(
        found,
        key=lambda one: (not one["fits"], one["cost"]["seconds_a_run"] if one["cost"] else float("inf")),
    )
    return {
        "experiment": config.name, "stage": config.stage, "config": config.to_dict(), "topology": place.name,
        "chips": round(len(place.devices) * place.chip.share), "meshes": best, "fits": any(one["fits"] for one in best),
        "assumed": list(compiling.ASSUMED),
    }  # fmt: skip


def shapes(which: str, devices: int) -> list[tuple[int, int, int]]:
    """The meshes that a sweep is over."""
    if which == "all":
        sizes = [size for size in range(1, devices + 1) if devices % size == 0]
        return [(d, f, t) for d, f, t in itertools.product(sizes, repeat=3) if d * f * t == devices]
    found = []
    for told in which.split(","):
        sizes = told.split("x")
        if len(sizes) != 3 or not all(size.isdigit() and int(size) for size in sizes):
            raise InputError(f"--sweep {told!r}: give data x fsdp x tensor, as in 1x16x1,2x8x1, or all")
        found.append(tuple(int(size) for size in sizes))
    return found
