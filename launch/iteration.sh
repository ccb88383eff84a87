# shellcheck shell=bash
# One iteration a day, and the check of a restored volume. Sourced by environment.sh.

# How many iterations are published: a folder with a manifest is whole.
count_iterations() {
  local manifests=("$CODE"/data/experiments/*/"$EXPERIMENT"/iteration_*/manifest.json)
  [[ -e ${manifests[0]} ]] && echo ${#manifests[@]} || echo 0
}

# One iteration a day: the day's record says how many there were before, so neither a second call nor another machine
# makes another, and a day that was cut off begins again.
run() {
  for _ in $(seq "${READY_S:-900}"); do
    [[ ! -e $STATE/ready ]] || break
    sleep 1
  done
  [[ -e $STATE/ready ]] || fail "the volume was not mounted in ${READY_S:-900} s"
  exec 9>"$STATE/run.lock"
  flock -n 9 || fail "an iteration is running already"
  local before status=0 record=$ROOT/days/$DAY
  if [[ ! -e $record ]]; then
    count_iterations >"$record.new"
    sync "$record.new"
    mv "$record.new" "$record"
  fi
  before=$(<"$record")
  if (($(count_iterations) == before)); then
    fetch_secrets
    fetch_code "$CODE"
    venv=$(packages "$CODE" "$ROOT/venv")
    train || status=$?
  fi
  if (($(count_iterations) > before)); then
    result "done: iteration_$before"
    return
  fi
  [[ ! -e $STATE/closing ]] || exit 1  # whoever closes says why
  fail "run.py ended with status $status: see root/logs/$DAY/run.log"
}

# One call of run.py for the day.
train() {
  say "run.py stage=iterate"
  call "$(seconds_left)" "$ROOT/logs/$DAY/run.log" "$venv/bin/python" run.py stage=iterate "data_dir=$CODE/data" \
    "experiment_name=$EXPERIMENT" "${ARGUMENTS[@]}"
}

# How old this machine is, and how long it may work: it is ended two minutes later.
age_s() { echo $(($(date +%s) - $(stat -c %Y "$STATE/machine"))); }
seconds_left() { echo $((MAX_RUNTIME_S - 120 - $(age_s))); }

# One command in the repository's folder, as a session that can be ended: call SECONDS LOG COMMAND…; status 124 or 137 if
# it took longer. Nothing here relies on `set -e`.
call() {
  local seconds=$1 log=$2
  shift 2
  install -d -m 750 -o "$OWNER" -g "$OWNER" "$(dirname "$log")"
  (
    cd "$CODE" || exit
    if [[ -s $ROOT/auth/wandb_api_key ]]; then
      WANDB_API_KEY=$(<"$ROOT/auth/wandb_api_key")
      export WANDB_API_KEY
    fi
    exec setsid "${AS_OWNER[@]}" timeout --kill-after=30 "$seconds" "$@"
  ) >>"$log" 2>&1 9>&- &
  echo $! >"$STATE/session"
  wait $!
}

verify() {
  local venv problems
  fetch_code "$CODE"
  venv=$(packages "$CODE" "$ROOT/venv")
  cd "$CODE" || fail "there is no $CODE"
  problems=$(as_owner "$venv/bin/python" run.py stage=verify "data_dir=$CODE/data" "verify.path=$CODE/data/experiments" 2>&1) ||
    fail "verify: $(tail -1 <<<"$problems")"
  result "done: verified $(count_iterations) iterations"
}
