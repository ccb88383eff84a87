"""Calls that the policies of launch/policy.py let through, each beside almost the same calls that they refuse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from launch.arns import Arns
from launch.aws import Cloud
from launch.config import Config
from launch.setup import template_data
from launch.start import request
from tests.policies import ACCOUNT, PLACE, REGION, Ask, run_instances

OURS, THEIRS = {"zoobot:experiment": "decals_live"}, {"zoobot:experiment": "other"}
TAGS = {"lt-ours": OURS, "sg-ours": OURS, "lt-theirs": THEIRS, "sg-theirs": THEIRS}
LAMBDA, ADMINISTRATOR = "lambda.amazonaws.com", "arn:aws:iam::aws:policy/AdministratorAccess"
_SHORT = {"RequestTag": "aws:RequestTag/zoobot:experiment", "ResourceTag": "aws:ResourceTag/zoobot:experiment"}


@dataclass(frozen=True)
class Case:
    """A call that the policy ``who`` lets through, and others that it refuses, by what they are."""

    who: str
    good: list[Ask]
    bad: dict[str, list[Ask]]


def cases(config: Config) -> list[Case]:
    """All of them."""
    return [
        *launches(config, "scheduler"), *launches(config, "daily"), *snapshots("machine"), *snapshots("daily"),
        *on("machine", AttachVolume=("volume", "instance"), TerminateInstances=("instance",)),
        *on("daily", TerminateInstances=("instance",), DetachVolume=("volume", "instance")),
        *on("daily", DeleteSnapshot=("snapshot",)), *made("owner", CreateSecurityGroup="security-group"),
        *on("owner", DeleteSecurityGroup=("security-group",), CreateLaunchTemplateVersion=("launch-template",),
            CreateImage=("instance",), DeregisterImage=("image",), CreateVolume=("snapshot",)),
        *made("owner", CreateLaunchTemplate="launch-template", CreateImage="image"),
        tags_on_the_volume("machine", "zoobot:day", "zoobot:result"), tags_on_the_volume("daily", "zoobot:starts"),
        tags_on_the_volume("owner", "zoobot:role"), *volumes(), *commands(), *roles(config),
    ]  # fmt: skip


def launches(config: Config, who: str) -> list[Case]:
    """RunInstances, as start.py sends it, and with what it may not have."""
    cloud = Cloud(config)
    whole = template_data(cloud, "ami-ours", "subnet-ours", "sg-ours", "c" * 40)

    def asks(market: str = "on-demand", template: dict[str, Any] = whole, **more: Any) -> list[Ask]:
        asked = {"InstanceType": "g4dn.xlarge", **request(cloud, "lt-ours", market, driver="operator", volume="vol-1")}
        return run_instances({**asked, **more}, template, lambda name: TAGS.get(name, {}))

    def network(**other: Any) -> dict[str, Any]:
        return {"NetworkInterfaces": [{**whole["NetworkInterfaces"][0], **other}]}

    def disk(**other: Any) -> dict[str, Any]:
        (root,) = whole["BlockDeviceMappings"]
        return {"BlockDeviceMappings": [{**root, "Ebs": {**root["Ebs"], **other}}]}

    bad = {
        "another type": asks(InstanceType="p4d.24xlarge"),
        "another role": asks(IamInstanceProfile={"Name": "administrators"}),
        "IMDSv1": asks(MetadataOptions={"HttpTokens": "optional"}),
        "without a template": asks(**{**whole, "TagSpecifications": []}, LaunchTemplate={}),
        "another's template": asks(LaunchTemplate={"LaunchTemplateId": "lt-theirs"}),
        "another image": asks(ImageId="ami-theirs"),
        "another subnet": asks(**network(SubnetId="subnet-theirs")),
        "another group": asks(**network(Groups=["sg-theirs"])),
        "a key pair": asks(KeyName="mine"),
        "a larger disk": asks(**disk(VolumeSize=16000)),
        "a dearer disk": asks(**disk(VolumeType="io2")),
        "without the experiment's tag": asks(TagSpecifications=[]),
        "a template with another's group": asks(template={**whole, **network(Groups=["sg-theirs"])}),
        "a template with a larger disk": asks(template={**whole, **disk(VolumeSize=16000)}),
        "a template with a dearer disk": asks(template={**whole, **disk(VolumeType="io2")}),
    }
    if config.market != "spot":
        bad["on the spot market"] = asks("spot")
    if config.capacity_reservation:
        other = {"CapacityReservationTarget": {"CapacityReservationId": "cr-0theirs"}}
        bad["another reservation"] = asks(config.market, CapacityReservationSpecification=other)
    good = asks(config.market)
    tagging, passing = ([a for a in good if a.action == call] for call in ("ec2:CreateTags", "iam:PassRole"))
    return [
        Case(who, good, {f"RunInstances, {what}": asked for what, asked in bad.items()}),
        Case(who, tagging, {"CreateTags on machines that run": changed(tagging, ec2__CreateAction=None)}),
        Case(who, passing, {"PassRole (machine) to Lambda": changed(passing, iam__PassedToService=LAMBDA)}),
        *alone(who, good),
    ]


def alone(who: str, good: list[Ask]) -> Iterator[Case]:
    """A machine that is not from a template but is so in all else, and a spot request for another experiment."""
    for ask in good:
        if ask.resource.endswith(":instance/*") and ask.action == "ec2:RunInstances":
            yield Case(
                who,
                [ask],
                {"RunInstances, only the machine without a template": changed([ask], ec2__LaunchTemplate=None)},
            )
        if ask.resource.endswith(":spot-instances-request/*") and ask.action == "ec2:RunInstances":
            yield Case(who, [ask], {"RunInstances, a spot request of another": changed([ask], RequestTag="other")})


def snapshots(who: str) -> Iterator[Case]:
    take, new = of_ours("CreateSnapshot", "volume"), making("CreateSnapshot", "snapshot")
    tag = [Ask("ec2:CreateTags", f"{place('snapshot')}:snapshot/*", {"ec2:CreateAction": "CreateSnapshot"})]
    yield Case(who, take, named("CreateSnapshot of a volume", elsewhere(take)))
    yield Case(who, new, named("CreateSnapshot", untagged(new)))
    yield Case(who, tag, {"CreateTags on a snapshot that exists": changed(tag, ec2__CreateAction=None)})


def volumes() -> Iterator[Case]:
    drill = also(of_ours("DeleteVolume", "volume"), {"aws:ResourceTag/zoobot:role": "drill_volume"})
    working = also(drill, {"aws:ResourceTag/zoobot:role": "working_volume"})
    yield Case("owner", drill, {"DeleteVolume of the working volume": working})
    yield Case("owner", drill, named("DeleteVolume of a drill", elsewhere(drill)))
    new = making("CreateVolume", "volume", ec2__Encrypted="true")
    yield Case("owner", new, {"CreateVolume unencrypted": changed(new, ec2__Encrypted="false")})
    yield Case("owner", new, named("CreateVolume", untagged(new)))
    tag = [Ask("ec2:CreateTags", f"{PLACE}:volume/*", {"ec2:CreateAction": "CreateVolume"})]
    yield Case("owner", tag, {"CreateTags on what exists": changed(tag, ec2__CreateAction=None)})


def commands() -> Iterator[Case]:
    key = "ssm:resourceTag/zoobot:experiment"
    send = [Ask("ssm:SendCommand", f"{PLACE}:instance/i-1", {key: "decals_live"})]
    for who in ("daily", "events"):
        yield Case(who, send, {"SendCommand to another machine": [replace(send[0], context={})]})


def roles(config: Config) -> Iterator[Case]:
    arns = Arns(config, ACCOUNT)
    boundary, stop = arns.managed("boundary"), arns.managed("stop")
    for action in ("CreateRole", "PutRolePolicy", "PutRolePermissionsBoundary"):
        for role in ("machine", "scheduler", "budgets", "events"):
            yield iam("owner", action, role, "iam:PermissionsBoundary", boundary, None, ADMINISTRATOR)
    for role in ("scheduler", "budgets", "events"):
        yield iam("owner", "PassRole", role, "iam:PassedToService", f"{role}.amazonaws.com", LAMBDA)
    yield iam("owner", "DetachRolePolicy", "scheduler", "iam:PolicyARN", stop, ADMINISTRATOR)
    yield iam("budgets", "AttachRolePolicy", "scheduler", "iam:PolicyARN", stop, ADMINISTRATOR)


# ------------------------------------------------------------------------------------------------- calls and changes


def on(who: str, **actions: tuple[str, ...]) -> Iterator[Case]:
    """Actions of EC2 on things with the experiment's tag."""
    for action, kinds in actions.items():
        good = of_ours(action, *kinds)
        yield Case(who, good, named(f"{action}, a {kinds[0]}", elsewhere(good)))


