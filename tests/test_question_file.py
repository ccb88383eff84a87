"""Files of questions: every value is the text that stands there, and what cannot be meant is refused with its line."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from zoobot.errors import FolderError, InputError
from zoobot.folders.write_once import differing_keys
from zoobot.galaxies.question_file import read_question_file
from zoobot.galaxies.questions import QuestionTree, load_questions
from zoobot.galaxies.tasks import asked_probability, build_task
from zoobot.settings import TaskSettings
from zoobot.votes.classifications import workflow_of


def load(text: str | bytes, tmp_path: Path) -> QuestionTree:
    path = tmp_path / "q.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_questions(str(path))


def chain(n: int, per_question: int = 2) -> str:
    answers = ", ".join(f"a{i}: " for i in range(per_question))
    lines = [f"q0:\n  answers: {{{answers}}}"]
    lines += [f"q{k}:\n  after: [q{k - 1}_a0]\n  answers: {{{answers}}}" for k in range(1, n)]
    return "\n".join(lines)


WORDS = [
    "010", "1e3", "1_000", "12:30", "0x1F", "yes", "no", "on", "Off", "y", "n", "true", "null", "~", "1.10",
    "2024-01-01", ".inf", "=", "NA",
]  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
def test_every_word_is_text(word: str, tmp_path: Path) -> None:
    tree = load(f"q:\n  answers: {{{word}: , other: [{word}]}}\n", tmp_path)
    assert tree.root.columns == (f"q_{word}", "q_other") and tree.root.answers[1].labels == (word,)
    named = load(f"{word}:\n  task: {word}\n  answers: {{a: , b: }}\n", tmp_path)
    assert named.root.name == word
    assert named.root.task == ("T0" if word in ("null", "~") else word), "an empty task is the default"


Q = "q:\n  answers: {a: , b: }\n"


@pytest.mark.parametrize(
    "text, said",
    [
        ("q:\n  answers: {a: , b: }\nr:\n  answers: {a: , b: }\nq:\n  answers: {c: , d: }\n",
         "q.yaml, line 5: q is there twice, before in line 1"),
        ("q:\n  answers:\n    a:\n    b:\n    a:\n", "line 5: a is there twice, before in line 3"),
        ("# Frågor\nq:\n".encode("latin-1"), "q.yaml, line 1: not UTF-8"),
        ("q:\n  answers: !!python/object:os.system {a: , b: }\n", "line 2: the tag .* is not read"),
        ("q: &a [*a]\n", r"line 1: \*a stands for nothing"),
        ("? [a, b]\n: c\n", "line 1: a list or a mapping cannot be a name"),
        ("q: {answers: {a: , b: }}\n---\nr: {answers: {a: , b: }}\n", "line 2: a second document"),
        ("q:\n\tanswers: {a: , b: }\n", "is not valid YAML.*line 2"),
        ("q: " + "[" * 5000 + "]" * 5000, "more than 50 lists or mappings inside one another"),
        (Q + "r:\n  answers: {a: }\n", "q.yaml, line 3: question r: a question needs at least two"),
        (Q + "r:\n  afer: [q_a]\n  answers: {a: , b: }\n", "line 3: question r: unknown key afer"),
        (Q + "r:\n  after: [q_x]\n  answers: {a: , b: }\n", "line 3: question r comes after q_x"),
        ("q:\n  answers:\n    a: Text\n    b:\n", "question q, answer a, line 3: expected a list such as .Text."),
        ("", "expected a mapping from question to its answers, got NoneType"),
        ("just a text", "expected a mapping from question to its answers, got str"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_its_line(text: str | bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said) as caught:
        load(text, tmp_path)
    assert "\n" not in str(caught.value), "one sentence"


def test_a_bomb_of_aliases_is_refused_and_a_few_aliases_are_read(tmp_path: Path) -> None:
    bomb = "a: &l0 [lol, lol]\n" + "".join(f"b{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 12))
    with pytest.raises(InputError, match=r"its aliases .* unfold to more than 1,000,000 values"):
        load(bomb, tmp_path)
    merged = "s: {<<: *q, task: T7}\nt: {<<: [*q], answers: {a: , b: }}"
    tree = load(f"q: &q\n  answers: &yn {{yes: , no: }}\nr: {{answers: *yn}}\n{merged}", tmp_path)
    assert tree["r"].columns == ("r_yes", "r_no") == tuple(c.replace("s_", "r_") for c in tree["s"].columns)
    assert tree["s"].task == "T7" and tree["t"].columns == ("t_a", "t_b")


def test_ten_thousand_questions_and_a_long_chain(tmp_path: Path) -> None:
    begin = time.monotonic()
    tree = load(chain(10_000, 3), tmp_path)
    assert len(tree) == 10_000 and tree.subset([q.name for q in tree]) == tree
    assert time.monotonic() - begin < 20
    tree = load(chain(1_200), tmp_path)
    task = build_task(TaskSettings("all", [q.name for q in tree], []), tree)
    asked = asked_probability(task.groups, dict.fromkeys(task.answers, 0.5))
    assert len(asked) == 1_200 and workflow_of(tree)["tasks"]


@given(st.recursive(st.text(st.characters(codec="utf-8", exclude_categories=["C"])), lambda s: st.lists(s) | st.dictionaries(st.text("abcé", min_size=1), s), max_leaves=20))  # noqa: E501  # fmt: skip
def test_any_text_comes_back(value: object) -> None:
    path = Path("q.yaml")
    text = yaml.safe_dump({"v": value}, allow_unicode=True, default_style='"')
    assert yaml.load(text, yaml.BaseLoader) == read(path, text)


def read(path: Path, text: str) -> object:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / path).write_text(text, encoding="utf-8")
        return read_question_file(Path(folder) / path)


# --------------------------------------------------------------- compared by content


def test_questions_are_compared_by_content_not_by_path() -> None:
    tree, other = load_questions("gz2").as_dict(), load_questions("decals").as_dict()
    there = {"survey.questions": "old/place.yaml", "questions": tree}
    assert differing_keys(there, {"survey.questions": "new/place.yaml", "questions": tree}) == []
    said = differing_keys(there, {"survey.questions": "decals", "questions": other})
    assert said[0].startswith("questions: other content there, in ") and "bar" in said[0]
    assert said[1] == "survey.questions: 'old/place.yaml' there, 'decals' now"


def test_a_file_of_questions_can_be_moved(tmp_path: Path) -> None:
    from zoobot import folders

    tree = load(chain(3), tmp_path).as_dict()
    with folders.create(tmp_path / "made", {"survey.questions": "here.yaml", "questions": tree}, {}):
        pass
    now = {"survey.questions": "/else/where.yaml", "questions": tree}
    assert folders.is_done(tmp_path / "made", now, {})
    with pytest.raises(FolderError, match="questions: other content there, in 'q2'"):
        folders.is_done(tmp_path / "made", {**now, "questions": {**tree, "q2": {}}}, {})
