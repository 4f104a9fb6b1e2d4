#!/usr/bin/env bash
# Compares every family with torch and transformers, live: bash launch/compare_torch.sh [FILE.gguf ...]
#
# Fresh random checkpoints (tests/pretrained/torch_side.py) are read by us, exported by us and read back by transformers; greedy
# text from the GGUF files (default: all under the data folder) is compared token for token. Exit status 1 on a difference.
#   INSTRUCT_JAX_DATA  the data folder (default: .cache/data), filled by launch/fetch_data.sh
#   VENV, TORCH_VENV   environments of the project and of torch (default: .venv and .venv-torch)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash launch/setup.sh
VENV="${TORCH_VENV:-.venv-torch}" bash launch/setup.sh --torch
# shellcheck source=launch/env.sh
source launch/env.sh
torch_python="${TORCH_VENV:-.venv-torch}/bin/python"

if (($# == 0)); then
  shopt -s globstar nullglob
  set -- "${INSTRUCT_JAX_DATA:-.cache/data}"/**/*.gguf
  if (($# == 0)); then echo "compare_torch: no GGUF file named or under ${INSTRUCT_JAX_DATA:-.cache/data}: leaving that part out" >&2; fi
fi

work=runs/compare_torch
rm -rf "$work"
"$torch_python" tests/pretrained/torch_side.py make "$work" "$@"
PYTHONPATH=. "$VENV/bin/python" tests/pretrained/compare.py "$work"
"$torch_python" tests/pretrained/torch_side.py check "$work"
