"""Does growing `data` leave a chip as it was? One step compiled for 2, 4, ... 32 copies of one fsdp group, its batch growing with it.

    bash launch/setup.sh --tpu
    PYTHONPATH=. .venv/bin/python tests/benchmarks/data_axis.py --out docs/results/aot/data_2_to_32.json

Memory of a chip is to stay within 10 % of the first size's, and what it sends within 10 % of the law (stages/ahead/sending). A size
that OUT holds already is not compiled again. Each takes about a minute; nothing runs on a TPU.
"""

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

from instruct_jax import devices
from instruct_jax.stages import train_lm
from instruct_jax.stages.ahead import compiling, fitting, sending

SLICES = {2: "v5p:2x2x4", 4: "v5p:2x4x4", 8: "v5p:4x4x4", 16: "v5p:4x4x8", 32: "v5p:4x8x8"}
FSDP, ROWS = 8, 16  # chips of a copy, rows of a copy's batch
KEPT = (
    "argument_bytes", "temporary_bytes", "peak_bytes", "needed_bytes", "sent_bytes", "compile_cpu_seconds", "collectives",
)  # fmt: skip


def load(path: str):
    spec = importlib.util.spec_from_file_location("a_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def grown(path: str, data: int):
    """The config over so many copies, with as many times the rows."""
    fields = {"mesh.data": data, "mesh.fsdp": FSDP, "data.batch_size": ROWS * data}
    return fitting.changed(load(path), fields)


def law(config) -> float:
    """Bytes that a chip sends in a step, at the least."""
    return sending.of(config, SimpleNamespace(shape=config.mesh.to_dict()))["train_step"].least


def compiled(config, data: int) -> dict:
    report = compiling.examine(config, train_lm.programs, compiling.open_slice(SLICES[data]))
    step = report["programs"]["train_step"]
    return {
        "data": data,
        "topology": report["topology"],
        "chips": report["chips"],
        "versions": report["versions"],
    } | {key: step[key] for key in KEPT}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/sft/gpt3_1p3b.py")
    parser.add_argument("--sizes", default=",".join(map(str, SLICES)))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    devices.prepare_to_compile_ahead()
    rows = {row["data"]: row for row in json.loads(args.out.read_text())} if args.out.exists() else {}
    for data in map(int, args.sizes.split(",")):
        if data not in rows:
            rows[data] = compiled(grown(args.config, data), data)
            args.out.write_text(json.dumps([rows[key] for key in sorted(rows)], indent=1) + "\n")
    first, good = rows[min(rows)], True
    print("| data | chips | peak GiB | of the first | GiB sent | by the law | ratio |\n|" + "---|" * 7)
    for data in sorted(rows):
        row, least = rows[data], law(grown(args.config, data))
        growth, ratio = row["peak_bytes"] / first["peak_bytes"], row["sent_bytes"] / least
        good &= abs(growth - 1) <= 0.1 and abs(ratio - 1) <= 0.1
        peak, sent, least = (bytes / devices.GIB for bytes in (row["peak_bytes"], row["sent_bytes"], least))
        print(
            f"| {data} | {row['chips']} | {peak:.3f} | {growth:.3f} | {sent:.3f} | {least:.3f} | {ratio:.3f} |"
        )
    print("within 10 %" if good else "NOT within 10 %")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
