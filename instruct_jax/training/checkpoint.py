"""The home of checkpoints: save, resume and load_params onto any mesh; the only file that imports orbax.

A checkpoint is `<folder>/<step>/state` (every leaf of the train state under its path, such as
`params/embed/tokens`) beside `<folder>/<step>/meta` (JSON: config, stage, step, versions). It is written in the
background into a temporary folder and renamed when whole, so that a broken write is never taken for a checkpoint.
"""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from instruct_jax.devices import versions
from instruct_jax.errors import InputError


def _flatten(tree) -> dict:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _abstract(leaf) -> jax.ShapeDtypeStruct:
    """The leaf's shape, dtype and placement; the default device where it states none."""
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _steps(folder: Path) -> list[int]:
    children = folder.iterdir() if folder.is_dir() else ()
    return sorted(int(c.name) for c in children if c.name.isdigit() and ocp.utils.is_checkpoint_finalized(c))


def _find(path: Path | str, step: int | None) -> Path:
    """The folder of one checkpoint, given a run's folder or its checkpoints folder; InputError when it is not there."""
    path = Path(path).expanduser().absolute()
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    steps = _steps(folder)
    if not steps:
        raise InputError(f"no checkpoint in {folder}: train that stage first, or point at its run folder")
    if step is None:
        step = steps[-1]
    if step not in steps:
        raise InputError(f"no checkpoint of step {step} in {folder}: it holds {', '.join(map(str, steps))}")
    return folder / str(step)


def _compare(wanted: dict, saved: dict, name: str, where: Path, same_dtype: bool) -> None:
    """InputError naming the first leaf that the checkpoint lacks, has too many of, or has in another shape."""
    if name and not saved:
        raise InputError(f"looked for {name!r} in {where}, which does not hold it")
    for path, leaf in wanted.items():
        if path not in saved:
            raise InputError(
                f"looked for {path!r} in {where}, which does not hold it: was it made by another model?"
            )
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            continue  # stored as its words, one axis longer; orbax turns it back
        if tuple(leaf.shape) != tuple(saved[path].shape):
            raise InputError(
                f"{path!r} has shape {tuple(saved[path].shape)} in {where}, but {tuple(leaf.shape)} is wanted: "
                "the model's sizes in the config differ from those it was trained with"
            )
        if same_dtype and leaf.dtype != saved[path].dtype:
            raise InputError(f"{path!r} is {saved[path].dtype} in {where}, but {leaf.dtype} is wanted")
    extra = sorted(set(saved) - set(wanted))
    if extra:
        raise InputError(f"{where} holds {extra[0]!r}, for which the model wanted here has no place")


def _load(where: Path, abstract, name: str, same_dtype: bool):
    """The subtree `name` ("" for all) of a checkpoint, in the shape and placement of `abstract`; nothing else is read."""
    prefix = name + "/" if name else ""
    wanted = {prefix + path: _abstract(leaf) for path, leaf in _flatten(abstract).items()}
    handler = ocp.PyTreeCheckpointHandler()
    saved = {
        path: meta for path, meta in handler.metadata(where / "state").tree.items() if path.startswith(prefix)
    }
    _compare(wanted, saved, name, where, same_dtype)
    arguments = ocp.checkpoint_utils.construct_restore_args(wanted)
    found = handler.restore(
        where / "state",
        args=ocp.args.PyTreeRestore(item=wanted, restore_args=arguments, partial_restore=True),
    )
    return jax.tree.unflatten(jax.tree.structure(abstract), [found[path] for path in wanted])


def read_meta(path: Path | str, step: int | None = None) -> dict:
    """What was saved beside a checkpoint of a run folder (config, stage, step, versions); InputError when missing."""
    return ocp.JsonCheckpointHandler().restore(_find(path, step) / "meta")


def load_params(path: Path | str, abstract_params, name: str = "params", step: int | None = None):
    """The parameters of a run's checkpoint (the latest, or `step`), read straight onto the shardings asked for.

    `abstract_params` is a tree of arrays or of ShapeDtypeStructs; leaves without a sharding go to the default
    device, and dtypes are converted to those asked for. `name` is the subtree: "params", "ema", or a longer path
    such as "policy/params". Only that subtree is read. What is missing, extra or of another shape raises InputError.
    """
    return _load(_find(path, step), abstract_params, name, same_dtype=False)


class Checkpoints:
    """The checkpoints of one run; `keep` is how many of the latest stay."""

    def __init__(self, path: Path | str, keep: int = 2):
        self._path = Path(path).expanduser().absolute()
        self._manager = ocp.CheckpointManager(
            self._path, options=ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        )

    def save(self, step: int, state, meta: dict, wait: bool = False) -> None:
        """Write `state` as it is now under `step`, in the background unless `wait`; a step that is there stays.

        The state may be donated as soon as this returns. `meta` must be JSON; step and versions are added to it.
        """
        if step in self._manager.all_steps():
            return
        meta = {**meta, "step": step, "versions": versions()}
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(_flatten(state)), meta=ocp.args.JsonSave(meta)
        )
        self._manager.save(step, args=arguments)
        if wait:
            self._manager.wait_until_finished()

    def latest(self) -> int | None:
        """The step of the latest whole checkpoint, None when there is none."""
        self._manager.wait_until_finished()
        steps = _steps(self._path)
        return steps[-1] if steps else None

    def restore(self, abstract_state, step: int | None = None):
        """The saved state, bit for bit, in the tree and placement of `abstract_state`; any mismatch is an InputError."""
        self._manager.wait_until_finished()
        return _load(_find(self._path, step), abstract_state, "", same_dtype=True)

    def meta(self, step: int | None = None) -> dict:
        """What was saved beside the state of `step` (the latest by default)."""
        self._manager.wait_until_finished()
        return read_meta(self._path, step)

    def close(self) -> None:
        """Wait for the writes under way and let go."""
        self._manager.close()
