"""Surveys as people have them: their ids, paths, votes and joins, the published tables, and the shared cases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from zoobot.errors import InputError, SettingsError
from zoobot.galaxies import templates
from zoobot.galaxies.questions import load_questions
from zoobot.galaxies.tables import read_table
from zoobot.settings import Settings
from zoobot.stages import catalogs, master_catalog, shards

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases" / "images"
REAL = CASES.parents[1] / "realdata"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason=f"the shared cases are not at {CASES}")
Compose = Callable[..., Settings]
SMOOTH, FEATURED, ARTIFACT = (f"smooth-or-featured_{a}" for a in ("smooth", "featured-or-disk", "artifact"))
ANSWERS = [SMOOTH, FEATURED, ARTIFACT]
TOTAL = "smooth-or-featured_total-votes"
SMALL = ("catalogs.mock_labelled=5", "shards.eval_size=1", "shards.test_size=1", "shards.source=real")


def galaxies(n: int = 9, **columns: object) -> pd.DataFrame:
    fixed = {"id_str": [f"g{k}" for k in range(n)], "file_loc": [f"g{k}.png" for k in range(n)]}
    return pd.DataFrame({**fixed, SMOOTH: 20, FEATURED: 20, ARTIFACT: 0, **columns})


def master(settings: Settings) -> pd.DataFrame:
    return read_table(master_catalog.run(settings))


def draw(folder: Path, n: int = 9) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(n):
        Image.new("RGB", (16, 16), (k, 0, 0)).save(folder / f"g{k}.png")


# --------------------------------------------------------------- ids and kept columns


def test_kept_columns_keep_their_text_into_the_catalogs(custom_survey: Compose) -> None:
    objid = ["587739505552785605", None, *["12"] * 7]
    plate = [f"0{k}" for k in range(9)]
    s = custom_survey(galaxies(objid=objid, plate=plate, mag=["17.50"] * 9), *SMALL)
    table = master(s).set_index("id_str")
    assert table["objid"].fillna("").tolist()[:3] == [objid[0], "", "12"]
    catalogs.run(s)
    labelled = read_table(s.catalog_dir / "labelled.csv").set_index("id_str").loc[[f"g{k}" for k in range(9)]]
    assert labelled["plate"].tolist() == plate and set(labelled["mag"]) == {"17.50"}


@pytest.mark.parametrize(
    "expression, kept",
    [
        ("mag < 17.5", 4), ("plate > '0265'", 9), ("plate >= 266", 5), ("`mag r` > 3 and kind == 'disk'", 5),
        ("kind == 'disk' or mag > 99", 9), ("kind in ['disk']", 9), ("ok", 4), ("not ok", 5), ("'0265' < plate", 9),
        (f"`{SMOOTH}` / `{TOTAL}` > 0.4", 9), ("gap > 0", 8), ("gap != 3", 8),
    ],
)  # fmt: skip
def test_filters_read_numbers_where_they_need_them(expression: str, kept: int, custom_survey: Compose) -> None:
    columns = {"mag": [17.0 + k / 8 for k in range(9)], "plate": ["0266"] * 5 + ["1"] * 4, "mag r": range(9),
               "kind": "disk", "ok": [True, False] * 4 + [False], "gap": [None, *range(1, 9)]}  # fmt: skip
    s = custom_survey(galaxies(**columns), *SMALL, f'task.filters=["{expression}"]')
    master_catalog.run(s)
    catalogs.run(s)
    assert len(read_table(s.catalog_dir / "labelled.csv")) == kept


def test_a_filter_says_which_cells_are_no_numbers(custom_survey: Compose) -> None:
    s = custom_survey(galaxies(mag=["17", "bad", *["18"] * 7]), *SMALL, "task.filters=['mag < 18']")
    master_catalog.run(s)
    with pytest.raises(SettingsError, match="mag has 1 cells that are no numbers, such as 'bad'"):
        catalogs.run(s)


def test_spoilt_ids_are_refused_and_a_few_are_dropped(custom_survey: Compose) -> None:
    with pytest.raises(InputError, match=r"none of its 9 rows can be used.*rounded number: a spreadsheet or pandas"):
        master(custom_survey(galaxies(id_str=[f"1.2376{k}E+18" for k in range(9)])))
    one = galaxies(id_str=["1.2E+18", *[f"g{k}" for k in range(8)]])
    with pytest.raises(InputError, match=r"1 of 9 rows cannot be used.*1\.2E\+18: this id_str is a rounded number"):
        master(custom_survey(one))
    assert len(master(custom_survey(one, "max_dropped_fraction=0.2"))) == 8


def test_a_galaxy_may_be_called_na(custom_survey: Compose) -> None:
    names = ["NA", "nan", "None", "null", "N/A", "NaN", "<NA>", "-", "NULL"]
    s = custom_survey(galaxies(id_str=names), *SMALL)
    assert master(s)["id_str"].tolist() == names
    catalogs.run(s)
    assert sorted(read_table(s.catalog_dir / "labelled.csv")["id_str"]) == sorted(names)


def test_a_vote_may_be_missing_in_every_way(custom_survey: Compose) -> None:
    missing = ["NA", "nan", "", "NULL", "--", "N/A", "None", "<NA>", "\\N"]
    made = master(custom_survey(galaxies(**dict.fromkeys(ANSWERS, missing))))
    assert made[ANSWERS].isna().all(axis=None)


# --------------------------------------------------------------- templates and paths


def test_templates_by_hand() -> None:
    table = pd.DataFrame({"a": ["12", "3"], "b": pd.array([-5, None], dtype="Int64"), "name": ["J001+2", "J9"]})

    def made(text: str) -> list[str]:
        return list(templates.made(text, table, Path("t"), "survey.id_str").fillna(""))

    assert made("a") == ["12", "3"] and made("x/{name:.2}/{name}.png") == ["x/J0/J001+2.png", "x/J9/J9.png"]
    assert made("{a}_{b:neg}") == ["12_NEG5", ""], "missing where a column is"
    with pytest.raises(InputError, match=r"t has no column c\..*survey\.id_str=\{c\} needs it"):
        made("{c}")
    for wrong in ("{a:>3}", "{a"):
        with pytest.raises(SettingsError, match=r"survey\.id_str="):
            made(wrong)
    with pytest.raises(InputError, match="x holds numbers with a fraction"):
        templates.made("{x}", pd.DataFrame({"x": [1.5]}), Path("t"), "survey.id_str")


def test_ids_and_pictures_by_a_template(custom_survey: Compose) -> None:
    table = galaxies(brick=["0012"] * 9, obj=range(9), RA=["10.50"] * 9, DEC=1).drop(columns=["id_str", "file_loc"])
    with pytest.raises(InputError, match=r"has no column id_str.*Or name the column that has it: survey\.id_str="):
        master(custom_survey(table))
    chosen = ("survey.id_str='{brick}_{obj}'", "survey.file_loc='png/{obj}.png'")
    made = master(custom_survey(table, *chosen))
    assert made["id_str"].tolist()[1] == "0012_1" and made["file_loc"].tolist()[1] == "png/1.png"
    assert made["ra"].tolist()[0] == "10.50" and made["brick"].tolist()[0] == "0012"


@pytest.mark.parametrize("old", ["/Data/repos/x y/pictures/", "C:\\data\\pictures\\"])
def test_paths_of_another_machine(
    old: str, custom_survey: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    draw(tmp_path / "survey" / "J0")
    inside = "J0\\" if "\\" in old else "J0/"
    table = galaxies(file_loc=[f"{old}{inside}g{k}.png" for k in range(9)])
    master(custom_survey(table))
    prefix = old.replace("\\", "/").rstrip("/")
    assert f"They lie there without the beginning of their path: set survey.path_prefix='{prefix}'." in caplog.text
    caplog.clear()
    s = custom_survey(table, f"survey.path_prefix='{prefix}'", "survey.name=moved")
    assert master(s)["file_loc"].tolist()[0] == "J0/g0.png" and "missing" not in caplog.text
    with pytest.raises(InputError, match=r"no file_loc begins with survey\.path_prefix=/wrong/; the first is"):
        master(custom_survey(table, "survey.path_prefix=/wrong", "survey.name=wrong"))


def test_pictures_in_another_folder_or_of_another_kind(
    custom_survey: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    draw(tmp_path / "survey" / "png")
    s = custom_survey(galaxies(), *SMALL, "shards.source=mock")
    master(s)
    assert "is there: set survey.file_loc='png/{file_loc}'" in caplog.text
    catalogs.run(s)
    with pytest.raises(InputError, match=r"9 of 9 images are missing.*is there: set survey\.file_loc="):
        shards.run(s)
    made = master(custom_survey(galaxies(), "survey.file_loc='png/{file_loc}'", "survey.name=b"))
    assert made["file_loc"].tolist()[0] == "png/g0.png"
    master(custom_survey(galaxies(file_loc=[f"png/g{k}.fits" for k in range(9)]), "survey.name=c"))
    assert "instead of png/g" in caplog.text
    caplog.clear()
    draw(tmp_path / "survey" / "part1" / "J0")
    master(custom_survey(galaxies(file_loc=[f"J0/g{k}.png" for k in range(9)]), "survey.name=d"))
    assert "set survey.file_loc='part1/{file_loc}'" in caplog.text


# --------------------------------------------------------------- votes of another table


def joined(custom_survey: Compose, tmp_path: Path, votes: pd.DataFrame, *more: str) -> Settings:
    table = galaxies().drop(columns=ANSWERS)
    s = custom_survey(table, "survey.classifications=votes.csv", *more)
    votes.to_csv(tmp_path / "survey" / "votes.csv", index=False)
    return s


def test_votes_of_another_table_are_joined(custom_survey: Compose, tmp_path: Path) -> None:
    votes = galaxies().drop(columns="file_loc").iloc[::-1]
    table = master(joined(custom_survey, tmp_path, votes.assign(**{SMOOTH: range(9)})))
    assert table[SMOOTH].astype(int).tolist() == list(range(8, -1, -1))


def test_a_join_that_loses_votes_is_an_error(custom_survey: Compose, tmp_path: Path) -> None:
    votes = galaxies().drop(columns="file_loc")
    odd = votes.assign(id_str="SDSS " + votes["id_str"])
    with pytest.raises(InputError) as caught:
        master(joined(custom_survey, tmp_path, odd, "max_dropped_fraction=1"))
    assert "9 of 9 classified galaxies are not in catalog.csv: all of the votes would be lost" in str(caught.value)
    assert "in the votes: 'SDSS g0', 'SDSS g1', 'SDSS g2'; in the survey: 'g0', 'g1', 'g2'" in str(caught.value)
    one = votes.assign(id_str=["x", *votes["id_str"][1:]])
    with pytest.raises(InputError, match=r"1 of 9 .* more than max_dropped_fraction=0\.01 of the votes would be lost"):
        master(joined(custom_survey, tmp_path, one))
    assert master(joined(custom_survey, tmp_path, one, "max_dropped_fraction=0.2"))[SMOOTH].isna().sum() == 1


def test_joined_fractions_are_no_counts(custom_survey: Compose, tmp_path: Path) -> None:
    votes = galaxies(**{SMOOTH: 0.25, FEATURED: 0.75}).drop(columns="file_loc")
    with pytest.raises(InputError, match="fractions that sum to 1"):
        master(joined(custom_survey, tmp_path, votes))
    made = master(joined(custom_survey, tmp_path, votes.assign(**{TOTAL: 40})))
    assert set(made[SMOOTH]) == {"10"} and set(made[TOTAL]) == {"40"}


def test_a_survey_without_votes_is_unlabelled_only_if_told(
    custom_survey: Compose, caplog: pytest.LogCaptureFixture
) -> None:
    table = galaxies(**{f"{SMOOTH}_fraction": 0.25}).drop(columns=ANSWERS)
    with pytest.raises(InputError, match=r"published fractions are no votes.*survey\.classifications=none"):
        master(custom_survey(table))
    made = master(custom_survey(table, "survey.classifications=none"))
    assert made[TOTAL].isna().all() and "every galaxy is unlabelled" in caplog.text


# --------------------------------------------------------------- votes that are no counts


@pytest.mark.parametrize(
    "columns, said",
    [
        ({SMOOTH: 0.25, FEATURED: 0.5, ARTIFACT: 0.25}, "fractions that sum to 1, such as 0.25, 0.5, 0.25.*a column"),
        ({SMOOTH: 25.5, FEATURED: 50.5, ARTIFACT: 24}, "percentages that sum to 100"),
        ({SMOOTH: 12.37, FEATURED: 20.11, ARTIFACT: 0.2}, "are weights, such as 12.37, 20.11, 0.2: no counts"),
        ({SMOOTH: 0.243, FEATURED: 0.501, ARTIFACT: 0.256, TOTAL: 40}, "they are weighted, debiased or predicted"),
    ],
)
def test_fractions_and_weights_do_not_pass_for_counts(
    columns: dict[str, float], said: str, custom_survey: Compose
) -> None:
    with pytest.raises(InputError, match=rf"the (votes|fractions) for smooth-or-featured.*{said}"):
        master(custom_survey(galaxies(**columns)))


@pytest.mark.parametrize("decimals", [2, 4, 12])
@pytest.mark.parametrize("suffix, whole", [("", 1), ("", 100), ("_fraction", 1)])
def test_fractions_with_totals_become_the_counts_that_they_were(
    decimals: int, suffix: str, whole: int, custom_survey: Compose
) -> None:
    counts = galaxies(**{SMOOTH: [7, 0, 13, 40, 1, 2, 3, 4, 5], FEATURED: 13, ARTIFACT: 1})
    total = counts[ANSWERS].sum(axis=1)
    fractions = counts[ANSWERS].div(total, axis=0).mul(whole).round(decimals).add_suffix(suffix)
    table = pd.concat([counts[["id_str", "file_loc"]], fractions], axis=1).assign(**{TOTAL: total})
    made = master(custom_survey(table))
    assert made[ANSWERS].astype(int).to_numpy().tolist() == counts[ANSWERS].to_numpy().tolist()


def test_a_fraction_that_is_none_of_its_total_is_dropped(custom_survey: Compose) -> None:
    table = galaxies(**{SMOOTH: 0.25, FEATURED: 0.75, ARTIFACT: 0.0, TOTAL: 40})
    table.loc[2, TOTAL] = 37
    with pytest.raises(InputError, match="g2: the fractions for smooth-or-featured are none of smooth-or-featured_tot"):
        master(custom_survey(table))


def test_consensus_labels_say_what_to_set(custom_survey: Compose) -> None:
    s = custom_survey(galaxies(**{SMOOTH: [1, 0] * 4 + [1], FEATURED: [0, 1] * 4 + [0]}), *SMALL)
    master(s)
    with pytest.raises(InputError, match=r"retirement_votes=0 oracle=known acquisition\.expected_votes=1"):
        catalogs.run(s)
    table = galaxies(label=["smooth", "artifact", *["smooth"] * 7]).drop(columns=ANSWERS)
    with pytest.raises(InputError, match="label holds answers as text: write a column of 0 and 1"):
        master(custom_survey(table, "survey.name=text"))


# --------------------------------------------------------------- published tables, small copies by their columns


def published(fractions_only: bool) -> dict[str, object]:
    columns: dict[str, object] = {}
    for question in load_questions("decals"):
        for k, column in enumerate(question.columns):
            columns[f"{column}_fraction"] = 1.0 if k == 0 else 0.0
            if not fractions_only:
                columns[column] = 40 if k == 0 else 0
    return columns


def test_gz_decals_as_published(settings: Compose, tmp_path: Path) -> None:
    names = [f"J{k:06}.00+000000.0" for k in range(9)]
    table = pd.DataFrame({"iauname": names, "ra": range(9), "dec": 0.5, **published(False), TOTAL: 40})
    table.to_csv(tmp_path / "gz_decals_volunteers_5.csv", index=False)
    made = master(settings("stage=master_catalog", "survey=decals_public", f"survey.folder={tmp_path}"))
    assert made["id_str"].tolist() == names and made["file_loc"].tolist()[1] == "J000/J000001.00+000000.0.png"
    assert set(made[SMOOTH]) == {"40"} and set(made["bar_total-votes"]) == {"40"}


def test_gz_desi_as_published(settings: Compose, tmp_path: Path) -> None:
    ids = [f"{500000 + k}_{k}" for k in range(9)]
    bricks = [500000 + k for k in range(9)]
    fixed = {"dr8_id": ids, "brickid": bricks, "objid": range(9), "ra": 1.5 + pd.Series(range(9)), "dec": 0.5}
    catalog = pd.DataFrame({**fixed, **published(True), "hdf5_loc": "x"})
    catalog.to_parquet(tmp_path / "gz_desi_deep_learning_catalog_friendly.parquet")
    votes = pd.DataFrame({**fixed, **published(False)}).iloc[:4]
    votes.to_parquet(tmp_path / "gz_desi_gzd8_volunteer_core_catalog.parquet")
    place = ("stage=master_catalog", "survey=desi", f"survey.folder={tmp_path}")
    made = master(settings(*place))
    assert made["id_str"].tolist() == ids and made["file_loc"].tolist()[2] == "images/500002_2.jpg"
    assert made[TOTAL].isna().tolist() == [False] * 4 + [True] * 5 and made[SMOOTH].tolist()[0] == "40"
    by_parts = "survey.id_str='{brickid}_{objid}'"
    assert master(settings(*place, by_parts, "survey.name=b"))[TOTAL].isna().sum() == 5


def test_gz_euclid_as_published(settings: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fractions = {f"{c}_fraction": 0.5 for q in load_questions("euclid") for c in q.columns}
    ids = [-576123456789012345, 576123456789012346]
    fixed = {"tile_index": 102018211, "object_id": ids, "right_ascension": [1.5, 2], "declination": -50.25}
    pd.DataFrame({**fixed, **fractions}).to_parquet(tmp_path / "morphology_catalogue.parquet")
    made = master(settings("stage=master_catalog", "survey=euclid", f"survey.folder={tmp_path}"))
    assert made["id_str"].tolist() == ["102018211_NEG576123456789012345", "102018211_576123456789012346"]
    assert made["file_loc"].tolist()[0].endswith("vis_y/102018211_NEG576123456789012345.jpg")
    assert made["ra"].tolist() == ["1.5", "2.0"] and made[TOTAL].isna().all()
    assert "every galaxy is unlabelled" in caplog.text


# --------------------------------------------------------------- the shared cases


def case(number: str, settings: Compose, *overrides: str) -> Settings:
    folder = next(CASES.glob(f"{number}-*"))
    place = [f"survey.folder={folder}", f"survey.questions={folder}/questions.yaml", "survey.name=mine"]
    size = ("catalogs.mock_labelled=30", "shards.eval_size=5", "shards.test_size=5", "stage=shards")
    if any(override.startswith("survey.questions=") for override in overrides):
        place.pop(1)
    return settings("survey=custom", *place, *size, *overrides)


@needs_cases
@pytest.mark.parametrize(
    "number, catalog, said",
    [
        ("08", "catalog.csv", "a rounded number: a spreadsheet or pandas"), ("09", "catalog.csv", "ends in .0: pandas"),
        ("14", "catalog.csv.gz", "is cut off .*: download it again"),
        ("22", "catalog.csv", "line 7: bar is there twice"),
        ("23", "catalog.csv", "line 1: not UTF-8"),
    ],
)  # fmt: skip
def test_shared_cases_that_are_refused(number: str, catalog: str, said: str, settings: Compose) -> None:
    with pytest.raises(InputError, match=said):
        master_catalog.run(case(number, settings, f"survey.catalog={catalog}"))


@needs_cases
@pytest.mark.parametrize(
    "number, catalog",
    [("11", "catalog.fits"), ("12", "catalog.fits"), ("13", "catalog.fits"), ("15", "catalog.fits.gz"),
     ("15", "catalog.FITS"), ("31", "catalog.csv"), ("33", "catalog.csv")],
)  # fmt: skip
def test_shared_cases_that_are_read(number: str, catalog: str, settings: Compose) -> None:
    s = case(number, settings, f"survey.catalog={catalog}")
    table = master(s)
    assert len(table) == 60 and table["id_str"].notna().all()
    catalogs.run(s)
    assert shards.run(s) == s.shard_dir
    if number == "31":
        assert {"NA", "nan", "None"} <= set(table["id_str"])
    if number == "33":
        assert {"count_010", "count_020", "count_total-votes"} <= set(table.columns)


@needs_cases
def test_shared_case_of_questions_that_moved(
    settings: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    s = case("36", settings)
    for stage in (master_catalog, catalogs, shards):
        stage.run(s)
    moved = tmp_path / "moved.yaml"
    moved.write_bytes(Path(s.survey.questions).read_bytes())
    caplog.set_level("INFO")
    for stage in (master_catalog, catalogs, shards):
        stage.run(case("36", settings, f"survey.questions={moved}"))
    assert caplog.text.count("nothing to do") == 3


@needs_cases
def test_real_decals_paths_are_proposed(settings: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = REAL / "decals" / "joint_catalog_790.fits"
    name = Path(read_table(source)["png_loc"].dropna().iloc[0])
    (tmp_path / name.parent.name).mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / name.parent.name / name.name)
    place = ("stage=master_catalog", "survey=decals", f"survey.catalog={source}", f"survey.folder={tmp_path}")
    master(settings(*place))
    assert f"set survey.path_prefix='{name.parent.parent}'." in caplog.text
    made = master(settings(*place, f"survey.path_prefix='{name.parent.parent}'", "survey.name=b"))
    assert made["file_loc"].tolist()[0] == f"{name.parent.name}/{name.name}" and len(made) == 790 - 84
