"""A job: commands that the machine does one after the other, on as many machines as it takes, within a budget.

The machine needs nobody once it has the commands: it does them, makes a snapshot and goes (job.sh). What is done is on
the volume. This program starts a machine, gives it the commands, follows it, and starts the next one when AWS took it
back or its time was over. Cut off at any call, it goes on when it is run again: machines are counted in tags of the
volume, and one that is there is joined.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from dataclasses import dataclass
from functools import partial
from typing import Any

from botocore.exceptions import ClientError

from launch import cost
from launch.aws import JOB, JOB_RESULT, MONTH, PROGRESS, Cloud, code_of, tag_list, tags_of
from launch.backup import prune
from launch.day import AGAIN, GRACE_S, Gone, down, how_it_ended, reachable, send, sent, sweep
from launch.errors import Away, LaunchError
from launch.find import ENDING, describe_machine, driver_of, found, machines, need_volume, state_of
from launch.start import market, start, when_possible

DRIVER = "job"
_ENVIRONMENT = "/opt/zoobot/launch/environment.sh"
_SAID = re.compile(  # as job.sh writes it; whatever else a machine wrote is unknown
    r"(?P<name>\S+) commands=(?P<commands>\d+/\d+) iterations=(?P<finished>\d{1,9})(/(?P<planned>\d{1,9}))?"
    r" made=(?P<made>\d{1,9}) hours=(?P<hours>\d{1,9}\.\d+) at=(?P<at>\S+)", re.ASCII
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A name (a-z, 0-9, _ and -, at most 30), and commands: words after `python`, or `copy` and an address in S3."""

    name: str
    commands: tuple[tuple[str, ...], ...]

    @property
    def digest(self) -> str:
        """Of the commands: a name stands for the same ones for ever."""
        return hashlib.sha256(json.dumps(self.commands).encode()).hexdigest()[:12]

    def line(self, hours: float) -> str:
        """What the machine is told, as a shell takes it."""
        words = [word for command in self.commands for word in ("--", *command)]
        return shlex.join([_ENVIRONMENT, "job", str(int(hours * 3600)), *words])


def drive(cloud: Cloud, job: Job) -> str:
    """Bring a job to its end; the end of its log, empty if it was done before. LaunchError: why it is not done."""
    volume = need_volume(cloud)
    refuse(cloud, job, volume)
    cloud.say(f"{job.name} takes {cloud.config.job_hours:g} h at most, and ${cloud.config.worst_job():.2f}")
    result, output = said(volume, job), ""
    while _there(cloud, job) or not result.startswith("done"):
        result, output = _one_machine(cloud, job)
        if not result.startswith(("done", *AGAIN)):
            prune(cloud)
            raise LaunchError(f"{job.name} is not done: {result}\n{output[-2000:]}".rstrip(), 1)
        cloud.say(f"{job.name}: {result}")
    down(cloud, DRIVER)
    prune(cloud)
    return output


def refuse(cloud: Cloud, job: Job, volume: dict[str, Any]) -> None:
    """LaunchError if the job must not start: live work by schedule, the name of other commands, other machines."""
    refuse_beside_schedule(cloud)
    name, digest, _ = _counted(volume)
    if name == job.name and digest != job.digest:
        raise LaunchError(f"{job.name} is the name of other commands. Choose another name.")
    for instance in machines(cloud):
        if state_of(instance) != "shutting-down" and not _is_of(instance, job):
            raise LaunchError(
                f"{instance['InstanceId']} runs for {cloud.config.experiment} already, started by"
                f" {tags_of(instance).get(JOB) or driver_of(instance)}. Wait until it is done, or end it:"
                " python -m launch down", 1
            )  # fmt: skip


def refuse_beside_schedule(cloud: Cloud) -> None:
    """LaunchError if the experiment runs every day."""
    schedule = found(cloud, "scheduler", "get_schedule", Name=cloud.config.name)
    if schedule and schedule["State"] == "ENABLED":
        raise LaunchError(
            f"{cloud.config.experiment} runs every day, and a job could hold its volume then. Give simulations a"
            " volume of their own (another `experiment`, with data_from), or run `python -m launch schedule off`."
        )


