"""The ceiling of a simulation, the fit to all labels, and that no acquisition function sees a hidden vote."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.test_layers import INTERNAL, MODULES
from zoobot import acquisition, folders
from zoobot.errors import InputError, SettingsError
from zoobot.galaxies import tables, tfrecords
from zoobot.galaxies.questions import load_questions
from zoobot.galaxies.tasks import build_task
from zoobot.iterations import oracle_batch, true_votes
from zoobot.iterations.files import ExperimentFolder, IterationFolder
from zoobot.iterations.iteration import Iteration
from zoobot.oracles import build
from zoobot.settings import Settings
from zoobot.stages import instructions, iterate, report, simulate

Compose = Callable[..., Settings]
QUICK = ("stage=simulate", "quick=true", "tracking=disabled", "model=pixels", "oracle.late_fraction=0")
CEILING = ("acquisition=oracle_batch", "acquisition.candidate_batches=8")


@pytest.fixture(scope="module")
def started(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A finished simulation that chose at random, whose shards the other tests share."""
    settings = compose(*QUICK, "acquisition=random", data_dir=tmp_path_factory.mktemp("data"))
    simulate.run(settings)
    return settings


def beside(started: Settings, compose: Compose, *overrides: str) -> Settings:
    return compose(*QUICK, *overrides, data_dir=Path(started.data_dir).parent)


def an_iteration(settings: Settings) -> Iteration:
    """The first iteration of an experiment, for reading."""
    questions = load_questions(settings.survey.questions)
    config = tfrecords.load_config(settings.shard_dir)
    folder = ExperimentFolder(settings.experiment_dir).iteration(0)
    return Iteration(
        0, settings, questions, build_task(settings.task, questions), settings.shard_dir, config, settings.catalog_dir,
        [], folder, settings.experiment_dir,
    )  # fmt: skip


# --------------------------------------------------------------- the true votes


