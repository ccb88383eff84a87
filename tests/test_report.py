"""The report: numbers worked out by hand, what is refused, and a page that needs no other files."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from PIL import Image

from tests.records import a_shard_config, a_summary, some_instructions
from zoobot import folders
from zoobot.errors import FolderError, InputError
from zoobot.galaxies import database
from zoobot.galaxies.tfrecords import Dropped
from zoobot.iterations.files import ExperimentFolder, InstructionsFolder, IterationFolder, Request, Requests, Source
from zoobot.metrics import Values
from zoobot.oracles.protocol import Receipt
from zoobot.reports import charts, efficiency, gains, pictures
from zoobot.reports.experiments import group, read_experiments
from zoobot.settings import AcquisitionSettings, ModelSettings, ReportSettings, Settings, TaskSettings
from zoobot.stages import report

QUESTIONS = {
    "smooth-or-featured": {
        "answers": {"smooth": ["Smooth"], "disk": ["Disk"]},
        "after": [],
        "retired": {},
        "task": "T0",
    },
    "bar": {
        "answers": {"yes": ["Yes"], "no": ["No"]},
        "after": ["smooth-or-featured_disk"],
        "retired": {},
        "task": "T1",
    },
}
TREE_ANSWERS = ("smooth-or-featured_smooth", "smooth-or-featured_disk", "bar_yes", "bar_no")
START, STEP = 100, 10  # labelled galaxies at first, and asked about in each iteration
SIZE_PX = 128  # of the pictures kept

Votes = Mapping[str, Mapping[str, int]]


def settings_for(data_dir: Path, *patterns: str, galaxies: int = 4) -> Settings:
    chosen = ReportSettings(list(patterns) or ["*"], output=str(data_dir / "out"), galaxies=galaxies)
    return Settings(stage="report", data_dir=str(data_dir), report=chosen)


def write_source(path: Path, settings: Mapping[str, Any], dropped: Sequence[Mapping[str, str]]) -> Path:
    """Catalogs or shards, as far as the report reads them."""
    if not path.exists():
        with folders.create(path, settings, {}) as staging:
            config = a_shard_config(dropped=[Dropped(**entry) for entry in dropped])
            folders.write_record(staging / "shard_config.json", config)
    return path


def write_experiment(
    data_dir: Path,
    name: str,
    losses: Sequence[float] = (2.0,),
    *,
    acquisition: str = "random",
    expected_votes: int = 40,
    seed: int = 0,
    catalog_seed: int = 0,
    task: str = "smooth",
    model: Mapping[str, Any] | None = None,
    oracle: Mapping[str, Any] | None = None,
    kind: str = "simulations",
    labels: Sequence[int] | None = None,
    ids: Sequence[str] = ("g0", "g1"),
    votes: Sequence[Votes] = (),
    dropped: Sequence[Mapping[str, str]] = (),
    mock_labelled: int = 120,
) -> Path:
    """An experiment whose iteration n has the test loss ``losses[n]`` and received the votes ``votes[n]``."""
    folder, tree = data_dir / "experiments" / kind / name, task == "tree"
    source = f"{task}{catalog_seed}-{mock_labelled}"
    used = {"catalogs.name": source, "catalogs.seed": catalog_seed, "catalogs.mock_labelled": mock_labelled}
    catalogs = write_source(data_dir / "toy" / "prepared_catalogs" / source, used, [])
    shards = write_source(data_dir / "toy" / "shards" / source, {"shards.name": source, "shards.channels": 3}, dropped)
    begun = ExperimentFolder(folder).instructions
    sources = {
        name: Source(os.path.relpath(path, begun.path), folders.digest_of(path))
        for name, path in (("catalogs", catalogs), ("shards", shards))
    }
    instructions = some_instructions(
        experiment=name,
        survey="toy",
        **sources,
        questions=QUESTIONS,
        task=TaskSettings(task, list(QUESTIONS)[: 2 if tree else 1], [] if tree else ["smooth"]),
        model=ModelSettings(**{"name": "cnn", "blocks": [], "hidden": 8, **(model or {})}),
        acquisition=AcquisitionSettings(acquisition, expected_votes),
        oracle=dict(oracle or {}),
        seed=seed,
        catalog_seed=catalog_seed,
    )
    with folders.create(begun.path, {}, {}) as staging:
        InstructionsFolder(staging).write(instructions)
    for n, loss in enumerate(losses):
        with folders.create(folder / f"iteration_{n}", {}, {}) as staging:
            n_labels = labels[n] if labels else START + STEP * n
            write_iteration(staging, n, loss, n_labels, tree, [f"{i}-{n}" for i in ids], votes[: n + 1])
    return folder


def write_iteration(
    folder: Path, n: int, loss: float, labels: int, tree: bool, ids: Sequence[str], votes: Sequence[Votes]
) -> None:
    it = IterationFolder(folder)
    summary = a_summary(
        number=n,
        train_galaxies=labels,
        requested=len(ids),
        still_waiting=n,
        labels_below_threshold=2 * n,
        retired_confident=n,
        waiting={"chosen": {0: {"g0-0": 1}}, "control": {0: {f"c{i}": i for i in range(5)}}} if n else {},
        votes_spent=40 * n,
        volunteer_minutes=20.0 * n,
        timings_s={"receive": 0.5, "train": 10.0 + n, "evaluate": 1.0, "predict": 2.0, "request": 0.5},
        weights_sha256=f"{n:064x}",
    )
    it.write_summary(summary)
    asked: Values = {
        "galaxies": 50,
        "rmse": loss / 10,
        "mae": loss / 20,
        "log_score": -loss,
        "coverage_error": loss / 40,
        "coverage_predicted": [w / 11 for w in range(1, 11)],
        "coverage_observed": [w / 12 for w in range(1, 11)],
        "pit_histogram": [0.1] * 10,
    }
    bar = {"bar": {**asked, "rmse": loss / 8}} if tree else {}
    test: dict[str, Values] = {"smooth-or-featured": asked, **bar, "all": {"loss": loss, "galaxies": 50}}
    it.write_metrics({"eval": test, "test": test})
    it.write_requests(Requests(list(ids), 40, Receipt(), Request([], 5, Receipt())))
    rows = [*reversed(ids), "not asked"]  # the order in the table is that of the shards, not of the ranks
    ranks = [*reversed(range(len(ids))), len(ids)]
    scores = [1 / (2 + rank) for rank in ranks]
    table = {"id_str": rows, "shard": ["pool/pool_00000.tfrecord"] * len(rows), "acquisition": scores, "rank": ranks}
    samples = {answer: [[0.5, 0.5]] * len(rows) for answer in (TREE_ANSWERS if tree else ("label", "not_label"))}
    it.write_predictions([pa.table({**table, **samples})])
    it.picture(0).parent.mkdir()
    for rank in range(len(ids)):
        pixels = np.full((SIZE_PX, SIZE_PX, 3), 20 * rank, dtype=np.uint8)
        Image.fromarray(pixels).save(it.picture(rank))
    database.create(it.database)
    with database.connect(it.database) as connection:
        known = [
            ("start", "s.png", "train", "train/t", 0),
            *((i, "p.png", "pool", "p", 0) for new in votes for i in new),
        ]
        database.add_galaxies(connection, known)
        database.add_labels(connection, {"start": {"label": 1, "total_votes": 2}}, database.INITIAL)
        for number, new in enumerate(votes):
            database.add_labels(connection, new, number)


def write_pairs(data_dir: Path, chosen: Sequence[Sequence[float]], random: Sequence[Sequence[float]]) -> None:
    for acquisition, runs in (("mutual_information", chosen), ("random", random)):
        for seed, losses in enumerate(runs):
            write_experiment(data_dir, f"{acquisition}{seed}", losses, acquisition=acquisition, seed=seed)


def summary_of(data_dir: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "draw", lambda section, key: [])
        path = report.run(settings_for(data_dir))
    summary: dict[str, Any] = json.loads(path.with_name("summary.json").read_text(), parse_constant=pytest.fail)
    return summary


def sections_of(data_dir: Path) -> list[dict[str, Any]]:
    """The sections of summary.json, without drawing the page, which takes time."""
    experiments, _ = read_experiments(settings_for(data_dir))
    return [efficiency.describe(section) for section in group(experiments)]


def text_of(data_dir: Path) -> str:
    """The text of the page without its charts, which take time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "draw", lambda section, key: [])
        return " ".join(_Tags(page_of(data_dir)).text.split())


