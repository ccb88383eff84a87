"""environment.sh and spot_watch.sh themselves, on the machine of tests/launch_host.py."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest

from launch import userdata
from launch.config import Config
from tests.launch_host import ROOT, RUN, SECRET, Host, Metadata, head
from tests.launching import ALL


def test_a_blank_disk_gets_a_filesystem_and_the_layout_once(host: Host) -> None:
    booted = host.script("boot")
    assert booted.returncode == 0, booted.stderr
    assert 'LABEL="working_volume"' in host.signatures() and 'TYPE="ext4"' in host.signatures()
    uuid = host.signatures().partition(' UUID="')[2][:36]
    listed = host.shell(
        'cd "$MOUNT" && stat -c "%n %a %U" root root/auth root/repos root/days root/logs && findmnt -n root/auth'
    )
    assert "root/auth 700 root" in listed.stdout and "tmpfs" in listed.stdout and "root/days 750" in listed.stdout
    assert host.script("close").returncode == 0 and not host.off
    (host.base / "state/closing").unlink()
    assert host.script("boot").returncode == 0
    assert uuid in host.signatures(), "the same filesystem as before"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        ("mkfs.ext4 -q -F -L other", "labelled _other_ and not working_volume"),
        ("mkfs.ext4 -q -F", "labelled __ and not working_volume"),
        ("mkswap", "holds swap and not ext4"),
        ("mkfs.ext2 -q -F -L working_volume", "holds ext2 and not ext4"),
        ("dd if=/dev/urandom bs=1M count=1 seek=20 conv=notrunc of=", "not blank: look at it"),
        ("mkfs.ext4 -q -F -L working_volume", None),
    ],
)  # fmt: skip
def test_a_disk_with_anything_on_it_is_never_formatted(host: Host, make: str, reason: str | None) -> None:
    subprocess.run(f"{make}{host.loop}" if make.endswith("=") else f"{make} {host.loop}", shell=True, check=True,
                   capture_output=True)  # fmt: skip
    before = (host.base / "disk.img").read_bytes()
    booted = host.script("boot")
    if reason is None:
        assert booted.returncode == 0 and not host.off
        return
    assert booted.returncode == 2 and host.off, booted.stderr
    assert reason in host.results[-1], host.results
    assert (host.base / "disk.img").read_bytes() == before


def test_a_dirty_filesystem_is_fixed_and_a_broken_one_left_alone(host: Host) -> None:
    host.disk("mkfs.ext4 -q -F -L working_volume")
    host.disk("debugfs -w -R 'set_super_value state 0'")  # not unmounted cleanly
    assert host.script("boot").returncode == 0
    host.script("close")
    host.disk("debugfs -w -R 'clri <2>'")  # the root folder is gone
    for told in ("cannot be mounted", "e2fsck could not fix"):  # marked clean, as a bad disk may be; then marked dirty
        for name in ("state/closing", "off"):
            (host.base / name).unlink(missing_ok=True)
        broken = host.script("boot")
        assert broken.returncode == 2 and host.off and told in host.results[-1], broken.stderr
        host.disk("debugfs -w -R 'set_super_value state 0'")


def test_a_full_disk_is_refused_before_the_iteration(host: Host) -> None:
    assert host.script("boot").returncode == 0
    host.shell('head -c 200M /dev/zero > "$MOUNT/full"')
    host.script("close")
    (host.base / "state/closing").unlink()
    assert host.script("boot").returncode == 2
    assert "MB left" in host.results[-1] and "of 8 needed" in host.results[-1] and host.off


@pytest.mark.parametrize(
    ("state", "call"),
    [
        ("running", "terminate-instances --instance-ids i-0fedcba9876543210"),
        ("terminated", "detach-volume --force --volume-id vol-0123456789abcdef0 --instance-id i-0fedcba9876543210"),
    ],
)
def test_what_an_earlier_machine_left_is_cleared_away(host: Host, state: str, call: str) -> None:
    (host.base / "held").write_text("i-0fedcba9876543210\n")
    assert host.script("boot", HOLDER_STATE=state).returncode == 0
    assert call in (host.base / "aws.log").read_text()


def test_one_iteration_a_day_whatever_is_called(host: Host) -> None:
    if ALL:
        shutil.rmtree(host.base / "opt")  # so that the packages are installed: four seconds
    assert host.script("boot").returncode == 0
    for _ in range(2):
        ran = host.script("run")
        assert ran.returncode == 0, ran.stderr
    assert host.results == ["done: iteration_0"] * 2
    log = host.shell('cd "$MOUNT" && cat root/logs/2026-03-01/run.log').stdout
    assert log.count("stage=iterate") == 1 and "odd=it's $HOME" in log, "arguments come through as they are"
    # The record was written, the iteration published, and then the machine was lost: no second one.
    host.shell('cd "$MOUNT/root" && rm days/2026-03-01 && echo 0 > days/2026-03-01')
    assert host.script("run").returncode == 0 and log.count("stage=iterate") == 1
    auth = host.shell('cd "$MOUNT/root" && stat -c "%a %n" auth/* && cat auth/zooniverse_login.json').stdout
    assert SECRET in auth and "600" in auth
    assert host.script("close").returncode == 0
    assert (host.base / "s3/bucket/logs/decals_live/2026-03-01/run.log").read_text() == log
    kept = (p for folder in ("state", "launch", "s3") for p in (host.base / folder).rglob("*") if p.is_file())
    everything = (host.base / "disk.img").read_bytes() + b"".join(p.read_bytes() for p in kept)
    assert SECRET.encode() not in everything, "secrets live in memory only"
    assert SECRET not in (host.base / "aws.log").read_text() and b"stage=iterate" in everything


def test_a_scheduled_machine_does_all_by_itself(host: Host) -> None:
    Metadata.tags["driver"] = "schedule"
    booted = host.script("boot")
    assert booted.returncode == 0 and host.off, booted.stderr
    calls = (host.base / "aws.log").read_text()
    assert host.results == ["done: iteration_0"]
    assert calls.index("zoobot:result") < calls.index("s3 cp") < calls.index("ec2 create-snapshot")
    assert host.shell('mountpoint "$MOUNT"').returncode != 0


def test_a_spot_notice_stops_training_and_unmounts_in_twenty_seconds(host: Host) -> None:
    """Training that ignores SIGTERM, too (which takes eight seconds more)."""
    deaf = "import signal\nsignal.signal(15, signal.SIG_IGN)\n" + RUN
    (host.base / "code/run.py").write_text(deaf if ALL else f"{RUN}\n")
    commit = "git -c user.name=t -c user.email=t@example.org commit -qam deaf"
    settings = host.base / "launch" / "settings"
    before = f"REVISION={head(host.base / 'code')}"
    subprocess.run(commit, shell=True, cwd=host.base / "code", check=True)
    after = f"REVISION={head(host.base / 'code')}"
    settings.write_text(settings.read_text().replace("seconds=0.2", "seconds=300").replace(before, after))
    Metadata.tags["driver"] = "schedule"
    machine = threading.Thread(target=lambda: host.script("boot"))
    machine.start()
    until = time.monotonic() + 60
    while not host.training.exists() and time.monotonic() < until:
        time.sleep(0.1)
    noticed = time.monotonic()
    Metadata.notice = True
    while not host.off and time.monotonic() < noticed + 40:
        time.sleep(0.1)
    assert time.monotonic() - noticed < 20
    machine.join(30)
    assert host.results[-1] == "interrupted: AWS took the machine back"
    assert host.shell('mountpoint "$MOUNT"').returncode != 0
    Metadata.notice = False
    settings.write_text(settings.read_text().replace("seconds=300", "seconds=0.1"))
    for name in ("state", "off"):
        path = host.base / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    Metadata.tags["day"] = "2026-03-02"
    host.script("boot")
    assert host.results[-1] == "done: iteration_0", "nothing half-done was published, and the next day resumes"


def test_a_notice_of_another_machine_is_not_heeded(host: Host) -> None:
    assert host.script("boot").returncode == 0
    assert host.script("interrupted i-0fedcba9876543210").returncode == 0 and not host.off
    assert host.shell('mountpoint "$MOUNT"').returncode == 0
    assert host.script("interrupted i-0123456789abcdef0").returncode == 0 and host.off
    assert host.results == ["interrupted: AWS took the machine back"]
    assert host.shell('mountpoint "$MOUNT"').returncode != 0


def test_rebalance_recommendations_are_not_asked_for(host: Host) -> None:
    assert host.script("boot").returncode == 0
    time.sleep(0.5)
    asked = {path for path in Metadata.asked if "spot" in path or "events" in path}
    assert asked == {"/latest/meta-data/spot/instance-action"}


OLD_SERVER = """#!/bin/bash
if [[ $* =~ fetch.*[0-9a-f]{40}$ ]]; then echo "Server does not allow request for unadvertised object" >&2; exit 128; fi
exec /usr/bin/git "$@"
"""


@pytest.mark.parametrize("server", ["", OLD_SERVER])
def test_the_commit_of_the_settings_is_what_runs(host: Host, server: str) -> None:
    """Also from a server that gives branches only, and after the repository went on."""
    if server:
        (host.base / "bin/git").write_text(server)
        (host.base / "bin/git").chmod(0o755)
    code, settings = host.base / "code", host.base / "launch/settings"
    text = settings.read_text()
    assert host.script("boot").returncode == 0 and host.script("run").returncode == 0
    git = "git -c user.name=t -c user.email=t@example.org"
    subprocess.run(f"echo '#' >>run.py && {git} commit -qam two && {git} commit -q --allow-empty -m three", shell=True,
                   cwd=code, check=True)  # fmt: skip
    two = subprocess.run(
        ["git", "rev-parse", "HEAD^"], cwd=code, check=True, capture_output=True, text=True
    ).stdout.strip()
    settings.write_text(re.sub("REVISION=.*", f"REVISION={two}", text))
    host.script("verify")
    assert two in host.shell('cd "$MOUNT" && git -C root/repos/zoobot rev-parse HEAD').stdout
    host.shell('cd "$MOUNT" && echo changed >>root/repos/zoobot/run.py')
    settings.write_text(text)
    host.script("verify")
    assert "changed by hand" in host.results[-1]
    settings.write_text(re.sub("REVISION=.*", "REVISION=main", text))
    host.script("verify")
    assert "is no commit: run setup" in host.results[-1]
    settings.write_text(re.sub("REVISION=.*", f"REVISION={'f' * 40}", text))
    host.script("verify")
    assert "cannot be fetched" in host.results[-1]


def test_packages_are_roots_and_others_are_not_trusted(host: Host) -> None:
    """As nobody owns the code: a real environment starts, cannot be changed, and is used again; a forged one is not."""
    with tempfile.TemporaryDirectory() as name:  # whose parents are open to everybody
        root = Path(name)
        root.chmod(0o755)
        (root / "code").mkdir()
        (root / "code" / "lock").write_text("")
        (root / "mine").mkdir()
        shutil.chown(root / "mine", "nobody")
        start = f"""set -eu; umask 027; cd /; IMDS= STATE={root} OWNER=nobody LOCK=lock OPT=/none HERE={ROOT}/launch
            source $HERE/machine.sh; source $HERE/packages.sh; venv={root}/mine/venv
            forge() {{ as_owner bash -c "mkdir $venv && cp {root}/digest $venv/.lock"; }}
            sha256sum <{root}/code/lock | cut -d' ' -f1 >{root}/digest; chmod 644 {root}/digest; """
        forged = host.shell(f"{start} forge; is_roots $venv || echo no; as_owner grep NoNewPrivs /proc/self/status")
        assert forged.stdout.split() == ["no", "NoNewPrivs:", "1"], forged.stderr
        if not ALL:
            return
        made = host.shell(f"{start} packages {root}/code $venv; packages {root}/code $venv", PATH="/usr/bin:/usr/sbin")
        assert made.stdout.split() == [f"{root}/mine/venv"] * 2, made.stderr
        assert made.stderr.count("installing the packages") == 1, "the forged one went, and the other stays"
        others = "find $venv ! -uid 0 -o -perm /22 ! -type l"
        works = "as_owner $venv/bin/python -c 'import pip; print(1)'"
        used = host.shell(f"{start} {works}; {others}; as_owner touch $venv/lib/x || echo no")
        assert used.stdout.split() == ["1", "no"], used.stdout + used.stderr


def test_scripts_pass_shellcheck_and_fit_in_user_data(tmp_path: Path, ec2: Config) -> None:
    script = tmp_path / "user_data.sh"
    script.write_text(userdata.script(ec2))
    scripts = [*sorted((ROOT / "launch").glob("*.sh")), script]
    assert len(scripts) >= 8
    shellcheck = [str(ROOT / ".venv/bin/shellcheck"), "--external-sources"]  # follows what is sourced
    done = subprocess.run([*shellcheck, *map(str, scripts)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert len(script.read_bytes()) < 0.75 * userdata.MAX_BYTES, "there is room for arguments"


def test_user_data_unpacks_to_the_settings_and_the_scripts_without_comments(tmp_path: Path, ec2: Config) -> None:
    line = next(line for line in userdata.script(ec2).splitlines() if "tar -xz" in line)
    subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True)
    there = {path.name for path in (ROOT / "launch").glob("*.sh")} - {"boot.sh"}
    assert {path.name for path in tmp_path.iterdir()} == there | {"settings"}
    assert (tmp_path / "settings").read_text() == userdata.settings(ec2)
    for name in there:
        whole, packed = ((folder / name).read_text().splitlines() for folder in (ROOT / "launch", tmp_path))
        assert packed == [line for line in whole if not line.strip().startswith("#") or line.startswith("#!")]
        subprocess.run(["bash", "-n", tmp_path / name], check=True)
    assert os.access(tmp_path / "environment.sh", os.X_OK) and not os.access(tmp_path / "volume.sh", os.X_OK)
    assert userdata.script(ec2) == userdata.script(ec2), "or each setup would make a new version of the template"
