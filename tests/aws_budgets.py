"""AWS Budgets and what IAM says, for tests/aws.py: moto has no budget actions, and looks at no condition.

    CreateBudgetAction   wants somebody to tell, a role that trusts AWS Budgets, a policy and roles that exist
    three times a day    what the machines of the tag cost this month until the time before is compared with the limit;
                         past it, the action attaches its policy, if the execution role and its boundary let it
    ExecuteBudgetAction  REVERSE takes it off, RESET watches again; each only from the status before

Sources: the API reference of AWS Budgets, and the guide's chapter "Configuring budget actions".
"""

from __future__ import annotations

import json
import re
import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any

from moto.backends import get_backend
from werkzeug.wrappers import Response

from launch import cost
from tests.policies import ACCOUNT, Ask, Policy, refused

if TYPE_CHECKING:
    from tests.aws import World

LOOK_S = 8 * 3600
_STEPS = {
    "REVERSE_BUDGET_ACTION": ("EXECUTION_SUCCESS", "REVERSE_IN_PROGRESS", "REVERSE_SUCCESS"),
    "RESET_BUDGET_ACTION": ("REVERSE_SUCCESS", "RESET_IN_PROGRESS", "STANDBY"),
}  # from, while it works, then
Refusal = tuple[str, str]


class Budgets:
    """The budgets of the account, and the mails that AWS sent."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.budgets: dict[str, dict[str, Any]] = {}
        self.actions: dict[str, dict[str, Any]] = {}  # one a budget
        self.counted: dict[str, float] = {}
        self.mails: list[str] = []

    def answer(self, operation: str, given: dict[str, Any]) -> Any:
        """The answer to a call, or why it is refused."""
        name = given.get("BudgetName") or given.get("NewBudget", given.get("Budget", {})).get("BudgetName", "")
        if operation != "CreateBudget" and name not in self.budgets:
            return "NotFoundException", f"{name}: the budget doesn't exist"
        if "ActionId" in given and self.actions.get(name, {}).get("ActionId") != given["ActionId"]:
            return "NotFoundException", f"{given['ActionId']}: the action doesn't exist"
        said = getattr(self, operation)(name, given)
        if isinstance(said, tuple):
            return said
        return Response(json.dumps(said or {}), content_type="application/x-amz-json-1.1")

    def CreateBudget(self, name: str, given: dict[str, Any]) -> Refusal | None:
        if name in self.budgets:
            return "DuplicateRecordException", name
        return self.UpdateBudget(name, {"NewBudget": given["Budget"]})

    def UpdateBudget(self, name: str, given: dict[str, Any]) -> Refusal | None:
        budget = given["NewBudget"]
        filters = budget["CostFilters"]["TagKeyValue"]
        if (
            not all(re.fullmatch(r"user:[^$]+\$[^$]+", text) for text in filters)
            or float(budget["BudgetLimit"]["Amount"]) <= 0
        ):
            return "InvalidParameterException", str(budget)
        self.budgets[name] = budget
        return None

    def DescribeBudget(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        spent = {"ActualSpend": {"Amount": str(self.counted.get(name, 0.0)), "Unit": "USD"}}
        return {"Budget": {**self.budgets[name], "CalculatedSpend": spent}}

    def DeleteBudget(self, name: str, given: dict[str, Any]) -> Refusal | None:
        if name in self.actions:
            return "ResourceLockedException", "the budget has an action"
        del self.budgets[name]
        return None

    def CreateBudgetAction(self, name: str, given: dict[str, Any]) -> Refusal | dict[str, Any]:
        if name in self.actions:
            return "DuplicateRecordException", "there is such an action"
        defined = given["Definition"]["IamActionDefinition"]
        roles = {role.name: role for role in self._iam.roles.values()}
        takes = roles.get(given["ExecutionRoleArn"].rpartition("/")[2])
        if takes is None or "budgets.amazonaws.com" not in takes.assume_role_policy_document:
            return "InvalidParameterException", "AWS Budgets may not take the execution role"
        if defined["PolicyArn"] not in self._iam.managed_policies or not set(defined["Roles"]) <= set(roles):
            return "InvalidParameterException", "the policy or a role does not exist"
        action = {**given, "ActionId": str(uuid.uuid4()), "Status": "STANDBY"}
        self.actions[name] = action
        self.world.later(LOOK_S, lambda: self.look(name, action))
        return {key: action[key] for key in ("AccountId", "BudgetName", "ActionId")}

    def UpdateBudgetAction(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        old = dict(self.actions[name])
        self.actions[name] |= given
        return {"AccountId": ACCOUNT, "BudgetName": name, "OldAction": old, "NewAction": self.actions[name]}

    def DescribeBudgetActionsForBudget(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        return {
            "Actions": [{k: v for k, v in a.items() if k != "AccountId"} for n, a in self.actions.items() if n == name]
        }

    def DeleteBudgetAction(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        return {"AccountId": ACCOUNT, "BudgetName": name, "Action": self.actions.pop(name)}

    def ExecuteBudgetAction(self, name: str, given: dict[str, Any]) -> Refusal | None:
        before, between, after = _STEPS[given["ExecutionType"]]
        action = self.actions[name]
        if action["Status"] != before:
            return "InvalidParameterException", f"{given['ExecutionType']} in status {action['Status']}"
        if before == "EXECUTION_SUCCESS":
            self._do(action, "DetachRolePolicy")
        action["Status"] = between
        self.world.later(20, lambda: action.update(Status=after))
        return None

    def look(self, name: str, action: dict[str, Any]) -> None:
        """What AWS does a few times a day."""
        if self.actions.get(name) is not action:
            return
        self.counted[name] = self.spent(name, before_s=LOOK_S)
        limit = float(self.budgets[name]["BudgetLimit"]["Amount"])
        if (
            action["Status"] == "STANDBY"
            and self.counted[name] >= limit * action["ActionThreshold"]["ActionThresholdValue"] / 100
        ):
            action["Status"] = "EXECUTION_SUCCESS" if self._do(action, "AttachRolePolicy") else "EXECUTION_FAILURE"
            self.mails += [s["Address"] for s in action["Subscribers"]]
        self.world.later(LOOK_S, lambda: self.look(name, action))

    def trip(self, name: str) -> None:
        """The budget is spent, whatever machines cost."""
        assert self._do(self.actions[name], "AttachRolePolicy")
        self.actions[name]["Status"] = "EXECUTION_SUCCESS"

    def spent(self, name: str, before_s: float = 0) -> float:
        """US dollars of this month for machines with the budget's tag, up to so many seconds ago."""
        key, _, value = self.budgets[name]["CostFilters"]["TagKeyValue"][0].removeprefix("user:").partition("$")
        until = self.world.clock.timestamp() - before_s
        month = self.world.clock.replace(day=1, hour=0, minute=0, second=0).timestamp()
        total = 0.0
        for machine in self.world.machines.values():
            if machine.tags.get(key) == value:
                hours = (min(until, _at(machine.ended) or until) - max(month, machine.started.timestamp())) / 3600
                total += max(hours, 0) * cost.hourly(machine.kind, machine.market)
        return total

    def _do(self, action: dict[str, Any], operation: str) -> bool:
        """Attach or detach the policy, if the execution role may."""
        defined = action["Definition"]["IamActionDefinition"]
        execution = action["ExecutionRoleArn"].rpartition("/")[2]
        for role in defined["Roles"]:
            ask = Ask(
                f"iam:{operation}", f"arn:aws:iam::{ACCOUNT}:role/{role}", {"iam:PolicyARN": defined["PolicyArn"]}
            )
            if self.refuses(execution, [ask]):
                return False
            change = self._iam.attach_role_policy if operation == "AttachRolePolicy" else self._iam.detach_role_policy
            change(defined["PolicyArn"], role)
        return True

    def refuses(self, role: str, asks: list[Ask]) -> list[Ask]:
        """What IAM refuses a role of the account."""
        there = self._iam.get_role(role)
        attached = [self._document(arn) for arn in there.managed_policies]
        own = [json.loads(text) for text in there.policies.values()]
        return refused(asks, own + attached, self._document(there.permissions_boundary_arn))

    def _document(self, arn: str) -> Policy:
        policy = self._iam.managed_policies[arn]
        (version,) = [v for v in policy.versions if v.version_id == policy.default_version_id]
        document: Policy = json.loads(version.document)
        return document

    @property
    def _iam(self) -> Any:
        return get_backend("iam")[ACCOUNT]["aws"]


def _at(time: datetime | None) -> float | None:
    return time.timestamp() if time else None
