"""The same galaxy under two ids: found by picture and position, and never in two splits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from zoobot.errors import InputError
from zoobot.galaxies import database, picture_paths, same_galaxy
from zoobot.galaxies.same_galaxy import SAME_AS
from zoobot.galaxies.tables import read_table
from zoobot.settings import Settings, SurveySettings
from zoobot.stages import catalogs, master_catalog, shards

Custom = Callable[..., Settings]
SMOOTH, FEATURED, ARTIFACT = (f"smooth-or-featured_{a}" for a in ("smooth", "featured-or-disk", "artifact"))
ARCSEC = 1 / 3600
PIXELS = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)


def groups(ra: list[object], dec: list[object], within: float = 1.0, **columns: list[str]) -> list[int]:
    n = len(ra)
    fixed = {"id_str": [f"g{k}" for k in range(n)], "file_loc": [f"{k}.png" for k in range(n)]}
    table = pd.DataFrame({**fixed, "ra": ra, "dec": dec, **columns})
    return list(map(int, same_galaxy.groups(table, SurveySettings(same_within_arcsec=within), "t.csv")))


def test_copies_of_a_picture_are_one_galaxy_and_placeholders_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    contents = [b"a", b"b", b"a", b"c", *[b"blank"] * 11, b"a"]
    files = [tmp_path / f"{k}.png" for k in range(len(contents))]
    for path, content in zip(files, contents, strict=True):
        path.write_bytes(content)
    files.append(tmp_path / "absent.png")
    n = len(files)
    table = pd.DataFrame({"id_str": [f"g{k}" for k in range(n)], "file_loc": [path.name for path in files]})
    same = partial(picture_paths.same_pictures, Settings(survey=SurveySettings(folder=str(tmp_path))))
    found = same_galaxy.groups(table, SurveySettings(), "t.csv", same).tolist()
    assert found == [0, 1, 0, 3, *range(4, 15), 0, 16]
    assert "11 pictures are the same file" in caplog.text
    with pytest.raises(InputError, match=r"2 rows are a galaxy .* g0 and g2"):
        same_galaxy.groups(table, SurveySettings(same_galaxy="error"), "t.csv", same)


def test_positions_by_hand() -> None:
    assert groups([10, 10 + 0.9 * ARCSEC, 20, 10], [0, 0, 0, 0.9 * ARCSEC]) == [0, 0, 2, 0], "over others between"
    assert groups([10, 10 + 1.1 * ARCSEC], [0, 0]) == [0, 1]
    assert groups([0, 360 - 0.5 * ARCSEC], [5, 5]) == [0, 0], "across 0 degrees"
    assert groups([10, 10 + 2 * ARCSEC], [80, 80]) == [0, 0], "a degree of right ascension is short near the pole"
    assert groups(["10.5", "10.5"], ["-3", "-3"]) == [0, 0], "positions are read as text"
    assert groups([10, 10], [0, 0], within=0) == [0, 1]


def test_what_is_no_position_makes_nobody_the_same(caplog: pytest.LogCaptureFixture) -> None:
    for nowhere in ([0.0, 0.0], [-999, -999], [None, None], [np.nan, np.nan]):
        assert groups([nowhere[0]] * 4, [nowhere[1]] * 4) == [0, 1, 2, 3]
    assert groups([150.0] * 12, [2.0] * 12) == list(range(12)) and "taken as not known" in caplog.text


def test_the_same_picture_is_the_same_galaxy() -> None:
    assert groups([1, 2, 3], [0, 0, 0], file_loc=["a.png", "b.png", "./a.png"]) == [0, 1, 0]


def test_it_is_warned_of_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    table = pd.DataFrame({"id_str": ["a", "b", "c"], "file_loc": ["x", "x", "y"]})
    same_galaxy.groups(table, SurveySettings(), "t.csv")
    assert "t.csv: 1 rows are a galaxy that is there already under another id (1 by the same file_loc" in caplog.text
    with pytest.raises(InputError, match=r"for example a and b\. Remove them, or set survey.same_galaxy=warn"):
        same_galaxy.groups(table, SurveySettings(same_galaxy="error"), "t.csv")


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(0, 10), st.integers(0, 10))
@hypothesis_settings(max_examples=100)
def test_splits_take_whole_galaxies(names: list[int], one: int, two: int) -> None:
    table = pd.DataFrame({"id_str": range(len(names)), SAME_AS: names})
    split_N = same_galaxy.fill(same_galaxy.rows_of(table), [one, two])
    assert table.assign(split=split_N).groupby(SAME_AS)["split"].nunique().max() == 1
    assert (split_N == 0).sum() <= one and (split_N == 1).sum() <= two


@given(st.integers(1, 40), st.integers(0, 10), st.integers(0, 10))
def test_without_repeats_splits_are_ranges(n: int, one: int, two: int) -> None:
    split_N = same_galaxy.fill(np.arange(n), [one, two])
    assert split_N.tolist() == ([0] * one + [1] * two + [2] * n)[:n]


def test_200_000_galaxies_in_seconds() -> None:
    random = np.random.default_rng(0)
    n = 200_000
    ra, dec = random.uniform(0, 360, n), np.degrees(np.arcsin(random.uniform(-1, 1, n)))
    ra[-100:], dec[-100:] = ra[:100], dec[:100] + 0.5 * ARCSEC
    table = pd.DataFrame({"id_str": np.arange(n), "file_loc": np.arange(n), "ra": ra, "dec": dec})
    found = same_galaxy.groups(table, SurveySettings(), "t.csv")
    assert (found[-100:] == np.arange(100)).all() and (found != np.arange(n)).sum() <= 102


# --------------------------------------------------------------- through the stages


def survey(n: int, tmp_path: Path) -> pd.DataFrame:
    """``n`` galaxies, each twice, under two ids and with two pictures; the second may have fewer votes."""
    (tmp_path / "survey").mkdir(exist_ok=True)
    rows = []
    for k in range(2 * n):
        Image.fromarray(np.roll(PIXELS, k)).save(tmp_path / "survey" / f"g{k:03d}.png")
        votes = {SMOOTH: 20, FEATURED: 20 if k < n or k % 5 else 3, ARTIFACT: 0}
        rows.append({"id_str": f"g{k:03d}", "file_loc": f"g{k:03d}.png", "ra": 10.0 + k % n, "dec": 1.0, **votes})
    return pd.DataFrame(rows)


def split_of(s: Settings) -> dict[str, set[str]]:
    master_catalog.run(s)
    catalogs.run(s)
    folder = shards.run(s)
    with database.connect(folder / "shards.db") as connection:
        rows = connection.execute("SELECT split, id_str FROM galaxies").fetchall()
    galaxy: dict[str, set[str]] = {}
    for split, id_str in rows:
        galaxy.setdefault(split, set()).add(id_str if id_str == "alone" else f"{int(id_str[1:]) % 30}")
    return galaxy


@pytest.mark.parametrize("source", ["mock", "real"])
def test_no_galaxy_is_in_two_splits(
    source: str, custom_survey: Custom, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = survey(30, tmp_path)
    size = ("catalogs.mock_labelled=31", "shards.eval_size=7", "shards.test_size=7", "shards.image_size_px=16",
            "model.final_size_px=16", f"shards.source={source}")  # fmt: skip
    extra = pd.DataFrame([{**table.iloc[0], "id_str": "alone", "file_loc": "alone.png", "ra": 99, FEATURED: 0}])
    Image.fromarray(np.roll(PIXELS, 99)).save(tmp_path / "survey" / "alone.png")
    s = custom_survey(pd.concat([table, extra]), *size)
    galaxies = split_of(s)
    assert set(galaxies) == {"train", "eval", "test", "pool"}
    assert sum(len(ids) for ids in galaxies.values()) == len(set().union(*galaxies.values()))
    assert "30 rows are a galaxy that is there already under another id" in caplog.text
    labelled, hidden = (read_table(s.catalog_dir / f"{name}.csv") for name in ("mock_labelled", "mock_unlabelled"))
    assert SAME_AS in labelled and SAME_AS not in hidden
    unlabelled = read_table(s.catalog_dir / "unlabelled.csv")
    assert len(unlabelled) == 7, "no catalog loses a galaxy"
    if source == "real":
        assert "left out of the pool: 6 galaxies that are labelled under another id" in caplog.text


def test_it_can_be_an_error(custom_survey: Custom, tmp_path: Path) -> None:
    s = custom_survey(survey(5, tmp_path), "survey.same_galaxy=error")
    master_catalog.run(s)
    with pytest.raises(InputError, match="5 rows are a galaxy that is there already under another id"):
        catalogs.run(s)
