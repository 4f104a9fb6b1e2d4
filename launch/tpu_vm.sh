#!/usr/bin/env bash
# Runs an experiment on a Cloud TPU VM: bash launch/tpu_vm.sh VERB NAME [FLAG ...] [-- ARGUMENT ...]
#
#   create   asks for the TPU as a queued resource and waits until it is there
#   setup    ships the code to every worker and makes the environment there
#   run      starts instruct_jax.main with the arguments after -- on every worker, in tmux: a lost ssh does not end it.
#            With --until-done it does all of the above as well, watches, and starts again after a preemption or crash
#   logs     the end of the log of --worker (0); --follow goes on
#   status   the TPU's state, and each worker's
#   stop     ends the run on every worker, saved first; the TPU stays, and costs
#   delete   gives the TPU back, with all that is on its disks
#
#   --type T         such as v5litepod-16; with --topology, such as 2x2x4, the chip's kind alone, such as v5p
#   --version V      the runtime, such as v2-alpha-tpuv5-lite
#   --zone Z, --project P   where gcloud's own settings are not meant
#   --spot           may be preempted; --valid-until 6h gives up waiting in the queue after that
#   --bucket B       runs/ is gs://B/runs (through gcsfuse), which outlives the VM; several workers need it
#   --commit C       ships that commit, not the working tree
#   --settings FILE  lines such as zone=us-west4-a, read as if they stood there as flags
#   --dry-run        prints the commands and calls nothing
#   TPU_VM_POLL      in the environment: seconds between two looks at the TPU or the run (60)
# Exit status: 0 done, 1 it failed, 2 a wrong flag; run --until-done ends with the run's own (see instruct_jax/main.py).
set -euo pipefail
if ((BASH_VERSINFO[0] < 4)); then
  echo "tpu_vm.sh: needs bash 4 or later (this is $BASH_VERSION); on a Mac: brew install bash" >&2
  exit 1
fi
started="$PWD" # --settings is relative to it
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/tpu_until_done.sh
source launch/tpu_until_done.sh

track="" # of gcloud: "" or alpha
again=75 # of functions: it failed, and another try may not
full=76  # of functions: there was no capacity, which costs nothing and may change
poll="${TPU_VM_POLL:-60}"
worker_script=instruct_jax/code/launch/worker.sh
declare -A flags=([worker]=0)

say() { [[ -n "${flags["dry-run"]:-}" ]] || echo "tpu_vm: $*"; }
complain() { echo "tpu_vm.sh: $*" >&2; }
wrong() {
  complain "$*"
  exit 2
}

# --- the command line

set_flag() { # name, value
  case "$1" in
    type | topology | version | zone | project | valid-until | bucket | commit | worker)
      if [[ -z "$2" ]]; then wrong "--$1 takes a value"; fi
      flags[$1]="$2"
      ;;
    spot | follow | until-done | dry-run)
      if [[ "$2" != true ]]; then wrong "--$1 takes no value, or true; got '$2'"; fi
      flags[$1]=true
      ;;
    settings) read_settings "$2" ;;
    *) wrong "unknown flag '--$1'; known are --type --topology --version --zone --project --spot --valid-until --bucket --commit" \
      "--settings --worker --follow --until-done --dry-run" ;;
  esac
}

