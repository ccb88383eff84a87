"""The volunteers of a Zooniverse project, as an oracle.

A request is a subject set named after the experiment, iteration and stream. Each galaxy's subject is created inside
that set and carries ``id_str``. After a crash, listing the set shows what was done, and running again adds only what is
missing. Volunteers see the survey's own picture, not the small one in the shards. What browsers would show with other
pixels than the network sees (FITS, TIFF, 16 bits, transparent parts) becomes a PNG of the same size. If a galaxy has no
readable picture, nothing is sent.

A galaxy whose subject is already retired is uploaded anew: a retired subject is shown to nobody, and to make it active
again would change what others see.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from zoobot import votes
from zoobot.engine.progress import track
from zoobot.errors import InputError, ServiceError
from zoobot.galaxies import cells, picture_paths
from zoobot.galaxies.ids import whole_number, zooniverse_id
from zoobot.galaxies.images import for_browsers, read_image
from zoobot.galaxies.questions import QuestionTree
from zoobot.galaxies.surveys import read_subjects
from zoobot.galaxies.tables import read_table
from zoobot.oracles import pull
from zoobot.oracles.answers import picture_url, shown
from zoobot.oracles.panoptes import Zooniverse
from zoobot.oracles.protocol import Asked, Metadata, Receipt, Received
from zoobot.settings import Settings
from zoobot.votes import classifications
from zoobot.votes.rows import Json, Row

log = logging.getLogger("zoobot")
PUBLIC_NUMBERS = ("ra", "dec")  # with id_str, all that a subject says about its galaxy: never a vote
RETIREMENT_LIMIT = "#retirement_limit"  # the project's retirement rule reads it; the # hides it from volunteers
PRIORITY = "#priority"


class LiveProject:
    """Asks the volunteers of a project, and reads what they answered."""

    def __init__(self, settings: Settings, catalog: Path, questions: QuestionTree, unfinished: Path) -> None:
        self._settings, self._oracle, self._questions = settings, settings.oracle, questions
        galaxies = read_table(catalog).set_index("id_str")
        self._galaxies = galaxies.assign(**{c: cells.numbers(galaxies[c]) for c in PUBLIC_NUMBERS if c in galaxies})
        self._on_zooniverse = _galaxies_on_zooniverse(settings.oracle.subjects)
        self._galaxy_of = {subject_id: id_str for id_str, subject_id in self._on_zooniverse.items()}
        self._pulled = unfinished / "pulled"
        self._service = Zooniverse(settings.oracle)
        unfinished.mkdir(parents=True, exist_ok=True)

    # ----------------------------------------------------------- request

    def request(self, ids: Sequence[str], name: str, n_votes: int, metadata: Metadata | None = None) -> Receipt:
        """Show these galaxies, and no others, to volunteers. Returns the receipt when all have arrived."""
        self._check_pictures(ids)
        self._service.workflows()  # an error if they are not ours
        hidden = self._hidden(ids, n_votes, metadata or {})
        set_id = self._service.find_set(name)
        there = self._members(set_id, name, ids) if set_id else {}
        known = self._without_retired(self._known(id_str for id_str in ids if id_str not in there), n_votes)
        new = [id_str for id_str in ids if id_str not in there and id_str not in known]
        if self._oracle.dry_run:
            self._say(name, hidden, new, known)
            return Receipt()
        set_id = set_id or self._service.create_set(name)
        self._service.link(set_id, list(known.values()))
        for id_str in track(new, f"uploading {name}", len(new)):
            content, media_type = self._picture(id_str)
            _, url = self._service.create_subject(set_id, self._metadata(id_str) | hidden[id_str], media_type)
            self._service.store_picture(url, content, media_type)
        subjects = self._check_arrived(set_id, name, ids, hidden)
        # Link the subjects created inside the set too: only linking makes the server's queue notice them.
        self._service.link(set_id, list(subjects.values()))
        if self._oracle.priority:
            self._service.set_priorities(set_id, {subjects[id_str]: int(hidden[id_str][PRIORITY]) for id_str in ids})
        self._service.show_set(set_id)  # last: volunteers see only a complete set
        log.info("%s: %d galaxies asked about, %d of them uploaded now", name, len(ids), len(new))
        return Receipt(name, set_id, subjects)

    def _check_pictures(self, ids: Sequence[str]) -> None:
        problems = []
        for id_str in ids:
            try:
                read_image(self._source(id_str), self._settings.survey)
            except InputError as error:
                problems.append(f"{self._settings.pictures_place}/{self._location(id_str)}: {error}")
        if problems:
            raise InputError(
                "\n  ".join([f"{len(problems)} of {len(ids)} galaxies have no picture to upload:", *problems[:5]])
                + "\nNothing was sent. Put the pictures there, or set survey.folder to the folder that holds them."
            )

    def _members(self, set_id: str, name: str, ids: Sequence[str]) -> dict[str, Json]:
        """The subjects in a set, by galaxy. Raises an error if the set holds a galaxy that was not asked about."""
        members: dict[str, list[Json]] = {}
        for subject in self._service.members(set_id):
            id_str = self._galaxy(subject)
            members.setdefault(id_str, []).append(subject)
        strange = sorted(set(members) - set(ids))
        if strange:
            raise InputError(
                f"The subject set {name} (id {set_id}) holds {len(strange)} galaxies that this iteration does not ask"
                f" about, for example {shown(strange[0]) or 'a subject without id_str'}. Was its name used before?"
                " Choose another experiment_name, or remove them on Zooniverse."
            )
        extra = [str(one["id"]) for several in members.values() for one in several[1:]]
        if extra:  # an upload that became visible only after it had been repeated
            log.warning("%s: %d galaxies had two subjects; the later ones are removed from the set", name, len(extra))
            if not self._oracle.dry_run:
                self._service.unlink(set_id, extra)
        return {id_str: several[0] for id_str, several in members.items()}

    def _galaxy(self, subject: Json) -> str:
        return self._galaxy_of.get(str(subject["id"])) or str(subject["metadata"].get("id_str", ""))

    def _known(self, ids: Iterable[str]) -> dict[str, str]:
        """The subjects of galaxies that are already on Zooniverse, without those that the server no longer has."""
        listed = {id_str: self._on_zooniverse[id_str] for id_str in ids if id_str in self._on_zooniverse}
        existing = {str(subject["id"]) for subject in self._service.existing(sorted(set(listed.values()), key=int))}
        gone = [id_str for id_str, subject_id in listed.items() if subject_id not in existing]
        if gone:
            log.warning("%s: %d subjects are no longer in the project, for example that of %s; they are uploaded again",
                        self._oracle.subjects, len(gone), gone[0])  # fmt: skip
        return {id_str: subject_id for id_str, subject_id in listed.items() if subject_id in existing}

    def _without_retired(self, known: Mapping[str, str], n_votes: int) -> dict[str, str]:
        """Without the subjects that nobody would be shown: those that are retired, or have as many classifications."""
        statuses = self._service.statuses(list(known.values()))
        ended = [
            id_str
            for id_str, subject_id in known.items()
            if _is_retired(status := statuses.get(subject_id, {})) or _count(status) >= n_votes
        ]
        if ended:
            log.warning(
                "%d galaxies have a subject that workflow %s has already retired, or that has all its classifications,"
                " for example %s (subject %s): they are uploaded as new subjects",
                len(ended), self._oracle.workflow_ids[0], ended[0], known[ended[0]],
            )  # fmt: skip
        return {id_str: subject_id for id_str, subject_id in known.items() if id_str not in set(ended)}

    def _hidden(self, ids: Sequence[str], n_votes: int, metadata: Metadata) -> dict[str, Json]:
        """What is written to each galaxy's subject and not shown to volunteers."""
        return {
            id_str: {
                RETIREMENT_LIMIT: n_votes,
                **({PRIORITY: rank} if self._oracle.priority else {}),
                **metadata.get(id_str, {}),
            }
            for rank, id_str in enumerate(ids, 1)
        }

    def _check_arrived(self, set_id: str, name: str, ids: Sequence[str], hidden: Mapping[str, Json]) -> dict[str, str]:
        """The subject of each galaxy, once its place in the set, its picture and its hidden metadata are right."""
        members = self._members(set_id, name, ids)
        missing = [id_str for id_str in ids if id_str not in members]
        if missing:
            raise ServiceError(
                f"{len(missing)} galaxies are not in the subject set {name} after their upload, for example"
                f" {missing[0]}. Run the same command again."
            )
        for id_str in track(ids, f"checking {name}", len(ids)):
            subject = members[id_str]
            if any(subject["metadata"].get(key) != value for key, value in hidden[id_str].items()):
                self._service.update_subject(str(subject["id"]), {"metadata": subject["metadata"] | hidden[id_str]})
            if not self._has_picture(id_str, subject):
                self._upload_again(id_str, subject, set_id)
        return {id_str: str(members[id_str]["id"]) for id_str in ids}

    def _has_picture(self, id_str: str, subject: Json) -> bool:
        size = None if str(subject["id"]) in self._galaxy_of else len(self._picture(id_str)[0])
        return self._service.has_picture(picture_url(subject), size)

    def _upload_again(self, id_str: str, subject: Json, set_id: str) -> None:
        log.warning("the picture of %s is not on Zooniverse: it is uploaded again", id_str)
        content, media_type = self._picture(id_str)
        url = self._service.update_subject(str(subject["id"]), {"locations": [media_type]})
        self._service.store_picture(url, content, media_type)
        now = next((one for one in self._service.members(set_id) if one["id"] == subject["id"]), None)
        if now is None or not self._service.has_picture(picture_url(now), len(content)):
            raise ServiceError(
                f"The picture of {id_str} (subject {subject['id']}) did not arrive, though Zooniverse took it twice."
                " Run the same command again later."
            )

    def _location(self, id_str: str) -> str:
        return str(self._galaxies.at[id_str, "file_loc"])

    def _source(self, id_str: str) -> Path | bytes:
        return picture_paths.source(self._settings, self._location(id_str))

    def _picture(self, id_str: str) -> tuple[bytes, str]:
        return for_browsers(self._source(id_str), self._settings.survey)

    def _metadata(self, id_str: str) -> Json:
        names = [name for name in PUBLIC_NUMBERS if name in self._galaxies.columns]
        numbers = {name: float(str(self._galaxies.at[id_str, name])) for name in names}
        return {"id_str": id_str, **{name: value for name, value in numbers.items() if math.isfinite(value)}}

    def _say(self, name: str, hidden: Mapping[str, Json], new: Sequence[str], known: Mapping[str, str]) -> None:
        log.info("oracle.dry_run: subject set %s of project %s, shown by workflow %s",
                 name, self._oracle.project_id, self._oracle.workflow_ids[0])  # fmt: skip
        for id_str in new:
            log.info("  would upload %s: %s", self._source(id_str), json.dumps(self._metadata(id_str) | hidden[id_str]))
        for id_str, subject_id in known.items():
            log.info("  would link subject %s: %s, %s", subject_id, id_str, json.dumps(hidden[id_str]))

    # ----------------------------------------------------------- retire

    def retire(self, waiting: Mapping[str, Asked]) -> None:
        """Take the subjects of these galaxies out of the workflow that shows them. Doing it again changes nothing."""
        if self._oracle.dry_run:
            for id_str, asked in waiting.items():
                log.info("  would retire subject %s: %s", asked.subject_id, id_str)
            return
        self._service.retire([asked.subject_id for asked in waiting.values()])

    def _finished(self, waiting: Mapping[str, Asked]) -> frozenset[str]:
        """The galaxies whose subject is retired. Ask before the pull, not after it: the classifications that retired
        a subject are older than its retirement, so the pull that follows has them all. The rows of a volunteer who
        still had the picture open come later and make no difference.
        """
        statuses = self._service.statuses([asked.subject_id for asked in waiting.values()])
        return frozenset(id_str for id_str, asked in waiting.items() if _is_retired(statuses.get(asked.subject_id, {})))

    # ----------------------------------------------------------- receive

    def receive(self, waiting: Mapping[str, Asked], earlier: Iterable[Row], last_classification_id: int) -> Received:
        """Pull, then reduce all rows so far about the waiting galaxies.

        After a crash it pulls what has changed since, corrections included.
        """
        if not waiting:
            empty = pd.DataFrame(columns=list(self._questions.columns), dtype="int64")
            return Received([], empty, last_classification_id)
        finished = self._finished(waiting)
        since = max(self._oracle.last_classification_id, last_classification_id - self._oracle.overlap_ids)
        pull.pull(self._service, self._pulled, self._oracle, since)
        if pull.is_gone(last_classification_id, pull.last_id(self._pulled), self._oracle):
            pull.pull(self._service, self._pulled, self._oracle, self._oracle.last_classification_id)
        galaxies = {asked.subject_id: id_str for id_str, asked in waiting.items()}
        stored = list(earlier)
        known = pull.last_updates(stored)
        new = [row for row in pull.rows(self._pulled) if pull.is_news(row, known) and _subject(row) in galaxies]
        versions = classifications.read_workflow_versions(self._pulled / pull.VERSIONS)
        about = [row for row in stored if _subject(row) in galaxies]
        reduction = votes.reduce_all([*about, *new], self._questions, versions, **self._settings.reduce.counted)
        self._check_loss(reduction)
        by_galaxy = reduction.votes.rename(index=galaxies).reindex(list(waiting), fill_value=0)
        new.sort(key=lambda row: int(row["id"]))
        return Received(new, by_galaxy, pull.last_id(self._pulled), reduction.rejected, versions, finished)

    def _check_loss(self, reduction: votes.Reduction) -> None:
        """InputError: classifications came in, and not one of their answers is a vote."""
        reduction.warn_of_rejected("classifications/rejected.csv")
        lost = reduction.answers_read and reduction.why_no_vote()
        if lost and not self._settings.reduce.allow_no_votes:
            raise InputError(
                f"Classifications came in about the galaxies that wait, but {lost}. Nothing was written, and the same"
                " command goes on. Check that the workflow has the tasks and labels of survey.questions="
                f"{self._settings.survey.questions}; reduce.before_launch=true counts tests of a project that is not"
                " live yet. reduce.allow_no_votes=true goes on without votes."
            )


def _subject(row: Row) -> str:
    links = row.get("links")
    subjects = links.get("subjects") if isinstance(links, Mapping) else None
    return zooniverse_id(subjects[0]) if isinstance(subjects, list) and subjects else ""


def _is_retired(status: Json) -> bool:
    return bool(status.get("retired_at"))


def _count(status: Json) -> int:
    return whole_number(status.get("classifications_count")) or 0


def _galaxies_on_zooniverse(export: str) -> dict[str, str]:
    """The subject of each galaxy in a subject export; the newest if there are several."""
    if not export:
        return {}
    table = read_subjects(Path(export))
    name = next(column for column in ("id_str", "iauname") if column in table)
    table = table[table[name].notna()]
    order = table["subject_id"].astype("int64").sort_values(kind="stable").index
    return dict(zip(table.loc[order, name], table.loc[order, "subject_id"], strict=True))
