"""Least privilege: the policies hold what the commands call and nothing else, and every change is limited."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from launch import policy
from launch.arns import Arns
from launch.config import Config
from tests.aws import World
from tests.launching import command

# Actions that AWS lets nobody limit to a resource, by its Service Authorization Reference (mid 2026).
UNLIMITABLE = ("ssmmessages:", "ec2messages:")
READS = ("ec2:Describe", "ssm:Describe", "ssm:List", "ssm:GetCommandInvocation", "scheduler:List", "tag:Get")
# What AWS asks for besides the call itself.
IMPLIED = {
    "ec2:RunInstances": {"iam:PassRole", "ec2:CreateTags"}, "iam:CreateRole": {"iam:TagRole"},
    "iam:CreatePolicy": {"iam:TagPolicy"},
}  # fmt: skip
# Operations that another permission allows.
CALLED = {
    "s3:ListObjectsV2": "s3:ListBucket", "s3:HeadObject": "s3:GetObject",
    "budgets:CreateBudget": "budgets:ModifyBudget",
    "budgets:UpdateBudget": "budgets:ModifyBudget", "budgets:DeleteBudget": "budgets:ModifyBudget",
    "budgets:DescribeBudget": "budgets:ViewBudget",
}  # fmt: skip
# Only when something goes wrong, or at the end; tests/test_launch_guards.py makes these calls.
SOMETIMES = {"ec2:DetachVolume", "ec2:RevokeSecurityGroupIngress", "ec2:DeleteSnapshot", "ec2:DeregisterImage",
             "ec2:CreateLaunchTemplateVersion", "ec2:ModifyLaunchTemplate", "scheduler:UpdateSchedule",
             "iam:PutRolePermissionsBoundary", "budgets:UpdateBudgetAction", "budgets:ExecuteBudgetAction",
             "events:DeleteRule", "events:ListTargetsByRule", "events:PutRule", "events:PutTargets",
             "events:RemoveTargets"}  # fmt: skip
FREE = {"sts:GetCallerIdentity"}  # needs no permission


def actions(document: dict[str, Any]) -> set[str]:
    return {action for statement in document["Statement"] for action in statement["Action"]}


def called(world: World, config: Config, *commands: str) -> set[str]:
    start = len(world.calls)
    for words in commands:
        assert command(world, config, *words.split()) == 0, words
        world.sleep(600)
    made = {f"{c.service}:{c.operation}" for c in world.calls[start:]} - FREE
    for call in list(made):
        made |= IMPLIED.get(call, set())
    return {CALLED.get(call, call) for call in made}


def test_the_policies_are_the_calls(world: World, ec2: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "large").write_bytes(b"large")
    monkeypatch.setattr("launch.prepare._LARGE", 4)
    config = dataclasses.replace(ec2, logs="s3://zoobot-logs/runs", upload=str(folder), staging="s3://zoobot-logs/in")
    arns = Arns(config, "123456789012")
    daily, owner, administrator = (actions(policy.DOCUMENTS[who](arns)) for who in ("daily", "owner", "administrator"))
    assert called(world, config, "setup") & administrator == {"iam:CreatePolicy", "iam:TagPolicy"}
    s3 = world.client("s3")
    s3.create_bucket(Bucket="zoobot-logs")
    s3.put_object(Bucket="zoobot-logs", Key="runs/decals_live/2026-03-01/run.log", Body=b"all went well")
    simulated = "simulate --name first -- stage=simulate"
    days = ("up", "run", "down", "day", "snapshot", "status", "logs --day 2026-03-01", simulated, "bench")
    by_day = called(world, config, *days)
    assert by_day <= daily, "each call is allowed"
    assert daily - by_day <= SOMETIMES, "and nothing else is"
    world.reset()
    s3.create_bucket(Bucket="zoobot-logs")
    first = ("plan", "setup", "setup", "prepare", "prepare", "schedule on")
    by_owner = called(world, config, *first, "day", "status", "audit", "restore --drill", "restore", "bake", "teardown")
    assert by_owner <= daily | owner | administrator
    assert owner - by_owner <= SOMETIMES
    assert administrator - by_owner <= {"iam:CreatePolicyVersion", "iam:DeletePolicyVersion"}


def test_every_change_is_limited_by_arn_or_tag(ec2: Config) -> None:
    managed = dataclasses.replace(
        ec2, secrets={"key": "/aws/reference/secretsmanager/zoobot"}, logs="s3://zoobot-logs", data_from="other",
        results="s3://zoobot-logs/results", upload="mine", staging="s3://zoobot-logs/in",
    )  # fmt: skip
    arns = Arns(managed, "123456789012")
    checked = 0
    for document in policy.DOCUMENTS.values():
        for statement in document(arns)["Statement"]:
            for action in statement["Action"]:
                if not action.startswith(READS + UNLIMITABLE):
                    checked += 1
                    assert "*" not in statement["Resource"], action
                    whole_kind = any(r.endswith("/*") and r.startswith("arn:aws:ec2") for r in statement["Resource"])
                    free = action in ("ssm:UpdateInstanceInformation", "ec2:CreateSecurityGroup")
                    assert statement.get("Condition") or not whole_kind or free, f"{action} on {statement['Resource']}"
    assert checked > 40
    machine = {a for a in actions(policy.machine(arns)) if not a.startswith(UNLIMITABLE)}
    written = [s["Resource"] for s in policy.machine(arns)["Statement"] if "s3:PutObject" in s["Action"]]
    assert written == [["arn:aws:s3:::zoobot-logs/*", "arn:aws:s3:::zoobot-logs/results/*"]]
    assert not {a for a in machine if "Delete" in a} and "secretsmanager:GetSecretValue" in machine


def test_a_machine_has_no_key_no_way_in_and_goes_when_it_shuts_down(world: World, ec2: Config) -> None:
    assert command(world, dataclasses.replace(ec2, market="spot"), "setup") == 0
    (template,) = world.ec2.launch_templates.values()
    data = template.default_version().data
    assert "KeyName" not in data and data["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    assert str(data["MetadataOptions"]["HttpPutResponseHopLimit"]) == "1"
    assert [str(d["Ebs"]["Encrypted"]).lower() for d in data["BlockDeviceMappings"]] == ["true"]
    assert "InstanceMarketOptions" not in data, "RunInstances says it"
    (group,) = [g for g in world.client("ec2").describe_security_groups()["SecurityGroups"] if g.get("Tags")]
    assert group["IpPermissions"] == []
    (volume,) = world.volumes("working_volume")
    assert volume.encrypted
