"""The prepared catalogs: who is labelled, what is hidden, and that nothing reveals a hidden vote."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from zoobot import folders
from zoobot import settings as of
from zoobot.errors import FolderError, InputError, SettingsError
from zoobot.galaxies.questions import load_questions
from zoobot.galaxies.tasks import build_task
from zoobot.settings import Settings
from zoobot.stages import catalogs, master_catalog

SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_real_data = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real data is not at {SHARED}")
Custom = Callable[..., Settings]
Catalogs = dict[str, pd.DataFrame]
SMOOTH, FEATURED, ARTIFACT = (f"smooth-or-featured_{a}" for a in ("smooth", "featured-or-disk", "artifact"))
TOTAL = "smooth-or-featured_total-votes"
NAMES = ("labelled", "unlabelled", "mock_labelled", "mock_unlabelled", "oracle")
SMALL = ("catalogs.mock_labelled=5", "shards.eval_size=1", "shards.test_size=1", "shards.source=real")


def galaxies(totals: list[int], **columns: list[Any]) -> pd.DataFrame:
    """Galaxies g0000, g0001, … with so many votes each; a third of them for smooth."""
    ids = [f"g{k:04d}" for k in range(len(totals))]
    smooth = [total // 3 for total in totals]
    featured = [total - k for total, k in zip(totals, smooth, strict=True)]
    fixed = {"id_str": ids, "file_loc": [f"{i}.png" for i in ids], "ra": np.arange(len(ids)) / 7}
    return pd.DataFrame({**fixed, SMOOTH: smooth, FEATURED: featured, ARTIFACT: 0, **columns})


def make(settings: Settings) -> Catalogs:
    master_catalog.run(settings)
    folder = catalogs.run(settings)
    assert folders.verify(folder) == []
    return {name: pd.read_csv(folder / f"{name}.csv", dtype={"id_str": "string"}) for name in NAMES}


def ids(table: pd.DataFrame) -> set[str]:
    return set(table["id_str"])


# --------------------------------------------------------------- by hand


def test_retired_is_more_votes_than_the_rule_says(custom_survey: Custom) -> None:
    made = make(custom_survey(galaxies([35, 36, 37, 38, 0, 90]), *SMALL))
    assert ids(made["labelled"]) == {"g0002", "g0003", "g0005"}
    assert ids(made["unlabelled"]) == {"g0000", "g0001", "g0004"}


def test_labels_are_k_of_n_and_own_columns_stay(custom_survey: Custom) -> None:
    made = make(custom_survey(galaxies([40, 42, 60], mag=[1.5, 2.5, 3.5]), *SMALL))
    labelled = made["labelled"].set_index("id_str").sort_index()
    assert labelled[["label", "total_votes"]].to_numpy().tolist() == [[13, 40], [14, 42], [20, 60]]
    assert labelled["mag"].tolist() == [1.5, 2.5, 3.5] and labelled[TOTAL].tolist() == [40, 42, 60]


def test_unclassified_galaxies_are_unlabelled(custom_survey: Custom) -> None:
    table = galaxies([40, 40, 40]).astype({SMOOTH: float, FEATURED: float, ARTIFACT: float})
    table.loc[1, [SMOOTH, FEATURED, ARTIFACT]] = np.nan
    made = make(custom_survey(table, *SMALL))
    assert ids(made["unlabelled"]) == {"g0001"} and made["labelled"][SMOOTH].tolist() == [13, 13]


def test_filters_apply_to_the_labelled_and_are_counted(custom_survey: Custom) -> None:
    table = galaxies([40, 50, 60, 10])
    s = custom_survey(table, *SMALL, "task.filters=['`smooth-or-featured_smooth` > 15']")
    made = make(s)
    assert ids(made["labelled"]) == {"g0001", "g0002"} and ids(made["unlabelled"]) == {"g0003"}
    assert json.loads((s.catalog_dir / "lost.json").read_text()) == {"`smooth-or-featured_smooth` > 15": 1}


def test_a_tree_keeps_its_vote_columns_and_has_no_label(custom_survey: Custom) -> None:
    table = galaxies([40] * 9, bar_yes=[3] * 9, bar_no=[4] * 9)
    made = make(
        custom_survey(table, *SMALL, "task.name=two", "task.questions=[smooth-or-featured,bar]", "task.label=[]")
    )
    assert "label" not in made["labelled"] and made["labelled"]["bar_total-votes"].tolist() == [7] * 9
    assert list(made["oracle"].columns) == [
        "id_str",
        SMOOTH,
        FEATURED,
        ARTIFACT,
        TOTAL,
        "bar_yes",
        "bar_no",
        "bar_total-votes",
    ]


# --------------------------------------------------------------- nothing leaks


def test_hidden_votes_are_in_the_oracle_alone(custom_survey: Custom) -> None:
    table = galaxies([40] * 30, bar_yes=[3] * 30, bar_no=[1] * 30, p_smooth=[0.1] * 30, dec=[1.0] * 30)
    made = make(custom_survey(table, *SMALL))
    assert list(made["mock_unlabelled"].columns) == ["id_str", "file_loc", "ra", "dec"]
    assert len(made["mock_labelled"]) == 5 and len(made["oracle"]) == 25
    assert ids(made["oracle"]) == ids(made["mock_unlabelled"]) == ids(made["labelled"]) - ids(made["mock_labelled"])
    assert made["oracle"]["id_str"].is_monotonic_increasing


def test_neither_order_nor_split_follows_the_votes(custom_survey: Custom) -> None:
    """A survey sorted by votes: rows of the pool and the galaxies hidden are in no relation to them."""
    n = 400
    table = galaxies(list(range(50, 50 + n)))
    made = make(custom_survey(table, "catalogs.mock_labelled=200", "shards.eval_size=1", "shards.test_size=1"))
    votes = table.set_index("id_str")[SMOOTH]
    for name in ("labelled", "mock_labelled", "mock_unlabelled"):
        order = votes[made[name]["id_str"]].to_numpy()
        assert abs(spearmanr(order, np.arange(len(order))).statistic) < 4 / np.sqrt(len(order))
    hidden = votes.index.isin(made["mock_unlabelled"]["id_str"])
    assert abs(spearmanr(votes, hidden).statistic) < 4 / np.sqrt(n)


def test_the_seed_shuffles_and_nothing_else_does(custom_survey: Custom) -> None:
    table = galaxies([40] * 50)
    order = [
        make(custom_survey(table, *SMALL, f"catalogs.seed={seed}", f"catalogs.name={name}"))["labelled"][
            "id_str"
        ].tolist()
        for seed, name in ((0, "a"), (0, "b"), (1, "c"))
    ]
    assert order[0] == order[1] != order[2] and sorted(order[0]) == sorted(order[2])


@given(
    totals=st.lists(st.integers(0, 80), min_size=2, max_size=40),
    retirement=st.integers(0, 60),
    size=st.integers(3, 30),
)
@hypothesis_settings(max_examples=40, deadline=None)
def test_every_galaxy_is_in_one_catalog(totals: list[int], retirement: int, size: int) -> None:
    questions = load_questions("gz2")
    task = of.TaskSettings("smooth", ["smooth-or-featured"], ["smooth"])
    chosen = Settings(
        task=task,
        survey=of.SurveySettings(name="x", retirement_votes=retirement),
        catalogs=of.CatalogsSettings("c", mock_labelled=size),
        shards=replace(Settings().shards, source="real"),
    )
    master = galaxies(totals, **{TOTAL: totals}).astype(dict.fromkeys((SMOOTH, FEATURED, ARTIFACT, TOTAL), "Int64"))
    n_retired = sum(total > retirement for total in totals)
    if n_retired < 2:
        with pytest.raises(InputError, match=f"{n_retired} of {len(totals)} have more than"):
            catalogs.split(master, questions, build_task(task, questions), chosen)
        return
    found, lost = catalogs.split(master, questions, build_task(task, questions), chosen)
    made = {name: pd.concat(list(catalog.parts())) for name, catalog in found.items()}
    assert len(made["labelled"]) == n_retired and lost == {}
    assert sorted([*made["labelled"]["id_str"], *made["unlabelled"]["id_str"]]) == sorted(master["id_str"])
    assert [*made["mock_labelled"]["id_str"], *made["mock_unlabelled"]["id_str"]] == made["labelled"]["id_str"].tolist()
    assert set(made["oracle"]["id_str"]) == set(made["mock_unlabelled"]["id_str"])


# --------------------------------------------------------------- refused, warned of, or done already


def test_again_does_nothing_and_changes_are_refused(custom_survey: Custom, caplog: pytest.LogCaptureFixture) -> None:
    table = galaxies([40] * 9)
    s = custom_survey(table, *SMALL)
    made = make(s)
    caplog.set_level("INFO")
    assert make(s)["labelled"].equals(made["labelled"]) and caplog.text.count("nothing to do") == 2
    changed = custom_survey(table, *SMALL, "survey.retirement_votes=39", "catalogs.mock_labelled=6")
    with pytest.raises(FolderError) as caught:
        catalogs.run(changed)
    assert "survey.retirement_votes: 36 there, 39 now" in str(caught.value)
    assert "catalogs.mock_labelled: 5 there, 6 now" in str(caught.value)
    path = master_catalog.catalog_path(s)
    path.write_text(path.read_text().replace("g0000", "h0000"))
    with pytest.raises(FolderError, match="input master_catalog: it has changed since"):
        catalogs.run(s)


def test_without_a_master_catalog(custom_survey: Custom) -> None:
    with pytest.raises(InputError, match=r"mine_master_catalog\.csv is missing.*stage=master_catalog"):
        catalogs.run(custom_survey(galaxies([40]), *SMALL))


def test_nobody_is_retired(custom_survey: Custom) -> None:
    s = custom_survey(galaxies([20, 30, 10]), *SMALL)
    master_catalog.run(s)
    with pytest.raises(InputError) as caught:
        catalogs.run(s)
    assert "0 of 3 have more than survey.retirement_votes=36 votes" in str(caught.value)
    assert "half of all galaxies have 20 or more" in str(caught.value) and not s.catalog_dir.exists()


def test_a_task_that_does_not_fit(custom_survey: Custom) -> None:
    s = custom_survey(galaxies([40] * 9), *SMALL, "task.questions=[merging]")
    with pytest.raises(SettingsError, match=r"it has no question merging\. Its questions are"):
        catalogs.run(s)
    s = custom_survey(galaxies([40] * 9), *SMALL, "task=bar")
    master_catalog.run(s)
    with pytest.raises(InputError, match=r"has no column bar_yes, bar_no, which task bar learns from"):
        catalogs.run(s)


def test_sizes_that_leave_nothing_to_hide_are_refused_with_some_that_fit(custom_survey: Custom) -> None:
    mock = "shards.source=mock"
    few = custom_survey(galaxies([40] * 5), *SMALL, mock)
    master_catalog.run(few)
    with pytest.raises(
        InputError, match=r"only 5 galaxies are labelled: none are left for a simulation to hide\. For live"
    ):
        catalogs.run(few)
    assert not few.catalog_dir.exists()
    catalogs.run(replace(few, shards=replace(few.shards, source="real")))
    more = custom_survey(galaxies([40] * 40), "catalogs.mock_labelled=40", *SMALL[1:], mock, "survey.name=more")
    master_catalog.run(more)
    with pytest.raises(InputError) as caught:
        catalogs.run(more)
    fitting = str(caught.value).partition("These sizes fit: ")[2].partition(". ")[0].split()
    made = make(custom_survey(galaxies([40] * 40), *fitting, "survey.name=more"))
    assert len(made["oracle"]) == 40 - catalogs.sizes_that_fit(40)["catalogs.mock_labelled"] > 10


def test_a_column_of_the_survey_that_the_task_writes_is_reported(
    custom_survey: Custom, caplog: pytest.LogCaptureFixture
) -> None:
    make(custom_survey(galaxies([40] * 9, label=["x"] * 9), *SMALL))
    assert "the task's column label replaces the survey's" in caplog.text


def test_quick_takes_a_few_galaxies_of_a_large_survey(custom_survey: Custom, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    made = make(custom_survey(galaxies([40] * 300 + [3] * 200), *SMALL, "quick=true"))
    assert (len(made["labelled"]), len(made["unlabelled"]), len(made["oracle"])) == (160, 160, 155)
    for beyond in ("140 labelled", "40 unlabelled"):
        assert f"left out by catalogs.max_galaxies=160: {beyond} galaxies" in caplog.text


# --------------------------------------------------------------- real data


@needs_real_data
def test_real_gz2_bars_and_tree(settings: Custom, tmp_path: Path) -> None:
    place = ("survey=gz2", f"survey.folder={SHARED}/realdata/gz2", "survey.samples=[]", "stage=catalogs")
    made = make(settings(*place, *SMALL, "task=bar"))
    bars = made["labelled"]
    assert len(bars) == 36 and (bars["label"] == bars["bar_yes"]).all()
    assert (bars["total_votes"] > 10).all() and (bars["total_votes"] == bars["bar_total-votes"]).all()
    assert (bars[FEATURED] / bars[TOTAL] > 0.5).all()
    assert (bars["disk-edge-on_yes"] / bars["disk-edge-on_total-votes"] < 0.5).all()
    tree = make(settings(*place, *SMALL, "task=gz2_tree"))
    assert len(tree["labelled"]) + len(tree["unlabelled"]) == 493 and "label" not in tree["labelled"]


@needs_real_data
def test_real_stripe_82_at_size(settings: Custom) -> None:
    place = ("stage=catalogs", "survey=gz2", "survey.catalog=gz2_stripe82_votes_19761.csv.gz",
             f"survey.folder={SHARED}/catalogs", "survey.samples=[stripe82_c]")  # fmt: skip
    with pytest.raises(InputError, match=r"0 of 19761 have more than survey\.retirement_votes=400"):
        make(settings(*place, "survey.retirement_votes=400", "oracle.votes_per_galaxy=500"))
    lower = ("survey.retirement_votes=15", "catalogs.name=lower")
    made = make(settings(*place, *lower))
    assert len(made["labelled"]) + len(made["unlabelled"]) == 19_761
    assert (made["labelled"]["total_votes"] > 15).all() and not (made["unlabelled"][TOTAL] > 15).any()
    assert made["labelled"]["id_str"].str.fullmatch(r"dr7objid_\d{19}").all()


@needs_real_data
def test_real_sdss(settings: Custom) -> None:
    place = ("survey=custom", "survey.name=sdss", f"survey.folder={SHARED}/realdata/sdss", "survey.retirement_votes=0")
    made = make(settings("stage=catalogs", *place))
    assert {name: len(table) for name, table in made.items()} == {
        "labelled": 2665, "unlabelled": 1035, "mock_labelled": 800, "mock_unlabelled": 1865, "oracle": 1865,
    }  # fmt: skip
    assert set(made["labelled"]["label"]) == {0, 1} and set(made["labelled"]["total_votes"]) == {1}