def page_of(data_dir: Path, **options: Any) -> str:
    return report.run(settings_for(data_dir, **options)).read_text()


class _Tags(HTMLParser):
    """Every element of a page with its attributes, and all of its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


# ------------------------------------------------------------------------------------------------ numbers, by hand


def test_paired_difference_by_hand(tmp_path: Path) -> None:
    # Differences at the end: -0.2, -0.3, -0.1, -0.2: mean -0.2, standard error sqrt(0.02 / 3 / 4) = 0.0408.
    # Student's t is 4.90 with 3 degrees of freedom: p = 0.016.
    write_pairs(
        tmp_path, [(3.0, 1.8), (3.1, 1.6), (3.2, 2.1), (3, 1.8)], [(3.0, 2.0), (3.1, 1.9), (3.2, 2.2), (3, 2.0)]
    )
    (section,) = sections_of(tmp_path)
    (comparison,) = section["comparisons"]
    assert comparison["mean_difference"] == pytest.approx(-0.2)
    assert comparison["standard_error"] == pytest.approx(math.sqrt(0.02 / 3 / 4))
    assert (comparison["lower_in"], comparison["seeds"], comparison["iterations"]) == (4, [0, 1, 2, 3], 2)
    assert comparison["p_value"] == comparison["p_corrected"] == pytest.approx(0.0163, abs=1e-4)
    assert comparison["verdict"] == "better than random"


def test_a_second_function_halves_what_counts_as_significant(tmp_path: Path) -> None:
    """Differences -0.2, -0.3, -0.1, -0.1 have p = 0.035: significant alone, not as one of two that are compared."""
    for seed, apart in enumerate((-0.2, -0.3, -0.1, -0.1)):
        write_experiment(tmp_path, f"r{seed}", (3, 2.0), seed=seed)
        write_experiment(tmp_path, f"m{seed}", (3, 2.0 + apart), seed=seed, acquisition="badge")
    (alone,) = sections_of(tmp_path)[0]["comparisons"]
    assert alone["verdict"] == "better than random" and alone["p_corrected"] == pytest.approx(0.0353, abs=1e-4)
    for seed, apart in enumerate((0.1, -0.1, 0.1, -0.1)):
        write_experiment(tmp_path, f"e{seed}", (3, 2.0 + apart), seed=seed, acquisition="entropy")
    of_two, other = sections_of(tmp_path)[0]["comparisons"]
    assert of_two["p_corrected"] == pytest.approx(2 * alone["p_value"]) and of_two["comparisons"] == 2
    assert of_two["verdict"] == other["verdict"] == "no difference that these seeds can show"
    assert "corrected for 2 comparisons" in text_of(tmp_path)


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([-0.2, -0.3, -0.2], "better than random"),
        ([0.2, 0.3, 0.2], "worse than random"),
        ([-0.2, -0.3, -0.1], "no difference that these seeds can show"),  # t = 3.5 with 2 degrees of freedom
        ([-1.0, 0.0, 1.0, 2.0, 2.0], "no difference that these seeds can show"),
        ([0.0, 0.0, 0.0], "no difference that these seeds can show"),
        ([-9.0, -9.1], "too few seeds to tell"),
        ([-9.0], "too few seeds to tell"),
    ],
)
def test_verdict(differences: list[float], expected: str, tmp_path: Path) -> None:
    write_pairs(tmp_path, [(20.0, 10.0 + apart) for apart in differences], [(20.0, 10.0)] * len(differences))
    (comparison,) = sections_of(tmp_path)[0]["comparisons"]
    assert comparison["verdict"] == expected


def test_the_ceiling_is_no_comparison_and_its_verdict_says_so(tmp_path: Path) -> None:
    for acquisition, end in (("random", 2.0), ("badge", 1.7), ("oracle_batch", 1.0)):
        for seed in range(4):
            write_experiment(tmp_path, f"{acquisition}{seed}", (3, end), seed=seed, acquisition=acquisition)
    badge, ceiling = sections_of(tmp_path)[0]["comparisons"]
    assert badge["comparisons"] == 1 and badge["p_corrected"] == badge["p_value"]
    assert "p_corrected" not in ceiling and "ceiling" in ceiling["verdict"]


@pytest.mark.parametrize(
    ("points", "loss", "expected"),
    [
        ([(100, 3.0), (110, 2.0), (120, 1.0)], 1.5, 115.0),
        ([(100, 3.0), (110, 2.0), (120, 1.0)], 2.75, 102.5),
        ([(100, 3.0), (110, 2.0), (120, 1.0)], 1.0, 120.0),
        ([(100, 3.0), (110, 2.0), (120, 1.0)], 0.9, None),  # never reached
        ([(100, 3.0), (110, 2.0), (120, 1.0)], 3.0, None),  # no better than the start: nothing to save
        ([(100, 1.0), (110, 3.0), (120, 0.5)], 2.0, None),  # worse than the start, although it comes back
        ([(100, 3.0), (110, 1.0), (120, 2.5), (130, 1.5)], 2.0, 105.0),  # the first time counts
        ([(100, 3.0), (100, 1.0)], 2.0, 100.0),  # no vote came in
        ([(100, 3.0)], 2.0, None),
    ],
)
def test_labels_to_reach(points: list[tuple[float, float]], loss: float, expected: float | None) -> None:
    assert gains.labels_to_reach(points, loss) == expected


def test_labels_saved_by_hand(tmp_path: Path) -> None:
    # Mean curves: chosen 3, 2, 1 and random 3, 2.5, 2.2 at 100, 110, 120 labels; chosen is at 2.2 with 108 labels.
    write_pairs(tmp_path, [(2.9, 1.9, 0.9), (3.1, 2.1, 1.1)], [(2.9, 2.4, 2.1), (3.1, 2.6, 2.3)])
    (comparison,) = sections_of(tmp_path)[0]["comparisons"]
    assert comparison["labels_at_equal_loss"] == pytest.approx(108)
    assert comparison["labels_saved"] == pytest.approx(12)
    assert comparison["baseline_new_labels"] == 20
    text = text_of(tmp_path)
    assert "12 fewer" in text
    assert "too few seeds to tell" in text


def test_random_not_reached(tmp_path: Path) -> None:
    write_pairs(tmp_path, [(3.0, 2.9)], [(3.0, 2.0)])
    (comparison,) = sections_of(tmp_path)[0]["comparisons"]
    assert comparison["labels_saved"] is None
    assert comparison["standard_error"] is None  # a single pair has none
    text = text_of(tmp_path)
    assert "did not reach random’s final loss" in text


def test_random_no_better_than_the_start(tmp_path: Path) -> None:
    write_pairs(tmp_path, [(3.0, 2.9)], [(3.0, 3.2)])
    assert "random’s final loss was no lower than the loss at the start" in text_of(tmp_path)


def test_curve_by_hand(tmp_path: Path) -> None:
    write_pairs(tmp_path, [], [(3.0, 2.0), (4.0, 2.5)])
    (section,) = sections_of(tmp_path)
    assert section["comparisons"] == []
    assert section["acquisitions"]["random"]["seeds"] == [0, 1]
    first, second = section["acquisitions"]["random"]["curve"]
    assert (first["iteration"], first["seeds"], first["labels_mean"], first["test_loss_mean"]) == (0, 2, 100, 3.5)
    assert first["test_loss_sd"] == pytest.approx(math.sqrt(0.5))
    assert second["test_loss_mean"] == pytest.approx(2.25)
    assert second["rmse_mean"]["smooth-or-featured"] == pytest.approx(0.225)
    assert second["coverage_error_mean"]["smooth-or-featured"] == pytest.approx(0.225 / 4)
    assert second["seconds_mean"]["train"] == 11


# ------------------------------------------------------------------------------------------------ what is compared


def test_a_seed_that_is_behind_is_left_out(tmp_path: Path) -> None:
    """Two of three pairs have three iterations: these are compared there, and the page names the third."""
    write_pairs(tmp_path, [(3, 2, 1), (3, 2, 1), (3, 2)], [(3, 2, 1.5), (3, 2, 1.25), (3, 2, 1.5)])
    (comparison,) = sections_of(tmp_path)[0]["comparisons"]
    assert (comparison["iterations"], comparison["seeds"], comparison["seeds_unfinished"]) == (3, [0, 1], [2])
    assert comparison["mean_difference"] == pytest.approx(-0.375)


def test_one_seed_ahead_does_not_decide(tmp_path: Path) -> None:
    write_pairs(tmp_path, [(3, 2, 1), (3, 2), (3, 2)], [(3, 2, 9), (3, 2.5), (3, 2.5)])
    (comparison,) = sections_of(tmp_path)[0]["comparisons"]
    assert (comparison["iterations"], comparison["seeds"]) == (2, [0, 1, 2])


def test_first_iteration_says_nothing(tmp_path: Path) -> None:
    write_pairs(tmp_path, [(3.0,)] * 3, [(3.0,)] * 3)
    (comparison,) = sections_of(tmp_path)[0]["comparisons"]
    assert comparison["verdict"] == "too early to tell"
    assert "the choices have had no effect yet" in text_of(tmp_path)


def test_only_equal_seed_and_shards_make_a_pair(tmp_path: Path) -> None:
    write_experiment(tmp_path, "a", (3, 2), acquisition="mutual_information", seed=0)
    write_experiment(tmp_path, "b", (3, 2), acquisition="random", seed=1)
    write_experiment(tmp_path, "c", (3, 2), acquisition="random", seed=0, catalog_seed=1)
    (section,) = sections_of(tmp_path)
    assert section["comparisons"][0]["verdict"] == "no seed in common with random"
    assert section["comparisons"][0]["seeds"] == []


def test_groups(tmp_path: Path) -> None:
    """Seeds go together; another task, network or number of first labels does not."""
    for seed in (0, 1):
        write_experiment(tmp_path, f"r{seed}", seed=seed, catalog_seed=seed)
        write_experiment(tmp_path, f"m{seed}", seed=seed, catalog_seed=seed, acquisition="mutual_information")
    write_experiment(tmp_path, "tree", task="tree")
    write_experiment(tmp_path, "wide", model={"hidden": 64})
    write_experiment(tmp_path, "more", mock_labelled=500)
    sections = sections_of(tmp_path)
    assert sections[0]["acquisitions"].keys() == {"mutual_information", "random"}
    assert [[len(line["seeds"]) for line in s["acquisitions"].values()] for s in sections] == [[2, 2], [1], [1], [1]]
    apart = [(s["task"], s["apart"]) for s in sections]
    assert apart[0] == ("smooth", {"catalogs.mock_labelled": 120, "model.hidden": 8})
    assert ("smooth", {"catalogs.mock_labelled": 120, "model.hidden": 64}) in apart
    assert ("smooth", {"catalogs.mock_labelled": 500, "model.hidden": 8}) in apart
    assert ("tree", {}) in apart


def test_an_experiment_that_is_older_than_a_setting_had_its_default(tmp_path: Path) -> None:
    write_experiment(tmp_path, "older")
    write_experiment(tmp_path, "newer", acquisition="badge", oracle={"retire_confident": 1.0})
    write_experiment(tmp_path, "other", acquisition="badge", seed=1, oracle={"retire_confident": 0.9})
    assert [sorted(section["acquisitions"]) for section in sections_of(tmp_path)] == [["badge", "random"], ["badge"]]


def test_sections_with_an_answer_come_first(tmp_path: Path) -> None:
    write_experiment(tmp_path, "a", acquisition="mutual_information")
    write_experiment(tmp_path, "b", task="tree")
    assert [section["task"] for section in sections_of(tmp_path)] == ["tree", "smooth"]


def test_differences_that_are_drawn(tmp_path: Path) -> None:
    """Below zero is better than random, as the chart's title says."""
    write_pairs(tmp_path, [(3.0, 1.5, 1.0)], [(3.0, 2.0)])
    chosen, random = read_experiments(settings_for(tmp_path))[0]
    assert charts._differences(chosen, random) == [(100, 0.0), (110, -0.5)]


