"""The home of the mesh and of the one table that says how every parameter is laid out over it.

The paper does not describe its parallelism. Ours: `data` (copies), `fsdp` (parameters and optimizer moments in
slices, gathered where used), `sequence` (the tokens of a row, for long contexts; parameters are sliced over it too) and
`tensor` (heads, MLP channels and vocabulary). XLA's partitioner does the rest.
"""

import math
import re
from collections import Counter
from functools import partial

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from instruct_jax.errors import InputError

AXES = ("data", "fsdp", "sequence", "tensor")
BATCH_AXES = ("data", "fsdp")
SLICED = ("fsdp", "sequence")
HOST_MEMORY = "pinned_host"

# Optimizer moments and averages follow the same rows, because their paths end with the parameter's.
RULES = (
    (r"(embed|unembed)/tokens", PartitionSpec("tensor", SLICED)),
    (r"embed/positions", PartitionSpec(None, SLICED)),
    (r"layers/((attention|mlp)(_post)?|q|k)_norm/(scale|bias)", PartitionSpec()),
    (r"layers/(q|k|v|gate|up)/kernel", PartitionSpec(None, SLICED, "tensor")),
    (r"layers/(q|k|v|gate|up)/bias", PartitionSpec(None, "tensor")),
    (r"layers/(out|down)/kernel", PartitionSpec(None, "tensor", SLICED)),
    (r"layers/(out|down)/bias", PartitionSpec()),
    (r"norm/(scale|bias)", PartitionSpec()),
    (r"head/(kernel|bias)", PartitionSpec()),
)
_COMPILED = tuple((re.compile(rf"(?:.*/)?{pattern}"), spec) for pattern, spec in RULES)


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1, sequence: int = 1, devices=None) -> Mesh:
    """A mesh of data x fsdp x sequence x tensor devices (all devices, or those given); a wrong product raises InputError.

    Of several TPU slices `data` goes over the slices, whose network is slower than the links inside one.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = (data, fsdp, sequence, tensor)
    for name, size in zip(AXES, sizes, strict=True):
        if size < 1:
            raise InputError(f"mesh.{name} is {size}: it must be at least 1")
    if math.prod(sizes) != len(devices):
        raise InputError(
            f"{' x '.join(f'mesh.{name}' for name in AXES)} is {' x '.join(map(str, sizes))} = {math.prod(sizes)}, "
            f"but there are {len(devices)} devices: make the product {len(devices)}"
        )
    types = (AxisType.Auto,) * len(AXES)
    slices = Counter(getattr(device, "slice_index", 0) for device in devices)
    if len(slices) > 1 and devices[0].platform != "tpu":  # GPU nodes call themselves slices
        return Mesh(np.asarray(devices).reshape(sizes), AXES, axis_types=types)
    if len(slices) > 1:
        return Mesh(_over_slices(sizes, devices, slices), AXES, axis_types=types)
    try:
        return jax.make_mesh(sizes, AXES, axis_types=types, devices=devices)
    except NotImplementedError:  # an axis of the mesh takes a part of an axis of the TPU's torus
        split = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
        return Mesh(split, AXES, axis_types=types)


def _over_slices(sizes: tuple[int, ...], devices: list, slices: Counter) -> np.ndarray:
    """The devices in the shape of `sizes`, each slice a part of `data`; InputError where `data` cannot go over them."""
    data, *inner = sizes
    if len(set(slices.values())) > 1 or data % len(slices):
        raise InputError(
            f"mesh.data is {data}, but the devices are of {len(slices)} TPU slices ({', '.join(map(str, slices.values()))} of each): "
            f"make mesh.data a multiple of {len(slices)} and the mesh take all devices, for only mesh.data goes over slices"
        )
    return mesh_utils.create_hybrid_device_mesh(
        (data // len(slices), *inner), (len(slices), 1, 1, 1), devices, allow_split_physical_axes=True
    )


def param_spec(path: str) -> PartitionSpec:
    """The row of RULES for a path such as 'opt_state/mu/embed/tokens'; none or several rows raise InputError."""
    specs = [spec for pattern, spec in _COMPILED if pattern.fullmatch(path)]
    if len(specs) != 1:
        raise InputError(
            f"parameter {path!r} matches {len(specs)} rows of sharding.RULES: it must match exactly one"
        )
    return specs[0]


def param_shardings(tree, mesh: Mesh):
    """NamedShardings in the shape of `tree` (parameters or a whole train state; arrays or shapes).

    Scalars and random keys are replicated. A dimension that does not divide over its axes raises InputError.
    """

    def sharding(path, leaf):
        if leaf.ndim == 0 or jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return NamedSharding(mesh, PartitionSpec())
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = param_spec(name)
        for size, axis in zip(leaf.shape, spec, strict=False):
            axes = axis if isinstance(axis, tuple) else (axis,) if axis else ()
            parts = math.prod(mesh.shape[axis] for axis in axes)
            if size % parts:
                over = " x ".join(f"mesh.{axis}" for axis in axes if mesh.shape[axis] > 1)
                raise InputError(
                    f"parameter {name!r} of shape {leaf.shape} has a dimension {size} that does not divide over "
                    f"{over} = {parts}: choose a {over} that divides {size}"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(sharding, tree)


def in_host_memory(sharding: NamedSharding) -> NamedSharding:
    """The same layout in the memory of the devices' hosts; InputError where the devices cannot read from there."""
    mine = [d for d in sharding.mesh.devices.flat if d.process_index == jax.process_index()]
    if not all(HOST_MEMORY in {memory.kind for memory in d.addressable_memories()} for d in mine[:1]):
        raise InputError(
            f"train.offload: {mine[0].device_kind} devices have no {HOST_MEMORY} memory; leave train.offload empty"
        )
    return sharding.with_memory_kind(HOST_MEMORY)


