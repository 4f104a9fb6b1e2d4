"""Kill the lab's PPO-ptx at random moments, start it again each time, and hold what is left to a run that nobody killed.

    source launch/env.sh && PYTHONPATH=.:tests .venv/bin/python tests/faults/soak.py --kills 50 --out docs/results/faults

runs the smallest recipe (tests/configs/tiny_recipe.py with 16 PPO iterations, a checkpoint every second one) once to its end. Then
rounds of ten kills: the recipe's folder is put back to where PPO-ptx begins, and the same command is started and killed (SIGKILL,
inside a phase drawn by turns, after a delay drawn from that phase's length) until it has got through; what it left must equal the
first run's. soak.json gets every kill. With --whole each stage of the whole recipe is killed once (soak_recipe.json). Without
$JAX_COMPILATION_CACHE_DIR every program is compiled anew at first. With --scratch FOLDER it can itself be stopped: given again, it
goes on from the runs and rounds that lie there, also to more --kills.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "tests" / "configs" / "tiny_recipe.py"
PHASES = ("compile", "rollout", "update", "checkpoint", "report")
ITERATIONS, SAVE_EVERY = 16, 2
# The files that hold no times: records, data sets, what stages conclude, and figures but that of the stages' seconds.
KEPT = re.compile(
    r"^(records|collect|select|evaluate|rm)/[^/]*\.jsonl?$|\.array_record-\d+$|^report/(?!stages).*\.png$"
)
TIMINGS = {
    "wall_seconds",
    "peak_rss_bytes",
    "matmul_gflops",
    "stages",
    "session_seconds",
    "seconds",
    "speed",
    "first_step_seconds",
}


class Life:
    """One process of the run, from its start to its end or its kill."""

    def __init__(self, workdir, cache, iterations):
        settings = {"episodes": 16 * iterations, "save_every": SAVE_EVERY, "keep": 2}
        overrides = [f"--config.ppo_ptx.train.{name}={value}" for name, value in settings.items()]
        environment = {
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        }
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "faults.watched", "--config", str(CONFIG), "--workdir", str(workdir), *overrides],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.inside, self.lengths, self.output = {}, {}, []
        self.resumed, self.done, self.seconds_to = None, None, {}

    def listen(self, line):
        """Takes a line in; the phase that begins with it, if any."""
        now = time.monotonic()
        self.output.append(line)
        if line.startswith("== "):  # a stage of the recipe begins, and the one before is over
            self.inside = {f"stage {line[3:].strip()}": now}
            return next(iter(self.inside))
        if not line.startswith("@ "):
            return None
        word, _, number = line[2:].strip().partition(" ")
        if word == "resumed":
            self.resumed = self.done = int(number)
        elif word == "done":
            self.done = int(number)
        elif word[0] == "-":
            self.lengths.setdefault(word[1:], []).append(now - self.inside.pop(word[1:], now))
        else:
            self.inside[word[1:]] = now
        self.seconds_to.setdefault(word, now - self.began)
        return word[1:] if word[0] == "+" else None

    def run(self, phase=None, occurrence=1, delay=0.0, how=signal.SIGKILL):
        """Listens to the end; kills `delay` seconds into the n-th `phase`. The phases that the kill fell into, None without one."""
        timer, seen, expected = None, 0, {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143}[how]
        for line in self.process.stdout:
            seen += self.listen(line) == phase and phase is not None
            if seen == occurrence and timer is None:
                timer = threading.Timer(delay, self.process.send_signal, [how])
                timer.start()
        status = self.process.wait()
        if timer:
            timer.cancel()
        if timer and status == expected:
            return sorted(self.inside) or ["between"]
        if status != 0:
            raise AssertionError(f"the run ended with status {status}:\n" + "".join(self.output[-40:]))
        return None


def rewind(finished, workdir, evaluate):
    """A copy of a finished recipe as it was before PPO-ptx (and, unless `evaluate`, with its evaluation done).

    Its config.json is left out, for PPO-ptx goes on with other settings than the recipe had."""
    gone = ["ppo_ptx", "report", *(["evaluate"] if evaluate else [])]
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.copytree(
        finished, workdir, ignore=shutil.ignore_patterns(*gone, "config.json", "finished.json", ".lock*")
    )
    times = json.loads((workdir / "times.json").read_text())
    (workdir / "times.json").write_text(json.dumps({k: v for k, v in times.items() if k not in gone}))


def committed(workdir):
    """The step of the newest finished checkpoint of PPO-ptx, 0 where there is none."""
    return max(
        (int(p.name) for p in (workdir / "ppo_ptx" / "checkpoints").glob("*") if p.name.isdigit()), default=0
    )


def plain(value):
    """A JSON value without what a clock or a meter said."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k not in TIMINGS and not k.startswith("perf/")}
    return value


