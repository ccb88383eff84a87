"""What the machine is given at its start: boot.sh with the settings and the other two scripts packed into it.

No secret is in it: whoever may describe a machine may read it.
"""

from __future__ import annotations

import base64
import gzip
import shlex
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
    files = {
        "settings": settings(config),
        "environment.sh": (_HERE / "environment.sh").read_text(encoding="utf-8"),
        "spot_watch.sh": (_HERE / "spot_watch.sh").read_text(encoding="utf-8"),
    }
    text = (_HERE / "boot.sh").read_text(encoding="utf-8").replace("@MAX_RUNTIME_S@", str(config.max_runtime_s))
    for name, content in files.items():
        text = text.replace(f"@{name}@", _packed(content))
    return text


def encoded(config: Config) -> str:
    """The same in base64, as EC2 takes it."""
    plain = script(config).encode()
    if len(plain) > MAX_BYTES:
        raise LaunchError(
            f"arguments: with them the machine's start-up script has {len(plain)} of at most {MAX_BYTES} bytes."
        )
    return base64.b64encode(plain).decode()


def _packed(content: str) -> str:
    return base64.b64encode(gzip.compress(content.encode(), mtime=0)).decode()
