"""Generate classifications for benchmarks: API rows (JSON lines) or an export (CSV), seeded, 100,000 rows a second.

The rows have the fields and the size of real ones (about 1.2 kB): 4 to 9 answers along the DECaLS tree, including the
multiple-choice task T10, and three workflow versions. One volunteer in five is not logged in. A few rows have a repeat,
a copy, a null answer, an unknown version or two subjects.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from zoobot.galaxies.questions import load_questions
from zoobot.votes.classifications import workflow_of

QUESTIONS = load_questions("decals")
VERSIONS = [workflow_of(QUESTIONS, version) for version in ("66.5", "66.50", "66.425")]
EXPORT_HEADER = (
    "classification_id,user_name,user_id,user_ip,workflow_id,workflow_name,workflow_version,created_at,gold_standard,"
    "expert,metadata,annotations,subject_data,subject_ids"
)
_N_PER_BLOCK = 100_000
_SUBJECTS, _VOLUNTEERS = 60_000, 15_000  # as in the Galaxy Zoo Euclid export of 2025; the same for every size
_UNKNOWN_VERSION = "65.1"

Kind = Literal["jsonl", "csv"]


def write(path: Path, n_rows: int, kind: Kind, seed: int = 0) -> None:
    """Write ``n_rows`` classifications; the same arguments give the same bytes."""
    annotations = [_annotation_texts(kind, number) for number in range(len(VERSIONS))]
    with path.open("w", encoding="utf-8", newline="") as file:
        if kind == "csv":
            file.write(EXPORT_HEADER + "\n")
        for block, start in enumerate(range(0, n_rows, _N_PER_BLOCK)):
            random = np.random.default_rng([seed, block])
            columns = _columns(random, start, min(_N_PER_BLOCK, n_rows - start), len(annotations[0]))
            line = _api_line if kind == "jsonl" else _export_line
            file.writelines(line(annotations, *values) for values in zip(*columns, strict=True))


def _columns(random: np.random.Generator, start: int, n: int, n_texts: int) -> list[list[Any]]:
    """id, subject, second subject or 0, user or 0, session, version, which annotations."""
    ids = 500_000_000 + start + np.arange(n)
    copied = random.random(n) < 0.003
    ids[copied] -= 1
    subjects = 40_000_000 + random.integers(_SUBJECTS, size=n)
    second = np.where(random.random(n) < 0.001, subjects + 1, 0)
    users = np.minimum(random.zipf(1.3, n), _VOLUNTEERS) + random.integers(_VOLUNTEERS, size=n)
    users[random.random(n) < 0.2] = 0
    sessions = random.integers(2**60, size=n)
    versions = random.choice(len(VERSIONS) + 1, size=n, p=[0.2, 0.3, 0.499, 0.001])
    texts = random.integers(n_texts, size=n)
    return [column.tolist() for column in (ids, subjects, second, users, sessions, versions, texts)]


def _api_line(
    annotations: list[list[str]], id_: int, subject: int, second: int, user: int, session: int, version: int, text: int
) -> str:
    number = f"66.{(5, 50, 425)[version]}" if version < 3 else _UNKNOWN_VERSION
    subjects = f'"{subject}", "{second}"' if second else f'"{subject}"'
    seconds = f"{id_ // 60 % 60:02d}:{id_ % 60:02d}"
    return (
        f'{{"id": "{id_}", "annotations": {annotations[version % 3][text]},'
        f' "created_at": "2019-03-29T18:{seconds}.739Z",'
        f' "updated_at": "2019-03-29T18:{seconds}.810Z", "metadata": {{"source": "api", "session": "{session:064x}",'
        f' "viewport": {{"width": 1366, "height": 657}}, "started_at": "2019-03-29T18:{seconds}.463Z", "user_agent":'
        ' "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/73.0.3683.86",'
        f' "utc_offset": "18000", "finished_at": "2019-03-29T18:{seconds}.987Z", "live_project": true, "interventions":'
        ' {"opt_in": true, "message": false}, "user_language": "en", "subject_dimensions": [{"clientWidth": 424,'
        ' "clientHeight": 424, "naturalWidth": 424, "naturalHeight": 424}], "subject_selection_state": {"retired":'
        ' false, "already_seen": false, "selection_state": "normal", "finished_workflow": false,'
        ' "user_has_finished_workflow": false}, "workflow_translation_id": "750", "workflow_version":'
        f' "{number}"}}, "href": "/classifications/{id_}", "links": {{"project": "5733", "user":'
        f' {f"{chr(34)}{user}{chr(34)}" if user else "null"}, "user_group": null, "workflow": "6122",'
        f' "subjects": [{subjects}]}}}}\n'
    )


def _export_line(
    annotations: list[list[str]], id_: int, subject: int, second: int, user: int, session: int, version: int, text: int
) -> str:
    number = f"66.{(5, 50, 425)[version]}" if version < 3 else _UNKNOWN_VERSION
    seconds = f"{id_ // 60 % 60:02d}:{id_ % 60:02d}"
    metadata = (
        f'{{"source":"api","session":"{session:064x}","viewport":{{"width":1366,"height":657}},"started_at":'
        f'"2019-03-29T18:{seconds}.463Z","user_agent":"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36'
        f' (KHTML, like Gecko) Chrome/73.0.3683.86","utc_offset":"18000","finished_at":"2019-03-29T18:{seconds}.987Z",'
        '"live_project":true,"user_language":"en","subject_selection_state":{"retired":false,"already_seen":false,'
        '"selection_state":"normal","finished_workflow":false,"user_has_finished_workflow":false}}'
    ).replace('"', '""')
    subject_data = f'{{""{subject}"":{{""retired"":null,""iauname"":""J{subject}"",""ra"":""180.{subject}""}}}}'
    name = f"volunteer-{user},{user}" if user else f"not-logged-in-{session % 16**12:020x},"
    return (
        f"{id_},{name},{session % 16**12:020x},6122,Galaxy Zoo,{number},2019-03-29 18:{seconds} UTC,,,"
        f'"{metadata}","{annotations[version % 3][text]}","{subject_data}",'
        f"{f'{subject};{second}' if second else subject}\n"
    )


def _annotation_texts(kind: Kind, number: int) -> list[str]:
    """Each way to answer a version, with several sets of rare features, as in the API or in a cell of an export."""
    version, texts = VERSIONS[number], []
    random = np.random.default_rng(number)
    for way in _ways(version, version["first_task"]):
        for _ in range(8):
            features = [i for i in range(7) if random.random() < 0.25]
            answers: list[dict[str, Any]] = [{"task": t, "value": v} for t, v in [*way, ("T10", features)]]
            if random.random() < 0.01:
                answers[-2]["value"] = None
            if kind == "csv":
                answers = [_with_labels(version, answer) for answer in answers]
            if 4 <= len(answers) <= 9:
                texts.append(json.dumps(answers, separators=(",", ":") if kind == "csv" else None))
    if kind == "csv":
        return [_quoted(text) for text in texts]
    return texts


def _ways(version: dict[str, Any], task: str | None) -> Iterator[list[tuple[str, int]]]:
    if task is None:
        yield []
        return
    for index, answer in enumerate(version["tasks"][task]["answers"]):
        for rest in _ways(version, answer.get("next")):
            yield [(task, index), *rest]


def _with_labels(version: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    task, value = answer["task"], answer["value"]
    if task == "T10":
        return {
            "task": task,
            "task_label": "Do you see any of these rare features?",
            "value": [f"Feature {i}" for i in value],
        }
    image = (
        f"![{task}{value}.png](https://panoptes-uploads.zooniverse.org/workflow_attached_image/{task}{value}.png =60x) "
    )
    label = None if value is None else image + version["strings"][f"{task}.answers.{value}.label"]
    return {"task": task, "task_label": f"What about {version['strings'][f'{task}.question']}?", "value": label}


def _quoted(text: str) -> str:
    """The content of a quoted CSV cell."""
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerow([text])
    return out.getvalue().strip()[1:-1]
