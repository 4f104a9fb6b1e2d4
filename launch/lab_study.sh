#!/usr/bin/env bash
# The full study of one seed, every model and plot: bash launch/lab_study.sh --seed N [--fresh] [--config.KEY=VALUE ...]
#
# Run again, it resumes or says that it is done; --fresh starts over. The summary is copied to
# docs/results/lab/seed_N.json. Further arguments go to instruct_jax.main; such a run is another experiment, so
# it has a folder of its own and its summary is not copied.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seed=""
fresh=false
overrides=()
while (($#)); do
  case "$1" in
    --seed)
      seed="${2:-}"
      shift
      ;;
    --seed=*) seed="${1#--seed=}" ;;
    --fresh) fresh=true ;;
    *) overrides+=("$1") ;;
  esac
  shift || true
done
if [[ ! "$seed" =~ ^[0-9]+$ ]]; then
  echo "lab_study.sh: --seed takes a whole number, as in: bash launch/lab_study.sh --seed 1" >&2
  exit 2
fi

bash launch/setup.sh
# shellcheck source=launch/env.sh
source launch/env.sh

workdir="runs/lab_study/seed_$seed"
if ((${#overrides[@]})); then workdir+="_custom"; fi
if $fresh; then rm -rf "$workdir"; fi
report="$workdir/report/index.html"
summary="$workdir/report/summary.json"
if [[ -e "$report" && -e "$summary" && ${#overrides[@]} == 0 ]]; then
  echo "lab_study: seed $seed is already done (--fresh starts over)"
else
  "$VENV/bin/python" -m instruct_jax.main --config configs/lab/study.py --config.seed="$seed" --workdir "$workdir" \
    ${overrides[@]+"${overrides[@]}"}
  echo "lab_study: seed $seed is done"
fi
echo "report:  $report"
echo "numbers: $summary"

if ((${#overrides[@]})); then
  echo "not copied to docs/results/lab, because of ${overrides[*]}"
else
  mkdir -p docs/results/lab
  cp "$summary" "docs/results/lab/seed_$seed.json"
  echo "copied:  docs/results/lab/seed_$seed.json"
fi
