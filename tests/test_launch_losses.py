"""Ways in which state, backups or money could be lost, each tried against the stand-in."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from launch import userdata
from launch.backup import prune, snapshot, snapshots
from launch.bake import bake
from launch.config import Config
from launch.day import day, down, up
from launch.drill import drill
from launch.errors import LaunchError
from launch.restore import restore
from launch.setup import setup
from tests.aws import World
from tests.launching import ALL, Doomed, Killed, cloud_of, command, settled

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def made(world: World, ec2: Config) -> World:
    """An account in which `setup` was run."""
    setup(cloud_of(world, ec2))
    return world


def test_backups_are_not_pushed_out_by_a_machine_that_makes_many(made: World, ec2: Config) -> None:
    """A machine may make snapshots, so an intruder on one may make a hundred of a volume that was wiped."""
    few = dataclasses.replace(ec2, snapshots_kept=3)
    for _ in range(3):
        snapshot(cloud_of(made, few))
        made.sleep(86400)
    good = [s["SnapshotId"] for s in snapshots(cloud_of(made, few))]
    (volume,) = made.volumes("working_volume")
    tags = {"zoobot:experiment": few.experiment, "zoobot:role": "daily", "zoobot:day": "2026-12-31"}
    spec = [{"ResourceType": "snapshot", "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}]
    for _ in range(10):
        made.client("ec2").create_snapshot(VolumeId=volume.id, TagSpecifications=spec)
    made.sleep(600)
    prune(cloud_of(made, few))
    left = [s["SnapshotId"] for s in snapshots(cloud_of(made, few))]
    assert left[:2] == good[1:] and len(left) == 3


def restored_and_used(made: World, ec2: Config) -> Doomed:
    """A restore, whose volume a machine has used since; and its calls."""
    whole = cloud_of(made, ec2)
    restore(whole)
    (used,) = made.volumes("working_volume")
    made.client("ec2").create_tags(Resources=[used.id], Tags=[{"Key": "zoobot:day", "Value": "2026-03-02"}])
    return whole


def test_a_restore_that_was_cut_off_is_not_taken_for_one_of_another_snapshot(made: World, ec2: Config) -> None:
    day(cloud_of(made, ec2))
    made.sleep(86400)
    whole = restored_and_used(made, ec2)
    with pytest.raises(Killed):
        restore(cloud_of(made, ec2, at=whole.operations.index("CreateVolume") + 1, answered=True))
    (first,) = [s["SnapshotId"] for s in snapshots(cloud_of(made, ec2))]
    day(cloud_of(made, ec2))
    made.sleep(600)
    with pytest.raises(LaunchError, match=rf"is left of a restore of {first} that was cut off") as stopped:
        restore(cloud_of(made, ec2))
    assert f"restore --snapshot {first}" in str(stopped.value)
    restore(cloud_of(made, ec2), first)
    (volume,) = made.volumes("working_volume")
    assert volume.snapshot_id == first and made.volumes("restored_volume") == []


def test_a_drill_that_was_cut_off_does_not_stand_for_a_newer_snapshot(made: World, ec2: Config) -> None:
    day(cloud_of(made, ec2))
    made.sleep(600)
    whole = cloud_of(made, ec2)
    drill(whole)
    with pytest.raises(Killed):
        drill(cloud_of(made, ec2, at=whole.operations.index("CreateVolume") + 1, answered=True))
    made.sleep(86400)
    day(cloud_of(made, ec2))
    made.sleep(600)
    assert drill(cloud_of(made, ec2)) == "done: verified 2 iterations"
    assert made.volumes("drill_volume") == []


def test_the_schedule_takes_the_restored_volume_without_setup(made: World, ec2: Config) -> None:
    assert command(made, ec2, "schedule", "on") == 0
    day(cloud_of(made, ec2))
    made.sleep(600)
    (old,) = made.volumes("working_volume")
    whole = cloud_of(made, ec2)
    restore(whole)
    for n in (0, whole.operations.index("UpdateSchedule")):  # as it is, and cut off before the schedule is told
        (used,) = made.volumes("working_volume")
        if n:
            made.client("ec2").create_tags(Resources=[used.id], Tags=[{"Key": "zoobot:day", "Value": "2026-03-02"}])
            with pytest.raises(Killed):
                restore(cloud_of(made, ec2, at=n, answered=True))
            restore(cloud_of(made, ec2))
        made.sleep(86400)
        before = len(made.disk.iterations)
        made.fire(ec2.name, made.now())
        made.sleep(3600)
        assert len(made.disk.iterations) == before + 1, "on the volume that took the place"
    assert made.disks[old.id].iterations == ["2026-03-01"]


def test_a_restore_gives_no_more_machines_a_day(made: World, ec2: Config) -> None:
    day(cloud_of(made, ec2))
    made.sleep(86400)
    made.training_of = lambda day: "interrupted"
    for _ in range(2):
        with pytest.raises(LaunchError, match="used up"):
            day(cloud_of(made, ec2))
        restore(cloud_of(made, ec2))
    assert len(made.machines) == 1 + ec2.attempts


def test_setup_makes_no_empty_volume_where_there_was_one(made: World, ec2: Config) -> None:
    day(cloud_of(made, ec2))
    made.sleep(600)
    whole = restored_and_used(made, ec2)
    with pytest.raises(Killed):
        last = len(whole.operations) - whole.operations[::-1].index("CreateTags")
        restore(cloud_of(made, ec2, at=last - 1, answered=True))
    assert made.volumes("working_volume") == [], "cut off between the two tags"
    with pytest.raises(LaunchError, match=r"has no volume, but had one.*launch restore"):
        setup(cloud_of(made, ec2))
    restore(cloud_of(made, ec2))
    setup(cloud_of(made, ec2))
    assert made.disk.iterations == ["2026-03-01"]


def test_a_day_that_goes_on_past_midnight_is_one_day(made: World, ec2: Config) -> None:
    midnight = made.now().replace(hour=0, minute=0) + timedelta(days=1)
    for before_s in (1, 20, 40, 60):
        made.sleep((midnight - made.now()).total_seconds() - before_s)
        begun = f"{made.now():%Y-%m-%d}"
        assert day(cloud_of(made, ec2)).startswith("done")
        assert made.disk.iterations[-1] == begun
        midnight += timedelta(days=1)
    settled(made, iterations=4, started=4)


def test_a_machine_of_yesterday_that_works_for_another_computer_is_left_alone(made: World, ec2: Config) -> None:
    made.sleep((made.now().replace(hour=23, minute=50) - made.now()).total_seconds())
    up(cloud_of(made, ec2))
    made.sleep(1200)
    with pytest.raises(LaunchError, match="runs for decals_live already, started by operator"):
        day(cloud_of(made, dataclasses.replace(ec2, record=f"{ec2.record}-other")))
    assert len(made.running()) == 1
    down(cloud_of(made, ec2))
    assert made.running() == []


def test_the_volume_is_not_torn_from_a_machine_that_is_not_ours(made: World, ec2: Config) -> None:
    """Somebody looks into it on a machine of their own."""
    client = made.client("ec2")
    (template,) = client.describe_launch_templates()["LaunchTemplates"]
    theirs = [{"ResourceType": "instance", "Tags": [{"Key": "zoobot:driver", "Value": "bake"}]}]
    source = {"LaunchTemplateId": template["LaunchTemplateId"]}
    (machine,) = client.run_instances(MinCount=1, MaxCount=1, LaunchTemplate=source, TagSpecifications=theirs)[
        "Instances"
    ]
    client.delete_tags(Resources=[machine["InstanceId"]], Tags=[{"Key": "zoobot:experiment"}])
    (volume,) = made.volumes("working_volume")
    made.sleep(20)
    client.attach_volume(VolumeId=volume.id, InstanceId=machine["InstanceId"], Device="/dev/sdf")
    with pytest.raises(LaunchError, match=rf"attached to {machine['InstanceId']}, which is no machine of decals_live"):
        down(cloud_of(made, ec2))
    assert volume.attachment, "and stays so"


def test_an_image_is_made_without_a_reboot(made: World, ec2: Config) -> None:
    """The dead-man timers of the machine are not there after a reboot."""
    bake(cloud_of(made, ec2))
    (call,) = [c for c in made.calls if c.operation == "CreateImage"]
    assert call.parameters["NoReboot"] == "true"


BOOT = """set -e
mount -t tmpfs tmpfs /opt; mount -t tmpfs tmpfs /var/lib; mkdir -p /etc/systemd; mount -t tmpfs tmpfs /etc/systemd
mkdir -p /etc/systemd/system /var/lib/cloud/data
echo i-1 >/var/lib/cloud/data/instance-id
bash "$1"; echo booted
bash /var/lib/cloud/scripts/per-boot/zoobot; echo again
echo i-2 >/var/lib/cloud/data/instance-id
bash /var/lib/cloud/scripts/per-boot/zoobot; echo of another machine, from its image
ls /opt/zoobot/launch
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a mount namespace")
def test_a_machine_that_boots_again_goes(ec2: Config, tmp_path: Path) -> None:
    """Its dead-man timers are of the boot that was, and nothing would end it."""
    for name in ("systemctl", "systemd-run"):
        (tmp_path / name).write_text(f'#!/bin/bash\necho {name} "$@"\n')
        (tmp_path / name).chmod(0o755)
    (tmp_path / "boot.sh").write_text(userdata.script(ec2))
    words = ["unshare", "-m", "bash", "-c", BOOT, "bash", str(tmp_path / "boot.sh")]
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(words, env=path, capture_output=True, text=True, check=True, timeout=60)
    first, after = done.stdout.split("booted\n")
    assert first.count("systemd-run --quiet --unit=zoobot-deadman") == 2 and "systemctl start" in first
    again, of_another = after.split("again\n")
    assert again == "systemctl poweroff\n" and "poweroff" not in of_another and "environment.sh" in of_another


