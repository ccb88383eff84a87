"""What the report says in words, how its lines are told apart, its pictures, its details, and survey catalogues."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.test_report import (
    Votes,
    page_of,
    settings_for,
    text_of,
    write_experiment,
    write_pairs,
)
from zoobot import folders
from zoobot.acquisition import ACQUISITIONS
from zoobot.galaxies import database, table_writers, tfrecords
from zoobot.galaxies.table_writers import FORMATS, Column
from zoobot.reports import catalogues, details, galleries, looks, pictures, posterior, vega, verdicts
from zoobot.reports.experiments import Section, group, read_experiments
from zoobot.reports.vega import Axes

# --------------------------------------------------------------- verdicts


def comparison(**values: Any) -> dict[str, Any]:
    ratio = {"value": 0.663, "low": 0.54, "high": 0.77}
    return {
        "acquisition": "badge", "seeds": list(range(10)), "mean_difference": -0.1, "verdict": "better than random",
        "gain": {"labels_ratio": ratio, "gap_closed": None}, "labels_at_equal_loss": 90.0, "baseline_labels": 100.0,
        "baseline_improved": True, "labels": 100.0, **values,
    }  # fmt: skip


def test_a_verdict_is_one_plain_sentence() -> None:
    said = verdicts.sentence(comparison())
    assert said == "BADGE needed 66\u00a0% of random’s labels (54 to 77), ten seeds: better than random."


def test_the_verdict_is_printed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for seed in range(3):
        write_experiment(tmp_path, f"badge_{seed}", (3, 2.0 + seed / 100), acquisition="badge", seed=seed)
        write_experiment(tmp_path, f"random_{seed}", (3, 2.5 + seed / 50), acquisition="random", seed=seed)
    caplog.set_level("INFO")
    page_of(tmp_path)
    assert any("BADGE needed" in text and "three seeds: better than random" in text for text in caplog.messages)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"seeds": []}, "BADGE has no seed in common with random, so it cannot be compared."),
        ({"acquisition": "k_center", "gain": None}, "K center needed 90\u00a0% of random’s labels, ten seeds"),
        ({"gain": None, "labels_at_equal_loss": None}, "did not come down to random’s final loss with 100 labels"),
        ({"gain": None, "labels_at_equal_loss": None, "baseline_improved": False}, "random’s own loss did not fall"),
        ({"seeds": [3]}, "one seed: better"),
        ({"seeds": list(range(20))}, "20 seeds: better"),
        (
            {"gain": {"labels_ratio": {"value": 0.9, "low": 0.8, "high": None}}},
            "needed 90\u00a0% of random’s labels (80 or more), ten seeds",
        ),
        (
            {"gain": {"labels_ratio": None, "gap_closed": {"value": 0.4, "low": -0.1, "high": 0.9}}},
            "It closed 40\u00a0% (−10 to 90) of the gap to oracle batch.",
        ),
        ({"verdict": "a ceiling, found with the true votes"}, "; it is a ceiling, found with the true votes."),
    ],
)
def test_other_verdicts(values: dict[str, Any], expected: str) -> None:
    assert expected in verdicts.sentence(comparison(**values))


def test_the_verdict_of_a_first_iteration(tmp_path: Path) -> None:
    write_pairs(tmp_path, [(3.0,)] * 3, [(3.0,)] * 3)
    assert "Mutual information: too early to tell; only the first iteration is finished, three seeds." in text_of(
        tmp_path
    )


# --------------------------------------------------------------- looks


def luminance(colour: str) -> float:
    """The relative luminance of a colour (WCAG 2.2)."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    lower, higher = sorted((luminance(one), luminance(other)))
    return (higher + 0.05) / (lower + 0.05)


def test_the_contrast_of_black_and_white_by_hand() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize(("colours", "papers"), [
    ((*looks.LIGHT, looks.GREY[0]), ("#fcfcfa", "#f3f3ef")), ((*looks.DARK, looks.GREY[1]), ("#15171a", "#1f2226"))
])  # fmt: skip
def test_every_colour_can_be_read_on_the_page(colours: tuple[str, ...], papers: tuple[str, ...]) -> None:
    style = (Path(looks.__file__).parent / "template" / "style.css").read_text()
    assert all(paper in style for paper in papers)
    assert min(contrast(colour, paper) for colour in colours for paper in papers) >= 4.5


def test_all_functions_differ_without_colour() -> None:
    names = [*ACQUISITIONS, "oracle_batch", "two", "three"]
    section = Section(("", "", ""), {}, {name: [] for name in names}, [])
    found = looks.looks(section)
    assert len({(look.dash, look.marker) for name, look in found.items() if name != "random"}) == len(found) - 1
    assert found["random"].colour == "var(--line-random)"


