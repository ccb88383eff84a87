"""IAM for tests: what a set of policies says of a call. Stricter than AWS where AWS would let a mistake pass.

AWS's rules (IAM User Guide, "Policy evaluation logic", "Condition operators"): a Deny wins; else a policy must allow,
and the permissions boundary too, if there is one. A condition whose key is not in the request does not match, unless
the operator ends in IfExists, begins with ForAllValues, or is Null. Of a call with several resources, all must be
allowed.

Strict: elements, operators, variables and keys that this does not know are errors, not "does not match". moto has no
such thing: its access control ignores Resource and Condition.

``run_instances`` says what EC2 asks about a start, by the Service Authorization Reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

Policy = dict[str, Any]
ACCOUNT, REGION = "123456789012", "us-east-1"
PLACE = f"arn:aws:ec2:{REGION}:{ACCOUNT}"


@dataclass(frozen=True)
class Ask:
    """One thing that a call needs: an action on a resource, and what AWS knows of the request."""

    action: str
    resource: str = "*"
    context: dict[str, str | list[str]] = field(default_factory=dict)


def refused(asks: Iterable[Ask], policies: list[Policy], boundary: Policy | None = None) -> list[Ask]:
    """What of a call is refused; it goes through if nothing is."""
    return [ask for ask in asks if not _allowed(ask, policies, boundary)]


def _allowed(ask: Ask, policies: list[Policy], boundary: Policy | None) -> bool:
    effects = {e for p in policies for e in _effects(ask, p)}
    bounds = set(_effects(ask, boundary)) if boundary else {"Allow"}
    return "Allow" in effects and "Allow" in bounds and "Deny" not in effects | bounds


def _effects(ask: Ask, policy: Policy) -> list[str]:
    if set(policy) != {"Version", "Statement"} or policy["Version"] != "2012-10-17":
        raise ValueError(f"elements of a policy: {set(policy)}")
    return [s["Effect"] for s in policy["Statement"] if _applies(ask, s)]


def _applies(ask: Ask, statement: dict[str, Any]) -> bool:
    unknown = set(statement) - {"Effect", "Action", "Resource", "Condition"}
    if unknown or "${" in str(statement) or statement["Effect"] not in ("Allow", "Deny"):
        raise ValueError(f"not known to the simulator: {statement}")
    conditions = [
        (operator, key, values)
        for operator, pairs in statement.get("Condition", {}).items()
        for key, values in pairs.items()
    ]
    met = [_holds(operator, key, values, ask.context) for operator, key, values in conditions]  # all, for their errors
    fits_action = any(like(pattern.lower(), ask.action.lower()) for pattern in statement["Action"])
    return fits_action and any(like(pattern, ask.resource) for pattern in statement["Resource"]) and all(met)


def like(pattern: str, text: str) -> bool:
    """Whether ``text`` fits, where * is any text and ? any character."""
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), text, re.DOTALL) is not None


def arn_like(pattern: str, arn: str) -> bool:
    """The same, for each of the six parts of an ARN by itself."""
    patterns, parts = pattern.split(":", 5), arn.split(":", 5)
    return len(patterns) == len(parts) and all(map(like, patterns, parts))


_TESTS: dict[str, Callable[[str, str], bool]] = {
    "StringEquals": lambda wanted, given: wanted == given,
    "StringLike": like,
    "ArnEquals": arn_like,
    "ArnLike": arn_like,
    "Bool": lambda wanted, given: wanted.lower() == given.lower(),
    "NumericLessThanEquals": lambda wanted, given: float(given) <= float(wanted),
}


def _holds(operator: str, key: str, values: str | list[str], context: dict[str, str | list[str]]) -> bool:
    wanted = [values] if isinstance(values, str) else values
    given = {name.lower(): value for name, value in context.items()}.get(key.lower())
    if operator == "Null":
        return (given is None) == (wanted == ["true"])
    qualifier, _, name = operator.rpartition(":")
    test = _TESTS[name.removesuffix("IfExists")]
    if qualifier not in ("", "ForAllValues", "ForAnyValue"):
        raise ValueError(operator)
    if given is None:
        return name.endswith("IfExists") or qualifier == "ForAllValues"
    if isinstance(given, list) != bool(qualifier):
        raise ValueError(f"{operator} on {key}: {given}")
    many = given if isinstance(given, list) else [given]
    fits = [any(test(w, g) for w in wanted) for g in many]
    return all(fits) if qualifier == "ForAllValues" else any(fits)


# ------------------------------------------------------------------------------------------------- RunInstances


def run_instances(
    request: dict[str, Any], template: dict[str, Any], tags: Callable[[str], dict[str, str]]
) -> list[Ask]:
    """What EC2 asks when it is to start this, from a launch template with this content; ``tags`` of an id.

    Without a LaunchTemplate in the request, the request must hold all itself.
    """
    named = request.get("LaunchTemplate", {}).get("LaunchTemplateId")
    asked = {**(template if named else {}), **request}
    common = {"ec2:LaunchTemplate": f"{PLACE}:launch-template/{named}"} if named else {}
    market = asked.get("InstanceMarketOptions", {}).get("MarketType", "on-demand")
    interface = asked["NetworkInterfaces"][0]
    profile = asked["IamInstanceProfile"]["Name"]
    asks = [
        _ask("instance/*", common, named and not set(request) & set(template), {
            "ec2:InstanceType": asked["InstanceType"], "ec2:InstanceMarketType": market,
            "ec2:MetadataHttpTokens": asked.get("MetadataOptions", {}).get("HttpTokens", "optional"),
            "ec2:InstanceProfile": f"arn:aws:iam::{ACCOUNT}:instance-profile/{profile}",
            **_requested(asked, "instance"),
        }),
        Ask("ec2:RunInstances", f"arn:aws:ec2:{REGION}::image/{asked['ImageId']}",
            {**common, **_from(named and "ImageId" not in request)}),
        *_network(interface, common, named and "NetworkInterfaces" not in request, tags),
        *_disks(asked, common, named and "BlockDeviceMappings" not in request),
    ]  # fmt: skip
    if named:
        asks.append(Ask("ec2:RunInstances", f"{PLACE}:launch-template/{named}", _of_resource(tags(named))))
    if reservation := asked.get("CapacityReservationSpecification", {}).get("CapacityReservationTarget"):
        asks.append(_ask(f"capacity-reservation/{reservation['CapacityReservationId']}", common, False, {}))
    if "KeyName" in asked:
        asks.append(_ask(f"key-pair/{asked['KeyName']}", common, named and "KeyName" not in request, {}))
    if market == "spot" and _requested(asked, "spot-instances-request"):
        asks.append(_ask("spot-instances-request/*", common, False, _requested(asked, "spot-instances-request")))
    asks.append(
        Ask("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/{profile}", {"iam:PassedToService": "ec2.amazonaws.com"})
    )
    return asks + [
        Ask("ec2:CreateTags", f"{PLACE}:{spec['ResourceType']}/*",
            {"ec2:CreateAction": "RunInstances", **_requested(asked, spec["ResourceType"])})
        for spec in asked.get("TagSpecifications", [])
    ]  # fmt: skip


def _network(
    interface: dict[str, Any], common: Any, unchanged: bool, tags: Callable[[str], dict[str, str]]
) -> list[Ask]:
    return [
        _ask(f"subnet/{interface['SubnetId']}", common, unchanged, {}),
        _ask("network-interface/*", common, unchanged, {}),
        *(
            _ask(f"security-group/{group}", common, unchanged, _of_resource(tags(group)))
            for group in interface["Groups"]
        ),
    ]


def _disks(asked: dict[str, Any], common: Any, unchanged: bool) -> list[Ask]:
    return [
        _ask("volume/*", common, unchanged, {
            "ec2:VolumeSize": str(disk["Ebs"]["VolumeSize"]), "ec2:VolumeType": disk["Ebs"]["VolumeType"],
            "ec2:Encrypted": str(disk["Ebs"]["Encrypted"]).lower(), **_requested(asked, "volume"),
        })
        for disk in asked.get("BlockDeviceMappings", [])
    ]  # fmt: skip


def _ask(resource: str, common: dict[str, str], unchanged: Any, more: dict[str, Any]) -> Ask:
    return Ask("ec2:RunInstances", f"{PLACE}:{resource}", {**common, **_from(unchanged), **more})


def _from(unchanged: Any) -> dict[str, str]:
    return {"ec2:IsLaunchTemplateResource": "true" if unchanged else "false"}


def _of_resource(tags: dict[str, str]) -> dict[str, str]:
    return {f"aws:ResourceTag/{key}": value for key, value in tags.items()}


def _requested(asked: dict[str, Any], kind: str) -> dict[str, Any]:
    tags = {
        t["Key"]: t["Value"] for s in asked.get("TagSpecifications", []) if s["ResourceType"] == kind for t in s["Tags"]
    }
    return {**{f"aws:RequestTag/{k}": v for k, v in tags.items()}, "aws:TagKeys": list(tags)} if tags else {}
