"""stage=simulate: run all stages from the survey to the last iteration, and make only what is missing.

Reads: a survey.
Writes: experiments/simulations/{experiment_name}/: instructions and iterations; before them all that is missing.
Needs: nothing, or a survey of your own.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from zoobot import stages
from zoobot.engine import process
from zoobot.folders import disk
from zoobot.galaxies.questions import load_questions
from zoobot.galaxies.tasks import build_task
from zoobot.iterations import all_labels, stopping
from zoobot.iterations.files import ExperimentFolder
from zoobot.reports import dashboard
from zoobot.settings import Settings
from zoobot.stages import catalogs, instructions, iterate, master_catalog, pretrain, shards

log = logging.getLogger("zoobot")
NEXT = "report"  # the stage to run afterwards


def run(settings: Settings) -> Path:
    """Bring the experiment to ``simulate.iterations`` iterations and return its folder."""
    build_task(settings.task, load_questions(settings.survey.questions))  # check the task before hours of work
    if settings.model.weights != settings.pretrain.name:  # which this simulation makes itself, if it is missing
        instructions.encoder_source(settings)
    disk.make_folder(settings.survey_dir)
    with disk.lock(settings.survey_dir / "stages", wait=True):  # simulations of a sweep may share these folders
        for stage in (master_catalog, catalogs, shards):
            stage.run(settings)
        if settings.model.weights == settings.pretrain.name and not pretrain.is_done(settings):
            process.call(stages.run, replace(settings, stage="pretrain"), "the encoder")
    instructions.run(settings)
    experiment = ExperimentFolder(settings.experiment_dir)
    done = len(experiment.iterations())
    if done >= settings.simulate.iterations:
        log.info("%s already has %d iterations: nothing to do", settings.experiment_dir, done)
        dashboard.log_iterations(settings, experiment.iterations())
    for number in range(done, settings.simulate.iterations):
        if stopping.reason(experiment.iterations(), settings.stop):
            iterate.run(settings)  # logs the reason for stopping
            break
        log.info("%s: iteration %d of %d", settings.experiment_name, number + 1, settings.simulate.iterations)
        if settings.model.train == "head":  # builds no network
            iterate.run(settings)
        else:
            process.call(stages.run, replace(settings, stage="iterate"), f"iteration_{number}")
    if settings.model.train == "head" and settings.acquisition.name == "random":
        all_labels.write(settings)  # which the report compares the others with
    return settings.experiment_dir
