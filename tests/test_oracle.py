"""Oracles: raw classifications that look like Zooniverse's and carry the hidden votes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from zoobot import votes
from zoobot.errors import InputError
from zoobot.galaxies.questions import load_questions
from zoobot.oracles import simulated
from zoobot.oracles.protocol import Asked
from zoobot.oracles.simulated import KnownVotes, SimulatedVolunteers
from zoobot.settings import OracleSettings
from zoobot.votes import classifications

SHARED = Path(__file__).resolve().parents[2] / "shared"
QUESTIONS = load_questions("demo")
PROMPT = OracleSettings(kind="simulated", late_fraction=0.0)
LATE = OracleSettings(kind="simulated", late_fraction=1.0)


def hidden_votes(n: int = 30) -> pd.DataFrame:
    random = np.random.default_rng(0)
    rows = []
    for i in range(n):
        root = random.multinomial(40, [0.4, 0.55, 0.05])
        edge = random.multinomial(root[1], [0.3, 0.7])
        arms, bar = random.multinomial(edge[1], [0.5, 0.5]), random.multinomial(edge[1], [0.2, 0.8])
        merging = random.multinomial(root[0] + root[1], [0.1, 0.9])
        counts = [*root, 40, *edge, root[1], *arms, edge[1], *bar, edge[1], *merging, root[0] + root[1]]
        rows.append(dict(zip(QUESTIONS.columns, map(int, counts), strict=True)) | {"id_str": f"demo_{i:06d}"})
    return pd.DataFrame(rows).set_index("id_str")


def volunteers(chosen: OracleSettings = PROMPT, seed: int = 0) -> SimulatedVolunteers:
    return SimulatedVolunteers(hidden_votes(), QUESTIONS, chosen, seed)


def asked(*ids: str, n_votes: int = 40) -> dict[str, Asked]:
    subjects = {id_str: str(10_000_000 + row) for row, id_str in enumerate(hidden_votes().index)}
    return {id_str: Asked(subjects.get(id_str, ""), n_votes) for id_str in ids}


def keys(value: Any) -> Any:
    """The shape of a JSON value: names and types, not content."""
    if isinstance(value, Mapping):
        return {key: keys(inner) for key, inner in value.items()}
    return type(value).__name__


def test_known_votes_are_given_exactly() -> None:
    oracle = KnownVotes(hidden_votes())
    received = oracle.receive(asked("demo_000003", "demo_000001"), [], 0)
    assert received.classifications == []
    assert received.votes.equals(hidden_votes().loc[["demo_000003", "demo_000001"]])


def test_each_galaxy_gets_its_classifications_and_votes_add_up() -> None:
    received = volunteers().receive(asked("demo_000000", "demo_000005"), [], last_classification_id=100)
    assert [int(row["id"]) for row in received.classifications] == list(range(101, 181))
    assert list(received.votes.index) == ["demo_000000", "demo_000005"]
    assert received.votes[QUESTIONS.root.total].tolist() == [40, 40]
    for question in QUESTIONS:
        if question.after:
            assert (received.votes[question.total] <= received.votes[list(question.after)].sum(axis=1)).all()


def test_the_votes_are_those_that_the_same_reduction_finds() -> None:
    received = volunteers().receive(asked("demo_000002"), [], 0)
    reduced, rejected = votes.reduce(received.classifications, QUESTIONS, [classifications.workflow_of(QUESTIONS)])
    assert rejected.empty
    assert reduced.iloc[0].to_dict() == received.votes.loc["demo_000002"].to_dict()


def test_volunteers_answer_with_the_hidden_fractions() -> None:
    received = volunteers().receive(asked("demo_000007", n_votes=4000), [], 0)
    hidden = hidden_votes().loc["demo_000007"]
    for question in QUESTIONS:
        share = (
            received.votes.loc["demo_000007", list(question.columns)]
            / received.votes.loc["demo_000007", question.total]
        )
        expected = hidden[list(question.columns)] / hidden[question.total]
        assert share.to_numpy() == pytest.approx(expected.to_numpy(), abs=0.06)


def test_a_question_without_hidden_votes_is_left_unanswered() -> None:
    smooth_only = hidden_votes(1) * 0
    smooth_only[["smooth-or-featured_featured-or-disk", "smooth-or-featured_total-votes"]] = 40
    received = SimulatedVolunteers(smooth_only, QUESTIONS, PROMPT, 0).receive(asked("demo_000000"), [], 0)
    assert received.votes.loc["demo_000000", "smooth-or-featured_featured-or-disk"] == 40
    assert received.votes.loc["demo_000000", "bar_total-votes"] == 0


def test_a_late_galaxy_comes_in_two_deliveries_that_add_up_to_one() -> None:
    late, prompt = volunteers(LATE), volunteers(PROMPT)
    six = asked(*(f"demo_{i:06d}" for i in range(6)))
    first = late.receive(six, [], 0)
    assert (first.votes[QUESTIONS.root.total] < 40).all()
    second = late.receive(six, first.classifications, len(first.classifications))
    whole = prompt.receive(six, [], 0)
    assert second.votes.equals(whole.votes)
    assert len(first.classifications) + len(second.classifications) == 240
    assert int(second.classifications[0]["id"]) == len(first.classifications) + 1
    third = late.receive(six, [*first.classifications, *second.classifications], 240)
    assert third.classifications == [] and third.votes.equals(whole.votes)


def test_what_a_galaxy_gets_depends_on_seed_and_galaxy_alone() -> None:
    alone = volunteers().receive(asked("demo_000004"), [], 0)
    among = volunteers().receive(asked("demo_000009", "demo_000004"), [], 77)
    assert alone.votes.loc["demo_000004"].equals(among.votes.loc["demo_000004"])
    assert not alone.votes.equals(volunteers(seed=1).receive(asked("demo_000004"), [], 0).votes)


def test_answers_are_those_that_numpy_draws_with_the_same_random_numbers() -> None:
    hidden = hidden_votes(1).iloc[0].to_dict()
    of = simulated.shares(QUESTIONS, hidden)
    ours, theirs = np.random.default_rng(3), np.random.default_rng(3)
    for _ in range(200):
        given: set[str] = set()
        for answer in simulated.walk_down_the_tree(of, ours):
            (question,) = [q for q in QUESTIONS if q.task == answer["task"]]
            votes = np.array([hidden[column] for column in question.columns])
            assert answer["value"] == theirs.choice(len(votes), p=votes / votes.sum())
            assert not question.after or given & set(question.after)
            given.add(question.columns[answer["value"]])


def test_nobody_classifies_a_galaxy_twice_and_some_are_not_logged_in() -> None:
    rows = volunteers().receive(asked("demo_000004"), [], 0).classifications
    users = [row["links"]["user"] for row in rows]
    named = [user for user in users if user]
    assert len(set(named)) == len(named) and 1 <= users.count(None) <= 20


@pytest.mark.skipif(not SHARED.is_dir(), reason="the folder shared is not here")
def test_rows_have_the_shape_of_real_ones() -> None:
    real = json.loads((SHARED / "zooniverse" / "api_classifications.jsonl").read_text().splitlines()[0])
    row = json.loads(json.dumps(volunteers().receive(asked("demo_000000"), [], 0).classifications[0]))
    assert set(row) == set(real)
    assert keys(row["links"]) | {"user": ""} == keys(real["links"]) | {"user": ""}
    for name, kind in keys(row["metadata"]).items():
        assert name in real["metadata"] and (isinstance(kind, dict) or kind == keys(real["metadata"])[name])
    assert keys(row["annotations"][0]) == keys(real["annotations"][0])


def test_a_request_names_the_subjects_and_refuses_strangers() -> None:
    receipt = volunteers().request(["demo_000003"], "x_iteration_0", 40)
    assert receipt.subject_set == "x_iteration_0" and set(receipt.subjects) == {"demo_000003"}
    with pytest.raises(InputError, match="demo_999999"):
        volunteers().request(["demo_999999"], "x", 40)
