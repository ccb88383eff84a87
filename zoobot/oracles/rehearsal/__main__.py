"""Serve the stand-in for Zooniverse on this machine: a rehearsal of live work. docs/live.md shows one."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from zoobot.galaxies import cells
from zoobot.galaxies.questions import QuestionTree, load_questions
from zoobot.galaxies.tables import read_table
from zoobot.oracles.rehearsal.server import PanoptesServer


def read_truth(path: Path, questions: QuestionTree) -> dict[str, dict[str, float]]:
    """Vote fractions, or counts, of each galaxy in a CSV with id_str and a column per answer."""
    table = read_table(path).set_index("id_str")
    columns = [column for question in questions for column in question.columns if column in table.columns]
    rows = table[columns].apply(cells.numbers).fillna(0).to_dict("index")
    return {str(id_str): {str(c): float(share) for c, share in row.items()} for id_str, row in rows.items()}


def main(arguments: list[str]) -> None:
    """Serve a rehearsal: each line of input lets the volunteers classify once; q or the end of input stops it."""
    parser = argparse.ArgumentParser(
        prog="python -m zoobot.oracles.rehearsal", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--truth", type=Path, required=True, help="CSV: id_str and the vote fraction of each answer")
    parser.add_argument("--questions", default="demo", help="a question set of configs/questions, or a YAML file")
    parser.add_argument("--port", type=int, default=8099)
    parser.add_argument("--state", type=Path, help="a file that keeps everything when the server is restarted")
    parser.add_argument(
        "--every-s", type=float, default=0, help="seconds after which volunteers classify again by themselves"
    )
    options = parser.parse_args(arguments)
    questions = load_questions(options.questions)
    with PanoptesServer(questions, read_truth(options.truth, questions), options.state, options.port) as server:
        print(
            f"Panoptes stand-in at {server.endpoint}: project 1, workflow 1.",
            "Its client id is rehearsal, its secret is rehearsal-secret.",
            "Press Return to let volunteers classify the linked subjects, q to stop.", sep="\n", flush=True,
        )  # fmt: skip
        while options.every_s:
            time.sleep(options.every_s)
            server.classify()
        for line in sys.stdin:
            if line.strip() == "q":
                break
            print(f"{server.classify()} classifications", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
