"""What the policies refuse: for each condition in them a call that needs it, beside one that goes through.

Each condition is taken away in turn: then something that was refused must go through, else no case looks at it.
The table of refused calls is in docs/results/ec2.md, and printed with -s.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launch import policy
from launch.arns import Arns, allow, document
from launch.config import RESERVATION, Config
from tests.policies import ACCOUNT, PLACE, REGION, Ask, Policy, refused
from tests.policy_cases import cases, changed, launches, of_ours

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results" / "ec2.md"
MARKETS: dict[str, dict[str, Any]] = {
    "on-demand": {}, "spot": {}, RESERVATION: {"capacity_reservation": "cr-0123456789abcdef0"},
}  # fmt: skip


@pytest.mark.parametrize("market", MARKETS)
def test_each_policy_lets_through_what_is_needed_and_refuses_what_is_not(ec2: Config, market: str) -> None:
    config = dataclasses.replace(ec2, market=market, **MARKETS[market])
    for case in cases(config):
        document = policy.DOCUMENTS[case.who](Arns(config, ACCOUNT))
        assert refused(case.good, [document]) == [], case.who
        for what, asks in case.bad.items():
            assert refused(asks, [document]), f"{case.who}: {what}"


def test_each_condition_is_needed(ec2: Config) -> None:
    """Without it, something that a case asks for is no longer refused."""
    configs = [dataclasses.replace(ec2, market=market, **more) for market, more in MARKETS.items()]
    tried = [case for config in configs for case in cases(config)]
    checked = 0
    for who in ("machine", "scheduler", "budgets", "events", "daily", "owner"):
        asked = [ask for case in tried if case.who == who for asks in case.bad.values() for ask in asks]
        for config in configs:
            whole = policy.DOCUMENTS[who](Arns(config, ACCOUNT))
            no = refused(asked, [whole])
            for condition, weaker in without_one(whole):
                assert len(refused(no, [document(weaker)])) < len(no), f"{who}: no case needs {condition}"
                checked += 1
    print(f"{checked} conditions, each needed by a call that is refused")
    assert checked > 100


def without_one(document: Policy) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each statement without one of its conditions, for each of them."""
    for statement in document["Statement"]:
        for operator, pairs in statement.get("Condition", {}).items():
            for key in pairs:
                weaker = copy.deepcopy(statement)
                del weaker["Condition"][operator][key]
                yield f"{statement['Action']} on {statement['Resource']}: {operator} {key}", weaker


