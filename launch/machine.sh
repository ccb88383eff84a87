# shellcheck shell=bash
# Which machine this is, and what it says. Sourced by environment.sh.
IMDS=${IMDS:-http://169.254.169.254/latest}

say() { printf '%s %s\n' "$(date -u +%FT%TZ)" "$*" >&2; }

# End with a reason, which whoever looks at the volume's tags sees.
fail() {
  say "$*"
  result "failed: $*"
  exit 2
}

# How the day or the job went, as tags of the volume: seen by `launch status` without a machine.
result() {
  local text
  text=$(printf %s "$1" | tr -c 'A-Za-z0-9 .:/=@_+-' _ | cut -c1-200)
  say "$text"
  touch "$STATE/told"
  if [[ $DRIVER == job ]]; then
    tag "Key=zoobot:job_result,Value=$JOB $INSTANCE_ID $text"
  else
    tag "Key=zoobot:day,Value=$DAY" "Key=zoobot:result,Value=$text"
  fi
}

tag() { timeout 10 aws ec2 create-tags --resources "$VOLUME_ID" --tags "$@" || say "the volume could not be tagged"; }

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
      printf 'JOB=%q\n' "$(imds tags/instance/zoobot:job)"  # empty, but for the driver job
      local day
      day=$(imds tags/instance/zoobot:day)
      printf 'DAY=%q\n' "${day:0:10}"
    } >"$STATE/machine.new"
    mv "$STATE/machine.new" "$STATE/machine"
  fi
  # shellcheck source=/dev/null
  source "$STATE/machine"
}

# As the owner, who cannot become root: by sudo, which Ubuntu gives without a password, or as a member of docker or lxd.
AS_OWNER=(runuser -u "$OWNER" -g "$(id -gn "$OWNER")" -- setpriv --no-new-privs)
as_owner() { "${AS_OWNER[@]}" "$@"; }
