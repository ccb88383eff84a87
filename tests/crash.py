"""Every operation of a stage, failed in every way: is all old or new, and does the next run end as one never stopped?

    python -m tests.crash iterate            # all points × faults of one iteration, with a stub for the network
    python -m tests.crash shards --every 20  # every 20th of building shards
    python -m tests.crash kills --kills 100  # kill -9 at random moments of three iterations, with the real network

It runs in a process of its own, since each case is a forked child, and TensorFlow must not have been used before a
fork. It prints a line per kind of fault, and ends with status 1 and the first cases that went wrong.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from tests.faults import KILLED, KINDS, Faults
from tests.stub_network import World, install_stubs
from zoobot import folders, stages
from zoobot.errors import FolderError
from zoobot.folders import disk, provenance
from zoobot.galaxies import tfrecords
from zoobot.iterations.files import ExperimentFolder
from zoobot.settings import Settings, compose
from zoobot.stages import catalogs, instructions, iterate, master_catalog, shards

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = (
    "stage=simulate", "quick=true", "survey.n_galaxies=60", "survey.draw_size_px=16", "catalogs.mock_labelled=24",
    "shards.image_size_px=16", "model.final_size_px=16", "shards.eval_size=8", "shards.test_size=8",
    "shards.shard_size=12", "iterate.subjects_per_iteration=4", "iterate.shards_per_iteration=2",
    "oracle.control_per_iteration=2", "oracle.late_fraction=0.3", "model.n_samples=4", "experiment_name=crash",
)  # fmt: skip
Tree = dict[str, bytes | None]
Result = tuple[str, Counter[tuple[str, str]], list[str]]


# --------------------------------------------------------------- children


def in_child(work: Callable[[], Any], output: Path, kill_after_s: float | None = None) -> int:
    """Run ``work`` in a forked process; its exit status."""
    process = start_child(work, output)
    if kill_after_s is not None:
        end = time.monotonic() + kill_after_s
        while time.monotonic() < end and not os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            time.sleep(0.01)
        os.kill(process, signal.SIGKILL)  # it is a child of ours, not waited for: its number is still its own
    return status_of(process)


def status_of(process: int) -> int:
    """Wait for a child; minus the signal if one ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def start_child(work: Callable[[], Any], output: Path) -> int:
    """Fork a process that does ``work``. The message of an error goes into the file ``output``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: those of numpy do nothing now
        process = os.fork()
    if process == 0:
        status = 1
        try:
            work()
            status = 0
        except FolderError as error:
            output.write_text(str(error))
            status = 2
        except BaseException:
            output.write_text(traceback.format_exc())
        finally:
            os._exit(status)
    return process


@dataclass
class Scenario:
    """A stage to break: the folder it works in, what to run, and the folder that it publishes."""

    settings: Settings
    root: Path
    run: Callable[[Settings], Path]
    published: Path

    @property
    def output(self) -> Path:
        return Path(self.settings.data_dir) / "output.txt"

    @property
    def world(self) -> World:
        return World(Path(self.settings.data_dir) / "world.jsonl")

    def execute(self, at: int = 0, kind: str = "kill", count: bool = False) -> int:
        """Run the stage in a child, with a fault if ``at`` names an operation; ``count`` writes a list of all."""

        def work() -> None:
            world = self.world
            install_stubs(world)
            faults = Faults(self.root, at, kind)
            if at or count:
                world.faults = faults
                faults.install()
            self.run(self.settings)
            if count:
                self.output.write_text("\n".join(faults.log))

        self.output.unlink(missing_ok=True)
        return in_child(work, self.output)


def compose_settings(data_dir: Path, *overrides: str) -> Settings:
    """The settings of a run as small as can be."""
    compose.register()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return stages.check_settings(
            compose.from_config(hydra_compose("config", [*SETTINGS, *overrides, f"data_dir={data_dir}"]))
        )


def prepare(name: str, data_dir: Path) -> Scenario:
    """All that comes before the stage, made for real."""
    s = compose_settings(data_dir)
    stages = {
        "shards": (shards.run, s.shard_dir.parent, s.shard_dir, (master_catalog, catalogs)),
        "iterate": (iterate.run, s.experiment_dir, s.experiment_dir / "iteration_1",
                    (master_catalog, catalogs, shards, instructions, iterate)),
    }  # fmt: skip
    run, root, published, before = stages[name]
    scenario = Scenario(s, root, run, published)

    def work() -> None:
        install_stubs(scenario.world)
        for stage in before:
            stage.run(s)

    if in_child(work, scenario.output):
        raise AssertionError(scenario.output.read_text())
    root.mkdir(exist_ok=True)
    return scenario


def snapshot(root: Path) -> Tree:
    """Every file below ``root`` but hidden ones, without what differs between two equal runs; folders are None."""
    found: Tree = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if any(part.startswith(".") or part == "tracking" for part in name.split("/")):
            continue
        found[name] = None if path.is_dir() else path.read_bytes()
        if path.name == "iteration.json":
            found[name] = json.dumps(json.loads(path.read_bytes()) | {"timings_s": {}}).encode()
        elif path.name == folders.MANIFEST:
            content = json.loads(path.read_bytes())
            varying: dict[str, Any] = {key: {} for key in content["varying"]}
            found[name] = json.dumps(content | {"run": {}, "seal": "", "files": content["files"] | varying}).encode()
    return found


# --------------------------------------------------------------- cases


class Wrong(Exception):
    """A promise was broken."""


def check(scenario: Scenario, at: int, kind: str, reference: Tree, calls: list[tuple[str, Any]]) -> str:
    """One case: the fault, the state it leaves, the resumed run, its result. Returns how the fault ended."""
    status = scenario.execute(at, kind)
    output = scenario.output.read_text() if scenario.output.exists() else ""
    if status not in {"kill": (KILLED,), "ENOSPC": (0, 2), "EIO": (0, 2)}.get(kind, (KILLED,)):
        raise Wrong(f"ended with status {status}: {output}")
    if status == 2 and not ("No space left" in output or "Input/output error" in output):
        raise Wrong(f"no clear error: {output}")
    is_new = scenario.published.exists()
    for name, content in snapshot(scenario.root).items():
        if name not in reference or reference[name] != content:
            raise Wrong(f"neither the old nor the new state: {name}")
    check_sound(scenario)
    if not is_new and scenario.execute():
        raise Wrong(f"the resumed run ended with an error: {scenario.output.read_text()}")
    now = snapshot(scenario.root)
    if now != reference:
        differing = sorted(name for name in {*reference, *now} if reference.get(name, 0) != now.get(name, 0))
        raise Wrong(f"the resumed run ended differently: {differing}")
    check_sound(scenario)
    left = [p.name for p in scenario.root.glob(".*") if not p.name.endswith(".lock")]
    if left and not is_new:
        raise Wrong(f"left over: {left}")
    check_calls(scenario.world.done(), calls, is_new)
    return "new" if is_new else f"status {status}"


def check_sound(scenario: Scenario) -> None:
    for manifest in scenario.root.glob(f"[!.]*/{folders.MANIFEST}"):
        if problems := folders.verify(manifest.parent):
            raise Wrong(f"verify: {problems}")
        if any(path.stat().st_mode & 0o222 for path in (manifest.parent, *manifest.parent.rglob("*"))):
            raise Wrong(f"{manifest.parent.name} can be written")


def check_calls(done: list[tuple[str, Any]], calls: list[tuple[str, Any]], is_new: bool) -> None:
    """No request is lost or doubled: each has its name once, however often it was made; little is done twice."""
    for what in ("request", "tracked"):
        made, wanted = ({json.dumps(c) for w, c in calls_ if w == what} for calls_ in (done, calls))
        if made != wanted and not (is_new and what == "tracked"):  # the next iteration logs it
            raise Wrong(f"{what}: {sorted(made)}, should be {sorted(wanted)}")
    for what in ("epoch", "encoded", "received", "shard"):
        repeated = Counter(w for w, _ in done)[what] - Counter(w for w, _ in calls)[what]
        if repeated not in (0, 1):
            raise Wrong(f"{what}: {repeated} more than in a run that was not stopped")


def reset(scenario: Scenario, template: Path) -> None:
    """The folder and the outside as they were before the stage."""
    disk.remove(scenario.root)
    shutil.copytree(template, scenario.root)
    scenario.world.path.unlink(missing_ok=True)


def load_records(scenario: Scenario) -> None:
    """Read each kind of record once, so that the children find its reader loaded."""
    folders.read_manifest(scenario.settings.catalog_dir)
    experiment = ExperimentFolder(scenario.settings.experiment_dir)
    if experiment.path.exists():
        tfrecords.load_config(scenario.settings.shard_dir)
        experiment.instructions.read()
        experiment.iteration(0).summary()
        experiment.iteration(0).requests()


def explore(name: str, every: int, kinds: Sequence[str], job: int = 0, jobs: int = 1) -> Result:
    """Try this job's share of every ``every``-th case, in an order of chance. Returns how the cases ended, and what
    went wrong.
    """
    logging.disable()
    provenance.provenance()  # asks git once, in the parent
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        scenario, template = prepare(name, Path(folder) / "data"), Path(folder) / "template"
        shutil.copytree(scenario.root, template)
        reset(scenario, template)
        load_records(scenario)
        if scenario.execute(count=True):
            raise AssertionError(scenario.output.read_text())
        points = scenario.output.read_text().splitlines()
        reference, calls = snapshot(scenario.root), scenario.world.done()
        cases = [(at, kind) for at in range(1, len(points) + 1) for kind in kinds]
        random.Random(0).shuffle(cases)
        ended, wrong = Counter[tuple[str, str]](), []
        for at, kind in cases[::every][job::jobs]:
            reset(scenario, template)
            try:
                ended[kind, check(scenario, at, kind, reference, calls)] += 1
            except Wrong as error:
                ended[kind, "WRONG"] += 1
                wrong.append(f"{kind} at {at} ({points[at - 1]}): {error}")
        disk.make_writable(Path(folder))
    counts = ", ".join(f"{count} {what}" for what, count in Counter(p.split()[0] for p in points).most_common())
    return f"{name}: {len(points)} points ({counts}) × {len(kinds)} faults", ended, wrong


# --------------------------------------------------------------- kill -9 at random moments


def kill_at_random(n_kills: int, seed: int = 0) -> list[str]:
    """Three iterations with TensorFlow, killed from outside again and again, until they are done; then the same anew.
    Returns in what they differ from three that nobody stopped.
    """
    chance = random.Random(seed)
    provenance.provenance()  # asks git once, in the parent: a commit meanwhile is no matter
    with tempfile.TemporaryDirectory() as folder:
        s = compose_settings(Path(folder) / "data", "model.max_epochs=4", "tracking=disabled")
        root, template, output = s.experiment_dir, Path(folder) / "template", Path(folder) / "output.txt"

        def stages(*runs: Callable[[Settings], Path]) -> None:
            for run in runs:
                run(s)

        def rest() -> None:
            for _ in range(3 - len(folders.list_numbered(root, "iteration"))):
                iterate.run(s)

        before = (master_catalog.run, catalogs.run, shards.run, instructions.run)
        if in_child(lambda: stages(*before), output):
            raise AssertionError(output.read_text())
        shutil.copytree(root, template)
        start = time.perf_counter()
        if in_child(rest, output):
            raise AssertionError(output.read_text())
        unstopped_s, reference, wrong = time.perf_counter() - start, snapshot(root), list[str]()
        kills = rounds = 0
        while kills < n_kills:
            disk.remove(root)
            shutil.copytree(template, root)
            while (status := in_child(rest, output, kill_after_s=chance.uniform(0, unstopped_s))) == -signal.SIGKILL:
                kills += 1
            rounds += 1
            now = snapshot(root)
            differing = sorted(name for name in {*reference, *now} if reference.get(name, 0) != now.get(name, 0))
            if status or differing:
                wrong.append(f"round {rounds}: status {status} {output.read_text() if status else ''} {differing}")
        print(f"{kills} kills in {rounds} rounds of three iterations, {unstopped_s:.0f} s each when nobody stops them")
        disk.make_writable(Path(folder))
    return wrong


def main() -> int:
    """Print how all cases ended; status 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", choices=("iterate", "shards", "kills"))
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--every", type=int, default=1, help="try only each n-th case")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args()
    if chosen.scenario == "kills":
        wrong = kill_at_random(chosen.kills)
        print(*wrong, sep="\n")
        return 1 if wrong else 0
    start = time.perf_counter()
    if chosen.jobs == 1:  # no second import of TensorFlow
        return summarise([explore(chosen.scenario, chosen.every, chosen.kinds)], start)
    with ProcessPoolExecutor(chosen.jobs, get_context("spawn")) as pool:
        jobs = [pool.submit(explore, chosen.scenario, chosen.every, chosen.kinds, job, chosen.jobs)
                for job in range(chosen.jobs)]  # fmt: skip
        return summarise([job.result() for job in jobs], start)


def summarise(results: list[Result], start: float) -> int:
    """Print how all jobs' cases ended; the exit status."""
    ended = sum((one for _, one, _ in results), Counter[tuple[str, str]]())
    wrong = [problem for _, _, problems in results for problem in problems]
    print(results[0][0])
    for (kind, how), count in sorted(ended.items()):
        print(f"  {kind:10} {how:10} {count:5}")
    print(*wrong[:10], sep="\n")
    print(f"{ended.total()} cases, {len(wrong)} wrong, {time.perf_counter() - start:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
