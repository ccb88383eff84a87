"""kill -9 at each call to Zooniverse, before it is made and after it took effect; then the same again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from requests.adapters import HTTPAdapter

from tests.crash import in_child
from tests.faults import KILLED, Faults
from tests.test_crash import ALL
from tests.test_live import LIVE, QUESTIONS, assert_asked_once, copy_of, pool, project
from tests.test_live_state import exported, shown_in_order, with_oracle
from zoobot import folders
from zoobot.folders import once
from zoobot.oracles.rehearsal.__main__ import read_truth
from zoobot.oracles.rehearsal.server import PanoptesServer
from zoobot.settings import Settings
from zoobot.stages import catalogs, master_catalog


@pytest.fixture(scope="module")
def prepared(compose: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Catalogs and pictures: a request needs no shards."""
    settings = compose(
        "stage=catalogs", *LIVE, "oracle.endpoint=http://127.0.0.1:9", data_dir=tmp_path_factory.mktemp("l")
    )
    for stage in (master_catalog, catalogs):
        stage.run(settings)
    return settings


def ask(settings: Settings, folder: Path, at: int, kind: str) -> int:
    """Ask about three galaxies in a process of its own, whose operation ``at`` fails: of the outbox or a call."""

    def work() -> None:
        faults, send = Faults(folder, at, kind), HTTPAdapter.send
        faults.install()

        def counted(self: HTTPAdapter, request: Any, *args: Any, **more: Any) -> Any:
            name = f"{folder}/{request.method}"
            return faults.point("call", name, lambda: send(self, request, *args, **more))

        HTTPAdapter.send = counted  # type: ignore[method-assign]
        live = project(settings)
        once.send(folder / "request.json", pool(settings), lambda ids: asdict(live.request(ids, "x_iteration_0", 52)))

    return in_child(work, folder.with_name("output.txt"))


@pytest.mark.parametrize("offset", [0, 1] if ALL else [0])
def test_a_request_killed_at_any_call_is_asked_once(prepared: Settings, tmp_path: Path, offset: int) -> None:
    truth = read_truth(prepared.survey_dir / "galaxies" / "truth.csv", QUESTIONS)
    for at in range(1, 100):
        place, kind = tmp_path / str(at), ("kill", "torn")[(at + offset) % 2]
        folder = place / "disk"
        folder.mkdir(parents=True)
        with PanoptesServer(QUESTIONS, truth) as server:
            settings = copy_of(prepared, place, server)
            status = ask(settings, folder, at, kind)
            if status == 0:
                break
            assert status == KILLED, (place / "output.txt").read_text()
            assert ask(settings, folder, 0, kind) == 0, (place / "output.txt").read_text()
            assert_asked_once(server, settings, pool(settings), 52)
            receipt = folders.read_json(folder / "request.json")["receipt"]
            assert list(receipt["subjects"].values()) == list(server.world.subjects)
            made = len(server.requests)
            assert ask(settings, folder, 0, kind) == 0 and len(server.requests) == made, "one with a receipt was sent"
    assert at > 20, "a request takes more calls than that"


@pytest.mark.long
def test_a_request_about_galaxies_on_zooniverse_killed_at_any_call(prepared: Settings, tmp_path: Path) -> None:
    """One subject is retired, one is linked, one galaxy is new; with an order. Nothing is uploaded or shown twice."""
    truth = read_truth(prepared.survey_dir / "galaxies" / "truth.csv", QUESTIONS)
    for at in range(1, 100):
        place, kind = tmp_path / str(at), ("torn", "kill")[at % 2]
        folder = place / "disk"
        folder.mkdir(parents=True)
        with PanoptesServer(QUESTIONS, truth) as server:
            settings = copy_of(prepared, place, server)
            ids = pool(settings)
            old = project(settings).request(ids[:2], "old", 30).subjects
            server.world.retire("1", [old[ids[0]]], "consensus")
            settings = with_oracle(exported(settings, old), priority=True)
            status = ask(settings, folder, at, kind)
            assert status in (0, KILLED), (place / "output.txt").read_text()
            assert ask(settings, folder, 0, kind) == 0, (place / "output.txt").read_text()
            subjects = folders.read_json(folder / "request.json")["receipt"]["subjects"]
            assert (
                subjects[ids[0]] != old[ids[0]] and subjects[ids[1]] == old[ids[1]] and len(server.world.subjects) == 4
            )
            (_, new) = server.world.sets.values()
            assert sorted(new["members"]) == sorted(subjects.values())
            server.world.workflows["1"]["subject_sets"].pop(0)  # only what was asked now
            assert shown_in_order(server, 3) == ids
            if status == 0:
                break
    assert at > 25, "a request takes more calls than that"
