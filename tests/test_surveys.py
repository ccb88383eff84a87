"""Survey tables: each kind as it is read, ids as text, votes joined by name, and tables that cannot be used."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from zoobot import folders
from zoobot.errors import FolderError, InputError
from zoobot.galaxies import cells, demo
from zoobot.galaxies.questions import load_questions
from zoobot.galaxies.surveys import _GZ2_VOTES, read_subjects, read_survey
from zoobot.galaxies.tables import read_table
from zoobot.settings import Settings

SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_real_data = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real data is not at {SHARED}")
Compose = Callable[..., Settings]
ROOT = ("smooth-or-featured_smooth", "smooth-or-featured_featured-or-disk", "smooth-or-featured_artifact")
LONG_ID = "587739505552785605"  # not a float: 587739505552785664


def read(settings: Settings) -> tuple[pd.DataFrame, dict[str, int], list[Path]]:
    table = read_survey(settings, load_questions(settings.survey.questions))
    return table.rows, table.excluded, table.sources


def numbers(table: pd.DataFrame, columns: Sequence[str]) -> list[list[float]]:
    return table[list(columns)].apply(cells.numbers).to_numpy().tolist()


# --------------------------------------------------------------- tables


@given(ids=st.lists(st.text("0123456789", min_size=1, max_size=20), min_size=1, max_size=5))
@hypothesis_settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ids_come_back_as_they_were_written(ids: list[str], tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    columns = ("id_str", "dr7objid", "iauname", "subject_id", "file_loc")
    pd.DataFrame(dict.fromkeys(columns, ids)).to_csv(path, index=False)
    assert all(read_table(path)[column].tolist() == ids for column in columns)


@pytest.mark.parametrize(
    "content, said",
    [
        (None, "does not exist. Set survey.folder"),
        (b"", "is not a readable CSV table"),
        (b"id_str,file_loc\n", "has no rows"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "is not a readable CSV table"),
        (b"id_str,file_loc\na,b,c\n", "is not a readable CSV table"),
    ],
)
def test_a_table_that_is_none(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_table(path)


def test_a_fits_table_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "t.fits"
    path.write_bytes(b"SIMPLE  =                    T" + b" " * 100)
    with pytest.raises(InputError, match="is not a readable FITS table"):
        read_table(path)


def test_ids_in_fits_are_text_whether_bytes_or_whole_numbers(tmp_path: Path) -> None:
    path = tmp_path / "t.fits"
    columns = {"iauname": np.array([b"J0001", b"J0002"]), "dr7objid": np.array([int(LONG_ID), 12]), "x": [0.5, 1.5]}
    Table({**columns, "flux": np.zeros((2, 5))}).write(path)
    table = read_table(path)
    assert table["iauname"].tolist() == ["J0001", "J0002"] and table["dr7objid"].tolist() == [LONG_ID, "12"]
    assert table["x"].tolist() == [0.5, 1.5] and "flux" not in table, "a column of arrays is left out"


def test_ids_that_were_stored_as_floats_are_refused(tmp_path: Path) -> None:
    Table({"dr7objid": np.array([float(LONG_ID)])}).write(tmp_path / "t.fits")
    with pytest.raises(InputError, match=r"dr7objid.* numbers with a fraction"):
        read_table(tmp_path / "t.fits")


# --------------------------------------------------------------- demo


def test_demo_galaxies_are_drawn_once(settings: Compose) -> None:
    s = settings("stage=master_catalog", "survey.n_galaxies=4", "survey.draw_size_px=24", "survey.draw_seed=5")
    table, excluded, files = read(s)
    third = demo.draw(2, 5, 24)
    assert table["id_str"].tolist() == [f"demo_{n:06d}" for n in range(4)] and excluded == {}
    assert numbers(table, list(third.votes))[2] == list(third.votes.values())
    with Image.open(s.image_path(table.loc[2, "file_loc"])) as picture:
        assert (np.asarray(picture) == third.image).all()
    drawn_at = files[0].stat().st_mtime_ns
    assert read(s)[0].equals(table) and files[0].stat().st_mtime_ns == drawn_at
    assert folders.verify(files[0].parent) == []


def test_other_demo_galaxies_of_the_same_name_are_refused(settings: Compose) -> None:
    read(settings("stage=master_catalog", "survey.n_galaxies=1"))
    with pytest.raises(FolderError, match=r"survey\.n_galaxies: 1 there, 2 now"):
        read(settings("stage=master_catalog", "survey.n_galaxies=2"))


# --------------------------------------------------------------- gz2


def gz2_table(**columns: list[object]) -> pd.DataFrame:
    """Two galaxies; in the second, the k-th count of the source's columns is k."""
    counts = {f"{source}_count": [0, k] for k, source in enumerate(_GZ2_VOTES)}
    fixed = {"dr7objid": [LONG_ID, "0012"], "png_loc": ["a.png", "b.png"], "sample": ["original", "extra"]}
    return pd.DataFrame({**fixed, "ra_subject": [1.5, 2.5], "dec_subject": [-1.0, 1.0], **counts, **columns})


