"""Times what we train, sample and score with beside what others offer, on one shape, and beside what the machine can do.

    PYTHONPATH=. .venv/bin/python tests/benchmarks/run.py --stages sft,rm,decode,ppo --sizes 17m --rounds 5 --out OUT.json
    PYTHONPATH=. .venv/bin/python tests/benchmarks/run.py --growth --sizes 17m --out GROWTH.json
    PYTHONPATH=. .venv/bin/python tests/benchmarks/run.py --show OUT.json …

Others are TRL (SFT, reward models, and PPO of its last version that has it), google-tunix (SFT, PPO, its sampler) and transformers'
`generate`. Everybody has an environment of its own, made here where it is missing, and loads the same random weights of a Qwen2. A worker
is a process that keeps its state; in a round all take their turn, each round from another one on. Their first call is timed apart, then one
round is left out. "bfloat16": weights and moments stay float32; "bfloat16_weights": nothing does (TRL alone).
"""

import argparse
import dataclasses
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from beside import environments, growth, table
from beside.sizes import DTYPES, SIZES, STAGES, Size
from beside.worker import Failed, Worker

from instruct_jax.errors import InputError, explain

HERE = Path(__file__).resolve().parent
PATIENCE = 900.0  # seconds without a reply
# Worker: environment, stages, dtypes.
OURS = ("ours", STAGES, DTYPES[:2])
PEERS = {
    "trl": ("trl", ("sft", "rm"), DTYPES),
    "trl_ppo": ("trl_ppo", ("ppo",), DTYPES),
    "tunix": ("tunix", ("sft", "decode", "ppo"), DTYPES[:2]),
    "transformers": ("trl", ("decode",), DTYPES[:2]),
}


def chosen(option: str, given: str, known) -> list[str]:
    """The names of a comma-separated option; InputError for one that is not known."""
    names = [name for name in given.split(",") if name]
    for name in names:
        if name not in known:
            raise InputError(f"{option}: {name!r} is none of {', '.join(known)}")
    return names


