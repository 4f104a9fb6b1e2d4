"""The home of the step from a config to frozen dataclasses, and of the copy of the config in the run's folder.

A section of the config maps one to one onto the dataclass of its owner; every complaint names the dotted field.
"""

import dataclasses
import difflib
import json
import traceback
import types
import typing
from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from instruct_jax.errors import InputError


def nearest(word: str, words) -> str:
    """' (did you mean x?)' with the likeliest of `words`, '' when none is near."""
    found = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f" (did you mean {found[0]}?)" if found else ""


def user_code(file: str, work: Callable):
    """What `work`, code of a config or sweep file, returns; whatever it raises as an InputError that names file and line."""
    try:
        return work()
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except SyntaxError as error:
        where = f"{file}, line {error.lineno}" if error.lineno else file
        raise InputError(f"{where}: {error.msg}") from error
    except (Exception, SystemExit) as error:  # whatever a user's file may raise
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
        where = f"{file}, line {lines[-1]}" if lines else file
        raise InputError(f"{where}: {type(error).__name__}: {error}") from error


PLAIN = {
    "name": str, "seed": int, "init": str | None, "wandb": str | None, "data_dir": str, "records_dir": str, "reward": str,
}  # fmt: skip
UNFINISHED = " (unfinished)"  # behind a stage's name in times.json
SHARED = ("stage", "name", "seed", "mesh", "text", "model", "wandb", "saving")


def known_fields(config: ConfigDict, fields) -> None:
    """InputError for a field of `config` itself that is not among `fields` (a section with a typo would be left out in silence), and
    for one of PLAIN that is of another type."""
    for key in config:
        if key not in fields:
            raise InputError(
                f"config.{key}: no such field{nearest(key, fields)}; the fields are {', '.join(fields)}"
            )
    for key, kind in PLAIN.items():
        if key in config:
            field(config, key, kind)
    profile(config)


def needed_fields(config: ConfigDict, fields) -> None:
    """InputError for one of PLAIN that is among `fields` and not in the config; "wandb" alone may be left out."""
    for key in PLAIN:
        if key in fields and key != "wandb":
            _found(config, key, "field")


def check_fields(config: ConfigDict, fields, sections: dict[str, type]) -> None:
    """InputError for a field that is not among `fields` and for a section of `sections` that is in the config and is not as its
    dataclass wants it."""
    known_fields(config, fields)
    for name, cls in sections.items():
        if name in config:
            section(config, name, cls)


def wandb_project(config: ConfigDict) -> str | None:
    """The Weights & Biases project that the config asks for, None where it asks for none."""
    return config.get("wandb") or None


def profile(config: ConfigDict) -> tuple[int, int] | None:
    """(first step, how many) to be profiled, as --profile FIRST:COUNT asks; None where it does not."""
    asked = config.get("profile") or None
    if asked is None:
        return None
    first, colon, count = str(asked).partition(":")
    if not (colon and first.isdecimal() and count.isdecimal() and int(first) and int(count)):
        raise InputError(
            f"--profile {asked}: give the first step and how many, both from 1, as in --profile 10:3"
        )
    return int(first), int(count)


def section(config: ConfigDict, name: str, cls):
    """The section `name` (dotted if nested) of `config` as the frozen dataclass `cls`.

    Fields without a default must be in the config, fields with one may be left out, a field that `cls` does not
    have is refused. An int is taken for a float, nothing else is converted. InputError names the field, what was
    expected and what was given.
    """
    return _build(_found(config, name, "section"), cls, f"config.{name}")


def names_in(config: ConfigDict, name: str) -> list[str]:
    """What the section `name` (dotted if nested) holds; InputError where there is none."""
    found = _found(config, name, "section")
    _check_section(found, f"config.{name}")
    return list(found)


def field(config: ConfigDict, name: str, kind):
    """The field `name` of `config` itself as the annotation `kind` says; InputError as of `section`."""
    return _convert(_found(config, name, "field"), kind, f"config.{name}")


def _found(config: ConfigDict, name: str, what: str):
    found, walked = config, "config"
    for part in name.split("."):
        if not isinstance(found, ConfigDict) or part not in found:
            there = list(found.keys()) if isinstance(found, ConfigDict) else []
            raise InputError(f"{walked} has no {what} {part!r}{nearest(part, there)}")
        found, walked = found[part], f"{walked}.{part}"
    return found


def _check_section(given, path: str) -> None:
    if not isinstance(given, (ConfigDict, dict)):
        raise InputError(f"{path} must be a section of fields, got {given!r}")


def _build(given, cls, path: str):
    _check_section(given, path)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in given:
        if key not in fields:
            raise InputError(
                f"{path}.{key}: no such field{nearest(key, fields)}; the fields are {', '.join(fields)}"
            )
    missing = [name for name, field in fields.items() if name not in given and not _has_default(field)]
    if missing:
        raise InputError(f"{path} lacks {', '.join(f'{path}.{name}' for name in missing)}: add to the config")
    hints = typing.get_type_hints(cls)
    return cls(**{key: _convert(given[key], hints[key], f"{path}.{key}") for key in given})


