"""stage=iterate: one iteration: receive labels, train, predict, choose, ask.

It reads the instructions, the shards and the iterations before it, and writes one folder. ``simulate`` and production
call this very function. Axes: N galaxies, K posterior samples, A answers.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from zoobot import acquisition, database, folders, metrics, model, tfrecords, tracking
from zoobot.errors import FolderError
from zoobot.oracle import build_oracle
from zoobot.progress import track
from zoobot.questions import QuestionTree, load_questions
from zoobot.seeds import stream
from zoobot.settings import Settings, stage_settings
from zoobot.stages.shards import load_config
from zoobot.tasks import LABEL, TOTAL_VOTES, Task, build_task

log = logging.getLogger("zoobot")
FORMAT_VERSION = 1
PICTURES = 16  # of the galaxies chosen, kept for report and dashboard


@dataclass
class _Iteration:
    """What one iteration works with."""

    number: int
    settings: Settings
    questions: QuestionTree
    task: Task
    shard_dir: Path
    shard_config: dict[str, Any]
    hidden_votes: Path
    before: list[Path]  # folders of the iterations before, in order
    folder: Path  # where this one is being written
    timings_s: dict[str, float] = field(default_factory=dict)

    @property
    def db(self) -> Path:
        return self.folder / "iteration.db"

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.timings_s[step] = round(time.perf_counter() - start, 3)


def run(settings: Settings) -> Path:
    """Make the next iteration of the experiment and return its folder."""
    instructions_dir = settings.experiment_dir / "instructions"
    folders.require(instructions_dir, "instructions")
    questions = load_questions(settings.survey.questions)
    folders.exists_with(
        instructions_dir, stage_settings(settings, "instructions") | {"questions": questions.as_dict()}, inputs={}
    )
    instructions = folders.read_json(instructions_dir / "instructions.json")
    shard_dir, catalog_dir = _input_dirs(instructions_dir, instructions)
    with folders.lock(settings.experiment_dir / "experiment"):
        before = folders.list_numbered(settings.experiment_dir, "iteration")
        for earlier in before:
            folders.require(earlier, "iterate")
        _check_previous(settings, before)
        path = settings.experiment_dir / f"iteration_{len(before)}"
        inputs = {"instructions": instructions_dir} | ({"previous": before[-1]} if before else {})
        with folders.create(path, {"number": len(before)}, inputs, varying=["iteration.json"]) as staging:
            iteration = _Iteration(
                len(before), settings, questions, build_task(settings.task, questions), shard_dir,
                load_config(shard_dir), catalog_dir / "oracle.csv", before, staging,
            )  # fmt: skip
            summary = _work(iteration, instructions_dir)
    log.info(
        "%s: %d labels received, %d galaxies trained on, test loss %.3f, %d galaxies asked about",
        path.name, summary["labels_received"], summary["train_galaxies"], summary["test_loss"], summary["requested"],
    )  # fmt: skip
    tracking.log_iteration(settings, [*before, path])
    return path


def _input_dirs(instructions_dir: Path, instructions: dict[str, Any]) -> tuple[Path, Path]:
    """The shards and catalogs that the instructions were written for, or an error if others lie there now."""
    found = []
    for name in ("shards", "catalogs"):
        path = (instructions_dir / instructions[name]["path"]).resolve()
        folders.require(path, name)
        if folders.digest_of(path) != instructions[name]["digest"]:
            raise FolderError(
                f"{path} holds other {name} than {instructions_dir} was written for. Make a new experiment for them."
            )
        found.append(path)
    return found[0], found[1]


def _check_previous(settings: Settings, before: Sequence[Path]) -> None:
    wanted = settings.iterate.previous
    newest = before[-1].name if before else ""
    if wanted and wanted != newest:
        raise FolderError(
            f"iterate.previous={wanted}, but the newest iteration of {settings.experiment_dir} is"
            f" {newest or 'not there'}."
            " An iteration is never made twice; leave iterate.previous out to go on from the newest."
        )


def _work(it: _Iteration, instructions_dir: Path) -> dict[str, Any]:
    shutil.copyfile((it.before[-1] if it.before else instructions_dir) / "iteration.db", it.db)
    it.db.chmod(0o644)
    oracle = build_oracle(it.settings.oracle, it.hidden_votes, it.questions, it.settings.seed)
    with it.timed("receive"):
        waiting = _waiting(it)
        last_id = folders.read_json(it.before[-1] / "iteration.json")["last_classification_id"] if it.before else 0
        received = oracle.receive(waiting, _earlier_classifications(it), last_id)
        labels = _new_labels(it, received.votes)
        _write_classifications(it, received.classifications)
        _write_acquired(it, labels)
    with it.timed("train"):
        network = model.build(
            it.settings.model,
            it.task.groups,
            it.shard_config["image_size_px"],
            it.shard_config["channels"],
            it.settings.seed,
        )
        if it.settings.model.warm_start and it.before:
            model.load_weights(network, it.before[-1] / "model")
        train_files = _train_files(it)
        history = _train(it, network, train_files)
        weights_digest = model.save(network, it.folder / "model", history)
    with it.timed("evaluate"):
        measured = {split: _evaluate(it, network, split) for split in ("eval", "test")}
        folders.write_json(it.folder / "metrics.json", measured)
    with it.timed("predict"):
        still_waiting = [id_str for id_str in waiting if id_str not in labels]
        shards = _next_shards(it, set(still_waiting))
        predictions = _predict(it, network, shards, set(still_waiting))
    with it.timed("request"):
        chosen = predictions[predictions["picked"]].sort_values("rank")
        name = f"{it.settings.experiment_name}_iteration_{it.number}"
        receipt = oracle.request(list(chosen["id_str"]), name)
        folders.write_json(
            it.folder / "requests.json",
            {"ids": list(chosen["id_str"]), "control": list(chosen["id_str"][chosen["control"]]), "receipt": receipt},
        )
        _write_pictures(it, chosen)
    summary = {
        "format_version": FORMAT_VERSION,
        "number": it.number,
        "previous": it.before[-1].name if it.before else None,
        "train_files": [str(name) for _, name in train_files],
        "train_galaxies": _count_train(it),
        "labels_received": len(labels),
        "classifications_received": len(received.classifications),
        "still_waiting": len(still_waiting),
        "predicted_shards": shards,
        "predicted_galaxies": len(predictions),
        "requested": len(chosen),
        "epochs": history["epochs"],
        "weights_sha256": weights_digest,
        "test_loss": measured["test"]["all"]["loss"],
        "last_classification_id": last_id + len(received.classifications),
        "timings_s": it.timings_s,
    }
    folders.write_json(it.folder / "iteration.json", summary)
    return summary


# --------------------------------------------------------------- receive


def _waiting(it: _Iteration) -> list[str]:
    """The galaxies asked about in earlier iterations and not labelled yet, in the order they were asked."""
    asked = [id_str for path in it.before for id_str in folders.read_json(path / "requests.json")["ids"]]
    with database.connect(it.db) as connection:
        labelled = database.labelled_ids(connection)
    return [id_str for id_str in asked if id_str not in labelled]


def _earlier_classifications(it: _Iteration) -> Iterator[dict[str, Any]]:
    for path in it.before:
        with (path / "classifications" / "classifications.jsonl").open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def _write_classifications(it: _Iteration, rows: Sequence[dict[str, Any]]) -> None:
    (it.folder / "classifications").mkdir()
    with (it.folder / "classifications" / "classifications.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _new_labels(it: _Iteration, votes: pd.DataFrame) -> dict[str, dict[str, int]]:
    """The votes of galaxies that are retired now, in the pool and not yet labelled; they enter the database."""
    root_total = votes[list(it.questions.root.columns)].sum(axis=1)
    retired = it.task.add_label(votes[root_total > it.settings.survey.retirement_votes])
    stored = [c for c in (LABEL, TOTAL_VOTES, *it.questions.columns) if c in retired.columns]
    with database.connect(it.db) as connection:
        new = database.ids_in_split(connection, "pool") - database.labelled_ids(connection)
        labels = {str(i): {c: int(row[c]) for c in stored} for i, row in retired.iterrows() if i in new}
        database.add_labels(connection, labels, it.number)
    return labels


def _write_acquired(it: _Iteration, labels: dict[str, dict[str, int]]) -> None:
    """Write the newly labelled galaxies as TFRecords, with the pixels of the pool's own shards."""
    with database.connect(it.db) as connection:
        places = database.shards_of(connection, list(labels))
    records = []
    for shard, positions in places.items():
        for position, record in enumerate(tfrecords.read(it.shard_dir / shard)):
            if position in positions:
                records.append(tfrecords.add_votes(record, labels[positions[position]]))
    if len(records) != len(labels):
        raise FolderError(
            f"{it.shard_dir}: {len(labels) - len(records)} labelled galaxies are not in the shards the index names."
        )
    size = it.shard_config["shard_size"]
    (it.folder / "acquired").mkdir()
    for number, start in enumerate(range(0, len(records), size)):
        tfrecords.write(it.folder / "acquired" / f"acquired_{number:05d}.tfrecord", records[start : start + size])