def gz2(settings: Compose, tmp_path: Path, table: pd.DataFrame, *overrides: str) -> Settings:
    table.to_csv(tmp_path / "gz2.csv", index=False)
    place = ("survey.catalog=gz2.csv", f"survey.folder={tmp_path}")
    return settings("stage=master_catalog", "survey=gz2", *place, *overrides)


def test_gz2_columns(settings: Compose, tmp_path: Path) -> None:
    source = gz2_table(t08_odd_feature_a19_ring_count=[1, 1], petro=[1, 2], ra=[9, 9])
    table, excluded, _ = read(gz2(settings, tmp_path, source, "survey.samples=[]"))
    assert table["id_str"].tolist() == [f"dr7objid_{LONG_ID}", "dr7objid_0012"] and excluded == {}
    second = table.iloc[1]
    assert second["file_loc"] == "b.png" and second["ra"] == "2.5" and second["dec"] == "1.0" and second["petro"] == "2"
    assert "t08_odd_feature_a19_ring_count" not in table
    chosen = ["smooth-or-featured_smooth", "bar_no", "bulge-size_no", "spiral-count_1"]
    assert second[chosen].tolist() == ["0", "6", "9", "24"]
    answers = {c for q in load_questions("gz2") for c in q.columns}
    assert set(_GZ2_VOTES.values()) == answers, "every answer of the question set has its source"
    assert sorted(map(int, second[list(answers)])) == list(range(30))


def test_gz2_keeps_the_original_sample_and_counts_the_rest(settings: Compose, tmp_path: Path) -> None:
    table, excluded, _ = read(gz2(settings, tmp_path, gz2_table()))
    assert table["dr7objid"].tolist() == [LONG_ID] and excluded == {"`sample` is not original": 1}
    with pytest.raises(InputError, match=r"no row whose `sample` is stripe82_c; it has extra, original"):
        read(gz2(settings, tmp_path, gz2_table(), "survey.samples=[stripe82_c]"))


@pytest.mark.parametrize("column", ["dr7objid", "png_loc", "sample", "t03_bar_a06_bar_count"])
def test_gz2_without_a_column(column: str, settings: Compose, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"gz2\.csv has no column {column}\. It has:"):
        read(gz2(settings, tmp_path, gz2_table().drop(columns=column)))


# --------------------------------------------------------------- decals


JOINT = pd.DataFrame(
    {
        "iauname": ["J1", "J2", "J3", "J4"], "png_loc": ["1.png", "2.png", "3.png", "4.png"],
        "ra_nsa": [1.0, 2.0, 3.0, 4.0], "dec_nsa": [0.0] * 4, "z": [0.1] * 4, "png_ready": [True, True, False, True],
    }
)  # fmt: skip
VOTES = pd.DataFrame(
    [("J1", "01", 3, 1, 0), ("J1", "02", 2, 2, 1), ("J4", "03", 0, 5, 0), ("J9", "04", 9, 9, 9), (None, "05", 1, 1, 1)],
    columns=["iauname", "subject_id", *ROOT],
)  # fmt: skip