def _has_default(field) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _convert(value, hint, path: str):
    """`value` as an instance of the annotation `hint`, or InputError naming `path`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, hint, arguments, path)
    if origin is typing.Literal:
        if value not in arguments:
            raise InputError(
                f"{path} is {value!r}{nearest(str(value), map(str, arguments))}; it takes one of {arguments}"
            )
        return value
    if dataclasses.is_dataclass(hint):
        return _build(value, hint, path)
    if origin is tuple and isinstance(value, (tuple, list)):
        variadic = len(arguments) == 2 and arguments[1] is Ellipsis
        if not variadic and len(value) != len(arguments):
            raise InputError(f"{path} takes {len(arguments)} values, got {len(value)}: {value!r}")
        kinds = [arguments[0]] * len(value) if variadic else arguments
        return tuple(_convert(one, kind, f"{path}[{i}]") for i, (one, kind) in enumerate(zip(value, kinds)))
    if origin is dict and isinstance(value, (ConfigDict, dict)):
        return {key: _convert(value[key], arguments[1], f"{path}.{key}") for key in value}
    if hint is typing.Any or (hint is type(None) and value is None):
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if (
        isinstance(hint, type)
        and isinstance(value, hint)
        and not (isinstance(value, bool) and hint is not bool)
    ):
        if hint is int and not -(2**63) <= value < 2**63:
            raise InputError(f"{path} does not fit into 64 bits")
        return value
    raise InputError(f"{path} must be {_say(hint)}, got {value!r} ({type(value).__name__})")


def _convert_union(value, hint, arguments, path: str):
    if value is None and type(None) in arguments:
        return None
    kinds = [kind for kind in arguments if kind is not type(None)]
    if len(kinds) == 1 and value is not None:
        return _convert(value, kinds[0], path)
    for kind in kinds:
        try:
            return _convert(value, kind, path)
        except InputError:
            continue
    raise InputError(f"{path} must be {_say(hint)}, got {value!r} ({type(value).__name__})")


def _say(hint) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def _flatten(tree: dict, path: str = "config") -> dict:
    flat = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{path}.{key}") if isinstance(value, dict) else {f"{path}.{key}": value}
    return flat


def changed_fields(before: dict, now: dict) -> list[tuple]:
    """(dotted field, value before, value now) of every field in which two configs, as config.json holds them, differ."""
    before, now = _flatten(before), _flatten(now)
    return [
        (field, before.get(field), now.get(field))
        for field in sorted({**before, **now})
        if before.get(field) != now.get(field)
    ]


def snapshot(config: ConfigDict, workdir: Path | str) -> None:
    """Write the config, overrides included, to workdir/config.json.

    Where the folder already holds checkpoints, or finished stages, of another config, InputError names a field that differs: resuming
    would mix two experiments. The mesh alone may change, and with it the number of processes. What is to be profiled is no part of it.
    """
    path = Path(workdir) / "config.json"
    kept = {key: value for key, value in config.to_dict().items() if key != "profile"}
    for field, value in _flatten(kept).items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{field} holds what config.json cannot ({error}): use numbers, texts, True, False, None"
            ) from error
    text = json.dumps(kept, indent=2) + "\n"
    if path.exists() and (_has_finished_stages(path.parent) or _has_checkpoints(path.parent)):
        changed = changed_fields(json.loads(path.read_text()), json.loads(text))
        changed = [change for change in changed if not change[0].startswith("config.mesh.")]
        if changed:
            field, before, now = changed[0]
            raise InputError(
                f"{workdir} was started with {field} = {before!r}, now {now!r} "
                f"({len(changed)} fields differ): choose another --workdir, or delete {path} to go on all the same"
            )
    _write(path, text)


def _has_finished_stages(workdir: Path) -> bool:
    """Whether a chain's times.json in `workdir` names a stage that is over."""
    path = workdir / "times.json"
    return path.exists() and not all(name.endswith(UNFINISHED) for name in json.loads(path.read_text()))


def _has_checkpoints(folder: Path, depth: int = 2) -> bool:
    """Whether a run has any, in its own folder or in a stage's below it; a folder with a config.json is another run's."""
    if any((folder / "checkpoints").glob("[0-9]*")):
        return True
    below = [inner for inner in folder.iterdir() if inner.is_dir() and not (inner / "config.json").exists()]
    return depth > 0 and any(_has_checkpoints(inner, depth - 1) for inner in below)


def mark_finished(workdir: Path | str, seconds: float) -> None:
    """Write workdir/finished.json, by which a sweep knows a run that is done: the seconds of the session that finished it."""
    path = Path(workdir) / "finished.json"
    if not path.exists():
        _write(path, json.dumps({"seconds": round(seconds, 1)}) + "\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