# --------------------------------------------------------------- train


def _train_files(it: _Iteration) -> list[tuple[Path, Path]]:
    """Every file to train on: its path, and its name relative to the shards or to the experiment."""
    files = [(it.shard_dir / name, Path(name)) for name in it.shard_config["splits"]["train"]]
    for number, folder in enumerate([*it.before, it.folder]):
        for path in sorted((folder / "acquired").glob("*.tfrecord")):
            files.append((path, Path(f"iteration_{number}") / "acquired" / path.name))
    return files


def _train(it: _Iteration, network: model.Network, files: Sequence[tuple[Path, Path]]) -> dict[str, Any]:
    chosen = it.settings.model
    order_seed = int(stream(it.settings.seed, "data order", it.number).integers(2**31))
    n_train, n_eval = _count_train(it), it.shard_config["galaxies"]["eval"]
    log.info("iteration_%d: training on %d galaxies", it.number, n_train)
    paths = [path for path, _ in files]
    passes = math.ceil(chosen.steps_per_epoch * chosen.batch_size / n_train)
    train_data = tfrecords.dataset(paths, n_train, it.task, it.shard_config, chosen.batch_size, order_seed, passes)
    eval_data = tfrecords.dataset(_split_files(it, "eval"), n_eval, it.task, it.shard_config, chosen.predict_batch_size)
    return model.train(network, train_data, eval_data.cache(), chosen)


