"""What a pull keeps: a changed beginning, corrections by the server, and projects that are not ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.test_panoptes import CHOSEN, PAGES, Pages, fill, ids, login
from tests.test_reduce import SMOOTH, result
from zoobot import folders
from zoobot.errors import InputError, ServiceError, ZoobotError
from zoobot.oracles import pull
from zoobot.oracles.panoptes import Zooniverse
from zoobot.oracles.rehearsal.server import Fault, PanoptesServer
from zoobot.oracles.simulated import classification
from zoobot.settings import OracleSettings, Settings
from zoobot.stages import reduce

VERSIONS = "/api/workflow_versions"


@pytest.fixture
def chosen(server: PanoptesServer, tmp_path: Path) -> OracleSettings:
    return replace(CHOSEN, endpoint=server.endpoint, credentials_file=str(login(tmp_path)))


@pytest.fixture
def pulling(settings: Callable[..., Settings], server: PanoptesServer, chosen: OracleSettings) -> Settings:
    return settings(
        "stage=reduce", "oracle=panoptes", "oracle.project_id=1", "oracle.workflow_ids=[1]", "reduce.pull=true",
        f"oracle.endpoint={server.endpoint}", f"oracle.credentials_file={chosen.credentials_file}",
        "oracle.retry_wait_s=0.01",
    )  # fmt: skip


def since(settings: Settings, last_id: int) -> Settings:
    return replace(settings, oracle=replace(settings.oracle, last_classification_id=last_id))


def votes(settings: Settings) -> int:
    """All votes for 'smooth' after a run of stage=reduce."""
    return int(result(reduce.run(settings))[0][SMOOTH].sum())


# --------------------------------------------------------------- where to begin


def test_a_changed_beginning_is_not_ignored(
    server: PanoptesServer, pulling: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    fill(server, 5, first=101)
    assert votes(since(pulling, 103)) == 2
    assert votes(since(pulling, 0)) == 5
    assert votes(since(pulling, 104)) == 5, "votes that were stored were dropped"
    assert "holds classifications from id 1 on, though they are now to begin after 104: they stay" in caplog.text
    fill(server, 1, first=200)
    assert votes(since(pulling, 104)) == 6
    assert sorted(ids(pulling.survey_dir / "raw_classifications"), key=int) == [
        "101",
        "102",
        "103",
        "104",
        "105",
        "200",
    ]


@pytest.mark.parametrize("at", range(6))  # four requests for the earlier ids, two for the later ones
def test_the_earlier_ids_are_read_on_after_a_stop(
    server: PanoptesServer, chosen: OracleSettings, tmp_path: Path, at: int
) -> None:
    expected, folder, chosen = fill(server, 450), tmp_path / "raw", replace(chosen, overlap_ids=1)
    assert pull.pull(Zooniverse(chosen), folder, chosen, 320) == 130
    server.faults = [Fault("status", PAGES, skip=at, times=99)]
    with pytest.raises(ServiceError):
        pull.pull(Zooniverse(chosen), folder, chosen, 0)
    server.faults = []
    server.requests.clear()
    pull.pull(Zooniverse(chosen), folder, chosen, 0)
    assert sorted(ids(folder), key=int) == expected
    assert server.count(f"GET {PAGES}.*last_id=0&.*") == (at == 0), "what was read is read again"
    assert pull.pull(Zooniverse(chosen), folder, chosen, 0) == 0


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    walks=st.lists(
        st.tuples(st.sets(st.integers(1, 40), max_size=20), st.integers(0, 6), st.integers(0, 40)),
        min_size=1,
        max_size=5,
    )
)
def test_every_row_after_the_earliest_beginning_is_stored_once(
    walks: list[tuple[set[int], int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, visible, pulled = tmp_path_factory.mktemp("raw"), set[int](), [40]
    for new, breaks_at, since_id in [*walks, (set(), 0, walks[-1][2])]:
        visible |= {id_ for id_ in new if id_ > max(visible, default=0)}  # late ones are another test's
        try:
            pull.pull(Pages(sorted(visible), breaks_at), folder, replace(CHOSEN, overlap_ids=3), since_id)
        except ServiceError:
            continue
        pulled.append(since_id)
        found = sorted(map(int, ids(folder)))
        assert found == sorted(set(found)), "a row is stored twice"
        assert set(found) >= {id_ for id_ in visible if id_ > min(pulled[1:])}, "a row is missing"


# --------------------------------------------------------------- what the server corrects


def test_an_odd_workflow_version_does_not_outlive_its_correction(server: PanoptesServer, pulling: Settings) -> None:
    fill(server, 5)
    server.faults = [Fault("replaced", VERSIONS, field="workflow_versions.0.tasks", value=value) for value in (None, 5)]
    for _ in range(2):
        try:
            reduce.run(pulling)
        except ZoobotError:
            continue
    assert server.struck == ["replaced"] * 2 and votes(pulling) == 5
    assert folders.read_json(pulling.survey_dir / "raw_classifications" / pull.VERSIONS) == {
        "workflow_versions": server.world.versions
    }


def test_a_corrected_row_replaces_the_stored_one(server: PanoptesServer, pulling: Settings) -> None:
    fill(server, 5)
    right = [dict(row) for row in server.world.rows]
    server.world.rows[1] |= {"annotations": [{"task": "T0", "value": 99}]}
    server.world.rows[2] |= {"annotations": None, "updated_at": None}
    assert votes(pulling) == 3
    for row in right[1:3]:
        row["updated_at"] = "2031-01-01T00:00:00.000Z"
    server.world.rows = right
    assert votes(pulling) == 5 and votes(pulling) == 5
    stored = ids(pulling.survey_dir / "raw_classifications")
    assert sorted(stored) == ["1", "2", "2", "3", "3", "4", "5"], "a row is stored again though nothing has changed"


@pytest.mark.parametrize("field", ["metadata", "links", "id"])
def test_a_pull_that_met_an_odd_row_goes_on_when_it_is_corrected(
    server: PanoptesServer, chosen: OracleSettings, tmp_path: Path, field: str
) -> None:
    expected = fill(server, 250)
    server.faults = [Fault("replaced", PAGES, skip=1, field=f"classifications.7.{field}", value=None)]
    with pytest.raises(ServiceError, match=rf"{field}.* of classifications 8 of 100 is not .*received null") as raised:
        pull.pull(Zooniverse(chosen), tmp_path / "raw", chosen, 0)
    assert raised.value.exit_status == 1 and len(ids(tmp_path / "raw")) == 100
    pull.pull(Zooniverse(chosen), tmp_path / "raw", chosen, 0)
    assert ids(tmp_path / "raw") == expected


def test_an_id_that_never_was_hides_no_row(
    server: PanoptesServer, pulling: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong id of 18 digits would otherwise be where every later pull begins."""
    fill(server, 5)
    answers = [{"task": "T0", "value": 0}]
    row = classification(1, "1", 900, answers) | {"id": str(10**17)}
    wrong = json.dumps({"classifications": [row]}).encode()
    server.faults = [Fault("garbage", PAGES, body=wrong)]
    assert votes(pulling) == 1
    assert votes(pulling) == 6 and "no longer shows classification 100000000000000000" in caplog.text
    fill(server, 3, first=11)
    assert votes(pulling) == 9