def test_no_role_leaves_its_boundary_whatever_its_owner_writes(ec2: Config) -> None:
    ours = Arns(ec2, ACCOUNT)
    everything = document(allow(["*"]))
    boundary = policy.boundary(ours)
    for case in cases(ec2):
        if case.who in ("machine", "scheduler", "budgets"):
            assert refused(case.good, [policy.DOCUMENTS[case.who](ours)], boundary) == [], "the boundary is wide enough"
    other = [
        Ask("iam:CreateUser"), Ask("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/administrators"), Ask("s3:GetObject"),
        Ask("ssm:GetParameter", f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/elsewhere/password"),
        *of_ours("DeleteVolume", "volume"), *of_ours("DeleteSnapshot", "snapshot"),
        *changed(of_ours("TerminateInstances", "instance"), ResourceTag="other"),
    ]  # fmt: skip
    assert refused(other, [everything]) == [] and refused(other, [everything], boundary) == other


def test_the_owner_cannot_widen_what_roles_may_do(ec2: Config) -> None:
    """Nor an administrator of the boundary start anything, nor a service take a role for another account."""
    ours = Arns(ec2, ACCOUNT)
    machine, boundary = ours.role("machine"), ours.managed("boundary")
    bound = {"iam:PermissionsBoundary": boundary, "iam:PolicyARN": ours.managed("stop")}
    wider = [
        *(Ask(f"iam:{what}", boundary) for what in ("CreatePolicyVersion", "SetDefaultPolicyVersion", "DeletePolicy")),
        Ask("iam:DeleteRolePermissionsBoundary", machine, {**bound}), Ask("iam:UpdateAssumeRolePolicy", machine),
        Ask("iam:AttachRolePolicy", machine, {**bound}), Ask("iam:CreateRole", ours.iam("role", "another"), {**bound}),
        Ask("iam:PassRole", ours.iam("role", "another"), {"iam:PassedToService": "ec2.amazonaws.com"}),
    ]  # fmt: skip
    mine = [policy.owner(ours), policy.daily(ours)]
    assert refused(wider, mine) == wider and refused(wider[:1], [policy.administrator(ours)]) == []
    assert refused(launches(ec2, "daily")[0].good, [policy.administrator(ours)]) != []
    for service in ("scheduler", "budgets", "events"):
        (statement,) = policy.trust(service, ACCOUNT)["Statement"]
        assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": ACCOUNT}}


@pytest.mark.parametrize("market", MARKETS)
def test_the_policies_are_as_long_as_iam_takes(ec2: Config, market: str) -> None:
    """Managed policies, also with long names and five secrets; a role's own policies may have 10,240 characters."""
    secrets = {f"key{n}": f"/zoobot/a_secret_with_a_long_name_{n}" for n in range(5)}
    config = dataclasses.replace(
        ec2, experiment="e" * 30, market=market, secrets=secrets, logs="s3://zoobot-logs/runs", **MARKETS[market]
    )
    ours = Arns(config, ACCOUNT)
    lengths = {name: len("".join(str(make(ours)).split())) for name, make in policy.DOCUMENTS.items()}
    assert max(lengths["boundary"], lengths["stop"]) <= policy.MANAGED_MAX and max(lengths.values()) <= 10_240, lengths


def test_what_a_spent_budget_attaches_stops_new_machines_only(ec2: Config) -> None:
    ours = Arns(ec2, ACCOUNT)
    launch = launches(ec2, "scheduler")[0]
    both = [policy.scheduler(ours), policy.stop(ours)]
    assert [a.resource for a in refused(launch.good, both) if a.action == "ec2:RunInstances"] == [f"{PLACE}:instance/*"]
    assert refused([Ask("sqs:SendMessage", ours.queue)], both) == []


def test_the_simulator_is_strict() -> None:
    def says(condition: dict[str, Any], context: dict[str, Any], **more: Any) -> bool:
        statement = {"Effect": "Allow", "Action": ["ec2:Run*"], "Resource": ["arn:*"], "Condition": condition, **more}
        return not refused([Ask("ec2:RunInstances", "arn:aws:x", context)], [document(statement)])

    true = [
        ({"StringEquals": {"A:b": ["x", "y"]}}, {"a:B": "y"}), ({"StringLike": {"k": "x*z"}}, {"k": "x/y/z"}),
        ({"ArnLike": {"k": "arn:aws:ec2:*:1:a/*"}}, {"k": "arn:aws:ec2:here:1:a/b"}),
        ({"Bool": {"k": "true"}}, {"k": "True"}), ({"Null": {"k": "true"}}, {}), ({"Null": {"k": "false"}}, {"k": "x"}),
        ({"StringEqualsIfExists": {"k": "x"}}, {}), ({"ForAllValues:StringEquals": {"k": ["x", "y"]}}, {"k": ["x"]}),
        ({"ForAllValues:StringEquals": {"k": "x"}}, {}), ({"ForAnyValue:StringEquals": {"k": "x"}}, {"k": ["x", "z"]}),
        ({"NumericLessThanEquals": {"k": "100"}}, {"k": "100"}),
    ]  # fmt: skip
    false = [
        ({"StringEquals": {"k": "x"}}, {}), ({"StringEquals": {"k": "x"}}, {"k": "X"}),
        ({"StringLike": {"k": "x?"}}, {"k": "x"}), ({"StringEqualsIfExists": {"k": "x"}}, {"k": "y"}),
        ({"ArnLike": {"k": "arn:aws:ec2:*:a/*"}}, {"k": "arn:aws:ec2:here:1:a/b"}),
        ({"Bool": {"k": "true"}}, {}), ({"Null": {"k": "true"}}, {"k": "x"}),
        ({"ForAllValues:StringEquals": {"k": "x"}}, {"k": ["x", "y"]}),
        ({"ForAnyValue:StringEquals": {"k": "x"}}, {}), ({"NumericLessThanEquals": {"k": "100"}}, {"k": "101"}),
        ({"StringEquals": {"k": "x", "l": "y"}}, {"k": "x"}),
    ]  # fmt: skip
    assert [pair for pair in true if not says(*pair)] == [] == [pair for pair in false if says(*pair)]
    unknown: list[Callable[[], object]] = [
        lambda: says({"StringNotMatches": {"k": "x"}}, {"k": "x"}), lambda: says({}, {}, NotAction=["x"]),
        lambda: says({"StringEquals": {"k": "${aws:username}"}}, {"k": "x"}),
        lambda: says({"StringEquals": {"k": "x"}}, {"k": ["x"]}), lambda: refused([Ask("a")], [{"Statement": []}]),
    ]  # fmt: skip
    for ask in unknown:
        with pytest.raises((KeyError, ValueError)):
            ask()
    allow, deny = (document({"Effect": e, "Action": ["*"], "Resource": ["*"]}) for e in ("Allow", "Deny"))
    assert refused([Ask("a")], [allow, deny]) and refused([Ask("a")], [allow], deny) and refused([Ask("a")], [])


def test_the_table_of_refused_calls(ec2: Config) -> None:
    """As docs/results/ec2.md has it."""
    rows: dict[str, list[str]] = {}
    for case in (c for market, more in MARKETS.items() for c in cases(dataclasses.replace(ec2, market=market, **more))):
        for what in case.bad:
            rows[what] = [*dict.fromkeys([*rows.get(what, []), case.who])]
    table = "\n".join(
        ["| call | refused to |", "|---|---|", *(f"| {w} | {', '.join(who)} |" for w, who in rows.items())]
    )
    print(table)
    assert table in PAGE.read_text(encoding="utf-8")
