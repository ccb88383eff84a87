"""Raw Zooniverse classifications -> votes per subject: the reduction.

Rules, in the order in which they act:

1. Rows with the same classification id are copies: the one updated last counts; of those updated at the same time, one
   that gives votes. The others are tallied as duplicates. A row that cannot be read is no copy.
2. A classification is rejected with all its answers, and does not count as its volunteer's turn in rule 4, if (the
   first that applies is the reason) it is unreadable, has no usable id, is not about exactly one subject, has a user
   that is neither an id nor empty, or comes from an unknown workflow version. Ids are whole numbers of at most 18
   digits (``galaxies.ids``: 11 and 11.0 are the same, NA and 0 are nobody). Versions are text: 28.30 is not 28.3.
3. Classifications that were made before the project was live (``metadata.live_project`` is false) and gold-standard
   ones are left out: no vote, and nobody's turn, unless ``Counted`` says otherwise.
4. A logged-in volunteer has one classification per subject: the first by id, with all its answers. Later ones are
   tallied as repeats. All anonymous ones count, or (``anonymous_repeats="first_per_session"``) the first of each known
   session and subject.
5. Answers inside a combo task are read like any other.
6. Null, empty and absent answers, tasks without a question (tutorials, rare features), and tasks that are not
   single-choice in that version give no vote.
7. An index means the label that this version gives it; a text is the label itself. Labels are compared without image
   markdown, case and spacing; a label that is only an image is compared as it is. An answer is rejected if the question
   does not have its label, or if the task or label is missing in that version.
8. A question answered twice in one classification: the first readable answer counts; the others are rejected.
9. An answer off the tree's path (no counted answer of that classification leads to its question) is rejected, so that a
   question never has more votes than the answers that lead to it.

Every answer read is a vote, a tallied answer without a vote, or a row of ``rejected``; a classification without answers
counts as one answer. Of equal keys in a JSON object the first counts.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa

from zoobot.errors import SettingsError
from zoobot.galaxies.questions import QuestionTree
from zoobot.votes.duckdb_reader import Intake
from zoobot.votes.judge import REJECTED, VOTE, Counted, Judge, Judgement, Outcome
from zoobot.votes.rows import Row

log = logging.getLogger("zoobot")
DUPLICATE = "duplicate of a classification"
REPEAT = "repeat by the same volunteer"
SESSION_REPEAT = "repeat in the same anonymous session"

REJECTED_COLUMNS = ("classification_id", "subject_id", "task", "reason")


@dataclass(frozen=True)
class Reduction:
    """Votes, rejected answers, and ``tally``: how many answers by outcome; ``sum(tally.values()) == answers_read``."""

    votes: pd.DataFrame
    rejected: pd.DataFrame
    tally: dict[str, int]
    answers_read: int

    def warn_of_rejected(self, listed_in: str) -> None:
        """Log the commonest reasons of rejected answers."""
        for reason, n in list(self.rejected["reason"].value_counts().items())[:3]:
            log.warning("%d answers rejected: %s (%s lists them all)", n, reason, listed_in)

    def why_no_vote(self) -> str:
        """What became of most answers, if none is a vote; "" if there are votes."""
        if self.tally[VOTE]:
            return ""
        if not self.answers_read:
            return "no classification was read"
        outcomes = {what: n for what, n in self.tally.items() if what != REJECTED}
        what, n = Counter(outcomes | self.rejected["reason"].value_counts().to_dict()).most_common(1)[0]
        return f"none of {self.answers_read} answers is a vote; the commonest reason ({n} answers): {what}"


def reduce(
    classifications: str | Path | Iterable[Row | Path],
    questions: QuestionTree,
    workflow_versions: Sequence[Row],
    *,
    anonymous_repeats: str = "all",
    before_launch: bool = False,
    gold_standard: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Count votes by the rules at the top of this file; the order of ``classifications`` does not matter.

    Args:
        classifications: the path of a file, or any number of rows in the shape of the Zooniverse API and of files
            (each a ``Path``). A file is an export (CSV) or rows of the API (JSON), either of them compressed or not.
        questions: their tasks and labels say which answer a vote is for.
        workflow_versions: all that volunteers were shown (``read_workflow_versions``, ``workflow_of``). One with
            ``links.workflow`` is for the classifications of that workflow only.
        anonymous_repeats, before_launch, gold_standard: see ``judge.Counted``.

    Returns:
        votes: a row per subject with a vote; string index ``subject_id``, sorted; int64 columns ``questions.columns``.
        rejected: a row per rejected answer; string columns classification_id, subject_id, task, reason.

    No classification raises, whatever it contains. InputError: a file does not exist or is of another kind; two answers
    of a question share a label. SettingsError: ``anonymous_repeats`` is neither of the two.
    """
    reduction = reduce_all(
        classifications, questions, workflow_versions,
        anonymous_repeats=anonymous_repeats, before_launch=before_launch, gold_standard=gold_standard,
    )  # fmt: skip
    return reduction.votes, reduction.rejected