def fetched(tree):
    """`tree` with what lies in host memory brought to the devices; traceable, and nothing where nothing lies there."""
    return jax.tree.map(lambda x: jax.device_put(x, jax.memory.Space.Device) if _is_away(x) else x, tree)


def returned(tree, like):
    """`tree` with the leaves whose counterparts in `like` lie in host memory put there; traceable."""
    return jax.tree.map(
        lambda x, old: jax.device_put(x, jax.memory.Space.Host) if _is_away(old) else x, tree, like
    )


def _is_away(x) -> bool:
    return jax.typeof(x).memory_space == jax.memory.Space.Host


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The layout of a batch: rows over data and fsdp, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_devices(mesh) -> int:
    """Over how many devices the rows of a batch are spread."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def check_divides(batch: int, mesh: Mesh, field: str = "") -> None:
    """Raises InputError unless `batch` rows, those of `field`, divide over the mesh, naming batch sizes that would."""
    rows = batch_devices(mesh)
    if batch < 1 or batch % rows:
        lower, upper = batch // rows * rows, max(-(-batch // rows), 1) * rows
        nearest = f"{lower} or {upper}" if lower > 0 else f"{upper}"
        raise InputError(
            f"{field}{field and ': '}a batch of {batch} rows does not divide over mesh.data x mesh.fsdp = {mesh.shape['data']} x "
            f"{mesh.shape['fsdp']} = {rows} devices: use a batch of {nearest}, or another mesh"
        )


def check_tokens(length: int, mesh: Mesh) -> None:
    """Raises InputError unless rows of `length` tokens divide over mesh.sequence, naming lengths that would."""
    parts = mesh.shape["sequence"]
    if length % parts:
        lower = length // parts * parts
        raise InputError(
            f"rows of {length} tokens do not divide over mesh.sequence = {parts}: use {lower} or {lower + parts} "
            "tokens (text.max_prompt + text.max_response, train.ptx_length), or another mesh"
        )


def place(tree, shardings):
    """`tree` on the devices of `shardings` (one for all, or a tree of them), for any number of processes.

    Every process passes the same whole arrays. A leaf that already lies there may share its buffer with the result.
    """

    def put(sharding, leaf):
        if sharding.is_fully_addressable or isinstance(leaf, jax.Array):
            return jax.device_put(leaf, sharding)
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(lambda sharding, part: jax.tree.map(partial(put, sharding), part), shardings, tree)


def batch_share(mesh: Mesh) -> tuple[int, int, int]:
    """(start, stop, of): this process's devices hold the rows start / of to stop / of of every batch; (0, 1, 1) is all."""
    sharding, of = batch_sharding(mesh), batch_devices(mesh)
    if sharding.is_fully_addressable:
        return 0, 1, 1
    held = [index[0].indices(of) for index in sharding.addressable_devices_indices_map((of,)).values()]
    return min(start for start, _, _ in held), max(stop for _, stop, _ in held), of


def place_share(tree, share: tuple[int, int, int], mesh: Mesh):
    """A batch on the mesh, of which every process passes its own share of the rows, that of `batch_share`."""
    start, stop, of = share
    sharding = batch_sharding(mesh)

    def put(leaf):
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        rows = leaf.shape[0] // (stop - start)
        total = rows * of

        def held(index):
            first, last, _ = index[0].indices(total)
            return leaf[first - rows * start : last - rows * start]

        return jax.make_array_from_callback((total, *leaf.shape[1:]), sharding, held)

    return jax.tree.map(put, tree)


def fetch(x: jax.Array) -> np.ndarray:
    """The whole of an array that may lie on the devices of several processes, all of which must ask for it at the same point."""
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    return multihost_utils.process_allgather(x, tiled=True)


def mesh_device():
    """What the devices of jax.set_mesh's mesh are (`platform`, `device_kind`), those compiled for ahead of time too; None without one."""
    return jax.sharding.get_abstract_mesh().abstract_device


