"""The master catalog: which rows can be trusted, what becomes of the others, and that it is written once."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from zoobot.errors import FolderError, InputError
from zoobot.galaxies.questions import load_questions
from zoobot.settings import Settings
from zoobot.stages import master_catalog
from zoobot.stages.master_catalog import clean

SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_real_data = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real data is not at {SHARED}")
Custom = Callable[..., Settings]
QUESTIONS = load_questions("gz2")
SMOOTH, FEATURED, ARTIFACT = QUESTIONS.root.columns
TOTAL = QUESTIONS.root.total
BAR_YES, BAR_NO = QUESTIONS["bar"].columns


def galaxies(n: int = 3, **columns: list[Any]) -> pd.DataFrame:
    """``n`` galaxies g0, g1, …, of which the k-th has k votes for smooth and 40 for featured."""
    table = {"id_str": [f"g{k}" for k in range(n)], "file_loc": [f"g{k}.png" for k in range(n)]}
    votes = {SMOOTH: list(range(n)), FEATURED: [40] * n, ARTIFACT: [0] * n}
    return pd.DataFrame({**table, **votes, **columns})


def reasons(table: pd.DataFrame) -> dict[str, str]:
    _, dropped, _ = clean(table, QUESTIONS, "t.csv")
    return dict(zip(dropped["id_str"], dropped["reason"], strict=True))


def record_of(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    return content


# --------------------------------------------------------------- rows


def test_totals_by_hand() -> None:
    catalog, dropped, collapsed = clean(galaxies(bar_yes=[3, 0, 2], bar_no=[4, 0, 0]), QUESTIONS, "t.csv")
    assert catalog[TOTAL].tolist() == [40, 41, 42] and catalog["bar_total-votes"].tolist() == [7, 0, 2]
    assert dropped.empty and collapsed == 0
    assert list(catalog.columns[:3]) == ["id_str", "file_loc", SMOOTH]


@pytest.mark.parametrize(
    "column, value, reason",
    [
        (SMOOTH, np.nan, f"{SMOOTH} is empty, but smooth-or-featured has other votes"),
        (SMOOTH, -1, f"{SMOOTH} is not 0 to 1000000"),
        (SMOOTH, 1e9, f"{SMOOTH} is not 0 to 1000000"),
        (SMOOTH, np.inf, f"{SMOOTH} is not 0 to 1000000"),
        (SMOOTH, 0.5, f"{SMOOTH} is not a whole number"),
        (SMOOTH, "many", f"{SMOOTH} is not a number"),
        (TOTAL, 99, f"{TOTAL} is not the sum of its answers"),
        ("id_str", None, "no id_str"),
        ("id_str", "  ", "no id_str"),
        ("file_loc", None, "no file_loc"),
    ],
)
def test_a_bad_row_is_dropped_with_its_reason(column: str, value: Any, reason: str) -> None:
    table = galaxies(**{TOTAL: [40, 41, 42]}).astype({SMOOTH: object, "id_str": "string", "file_loc": "string"})
    table.loc[1, column] = value
    catalog, dropped, _ = clean(table, QUESTIONS, "t.csv")
    assert dropped["reason"].tolist() == [reason]
    assert catalog["id_str"].tolist() == ["g0", "g2"] and catalog[SMOOTH].tolist() == [0, 2]


def test_votes_for_other_questions_alone_are_no_label() -> None:
    table = galaxies(bar_yes=[1, 1, 1], bar_no=[1, 1, 1])
    table.loc[1, [SMOOTH, FEATURED, ARTIFACT]] = np.nan
    assert reasons(table) == {"g1": "no votes for smooth-or-featured, but votes for other questions"}


def test_a_galaxy_nobody_classified_stays_without_votes() -> None:
    table = galaxies().astype({SMOOTH: float})
    table.loc[1, [SMOOTH, FEATURED, ARTIFACT]] = np.nan
    catalog, dropped, _ = clean(table, QUESTIONS, "t.csv")
    assert dropped.empty and catalog.loc[1, [SMOOTH, TOTAL]].isna().all() and catalog.loc[2, SMOOTH] == 2


def test_exact_duplicates_collapse_and_contradictions_all_go() -> None:
    table = pd.concat([galaxies(), galaxies().iloc[:1], galaxies().iloc[1:2].assign(**{SMOOTH: 9})])
    catalog, dropped, collapsed = clean(table, QUESTIONS, "t.csv")
    assert collapsed == 1 and catalog["id_str"].tolist() == ["g0", "g2"]
    assert dropped.to_numpy().tolist() == [["g1", "several different rows have this id_str"]] * 2


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(-1, 3), st.integers(0, 3)), min_size=1, max_size=12
    )
)  # fmt: skip
@hypothesis_settings(max_examples=60, deadline=None)
def test_no_row_is_lost_or_made_up(rows: list[tuple[str, int, int]]) -> None:
    table = pd.DataFrame(rows, columns=["id_str", SMOOTH, FEATURED]).assign(file_loc="x.png", **{ARTIFACT: 0})
    good = [g for g in set(rows) if g[1] >= 0 and [r[0] for r in set(rows)].count(g[0]) == 1]
    if not good:
        with pytest.raises(InputError, match="none of its"):
            clean(table, QUESTIONS, "t.csv")
        return
    catalog, dropped, collapsed = clean(table, QUESTIONS, "t.csv")
    assert len(catalog) + len(dropped) + collapsed == len(rows)
    assert sorted(catalog[["id_str", SMOOTH, FEATURED]].itertuples(index=False, name=None)) == sorted(good)
    assert (catalog[TOTAL] == catalog[SMOOTH] + catalog[FEATURED]).all()


def test_a_table_without_votes_or_an_answer_of_a_question() -> None:
    with pytest.raises(InputError, match=r"t\.csv has no vote columns for smooth-or-featured.*survey\.questions"):
        clean(galaxies().drop(columns=[SMOOTH, FEATURED, ARTIFACT]), QUESTIONS, "t.csv")
    with pytest.raises(InputError, match=f"votes for smooth-or-featured, but no column {ARTIFACT}"):
        clean(galaxies().drop(columns=ARTIFACT), QUESTIONS, "t.csv")


def test_an_unknown_answer_is_not_counted_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    table = galaxies(**{"smooth-or-featured_star": [5, 5, 5], f"{SMOOTH}_fraction": [0.1, 0.2, 0.3]})
    catalog, *_ = clean(table, QUESTIONS, "t.csv")
    assert catalog[TOTAL].tolist() == [40, 41, 42]
    assert "t.csv: smooth-or-featured_star: not answers to the survey's questions" in caplog.text


# --------------------------------------------------------------- the stage


def test_the_catalog_its_json_and_ids_as_text(custom_survey: Custom, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    ids = ["000123456789012345", "587739505552785605", "12"]
    path = master_catalog.run(custom_survey(galaxies(id_str=ids, mag=[1.5, np.nan, 2.5])))
    catalog = pd.read_csv(path, dtype={"id_str": "string"})
    assert path.name == "mine_master_catalog.csv" and catalog["id_str"].tolist() == ids
    assert catalog["mag"].isna().tolist() == [False, True, False], "the survey's own columns stay"
    record = record_of(path)
    assert (record["galaxies"], record["rows"], record["dropped"], record["excluded"]) == (3, 3, [], {})
    assert "3 of 3 images are missing from" in caplog.text and "stage=shards needs them" in caplog.text


def test_dropped_rows_are_listed_up_to_the_limit(custom_survey: Custom) -> None:
    table = galaxies(4).astype({SMOOTH: object})
    table.loc[1, SMOOTH] = "x"
    with pytest.raises(
        InputError, match=rf"1 of 4 rows cannot be used.*max_dropped_fraction=0\.01.*g1: {SMOOTH} is not"
    ):
        master_catalog.run(custom_survey(table))
    path = master_catalog.run(custom_survey(table, "max_dropped_fraction=0.25"))
    assert record_of(path)["dropped"] == [{"id_str": "g1", "reason": f"{SMOOTH} is not a number"}]


def test_again_does_nothing_and_other_input_is_refused(custom_survey: Custom, caplog: pytest.LogCaptureFixture) -> None:
    path = master_catalog.run(custom_survey(galaxies()))
    written_at = path.stat().st_mtime_ns
    caplog.set_level("INFO")
    assert master_catalog.run(custom_survey(galaxies())) == path
    assert "nothing to do" in caplog.text and path.stat().st_mtime_ns == written_at
    with pytest.raises(FolderError, match="input catalog: it has changed since"):
        master_catalog.run(custom_survey(galaxies(4)))
    with pytest.raises(FolderError) as caught:
        master_catalog.run(custom_survey(galaxies(), "survey.questions=decals"))
    assert "survey.questions: 'gz2' there, 'decals' now" in str(caught.value)
    assert max(map(len, str(caught.value).splitlines())) < 300, "a message does not hold a complete question set"
    path.write_text("id_str\n")
    with pytest.raises(FolderError, match="it was changed after it was written"):
        master_catalog.run(custom_survey(galaxies()))


def test_a_run_that_was_stopped_between_its_two_files_begins_anew(custom_survey: Custom) -> None:
    path = master_catalog.run(custom_survey(galaxies()))
    text = path.read_text()
    path.unlink()
    assert master_catalog.run(custom_survey(galaxies())).read_text() == text


@pytest.mark.parametrize("given", [True, False])
def test_old_classifications_are_warned_of(
    given: bool, settings: Custom, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pd.DataFrame({"iauname": ["g0"], "png_loc": ["g0.png"]}).to_csv(tmp_path / "joint.csv", index=False)
    folder = tmp_path if given else tmp_path / "decals" / "classifications"
    folder.mkdir(parents=True, exist_ok=True)
    votes = folder / "classifications.csv"
    galaxies(1).rename(columns={"id_str": "iauname"}).drop(columns="file_loc").to_csv(votes, index=False)
    os.utime(votes, (0, time.time() - 8 * 86400))
    place = [f"survey.folder={tmp_path}", "survey.catalog=joint.csv"]
    place += ["survey.classifications=classifications.csv"] if given else []
    master_catalog.run(settings("stage=master_catalog", "survey=decals", *place))
    assert "classifications.csv is 8.0 days old (reduce.max_age_days=7): run stage=reduce" in caplog.text
    caplog.clear()
    master_catalog.run(settings("stage=master_catalog", "survey=decals", *place, "reduce.max_age_days=9"))
    assert "days old" not in caplog.text


def test_a_survey_whose_rows_are_all_left_out(settings: Custom, tmp_path: Path) -> None:
    table = pd.DataFrame({"iauname": ["g0"], "png_loc": ["g0.png"], "png_ready": [False]})
    table.to_csv(tmp_path / "joint.csv", index=False)
    with pytest.raises(InputError, match=r"all rows are left out \(png_ready is false: 1\)"):
        master_catalog.run(
            settings("stage=master_catalog", "survey=decals", f"survey.folder={tmp_path}", "survey.catalog=joint.csv")
        )


# --------------------------------------------------------------- real data


@needs_real_data
def test_real_gz2(settings: Custom, caplog: pytest.LogCaptureFixture) -> None:
    s = settings("stage=master_catalog", "survey=gz2", f"survey.folder={SHARED}/realdata/gz2", "survey.samples=[]")
    path = master_catalog.run(s)
    record, catalog = record_of(path), pd.read_csv(path, dtype={"id_str": "string"})
    assert record["galaxies"] == record["rows"] == len(catalog) == 493 and record["dropped"] == []
    assert (catalog[TOTAL] == catalog[[SMOOTH, FEATURED, ARTIFACT]].sum(axis=1)).all()
    assert catalog[TOTAL].between(22, 73).all() and "images are missing from" not in caplog.text


@needs_real_data
def test_real_sdss_has_a_pool_without_votes(settings: Custom) -> None:
    place = ("survey.name=sdss", f"survey.folder={SHARED}/realdata/sdss")
    catalog = pd.read_csv(master_catalog.run(settings("stage=master_catalog", "survey=custom", *place)))
    assert len(catalog) == 3700 and catalog[TOTAL].isna().sum() == 1035 and (catalog[TOTAL].dropna() == 1).all()
    assert {"spiral_flag", "class_label"} <= set(catalog.columns)


@needs_real_data
def test_real_decals_reductions(settings: Custom, tmp_path: Path) -> None:
    """Each subject is taken for a galaxy of its own: what the reduction wrote is a catalog that can be trusted."""
    votes = pd.read_csv(SHARED / "catalogs/decals_classifications_1618.csv", dtype={"subject_id": "string"})
    votes.assign(iauname=votes["subject_id"]).to_csv(tmp_path / "votes.csv", index=False)
    joint = pd.DataFrame({"iauname": ["0", *votes["subject_id"]]})
    joint.assign(png_loc=joint["iauname"] + ".png").to_csv(tmp_path / "joint.csv", index=False)
    place = (f"survey.folder={tmp_path}", "survey.catalog=joint.csv", "survey.classifications=votes.csv")
    path = master_catalog.run(settings("stage=master_catalog", "survey=decals", *place))
    catalog = pd.read_csv(path, dtype={"id_str": "string"}).set_index("id_str")
    assert len(catalog) == 1619 and catalog.loc["0", TOTAL] != catalog.loc["0", TOTAL]
    assert record_of(path)["dropped"] == []
    expected = votes.set_index("subject_id")
    columns = [c for c in expected.columns if c in catalog.columns]
    assert len(columns) == 47 and (catalog.loc[expected.index, columns] == expected[columns]).all(axis=None)
