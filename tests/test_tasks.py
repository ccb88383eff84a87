"""Tasks: k of N by hand, the filters and what they cost, and how likely each question of a tree is asked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoobot import settings
from zoobot.errors import InputError, SettingsError
from zoobot.galaxies.questions import load_questions, parse_questions
from zoobot.galaxies.tasks import Group, Task, asked_probability, build_task, check_columns
from zoobot.settings import TaskSettings

SMOOTH = TaskSettings("smooth", ["smooth-or-featured"], ["smooth"])
BAR = TaskSettings("bar", ["bar"], ["yes", "strong", "weak"])
TREE = TaskSettings("some_tree", ["bar", "smooth-or-featured", "disk-edge-on"])
ROOT = ("smooth-or-featured_smooth", "smooth-or-featured_featured-or-disk", "smooth-or-featured_artifact")


def catalog(**columns: list[int]) -> pd.DataFrame:
    return pd.DataFrame(columns)


# --------------------------------------------------------------- labels and counts


def test_a_single_question_counts_k_of_n() -> None:
    task = build_task(SMOOTH, load_questions("gz2"))
    labelled = task.add_label(pd.DataFrame([(27, 10, 1), (0, 5, 0)], columns=ROOT))
    assert labelled["label"].tolist() == [27, 0]
    assert labelled["total_votes"].tolist() == [38, 5]  # artifact is an answer, too
    assert labelled[list(ROOT)].to_numpy().tolist() == [[27, 10, 1], [0, 5, 0]]
    assert task.groups == (Group("smooth-or-featured", ("label", "not_label")),)
    assert task.answers == ("label", "not_label") and task.stored_columns == ("label", "total_votes")
    counts = task.counts(labelled)
    assert counts.dtype == np.float32 and counts.tolist() == [[27, 11], [0, 5]]


def test_a_bar_is_yes_in_gz2_and_strong_or_weak_in_decals() -> None:
    gz2, decals = build_task(BAR, load_questions("gz2")), build_task(BAR, load_questions("decals"))
    assert gz2.label_columns == ("bar_yes",) and decals.label_columns == ("bar_strong", "bar_weak")
    labelled = decals.add_label(catalog(bar_strong=[1, 0], bar_weak=[2, 4], bar_no=[8, 0]))
    assert labelled[["label", "total_votes"]].to_numpy().tolist() == [[3, 11], [4, 4]]
    assert decals.counts(labelled).tolist() == [[3, 8], [4, 0]]


def test_an_answer_named_twice_counts_once() -> None:
    twice = TaskSettings("bar", ["bar"], ["yes", "yes"])
    labelled = build_task(twice, load_questions("gz2")).add_label(catalog(bar_yes=[3], bar_no=[1]))
    assert labelled["label"].tolist() == [3]


def test_a_tree_learns_the_offered_answers_in_the_order_of_the_tree() -> None:
    task = build_task(TREE, load_questions("decals"))
    assert task.groups == (
        Group("smooth-or-featured", ROOT),
        Group("disk-edge-on", ("disk-edge-on_yes", "disk-edge-on_no"), (ROOT[1],)),
        Group("bar", ("bar_strong", "bar_weak", "bar_no"), ("disk-edge-on_no",)),
    )
    assert task.stored_columns == task.answers and len(task.answers) == 8
    votes = pd.DataFrame([range(8), range(10, 18)], columns=task.answers)
    assert task.add_label(votes).equals(votes)
    shuffled = votes[list(task.answers)[::-1]]
    assert task.counts(shuffled).tolist() == [list(range(8)), list(range(10, 18))]  # by name, not by position


def test_a_retired_answer_is_not_learnt() -> None:
    merging = build_task(TaskSettings("merging", ["merging"]), load_questions("decals"))
    assert merging.answers == tuple(
        f"merging_{a}" for a in ["none", "minor-disturbance", "major-disturbance", "merger"]
    )
    label = build_task(TaskSettings("merging", ["merging"], ["merger"]), load_questions("decals"))
    votes = {c: [n] for n, c in enumerate(load_questions("decals")["merging"].all_columns, start=1)}
    labelled = label.add_label(pd.DataFrame(votes))
    assert labelled[["label", "total_votes"]].to_numpy().tolist() == [[4, 1 + 2 + 3 + 4]]


# --------------------------------------------------------------- filters


def test_filters_apply_in_turn_and_say_what_each_took() -> None:
    votes = pd.DataFrame({"bar-total": [20, 9, 30, 11], "face": [0, 1, 1, 1]})
    task = Task("t", load_questions("gz2").subset(["bar"]), ("bar_yes",), ("`bar-total` > 10", "face == 1"))
    kept, lost = task.apply_filters(votes)
    assert kept.index.tolist() == [2, 3]
    assert lost == {"`bar-total` > 10": 1, "face == 1": 1}  # row 1 is lost once: to the first
    assert list(votes.index) == [0, 1, 2, 3]


def test_the_filters_of_the_bar_task(compose: Callable[..., settings.Settings], tmp_path: Path) -> None:
    task = build_task(compose("stage=catalogs", "task=bar", data_dir=tmp_path).task, load_questions("gz2"))
    names = (
        "bar_total-votes",
        ROOT[1],
        "smooth-or-featured_total-votes",
        "disk-edge-on_yes",
        "disk-edge-on_total-votes",
    )
    rows = [
        (11, 30, 40, 2, 30),  # kept
        (10, 30, 40, 2, 30),  # ten votes are not more than ten
        (11, 20, 40, 2, 30),  # just as smooth as featured
        (11, 30, 40, 15, 30),  # just as edge-on as not
        (11, 30, 40, 0, 0),  # never asked whether edge-on: 0/0 is no
        (0, 0, 0, 0, 0),
    ]
    kept, lost = task.apply_filters(pd.DataFrame(rows, columns=names))
    assert kept.index.tolist() == [0]
    assert list(lost.values()) == [2, 1, 2] and len(lost) == 3


def task_with(*filters: str) -> Task:
    return Task("t", load_questions("gz2").subset(["bar"]), ("bar_yes",), filters)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("bar_yess > 1", "task.filters: cannot evaluate 'bar_yess > 1' on the catalog: name 'bar_yess' is not defined"),
        ("bar_yes >", "task.filters: 'bar_yes >' cannot be read: invalid syntax"),
        ("bar_yes", "task.filters: 'bar_yes' must give true or false for each galaxy"),
        ("3 > 2", "task.filters: '3 > 2' must give true or false for each galaxy"),
    ],
)
def test_a_filter_that_is_none(expression: str, message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        task_with(expression).apply_filters(catalog(bar_yes=[1, 2]))


# --------------------------------------------------------------- tasks that do not fit


@pytest.mark.parametrize(
    ("task", "survey", "message"),
    [
        (
            TaskSettings("decals_tree", ["smooth-or-featured", "edge-on-bulge", "spiral-arm-count"]),
            "gz2",
            "Task decals_tree does not fit the survey: it has no question edge-on-bulge, spiral-arm-count."
            " Its questions are bar, bulge-shape,",
        ),
        (TaskSettings("t", ["bar", "bulge-size"], ["yes"]), "gz2", "only for a task of one question, but task t has 2"),
        (TaskSettings("t", ["bar"], ["strong"]), "gz2", "must be some, not all, of the answers to bar: yes, no"),
        (TaskSettings("t", ["bar"], ["yes", "no"]), "gz2", "must be some, not all, of the answers to bar: yes, no"),
        (TaskSettings("t", ["merging"], ["both-v1"]), "decals", "must be some, not all, of the answers to merging"),
    ],
)
def test_a_task_that_does_not_fit(task: TaskSettings, survey: str, message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        build_task(task, load_questions(survey))


def test_a_catalog_without_the_votes_of_the_task() -> None:
    task = build_task(BAR, load_questions("decals"))
    check_columns(catalog(bar_strong=[1], bar_weak=[1], bar_no=[1]), task, "here")
    with pytest.raises(InputError, match="here has no column bar_weak, bar_no, which task bar learns from"):
        check_columns(catalog(bar_strong=[1]), task, "here")


# --------------------------------------------------------------- how likely a question is asked


def by_answer(**probabilities: float) -> dict[str, npt.NDArray[np.float64]]:
    return {answer: np.array([p]) for answer, p in probabilities.items()}


def test_probabilities_multiply_along_the_tree() -> None:
    """Smooth 0.2, featured 0.7, artifact 0.1; edge-on 0.4, not 0.6; spiral 0.25."""
    groups = (
        Group("shape", ("smooth", "featured", "artifact")),
        Group("edge", ("edge", "face"), ("featured",)),
        Group("spiral", ("arms", "none"), ("face",)),
        Group("winding", ("tight", "loose"), ("arms",)),
        Group("odd", ("odd", "normal"), ("smooth", "featured")),
        Group("dust", ("dusty", "clean")),
    )
    asked = asked_probability(
        groups,
        by_answer(smooth=0.2, featured=0.7, artifact=0.1, edge=0.4, face=0.6, arms=0.25, none=0.75)
        | by_answer(tight=0.5, loose=0.5, odd=0.1, normal=0.9, dusty=0.3, clean=0.7),
    )
    expected = {"shape": 1.0, "edge": 0.7, "spiral": 0.42, "winding": 0.105, "odd": 0.9, "dust": 1.0}
    assert list(asked) == list(expected)
    for question, probability in expected.items():
        assert asked[question] == pytest.approx([probability], abs=1e-15), question


def test_each_galaxy_and_sample_has_its_own() -> None:
    p_N_K = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    groups = (Group("shape", ("smooth", "disk")), Group("bar", ("yes", "no"), ("disk",)))
    probabilities = {"smooth": 1 - p_N_K, "disk": p_N_K, "yes": p_N_K, "no": 1 - p_N_K}
    asked = asked_probability(groups, probabilities)
    assert asked["bar"].tolist() == p_N_K.tolist() and asked["shape"].tolist() == np.ones((2, 3)).tolist()


@st.composite
def trees_with_probabilities(draw: st.DrawFn) -> tuple[tuple[Group, ...], dict[str, float]]:
    groups: list[Group] = []
    probabilities: dict[str, float] = {}
    for number in range(draw(st.integers(1, 5))):
        answers = tuple(f"q{number}_a{i}" for i in range(draw(st.integers(2, 3))))
        parent = draw(st.sampled_from(groups)) if groups else None
        after = draw(st.lists(st.sampled_from(parent.answers), unique=True)) if parent else []
        groups.append(Group(f"q{number}", answers, tuple(after)))
        weights = draw(st.lists(st.integers(0, 9), min_size=len(answers), max_size=len(answers)).filter(any))
        probabilities |= {a: w / sum(weights) for a, w in zip(answers, weights, strict=True)}
    return tuple(groups), probabilities


def volunteers(groups: Sequence[Group], p: Mapping[str, float]) -> Iterator[tuple[tuple[str, ...], float]]:
    """Every way in which one volunteer can go through the questions: the answers given, and how likely that is."""
    paths: list[tuple[tuple[str, ...], float]] = [((), 1.0)]
    for group in groups:
        paths = [
            (path + given, probability * (p[given[0]] if given else 1.0))
            for path, probability in paths
            for given in ([(a,) for a in group.answers] if not group.after or set(group.after) & set(path) else [()])
        ]
    yield from paths


@given(trees_with_probabilities())
def test_it_is_the_share_of_volunteers_who_are_asked(tree: tuple[tuple[Group, ...], dict[str, float]]) -> None:
    groups, probabilities = tree
    asked = asked_probability(groups, {a: np.array(p) for a, p in probabilities.items()})
    paths = list(volunteers(groups, probabilities))
    assert sum(probability for _, probability in paths) == pytest.approx(1)
    for group in groups:
        share = sum(probability for path, probability in paths if set(path) & set(group.answers))
        assert float(asked[group.question]) == pytest.approx(share, abs=1e-12)


def test_a_subset_task_asks_what_it_no_longer_knows_the_parents_of() -> None:
    questions = parse_questions(
        {
            "shape": {"answers": {"smooth": None, "disk": None}},
            "bar": {"answers": {"yes": None, "no": None}, "after": ["shape_disk"]},
        },
        "here",
    )
    task = build_task(TaskSettings("bars", ["bar"]), questions)
    assert asked_probability(task.groups, by_answer(bar_yes=0.5, bar_no=0.5))["bar"].tolist() == [1.0]
