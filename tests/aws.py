"""AWS for tests: moto's server on 127.0.0.1, behind a layer that is as strict as AWS where moto is not.

    client tokens     RunInstances and CreateVolume, repeated with one: the same answer; with other parameters: an
                      error; for a machine that is gone: IdempotentInstanceTerminated
    AttachVolume      only a free volume, to a running machine in its zone
    Systems Manager   knows only running machines that have booted; a command ends when its machine says so
    Scheduler         refuses a bad cron expression, and calls RunInstances as the schedule says, if its role may
    Budgets           with actions that act (tests/aws_budgets.py)
    EventBridge       tells by Systems Manager that a capacity reservation is taken back, if its role may
    DeleteVolume      only a free volume
    CreateImage       takes five minutes, and tags the snapshot as it is told to
    the clock         machines and snapshots are as old as the test's clock says
    machines          do what environment.sh does (which tests/test_launch_environment.py runs for real): attach the
                      volume by the API, iterate, tag the volume, shut down

``World.faults`` makes calls fail, ``World.calls`` lists all calls, ``World.bills`` the cost of machines.
"""

from __future__ import annotations

import copy
import html
import io
import itertools
import json
import os
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Any

import boto3
from botocore.awsrequest import AWSResponse
from moto.backends import get_backend
from moto.core import responses
from moto.core.botocore_stubber import MockRawResponse
from moto.kms import models as kms
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.ssm.models import Parameter
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from launch import cost
from launch.cron import problems_of
from tests.aws_budgets import Budgets
from tests.aws_machine import Disk, Machine
from tests.policies import ACCOUNT, PLACE, REGION, Ask, run_instances

AMI_PARAMETER = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}
os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"  # 1,300 images
# Cached: moto searches a class for methods at each call, and makes an RSA key per account with an encrypted volume.
responses.method_names_from_class = cache(responses.method_names_from_class)  # type: ignore[attr-defined]
kms.generate_private_key = cache(kms.generate_private_key)  # type: ignore[attr-defined]
Answer = Callable[[dict[str, str], Any], Iterable[bytes]]


@dataclass
class Call:
    """One request: the service, the operation, and its parameters as received (flat for EC2, else JSON)."""

    service: str
    operation: str
    parameters: dict[str, Any]


