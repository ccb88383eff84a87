"""State on Zooniverse: what is retired, who waits, in which order galaxies are shown, what is written to subjects."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.records import a_summary
from tests.test_live import LIVE, QUESTIONS, copy_of, live, pool, prepared, project, server
from zoobot import folders
from zoobot.errors import ServiceError, SettingsError
from zoobot.galaxies import database, tfrecords
from zoobot.iterations.files import ExperimentFolder, IterationFolder, Summary
from zoobot.iterations.pool import read_pool
from zoobot.oracles.build import ORACLES, build_oracle
from zoobot.oracles.protocol import Asked
from zoobot.oracles.rehearsal.server import Fault, PanoptesServer
from zoobot.settings import Settings
from zoobot.stages import instructions, iterate

__all__ = ["copy_of", "live", "prepared", "server"]
WORKFLOW = "1"


def with_oracle(settings: Settings, **changes: Any) -> Settings:
    return replace(settings, oracle=replace(settings.oracle, **changes))


def exported(settings: Settings, subjects: dict[str, str]) -> Settings:
    """The settings with a subject export that says which galaxy has which subject."""
    path = Path(settings.data_dir).parent / "subjects.csv"
    rows = {"subject_id": list(subjects.values()), "metadata": [json.dumps({"id_str": i}) for i in subjects]}
    pd.DataFrame(rows).to_csv(path, index=False)
    return with_oracle(settings, subjects=str(path))


def summary(settings: Settings, number: int) -> Summary:
    return ExperimentFolder(settings.experiment_dir).iteration(number).summary()


def asked(settings: Settings, number: int, stream: str = "chosen") -> dict[str, str]:
    """The subject of each galaxy that an iteration asked about, in order of rank."""
    requests = ExperimentFolder(settings.experiment_dir).iteration(number).requests()
    request = requests if stream == "chosen" else requests.control
    return {id_: request.receipt.subjects[id_] for id_ in request.ids}


def retire(server: PanoptesServer, *subjects: str) -> None:
    server.world.retire(WORKFLOW, subjects, "other")


def repeat_one_volunteer(server: PanoptesServer, subject: str, times: int) -> None:
    """So many classifications of a subject are by the volunteer of the first: repeats, which give no vote."""
    rows = [row for row in server.world.rows if row["links"]["subjects"] == [subject]]
    for row in rows[: times + 1]:
        row["links"]["user"] = "77"


def votes_of(settings: Settings, number: int, table: str = "labels") -> dict[str, int]:
    path = ExperimentFolder(settings.experiment_dir).iteration(number).database
    with database.connect(path) as connection:
        rows = connection.execute(f"SELECT id_str, votes FROM {table} WHERE iteration = ?", (number,)).fetchall()
    return {id_str: json.loads(votes)[QUESTIONS.root.total] for id_str, votes in rows}


# --------------------------------------------------------------- before asking


def test_a_subject_that_is_retired_is_uploaded_anew_and_its_state_stays(
    server: PanoptesServer, live: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    ids = pool(live, 3)
    old = project(live).request(ids[:2], "old", 30).subjects
    server.world.retire(WORKFLOW, [old[ids[0]]], "consensus")
    again = exported(live, old)
    receipt = project(again).request(ids, "new", 52)
    assert receipt.subjects[ids[0]] not in old.values() and receipt.subjects[ids[1]] == old[ids[1]]
    assert "1 galaxies have a subject that workflow 1 has already retired" in caplog.text and ids[0] in caplog.text
    assert server.world.workflows[WORKFLOW]["retired"] == {old[ids[0]]: "consensus"}
    assert server.world.subjects[old[ids[0]]]["metadata"]["#retirement_limit"] == 30
    server.classify()
    server.classify()  # all are retired now: a run after a crash finds them in its own set and is content
    made = len(server.world.subjects)
    assert project(again).request(ids, "new", 52) == receipt and len(server.world.subjects) == made
    subjects = [row["links"]["subjects"][0] for row in server.world.rows]
    assert [subjects.count(receipt.subjects[id_]) for id_ in ids] == [52, 52, 52]


def test_a_subject_that_has_its_classifications_is_uploaded_anew(server: PanoptesServer, live: Settings) -> None:
    old = project(live).request(pool(live, 1), "old", 60).subjects
    server.classify()  # 30 of 60: not retired, but the next vote would retire it at a limit of 30
    assert server.world.workflows[WORKFLOW]["retired"] == {}
    for limit, same in ((31, True), (30, False)):
        receipt = project(exported(live, old)).request(pool(live, 1), f"new_{limit}", limit)
        assert (receipt.subjects == old) == same


@pytest.mark.parametrize("kind", ["status", "cut", "slow"])
def test_the_question_for_the_state_survives(server: PanoptesServer, live: Settings, kind: str) -> None:
    old = project(live).request(pool(live, 1), "old", 30).subjects
    retire(server, *old.values())
    server.faults = [Fault(kind, "/api/subject_workflow_statuses", times=2, seconds=1.3)]
    assert project(exported(live, old)).request(pool(live, 1), "new", 30).subjects != old
    assert server.struck == [kind] * 2


def test_the_state_of_many_subjects_is_asked_in_batches(server: PanoptesServer, live: Settings) -> None:
    subjects = [str(n) for n in range(1, 251)]
    retire(server, *subjects[:120])
    statuses = project(live)._service.statuses(subjects)
    assert sorted(statuses, key=int) == subjects[:120] and all(one["retired_at"] for one in statuses.values())
    assert server.count("GET /api/subject_workflow_statuses.*") == 3


@pytest.mark.parametrize("links", [None, {}, {"subject": "none"}])
def test_a_state_of_no_subject_is_an_error_of_the_server(server: PanoptesServer, live: Settings, links: object) -> None:
    path, field = "/api/subject_workflow_statuses", "subject_workflow_statuses.0.links"
    retire(server, "7")
    server.faults = [Fault("replaced", path, field=field, value=links)]
    with pytest.raises(ServiceError, match=r"links\.subject of subject_workflow_statuses 1 of 1 is not an id"):
        project(live)._service.statuses(["7"])


def test_a_dry_run_says_which_subjects_are_retired(
    server: PanoptesServer, live: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    old = project(live).request(pool(live, 2), "old", 30).subjects
    retire(server, old[pool(live, 1)[0]])
    server.requests.clear()
    project(with_oracle(exported(live, old), dry_run=True)).request(pool(live, 2), "new", 52)
    assert "already retired" in caplog.text and caplog.text.count("would upload") == 1
    assert caplog.text.count("would link") == 1 and server.count("(POST|PUT|DELETE) /(api|storage).*") == 0


def test_galaxies_whose_subjects_are_all_retired_still_get_labels(server: PanoptesServer, live: Settings) -> None:
    """A survey that was on Zooniverse before: every galaxy has a retired subject."""
    instructions.run(live)
    old = project(live).request(pool(live, 160), "years ago", 30).subjects
    retire(server, *old.values())
    settings = exported(live, old)
    iterate.run(settings)
    server.classify()
    server.classify()
    iterate.run(settings)
    assert summary(settings, 1).labels_received == 4 and summary(settings, 1).control_labels_received == 2
    assert not set(asked(settings, 0).values()) & set(old.values())


# --------------------------------------------------------------- after asking


def test_a_retired_galaxy_is_labelled_with_what_it_has_or_goes_back(
    server: PanoptesServer, live: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    instructions.run(live)
    iterate.run(live)
    (repeated, _, _, empty), (control, _) = asked(live, 0), asked(live, 0, "control")
    retire(server, asked(live, 0)[empty])  # by hand: nobody saw it
    server.classify()
    retire(server, asked(live, 0, "control")[control])  # with 2 of 4 votes
    server.classify()
    repeat_one_volunteer(server, asked(live, 0)[repeated], 5)
    iterate.run(live)
    found = summary(live, 1)
    assert (found.labels_received, found.labels_below_threshold) == (3, 1)
    assert (found.control_labels_received, found.control_labels_below_threshold) == (2, 1)
    assert (found.returned_to_pool, found.waiting, found.still_waiting) == ([empty], {}, 0)
    assert sorted(votes_of(live, 1).values()) == [47, 52, 52] and votes_of(live, 1)[repeated] == 47
    assert sorted(votes_of(live, 1, "control_labels").values()) == [2, 4]
    assert "2 galaxies (1 of the control sample) were retired with fewer votes" in caplog.text
    assert f"1 galaxies were retired without a vote, for example {empty}" in caplog.text
    assert_back_in_the_pool(live, empty)


def assert_back_in_the_pool(settings: Settings, id_str: str) -> None:
    """It may be asked about in iteration 1 and later, as any other galaxy."""
    before = ExperimentFolder(settings.experiment_dir).iterations()
    index = before[-1].database
    shards = tfrecords.load_config(settings.shard_dir).splits["pool"]
    now = read_pool(before, index, shards)
    again = {**asked(settings, 1), **asked(settings, 1, "control")}
    assert (id_str in now.open_ids(shards)) == (id_str not in again)
    assert id_str in read_pool(before[:1], index, shards).chosen
    assert not set(now.chosen) & set(now.control)


def test_a_galaxy_that_came_back_is_asked_about_again_as_a_new_subject(server: PanoptesServer, live: Settings) -> None:
    everything = replace(live, iterate=replace(live.iterate, subjects_per_iteration=500, shards_per_iteration=99))
    instructions.run(everything)
    iterate.run(everything)  # asks about the complete pool
    first = asked(everything, 0)
    lost = list(first)[:2]
    retire(server, *(first[id_] for id_ in lost))
    server.classify()
    iterate.run(everything)
    assert sorted(summary(everything, 1).returned_to_pool) == sorted(lost)
    again = {**asked(everything, 1), **asked(everything, 1, "control")}
    assert sorted(again) == sorted(lost) and not set(again.values()) & set(first.values())
    server.classify()
    server.classify()
    iterate.run(everything)
    labelled = {**votes_of(everything, 2), **votes_of(everything, 2, "control_labels")}
    assert set(lost) <= set(labelled) and summary(everything, 2).waiting == {}


def test_the_state_is_asked_before_each_pull(server: PanoptesServer, live: Settings) -> None:
    ids = pool(live, 3)
    subjects = project(live).request(ids, "x_iteration_0", 52).subjects
    waiting = {id_: Asked(subjects[id_], 52) for id_ in ids}
    server.classify()
    retire(server, subjects[ids[0]])
    server.requests.clear()
    server.faults = [Fault("status", "/api/classifications/project", times=4)]  # each try: the first run ends here
    with pytest.raises(ServiceError):
        project(live).receive(waiting, [], 0)
    retire(server, subjects[ids[1]])  # until the next run
    received = project(live).receive(waiting, [], 0)
    assert received.finished == {ids[0], ids[1]}
    names = [request.split("?")[0].split("/")[-1] for request in server.requests if "/api/" in request]
    assert names.index("subject_workflow_statuses") < names.index("project")
    assert "subject_workflow_statuses" not in names[names.index("workflow_versions") :]
    retire(server, subjects[ids[2]])
    assert project(live).receive(waiting, [], 0).finished == set(ids)


def test_who_waits_is_listed_with_age_and_votes(
    server: PanoptesServer, live: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings = replace(live, iterate=replace(live.iterate, waiting_iterations=1))
    instructions.run(settings)
    for _ in range(2):
        iterate.run(settings)
    first, second = asked(settings, 0), asked(settings, 1)
    assert summary(settings, 1).waiting == {
        "chosen": {0: dict.fromkeys(first, 0)},
        "control": {0: dict.fromkeys(asked(settings, 0, "control"), 0)},
    }
    assert "have waited" not in caplog.text
    server.classify(most=1)
    (voted,) = {row["links"]["subjects"][0] for row in server.world.rows}
    iterate.run(settings)
    found = summary(settings, 2)
    assert set(found.waiting["chosen"][0]) == set(first) and set(found.waiting["chosen"][1]) == set(second)
    assert found.waiting["chosen"][0] == {id_: 26 if first[id_] == voted else 0 for id_ in sorted(first)}
    assert (
        found.still_waiting == 8
        and json.loads((ExperimentFolder(settings.experiment_dir).iteration(2).path / "iteration.json").read_text())[
            "waiting"
        ]["chosen"]["0"]
    )
    named = sorted(first)[0]
    assert (
        "6 galaxies have waited for votes for longer than iterate.waiting_iterations=1" in caplog.text
        and named in caplog.text
    )
    assert "since iteration_0" in caplog.text


def test_a_folder_from_before_these_fields_is_read(tmp_path: Path) -> None:
    newer = ("labels_below_threshold", "control_labels_below_threshold", "returned_to_pool", "retired_confident",
             "waiting")  # fmt: skip
    IterationFolder(tmp_path).write_summary(a_summary())
    content = folders.read_json(tmp_path / "iteration.json")
    old = {key: value for key, value in content.items() if key not in newer}
    assert len(old) == len(content) - len(newer)
    folders.write_json(tmp_path / "iteration.json", old)
    found = IterationFolder(tmp_path).summary()
    assert (found.waiting, found.returned_to_pool, found.labels_below_threshold, found.retired_confident) == (
        {}, [], 0, 0,
    )  # fmt: skip


# --------------------------------------------------------------- the order in which galaxies are shown


def shown_in_order(server: PanoptesServer, n: int) -> list[str]:
    """The galaxies of the subjects that a prioritized workflow shows first."""
    server.world.workflows[WORKFLOW]["prioritized"] = True
    return [server.world.subjects[subject]["metadata"]["id_str"] for subject in server.world.linked()[:n]]


def test_a_prioritized_workflow_shows_galaxies_by_rank(server: PanoptesServer, live: Settings) -> None:
    ids = pool(live, 5)
    old = project(live).request(list(reversed(ids[2:4])), "old", 52).subjects
    ranked = [ids[i] for i in (4, 2, 0, 3, 1)]
    settings = with_oracle(exported(live, old), priority=True)
    server.faults = [Fault("status", "/api/set_member_subjects/\\d+", "PUT", status=412)]
    receipt = project(settings).request(ranked, "new", 52)
    assert server.struck == ["status"] and shown_in_order(server, 5) == ranked
    priorities = [server.world.subjects[receipt.subjects[id_]]["metadata"]["#priority"] for id_ in ranked]
    assert priorities == [1, 2, 3, 4, 5]
    assert server.classify(most=1) == 26
    assert {row["links"]["subjects"][0] for row in server.world.rows} == {receipt.subjects[ranked[0]]}
    server.requests.clear()
    assert project(settings).request(ranked, "new", 52) == receipt and server.count("PUT .*") == 0


def test_both_streams_have_an_order_so_that_control_galaxies_are_not_last(
    server: PanoptesServer, live: Settings
) -> None:
    settings = with_oracle(live, priority=True)
    instructions.run(settings)
    iterate.run(settings)
    chosen, control = list(asked(settings, 0)), list(asked(settings, 0, "control"))
    assert shown_in_order(server, 6) == [chosen[0], control[0], chosen[1], control[1], chosen[2], chosen[3]]


def test_without_priority_nothing_is_said_of_an_order(server: PanoptesServer, live: Settings) -> None:
    project(live).request(pool(live, 2), "x", 52)
    assert not any("#priority" in one["metadata"] for one in server.world.subjects.values())
    assert server.count(".* /api/set_member_subjects.*") == 0


# --------------------------------------------------------------- galaxies of which the model is sure


@pytest.fixture
def half_voted(server: PanoptesServer, live: Settings) -> Settings:
    """After iteration 0, and half of the votes: all wait. Every galaxy is certain enough to be retired."""
    settings = with_oracle(live, retire_confident=0.0)
    instructions.run(settings)
    iterate.run(settings)
    server.classify(most=4)
    return settings


def test_waiting_galaxies_of_which_the_model_is_sure_are_retired_and_then_labelled(
    server: PanoptesServer, half_voted: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    subjects = asked(half_voted, 0)
    iterate.run(half_voted)
    assert summary(half_voted, 1).retired_confident == 4 and summary(half_voted, 1).still_waiting == 4
    assert server.world.workflows[WORKFLOW]["retired"] == dict.fromkeys(subjects.values(), "other")
    assert "the model is sure of 4 of 4 waiting galaxies" in caplog.text
    iterate.run(half_voted)
    assert votes_of(half_voted, 2) == dict.fromkeys(subjects, 26)
    assert summary(half_voted, 2).labels_below_threshold == 4
    assert not set(asked(half_voted, 0, "control").values()) & set(server.world.workflows[WORKFLOW]["retired"])


def test_retiring_is_repeated_after_a_crash_with_the_same_galaxies(
    server: PanoptesServer, half_voted: Settings
) -> None:
    server.faults = [Fault("lost_answer", "/api/workflows/1/retired_subjects", "POST", times=4)]
    with pytest.raises(ServiceError):
        iterate.run(half_voted)
    retired = dict(server.world.workflows[WORKFLOW]["retired"])
    assert len(retired) == 4 and server.struck == ["lost_answer"] * 4
    iterate.run(half_voted)
    assert summary(half_voted, 1).retired_confident == 4 and server.world.workflows[WORKFLOW]["retired"] == retired
    made = server.count("POST /api/workflows/1/retired_subjects")
    iterate.run(half_voted)
    assert summary(half_voted, 2).labels_received == 4
    assert server.count("POST /api/workflows/1/retired_subjects") == made + 1  # those of iteration 1


def test_a_dry_run_retires_nobody(
    server: PanoptesServer, half_voted: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    iterate.run(with_oracle(half_voted, dry_run=True))
    assert caplog.text.count("would retire subject") == 4 and server.world.workflows[WORKFLOW]["retired"] == {}


def test_only_what_is_certain_enough_is_retired_and_nothing_by_default(
    server: PanoptesServer, live: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    sure = {0: 0.99, 1: 0.9, 2: 0.5, 3: 1.0}
    monkeypatch.setattr(
        "zoobot.iterations.retire._confidence", lambda it, _, ids: {id_: sure[n] for n, id_ in enumerate(ids)}
    )
    settings = with_oracle(live, retire_confident=0.9)
    instructions.run(settings)
    iterate.run(settings)
    iterate.run(settings)
    subjects = list(asked(settings, 0).values())
    assert set(server.world.workflows[WORKFLOW]["retired"]) == {subjects[0], subjects[3]}
    assert live.oracle.retire_confident == 1.0


# --------------------------------------------------------------- predictions


@pytest.mark.parametrize("task", ["smooth", "demo_tree"])
def test_predictions_are_written_to_the_subjects_of_chosen_galaxies(
    compose: Callable[..., Settings], server: PanoptesServer, tmp_path: Path, task: str
) -> None:
    from tests.test_live import credentials
    from zoobot.stages import catalogs, master_catalog, shards

    settings = compose(
        "stage=iterate", *LIVE, f"task={task}", f"oracle.endpoint={server.endpoint}", "oracle.write_predictions=true",
        f"oracle.credentials_file={credentials(tmp_path)}", data_dir=tmp_path / "data",
    )  # fmt: skip
    for stage in (master_catalog, catalogs, shards, instructions, iterate):
        stage.run(settings)
    folder = ExperimentFolder(settings.experiment_dir).iteration(0)
    answers = ["label", "not_label"] if task == "smooth" else list(QUESTIONS.root.columns)
    table = folder.predictions(["id_str", *answers], ids=list(asked(settings, 0))).set_index("id_str")
    for id_str, subject in asked(settings, 0).items():
        written = {k: v for k, v in server.world.subjects[subject]["metadata"].items() if k.startswith("#zoobot_")}
        samples_A_K = np.stack(list(table.loc[id_str, answers]))
        expected_A = (samples_A_K / samples_A_K.sum(axis=0)).mean(axis=1)
        root = QUESTIONS.root.name
        found_A = [written[f"#zoobot_{root}_{answer.removeprefix(f'{root}_')}"] for answer in answers]
        assert found_A == pytest.approx(expected_A, abs=6e-4) and sum(found_A) == pytest.approx(1, abs=3e-3)
        assert len(written) == (2 if task == "smooth" else sum(len(q.columns) for q in QUESTIONS))
        assert all(value == round(value, 3) for value in written.values())
    for subject in asked(settings, 0, "control").values():
        assert not any(key.startswith("#zoobot") for key in server.world.subjects[subject]["metadata"])


# --------------------------------------------------------------- settings


@pytest.mark.parametrize("given", ["priority=true", "write_predictions=true", "retire_confident=0.9"])
def test_what_only_real_people_need_is_refused_in_a_simulation(
    compose: Callable[..., Settings], tmp_path: Path, given: str
) -> None:
    with pytest.raises(SettingsError, match=rf"oracle\.{given.split('=')[0]}: only real people need it"):
        compose("stage=simulate", f"oracle.{given}", data_dir=tmp_path)


def test_an_oracle_that_cannot_retire_is_refused_before_anything_is_received(
    live: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Plain:
        def request(self, ids: Sequence[str], name: str, n_votes: int) -> None: ...

        def receive(self, waiting: object, earlier: object, last_classification_id: int) -> None: ...

    monkeypatch.setitem(ORACLES, "plain", lambda *_: Plain())
    for changes in ({"retire_confident": 0.9}, {"write_predictions": True}):
        with pytest.raises(SettingsError, match=rf"oracle\.{next(iter(changes))}: oracle.kind=plain cannot do it"):
            build_oracle(with_oracle(live, kind="plain", **changes), QUESTIONS, live.catalog_dir, live.catalog_dir)
