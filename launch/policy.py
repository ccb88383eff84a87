"""Who may do what: least privilege, each change limited by ARN or tag.

    machine        what runs on EC2: takes its own volume, says how the day went, reads its secrets
    scheduler      EventBridge Scheduler: starts a machine from the template
    budgets        AWS Budgets: forbids the scheduler to start machines once the month's budget is spent
    events         EventBridge: tells a machine that its capacity reservation is taken back
    daily          whoever runs up, run, down, day, simulate, bench, status, snapshot, logs
    owner          whoever runs all other commands as well
    administrator  whoever runs `setup` first: makes the two managed policies, which the owner may not change
      boundary     the most that a role of ours may do, whatever its owner writes into it
      stop         what budgets attaches

A test compares daily and owner with the calls that the commands make, and a simulator refuses one call for each
condition. Source of what can be limited: AWS's Service Authorization Reference.
"""

from __future__ import annotations

from typing import Any

from launch.arns import Arns, Statement, allow, document
from launch.aws import (
    DAY,
    ENDED,
    EXPERIMENT,
    JOB,
    JOB_RESULT,
    MONTH,
    PROGRESS,
    RESULT,
    ROLE,
    STARTS,
    split_address,
)  # fmt: skip
from launch.config import RESERVATION, Config

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
_ROLE_CHANGES = ("iam:DeleteRole", "iam:DeleteRolePolicy", "iam:GetRole", "iam:GetRolePolicy", "iam:TagRole")
_GIVES_RIGHTS = ("iam:CreateRole", "iam:PutRolePermissionsBoundary", "iam:PutRolePolicy")  # only inside the boundary
_PROFILE_CHANGES = (
    "iam:AddRoleToInstanceProfile", "iam:CreateInstanceProfile", "iam:DeleteInstanceProfile",
    "iam:GetInstanceProfile", "iam:RemoveRoleFromInstanceProfile",
)  # fmt: skip
_TEMPLATE_CHANGES = (
    "ec2:CreateLaunchTemplateVersion", "ec2:DeleteLaunchTemplate", "ec2:ModifyLaunchTemplate",
)  # fmt: skip
_MANAGED_CHANGES = (
    "iam:CreatePolicy", "iam:CreatePolicyVersion", "iam:DeletePolicy", "iam:DeletePolicyVersion",
    "iam:ListPolicyVersions", "iam:TagPolicy",
)  # fmt: skip
_BUDGET_CHANGES = (
    "budgets:CreateBudgetAction", "budgets:DeleteBudgetAction", "budgets:ExecuteBudgetAction", "budgets:ModifyBudget",
    "budgets:UpdateBudgetAction",
)  # fmt: skip
_RULE_CHANGES = (
    "events:DeleteRule", "events:DescribeRule", "events:ListTargetsByRule", "events:PutRule", "events:PutTargets",
    "events:RemoveTargets",
)  # fmt: skip
_BUDGET_READS = ("budgets:DescribeBudgetActionsForBudget", "budgets:ViewBudget")
_CREATED_AT_LAUNCH = ("instance", "volume", "network-interface", "spot-instances-request")
MANAGED_MAX = 6144  # characters of a managed policy without blanks, by IAM's quotas


def trust(service: str, account: str) -> dict[str, Any]:
    """Who may take a role: a service of AWS, and for all but EC2 only on behalf of this account."""
    statement: Statement = {
        "Effect": "Allow",
        "Action": "sts:AssumeRole",
        "Principal": {"Service": f"{service}.amazonaws.com"},
    }
    if service != "ec2":
        statement["Condition"] = {"StringEquals": {"aws:SourceAccount": account}}
    return document(statement)


