"""The command line, checked before Hydra composes it: every problem names its key, and all are told together.

What Hydra says of a value that its grammar cannot read is short and about the grammar. Here the user gets the form that
works, and for an unknown name the one that was probably meant.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import shlex
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from zoobot.settings.compose import writable_schema
from zoobot.settings.depends import DEFAULTS
from zoobot.settings.paths import CONFIGS
from zoobot.settings.schema import Settings

_MAY_BE_ABSENT = ("world", "experiment")  # groups that a run does without
_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    list[str]: "a list, as in [a,b]",
    list[list[int]]: "lists of whole numbers, as in [[8],[16,16]]",
}


def problems(arguments: Sequence[str]) -> list[str]:
    """What cannot be used of a command line, without the name of the program."""
    given, _ = get_args_parser().parse_known_args(list(arguments))
    if given.shell_completion:
        return []  # what follows are not settings
    groups = _groups(Path(given.config_dir) if given.config_dir else None)
    multirun = given.multirun or any(text.startswith(("hydra.mode=", "experiment=")) for text in given.overrides)
    return [problem for text in given.overrides for problem in _problems(text, groups, multirun)]


def is_plain(override: Override) -> bool:
    """Whether it sets one value, and chooses no option of a group."""
    key = override.key_or_group
    return key in _types() and key not in _groups(None) and not (override.is_delete() or override.is_add())


def _problems(text: str, groups: dict[str, list[str]], multirun: bool) -> Iterator[str]:
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException:
        yield _unreadable(text, groups)
        return
    key = override.key_or_group
    if key.startswith(("hydra.", "hydra/")) or override.package:
        return  # left to Hydra
    if not key:
        yield f"{text}: it has no name before the =. Give a setting as key=value."
    elif key not in groups and key not in _types():
        yield f"{_sign(override)}{key}: there is no such setting or group.{_meant(key, groups)}"
    elif override.is_delete():
        if key not in _MAY_BE_ABSENT:
            yield f"~{key}: a setting cannot be taken away. Give it a value: {key}={_example(key, groups)}"
    elif override.is_add():
        yield f"+{key}: it exists, so leave out the +: {text.lstrip('+')}"
    elif override.is_choice_sweep() and not multirun:
        yield _comma(key, text)
    else:
        for value in _values(override):
            yield from _unfit(key, value, groups)


def _sign(override: Override) -> str:
    return "~" if override.is_delete() else "++" if override.is_force_add() else "+" if override.is_add() else ""


def _values(override: Override) -> Iterator[Any]:
    """The value, or each value of a sweep; none if only Hydra knows them."""
    if override.is_choice_sweep():
        for each in override.sweep_iterator(transformer=lambda value: value):
            yield Override._convert_value(each)
    elif not override.is_sweep_override():
        yield override.value()


# --------------------------------------------------------------- groups and types


def _groups(more: Path | None) -> dict[str, list[str]]:
    """The options of each group: ours, and those of the user's ``--config-dir``."""
    found: dict[str, list[str]] = {}
    for folder in filter(None, (CONFIGS, more)):
        for path in sorted(folder.glob("*/*.yaml")):
            found.setdefault(path.parent.name, []).append(path.stem)
    del found["questions"]  # data of a survey, not a group of settings
    return found


@functools.cache
def _types() -> dict[str, Any]:
    """The type of every setting, by its full key; a group's own is its class."""
    found: dict[str, Any] = {}

    def add(cls: type, prefix: str) -> None:
        for name, kind in typing.get_type_hints(cls).items():
            found[prefix + name] = kind
            if dataclasses.is_dataclass(kind) and isinstance(kind, type):
                add(kind, f"{prefix}{name}.")

    add(Settings, "")
    return found


def _unfit(key: str, value: Any, groups: dict[str, list[str]]) -> Iterator[str]:
    """Why a setting cannot have this value, if so."""
    if isinstance(value, str) and "${" in value:
        return  # known when all is composed
    if key in groups and not isinstance(value, dict):
        yield from (_not_an_option(key, each, groups) for each in _options(value) if each not in groups[key])
        return
    try:
        OmegaConf.update(writable_schema(), key, value, merge=True)
    except (OmegaConfBaseException, dataclasses.FrozenInstanceError) as error:
        kind = _KINDS.get(_types().get(key, dict))
        reason = f"must be {kind}" if kind else str(error).splitlines()[0]
        shown = _shown(value)
        yield f"{key}={shown}: {reason}"
        return
    if key == "data_dir" and value == "":
        yield "data_dir=: it is empty. Was a variable of the shell not set? Give the folder for all output."


def _options(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) and value else [value]