def test_each_function_says_what_its_values_are() -> None:
    units = {name: looks.unit_of(name) for name in [*ACQUISITIONS, "oracle_batch"]}
    assert all(units.values()) and looks.unit_of("of an extension") == ""
    assert "nats" not in units["badge"] and units["mutual_information"] == "nats"


def test_quick_data_is_marked(tmp_path: Path) -> None:
    for data_dir in (tmp_path, tmp_path / "quick"):
        write_experiment(data_dir, "a", (3, 2))
        assert ("Quick data" in text_of(data_dir)) == (data_dir.name == "quick")


# --------------------------------------------------------------- details


def section_of(data_dir: Path) -> Section:
    (found,) = group(read_experiments(settings_for(data_dir))[0])
    return found


def test_settings_that_differ_are_not_those_of_the_seed(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_experiment(tmp_path, f"r{seed}", (3, 2), seed=seed, catalog_seed=seed)
        write_experiment(tmp_path, f"b{seed}", (3, 2), seed=seed, catalog_seed=seed, acquisition="badge")
    counted = [e for line in section_of(tmp_path).lines.values() for e in line]
    differ, same = details.settings(counted)
    assert differ == {"acquisition.name": ["badge", "badge", "random", "random"]}
    assert same["catalogs.mock_labelled"] == 120 and "seed" not in same


def test_the_tree_of_questions(tmp_path: Path) -> None:
    write_experiment(tmp_path, "a", (3, 2), task="tree")
    (root,) = details.questions(section_of(tmp_path))
    assert (root.name, root.after, root.galaxies) == ("smooth-or-featured", [], 50)
    assert root.of_lines["random"] == {"rmse": 0.2, "coverage_error": 0.05}
    (bar,) = root.then
    assert (bar.name, bar.after, bar.of_lines["random"]["rmse"]) == ("bar", ["disk"], 0.25)


def test_what_labels_cost(tmp_path: Path) -> None:
    """Ten labels in each iteration; the fixture spends 40 votes and 20 minutes in each."""
    write_experiment(tmp_path, "a", (3, 2, 1))
    (line,) = section_of(tmp_path).lines.values()
    found = details.costs(line)
    assert found == {"labels": 20, "votes_per_label": 4, "hours_per_100_labels": pytest.approx(10 / 3), "gain": None}


def test_where_it_comes_from(tmp_path: Path) -> None:
    folder = write_experiment(tmp_path, "a", (3, 2))
    ((e,),) = section_of(tmp_path).lines.values()
    found = details.provenance(e)
    assert found["instructions"] == folders.digest_of(folder / "instructions")[:16]
    assert found["weights"] == f"{1:064x}"[:16] and "numpy" in str(found["versions"])


def test_rejected_answers_are_counted_by_reason(tmp_path: Path) -> None:
    write_experiment(tmp_path, "a", (3, 2))
    assert "Answers rejected while the experiments received votes: none." in text_of(tmp_path)
    classifications = tmp_path / "toy" / "classifications"
    classifications.mkdir()
    reasons = pd.DataFrame({"classification_id": [1, 2, 3], "reason": ["odd", "odd", "off the path"]})
    reasons.to_csv(classifications / "rejected.csv", index=False)
    assert "odd 2 off the path 1" in text_of(tmp_path).replace("odd2", "odd 2 ").replace("path1", "path 1")


# --------------------------------------------------------------- pictures and galaxies


@given(st.integers(0, 100_000), st.integers(0, 50))
def test_a_page_has_few_pictures(n_rows: int, wanted: int) -> None:
    shown = pictures.per_row(n_rows, wanted)
    assert shown <= wanted and (shown == wanted or shown * n_rows <= max(pictures.MOST, 2 * n_rows))


def shards_with_pictures(path: Path, ids: list[str]) -> Path:
    """Shards whose n-th galaxy is 20 n bright."""
    (path / "pool").mkdir(parents=True)
    records = [
        tfrecords.encode(id_, np.full((8, 8, 3), 20 * n, np.uint8), {}, "png") for n, id_ in enumerate(ids)
    ]  # fmt: skip
    tfrecords.write(path / "pool" / "p.tfrecord", records)
    database.create(path / "shards.db")
    with database.connect(path / "shards.db") as connection:
        database.add_galaxies(connection, [(id_, "", "pool", "pool/p.tfrecord", n) for n, id_ in enumerate(ids)])
    folders.write_json(path / "shard_config.json", {
        "version": 1, "survey": "toy", "task": "smooth", "image_size_px": 8, "channels": 3, "encoding": "png",
        "shard_size": 4, "seed": 0, "splits": {"pool": ["pool/p.tfrecord"]}, "galaxies": {"pool": len(ids)},
        "dropped": [], "database": "shards.db",
    })  # fmt: skip
    return path


def test_pictures_of_shards_are_those_of_their_galaxies(tmp_path: Path) -> None:
    shards = shards_with_pictures(tmp_path / "shards", ["a", "b", "c"])
    found = pictures.of_shards(shards, ["c", "b"])
    assert set(found) == {"b", "c"}
    for id_, value in (("b", 20), ("c", 40)):
        content = base64.b64decode(found[id_].removeprefix("data:image/webp;base64,"))
        assert Image.open(io.BytesIO(content)).getpixel((3, 3)) == pytest.approx((value,) * 3, abs=2)
    assert pictures.of_shards(tmp_path / "gone", ["a"]) == {}


def test_the_posterior_of_a_galaxy_by_hand(tmp_path: Path) -> None:
    """Both samples of the fixture say one half: of two votes, none, one and two have 1/4, 1/2 and 1/4."""
    votes: list[Votes] = [{}, {"g0-0": {"label": 1, "total_votes": 2}}]
    write_experiment(tmp_path, "a", (3, 2), votes=votes, model={"likelihood": "multinomial"})
    (found,) = posterior.of_section(section_of(tmp_path))
    assert (found.name, found.votes) == ("g0-0: smooth 1\u00a0of\u00a02", 1)
    assert found.probability_V == pytest.approx([0.25, 0.5, 0.25])


def test_the_worst_errors_are_test_galaxies_with_their_votes(tmp_path: Path) -> None:
    write_experiment(tmp_path, "a", (3, 2))
    ((e,),) = section_of(tmp_path).lines.values()
    assert [row.title for row in galleries.others(e, 2)] == ["Most certain of the pool", "Least certain of the pool"]
    last = e.iterations[-1].folder
    last.path.chmod(0o755)
    last.database.chmod(0o644)
    last.write_test_losses(pa.table({"id_str": ["t0", "t1"], "loss": [1.0, 4.0]}))
    with database.connect(last.database) as connection:
        database.add_galaxies(connection, [(f"t{n}", "", "test", "test/t", n) for n in range(2)])
        database.add_labels(connection, {f"t{n}": {"label": n, "total_votes": 9} for n in range(2)}, database.INITIAL)
    worst = galleries.others(e, 1)[-1]
    assert [(g.id_str, g.value, g.said) for g in worst.galaxies] == [("t1", 4.0, "smooth 1\u00a0of\u00a09")]


# --------------------------------------------------------------- charts and catalogues


def test_a_pool_without_galaxies_has_no_certain_ones(tmp_path: Path) -> None:
    write_experiment(tmp_path, "a", (3, 2))
    ((e,),) = section_of(tmp_path).lines.values()
    path = e.iterations[-1].folder.path / "predictions.parquet"
    path.parent.chmod(0o755)
    path.chmod(0o644)
    pq.write_table(pq.read_table(path)[:0], path)
    assert galleries.others(e, 2) == []


def test_a_chart_shows_only_what_is_chosen() -> None:
    rows = [{"line": "random", "of": of, "step": n, "x": n, "y": n} for of in ("one", "two") for n in range(3)]
    random = {"random": looks.Look("var(--line-random)", (), "circle")}
    made = vega.chart("k", "t", Axes("x", "y", "Question"), vega.curves(rows), random)
    assert made.choices == ["one", "two"]
    assert made.svg.count("var(--line-random)") == 4  # a line and three markers
    assert "http" not in made.svg


@pytest.mark.parametrize("format_", FORMATS)
def test_a_catalogue_is_counted_in_any_format(format_: str, tmp_path: Path) -> None:
    path = tmp_path / "toy" / "predictions" / "first"
    table = pd.DataFrame({
        "id_str": ["a", "b", "c", "d"], "old_fraction": 0.5, "q_asked": 1.0, "q_entropy": [0.1, 0.6, 0.3, 0.2],
        "yes_fraction": [0.02, 0.5, 0.81, 0.99], "no_fraction": [0.98, 0.5, 0.19, 0.01],
        "yes_fraction_low": 0.0, "no_fraction_low": 0.0,
    })  # fmt: skip
    with folders.create(path, {}, {}) as staging:
        part = staging / "galaxies" / "part_00000.parquet"
        part.parent.mkdir()
        columns = [Column(name, "", pa.string() if name == "id_str" else pa.float32()) for name in table]
        table_writers.write_part(part, pa.table(table.to_dict("list"), table_writers.schema(columns)))
        if combine := FORMATS[format_]:
            combine([part], staging / f"catalogue.{format_}")
            part.unlink()
    assert catalogues.find(tmp_path) == [path]
    found = catalogues.read(path, "k", 2)
    assert (found.name, found.galaxies, found.chart.choices) == ("toy / first", 4, ["yes", "no"])
    certain, not_certain = found.rows
    assert [(g.id_str, g.said) for g in certain.galaxies] == [("a", "yes 2\u00a0%"), ("d", "yes 99\u00a0%")]
    assert [g.id_str for g in not_certain.galaxies] == ["b", "c"]
    write_experiment(tmp_path, "a", (3, 2))
    assert "toy / first: 4 galaxies" in page_of(tmp_path)