def machine(arns: Arns) -> dict[str, Any]:
    """What the machine may do."""
    config, tagged = arns.config, _tagged(arns.config)
    statements = [
        allow(
            ["ec2:AttachVolume", "ec2:DetachVolume"], [arns.ec2("volume"), arns.ec2("instance")], StringEquals=tagged
        ),
        allow(
            ["ec2:CreateTags"], arns.ec2("volume"), StringEquals=tagged, **_only_tags(DAY, RESULT, JOB_RESULT, PROGRESS)
        ),
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
    written = [arns.s3(address)[1] for address in (config.logs, config.results) if address]
    if written:
        statements.append(allow(["s3:PutObject"], written))
    if config.staging:
        statements += _reading(arns, config.staging)
    return document(*statements)


def scheduler(arns: Arns) -> dict[str, Any]:
    """What the schedule may do: start a machine from our template, and keep what failed."""
    return document(*_launching(arns), allow(["sqs:SendMessage"], arns.queue))


def budgets(arns: Arns) -> dict[str, Any]:
    """What AWS Budgets may do: attach `stop` to the scheduler's role, and take it off again."""
    stopping = {"ArnEquals": {"iam:PolicyARN": arns.managed("stop")}}
    return document(allow(["iam:AttachRolePolicy", "iam:DetachRolePolicy"], arns.role("scheduler"), **stopping))


def events(arns: Arns) -> dict[str, Any]:
    """What EventBridge may do: run a command on the machine."""
    return document(*_commands(arns))


def stop(arns: Arns) -> dict[str, Any]:
    """No new machine of the experiment."""
    started = allow(["ec2:RunInstances"], arns.ec2("instance"), StringEquals=_requested(arns.config))
    return document({**started, "Effect": "Deny"})


def boundary(arns: Arns) -> dict[str, Any]:
    """The most that any role of ours may do: what all of them do together."""
    statements: list[Statement] = []
    for of_role in (machine, scheduler, budgets, *([events] if arns.config.market == RESERVATION else [])):
        statements += [s for s in of_role(arns)["Statement"] if s not in statements]
    return document(*statements)


def administrator(arns: Arns) -> dict[str, Any]:
    """What `setup` and `teardown` do besides, where nobody made the two managed policies by hand."""
    return document(allow(_MANAGED_CHANGES, [arns.managed("boundary"), arns.managed("stop")]))


def daily(arns: Arns) -> dict[str, Any]:
    """What up, run, down, day, simulate, bench, status, snapshot and logs do."""
    tagged = _tagged(arns.config)
    statements = [
        *_launching(arns),
        allow(["ec2:TerminateInstances"], arns.ec2("instance"), StringEquals=tagged),
        allow(["ec2:DetachVolume"], [arns.ec2("volume"), arns.ec2("instance")], StringEquals=tagged),
        allow(["ec2:CreateTags"], arns.ec2("volume"), StringEquals=tagged, **_only_tags(STARTS, JOB, MONTH, ENDED)),
        *_commands(arns),
        *_snapshots(arns),
        allow(["ec2:DeleteSnapshot"], arns.ec2("snapshot"), StringEquals=tagged),
        allow(_DAILY_READS),
        allow(["scheduler:GetSchedule"], arns.schedule),
        allow(_BUDGET_READS, [arns.budget, f"{arns.budget}/action/*"]),
        allow(["sqs:GetQueueAttributes", "sqs:GetQueueUrl"], arns.queue),
    ]
    if arns.config.logs:
        statements += _reading(arns, arns.config.logs)
    return document(*statements)


def owner(arns: Arns) -> dict[str, Any]:
    """What plan, setup, prepare, schedule, restore, bake, audit and teardown do besides."""
    tagged, requested = _tagged(arns.config), _requested(arns.config)
    group, template, volume = (arns.ec2(kind) for kind in ("security-group", "launch-template", "volume"))
    made_by = ["CreateVolume", "CreateSecurityGroup", "CreateLaunchTemplate", "CreateImage"]
    roles = [arns.role(of) for of in ("machine", "scheduler", "budgets", "events")]
    managed = [arns.managed("boundary"), arns.managed("stop")]
    staging = _reading(arns, arns.config.staging) if arns.config.staging else []
    if arns.config.upload:
        staging.append(allow(["s3:PutObject"], arns.s3(arns.config.staging)[1]))
    return document(
        *staging,
        allow(_ROLE_CHANGES, roles),
        allow(_GIVES_RIGHTS, roles, StringEquals={"iam:PermissionsBoundary": arns.managed("boundary")}),
        allow(["iam:DetachRolePolicy"], arns.role("scheduler"), ArnEquals={"iam:PolicyARN": arns.managed("stop")}),
        allow(["iam:GetPolicy", "iam:GetPolicyVersion"], managed),
        allow(_PROFILE_CHANGES, arns.profile),
        _pass(arns, "scheduler", "scheduler"),
        _pass(arns, "budgets", "budgets"),
        _pass(arns, "events", "events"),
        allow(_RULE_CHANGES, arns.rule),
        allow(_BUDGET_CHANGES, [arns.budget, f"{arns.budget}/action/*"]),
        allow(["ec2:CreateVolume"], volume, StringEquals=requested, Bool={"ec2:Encrypted": "true"}),
        allow(["ec2:CreateVolume"], arns.ec2("snapshot"), StringEquals=_readable(arns.config)),
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
    """Start machines from our template, for our experiment, and give them the machine's role.

    A request may override what the template says. `ec2:IsLaunchTemplateResource` keeps it from naming another of the
    things that exist already: image, subnet, group; conditions on the machine keep it to our types, market, role and
    IMDSv2; the disk may not be larger. A key pair is no resource of ours, so none can be given. What stays open: other
    user data, and what a shutdown does, for which EC2 has no condition. Both are worth no more than what the policy
    grants anyway: `daily` may run any command on the machine, with the same role.
    """
    config, requested = arns.config, _requested(arns.config)
    markets = sorted({"on-demand", config.market})
    ours = {"ArnLike": {"ec2:LaunchTemplate": arns.ec2("launch-template")}}
    unchanged = {"Bool": {"ec2:IsLaunchTemplateResource": "true"}}
    tagged = {"StringEquals": _tagged(config)}
    reservation = f"arn:aws:ec2:{config.region}:*:capacity-reservation/{config.capacity_reservation}"  # perhaps shared
    request = arns.ec2("spot-instances-request")
    as_set = {"ec2:InstanceType": sorted(config.instance_types), "ec2:InstanceMarketType": markets}
    return [
        allow(
            ["ec2:RunInstances"], arns.ec2("instance"), **ours, ArnEquals={"ec2:InstanceProfile": arns.profile},
            StringEquals={**requested, **as_set, "ec2:MetadataHttpTokens": "required"},
        ),
        allow(["ec2:RunInstances"], arns.ec2("launch-template"), **tagged),
        allow(["ec2:RunInstances"], arns.ec2("security-group"), **tagged, **unchanged),
        allow(["ec2:RunInstances"], [arns.ec2(kind) for kind in ("image", "network-interface", "subnet")], **unchanged),
        allow(
            ["ec2:RunInstances"], arns.ec2("volume"), **unchanged,
            NumericLessThanEqualsIfExists={"ec2:VolumeSize": str(config.root_gb)},
            StringEqualsIfExists={"ec2:VolumeType": "gp3"},
        ),
        *([allow(["ec2:RunInstances"], request, StringEquals=requested)] if "spot" in markets else []),
        *([allow(["ec2:RunInstances"], reservation)] if RESERVATION in markets else []),
        allow(
            ["ec2:CreateTags"], [arns.ec2(kind) for kind in _CREATED_AT_LAUNCH],
            StringEquals={"ec2:CreateAction": "RunInstances"},
        ),
        _pass(arns, "machine", "ec2"),
    ]  # fmt: skip


def _reading(arns: Arns, address: str) -> list[Statement]:
    """Read what is below an address in S3."""
    bucket, objects = arns.s3(address)
    below = {"s3:prefix": f"{split_address(address)[1]}*"}
    return [allow(["s3:ListBucket"], bucket, StringLike=below), allow(["s3:GetObject"], objects)]


def _pass(arns: Arns, role: str, service: str) -> Statement:
    """Give a role of ours to the service it is for, and to no other."""
    return allow(["iam:PassRole"], arns.role(role), StringEquals={"iam:PassedToService": f"{service}.amazonaws.com"})


def _snapshots(arns: Arns) -> list[Statement]:
    """Make snapshots of our volume, tagged as ours."""
    return [
        allow(["ec2:CreateSnapshot"], arns.ec2("volume"), StringEquals=_tagged(arns.config)),
        allow(["ec2:CreateSnapshot"], arns.ec2("snapshot"), StringEquals=_requested(arns.config)),
        allow(["ec2:CreateTags"], arns.ec2("snapshot"), StringEquals={"ec2:CreateAction": "CreateSnapshot"}),
    ]


def _commands(arns: Arns) -> list[Statement]:
    """Run commands on machines of the experiment."""
    to_ours = {f"ssm:resourceTag/{EXPERIMENT}": arns.config.experiment}
    return [
        allow(["ssm:SendCommand"], arns.document),
        allow(["ssm:SendCommand"], arns.ec2("instance"), StringEquals=to_ours),
    ]


def _only_tags(*keys: str) -> dict[str, Any]:
    return {"ForAllValues:StringEquals": {"aws:TagKeys": list(keys)}}


def _readable(config: Config) -> dict[str, list[str]]:
    """Of this experiment, or of the one whose data it starts from."""
    return {f"aws:ResourceTag/{EXPERIMENT}": [name for name in (config.experiment, config.data_from) if name]}


def _tagged(config: Config) -> dict[str, str]:
    return {f"aws:ResourceTag/{EXPERIMENT}": config.experiment}


def _requested(config: Config) -> dict[str, str]:
    return {f"aws:RequestTag/{EXPERIMENT}": config.experiment}


DOCUMENTS = {
    "machine": machine, "scheduler": scheduler, "budgets": budgets, "events": events, "daily": daily, "owner": owner,
    "administrator": administrator, "boundary": boundary, "stop": stop,
}  # fmt: skip
