"""The two managed policies: the boundary of our roles, and what a spent budget attaches.

Only an administrator may make or change them, so that whoever owns an experiment cannot widen what its roles may do.
"""

from __future__ import annotations

import json
from typing import Any

from botocore.exceptions import ClientError

from launch import policy
from launch.arns import Arns
from launch.aws import Cloud, code_of, tag_list
from launch.errors import LaunchError
from launch.find import found

NAMES = ("boundary", "stop")


def ensure_managed(cloud: Cloud, name: str) -> None:
    """Make or renew the managed policy ``name``. LaunchError with the commands, if these credentials may not."""
    arns = Arns(cloud.config, cloud.account)
    wanted, arn = policy.DOCUMENTS[name](arns), arns.managed(name)
    text = json.dumps(wanted, separators=(",", ":"))
    if len(text) > policy.MANAGED_MAX:
        raise LaunchError(
            f"{arn} would have {len(text)} characters, and IAM takes {policy.MANAGED_MAX}: use fewer `secrets`, or"
            " shorter names in them and for what lies in S3."
        )
    there = found(cloud, "iam", "get_policy", PolicyArn=arn)
    try:
        if there is None:
            tags = tag_list(experiment=cloud.config.experiment)
            full = arn.rpartition("/")[2]
            cloud.call("iam", "create_policy", PolicyName=full, PolicyDocument=text, Tags=tags)
        elif _document(cloud, arn, there["Policy"]["DefaultVersionId"]) != wanted:
            _forget_old_versions(cloud, arn)
            cloud.call("iam", "create_policy_version", PolicyArn=arn, PolicyDocument=text, SetAsDefault=True)
    except ClientError as error:
        if code_of(error) != "AccessDenied":
            raise
        raise LaunchError(_by_hand(name, arn, there is None)) from error


def remove_managed(cloud: Cloud, name: str) -> None:
    """Delete the managed policy ``name``, if there is one and these credentials may; else say who can."""
    arn = Arns(cloud.config, cloud.account).managed(name)
    if found(cloud, "iam", "get_policy", PolicyArn=arn) is None:
        return
    try:
        _forget_old_versions(cloud, arn)
        found(cloud, "iam", "delete_policy", PolicyArn=arn)
    except ClientError as error:
        if code_of(error) != "AccessDenied":
            raise
        cloud.say(f"{arn} is left, and free: an administrator may run aws iam delete-policy --policy-arn {arn}")


def _document(cloud: Cloud, arn: str, version: str) -> dict[str, Any]:
    answer = cloud.call("iam", "get_policy_version", PolicyArn=arn, VersionId=version)
    return dict(answer["PolicyVersion"]["Document"])


def _forget_old_versions(cloud: Cloud, arn: str) -> None:
    """IAM keeps five versions at most, and deletes no policy with more than one."""
    for version in cloud.pages("iam", "list_policy_versions", "Versions", PolicyArn=arn):
        if not version["IsDefaultVersion"]:
            found(cloud, "iam", "delete_policy_version", PolicyArn=arn, VersionId=version["VersionId"])


def _by_hand(name: str, arn: str, is_missing: bool) -> str:
    file = f"--policy-document file://{name}.json"
    make = f"create-policy --policy-name {arn.rpartition('/')[2]} {file}"
    renew = f"create-policy-version --policy-arn {arn} {file} --set-as-default"
    return (
        f"The managed policy {arn} is {'missing' if is_missing else 'not what these settings need'}. These credentials"
        " may not make it, and should not. Let an administrator run `python -m launch setup`, or:\n"
        f"  python -m launch plan --policy {name} > {name}.json\n  aws iam {make if is_missing else renew}"
    )
