"""What the machine is given at its start: boot.sh, with the settings and all other scripts packed into it.

No secret is in it: whoever may describe a machine may read it.
"""

from __future__ import annotations

import base64
import gzip
import io
import shlex
import tarfile
from pathlib import Path

from launch.config import Config
from launch.errors import LaunchError

_HERE = Path(__file__).parent
MAX_BYTES = 16_384  # EC2's limit, before base64


def settings(config: Config) -> str:
    """The settings as environment.sh reads them: one line of bash each."""
    single = {
        "EXPERIMENT": config.experiment,
        "AWS_DEFAULT_REGION": config.region,
        "REPOSITORY": config.repository,
        "REVISION": config.revision,
        "MAX_RUNTIME_S": str(config.max_runtime_s),
        "LOGS": config.logs,
        "RESULTS": config.results.rstrip("/"),
    }
    lines = [f"{name}={shlex.quote(value)}" for name, value in single.items()]
    lists = {
        "ARGUMENTS": config.arguments,
        "SECRETS": tuple(f"{file}={parameter}" for file, parameter in config.secrets.items()),
    }
    lines += [f"{name}=({' '.join(map(shlex.quote, values))})" for name, values in lists.items()]
    return "\n".join(lines) + "\n"


def script(config: Config) -> str:
    """boot.sh, filled in."""
    text = (_HERE / "boot.sh").read_text(encoding="utf-8").replace("@MAX_RUNTIME_S@", str(config.max_runtime_s))
    return text.replace("@FILES@", base64.b64encode(_packed(config)).decode())


def encoded(config: Config) -> str:
    """The same in base64, as EC2 takes it."""
    plain = script(config).encode()
    if len(plain) > MAX_BYTES:
        raise LaunchError(
            f"arguments: with them the machine's start-up script has {len(plain)} of at most {MAX_BYTES} bytes."
        )
    return base64.b64encode(plain).decode()


def _packed(config: Config) -> bytes:
    """The settings and the scripts as a .tar.gz; the same bytes for the same content."""
    files = {path.name: _without_comments(path) for path in sorted(_HERE.glob("*.sh")) if path.name != "boot.sh"}
    files["settings"] = settings(config).encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            about = tarfile.TarInfo(name)
            about.size, about.mode = len(content), 0o755 if content.startswith(b"#!") else 0o644
            archive.addfile(about, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), mtime=0)


def _without_comments(path: Path) -> bytes:
    """A script without the lines that are only a comment, which are a third of it."""
    lines = path.read_bytes().splitlines(keepends=True)
    return b"".join(line for line in lines if not line.lstrip().startswith(b"#") or line.startswith(b"#!"))