def reduce_all(
    classifications: str | Path | Iterable[Row | Path],
    questions: QuestionTree,
    workflow_versions: Sequence[Row],
    *,
    anonymous_repeats: str = "all",
    before_launch: bool = False,
    gold_standard: bool = False,
) -> Reduction:
    """``reduce``, with the tally of all answers read."""
    if anonymous_repeats not in ("all", "first_per_session"):
        raise SettingsError(f"anonymous_repeats must be all or first_per_session, got {anonymous_repeats!r}")
    judge = Judge.of(questions, workflow_versions, Counted(anonymous_repeats, before_launch, gold_standard))
    items = [Path(classifications)] if isinstance(classifications, str | Path) else classifications
    with tempfile.TemporaryDirectory(prefix="zoobot-reduce-") as spill, _connect(spill) as connection:
        intake = Intake(connection, judge)
        intake.add(items)
        _store_judgements(connection, intake.codes, questions)
        answers_read = _n_answers(connection, "true")
        newest = "updated_at DESC, rank DESC, subject DESC, volunteer DESC, session DESC"
        tally = Counter({DUPLICATE: _keep_first(connection, "id", "id IS NOT NULL", newest)})
        tally[REPEAT] = _keep_first(connection, "volunteer, subject", "judgement > 0 AND volunteer <> ''", "id")
        if anonymous_repeats == "first_per_session":
            anonymous = "judgement > 0 AND volunteer = '' AND session <> ''"
            tally[SESSION_REPEAT] = _keep_first(connection, "session, subject", anonymous, "id")
        tally.update({VOTE: 0, REJECTED: 0} | _tally(connection))
        votes, rejected = _votes_table(connection, questions), _rejected_table(connection)
    assert sum(tally.values()) == answers_read, (tally, answers_read)
    assert len(rejected) == tally[REJECTED], (tally, len(rejected))
    return Reduction(votes, rejected, dict(tally), answers_read)


def resources() -> dict[str, Any]:
    """What DuckDB may use; the rest goes to a temporary folder. 16 threads would need more than 1 GB at the start."""
    return {"memory_limit": "400MB", "threads": min(4, os.cpu_count() or 1)}


def _connect(spill: str) -> duckdb.DuckDBPyConnection:
    return duckdb.connect(
        config={
            **resources(),
            "temp_directory": spill,
            "preserve_insertion_order": False,
            # A join keeps the table on its right in memory, and DuckDB does not know how many rows a file has.
            "disabled_optimizers": "join_order,build_side_probe_side",
            "autoinstall_known_extensions": False,  # JSON is built in, and nothing may use a network
        }
    )


