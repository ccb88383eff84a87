# shellcheck shell=bash
# The end: training stopped, logs kept, the volume let go, a snapshot. Sourced by environment.sh.

# run.py publishes a folder by one rename, so it may be stopped anywhere.
stop_training() {
  [[ -e $STATE/session ]] || return 0
  local session
  session=$(<"$STATE/session")
  pkill -TERM -s "$session" || return 0
  for _ in $(seq 16); do
    pgrep -s "$session" >/dev/null || return 0
    sleep 0.5
  done
  pkill -KILL -s "$session" || true
}

# $1: seconds for the upload of the logs, 0 for none.
close() {
  touch "$STATE/closing"
  stop_training
  mountpoint -q "$MOUNT" || return 0
  if [[ -n $LOGS && -d $ROOT/logs/$DAY ]] && (($1)); then
    timeout "$1" aws s3 cp --quiet --recursive "$ROOT/logs/$DAY" "$LOGS/$EXPERIMENT/$DAY/" || say "the logs were not uploaded"
  fi
  timeout 5 sync -f "$MOUNT" || true
  umount "$ROOT/auth" 2>/dev/null || umount -l "$ROOT/auth" 2>/dev/null || true
  for _ in 1 2 3; do
    if umount "$MOUNT"; then return 0; fi
    sleep 1
  done
  say "the volume is busy: it is unmounted as soon as it is not"
  umount -l "$MOUNT"
}

# $1: the machine that is meant, if another may be; spot_watch.sh gives none.
interrupted() {
  [[ ${1:-$INSTANCE_ID} == "$INSTANCE_ID" ]] || return 0
  say "AWS takes the machine back"
  close 0
  result "interrupted: AWS took the machine back"
  $POWEROFF
}

# That of a job is no day's: the day makes its own after its iteration.
snapshot() {
  local of=$DAY tags
  [[ $DRIVER != job ]] || of="$DAY $JOB"
  tags="{Key=zoobot:experiment,Value=$EXPERIMENT},{Key=zoobot:day,Value=$of},{Key=zoobot:role,Value=daily}"
  aws ec2 create-snapshot --volume-id "$VOLUME_ID" --description "zoobot $EXPERIMENT $of" \
    --tag-specifications "ResourceType=snapshot,Tags=[$tags]" || say "no snapshot could be made"
}
