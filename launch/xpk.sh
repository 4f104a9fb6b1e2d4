#!/usr/bin/env bash
# Runs an experiment on TPUs of a GKE cluster, through xpk: bash launch/xpk.sh VERB NAME [FLAG ...] [-- ARGUMENT ...]
#
#   create   makes the cluster NAME, and attaches --bucket to it as storage instruct-jax, mounted at /bucket
#   run      submits instruct_jax.main with the arguments after -- as the workload NAME of --cluster. The image is --image with
#            the working tree; GKE starts it again after a preemption or crash, at most --restarts times (50)
#   logs     the end of the workload's log;  status   the workload in the queue;  stop   takes it away; all three of --cluster
#   delete   takes the cluster NAME away
#
#   --type T      such as v5litepod-16; --slices N of them (1)
#   --spot, --reservation R   instead of on demand
#   --bucket B    of create: runs/ is gs://B/runs, which outlives the workload
#   --image I     the image that the working tree is put on (python:3.12)
#   --zone Z, --project P     where gcloud's own settings are not meant
#   --dry-run     prints the commands and calls nothing
# xpk is not among our requirements: pip install xpk, in an environment of its own; it needs gcloud, kubectl and docker.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

complain() { echo "xpk.sh: $*" >&2; }
wrong() {
  complain "$*"
  exit 2
}

declare -A flags=([slices]=1 [image]=python:3.12 [restarts]=50)
known="type slices spot reservation bucket image cluster restarts zone project dry-run"
arguments=()
verb="${1:-}"
name="${2:-}"
case "$verb" in
  create | run | logs | status | stop | delete) ;;
  -h | --help) sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//p}' launch/xpk.sh && exit 0 ;;
  *) wrong "unknown verb '$verb'; the verbs are create run logs status stop delete" ;;
esac
if [[ ! "$name" =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]]; then
  wrong "after $verb comes a name of small letters, digits and dashes; got '$name'"
fi
shift 2
while (($#)); do
  word="${1%%=*}"
  case "$1" in
    --)
      shift
      arguments=("$@")
      break
      ;;
    --spot | --dry-run) flags[${1#--}]=true ;;
    --*)
      if [[ " $known " != *" ${word#--} "* ]]; then wrong "unknown flag '$word'; known are --${known// / --}"; fi
      if [[ "$1" == *=* ]]; then
        flags[${word#--}]="${1#*=}"
      else
        flags[${word#--}]="${2:-}"
        shift || true
      fi
      if [[ -z "${flags[${word#--}]}" ]]; then wrong "$word takes a value"; fi
      ;;
    *) wrong "'$1' belongs to no flag; arguments of the run come after --" ;;
  esac
  shift || true
done

need() {
  local word
  for word in "$@"; do
    if [[ -z "${flags[$word]:-}" ]]; then wrong "$verb needs --$word"; fi
  done
}

call() {
  if [[ -n "${flags["dry-run"]:-}" ]]; then
    local line
    printf -v line '%q ' "$@"
    echo "${line% }"
  elif ! command -v "$1" >/dev/null; then
    complain "there is no $1 here: see the head of launch/xpk.sh for what it takes (--dry-run does without)"
    return 1
  else
    "$@" || {
      complain "$1 $2 $3 failed, as said above; gcloud auth login, and gcloud container clusters list, show what it had to work with"
      return 1
    }
  fi
}

at_place() { call xpk "$@" ${flags[zone]:+"--zone=${flags[zone]}"} ${flags[project]:+"--project=${flags[project]}"}; }

workloads() { at_place workload list --cluster="${flags[cluster]}" --filter-by-job="$name"; }

run() {
  # shellcheck disable=SC2016 # these belong to the container's shell
  local inside='set -e; bash launch/setup.sh --tpu; source launch/env.sh
    mkdir -p /bucket/runs /bucket/data; rm -rf runs; ln -s /bucket/runs runs; export INSTRUCT_JAX_DATA=/bucket/data
    exec "$VENV/bin/python" -m instruct_jax.main "$@"' command
  printf -v command '%q ' exec bash -c "$inside" main "${arguments[@]}"
  at_place workload create --workload="$name" --cluster="${flags[cluster]}" --tpu-type="${flags[type]}" \
    --num-slices="${flags[slices]}" --storage=instruct-jax --base-docker-image="${flags[image]}" --script-dir=. \
    --max-restarts="${flags[restarts]}" --termination-grace-period-seconds=300 --command="${command% }"
}

case "$verb" in
  create)
    need type bucket
    capacity=(--on-demand)
    if [[ -n "${flags[spot]:-}" ]]; then capacity=(--spot); fi
    if [[ -n "${flags[reservation]:-}" ]]; then capacity=("--reservation=${flags[reservation]}"); fi
    at_place cluster create --cluster="$name" --tpu-type="${flags[type]}" --num-slices="${flags[slices]}" "${capacity[@]}" \
      --enable-workload-identity --enable-gcsfuse-csi-driver
    at_place storage attach instruct-jax --cluster="$name" --type=gcsfuse --bucket="${flags[bucket]}" --size=1000 \
      --mount-point=/bucket --readonly=false --auto-mount=false \
      --mount-options=implicit-dirs,rename-dir-limit=1000000,metadata-cache:ttl-secs:0
    ;;
  run)
    need cluster type
    if ((${#arguments[@]} == 0)); then
      wrong "run takes the arguments of instruct_jax.main after --, such as: -- --config configs/ppo/gpt3_1p3b.py --workdir runs/ppo"
    fi
    run
    ;;
  logs)
    need cluster
    workloads # after which kubectl speaks to that cluster, as after every call of xpk
    call kubectl logs "--selector=jobset.sigs.k8s.io/jobset-name=$name" --tail=100 --prefix
    ;;
  status)
    need cluster
    workloads
    ;;
  stop)
    need cluster
    at_place workload delete --cluster="${flags[cluster]}" --workload="$name" --force
    ;;
  delete) at_place cluster delete --cluster="$name" --force ;;
esac
