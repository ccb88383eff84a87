# shellcheck shell=bash
# A job: commands that are done one after the other, on as many machines as it takes. Sourced by environment.sh.
#
# What is done is on the volume, in root/jobs/NAME/:
#   commands   of this job and no other     N.done      command N is done: it is not called again
#   begun      iterations since are its own machines/   how many seconds each machine worked for it
#   plan       the experiments that it makes: stage, kind, iterations and folder, a line each

# By Systems Manager: job SECONDS -- WORDS… [-- WORDS…]: give the job to `boot`, and show the end of its log when it is
# over. Repeating it does no harm.
job() {
  printf '%q ' "$@" >"$STATE/job.$$"
  [[ -e $STATE/job ]] || mv "$STATE/job.$$" "$STATE/job"
  until [[ -e $STATE/over ]]; do sleep "${LOOK_S:-2}"; done
  tail -c 20000 "$STATE/log"
}

# The job that was given to this machine, whoever sent it; it does not wait for ever.
work() {
  for _ in $(seq "${JOB_WAIT_S:-1800}"); do
    [[ ! -e $STATE/job && ! -e $STATE/closing ]] || break
    sleep 1
  done
  [[ ! -e $STATE/closing ]] || exit 1  # whoever closes says why
  [[ -e $STATE/job ]] || fail "no command came in ${JOB_WAIT_S:-1800} s"
  folder=$ROOT/jobs/$JOB log=$ROOT/logs/$DAY/$JOB.log
  eval "set -- $(<"$STATE/job")"  # as `job` wrote it: words that are quoted
  limit=$1
  shift
  trap 'tail -c 20000 "$log" >"$STATE/log" 2>&1 || true; touch "$STATE/over"' EXIT
  install -d -m 750 -o "$OWNER" -g "$OWNER" "$ROOT/jobs" "$folder" "$folder/machines"
  keep_commands "$@"
  if (($(seconds_used) >= limit)); then fail "its hours are used up: raise job_hours"; fi
  fetch_secrets
  fetch_code "$CODE"
  venv=$(packages "$CODE" "$ROOT/venv")
  : >"$STATE/plan"
  all_commands outline "$@"
  [[ -e $folder/plan ]] || cp "$STATE/plan" "$folder/plan"
  watch_progress </dev/null >"$STATE/progress.log" 2>&1 &
  all_commands command_once "$@"
  keep_results
  progress
  result "done: $count commands"
}

# A name stands for its commands for ever, so that a finished one is known.
keep_commands() {
  printf '%q ' "$@" >"$STATE/commands"
  if [[ ! -e $folder/commands ]]; then
    cp "$STATE/commands" "$folder/commands.new"
    sync "$folder/commands.new"
    mv "$folder/commands.new" "$folder/commands"
  fi
  [[ -e $folder/begun ]] || touch "$folder/begun"
  cmp -s "$STATE/commands" "$folder/commands" || fail "$JOB is the name of other commands: take another one"
}

# Call $1 for each command, with its number and words.
all_commands() {
  local act=$1 number=0 word words=()
  shift
  for word in "$@" --; do
    if [[ $word != -- ]]; then
      words+=("$word")
    elif ((${#words[@]})); then
      number=$((number + 1))
      "$act" "$number" "${words[@]}"
      words=()
    fi
  done
  count=$number
}

# What a command will make, as run.py itself says; no other program makes experiments.
outline() {
  [[ ! -e $folder/plan && $2 == run.py ]] || return 0
  (cd "$CODE" && as_owner "$venv/bin/python" -m zoobot.sweep "${@:3}" "data_dir=$CODE/data") >>"$STATE/plan" ||
    say "command $1: it cannot be said what it makes"
}

command_once() {
  local number=$1 status=0 seconds
  shift
  [[ ! -e $folder/$number.done ]] || return 0
  [[ ! -e $STATE/closing ]] || exit 1
  case $1 in
    run.py) set -- "$venv/bin/python" "$@" "data_dir=$CODE/data" ;;
    copy) set -- aws s3 sync --no-progress "$2" "$CODE/data/" ;;
    *) set -- "$venv/bin/python" "$@" ;;
  esac
  seconds=$((limit - $(seconds_used)))
  ((seconds < $(seconds_left))) || seconds=$(seconds_left)
  say "command $number of $count, for $seconds s at most"
  call "$seconds" "$log" "$@" || status=$?
  [[ ! -e $STATE/closing ]] || exit 1
  if ((status == 124 || status == 137)) && (($(seconds_used) < limit - 60)); then
    result "cut off: the time of this machine is over"
    exit 1
  fi
  ((status == 0)) || fail "command $number of $count ended with status $status: see root/logs/$DAY/$JOB.log"
  touch "$folder/$number.done"
  sync "$folder/$number.done"
}

# By all machines of the job; this one is added.
seconds_used() {
  age_s >"$folder/machines/$INSTANCE_ID"
  cat "$folder"/machines/* | awk '{ seconds += $1 } END { print seconds + 0 }'
}

watch_progress() {
  until [[ -e $STATE/closing || -e $STATE/over ]]; do
    progress
    sleep "${PROGRESS_S:-180}"
  done
}

# A tag of the volume: NAME commands=1/2 iterations=14/60 made=14 hours=3.42 at=TIME. Finished ones are counted; `made` are
# iterations since the job began. Where it is not known how many there will be, there is no /60.
progress() {
  local made finished=0 planned=0 iterations path there=() finished_commands
  made=$(find "$CODE/data/experiments" "$CODE/data/quick/experiments" -mindepth 4 -maxdepth 4 \
    -path '*/iteration_*/manifest.json' -newer "$folder/begun" 2>/dev/null | wc -l) || true
  while IFS=$'\t' read -r _ _ iterations path; do
    there=("$path"/iteration_*/manifest.json)
    [[ -e ${there[0]} ]] || there=()
    planned=$((planned + iterations))
    finished=$((finished + (${#there[@]} < iterations ? ${#there[@]} : iterations)))
  done <"$folder/plan"
  finished_commands=$(find "$folder" -name '*.done' | wc -l)
  iterations=$finished/$planned
  ((planned)) || iterations=$made
  tag "Key=zoobot:progress,Value=$JOB commands=$finished_commands/$count iterations=$iterations made=$made hours=$(
    awk -v seconds="$(seconds_used)" 'BEGIN { printf "%.2f", seconds / 3600 }') at=$(date -u +%FT%TZ)"
}

# The report, and what W&B gets of the job's experiments, to S3.
keep_results() {
  local part path chosen
  [[ -n $RESULTS ]] || return 0
  for part in report experiments quick/report quick/experiments; do
    [[ -d $CODE/data/$part ]] || continue
    chosen=()
    if [[ $part == *experiments ]]; then
      chosen=(--exclude '*')
      while IFS=$'\t' read -r _ _ _ path; do
        chosen+=(--include "${path#"$CODE/data/$part/"}/tracking/*")
      done <"$folder/plan"
    fi
    aws s3 cp --only-show-errors --recursive "$CODE/data/$part" "$RESULTS/$EXPERIMENT/$JOB/$part/" "${chosen[@]}" ||
      fail "the results could not be sent to $RESULTS"
  done
}
