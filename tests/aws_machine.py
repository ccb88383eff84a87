"""A machine in tests/aws.py: imitates environment.sh, with the test's clock.

tests/test_launch_environment.py runs environment.sh itself; this imitation lets days pass in a moment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.aws import World


@dataclass
class Disk:
    """The content of a volume."""

    iterations: list[str] = field(default_factory=list)  # the day each was made for
    records: dict[str, int] = field(default_factory=dict)  # root/days: the number of iterations before
    formatted: int = 0


@dataclass
class Machine:
    """One machine: what environment.sh does on it, and when."""

    world: World
    id: str
    tags: dict[str, str]
    kind: str
    market: str
    started: datetime
    ended: datetime | None = None
    online: bool = False
    mounted: bool = False
    hangs: bool = False  # it never ends by itself
    training: int = 0  # the current run of the iteration; 0: none

    @property
    def day(self) -> str:
        return self.tags["zoobot:day"][:10]

    @property
    def volume(self) -> str:
        return self.tags.get("zoobot:volume", "")

    def boot(self) -> None:
        """Make SSM reachable, then attach the volume, trying for ten minutes as environment.sh does."""
        self.online = not self.ended
        if self.tags["zoobot:driver"] != "bake":
            self.attach(60)

    def attach(self, tries: int) -> None:
        if self.ended:
            return
        ec2 = self.world.client("ec2")
        try:
            ec2.attach_volume(VolumeId=self.volume, InstanceId=self.id, Device="/dev/sdf")
        except ec2.exceptions.ClientError:
            if tries == 1:
                self.result("failed: the volume is held by another machine")
                self.power_off()
            else:
                self.end_a_hanging_holder()
                self.world.later(10, lambda: self.attach(tries - 1))
            return
        self.mounted = True
        disk = self.world.disks.setdefault(self.volume, Disk())
        disk.formatted += not (disk.formatted or disk.records)
        if self.tags["zoobot:driver"] == "schedule":
            self.train("")
        elif self.tags["zoobot:driver"] == "drill":
            self.result(f"done: verified {len(disk.iterations)} iterations")
            self.power_off()

    def end_a_hanging_holder(self) -> None:
        for other in self.world.machines.values():
            if other.ended and other.volume == self.volume:
                volume = self.world.ec2.volumes[self.volume]
                if volume.attachment and volume.attachment.instance.id == other.id:
                    self.world.client("ec2").detach_volume(VolumeId=self.volume, Force=True)
            past_its_time = (self.world.now() - other.started).total_seconds() > self.world.max_runtime_s + 900
            if self.volume == other.volume and other.mounted and not other.ended and past_its_time:
                self.world.client("ec2").terminate_instances(InstanceIds=[other.id])

    def when_mounted(self, command: str) -> None:
        if self.ended:
            return
        if self.tags["zoobot:driver"] == "bake":
            self.world.later(600, lambda: self.world.set_command(command, "Success"))
        elif self.mounted:
            self.train(command)
        else:
            self.world.later(10, lambda: self.when_mounted(command))

    def train(self, command: str) -> None:
        """environment.sh run: one iteration, unless the record of the day says that it exists."""
        if self.training:
            self.world.set_command(command, "Failed")  # flock
            return
        disk = self.world.disks[self.volume]
        before = disk.records.setdefault(self.day, len(disk.iterations))
        if len(disk.iterations) > before:
            self.finish(command, f"done: iteration_{before}")
            return
        self.training += 1
        self.world.trainings.append((self.id, self.day))
        plan = self.world.training_of(self.day)
        if plan == "hang":
            self.hangs = True  # the kernel hangs too, so even the dead-man timer does not end it
        elif plan == "stuck":
            self.world.later(
                self.world.max_runtime_s - 120, lambda: self.finish(command, "failed: run.py ended with 124")
            )
        elif plan == "interrupted":
            self.world.later(self.world.train_s / 2, self.interrupted)
        else:
            self.world.later(self.world.train_s, lambda: self.publish(command, before))

    def publish(self, command: str, before: int) -> None:
        if self.ended:
            return
        self.world.disks[self.volume].iterations.append(self.day)
        self.finish(command, f"done: iteration_{before}")

    def told(self, command: str) -> None:
        """A command of EventBridge's rule: about this machine, or another."""
        if command == f"/opt/zoobot/launch/environment.sh interrupted {self.id}":
            self.interrupted()

    def interrupted(self) -> None:
        if not self.ended:
            self.mounted = False
            self.result("interrupted: AWS took the machine back")
            self.power_off()

    def finish(self, command: str, result: str) -> None:
        if self.ended:
            return
        self.training = 0
        self.result(result)
        if command:
            self.world.set_command(command, "Success" if result.startswith("done") else "Failed")
        if self.tags["zoobot:driver"] == "schedule":
            self.world.snapshot_by(self)
            self.power_off()

    def result(self, text: str) -> None:
        tags = [{"Key": "zoobot:day", "Value": self.day}, {"Key": "zoobot:result", "Value": text}]
        self.world.client("ec2").create_tags(Resources=[self.volume], Tags=tags)

    def power_off(self) -> None:
        """Shut down from inside, which terminates the machine."""
        if not self.ended and not self.hangs:
            self.world.end(self.id)
