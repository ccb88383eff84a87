#!/usr/bin/env bash
# What a machine does, as root:  boot | run | verify | close | interrupted
#
#   boot         attach and mount the volume; then wait for `run` (driver operator), or do the whole day and power off
#                (schedule), or check a restored volume (drill), or put the packages on the machine's own disk (bake)
#   run          one iteration, unless today's is there already
#   verify       is every file of the experiments what it was when it was written?
#   close        stop what runs, keep the logs, unmount; at every shutdown
#   interrupted  AWS takes the machine back: close within 20 s, power off (spot_watch.sh, or launch/notice.py's rule)
#
# The volume: a filesystem is made only on a disk that has no signature and begins with zeros; every other disk is
# mounted if it is ours and sound, and else left alone.
set -euo pipefail
umask 027
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=/dev/null
source "${SETTINGS:-$HERE/settings}"
# Where things are on a machine of EC2; a test has other places.
MOUNT=${MOUNT:-/mnt/working_volume}
STATE=${STATE:-/run/zoobot}
DISKS=${DISKS:-/dev/disk/by-id}
IMDS=${IMDS:-http://169.254.169.254/latest}
OWNER=${OWNER:-ubuntu}
OPT=${OPT:-/opt/zoobot}
POWEROFF=${POWEROFF:-systemctl poweroff}
BLANK_MB=${BLANK_MB:-64}
MIN_FREE_MB=${MIN_FREE_MB:-2048}
LABEL=working_volume
export AWS_DEFAULT_REGION

ROOT=$MOUNT/root
CODE=$ROOT/repos/zoobot

say() { printf '%s %s\n' "$(date -u +%FT%TZ)" "$*" >&2; }

# End with a reason, which whoever looks at the volume's tags sees.
fail() {
  say "$*"
  result "failed: $*"
  exit 2
}

# How the day went, as tags of the volume: seen by `launch status` without a machine.
result() {
  local text
  text=$(printf %s "$1" | tr -c 'A-Za-z0-9 .:/=@_+-' _ | cut -c1-200)
  say "$text"
  touch "$STATE/told"
  timeout 10 aws ec2 create-tags --resources "$VOLUME_ID" \
    --tags "Key=zoobot:day,Value=$DAY" "Key=zoobot:result,Value=$text" || say "the volume could not be tagged"
}

imds() {
  local token
  token=$(curl -sf -m 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$IMDS/api/token")
  curl -sf -m 5 -H "X-aws-ec2-metadata-token: $token" "$IMDS/meta-data/$1"
}

# Which machine this is, and what for; kept, since the other commands run later.
identify() {
  if [[ ! -e $STATE/machine ]]; then
    {
      printf 'INSTANCE_ID=%q\n' "$(imds instance-id)"
      printf 'DRIVER=%q\n' "$(imds tags/instance/zoobot:driver)"
      printf 'VOLUME_ID=%q\n' "$(imds tags/instance/zoobot:volume)"
      local day
      day=$(imds tags/instance/zoobot:day)
      printf 'DAY=%q\n' "${day:0:10}"
    } >"$STATE/machine.new"
    mv "$STATE/machine.new" "$STATE/machine"
  fi
  # shellcheck source=/dev/null
  source "$STATE/machine"
}

as_owner() { runuser -u "$OWNER" -- "$@"; }

# ------------------------------------------------------------------------------------------------- the volume

holder() {
  aws ec2 describe-volumes --volume-ids "$VOLUME_ID" --query 'Volumes[0].Attachments[0].InstanceId' --output text
}

# A machine that is gone and still has the volume loses it; one that is long past its time hangs, and is ended.
end_holder() {
  local told state started
  if ! told=$(aws ec2 describe-instances --instance-ids "$1" \
    --query 'Reservations[0].Instances[0].[State.Name,LaunchTime]' --output text 2>&1); then
    [[ $told == *InvalidInstanceID* ]] || return 0
    told="terminated now"
  fi
  read -r state started <<<"$told"
  if [[ $state == terminated ]]; then
    say "$1 is gone: taking the volume from it"
    aws ec2 detach-volume --force --volume-id "$VOLUME_ID" --instance-id "$1" || true
  elif (($(date +%s) - $(date -d "$started" +%s) > MAX_RUNTIME_S + 900)); then
    say "$1 is past its time: ending it"
    aws ec2 terminate-instances --instance-ids "$1" || true
  fi
}

# EBS gives the volume to one machine only: having it is the lock. Nobody else may be looking, so what an earlier
# machine left behind is cleared away here.
attach() {
  local by try
  for try in $(seq 60); do
    if aws ec2 attach-volume --volume-id "$VOLUME_ID" --instance-id "$INSTANCE_ID" --device /dev/sdf; then return; fi
    by=$(holder) || by=None
    [[ $by != "$INSTANCE_ID" ]] || return 0
    say "attempt $try: $VOLUME_ID is held by $by"
    [[ $by != i-* ]] || end_holder "$by"
    sleep "${ATTACH_EVERY_S:-10}"
  done
  fail "the volume $VOLUME_ID is held by $by"
}

# The volume's disk: the kernel's names (nvme1n1) change from boot to boot, the volume's id does not.
find_disk() {
  local link=$DISKS/nvme-Amazon_Elastic_Block_Store_${VOLUME_ID/-/}
  for _ in $(seq 60); do
    if [[ -b $link ]]; then
      readlink -f "$link"
      return
    fi
    sleep 1
  done
  fail "no disk named $link appeared in 60 s"
}

# Make a filesystem on a disk that holds nothing: no signature of any kind, and zeros where data would begin.
format_if_blank() {
  local signatures bytes
  signatures=$(wipefs --noheadings --output TYPE "$1") || fail "the disk cannot be read"
  [[ -z $signatures ]] || return 0
  bytes=$(($(blockdev --getsize64 "$1") < BLANK_MB << 20 ? $(blockdev --getsize64 "$1") : BLANK_MB << 20))
  cmp -s -n "$bytes" "$1" /dev/zero || fail "the disk has no filesystem but is not blank: look at it; nothing was changed"
  say "the disk is blank: making a filesystem"
  mkfs.ext4 -q -L "$LABEL" -m 0 "$1"
}

mount_volume() {
  local disk=$1 kind label uuid status=0
  format_if_blank "$disk"
  kind=$(blkid -p -o value -s TYPE "$disk") || fail "the disk has signatures of several kinds or cannot be read"
  [[ $kind == ext4 ]] || fail "the disk holds $kind and not ext4: nothing was changed"
  label=$(blkid -p -o value -s LABEL "$disk") || label=
  [[ $label == "$LABEL" ]] || fail "the filesystem is labelled '$label' and not $LABEL: is it another volume?"
  e2fsck -p "$disk" >&2 || status=$?
  ((status < 4)) || fail "e2fsck could not fix the filesystem by itself, status $status: restore a snapshot or fix it"
  uuid=$(blkid -p -o value -s UUID "$disk")
  mkdir -p "$MOUNT"
  mount -o noatime,nodev,nosuid "UUID=$uuid" "$MOUNT" || fail "the filesystem cannot be mounted: restore a snapshot or fix it"
  # A copy of the volume has the same UUID.
  [[ $(findmnt -n -o SOURCE --mountpoint "$MOUNT") == "$disk" ]] || fail "another disk with the UUID $uuid was mounted"
}

make_layout() {
  install -d -m 750 -o "$OWNER" -g "$OWNER" "$ROOT" "$ROOT/auth" "$ROOT/repos" "$ROOT/days" "$ROOT/logs"
  # Secrets live in memory: on the disk there is only the empty folder they are mounted over.
  mountpoint -q "$ROOT/auth" || mount -t tmpfs -o "size=1m,mode=700,uid=$(id -u "$OWNER")" tmpfs "$ROOT/auth"
  local free
  free=$(df --output=avail -BM "$MOUNT" | tail -1 | tr -dc 0-9)
  ((free >= MIN_FREE_MB)) || fail "the volume has $free MB left, of $MIN_FREE_MB needed: enlarge it or clear it"
}

# ------------------------------------------------------------------------------------------------- the iteration

fetch_secrets() {
  local pair
  for pair in "${SECRETS[@]}"; do
    (
      umask 077
      aws ssm get-parameter --with-decryption --name "${pair#*=}" --query Parameter.Value --output text \
        >"$ROOT/auth/${pair%%=*}"
    ) || fail "the secret ${pair#*=} cannot be read"
    chown "$OWNER" "$ROOT/auth/${pair%%=*}"
  done
}

# The commit of the settings, in the folder given; a clone that was cut off leaves nothing there. Not every server gives
# a commit by its name: then all branches and tags are fetched.
fetch_code() {
  if [[ ! -d $1/.git ]]; then
    rm -rf "$1.cloning"
    as_owner git clone -q "$REPOSITORY" "$1.cloning" || fail "the repository cannot be cloned"
    mv "$1.cloning" "$1"
  fi
  [[ $REVISION =~ ^[0-9a-f]{40}$ ]] || fail "the revision $REVISION is no commit: run setup"
  has_commit "$1" || as_owner git -C "$1" fetch -q "$REPOSITORY" "$REVISION" ||
    as_owner git -C "$1" fetch -q --tags "$REPOSITORY" '+refs/heads/*:refs/remotes/origin/*' || true
  has_commit "$1" || fail "the commit $REVISION cannot be fetched"
  [[ -z $(as_owner git -C "$1" status --porcelain --untracked-files=no) ]] ||
    fail "the code was changed by hand in $1: take the changes away"
  as_owner git -C "$1" checkout -q --detach "$REVISION" || fail "the commit $REVISION cannot be checked out"
}

has_commit() { as_owner git -C "$1" cat-file -e "$REVISION^{commit}" 2>/dev/null; }

# The environment for the code in a folder, $1; it is made at $2 unless the image has it. Its path is printed.
packages() {
  local lock=$1/${LOCK:-requirements-gpu.lock} digest venv
  digest=$(sha256sum <"$lock" | cut -d' ' -f1)
  for venv in "$OPT/venv" "$2"; do
    if [[ -e $venv/.lock && $(<"$venv/.lock") == "$digest" ]]; then
      echo "$venv"
      return
    fi
  done
  say "installing the packages of $lock"
  python3 -c 'import ensurepip' 2>/dev/null || apt-get install -y -q python3-venv >&2
  rm -rf "$2"
  as_owner python3 -m venv "$2" >&2
  # The lock names every package with its hashes, and nothing else is fetched. One has no wheel: it is built with the
  # lock's own setuptools, where pip would fetch whichever is newest.
  local pip=("$2/bin/python" -m pip install -q --require-hashes --no-deps --only-binary :all:)
  sed -n '/^\(setuptools\|wheel\)==/,/[^\\]$/p' "$lock" | as_owner tee "$2/builders.lock" >/dev/null
  as_owner "${pip[@]}" -r "$2/builders.lock" >&2 || fail "setuptools cannot be installed"
  pip+=(--no-build-isolation --no-binary antlr4-python3-runtime)
  as_owner "${pip[@]}" -r "$lock" >&2 || fail "the packages cannot be installed"
  as_owner tee "$2/.lock" <<<"$digest" >/dev/null
  echo "$2"
}

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

# One call of run.py, ended two minutes before the machine is; nothing here relies on `set -e`.
train() {
  local log=$ROOT/logs/$DAY seconds
  install -d -m 750 -o "$OWNER" -g "$OWNER" "$log"
  seconds=$((MAX_RUNTIME_S - 120 - $(date +%s) + $(stat -c %Y "$STATE/machine")))
  say "run.py stage=iterate, for $seconds s at most"
  (
    cd "$CODE" || exit
    if [[ -s $ROOT/auth/wandb_api_key ]]; then
      WANDB_API_KEY=$(<"$ROOT/auth/wandb_api_key")
      export WANDB_API_KEY
    fi
    exec setsid runuser -u "$OWNER" -- timeout --kill-after=30 "$seconds" "$venv/bin/python" run.py stage=iterate \
      "data_dir=$CODE/data" "experiment_name=$EXPERIMENT" "${ARGUMENTS[@]}"
  ) >>"$log/run.log" 2>&1 9>&- &
  echo $! >"$STATE/session"
  wait $!
}

verify() {
  local venv problems
  fetch_code "$CODE"
  venv=$(packages "$CODE" "$ROOT/venv")
  cd "$CODE"
  problems=$(as_owner "$venv/bin/python" run.py stage=verify "data_dir=$CODE/data" "verify.path=$CODE/data/experiments" 2>&1) ||
    fail "verify: $(tail -1 <<<"$problems")"
  result "done: verified $(count_iterations) iterations"
}

# ------------------------------------------------------------------------------------------------- the end

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

snapshot() {
  local tags="{Key=zoobot:experiment,Value=$EXPERIMENT},{Key=zoobot:day,Value=$DAY},{Key=zoobot:role,Value=daily}"
  aws ec2 create-snapshot --volume-id "$VOLUME_ID" --description "zoobot $EXPERIMENT $DAY" \
    --tag-specifications "ResourceType=snapshot,Tags=[$tags]" || say "no snapshot could be made"
}

boot() {
  if [[ $DRIVER == bake ]]; then
    install -d -m 755 -o "$OWNER" "$OPT"
    fetch_code "$OPT/code"
    packages "$OPT/code" "$OPT/venv"
    touch "$STATE/ready"
    return
  fi
  "$HERE/spot_watch.sh" </dev/null >"$STATE/spot_watch.log" 2>&1 &
  attach
  local disk
  disk=$(find_disk)
  mount_volume "$disk"
  make_layout
  touch "$STATE/ready"
  say "$VOLUME_ID is mounted on $MOUNT for $DAY, driver $DRIVER"
  case $DRIVER in  # in a process of its own, so that an error ends it and not the orderly end
    operator) return ;;
    schedule) "$HERE/environment.sh" run || true ;;
    drill) "$HERE/environment.sh" verify || true ;;
  esac
  [[ ! -e $STATE/closing ]] || return 0
  close 60
  [[ $DRIVER != schedule ]] || snapshot
  $POWEROFF
}

mkdir -p "$STATE"
command=${1:-}
case $command in
  boot | run | verify | close | interrupted) identify ;;
  *)
    echo "usage: $0 boot | run | verify | close | interrupted" >&2
    exit 2
    ;;
esac
case $command in
  boot)
    trap '$POWEROFF' EXIT  # whatever goes wrong: a machine that cannot work goes
    boot
    trap - EXIT
    ;;
  close)
    close 60
    [[ ! -e $STATE/session || -e $STATE/told ]] || result "cut off: the machine was shut down during the iteration"
    ;;
  *) "$command" "${@:2}" ;;
esac
