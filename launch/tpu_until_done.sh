#!/usr/bin/env bash
# How launch/tpu_vm.sh run --until-done decides: sourced by it, and nothing by itself.
#
# The workers' exit statuses are those of instruct_jax.main. 0: done. 1, 2, 130, or a worker that was told to stop: over.
# 143 (saved after SIGTERM), killed, or gone with its VM: the TPU is asked for again if need be, and the run started again,
# which goes on from its last checkpoint. Not without limit where the TPU stayed and the run crashed, for it costs.
# shellcheck disable=SC2154 # what is not assigned here is tpu_vm.sh's

restarts=20 # in a row after a crash on a TPU that stayed
crashes=0

identity() { printf '%s\0' "${arguments[@]}" | cksum | cut -d ' ' -f 1; }

report() { # "running", "ended N", "ended N stopped" or "lost", one line a worker; "other" for another run's; nothing where none
  local lines line id
  id="$(identity)"
  lines="$(on_workers all bash "$worker_script" status)" || return
  while IFS= read -r line; do
    case "$line" in
      *": run $id "*) echo "${line##*": run $id "}" ;;
      *": run "*" running") echo other ;;
    esac
  done <<<"$lines"
}

conclude() { # from the workers' ends, what becomes of the run: an exit status, or $again
  local ends="$1" number
  if grep -qx 'ended 13[4-9]' <<<"$ends" && ! grep -qx 'ended 143' <<<"$ends"; then crashes=$((crashes + 1)); else crashes=0; fi
  if ! grep -qvE '^ended 0( stopped)?$' <<<"$ends"; then return 0; fi
  if grep -q stopped <<<"$ends"; then
    say "stopped, as tpu_vm.sh stop asked; the same command goes on from the last checkpoint"
    return 143
  fi
  for number in 2 130; do # bad input, Ctrl-C: on one worker is enough
    if grep -qx "ended $number" <<<"$ends"; then return "$number"; fi
  done
  # Who was killed or lost takes the others along, with status 1 or, by JAX's heartbeat, 134; who failed alone is the cause.
  if grep -qxE 'lost|ended (129|13[1-35-9]|1[4-9][0-9]|2[0-9][0-9])' <<<"$ends"; then return "$again"; fi
  number="$(sed -nE 's/^ended ([1-9][0-9]?|1[01][0-9]|12[0-8])$/\1/p' <<<"$ends" | head -n 1)"
  if [[ -n "$number" ]]; then return "$number"; fi
  return "$again"
}

watch() { # until every worker's run has ended; returns as `conclude`, or $again where the workers are out of reach
  local ends torn=0
  while true; do
    sleep "$poll"
    ends="$(report)" || return
    if ! grep -qx running <<<"$ends"; then break; fi
    if grep -qvx running <<<"$ends"; then
      torn=$((torn + 1))
      if ((torn == 3)); then # the heartbeat should have ended the rest by now
        say "the run has ended on some workers and hangs on others: ending it there"
        on_workers all bash "$worker_script" stop || return
        ends="$(grep -vx running <<<"$ends")"
        break
      fi
    fi
  done
  say "the workers' runs: $(sort <<<"$ends" | uniq -c | tr -s ' \n' ' ')"
  conclude "$ends"
}

attempt() { # bring the TPU and the run up, whatever is there, and watch; an exit status, $again or $full
  local now ends
  now="$(state)" || return
  if [[ "$now" != ACTIVE ]]; then crashes=0; fi
  if ((crashes > restarts)); then
    complain "gave up after $restarts restarts in a row that crashed on a TPU that stayed; see: $(hint logs)"
    return 1
  fi
  case "$now" in
    NONE) create || return ;;
    FAILED | SUSPENDING | SUSPENDED | PREEMPTED | TERMINATED | STOPPED | GONE)
      say "$name is $now: asking for another"
      delete || return
      create || return
      ;;
  esac
  await || return
  if ends="$(report 2>/dev/null)" && [[ -n "$ends" ]]; then
    if grep -qx other <<<"$ends"; then
      complain "another run is going on there; end it: $(hint stop)"
      return 1
    fi
    if ! grep -qvx running <<<"$ends"; then
      say "the run is going on: watching"
      watch
      return
    fi
    if grep -qx running <<<"$ends"; then on_workers all bash "$worker_script" stop || return; fi
  fi
  setup || return
  on_workers all bash "$worker_script" run "${arguments[@]}" || return
  watch
}

until_done() {
  local status started short=0 failed=0
  trap 'say "the run goes on without this; the same command watches it again"; exit 130' INT
  while true; do
    started=$SECONDS
    status=0
    attempt || status=$?
    if ((status != again && status != full)); then break; fi
    if ((SECONDS - started > 60 + 10 * poll)); then short=0 failed=0; else short=$((short + 1)); fi
    if ((status == full)); then failed=0; elif ((short > 0)); then failed=$((failed + 1)); fi
    if ((failed == 10)); then
      complain "gave up after 10 short attempts in a row; see: $(hint logs)"
      return 1
    fi
    say "trying again"
    sleep $((short < 4 ? poll << short : 10 * poll))
  done
  if ((status == 0)); then say "done; the TPU still costs: $(hint delete)"; fi
  return "$status"
}
