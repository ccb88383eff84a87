"""Every call to AWS goes through ``Cloud.call``: retried, recorded when it changes something, found again by tag."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config as ClientConfig
from botocore.exceptions import BotoCoreError, ClientError

from launch.config import Config
from launch.errors import Away, LaunchError, explained
from launch.revision import commit_of

EXPERIMENT, ROLE = "zoobot:experiment", "zoobot:role"  # tags: whose, and what for
DAY, RESULT = "zoobot:day", "zoobot:result"  # of the volume: the last day, and how it ended; of a machine: its day
JOB, MONTH = "zoobot:job", "zoobot:job_month"  # of the volume: `name digest machines`, `month machines`; of a machine
PROGRESS, JOB_RESULT = "zoobot:progress", "zoobot:job_result"  # of the volume, by the machine: both begin with a name
ENDED, VOLUME = (
    "zoobot:ended",
    "zoobot:volume",
)  # of the volume: the machine that `down` ended; of a machine: its volume
DRIVER, STARTS = "zoobot:driver", "zoobot:starts"  # of a machine: who started it; of the volume: `day count`
REGION = "zoobot:region"  # of a role, whose name is the same in all regions
COUNTS = (STARTS, JOB, MONTH)  # of the volume: what was spent, which a restored volume inherits
WORKING_VOLUME = "working_volume"
READS = ("describe_", "get_", "list_")
_AWAY = {
    "RequestLimitExceeded",
    "Throttling",
    "ThrottlingException",
    "InternalError",
    "ServiceUnavailable",
    "Unavailable",
}
_CLIENT = ClientConfig(retries={"mode": "standard", "max_attempts": 6}, connect_timeout=10, read_timeout=60)


def code_of(error: ClientError) -> str:
    """AWS's name for what went wrong."""
    return str(error.response.get("Error", {}).get("Code", ""))


def tags_of(thing: dict[str, Any]) -> dict[str, str]:
    """The tags in a description."""
    return {tag["Key"]: tag["Value"] for tag in thing.get("Tags", [])}


def tag_list(**tags: str) -> list[dict[str, str]]:
    """Tags as AWS wants them; ``driver="x"`` is the tag ``zoobot:driver``."""
    return [{"Key": f"zoobot:{key}", "Value": value} for key, value in tags.items()]


def split_address(address: str) -> tuple[str, str]:
    """The bucket and the prefix, without slashes at its ends, of s3://bucket/prefix."""
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    return bucket, prefix.strip("/")


