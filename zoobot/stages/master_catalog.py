"""stage=master_catalog: turn the survey's tables into one catalog of galaxies with checked rows.

A row that cannot be used is dropped; the JSON beside the catalog lists each dropped row with its reason.

Reads: the survey's tables, and votes that stage=reduce has counted.
Writes: {survey}/: a row for each galaxy in {survey}_master_catalog.csv, and .json with the rows that were dropped.
Needs: survey, and survey.folder unless the program draws the galaxies (survey=demo).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from zoobot import folders
from zoobot.errors import InputError
from zoobot.folders import published
from zoobot.folders.published import MadeOf
from zoobot.galaxies import cells, picture_paths, repeats, tables, vote_kinds
from zoobot.galaxies.questions import Question, QuestionTree, load_questions
from zoobot.galaxies.surveys import SurveyTable, read_survey
from zoobot.settings import Settings, stage_settings

log = logging.getLogger("zoobot")
NEXT = "catalogs"  # the stage to run afterwards
MAX_VOTES = 1_000_000  # for one answer; more is a mistake, and labels are float32
Counted = tuple[pd.DataFrame, pd.Series]  # the counts of a question, and the rows whose votes are none


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
    cleaned = Cleaned(survey.rows, questions, str(source), needs_picture)
    found: dict[str, object] = {}
    files = {path.name: _content(cleaned, survey, settings, found)}
    published.publish(path.with_suffix(".json"), files, made_of, found)
    for reason, count in survey.excluded.items():
        if count:
            log.info("left out by design: %d (%s)", count, reason)
    log.info(
        "%s: %d galaxies from %d rows, %d exact duplicates collapsed, %d rows dropped",
        path, cleaned.n_kept, len(survey.rows), cleaned.n_collapsed, len(cleaned.dropped),
    )  # fmt: skip
    return path


def dropped(path: Path) -> str:
    """How many rows were dropped, and where it says why."""
    record = folders.read_json(path.with_suffix(".json"))
    return f"{len(record['dropped'])} of {record['rows']} rows: {path.with_suffix('.json')} says why"


def _content(cleaned: Cleaned, survey: SurveyTable, settings: Settings, found: dict[str, object]) -> Iterator[bytes]:
    """The catalog as CSV, in parts. Then ``found`` gets what its record says. InputError: too much was dropped."""
    n_missing, examples = 0, list[str]()
    for number, part in enumerate(cleaned.parts()):
        if cleaned.needs_picture:
            missing = picture_paths.missing(part["file_loc"], settings)
            n_missing, examples = n_missing + len(missing), [*examples, *missing][: picture_paths.TRIED]
        yield part.to_csv(index=False, header=number == 0).encode()
    dropped = cleaned.dropped
    _check_dropped(dropped, len(survey.rows), settings, survey.sources[0])
    if n_missing:
        _warn_of_missing_images(n_missing, cleaned.n_kept, examples, settings)
    found |= {
        "galaxies": cleaned.n_kept,
        "rows": len(survey.rows),
        "excluded": survey.excluded,
        "exact_duplicates_collapsed": cleaned.n_collapsed,
        "dropped": dropped.to_dict("records"),
    }


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
    """The catalog of ``Cleaned`` in one table, the dropped rows, and how many exact duplicates were collapsed."""
    cleaned = Cleaned(table, questions, where, needs_picture)
    catalog = pd.concat(list(cleaned.parts()), ignore_index=True)
    return catalog, cleaned.dropped, cleaned.n_collapsed


class Cleaned:
    """The galaxies of a table whose ids are unique, whose votes are counts and, if they need one, that have a picture.

    Only ids are looked at as a whole; all else is done in parts, so that it takes no memory.
    """

    def __init__(self, table: pd.DataFrame, questions: QuestionTree, where: str, needs_picture: bool = True) -> None:
        table = table.drop(columns=[c for c in table.columns if str(c).startswith("Unnamed:")])
        self._table = vote_kinds.with_fractions(table, questions)
        self._questions, self._where, self.needs_picture = questions, where, needs_picture
        self._asked = _asked(self._table, questions, where)
        self._is_copy_N, self._why_N = _judge_ids(self._table)
        self.n_collapsed, self.n_kept = int(self._is_copy_N.sum()), 0
        self._dropped: list[pd.DataFrame] = []
        self._counted = {question.name: self._from_fractions(question) for question in self._asked}
        _warn_of_unknown_answers(self._table, self._asked, where)

    @property
    def dropped(self) -> pd.DataFrame:
        """The rows of the parts that were dropped, so far: ``id_str``, ``reason``."""
        return pd.concat(self._dropped, ignore_index=True)

    def parts(self) -> Iterator[pd.DataFrame]:
        """The catalog (with ``{question}_total-votes``). A galaxy without any vote keeps empty vote columns."""
        for part in repeats.parts_of(len(self._table)):
            table = self._table.iloc[part]  # a slice: to take rows would copy all of each text
            table = table.set_axis(np.arange(part.start, part.start + len(table)))
            yield self._part(table[~self._is_copy_N[part]])
        if not self.n_kept:
            first = self.dropped.iloc[0]
            raise InputError(
                f"{self._where}: none of its {len(self._table)} rows can be used."
                f" The first: {first['id_str']}: {first['reason']}."
            )

    def _part(self, table: pd.DataFrame) -> pd.DataFrame:
        reason = pd.Series(self._why_N[table.index], index=table.index, dtype="object")
        if self.needs_picture:
            _note(reason, cells.no_text(table["file_loc"]), "no file_loc")
        unclassified = _are_empty(table, [c for q in self._asked for c in q.all_columns if c in table.columns])
        counts: dict[str, pd.Series] = {}
        for question in self._asked:
            counts |= _clean_votes(table, question, unclassified, reason, self._counted[question.name])
        root = self._questions.root
        rootless = _are_empty(table, [c for c in root.all_columns if c in table.columns]) & ~unclassified
        _note(reason, rootless, f"no votes for {root.name}, but votes for other questions")
        ids = table["id_str"].astype("string").str.strip()
        catalog = table.assign(id_str=ids, **counts)
        first = [c for c in ("id_str", "file_loc", "ra", "dec", *counts) if c in catalog.columns]
        catalog = catalog[first + [c for c in catalog.columns if c not in first]][reason == ""]
        self.n_kept += len(catalog)
        self._dropped.append(pd.DataFrame({"id_str": ids.fillna(""), "reason": reason})[reason != ""])
        return catalog.reset_index(drop=True)

    def _from_fractions(self, question: Question) -> Counted | None:
        """The counts of a question whose votes are fractions, which only all of them together say; otherwise None."""
        columns = [c for c in question.all_columns if c in self._table.columns]
        parts = (self._table[columns].iloc[part] for part in repeats.parts_of(len(self._table)))
        if not vote_kinds.are_fractions(part.apply(cells.numbers) for part in parts):
            return None
        rows = np.flatnonzero(~self._is_copy_N)
        numbers = self._table[columns].iloc[rows].set_axis(rows).apply(cells.numbers)
        has_total = question.total in self._table.columns
        given = cells.numbers(self._table[question.total].iloc[rows].set_axis(rows)) if has_total else None
        return vote_kinds.as_counts(numbers, given, question, self._where)


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


def _judge_ids(table: pd.DataFrame) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.object_]]:
    """Which rows are exact duplicates of an earlier one, N; and what is wrong with the id of each row, N."""
    ids = table["id_str"].astype("string").str.strip()
    alike = repeats.repeated(ids)  # exact duplicates are among them
    is_copy = table.iloc[alike].duplicated().to_numpy(dtype=bool)
    is_copy_N = np.zeros(len(table), dtype=bool)
    is_copy_N[alike[is_copy]] = True
    alike = alike[~is_copy]
    several = alike[ids.iloc[alike].duplicated(keep=False).to_numpy(dtype=bool)]
    why_N = np.full(len(table), "", dtype=object)
    why_N[~is_copy_N] = cells.spoilt(ids[~is_copy_N] if is_copy.any() else ids, "dr7objid_")
    spoilt = np.flatnonzero(why_N != "")
    why_N[spoilt] = [f"this id_str {why}" for why in why_N[spoilt]]
    why_N[(ids.isna() | (ids == "")).to_numpy(dtype=bool)] = "no id_str"
    several = several[why_N[several] == ""]
    why_N[several] = "several different rows have this id_str"
    return is_copy_N, why_N


def _are_empty(table: pd.DataFrame, columns: list[str]) -> pd.Series:
    return table[columns].apply(cells.is_empty).all(axis=1)


def _clean_votes(
    table: pd.DataFrame, question: Question, unclassified: pd.Series, reason: pd.Series, counted: Counted | None
) -> dict[str, pd.Series]:
    """The vote columns of one question as counts, with their total. Other rows get a ``reason``."""
    columns = [c for c in question.all_columns if c in table.columns]
    numbers, empty = table[columns].apply(cells.numbers), table[columns].apply(cells.is_empty)
    given = cells.numbers(table[question.total]) if question.total in table.columns else None
    not_exact = pd.Series(False, index=table.index)
    if counted:
        numbers, not_exact = counted[0].loc[table.index], counted[1].loc[table.index]
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


def _warn_of_missing_images(n_missing: int, n: int, examples: list[str], settings: Settings) -> None:
    log.warning(
        "%d of %d images are missing from %s, for example %s."
        " The catalog stages continue without them; stage=shards needs them.%s",
        n_missing, n, settings.pictures_place, examples[0], picture_paths.advice(examples, settings),
    )  # fmt: skip


def _warn_of_age(votes: Path, max_age_days: float) -> None:
    age_days = (time.time() - votes.stat().st_mtime) / 86400
    if age_days > max_age_days:
        log.warning(
            "%s is %.1f days old (reduce.max_age_days=%g): run stage=reduce for newer votes",
            votes, age_days, max_age_days,
        )  # fmt: skip
