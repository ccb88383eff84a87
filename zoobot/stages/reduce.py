"""stage=reduce: turn raw Zooniverse classifications into vote counts, one row per subject.

The result of an export or a dump is written once. A pull brings new classifications every day, so its result is written
again when there are new ones.

Reads: raw classifications: an export, rows of the API, Caesar's reductions, or those that it pulls.
Writes: {survey}/classifications/: votes of each subject, rejected answers and why.
Needs: one of reduce.export, reduce.api_dump, reduce.caesar (with reduce.workflow_versions) and reduce.pull=true (with
oracle=panoptes).
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path

from zoobot import folders, votes
from zoobot.errors import InputError
from zoobot.folders import disk, published
from zoobot.folders.published import MadeOf
from zoobot.galaxies.questions import QuestionTree, load_questions
from zoobot.galaxies.surveys import read_subjects
from zoobot.settings import Settings, stage_settings
from zoobot.settings.schema import ReduceSettings
from zoobot.votes import classifications
from zoobot.votes.caesar import read_caesar
from zoobot.votes.rows import Row

log = logging.getLogger("zoobot")
NEXT = "master_catalog"  # the stage to run afterwards
RECORD = "reduction.json"


def run(settings: Settings) -> Path:
    """Write classifications.csv, rejected.csv and, last, reduction.json, unless nothing has changed."""
    folder = settings.survey_dir / "classifications"
    files, versions_path = _pull(settings) if settings.reduce.pull else _given_files(settings)
    inputs = _named(files) | ({"workflow_versions": versions_path} if versions_path else {})
    if settings.reduce.subjects:
        inputs["subjects"] = _existing(Path(settings.reduce.subjects))
    questions = load_questions(settings.survey.questions)
    used = stage_settings(settings, "reduce") | {"source": _source(settings), "questions": questions.as_dict()}
    made_of = MadeOf(used, {name: folders.digest_file(path) for name, path in inputs.items()})
    folder.mkdir(parents=True, exist_ok=True)
    with disk.lock(folder):
        if published.is_published(folder / RECORD, made_of, may_grow=settings.reduce.pull):
            log.info("%s exists with these settings and classifications: nothing to do", folder)
        else:
            _reduce(settings, folder, files, versions_path, questions, made_of)
    return folder


def dropped(path: Path) -> str:
    """How many answers were rejected, and where it says why."""
    with (path / "rejected.csv").open(encoding="utf-8", newline="") as file:
        n_rejected = sum(1 for _ in csv.reader(file)) - 1
    return f"{n_rejected} answers: {path / 'rejected.csv'} says why"


def _given_files(settings: Settings) -> tuple[list[Path], Path | None]:
    reduce = settings.reduce
    files = [_existing(Path(path)) for path in reduce.files]
    return files, _existing(Path(reduce.workflow_versions)) if reduce.workflow_versions else None


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InputError(
            f"{path} does not exist. Set reduce.export, reduce.api_dump or reduce.caesar, and reduce.workflow_versions,"
            " or set reduce.pull=true with oracle=panoptes."
        )
    return path


def _named(files: Sequence[Path]) -> dict[str, Path]:
    """The files by name; those of one name in several folders are numbered."""
    named: dict[str, Path] = {}
    for path in files:
        name = f"classifications/{path.name}"
        named[name if name not in named else f"{name} ({len(named)})"] = path
    return named


def _pull(settings: Settings) -> tuple[list[Path], Path | None]:
    """Pull new classifications. Returns the files of all classifications, and the file of workflow versions."""
    from zoobot.oracles import pull
    from zoobot.oracles.panoptes import Zooniverse

    folder, oracle = settings.survey_dir / "raw_classifications", settings.oracle
    n_new = pull.pull(Zooniverse(oracle), folder, oracle, oracle.last_classification_id)
    log.info("%s: %d new classifications, up to id %d", folder, n_new, pull.last_id(folder))
    return pull.row_files(folder), folder / pull.VERSIONS


def _source(settings: Settings) -> dict[str, object]:
    reduce, oracle = settings.reduce, settings.oracle
    if reduce.pull:
        return {"pull": {"project_id": oracle.project_id, "workflow_ids": list(oracle.workflow_ids)}}
    return {"caesar": True} if reduce.caesar else {"export": bool(reduce.export)}


def _reduce(
    settings: Settings,
    folder: Path,
    files: Sequence[Path],
    versions_path: Path | None,
    questions: QuestionTree,
    made_of: MadeOf,
) -> None:
    versions = classifications.read_workflow_versions(versions_path) if versions_path else []
    reduction = _counted(settings.reduce, files, questions, versions)
    _refuse_total_loss(settings, files, reduction)
    table = reduction.votes.reset_index()
    if settings.reduce.subjects:
        names = read_subjects(Path(settings.reduce.subjects))
        table = table.merge(names, how="left", on="subject_id", validate="one_to_one")
    contents = {
        "classifications.csv": table.to_csv(index=False).encode(),
        "rejected.csv": reduction.rejected.to_csv(index=False).encode(),
    }
    found = {"subjects": len(table), "answers_read": reduction.answers_read, "tally": reduction.tally}
    published.publish(folder / RECORD, contents, made_of, found)
    counts = ", ".join(f"{count} {what}" for what, count in sorted(reduction.tally.items()))
    reduction.warn_of_rejected("rejected.csv")
    log.info("%s: %d subjects, %d answers read (%s)", folder, len(table), reduction.answers_read, counts)


def _counted(
    given: ReduceSettings, files: Sequence[Path], questions: QuestionTree, versions: Sequence[Row]
) -> votes.Reduction:
    if given.caesar:
        reducers = dict(each.rsplit(":", 1) for each in given.caesar_reducers)
        return read_caesar(files[0], questions, versions, reducers)
    return votes.reduce_all(files, questions, versions, **given.counted)


def _refuse_total_loss(settings: Settings, files: Sequence[Path], reduction: votes.Reduction) -> None:
    why = reduction.why_no_vote()
    if why and not settings.reduce.allow_no_votes:
        raise InputError(
            f"{', '.join(map(str, files[:3]))}: {why}. Nothing was written. Check that these are classifications of"
            " this project, that reduce.workflow_versions has all its versions, and that survey.questions"
            f"={settings.survey.questions} has its tasks and labels. reduce.allow_no_votes=true accepts no votes."
        )
