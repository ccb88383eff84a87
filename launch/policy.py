"""Who may do what: least privilege, each change limited by ARN or tag.

    machine    what runs on EC2: takes its own volume, says how the day went, reads its secrets
    scheduler  EventBridge Scheduler: starts a machine from the template
    daily      whoever runs up, run, down, day, status, snapshot, logs
    owner      whoever runs all other commands as well

A test compares daily and owner with the calls that the commands make. Source of what can be limited: AWS's Service
Authorization Reference.
"""

from __future__ import annotations

from typing import Any

from launch.aws import DAY, EXPERIMENT, RESULT, ROLE, STARTS
from launch.config import Config

Statement = dict[str, Any]
# Session Manager and Run Command on the machine; AWS lets none of these be limited to a resource, but the first.
_AGENT = (
    "ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel", "ssmmessages:OpenControlChannel",
    "ssmmessages:OpenDataChannel", "ec2messages:AcknowledgeMessage", "ec2messages:DeleteMessage",
    "ec2messages:FailMessage", "ec2messages:GetEndpoint", "ec2messages:GetMessages", "ec2messages:SendReply",
)  # fmt: skip
_DAILY_READS = (
    "ec2:DescribeInstances", "ec2:DescribeVolumes", "ec2:DescribeSnapshots", "ec2:DescribeLaunchTemplates",
    "ssm:DescribeInstanceInformation", "ssm:ListCommands", "ssm:GetCommandInvocation",
)  # fmt: skip
_OWNER_READS = (
    "ec2:DescribeImages", "ec2:DescribeSecurityGroups", "ec2:DescribeSubnets", "ec2:DescribeLaunchTemplateVersions",
    "ec2:DescribeAddresses", "scheduler:ListSchedules", "tag:GetResources",  # audit: all experiments
)  # fmt: skip
_ROLE_CHANGES = (
    "iam:CreateRole", "iam:DeleteRole", "iam:DeleteRolePolicy", "iam:GetRole", "iam:GetRolePolicy",
    "iam:PutRolePolicy", "iam:TagRole",
)  # fmt: skip
_PROFILE_CHANGES = (
    "iam:AddRoleToInstanceProfile", "iam:CreateInstanceProfile", "iam:DeleteInstanceProfile",
    "iam:GetInstanceProfile", "iam:RemoveRoleFromInstanceProfile",
)  # fmt: skip
_TEMPLATE_CHANGES = (
    "ec2:CreateLaunchTemplateVersion", "ec2:DeleteLaunchTemplate", "ec2:ModifyLaunchTemplate",
)  # fmt: skip
_CREATED_AT_LAUNCH = ("instance", "volume", "network-interface", "spot-instances-request")


class Arns:
    """ARNs of an experiment's things in an account."""

    def __init__(self, config: Config, account: str) -> None:
        self.config, self.account = config, account
        self._place = f"{config.region}:{account}"

    def ec2(self, kind: str, name: str = "*") -> str:
        """Of EC2; images and snapshots of others belong to no account of ours."""
        return f"arn:aws:ec2:{self.config.region}:{'' if kind in ('image', 'snapshot') else self.account}:{kind}/{name}"

    def iam(self, kind: str, name: str) -> str:
        """Of IAM."""
        return f"arn:aws:iam::{self.account}:{kind}/{name}"

    def role(self, of: str) -> str:
        """The role of the machine or of the scheduler."""
        return self.iam("role", f"{self.config.name}-{of}")

    @property
    def queue(self) -> str:
        """Where starts that failed for good are kept."""
        return f"arn:aws:sqs:{self._place}:{self.config.name}"

    @property
    def schedule(self) -> str:
        """The schedule."""
        return f"arn:aws:scheduler:{self._place}:schedule/default/{self.config.name}"

    def parameter(self, name: str) -> str:
        """An SSM parameter."""
        return f"arn:aws:ssm:{self._place}:parameter{name}"

    @property
    def logs(self) -> tuple[str, str]:
        """The bucket, and the objects below the prefix, of the logs."""
        bucket, _, prefix = self.config.logs.removeprefix("s3://").partition("/")
        return f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{'/'.join(filter(None, (bucket, prefix.strip('/'), '*')))}"


def document(*statements: Statement) -> dict[str, Any]:
    """A policy."""
    return {"Version": "2012-10-17", "Statement": list(statements)}


