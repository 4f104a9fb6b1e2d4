"""Tokens a second of greedy decode, ours against transformers': SmolLM2 at batch 16, or a random Qwen2 of 17M at batch 32.

    source launch/env.sh && PYTHONPATH=. .venv/bin/python tests/benchmarks/decode_smollm2.py [FILE.gguf] \
        [--torch-python .venv-torch/bin/python] [--rounds 5] [--devices 1] [--out FILE.json]

Without a file it is the 17M. Both sides read one folder of float32 safetensors and decode the same prompts on the same cores in
float32. Rounds alternate, every one in a process of its own; what is timed starts after a first call of the same shape. The limit of a
step is that of reading all weights and the filled cache once, at the rate at which torch sums a gigabyte.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROMPT, NEW = 32, 64
REPEATS = 2  # timed calls in a process; the faster one counts
QWEN2_17M = dict(
    vocab_size=8192, hidden_size=384, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=6,
    num_key_value_heads=6, max_position_embeddings=PROMPT + NEW, tie_word_embeddings=True,
)  # fmt: skip


def prompt_ids(batch: int) -> list[list[int]]:
    """`batch` rows of PROMPT ordinary token ids, the same for both sides."""
    return [
        [100 + (7919 * (PROMPT * row + column)) % 8000 for column in range(PROMPT)] for row in range(batch)
    ]


def timed(call) -> float:
    """Seconds of the fastest of REPEATS calls, after one that is not timed."""
    call()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def speeds(call, batch: int) -> dict:
    """Of call(tokens): tokens/s of the whole, and what the prompt and each further token take."""
    first, whole = timed(lambda: call(1)), timed(lambda: call(NEW))
    return {
        "tokens/s": batch * NEW / whole, "prompt ms": 1e3 * first, "step ms": 1e3 * (whole - first) / (NEW - 1),
    }  # fmt: skip


def export(gguf_file: Path, folder: Path) -> dict:
    """Writes SmolLM2 as safetensors; how long it took to load."""
    import jax

    from instruct_jax.pretrained import export, families, gguf, huggingface
    from instruct_jax.sharding import make_mesh

    start = time.perf_counter()
    source = gguf.open_source(gguf_file)
    config = families.to_config(source.config)
    params = jax.block_until_ready(huggingface.load(source, config, make_mesh(devices=jax.devices()[:1])))
    seconds = time.perf_counter() - start
    export.export_policy(params, config, folder)
    return {"gguf seconds": seconds}


def ours(folder: Path, batch: int) -> dict:
    import jax
    import numpy as np

    from instruct_jax.algorithms.decode import SamplingConfig, generate
    from instruct_jax.batches import PromptBatch
    from instruct_jax.models.transformer import PolicyModel
    from instruct_jax.pretrained import families, huggingface
    from instruct_jax.sharding import batch_sharding, make_mesh, place

    jax.config.update("jax_compilation_cache_dir", ".cache/jax")
    mesh = make_mesh(data=len(jax.devices()))
    start = time.perf_counter()
    source = huggingface.open_source(folder)
    config = families.to_config(source.config, context=PROMPT + NEW, unroll=True)
    params = jax.block_until_ready(huggingface.load(source, config, mesh))
    loading = time.perf_counter() - start
    tokens_BP = np.array(prompt_ids(batch), np.int32)
    rows_B = np.arange(batch, dtype=np.int32)
    prompts = place(PromptBatch(tokens_BP, np.ones_like(tokens_BP, bool), rows_B), batch_sharding(mesh))
    model, key = PolicyModel(config), jax.random.key(0)

    def program(tokens):
        sampling = SamplingConfig(max_new_tokens=tokens, temperature=0.0)
        return jax.jit(lambda params, prompts: generate(model, params, prompts, key, sampling, -1, 0)[0])

    programs = {tokens: program(tokens) for tokens in (1, NEW)}
    with jax.set_mesh(mesh):
        out = speeds(lambda tokens: programs[tokens](params, prompts).block_until_ready(), batch)
        out["first row"] = np.asarray(programs[NEW](params, prompts))[0].tolist()
    read = sum(x.nbytes for x in jax.tree.leaves(params)) - (
        0 if config.tied else params["embed"]["tokens"].nbytes
    )
    cache = 2 * config.layers * batch * config.kv_heads * config.head_dim * 4 * (PROMPT + NEW / 2)
    flops = 2 * batch * (read / 4)
    return {**out, "safetensors seconds": loading, "read MB": (read + cache) / 1e6, "GFLOP": flops / 1e9}


def write_17m(folder: Path) -> dict:
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(Qwen2Config(**QWEN2_17M)).save_pretrained(folder)
    return {}


def theirs(folder: Path, batch: int) -> dict:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    ids_BP = torch.tensor(prompt_ids(batch))
    mask_BP = torch.ones_like(ids_BP)

    @torch.inference_mode()
    def run(tokens):
        plan = GenerationConfig(
            do_sample=False, use_cache=True, max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=0
        )
        return model.generate(input_ids=ids_BP, attention_mask=mask_BP, generation_config=plan)[:, PROMPT:]

    out = {**speeds(run, batch), "first row": run(NEW)[0].tolist()}
    gigabyte, square = torch.ones(2**28), torch.randn(2048, 2048)
    out["read GB/s"] = gigabyte.nbytes / 1e9 / timed(gigabyte.sum)
    return {**out, "GFLOP/s": 2 * 2048**3 / 1e9 / timed(lambda: square @ square)}


def in_process(python: str, worker: str, folder: Path, options) -> dict:
    """The last line that this script prints as a worker under `python`, read as JSON."""
    command = [
        python,
        __file__,
        *map(str, filter(None, [options.gguf])),
        "--worker",
        worker,
        "--folder",
        str(folder),
    ]
    flag = f"--xla_force_host_platform_device_count={options.devices}"
    environment = {**os.environ, "XLA_FLAGS": flag}
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(found.stdout.splitlines()[-1])


def compare(options) -> None:
    rounds = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        first = in_process(
            *((sys.executable, "export") if options.gguf else (options.torch_python, "17m")), folder, options
        )
        for number in range(options.rounds):
            mine = in_process(sys.executable, "ours", folder, options)
            other = in_process(options.torch_python, "theirs", folder, options)
            rounds.append({"ours": mine, "transformers": other, "load": round(os.getloadavg()[0], 1)})
            alike = "same" if mine["first row"] == other["first row"] else "OTHER"
            parts = (f"{name} {x['tokens/s']:.1f} tokens/s (prompt {x['prompt ms']:.0f}, step {x['step ms']:.1f} ms)"
                     for name, x in list(rounds[-1].items())[:2])  # fmt: skip
            print(f"round {number}: {', '.join(parts)}, {alike} text in the first row, load {rounds[-1]['load']}", flush=True)  # fmt: skip
    report(rounds, first)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        model = options.gguf.name if options.gguf else "17m"
        saved = {"model": model, "devices": options.devices, "first": first, "rounds": rounds}
        options.out.write_text(json.dumps(saved, indent=1) + "\n")


def report(rounds: list[dict], first: dict) -> None:
    def line(what, values):
        print(f"{what} {statistics.median(values):.2f} (median; {min(values):.2f} to {max(values):.2f})")

    def limit(mine, other):
        """Milliseconds that a step takes at least."""
        return max(mine["read MB"] / other["read GB/s"], 1e3 * mine["GFLOP"] / other["GFLOP/s"])

    pairs = [(r["ours"], r["transformers"]) for r in rounds]
    line("tokens/s, times transformers':", [mine["tokens/s"] / other["tokens/s"] for mine, other in pairs])
    line("a step, times as fast:", [other["step ms"] / mine["step ms"] for mine, other in pairs])
    line("limit of a step, ms:", [limit(*pair) for pair in pairs])
    line("limit / our step:", [limit(*pair) / pair[0]["step ms"] for pair in pairs])
    line("load from safetensors, s:", [mine["safetensors seconds"] for mine, _ in pairs])
    if "gguf seconds" in first:
        print(f"load from GGUF, s: {first['gguf seconds']:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf", type=Path, nargs="?")
    parser.add_argument("--torch-python", default=".venv-torch/bin/python")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--devices", type=int, default=1, help="that ours is spread over; one uses all cores")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", choices=["export", "17m", "ours", "theirs"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is None:
        compare(options)
        return
    batch = 16 if options.gguf else 32
    workers = {
        "export": lambda: export(options.gguf, options.folder), "17m": lambda: write_17m(options.folder),
        "ours": lambda: ours(options.folder, batch), "theirs": lambda: theirs(options.folder, batch),
    }  # fmt: skip
    print(json.dumps(workers[options.worker]()))


if __name__ == "__main__":
    main()
