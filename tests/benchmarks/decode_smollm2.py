"""Tokens a second of SmolLM2's greedy decode at batch 16, ours against transformers', and how long ours takes to load.

    source launch/env.sh && PYTHONPATH=. .venv/bin/python tests/benchmarks/decode_smollm2.py FILE.gguf \
        [--torch-python .venv-torch/bin/python] [--rounds 5]

Both read one folder of float32 safetensors that we export from the GGUF file, and decode the same prompts on the same cores in
float32. Rounds alternate, every one in a process of its own; what is timed starts after a first call of the same shape.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BATCH, PROMPT, NEW = 16, 32, 64
REPEATS = 2  # timed calls in a process; the faster one counts


def prompt_ids() -> list[list[int]]:
    """BATCH rows of PROMPT ordinary token ids, the same for both sides."""
    return [
        [100 + (7919 * (PROMPT * row + column)) % 40000 for column in range(PROMPT)] for row in range(BATCH)
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


def ours(gguf_file: Path, folder: Path, export_first: bool) -> dict:
    import jax
    import numpy as np

    from instruct_jax.algorithms.decode import SamplingConfig, generate
    from instruct_jax.batches import PromptBatch
    from instruct_jax.models.transformer import PolicyModel
    from instruct_jax.pretrained import export, families, gguf, huggingface
    from instruct_jax.sharding import batch_sharding, make_mesh, place

    jax.config.update("jax_compilation_cache_dir", ".cache/jax")
    mesh = make_mesh(data=len(jax.devices()))
    out = {}

    def opened(column, open_source, path):
        start = time.perf_counter()
        source = open_source(path)
        config = families.to_config(source.config, context=PROMPT + NEW, unroll=True)
        params = jax.block_until_ready(huggingface.load(source, config, mesh))
        out[column] = time.perf_counter() - start
        return source, config, params

    if export_first:
        source, _, params = opened("gguf seconds", gguf.open_source, gguf_file)
        export.export_policy(params, families.to_config(source.config), folder)
        return out
    opened("gguf seconds", gguf.open_source, gguf_file)
    _, config, params = opened("safetensors seconds", huggingface.open_source, folder)
    tokens_BP = np.array(prompt_ids(), np.int32)
    rows_B = np.arange(BATCH, dtype=np.int32)
    prompts = place(PromptBatch(tokens_BP, np.ones_like(tokens_BP, bool), rows_B), batch_sharding(mesh))
    model, sampling = PolicyModel(config), SamplingConfig(max_new_tokens=NEW, temperature=0.0)
    with jax.set_mesh(mesh):
        run = jax.jit(lambda params, prompts, key: generate(model, params, prompts, key, sampling, -1, 0)[0])
        key = jax.random.key(0)
        out["tokens/s"] = BATCH * NEW / timed(lambda: run(params, prompts, key).block_until_ready())
        out["first row"] = np.asarray(run(params, prompts, key))[0].tolist()
    return out


def theirs(folder: Path) -> dict:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    plan = GenerationConfig(
        do_sample=False, use_cache=True, max_new_tokens=NEW, min_new_tokens=NEW, pad_token_id=0
    )
    ids_BP = torch.tensor(prompt_ids())
    mask_BP = torch.ones_like(ids_BP)

    @torch.inference_mode()
    def run():
        return model.generate(input_ids=ids_BP, attention_mask=mask_BP, generation_config=plan)[:, PROMPT:]

    return {"tokens/s": BATCH * NEW / timed(run), "first row": run()[0].tolist()}


def in_process(python: str, *arguments) -> dict:
    """The last line that this script prints as a worker under `python`, read as JSON."""
    command = [python, __file__, *map(str, arguments)]
    return json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
    )


def compare(gguf_file: Path, torch_python: str, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "smollm2"
        in_process(sys.executable, gguf_file, "--worker", "export", "--folder", folder)
        ratios, loads = [], {"gguf seconds": [], "safetensors seconds": []}
        for number in range(rounds):
            mine = in_process(sys.executable, gguf_file, "--worker", "ours", "--folder", folder)
            other = in_process(torch_python, gguf_file, "--worker", "theirs", "--folder", folder)
            ratios.append(mine["tokens/s"] / other["tokens/s"])
            for name, found in loads.items():
                found.append(mine[name])
            alike = "same" if mine["first row"] == other["first row"] else "OTHER"
            print(f"round {number}: ours {mine['tokens/s']:.1f}, transformers {other['tokens/s']:.1f} tokens/s, "
                  f"ratio {ratios[-1]:.2f}, {alike} text in the first row", flush=True)  # fmt: skip
    print(f"ratio {statistics.median(ratios):.2f} (median; {min(ratios):.2f} to {max(ratios):.2f}), batch {BATCH}, "
          f"{PROMPT} + {NEW} tokens, float32")  # fmt: skip
    for name, found in loads.items():
        print(f"load, {name}: {statistics.median(found):.2f} (median; {min(found):.2f} to {max(found):.2f})")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--torch-python", default=".venv-torch/bin/python")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", choices=["export", "ours", "theirs"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is None:
        compare(options.gguf, options.torch_python, options.rounds)
    elif options.worker == "theirs":
        print(json.dumps(theirs(options.folder)))
    else:
        print(json.dumps(ours(options.gguf, options.folder, options.worker == "export")))


if __name__ == "__main__":
    main()