def allow(actions: list[str] | tuple[str, ...], resources: list[str] | str = "*", **conditions: Any) -> Statement:
    """One statement; conditions as ``StringEquals={key: value}``."""
    resource_list = [resources] if isinstance(resources, str) else resources
    statement: Statement = {"Effect": "Allow", "Action": sorted(actions), "Resource": resource_list}
    return statement | ({"Condition": conditions} if conditions else {})


def trust(service: str, account: str) -> dict[str, Any]:
    """Who may take a role: a service of AWS, and for EventBridge only on behalf of this account."""
    statement: Statement = {
        "Effect": "Allow",
        "Action": "sts:AssumeRole",
        "Principal": {"Service": f"{service}.amazonaws.com"},
    }
    if service == "scheduler":
        statement["Condition"] = {"StringEquals": {"aws:SourceAccount": account}}
    return document(statement)


def machine(arns: Arns) -> dict[str, Any]:
    """What the machine may do."""
    config, tagged = arns.config, _tagged(arns.config)
    statements = [
        allow(
            ["ec2:AttachVolume", "ec2:DetachVolume"], [arns.ec2("volume"), arns.ec2("instance")], StringEquals=tagged
        ),
        allow(["ec2:CreateTags"], arns.ec2("volume"), StringEquals=tagged, **_only_tags(DAY, RESULT)),
        allow(["ec2:TerminateInstances"], arns.ec2("instance"), StringEquals=tagged),  # one that hangs with the volume
        allow(["ec2:DescribeVolumes", "ec2:DescribeInstances"]),
        *_snapshots(arns),
        allow(["ssm:UpdateInstanceInformation"], arns.ec2("instance")),
        allow(_AGENT),
    ]
    reference = "/aws/reference/secretsmanager/"
    parameters = sorted({*config.secrets.values()})
    if parameters:
        statements.append(allow(["ssm:GetParameter"], [arns.parameter(name) for name in parameters]))
    managed = [name.removeprefix(reference) for name in parameters if name.startswith(reference)]
    if managed:
        place = f"arn:aws:secretsmanager:{config.region}:{arns.account}:secret:"
        statements.append(allow(["secretsmanager:GetSecretValue"], [f"{place}{name}-*" for name in managed]))
    if config.logs:
        statements.append(allow(["s3:PutObject"], arns.logs[1]))
    return document(*statements)


def scheduler(arns: Arns) -> dict[str, Any]:
    """What the schedule may do: start a machine from our template, and keep what failed."""
    return document(*_launching(arns), allow(["sqs:SendMessage"], arns.queue))


def daily(arns: Arns) -> dict[str, Any]:
    """What up, run, down, day, status, snapshot and logs do."""
    tagged = _tagged(arns.config)
    to_ours = {f"ssm:resourceTag/{EXPERIMENT}": arns.config.experiment}
    statements = [
        *_launching(arns),
        allow(["ec2:TerminateInstances"], arns.ec2("instance"), StringEquals=tagged),
        allow(["ec2:DetachVolume"], [arns.ec2("volume"), arns.ec2("instance")], StringEquals=tagged),
        allow(["ec2:CreateTags"], arns.ec2("volume"), StringEquals=tagged, **_only_tags(STARTS)),
        allow(["ssm:SendCommand"], f"arn:aws:ssm:{arns.config.region}::document/AWS-RunShellScript"),
        allow(["ssm:SendCommand"], arns.ec2("instance"), StringEquals=to_ours),
        *_snapshots(arns),
        allow(["ec2:DeleteSnapshot"], arns.ec2("snapshot"), StringEquals=tagged),
        allow(_DAILY_READS),
        allow(["scheduler:GetSchedule"], arns.schedule),
        allow(["sqs:GetQueueAttributes", "sqs:GetQueueUrl"], arns.queue),
    ]
    if arns.config.logs:
        statements += [allow(["s3:ListBucket"], arns.logs[0]), allow(["s3:GetObject"], arns.logs[1])]
    return document(*statements)


