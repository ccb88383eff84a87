"""All oracles, by their name in ``oracle.kind``.

To add an oracle, put a function that builds it into ``ORACLES``; docs/extending.md shows how.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from zoobot.errors import InputError, SettingsError
from zoobot.galaxies import cells, picture_paths
from zoobot.galaxies.ids import zooniverse_id
from zoobot.galaxies.questions import QuestionTree
from zoobot.galaxies.tables import read_table, read_votes
from zoobot.oracles import addresses
from zoobot.oracles.protocol import LiveOracle, Oracle
from zoobot.oracles.simulated import KnownVotes, SimulatedVolunteers
from zoobot.settings import Settings

# (settings, questions, the catalogs, a hidden folder that outlives a crash) → the oracle
Build = Callable[[Settings, QuestionTree, Path, Path], Oracle]


def _simulated(settings: Settings, questions: QuestionTree, catalogs: Path, unfinished: Path) -> Oracle:
    hidden = read_votes(catalogs / "oracle.csv")
    return SimulatedVolunteers(hidden, questions, settings.oracle, settings.seed)


def _known(settings: Settings, questions: QuestionTree, catalogs: Path, unfinished: Path) -> Oracle:
    return KnownVotes(read_votes(catalogs / "oracle.csv"))


def _panoptes(settings: Settings, questions: QuestionTree, catalogs: Path, unfinished: Path) -> Oracle:
    from zoobot.oracles.zooniverse import LiveProject  # late: it needs panoptes_client

    return LiveProject(settings, catalogs / "unlabelled.csv", questions, unfinished)


ORACLES: dict[str, Build] = {"simulated": _simulated, "known": _known, "panoptes": _panoptes}


def build_oracle(settings: Settings, questions: QuestionTree, catalogs: Path, unfinished: Path) -> Oracle:
    """The oracle that the settings name. Raises SettingsError if no oracle has this name, or it cannot do what they ask
    for.
    """
    if settings.oracle.kind not in ORACLES:
        raise SettingsError(f"oracle.kind={settings.oracle.kind}: choose one of {', '.join(ORACLES)}")
    oracle = ORACLES[settings.oracle.kind](settings, questions, catalogs, unfinished)
    if wanted := [key for key in _only_live(settings) if not isinstance(oracle, LiveOracle)]:
        raise SettingsError(f"oracle.{wanted[0]}: oracle.kind={settings.oracle.kind} cannot do it; leave it out")
    return oracle


def require_pictures(settings: Settings) -> None:
    """InputError: volunteers are to see galaxies of the pool that have features and no picture."""
    if settings.oracle.kind != "panoptes" or not settings.survey.features:
        return  # shards of pictures are made from pictures that exist
    pool = read_table(settings.catalog("unlabelled"))
    sizes = picture_paths.sizes(pool["file_loc"], settings)
    there = [n_bytes >= 0 and not empty for n_bytes, empty in zip(sizes, cells.no_text(pool["file_loc"]), strict=True)]
    if not all(there):
        first = pool["id_str"].iloc[there.index(False)]
        raise InputError(
            f"{settings.catalog('unlabelled')}: {there.count(False)} of {len(there)} galaxies have no picture in"
            f" {settings.pictures_place}, for example {first}. Volunteers need one: give file_loc in the survey's"
            " table, or survey.file_loc, and put the pictures there. The model still reads survey.features alone."
        )


def _only_live(settings: Settings) -> list[str]:
    """The settings that are on and that only an oracle of real people can follow."""
    oracle = settings.oracle
    given = {
        "priority": oracle.priority,
        "write_predictions": oracle.write_predictions,
        "retire_confident": oracle.retire_confident < 1,
    }
    return [key for key, on in given.items() if on]


def problems(settings: Settings) -> list[str]:
    """What is wrong with a run's oracle, each problem with its full key."""
    oracle = settings.oracle
    found = _panoptes_problems(settings) if oracle.kind == "panoptes" else []
    if oracle.live and settings.stage == "simulate":
        found.append(f"oracle={oracle.kind}: volunteers need days; run stage=instructions, then stage=iterate daily")
    if oracle.live and settings.stage in ("shards", "instructions", "iterate") and settings.shards.source != "real":
        found.append(f"shards.source={settings.shards.source}: live work needs shards.source=real")
    if not oracle.live:
        found += [f"oracle.{key}: only real people need it; leave it out, or choose oracle=panoptes"
                  for key in _only_live(settings)]  # fmt: skip
    return found


def _panoptes_problems(settings: Settings) -> list[str]:
    oracle = settings.oracle
    found = [
        f"oracle.{key}: oracle=panoptes needs {what}"
        for key, what, given in (
            ("project_id", "the number of the Zooniverse project", _are_ids([oracle.project_id])),
            ("workflow_ids", "the numbers of its workflows, e.g. [6122]", _are_ids(oracle.workflow_ids)),
        )
        if not given
    ]
    problem = addresses.endpoint_problem(oracle.endpoint)
    if problem:
        found.append(f"oracle.endpoint={oracle.endpoint}: {problem}; credentials are sent there")
    if not oracle.live:
        found.append("oracle.live=false: oracle.kind=panoptes asks real people; choose it with oracle=panoptes")
    return found


def _are_ids(ids: list[str]) -> bool:
    return bool(ids) and all(id_ and zooniverse_id(id_) == id_ for id_ in ids)