def refuse_beside_job(cloud: Cloud) -> None:
    """LaunchError if a machine works at a job: at night the schedule's machine would not get the volume."""
    for instance in machines(cloud):
        if driver_of(instance) == DRIVER and state_of(instance) != "shutting-down":
            raise LaunchError(
                f"{instance['InstanceId']} works at the job {tags_of(instance).get(JOB)} and has the volume, so a"
                " scheduled iteration would be lost. Wait until it is done, or end it: python -m launch down", 1
            )  # fmt: skip


def said(volume: dict[str, Any], job: Job, instance: str = "") -> str:
    """How the job ended, as its last machine said, or this one; empty if it said nothing."""
    name, by, text = _ended(volume)
    known = _counted(volume)[:2] == (job.name, job.digest) and name == job.name and instance in ("", by)
    return text if known else ""


def _ended(volume: dict[str, Any]) -> tuple[str, str, str]:
    """The job that ended last, the machine that said so, and how it ended."""
    name, by, text = (*tags_of(volume).get(JOB_RESULT, "").split(" ", 2), "", "", "")[:3]
    return name, by, text


def _counted(volume: dict[str, Any]) -> tuple[str, str, int]:
    """The last job of a volume, the digest of its commands, and how many machines it had."""
    name, digest, count = (*tags_of(volume).get(JOB, "").split(), "", "", "")[:3]
    return name, digest, int(count or 0)


def _is_of(instance: dict[str, Any], job: Job) -> bool:
    return driver_of(instance) == DRIVER and tags_of(instance).get(JOB) == job.name


def _there(cloud: Cloud, job: Job) -> str:
    """The id of the job's machine, empty if there is none."""
    mine = [i for i in machines(cloud) if state_of(i) != "shutting-down" and _is_of(i, job)]
    return str(mine[0]["InstanceId"]) if mine else ""


def _one_machine(cloud: Cloud, job: Job) -> tuple[str, str]:
    """How the job ended on one machine, which is there or is started, and the end of its log."""
    instance = output = ""
    try:
        instance = _there(cloud, job) or when_possible(cloud, partial(_start, cloud, job))
        reachable(cloud, instance)
        output = _follow(cloud, job, instance)
    except Gone as gone:
        cloud.say(str(gone))
    down(cloud, DRIVER)
    volume = need_volume(cloud)
    return how_it_ended(volume, instance, said(volume, job, instance)), output


def _start(cloud: Cloud, job: Job) -> str:
    """Start the next machine of a job. Every one is counted on the volume; a token makes repeating it harmless."""
    sweep(cloud)
    refuse_beside_schedule(cloud)  # which may be on since the machine before
    volume = need_volume(cloud)
    name, _, count = _counted(volume)
    if name != job.name:
        count = 0
        tags = tag_list(job=f"{job.name} {job.digest} 0")
        cloud.call("ec2", "create_tags", Resources=[volume["VolumeId"]], Tags=tags)
    _refuse_more_hours(cloud, job, volume)
    while count < cloud.config.job_machines:
        _refuse_more_money(cloud, volume)
        instance = start(
            cloud, f"job {job.name} {job.digest} {count + 1}", market(cloud.config, count),
            driver=DRIVER, job=job.name, day=cloud.today, volume=str(volume["VolumeId"]),
        )  # fmt: skip
        count += 1
        month = f"{cloud.today[:7]} {_this_month(cloud, volume) + 1}"
        counts = tag_list(job=f"{job.name} {job.digest} {count}", job_month=month)
        cloud.call("ec2", "create_tags", Resources=[volume["VolumeId"]], Tags=counts)
        if instance:
            return instance
        volume = need_volume(cloud)
    raise LaunchError(f"{job.name} has had {count} machines. Raise job_machines, and run the same command again.")


def _this_month(cloud: Cloud, volume: dict[str, Any]) -> int:
    month, _, count = tags_of(volume).get(MONTH, "").partition(" ")
    return int(count) if month == cloud.today[:7] else 0


