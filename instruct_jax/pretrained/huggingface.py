"""The home of loading: Hugging Face folders of safetensors, and any Source's tensors straight onto a mesh.

Every process reads only the slices that its devices hold, a layer at a time, so that host memory never holds much more than one
stacked parameter's slice beside what lies on the devices. Nothing is executed: pickled weights are refused.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from instruct_jax.errors import InputError
from instruct_jax.models.transformer import PolicyModel, ScalarModel
from instruct_jax.models.variants import TransformerConfig
from instruct_jax.pretrained import families
from instruct_jax.pretrained.families import Tensor
from instruct_jax.pretrained.source import Source
from instruct_jax.sharding import param_shardings

FLOATS = ("F32", "F16", "BF16", "F64")
PIECE = 1 << 24  # elements of a tensor that are in memory at once, on their way


def open_source(path: Path | str) -> Source:
    """A folder with config.json and model.safetensors, or model.safetensors.index.json and its shards.

    InputError names a file that is missing, truncated, pickled or otherwise not to be read.
    """
    folder = Path(path).expanduser()
    config = read_json(folder / "config.json")
    files = _files(folder)
    shapes: dict[str, tuple[int, ...]] = {}
    home: dict[str, Path] = {}
    for file, named in files.items():
        with _open(file) as opened:
            there = {name: opened.get_slice(name) for name in opened.keys()}
            for name in there if named is None else named:
                if name not in there:
                    raise InputError(f"{file}: {name} is missing, which the index says is there")
                if there[name].get_dtype() not in FLOATS:
                    if not name.endswith(families.BUFFERS):
                        raise InputError(
                            f"{file}: {name} is of type {there[name].get_dtype()}: {', '.join(FLOATS)} are read; quantised weights "
                            "load from GGUF files only"
                        )
                    continue
                shapes[name], home[name] = tuple(there[name].get_shape()), file

    def read(name: str, rows: slice) -> np.ndarray:
        with _open(home[name]) as opened:
            return opened.get_slice(name)[rows] if shapes[name] else opened.get_tensor(name)

    return Source(folder, config, shapes, read)


def read_json(path: Path) -> dict:
    """A JSON object from a file; InputError where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path} is missing: name a folder that holds a model in Hugging Face's format"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no JSON object")
    return found


