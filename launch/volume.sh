# shellcheck shell=bash
# The volume: taken, mounted, laid out. Sourced by environment.sh.
#
# A filesystem is made only on a disk that has no signature and begins with zeros; every other disk is mounted if it is
# ours and sound, and else left alone.
DISKS=${DISKS:-/dev/disk/by-id}
BLANK_MB=${BLANK_MB:-64}
MIN_FREE_MB=${MIN_FREE_MB:-2048}
LABEL=working_volume

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
  resize2fs "$disk" >&2 || say "the filesystem could not be made as large as the disk"
}

make_layout() {
  install -d -m 750 -o "$OWNER" -g "$OWNER" "$ROOT" "$ROOT/auth" "$ROOT/repos" "$ROOT/days" "$ROOT/logs"
  # Secrets live in memory: on the disk there is only the empty folder they are mounted over.
  mountpoint -q "$ROOT/auth" || mount -t tmpfs -o "size=1m,mode=700,uid=$(id -u "$OWNER")" tmpfs "$ROOT/auth"
  local free
  free=$(df --output=avail -BM "$MOUNT" | tail -1 | tr -dc 0-9)
  ((free >= MIN_FREE_MB)) || fail "the volume has $free MB left, of $MIN_FREE_MB needed: enlarge it or clear it"
}