def decals(
    settings: Compose,
    tmp_path: Path,
    joint: pd.DataFrame = JOINT,
    votes: pd.DataFrame | None = VOTES,
    name: str = "j.csv",
) -> Settings:
    overrides = []
    if votes is not None:
        votes.to_csv(tmp_path / "votes.csv", index=False)
        overrides = ["survey.classifications=votes.csv"]
    if name.endswith(".fits"):
        texts = ("iauname", "png_loc")
        columns = {c: joint[c].to_numpy(dtype=str).astype("S") if c in texts else joint[c].to_numpy() for c in joint}
        Table(columns).write(tmp_path / name, overwrite=True)
    else:
        joint.to_csv(tmp_path / name, index=False)
    return settings("stage=master_catalog", "survey=decals", f"survey.catalog={name}", f"survey.folder={tmp_path}",
                    "max_dropped_fraction=0.5", *overrides)  # fmt: skip


@pytest.mark.parametrize("name", ["j.csv", "j.csv.gz", "j.fits"])
def test_decals_votes_are_joined_by_name_and_added(name: str, settings: Compose, tmp_path: Path) -> None:
    table, excluded, files = read(decals(settings, tmp_path, name=name))
    assert table["id_str"].tolist() == table["iauname"].tolist() == ["J1", "J2", "J4"]
    assert table["file_loc"].tolist() == ["1.png", "2.png", "4.png"] and numbers(table, ["ra"]) == [[1.0], [2.0], [4.0]]
    assert "redshift" in table and "z" not in table
    expected = [[5, 3, 1], [np.nan] * 3, [0, 5, 0]]
    assert np.array_equal(table[list(ROOT)].to_numpy(dtype=float), expected, equal_nan=True)
    assert excluded == {"png_ready is false": 1, "classified galaxies that are not in the catalog": 2}
    assert [file.name for file in files] == [name, "votes.csv"]


def test_decals_joins_whatever_the_order(settings: Compose, tmp_path: Path) -> None:
    one = read(decals(settings, tmp_path))[0].set_index("id_str")
    other = read(decals(settings, tmp_path, JOINT.iloc[::-1], VOTES.iloc[::-1]))[0].set_index("id_str")
    pd.testing.assert_frame_equal(other.loc[one.index], one)


def test_a_subject_counts_once_and_contradictions_are_refused(settings: Compose, tmp_path: Path) -> None:
    twice = pd.concat([VOTES, VOTES.iloc[:1]])
    table, *_ = read(decals(settings, tmp_path, votes=twice))
    assert table.loc[0, list(ROOT)].tolist() == [5, 3, 1]
    contradiction = pd.concat([VOTES, VOTES.iloc[:1].assign(**{ROOT[0]: 7})])
    with pytest.raises(InputError, match="different rows for the same subject_id: 01"):
        read(decals(settings, tmp_path, votes=contradiction))


def test_decals_votes_that_are_no_counts_stay_visible(settings: Compose, tmp_path: Path) -> None:
    votes = VOTES.astype({ROOT[0]: object})
    votes.loc[0, ROOT[0]] = "many"
    table, *_ = read(decals(settings, tmp_path, votes=votes))
    assert table[ROOT[0]].tolist()[0] == "no count" and table[ROOT[0]].tolist()[2] == 0