# --------------------------------------------------------------- whose classifications


def test_a_workflow_of_another_project_is_refused(server: PanoptesServer, pulling: Settings) -> None:
    server.world.workflows["2"] = {**server.world.workflows["1"], "project": "3"}
    other = replace(pulling, oracle=replace(pulling.oracle, workflow_ids=["1", "2"]))
    with pytest.raises(InputError, match=r"workflow 2 belongs to project 3, not to oracle\.project_id=1") as raised:
        reduce.run(other)
    assert raised.value.exit_status == 2 and server.count(f"GET {PAGES}.*") == 0
    wrong = replace(pulling, oracle=replace(pulling.oracle, project_id="3"))
    with pytest.raises(InputError, match=r"workflow 1 belongs to project 1, not to oracle\.project_id=3"):
        reduce.run(wrong)


def test_a_workflow_that_is_hidden_is_refused(server: PanoptesServer, pulling: Settings) -> None:
    hidden = replace(pulling, oracle=replace(pulling.oracle, workflow_ids=["7"]))
    with pytest.raises(InputError, match=r"has no workflow 7, or the credentials of .* may not see it") as raised:
        reduce.run(hidden)
    assert raised.value.exit_status == 2


def test_who_is_no_collaborator_is_told_so(server: PanoptesServer, pulling: Settings) -> None:
    fill(server, 5)
    server.world.editable = []
    for last_id in (0, 3):
        with pytest.raises(InputError, match=r"have 5 classifications, but .* shows none of them") as raised:
            reduce.run(since(pulling, last_id))
        assert raised.value.exit_status == 2
    server.world.editable = ["1"]
    assert votes(since(pulling, 0)) == 5


def test_a_project_without_classifications_is_a_warning_and_a_quiet_day_is_nothing(
    server: PanoptesServer, chosen: OracleSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert pull.pull(Zooniverse(chosen), tmp_path / "raw", chosen, 0) == 0
    assert "project 1 shows no classification to the credentials of" in caplog.text
    caplog.clear()
    fill(server, 5)
    assert pull.pull(Zooniverse(chosen), tmp_path / "later", chosen, 5) == 0 and caplog.text == ""
