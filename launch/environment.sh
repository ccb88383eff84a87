#!/usr/bin/env bash
# What a machine does, as root:  boot | run | job | verify | close | interrupted
#
#   boot         attach and mount the volume; then wait for `run` (driver operator), or do the whole day and power off
#                (schedule), or a job (job), or check a restored volume (drill), or put the packages on the machine's own
#                disk (bake)
#   run          one iteration, unless today's is there already
#   job          give the machine its commands, and wait until they are done
#   verify       is every file of the experiments what it was when it was written?
#   close        stop what runs, keep the logs, unmount; at every shutdown
#   interrupted  AWS takes the machine back: close within 20 s, power off (spot_watch.sh, or launch/notice.py's rule)
# shellcheck source-path=SCRIPTDIR
set -euo pipefail
umask 027
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=/dev/null
source "${SETTINGS:-$HERE/settings}"
# Where things are on a machine of EC2; a test has other places.
MOUNT=${MOUNT:-/mnt/working_volume}
STATE=${STATE:-/run/zoobot}
OWNER=${OWNER:-ubuntu}
OPT=${OPT:-/opt/zoobot}
POWEROFF=${POWEROFF:-systemctl poweroff}
export AWS_DEFAULT_REGION

ROOT=$MOUNT/root
CODE=$ROOT/repos/zoobot

# shellcheck source=machine.sh
source "$HERE/machine.sh"
# shellcheck source=volume.sh
source "$HERE/volume.sh"
# shellcheck source=packages.sh
source "$HERE/packages.sh"
# shellcheck source=iteration.sh
source "$HERE/iteration.sh"
# shellcheck source=job.sh
source "$HERE/job.sh"
# shellcheck source=ending.sh
source "$HERE/ending.sh"

boot() {
  if [[ $DRIVER == bake ]]; then
    install -d -m 755 -o "$OWNER" "$OPT"
    fetch_code "$OPT/code"
    packages "$OPT/code" "$OPT/venv"
    chown root "$OPT"  # what root runs lies in it
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
    job) "$HERE/environment.sh" work || true ;;
    drill) "$HERE/environment.sh" verify || true ;;
  esac
  [[ ! -e $STATE/closing ]] || return 0
  close 60
  [[ $DRIVER == drill ]] || snapshot
  [[ $DRIVER != job ]] || sleep "${LINGER_S:-30}"  # Systems Manager tells how it ended
  $POWEROFF
}

mkdir -p "$STATE"
command=${1:-}
case $command in
  boot | run | work | verify | close | interrupted) identify ;;
  job) ;;
  *)
    echo "usage: $0 boot | run | job | verify | close | interrupted" >&2
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
    [[ ! -e $STATE/session || -e $STATE/told ]] || result "cut off: the machine was shut down at its work"
    ;;
  *) "$command" "${@:2}" ;;
esac
