"""What lasts: volume, security group, roles, launch template, queue, schedule, budget. Each is found first, made if
missing, fixed if it differs; so a run that was cut off is simply run again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

from launch import policy, userdata
from launch.arns import Arns
from launch.aws import EXPERIMENT, REGION, ROLE, WORKING_VOLUME, Cloud, tag_list, tags_of
from launch.backup import snapshots
from launch.budget import ensure_budget
from launch.config import RESERVATION
from launch.errors import LaunchError
from launch.find import find_volume, found, tagged
from launch.managed import NAMES, ensure_managed
from launch.notice import ensure_notice
from launch.start import machine_tags, market, request

# And the service that takes each; `events` only where a capacity reservation may be taken back.
ROLES = {"machine": "ec2", "scheduler": "scheduler", "budgets": "budgets", "events": "events"}
RETRIES = {"MaximumRetryAttempts": 12, "MaximumEventAgeInSeconds": 6 * 3600}  # of a start that fails
_UNKNOWN_YET = {"InvalidParameterValue", "ValidationException", "NoSuchEntity", "InvalidGroup.NotFound"}


def setup(cloud: Cloud) -> None:
    """Make what is missing, fix what differs. The schedule is made switched off: `schedule on` starts it."""
    _refuse_another_region(cloud)
    _refuse_to_begin_anew(cloud)
    volume = ensure_volume(cloud)
    subnet = _subnet(cloud)
    group = ensure_group(cloud, subnet["VpcId"])
    for managed in NAMES:
        ensure_managed(cloud, managed)
    for role, service in ROLES.items():
        if role != "events" or cloud.config.market == RESERVATION:
            ensure_role(cloud, role, service)
    ensure_profile(cloud)
    commit = cloud.commit()
    data = template_data(cloud, image(cloud), subnet["SubnetId"], group, commit)
    template = ensure_template(cloud, data, commit)
    ensure_queue(cloud)
    ensure_schedule(cloud, template, volume, state=None)
    ensure_notice(cloud)
    ensure_budget(cloud)
    cloud.say(f"{cloud.config.name} is set up: {volume} in {cloud.config.zone}, template {template}.")


def _refuse_another_region(cloud: Cloud) -> None:
    """LaunchError if the experiment lives in another region: the names of roles and budget are those of the account."""
    name, here = f"{cloud.config.name}-machine", cloud.config.region
    role = found(cloud, "iam", "get_role", RoleName=name)
    there = tags_of(role["Role"]).get(REGION) if role else here
    if there is None:  # of before
        cloud.call("iam", "tag_role", RoleName=name, Tags=tag_list(region=here))
    elif there != here:
        raise LaunchError(
            f"experiment: {cloud.config.experiment} is set up in {there} already, and its roles would be changed for"
            f" {here}. Choose another experiment name, or take that one away there: python -m launch teardown"
        )


def _refuse_to_begin_anew(cloud: Cloud) -> None:
    """LaunchError if the volume is missing but was there: an empty one would begin the experiment again at night."""
    if find_volume(cloud) is None:
        aside = [cloud.mine("describe_volumes", "Volumes", role=r) for r in ("restored_volume", "replaced_volume")]
        kept = [str(v["VolumeId"]) for volumes in aside for v in volumes]
        kept += [str(s["SnapshotId"]) for s in snapshots(cloud)]
        if kept:
            raise LaunchError(
                f"{cloud.config.experiment} has no volume, but had one: there is {kept[-1]}. Run `python -m launch"
                " restore`, or give the new experiment another name."
            )


def ensure_volume(cloud: Cloud) -> str:
    """The id of the volume with all state, made encrypted and empty if there is none."""
    config = cloud.config
    volume = find_volume(cloud)
    if volume is None:
        source = {"SnapshotId": _source(cloud)} if config.data_from else {}
        cloud.say(f"making a volume of {config.volume_gb} GB in {config.zone}{', a copy of ' if source else ''}"
                  f"{source.get('SnapshotId', '')}")  # fmt: skip
        made = cloud.call(
            "ec2", "create_volume",
            AvailabilityZone=config.zone, Size=config.volume_gb, VolumeType="gp3", Encrypted=True,
            ClientToken=f"{config.name}-{source.get('SnapshotId', 'volume')}", **source,  # 60 characters at most
            TagSpecifications=[tagged("volume", cloud, role=WORKING_VOLUME)],
        )  # fmt: skip
        return str(made["VolumeId"])
    if not volume["Encrypted"] or volume["AvailabilityZone"] != config.zone:
        raise LaunchError(
            f"{volume['VolumeId']} is in {volume['AvailabilityZone']}, encrypted: {volume['Encrypted']}; it should be"
            f" encrypted and in {config.zone}. Set zone to the volume's, or restore a snapshot of it there."
        )
    return str(volume["VolumeId"])


def _source(cloud: Cloud) -> str:
    """The newest whole daily snapshot of the experiment in `data_from`; a volume made of it may be larger."""
    config = cloud.config
    filters = [
        {"Name": f"tag:{EXPERIMENT}", "Values": [config.data_from]},
        {"Name": f"tag:{ROLE}", "Values": ["daily"]},
    ]
    whole = [s for s in cloud.pages("ec2", "describe_snapshots", "Snapshots", Filters=filters)
             if s["State"] == "completed"]  # fmt: skip
    if not whole:
        raise LaunchError(f"data_from: {config.data_from} has no whole snapshot. Make one with its own settings.")
    newest = max(whole, key=lambda s: str(s["StartTime"]))
    if newest["VolumeSize"] > config.volume_gb:
        raise LaunchError(f"volume_gb: the snapshot of {config.data_from} needs {newest['VolumeSize']}.")
    return str(newest["SnapshotId"])


def ensure_group(cloud: Cloud, vpc: str) -> str:
    """The id of the security group: nothing comes in."""
    groups = cloud.mine("describe_security_groups", "SecurityGroups")
    if not groups:
        made = cloud.call(
            "ec2", "create_security_group", GroupName=cloud.config.name, VpcId=vpc,
            Description="zoobot: nothing comes in; Session Manager goes out",
            TagSpecifications=[tagged("security-group", cloud)],
        )  # fmt: skip
        return str(made["GroupId"])
    group = groups[0]
    if group["IpPermissions"]:
        cloud.say(f"taking {len(group['IpPermissions'])} inbound rules off {group['GroupId']}, which should have none")
        cloud.call(
            "ec2", "revoke_security_group_ingress", GroupId=group["GroupId"], IpPermissions=group["IpPermissions"]
        )
    return str(group["GroupId"])


def ensure_role(cloud: Cloud, name: str, service: str) -> None:
    """A role that ``service`` takes, inside the boundary, with one policy of its own."""
    full = f"{cloud.config.name}-{name}"
    arns = Arns(cloud.config, cloud.account)
    wanted, boundary = policy.DOCUMENTS[name](arns), arns.managed("boundary")
    role = found(cloud, "iam", "get_role", RoleName=full)
    if role is None:
        cloud.settle(
            _UNKNOWN_YET, "iam", "create_role", RoleName=full,
            Tags=tag_list(experiment=cloud.config.experiment, region=cloud.config.region),
            AssumeRolePolicyDocument=json.dumps(policy.trust(service, cloud.account)), PermissionsBoundary=boundary,
        )  # fmt: skip
    elif role["Role"].get("PermissionsBoundary", {}).get("PermissionsBoundaryArn") != boundary:
        cloud.call("iam", "put_role_permissions_boundary", RoleName=full, PermissionsBoundary=boundary)
    there = found(cloud, "iam", "get_role_policy", RoleName=full, PolicyName="zoobot")
    if there is None or there["PolicyDocument"] != wanted:
        cloud.call("iam", "put_role_policy", RoleName=full, PolicyName="zoobot", PolicyDocument=json.dumps(wanted))


def ensure_profile(cloud: Cloud) -> None:
    """The instance profile that carries the machine's role."""
    name = f"{cloud.config.name}-machine"
    profile = found(cloud, "iam", "get_instance_profile", InstanceProfileName=name)
    if profile is None:
        profile = cloud.call("iam", "create_instance_profile", InstanceProfileName=name)
    if not profile["InstanceProfile"]["Roles"]:
        cloud.call("iam", "add_role_to_instance_profile", InstanceProfileName=name, RoleName=name)


