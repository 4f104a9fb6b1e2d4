"""The home of what a compiled program moves: bytes of a chip's memory, and collectives between chips with how often they run.

Two phases are kept apart: loops that may end early (decoding), and the rest.
"""

import math
import re
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from instruct_jax.costs.hlo import Computation, Instruction, Module, array_bytes, called_by, parse, turns

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all", "send")
_ORDER = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
_IOTA = rf"\[([\d,]+)\]<={_ORDER}"
_FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call", "after-all",
         "partition-id", "replica-id", "opt-barrier", "iota"}  # fmt: skip


@dataclass(frozen=True)
class Collective:
    """A collective of a program: what each chip holds of the result in bytes, how often it runs, over which chips.

    `overlapped` says that it is started and awaited apart, so that the compiler computes meanwhile; `chips` is one of its groups, as
    places in the mesh; `in_layers` that it is inside a loop over a model's layers."""

    kind: str
    bytes: float
    times: int
    chips: tuple[int, ...]
    overlapped: bool
    loop: bool
    in_layers: bool = False

    @property
    def wire_bytes(self) -> float:
        """What a chip sends in all, with the ring algorithms that move the least."""
        n = len(self.chips)
        share = {
            "all-gather": (n - 1) / n,
            "all-to-all": (n - 1) / n,
            "all-reduce": 2 * (n - 1) / n,
            "reduce-scatter": n - 1,
        }
        return self.bytes * self.times * share.get(self.kind, 1.0)


@dataclass(frozen=True)
class Traffic:
    """Bytes of a chip's memory read and written by loops that may end early and by the rest, and the collectives."""

    loop_bytes: float = 0.0
    rest_bytes: float = 0.0
    collectives: tuple[Collective, ...] = ()

    @property
    def bytes(self) -> float:
        """All that is moved and sent."""
        return self.loop_bytes + self.rest_bytes + sum(one.wire_bytes for one in self.collectives)


def read(text: str, layers: frozenset[int] = frozenset()) -> Traffic:
    """The traffic of a compiled program's text. Loops are multiplied by their turns (early-ending ones by their limit), of a conditional
    the branch with the most bytes counts. `layers`: how many the models have, by which the loops over them are known."""
    module = parse(text)

    def visit(name: str, times: int, loop: bool, fused: bool, in_layers: bool) -> Traffic:
        inside, moved, found, parts = module.computations[name], 0.0, [], []
        for each in inside.instructions.values():
            collective = _collective(module, inside, each, times, loop)
            if collective:
                found.append(replace(collective, in_layers=in_layers))
            if not fused:
                moved += times * _moved(module, inside, each)
            if each.opcode == "while":
                count, early = turns(module, inside, each)
                over_layers = count in layers and not _loops(module, each.called("body"), layers)
                deeper = times * count, loop or early, fused, in_layers or over_layers
                parts += [visit(each.called(part), *deeper) for part in ("body", "condition")]
            elif each.opcode == "conditional":
                branches = [visit(called, times, loop, fused, in_layers) for called in called_by(each)]
                parts.append(max(branches, key=lambda branch: branch.bytes))
            elif collective is None or each.opcode == "call":
                within = times, loop, fused or each.opcode != "call", in_layers
                parts += [visit(called, *within) for called in called_by(each)]
        parts.append(Traffic(moved if loop else 0.0, 0.0 if loop else moved, tuple(found)))
        return Traffic(
            sum(part.loop_bytes for part in parts),
            sum(part.rest_bytes for part in parts),
            tuple(chain.from_iterable(part.collectives for part in parts)),
        )

    return visit(module.entry, 1, False, False, False)


def _loops(module: Module, name: str, counts: frozenset[int]) -> bool:
    """Whether a computation has a loop of so many turns: then it is itself over pieces or tokens, if by chance as many as layers."""
    inside = module.computations[name]
    return any(
        each.opcode == "while" and turns(module, inside, each)[0] in counts
        for each in inside.instructions.values()
    )


def _collective(
    module: Module, inside: Computation, each: Instruction, times: int, loop: bool
) -> Collective | None:
    """The collective that an instruction is, if it is one and is not a later mention of one that was counted."""
    opcode = each.opcode.removesuffix("-start")
    if each.opcode == "fusion" and "all-reduce-scatter" in each.name + (each.called("calls") or ""):
        inner = module.computations[each.called("calls")].instructions.values()
        groups = next(
            (one.attributes for one in inner if one.opcode.startswith("all-reduce")), each.attributes
        )
        return Collective("reduce-scatter", sum(array_bytes(each.shape)), times, _group(groups), False, loop)
    if each.opcode == "custom-call-start":  # SparseCore, the TPU's second kind of core, moves data by itself
        opcode = next((kind for kind in KINDS if each.name.startswith(kind)), "")
    if opcode not in KINDS:
        return None
    started = each.opcode.endswith("-start")
    if "async_collective_fusion_config" in each.attributes:
        # Split over several fusions, each of which names the collective: the first one counts.
        if not any("AsyncCollectiveStart" in one.attributes for one in inside.instructions.values()):
            return None
        started = True
    return Collective(opcode, _result_bytes(each, opcode), times, _group(each.attributes), started, loop)