def test_variants_of_one_acquisition_are_lines_of_their_own(tmp_path: Path) -> None:
    write_experiment(tmp_path, "a", acquisition="mutual_information", expected_votes=40)
    write_experiment(tmp_path, "b", acquisition="mutual_information", expected_votes=5)
    write_experiment(tmp_path, "c", acquisition="random", expected_votes=5)
    (section,) = sections_of(tmp_path)
    names = ["mutual_information (expected_votes=40)", "mutual_information (expected_votes=5)", "random"]
    assert list(section["acquisitions"]) == names
    assert [c["seeds"] for c in section["comparisons"]] == [[0], [0]]


def test_repeats_are_not_counted_twice(tmp_path: Path) -> None:
    write_experiment(tmp_path, "first", (3, 2))
    write_experiment(tmp_path, "again", (3,))
    (section,) = sections_of(tmp_path)
    assert section["acquisitions"]["random"]["seeds"] == [0]
    text = text_of(tmp_path)
    assert "seed and shards of another experiment: simulations/again." in text


# ------------------------------------------------------------------------------------------------ what is found


def test_patterns(tmp_path: Path) -> None:
    for name in ("sweep_0", "sweep_1", "other"):
        write_experiment(tmp_path, name)
    write_experiment(tmp_path, "real", kind="live")

    def found(*patterns: str) -> set[str]:
        return {e.name for e in read_experiments(settings_for(tmp_path, *patterns))[0]}

    assert found("sweep_*") == {"simulations/sweep_0", "simulations/sweep_1"}
    assert found("real", "other") == {"live/real", "simulations/other"}
    assert found("live/*") == {"live/real"}
    assert len(found()) == 4