def _files(folder: Path) -> dict[Path, list[str] | None]:
    """The files with weights and the tensors to find in each (None: all that there are)."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.exists():
        placed = read_json(index).get("weight_map")
        if not isinstance(placed, dict) or not placed:
            raise InputError(f"{index}: weight_map is missing")
        files: dict[Path, list[str] | None] = {}
        for name, file in placed.items():
            if not isinstance(file, str) or Path(file).name != file:
                raise InputError(f"{index}: {name} is said to be in {file!r}, which is no file name")
            files.setdefault(folder / file, []).append(name)
        return files
    if single.exists():
        return {single: None}
    pickled = sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
    if pickled:
        raise InputError(
            f"{pickled[0]} is pickled, and reading it could run any code: save the model as safetensors first "
            "(transformers: save_pretrained)"
        )
    raise InputError(
        f"{single} is missing, and so is model.safetensors.index.json: name a folder that holds one, or of a run the "
        "stage's own, such as sft or ppo_ptx"
    )


def _open(file: Path):
    try:
        return safe_open(file, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} cannot be read as safetensors ({error}): download it again") from error


def abstract_params(config: TransformerConfig, mesh, scalar: bool = False):
    """Shapes and layouts of the parameters of a policy, or of a scalar model."""
    model, ones = (ScalarModel if scalar else PolicyModel)(config), jax.ShapeDtypeStruct((1, 2), jnp.int32)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, x)["params"], ones)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        param_shardings(shapes, mesh),
    )


def load(source: Source, config: TransformerConfig, mesh, scalar: bool = False):
    """The parameters on the mesh, in float32: a policy's, or, `scalar`, a reward model's with its score's weight.

    InputError names the first tensor that is missing, in another shape, or has no place in the model.
    """
    abstract = abstract_params(config, mesh, scalar)
    flat = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(abstract)}  # fmt: skip
    places, bias = _check(source, config, flat, scalar), source.config.get("reward_bias", 0.0)
    if isinstance(bias, bool) or not isinstance(bias, int | float) or not math.isfinite(bias):
        raise InputError(f"{source.config_file}: reward_bias is {bias!r}: it must be a number")

    def leaf(path, struct):
        if path not in places:  # the score of other tools has no bias, ours says it in config.json
            return _on_devices(struct, lambda index: np.full(struct.shape, bias, np.float32)[index])
        return _on_devices(struct, lambda index: _read(source, *places[path], struct.shape, index))

    return jax.tree.unflatten(jax.tree.structure(abstract), [leaf(*item) for item in flat.items()])


def _check(
    source: Source, config: TransformerConfig, flat: dict, scalar: bool
) -> dict[str, tuple[Tensor, int]]:
    """{path of ours: (their tensor, which part of it)}, after all names and shapes were compared."""
    family, places, known = families.FAMILIES[config.family], {}, set()
    # A bare model saved without its head leaves the first part of the body's name out.
    first = family.body.split(".")[0] + "."
    bare = not any(name.startswith(first) for name in source.shapes)
    for tensor in families.tensors(config, scalar):
        if bare:
            tensor = Tensor(tensor.name.removeprefix(first), tensor.parts, tensor.layout)
        layered = "{n}" in tensor.name
        ours = flat[tensor.parts[0]].shape[1:] if layered else flat[tensor.parts[0]].shape
        if tensor.parts[0] in families.VOCABULARIES:
            ours = (config.vocab, *ours[1:])
        wanted = tensor.layout.shape(ours)
        for n in range(config.layers if layered else 1):
            name = tensor.name.format(n=n)
            if name not in source.shapes:
                raise InputError(
                    f"{source.path}: tensor {name} is missing: is this a whole {config.family} model?"
                )
            found = source.shapes[name]
            longer = tensor.parts[0] == "embed/positions" and found[1:] == wanted[1:] and found[0] > wanted[0]
            if found != wanted and not longer:
                raise InputError(f"{source.path}: {name} has shape {found}, config.json makes it {wanted}")
            known.add(name)
        places |= {part: (tensor, i) for i, part in enumerate(tensor.parts)}
    spare = {family.head} if config.tied or scalar else set()
    surplus = sorted(
        name for name in source.shapes if name not in known | spare and not name.endswith(families.BUFFERS)
    )
    if surplus:
        raise InputError(f"{source.path}: {config.family} has no place for tensor {surplus[0]}"
                         f"{' and others' if len(surplus) > 1 else ''}")  # fmt: skip
    return places


def _on_devices(struct, make: Callable) -> jax.Array:
    """An array of the struct's shape and layout from `make(index)`, called once for every different slice held here."""
    made, shards = {}, []
    for device, index in struct.sharding.addressable_devices_indices_map(struct.shape).items():
        key = tuple(part.indices(size) for part, size in zip(index, struct.shape))
        if key not in made:
            made[key] = make(index)
        shards.append(jax.device_put(made[key], device))
    return jax.make_array_from_single_device_arrays(struct.shape, struct.sharding, shards)


def _read(source: Source, tensor: Tensor, part: int, shape, index) -> np.ndarray:
    """One slice of an array of ours; rows that pad the vocabulary are 0."""
    bounds = [part.indices(size)[:2] for part, size in zip(index, shape)]
    out = np.zeros([high - low for low, high in bounds], np.float32)
    if "{n}" not in tensor.name:
        _read_into(out, source, tensor.name, tensor, part, bounds)
        return out
    for i, n in enumerate(range(*bounds[0])):
        _read_into(out[i], source, tensor.name.format(n=n), tensor, part, bounds[1:])
    return out


def _read_into(out, source: Source, name: str, tensor: Tensor, part: int, bounds) -> None:
    axis = tensor.layout.rows
    if axis is None:
        out[...] = tensor.layout.split(source.read(name, slice(None)))[part][tuple(slice(*b) for b in bounds)]
        return
    axis = min(axis, len(bounds) - 1)
    there, *rest = source.shapes[name]
    low, high = bounds[axis][0], min(bounds[axis][1], there)
    step = max(PIECE // max(int(np.prod(rest)), 1), 1)
    for start in range(low, high, step):
        end = min(start + step, high)
        piece = tensor.layout.split(source.read(name, slice(start, end)))[part]
        within = tuple(slice(None) if i == axis else slice(*b) for i, b in enumerate(bounds))
        at = tuple(slice(start - low, end - low) if i == axis else slice(None) for i in range(len(bounds)))
        out[at] = piece[within]