def _split_files(it: _Iteration, split: str) -> list[Path]:
    return [it.shard_dir / name for name in it.shard_config["splits"][split]]


def _count_train(it: _Iteration) -> int:
    with database.connect(it.db) as connection:
        acquired = database.labelled_ids(connection) & database.ids_in_split(connection, "pool")
    return int(it.shard_config["galaxies"]["train"]) + len(acquired)


# --------------------------------------------------------------- evaluate and predict


def _sample_shard(it: _Iteration, network: model.Network, path: Path, n_galaxies: int) -> npt.NDArray[np.float32]:
    """Posterior samples N × K × A of one shard; they depend on weights and seed alone."""
    return _sample(it, network, _encode_shard(it, network, path, n_galaxies))


def _encode_shard(it: _Iteration, network: model.Network, path: Path, n_galaxies: int) -> npt.NDArray[np.float32]:
    images = tfrecords.dataset([path], n_galaxies, None, it.shard_config, it.settings.model.predict_batch_size)
    return model.encode(network, images)


def _sample(it: _Iteration, network: model.Network, hidden_N_H: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Posterior samples N × K × A: the same K networks for every shard."""
    return model.sample(
        network, hidden_N_H, it.settings.model.n_samples, stream(it.settings.seed, "dropout", it.number)
    )


def _evaluate(it: _Iteration, network: model.Network, split: str) -> dict[str, dict[str, float]]:
    samples, votes_of = [], []
    for path in _split_files(it, split):
        records = [tfrecords.decode(record, it.shard_config["encoding"])[2] for record in tfrecords.read(path)]
        samples.append(_sample_shard(it, network, path, len(records)))
        votes_of += records
    votes = pd.DataFrame(votes_of)
    return metrics.evaluate(
        np.concatenate(samples), it.task.counts({c: votes[c].to_numpy() for c in votes.columns}), it.task.groups
    )


def _next_shards(it: _Iteration, still_waiting: set[str]) -> list[str]:
    """This iteration's pool shards: the next in turn that still hold a galaxy to ask about."""
    pool: list[str] = it.shard_config["splits"]["pool"]
    wanted = min(it.settings.iterate.shards_per_iteration, len(pool))
    start = it.number * wanted
    with database.connect(it.db) as connection:
        ids = database.ids_in_split(connection, "pool") - database.labelled_ids(connection) - still_waiting
        open_shards = database.shards_of(connection, sorted(ids))
    in_turn = [pool[(start + i) % len(pool)] for i in range(len(pool))]
    return [shard for shard in in_turn if shard in open_shards][:wanted]


def _predict(it: _Iteration, network: model.Network, shards: Sequence[str], still_waiting: set[str]) -> pd.DataFrame:
    """Score every galaxy of the shards that may be asked about, and write predictions.parquet: id_str, shard,
    posterior samples per answer, acquisition, rank, control. Those to ask about are marked as ``picked``.
    """
    with database.connect(it.db) as connection:
        closed = database.labelled_ids(connection) | still_waiting
    ids, names, features = [], [], [np.zeros((0, it.settings.model.hidden), np.float32)]
    for shard in track(shards, "predicting shards", len(shards)):
        shard_ids = np.array(tfrecords.read_ids(it.shard_dir / shard))
        open_N = np.array([id_str not in closed for id_str in shard_ids])
        features.append(_encode_shard(it, network, it.shard_dir / shard, len(shard_ids))[open_N])
        ids += shard_ids[open_N].tolist()
        names += [shard] * int(open_N.sum())
    features_N_H = np.concatenate(features)
    samples_N_K_A = _sample(it, network, features_N_H)
    choice = _choose(it, network, ids, features_N_H, samples_N_K_A)
    columns = {
        answer: pa.FixedSizeListArray.from_arrays(pa.array(samples_N_K_A[:, :, a].ravel()), samples_N_K_A.shape[1])
        for a, answer in enumerate(it.task.answers)
    }
    result = {"acquisition": choice.scores_N, "rank": choice.rank_N, "control": choice.control_N}
    table = pa.table({"id_str": ids, "shard": names, **columns, **result})
    pq.write_table(table, it.folder / "predictions.parquet")
    return pd.DataFrame({"id_str": ids, "shard": names, **result, "picked": choice.rank_N < len(choice.picks)})


def _choose(
    it: _Iteration,
    network: model.Network,
    ids: Sequence[str],
    features_N_H: npt.NDArray[np.float32],
    samples_N_K_A: npt.NDArray[np.float32],
) -> acquisition.Choice:
    chosen = it.settings.acquisition
    labelled = []
    if acquisition.strategy(chosen.name).needs_labelled_features:
        labelled = [_encode_shard(it, network, path, len(tfrecords.read_ids(path))) for path, _ in _train_files(it)]
    candidates = acquisition.Candidates(
        ids, samples_N_K_A, it.task.groups, chosen.expected_votes, features_N_H,
        np.concatenate([features_N_H[:0], *labelled]), coldness=chosen.coldness,
    )  # fmt: skip
    random = stream(it.settings.seed, "acquisition", it.number)
    return acquisition.choose(
        chosen.name,
        candidates,
        it.settings.iterate.subjects_per_iteration,
        random,
        skip_confident=chosen.skip_confident,
        random_share=chosen.random_share,
    )


def _write_pictures(it: _Iteration, chosen: pd.DataFrame) -> None:
    """Keep the pictures of the first galaxies chosen: {rank}.png, for people to look at."""
    (it.folder / "pictures").mkdir()
    ranks = dict(zip(chosen["id_str"].head(PICTURES), chosen["rank"].head(PICTURES), strict=True))
    with database.connect(it.db) as connection:
        places = database.shards_of(connection, list(ranks))
    for shard, positions in places.items():
        for position, record in enumerate(tfrecords.read(it.shard_dir / shard)):
            if position in positions:
                id_str, pixels, _ = tfrecords.decode(record, it.shard_config["encoding"])
                Image.fromarray(pixels.squeeze()).save(it.folder / "pictures" / f"{ranks[id_str]:05d}.png")
