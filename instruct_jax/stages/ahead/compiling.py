"""Home of one experiment compiled for one slice: every program's memory, products, traffic and least time, and the whole's cost.

Nothing runs: the compiler is libtpu's own, the memory is its own account, the times are what the chip's peaks allow.
"""

import dataclasses
import math
import re
import time
from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from instruct_jax import devices
from instruct_jax.costs import flops, traffic
from instruct_jax.costs.roofline import link_seconds, roofline
from instruct_jax.devices import Chip
from instruct_jax.errors import InputError
from instruct_jax.sharding import make_mesh
from instruct_jax.stages import setup
from instruct_jax.stages.ahead import sending, work
from instruct_jax.stages.settings import section

ASSUMED = (
    "every time is predicted, none was measured: products run at the chip's peak, memory and links at theirs, and a real run is slower; "
    "time and chip-hours are the least, MFU the most",
    "collectives started and awaited apart run beside products, the others stop them; links carry rings in both directions",
    "operations divide evenly over the chips; of a kernel its whole grid counts, with blocks that a mask skips; softmax, norms and "
    "sampling are not counted",
)
REFILLED = (
    "train.refill: memory is of sampling with it; its operations, traffic and time are those of sampling without, as no text tells how "
    "often its loops turn: where responses end early, it takes less"
)


@dataclasses.dataclass(frozen=True)
class Slice:
    """The devices of a topology and what each of them is."""

    name: str
    devices: list
    chip: Chip

    def sizes(self, config: ConfigDict) -> setup.MeshSettings:
        """The config's mesh with its `data` told where it is -1; InputError where it has another number of devices."""
        settings = section(config, "mesh", setup.MeshSettings)
        inner = settings.fsdp * settings.sequence * settings.tensor
        data = settings.data if settings.data != -1 else max(len(self.devices) // max(inner, 1), 1)
        if data * inner != len(self.devices):
            raise InputError(
                f"mesh {data} x {settings.fsdp} x {settings.sequence} x {settings.tensor} = {data * inner} devices, but "
                f"{self.name} has {len(self.devices)}: set config.mesh.data, .fsdp, .sequence and .tensor so that their product "
                "is that, or choose another --topology"
            )
        return dataclasses.replace(settings, data=data)

    def mesh(self, config: ConfigDict):
        """The config's mesh over all of its devices; InputError as `sizes`."""
        sizes = self.sizes(config)
        return make_mesh(sizes.data, sizes.fsdp, sizes.tensor, sizes.sequence, devices=self.devices)


def open_slice(topology: str) -> Slice:
    """The slice of a name such as 'v5p:8x8x8'; InputError where there is none."""
    return Slice(topology, *devices.topology(topology))


def examine(
    config: ConfigDict,
    programs: Callable,
    place: Slice,
    *,
    only: str | None = None,
    rows: int | None = None,
    say: Callable = print,
    known: dict | None = None,
) -> dict:
    """Compiles the programs of an experiment (`only` one of them) for a slice -> a report, as JSON has it; `say` is told of each. What
    is `known` of a program already is not compiled again.

    `programs(config, mesh)` is the stage's. InputError for a mesh or a batch that does not divide.
    """
    mesh = place.mesh(config)
    with jax.set_mesh(mesh):
        found, law, layers = programs(config, mesh), sending.of(config, mesh), work.layers(config)
        plain = _plain(config, programs, mesh) if only in (None, "rollout") else {}
        if only is not None and only not in found:
            raise InputError(f"--only {only}: the programs are {', '.join(found)}")
        reports = {}
        for name, (jitted, arguments) in found.items():
            if name in (known or {}):
                reports[name] = known[name]
            elif only in (None, name):
                beside = resident_bytes(arguments, [other for _, other in found.values()])
                reports[name] = compile_one(
                    jitted, arguments, mesh, place.chip, beside, layers, plain.get(name)
                )
                reports[name]["law_bytes"] = law[name]._asdict() if name in law else None
                say(line(name, reports[name], place.chip))
    asked = work.of(config, rows)
    for name, report in reports.items():
        report["runs"], report["useful_flops"] = asked.programs[name]
    return {
        "experiment": config.name, "stage": config.stage, "config": config.to_dict(), "topology": place.name, "devices": len(place.devices),
        "chips": round(len(place.devices) * place.chip.share), "chip": dataclasses.asdict(place.chip), "mesh": dict(mesh.shape),
        "versions": devices.versions() | {"libtpu": devices.libtpu_version()}, "programs": reports,
        "fits": all(report["fits"] for report in reports.values()), "cost": cost(reports, asked, place, whole=only is None),
        "assumed": [*ASSUMED, *([REFILLED] if plain and "rollout" in reports else []), *asked.assumed],
    }  # fmt: skip


def _plain(config: ConfigDict, programs: Callable, mesh) -> dict:
    """{name: program without refilling} of those that refill: their loops end by one another, so that no limits tell their turns."""
    if not config.train.get("refill", False):
        return {}
    config = config.copy_and_resolve_references()
    config.train.refill = False
    return {"rollout": programs(config, mesh)["rollout"]}


def resident_bytes(arguments, everything: list) -> float:
    """What lies in a chip's memory while a program runs and is no argument of it: the arguments of the experiment's other programs."""
    mine = {id(leaf) for leaf in jax.tree.leaves(arguments)}
    others = {id(leaf): leaf for tree in everything for leaf in jax.tree.leaves(tree) if id(leaf) not in mine}
    return sum(share_bytes(leaf) for leaf in others.values())


def share_bytes(leaf) -> float:
    """A device's share of an abstract array, in bytes; nothing where it is kept in the host's memory."""
    sharding = getattr(leaf, "sharding", None)
    if getattr(sharding, "memory_kind", None) == "pinned_host" or jax.dtypes.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    ):
        return 0
    shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize


def compile_one(
    jitted, arguments, mesh, chip: Chip, beside: float, layers: frozenset[int], plain: tuple | None = None
) -> dict:
    """One program's report; `beside` is what else lies in a chip's memory meanwhile, `layers` how many its models have. A program that
    is too large does not fit. All but memory is of the program `plain` (jitted, arguments), where there is one; it has no time where
    that is too large."""
    start = time.perf_counter(), time.process_time()
    traced = jitted.trace(*arguments)
    counted = traced if plain is None else plain[0].trace(*plain[1])
    products = flops.count(counted.jaxpr)
    mine = flops.Flops(*(part / mesh.size for part in products))
    report = {"flops_per_chip": mine._asdict(), "resident_bytes": beside, "hbm_bytes": chip.hbm_bytes}
    alone = beside + sum(share_bytes(leaf) for leaf in jax.tree.leaves(arguments))
    if alone > chip.hbm_bytes:
        told = f"arguments and what lies beside them are {alone / devices.GIB:.1f} GiB of {chip.hbm_bytes / devices.GIB:.2f} by themselves"
        return report | _times(start) | {"fits": False, "needed_bytes": None, "refused": told}
    compiled, refused = _compiled(traced)
    if refused:
        return report | _times(start) | {"fits": False, "needed_bytes": None, "refused": refused}
    report |= _times(start) | memory(compiled)
    report["needed_bytes"] += beside
    report["fits"] = report["needed_bytes"] <= chip.hbm_bytes
    if plain is not None:
        compiled, refused = _compiled(counted)
        if refused:
            return report | {"untimed": f"without train.refill {refused}"}
    seen = traffic.read(compiled.as_text(), layers)
    places = [tuple(device.coords) for device in mesh.devices.flat]
    phases = roofline(mine, seen, places, chip)
    return report | {
        "memory_traffic_bytes": {"loop": seen.loop_bytes, "rest": seen.rest_bytes},
        "collectives": summary(seen, places, chip), "sent_bytes": sum(one.wire_bytes for one in seen.collectives),
        "waited_for_bytes": max((one.bytes for one in seen.collectives if one.in_layers and not one.overlapped), default=0.0),
        "phases": {name: part._asdict() for name, part in phases.items()},
        "seconds": sum(part.seconds for part in phases.values()),
        "bound": max(phases.values(), key=lambda part: part.seconds).bound,
    }  # fmt: skip


def _compiled(traced) -> tuple:
    """(the compiled program, None), or (None, why) where it is too large."""
    try:
        return traced.lower().compile(), None
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None, _refusal(str(error))


