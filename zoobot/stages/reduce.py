"""stage=reduce: raw Zooniverse classifications become vote counts, a row per subject."""

from __future__ import annotations

import logging
from pathlib import Path

from zoobot import classifications, folders, votes
from zoobot.errors import InputError
from zoobot.questions import load_questions
from zoobot.settings import Settings, stage_settings
from zoobot.surveys import read_subjects

log = logging.getLogger("zoobot")


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
    rows = classifications.read_export(source) if chosen.export else classifications.read_api_dump(source)
    reduction = votes.reduce_all(rows, questions, classifications.read_workflow_versions(versions_path))
    table = reduction.votes.reset_index()
    if chosen.subjects:
        table = table.merge(read_subjects(Path(chosen.subjects)), how="left", on="subject_id", validate="one_to_one")
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
