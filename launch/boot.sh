#!/bin/bash
# User data: the first thing that runs on a machine, as root. The machine ends itself whatever happens after this: its
# shutdown is its termination, the timers below shut it down, and so does an error here. The values are filled in by
# launch/userdata.py; none is a secret.
set -euo pipefail
trap 'systemctl poweroff' ERR

# The dead-man timers: an orderly end, and two minutes later an end.
max_runtime_s=@MAX_RUNTIME_S@
systemd-run --quiet --unit=zoobot-deadman --on-active="${max_runtime_s}s" systemctl poweroff
systemd-run --quiet --unit=zoobot-deadman-force --on-active="$((max_runtime_s + 120))s" systemctl poweroff --force --force

# A machine that boots again (a panic, a repair by AWS) has lost its timers: it goes. An image of it has this file as
# well, so it is about one machine only.
instance_id=$(cat /var/lib/cloud/data/instance-id) || instance_id=
install -d /var/lib/cloud/scripts/per-boot
cat >/var/lib/cloud/scripts/per-boot/zoobot <<AGAIN
#!/bin/bash
[[ \$(</var/lib/cloud/data/instance-id) != "$instance_id" ]] || systemctl poweroff
AGAIN
chmod 755 /var/lib/cloud/scripts/per-boot/zoobot

install -d -m 755 /opt/zoobot/launch
cd /opt/zoobot/launch
base64 -d <<<'@FILES@' | tar -xz --no-same-owner

# ExecStopPost runs at every kind of end, also one in the middle of the start; the network is still there then.
cat >/etc/systemd/system/zoobot.service <<'UNIT'
[Unit]
After=network-online.target amazon-ssm-agent.service
Wants=network-online.target
[Service]
Type=oneshot
RemainAfterExit=yes
TimeoutStartSec=infinity
TimeoutStopSec=100
ExecStart=/opt/zoobot/launch/environment.sh boot
ExecStopPost=/opt/zoobot/launch/environment.sh close
UNIT
systemctl daemon-reload
systemctl start --no-block zoobot.service