def _store_judgements(
    connection: duckdb.DuckDBPyConnection, codes: dict[Judgement, int], questions: QuestionTree
) -> None:
    """Tables ``judgement`` (``rank`` does not depend on the order of rows; ``v0``, ``v1``, ... per vote column: true or
    null) and ``outcome``.
    """
    ordered = sorted(codes)
    number_of = {column: i for i, column in enumerate(c for q in questions for c in q.all_columns)}
    has_vote = np.zeros((len(number_of), len(ordered)), dtype=bool)
    for position, judgement in enumerate(ordered):
        for outcome in judgement.outcomes:
            if outcome.kind == VOTE:
                has_vote[number_of[outcome.text], position] = True
    judgements: dict[str, Any] = {
        "code": pa.array([codes[v] for v in ordered], pa.int32()),
        "rank": range(len(ordered)),
    }
    judgements["n_answers"] = pa.array([len(v.outcomes) for v in ordered], pa.int64())
    judgements["n_votes"] = pa.array(has_vote.sum(axis=0), pa.int64())
    judgements |= {f"v{i}": pa.array(votes, mask=~votes) for i, votes in enumerate(has_vote)}
    outcomes = [(codes[v], position, *outcome) for v in ordered for position, outcome in enumerate(v.outcomes)]
    fields = [("code", pa.int32()), ("position", pa.int32()), *((f, pa.string()) for f in Outcome._fields)]
    values: list[Any] = list(zip(*outcomes, strict=True)) or [[]] * len(fields)
    outcome_table = pa.table({name: pa.array(v, t) for (name, t), v in zip(fields, values, strict=True)})
    connection.from_arrow(pa.table(judgements)).create("judgement")
    connection.from_arrow(outcome_table).create("outcome")


def _n_answers(connection: duckdb.DuckDBPyConnection, rows: str) -> int:
    joined = "classification JOIN judgement ON code = judgement"
    query = f"SELECT coalesce(sum(n_answers), 0)::BIGINT FROM {joined} WHERE {rows}"
    return int(connection.execute(query).fetchall()[0][0])


def _keep_first(connection: duckdb.DuckDBPyConnection, alike: str, among: str, order: str) -> int:
    """Delete all but the first of the classifications that are ``alike``; returns how many answers were deleted."""
    # The hash only finds candidates. It takes a third of the time that the values would take.
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE surplus AS
        WITH several AS (
            SELECT hash({alike}) AS key FROM classification WHERE {among} GROUP BY key HAVING count(*) > 1
        ), numbered AS (
            SELECT c.rowid AS id_of_row, row_number() OVER (PARTITION BY {alike} ORDER BY {order}) AS number
            FROM classification AS c JOIN judgement ON code = judgement
            WHERE {among} AND hash({alike}) IN (SELECT key FROM several)
        )
        SELECT id_of_row FROM numbered WHERE number > 1
    """)
    surplus = "classification.rowid IN (SELECT id_of_row FROM surplus)"
    n_answers = _n_answers(connection, surplus)
    connection.execute(f"DELETE FROM classification WHERE {surplus}")
    return n_answers


def _tally(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    return dict(
        connection.execute("""
            WITH n AS (SELECT judgement, count(*) AS n FROM classification GROUP BY judgement)
            SELECT kind, sum(n)::BIGINT FROM n JOIN outcome ON code = judgement GROUP BY kind
        """).fetchall()
    )


def _votes_table(connection: duckdb.DuckDBPyConnection, questions: QuestionTree) -> pd.DataFrame:
    n_columns = sum(len(question.all_columns) for question in questions)
    counts = ", ".join(f"count(v{i}) AS v{i}" for i in range(n_columns))
    found = connection.sql(f"""
        SELECT subject, {counts} FROM classification JOIN judgement ON code = judgement
        WHERE n_votes > 0 GROUP BY subject ORDER BY subject
    """).to_arrow_table()
    counted = iter(found.columns[1:])
    columns: dict[str, Any] = {}
    for question in questions:
        of_question = {column: next(counted).to_numpy() for column in question.all_columns}
        columns |= of_question
        columns[question.total] = sum(of_question.values())
    subjects = pd.Index(found["subject"].to_pylist(), dtype="string", name="subject_id")
    return pd.DataFrame(columns, subjects, list(questions.columns), dtype="int64")


def _rejected_table(connection: duckdb.DuckDBPyConnection) -> pd.DataFrame:
    found = connection.sql("""
        SELECT coalesce(id_text, id::VARCHAR), subject, task, text
        FROM classification JOIN judgement ON code = judgement JOIN outcome USING (code)
        WHERE kind = 'rejected' ORDER BY id NULLS FIRST, id_text, subject, rank, position
    """).to_arrow_table()
    columns = dict(zip(REJECTED_COLUMNS, found.columns, strict=True))
    return pd.DataFrame({name: pd.array(c.to_pylist(), dtype="string") for name, c in columns.items()})
