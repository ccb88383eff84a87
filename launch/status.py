"""What is there, what it costs, how the last days went; and the sweep, which ends machines past their time."""

from __future__ import annotations

import sys

from launch import budget, cost, job, policy
from launch.arns import Arns
from launch.aws import DAY, RESULT, STARTS, Cloud, split_address, tags_of
from launch.backup import prune, snapshots
from launch.day import sweep
from launch.errors import LaunchError
from launch.find import driver_of, find_volume, found, machines, state_of
from launch.plan import ACCOUNT, account_of


def status(cloud: Cloud) -> None:
    """Print all of it. Old snapshots go, since a scheduled machine makes them but may not delete any."""
    orphans = sweep(cloud)
    volume = find_volume(cloud)
    if volume is None:
        cloud.say(f"{cloud.config.experiment} has no volume: it was not set up. Run `python -m launch setup`.")
        return
    tags = tags_of(volume)
    cloud.say(f"volume    {volume['VolumeId']}, {volume['Size']} GB in {volume['AvailabilityZone']}, {volume['State']}")
    cloud.say(f"last day  {tags.get(DAY, '-')}: {tags.get(RESULT, 'no machine said anything yet')}")
    cloud.say(f"starts    {tags.get(STARTS, 'none')} (at most {cloud.config.attempts} a day)")
    for instance in machines(cloud):
        hours = (cloud.now() - instance["LaunchTime"]).total_seconds() / 3600
        spent = hours * cost.hourly(instance["InstanceType"], cloud.config.market)
        cloud.say(
            f"machine   {instance['InstanceId']}, {instance['InstanceType']}, {state_of(instance)},"
            f" by {driver_of(instance)}, {hours:.1f} h, about ${spent:.2f}"
        )
    cloud.say(f"ended     {', '.join(orphans) or 'none'} past max_runtime")
    for line in job.report(cloud, volume, any(driver_of(i) == job.DRIVER for i in machines(cloud))):
        cloud.say(line)
    _schedule(cloud)
    cloud.say(f"budget    {budget.describe(cloud)}")
    pruned = prune(cloud)
    kept = snapshots(cloud)
    newest = f", the newest of {tags_of(kept[-1]).get(DAY)}" if kept else ""
    cloud.say(f"snapshots {len(kept)}{newest}; {len(pruned)} old ones deleted")


def _schedule(cloud: Cloud) -> None:
    there = found(cloud, "scheduler", "get_schedule", Name=cloud.config.name)
    text = f"{there['ScheduleExpression']} {there['ScheduleExpressionTimezone']}, {there['State']}" if there else "none"
    cloud.say(f"schedule  {text}")
    queue = found(cloud, "sqs", "get_queue_url", QueueName=cloud.config.name)
    if queue:
        names = ["ApproximateNumberOfMessages"]
        counted = cloud.call("sqs", "get_queue_attributes", QueueUrl=queue["QueueUrl"], AttributeNames=names)
        count = counted["Attributes"]["ApproximateNumberOfMessages"]
        cloud.say(f"failed    {count} starts by the schedule in two weeks (queue {cloud.config.name} holds the errors)")


def logs(cloud: Cloud, day: str) -> None:
    """Print the logs of a day, from S3."""
    if not cloud.config.logs:
        raise LaunchError(
            "logs: is empty, so logs stay on the volume, in root/logs/DAY; `up` and Session Manager show them."
        )
    bucket, prefix = split_address(cloud.config.logs)
    start = "/".join((*filter(None, (prefix, cloud.config.experiment, day)), ""))
    objects = cloud.pages("s3", "list_objects_v2", "Contents", Bucket=bucket, Prefix=start)
    if not objects:
        raise LaunchError(f"There are no logs at s3://{bucket}/{start}.", 1)
    for item in objects:
        cloud.say(f"--- {item['Key']}")
        body = cloud.call("s3", "get_object", Bucket=bucket, Key=item["Key"])["Body"]
        cloud.say(body.read().decode("utf-8", "replace").rstrip())


def policies(cloud: Cloud, name: str) -> dict[str, object]:
    """One of policy.DOCUMENTS; without credentials, with ACCOUNT for the account's number."""
    account = account_of(cloud)
    if account == ACCOUNT:
        print("There are no AWS credentials: put the account's number for ACCOUNT.", file=sys.stderr)
    return dict(policy.DOCUMENTS[name](Arns(cloud.config, account)))