def _refuse_more_money(cloud: Cloud, volume: dict[str, Any]) -> None:
    """Every machine of a month counts as if it ran to its last minute, so that no number of jobs costs more."""
    before = _this_month(cloud, volume)
    worst = cloud.config.worst_of_jobs(before + 1)
    if worst > cloud.config.budget_usd:
        raise LaunchError(
            f"budget_usd: {before} machines of jobs ran this month; with one more it could cost {worst:.2f}, more than"
            f" {cloud.config.budget_usd}. Wait for the next month, lower max_runtime_h, or raise the budget."
        )


def _refuse_more_hours(cloud: Cloud, job: Job, volume: dict[str, Any]) -> None:
    hours = float(progress_of(volume, job.name).get("hours", 0))
    if hours >= cloud.config.job_hours:
        raise LaunchError(f"{job.name} has had {hours} hours. Raise job_hours, and run the same command again.")


def _follow(cloud: Cloud, job: Job, instance: str) -> str:
    """Give the machine its commands, unless it has them, and wait until it is gone; the end of its log."""
    comment = f"{cloud.config.experiment} job {job.name}"
    try:
        command = sent(cloud, instance, comment) or send(cloud, instance, comment, job.line(cloud.config.job_hours))
    except ClientError as error:
        if code_of(error) != "InvalidInstanceId":  # it went just now
            raise
        raise Gone(f"{instance} went before it had its commands.") from error
    cloud.say(f"{instance} works at {job.name} ({command}). It needs this computer only if it is interrupted.")
    told = [""]
    try:
        cloud.wait(job.name, lambda: _gone(cloud, instance, told), cloud.config.max_runtime_s + GRACE_S, 60)
    except Away as error:
        raise Gone(f"{instance} hangs: {error}") from error
    return _output(cloud, instance, command)


def _gone(cloud: Cloud, instance: str, told: list[str]) -> bool:
    now = tags_of(need_volume(cloud)).get(PROGRESS, "")
    if now != told[0]:
        cloud.say(now)
        told[0] = now
    return state_of(describe_machine(cloud, instance)) in ("", "stopped", *ENDING)


def _output(cloud: Cloud, instance: str, command: str) -> str:
    try:
        answer = cloud.call("ssm", "get_command_invocation", CommandId=command, InstanceId=instance)
    except ClientError as error:
        if code_of(error) == "InvocationDoesNotExist":
            return ""
        raise
    return str(answer.get("StandardOutputContent", ""))


# ----------------------------------------------------------------------------------------------------- for `status`


def progress_of(volume: dict[str, Any], name: str) -> dict[str, str]:
    """What a machine last said of a job: commands, finished, planned, made, hours, at. Empty if that is not known."""
    said = _SAID.fullmatch(tags_of(volume).get(PROGRESS, ""))
    return said.groupdict("") if said and said["name"] == name else {}


def report(cloud: Cloud, volume: dict[str, Any], running: bool) -> list[str]:
    """Lines about the last job: what is done, how fast, hours and dollars so far, when it may be done."""
    name, _, count = _counted(volume)
    if not name:
        return []
    lines = _how_far(cloud, name, count, progress_of(volume, name), running)
    ended, _, text = _ended(volume)
    return [*lines, f"          {text}"] if ended == name and not running else lines


def _how_far(cloud: Cloud, name: str, count: int, values: dict[str, str], running: bool) -> list[str]:
    config = cloud.config
    most = f"at most {config.job_machines} machines and {config.job_hours:g} h"
    if not values:
        return [f"job       {name}: {count} machines; how far it is, is unknown; {most}"]
    hours = float(values["hours"])
    rate = int(values["made"]) / hours if hours else 0.0
    spent = hours * cost.hourly(config.instance_types[0], config.market)
    done = "/".join(filter(None, (values["finished"], values["planned"])))
    lines = [
        f"job       {name}: {values['commands']} commands and {done} iterations done, {rate:.1f} iterations an hour",
        f"          {hours:.2f} h on {count} machines, about ${spent:.2f}; {most}",
    ]
    if running and rate and values["planned"]:
        left_h = (int(values["planned"]) - int(values["finished"])) / rate
        lines.append(f"          expected end: {left_h:.1f} h after {values['at']}")
    return lines
