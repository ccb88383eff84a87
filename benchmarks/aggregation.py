"""Votes as panoptes_aggregation counts them and as stage=reduce does, on the same files, answer by answer.

    python -m benchmarks.aggregation                      # installs it in a temporary folder: two minutes, 460 MB
    python -m benchmarks.aggregation --environment DIR    # installs it in DIR, or uses what is there: one minute

First the export and the workflows that the wheel of panoptes_aggregation ships. It has no case for most rules of
docs/votes.md, so then a row or two for each, made from its first row (benchmarks/aggregation_cases.py).

Where the counts differ, rule after rule is applied to the export itself, and panoptes_aggregation counts again. A rule
explains a difference if it changed their count. After the last rule they must have our counts: otherwise a difference
is unexplained, and the exit status is 1. `make bench` leaves this one out, because pip needs the package index.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import yaml

from benchmarks import aggregation_cases as cases
from benchmarks.aggregation_cases import Row, Workflow
from zoobot.galaxies.questions import parse_questions

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "panoptes_aggregation"
VERSION = "5.3.1"
HEADER = ("subject", "task", "answer", PACKAGE, "stage=reduce", "rule")

Answer: TypeAlias = tuple[str, str, str]  # subject, task, name of the answer
Counts: TypeAlias = dict[Answer, int]  # without zeros


class Difference(NamedTuple):
    """The rules that changed their count of an answer; ``explained`` if it became ours."""

    rules: tuple[int, ...]
    explained: bool


def main() -> None:
    """Install, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, help="folder of the environment; default: a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zoobot-aggregation-") as name:
        folder = Path(name)
        environment = (arguments.environment or folder / "environment").absolute()
        install(environment)
        python, today = platform.python_version(), datetime.datetime.now(tz=datetime.UTC).date()
        print(f"{PACKAGE} {VERSION} and stage=reduce, {today}, Python {python}")
        sys.exit(not all([compare_shipped(environment, folder), compare_cases(environment, folder)]))


def compare_shipped(environment: Path, folder: Path) -> bool:
    """Compare on the files of the wheel; True if each difference is explained."""
    export, workflows = shipped_files(environment)
    print(f"\n{export.name} and {workflows.name} of the wheel:")
    return compare(environment, folder / "shipped", export, workflows)


def compare_cases(environment: Path, folder: Path) -> bool:
    """Compare on the rows for each rule; True if each difference is explained."""
    export, workflows = folder / "cases_export.csv", folder / "cases_workflows.csv"
    shipped_export, shipped_workflows = shipped_files(environment)
    write_csv(export, cases.rows_for_each_rule(read_csv(shipped_export)[0]))
    write_csv(workflows, cases.with_tasks(read_csv(shipped_workflows)))
    print("\nA row or two for each rule:")
    return compare(environment, folder / "cases", export, workflows)