class World:
    """One account on one server, and its clock; ``with World() as world``."""

    def __init__(self, start: datetime = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)) -> None:
        self.clock = start
        self.calls: list[Call] = []
        self.faults: list[Callable[[Call], str | None]] = []
        self.machines: dict[str, Machine] = {}
        self.disks: dict[str, Disk] = {}
        self.trainings: list[tuple[str, str]] = []
        self.training_of: Callable[[str], str] = lambda day: "good"
        self.job_of: Callable[[str], str] = lambda job: "good"  # how each machine of a job ends
        self.job_machines: list[tuple[str, str]] = []  # that began with a job: its name, and the machine
        self.units_of: Callable[[list[str]], int] = lambda words: 3 * ("stage=simulate" in words)  # iterations
        self.unit_s = 300.0
        self.detach_s: Callable[[str], float] = lambda machine: self.shutdown_s
        self.boot_s, self.train_s, self.shutdown_s = 9.0, 29.0, 9.0
        self.max_runtime_s = 4 * 3600
        self.snapshot_takes_s, self.image_takes_s = 300.0, 300.0
        self.snapshots: dict[str, Disk] = {}
        self.budgets = Budgets(self)
        self._due: list[tuple[datetime, int, Callable[[], None]]] = []
        self._tokens: dict[tuple[str, str], tuple[str, str, bytes]] = {}
        self._lock = threading.RLock()

    def __enter__(self) -> World:
        self._clients: dict[str, Any] = {}
        self.lent: dict[str, Any] = {}
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._applications: dict[str, Any] = {}  # of moto, by service
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True, request_handler=_Quiet)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.reset()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def reset(self) -> None:
        """An empty account, with AWS's own parameter that names the AMI."""
        self.__init__(datetime(2026, 3, 1, 2, 0, tzinfo=UTC))  # type: ignore[misc]
        for service in ("ec2", "events", "iam", "ssm", "scheduler", "sqs", "s3"):
            get_backend(service).reset()
        image = self.ec2.register_image("theirs")
        self.ec2.snapshots.clear()  # of that image
        given = (ACCOUNT, AMI_PARAMETER, image.id, "String", None, None, None, self.clock, 1, "aws:ec2:image")
        self.ssm._parameters[AMI_PARAMETER] = [Parameter(*given)]  # type: ignore[abstract]

    # ------------------------------------------------------------------------------------------------ the clock

    def now(self) -> datetime:
        return self.clock

    def sleep(self, seconds: float) -> None:
        """Let time pass; events that fall due happen at their time."""
        until = self.clock + timedelta(seconds=seconds)
        while self._due and min(self._due)[0] <= until:
            event = min(self._due)
            self._due.remove(event)
            self.clock = max(self.clock, event[0])
            event[2]()
        self.clock = until

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        self._due.append((self.clock + timedelta(seconds=seconds), next(_NUMBERS), act))

    def client(self, service: str) -> Any:
        """A client for a machine or AWS itself: its calls are not counted."""
        if service not in self._clients:
            self._clients[service] = boto3.client(
                service, endpoint_url=self.endpoint, region_name=REGION, aws_access_key_id=INSIDE,
                aws_secret_access_key="testing",
            )  # fmt: skip
            self.connect(self._clients[service])
        return self._clients[service]

    @property
    def ec2(self) -> Any:
        """Moto's state of EC2."""
        return get_backend("ec2")[ACCOUNT][REGION]

    @property
    def ssm(self) -> Any:
        """Moto's state of Systems Manager."""
        return get_backend("ssm")[ACCOUNT][REGION]

    # ------------------------------------------------------------------------------------------------ what came of it

    def running(self) -> list[Machine]:
        return [m for m in self.machines.values() if not m.ended]

    def spent(self) -> float:
        """US dollars for machines so far."""
        hours = [((m.ended or self.clock) - m.started).total_seconds() / 3600 for m in self.machines.values()]
        rates = [cost.hourly(m.kind, m.market) for m in self.machines.values()]
        return sum(h * rate for h, rate in zip(hours, rates, strict=True))

    def volumes(self, role: str) -> list[Any]:
        tags = {v.id: {t["key"]: t["value"] for t in v.get_tags()} for v in self.ec2.volumes.values()}
        return [v for v in self.ec2.volumes.values() if tags[v.id].get("zoobot:role") == role]

    @property
    def disk(self) -> Disk:
        """The content of the one volume that holds all state."""
        (volume,) = self.volumes("working_volume")
        return self.disks[volume.id]

    def disk_of(self, experiment: str) -> Disk:
        """The content of an experiment's volume, of several."""
        named = {v.id: [t["value"] for t in v.get_tags()] for v in self.volumes("working_volume")}
        (volume_id,) = [name for name, values in named.items() if experiment in values]
        return self.disks[volume_id]

    # ------------------------------------------------------------------------------------------------ what AWS does

    def end(self, instance_id: str) -> None:
        """A machine shuts down: its own disk is deleted, and the volume is released some time later."""
        instance, machine = self.ec2.get_instance(instance_id), self.machines[instance_id]
        if machine.ended:
            return
        machine.ended, machine.online, machine.mounted = self.clock, False, False
        for device, mapping in list(instance.block_device_mapping.items()):
            if not mapping.delete_on_termination:
                del instance.block_device_mapping[device]
                self.later(self.detach_s(instance_id), partial(self._let_go, mapping.volume_id, instance_id))
        instance.terminate()
        instance._state.name, instance._state.code = "shutting-down", 32
        self.later(self.shutdown_s, lambda: self._terminated(instance))

    def _terminated(self, instance: Any) -> None:
        instance._state.name, instance._state.code = "terminated", 48
        self.later(3600, lambda: self._forgotten(instance))

    def _forgotten(self, instance: Any) -> None:
        """EC2 describes a machine for an hour after its end."""
        for key, reservation in list(self.ec2.reservations.items()):
            if instance in reservation.instances:
                del self.ec2.reservations[key]
        self._untag(instance.id)

    def _untag(self, name: str) -> None:
        """Remove the tags of something that is gone: moto keeps them, and reads all tags for each description."""
        self.ec2.tags.pop(name, None)

    def _let_go(self, volume_id: str, instance_id: str) -> None:
        volume = self.ec2.volumes.get(volume_id)
        if volume and volume.attachment and volume.attachment.instance.id == instance_id:
            volume.attachment = None

    def set_command(self, command_id: str, status: str, output: str = "") -> None:
        command = self.ssm.get_command_by_id(command_id)
        command.status = status
        for invocation in command.invocations:
            invocation["Status"], invocation["StandardOutputContent"] = status, output

    def snapshot_by(self, machine: Machine) -> None:
        tags = {
            "zoobot:experiment": machine.tags["zoobot:experiment"],
            "zoobot:day": " ".join(filter(None, (machine.day, machine.tags.get("zoobot:job")))),
            "zoobot:role": "daily",
        }
        self.client("ec2").create_snapshot(
            VolumeId=machine.volume,
            TagSpecifications=[{"ResourceType": "snapshot", "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}],
        )

    def fire(self, name: str, at: datetime) -> bool:
        """EventBridge Scheduler at a scheduled time: RunInstances, retries, and at last the dead-letter queue."""
        schedule = self.client("scheduler").get_schedule(Name=name)
        if schedule["State"] != "ENABLED":
            return False
        target = schedule["Target"]
        assert target["Arn"] == "arn:aws:scheduler:::aws-sdk:ec2:runInstances"
        text = target["Input"].replace("<aws.scheduler.scheduled-time>", f"{at:%Y-%m-%dT%H:%M:%SZ}")
        policy = target["RetryPolicy"]
        for _ in range(1 + policy["MaximumRetryAttempts"]):
            message = self._start_as(target["RoleArn"].rpartition("/")[2], json.loads(text))
            if not message:
                return True
            self.sleep(policy["MaximumEventAgeInSeconds"] / policy["MaximumRetryAttempts"])
        queue = target["DeadLetterConfig"]["Arn"].rpartition(":")[2]
        sqs = self.client("sqs")
        sqs.send_message(QueueUrl=sqs.get_queue_url(QueueName=queue)["QueueUrl"], MessageBody=message)
        return False

    def _start_as(self, role: str, request: dict[str, Any]) -> str:
        """RunInstances by a role; why not, if it fails."""
        template = self.ec2.launch_templates[request["LaunchTemplate"]["LaunchTemplateId"]].default_version().data
        refused = self.budgets.refuses(role, run_instances(request, template, self.tags))
        if refused:
            return f"UnauthorizedOperation: {role} may not {refused[0].action} {refused[0].resource}"
        ec2 = self.client("ec2")
        try:
            ec2.run_instances(**request)
        except ec2.exceptions.ClientError as error:
            return str(error)
        return ""

    def reclaim(self, machine_id: str) -> int:
        """The machine's capacity reservation is taken back: EventBridge says so, and two minutes later the machine is
        ended. How many machines were told.
        """
        event = {"source": "aws.ec2", "detail-type": "EC2 Capacity Reservation Instance Interruption Warning",
                 "detail": {"instance-id": machine_id, "instance-action": "terminate"}}  # fmt: skip
        told = 0
        for rule in get_backend("events")[ACCOUNT][REGION].event_buses["default"].rules.values():
            for target in rule.targets if rule.event_pattern.matches_event(event) else []:
                (wanted,) = target["RunCommandParameters"]["RunCommandTargets"]
                text = target["InputTransformer"]["InputTemplate"].replace("<id>", machine_id)
                (command,) = json.loads(text)["commands"]
                for machine in self.running():
                    if machine.online and machine.tags.get(wanted["Key"].removeprefix("tag:")) in wanted["Values"]:
                        told += self._command_as(target, machine, command)
        if machine_id in self.machines:
            self.later(120, lambda: self.end(machine_id))
        return told

    def _command_as(self, target: dict[str, Any], machine: Machine, command: str) -> int:
        tags = {f"ssm:resourceTag/{key}": value for key, value in machine.tags.items()}
        asks = [
            Ask("ssm:SendCommand", target["Arn"]),
            Ask("ssm:SendCommand", f"{PLACE}:instance/{machine.id}", {**tags}),
        ]
        if self.budgets.refuses(target["RoleArn"].rpartition("/")[2], asks):
            return 0
        machine.told(command)
        return 1

    def tags(self, resource_id: str) -> dict[str, str]:
        """The tags of something of EC2."""
        return {t["key"]: t["value"] for t in self.ec2.describe_tags({"resource-id": [resource_id]})}

    # ------------------------------------------------------------------------------------------------ the server

    def _serve(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        return self._answer(Request(environ))(environ, start)

    def _answer(self, request: Request) -> Response:
        call, inside = _read(request)
        with self._lock:
            if not inside:
                self.calls.append(call)
                for fault in self.faults:
                    if code := fault(call):
                        self.lent = self.lent if code not in LATER else {}  # a client's patience ends
                        return _error(call, code, "a fault of the test")
            return self._strictly(call, request)

    def connect(self, client: Any) -> None:
        """Answer this client in its own process, without a connection, which takes half the time."""
        client.meta.events.register("before-send", self._hand_over)

    def _hand_over(self, request: Any, **_: Any) -> AWSResponse:
        at = urllib.parse.urlsplit(request.url)
        given = {name: v.decode() if isinstance(v, bytes) else str(v) for name, v in request.headers.items()}
        body = request.body.read() if hasattr(request.body, "read") else request.body
        answer = self._answer(
            Request.from_values(
                at.path, f"{at.scheme}://{at.netloc}", at.query, method=request.method, headers=given, data=body
            )
        )
        return AWSResponse(request.url, answer.status_code, answer.headers, MockRawResponse(answer.get_data()))

    def _strictly(self, call: Call, request: Request) -> Response:
        rule: Callable[[dict[str, Any]], Any] | None = getattr(self, f"_before_{call.operation}", None)
        if call.service == "budgets":
            rule = partial(self.budgets.answer, call.operation)
        refused = rule(call.parameters) if rule else None
        if isinstance(refused, Response):
            return refused
        if refused:
            return _error(call, *refused)
        response = self._forward(call.service, request)
        if response.status_code < 300:
            after = getattr(self, f"_after_{call.operation}", None)
            if after:
                after(call.parameters, response)
        return response

    def _forward(self, service: str, request: Request) -> Response:
        environ = dict(request.environ)
        environ["wsgi.input"] = io.BytesIO(request.get_data())
        if service not in self._applications:  # moto looks through its folders for each call
            self._applications[service] = self._moto.get_application(environ)
        return Response.from_app(self._applications[service], environ)

    # Each rule gets the parameters, and returns AWS's refusal (code, message), an answer, or nothing.

    def _before_RunInstances(self, given: dict[str, Any]) -> Any:
        return self._once("RunInstances", given)

    def _after_RunInstances(self, given: dict[str, Any], response: Response) -> None:
        (instance_id,) = re.findall(r"<instanceId>(i-\w+)<", response.get_data(as_text=True))
        instance = self.ec2.get_instance(instance_id)
        instance.launch_time = self.clock
        tags = {tag["key"]: tag["value"] for tag in instance.get_tags()}
        market = given.get("InstanceMarketOptions.MarketType", "on-demand")
        machine = Machine(self, instance_id, tags, instance.instance_type, market, self.clock)
        self.machines[instance_id] = machine
        self._remember("RunInstances", given, instance_id, response)
        self.later(self.boot_s, machine.boot)
        self.later(self.max_runtime_s, machine.power_off)  # the dead-man timer

    def _before_CreateVolume(self, given: dict[str, Any]) -> Any:
        return self._once("CreateVolume", given)

    def _after_CreateVolume(self, given: dict[str, Any], response: Response) -> None:
        (volume_id,) = re.findall(r"<volumeId>(vol-\w+)<", response.get_data(as_text=True))
        self.ec2.volumes[volume_id].create_time = self.clock
        if "SnapshotId" in given:
            self.disks[volume_id] = copy.deepcopy(self.snapshots[given["SnapshotId"]])
        self._remember("CreateVolume", given, volume_id, response)

    def _once(self, operation: str, given: dict[str, Any]) -> Any:
        """The earlier answer to a request with the same client token."""
        known = self._tokens.get((operation, given.get("ClientToken", "")))
        if not known:
            return None
        digest, made, answer = known
        if digest != _digest(given):
            return "IdempotentParameterMismatch", "the token was used with other parameters"
        if made in self.machines and self.machines[made].ended:
            return "IdempotentInstanceTerminated", f"{made} was terminated"
        return Response(answer, content_type="text/xml")

    def _remember(self, operation: str, given: dict[str, Any], made: str, response: Response) -> None:
        if "ClientToken" in given:
            self._tokens[operation, given["ClientToken"]] = (_digest(given), made, response.get_data())

    def _before_TerminateInstances(self, given: dict[str, Any]) -> Any:
        for key, instance_id in given.items():
            if key.startswith("InstanceId") and instance_id in self.machines:
                self.machines[instance_id].hangs = False  # the hypervisor ends a machine that does not end itself
                self.end(instance_id)
        return Response(_xml("TerminateInstances", "<instancesSet/>"), content_type="text/xml")

    def _before_AttachVolume(self, given: dict[str, Any]) -> Any:
        volume = self.ec2.volumes.get(given["VolumeId"])
        machine = self.machines.get(given["InstanceId"])
        if volume is None or machine is None:
            return "InvalidVolume.NotFound", given["VolumeId"]
        if volume.attachment:
            return "VolumeInUse", f"{volume.id} is attached to {volume.attachment.instance.id}"
        if machine.ended:
            return "IncorrectState", f"{machine.id} is not running"
        if volume.zone.name != self._zone_of(machine):
            return "InvalidVolume.ZoneMismatch", f"{volume.id} and {machine.id} are in different zones"
        return None

    def _zone_of(self, machine: Machine) -> str:
        """The zone of the subnet in the template, which moto ignores."""
        name = f"zoobot-{machine.tags.get('zoobot:experiment', 'decals_live')}"
        data = self.ec2.get_launch_template_by_name(name).default_version().data
        return str(self.ec2.get_subnet(data["NetworkInterfaces"][0]["SubnetId"]).availability_zone)

    def _before_DetachVolume(self, given: dict[str, Any]) -> Any:
        volume = self.ec2.volumes[given["VolumeId"]]
        if not volume.attachment:
            return "IncorrectState", f"{volume.id} is available"
        if given.get("Force") == "true":
            self.later(5, lambda: self._let_go(volume.id, volume.attachment.instance.id))
        return Response(_xml("DetachVolume", "<status>detaching</status>"), content_type="text/xml")

    def _before_DeleteVolume(self, given: dict[str, Any]) -> Any:
        volume = self.ec2.volumes.get(given["VolumeId"])
        return ("VolumeInUse", volume.id) if volume is not None and volume.attachment else None

    def _after_CreateSnapshot(self, given: dict[str, Any], response: Response) -> None:
        (snapshot_id,) = re.findall(r"<snapshotId>(snap-\w+)<", response.get_data(as_text=True))
        snapshot = self.ec2.snapshots[snapshot_id]
        snapshot.start_time, snapshot.status = self.clock, "pending"
        self.snapshots[snapshot_id] = copy.deepcopy(self.disks.get(given["VolumeId"], Disk()))
        self.later(self.snapshot_takes_s, lambda: setattr(snapshot, "status", "completed"))

    def _after_DeleteSnapshot(self, given: dict[str, Any], response: Response) -> None:
        self._untag(given["SnapshotId"])

    def _before_CreateImage(self, given: dict[str, Any]) -> Any:
        """Moto cannot tag the snapshot of an image."""
        image = self.ec2.create_image(given["InstanceId"], given["Name"], "", [])
        image.add_tags(_tags_of(given, "image"))
        image.state, image.creation_date = "pending", self.clock
        self.ec2.snapshots[image.ebs_snapshot.id].add_tags(_tags_of(given, "snapshot"))
        self.later(self.image_takes_s, lambda: setattr(image, "state", "available"))
        return Response(_xml("CreateImage", f"<imageId>{image.id}</imageId>"), content_type="text/xml")

    def _before_DescribeInstanceInformation(self, given: dict[str, Any]) -> Any:
        (wanted,) = given["Filters"]
        known = [m for m in self.machines.values() if m.id in wanted["Values"] and m.online]
        listed = [{"InstanceId": m.id, "PingStatus": "Online"} for m in known]
        return Response(json.dumps({"InstanceInformationList": listed}), content_type="application/x-amz-json-1.1")

    def _before_SendCommand(self, given: dict[str, Any]) -> Any:
        unknown = [i for i in given["InstanceIds"] if i not in self.machines or not self.machines[i].online]
        return ("InvalidInstanceId", str(unknown)) if unknown else None

    def _after_SendCommand(self, given: dict[str, Any], response: Response) -> None:
        command = json.loads(response.get_data())["Command"]["CommandId"]
        self.set_command(command, "InProgress")
        self.machines[given["InstanceIds"][0]].when_mounted(command, given["Parameters"]["commands"][0])

    def _before_RemoveRoleFromInstanceProfile(self, given: dict[str, Any]) -> Any:
        profiles = get_backend("iam")[ACCOUNT]["aws"].instance_profiles.values()
        held = [r.name for p in profiles if p.name == given["InstanceProfileName"] for r in p.roles]
        return None if given["RoleName"] in held else ("NoSuchEntity", given["RoleName"])

    def _before_CreateSchedule(self, given: dict[str, Any]) -> Any:
        problems = problems_of(given["ScheduleExpression"])
        return ("ValidationException", "; ".join(problems)) if problems else None

    _before_UpdateSchedule = _before_CreateSchedule


_NUMBERS = itertools.count()
LATER = ("RequestLimitExceeded", "ServiceUnavailable", "ThrottlingException")
INSIDE = "inside"  # the access key of machines and of AWS itself
_SCHEDULER = {"POST": "CreateSchedule", "PUT": "UpdateSchedule", "GET": "GetSchedule", "DELETE": "DeleteSchedule"}


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # a connection serves many calls

    def log(self, type: str, message: str, *args: Any) -> None:
        pass


def _read(request: Request) -> tuple[Call, bool]:
    """The request, and whether it comes from a machine or AWS itself."""
    key, _, _, service = re.findall(r"Credential=([^/]+)/(\d+)/([^/]+)/([^/]+)/", request.headers["Authorization"])[0]
    body = request.get_data()
    if target := request.headers.get("X-Amz-Target"):
        service = service.replace("tagging", "tag")  # as policies call it
        call = Call(service, target.rpartition(".")[2], json.loads(body))
    elif service == "scheduler":
        lists = request.path.rstrip("/") == "/schedules"
        call = Call(service, "ListSchedules" if lists else _SCHEDULER[request.method], json.loads(body or b"{}"))
    elif service == "s3":
        operation = "ListObjectsV2" if "list-type" in request.args else f"{request.method.title()}Object"
        call = Call(service, operation, dict(request.args))
    else:
        flat = dict(urllib.parse.parse_qsl(body.decode()))
        call = Call(service, flat.pop("Action"), flat)
    return call, key == INSIDE


def _tags_of(given: dict[str, Any], kind: str) -> dict[str, str]:
    """The tags that a request of EC2 has for one kind of thing."""
    (number,) = [key.split(".")[1] for key, value in given.items() if key.endswith("ResourceType") and value == kind]
    keys = [key for key in given if re.fullmatch(rf"TagSpecification\.{number}\.Tag\.\d+\.Key", key)]
    return {given[key]: given[key.replace("Key", "Value")] for key in keys}


def _digest(given: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in given.items() if key != "Version"}, sort_keys=True)


def _xml(operation: str, inner: str) -> str:
    return f"<{operation}Response><requestId>strict</requestId>{inner}</{operation}Response>"


def _error(call: Call, code: str, message: str) -> Response:
    """An error in the format of the service."""
    status = 503 if code in LATER else 400
    if call.service in ("ssm", "sqs", "scheduler", "tag", "budgets", "events"):
        text = json.dumps({"__type": code, "message": message})
        headers = {"x-amzn-ErrorType": code}
        return Response(text, status, headers, content_type="application/x-amz-json-1.1")
    inner = f"<Code>{code}</Code><Message>{html.escape(message)}</Message>"
    if call.service == "ec2":
        text = f"<Response><Errors><Error>{inner}</Error></Errors><RequestID>strict</RequestID></Response>"
    else:
        text = f"<ErrorResponse><Error><Type>Sender</Type>{inner}</Error><RequestId>strict</RequestId></ErrorResponse>"
    return Response(text, status, content_type="text/xml")
