"""stage=master_catalog: turn the survey's tables into one catalog of galaxies with checked rows.

A row that cannot be used is dropped; the JSON beside the catalog lists each dropped row with its reason.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pandas as pd

from zoobot.errors import InputError
from zoobot.folders import published
from zoobot.folders.published import MadeOf
from zoobot.galaxies import cells, picture_paths, tables, vote_kinds
from zoobot.galaxies.questions import Question, QuestionTree, load_questions
from zoobot.galaxies.surveys import read_survey
from zoobot.settings import Settings, stage_settings

log = logging.getLogger("zoobot")
MAX_VOTES = 1_000_000  # for one answer; more is a mistake, and labels are float32


def catalog_path(settings: Settings) -> Path:
    """The path of the master catalog; its JSON has the same name."""
    return settings.survey_dir / f"{settings.survey.name}_master_catalog.csv"


def run(settings: Settings) -> Path:
    """Write the master catalog and its JSON, unless they exist with the same settings and sources."""
    path = catalog_path(settings)
    questions = load_questions(settings.survey.questions)
    used = stage_settings(settings, "master_catalog") | {"questions": questions.as_dict()}
    survey = read_survey(settings, questions)
    source, *votes = survey.sources
    for file in votes:
        _warn_of_age(file, settings.reduce.max_age_days)
    roles = dict(zip(("catalog", "votes"), survey.sources, strict=False))
    needs_picture = not settings.survey.features
    if not needs_picture and cells.no_text(survey.rows["file_loc"]).any():
        used["file_loc"] = "may be empty"
    made_of = MadeOf(used, {role: tables.digest(file) for role, file in roles.items()})
    if published.is_published(path.with_suffix(".json"), made_of):
        log.info("%s exists with these settings: nothing to do", path)
        return path
    if survey.rows.empty:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in survey.excluded.items())
        raise InputError(f"{source}: all rows are left out ({reasons}).")
    catalog, dropped, collapsed = clean(survey.rows, questions, str(source), needs_picture)
    _check_dropped(dropped, len(survey.rows), settings, source)
    if needs_picture:
        _warn_of_missing_images(settings, catalog)
    found = {
        "galaxies": len(catalog),
        "rows": len(survey.rows),
        "excluded": survey.excluded,
        "exact_duplicates_collapsed": collapsed,
        "dropped": dropped.to_dict("records"),
    }
    files = {path.name: catalog.to_csv(index=False).encode()}
    published.publish(path.with_suffix(".json"), files, made_of, found)
    for reason, count in survey.excluded.items():
        if count:
            log.info("left out by design: %d (%s)", count, reason)
    log.info(
        "%s: %d galaxies from %d rows, %d exact duplicates collapsed, %d rows dropped",
        path, len(catalog), len(survey.rows), collapsed, len(dropped),
    )  # fmt: skip
    return path


def _check_dropped(dropped: pd.DataFrame, n_rows: int, settings: Settings, source: Path) -> None:
    if len(dropped) <= settings.max_dropped_fraction * n_rows:
        return
    first = dropped.head(5)
    rows = "; ".join(f"{id_}: {reason}" for id_, reason in zip(first["id_str"], first["reason"], strict=True))
    raise InputError(
        f"{source}: {len(dropped)} of {n_rows} rows cannot be used, more than max_dropped_fraction="
        f"{settings.max_dropped_fraction}. The first: {rows}. Fix the table, or raise max_dropped_fraction."
    )


def clean(
    table: pd.DataFrame, questions: QuestionTree, where: str, needs_picture: bool = True
) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Keep the galaxies whose ids are unique, whose votes are counts and, if they need one, that have a picture.

    Returns the catalog (with ``{question}_total-votes``), the dropped rows (``id_str``, ``reason``), and how many
    exact duplicates were collapsed. A galaxy without any vote keeps empty vote columns.
    """
    table = table.drop(columns=[c for c in table.columns if str(c).startswith("Unnamed:")])
    table = vote_kinds.with_fractions(table, questions)
    asked = _asked(table, questions, where)
    before = len(table)
    table = table.drop_duplicates().reset_index(drop=True)
    reason = pd.Series("", index=table.index, dtype="object")
    ids = table["id_str"].astype("string").str.strip()
    _note_ids(reason, ids)
    if needs_picture:
        _note(reason, cells.no_text(table["file_loc"]), "no file_loc")
    unclassified = _are_empty(table, [c for q in asked for c in q.all_columns if c in table.columns])
    counts: dict[str, pd.Series] = {}
    for question in asked:
        counts |= _clean_votes(table, question, unclassified, reason, where)
    rootless = _are_empty(table, [c for c in questions.root.all_columns if c in table.columns]) & ~unclassified
    _note(reason, rootless, f"no votes for {questions.root.name}, but votes for other questions")
    _warn_of_unknown_answers(table, asked, where)
    catalog = table.assign(id_str=ids, **counts)
    first = [c for c in ("id_str", "file_loc", "ra", "dec", *counts) if c in catalog.columns]
    catalog = catalog[first + [c for c in catalog.columns if c not in first]]
    dropped = pd.DataFrame({"id_str": ids.fillna(""), "reason": reason})[reason != ""]
    catalog = catalog[reason == ""].reset_index(drop=True)
    if catalog.empty:
        first_row = f"{dropped['id_str'].iloc[0]}: {dropped['reason'].iloc[0]}"
        raise InputError(f"{where}: none of its {before} rows can be used. The first: {first_row}.")
    return catalog, dropped, before - len(table)


