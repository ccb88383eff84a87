"""A day: start a machine, let it iterate once, see it gone. Each step looks first what is there, so that a run which
was cut off at any call is simply run again.

What keeps it to one machine and one iteration, from the weakest to the strongest: the lock of this computer, the tags
(a machine that is there is joined), the client token (RunInstances repeated by anybody answers with the same machine),
EBS (one machine has the volume), and the day's record on the volume (environment.sh run).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from botocore.exceptions import ClientError

from launch.aws import DAY, ENDED, STARTS, VOLUME, Cloud, code_of, tag_list, tags_of
from launch.backup import snapshot
from launch.errors import Away, LaunchError
from launch.find import (
    ENDING,
    describe_machine,
    driver_of,
    machines,
    need_volume,
    result_of,
    state_of,
)
from launch.start import market, start, when_possible

GRACE_S = 900  # past max_runtime a machine has this long to go by itself
_RUN = "/opt/zoobot/launch/environment.sh run"
AGAIN = ("interrupted", "cut off")  # results after which another machine is worth its money
_FINISHED = ("Success", "Failed", "Cancelled", "TimedOut", "Delivery Timed Out", "Undeliverable", "Terminated")


class Gone(Away):
    """The machine went before it could be used."""


def day(cloud: Cloud) -> str:
    """Up, run once, down, snapshot; how the iteration ended. LaunchError if there is none today, and why."""
    result = result_of(need_volume(cloud), cloud.today)
    if result.startswith("done"):
        down(cloud, "operator", cloud.today)  # of a run that was cut off after the iteration
    while not result.startswith("done"):
        try:
            when_possible(cloud, partial(up, cloud))
            result = run(cloud)
        finally:
            down(cloud, "operator", cloud.today)  # one of yesterday may still be at work for another computer
        if not result.startswith(AGAIN):
            break
    snapshot(cloud)
    if not result.startswith("done"):
        raise LaunchError(f"There is no iteration for {cloud.today}: {result}.", 1)
    cloud.say(f"{cloud.today}: {result}")
    return result


def up(cloud: Cloud) -> str:
    """Today's machine, started unless it is there, and reachable; its id."""
    volume = need_volume(cloud)
    sweep(cloud)
    instance = _todays(cloud, volume) or _start(cloud, volume)
    reachable(cloud, instance)
    cloud.say(f"{instance} runs: aws ssm start-session --target {instance}")
    return instance


def reachable(cloud: Cloud, instance: str) -> None:
    """Wait until Systems Manager can send commands to a machine. Gone, if it went instead."""
    cloud.wait(f"{instance} to run", lambda: _running(cloud, instance), 600)
    cloud.wait(f"{instance} to be reachable by Session Manager", lambda: _online(cloud, instance), 600, 10)


def run(cloud: Cloud) -> str:
    """One iteration on today's machine; how it ended. A command that was sent before is followed, not sent again."""
    volume = need_volume(cloud)
    instance = _todays(cloud, volume)
    if not instance:
        raise LaunchError(f"{cloud.config.experiment} has no machine today. Run `python -m launch up` first.")
    comment = f"{cloud.config.experiment} {cloud.today}"
    command = sent(cloud, instance, comment) or send(cloud, instance, comment, _RUN)
    cloud.say(f"{instance} iterates ({command})")
    cloud.wait("the iteration", lambda: _over(cloud, instance, command), cloud.config.max_runtime_s + GRACE_S, 30)
    volume = need_volume(cloud)
    return how_it_ended(volume, instance, result_of(volume, cloud.today))


def how_it_ended(volume: dict[str, Any], instance: str, said: str) -> str:
    """What a machine that is gone said; or that somebody ended it, after which no other is started."""
    if tags_of(volume).get(ENDED) == instance and (not said or said.startswith(AGAIN)):
        return "ended by `python -m launch down`. The same command goes on"
    return said or "cut off: the machine is gone and said nothing"


