"""Read a file of questions: YAML in which every value is text, exactly as it is written.

YAML 1.1 reads 010 as 8, 12:30 as 750, no as false and 1e3 as text or number by its form. Here each is the text that it
looks like. A key that is there twice, a tag, and aliases that unfold without end are refused, with the line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from zoobot.errors import InputError

_MAX_BYTES = 20_000_000
_MAX_VALUES = 1_000_000  # with all aliases unfolded
_MAX_DEPTH = 50
_NOTHING = ("", "~", "null", "Null", "NULL")
_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # its events: no value is made by PyYAML


class Lines(dict[str, Any]):
    """A mapping that knows the line of each key."""

    def __init__(self) -> None:
        super().__init__()
        self.line_of: dict[str, int] = {}


@dataclass
class _Open:
    """A list or mapping that is being read."""

    value: Any
    line: int
    anchor: str | None
    key: str | None = None
    n_values: int = 1
    merged: set[str] = field(default_factory=set)


def line_of(mapping: object, key: object) -> str:
    """Such as ", line 7" for a key of a mapping from a file; "" if no line is known."""
    lines = mapping.line_of if isinstance(mapping, Lines) else {}
    return f", line {lines[str(key)]}" if str(key) in lines else ""


def read_question_file(path: Path) -> object:
    """The content of a YAML file: mappings (``Lines``), lists and texts; None for an empty value."""
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(f"{path} has {path.stat().st_size:,} bytes: too many for a file of questions.")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not UTF-8. Save the file as UTF-8 in your editor.") from error
    try:
        return _Reader(path).read(text)
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {_said(error)}. Mind indentation, colons and quotes.") from error


def _said(error: Any) -> str:
    """What PyYAML says, on one line: what it was reading, from which line, and where it went wrong."""
    parts = (("context", "context_mark"), ("problem", "problem_mark"))
    said = [(getattr(error, what, None), getattr(error, mark, None)) for what, mark in parts]
    known = [f"{what} in line {mark.line + 1}" if mark else str(what) for what, mark in said if what]
    return ", ".join(known) or " ".join(str(error).split())


class _Reader:
    """Builds the value of one document from the events of PyYAML, without recursion."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._result: object = None
        self._n_documents = 0

    def read(self, text: str) -> object:
        for event in yaml.parse(text, Loader=_LOADER):
            mark: Any = event.start_mark
            self._take(event, mark.line + 1)
        return self._result

    def _take(self, event: Any, line: int) -> None:
        if isinstance(event, yaml.DocumentStartEvent):
            self._n_documents += 1
            if self._n_documents > 1:
                self._refuse(line, "a second document begins (---); put all questions into one")
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._check_tag(event, line)
            if len(self._open) == _MAX_DEPTH:
                self._refuse(line, f"more than {_MAX_DEPTH} lists or mappings inside one another")
            value = Lines() if isinstance(event, yaml.MappingStartEvent) else []
            self._open.append(_Open(value, line, event.anchor))
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            done = self._open.pop()
            self._put(done.value, done.n_values, done.line, done.anchor)
        elif isinstance(event, yaml.AliasEvent):
            name = str(event.anchor)
            if name not in self._anchors:
                self._refuse(line, f"*{name} stands for nothing that was marked before with &{name}")
            self._put(*self._anchors[name], line, None)
        elif isinstance(event, yaml.ScalarEvent):
            self._check_tag(event, line)
            self._scalar(event, line)

    def _scalar(self, event: Any, line: int) -> None:
        inside = self._open[-1] if self._open else None
        is_value = inside is None or (isinstance(inside.value, Lines) and inside.key is not None)
        is_empty = not event.style and is_value and event.value in _NOTHING
        self._put(None if is_empty else str(event.value), 1, line, event.anchor)

    def _put(self, value: Any, n_values: int, line: int, anchor: str | None) -> None:
        """Add a complete value to the list or mapping that is open."""
        if anchor:
            self._anchors[anchor] = (value, n_values)
        if not self._open:
            self._result = value
            return
        inside = self._open[-1]
        inside.n_values += n_values
        if inside.n_values > _MAX_VALUES:
            self._refuse(line, f"its aliases (*) unfold to more than {_MAX_VALUES:,} values")
        if isinstance(inside.value, list):
            inside.value.append(value)
        elif inside.key is None:
            self._key(inside, value, line)
        else:
            self._entry(inside, inside.key, value, line)
            inside.key = None

    def _key(self, inside: _Open, key: object, line: int) -> None:
        if not isinstance(key, str):
            self._refuse(line, "a list or a mapping cannot be a name")
        elif key in inside.value and key not in inside.merged:
            self._refuse(line, f"{key} is there twice, before in line {inside.value.line_of[key]}. Rename one")
        else:
            inside.value.line_of[key] = line
            inside.key = key

    def _entry(self, inside: _Open, key: str, value: Any, line: int) -> None:
        if key != "<<":
            inside.value[key] = value
            inside.merged.discard(key)
            return
        del inside.value.line_of["<<"]
        for source in value if isinstance(value, list) else [value]:
            if not isinstance(source, Lines):
                self._refuse(line, "<< merges mappings only")
            for name in source.keys() - inside.value.keys():
                inside.value[name] = source[name]
                inside.value.line_of[name] = source.line_of[name]
                inside.merged.add(name)

    def _check_tag(self, event: Any, line: int) -> None:
        if event.tag not in (None, "!"):
            self._refuse(line, f"the tag {event.tag} is not read; remove it, every value is text")

    def _refuse(self, line: int, what: str) -> None:
        raise InputError(f"{self._path}, line {line}: {what}.")