def test_a_pattern_without_a_match_is_refused(tmp_path: Path) -> None:
    write_experiment(tmp_path, "sweep_0")
    with pytest.raises(InputError, match=r"no experiment in .* matches swoop_\*\. Available: sweep_0"):
        report.run(settings_for(tmp_path, "sweep_*", "swoop_*"))


def test_nothing_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing yet"):
        report.run(settings_for(tmp_path))


def test_unfinished_experiments_are_listed(tmp_path: Path) -> None:
    write_experiment(tmp_path, "done", (3, 2))
    write_experiment(tmp_path, "new", ())
    halfway = write_experiment(tmp_path, "halfway", (3,))
    (halfway / "iteration_1").mkdir()  # it has no manifest
    (halfway / ".iteration_1.staging").mkdir()
    summary = summary_of(tmp_path)
    assert {e["path"]: e["iterations"] for e in summary["experiments"]} == {
        "simulations/done": 2,
        "simulations/halfway": 1,
        "simulations/new": 0,
    }
    text = text_of(tmp_path)
    assert "no finished iteration yet" in text


def test_only_unfinished_experiments_are_refused(tmp_path: Path) -> None:
    write_experiment(tmp_path, "new", ())
    with pytest.raises(InputError, match=r"none of simulations/new .* has a finished iteration"):
        report.run(settings_for(tmp_path))


