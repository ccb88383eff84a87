"""What volunteers were shown: the tasks and answers of each version of a workflow.

A version in which something is odd (answers that are null, a label that is missing) spoils the answers that need it,
and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from zoobot.galaxies.ids import whole_number, zooniverse_id
from zoobot.votes.rows import as_list, as_mapping, as_text

# An image, a size after it, and the rest of an address with an unmatched parenthesis: "![a](b).png =60x) Smooth".
_SIZE = r"(?:\s*=\d*x\d*)?"
_ADDRESS = r"\((?:[^()]|\([^()]*\))*+\)(?:[^\s()]*\.\w{3,4}" + _SIZE + r"\s*\))?" + _SIZE
_IMAGE = re.compile(r"!\[[^\n]{0,500}?\]" + _ADDRESS)
_MOST_IMAGES = 20  # in a label: an answer of megabytes must not cost its square
_STRING_KEY = re.compile(r"[\w.-]+\.answers\.\d+\.label")


@dataclass(frozen=True)
class ShownTask:
    """A task in one version: the normalised label of each index ("" if it is missing); or why it gives no vote."""

    labels: tuple[str, ...] = ()
    is_single: bool = True
    problem: str = ""  # why its answers cannot be read


@dataclass(frozen=True)
class Version:
    """What one version of a workflow showed; or why its classifications cannot be read."""

    name: str
    tasks: dict[str, ShownTask] = field(default_factory=dict)
    problem: str = ""
    known: dict[tuple[Any, ...], Any] = field(default_factory=dict, compare=False)  # outcomes of answers seen before

    def problems(self) -> Iterator[str]:
        """Everything odd about it."""
        if self.problem:
            yield self.problem
        for name, task in self.tasks.items():
            if task.problem:
                yield task.problem
            yield from (
                missing_label(name, index, self.name)
                for index, label in enumerate(task.labels)
                if not label and not task.problem
            )


def normalise_label(text: str) -> str:
    """A label without image markdown, in lower case, with single spaces: the form in which answers are compared.

    A label that is nothing but images stays as it is, in lower case and without the images' size.
    """
    return _normalised(text) if len(text) > 1000 else _normalised_once(text)


def _normalised(text: str) -> str:
    without = " ".join((_IMAGE.sub(" ", text) if text.count("![") <= _MOST_IMAGES else text).split())
    return (without or " ".join(re.sub(r"\s+=\d*x\d*\s*(?=\))", "", text).split())).casefold()


_normalised_once = lru_cache(maxsize=10_000)(_normalised)  # of short labels only, or it would fill the memory


def read_versions(records: Iterable[object]) -> tuple[dict[tuple[str, str], Version], list[str]]:
    """The versions by workflow ("" if the record names none) and number; and what is odd about them.

    A record without a usable number or workflow is odd and is left out: no classification can be of that version.
    """
    versions: dict[tuple[str, str], Version] = {}
    unusable = []
    for position, record in enumerate(records, start=1):
        key = _key(record)
        if isinstance(key, str):
            unusable.append(f"workflow version {position}: {key}")
            continue
        version = _version(as_mapping(record), f"workflow {key[0] or '(none named)'}, version {key[1]}")
        if versions.setdefault(key, version) != version:
            versions[key] = Version(version.name, problem=f"{version.name} is there twice, with different answers")
    return versions, [*unusable, *(problem for version in versions.values() for problem in version.problems())]


def missing_label(task: str, index: int, version: str) -> str:
    """Why this index of an answer cannot be read."""
    return f"answer {index} of task {task} has no label in {version}"


def _key(record: object) -> tuple[str, str] | str:
    """Workflow and number of a version, or why it has none."""
    if not isinstance(record, dict):
        return "not an object"
    workflow = as_mapping(record.get("links")).get("workflow")
    major, minor = (whole_number(record.get(part)) for part in ("major_number", "minor_number"))
    if major is None or minor is None:
        return f"major_number {record.get('major_number')!r:.40} and minor_number {record.get('minor_number')!r:.40}"
    if workflow not in (None, "") and not zooniverse_id(workflow):
        return f"its workflow is {workflow!r:.40}, expected a number"
    return zooniverse_id(workflow), f"{major}.{minor}"


def _version(record: Any, name: str) -> Version:
    tasks, strings = record.get("tasks"), as_mapping(record.get("strings"))
    if not isinstance(tasks, dict):
        return Version(name, problem=f"{name} has no tasks")
    return Version(name, {as_text(task): _task(as_text(task), body, strings, name) for task, body in tasks.items()})


def _task(task: str, body: object, strings: Any, version: str) -> ShownTask:
    kind = as_mapping(body).get("type")
    if not isinstance(kind, str) or not kind:
        return ShownTask(problem=f"task {task} has no type in {version}")
    if kind != "single":
        return ShownTask(is_single=False)
    answers = as_list(as_mapping(body).get("answers"))
    if not answers:
        return ShownTask(problem=f"task {task} has no answers in {version}")
    return ShownTask(tuple(_label(as_mapping(answer).get("label"), strings) for answer in answers))


def _label(key: object, strings: Any) -> str:
    label = strings.get(key, key) if isinstance(key, str) else None
    if not isinstance(label, str) or (label == key and _STRING_KEY.fullmatch(label)):
        return ""  # the key of a text that is missing
    return normalise_label(label)