def outcome(workdir):
    """Everything that a recipe leaves, but times: {name: bytes or numbers}, checkpoints array by array."""
    found = {}
    for folder in sorted(workdir.rglob("state")):
        arrays = ocp.PyTreeCheckpointHandler().restore(folder)
        where = folder.parent.relative_to(workdir)
        found |= {f"{where}: {name}": (str(x.dtype), np.asarray(x).tobytes()) for name, x in arrays.items()}
    for path in sorted(workdir.rglob("*")):
        name = path.relative_to(workdir).as_posix()
        if path.name == "metrics.jsonl":
            found[name] = [plain(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.name in ("done.json", "summary.json"):
            found[name] = plain(json.loads(path.read_text()))
        elif KEPT.search(name):
            found[name] = path.read_bytes()
    return found


def differences(first, second):
    """The names under which two outcomes differ."""
    return sorted(name for name in {*first, *second} if first.get(name) != second.get(name))


def survive(finished, workdir, cache, draw, kills, iterations, lengths, evaluate, tell=print):
    """Runs PPO-ptx and the report to their end through at most `kills` kills, one in `len(PHASES)` of them in the report.

    `lengths` are the phases' seconds when undisturbed. A row for each kill, and the life that got through.
    """
    rewind(finished, workdir, evaluate)
    rows, of_report = [], kills // len(PHASES)
    plan = [PHASES[i % (len(PHASES) - 1)] for i in range(kills - of_report)]
    draw.shuffle(plan)
    for phase in plan + ["report"] * of_report:
        began_at = committed(workdir)
        delay, occurrence = (
            draw.uniform(0, lengths[phase]),
            1 if phase in ("compile", "report") else draw.randint(1, 2),
        )
        with tempfile.TemporaryDirectory(dir=workdir.parent) as empty:
            life = Life(workdir, empty if phase == "compile" else cache, iterations)
            hit = life.run(phase, occurrence, delay)
        if life.resumed is not None and life.resumed != began_at:
            raise AssertionError(f"resumed from step {life.resumed} where a checkpoint of {began_at} was")
        if hit is None:
            return rows, life
        rows.append({
            "aimed_at": phase, "hit": hit, "resumed_from": life.resumed, "steps_done": life.done, "checkpoint_left": committed(workdir),
            "seconds_lived": round(time.monotonic() - life.began, 2),
            "seconds_to_resume": life.seconds_to.get("resumed") and round(life.seconds_to["resumed"], 2),
            "seconds_to_first_step": life.seconds_to.get("done") and round(life.seconds_to["done"], 2),
        })  # fmt: skip
        tell(f"kill {len(rows)} of this round: in {'+'.join(hit)}, {life.done} steps done", flush=True)
    life = Life(workdir, cache, iterations)
    assert life.run() is None
    return rows, life


def survive_recipe(finished, workdir, cache, draw, iterations, tell=print):
    """Runs the whole recipe from nothing through one kill in each of its stages, at a moment drawn from the stage's length."""
    shutil.rmtree(workdir, ignore_errors=True)
    rows = []
    for stage, seconds in json.loads((finished / "times.json").read_text()).items():
        life, delay = Life(workdir, cache, iterations), draw.uniform(0, seconds)
        hit = life.run(f"stage {stage}", 1, delay)
        rows.append({"aimed_at": stage, "after_seconds": round(delay, 2), "hit": hit})
        tell(f"stage {stage}: killed in {'+'.join(hit or ['nothing'])}", flush=True)
    if hit is not None:
        assert Life(workdir, cache, iterations).run() is None
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--whole", action="store_true", help="kill every stage of the whole recipe once instead"
    )
    parser.add_argument(
        "--scratch", type=Path, default=None, help="where the runs lie (default: a temporary folder)"
    )
    asked = parser.parse_args()
    scratch = asked.scratch or Path(tempfile.mkdtemp(prefix="soak-"))
    scratch.mkdir(parents=True, exist_ok=True)
    finished, record = scratch / "finished", scratch / "rounds.json"
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", scratch / "cache")
    if not (finished / "finished.json").exists():
        assert Life(finished, cache, ITERATIONS).run() is None
    expected = outcome(finished)
    if asked.whole:
        rows = survive_recipe(finished, scratch / "whole", cache, random.Random(asked.seed), ITERATIONS)
        unequal = differences(expected, outcome(scratch / "whole"))
        keep(asked.out / "soak_recipe.json", {"differs_in": unequal, "kills_in_order": rows})
        return 1 if unequal else 0
    if record.exists():
        lengths, rounds, kills = json.loads(record.read_text())
    else:
        lengths, rounds, kills = undisturbed(finished, expected, scratch / "again", cache), [], []
    while len(kills) < asked.kills:
        wanted, draw = min(10, asked.kills - len(kills)), random.Random(f"{asked.seed} {len(rounds)}")
        rows, life = survive(
            finished, scratch / "killed", cache, draw, wanted, ITERATIONS, lengths, not rounds
        )
        unequal = differences(expected, outcome(scratch / "killed"))
        rounds.append({"kills": len(rows), "differs_in": unequal, "last_resumed_from": life.resumed})
        kills += [{"round": len(rounds), **row} for row in rows]
        print(
            f"round {len(rounds)}: {len(kills)} kills so far, differs in {unequal or 'nothing'}", flush=True
        )
        keep(record, [lengths, rounds, kills])
        write(asked, lengths, rounds, kills)
    return 1 if any(r["differs_in"] for r in rounds) else 0


def undisturbed(finished, expected, workdir, cache):
    """How long the phases are with every program compiled; and that two runs without a kill are equal."""
    rewind(finished, workdir, False)
    again = Life(workdir, cache, ITERATIONS)
    assert again.run() is None
    unequal = differences(expected, outcome(workdir))
    assert not unequal, f"two undisturbed runs differ in {unequal}"
    return {phase: float(np.median(again.lengths[phase])) for phase in PHASES}


def write(asked, lengths, rounds, kills):
    by_phase = {phase: sum(phase in kill["hit"] for kill in kills) for phase in PHASES}
    by_phase["between"] = sum(not set(PHASES) & set(kill["hit"]) for kill in kills)
    resumed = [kill["seconds_to_resume"] for kill in kills if kill["seconds_to_resume"]]
    stepped = [kill["seconds_to_first_step"] for kill in kills if kill["seconds_to_first_step"]]
    lost = [kill["steps_done"] - kill["checkpoint_left"] for kill in kills if kill["steps_done"] is not None]
    summary = {
        "kills": len(kills), "seed": asked.seed, "iterations": ITERATIONS, "save_every": SAVE_EVERY, "kills_inside": by_phase,
        "rounds_equal_to_the_undisturbed_run": sum(not r["differs_in"] for r in rounds), "rounds": len(rounds),
        "most_steps_lost": max(lost), "phase_seconds": {k: round(v, 3) for k, v in lengths.items()},
        "seconds_from_start_to_resumed_median_max": [float(np.median(resumed)), max(resumed)],
        "seconds_from_start_to_first_step_median_max": [float(np.median(stepped)), max(stepped)] if stepped else None,
    }  # fmt: skip
    keep(asked.out / "soak.json", {"summary": summary, "rounds_in_order": rounds, "kills_in_order": kills})


def keep(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