def made(who: str, **actions: str) -> Iterator[Case]:
    """Actions of EC2 that make something, with the experiment's tag."""
    for action, kind in actions.items():
        good = making(action, kind)
        yield Case(who, good, named(f"{action}, a {kind}", untagged(good)))


def tags_on_the_volume(who: str, *keys: str) -> Case:
    good = also(of_ours("CreateTags", "volume"), {"aws:TagKeys": list(keys)})
    other = {"CreateTags zoobot:experiment on the volume": changed(good, aws__TagKeys=["zoobot:experiment"])}
    return Case(who, good, {**other, **named("CreateTags on a volume", elsewhere(good))})


def iam(who: str, action: str, role: str, key: str, value: str, *others: str | None) -> Case:
    good = [Ask(f"iam:{action}", f"arn:aws:iam::{ACCOUNT}:role/zoobot-decals_live-{role}", {key: value})]
    name = key.replace(":", "__")
    bad = {f"{action}, {key}: {(o or 'none').rpartition('/')[2]}": changed(good, **{name: o}) for o in others}
    return Case(who, good, bad)


def of_ours(action: str, *kinds: str) -> list[Ask]:
    context: dict[str, str | list[str]] = {"aws:ResourceTag/zoobot:experiment": "decals_live"}
    return [Ask(f"ec2:{action}", f"{place(kind)}:{kind}/{kind}-1", context) for kind in kinds]


