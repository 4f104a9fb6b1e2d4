#!/usr/bin/env bash
# The table over several seeds of the study: bash launch/pool_studies.sh [SUMMARY.json ...]
#
# Reads docs/results/lab/seed_*.json, or the summaries given, and writes docs/results/lab/README.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash launch/setup.sh
# shellcheck source=launch/env.sh
source launch/env.sh

if (($#)); then summaries=("$@"); else summaries=(docs/results/lab/seed_*.json); fi
"$VENV/bin/python" - "${summaries[@]}" <<'PYTHON'
import json
import sys
from pathlib import Path

from instruct_jax.reports.pooled import pooled_page

page = pooled_page([json.loads(Path(path).read_text()) for path in sys.argv[1:]])
Path("docs/results/lab/README.md").write_text(page)
print(page)
PYTHON
