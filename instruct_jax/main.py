"""Run one experiment: the stage that a config file names, in a folder that it can be resumed from.

    python -m instruct_jax.main --config configs/lab/trial_sft.py --workdir runs/trial_sft --config.sft.train.epochs=8

Any field of the config can be set as --config.section.field=value, after --config. The same command again resumes
the run; a finished run returns at once. The folder gets config.json, checkpoints/, metrics.jsonl and tensorboard/, and
finished.json when all is done.
--profile FIRST:COUNT records these training steps for Perfetto and xprof (docs/performance.md).
Compiled programs are kept in $INSTRUCT_JAX_CACHE (default: instruct_jax in the user's cache folder; "off": nowhere).
On several hosts, start the same command on each; the folder must be one that all of them share. TPU VMs and SLURM tell who
is who; elsewhere add --coordinator, --processes and --process (docs/launching.md).

Exit status: 0 done, 1 training went wrong (the metric and step are named) or the disk is full, 2 bad input (the field or file is named),
130 Ctrl-C (back to the last checkpoint), 134 another process died, 143 SIGTERM (saved first). After the last two a
scheduler may start the same command again.
"""

import contextlib
import errno
import os
import runpy
import sys
import time
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from instruct_jax.errors import InputError, explain
from instruct_jax.stages.settings import (
    known_fields,
    mark_finished,
    nearest,
    needed_fields,
    snapshot,
    user_code,
)

STAGES = (
    "lab_base", "pretrain", "sft", "rm", "ppo", "collect", "select", "evaluate", "recipe", "lab_trial", "sentiment", "hh", "instructions",
    "sample", "preferences", "reward_tests", "labeler_groups", "tax", "benchmark",
)  # fmt: skip
ON_SEVERAL = ("pretrain", "sft", "rm", "ppo", "select")  # the stages that run as several processes


def load_stage(name: str):
    """The module of a stage, with run(config, workdir), check(config) and the config's FIELDS; imported here so that --help and
    bad input answer at once."""
    match name:
        case "lab_base":
            from instruct_jax.stages import lab_base as stage
        case "pretrain" | "sft":
            from instruct_jax.stages import train_lm as stage
        case "rm":
            from instruct_jax.stages import train_rm as stage
        case "ppo":
            from instruct_jax.stages import train_ppo as stage
        case "collect":
            from instruct_jax.stages import lab_collect as stage
        case "select":
            from instruct_jax.stages import select as stage
        case "evaluate":
            from instruct_jax.stages import evaluate as stage
        case "recipe":
            from instruct_jax.stages import recipe as stage
        case "lab_trial":
            from instruct_jax.stages import lab_trial as stage
        case "sentiment":
            from instruct_jax.stages import sentiment as stage
        case "hh":
            from instruct_jax.stages import hh as stage
        case "instructions":
            from instruct_jax.stages import instructions as stage
        case "sample":
            from instruct_jax.stages import sample as stage
        case "benchmark":
            from instruct_jax.stages import benchmark as stage
        case "preferences":
            from instruct_jax.stages import preferences as stage
        case "reward_tests":
            from instruct_jax.stages import reward_tests as stage
        case "labeler_groups":
            from instruct_jax.stages import labeler_groups as stage
        case "tax":
            from instruct_jax.stages import tax as stage
        case _:
            likely = nearest(str(name), STAGES)
            raise InputError(f"config.stage is {name!r}{likely}; the stages are {', '.join(STAGES)}")
    return stage


def _define_processes(values: flags.FlagValues) -> None:
    flags.DEFINE_string("coordinator", None, "Host and port of process 0, of several.", flag_values=values)
    flags.DEFINE_integer("processes", None, "How many processes there are.", flag_values=values)
    flags.DEFINE_integer("process", None, "Which of them this is, from 0.", flag_values=values)


def processes(argv: list[str]) -> tuple:
    """(coordinator, processes, process) as devices.start_distributed takes them, from a command line that parses."""
    values = flags.FlagValues()
    _define_processes(values)
    values(argv, known_only=True)
    return values.coordinator, values.processes, values.process