def current_mesh(rows: int):
    """The mesh of jax.set_mesh if it has our axes, several devices and `rows` divide over it, else None; None inside `by_rows`."""
    mesh = jax.sharding.get_abstract_mesh()
    if tuple(mesh.axis_names) != AXES or mesh.size == 1 or mesh.manual_axes or rows % batch_devices(mesh):
        return None
    return mesh


def batch_parts(rows: int) -> int:
    """Over how many devices a batch of `rows` is spread under the mesh of jax.set_mesh, 1 where it is not."""
    mesh = current_mesh(rows)
    return 1 if mesh is None else batch_devices(mesh)


def by_rows(call, rows: int):
    """`call(params, batch)` -> batch, by every device on its own part of `rows` rows: devices that share no rows wait for each other
    in no loop of it. `params` are gathered but for `tensor`."""
    if current_mesh(rows) is None:
        return call
    batch = PartitionSpec(BATCH_AXES)
    # All axes where none is left to the partitioner: TPU kernels take nothing less.
    axes = AXES if rows_apart(rows) else BATCH_AXES
    return jax.shard_map(
        call, in_specs=(PartitionSpec(), batch), out_specs=batch, axis_names=set(axes), check_vma=False
    )


def rows_apart(rows: int) -> bool:
    """Whether the mesh of jax.set_mesh spreads `rows` rows and splits nothing of what one row needs: no `tensor`, no `sequence`."""
    mesh = current_mesh(rows)
    return mesh is not None and mesh.size == batch_devices(mesh)


def alone() -> bool:
    """Whether what is traced is inside `by_rows` with nothing left to split: every device computes by itself."""
    mesh = jax.sharding.get_abstract_mesh()
    left = [size for name, size in mesh.shape.items() if name not in mesh.manual_axes]
    return bool(mesh.manual_axes) and max(left, default=1) == 1


def splits_tokens() -> bool:
    """Whether the mesh of jax.set_mesh splits the tokens of a row."""
    mesh = jax.sharding.get_abstract_mesh()
    return tuple(mesh.axis_names) == AXES and mesh.shape["sequence"] > 1


def constrain_rows(x_BX: jax.Array) -> jax.Array:
    """Pins the rows of an activation to the batch's layout, so that the partitioner never gathers the batch. Where they divide, they
    go over `sequence` too: for generation, which has no tokens to split."""
    mesh = current_mesh(x_BX.shape[0])
    if mesh is None:
        return x_BX
    spread = x_BX.shape[0] % (batch_devices(mesh) * mesh.shape["sequence"]) == 0
    return jax.lax.with_sharding_constraint(
        x_BX, PartitionSpec((*BATCH_AXES, "sequence") if spread else BATCH_AXES)
    )


def constrain_tokens(x_BTD: jax.Array) -> jax.Array:
    """Pins the rows of an activation to the batch's layout and its tokens to `sequence`, over which they should divide."""
    mesh = current_mesh(x_BTD.shape[0])
    if mesh is None:
        return x_BTD
    tokens = "sequence" if x_BTD.shape[1] % mesh.shape["sequence"] == 0 else None
    return jax.lax.with_sharding_constraint(x_BTD, PartitionSpec(BATCH_AXES, tokens))


def look_up(rows, *ids_BT: jax.Array) -> jax.Array:
    """`rows(*ids_BT)`, looked up in tables whose channels lie over fsdp x sequence, with the channels where they are: devices exchange
    tokens and never the tables. [B, T, D] in the layout of `constrain_tokens`."""
    mesh = current_mesh(ids_BT[0].shape[0])
    if mesh is None:
        return rows(*ids_BT)
    pin = jax.lax.with_sharding_constraint
    x_BTD = rows(*(pin(ids, PartitionSpec("data")) for ids in ids_BT))
    return constrain_tokens(pin(x_BTD, PartitionSpec("data", None, SLICED)))


def constrain_params(tree):
    """Pins a tree of parameters (or gradients) to the table under jax.set_mesh; the tree itself where there is no such mesh."""
    return _constrain(tree, lambda spec: spec)


def gather_fsdp(params):
    """Parameters whole on every device of `fsdp` and `sequence`, still split over `tensor`: the layout to decode in."""
    return _constrain(
        params, lambda spec: PartitionSpec(*(None if axis == SLICED else axis for axis in spec))
    )


def _constrain(tree, change):
    mesh = jax.sharding.get_abstract_mesh()
    if tuple(mesh.axis_names) != AXES or mesh.size == 1:
        return tree

    def pin(path, leaf):
        if leaf.ndim == 0:
            return leaf
        spec = param_spec(jax.tree_util.keystr(path, simple=True, separator="/"))
        return jax.lax.with_sharding_constraint(leaf, change(spec))

    return jax.tree_util.tree_map_with_path(pin, tree)
