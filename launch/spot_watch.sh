#!/usr/bin/env bash
# Ask every five seconds whether AWS wants the machine back; it gives two minutes' notice. Then training stops at once
# (what it had not published is as if it had not been), the volume is unmounted, the machine goes. Rebalance
# recommendations (events/recommendations/rebalance) are not heeded: most are followed by no interruption, and a new
# machine would begin the iteration again. Notices of capacity reservations are not in the metadata: launch/notice.py.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
IMDS=${IMDS:-http://169.254.169.254/latest}
EVERY_S=${EVERY_S:-5}

token=
renew() { token=$(curl -sf -m 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 21600' "$IMDS/api/token") || token=; }

until [[ -e ${STATE:-/run/zoobot}/closing ]]; do
  # 200: there is a notice; 404: none; 401: the token is too old; 000: no answer this time.
  answer=$(curl -s -m 2 -o /dev/null -w '%{http_code}' -H "X-aws-ec2-metadata-token: $token" \
    "$IMDS/meta-data/spot/instance-action") || true
  case $answer in
    200) exec "$HERE/environment.sh" interrupted ;;
    401) renew && [[ -n $token ]] && continue ;;
  esac
  sleep "$EVERY_S"
done
