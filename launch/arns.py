"""What a policy of IAM is written in: ARNs of the experiment's things, and statements."""

from __future__ import annotations

from typing import Any

from launch.aws import split_address
from launch.config import Config

Statement = dict[str, Any]


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
        """The role of the machine, of the scheduler or of budgets."""
        return self.iam("role", f"{self.config.name}-{of}")

    def managed(self, name: str) -> str:
        """The managed policy called boundary or stop."""
        return self.iam("policy", f"{self.config.name}-{name}")

    @property
    def budget(self) -> str:
        """The month's budget."""
        return f"arn:aws:budgets::{self.account}:budget/{self.config.name}"

    @property
    def profile(self) -> str:
        """What gives a machine its role."""
        return self.iam("instance-profile", f"{self.config.name}-machine")

    @property
    def document(self) -> str:
        """Systems Manager's document that runs a command."""
        return f"arn:aws:ssm:{self.config.region}::document/AWS-RunShellScript"

    @property
    def rule(self) -> str:
        """What EventBridge listens for."""
        return f"arn:aws:events:{self._place}:rule/{self.config.name}"

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

    def s3(self, address: str) -> tuple[str, str]:
        """The bucket, and the objects below the prefix, of an address in S3."""
        bucket, prefix = split_address(address)
        return f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{'/'.join(filter(None, (bucket, prefix, '*')))}"


def document(*statements: Statement) -> dict[str, Any]:
    """A policy."""
    return {"Version": "2012-10-17", "Statement": list(statements)}


def allow(actions: list[str] | tuple[str, ...], resources: list[str] | str = "*", **conditions: Any) -> Statement:
    """One statement; conditions as ``StringEquals={key: value}``."""
    resource_list = [resources] if isinstance(resources, str) else resources
    statement: Statement = {"Effect": "Allow", "Action": sorted(actions), "Resource": resource_list}
    return statement | ({"Condition": conditions} if conditions else {})