read_settings() {
  local line file="$1"
  if [[ "$file" != /* ]]; then file="$started/$file"; fi
  if [[ ! -f "$file" ]]; then wrong "--settings: no file '$file'"; fi
  while IFS= read -r line || [[ -n "$line" ]]; do
    if [[ "$line" != \#* && -n "$line" ]]; then set_flag "${line%%=*}" "${line#*=}"; fi
  done <"$file"
}

parse() {
  local word
  verb="${1:-}"
  name="${2:-}"
  arguments=()
  case "$verb" in
    create | setup | run | logs | status | stop | delete) ;;
    -h | --help) sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//p}' launch/tpu_vm.sh && exit 0 ;;
    *) wrong "unknown verb '$verb'; the verbs are create setup run logs status stop delete" ;;
  esac
  if [[ ! "$name" =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]]; then
    wrong "after $verb comes the TPU's name, of small letters, digits and dashes, such as: tpu_vm.sh $verb mine; got '$name'"
  fi
  shift 2
  while (($#)); do
    case "$1" in
      --)
        shift
        arguments=("$@")
        break
        ;;
      --spot | --follow | --until-done | --dry-run) set_flag "${1#--}" true ;;
      --*=*)
        word="${1%%=*}"
        set_flag "${word#--}" "${1#*=}"
        ;;
      --*)
        set_flag "${1#--}" "${2:-}"
        shift || true
        ;;
      *) wrong "'$1' belongs to no flag; arguments of the run come after --" ;;
    esac
    shift || true
  done
}

check() {
  if [[ ! "$poll" =~ ^[0-9]+$ ]]; then wrong "TPU_VM_POLL is a whole number of seconds, got '$poll'"; fi
  if [[ ! "${flags[worker]}" =~ ^([0-9]+|all)$ ]]; then wrong "--worker takes a number or all, got '${flags[worker]}'"; fi
  if [[ "${flags[bucket]:-}" == gs://* ]]; then wrong "--bucket takes the bucket's bare name: ${flags[bucket]#gs://}"; fi
  if [[ -n "${flags[bucket]:-}" && ! "${flags[bucket]}" =~ ^[a-z0-9][-a-z0-9._]*$ ]]; then
    wrong "--bucket: '${flags[bucket]}' is no bucket's name"
  fi
  if [[ "$verb" == create || -n "${flags["until-done"]:-}" ]]; then
    if [[ -z "${flags[type]:-}" || -z "${flags[version]:-}" ]]; then
      wrong "needs --type, such as v5litepod-16, and --version, such as v2-alpha-tpuv5-lite" \
        "(gcloud compute tpus accelerator-types list, and versions list, name those of a zone)"
    fi
  fi
  if [[ "$verb" == run && ${#arguments[@]} == 0 ]]; then
    wrong "run takes the arguments of instruct_jax.main after --, such as: -- --config configs/ppo/gpt3_1p3b.py --workdir runs/ppo"
  fi
  if [[ -n "${flags["until-done"]:-}" && -n "${flags[spot]:-}" && -z "${flags[bucket]:-}" ]]; then
    wrong "--until-done on --spot needs --bucket: a preempted VM takes its disks along, checkpoints and all"
  fi
  if [[ -n "${flags[commit]:-}" ]] && ! git rev-parse --quiet --verify "${flags[commit]}^{commit}" >/dev/null; then
    wrong "--commit: there is no commit '${flags[commit]}' here"
  fi
  if [[ -z "${flags["dry-run"]:-}" ]] && ! command -v gcloud >/dev/null; then
    complain "needs gcloud: https://cloud.google.com/sdk/docs/install, then gcloud auth login (--dry-run does without)"
    exit 1
  fi
}

# --- gcloud

there() { # a command as a line to paste, in the zone and project: elsewhere there would be nothing, which looks like success
  local line
  printf -v line '%q ' "$@" ${flags[zone]:+"--zone=${flags[zone]}"} ${flags[project]:+"--project=${flags[project]}"}
  echo "${line% }"
}

hint() { there bash launch/tpu_vm.sh "$1" "$name"; } # the command of a verb

place() { # where gcloud looks
  local zone="${flags[zone]:-}"
  echo "${zone:-"gcloud's own default zone"}${flags[project]:+ of project ${flags[project]}}"
}

show() { # a command line that can be pasted
  local line
  printf -v line '%q ' "$@"
  echo "${line% }" >&3
}

call() { # any command; its stderr is kept for `explain`
  if [[ -n "${flags["dry-run"]:-}" ]]; then
    show "$@"
  else
    "$@" </dev/null 2>"$scratch/said"
  fi
}

tpus() { # gcloud compute tpus ..., in the zone and project
  call gcloud ${track:+"$track"} compute tpus "$@" ${flags[zone]:+"--zone=${flags[zone]}"} ${flags[project]:+"--project=${flags[project]}"} --quiet
}

on_workers() { # which workers; then the words of the command there, each of which arrives as it is here
  local which="$1" line
  shift
  printf -v line '%q ' "$@"
  tpus tpu-vm ssh "$name" --worker="$which" --command="${line% }" || explain "tpu-vm ssh"
}

lacks_capacity() { [[ "$1" =~ "no more capacity"|nsufficient\ capacity|RESOURCE_EXHAUSTED|stockout ]]; }

unreached() { # what gcloud, which tries ten times, tried more than once: "worker 3", or "workers 1 3"
  local found
  found="$(sed -nE 's/.*connect to worker ([0-9]+)\.\.\..*/\1/p' "$scratch/said" | sort -n | uniq -d | tr '\n' ' ')"
  case "$found" in
    "") echo "a worker" ;;
    *" "*" ") echo "workers ${found% }" ;;
    *) echo "worker ${found% }" ;;
  esac
}

