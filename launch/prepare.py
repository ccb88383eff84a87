"""The first day: from an empty volume to the instructions of the experiment, as one job.

A folder here goes to S3 (`upload` to `staging`), from there to data/ on the volume, and run.py makes the rest of it
(`prepare`). Each part looks what is there, so it is run again after anything that cut it off.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from pathlib import Path
from typing import Any

from launch import words
from launch.aws import Cloud, split_address
from launch.errors import LaunchError
from launch.job import Job, drive, refuse_beside_schedule

_LARGE = 64 << 20  # bytes: larger files go in parts, and S3 has no digest of the whole
_NAMED = 20  # of what is left out


def prepare(cloud: Cloud) -> None:
    """Everything before the first iteration; LaunchError says what is wrong before anything is sent or started."""
    lines = [(*shlex.split(line), f"experiment_name={cloud.config.experiment}") for line in cloud.config.prepare]
    if not lines:
        raise LaunchError("prepare: is empty. Name the stages before the first iteration, as launch/ec2.yaml does.")
    for line in lines:
        _refuse_asking(words.check((*line, *cloud.config.arguments)))
    commands = [("run.py", *line, *cloud.config.arguments) for line in lines]
    refuse_beside_schedule(cloud)
    if cloud.config.upload:
        upload(cloud, Path(cloud.config.upload))
    if cloud.config.staging:
        commands.insert(0, ("copy", cloud.config.staging.rstrip("/") + "/", _digest(staged(cloud))))
    drive(cloud, _job(commands))
    cloud.say(f"{cloud.config.experiment} is prepared. Next: python -m launch day")


def _job(commands: list[tuple[str, ...]]) -> Job:
    """Named by its commands: other ones are another job, and stages that were done before say so."""
    job = Job("prepare", tuple(commands))
    return Job(f"prepare-{job.digest[:8]}", job.commands)


def _refuse_asking(made: tuple[words.Made, ...]) -> None:
    for each in made:
        if each.stage in ("iterate", "finish", "simulate"):
            raise LaunchError(f"prepare: stage={each.stage} is not a part of it: `day` iterates, `simulate` simulates.")


# ----------------------------------------------------------------------------------------------------- to S3


def upload(cloud: Cloud, folder: Path) -> int:
    """Send what S3 has not, with the same size and digest, from a folder to `staging`; the number of files sent.

    One after the other: for hundreds of thousands of pictures `aws s3 sync` is faster, and leave `upload` empty.
    """
    if not folder.is_dir():
        raise LaunchError(f"upload: {folder} is not a folder.")
    bucket, prefix = split_address(cloud.config.staging)
    there = {item["Key"]: item for item in staged(cloud)}
    files, left_out = choose(folder)
    for path in left_out[:_NAMED]:
        cloud.say(f"left out: {path}")
    if left_out:
        cloud.say(f"{len(left_out)} are left out: hidden ones, and links to folders or out of {folder}")
    sent = 0
    for path in files:
        key = "/".join(filter(None, (prefix, path.relative_to(folder).as_posix())))
        if not _is_there(cloud, bucket, there.get(key), path):
            cloud.say(f"sending {path} to s3://{bucket}/{key}")
            _send(cloud, bucket, key, path)
            sent += 1
    cloud.say(f"{sent} of {len(files)} files were sent to {cloud.config.staging}; the others were there")
    return sent


def choose(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files of an upload; and what is left out: all that is hidden (.env, .git), which may hold secrets, links to
    folders or out of the folder, and what is no file. LaunchError for a folder that cannot be read.
    """
    files: list[Path] = []
    left_out: list[Path] = []
    whole = folder.resolve()
    for here, folders, names in os.walk(folder, onerror=_unreadable):
        there = [Path(here, name) for name in folders]
        skipped = [path for path in there if path.name.startswith(".") or path.is_symlink()]
        left_out += skipped
        folders[:] = [path.name for path in there if path not in skipped]
        for path in (Path(here, name) for name in names):
            good = not path.name.startswith(".") and path.is_file() and path.resolve().is_relative_to(whole)
            (files if good else left_out).append(path)
    return sorted(files), sorted(left_out)


def _unreadable(error: OSError) -> None:
    raise LaunchError(f"upload: {error.filename} cannot be read ({error.strerror}).") from error


def staged(cloud: Cloud) -> list[dict[str, Any]]:
    """What S3 has in `staging`."""
    bucket, prefix = split_address(cloud.config.staging)
    return cloud.pages("s3", "list_objects_v2", "Contents", Bucket=bucket, Prefix=f"{prefix}/" if prefix else "")


def _is_there(cloud: Cloud, bucket: str, item: dict[str, Any] | None, path: Path) -> bool:
    if item is None or item["Size"] != path.stat().st_size:
        return False
    if item["Size"] <= _LARGE:
        return bool(item["ETag"].strip('"') == _file_digest(path, "md5"))
    about = cloud.call("s3", "head_object", Bucket=bucket, Key=item["Key"])
    return bool(about["Metadata"].get("sha256") == _file_digest(path, "sha256"))


def _send(cloud: Cloud, bucket: str, key: str, path: Path) -> None:
    if path.stat().st_size <= _LARGE:
        cloud.call("s3", "put_object", Bucket=bucket, Key=key, Body=path.read_bytes())
    else:  # boto3's own way, in parts
        about = {"Metadata": {"sha256": _file_digest(path, "sha256")}}
        cloud.call("s3", "upload_file", Filename=str(path), Bucket=bucket, Key=key, ExtraArgs=about)


def _file_digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _digest(items: list[dict[str, Any]]) -> str:
    """Of names, sizes and contents, so that other files make another job."""
    known = sorted((item["Key"], item["Size"], item["ETag"]) for item in items)
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]