def test_decals_without_classifications_says_so(
    settings: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table, *_ = read(decals(settings, tmp_path, votes=None))
    assert table[list(ROOT)].isna().all(axis=None)
    assert "no classifications (survey.classifications, or stage=reduce): every galaxy is unlabelled" in caplog.text


def test_decals_finds_what_the_reduction_wrote(settings: Compose, tmp_path: Path) -> None:
    s = decals(settings, tmp_path, votes=None)
    (s.survey_dir / "classifications").mkdir(parents=True)
    VOTES.to_csv(s.survey_dir / "classifications" / "classifications.csv", index=False)
    assert read(s)[0].loc[0, list(ROOT)].tolist() == [5, 3, 1]


@pytest.mark.parametrize(
    "joint, votes, said",
    [
        (JOINT.drop(columns="iauname"), VOTES, r"j\.csv has no column iauname"),
        (JOINT.drop(columns="png_loc"), VOTES, r"none of the columns file_loc, png_loc, fits_loc"),
        (JOINT, VOTES.drop(columns="iauname"), r"votes\.csv has no column iauname"),
        (JOINT, VOTES.drop(columns=list(ROOT)), r"votes\.csv has no vote column of the survey's questions"),
    ],
)
def test_decals_without_a_column(
    joint: pd.DataFrame, votes: pd.DataFrame, said: str, settings: Compose, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        read(decals(settings, tmp_path, joint, votes))


# --------------------------------------------------------------- custom


@pytest.mark.parametrize("column", ["id_str", "file_loc"])
def test_custom_needs_ids_and_pictures(column: str, custom_survey: Compose) -> None:
    table = pd.DataFrame({"id_str": ["a"], "file_loc": ["a.png"], "mag": [17.5]})
    assert read(custom_survey(table))[0].equals(table.astype("string"))
    with pytest.raises(InputError, match=f"has no column {column}"):
        read(custom_survey(table.drop(columns=column)))


# --------------------------------------------------------------- real data


def subject_export(path: Path, ids: list[str]) -> Path:
    rows = {"subject_id": ids, "metadata": [json.dumps({"id_str": f"g{row}"}) for row in range(len(ids))]}
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def test_ids_in_a_subject_export_may_be_written_as_floats(tmp_path: Path) -> None:
    table = read_subjects(subject_export(tmp_path / "subjects.csv", ["100.0", "7", " 011"]))
    assert table.to_dict("list") == {"subject_id": ["100", "7", "11"], "id_str": ["g0", "g1", "g2"]}
    again = read_subjects(subject_export(tmp_path / "twice.csv", ["100.0", "100"]))
    assert again["subject_id"].tolist() == ["100"]


@pytest.mark.parametrize(
    ("id_", "said"), [("100.5", "100.5"), ("1.1E+9", "1.1E+9"), ("x", "x"), ("", "nothing"), ("0", "0"), ("-3", "-3")]
)
def test_an_id_that_is_none_is_refused_with_its_file_column_and_row(tmp_path: Path, id_: str, said: str) -> None:
    path = subject_export(tmp_path / "subjects.csv", ["7", id_, "8"])
    message = f"{path}: column subject_id, row 2: {said} is no id of a subject (1 of 3 rows)"
    with pytest.raises(InputError, match=re.escape(message)):
        read_subjects(path)


@needs_real_data
def test_real_gz2(settings: Compose) -> None:
    s = settings("stage=master_catalog", "survey=gz2", f"survey.folder={SHARED}/realdata/gz2", "survey.samples=[]")
    table, *_ = read(s)
    first = table[table["id_str"] == f"dr7objid_{LONG_ID}"].iloc[0]
    assert len(table) == 493 and first[list(ROOT)].tolist() == ["27", "10", "1"]
    assert all(s.image_path(loc).is_file() for loc in table["file_loc"])


@needs_real_data
def test_real_stripe_82_is_no_original_sample(settings: Compose) -> None:
    place = ("survey.catalog=gz2_stripe82_votes_19761.csv.gz", f"survey.folder={SHARED}/catalogs")
    with pytest.raises(InputError, match="no row whose `sample` is original; it has stripe82_c"):
        read(settings("stage=master_catalog", "survey=gz2", *place))
    table, excluded, _ = read(settings("stage=master_catalog", "survey=gz2", *place, "survey.samples=[stripe82_c]"))
    assert len(table) == table["id_str"].nunique() == 19_761 and sum(excluded.values()) == 0


@needs_real_data
def test_real_decals_joint_catalog(settings: Compose, tmp_path: Path) -> None:
    VOTES.assign(iauname="J094713.63+003956.2").to_csv(tmp_path / "votes.csv", index=False)
    place = ("survey.catalog=joint_catalog_790.fits", f"survey.folder={SHARED}/realdata/decals")
    table, excluded, _ = read(
        settings("stage=master_catalog", "survey=decals", *place, f"survey.classifications={tmp_path}/votes.csv")
    )
    assert excluded == {"png_ready is false": 0, "fits_filled is false": 84,
                        "classified galaxies that are not in the catalog": 0}  # fmt: skip
    assert len(table) == table["id_str"].nunique() == 790 - 84
    assert table["id_str"].str.fullmatch(r"J\d{6}\.\d{2}[+-]\d{6}\.\d").all()
    voted = table[table[ROOT[0]].notna()]
    assert voted[["id_str", *ROOT]].to_numpy().tolist() == [["J094713.63+003956.2", 15, 18, 11]]
