"""What an iteration reads and keeps in memory: counted, never timed."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.test_published_features import RUN, write
from zoobot import acquisition, folders
from zoobot.acquisition import Candidates, candidates
from zoobot.engine import map as engine
from zoobot.errors import FolderError
from zoobot.folders import disk, write_once
from zoobot.galaxies import database, tfrecords
from zoobot.galaxies.tasks import Group
from zoobot.iterations import evaluate, predicted_pool
from zoobot.iterations.files import IterationFolder
from zoobot.metrics import PredictedVotes
from zoobot.settings import Settings
from zoobot.stages import iterate, simulate

Compose = Callable[..., Settings]
Counted = list[tuple[Any, ...]]


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str], Counted]:
    """``count(module, name)``: the arguments of each call from now on."""

    def counting(module: Any, name: str) -> Counted:
        calls: Counted = []
        function = getattr(module, name)

        def counted(*args: Any) -> Any:
            calls.append(args)
            return function(*args)

        monkeypatch.setattr(module, name, counted)
        return calls

    return counting


@pytest.fixture
def mine(settings: Compose, tmp_path: Path) -> Callable[..., Settings]:
    """A simulation on features of 300 galaxies, by its further settings."""
    folder = write(tmp_path / "in")
    return lambda *more: settings("stage=simulate", *RUN, f"survey.folder={folder}", "simulate.iterations=2", *more)


# --------------------------------------------------------------- what is read


def test_a_manifest_is_read_once_for_all_its_files(tmp_path: Path, count: Callable[[Any, str], Counted]) -> None:
    with folders.create(tmp_path / "made", {}, {}) as staging:
        (staging / "pool").mkdir()
        for name in "abc":
            (staging / "pool" / name).write_text(name)
    calls = count(write_once, "read_manifest")
    found = {folders.digest_in(tmp_path / "made" / "pool" / name)[:8] for name in "abc"}
    assert found == {"ca978112", "3e23e816", "2e7d2c03"} and len(calls) == 1  # sha256 of a, b and c


def test_a_manifest_that_was_changed_is_read_again(tmp_path: Path) -> None:
    with folders.create(tmp_path / "made", {}, {}) as staging:
        (staging / "pool").mkdir()
        (staging / "pool" / "a").write_text("a")
    path = tmp_path / "made" / "pool" / "a"
    folders.digest_in(path)
    manifest = tmp_path / "made" / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text(manifest.read_text().replace("ca978112", "ca978113"))
    with pytest.raises(FolderError, match="not as it was written"):
        folders.digest_in(path)


def test_new_labels_read_their_own_records_only(mine: Compose, count: Callable[[Any, str], Counted]) -> None:
    contents, found = count(tfrecords, "_content"), count(tfrecords, "find_records")
    s = mine("simulate.iterations=1")
    simulate.run(s)
    contents.clear()
    iterate.run(s)
    n_labels = IterationFolder(s.experiment_dir / "iteration_1").summary().labels_received
    from_shards = [path for path, *_ in contents if path.is_relative_to(s.shard_dir)]
    assert len(from_shards) == n_labels > 10, "a shard has 64 records; features are kept"
    iterate.run(s)
    paths = [path for (path,) in found]
    assert paths and len(paths) == len(set(paths)), "where its records begin is kept with the labels"
    with database.connect(IterationFolder(s.experiment_dir / "iteration_2").database) as connection:
        shard = str(paths[0].relative_to(s.shard_dir))
        assert database.record_offsets(connection, shard, Path("not there"))[0] == 0


def test_records_are_found_where_they_begin(tmp_path: Path) -> None:
    path, records = tmp_path / "a.tfrecord", [b"a" * n for n in (5, 0, 300)]
    tfrecords.write(path, records)
    offsets = tfrecords.find_records(path)
    assert offsets.tolist() == [0, 12 + 5 + 4, 2 * (12 + 4) + 5]
    assert list(tfrecords.read_at(path, offsets[[2, 0]])) == [records[2], records[0]]
    with pytest.raises(FolderError, match="checksums"):
        list(tfrecords.read_at(path, np.array([1])))


@pytest.mark.parametrize("shares", [True, False])
def test_a_copy_has_the_content(shares: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"content")

    def ioctl(target: Any, request: int, source: int) -> None:
        if not shares:
            raise OSError
        assert request == 0x40049409
        target.write(b"shared!")

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    disk.copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == (b"shared!" if shares else b"content")


# --------------------------------------------------------------- what is stored


def test_samples_are_stored_with_eight_significant_bits() -> None:
    values = np.array([1.0, 1 + 2**-9, 1 + 3 * 2**-8, 1e-7, 1359.2432], np.float32)
    stored = predicted_pool._as_floats(predicted_pool._rounded(values))
    assert stored[:3].tolist() == [1.0, 1.0, 1 + 2**-6] and stored == pytest.approx(values, rel=2**-8)


def test_rounded_probabilities_sum_to_one_again() -> None:
    samples = np.array([[[0.5039, 0.5], [0.999, 0.002]]], np.float32)
    votes = PredictedVotes(samples, (Group("q", ("a", "b")),))
    assert votes.normalised().samples_N_K_A.sum(axis=2) == pytest.approx(1, abs=1e-6)
    concentrations = PredictedVotes(samples, votes.groups, "dirichlet_multinomial")
    assert concentrations.normalised() is concentrations


def test_predictions_are_small_and_the_choice_follows_from_them(mine: Compose) -> None:
    s = mine("acquisition=mutual_information", "simulate.iterations=1")
    simulate.run(s)
    path = s.experiment_dir / "iteration_0" / "predictions.parquet"
    table = pd.read_parquet(path)
    columns = [np.stack(table[answer].to_list()) for answer in ("label", "not_label")]
    samples = np.stack(columns, axis=2)
    assert not (samples.view(np.uint32) & 0xFFFF).any(), "rounded"
    scores = acquisition.dirichlet_multinomial_mutual_information(samples, 40)
    assert table["acquisition"].to_numpy() == pytest.approx(scores, rel=1e-9)
    asked = json.loads((path.parent / "requests.json").read_text())["ids"]
    assert asked == table["id_str"][np.argsort(-scores)[:20]].to_list()
    found = pq.ParquetFile(path).metadata.row_group(0)
    sizes = {found.column(i).path_in_schema: found.column(i).total_compressed_size for i in range(found.num_columns)}
    of_samples = sizes["label.list.element"] + sizes["not_label.list.element"]
    assert of_samples / len(table) < 80, "at 30 samples of 4 bytes of 2 answers they are 240"


# --------------------------------------------------------------- what is in memory


def test_the_pool_is_predicted_and_chosen_in_parts(mine: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mine("simulate.iterations=1")
    simulate.run(whole)
    sizes: list[int] = []
    predict = evaluate.predict

    def sized(it: Any, predictor: Any, features_N_H: Any, calibration: Any) -> Any:
        sizes.append(len(features_N_H))
        return predict(it, predictor, features_N_H, calibration)

    for module in (predicted_pool, candidates):
        monkeypatch.setattr(module, "PART", 50)
    monkeypatch.setattr(predicted_pool, "predict", sized)
    parts = mine("simulate.iterations=1", "experiment_name=parts", "workers=1")
    simulate.run(parts)
    assert sizes == [50, 50, 50, 50]
    for name in ("requests.json", "metrics.json"):
        one, other = ((s.experiment_dir / "iteration_0" / name).read_text() for s in (whole, parts))
        assert one.replace(whole.experiment_name, "parts") == other


def test_workers_predict_and_score_the_same(mine: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (predicted_pool, candidates, acquisition):
        monkeypatch.setattr(module, "PART", 50)
    monkeypatch.setattr(acquisition, "MOST", 100)
    teams: list[tuple[str, int]] = []
    in_order = engine.in_order

    def counted(function: Any, items: Any, workers: int, *others: Any) -> Any:
        teams.append((function.__name__, workers))
        return in_order(function, items, workers, *others)

    monkeypatch.setattr(engine, "in_order", counted)
    written = {}
    for workers in (1, 2):
        teams.clear()
        settings = mine(f"workers={workers}", f"experiment_name=by_{workers}", "simulate.iterations=1",
                        "acquisition=badge", "acquisition.skip_confident=0.9")  # fmt: skip
        simulate.run(settings)
        assert teams[-3:] == [(name, workers) for name in ("_predict_part", "confidence", "mutual_information")]
        made = settings.experiment_dir / "iteration_0"
        written[workers] = [(made / name).read_bytes() for name in ("predictions.parquet", "metrics.json")]
        written[workers] += [json.loads((made / "requests.json").read_text())["ids"]]
    assert written[1] == written[2]


@pytest.mark.parametrize(("n", "workers"), [(0, 1), (3 * candidates.PART, 1), (4 * candidates.PART, 2)])
def test_a_small_pool_does_not_ask_how_many_cores_there_are(
    mine: Compose, n: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a cluster the answer may take the start of a Ray."""
    asked: list[str | None] = []

    def cores(cluster: str | None) -> int:
        asked.append(cluster)
        return 8

    monkeypatch.setattr(engine, "cores", cores)

    class Pool:
        it = SimpleNamespace(settings=mine())

        def __len__(self) -> int:
            return n

    of: Any = predicted_pool.PredictedPool._workers
    assert of.fget(Pool()) == workers and len(asked) == workers - 1