def image(cloud: Cloud) -> str:
    """The AMI to start from: an id, the newest that was baked, or what an SSM parameter holds now."""
    ami = cloud.config.ami
    if ami == "baked":
        baked = cloud.mine("describe_images", "Images")
        if not baked:
            raise LaunchError(
                "ami: baked, but no image was baked. Run `python -m launch bake` with another `ami` first."
            )
        return str(max(baked, key=lambda i: str(i["CreationDate"]))["ImageId"])
    if ami.startswith("/"):
        parameter = found(cloud, "ssm", "get_parameter", Name=ami)
        if parameter is None:
            raise LaunchError(f"ami: there is no SSM parameter {ami} in {cloud.config.region}.")
        return str(parameter["Parameter"]["Value"])
    return ami


def template_data(cloud: Cloud, ami: str, subnet: str, group: str, commit: str) -> dict[str, Any]:
    """A machine of the experiment: gone when it shuts down, no key, no way in, IMDSv2 only, encrypted disk."""
    config = cloud.config
    return {
        "ImageId": ami,
        "InstanceType": config.instance_types[0],
        "IamInstanceProfile": {"Name": f"{config.name}-machine"},
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {
            "HttpEndpoint": "enabled",
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 1,
            "InstanceMetadataTags": "enabled",
        },
        "NetworkInterfaces": [
            {"DeviceIndex": 0, "SubnetId": subnet, "Groups": [group], "AssociatePublicIpAddress": True}
        ],
        "BlockDeviceMappings": [
            {
                "DeviceName": "/dev/sda1",
                "Ebs": {
                    "VolumeSize": config.root_gb,
                    "VolumeType": "gp3",
                    "Encrypted": True,
                    "DeleteOnTermination": True,
                },
            }
        ],
        "UserData": userdata.encoded(replace(config, revision=commit)),
        "TagSpecifications": machine_tags(cloud, ["volume", "network-interface"]),
    }