def making(action: str, kind: str, **more: str) -> list[Ask]:
    context: dict[str, str | list[str]] = {"aws:RequestTag/zoobot:experiment": "decals_live"}
    context |= {key.replace("__", ":"): value for key, value in more.items()}
    return [Ask(f"ec2:{action}", f"{place(kind)}:{kind}/*", context)]


def place(kind: str) -> str:
    """How an ARN begins; images and snapshots belong to no account."""
    return f"arn:aws:ec2:{REGION}:" if kind in ("image", "snapshot") else PLACE


def changed(asks: list[Ask], **context: str | list[str] | None) -> list[Ask]:
    """The same call with other values of its context, None for none; a name has __ for the colon."""
    new = {_SHORT.get(key, key.replace("__", ":")): value for key, value in context.items()}
    merged = [{**ask.context, **{k: v for k, v in new.items() if k in ask.context}} for ask in asks]
    kept: list[dict[str, str | list[str]]] = [{k: v for k, v in c.items() if v is not None} for c in merged]
    return [replace(ask, context=c) for ask, c in zip(asks, kept, strict=True)]


def also(asks: list[Ask], context: dict[str, str | list[str]]) -> list[Ask]:
    """The same call with more context."""
    return [replace(ask, context={**ask.context, **context}) for ask in asks]


def elsewhere(asks: list[Ask]) -> dict[str, list[Ask]]:
    return {"of another": changed(asks, ResourceTag="other"), "without the tag": changed(asks, ResourceTag=None)}


def untagged(asks: list[Ask]) -> dict[str, list[Ask]]:
    return {"with another's tag": changed(asks, RequestTag="other"), "untagged": changed(asks, RequestTag=None)}


def named(call: str, bad: dict[str, list[Ask]]) -> dict[str, list[Ask]]:
    return {f"{call} {what}": asks for what, asks in bad.items()}