def _not_an_option(group: str, value: Any, groups: dict[str, list[str]]) -> str:
    close = difflib.get_close_matches(str(value), groups[group], 1, 0.5)
    meant = f" Did you mean {group}={close[0]}?" if close else ""
    return f"{group}={_shown(value)}: there is no such option.{meant} Options: {', '.join(groups[group])}"


def _meant(key: str, groups: dict[str, list[str]]) -> str:
    """The names that are most like an unknown one: in whole, or in their last part."""
    known = [*groups, *_types()]
    last = key.rpartition(".")[2]
    close = [name for name in known if name.rpartition(".")[2] == last]
    close += difflib.get_close_matches(key, known, 3, 0.75)
    if not close:
        tails = sorted({name.rpartition(".")[2] for name in known})
        likely = difflib.get_close_matches(last, tails, 2, 0.75)
        close = [name for name in known if name.rpartition(".")[2] in likely]
    names = list(dict.fromkeys(close))[:3]
    return f" Did you mean {' or '.join(names)}?" if names else " docs/settings.md has all settings."


def _example(key: str, groups: dict[str, list[str]]) -> str:
    return groups[key][0] if key in groups else _shown(DEFAULTS.get(key, ""))


def _shown(value: Any) -> str:
    """A value as it is written on the command line; a long one is cut."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 80 else text[:77] + "…"


# --------------------------------------------------------------- what Hydra's grammar cannot read


def _unreadable(text: str, groups: dict[str, list[str]]) -> str:
    key, equals, value = text.partition("=")
    bare = key.lstrip("+~")
    kind = _types().get(bare)
    if not equals:
        owners = [group for group, options in groups.items() if bare in options]
        form = f"{owners[0]}={bare}" if owners else f"{bare or 'key'}={_example(bare, groups) or 'value'}"
        return f"{_shown(text)}: it has no =. Give it as {form}."
    if not bare:
        return f"{_shown(text)}: it has no name before the =. Give a setting as key=value."
    if bare not in groups and not kind and not bare.startswith("hydra"):
        return f"{_shown(key)}: there is no such setting or group.{_meant(bare, groups)}"
    if value.startswith("~/"):
        return f"{_shown(text)}: the shell does not replace ~ here. Write: {key}={Path(value).expanduser()}"
    if kind not in (str, list[str], Any, None):
        return f"{_shown(text)}: must be {_KINDS.get(kind, 'one of its options')}"
    quoted = _quoted(key, value, as_list=kind == list[str])
    if quoted is None:
        return f"{_shown(text)}: it cannot be read, quoted or not. Choose another value, or give it in a YAML file."
    return f"{_shown(text)}: it has a character with a meaning of its own, so it needs quotes twice: {quoted}"


def _comma(key: str, text: str) -> str:
    kind, value = _types().get(key), text.partition("=")[2]
    way = "otherwise give one value"
    if kind in (list[str], Any):
        way = f"for a list give {key}=[{value}]"
    elif kind == list[list[int]]:
        way = f"for a list give {key}=[[{value}]]"
    elif kind is str:
        way = f"for one text give {_quoted(key, value, as_list=False)}"
    return f"{_shown(text)}: a comma separates the values of a sweep. To run them all add -m; {way}"


def _quoted(key: str, value: str, *, as_list: bool) -> str | None:
    """The argument as a shell takes it, quoted for the shell and for Hydra; None: no form of it can be read."""
    items = _items(value) if as_list else [value]
    for mark in "\"'":
        inner = [mark + item.replace("\\", "\\\\").replace(mark, "\\" + mark) + mark for item in items]
        for escaped in (inner, [mark + item + mark for item in items]):
            text = f"{key}=[{','.join(escaped)}]" if as_list else f"{key}={escaped[0]}"
            if _reads_as(text, items if as_list else value):
                return _for_shell(text)
    return None


def _reads_as(text: str, value: object) -> bool:
    try:
        return bool(OverridesParser.create().parse_override(text).value() == value)
    except HydraException:
        return False


def _for_shell(text: str) -> str:
    if "'" not in text:
        return f"'{text}'"
    return shlex.quote(text) if set(text) & set('"$`\\!') else f'"{text}"'


def _items(value: str) -> list[str]:
    """The items of a list that was written without quotes."""
    inside = value[1:].removesuffix("]") if value.startswith("[") else value
    items, depth = [""], 0
    for character in inside:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth <= 0:
            items.append("")
        else:
            items[-1] += character
    stripped = (item.strip() for item in items)
    return [item[1:-1] if len(item) > 1 and item[0] == item[-1] and item[0] in "\"'" else item for item in stripped]


def unreadable_file(error: yaml.MarkedYAMLError) -> str:
    """What is said of a YAML file that cannot be read: where, and why."""
    mark = error.problem_mark
    where = f"{mark.name}, line {mark.line + 1}" if mark else "a YAML file"
    return f"{where}: {error.problem}. Fix the file, then run the same command again."
