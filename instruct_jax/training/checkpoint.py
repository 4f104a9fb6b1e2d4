"""The home of checkpoints: save, resume and load_params onto any mesh; the only file that imports orbax.

A checkpoint is `<folder>/<step>/state` (every leaf of the train state under its path, such as `params/embed/tokens`) beside
`<folder>/<step>/meta` (JSON: config, stage, step, versions, metrics) and manifest.json (every file's size and checksum). It is
written in the background into a temporary folder and renamed when whole, so that a broken write is never taken for a checkpoint;
what breaks later is found at loading.
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from instruct_jax.devices import versions
from instruct_jax.errors import InputError
from instruct_jax.training import manifest
from instruct_jax.training.guard import SaveError, as_the_first_says

_UNFINISHED, _DELETING, _DAMAGED = ".orbax-checkpoint-tmp", ".deleting", ".damaged"


@dataclasses.dataclass(frozen=True)
class Saving:
    """Which checkpoints stay beside the latest, and what a write that fails does.

    `keep_every`: those of steps that it divides; `keep_best`: the one whose step had the lowest (or highest, `best_is`) value of that
    metric, such as "valid/loss"; `on_error`: "stop" the run, or "continue" without that checkpoint, except at the last step."""

    keep_every: int | None = None
    keep_best: str | None = None
    best_is: Literal["lowest", "highest"] = "lowest"
    on_error: Literal["stop", "continue"] = "stop"

    def __post_init__(self):
        if self.keep_every is not None and self.keep_every < 1:
            raise InputError(f"saving.keep_every is {self.keep_every}: it must be at least 1")
        for name, allowed in (("best_is", ("lowest", "highest")), ("on_error", ("stop", "continue"))):
            if getattr(self, name) not in allowed:
                raise InputError(f"saving.{name} is {getattr(self, name)!r}: it takes one of {allowed}")


LATEST_ALONE = Saving()


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


def _folder(path: Path | str) -> Path:
    """Where the checkpoints of a run's folder lie; a folder of checkpoints is its own answer."""
    path = Path(path).expanduser().absolute()
    return path / "checkpoints" if (path / "checkpoints").is_dir() else path


def _find(path: Path | str, step: int | None) -> Path:
    """The folder of one checkpoint, given a run's folder or its checkpoints folder; InputError when it is not there."""
    folder = _folder(path)
    steps = _steps(folder)
    if not steps:
        raise InputError(
            f"no checkpoint in {folder}: train that stage first, or point at its run folder, a Hugging Face folder or a "
            ".gguf file"
        )
    if step is None:
        step = steps[-1]
    if step not in steps:
        raise InputError(f"no checkpoint of step {step} in {folder}: it holds {', '.join(map(str, steps))}")
    return folder / str(step)


def _damage(where: Path) -> str | None:
    """What is wrong with a checkpoint, None when it is whole; every process reads a share of it, and all give one verdict."""
    found = None
    if (where / manifest.NAME).exists() or _promises_manifest(where):
        found = manifest.damage(where, (jax.process_index(), jax.process_count()))
    if jax.process_count() > 1 and multihost_utils.process_allgather(np.array(found is not None)).any():
        found = found or "another process found it damaged"
    return found


def _promises_manifest(where: Path) -> bool:
    """Whether a checkpoint without a manifest had one: those of earlier versions had none."""
    try:
        return "checksums" in _read_meta(where)
    except InputError:
        return True


def _read_meta(where: Path) -> dict:
    try:
        return ocp.JsonCheckpointHandler().restore(where / "meta")
    except (OSError, ValueError) as error:
        raise InputError(f"{where / 'meta'} cannot be read, the checkpoint is damaged: {error}") from error


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
    return _read_meta(_find(path, step))


def load_params(path: Path | str, abstract_params, name: str = "params", step: int | None = None):
    """The parameters of a run's checkpoint (the latest, or `step`), read straight onto the shardings asked for.

    `abstract_params` is a tree of arrays or of ShapeDtypeStructs; leaves without a sharding go to the default
    device, and dtypes are converted to those asked for. `name` is the subtree: "params", "ema", or a longer path
    such as "policy/params". Only that subtree is loaded. What is missing, extra or of another shape raises InputError, and so does
    a checkpoint that is not as it was written: another step's parameters would be another model.
    """
    where = _find(path, step)
    damage = _damage(where)
    if damage:
        before = [str(s) for s in _steps(where.parent) if s < int(where.name)]
        way = (
            f"the run's command again goes on from step {before[-1]}" if before else "train that stage again"
        )
        raise InputError(
            f"{where} is damaged: {damage}; {way} (in a recipe, take the stage out of times.json first)"
        )
    return _load(where, abstract_params, name, same_dtype=False)


