"""The same day on a plain machine, without AWS: a timer of systemd, or a line of crontab.

The machine has its own checkout, environment and credentials (docs/live.md); `flock` keeps it to one run at a time.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from launch.config import Config
from launch.cron import fields_of
from launch.errors import LaunchError

_DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")  # AWS counts them from 1, cron from 0


def command(config: Config, repository: Path) -> str:
    """The one line that a day is: run.py once, ended after max_runtime, never beside itself."""
    words = [
        "flock", "--nonblock", str(repository / "data" / f".{config.experiment}.day.lock"),
        "timeout", "--kill-after=30", str(config.max_runtime_s),
        str(repository / ".venv/bin/python"), str(repository / "run.py"),
        "stage=iterate", f"data_dir={repository / 'data'}", f"experiment_name={config.experiment}", *config.arguments,
    ]  # fmt: skip
    return shlex.join(words)


def crontab(config: Config, repository: Path) -> str:
    """A line of crontab. `cron` takes it in the time zone of the machine."""
    minute, hour, day, month, weekday = _five(config)
    numbers = ",".join(str(_DAYS.index(name)) for name in weekday.split(",")) if weekday != "*" else "*"
    line = command(config, repository).replace("%", r"\%")  # cron makes a new line of it
    return f"# the machine's time zone must be {config.timezone}\n{minute} {hour} {day} {month} {numbers} {line}\n"


def systemd(config: Config, repository: Path) -> str:
    """A service and its timer, as two files with their names above them; a day that was missed is made up for."""
    minute, hour, day, month, weekday = _five(config)
    days = "" if weekday == "*" else f"{weekday} "
    line = command(config, repository).replace("%", "%%").replace("$", "$$")
    return f"""\
# ~/.config/systemd/user/{config.name}.service
[Unit]
Description=One iteration of {config.experiment}
[Service]
Type=oneshot
WorkingDirectory={repository}
ExecStart={line}

# ~/.config/systemd/user/{config.name}.timer
[Unit]
Description=Daily: one iteration of {config.experiment}
[Timer]
OnCalendar={days}*-{month}-{day} {int(hour):02}:{int(minute):02}:00 {config.timezone}
Persistent=true
[Install]
WantedBy=timers.target
"""


def _five(config: Config) -> list[str]:
    """Minute, hour, day, month and day of the week (as names), each a list or a star, which cron and systemd share."""
    minute, hour, day, month, weekday, year = fields_of(config.schedule)
    plain = [part for part in (day, month, weekday) if part not in ("*", "?")]
    if year != "*" or not all(item.isdigit() or item.title() in _DAYS for part in plain for item in part.split(",")):
        raise LaunchError(
            f"schedule: {config.schedule} can be said to AWS only. For a plain machine use stars and lists,"
            " such as cron(0 3 ? * MON,THU *)."
        )
    names = [
        _DAYS[int(item) - 1] if item.isdigit() else item.title() for item in weekday.split(",") if item not in "*?"
    ]
    return [minute, hour, "*" if day == "?" else day, month, ",".join(names) or "*"]