complain_unreached() { # not of `status`, which would go the same way
  local who number login
  who="$(unreached)"
  number="$(grep -oE '[0-9]+' <<<"$who 0" | head -n 1)"
  login="$(there gcloud compute tpus tpu-vm ssh "$name" --worker="$number")"
  complain "$1: $who cannot be reached; try again; if that does not help, go there: $login or get another TPU: $(hint delete), then create"
}

explain() { # one line for what gcloud said; returns $again or $full where another try may help, else 1
  local said last
  said="$(cat "$scratch/said")"
  last="$(grep -E 'ERROR|FATAL|error' "$scratch/said" | tail -n 1 || true)"
  if [[ -z "$last" ]]; then last="$(tail -n 1 "$scratch/said")"; fi
  case "$said" in
    *"active account"* | *"auth login"* | *UNAUTHENTICATED* | *eauthentication*)
      complain "$1: gcloud is not logged in; run: gcloud auth login"
      return 1
      ;;
    *PERMISSION_DENIED* | *SERVICE_DISABLED*)
      complain "$1: not allowed ($last); run: gcloud services enable tpu.googleapis.com, or ask for the role TPU Admin"
      return 1
      ;;
    *uota*exceeded* | *uota*exhausted* | *exceed*uota* | *"Quota limit"*)
      complain "$1: over the project's quota ($last); ask for more in the console (IAM, Quotas), or take another --zone or --type"
      return 1
      ;;
  esac
  if lacks_capacity "$said"; then
    complain "$1: no capacity there now; try later, another --zone, or --spot"
    return "$full"
  fi
  case "$said" in
    *ALREADY_EXISTS*)
      complain "$1: there is a TPU of that name already; look at it: $(hint status) or give it back: $(hint delete)"
      return 1
      ;;
    *INVALID_ARGUMENT* | *"unrecognized arguments"* | *"Invalid choice"* | *"required property"*)
      complain "$1: gcloud refuses: $last"
      return 1
      ;;
    *"return code [255]"* | *"exit status 255"* | *"onnection "* | *"timed out"*)
      complain_unreached "$1"
      return "$again"
      ;;
  esac
  complain "$1 failed: ${last:-gcloud said nothing}; see: $(hint status)"
  return "$again"
}

# --- the TPU

state() { # of the queued resource, and where that is ACTIVE and the node is not READY, of the node; NONE where there is none
  local found node
  if [[ -n "${flags["dry-run"]:-}" ]]; then
    tpus queued-resources describe "$name" --format='value(state.state)'
    tpus tpu-vm describe "$name" --format='value(state)'
    echo ACTIVE
    return
  fi
  if ! found="$(tpus queued-resources describe "$name" --format='value(state.state)')"; then
    if grep -q NOT_FOUND "$scratch/said"; then echo NONE && return; fi
    explain "queued-resources describe"
    return
  fi
  if [[ "$found" == ACTIVE ]]; then
    if ! node="$(tpus tpu-vm describe "$name" --format='value(state)')"; then
      if ! grep -q NOT_FOUND "$scratch/said"; then explain "tpu-vm describe" || return; fi
      node=GONE
    fi
    if [[ "$node" != READY ]]; then found="$node"; fi
  fi
  echo "$found"
}

create() {
  local track="" shape=("--accelerator-type=${flags[type]}")
  if [[ -n "${flags[topology]:-}" ]]; then
    shape=("--type=${flags[type]}" "--topology=${flags[topology]}")
    if [[ ! "${flags[type]}" =~ ^v[234]$ ]]; then track=alpha; fi # elsewhere gcloud knows no later --type
  fi
  tpus queued-resources create "$name" --node-id="$name" "${shape[@]}" --runtime-version="${flags[version]}" \
    ${flags[spot]:+--spot} ${flags["valid-until"]:+"--valid-until-duration=${flags["valid-until"]}"} ||
    explain "queued-resources create"
}

