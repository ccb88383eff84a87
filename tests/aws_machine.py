"""A machine in tests/aws.py: imitates environment.sh, with the test's clock.

tests/test_launch_environment.py runs environment.sh itself; this imitation lets days pass in a moment.
"""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.aws import World


@dataclass
class Disk:
    """The content of a volume."""

    iterations: list[str] = field(default_factory=list)  # the day each was made for
    records: dict[str, int] = field(default_factory=dict)  # root/days: the number of iterations before
    formatted: int = 0
    jobs: dict[str, Job] = field(default_factory=dict)  # root/jobs


@dataclass
class Job:
    """What is done of a job: each unit (an iteration, or a command that makes none) is made of all before it."""

    commands: list[list[str]]
    made: list[str] = field(default_factory=list)
    seconds: float = 0  # of machines that are gone

    def units(self, of: Callable[[list[str]], int]) -> list[tuple[int, str]]:
        """The number of the command of each unit, and what it is made of."""
        return [(n, f"{words} {i}") for n, words in enumerate(self.commands) for i in range(max(1, of(words)))]


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
    command: str = ""  # of Systems Manager, about the job that it was given

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
        elif self.tags["zoobot:driver"] == "job":
            self.world.later(1800, self.without_command)

    def without_command(self) -> None:
        if not self.command:
            self.end_job("failed: no command came in 1800 s")

    def end_a_hanging_holder(self) -> None:
        for other in self.world.machines.values():
            if other.ended and other.volume == self.volume:
                volume = self.world.ec2.volumes[self.volume]
                if volume.attachment and volume.attachment.instance.id == other.id:
                    self.world.client("ec2").detach_volume(VolumeId=self.volume, Force=True)
            past_its_time = (self.world.now() - other.started).total_seconds() > self.world.max_runtime_s + 900
            if self.volume == other.volume and other.mounted and not other.ended and past_its_time:
                self.world.client("ec2").terminate_instances(InstanceIds=[other.id])

    def when_mounted(self, command: str, line: str) -> None:
        if self.ended:
            return
        if self.tags["zoobot:driver"] == "bake":
            self.world.later(600, lambda: self.world.set_command(command, "Success"))
        elif self.mounted and self.tags["zoobot:driver"] == "job":
            self.work(command, line)
        elif self.mounted:
            self.train(command)
        else:
            self.world.later(10, lambda: self.when_mounted(command, line))

    # ------------------------------------------------------------------------------------------------ a job

    @property
    def age_s(self) -> float:
        return (self.world.now() - self.started).total_seconds()

    def work(self, command: str, line: str) -> None:
        """environment.sh job: the commands that are not done yet, each unit published as a whole."""
        if self.command:
            return  # it has its commands
        self.command = command
        _, verb, limit, *words = shlex.split(line)
        assert verb == "job"
        commands: list[list[str]] = []
        for word in words:
            commands.append([]) if word == "--" else commands[-1].append(word)
        name = self.tags["zoobot:job"]
        job = self.world.disks[self.volume].jobs.setdefault(name, Job(commands))
        if job.commands != commands:
            self.end_job(f"failed: {name} is the name of other commands")
            return
        self.world.job_machines.append((name, self.id))
        plan = self.world.job_of(name)
        if plan in ("interrupted", "lost"):
            self.world.later(self.world.unit_s * 1.5, partial(self.stop_job, job, plan))
        self.hangs = plan == "hang"
        self.go_on(job, plan, float(limit))

    def go_on(self, job: Job, plan: str, limit_s: float) -> None:
        """Make the next unit, if there is one and time for it."""
        units = job.units(self.world.units_of)
        self.progress(job)
        if self.ended or self.hangs:
            return
        if len(job.made) == len(units):
            self.end_job(f"done: {len(job.commands)} commands", job)
        elif job.seconds + self.age_s + self.world.unit_s > limit_s:
            self.end_job("failed: its hours are used up: raise job_hours", job)
        elif self.age_s + self.world.unit_s > self.world.max_runtime_s - 120:
            self.end_job("cut off: the time of this machine is over", job)
        elif plan == "failed":
            self.end_job("failed: command 1 ended with status 2", job)
        else:
            self.world.later(self.world.unit_s, partial(self.make_unit, job, plan, limit_s))

    def make_unit(self, job: Job, plan: str, limit_s: float) -> None:
        if self.mounted:
            unit = job.units(self.world.units_of)[len(job.made)][1]
            job.made.append(hashlib.sha256(f"{job.made[-1:]} {unit}".encode()).hexdigest())
            self.go_on(job, plan, limit_s)

    def stop_job(self, job: Job, plan: str) -> None:
        if self.ended or not self.mounted:
            return
        self.mounted = False
        job.seconds += self.age_s
        if plan == "interrupted":
            self.result("interrupted: AWS took the machine back")
        self.power_off()

    def end_job(self, result: str, job: Job | None = None) -> None:
        if self.ended:
            return
        if job:
            job.seconds += self.age_s
            self.progress(job, 0)
        self.result(result)
        self.mounted = False
        if self.command:
            self.world.set_command(self.command, "Success" if result.startswith("done") else "Failed", "a table")
        if job:
            self.world.snapshot_by(self)
        self.world.later(30, self.power_off)

    def progress(self, job: Job, age_s: float | None = None) -> None:
        units = job.units(self.world.units_of)
        made = [n for n, _ in units[: len(job.made)] if self.world.units_of(job.commands[n])]
        planned = sum(self.world.units_of(words) for words in job.commands)
        finished = len({n for n, _ in units}) - len({n for n, _ in units[len(job.made) :]})
        hours = (job.seconds + (self.age_s if age_s is None else age_s)) / 3600
        text = (
            f"{self.tags['zoobot:job']} commands={finished}/{len(job.commands)} iterations={len(made)}/{planned}"
            f" made={len(made)} hours={hours:.2f} at={self.world.now():%Y-%m-%dT%H:%M:%SZ}"
        )
        self.tag({"zoobot:progress": text})

    # ------------------------------------------------------------------------------------------------ a day

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
        if self.tags["zoobot:driver"] == "job":
            self.tag({"zoobot:job_result": f"{self.tags['zoobot:job']} {self.id} {text}"})
        else:
            self.tag({"zoobot:day": self.day, "zoobot:result": text})

    def tag(self, tags: dict[str, str]) -> None:
        pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
        self.world.client("ec2").create_tags(Resources=[self.volume], Tags=pairs)

    def power_off(self) -> None:
        """Shut down from inside, which terminates the machine."""
        if not self.ended and not self.hangs:
            self.world.end(self.id)
