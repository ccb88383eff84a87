"""stage=iterate: one iteration: receive labels, train, predict, choose, ask.

It reads the instructions, the shards and the iterations before it, and writes one folder. ``simulate`` and production
call this very function. Axes: N galaxies, K posterior samples, A answers.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from zoobot import acquisition, folders, metrics
from zoobot.engine.progress import track
from zoobot.engine.seeds import stream
from zoobot.errors import FolderError
from zoobot.folders import disk
from zoobot.galaxies import database, tfrecords
from zoobot.galaxies.questions import load_questions
from zoobot.galaxies.tasks import build_task
from zoobot.iterations import exchange, learning, pool, stopping
from zoobot.iterations.iteration import Iteration, fixed_settings
from zoobot.iterations.learning import Predictor
from zoobot.iterations.pool import CHOSEN, CONTROL
from zoobot.metrics import temperature
from zoobot.reports import dashboard
from zoobot.settings import Settings

log = logging.getLogger("zoobot")
FORMAT_VERSION = 1
PICTURES = 16  # of the galaxies chosen, kept for report and dashboard


def run(settings: Settings) -> Path:
    """Make the next iteration of the experiment and return its folder."""
    instructions_dir = settings.experiment_dir / "instructions"
    folders.require(instructions_dir, "instructions", settings.verify_inputs)
    questions = load_questions(settings.survey.questions)
    used = fixed_settings(settings)
    folders.exists_with(instructions_dir, used, inputs=None)
    instructions = folders.read_json(instructions_dir / "instructions.json")
    folders.require_version(instructions_dir, instructions, "format_version", (FORMAT_VERSION,))
    with disk.lock(settings.experiment_dir):
        shard_dir, catalog_dir = _input_dirs(instructions_dir, instructions, settings.verify_inputs)
        before = _iterations(settings)
        _check_previous(settings, before)
        if why := stopping.reason(before, settings.stop):
            log.info("%s: no further iteration, since %s", settings.experiment_dir, why)
            return settings.experiment_dir
        path = settings.experiment_dir / f"iteration_{len(before)}"
        inputs = {"instructions": instructions_dir} | ({"previous": before[-1]} if before else {})
        space = _bytes_needed(settings, instructions_dir, before)
        with (
            suppress(exchange.NothingSent),
            folders.create(
                path, used | {"number": len(before)}, inputs, ["iteration.json"], resumes=True, needs_bytes=space
            ) as staging,
        ):
            iteration = Iteration(
                len(before), settings, questions, build_task(settings.task, questions), shard_dir,
                tfrecords.load_config(shard_dir), catalog_dir, before, staging,
            )  # fmt: skip
            summary = _work(iteration, instructions_dir)
        if settings.oracle.dry_run:
            log.info("oracle.dry_run: nothing was sent, and %s was not written", path.name)
            return settings.experiment_dir
        log.info(
            "%s: %d labels received, %d galaxies trained on, test loss %.3f, %d galaxies asked about", path.name,
            summary["labels_received"], summary["train_galaxies"], summary["test_loss"], summary["requested"],
        )  # fmt: skip
        dashboard.log_iterations(settings, [*before, path])
    return path


def _iterations(settings: Settings) -> list[Path]:
    """The finished iterations in order, each as it was written."""
    before = folders.list_numbered(settings.experiment_dir, "iteration")
    for earlier in before:
        folders.require(earlier, "iterate", settings.verify_inputs)
        summary = folders.read_json(earlier / "iteration.json")
        folders.require_version(earlier / "iteration.json", summary, "format_version", (FORMAT_VERSION,))
        folders.remove_unfinished(earlier)
    return before


def _bytes_needed(settings: Settings, instructions_dir: Path, before: Sequence[Path]) -> int:
    """About what an iteration writes: as much as the one before; the database and the labelled galaxies twice, since
    what was received is kept until the end; the state of training; and the features of the shards that are predicted.
    """
    last = before[-1] if before else instructions_dir
    sizes = {name: entry["bytes"] for name, entry in folders.read_manifest(last)["files"].items()}
    one_picture = settings.shards.image_size_px**2 * settings.shards.channels
    galaxies = settings.iterate.shards_per_iteration * settings.shards.shard_size
    features = galaxies * 4 * settings.model.hidden * settings.model.ensemble
    asked = settings.iterate.subjects_per_iteration * one_picture
    weights = sum(size for name, size in sizes.items() if name.endswith(".weights.h5"))
    return int(sum(sizes.values()) + 2 * sizes["iteration.db"] + 2 * asked + features + 8 * weights)


def _input_dirs(instructions_dir: Path, instructions: dict[str, Any], check: str) -> tuple[Path, Path]:
    """The shards and catalogs that the instructions were written for, or an error if others lie there now; an encoder
    is checked too.
    """
    found = []
    for name, stage in (("shards", "shards"), ("catalogs", "catalogs"), ("encoder", "pretrain")):
        if name not in instructions:
            continue
        path = (instructions_dir / instructions[name]["path"]).resolve()
        if not path.is_file():
            folders.require(path, stage, check)
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


def _work(it: Iteration, instructions_dir: Path) -> dict[str, Any]:
    disk.empty(it.folder)  # of what a run that was stopped had made of its steps
    oracle = exchange.build_oracle(it)
    with it.timed("receive"):
        received = exchange.receive(it, oracle, instructions_dir)
    with it.timed("train"):
        log.info("iteration_%d: learning from %d galaxies", it.number, it.count_train())
        history = learning.learn(it)
        predictor = learning.load(it, it.folder / "model")
    with it.timed("evaluate"):
        measured = _evaluate(it, predictor)
        worse_by = _worse_by(it, measured)
        if worse_by and it.settings.iterate.keep_better:
            predictor, measured = _keep_previous(it)
        folders.write_json(it.folder / "metrics.json", measured)
    with it.timed("predict"):
        random = stream(it.settings.seed, "control", it.number)
        control = pool.draw_control(it.before, it.db, it.settings.oracle.control_per_iteration, random)
        still_waiting = pool.waiting(it.before, it.db)[CHOSEN]
        closed = {*still_waiting, *pool.asked(it.before, CONTROL), *control}
        shards = _next_shards(it, closed)
        predictions = _predict(it, predictor, shards, closed)
    with it.timed("request"):
        chosen = predictions[predictions["picked"]].sort_values("rank")
        exchange.request(it, oracle, {CHOSEN: list(chosen["id_str"]), CONTROL: control})
        _write_pictures(it, chosen)
    summary = {
        "format_version": FORMAT_VERSION,
        "number": it.number,
        "previous": it.before[-1].name if it.before else None,
        "train_files": list(it.train_files()),
        "train_galaxies": it.count_train(),
        **received,
        "still_waiting": len(still_waiting),
        "predicted_shards": shards,
        "predicted_galaxies": len(predictions),
        "requested": len(chosen),
        "epochs": history["epochs"],
        "weights_sha256": folders.read_json(it.folder / "model" / "training.json")["weights_sha256"],
        "worse_than_previous_by": worse_by,
        "kept_previous_model": bool(worse_by) and it.settings.iterate.keep_better,
        "temperature": it.temperature,
        "test_loss": measured["test"]["all"]["loss"],
        "requested_control": len(control),
        "timings_s": it.timings_s,
    }
    eval_loss = measured["eval"]["all"]["loss"]
    assert isinstance(eval_loss, float)
    summary |= stopping.costs(it.before, summary, eval_loss, it.settings.stop)
    folders.write_json(it.folder / "iteration.json", summary)
    return summary


# --------------------------------------------------------------- evaluate and predict


def _sample(it: Iteration, predictor: Predictor, features_N_H: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Posterior samples N × K × A at the iteration's temperature: the same K models for every shard."""
    random = stream(it.settings.seed, "posterior samples", it.number)
    samples = predictor.sample(features_N_H, it.settings.model.n_samples, random)
    tempered = temperature.temper(it.settings.model.likelihood, samples, it.task.groups, it.temperature)
    return tempered.astype(np.float32)


