"""Many trials of one config: print their commands, run them, or report on them.

    python -m instruct_jax.sweep configs/sweeps/lab_kl.py                   # the commands of the trials that are not done
    python -m instruct_jax.sweep configs/sweeps/lab_kl.py --parallel 2      # run them here, 2 at once
    python -m instruct_jax.sweep configs/sweeps/gpt3_kl.py --over tpu_vm    # the commands that run each on a TPU VM of its own
    python -m instruct_jax.sweep configs/sweeps/lab_kl.py --report          # table and plots of what there is

Every trial is one `python -m instruct_jax.main` in a folder of its own under --out (default runs/sweeps/<name of FILE>), named for
what it overrides. All trials are checked against the config before one starts. The same command again goes on where it was
stopped. Commands over TPU VMs read the machine's type, zone and bucket from tpu_vm.settings (docs/launching.md), and give the TPU
back when the trial is done; to run 4 at once: | tr '\\n' '\\0' | xargs -0 -P 4 -n 1 bash -c. What a sweep file holds:
instruct_jax/stages/sweeps/plan.py and draws.py.

Exit status: 0 done, 1 a trial failed (the others ran), 2 bad input, 130 Ctrl-C, 143 SIGTERM (the trials running may save first).
"""

import argparse
import dataclasses
import hashlib
import os
import re
import shlex
import signal
import sys
from pathlib import Path

from instruct_jax import main as trial_main
from instruct_jax.errors import InputError, explain
from instruct_jax.stages.sweeps import plan, running


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m instruct_jax.sweep",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="sweep file, such as configs/sweeps/lab_kl.py")
    parser.add_argument("--out", help="folder of the trials' folders (default: runs/sweeps/<name of FILE>)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--parallel", type=int, metavar="N", help="run the trials here, N at once")
    what.add_argument("--over", choices=["tpu_vm"], help="print the commands that run the trials on TPU VMs")
    what.add_argument("--report", action="store_true", help="write the table and plots into OUT/report")
    parser.add_argument("--metric", help="with --report: the metric to choose by (default: the file's first)")
    return parser


def checked(sweep: plan.Sweep, trials: list[plan.Trial], to_run: bool) -> list[plan.Trial]:
    """The trials with their configs; InputError where an override names no field, has a wrong type or value, or where a folder
    holds something else. A report needs nothing that only a run would (`to_run`), such as the recipe that the lab's trials share."""
    if not Path(sweep.base.partition(":")[0]).is_file():
        raise InputError(
            f"{sweep.file}: BASE: there is no {sweep.base} (paths are from the folder that one starts in)"
        )
    result = []
    for trial in trials:
        try:
            for field in trial.overrides:
                if "[" in field:
                    raise InputError(f"{field}: set the whole field {field.partition('[')[0]}")
            config, _ = trial_main.parse(["main", *trial.words(sweep.base)])
            for field, value in trial.overrides.items():
                _check_value(config, field, value)
            if to_run:
                trial_main.load_stage(config.stage).check(config)
        except InputError as error:
            raise InputError(f"{sweep.file}: trial {trial.name}: {error}") from error
        trial = dataclasses.replace(trial, config=config.to_dict())
        trial.check_folder()
        result.append(trial)
    return result


def _check_value(config, field: str, value) -> None:
    """InputError where the command line would not give the field the very value that the sweep file says."""
    found = config
    for part in field.split("."):
        found = found[part]
    same = list(found) == list(value) if isinstance(value, (tuple, list)) else found == value
    if not same or isinstance(found, bool) != isinstance(value, bool):
        raise InputError(
            f"{field} is {value!r} ({type(value).__name__}), which the config reads as {found!r}: wrong type?"
        )


def check_paths(sweep: plan.Sweep, trials: list[plan.Trial]) -> None:
    """InputError where a trial has no path for what its stage reads: it would wait for a TPU only to end there with status 2."""
    for trial in trials:
        needed = getattr(trial_main.load_stage(trial.config["stage"]), "PATHS", ())
        empty = [field for field in needed if not _found(trial.config, field)]
        if empty:
            raise InputError(
                f"{sweep.file}: trial {trial.name}: nothing in {', '.join(f'config.{field}' for field in empty)}: fill in {sweep.base}, "
                "or a copy that BASE names, with paths as the TPU VM has them, such as runs/sft in the bucket"
            )


