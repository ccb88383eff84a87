"""Read YAML in which every value is text, exactly as it is written; what it means, the settings' types say.

YAML 1.1 reads no as false, 010 as 8, 1:30 as 90 and 2026-11-26 as a date. Here `experiment: no` is called no. What a
file of settings never needs is refused with its line: a key that is there twice, an anchor (&) or alias (*), a tag (!),
lists inside one another without end, a second document. Questions are read so too (zoobot/galaxies/question_file.py);
launch/ imports nothing of zoobot.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import yaml

from launch.errors import LaunchError

_MAX_BYTES = 1_000_000
_MAX_DEPTH = 4
_NOTHING = ("", "~", "null", "Null", "NULL")
_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # its events: no value is made by PyYAML


def read(path: Path) -> dict[str, Any]:
    """The settings in a file: texts, lists and mappings; None for an empty value. LaunchError: file, line, reason."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)  # not all: it may be a device without an end
    except OSError as error:
        raise LaunchError(
            f"{path} cannot be read ({error.strerror}). Name the settings with --config launch/ec2.yaml."
        ) from error
    if len(content) > _MAX_BYTES:
        raise LaunchError(f"{path} has more than {_MAX_BYTES:,} bytes: it is no file of settings.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise LaunchError(f"{path}, line {line}: not UTF-8. Save the file as UTF-8 in your editor.") from error
    try:
        found = _Reader(path).read(text)
    except yaml.YAMLError as error:
        raise LaunchError(f"{path} is not YAML: {_said(error)}. Mind indentation, colons and quotes.") from error
    if not isinstance(found, dict):
        raise LaunchError(f"{path} should be lines of `key: value`, as launch/ec2.yaml has.")
    return found


def _said(error: Any) -> str:
    """What PyYAML says, on one line: what was wrong, and in which line."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    return f"{problem} in line {mark.line + 1}" if mark else str(problem)


class _Reader:
    """Builds the value of one document from the events of PyYAML, without recursion."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: list[tuple[Any, list[str]]] = []  # lists and mappings, each with the key that waits for its value
        self._result: Any = None
        self._documents = 0

    def read(self, text: str) -> Any:
        for event in yaml.parse(text, Loader=_LOADER):
            mark: Any = event.start_mark
            self._take(event, mark.line + 1)
        return self._result

    def _take(self, event: Any, line: int) -> None:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            self._refuse(line, "anchors (&) and aliases (*) are not used here; write the value out, or quote it")
        if getattr(event, "tag", None):
            self._refuse(line, "tags (!) are not used here; leave it out, or quote the value")
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._refuse(line, "a second document begins (---); put all settings into one")
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            if len(self._open) == _MAX_DEPTH:
                self._refuse(line, f"more than {_MAX_DEPTH} lists or mappings inside one another")
            self._open.append(({} if isinstance(event, yaml.MappingStartEvent) else [], []))
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._put(self._open.pop()[0], line)
        elif isinstance(event, yaml.ScalarEvent):
            if any(0xD800 <= ord(letter) <= 0xDFFF for letter in event.value):
                self._refuse(line, "a value has half of a surrogate pair, which is no character")
            self._put(None if not event.style and event.value in _NOTHING else str(event.value), line)

    def _put(self, value: Any, line: int) -> None:
        """Add a whole value to the list or mapping that is open."""
        if not self._open:
            self._result = value
            return
        inside, waiting = self._open[-1]
        if isinstance(inside, list):
            inside.append(value)
        elif waiting:
            inside[waiting.pop()] = value
        elif not isinstance(value, str):
            self._refuse(line, "a key should be a name, and is empty, a list or a mapping")
        elif value in inside:
            self._refuse(line, f"{value} is there twice; keep one of them")
        else:
            waiting.append(value)

    def _refuse(self, line: int, problem: str) -> NoReturn:
        raise LaunchError(f"{self._path}, line {line}: {problem}.")
