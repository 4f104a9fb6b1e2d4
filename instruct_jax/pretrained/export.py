"""The home of export: our parameters as a folder of config.json and safetensors that Hugging Face transformers loads.

A shard is gathered and written at a time, into a folder beside the wanted one that takes its name when all is there.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from instruct_jax.errors import InputError
from instruct_jax.models.variants import TransformerConfig
from instruct_jax.pretrained import families
from instruct_jax.pretrained.families import Tensor

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
SHARD = 4 << 30  # bytes


def export_policy(
    params, config: TransformerConfig, folder: Path | str, *, dtype: str = "float32", special_ids: dict | None = None,
    write_tokenizer: Callable[[Path], None] | None = None, shard_bytes: int = SHARD,
) -> None:  # fmt: skip
    """Writes a policy to `folder`, for AutoModelForCausalLM; InputError if the folder is there already.

    `special_ids` go into config.json (bos_token_id, eos_token_id, pad_token_id); `write_tokenizer(folder)` adds its files.
    """
    hf = _config(config, families.FAMILIES[config.family].causal, dtype, special_ids)
    with _whole(folder) as part:
        _write(params, config, part, hf, dtype, shard_bytes, scalar=False)
        if write_tokenizer:
            write_tokenizer(part)


def export_reward(
    params, config: TransformerConfig, folder: Path | str, *, dtype: str = "float32", special_ids: dict | None = None,
    write_tokenizer: Callable[[Path], None] | None = None, shard_bytes: int = SHARD,
) -> None:  # fmt: skip
    """Writes a reward model to `folder`, for AutoModelForSequenceClassification with one label, as TRL's are.

    transformers' score has no bias. Ours goes into the final norm where that has one (LayerNorm), which gives the same scores;
    else scores there are lower by `reward_bias` of config.json, for every text alike.
    """
    hf = _config(config, families.FAMILIES[config.family].scalar, dtype, special_ids)
    hf |= {"num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    bias = float(params["head"]["bias"])
    if config.norm == "layer":
        kernel_D = np.asarray(params["head"]["kernel"], np.float64)
        shift_D = (bias * kernel_D / np.square(kernel_D).sum()).astype(np.float32)
        params = {**params, "norm": {**params["norm"], "bias": np.asarray(params["norm"]["bias"]) + shift_D}}
    elif bias:
        hf["reward_bias"] = bias
    with _whole(folder) as part:
        _write(params, config, part, hf, dtype, shard_bytes, scalar=True)
        if write_tokenizer:
            write_tokenizer(part)


def _config(config: TransformerConfig, architecture: str, dtype: str, special_ids: dict | None) -> dict:
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is none of {', '.join(DTYPES)}")
    ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, **(special_ids or {})}
    return {
        "architectures": [architecture],
        "dtype": dtype,
        "torch_dtype": dtype,
        **ids,
        **families.to_hf(config),
    }


@contextlib.contextmanager
def _whole(folder: Path | str) -> Iterator[Path]:
    """A folder beside `folder` that takes its name when nothing went wrong, and is gone when something did."""
    folder = Path(folder).expanduser()
    if folder.exists():
        raise InputError(f"{folder} exists: name a folder that does not, nothing is overwritten")
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}): name another folder") from error
    try:
        yield part
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write(params, config, folder: Path, hf: dict, dtype: str, shard_bytes: int, scalar: bool) -> None:
    flat = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(params)}  # fmt: skip
    shards = _shards(flat, config, DTYPES[dtype], shard_bytes, scalar)
    placed, total = {}, 0
    for i, names in enumerate(shards):
        single = len(shards) == 1
        file = "model.safetensors" if single else f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        held = {name: _stored(name, _tensor(flat, config, tensor, n), dtype) for name, tensor, n in names}
        save_file(held, folder / file, metadata={"format": "pt"})
        placed |= dict.fromkeys(held, file)
        total += sum(array.nbytes for array in held.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": placed}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    (folder / "config.json").write_text(json.dumps(hf, indent=2) + "\n")
    ids = {key: hf[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if hf[key] is not None}
    if not scalar:
        (folder / "generation_config.json").write_text(json.dumps(ids, indent=2) + "\n")


def _stored(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    """The tensor in the dtype of the file; InputError where it has numbers that the dtype makes infinite."""
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(array.astype(DTYPES[dtype]))
    if dtype == "float16" and np.isinf(stored).any():
        raise InputError(
            f"tensor {name} has values over {np.finfo(np.float16).max}: use dtype float32 or bfloat16"
        )
    return stored


def _shards(
    flat, config, dtype, shard_bytes: int, scalar: bool
) -> list[list[tuple[str, Tensor, int | None]]]:
    """All tensors by name, with the layer they are of, dealt into shards of at most `shard_bytes` (or one tensor)."""
    shards, size = [[]], 0
    for tensor in families.tensors(config, scalar):
        layers = range(config.layers) if "{n}" in tensor.name else [None]
        count = sum(flat[part].size for part in tensor.parts) // len(layers)
        for n in layers:
            if shards[-1] and size + count * np.dtype(dtype).itemsize > shard_bytes:
                shards, size = [*shards, []], 0
            shards[-1].append((tensor.name.format(n=n), tensor, n))
            size += count * np.dtype(dtype).itemsize
    return shards


def _tensor(flat, config: TransformerConfig, tensor: Tensor, n: int | None) -> np.ndarray:
    """One of their tensors."""
    parts = [np.asarray(flat[part] if n is None else flat[part][n]) for part in tensor.parts]
    if tensor.parts[0] in families.VOCABULARIES:
        parts = [part[: config.vocab] for part in parts]
    return tensor.layout.join(parts)
