"""A machine of EC2 for tests of environment.sh: a disk image behind a loop device, in a mount namespace of its own.

Stand-ins, all in a folder of the test's: `aws` (which "attaches" by making the link that udev would make, and records
every call), the metadata service (on 127.0.0.1), powering off (a file), and for most tests run.py (a few lines).
Without root or loop devices the tests skip, visibly.
"""

from __future__ import annotations

import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from launch.config import Config

ROOT = Path(__file__).resolve().parents[1]
VOLUME = "vol-0123456789abcdef0"
SECRET = "a-secret-that-must-stay-in-memory"
AWS = """#!/bin/bash
echo "$*" >>"$BASE/aws.log"
case "$1 $2" in
  "ec2 attach-volume")
    if [[ -e $BASE/held ]]; then echo "VolumeInUse" >&2; exit 254; fi
    ln -sf "$LOOP" "$DISKS/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0" ;;
  "ec2 describe-volumes") cat "$BASE/held" ;;
  "ec2 describe-instances") echo "$HOLDER_STATE 2020-01-01T00:00:00+00:00" ;;
  "ec2 terminate-instances" | "ec2 detach-volume") rm "$BASE/held" ;;
  "ssm get-parameter") echo "$SECRET" ;;
  "s3 cp") mkdir -p "$BASE/s3/${6#s3://}" && cp -r "$5/." "$BASE/s3/${6#s3://}" ;;
  "s3 sync") mkdir -p "$5" && cp -r "$BASE/s3/${4#s3://}." "$5" ;;
esac
"""
RUN = """import hashlib, pathlib, sys, time
given = dict(word.partition("=")[::2] for word in sys.argv[1:])
print(sys.argv[1:], flush=True)
kind = "live" if given["stage"] == "iterate" else "simulations"
folder = pathlib.Path(given["data_dir"], "experiments", kind, given.get("experiment_name", "-"))

def make(number):
    staging = folder / f".iteration_{number}.staging"
    staging.mkdir(exist_ok=True, parents=True)
    before = (folder / f"iteration_{number - 1}/manifest.json").read_text() if number else "nothing"
    (staging / "manifest.json").write_text(hashlib.sha256(before.encode()).hexdigest())
    open("/dev/shm/" + given.get("tag", "zoobot-none"), "w").write("running")
    time.sleep(float(given.get("seconds", 0)))
    staging.rename(folder / f"iteration_{number}")

if given["stage"] == "iterate":
    make(len(list(folder.glob("iteration_*"))))
elif given["stage"] == "simulate":
    for number in range(len(list(folder.glob("iteration_*"))), int(given["n"])):
        make(number)
    (folder / "tracking").mkdir(exist_ok=True)
    (folder / "tracking/history.json").write_text("{}")
elif given["stage"] == "report":
    (pathlib.Path(given["data_dir"]) / "report").mkdir(exist_ok=True)
    (pathlib.Path(given["data_dir"]) / "report/report.html").write_text("the report")
sys.exit(int(given.get("status", 0)))
"""
SWEEP = """import sys
given = dict(word.partition("=")[::2] for word in sys.argv[1:])
if given["stage"] == "simulate":
    folder = given["data_dir"] + "/experiments/simulations/" + given["experiment_name"]
    print("simulate", "simulations", given["n"], folder, sep="\\t")
"""


@pytest.fixture(scope="session")
def loop_devices() -> None:
    """What environment.sh needs."""
    if os.geteuid() or not shutil.which("losetup") or not Path("/dev/loop-control").exists():
        pytest.skip("needs root and loop devices")


