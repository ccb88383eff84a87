"""Where libraries keep their own files: in a temporary folder of this run, never in the user's home."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

# Each names a folder that a library would otherwise make below the user's home.
_VARIABLES = ("KERAS_HOME", "MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "WANDB_CACHE_DIR",
              "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "ASTROPY_CACHE_DIR", "ASTROPY_CONFIG_DIR")  # fmt: skip


def leave_home_alone() -> None:
    """Set the variables that are not set, for this process and its children. The folder is removed at the end."""
    wanted = [name for name in _VARIABLES if name not in os.environ]
    if not wanted:
        return
    folder = Path(tempfile.mkdtemp(prefix="zoobot_"))
    atexit.register(_remove, folder, os.getpid())
    for name in wanted:
        place = folder / name.lower()
        place.mkdir()
        os.environ[name] = str(place)


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # a forked child does not remove what its parent uses
        shutil.rmtree(folder, ignore_errors=True)
