"""Compile an experiment for a TPU slice on this machine, which needs none: what fits, what it costs at the least, which mesh is best.

    python -m instruct_jax.aot --config configs/ppo/gpt3_175b.py --topology v5p:8x8x8
    python -m instruct_jax.aot --config configs/ppo/gpt3_1p3b.py --topology v5e:4x4 --only update --config.train.microbatch_size=32
    python -m instruct_jax.aot --config configs/sft/gpt3_1p3b.py --topology v5e:4x4 --choose
    python -m instruct_jax.aot --config configs/sft/gpt3_1p3b.py --topology v5e:4x4 --sweep all --out runs/aot/sft

Needs libtpu (`bash launch/setup.sh --tpu`); topologies are v4, v5e, v5p, v6e and tpu7x followed by the slice's sides. Fields of the config
are set as for instruct_jax.main. For every program of pretrain, sft, rm or ppo: compile time, bytes of a chip's memory, products,
collectives beside the law for them, and the predicted time by each of the chip's peaks; then time, chip-hours and MFU of the whole
experiment with what was assumed. What does not fit is tried again with more recomputation, smaller pieces, the hosts' memory and other
meshes (--nosuggest: not). --choose finds the least recomputation and the largest pieces that fit. docs/compile_ahead.md.

Exit status: 0 it fits, 1 it does not, 2 bad input, 130 Ctrl-C.
"""

import json
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from instruct_jax.errors import InputError, explain
from instruct_jax.main import check_overrides, load_stage


def make_flags(argv: list[str]) -> flags.FlagValues:
    """The command line's flags, not yet parsed."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "Path of the experiment's config file.", flag_values=values, sys_argv=argv
    )
    texts = {
        "topology": "The slice, such as v5e:4x4 or v5p:8x8x8.", "only": "Compile this program alone.",
        "sweep": "Rank meshes: all that divide, or those given, such as 1x16x1,2x8x1 (data x fsdp x tensor).",
        "out": "Folder for report.json, index.html and plots.",
    }  # fmt: skip
    for name, told in texts.items():
        flags.DEFINE_string(name, None, told, flag_values=values)
    flags.DEFINE_integer(
        "rows",
        None,
        "Prompts to train on, where the config counts epochs (default: the paper's).",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_bool("json", False, "Print the report as JSON, and nothing else.", flag_values=values)
    flags.DEFINE_bool(
        "choose",
        False,
        "Find remat and the sizes of pieces by trial: the largest that fit.",
        flag_values=values,
    )
    flags.DEFINE_bool("suggest", True, "Try what would fit where something does not.", flag_values=values)
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=values)
    return values


def parse(argv: list[str]) -> flags.FlagValues | None:
    """The parsed command line, None when help was asked for; InputError for anything wrong."""
    values = make_flags(argv)
    if any(word in ("--help", "-h", "-help") for word in argv[1:]):
        print(f"{__doc__}\nFlags:\n{values.get_help()}")
        return None
    check_overrides(argv)
    try:
        rest = values(argv)
    except flags.Error as error:
        raise InputError(str(error)) from error
    if rest[1:]:
        raise InputError(f"{rest[1]!r} belongs to no flag: write --config.section.field=value")
    if values.choose and (values.sweep or values.only):
        raise InputError("--choose looks at every program of one mesh: leave out --sweep and --only")
    if not values.topology:
        raise InputError("--topology is missing: name a slice, such as --topology v5e:4x4")
    return values


def start(values: flags.FlagValues) -> int:
    """What the parsed command line asks for; the exit status."""
    from instruct_jax import devices

    devices.prepare_to_compile_ahead()
    from instruct_jax.reports.ahead import text, write_ahead
    from instruct_jax.stages.ahead import compiling, fitting

    stage = load_stage(values.config.stage)
    if not hasattr(stage, "programs"):
        raise InputError(
            f"config.stage is {values.config.stage!r}: pretrain, sft, rm and ppo have programs to compile ahead"
        )
    stage.check(values.config)
    place = compiling.open_slice(values.topology)
    say = (
        (lambda told: print(told, file=sys.stderr, flush=True))
        if values.json
        else (lambda told: print(told, flush=True))
    )
    options = {"only": values.only, "rows": values.rows, "say": say}
    if values.choose:
        report = fitting.choose(values.config, stage.programs, place, rows=values.rows, say=say)
    elif values.sweep:
        report = fitting.sweep(values.config, stage.programs, place, values.sweep, **options)
    else:
        report = compiling.examine(values.config, stage.programs, place, **options)
        if not report["fits"] and values.suggest:
            report["tried"] = fitting.suggest(values.config, stage.programs, place, report, say=say)
    print(json.dumps(report, indent=1) if values.json else text(report))
    if values.out:
        write_ahead(Path(values.out), report)
        say(f"report: {values.out}/index.html")
    return 0 if report["fits"] else 1


def main(argv: list[str]) -> int:
    """The command line (program name first) to an exit status; see the module's docstring."""
    try:
        values = parse(argv)
        return start(values) if values else 0
    except InputError as error:
        explain(error)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv))