def test_a_full_disk_does_not_keep_a_machine_running(made: World, ec2: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    up(cloud_of(made, ec2))
    real = Path.open

    def full(self: Path, *words: Any, **more: Any) -> Any:
        if self.suffix == ".jsonl":
            raise OSError(28, "No space left on device")
        return real(self, *words, **more)

    monkeypatch.setattr(Path, "open", full)
    down(cloud_of(made, ec2))
    assert made.running() == []


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT] if ALL else [signal.SIGHUP])
def test_a_day_that_is_stopped_ends_its_machine(number: int, made: World, ec2: Config, tmp_path: Path) -> None:
    """A closed terminal, `kill`, Ctrl-C: the machine would run, and cost, until its dead-man timer."""
    made.train_s, made.clock = 10**6, datetime.now(UTC)
    assert command(made, ec2, "plan") == 0  # writes the settings to a file
    quick = "import runpy, time\nreal = time.sleep\ntime.sleep = lambda s: real(s / 40)\n"
    code = f"{quick}runpy.run_module('launch', run_name='__main__', alter_sys=True)"
    words = [sys.executable, "-c", code, "day", "--config", str(tmp_path / "ec2.yaml")]
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        wait_for(made, process, "SendCommand")
        os.kill(process.pid, number)
        for _ in range(100):
            made.sleep(10)
            if process.poll() is not None:
                break
            time.sleep(0.1)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130 and err.startswith("Stopped. The same command goes on"), err
    assert made.running() == []


def wait_for(world: World, process: subprocess.Popen[str], operation: str) -> None:
    for _ in range(300):
        world.sleep(2)
        if any(c.operation == operation for c in world.calls):
            return
        assert process.poll() is None
        time.sleep(0.1)
    raise AssertionError(operation)