def owner(arns: Arns) -> dict[str, Any]:
    """What plan, setup, schedule, restore, bake, audit and teardown do besides."""
    tagged, requested = _tagged(arns.config), _requested(arns.config)
    group, template, volume = (arns.ec2(kind) for kind in ("security-group", "launch-template", "volume"))
    made_by = ["CreateVolume", "CreateSecurityGroup", "CreateLaunchTemplate", "CreateImage"]
    to_scheduler = {"iam:PassedToService": "scheduler.amazonaws.com"}
    profile = arns.iam("instance-profile", f"{arns.config.name}-machine")
    return document(
        allow(_ROLE_CHANGES, [arns.role("machine"), arns.role("scheduler")]),
        allow(_PROFILE_CHANGES, profile),
        allow(["iam:PassRole"], arns.role("scheduler"), StringEquals=to_scheduler),
        allow(["ec2:CreateVolume"], volume, StringEquals=requested, Bool={"ec2:Encrypted": "true"}),
        allow(["ec2:CreateVolume"], arns.ec2("snapshot"), StringEquals=tagged),
        allow(["ec2:DeleteVolume"], volume, StringEquals={**tagged, f"aws:ResourceTag/{ROLE}": "drill_volume"}),
        allow(["ec2:CreateSecurityGroup"], group, StringEquals=requested),
        allow(["ec2:CreateSecurityGroup"], arns.ec2("vpc")),
        allow(["ec2:DeleteSecurityGroup", "ec2:RevokeSecurityGroupIngress"], group, StringEquals=tagged),
        allow(["ec2:CreateLaunchTemplate"], template, StringEquals=requested),
        allow(_TEMPLATE_CHANGES, template, StringEquals=tagged),
        allow(["ec2:CreateImage"], arns.ec2("instance"), StringEquals=tagged),
        allow(["ec2:CreateImage"], [arns.ec2("image"), arns.ec2("snapshot")], StringEquals=requested),
        allow(["ec2:DeregisterImage"], arns.ec2("image"), StringEquals=tagged),
        allow(["ec2:CreateTags"], arns.ec2("*"), StringEquals={"ec2:CreateAction": made_by}),
        allow(["ec2:CreateTags"], volume, StringEquals=tagged, **_only_tags(ROLE)),
        allow(_OWNER_READS),
        allow(["scheduler:CreateSchedule", "scheduler:UpdateSchedule", "scheduler:DeleteSchedule"], arns.schedule),
        allow(["sqs:CreateQueue", "sqs:DeleteQueue"], arns.queue),
        allow(["ssm:GetParameter"], f"arn:aws:ssm:{arns.config.region}::parameter/aws/service/*"),
    )


def _launching(arns: Arns) -> list[Statement]:
    """Start machines from our template, for our experiment, and give them the machine's role."""
    config, requested = arns.config, _requested(arns.config)
    from_template = {"ArnLike": {"ec2:LaunchTemplate": arns.ec2("launch-template")}}
    tagged = {"StringEquals": _tagged(config)}
    return [
        allow(["ec2:RunInstances"], arns.ec2("instance"), StringEquals=requested, **from_template),
        allow(["ec2:RunInstances"], [arns.ec2("launch-template"), arns.ec2("security-group")], **tagged),
        allow(
            ["ec2:RunInstances"],
            [arns.ec2(kind) for kind in ("volume", "network-interface", "subnet", "image", "spot-instances-request")],
            **from_template,
        ),
        allow(
            ["ec2:CreateTags"], [arns.ec2(kind) for kind in _CREATED_AT_LAUNCH],
            StringEquals={"ec2:CreateAction": "RunInstances"},
        ),
        allow(["iam:PassRole"], arns.role("machine"), StringEquals={"iam:PassedToService": "ec2.amazonaws.com"}),
    ]  # fmt: skip


def _snapshots(arns: Arns) -> list[Statement]:
    """Make snapshots of our volume, tagged as ours."""
    return [
        allow(["ec2:CreateSnapshot"], arns.ec2("volume"), StringEquals=_tagged(arns.config)),
        allow(["ec2:CreateSnapshot"], arns.ec2("snapshot"), StringEquals=_requested(arns.config)),
        allow(["ec2:CreateTags"], arns.ec2("snapshot"), StringEquals={"ec2:CreateAction": "CreateSnapshot"}),
    ]


def _only_tags(*keys: str) -> dict[str, Any]:
    return {"ForAllValues:StringEquals": {"aws:TagKeys": list(keys)}}


def _tagged(config: Config) -> dict[str, str]:
    return {f"aws:ResourceTag/{EXPERIMENT}": config.experiment}


def _requested(config: Config) -> dict[str, str]:
    return {f"aws:RequestTag/{EXPERIMENT}": config.experiment}
