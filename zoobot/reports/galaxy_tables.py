"""Tables of galaxies as HTML, each complete in itself: its pictures are in the text, so nothing else has to be kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from zoobot.galaxies.tasks import Task

_PAGE = Markup(
    "<!doctype html><meta charset=utf-8><style>body{{font:14px sans-serif}}td,th{{padding:4px 12px;text-align:left}}"
    "img{{width:80px}}</style><table><tr>{head}</tr>{rows}</table>"
)


@dataclass(frozen=True)
class Galaxy:
    """A line of a table. ``score`` is the acquisition value, or the loss in nats; ``votes`` those that came so far."""

    id_str: str
    score: float
    prediction: str
    votes: str
    picture: str | None


def to_html(galaxies: Sequence[Galaxy], score: str) -> str:
    """The table; ``score`` is the heading of that column. Without any picture there is no column for them."""
    shown = any(galaxy.picture for galaxy in galaxies)
    head = ["id_str", score, "prediction", "votes", *(["picture"] if shown else [])]
    rows = []
    for galaxy in galaxies:
        cells = [galaxy.id_str, f"{galaxy.score:.4g}", galaxy.prediction, galaxy.votes]
        if shown:
            cells.append(Markup('<img src="{}" alt="">').format(galaxy.picture) if galaxy.picture else "")
        rows.append(Markup("<tr>{}</tr>").format(Markup("").join(map(Markup("<td>{}</td>").format, cells))))
    headings = Markup("").join(map(Markup("<th>{}</th>").format, head))
    return str(_PAGE.format(head=headings, rows=Markup("").join(rows)))


def describe_votes(task: Task, votes: Mapping[str, int]) -> str:
    """The votes for the task's first question, such as "smooth 31 of 40": for its label, or for the leading answer."""
    counts = task.counts({name: [votes[name]] for name in task.stored_columns})[0, : len(task.groups[0].answers)]
    at = 0 if task.label_columns else int(counts.argmax())
    return f"{answer_name(task, at)} {counts[at]:.0f}\u00a0of\u00a0{counts.sum():.0f}"


def describe_fractions(task: Task, fractions: Sequence[float]) -> str:
    """The expected fractions of the first question's answers, such as "smooth 0.78", for the same answer."""
    at = 0 if task.label_columns else max(range(len(fractions)), key=fractions.__getitem__)
    return f"{answer_name(task, at)} {fractions[at]:.2f}"


def answer_name(task: Task, at: int) -> str:
    """What volunteers see of an answer of the first question, or of the label."""
    root = task.tree.root
    names = task.label_columns or (root.columns[at],)
    return " or ".join(name.removeprefix(f"{root.name}_") for name in names)