def test_a_damaged_iteration_is_refused(tmp_path: Path) -> None:
    folder = write_experiment(tmp_path, "a", (3, 2)) / "iteration_1"
    folder.chmod(0o755)
    (folder / "metrics.json").unlink()
    with pytest.raises(FolderError, match=r"iteration_1/metrics.json: missing"):
        report.run(settings_for(tmp_path))


def test_another_format_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "experiments" / "simulations" / "future"
    for part in ("instructions", "iteration_0"):
        with folders.create(folder / part, {}, {}) as staging:
            folders.write_json(staging / "instructions.json", {"format_version": 2})
    with pytest.raises(FolderError, match="this program reads 1"):
        report.run(settings_for(tmp_path))


def test_an_experiment_without_its_shards(tmp_path: Path) -> None:
    write_experiment(tmp_path, "a", (3, 2))
    (tmp_path / "toy" / "shards").rename(tmp_path / "elsewhere")
    assert "The shards of these experiments are missing" in text_of(tmp_path)


# ------------------------------------------------------------------------------------------------ the page


def test_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    write_pairs(tmp_path, [(3, 2, 1)] * 2, [(3, 2, 1.5)] * 2)
    write_experiment(tmp_path, "tree", (3, 2), task="tree")
    page = page_of(tmp_path)
    assert "default-src 'none'" in page  # the browser refuses what the page does not hold
    written = without_scripts(page)
    assert "http:" not in written
    assert "https:" not in written
    assert "@import" not in written
    assert not re.search(r"url\((?!#)", written)
    tags = _Tags(page)
    assert not {"link", "iframe", "object", "base"} & {tag for tag, _ in tags.found}
    for tag, attributes in tags.found:
        for name in ("src", "href", "xlink:href", "srcset", "data"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/webp;base64,")), (tag, name, value)


def without_scripts(page: str) -> str:
    return re.sub(r"(?s)<script.*?</script>", "", page)


def test_ids_in_the_page_are_unique_and_found(tmp_path: Path) -> None:
    write_pairs(tmp_path, [(3, 2)] * 2, [(3, 2.5)] * 2)
    write_experiment(tmp_path, "wide", (3, 2), model={"hidden": 64})
    page = without_scripts(page_of(tmp_path))
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', page))
    assert {a or b for a, b in re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', page)} <= set(ids)


def test_pictures_are_embedded_and_small(tmp_path: Path) -> None:
    write_experiment(tmp_path, "a", (3, 2), ids=("g0", "g1", "g2"))
    shown = [a for tag, a in _Tags(page_of(tmp_path, galaxies=2)).found if tag == "img"]
    assert [a["alt"] for a in shown] == ["galaxy g0-0", "galaxy g1-0", "galaxy g0-1", "galaxy g1-1"]  # by rank
    for n, attributes in enumerate(shown):
        content = base64.b64decode(str(attributes["src"]).removeprefix("data:image/webp;base64,"))
        image = Image.open(io.BytesIO(content))
        assert max(image.size) == pictures.PICTURE_PX and len(content) < 2_000
        assert image.getpixel((0, 0)) == pytest.approx((20 * (n % 2),) * 3, abs=2)  # the picture of this rank


def test_no_pictures_wanted_and_none_asked(tmp_path: Path) -> None:
    write_experiment(tmp_path, "a", (3, 2))
    assert "Asked about in iteration" not in page_of(tmp_path, galaxies=0)
    write_experiment(tmp_path / "new", "b", (3, 2), ids=())
    assert "no galaxies were left to ask about" in page_of(tmp_path / "new")


def test_text_is_escaped(tmp_path: Path) -> None:
    bad = "<b>x</b> & \"y\" '$z$'"
    write_experiment(
        tmp_path, "a <i>", (3, 2), ids=(bad,), model={"name": bad}, dropped=[{"id_str": bad, "reason": bad}]
    )
    page = page_of(tmp_path)
    assert "<b>x</b>" not in page
    assert "<i>" not in page
    assert bad in _Tags(page).text


def test_votes_come_from_a_later_iteration(tmp_path: Path) -> None:
    """Of the galaxies asked about in iteration 0, g0 gets votes in 1 and g1, late, in 2; those of 2 have none yet."""
    votes: list[Votes] = [
        {},
        {"g0-0": {"label": 31, "total_votes": 40}},
        {"g1-0": {"label": 7, "total_votes": 39}, "g1-1": {"label": 0, "total_votes": 38}},
    ]
    write_experiment(tmp_path, "a", (3, 2, 1), votes=votes)
    captions = re.findall(
        r'<span class="id">([^<]*)</span>([^<]*)<b[^>]*>([^<]*)</b>',
        page_of(tmp_path).split("Most certain")[0].replace("\u00a0", " "),
    )
    assert captions == [
        ("g0-0", "0.500", "smooth 31 of 40"),
        ("g1-0", "0.333", "smooth 7 of 39"),
        ("g0-1", "0.500", "no votes yet"),
        ("g1-1", "0.333", "smooth 0 of 38"),
        ("g0-2", "0.500", "no votes yet"),
        ("g1-2", "0.333", "no votes yet"),
    ]


def test_votes_of_a_tree_are_those_of_the_leading_answer(tmp_path: Path) -> None:
    given = {"smooth-or-featured_smooth": 9, "smooth-or-featured_disk": 30, "bar_yes": 20, "bar_no": 10}
    write_experiment(tmp_path, "a", (3, 2), task="tree", votes=[{}, {"g0-0": given}])
    page = page_of(tmp_path).replace("\u00a0", " ")
    assert "<b>disk 30 of 39</b>" in page
    assert "<option>bar</option>" in page  # of the error, the coverage and the PIT


def test_what_was_left_out(tmp_path: Path) -> None:
    dropped = [{"id_str": f"d{n}", "reason": "truncated"} for n in range(60)]
    for seed in (0, 1):
        write_experiment(tmp_path, f"a{seed}", (3, 2), seed=seed, catalog_seed=seed, dropped=dropped)
    record = {
        "rows": 1234, "galaxies": 1200, "exact_duplicates_collapsed": 1, "excluded": {"sample is stripe82": 30},
        "dropped": [{"id_str": "r1", "reason": "no file_loc"}],
    }  # fmt: skip
    folders.write_json(tmp_path / "toy" / "toy_master_catalog.json", record)
    page = page_of(tmp_path)
    text = " ".join(_Tags(page).text.split())
    assert "1,234 rows were read and 1,200 galaxies kept; 1 exact duplicate collapsed" in text
    assert "sample is stripe82 30" in text.replace("stripe8230", "stripe82 30")
    assert "no file_loc" in text
    assert "could not be used: 60, of which the first 50" in text  # the same galaxies in both seeds: counted once
    assert page.count("truncated") == 50


def test_who_waits_for_votes_since_when(tmp_path: Path) -> None:
    write_experiment(tmp_path, "a", (3, 2, 1))
    text = " ".join(_Tags(page_of(tmp_path)).text.split())
    assert "Waiting for votes" in text and "c0 (0 votes), c1 (1 vote), c2 (2 votes)" in text
    write_experiment(tmp_path / "new", "a", (3,))
    assert "Waiting for votes" not in page_of(tmp_path / "new")


def test_a_report_is_overwritten(tmp_path: Path) -> None:
    write_experiment(tmp_path, "a", (3, 2))
    first = summary_of(tmp_path)
    write_experiment(tmp_path, "b", (3, 2), seed=1)
    assert len(summary_of(tmp_path)["experiments"]) == len(first["experiments"]) + 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.html", "summary.json"}


def test_summary_of_experiments(tmp_path: Path) -> None:
    write_experiment(tmp_path, "a", (3, 2), seed=5)
    summary = summary_of(tmp_path)
    assert summary["format_version"] == 1
    assert summary["sections"] == sections_of(tmp_path)
    assert summary["experiments"] == [
        {
            "path": "simulations/a", "name": "a", "iterations": 2, "acquisition": "random", "seed": 5, "labels": 110,
            "test_loss": 2, "requested": 2, "labels_below_threshold": 2, "retired_confident": 1, "still_waiting": 1,
            "waiting": [
                {"stream": "chosen", "asked_in": 0, "age": 1, "galaxies": 1, "examples": "g0-0 (1 vote)"},
                {"stream": "control", "asked_in": 0, "age": 1, "galaxies": 5,
                 "examples": "c0 (0 votes), c1 (1 vote), c2 (2 votes)"},
            ], "weights_sha256": f"{1:064x}", "votes_spent": 40,
            "volunteer_minutes": 20.0, "next_100_labels_buy": None, "final": None,
        }
    ]  # fmt: skip


def test_report_is_light() -> None:
    """No network library is needed to look at results."""
    heavy = {"tensorflow", "keras"}
    code = f"import sys, zoobot.stages.report; sys.exit(', '.join({heavy} & set(sys.modules)) or None)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(report.__file__).parents[2])


def test_the_page_advises_the_default(tmp_path: Path) -> None:
    write_experiment(tmp_path, "alone", (2.0, 1.0), acquisition="entropy")
    config = yaml.safe_load((Path(report.__file__).parents[2] / "configs" / "config.yaml").read_text())
    (default,) = (group["acquisition"] for group in config["defaults"] if "acquisition" in group)
    assert f"acquisition={default},random" in report.run(settings_for(tmp_path)).read_text()