def _asked(table: pd.DataFrame, questions: QuestionTree, where: str) -> list[Question]:
    """The questions that the table has votes for. InputError if the first, or an answer of one, is not among them."""
    asked = [q for q in questions if any(c in table.columns for c in q.all_columns)]
    if questions.root not in asked:
        raise InputError(
            f"{where} has no vote columns for {questions.root.name}, such as {questions.root.columns[0]}."
            f" Is survey.questions right?{vote_kinds.predicted(table, questions.root.columns)}"
            f"{vote_kinds.text_answers(table, questions.root)}"
        )
    for question in asked:
        missing = [c for c in question.columns if c not in table.columns]
        if missing:
            raise InputError(f"{where} has votes for {question.name}, but no column {', '.join(missing)}.")
    return asked


def _note_ids(reason: pd.Series, ids: pd.Series) -> None:
    _note(reason, ids.isna() | (ids == ""), "no id_str")
    spoilt = cells.spoilt(ids.str.removeprefix("dr7objid_"))
    for why in spoilt[spoilt != ""].unique():
        _note(reason, spoilt == why, f"this id_str {why}")
    _note(reason, ids.duplicated(keep=False), "several different rows have this id_str")


def _are_empty(table: pd.DataFrame, columns: list[str]) -> pd.Series:
    return table[columns].apply(cells.is_empty).all(axis=1)


def _clean_votes(
    table: pd.DataFrame, question: Question, unclassified: pd.Series, reason: pd.Series, where: str
) -> dict[str, pd.Series]:
    """The vote columns of one question as counts, with their total. Other rows get a ``reason``."""
    columns = [c for c in question.all_columns if c in table.columns]
    numbers, empty = table[columns].apply(cells.numbers), table[columns].apply(cells.is_empty)
    given = cells.numbers(table[question.total]) if question.total in table.columns else None
    numbers, not_exact = vote_kinds.as_counts(numbers, given, question, where)
    never_asked = empty.all(axis=1)
    for column in columns:
        _note(reason, numbers[column].isna() & ~empty[column], f"{column} is not a number")
        _note(reason, numbers[column].isna() & ~never_asked, f"{column} is empty, but {question.name} has other votes")
        _note(reason, (numbers[column] < 0) | (numbers[column] > MAX_VOTES), f"{column} is not 0 to {MAX_VOTES}")
        _note(reason, numbers[column].notna() & (numbers[column] % 1 != 0), f"{column} is not a whole number")
    _note(reason, not_exact, f"the fractions for {question.name} are none of {question.total}")
    counts = numbers.where((numbers >= 0) & (numbers <= MAX_VOTES), 0).round().astype("Int64")
    total = counts.sum(axis=1).astype("Int64")
    if given is not None:
        wrong = ~cells.is_empty(table[question.total]) & (given != total.astype("float64"))
        _note(reason, wrong, f"{question.total} is not the sum of its answers")
    counts[question.total] = total
    return {str(name): counts[name].mask(unclassified) for name in counts.columns}


def _warn_of_unknown_answers(table: pd.DataFrame, asked: list[Question], where: str) -> None:
    known = tuple(c for q in asked for c in (*q.all_columns, q.total))
    derived = tuple(f"{column}_" for column in known)  # such as the fractions of GZ DECaLS
    questions = tuple(f"{q.name}_" for q in asked)
    unknown = [
        c for c in map(str, table.columns) if c.startswith(questions) and c not in known and not c.startswith(derived)
    ]
    if unknown:
        log.warning("%s: %s: not answers to the survey's questions, so not counted as votes", where, ", ".join(unknown))


def _note(reason: pd.Series, where: pd.Series, text: str) -> None:
    reason[(reason == "") & where.fillna(False).astype(bool)] = text


def _warn_of_missing_images(settings: Settings, catalog: pd.DataFrame) -> None:
    missing = [loc for loc in catalog["file_loc"] if not settings.image_path(str(loc)).is_file()]
    if missing:
        log.warning(
            "%d of %d images are missing from %s, for example %s."
            " The catalog stages continue without them; stage=shards needs them.%s",
            len(missing), len(catalog), settings.source_dir, missing[0],
            picture_paths.advice(missing, settings.source_dir),
        )  # fmt: skip


def _warn_of_age(votes: Path, max_age_days: float) -> None:
    age_days = (time.time() - votes.stat().st_mtime) / 86400
    if age_days > max_age_days:
        log.warning(
            "%s is %.1f days old (reduce.max_age_days=%g): run stage=reduce for newer votes",
            votes, age_days, max_age_days,
        )  # fmt: skip
