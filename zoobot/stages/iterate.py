"""stage=iterate: one iteration. It receives labels, learns, evaluates, chooses galaxies and asks about them.

``simulate`` and production call the same function.

Reads: the instructions, the shards, the earlier iterations, and votes that have come in.
Writes: experiments/{kind}/{experiment_name}/iteration_{n}/: labels, model, predictions, galaxies asked about.
Needs: stage=instructions with the same settings; for live work credentials (docs/live.md).
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from zoobot import folders
from zoobot.engine.seeds import stream
from zoobot.errors import FolderError
from zoobot.folders import disk
from zoobot.galaxies import tfrecords
from zoobot.galaxies.questions import load_questions
from zoobot.galaxies.tasks import build_task
from zoobot.iterations import learning, stopping
from zoobot.iterations.ask import ask
from zoobot.iterations.choose import choose, write_pictures
from zoobot.iterations.evaluate import evaluate
from zoobot.iterations.files import SUMMARY, InstructionsFolder, IterationFolder, Summary
from zoobot.iterations.iteration import Iteration, finished_iterations, input_dirs, open_experiment
from zoobot.iterations.pool import draw_control
from zoobot.iterations.receive import receive
from zoobot.iterations.retire import retire_confident
from zoobot.models import saved
from zoobot.models.architectures import ARCHITECTURES
from zoobot.oracles.build import build_oracle
from zoobot.reports import dashboard, status
from zoobot.settings import Settings

log = logging.getLogger("zoobot")
NEXT = "iterate"  # the stage to run afterwards


def run(settings: Settings) -> Path:
    """Run the next iteration of the experiment and return its folder."""
    experiment, used = open_experiment(settings)
    instructions = experiment.instructions
    with disk.lock(experiment.path):
        shard_dir, catalog_dir = input_dirs(instructions, settings.verify_inputs)
        before = finished_iterations(experiment, settings.verify_inputs)
        _check_previous(settings, before)
        if why := stopping.reason(before, settings.stop):
            log.info("%s: no further iteration, because %s", experiment.path, why)
            return experiment.path
        target = experiment.iteration(len(before))
        inputs = {"instructions": instructions.path} | ({"previous": before[-1].path} if before else {})
        writing = folders.create(
            target.path, used | {"number": len(before)}, inputs, [SUMMARY], resumes=True,
            needs_bytes=_bytes_needed(settings, instructions, before),
        )  # fmt: skip
        with _trial(target.path) if settings.oracle.dry_run else writing as staging:
            questions = load_questions(settings.survey.questions)
            unfinished = staging.with_name("unfinished") if settings.oracle.dry_run else folders.unfinished(target.path)
            iteration = Iteration(
                len(before), settings, questions, build_task(settings.task, questions), shard_dir,
                tfrecords.load_config(shard_dir), catalog_dir, before, IterationFolder(staging), unfinished,
                on_step=partial(status.step, settings),
            )  # fmt: skip
            summary = _work(iteration, instructions)
        if settings.oracle.dry_run:
            log.info("oracle.dry_run: nothing was sent, and %s was not written", target.name)
            return experiment.path
        _say(target.name, summary, before)
        dashboard.log_iterations(settings, [*before, target])
    return target.path


def _say(name: str, summary: Summary, before: Sequence[IterationFolder]) -> None:
    """One line: the loss, the gain so far, the labels, and what was asked."""
    gain = ""
    if before:
        fell = before[0].summary().test_loss - summary.test_loss
        gain = f" ({abs(fell):.3f} {'lower' if fell >= 0 else 'higher'} than in {before[0].name})"
    log.info(
        "%s: test loss %.3f%s, %d labels (%d new), %d galaxies asked about, %d still wait",
        name, summary.test_loss, gain, summary.train_galaxies, summary.labels_received, summary.requested,
        summary.still_waiting,
    )  # fmt: skip


@contextmanager
def _trial(path: Path) -> Iterator[Path]:
    """A folder for a dry run, beside a copy of what a stopped run left. Both are removed afterwards: the next real run
    starts from the original, and receives what has come in by then.
    """
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.dry_run.", dir=path.parent) as name:
        if folders.unfinished(path).is_dir():
            shutil.copytree(folders.unfinished(path), Path(name) / "unfinished")
        staging = Path(name) / "staging"
        staging.mkdir()
        yield staging


def _bytes_needed(settings: Settings, instructions: InstructionsFolder, before: Sequence[IterationFolder]) -> int:
    """Roughly the size of what an iteration writes: as much as the one before; the database and the labelled galaxies
    twice, because what was received is kept until the end; the checkpoint of training; and the features of the shards
    that are predicted.
    """
    last = before[-1] if before else instructions
    sizes = {name: listed.bytes for name, listed in folders.read_manifest(last.path).files.items()}
    one_picture = settings.shards.image_size_px**2 * settings.shards.channels
    galaxies = settings.iterate.shards_per_iteration * settings.shards.shard_size
    n_features = ARCHITECTURES[settings.model.architecture].n_features(settings.model) * settings.model.ensemble
    asked = settings.iterate.subjects_per_iteration * one_picture
    weights = sum(size for name, size in sizes.items() if name.endswith(".weights.h5"))
    return int(
        sum(sizes.values()) + 2 * sizes[last.database.name] + 2 * asked + galaxies * 4 * n_features + 8 * weights
    )


def _check_previous(settings: Settings, before: Sequence[IterationFolder]) -> None:
    wanted = settings.iterate.previous
    newest = before[-1].name if before else ""
    if wanted and wanted != newest:
        raise FolderError(
            f"iterate.previous={wanted}, but the newest iteration of {settings.experiment_dir} is"
            f" {newest or 'not there'}."
            " Each iteration is made only once. Leave out iterate.previous to continue from the newest."
        )


def _work(it: Iteration, instructions: InstructionsFolder) -> Summary:
    disk.empty(it.folder.path)  # remove what a stopped run had written
    oracle = build_oracle(it.settings, it.questions, it.catalog_dir, it.unfinished)
    with it.timed("receive"):
        received, pool = receive(it, oracle, instructions)
    train_galaxies = it.shard_config.galaxies["train"] + len(pool.labelled)
    with it.timed("train"):
        log.info("iteration_%d: learning from %d galaxies", it.number, train_galaxies)
        training = learning.learn(it)
    with it.timed("evaluate"):
        evaluated = evaluate(it)
    with it.timed("predict"):
        random = stream(it.settings.seed, "control", it.number)
        control = draw_control(pool, it.settings.oracle.control_per_iteration, random)
        chosen = choose(it, evaluated, pool.with_control(control, it.settings.oracle.control_votes))
    with it.timed("request"):
        retired = retire_confident(it, oracle, evaluated, pool)
        ask(it, oracle, chosen.ids, control)
        write_pictures(it, chosen.ids)
    costs = stopping.costs(
        it.before, received.classifications_received, train_galaxies, evaluated.loss("eval"), it.settings.stop
    )
    summary = Summary(
        number=it.number,
        previous=it.before[-1].name if it.before else None,
        train_files=list(it.labelled("train").files),
        train_galaxies=train_galaxies,
        **vars(received),
        still_waiting=len(pool.waiting),
        predicted_shards=chosen.shards,
        predicted_galaxies=chosen.n_predicted,
        requested=len(chosen.ids),
        epochs=training.epochs,
        weights_sha256=saved.read_training(it.folder.model).weights_sha256,
        worse_than_previous_by=evaluated.worse_by,
        kept_previous_model=bool(evaluated.worse_by) and it.settings.iterate.keep_better,
        **vars(evaluated.calibration),
        test_loss=evaluated.loss("test"),
        requested_control=len(control),
        retired_confident=retired,
        timings_s=it.timings_s,
        **vars(costs),
    )
    it.folder.write_summary(summary)
    return summary
