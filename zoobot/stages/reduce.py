"""stage=reduce: raw Zooniverse classifications become vote counts, a row per subject.

A pull brings new classifications every day, so the result of one is written again when there are new ones; that of an
export or a dump is written once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoobot import folders, votes
from zoobot.errors import FolderError, InputError
from zoobot.folders import disk
from zoobot.folders.provenance import provenance
from zoobot.galaxies.questions import QuestionTree, load_questions
from zoobot.galaxies.surveys import read_subjects
from zoobot.settings import Settings, stage_settings
from zoobot.votes import classifications

log = logging.getLogger("zoobot")
FORMAT_VERSION = 1
REPEATS = "reduce.anonymous_repeats"
RECORD = "reduction.json"


def run(settings: Settings) -> Path:
    """Write classifications.csv, rejected.csv and, last, reduction.json; say so and do nothing when nothing changed."""
    chosen, folder = settings.reduce, settings.survey_dir / "classifications"
    files, versions_path = _pull(settings) if chosen.pull else _given_files(settings)
    inputs = {f"classifications/{path.name}": path for path in files} | {"workflow_versions": versions_path}
    if chosen.subjects:
        inputs["subjects"] = _existing(Path(chosen.subjects))
    questions = load_questions(settings.survey.questions)
    used = stage_settings(settings, "reduce") | {"source": _source(settings), "questions": questions.as_dict()}
    digests = {name: folders.digest_file(path) for name, path in inputs.items()}
    folder.mkdir(parents=True, exist_ok=True)
    with disk.lock(folder):
        if _is_done(folder, used, digests, may_grow=chosen.pull):
            log.info("%s exists with these settings and classifications: nothing to do", folder)
        else:
            _reduce(folder, files, versions_path, questions, chosen.subjects, {"settings": used, "inputs": digests})
    return folder


def _given_files(settings: Settings) -> tuple[list[Path], Path]:
    chosen = settings.reduce
    return [_existing(Path(chosen.export or chosen.api_dump))], _existing(Path(chosen.workflow_versions))


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InputError(
            f"{path} does not exist: give reduce.export or reduce.api_dump, and reduce.workflow_versions,"
            " or reduce.pull=true with oracle=panoptes."
        )
    return path


def _pull(settings: Settings) -> tuple[list[Path], Path]:
    """The files of all classifications so far, after pulling the new ones, and that of the workflow's versions."""
    from zoobot.oracles import pull
    from zoobot.oracles.panoptes import Zooniverse

    folder, oracle = settings.survey_dir / "raw_classifications", settings.oracle
    n_new = pull.pull(Zooniverse(oracle), folder, oracle, oracle.last_classification_id)
    log.info("%s: %d new classifications, up to id %d", folder, n_new, pull.last_id(folder))
    return pull.row_files(folder), folder / pull.VERSIONS


def _source(settings: Settings) -> dict[str, Any]:
    chosen, oracle = settings.reduce, settings.oracle
    if chosen.pull:
        return {"pull": {"project_id": oracle.project_id, "workflow_ids": list(oracle.workflow_ids)}}
    return {"export": bool(chosen.export)}


def _is_done(folder: Path, used: Mapping[str, Any], digests: Mapping[str, str], *, may_grow: bool) -> bool:
    """Whether the result is there and made of just this; one that was made differently is refused."""
    if not (folder / RECORD).is_file():
        return False
    record = folders.read_json(folder / RECORD)
    differences = folders.differing_keys(record["settings"], used)
    changed = sorted(name for name in {*record["inputs"], *digests} if record["inputs"].get(name) != digests.get(name))
    damaged = [name for name, digest in record["sha256"].items() if _digest(folder / name) != digest]
    if changed and may_grow and not differences:
        return False  # also after a stop in the middle of writing the new result
    differences += [f"input {name}: it has changed since" for name in changed]
    differences += [f"{name}: it was changed after it was written" for name in damaged]
    if differences:
        raise FolderError(
            "\n  ".join([f"{folder} exists, but was made differently:", *differences])
            + "\nUse those settings and files, or move the folder away."
        )
    return True


def _digest(path: Path) -> str:
    return folders.digest_file(path) if path.is_file() else ""


def _reduce(
    folder: Path, files: Sequence[Path], versions_path: Path, questions: QuestionTree, subjects: str, made_of: Any
) -> None:
    versions, repeats = classifications.read_workflow_versions(versions_path), made_of["settings"][REPEATS]
    reduction = votes.reduce_all(files, questions, versions, anonymous_repeats=repeats)
    table = reduction.votes.reset_index()
    if subjects:
        table = table.merge(read_subjects(Path(subjects)), how="left", on="subject_id", validate="one_to_one")
    contents = {
        "classifications.csv": table.to_csv(index=False).encode(),
        "rejected.csv": reduction.rejected.to_csv(index=False).encode(),
    }
    for name, content in contents.items():
        folders.publish_file(folder / name, content)
    record = {
        "format_version": FORMAT_VERSION,
        "subjects": len(table),
        "answers_read": reduction.answers_read,
        "tally": reduction.tally,
        **made_of,
        "sha256": {name: folders.digest_file(folder / name) for name in contents},
        "provenance": provenance(),
    }
    # Last: a run that was stopped before this begins anew.
    folders.publish_file(folder / RECORD, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())
    counts = ", ".join(f"{count} {what}" for what, count in sorted(reduction.tally.items()))
    log.info("%s: %d subjects, %d answers read (%s)", folder, len(table), reduction.answers_read, counts)