def ensure_template(cloud: Cloud, data: dict[str, Any], commit: str) -> str:
    """The id of the launch template whose default version is ``data``; a version is called by its digest and commit."""
    config = cloud.config
    name = f"{hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()} {commit}"
    templates = cloud.mine("describe_launch_templates", "LaunchTemplates")
    if not templates:
        cloud.say(f"machines run commit {commit} ({config.revision})")
        made = cloud.call(
            "ec2", "create_launch_template", LaunchTemplateName=config.name, VersionDescription=name,
            LaunchTemplateData=data, ClientToken=config.name,
            TagSpecifications=[tagged("launch-template", cloud)],
        )  # fmt: skip
        return str(made["LaunchTemplate"]["LaunchTemplateId"])
    template, default = str(templates[0]["LaunchTemplateId"]), templates[0]["DefaultVersionNumber"]
    versions = cloud.pages(
        "ec2", "describe_launch_template_versions", "LaunchTemplateVersions", LaunchTemplateId=template
    )
    before = [v.get("VersionDescription", "").partition(" ")[2] for v in versions if v["VersionNumber"] == default]
    changed = "" if commit in before else f", before {before[0] if before else 'unknown'}"
    cloud.say(f"machines run commit {commit} ({config.revision}){changed}")
    same = [v for v in versions if v.get("VersionDescription") == name]
    if not same:
        made = cloud.call(
            "ec2", "create_launch_template_version", LaunchTemplateId=template, VersionDescription=name,
            LaunchTemplateData=data, ClientToken=name[:64],
        )  # fmt: skip
        same = [made["LaunchTemplateVersion"]]
    if same[0]["VersionNumber"] != default:
        number = str(same[0]["VersionNumber"])
        cloud.call("ec2", "modify_launch_template", LaunchTemplateId=template, DefaultVersion=number)
    return template


def ensure_queue(cloud: Cloud) -> None:
    """The dead-letter queue: starts that failed for good, kept for two weeks."""
    if found(cloud, "sqs", "get_queue_url", QueueName=cloud.config.name) is None:
        attributes = {"MessageRetentionPeriod": str(14 * 86400), "SqsManagedSseEnabled": "true"}
        cloud.call("sqs", "create_queue", QueueName=cloud.config.name, Attributes=attributes)


def ensure_schedule(cloud: Cloud, template: str, volume: str, state: str | None) -> str:
    """The schedule, with this state (ENABLED, DISABLED), or None for the state that it has; its state is returned."""
    arns = Arns(cloud.config, cloud.account)
    there = found(cloud, "scheduler", "get_schedule", Name=cloud.config.name)
    wanted = {
        "Name": cloud.config.name,
        "ScheduleExpression": cloud.config.schedule,
        "ScheduleExpressionTimezone": cloud.config.timezone,
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "State": state or (there or {}).get("State", "DISABLED"),
        "Target": {
            "Arn": "arn:aws:scheduler:::aws-sdk:ec2:runInstances",
            "RoleArn": arns.role("scheduler"),
            "Input": json.dumps(_request(cloud, template, volume), sort_keys=True),
            "RetryPolicy": RETRIES,
            "DeadLetterConfig": {"Arn": arns.queue},
        },
    }
    operation = "create_schedule" if there is None else "update_schedule"
    if there is None or any(there.get(key) != value for key, value in wanted.items()):
        cloud.settle(_UNKNOWN_YET, "scheduler", operation, **wanted)
    return str(wanted["State"])


def _request(cloud: Cloud, template: str, volume: str) -> dict[str, Any]:
    """RunInstances as the scheduler sends it. A start has a token, so that repeating it makes no second machine."""
    time = "<aws.scheduler.scheduled-time>"
    return {
        "ClientToken": f"{cloud.config.name}-{time}",  # 58 characters at most once the time is in it
        **request(cloud, template, market(cloud.config, 0), driver="schedule", day=time, volume=volume),
    }


def _subnet(cloud: Cloud) -> dict[str, Any]:
    """The default subnet in the volume's zone."""
    filters = [
        {"Name": "availability-zone", "Values": [cloud.config.zone]},
        {"Name": "default-for-az", "Values": ["true"]},
    ]
    subnets = cloud.pages("ec2", "describe_subnets", "Subnets", Filters=filters)
    if not subnets:
        raise LaunchError(
            f"zone: there is no default subnet in {cloud.config.zone}."
            f" Make one: aws ec2 create-default-subnet --availability-zone {cloud.config.zone}"
        )
    return subnets[0]