def make_flags(argv: list[str]) -> flags.FlagValues:
    """The command line's flags, not yet parsed."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "Path of the experiment's config file.", flag_values=values, sys_argv=argv
    )
    flags.DEFINE_string(
        "workdir", None, "Folder of the run; made if missing, resumed if not.", flag_values=values
    )
    _define_processes(values)
    flags.DEFINE_string(
        "profile", None, "FIRST:COUNT, training steps to profile (docs/performance.md).", flag_values=values
    )
    flags.DEFINE_bool("traceback", False, "Show where an error was raised.", flag_values=values)
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=values)
    return values


def _config_path(argv: list[str]) -> str | None:
    for word, after in zip(argv, [*argv[1:], None]):
        name, equals, value = word.lstrip("-").partition("=")
        if word.startswith("-") and name == "config":
            return value if equals else after
    return None


def _dotted(config: ConfigDict, prefix: str = "config") -> list[str]:
    names = []
    for key, value in config.items():
        name = f"{prefix}.{key}"
        names += [name, *(_dotted(value, name) if isinstance(value, ConfigDict) else [])]
    return names


def check_overrides(argv: list[str]) -> None:
    """InputError for a config file that is not there or is wrong, and for an override that names no field of it."""
    given = _config_path(argv)
    if not given:
        raise InputError("--config is missing: name a config file, such as --config configs/lab/trial_sft.py")
    path, colon, part = given.partition(":")
    if not os.path.isfile(path):
        raise InputError(
            f"--config: no file {path}{nearest(path, map(str, Path('configs').glob('**/*.py')))}"
        )
    make = user_code(path, lambda: runpy.run_path(path)).get("get_config")
    if not callable(make):
        raise InputError(f"{path}: get_config is missing: a config file has a function get_config()")
    config = user_code(path, lambda: make(*([part] if colon else [])))
    if not isinstance(config, ConfigDict):
        raise InputError(f"{path}: get_config() must return a ConfigDict, got {type(config).__name__}")
    names = _dotted(config)
    for word in argv:
        flag = word.lstrip("-").partition("=")[0]
        if not word.startswith("-") or not flag.removeprefix("no").startswith("config."):
            continue
        field = flag if flag.startswith("config.") else flag.removeprefix("no")
        if field.partition("[")[0] not in names:
            raise InputError(f"--{field}: {path} has no such field{nearest(field, names)}")
        if "[" in field:
            raise InputError(f"--{field}: set the whole field, as in --{field.partition('[')[0]}='(1, 2)'")
        if any(name.startswith(f"{field}.") for name in names):
            raise InputError(f"--{field}: is a section: set its fields, as in --{field}.name=value")


def parse(argv: list[str]):
    """(config, workdir) from the command line, None when help was asked for; InputError for anything wrong."""
    try:
        values = make_flags(argv)
    except flags.Error as error:  # of a --flagfile, which is read here already
        raise InputError(str(error)) from error
    if any(word in ("--help", "-h", "-help") for word in argv[1:]):
        print(f"{__doc__}\nFlags:\n{values.get_help()}")
        return None
    check_overrides(argv)
    try:
        rest = values(argv)
    except flags.Error as error:  # absl names the flag, the value and what it could not be read as
        raise InputError(str(error)) from error
    if rest[1:]:
        raise InputError(f"{rest[1]!r} belongs to no flag: write --config.section.field=value")
    if not values.workdir:
        raise InputError("--workdir is missing: name the run's folder, such as --workdir runs/first")
    if "://" in values.workdir:
        raise InputError(
            f"--workdir {values.workdir}: a run's folder is a path such as runs/first, which may lie in a mounted bucket "
            "(docs/launching.md)"
        )
    config = values.config
    if "stage" not in config:
        raise InputError(f"{_config_path(argv)} has no field 'stage': set it to one of {', '.join(STAGES)}")
    if values.profile is not None:
        with config.unlocked():
            config.profile = values.profile
    return config, Path(values.workdir)


def start(config: ConfigDict, workdir: Path, who: tuple = (None, None, None)) -> None:
    """Run the config's stage in `workdir`, with the folder locked, the config kept there and the compile cache on.

    `who` is what devices.start_distributed takes; of several processes the first one locks and keeps.
    """
    stage = load_stage(config.stage)
    known_fields(config, stage.FIELDS)
    needed_fields(config, stage.FIELDS)
    import jax

    from instruct_jax import devices
    from instruct_jax.training.guard import lock

    devices.start_distributed(*who)
    if jax.process_count() > 1 and config.stage not in ON_SEVERAL:
        raise InputError(
            f"stage {config.stage!r} runs as one process, here are {jax.process_count()}: start it on one machine alone "
            f"(several processes run {', '.join(ON_SEVERAL)})"
        )
    first = jax.process_index() == 0
    with lock(workdir) if first else contextlib.nullcontext():
        if first:
            snapshot(config, workdir)
        devices.enable_compile_cache(devices.cache_dir())
        hint = devices.malloc_hint()
        if hint:
            print(hint, file=sys.stderr)
        began = time.perf_counter()
        stage.run(config, workdir)
        if first:
            mark_finished(workdir, time.perf_counter() - began)


def _status_of(error: BaseException) -> int | None:
    """The exit status of an error that the user can act on, None for a fault of ours."""
    if isinstance(error, InputError):
        return 2
    if isinstance(error, KeyboardInterrupt):
        return 130
    from instruct_jax.training.guard import Preempted, TrainingError

    if isinstance(error, TrainingError) or _is_full_disk(error):
        return 1
    return 143 if isinstance(error, Preempted) else None


def _is_full_disk(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _said_of(error: BaseException) -> str:
    """What is told instead of the error's own words, "" where they are good."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted: the same command goes on from the last checkpoint"
    if _is_full_disk(error):
        return f"error: {error}: make room; the same command goes on from what was saved"
    return ""


def leave_others(status: int) -> None:
    """Of several processes, end this one; JAX is not imported for it where nothing has been."""
    if "jax" in sys.modules:
        from instruct_jax import devices

        devices.leave(status)


def main(argv: list[str]) -> int:
    """The command line (program name first) to an exit status; see the module's docstring."""
    try:
        asked = parse(argv)
        if asked:
            start(*asked, processes(argv))
    except (Exception, KeyboardInterrupt) as error:
        status = _status_of(error)
        if status is None:
            raise
        explain(error, _said_of(error), shown="--traceback" in argv)
        leave_others(status)
        return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
