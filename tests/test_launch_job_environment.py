"""environment.sh job for real, on the machine of tests/launch_host.py: done, interrupted, refused."""

from __future__ import annotations

import hashlib
import shlex
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.launch_host import ROOT, Host, Metadata, head
from tests.launching import ALL

SIMULATE = ("run.py", "stage=simulate", "experiment_name=it's $A", "n=3", "seconds=0.1")
REPORT = ("run.py", "stage=report")


class Machine(threading.Thread):
    """A machine of the job `sweep` that has booted, and what `job` printed."""

    def __init__(self, host: Host, number: int = 1, **more: str) -> None:
        super().__init__(target=lambda: host.script("boot", **more))
        Metadata.tags |= {"driver": "job", "job": "sweep"}
        Metadata.instance, Metadata.notice = f"i-{number:017}", False
        for name in ("state", "off"):
            path = host.base / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        self.host = host
        (host.base / "state").mkdir()
        self.start()

    def job(self, *commands: tuple[str, ...], hours: float = 1) -> subprocess.CompletedProcess[str]:
        """Give it its commands, as the driver does, and wait for its end."""
        words = [word for command in commands for word in ("--", *command)]
        done = self.host.script(shlex.join(["job", str(int(hours * 3600)), *words]))
        self.join(30)
        until = time.monotonic() + 20
        while not self.host.off and time.monotonic() < until:  # the watch for spot notices is another process
            time.sleep(0.05)
        assert self.host.off and self.host.shell('mountpoint "$MOUNT"').returncode != 0
        return done


def on_disk(host: Host, command: str) -> str:
    """What a command says in the folder root of the volume."""
    return host.shell(f'mount "$LOOP" "$MOUNT" && cd "$MOUNT/root" && {{ {command}; }}; cd / && umount "$MOUNT"').stdout


DIGESTS = "cat repos/zoobot/data/experiments/simulations/*/iteration_*/manifest.json"


def test_a_job_is_done_and_the_machine_goes_by_itself(host: Host) -> None:
    done = Machine(host).job(SIMULATE, REPORT)
    assert done.returncode == 0 and "experiment_name=it's $A" in done.stdout, done.stderr
    assert host.tagged("job_result") == ["sweep i-00000000000000001 done: 2 commands"] and host.results == []
    last = host.tagged("progress")[-1]
    assert last.startswith("sweep commands=2/2 iterations=3/3 made=3 hours=0.0")
    results = host.base / "s3/bucket/results/decals_live/sweep"
    assert (results / "report/report.html").read_text() == "the report"
    assert (results / "experiments/simulations/it's $A/tracking/history.json").exists()
    calls = (host.base / "aws.log").read_text()
    assert "--exclude * --include simulations/it's $A/tracking/*" in calls
    assert calls.index("s3 cp") < calls.index("zoobot:job_result") < calls.index("ec2 create-snapshot")
    assert (host.base / "s3/bucket/logs/decals_live/2026-03-01/sweep.log").exists()
    again = Machine(host, 2).job(SIMULATE, REPORT)
    assert again.returncode == 0 and host.tagged("job_result")[-1].endswith("done: 2 commands")
    log = (host.base / "s3/bucket/logs/decals_live/2026-03-01/sweep.log").read_text()
    assert log.count("stage=simulate") == log.count("stage=report") == 1, "what is done is not done again"
    assert on_disk(host, "ls jobs/sweep jobs/sweep/machines").split()[:4] == [
        "jobs/sweep:",
        "1.done",
        "2.done",
        "begun",
    ]
    other = Machine(host, 3).job(SIMULATE)
    assert "failed: sweep is the name of other commands: take another one" in host.tagged("job_result")[-1]
    assert other.returncode == 0


@pytest.mark.long
def test_an_interrupted_job_goes_on_to_the_same_digests(host: Host) -> None:
    """A spot notice at each of two machines; one that was lost without a word; the fourth finishes."""
    slow = (*SIMULATE[:3], "n=4", "seconds=0.6", f"tag={host.training.name}")
    for number in (1, 2):
        machine = Machine(host, number)
        host.training.unlink(missing_ok=True)
        threading.Thread(target=notice, args=(host,)).start()
        machine.job(slow, REPORT)
        assert host.tagged("job_result")[-1] == f"sweep i-{number:017} interrupted: AWS took the machine back"
    machine = Machine(host, 3)
    machine.job(slow, REPORT)
    assert host.tagged("job_result")[-1].endswith("done: 2 commands")
    assert "iterations=4/4 made=4" in host.tagged("progress")[-1]
    assert on_disk(host, "cat jobs/sweep/machines/* | wc -l").strip() == "3"
    expected, digest = "", "nothing"
    for _ in range(4):
        digest = hashlib.sha256(digest.encode()).hexdigest()
        expected += digest
    assert on_disk(host, DIGESTS) == expected


