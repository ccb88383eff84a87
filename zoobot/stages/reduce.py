"""stage=reduce: raw Zooniverse classifications become vote counts, a row per subject."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pandas as pd

from zoobot import classifications, folders, votes
from zoobot.errors import InputError
from zoobot.questions import load_questions
from zoobot.settings import Settings, stage_settings
from zoobot.surveys import read_table, require_columns

log = logging.getLogger("zoobot")
GALAXY_NAMES = ("iauname", "id_str")  # metadata of a subject that tell which galaxy it shows


def run(settings: Settings) -> Path:
    """Write classifications.csv, rejected.csv and reduction.json; say so and do nothing when they exist already."""
    chosen = settings.reduce
    source = Path(chosen.export or chosen.api_dump)
    versions_path, folder = Path(chosen.workflow_versions), settings.survey_dir / "classifications"
    inputs = {"classifications": source, "workflow_versions": versions_path}
    if chosen.subjects:
        inputs["subjects"] = Path(chosen.subjects)
    for path in inputs.values():
        if not path.is_file():
            raise InputError(
                f"{path} does not exist: give reduce.export or reduce.api_dump, and reduce.workflow_versions."
            )
    questions = load_questions(settings.survey.questions)
    used = stage_settings(settings, "reduce") | {"questions": questions.as_dict()}
    if folders.exists_with(folder, used, inputs):
        log.info("%s exists with these settings: nothing to do", folder)
        return folder
    versions = classifications.read_workflow_versions(versions_path)
    reduction = votes.reduce_all(source, questions, versions, anonymous_repeats=chosen.anonymous_repeats)
    table = reduction.votes.reset_index()
    if chosen.subjects:
        table = table.merge(_galaxy_names(Path(chosen.subjects)), how="left", on="subject_id", validate="one_to_one")
    with folders.create(folder, used, inputs) as staging:
        table.to_csv(staging / "classifications.csv", index=False)
        reduction.rejected.to_csv(staging / "rejected.csv", index=False)
        folders.write_json(
            staging / "reduction.json",
            {
                "format_version": 1,
                "subjects": len(table),
                "answers_read": reduction.answers_read,
                "tally": reduction.tally,
            },
        )
    counts = ", ".join(f"{count} {what}" for what, count in sorted(reduction.tally.items()))
    log.info("%s: %d subjects, %d answers read (%s)", folder, len(table), reduction.answers_read, counts)
    return folder


def _galaxy_names(path: Path) -> pd.DataFrame:
    """``subject_id`` and the galaxy's name, from a subject export of Zooniverse (its metadata is JSON)."""
    table = read_table(path)
    require_columns(table, ["subject_id", "metadata"], path)
    table = table.drop_duplicates("subject_id")
    try:
        metadata = [
            {key.lstrip("!#/").lower(): value for key, value in json.loads(text).items()} for text in table["metadata"]
        ]
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"{path}: column metadata is not JSON in every row ({error}). Is it a subject export?"
        ) from error
    names = {
        name: pd.array([str(entry[name]) if entry.get(name) else None for entry in metadata], dtype="string")
        for name in GALAXY_NAMES
        if any(name in entry for entry in metadata)
    }
    if not names:
        raise InputError(
            f"{path}: no subject's metadata has {' or '.join(GALAXY_NAMES)}, so its galaxies are not known."
        )
    return pd.DataFrame({"subject_id": table["subject_id"].to_numpy(), **names})