await() { # until it is ACTIVE
  local now="" before="" why
  while true; do
    now="$(state)" || return
    if [[ "$now" != "$before" ]]; then say "$name is $now"; fi
    before="$now"
    case "$now" in
      ACTIVE) return ;;
      FAILED)
        why="$(tpus queued-resources describe "$name" --format='value(state.failedData.error.message)' || true)"
        complain "the request failed: $why; clear it away: $(hint delete)"
        if [[ "$why" != *uota* ]] && lacks_capacity "$why"; then return "$full"; fi
        return "$again"
        ;;
      CREATING | ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING | STARTING | RESTARTING | REPAIRING | REIMAGING) sleep "$poll" ;;
      *)
        complain "$name is $now, and does not come back from that; give it back: $(hint delete), then create"
        return "$again"
        ;;
    esac
  done
}

delete() {
  if tpus queued-resources delete "$name" --force; then return; fi
  if grep -q NOT_FOUND "$scratch/said"; then
    say "there is no $name in $(place)"
  else
    explain "queued-resources delete"
  fi
}

pack() { # the code, once: a run that is started again hours later gets the same
  local file
  if ! git rev-parse --quiet --verify HEAD >/dev/null; then
    complain "the code is shipped from a git checkout, and $PWD is none: git clone it"
    return 1
  fi
  if [[ -n "${flags[commit]:-}" ]]; then
    call git archive --format=tar.gz -o "$archive" "${flags[commit]}" || explain "git archive"
  elif [[ -n "${flags["dry-run"]:-}" ]]; then
    printf 'git ls-files -z --cached --others --exclude-standard | tar -czf %q --null -T -\n' "$archive"
  else
    git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
      if [[ -e "$file" ]]; then printf '%s\0' "$file"; fi
    done | COPYFILE_DISABLE=1 tar -czf "$archive" --null -T -
  fi
}

setup() { # ship what `pack` made, and make the environment
  # shellcheck disable=SC2016 # $1 belongs to the far shell
  local unpack='rm -rf instruct_jax/code.new && mkdir -p instruct_jax/code.new &&
    tar -xzf instruct_jax.tar.gz -C instruct_jax/code.new && exec bash instruct_jax/code.new/launch/worker.sh setup "$1"'
  tpus tpu-vm scp "$archive" "$name:instruct_jax.tar.gz" --worker=all || explain "tpu-vm scp" || return
  on_workers all bash -c "$unpack" setup "${flags[bucket]:-}"
}

show_until_done() {
  echo "# what is there"
  state >/dev/null
  echo "# where there is none; after a preemption, delete comes first"
  delete
  create
  echo "# every $poll s, until it is ACTIVE"
  state >/dev/null
  setup
  on_workers all bash "$worker_script" run "${arguments[@]}"
  echo "# every $poll s, until the run has ended; again from the top where it was preempted, killed or lost"
  on_workers all bash "$worker_script" status
}

main() {
  parse "$@"
  check
  exec 3>&1
  archive="${TMPDIR:-/tmp}/instruct_jax.tar.gz"
  if [[ -z "${flags["dry-run"]:-}" ]]; then
    scratch="$(mktemp -d)"
    trap 'rm -rf "$scratch"' EXIT
    archive="$scratch/instruct_jax.tar.gz"
  fi
  case "$verb" in
    create) create && await ;;
    setup) pack && setup ;;
    run)
      if [[ -z "${flags["until-done"]:-}" ]]; then
        on_workers all bash "$worker_script" run "${arguments[@]}"
      elif [[ -n "${flags["dry-run"]:-}" ]]; then
        pack && show_until_done
      else
        pack && until_done
      fi
      ;;
    logs) on_workers "${flags[worker]}" bash "$worker_script" logs ${flags[follow]:+follow} ;;
    status)
      local now
      now="$(state)" || return
      say "$name is $now in $(place)"
      if [[ "$now" == ACTIVE ]]; then on_workers all bash "$worker_script" status; fi
      ;;
    stop) on_workers all bash "$worker_script" stop ;;
    delete) delete ;;
  esac
}

status=1
if main "$@"; then status=0; else status=$?; fi
exit $((status == again || status == full ? 1 : status))