class Checkpoints:
    """The checkpoints of one run, of which the latest `keep` stay and those that `saving` names.

    One of a step that is not `due`, left by a run that was told to stop, stays only until there is a later one: what is kept in the
    end, among which a model may be chosen, does not depend on where the run was interrupted. Only the process that holds the run's
    folder may make one: what an earlier process left unfinished is removed.
    """

    def __init__(
        self,
        path: Path | str,
        keep: int = 2,
        saving: Saving = LATEST_ALONE,
        due: Callable[[int], bool] = lambda step: True,
    ):
        if saving.on_error == "continue" and jax.process_count() > 1:
            raise InputError(
                f"saving.on_error is 'continue', which is for one process, and here are {jax.process_count()}: the others would wait "
                "for the one that cannot write; set it to 'stop'"
            )
        self._path = Path(path).expanduser().absolute()
        self._keep, self._saving, self._due = keep, saving, due
        self._metrics: dict[int, float | None] = {}
        self._writing: int | None = None
        if jax.process_index() == 0:
            self._path.mkdir(parents=True, exist_ok=True)
            self._sweep()
        self._writer = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(),
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )

    def _seal(self) -> None:
        """Called in the background when all files are written and before the folder is renamed."""
        manifest.write(next(self._path.glob(f"{self._writing}{_UNFINISHED}*")))

    def _sweep(self) -> None:
        """Remove what a process that died, or a write that failed, left behind."""
        for child in self._path.iterdir():
            if _UNFINISHED in child.name or child.name.endswith(_DELETING):
                shutil.rmtree(child, ignore_errors=True)

    def save(self, step: int, state, meta: dict, wait: bool = False) -> None:
        """Write `state` as it is now under `step`, in the background unless `wait`; a step that is there stays.

        The state may be donated as soon as this returns. `meta` must be JSON; step and versions are added to it; its "metrics" are
        what the best is chosen by. SaveError when this or the write before it failed.
        """
        self.wait()
        if as_the_first_says(step in _steps(self._path)):
            return
        self._prune()
        meta = {**meta, "step": step, "versions": versions(), "checksums": manifest.ALGORITHM}
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(_flatten(state)), meta=ocp.args.JsonSave(meta)
        )
        self._writing = step
        with self._failing():
            self._writer.save(self._path / str(step), args=arguments)
        if wait:
            self.wait()
            self._prune()

    @contextlib.contextmanager
    def _failing(self):
        """Whatever orbax raises while writing, as a SaveError."""
        try:
            yield
        except Exception as error:
            reason = (str(error) or repr(error)).splitlines()[0]
            if len(reason) > 300:  # the library names the file twice; what happened comes last
                reason = f"{reason[:80]} ... {reason[-200:]}"
            if jax.process_index() == 0:
                self._sweep()
            raise SaveError(
                f"the checkpoint of step {self._writing} could not be written to {self._path}: {reason}; those before it are "
                "as they were"
            ) from error

    def check(self) -> None:
        """SaveError as soon as the write in the background has failed; never waits for it."""
        with self._failing():
            self._writer.check_for_errors()

    def wait(self) -> None:
        """Wait for the write in the background; SaveError when it failed."""
        with self._failing():
            self._writer.wait_until_finished()

    def _best(self, steps: list[int]) -> int | None:
        """The step with the best value of the metric, the later of equals; None where none has it."""
        if self._saving.keep_best is None:
            return None
        for step in steps:
            if step not in self._metrics:
                self._metrics[step] = (
                    _read_meta(self._path / str(step)).get("metrics", {}).get(self._saving.keep_best)
                )
        sign = 1 if self._saving.best_is == "highest" else -1
        scored = [(sign * self._metrics[step], step) for step in steps if self._metrics[step] is not None]
        return max(scored)[1] if scored else None

    def _prune(self) -> None:
        if jax.process_index() != 0:
            return
        there = _steps(self._path)
        steps = [s for s in there if self._due(s)]
        latest = [s for s in there if self._due(s) or s == there[-1]][-self._keep :]
        every = self._saving.keep_every
        stay = {*latest, self._best(steps), *(s for s in steps if every and s % every == 0)}
        for step in there:
            if step not in stay:
                doomed = self._path / f"{step}{_DELETING}"
                (self._path / str(step)).rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)

    def latest(self) -> int | None:
        """The step of the latest finished checkpoint, None when there is none; what is in it is not looked at."""
        with contextlib.suppress(SaveError):
            self.wait()
        steps = _steps(self._path)
        return steps[-1] if steps else None

    def newest_whole(self, say: Callable[[str], None]) -> int | None:
        """The step of the latest checkpoint that is as it was written, None when there are none at all.

        Damaged ones on the way are said and renamed to <step>.damaged; InputError where all are damaged. All processes agree.
        """
        steps, found = self._agreed_steps(), []
        for step in reversed(steps):
            damage = _damage(self._path / str(step))
            if damage is None:
                return step
            found.append(f"{step}: {damage}")
            if step != steps[0]:
                before = "the one before is used"
                say(
                    f"the checkpoint of step {step} is damaged ({damage}): {before}, and this one renamed to {step}{_DAMAGED}"
                )
                self._set_aside(step)
        if found:
            raise InputError(
                f"every checkpoint in {self._path} is damaged ({'; '.join(found)}): put a copy back, or delete the folder to "
                "start from step 0"
            )
        return None

    def _agreed_steps(self) -> list[int]:
        """The steps that process 0 sees: another's view of a shared file system may lag."""
        steps = _steps(self._path)
        if jax.process_count() == 1:
            return steps
        count = int(multihost_utils.broadcast_one_to_all(np.array(len(steps))))
        mine = np.array((steps + [0] * count)[:count], np.int32)
        return [int(step) for step in multihost_utils.broadcast_one_to_all(mine)]

    def _set_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            aside = self._path / f"{step}{_DAMAGED}"
            shutil.rmtree(aside, ignore_errors=True)
            (self._path / str(step)).rename(aside)

    def restore(self, abstract_state, step: int | None = None):
        """The saved state, bit for bit, in the tree and placement of `abstract_state`; any mismatch is an InputError."""
        self.wait()
        return _load(_find(self._path, step), abstract_state, "", same_dtype=True)

    def meta(self, step: int | None = None) -> dict:
        """What was saved beside the state of `step` (the latest by default)."""
        self.wait()
        return read_meta(self._path, step)

    def close(self) -> None:
        """Wait for the write under way and let go; SaveError when it failed."""
        try:
            self.wait()
            self._prune()
        finally:
            self._writer.close()