def _result_bytes(each: Instruction, kind: str) -> float:
    sizes = array_bytes(each.shape)
    if not each.opcode.endswith("-start") or kind == "all-reduce":
        return sum(sizes)
    count = max(len(each.operands), 1)
    return sum(sizes[count : 2 * count]) or sum(sizes[:count])  # (operands, results, contexts)


def _group(attributes: str) -> tuple[int, ...]:
    """One group of chips that a collective runs over; of a permutation, a pair."""
    pair = re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", attributes)
    if pair:
        return int(pair[1]), int(pair[2])
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", attributes)
    if listed:
        return tuple(int(i) for i in listed[1].split(","))
    iota = re.search(rf"replica_groups={_IOTA}", attributes)
    if iota:
        return tuple(_places(*iota.groups()[1:]).reshape(_ints(iota[1]))[0].tolist())
    mesh = re.search(
        rf"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\({_ORDER}\))? ?\{{([^}}]*)\}}", attributes
    )
    if mesh:
        axes, dims, order, over = mesh.groups()
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
        over = re.findall(r"'(\w+)'", over)
        places = _places(dims or str(math.prod(sizes.values())), order).reshape(tuple(sizes.values()))
        return tuple(places[tuple(slice(None) if name in over else 0 for name in sizes)].ravel().tolist())
    return (0,)


def _places(dims: str, order: str | None) -> np.ndarray:
    """The devices 0, 1, ... in dimensions whose order is changed."""
    devices = np.arange(math.prod(_ints(dims))).reshape(_ints(dims))
    return devices if order is None else devices.transpose(_ints(order))


def _ints(text: str) -> list[int]:
    return [int(i) for i in text.split(",")]


def _moved(module: Module, inside: Computation, each: Instruction) -> float:
    """Bytes that an instruction reads from and writes to the chip's memory."""
    if each.opcode in _FREE:
        return 0.0
    reads = 0.0
    if not each.opcode.endswith("-done"):
        reads = sum(_read(module, inside, each, place) for place in range(len(each.operands)))
    return reads + (0.0 if each.opcode.endswith("-start") else _written(module, each))


def _read(module: Module, inside: Computation, each: Instruction, place: int) -> float:
    operand = inside.instructions.get(each.operands[place])
    size = sum(array_bytes(operand.shape, hbm_only=True)) if operand else 0.0
    if not size:
        return 0.0
    if each.opcode in ("dynamic-slice", "slice", "gather"):
        return min(size, sum(array_bytes(each.shape))) if place == 0 else size
    if each.opcode == "dynamic-update-slice":
        return 0.0 if place == 0 else size
    called = each.called("calls") if each.opcode == "fusion" else None
    return size if called is None else min(size, _part(module, module.computations[called], place, size))


def _part(module: Module, fused: Computation, place: int, size: float) -> float:
    """How much of a fusion's operand it reads: slices where nothing else is made of it."""
    parameter = fused.parameter(place)
    if parameter is None:
        return size
    total, ahead = 0.0, [parameter]
    while ahead:
        name = ahead.pop()
        for user in fused.users(name):
            if user.opcode == "bitcast":
                ahead.append(user.name)
            elif user.opcode in ("dynamic-slice", "slice", "gather"):
                total += sum(array_bytes(user.shape))
            elif user.opcode == "fusion":
                total += _part(
                    module, module.computations[user.called("calls")], user.operands.index(name), size
                )
            elif not (user.opcode in (*KINDS, "tuple", "custom-call") or _in_place(user, name)):
                return size
    return total


def _in_place(user: Instruction, name: str) -> bool:
    return user.opcode == "dynamic-update-slice" and user.operands[0] == name


def _written(module: Module, each: Instruction) -> float:
    """What an instruction writes: of an update in place the update, of a fusion what its root makes."""
    called = each.called("calls") if each.opcode == "fusion" else None
    if called is None:
        return sum(array_bytes(each.shape, hbm_only=True))
    fused = module.computations[called]
    root = fused.instructions[fused.root]
    parts = root.operands if root.opcode == "tuple" else (fused.root,)
    sizes = array_bytes(each.shape, hbm_only=True)
    if len(sizes) != len(parts):
        return sum(sizes)
    return sum(min(size, _made(fused, name)) for size, name in zip(sizes, parts, strict=True) if size)


def _made(fused: Computation, name: str) -> float:
    each = fused.instructions[name]
    if each.opcode == "bitcast":
        return _made(fused, each.operands[0])
    if each.opcode in ("parameter", *KINDS):
        return 0.0  # handed on, or counted where it was started
    if each.opcode == "dynamic-update-slice":
        return sum(array_bytes(fused.instructions[each.operands[1]].shape))
    return math.inf