def drawn(n: int, seed: int = 0) -> Candidates:
    random = np.random.default_rng(seed)
    samples = random.gamma(2, size=(n, 8, 2)).astype(np.float32) + np.float32(0.1)
    votes = PredictedVotes(samples, (Group("q", ("a", "b")),), "dirichlet_multinomial")
    features = random.normal(size=(n, 5)).astype(np.float32)
    return Candidates([f"g{i:04}" for i in range(n)], votes, 10, features, features[:3] + 1)


class Watched:
    """Candidates that note how many are taken at once."""

    def __init__(self, source: Candidates) -> None:
        self._source, self.ids_N, self.most = source, source.ids_N, 0

    def __len__(self) -> int:
        return len(self._source)

    def take(self, rows: npt.NDArray[np.int64]) -> Candidates:
        self.most = max(self.most, len(rows))
        return self._source.take(rows)

    def scores(self, score: Callable[[Candidates], candidates.Floats]) -> candidates.Floats:
        return candidates.in_parts(self, score)


@pytest.mark.parametrize("name", [*acquisition.ACQUISITIONS])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_of_a_large_pool_a_function_sees_a_part_at_a_time(
    name: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = drawn(300)
    watched = Watched(source)
    monkeypatch.setattr(acquisition, "MOST", 100)
    monkeypatch.setattr(candidates, "PART", 64)
    found = acquisition.choose(name, watched, 20, np.random.default_rng(1), random_share=share)
    assert watched.most <= 100 and len(set(found.picks)) == 20 and sorted(found.rank_N) == list(range(300))
    assert found.at_random_N.sum() == round(share * 20)
    left_by_rank = found.scores_N[np.argsort(found.rank_N)][20:]
    assert (np.diff(left_by_rank) <= 0).all()
    if acquisition.strategy(name).batch_aware:
        mutual = acquisition.dirichlet_multinomial_mutual_information(source.predicted.samples_N_K_A, 10)
        chosen = found.picks[: 20 - found.at_random_N.sum()]
        assert (mutual[chosen] >= np.sort(mutual)[-110]).all(), "from those with the highest mutual information"


@pytest.mark.parametrize("name", ["entropy", "variance", "mutual_information"])
def test_scoring_in_parts_chooses_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = drawn(300)
    whole = acquisition.choose(name, source, 20, np.random.default_rng(1), skip_confident=0.9)
    monkeypatch.setattr(acquisition, "MOST", 100)
    monkeypatch.setattr(candidates, "PART", 64)
    parts = acquisition.choose(name, source, 20, np.random.default_rng(1), skip_confident=0.9)
    for one, other in zip(vars(whole).values(), vars(parts).values(), strict=True):
        assert np.array_equal(one, other)
