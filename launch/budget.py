"""The budget that acts. AWS Budgets adds up what carries the experiment's tag, a few times a day; at `budget_usd` in a
month it attaches the policy `stop` to the scheduler's role, so that no machine starts by itself any more. People are
stopped by `refuse_if_spent`: their roles, often of IAM Identity Center, take no policy from AWS Budgets.
"""

from __future__ import annotations

from typing import Any

from launch.arns import Arns
from launch.aws import EXPERIMENT, Cloud
from launch.errors import LaunchError
from launch.find import found

_DONE = "EXECUTION_SUCCESS"
_TRIPPED = (_DONE, "EXECUTION_IN_PROGRESS", "EXECUTION_FAILURE", "PENDING")
_UNKNOWN_YET = {
    "InvalidParameterException",
    "AccessDeniedException",
    "NotFoundException",
}  # the role, just after it was made


def ensure_budget(cloud: Cloud) -> None:
    """The month's budget and its action, armed again once less than that is spent; none without `budget_email`."""
    if not cloud.config.budget_email:
        remove_budget(cloud)
        cloud.say("budget_email is empty: no AWS Budget stops new machines (AWS wants somebody to tell).")
        return
    wanted = _wanted(cloud)
    there = _budget(cloud)
    if there is None:
        cloud.call("budgets", "create_budget", AccountId=cloud.account, Budget=wanted)
    elif _limit(there) != _limit(wanted) or there.get("CostFilters") != wanted["CostFilters"]:
        cloud.call("budgets", "update_budget", AccountId=cloud.account, NewBudget=wanted)
    action, wanted_action = _action(cloud), _wanted_action(cloud)
    if action is None:
        cloud.settle(_UNKNOWN_YET, "budgets", "create_budget_action", **_of(cloud), **wanted_action)
        return
    if action["Subscribers"] != wanted_action["Subscribers"]:
        changed = {"ActionId": action["ActionId"], "Subscribers": wanted_action["Subscribers"]}
        cloud.call("budgets", "update_budget_action", **_of(cloud), **changed)
    _arm_again(cloud, there or {}, action)


def remove_budget(cloud: Cloud) -> None:
    """Take away the budget and its action, and what it attached."""
    arns = Arns(cloud.config, cloud.account)
    action = _action(cloud) if _budget(cloud) else None
    if action is not None:
        found(cloud, "budgets", "delete_budget_action", **_of(cloud), ActionId=action["ActionId"])
    role = arns.role("scheduler").rpartition("/")[2]
    found(cloud, "iam", "detach_role_policy", RoleName=role, PolicyArn=arns.managed("stop"))
    found(cloud, "budgets", "delete_budget", **_of(cloud))


def refuse_if_spent(cloud: Cloud) -> None:
    """LaunchError if the month's budget is spent."""
    action = _action(cloud) if cloud.config.budget_email else None
    if action is not None and action["Status"] in _TRIPPED:
        raise LaunchError(
            f"The month's budget of ${cloud.config.budget_usd:.2f} is spent, by AWS's count: no machine is started."
            " Raise budget_usd or wait for the next month, then run `python -m launch setup`."
        )


def describe(cloud: Cloud) -> str:
    """How much of the budget is spent, in one line."""
    there, action = _budget(cloud), _action(cloud)
    if there is None or action is None:
        return "none acts: set budget_email, and run setup"
    spent = f"${_spent(there):.2f} of ${_limit(there):.2f} this month"
    return f"{spent}, by AWS's count, which lags a day; its action: {action['Status']}"


def _arm_again(cloud: Cloud, budget: dict[str, Any], action: dict[str, Any]) -> None:
    """Undo what the action did and let it watch again, if less than the budget is spent now."""
    if _spent(budget) >= cloud.config.budget_usd:
        return
    steps = {_DONE: "REVERSE_BUDGET_ACTION", "REVERSE_SUCCESS": "RESET_BUDGET_ACTION"}
    for status, step in steps.items():
        if action["Status"] == status:
            cloud.say(f"less than the budget is spent: {step}")
            which = {**_of(cloud), "ActionId": action["ActionId"]}
            cloud.call("budgets", "execute_budget_action", **which, ExecutionType=step)
            cloud.wait(step, lambda: "IN_PROGRESS" not in (_action(cloud) or {"Status": ""})["Status"], 300)
            action = _action(cloud) or action


def _of(cloud: Cloud) -> dict[str, Any]:
    return {"AccountId": cloud.account, "BudgetName": cloud.config.name}


def _budget(cloud: Cloud) -> dict[str, Any] | None:
    there = found(cloud, "budgets", "describe_budget", **_of(cloud))
    return dict(there["Budget"]) if there and "Budget" in there else None


def _action(cloud: Cloud) -> dict[str, Any] | None:
    there = found(cloud, "budgets", "describe_budget_actions_for_budget", **_of(cloud))
    return dict(there["Actions"][0]) if there and there.get("Actions") else None


def _limit(budget: dict[str, Any]) -> float:
    return float(budget["BudgetLimit"]["Amount"])


def _spent(budget: dict[str, Any]) -> float:
    return float(budget.get("CalculatedSpend", {}).get("ActualSpend", {}).get("Amount", 0))


def _wanted(cloud: Cloud) -> dict[str, Any]:
    return {
        "BudgetName": cloud.config.name,
        "BudgetLimit": {"Amount": f"{cloud.config.budget_usd:.2f}", "Unit": "USD"},
        "BudgetType": "COST",
        "TimeUnit": "MONTHLY",
        "CostFilters": {"TagKeyValue": [f"user:{EXPERIMENT}${cloud.config.experiment}"]},
    }


def _wanted_action(cloud: Cloud) -> dict[str, Any]:
    arns = Arns(cloud.config, cloud.account)
    role = arns.role("scheduler").rpartition("/")[2]
    return {
        "NotificationType": "ACTUAL",
        "ActionType": "APPLY_IAM_POLICY",
        "ActionThreshold": {"ActionThresholdValue": 100.0, "ActionThresholdType": "PERCENTAGE"},
        "Definition": {"IamActionDefinition": {"PolicyArn": arns.managed("stop"), "Roles": [role]}},
        "ExecutionRoleArn": arns.role("budgets"),
        "ApprovalModel": "AUTOMATIC",
        "Subscribers": [{"SubscriptionType": "EMAIL", "Address": cloud.config.budget_email}],
    }