@dataclass
class Cloud:
    """AWS as one experiment sees it. Clock and sleep are arguments, so that thirty days pass in a test."""

    config: Config
    command: str = "-"
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], None] = time.sleep
    say: Callable[[str], None] = lambda text: print(text, flush=True)
    _clients: dict[str, Any] = field(default_factory=dict)

    def client(self, service: str) -> Any:
        """The client of a service, in the experiment's region."""
        if service not in self._clients:
            with _patient(f"the client of {service}"):
                self._clients[service] = boto3.client(service, region_name=self.config.region, config=_CLIENT)
        return self._clients[service]

    def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """One call. ClientError as AWS gave it; LaunchError with what to do if credentials, clock or region are wrong;
        Away if AWS cannot be reached or asks for patience.
        """
        changes = not operation.startswith(READS)
        if changes:
            self.note(f"{service}:{operation}")
        try:
            with _patient(f"{service} {operation}"):
                answer: dict[str, Any] = getattr(self.client(service), operation)(**parameters)
        except (ClientError, LaunchError) as error:
            if changes:
                self.note(
                    f"{service}:{operation}", error=code_of(error) if isinstance(error, ClientError) else str(error)
                )
            raise
        if changes:
            self.note(f"{service}:{operation}", done=ids_in(answer))
        return answer

    def pages(self, service: str, operation: str, key: str, **parameters: Any) -> list[dict[str, Any]]:
        """The items of all pages of a listing; errors as in ``call``."""
        with _patient(f"{service} {operation}"):
            pages = self.client(service).get_paginator(operation).paginate(**parameters)
            return [item for page in pages for item in page.get(key, [])]

    def mine(self, operation: str, key: str, **tags: str) -> list[dict[str, Any]]:
        """What EC2 describes of this experiment, with these tags."""
        wanted = {"experiment": self.config.experiment, **tags}
        filters = [{"Name": f"tag:zoobot:{name}", "Values": [value]} for name, value in wanted.items()]
        return self.pages("ec2", operation, key, Filters=filters)

    def wait(self, what: str, done: Callable[[], Any], timeout_s: float, every_s: float = 5) -> Any:
        """What ``done`` returns, as soon as it is true. Away: it never was, for ``timeout_s`` seconds."""
        until = self.now().timestamp() + timeout_s
        while not (found := done()):
            if self.now().timestamp() >= until:
                raise Away(f"Waited {timeout_s:.0f} s in vain for {what}.")
            self.sleep(every_s)
        return found

    def settle(self, codes: Container[str], service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """A call, repeated for a minute while it fails with these codes: what was just made is not known everywhere."""
        until = self.now().timestamp() + 60
        while True:
            try:
                return self.call(service, operation, **parameters)
            except ClientError as error:
                if code_of(error) not in codes or self.now().timestamp() >= until:
                    raise
            self.sleep(5)

    @cached_property
    def account(self) -> str:
        """The number of the account whose credentials are used."""
        return str(self.call("sts", "get_caller_identity")["Account"])

    def commit(self) -> str:
        """The commit that `revision` is now."""
        return commit_of(self.config)

    @cached_property
    def today(self) -> str:
        """The day of an iteration, in UTC: that on which the command began, even if it goes on past midnight."""
        return self.now().astimezone(UTC).date().isoformat()

    def note(self, step: str, **more: Any) -> None:
        """A line in the record of steps: one before a change, one after it with the ids or the error."""
        line = {"at": self.now().isoformat(timespec="seconds"), "command": self.command, "step": step, **more}
        try:
            with self._file("jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:  # a full disk must not keep a machine from being ended
            self.say(f"record: {step} could not be written down ({error})")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """This computer runs one command on an experiment at a time; the lock goes with the process."""
        try:
            file = self._file("lock").open("w")
        except OSError as error:
            raise LaunchError(
                f"record: {self.config.record} cannot be written ({error}). Name another folder."
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise LaunchError(
                    f"Another command on {self.config.experiment} runs on this computer. Wait for it, or stop it.",
                    1,
                ) from error
            yield

    def _file(self, ending: str) -> Path:
        folder = Path(self.config.record)
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{self.config.experiment}.{ending}"


@contextmanager
def _patient(what: str) -> Iterator[None]:
    """Distinguish what may work later from what will not, and say what to do (launch/errors.py)."""
    try:
        yield
    except ClientError as error:
        if code_of(error) in _AWAY:
            raise Away(f"AWS asks for patience ({what}: {error}). Run the same command later.") from error
        if told := explained(error, what):
            raise told from error
        raise
    except (BotoCoreError, ValueError) as error:
        raise explained(error, what) or error from error


def ids_in(answer: Any) -> list[str]:
    """The ids, names and ARNs in an answer: what a change made or touched."""
    if isinstance(answer, list):
        return [found for item in answer for found in ids_in(item)]
    if not isinstance(answer, dict):
        return []
    found = []
    for key, value in answer.items():
        if (
            key.endswith(("Id", "Arn", "Name"))
            and isinstance(value, str)
            and key not in ("RequestId", "HostId", "OwnerId")
        ):
            found.append(value)
        elif key not in ("ResponseMetadata", "LaunchTemplateData"):
            found += ids_in(value)
    return list(dict.fromkeys(found))
