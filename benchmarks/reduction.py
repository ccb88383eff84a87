"""How fast votes are counted, compared with DuckDB's bare parse of the same bytes and with a plain Python loop.

    python -m benchmarks.reduction                      # a million classifications, as JSON lines and as an export
    python -m benchmarks.reduction --rows 10000000      # about 25 GB of disk in --folder
    python -m benchmarks.reduction --flat 3000000       # and peak memory at this size too

The bare parse reads the same fields as the reduction (id, time, volunteer, subjects, workflow, version, task and value
of each answer) into typed columns and consumes every column; it judges, stores and counts nothing. Each measurement has
its own process. Wall time depends on other programs on the machine, so CPU time is printed too. For comparison, on
another machine: panoptes_aggregation takes 1.7 ms per classification for extraction alone, the former pandas pipeline
0.085 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb

from benchmarks import classifications as generated
from benchmarks import ratios
from tests import reference_votes
from zoobot import votes

_DUMP_PARSE = """
SELECT max(id), max(updated_at), max(links."user"), max(links.subjects[1]), max(links.workflow),
    max(metadata.workflow_version), sum(len(annotations)), max(annotations[1].task), max(annotations[1].value)
FROM read_json($path, format = 'newline_delimited', columns = {
    id: 'BIGINT', updated_at: 'TIMESTAMP', annotations: 'STRUCT(task VARCHAR, "value" JSON)[]',
    links: 'STRUCT("user" BIGINT, workflow BIGINT, subjects BIGINT[])', metadata: 'STRUCT(workflow_version VARCHAR)'})
"""
_EXPORT_PARSE = """
SELECT max(classification_id), max(user_id), max(subject_ids), max(workflow_id), max(workflow_version),
    count_if(json_valid(metadata)), sum(len(answers)), max(answers[1].task), max(answers[1].value)
FROM (
    SELECT *, from_json(annotations, '[{"task": "VARCHAR", "value": "JSON"}]') AS answers
    FROM read_csv($path, header = true, delim = ',', quote = '"', escape = '"', types = {
        classification_id: 'BIGINT', user_id: 'BIGINT', subject_ids: 'VARCHAR', workflow_id: 'BIGINT',
        workflow_version: 'VARCHAR', metadata: 'VARCHAR', annotations: 'VARCHAR'})
)
"""


def bare_parse(path: Path) -> None:
    """DuckDB alone: parse the same fields into typed columns and consume each column."""
    with duckdb.connect(config={**votes.resources(), "preserve_insertion_order": False}) as connection:
        connection.execute(_EXPORT_PARSE if path.suffix == ".csv" else _DUMP_PARSE, {"path": str(path)}).fetchall()


def reduction(path: Path) -> None:
    """The reduction that users run."""
    votes.reduce(path, generated.QUESTIONS, generated.VERSIONS)


def plain_loop(path: Path) -> None:
    """The tests' reference: Python's csv and json, row by row, with the same rules."""
    reference_votes.count(reference_votes.read(path), generated.QUESTIONS.as_dict(), generated.VERSIONS)


MEASURED: dict[str, Callable[[Path], None]] = {f.__name__: f for f in (bare_parse, reduction, plain_loop)}


def measure(name: str, path: Path) -> dict[str, float]:
    """Wall and CPU seconds, and peak memory in MiB, of one call in its own process."""
    command = [sys.executable, "-m", "benchmarks.reduction", "--child", name, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def _child(name: str, path: Path) -> None:
    before, start = _cpu(), time.perf_counter()
    MEASURED[name](path)
    seconds = {"wall": time.perf_counter() - start, "cpu": _cpu() - before}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(seconds | {"peak": peak}))


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def compare(path: Path, repetitions: int) -> None:
    """Print times and ratios. The programs take turns, so that other work on the machine affects all alike."""
    runs: dict[str, list[dict[str, float]]] = {"bare_parse": [], "reduction": []}
    for _ in range(repetitions):
        for name, results in runs.items():
            results.append(measure(name, path))
    runs["plain_loop"] = [measure("plain_loop", path)]
    for name, results in runs.items():
        wall, cpu = ([r[key] for r in results] for key in ("wall", "cpu"))
        print(
            f"  {name:11} wall {statistics.median(wall):6.2f} s ({min(wall):.2f} to {max(wall):.2f})"
            f"   CPU {statistics.median(cpu):6.2f} s ({min(cpu):.2f} to {max(cpu):.2f})"
            f"   peak {max(r['peak'] for r in results):5.0f} MiB"
        )
    for key in ("wall", "cpu"):
        best = {name: min(r[key] for r in results) for name, results in runs.items()}
        print(
            f"  {key:4} (best of each): reduction / bare parse = {best['reduction'] / best['bare_parse']:.2f},"
            f" plain loop / reduction = {best['plain_loop'] / best['reduction']:.1f}"
        )
    for reference in ("bare_parse", "plain_loop"):  # of CPU seconds
        ratios.record(f"stage=reduce, {path.suffix[1:]}", reference, best[reference] / best["reduction"])


def main() -> None:
    """Generate, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--flat", type=int, default=0, help="also measure the reduction's peak memory at this size")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="folder for the generated files; default: a temporary folder")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _child(arguments.child[0], Path(arguments.child[1]))
        return
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, DuckDB {duckdb.__version__}"
    )
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        kinds: tuple[generated.Kind, ...] = ("jsonl", "csv")
        for kind in kinds:
            path = Path(folder) / f"classifications.{kind}"
            generated.write(path, arguments.rows, kind)
            print(f"{arguments.rows:,} classifications, {kind}, {path.stat().st_size / 1e9:.2f} GB")
            compare(path, arguments.repetitions)
            if arguments.flat:
                generated.write(path, arguments.flat, kind)
                peak = measure("reduction", path)
                print(f"  {arguments.flat:,} classifications: wall {peak['wall']:.1f} s, peak {peak['peak']:.0f} MiB")
            path.unlink()


if __name__ == "__main__":
    main()
