#!/usr/bin/env bash
# The main job, the whole recipe on the embedded lab: bash launch/quickstart.sh [--fresh] [--config.KEY=VALUE ...]
#
# Sets everything up, runs, and says where the report is. Run again, it resumes or says that it is done;
# --fresh starts over. Further arguments go to instruct_jax.main.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

workdir=runs/quickstart
fresh=false
overrides=()
for argument in "$@"; do
  case "$argument" in
    --fresh) fresh=true ;;
    *) overrides+=("$argument") ;;
  esac
done

bash launch/setup.sh
# shellcheck source=launch/env.sh
source launch/env.sh

if $fresh; then rm -rf "$workdir"; fi
report="$workdir/report/index.html"
if [[ -e "$report" && -e "$workdir/report/summary.json" && ${#overrides[@]} == 0 ]]; then
  echo "quickstart: already done (--fresh starts over)"
else
  "$VENV/bin/python" -m instruct_jax.main --config configs/lab/quickstart.py --workdir "$workdir" \
    ${overrides[@]+"${overrides[@]}"}
  echo "quickstart: done"
fi
echo "report:  $report"
echo "numbers: $workdir/report/summary.json"
