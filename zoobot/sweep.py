"""The simulations of a sweep, each in its own process. A finished simulation is not repeated.

``python run.py -m …`` runs all combinations of its overrides. All of them are checked before the first begins. After an
interruption, the same command continues. ``python -m zoobot.sweep`` with the words for run.py runs nothing: it prints
what they would make, for whoever runs them elsewhere.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from zoobot.engine import map as engine
from zoobot.engine import process
from zoobot.errors import SettingsError, ZoobotError
from zoobot.folders import publish_file, read_json, to_text
from zoobot.settings import EngineSettings, Settings, command_line, compose, flatten, paths, stage_settings

log = logging.getLogger("zoobot")
_COUNT = "ZOOBOT_SWEEP_JOBS"  # passes the number to processes that a launcher starts
_OUTCOME = "outcome.json"  # in the folder of a job's logs: how it ended
_started: list[tuple[Path, list[str]]] = []  # by this process: the folder of the sweep's logs, and its jobs
_kept: list[process.Kept] = []  # at most one
SHOWN_JOBS = 5


class Refused(SystemExit):
    """A sweep that cannot start. Not an Exception, because Hydra turns those of a callback into warnings."""


class PrepareJobs(Callback):
    """Checks all jobs of a sweep, and passes to each, wherever it runs: how many there are, the name of the sweep, and
    the folder of the logs.
    """

    def on_multirun_start(self, config: DictConfig, **more: Any) -> None:
        """Refuse the sweep, or add both to the overrides of every job."""
        logs = Path(config.hydra.sweep.dir).absolute()
        jobs = _jobs(config)
        sweep = "_".join(logs.parts[-2:])  # the day and the time
        with read_write(config):  # as overrides: a launcher's processes may have neither our environment nor our folder
            config.hydra.overrides.hydra += [
                f"+hydra.job.env_set.{_COUNT}='{len(jobs)}'",
                f"+hydra.job.env_set.{process.SWEEP}={QuotedString(sweep, Quote.single).with_quotes()}",
                f"hydra.sweep.dir={QuotedString(str(logs), Quote.single).with_quotes()}",
            ]
        if more.get("config_name"):
            written: Any = OmegaConf.to_container(config)
            refuse_what_cannot_run(jobs, more["config_name"], flatten(written))
        _started.append((logs, list(jobs)))


def _jobs(config: DictConfig) -> dict[str, list[Override]]:
    """The overrides of each job, as Hydra's own sweeper combines them, by the part of them that is swept."""
    swept: Any = OmegaConf.to_container(config.hydra.sweeper.get("params") or DictConfig({}))  # as written: with ${…}
    given: Any = OmegaConf.to_container(config.hydra.overrides.task)
    texts = [f"{key}={value}" for key, value in swept.items()] + given
    parser = OverridesParser.create()
    of_key: dict[str, list[str]] = {}
    for each in parser.parse_overrides(texts):
        key = each.get_key_element()
        values = list(each.sweep_string_iterator()) if each.is_sweep_override() else [each.get_value_element_as_str()]
        of_key[key] = [f"{key}={value}" for value in values]
    jobs: dict[str, list[Override]] = {}
    for job in itertools.product(*of_key.values()):
        name = " ".join(text for text, values in zip(job, of_key.values(), strict=True) if len(values) > 1) or "the job"
        while name in jobs:
            name += " (again)"
        jobs[name] = parser.parse_overrides(list(job))
    return jobs


# --------------------------------------------------------------- checked before the first begins


