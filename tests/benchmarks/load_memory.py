"""Peak host memory of loading a sharded checkpoint of over 2 GB, in one process and in two that hold half each.

    source launch/env.sh && PYTHONPATH=. .venv/bin/python tests/benchmarks/load_memory.py

The checkpoint is a Llama of 1.07 billion random parameters in bfloat16, four shards and an index, made in a temporary folder. What is
measured is the process's resident memory at its highest, less what it was before, page cache of mapped files included. The bound:
1.2 x the largest parameter (a stack of all layers, float32, as much of it as the process holds) plus all that the process holds.
"""

import argparse
import json
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

SHAPE = dict(vocab=32_000, layers=18, width=2048, heads=16, context=512, mlp=5632)
SHARDS = 4


def make(folder: Path) -> int:
    """Writes the checkpoint; its bytes."""
    import ml_dtypes
    import numpy as np
    from safetensors.numpy import save_file

    from instruct_jax.models.variants import TransformerConfig
    from instruct_jax.pretrained import families

    switches = families.FAMILIES["llama"].switches | families.NO_BIAS
    config = TransformerConfig(
        **SHAPE, **switches, tied=False, activation="silu", norm_eps=1e-5, family="llama"
    )
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(families.to_hf(config)))
    D, F, V = config.width, config.mlp, config.vocab
    sizes = {
        "q": (D, D),
        "k": (D, D),
        "v": (D, D),
        "out": (D, D),
        "gate": (F, D),
        "up": (F, D),
        "down": (D, F),
    }
    names = []
    for tensor in families.tensors(config):
        part = tensor.parts[0].split("/")[1]
        shape = sizes.get(part, (V, D) if part == "tokens" else (D,))
        layers = range(config.layers) if "{n}" in tensor.name else [0]
        names += [(tensor.name.format(n=n), shape) for n in layers]
    rng, placed, total = np.random.default_rng(0), {}, 0
    for i in range(SHARDS):
        file = f"model-{i + 1:05d}-of-{SHARDS:05d}.safetensors"
        held = {name: (0.02 * rng.standard_normal(shape, np.float32)).astype(ml_dtypes.bfloat16)
                for name, shape in names[i::SHARDS]}  # fmt: skip
        save_file(held, folder / file)
        placed |= dict.fromkeys(held, file)
        total += sum(x.nbytes for x in held.values())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    return total


def memory(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def worker(folder: Path, index: int, count: int, port: int) -> None:
    """Loads the checkpoint as process `index` of `count`, and prints what it took as JSON."""
    import jax

    if count > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", count, index)
    from instruct_jax.pretrained import families, huggingface
    from instruct_jax.sharding import make_mesh

    mesh = make_mesh(fsdp=len(jax.devices()))
    source = huggingface.open_source(folder)
    config = families.to_config(source.config)
    jax.block_until_ready(jax.device_put(0.0, jax.local_devices()[0]))
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest from now on
    params = jax.block_until_ready(huggingface.load(source, config, mesh))
    peak = memory("VmHWM") - before
    held = [sum(s.data.nbytes for s in leaf.addressable_shards) for leaf in jax.tree.leaves(params)]
    print(json.dumps({"peak": peak, "held": sum(held), "largest": max(held)}))


def measure(folder: Path, count: int) -> bool:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        __file__,
        "--folder",
        str(folder),
        "--processes",
        str(count),
        "--port",
        str(port),
    ]
    started = [
        subprocess.Popen([*command, "--index", str(i)], stdout=subprocess.PIPE, text=True)
        for i in range(count)
    ]
    fits = True
    for i, process in enumerate(started):
        out, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"process {i} failed")
        told = json.loads(out.splitlines()[-1])
        bound = 1.2 * told["largest"] + told["held"]
        fits &= told["peak"] <= bound
        gib = {name: f"{value / 2**30:.2f}" for name, value in (told | {"bound": bound}).items()}
        print(f"process {i + 1} of {count}: holds {gib['held']} GiB, largest parameter {gib['largest']}, peak {gib['peak']}, "
              f"bound {gib['bound']}: {'within' if told['peak'] <= bound else 'OVER'}")  # fmt: skip
    return fits


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--index", type=int)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--port", type=int, default=0)
    asked = parser.parse_args()
    if asked.index is not None:
        worker(asked.folder, asked.index, asked.processes, asked.port)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "llama"
        print(f"checkpoint: {make(folder) / 1e9:.2f} GB in {SHARDS} shards")
        return 0 if all([measure(folder, 1), measure(folder, 2)]) else 1


if __name__ == "__main__":
    sys.exit(main())