def test_true_votes_by_hand(started: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """30 of 60 hidden votes, asked of 40 volunteers: 20 of 40. ``oracle=known`` answers with the hidden votes."""
    smooth, featured, artifact = (f"smooth-or-featured_{name}" for name in ("smooth", "featured-or-disk", "artifact"))
    hidden = pd.DataFrame({smooth: [30, 1], featured: [24, 0], artifact: [6, 0]}, index=["a", "b"])
    monkeypatch.setattr(true_votes, "read_votes", lambda path: hidden)
    it = an_iteration(started)
    assert true_votes.of_galaxies(it, ["b", "a"]).tolist() == [[40, 0], [20, 20]]
    with pytest.raises(InputError, match="no votes for 1 of the requested galaxies, for example c"):
        true_votes.of_galaxies(it, ["a", "c"])
    known = dataclasses.replace(started.oracle, kind="known")
    it = dataclasses.replace(it, settings=dataclasses.replace(started, oracle=known))
    assert true_votes.of_galaxies(it, ["a", "b"]).tolist() == [[30, 30], [1, 0]]


def test_nobody_knows_what_real_people_will_answer(started: Settings) -> None:
    it = an_iteration(started)
    it.settings = dataclasses.replace(started, oracle=dataclasses.replace(started.oracle, kind="panoptes", live=True))
    with pytest.raises(SettingsError, match="the votes of real people are not known"):
        true_votes.of_galaxies(it, ["a"])


def test_one_door_leads_to_the_hidden_votes() -> None:
    importers = {module for module, names in INTERNAL.items() if "zoobot.iterations.true_votes" in names}
    assert importers == {"zoobot.iterations.oracle_batch", "zoobot.iterations.all_labels"}
    naming = {module for module, path in MODULES.items() if "oracle.csv" in path.read_text(encoding="utf-8")}
    assert {module for module in naming if module.split(".")[1] in ("acquisition", "models", "iterations")} == {
        "zoobot.iterations.true_votes"
    }


def chosen(settings: Settings) -> pd.DataFrame:
    """What the first iteration of an experiment predicts, scores and ranks."""
    folder = ExperimentFolder(settings.experiment_dir).iteration(0)
    return pd.read_parquet(folder.path / "predictions.parquet").drop(columns="shard")


@pytest.mark.parametrize("names", [("badge",), pytest.param((*acquisition.ACQUISITIONS,), marks=pytest.mark.long)])
def test_no_acquisition_function_sees_a_hidden_vote(
    names: tuple[str, ...], started: Settings, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the hidden votes of other galaxies each chooses the same; only the ceiling does not."""

    def permuted(path: Path) -> pd.DataFrame:
        votes = tables.read_votes(path)
        return votes.iloc[np.random.default_rng(0).permutation(len(votes))].set_axis(votes.index)

    differ = set()
    for name in (*names, oracle_batch.NAME):
        of_name = []
        for way in ("true", "permuted"):
            extra = CEILING if name == oracle_batch.NAME else (f"acquisition={name}",)
            settings = beside(started, compose, *extra, f"experiment_name={name}_{way}", "simulate.iterations=1")
            with monkeypatch.context() as patch:
                if way == "permuted":
                    for module in (build, true_votes):
                        patch.setattr(module, "read_votes", permuted)
                instructions.run(settings)
                iterate.run(settings)
            of_name.append(chosen(settings))
        differ |= set() if of_name[0].equals(of_name[1]) else {name}
    assert differ == {oracle_batch.NAME}


# --------------------------------------------------------------- the ceiling


def test_the_batch_with_the_lowest_eval_loss_is_taken(
    started: Settings, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Judged by a rule of the test's own: the batch with the most galaxies of even number."""
    judged: list[np.ndarray] = []

    def judge(it: Iteration, predictor: object, candidates: acquisition.Candidates) -> Callable[..., float]:
        def loss(rows: np.ndarray) -> float:
            judged.append(np.asarray(candidates.ids_N)[rows])
            return float(-np.mean(rows % 2 == 0))

        return loss

    monkeypatch.setattr(oracle_batch, "_judge", judge)
    settings = beside(started, compose, *CEILING, "experiment_name=judged", "simulate.iterations=1")
    simulate.run(settings)
    table = chosen(settings)
    even = {id_str: row % 2 == 0 for row, id_str in enumerate(table["id_str"])}
    shares = [np.mean([even[id_str] for id_str in batch]) for batch in judged]
    picks = table.sort_values("rank")["id_str"][:8].tolist()
    assert picks == judged[int(np.argmax(shares))].tolist() and max(shares) > min(shares)
    assert len(judged) == 8 and all(len(set(batch)) == 8 for batch in judged)
    scores, rank = table["acquisition"].to_numpy(), table["rank"].to_numpy()
    assert sorted(rank) == list(range(len(rank))) and (np.diff(scores[np.argsort(rank)][8:]) <= 0).all()
    in_best = [np.mean(shares) for id_str in table["id_str"] if not any(id_str in batch for batch in judged)]
    assert (scores == 0).sum() >= len(in_best) > 0
    once = next(i for i in table["id_str"] if sum(i in batch for batch in judged) == 1)
    (its,) = (share for share, batch in zip(shares, judged, strict=True) if once in batch)
    assert scores[list(table["id_str"]).index(once)] == pytest.approx(its - np.mean(shares))
    assert not table["at_random"].any()


def test_more_batches_lower_the_eval_loss_and_a_run_repeats(
    started: Settings, compose: Compose, caplog: pytest.LogCaptureFixture
) -> None:
    def best(n: int, name: str) -> tuple[float, list[str]]:
        settings = beside(
            started, compose, "acquisition=oracle_batch", f"acquisition.candidate_batches={n}",
            f"experiment_name={name}", "simulate.iterations=1",
        )  # fmt: skip
        caplog.clear()
        caplog.set_level("INFO")
        simulate.run(settings)
        (said,) = (r.args for r in caplog.records if "candidate batches" in r.msg)
        assert isinstance(said, tuple)
        return float(str(said[3])), chosen(settings).sort_values("rank")["id_str"].tolist()

    one, many, again = best(1, "one"), best(12, "many"), best(12, "again")
    assert many[0] < one[0] and many == again


def test_the_whole_pool_is_asked_about_when_it_is_small(started: Settings, compose: Compose) -> None:
    settings = beside(
        started, compose, *CEILING, "iterate.subjects_per_iteration=8", "iterate.shards_per_iteration=1",
        "experiment_name=small", "simulate.iterations=1",
    )  # fmt: skip
    settings = dataclasses.replace(settings, iterate=dataclasses.replace(settings.iterate, subjects_per_iteration=999))
    simulate.run(settings)
    assert len(ExperimentFolder(settings.experiment_dir).iteration(0).requests().ids) == len(chosen(settings)) > 0


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("model=small_cnn",), "acquisition.name=oracle_batch: it fits the head again for every candidate batch"),
        (("acquisition.random_share=0.2",), "acquisition.random_share=0.2: oracle_batch does not follow it"),
        (("acquisition.skip_confident=0.9",), "acquisition.skip_confident=0.9: oracle_batch does not follow it"),
        (("acquisition.candidate_batches=101",), "acquisition.candidate_batches=101: must be between 1 and 100"),
        (
            ("stage=instructions", "oracle=panoptes", "oracle.project_id=1", "oracle.workflow_ids=[2]",
             "shards.source=real", "acquisition.random_share=0", "acquisition=oracle_batch"),
            "it must know the answers before it asks, so it is for simulations only, not for oracle=panoptes",
        ),
    ],
)  # fmt: skip
def test_where_the_ceiling_is_refused(settings: Compose, overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        settings(*QUICK, *CEILING, *overrides)


# --------------------------------------------------------------- the fit to all labels


def test_random_ends_with_a_fit_to_all_labels_and_others_do_not(started: Settings, compose: Compose) -> None:
    path = ExperimentFolder(started.experiment_dir).all_labels.path
    assert {each.name for each in path.iterdir()} == {
        "eval.parquet", "manifest.json", "metrics.json", "model", "test.parquet",
    }  # fmt: skip
    assert folders.verify(path) == []
    before = path.stat().st_mtime_ns, folders.digest_of(path)
    simulate.run(started)
    assert (path.stat().st_mtime_ns, folders.digest_of(path)) == before, "it is made once"
    other = beside(started, compose, "acquisition=badge", "simulate.iterations=1")
    simulate.run(other)
    assert not ExperimentFolder(other.experiment_dir).all_labels.path.exists()


def test_the_fit_to_all_labels_is_that_of_asking_about_everything(started: Settings, compose: Compose) -> None:
    """Asked about in one go, with the votes that are known exactly: the same labels, so the same head."""
    settings = beside(
        started, compose, "acquisition=random", "oracle=known",
        "iterate.shards_per_iteration=99", "experiment_name=everything", "simulate.iterations=2",
    )  # fmt: skip
    settings = dataclasses.replace(settings, iterate=dataclasses.replace(settings.iterate, subjects_per_iteration=999))
    simulate.run(settings)
    experiment = ExperimentFolder(settings.experiment_dir)
    last = experiment.iterations()[-1]
    assert last.summary().labels_received == tfrecords.load_config(settings.shard_dir).galaxies["pool"]
    fitted = [
        folders.read_json(folder.model / "training.json")["questions"] for folder in (experiment.all_labels, last)
    ]
    assert fitted[0].keys() == fitted[1].keys()
    for question, values in fitted[0].items():
        assert np.hstack([*values.values()]) == pytest.approx(np.hstack([*fitted[1][question].values()]), rel=1e-2)


@pytest.mark.long
def test_the_report_shows_gap_and_excess(started: Settings, compose: Compose) -> None:
    for acquisition_ in ("badge", "oracle_batch"):
        settings = beside(
            started, compose, f"acquisition={acquisition_}", "acquisition.candidate_batches=8",
            f"experiment_name=shown_{acquisition_}",
        )  # fmt: skip
        simulate.run(settings)
    chosen_ = dataclasses.replace(started.report, experiments=["shown_*", started.experiment_name], galaxies=0)
    page = report.run(dataclasses.replace(started, stage="report", report=chosen_))
    (section,) = folders.read_json(page.with_name("summary.json"))["sections"]
    badge, ceiling = section["comparisons"]
    assert (badge["gain"], ceiling["verdict"].split(",")[0]) == (None, "a ceiling")  # one seed has no interval
    text = page.read_text()
    assert "Test loss by votes" in text and "24 + 24" in text and "the choice of oracle batch" in text


def test_a_changed_fit_to_all_labels_is_refused(started: Settings) -> None:
    folder: IterationFolder = ExperimentFolder(started.experiment_dir).all_labels
    losses = folder.path / "metrics.json"
    kept = losses.read_bytes()
    losses.chmod(0o644)
    losses.write_bytes(kept.replace(b"1", b"2"))
    with pytest.raises(Exception, match="its content has changed"):
        report.run(dataclasses.replace(started, stage="report"))
    losses.write_bytes(kept)
