"""Question sets: what is refused and how, and that the three of this program hold the published columns."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoobot.errors import InputError
from zoobot.galaxies.questions import QUESTION_SETS_DIR, QuestionTree, load_questions, parse_questions

YES_NO = {"yes": None, "no": None}

# The published catalogs, GZ2 (Willett et al. 2013) and GZ DECaLS (Walmsley et al. 2022), have a column
# {question}_{answer} for each of these, in this order.
GZ2_ANSWERS = {
    "smooth-or-featured": "smooth featured-or-disk artifact",
    "disk-edge-on": "yes no",
    "has-spiral-arms": "yes no",
    "bar": "yes no",
    "bulge-size": "dominant obvious just-noticeable no",
    "something-odd": "yes no",
    "how-rounded": "round in-between cigar",
    "bulge-shape": "round boxy no-bulge",
    "spiral-winding": "tight medium loose",
    "spiral-count": "1 2 3 4 more-than-4 cant-tell",
}
DECALS_ANSWERS = {
    "smooth-or-featured": "smooth featured-or-disk artifact",
    "disk-edge-on": "yes no",
    "has-spiral-arms": "yes no",
    "bar": "strong weak no",
    "bulge-size": "dominant large moderate small none",
    "how-rounded": "round in-between cigar-shaped",
    "edge-on-bulge": "boxy none rounded",
    "spiral-winding": "tight medium loose",
    "spiral-arm-count": "1 2 3 4 more-than-4 cant-tell",
    "merging": "none minor-disturbance major-disturbance merger",
}
DECALS_TASKS = {
    "smooth-or-featured": "T0", "how-rounded": "T1", "disk-edge-on": "T2", "edge-on-bulge": "T3", "bar": "T4",
    "has-spiral-arms": "T5", "spiral-winding": "T6", "spiral-arm-count": "T7", "bulge-size": "T8", "merging": "T11",
}  # fmt: skip
AFTER = {
    "smooth-or-featured": [],
    "disk-edge-on": ["smooth-or-featured_featured-or-disk"],
    "has-spiral-arms": ["disk-edge-on_no"],
    "bar": ["disk-edge-on_no"],
    "bulge-size": ["disk-edge-on_no"],
    "how-rounded": ["smooth-or-featured_smooth"],
    "bulge-shape": ["disk-edge-on_yes"],
    "edge-on-bulge": ["disk-edge-on_yes"],
    "spiral-winding": ["has-spiral-arms_yes"],
    "clumps": ["disk-edge-on_no"],
    "problem": ["smooth-or-featured_problem"],
    "artifact": ["problem_artifact"],
    "spiral-count": ["has-spiral-arms_yes"],
    "spiral-arm-count": ["has-spiral-arms_yes"],
    # not after "artifact", which ends the tree
    "something-odd": ["smooth-or-featured_smooth", "smooth-or-featured_featured-or-disk"],
    "merging": ["smooth-or-featured_smooth", "smooth-or-featured_featured-or-disk"],
}


def written_out(answers: dict[str, str]) -> list[str]:
    return [f"{question}_{answer}" for question, names in answers.items() for answer in names.split()]


def offered(tree: QuestionTree) -> list[str]:
    return [column for question in tree for column in question.columns]


# --------------------------------------------------------------- the question sets of this program


def test_gz2_has_the_published_columns() -> None:
    tree = load_questions("gz2")
    assert offered(tree) == written_out(GZ2_ANSWERS)
    assert tree.columns == tuple(c for q in tree for c in (*q.columns, f"{q.name}_total-votes"))  # none is retired


def test_decals_has_the_published_columns() -> None:
    tree = load_questions("decals")
    assert offered(tree) == written_out(DECALS_ANSWERS) and len(offered(tree)) == 34
    assert {q.name: q.task for q in tree} == DECALS_TASKS
    retired = [c for q in tree for c in q.all_columns if c not in q.columns]
    assert retired == [
        "bulge-size_obvious-v1", "bulge-size_tiny-v1",
        "merging_tidal-debris-v1", "merging_both-v1", "merging_neither-v1",
    ]  # fmt: skip
    assert set(tree.columns) == {*offered(tree), *retired, *(f"{name}_total-votes" for name in DECALS_TASKS)}


def test_euclid_has_the_46_published_answers() -> None:
    tree = load_questions("euclid")
    assert len(tree) == 13 and len(offered(tree)) == 46 and "artifact_ghost" in offered(tree)


@pytest.mark.parametrize("name", ["gz2", "decals", "demo", "euclid"])
def test_each_answer_leads_where_volunteers_were_led(name: str) -> None:
    assert {q.name: list(q.after) for q in load_questions(name)} == {
        q.name: AFTER[q.name] for q in load_questions(name)
    }


def test_every_question_set_is_sound() -> None:
    names = sorted(path.stem for path in QUESTION_SETS_DIR.iterdir())
    assert names == ["decals", "demo", "euclid", "gz2"]
    for name in names:
        tree = load_questions(name)
        assert tree.root.name == "smooth-or-featured" and not tree.root.after
        assert len(set(tree.columns)) == len(tree.columns)
        seen: set[str] = set()
        for question in tree:  # parents first
            assert set(question.after) <= seen and len(question.columns) >= 2
            seen |= set(question.columns)
        assert parse_questions(json.loads(json.dumps(tree.as_dict())), name) == tree


# --------------------------------------------------------------- trees


def test_labels_default_to_the_answer_and_tasks_to_the_position() -> None:
    tree = parse_questions(
        {
            "shape": {"answers": {"smooth": ["Smooth", "Round & smooth"], "disk": None}, "retired": {"star": [1]}},
            "edge": {"task": "T7", "after": ["shape_disk"], "answers": {1: None, "2": ["Two"]}},
        },
        "here",
    )
    shape, edge = tree
    assert [(a.name, a.labels, a.retired) for a in shape.answers] == [
        ("smooth", ("Smooth", "Round & smooth"), False), ("disk", ("disk",), False), ("star", ("1",), True),
    ]  # fmt: skip
    assert (shape.task, edge.task) == ("T0", "T7")
    assert shape.columns == ("shape_smooth", "shape_disk")
    assert shape.all_columns == ("shape_smooth", "shape_disk", "shape_star")
    assert edge.columns == ("edge_1", "edge_2") and edge.total == "edge_total-votes"
    assert tree.columns == (
        "shape_smooth", "shape_disk", "shape_star", "shape_total-votes", "edge_1", "edge_2", "edge_total-votes",
    )  # fmt: skip
    assert tree.root is shape and tree["edge"] is edge and len(tree) == 2


def test_a_question_that_is_not_there() -> None:
    with pytest.raises(
        InputError, match=r"no question 'barr'; the questions are smooth-or-featured, disk-edge-on, has"
    ):
        load_questions("demo")["barr"]


def test_a_subset_keeps_the_order_and_forgets_parents_left_out() -> None:
    subset = load_questions("gz2").subset(["bar", "spiral-winding", "has-spiral-arms"])
    assert [(q.name, q.after) for q in subset] == [
        ("has-spiral-arms", ()), ("bar", ()), ("spiral-winding", ("has-spiral-arms_yes",)),
    ]  # fmt: skip
    assert load_questions("gz2").subset([q.name for q in load_questions("gz2")]) == load_questions("gz2")
    with pytest.raises(InputError, match="no question 'halo'"):
        load_questions("gz2").subset(["bar", "halo"])


@st.composite
def question_sets(draw: st.DrawFn) -> dict[str, Any]:
    """Any tree of up to six questions, each after some answers of one earlier question, or always asked."""
    raw: dict[str, Any] = {}
    for number in range(draw(st.integers(1, 6))):
        earlier = draw(st.sampled_from(sorted(raw))) if number else None
        columns = [f"{earlier}_{a}" for a in raw[earlier]["answers"]] if earlier else []
        raw[f"q{number}"] = {
            "task": f"T{draw(st.integers(0, 9))}{number}",
            "after": draw(st.lists(st.sampled_from(columns), unique=True)) if columns else [],
            "answers": {f"a{i}": [f"text {i}"] for i in range(draw(st.integers(2, 5)))},
            "retired": {f"r{i}": [f"old {i}"] for i in range(draw(st.integers(0, 2)))},
        }
    return raw


@given(question_sets(), st.data())
def test_any_tree_survives_json_and_any_subset_is_a_tree(raw: dict[str, Any], data: st.DataObject) -> None:
    tree = parse_questions(raw, "here")
    assert tree.as_dict() == raw
    assert parse_questions(json.loads(json.dumps(tree.as_dict())), "elsewhere") == tree
    names = data.draw(st.lists(st.sampled_from(sorted(raw)), min_size=1))
    subset = tree.subset(names)
    assert [q.name for q in subset] == [name for name in raw if name in names]
    assert parse_questions(subset.as_dict(), "subset") == subset
    for question in subset:
        parents = {c.rsplit("_", 1)[0] for c in raw[question.name]["after"]}
        assert list(question.after) == (raw[question.name]["after"] if parents <= set(names) else [])


# --------------------------------------------------------------- what is refused


def tree_with(**body: Any) -> dict[str, Any]:
    """A sound first question, and a second that is sound but for ``body``."""
    return {"shape": {"answers": {"smooth": None, "disk": None}}, "bar": {"answers": YES_NO} | body}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (None, "here: expected a mapping from question to its answers, got NoneType"),
        ({}, "here: expected a mapping from question to its answers"),
        (["bar"], "here: expected a mapping from question to its answers, got list"),
        ({"bar": None}, "here: question bar: expected `answers`, a mapping from answer to its labels"),
        ({"bar": {"answers": ["yes", "no"]}}, "here: question bar: expected `answers`, a mapping"),
        (
            tree_with(anwers=1, tsk=2),
            "here: question bar: unknown key anwers, tsk; known are task, after, answers, retired",
        ),
        (tree_with(answers={"yes": None}), "here: question bar: a question needs at least two answers"),
        (tree_with(after=["shape_disc"]), "here: question bar comes after shape_disc, which no earlier question has"),
        (tree_with(after=["bar_yes"]), "here: question bar comes after bar_yes, which no earlier question has"),
        (tree_with(after="shape_disk"), "here: question bar, after: expected a list such as [shape_disk]"),
        (tree_with(after=5), "here: question bar, after: expected a list such as [5]"),
        (tree_with(task="T0"), "here: the task T0 is used more than once"),
        (tree_with(retired=["old"]), "here: question bar: expected `retired` to be a mapping"),
        (tree_with(retired={"yes": None}), "here: the vote column bar_yes is used more than once"),
        (tree_with(answers={"yes": None, "total-votes": None}), "here: the vote column bar_total-votes is used"),
        (
            tree_with(answers={"yes": "Yes", "no": None}),
            "here: question bar, answer yes: expected a list such as [Yes]",
        ),
        (tree_with(answers={"yes": [True], "no": None}), "here: question bar, answer yes: True is not text. Put it in"),
        (tree_with(answers={True: None, False: None}), "here: question bar: True is not text. Put it in quotes"),
        (
            {"bar": {"answers": YES_NO, "after": ["bar_yes"]}},
            "here: question bar comes after bar_yes, which no earlier question has",
        ),
        (
            tree_with() | {"ring": {"answers": YES_NO, "after": ["shape_disk", "bar_yes"]}},
            "here: question ring comes after answers of several questions",
        ),
        (
            {"a": {"answers": {"b_c": None, "d": None}}, "a_b": {"answers": {"c": None, "d": None}}},
            "here: the vote column a_b_c is used more than once",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(raw: object, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        parse_questions(raw, "here")


def test_a_question_set_that_does_not_exist_names_those_that_do() -> None:
    with pytest.raises(
        InputError, match=r"survey\.questions: .*gz3\.yaml\. Use one of decals, demo, euclid, gz2, or the path"
    ):
        load_questions("gz3")


def test_a_users_own_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text('ring:\n  answers: {"yes": [Ring!], "no": }\n', encoding="utf-8")
    assert load_questions(str(path)).columns == ("ring_yes", "ring_no", "ring_total-votes")
    path.write_text("ring:\n  answers: {yes: , no: }\n", encoding="utf-8")
    assert load_questions(str(path)).columns == ("ring_yes", "ring_no", "ring_total-votes"), "all is text"
    path.write_text("ring: [unclosed", encoding="utf-8")
    with pytest.raises(InputError, match=rf"{re.escape(str(path))} is not valid YAML: (.|\n)*line 1"):
        load_questions(str(path))
    with pytest.raises(InputError, match=r"no question set .*absent\.yaml"):
        load_questions(str(tmp_path / "absent.yaml"))