class Metadata(http.server.BaseHTTPRequestHandler):
    """IMDSv2: nothing without a token."""

    notice = False
    asked: list[str] = []  # noqa: RUF012
    tags: dict[str, str] = {}  # noqa: RUF012
    instance = "i-0123456789abcdef0"

    def do_PUT(self) -> None:
        self.answer(200, "the-token")

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        if self.headers.get("X-aws-ec2-metadata-token") != "the-token":
            self.answer(401, "")
        elif self.path.endswith("/spot/instance-action"):
            self.answer(200 if self.notice else 404, "{}")
        elif self.path.endswith("/instance-id"):
            self.answer(200, self.instance)
        else:
            tag = self.tags.get(self.path.rpartition("zoobot:")[2])
            self.answer(200 if tag else 404, tag or "")

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@dataclass
class Host:
    """A machine: its scripts, its disk, and what was called."""

    base: Path
    loop: str
    environment: dict[str, str]
    training: Path  # there once run.py works

    def script(self, command: str, **more: str) -> subprocess.CompletedProcess[str]:
        return self.shell(f"{self.base}/launch/environment.sh {command}", **more)

    def shell(self, text: str, **more: str) -> subprocess.CompletedProcess[str]:
        """In the mount namespace of this machine, where only its own mounts are seen."""
        return subprocess.run(
            ["nsenter", f"--mount={self.base}/ns/mount", "bash", "-c", text],
            env=self.environment | more, capture_output=True, text=True, timeout=90 if "EC2_ALL" in os.environ else 30,
        )  # fmt: skip

    def disk(self, command: str) -> None:
        subprocess.run(f"{command} {self.loop}", shell=True, check=True, capture_output=True)

    @property
    def results(self) -> list[str]:
        return self.tagged("result")

    def tagged(self, name: str) -> list[str]:
        """What the volume was tagged with, over time."""
        lines = (self.base / "aws.log").read_text().splitlines() if (self.base / "aws.log").exists() else []
        return [line.partition(f"zoobot:{name},Value=")[2] for line in lines if f"zoobot:{name}," in line]

    @property
    def off(self) -> bool:
        return (self.base / "off").exists()

    def signatures(self) -> str:
        return subprocess.run(["blkid", "-p", self.loop], capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a run.py of a few lines, and a lock that needs nothing."""
    folder = tmp_path_factory.mktemp("code")
    (folder / "run.py").write_text(RUN)
    (folder / "zoobot").mkdir()
    (folder / "zoobot" / "sweep.py").write_text(SWEEP)
    (folder / "requirements-gpu.lock").write_text("")
    (folder / ".gitignore").write_text("data/\n")
    git = "git -c user.name=t -c user.email=t@example.org"
    command = f"git init -q -b main . && git add . && {git} commit -qm x"
    subprocess.run(command, shell=True, cwd=folder, check=True)
    return folder


def head(repository: Path) -> str:
    """The newest commit."""
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, check=True, capture_output=True,
                          text=True).stdout.strip()  # fmt: skip


@pytest.fixture
def host(tmp_path: Path, ec2: Config, code: Path, loop_devices: None) -> Iterator[Host]:
    """A machine with a blank disk of 96 MB, for an operator on 2026-03-01."""
    from launch import userdata  # here: conftest.py imports this file, and other tests need no boto3
    from launch.config import Config

    base = tmp_path / "host"
    for name in ("launch", "bin", "disks", "ns", "state"):
        (base / name).mkdir(parents=True)
    shutil.copytree(code, base / "code")
    tag = f"zoobot-{base.parent.name}-{os.getpid()}"
    settings = userdata.settings(
        Config(
            **{
                **vars(ec2), "repository": str(base / "code"), "revision": head(base / "code"), "logs": "s3://bucket/logs",
                "results": "s3://bucket/results",
                "arguments": (f"tag={tag}", "seconds=0.2", "odd=it's $HOME"),
            }
        )
    )  # fmt: skip
    for path in (ROOT / "launch").glob("*.sh"):
        shutil.copy(path, base / "launch")
    (base / "launch" / "settings").write_text(settings)
    venv = base / "opt" / "venv"  # as an image has it that was baked
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    (venv / ".lock").write_text(hashlib.sha256(b"").hexdigest() + "\n")
    for name, text in {"aws": AWS, "off": '#!/bin/bash\ntouch "$BASE/off"\n'}.items():
        (base / "bin" / name).write_text(text)
        (base / "bin" / name).chmod(0o755)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()  # else 0.5 s to its end
    Metadata.notice, Metadata.asked, Metadata.instance = False, [], "i-0123456789abcdef0"
    Metadata.tags = {"driver": "operator", "volume": VOLUME, "day": "2026-03-01T03:00:00Z"}
    image = base / "disk.img"
    subprocess.run(["truncate", "-s", "96M", image], check=True)
    loop = subprocess.run(["losetup", "-f", "--show", image], check=True, capture_output=True, text=True).stdout.strip()
    environment = os.environ | {
        "BASE": str(base), "LOOP": loop, "DISKS": str(base / "disks"), "MOUNT": str(base / "mnt"), "SECRET": SECRET,
        "STATE": str(base / "state"), "OPT": str(base / "opt"), "IMDS": f"http://127.0.0.1:{server.server_port}/latest",
        "OWNER": "root", "POWEROFF": str(base / "bin/off"), "MIN_FREE_MB": "8", "READY_S": "1", "EVERY_S": "0.2",
        "ATTACH_EVERY_S": "0", "LOOK_S": "0.1", "LINGER_S": "0.5", "PROGRESS_S": "0.2", "JOB_WAIT_S": "8",
         "LOCK": "requirements-gpu.lock", "PATH": f"{base / 'bin'}:{os.environ['PATH']}",
        "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*", "HOME": str(base),
    }  # fmt: skip
    subprocess.run(["mount", "--bind", "--make-private", base / "ns", base / "ns"], check=True)
    (base / "ns" / "mount").touch()
    subprocess.run(["unshare", f"--mount={base}/ns/mount", "--propagation", "private", "true"], check=True)
    try:
        yield Host(base, loop, environment, Path("/dev/shm", tag))
    finally:
        (base / "state").mkdir(exist_ok=True)
        (base / "state" / "closing").touch()  # the watch ends
        subprocess.run(["umount", base / "ns" / "mount"], check=False)
        subprocess.run(["umount", base / "ns"], check=False)
        subprocess.run(["losetup", "-d", loop], check=False)
        Path("/dev/shm", tag).unlink(missing_ok=True)
        server.shutdown()
        server.server_close()