def down(cloud: Cloud, driver: str = "", day: str = "") -> None:
    """End the machines of the experiment (of one driver, of one day), which shut down in order; see the volume free.

    Without a driver it is somebody's wish: the command that follows the machine, elsewhere perhaps, ends as well.
    """
    for instance in _left(cloud, driver, day):
        if state_of(instance) != "shutting-down":
            if not driver:
                _say_by_hand(cloud, instance)
            _terminate(cloud, instance, "down")
    cloud.wait("the machines to go", lambda: not _left(cloud, driver, day), 900, 10)
    if not machines(cloud):
        _free_volume(cloud)


def sweep(cloud: Cloud) -> list[str]:
    """End machines that are past their time: what the dead-man timer should have done. Their ids."""
    orphans = []
    for instance in machines(cloud):
        age_s = (cloud.now() - instance["LaunchTime"]).total_seconds()
        if age_s > cloud.config.max_runtime_s + GRACE_S and state_of(instance) != "shutting-down":
            _terminate(cloud, instance, f"it is {age_s / 3600:.1f} h old")
            orphans.append(str(instance["InstanceId"]))
    return orphans


def _left(cloud: Cloud, driver: str, day: str) -> list[dict[str, Any]]:
    return [i for i in machines(cloud) if driver in ("", driver_of(i)) and day in ("", tags_of(i).get(DAY))]


def _todays(cloud: Cloud, volume: dict[str, Any]) -> str:
    """The id of today's machine, empty if there is none. Another machine of the experiment is an error."""
    there = [i for i in machines(cloud) if state_of(i) != "shutting-down"]
    mine = [i for i in there if driver_of(i) == "operator" and tags_of(i).get(DAY) == cloud.today]
    for other in there:
        if other not in mine:
            raise LaunchError(
                f"{other['InstanceId']} runs for {cloud.config.experiment} already, started by"
                f" {driver_of(other) or 'an unknown hand'}. Wait until it is done, or end it: python -m launch down", 1
            )  # fmt: skip
    holders = {a["InstanceId"] for a in volume.get("Attachments", [])}
    mine.sort(key=lambda i: i["InstanceId"] not in holders)  # the one that has the volume, else the oldest
    return str(mine[0]["InstanceId"]) if mine else ""


def _start(cloud: Cloud, volume: dict[str, Any]) -> str:
    """Start the next machine of today. Every start is counted on the volume; a token makes repeating it harmless."""
    starts = _started_today(cloud, volume)
    while starts < cloud.config.attempts:
        instance = start(
            cloud, f"{cloud.today} {starts + 1}", market(cloud.config, starts),
            driver="operator", day=cloud.today, volume=str(volume["VolumeId"]),
        )  # fmt: skip
        starts += 1
        cloud.call(
            "ec2", "create_tags", Resources=[volume["VolumeId"]], Tags=tag_list(starts=f"{cloud.today} {starts}")
        )
        if instance:
            return instance
    raise LaunchError(f"Today's machines are used up (attempts: {cloud.config.attempts}). The next is tomorrow's.", 1)


def _started_today(cloud: Cloud, volume: dict[str, Any]) -> int:
    """How many of today's machines went before: those counted, or the schedule's, if AWS took it back."""
    day_before, _, count = tags_of(volume).get(STARTS, "").partition(" ")
    if day_before == cloud.today:
        return int(count)
    return int(result_of(volume, cloud.today).startswith(AGAIN))


def _running(cloud: Cloud, instance_id: str) -> bool:
    instance = describe_machine(cloud, instance_id)
    if state_of(instance) in ENDING:
        reason = instance.get("StateReason", {}).get("Message", "no reason is given")
        said = result_of(need_volume(cloud), cloud.today)
        raise Gone(f"{instance_id} went as it started: {said or reason}. Run the same command again.")
    return state_of(instance) == "running"