def notice(host: Host) -> None:
    until = time.monotonic() + 15
    while not host.training.exists() and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.3)
    Metadata.notice = True


def test_a_command_that_fails_is_named_and_is_where_the_next_machine_begins(host: Host) -> None:
    done = Machine(host).job(SIMULATE, ("run.py", "stage=report", "status=2"), hours=1)
    assert host.tagged("job_result")[-1].endswith(
        "failed: command 2 of 2 ended with status 2: see root/logs/2026-03-01/sweep.log"
    )
    assert "stage=report" in done.stdout, "the end of the log"
    Machine(host, 2).job(SIMULATE, ("run.py", "stage=report", "status=2"))
    log = (host.base / "s3/bucket/logs/decals_live/2026-03-01/sweep.log").read_text()
    assert log.count("stage=simulate") == 1 and log.count("stage=report") == 2


def test_time_is_bounded_by_the_machine_and_by_the_job(host: Host) -> None:
    settings = host.base / "launch" / "settings"
    slow = (*SIMULATE[:4], "seconds=30")
    settings.write_text(settings.read_text().replace("MAX_RUNTIME_S=14400", "MAX_RUNTIME_S=124"))
    Machine(host).job(slow)
    assert host.tagged("job_result")[-1].endswith("cut off: the time of this machine is over")
    Machine(host, 2).job(slow, hours=0.0001)
    assert host.tagged("job_result")[-1].endswith("failed: its hours are used up: raise job_hours")


def test_a_machine_without_a_command_goes(host: Host) -> None:
    machine = Machine(host, JOB_WAIT_S="1")
    machine.join(20)
    assert host.off and host.tagged("job_result")[-1].endswith("failed: no command came in 1 s")


def test_what_is_in_s3_is_copied_to_the_volume(host: Host) -> None:
    source = host.base / "s3/bucket/in/decals"
    source.mkdir(parents=True)
    (source / "table.csv").write_text("a table")
    Machine(host).job(("copy", "s3://bucket/in/", "fingerprint"), ("-c", "print('a', 'table')"))
    assert host.tagged("job_result")[-1].endswith("done: 2 commands")
    assert on_disk(host, "cat repos/zoobot/data/decals/table.csv") == "a table"


@pytest.mark.skipif(not ALL, reason="takes a minute: make test-ec2")
def test_a_real_simulation_that_is_killed_and_resumed_has_the_same_files(host: Host, tmp_path: Path) -> None:
    """run.py itself, in a clone of this checkout: in one go, and by three machines of which two were taken back."""
    use_this_checkout(host, tmp_path)
    subprocess.run(["truncate", "-s", "500M", host.base / "disk.img"], check=True)
    subprocess.run(["losetup", "--set-capacity", host.loop], check=True)
    small = ("survey.n_galaxies=1200", "tracking=disabled", "simulate.iterations=5")
    words = ("run.py", "stage=simulate", "model=pixels", *small)
    listing = "cd repos/zoobot/data && grep -r --include=manifest.json '\"digest\":' . | sort"
    made = []
    for machines in (1, 3):
        subprocess.run(["mkfs.ext4", "-q", "-F", "-L", "working_volume", host.loop], check=True)
        for number in range(1, machines + 1):
            machine = Machine(host, number, PROGRESS_S="0.3")
            if number < machines:
                threading.Thread(target=notice_after, args=(host, 2 * number - 1)).start()
            machine.job(words)
            said = host.tagged("job_result")[-1]
            assert ("interrupted" if number < machines else "done: 1 commands") in said
        assert "iterations=5/5" in host.tagged("progress")[-1]
        made.append(on_disk(host, listing))
    assert made[0] == made[1] and made[0].count("iteration_4/manifest.json") >= 1


def use_this_checkout(host: Host, tmp_path: Path) -> None:
    """The repository and the environment of this checkout, as the machine would have them."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, files.split("\0")):
        (host.base / "code" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, host.base / "code" / name)
    commit = "git init -q -b main . && git add -A && git -c user.name=t -c user.email=t@example.org commit -qm x"
    before = head(host.base / "code")
    shutil.rmtree(host.base / "code" / ".git")
    subprocess.run(commit, shell=True, cwd=host.base / "code", check=True)
    settings = host.base / "launch" / "settings"
    settings.write_text(settings.read_text().replace(before, head(host.base / "code")))
    lock = (ROOT / "requirements-gpu.lock").read_bytes()
    (host.base / "opt/venv/.lock").write_text(hashlib.sha256(lock).hexdigest() + "\n")
    python = host.base / "opt/venv/bin/python"
    python.unlink()
    python.write_text(f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)


def notice_after(host: Host, iterations: int) -> None:
    until = time.monotonic() + 60
    while f"iterations={iterations}/5" not in "".join(host.tagged("progress")[-1:]) and time.monotonic() < until:
        time.sleep(0.05)
    Metadata.notice = True