def refuse_what_cannot_run(
    jobs: Mapping[str, Sequence[Override]], config_name: str, written: Mapping[str, object]
) -> list[Settings]:
    """Compose and check all jobs. Refused: the problems of all of them, and those whose folders would be the same.

    ``written`` are the settings as they are written, with ``${…}``.
    """
    from zoobot import stages  # late: it loads all packages

    bases: dict[tuple[str, ...], DictConfig] = {}
    found: dict[str, list[str]] = {}
    checked: dict[str, Settings] = {}
    for name, job in jobs.items():
        try:
            checked[name] = stages.check_settings(compose.from_config(_compose(job, config_name, bases)))
        except SettingsError as error:
            for problem in str(error).splitlines()[1:] or [str(error)]:
                found.setdefault(problem.strip(), []).append(name)
        except (HydraException, OmegaConfBaseException) as error:
            found.setdefault(f"{error} {error.__cause__ or ''}".splitlines()[0], []).append(name)
    problems = [f"{problem} ({_in_jobs(names, len(jobs))})" for problem, names in found.items()]
    problems += _shared_folders(checked, written)
    if problems:
        raise Refused("\n  ".join([f"The sweep cannot start, {len(problems)} problem(s):", *problems]))
    return list(checked.values())


def outline(arguments: Sequence[str]) -> list[Settings]:
    """The checked settings of all jobs that run.py would run with these arguments. Refused, if run.py would refuse."""
    if problems := command_line.problems(arguments):
        raise Refused("\n  ".join([f"{len(problems)} setting(s) cannot be used:", *problems]))
    compose.register()
    given = get_args_parser().parse_known_args(list(arguments))[0].overrides
    with hydra.initialize_config_dir(str(paths.CONFIGS), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        try:
            config = loader.load_configuration("config", given, RunMode.MULTIRUN, from_shell=False)
        except HydraException as error:
            raise Refused(f"{error} {error.__cause__ or ''}".splitlines()[0]) from error
        written: Any = OmegaConf.to_container(config)
        return refuse_what_cannot_run(_jobs(config), "config", flatten(written))


def _compose(job: Sequence[Override], config_name: str, bases: dict[tuple[str, ...], DictConfig]) -> DictConfig:
    """The config of a job. What Hydra composes slowly, the choices of groups, is composed once for all jobs alike."""
    groups = tuple(o.input_line or "" for o in job if not command_line.is_plain(o))
    if groups not in bases:
        bases[groups] = hydra.compose(config_name, list(groups))
    config = bases[groups].copy()
    for each in job:
        if command_line.is_plain(each):
            OmegaConf.update(config, each.key_or_group, each.value(), merge=True)
    return config


def _in_jobs(names: Sequence[str], total: int) -> str:
    if len(names) == total:
        return "in every job"
    return f"in {len(names)} of {total} jobs: {', '.join(names[:SHOWN_JOBS])}{', …' if len(names) > SHOWN_JOBS else ''}"


def _shared_folders(jobs: Mapping[str, Settings], written: Mapping[str, object]) -> list[str]:
    """Two jobs that would write the same folder with different settings, or the same experiment at all."""
    first: dict[Path, tuple[str, dict[str, object]]] = {}
    problems: dict[tuple[str, ...], str] = {}
    for name, settings in jobs.items():
        for key, path, used in _writes(settings):
            before, there = first.setdefault(path, (name, used))
            differing = [each for each in used if used[each] != there.get(each) and not each.endswith(".name")]
            about = (key, *differing)
            if name == before or about in problems or not (differing or key == "experiment_name"):
                continue
            if not differing:
                problems[about] = f"{before} and {name} are the same experiment, {path}: leave one of them out"
            else:
                problems[about] = (
                    f"{before} and {name} would both write {path}, though {', '.join(differing)} differ(s). Put what is"
                    f" swept into the name: {_named(key, written.get(key), differing)}"
                )
    return list(problems.values())


def _named(key: str, name: object, differing: Sequence[str]) -> str:
    """The setting that gives each job a name of its own, for the command line."""
    return f"'{key}={name}" + "".join(f"_{each.rpartition('.')[2]}${{{each}}}" for each in differing[:3]) + "'"


def _writes(settings: Settings) -> Iterator[tuple[str, Path, dict[str, object]]]:
    """The folders that a job makes, the setting that names each, and what its content depends on."""
    stage = settings.stage
    if stage in ("master_catalog", "simulate"):
        yield "survey.name", settings.survey_dir, stage_settings(settings, "master_catalog")
    if stage in ("catalogs", "simulate"):
        yield "catalogs.name", settings.catalog_dir, stage_settings(settings, "catalogs")
    if stage in ("shards", "simulate"):
        yield "shards.name", settings.shard_dir, stage_settings(settings, "shards")
    if stage == "pretrain" or (stage == "simulate" and settings.model.weights == settings.pretrain.name):
        yield "pretrain.name", settings.encoders_dir / settings.pretrain.name, stage_settings(settings, "pretrain")
    if stage in ("instructions", "iterate", "simulate"):
        yield "experiment_name", settings.experiment_dir, flatten(dataclasses.asdict(settings))


# --------------------------------------------------------------- one job


def run_job(settings: Settings, number: int, folder: str) -> None:
    """Run the stage of job ``number`` (from 0) in another process, in the working ``folder`` of the sweep. With
    ``engine.address``, on a core of the cluster. Where networks are trained, each job has a process of its own; others
    share one, which keeps what it has loaded.

    Raises what the stage raises.
    """
    os.chdir(folder)  # a launcher may start it elsewhere
    count = os.environ.get(_COUNT, "?")
    log.info("%d of %s: %s %s", number + 1, count, settings.survey.name, settings.experiment_name)
    multiprocessing.set_start_method("spawn", force=True)  # joblib's workers use a method of their own
    if not settings.cluster:
        if settings.stage == "simulate" and settings.model.train == "head":
            _kept_process().call(settings, settings.experiment_name)
        else:
            process.call(_run_stage, settings, settings.experiment_name)
        return
    there = dataclasses.replace(settings, engine=EngineSettings(), workers=settings.workers or 1)
    list(engine.in_order(_run_stage, [there], 1, lambda job: job.experiment_name, settings.cluster))


def _kept_process() -> process.Kept:
    """The process that earlier jobs ran in, or a new one if that has ended or has another environment."""
    if not (_kept and _kept[0].serves()):
        while _kept:
            _kept.pop().close()
        _kept.append(process.Kept(_run_stage))
    return _kept[0]


def _run_stage(settings: Settings) -> None:
    from zoobot import stages  # late: it loads all packages

    stages.run(settings)


# --------------------------------------------------------------- how all jobs ended


@contextmanager
def recorded(folder: Path) -> Iterator[None]:
    """Keep how a job ends beside its log, for the process that started the sweep."""
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, ZoobotError) else f"{type(error).__name__}: "
        publish_file(folder / _OUTCOME, to_text({"error": kind + (str(error).splitlines() or [""])[0]}).encode())
        raise
    publish_file(folder / _OUTCOME, to_text({"error": None}).encode())


def summary() -> str | None:
    """How many jobs of the sweep that this process started have finished, and what became of the others."""
    if not _started:
        return None
    logs, jobs = _started.pop()
    failed, stopped = [], []
    for number, name in enumerate(jobs):
        path = logs / str(number) / _OUTCOME
        if not path.is_file():
            stopped.append(f"  {number + 1}: {name}: it did not end")
        elif error := read_json(path)["error"]:
            failed.append(f"  {number + 1}: {name}: {error}")
    text = f"{len(jobs) - len(failed) - len(stopped)} of {len(jobs)} finished"
    text += f", {len(failed)} failed" if failed else ""
    text += f", {len(stopped)} stopped" if stopped else ""
    return "\n".join([text + (":" if failed or stopped else ""), *failed, *stopped])


def _print_outline() -> None:
    """A line for each job: stage, kind of experiment, its iterations at the end (0: unknown), and its folder."""
    for job in outline(sys.argv[1:]):
        iterations = job.simulate.iterations if job.stage == "simulate" else 0
        print(job.stage, "live" if job.oracle.live else "simulations", iterations, job.experiment_dir, sep="\t")


if __name__ == "__main__":
    _print_outline()
