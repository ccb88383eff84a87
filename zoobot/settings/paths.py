"""Where the program is: the repository, and the folder configs/ with options and question sets."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]  # if the package is installed: the folder of all packages
CONFIGS = next(
    path for path in (REPOSITORY / "configs", REPOSITORY / "zoobot" / "configs") if (path / "questions").is_dir()
)