@dataclasses.dataclass
class Benchmark:
    """What all cells share: how workers are started, and where they may write."""

    pythons: dict[str, Path]
    threads: int
    scratch: Path
    devices: int  # that ours pretends to have

    def environment(self, name: str, devices: int | None = None) -> dict[str, str]:
        """The variables of a worker. Everybody has launch/env.sh's malloc."""
        root = HERE.parent.parent
        paths = [str(HERE), str(root)] if name == "ours" else [str(HERE)]
        variables = {
            "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(self.threads), "JAX_PLATFORMS": "cpu",
            "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "TF_CPP_MIN_LOG_LEVEL": "2", "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1", "JAX_COMPILATION_CACHE_DIR": str(self.scratch / f"cache_{name}"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }  # fmt: skip
        if name == "ours":
            variables["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices or self.devices}"
        inherited = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
        return inherited | variables

    def start(self, who: str, stage: str, size: Size, devices: int | None = None) -> Worker:
        """The worker `who`, "NAME DTYPE"; "machine DTYPE" measures the machine."""
        name, dtype = who.split(" ")
        environment = "ours" if name in ("ours", "machine") else PEERS[name][0]
        arguments = ["--dtype", dtype]
        if name != "machine":
            arguments += [
                "--stage",
                stage,
                "--size",
                json.dumps(dataclasses.asdict(size)),
                "--folder",
                str(self.weights(size)),
            ]
        if name in PEERS:
            arguments += ["--scratch", str(self.scratch / name)]
        module = {"ours": "beside.ours", "machine": "beside.limits"}.get(name, f"beside.peer_{name}")
        command = [str(self.pythons[environment]), "-m", module, *arguments]
        return Worker(
            command, self.environment(environment, devices), self.scratch / f"{name}_{dtype}.log", PATIENCE
        )

    def weights(self, size: Size) -> Path:
        """The folder of the weights of a size, written once."""
        folder = self.scratch / f"weights_{abs(hash(size))}"
        if not folder.exists():
            arguments = [
                "--stage",
                "weights",
                "--size",
                json.dumps(dataclasses.asdict(size)),
                "--folder",
                str(folder),
            ]
            worker = Worker([str(self.pythons["ours"]), "-m", "beside.ours", *arguments], self.environment("ours"),
                            self.scratch / "weights.log", PATIENCE)  # fmt: skip
            if worker.process.wait():
                raise InputError(f"no weights were written: {worker.log.read_text()[-500:]}")
        return folder


def measure(
    benchmark: Benchmark,
    stage: str,
    size_name: str,
    who: list[str],
    rounds: int,
    save: Callable[[dict], None],
) -> dict:
    """One cell: all workers of a stage and a size, started one after another, then round by round, each of which is saved."""
    size = SIZES[size_name]
    dtypes = {each: each.split(" ")[1] for each in who}
    mine = sorted({dtypes[each] for each in who if each.startswith("ours ")})
    cell = {
        "stage": stage, "size": size_name, "dtype": dtypes,
        "tokens": size.rows * (size.response if stage == "decode" else size.length), "rounds": [],
        "machine": {dtype: [] for dtype in mine}, "first": {}, "peak": {}, "parameters": {}, "versions": {}, "work": {}, "failed": {},
        "again": {},
    }  # fmt: skip
    workers: dict[str, Worker] = {}

    def attempt(name, call):
        try:
            return call()
        except Failed as failure:
            print(f"{stage} {size_name} {name}: {failure}", file=sys.stderr, flush=True)
            cell["failed"][name] = str(failure)
            workers.pop(name, None)
            return None

    try:
        for name in [*who, *(f"machine {dtype}" for dtype in mine)]:
            workers[name] = benchmark.start(name, stage, size)
            attempt(name, lambda name=name: _begin(cell, name, workers[name]))
        for number in range(rounds):
            order = list(workers)
            turn = number % max(len(order), 1)
            replies = {name: attempt(name, workers[name].round) for name in order[turn:] + order[:turn]}
            cell["rounds"].append({name: replies[name]["seconds"] for name in who if replies.get(name)})
            for dtype in mine:
                if replies.get(f"machine {dtype}"):
                    cell["machine"][dtype].append(replies[f"machine {dtype}"]["seconds"])
            cell["peak"] |= {
                name: reply["peak_bytes"] for name, reply in replies.items() if reply and name in who
            }
            told = ", ".join(f"{name} {found['step']:.3g}" for name, found in cell["rounds"][-1].items())
            print(f"{stage} {size_name} round {number}: {told} s", flush=True)
            save(cell)
    finally:
        for worker in workers.values():
            worker.stop()
    for name in [each for each in who if each.startswith("ours ") and each not in cell["failed"]]:
        attempt(name, lambda name=name: cell["again"].update({name: _again(benchmark, name, stage, size)}))
    return cell


def _begin(cell: dict, name: str, worker: Worker) -> None:
    """Waits until a worker is ready, has it run its first round and one that does not count."""
    ready = worker.read()
    first = worker.round()["seconds"]
    worker.round()
    if not name.startswith("machine "):
        cell["first"][name] = first["step"]
        cell["parameters"][name], cell["versions"][name] = ready["parameters"], ready["versions"]
        if "work" in ready:
            cell["work"][name] = ready["work"]


def _again(benchmark: Benchmark, name: str, stage: str, size: Size) -> float:
    """Seconds from the start of a process to the end of its first round, its programs compiled before."""
    start = time.perf_counter()
    worker = benchmark.start(name, stage, size)
    try:
        worker.read()
        worker.round()
        return time.perf_counter() - start
    finally:
        worker.stop()


def participants(stage: str, dtypes: list[str], peers: list[str]) -> list[str]:
    """ "NAME DTYPE" of everybody that does a stage in one of the dtypes, ours first."""
    found = []
    for name, (_, stages, known) in {"ours": OURS, **{peer: PEERS[peer] for peer in peers}}.items():
        found += [f"{name} {dtype}" for dtype in dtypes if stage in stages and dtype in known]
    return found


def described(options) -> dict:
    """The machine and the command, without the places where this machine keeps things."""
    asked = [
        f"--{name} {','.join(getattr(options, name))}" for name in ("stages", "dtypes", "sizes", "peers")
    ]
    asked = ["--growth", asked[2]] if options.growth else asked
    return {
        "command": " ".join(
            ["tests/benchmarks/run.py", *asked, f"--devices {options.devices} --rounds {options.rounds}"]
        ),
        "cores": options.threads,
        "machine": f"{platform.system()} {platform.machine()}",
        "sizes": {name: dataclasses.asdict(SIZES[name]) for name in options.sizes},
    }


def read_options(given: list[str]):
    """The command line; InputError for what cannot be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--stages", default="sft,rm,decode,ppo", help=f"of {', '.join(STAGES)}; the last two are ours alone"
    )
    parser.add_argument("--dtypes", default="float32", help=f"of {', '.join(DTYPES)}")
    parser.add_argument("--sizes", default="17m", help=f"of {', '.join(SIZES)}")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"of {', '.join(PEERS)}; '' for none")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="a JSON file for everything that was measured")
    parser.add_argument(
        "--growth",
        action="store_true",
        help="ours alone: cost against size, length, batch, completions and devices",
    )
    parser.add_argument(
        "--show", type=Path, nargs="+", help="print the tables of saved files and measure nothing"
    )
    parser.add_argument(
        "--python", help="the interpreter that environments are made with (default: python3.12)"
    )
    parser.add_argument(
        "--environments", type=Path, default=Path(".venv-bench"), help="where environments are kept"
    )
    parser.add_argument("--threads", type=int, help="cores to use (default: all)")
    parser.add_argument("--devices", type=int, help="that ours makes of the cores (default: one of each)")
    options = parser.parse_args(given)
    options.stages = chosen("--stages", options.stages, STAGES)
    options.dtypes = chosen("--dtypes", options.dtypes, DTYPES)
    options.sizes = chosen("--sizes", options.sizes, SIZES)
    options.peers = chosen("--peers", options.peers, PEERS)
    cores = sorted(os.sched_getaffinity(0))
    if options.rounds < 1:
        raise InputError(f"--rounds is {options.rounds}: it must be at least 1")
    options.threads = options.threads or len(cores)
    if not 1 <= options.threads <= len(cores):
        raise InputError(f"--threads is {options.threads}: this machine has {len(cores)} cores")
    options.devices = options.threads if options.devices is None else options.devices
    if options.devices < 1:
        raise InputError(f"--devices is {options.devices}: it must be at least 1")
    return options


def show(files: list[Path]) -> None:
    """Prints the tables of saved files."""
    for file in files:
        try:
            saved = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise InputError(
                f"--show: {file} cannot be read ({error}): name a file that --out wrote"
            ) from error
        print(f"`{saved['command']}`\n")
        for cell in saved.get("cells", []):
            print(table.render(cell) + "\n")
        for size, axes in saved.get("growth", {}).items():
            print(f"### Growth, {size}\n\n{table.render_growth(axes)}\n")


def run(options) -> None:
    """Measures what was asked for, saving after every cell."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    python = environments.find_python(options.python)
    peers = [] if options.growth else options.peers
    doing = {peer: PEERS[peer] for peer in peers if set(PEERS[peer][1]) & set(options.stages)}
    needed = dict.fromkeys(["ours", *(environment for environment, _, _ in doing.values())])
    pythons = {name: environments.make(name, options.environments, python) for name in needed}
    found = described(options)
    with tempfile.TemporaryDirectory() as scratch:
        benchmark = Benchmark(pythons, options.threads, Path(scratch), options.devices)
        for size in options.sizes:
            if options.growth:
                found.setdefault("growth", {})[size] = growth.measure(benchmark, SIZES[size], options.rounds)
                print(table.render_growth(found["growth"][size]), flush=True)
                _save(options.out, found)
                continue
            for stage in options.stages:
                who = participants(stage, options.dtypes, list(doing))
                done = found.get("cells", [])

                def save(cell, done=done):
                    found["cells"] = [*done, cell]
                    _save(options.out, found)

                cell = measure(benchmark, stage, size, who, options.rounds, save)
                save(cell)
                print("\n" + table.render(cell) + "\n", flush=True)


def _save(out: Path | None, found: dict) -> None:
    if out is None:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    part.write_text(json.dumps(found, indent=1) + "\n")
    part.replace(out)


def main(given: list[str]) -> int:
    try:
        options = read_options(given)
        if options.show:
            show(options.show)
        else:
            run(options)
    except (InputError, Failed) as error:
        explain(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