def _evaluate(it: Iteration, predictor: Predictor) -> dict[str, dict[str, metrics.Values]]:
    """The metrics on eval, test and control, after setting the temperature on eval if the settings say so."""
    likelihood, groups = it.settings.model.likelihood, it.task.groups
    files = {split: it.split_files(split) for split in ("eval", "test")}
    files[CONTROL] = [path for _, path in it.labelled_files(CONTROL)]
    it.temperature = 1.0
    if it.settings.model.recalibrate:
        of_eval = _sample_labelled(it, predictor, files["eval"])
        it.temperature = temperature.fit_temperature(likelihood, *of_eval, groups)
    labelled = {name: _sample_labelled(it, predictor, paths) for name, paths in files.items() if paths}
    ids = [id_str for path in files["test"] for id_str in tfrecords.read_ids(path)]
    test_losses = metrics.losses(likelihood, *labelled["test"], groups)
    pq.write_table(pa.table({"id_str": ids, "loss": test_losses}), it.folder / "test.parquet")
    return {name: metrics.evaluate(*sampled, groups, likelihood) for name, sampled in labelled.items()}


def _sample_labelled(
    it: Iteration, predictor: Predictor, files: Sequence[Path]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The posterior samples N × K × A and the vote counts N × A of the labelled galaxies in these files."""
    counts = [it.task.counts(tfrecords.read_votes(path, it.task.stored_columns)) for path in files]
    features_N_H = np.concatenate([predictor.features(path) for path in files])
    return _sample(it, predictor, features_N_H), np.concatenate(counts)


def _worse_by(it: Iteration, measured: Mapping[str, Any]) -> float | None:
    """How much the eval loss exceeds that of the iteration before, if by more than ``iterate.gate_margin``."""
    if not it.before or not it.settings.iterate.gate_margin:
        return None
    previous = folders.read_json(it.before[-1] / "metrics.json")["eval"]["all"]["loss"]
    difference = float(measured["eval"]["all"]["loss"] - previous)
    if difference <= it.settings.iterate.gate_margin:
        return None
    log.warning("the new model is worse than that of %s: its eval loss is %.3f higher", it.before[-1].name, difference)
    return difference


def _keep_previous(it: Iteration) -> tuple[Predictor, dict[str, dict[str, metrics.Values]]]:
    """Go on with the model of the iteration before, and measure it with today's control sample."""
    log.warning("iterate.keep_better: the model of %s goes on", it.before[-1].name)
    shutil.rmtree(it.folder / "model")
    shutil.copytree(it.before[-1] / "model", it.folder / "model", copy_function=shutil.copyfile)
    (it.folder / "model").chmod(0o755)
    predictor = learning.load(it, it.folder / "model")
    return predictor, _evaluate(it, predictor)


def _next_shards(it: Iteration, asked: set[str]) -> list[str]:
    """This iteration's pool shards: the next in turn that still hold a galaxy to ask about."""
    pool: list[str] = it.shard_config["splits"]["pool"]
    wanted = min(it.settings.iterate.shards_per_iteration, len(pool))
    start = it.number * wanted
    with database.connect(it.db) as connection:
        ids = database.ids_in_split(connection, "pool") - database.labelled_ids(connection) - asked
        open_shards = database.shards_of(connection, sorted(ids))
    in_turn = [pool[(start + i) % len(pool)] for i in range(len(pool))]
    return [shard for shard in in_turn if shard in open_shards][:wanted]


def _predict(it: Iteration, predictor: Predictor, shards: Sequence[str], asked: set[str]) -> pd.DataFrame:
    """Score every galaxy of the shards that may be asked about, and write predictions.parquet: id_str, shard,
    posterior samples per answer, acquisition, rank, at_random. Those to ask about are marked as ``picked``.
    """
    with database.connect(it.db) as connection:
        closed = database.labelled_ids(connection) | asked
    ids: list[str] = []
    names: list[str] = []
    features = []
    for shard in track(shards, "predicting shards", len(shards)):
        shard_ids = np.array(tfrecords.read_ids(it.shard_dir / shard))
        open_N = np.array([id_str not in closed for id_str in shard_ids])
        features.append(predictor.features(it.shard_dir / shard)[open_N])
        ids += shard_ids[open_N].tolist()
        names += [shard] * int(open_N.sum())
    features_N_H = np.concatenate(features) if features else _no_features(it, predictor)
    samples_N_K_A = _sample(it, predictor, features_N_H)
    choice = _choose(it, predictor, ids, features_N_H, samples_N_K_A)
    columns = {
        answer: pa.FixedSizeListArray.from_arrays(pa.array(samples_N_K_A[:, :, a].ravel()), samples_N_K_A.shape[1])
        for a, answer in enumerate(it.task.answers)
    }
    result = {"acquisition": choice.scores_N, "rank": choice.rank_N, "at_random": choice.at_random_N}
    table = pa.table({"id_str": ids, "shard": names, **columns, **result})
    with (it.folder / "predictions.parquet").open("wb") as file:
        pq.write_table(table, file)
    return pd.DataFrame({"id_str": ids, "shard": names, **result, "picked": choice.rank_N < len(choice.picks)})


def _no_features(it: Iteration, predictor: Predictor) -> npt.NDArray[np.float32]:
    """Of no galaxy: the pool is used up."""
    return predictor.features(it.split_files("test")[0])[:0]


def _choose(
    it: Iteration,
    predictor: Predictor,
    ids: Sequence[str],
    features_N_H: npt.NDArray[np.float32],
    samples_N_K_A: npt.NDArray[np.float32],
) -> acquisition.Choice:
    chosen = it.settings.acquisition
    labelled = []
    if acquisition.strategy(chosen.name).needs_labelled_features:
        labelled = [predictor.features(path) for path in it.train_files().values()]
    candidates = acquisition.Candidates(
        ids, samples_N_K_A, it.task.groups, chosen.expected_votes, features_N_H,
        np.concatenate([features_N_H[:0], *labelled]), it.settings.model.likelihood,
        predictor.member_K, chosen.coldness,
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


def _write_pictures(it: Iteration, chosen: pd.DataFrame) -> None:
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