def _found(config: dict, field: str):
    for part in field.split("."):
        config = config.get(part, {})
    return config


def tpu_name(file: str, trial: plan.Trial) -> str:
    """The name of a trial's TPU, of 63 characters at most: it goes with the folder, whatever trials the file gets later."""
    stem = re.sub("[^a-z0-9]+", "-", Path(file).stem.lower())[:48]
    return f"sweep-{stem}-{hashlib.sha256(os.path.normpath(trial.workdir).encode()).hexdigest()[:8]}"


def one_line(words: list[str]) -> str:
    """The words for bash, in one line whatever is in them."""
    return shlex.join(words).replace("\n", r"'$'\n''")


def over_tpu_vm(sweep: plan.Sweep, trial: plan.Trial) -> str:
    """The command that runs a trial on a TPU VM and gives that back when it is done."""
    script, settings = ["bash", "launch/tpu_vm.sh"], ["--settings", "tpu_vm.settings"]
    name = tpu_name(sweep.file, trial)
    run = [*script, "run", name, "--until-done", *settings, "--", *trial.words(sweep.base)]
    return f"{one_line(run)} && {one_line([*script, 'delete', name, *settings])}"


def show(sweep: plan.Sweep, trials: list[plan.Trial], over: str | None) -> None:
    """Prints one command per trial that is not finished, finished ones as comments."""
    if over:
        check_paths(sweep, trials)
    for trial in trials:
        here = one_line(["python", "-m", "instruct_jax.main", *trial.words(sweep.base)])
        command = over_tpu_vm(sweep, trial) if over else here
        print(f"# done: {trial.name}" if trial.finished else command)


def run(sweep: plan.Sweep, trials: list[plan.Trial], at_once: int) -> int:
    """Runs what is not finished, n at once; says at the end what failed and where its log is. Returns the exit status."""
    done = sum(trial.finished for trial in trials)
    print(f"{sweep.file}: {len(trials)} trials, {done} done already", flush=True)
    failed = running.run_trials(trials, sweep.base, at_once, lambda line: print(line, flush=True))
    for trial, status in failed:
        print(
            f"failed: {trial.name}, status {status}, {trial.log}: {running.last_line(trial)}", file=sys.stderr
        )
    print(f"{len(trials) - len(failed)} of {len(trials)} trials are done")
    return 1 if failed else 0


def report(sweep: plan.Sweep, trials: list[plan.Trial], out: str, metric: str | None) -> None:
    """Writes the report of the trials that are done and prints its table."""
    from instruct_jax.reports.sweeps import write_sweep
    from instruct_jax.stages.sweeps.results import collect

    folder = Path(out) / "report"
    print(write_sweep(folder, collect(sweep, trials, metric)))
    print(f"report: {folder}")


def start(args: argparse.Namespace) -> int:
    """What the parsed command line asks for."""
    if args.parallel is not None and args.parallel < 1:
        raise InputError(f"--parallel {args.parallel}: it must be at least 1")
    if args.metric and not args.report:
        raise InputError("--metric goes with --report")
    out = args.out or f"runs/sweeps/{Path(args.file).stem}"
    if "://" in out:
        raise InputError(
            f"--out {out}: it must be a path such as runs/sweeps/first, which may lie in a mounted bucket (docs/launching.md)"
        )
    sweep = plan.read(args.file)
    trials = checked(sweep, plan.plan(sweep, out), to_run=not args.report)
    if args.report:
        report(sweep, trials, out, args.metric)
    elif args.parallel:
        return run(sweep, trials, args.parallel)
    else:
        show(sweep, trials, args.over)
    return 0


def main(argv: list[str]) -> int:
    """The command line (program name first) to an exit status; see the module's docstring."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return start(make_parser().parse_args(argv[1:]))
    except InputError as error:
        explain(error)
        return 2
    except SystemExit as leaving:  # SIGTERM, or argparse, which has said why
        return leaving.code
    except KeyboardInterrupt:
        print("interrupted: the same command goes on with what is not done", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