def _times(start: tuple[float, float]) -> dict:
    return {
        "compile_seconds": time.perf_counter() - start[0],
        "compile_cpu_seconds": time.process_time() - start[1],
    }


def memory(compiled) -> dict:
    """A chip's bytes by the compiler's account. `needed_bytes` is what it reserves: arguments, results that take no argument's place,
    temporaries and code; `peak_bytes` is what is alive at once at the most."""
    seen = compiled.memory_analysis()
    arguments, results = seen.argument_size_in_bytes, seen.output_size_in_bytes - seen.alias_size_in_bytes
    code = seen.generated_code_size_in_bytes
    return {
        "argument_bytes": arguments, "result_bytes": results, "temporary_bytes": seen.temp_size_in_bytes, "code_bytes": code,
        "peak_bytes": seen.peak_memory_in_bytes, "needed_bytes": arguments + results + seen.temp_size_in_bytes + code,
    }  # fmt: skip


def _refusal(message: str) -> str:
    """The compiler's own sentence on a program that is too large."""
    told = re.search(r"[^.:\n]*\([\d.]+[KMG]\) exceeds available HBM \([\d.]+[KMG]\)", message)
    return told[0].strip() if told else message.splitlines()[0][:300]


def summary(seen: traffic.Traffic, places: list, chip: Chip) -> list[dict]:
    """Collectives by kind, size of the group, phase and whether they overlap: bytes that a chip sends, and their time."""
    groups: dict[tuple, list] = {}
    for one in seen.collectives:
        groups.setdefault((one.kind, len(one.chips), one.loop, one.overlapped), []).append(one)
    rows = []
    for (kind, size, loop, overlapped), part in groups.items():
        phase = "loop" if loop else "rest"
        rows.append(
            {
                "kind": kind, "chips": size, "phase": phase, "overlapped": overlapped, "count": sum(one.times for one in part),
                "wire_bytes": sum(one.wire_bytes for one in part), "seconds": sum(link_seconds(one, places, chip) for one in part),
            }
        )  # fmt: skip
    return sorted(rows, key=lambda row: -row["seconds"])


def cost(reports: dict, asked: work.Work, place: Slice, whole: bool) -> dict | None:
    """Time, chip-hours and MFU of the whole experiment; None where a program was left out or could not be compiled."""
    if not whole or any("seconds" not in report for report in reports.values()):
        return None
    seconds = sum(report["seconds"] * report["runs"] for report in reports.values())
    useful = sum(report["useful_flops"] * report["runs"] for report in reports.values())
    counted = sum(sum(report["flops_per_chip"].values()) * report["runs"] for report in reports.values())
    runs = max(report["runs"] for report in reports.values())
    peak = place.chip.bf16_flops * len(place.devices)
    return {
        "runs": runs, "seconds_a_run": seconds / runs, "hours": seconds / 3600,
        "chip_hours": seconds / 3600 * len(place.devices) * place.chip.share, "useful_flops": useful,
        "mfu": useful / (seconds * peak), "hfu": counted * len(place.devices) / (seconds * peak),
        "tokens_a_second": asked.tokens * runs / seconds,
    }  # fmt: skip


def line(name: str, report: dict, chip: Chip) -> str:
    """What is printed of a program once it is compiled."""
    took = (
        f"compiled in {report['compile_seconds']:.0f} s ({report['compile_cpu_seconds']:.0f} s of processor)"
    )
    if "refused" in report:
        return f"{name}: {took}: does not fit: {report['refused']}"
    gib = {
        key: report[f"{key}_bytes"] / devices.GIB
        for key in ("argument", "temporary", "peak", "resident", "needed")
    }
    verdict = "fits" if report["fits"] else "DOES NOT FIT"
    verdict += f"; no time, for {report['untimed']}" if "untimed" in report else ""
    return (
        f"{name}: {took}; arguments {gib['argument']:.2f}, temporaries {gib['temporary']:.2f} (peak in use {gib['peak']:.2f}), beside it "
        f"{gib['resident']:.2f}, needed {gib['needed']:.2f} of {chip.hbm_bytes / devices.GIB:.2f} GiB: {verdict}"
    )
