"""Where the program itself lies: the repository, and the options and question sets in configs/."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]  # of an installed package: the folder of all packages
CONFIGS = next(
    path for path in (REPOSITORY / "configs", REPOSITORY / "zoobot" / "configs") if (path / "questions").is_dir()
)
