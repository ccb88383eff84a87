"""What the page says of a section beside its comparisons: its questions, what labels cost, its settings, its origin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean

from zoobot import folders
from zoobot.metrics import Values
from zoobot.reports.experiments import FREE_SOURCE, Experiment, Section

_FOLLOW_FROM_SEED = ("experiment", "seed", "catalog_seed", "encoder.", "last_classification_id")


@dataclass
class Question:
    """A question of the tree, with the mean over seeds after the last iteration, and the questions that follow it."""

    name: str
    after: list[str]  # the answers that lead to it
    galaxies: float | None = None  # test galaxies with votes for it
    of_lines: dict[str, dict[str, float]] = field(default_factory=dict)  # {line: {metric: value}}
    then: list[Question] = field(default_factory=list)


def questions(section: Section) -> list[Question]:
    """The tree of a section's questions: those that are always asked, and what follows them."""
    first = next(iter(section.lines.values()))[0]
    groups = first.instructions.build_task().groups
    nodes = {g.question: Question(g.question, [_answer(a) for a in g.after]) for g in groups}
    for line, of in section.lines.items():
        tested = [e.iterations[-1].folder.metrics()["test"] for e in of]
        for name, node in nodes.items():
            values = [test[name] for test in tested if "rmse" in test.get(name, {})]
            if values:
                node.galaxies = node.galaxies or _mean(values, "galaxies")
                node.of_lines[line] = {key: _mean(values, key) for key in ("rmse", "coverage_error")}
    asked_by = {answer: g.question for g in groups for answer in g.answers}
    for g in groups:
        if g.after:
            nodes[asked_by[g.after[0]]].then.append(nodes[g.question])
    return [nodes[g.question] for g in groups if not g.after]


def _answer(column: str) -> str:
    return column.rpartition("_")[2]


def _mean(values: Sequence[Values], key: str) -> float:
    found = [v[key] for v in values]
    return fmean(v for v in found if not isinstance(v, list))


def costs(line: Sequence[Experiment]) -> dict[str, float | None]:
    """What labels have cost since the start, and what the next hundred are expected to gain: means over seeds.

    Returns:
        labels: new ones. votes_per_label, hours_per_100_labels: of volunteers; None if votes were not counted.
        gain: how much lower the eval loss gets with the next 100 labels, in nats; None if it is not known.
    """
    labels = fmean(e.iterations[-1].labels - e.iterations[0].labels for e in line)
    last = [e.iterations[-1].summary for e in line]
    votes, minutes = (fmean(getattr(s, key) for s in last) for key in ("votes_spent", "volunteer_minutes"))
    gains = [s.next_100_labels_buy for s in last if s.next_100_labels_buy is not None]
    counted = votes > 0 and labels > 0
    return {
        "labels": labels,
        "votes_per_label": votes / labels if counted else None,
        "hours_per_100_labels": minutes / 60 / labels * 100 if counted else None,
        "gain": fmean(gains) if gains else None,
    }


def settings(experiments: Sequence[Experiment]) -> tuple[dict[str, list[object]], dict[str, object]]:
    """The settings that differ, with the value of each experiment; and those that are the same in all. Neither has what
    follows from the seed.
    """
    keys = sorted({
        key for e in experiments for key in e.settings
        if not key.startswith((*_FOLLOW_FROM_SEED, "questions.")) and not FREE_SOURCE.match(key)
    })  # fmt: skip
    of_key = {key: [e.settings.get(key, "not known") for e in experiments] for key in keys}
    differ = {key: values for key, values in of_key.items() if len(set(map(str, values))) > 1}
    return differ, {key: values[0] for key, values in of_key.items() if key not in differ}


def provenance(e: Experiment) -> dict[str, object]:
    """The program and the inputs that an experiment was made with, from the manifest of its instructions."""
    manifest = folders.read_manifest(e.folder.instructions.path)
    run = asdict(manifest.provenance)
    return {
        "path": e.name,
        "commit": run["git"]["commit"][:12] + (" and changes" if run["git"]["dirty"] else "") if run["git"] else "–",
        "versions": ", ".join(f"{name} {version}" for name, version in run["versions"].items()),
        "platform": f"{run['platform']}, {run['threads']} threads",
        "instructions": manifest.digest[:16],
        "shards": e.instructions.shards.digest[:16],
        "weights": e.iterations[-1].summary.weights_sha256[:16],
    }


def rejected(experiments: Sequence[Experiment]) -> dict[str, int]:
    """How many answers of volunteers were rejected while these experiments received votes, by reason."""
    found: dict[str, int] = {}
    for e in experiments:
        for point in e.iterations:
            for reason, n in point.folder.raw.rejected().items():
                found[reason] = found.get(reason, 0) + n
    return dict(sorted(found.items(), key=lambda entry: -entry[1]))