def install(environment: Path) -> None:
    """Make the environment, unless it is there with the right version."""
    python = environment / "bin" / "python"
    if not python.exists():
        call([sys.executable, "-m", "venv", environment])
    call([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{PACKAGE}=={VERSION}"])


def shipped_files(environment: Path) -> tuple[Path, Path]:
    """The only export of classifications in the wheel, and the workflows beside it."""
    (export,) = environment.glob(f"lib/python*/site-packages/{PACKAGE}/tests/**/cls_export.csv")
    return export, export.with_name("wf_export.csv")


def compare(environment: Path, folder: Path, export: Path, workflows: Path) -> bool:
    """Print a line for each answer that either of the two counts; True if each difference is explained."""

    def count_again(name: str, rows: Sequence[Row]) -> Counts:
        changed = folder / f"{name}.csv"
        write_csv(changed, rows)
        return count_theirs(environment, folder / name, changed, workflows)

    folder.mkdir()
    rows, workflow = read_csv(export), Workflow.read(workflows)
    theirs = count_theirs(environment, folder / "theirs", export, workflows)
    ours = count_ours(folder / "ours", export, workflows, workflow)
    found = explain(theirs, ours, rows, workflow, count_again) if theirs != ours else {}
    print(f"{len(rows)} classifications\n")
    print_table(theirs, ours, found)
    unexplained = sum(not difference.explained for difference in found.values())
    n_equal = len(theirs.keys() | ours.keys()) - len(found)
    print(f"\n{n_equal} counts are equal, {len(found)} are not; {unexplained} of these no rule explains.")
    return not unexplained


def count_theirs(environment: Path, folder: Path, export: Path, workflows: Path) -> Counts:
    """The counts of ``config``, ``extract`` and ``reduce``, for the major version of the first row."""
    folder.mkdir()
    program, first = environment / "bin" / PACKAGE, read_csv(export)[0]
    major = first["workflow_version"].split(".")[0]
    call([program, "config", workflows, first["workflow_id"], "-v", major, "-d", folder])
    (extractor,), (reducer,) = folder.glob("Extractor_*.yaml"), folder.glob("Reducer_*_question_extractor.yaml")
    call([program, "extract", export, extractor, "-d", folder, "-hb"])
    call([program, "reduce", folder / "question_extractor_extractions.csv", reducer, "-d", folder, "-hb"])
    counts: Counts = {}
    for row in read_csv(folder / "question_reducer_reductions.csv"):
        for column, cell in row.items():
            if column.startswith("data.") and column != "data.aggregation_version" and cell:
                counts[row["subject_id"], row["task"], column.removeprefix("data.")] = int(float(cell))
    return counts


def count_ours(folder: Path, export: Path, workflows: Path, workflow: Workflow) -> Counts:
    """The counts of ``stage=reduce`` with the questions of the workflow."""
    folder.mkdir()
    questions = folder / "questions.yaml"
    questions.write_text(yaml.safe_dump(workflow.questions, sort_keys=False), encoding="utf-8")
    settings = {
        "stage": "reduce", "survey": "custom", "survey.name": "same", "survey.questions": questions,
        "data_dir": folder, "tracking": "disabled", "reduce.export": export, "reduce.workflow_versions": workflows,
    }  # fmt: skip
    call([sys.executable, "run.py", *(f"{key}={value}" for key, value in settings.items())])
    counts: Counts = {}
    for row in read_csv(folder / "same" / "classifications" / "classifications.csv"):
        for question in parse_questions(workflow.questions, str(questions)):
            votes = {a.name: int(row[question.column(a.name)]) for a in question.answers}
            counts |= {(row["subject_id"], question.task, name): n for name, n in votes.items() if n}
    return counts


def explain(
    theirs: Counts,
    ours: Counts,
    rows: Sequence[Row],
    workflow: Workflow,
    count_again: Callable[[str, Sequence[Row]], Counts],
) -> dict[Answer, Difference]:
    """The differences, and the rules after which ``count_again`` gives another count."""
    before, changed_by = theirs, dict[Answer, tuple[int, ...]]()
    for number, rule in cases.RULES.items():
        rows = rule(rows, workflow)
        after = count_again(f"after_rule_{number}", rows)
        changed_by |= {answer: (*changed_by.get(answer, ()), number) for answer in different(before, after)}
        before = after
    left = different(before, ours)
    return {
        answer: Difference(changed_by.get(answer, ()), explained=answer not in left)
        for answer in different(theirs, ours) | left
    }


def different(one: Counts, other: Counts) -> set[Answer]:
    """The answers with different counts."""
    return {answer for answer in one.keys() | other.keys() if one.get(answer, 0) != other.get(answer, 0)}


def print_table(theirs: Counts, ours: Counts, found: dict[Answer, Difference]) -> None:
    """Print both counts of each answer as a Markdown table."""
    print_row(HEADER)
    print_row("---" for _ in HEADER)
    for answer in sorted(theirs.keys() | ours.keys() | found.keys()):
        difference = found.get(answer)
        rules = "" if not difference else ", ".join(map(str, difference.rules)) if difference.explained else "none"
        print_row([*answer, theirs.get(answer, 0), ours.get(answer, 0), rules])


def print_row(cells: Iterable[object]) -> None:
    """Print a row of a Markdown table."""
    print("|", " | ".join(map(str, cells)), "|")


def read_csv(path: Path) -> list[Row]:
    """The rows of a CSV, with the texts of their cells."""
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write rows that all have the columns of the first."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def call(command: Sequence[object]) -> None:
    """Run a program in the project's folder. SystemExit, with what it printed: it failed."""
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(
            f"{' '.join(map(str, command))} ended with status {done.returncode}\n{done.stdout}{done.stderr}"
        )


if __name__ == "__main__":
    main()