def _online(cloud: Cloud, instance_id: str) -> bool:
    filters = [{"Key": "InstanceIds", "Values": [instance_id]}]
    known = cloud.pages("ssm", "describe_instance_information", "InstanceInformationList", Filters=filters)
    return any(k["PingStatus"] == "Online" for k in known) or not _running(cloud, instance_id)


def sent(cloud: Cloud, instance_id: str, comment: str) -> str:
    """The command with this comment that a machine was sent and that has not failed; empty if there is none."""
    commands = cloud.pages("ssm", "list_commands", "Commands", InstanceId=instance_id)
    open_ones = [c for c in commands if c["Comment"] == comment and c["Status"] in ("Pending", "InProgress", "Success")]
    return str(open_ones[0]["CommandId"]) if open_ones else ""


def send(cloud: Cloud, instance_id: str, comment: str, line: str) -> str:
    """Send a machine a command line by Systems Manager; the id of the command."""
    sent = cloud.call(
        "ssm", "send_command", InstanceIds=[instance_id], DocumentName="AWS-RunShellScript", Comment=comment,
        Parameters={"commands": [line], "executionTimeout": [str(cloud.config.max_runtime_s)]}, TimeoutSeconds=600,
    )  # fmt: skip
    return str(sent["Command"]["CommandId"])


def _over(cloud: Cloud, instance_id: str, command: str) -> bool:
    """Whether the command has ended, or its machine is gone."""
    if state_of(describe_machine(cloud, instance_id)) in ("", "stopped", *ENDING):
        return True
    try:
        said = cloud.call("ssm", "get_command_invocation", CommandId=command, InstanceId=instance_id)
    except ClientError as error:
        if code_of(error) == "InvocationDoesNotExist":  # not yet
            return False
        raise
    return said["Status"] in _FINISHED


def _say_by_hand(cloud: Cloud, instance: dict[str, Any]) -> None:
    """A tag of the volume, since a machine is forgotten in an hour, and may say at its end that it was cut off."""
    volume = tags_of(instance).get(VOLUME)
    try:
        if volume:
            cloud.call("ec2", "create_tags", Resources=[volume], Tags=tag_list(ended=str(instance["InstanceId"])))
    except ClientError as error:  # that must not keep it running
        cloud.say(f"{volume} could not be told that {instance['InstanceId']} is ended by hand ({error})")


def _terminate(cloud: Cloud, instance: dict[str, Any], why: str) -> None:
    cloud.say(f"ending {instance['InstanceId']}, started by {driver_of(instance) or 'an unknown hand'}: {why}")
    cloud.call("ec2", "terminate_instances", InstanceIds=[instance["InstanceId"]])


def _free_volume(cloud: Cloud) -> None:
    """EC2 detaches the volume of a machine that is gone; if it does not, it is asked to, and then forced."""
    volume = need_volume(cloud)["VolumeId"]
    for force in (None, False, True):
        if force is not None:
            _refuse_strangers(cloud, need_volume(cloud))
            cloud.say(f"{volume} is still attached: detaching it{' by force' if force else ''}")
            try:
                cloud.call("ec2", "detach_volume", VolumeId=volume, Force=force)
            except ClientError as error:
                if code_of(error) != "IncorrectState":  # it went just now
                    raise
        try:
            cloud.wait(f"{volume} to be free", lambda: need_volume(cloud)["State"] == "available", 300, 10)
            return
        except Away:
            if force:
                raise


def _refuse_strangers(cloud: Cloud, volume: dict[str, Any]) -> None:
    """LaunchError if a machine that runs and is not ours has the volume: taking a mounted disk away harms its files."""
    for attached in volume.get("Attachments", []):
        if state_of(describe_machine(cloud, attached["InstanceId"])) not in ("", "terminated"):
            raise LaunchError(
                f"{volume['VolumeId']} is attached to {attached['InstanceId']}, which is no machine of"
                f" {cloud.config.experiment}. Unmount it there, then: aws ec2 detach-volume --volume-id"
                f" {volume['VolumeId']}"
            )
