"""Read a survey's own tables into one table of galaxies: ``id_str``, ``file_loc``, ``ra``, ``dec``, vote columns, and
the survey's own columns.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from zoobot import folders
from zoobot.engine.progress import track
from zoobot.errors import InputError
from zoobot.galaxies import cells, picture_paths, templates
from zoobot.galaxies.ids import zooniverse_id
from zoobot.galaxies.join_votes import Names, join_votes
from zoobot.galaxies.questions import QuestionTree
from zoobot.galaxies.tables import read_table, require_columns
from zoobot.settings import Settings, stage_settings

log = logging.getLogger("zoobot")
GALAXY_NAMES = ("iauname", "id_str")  # metadata of a subject that name the galaxy it shows
NO_VOTES = "none"  # in survey.classifications: a survey whose table has no votes
# Right ascension and declination, as surveys name them; ours are ra and dec.
_POSITIONS = (
    ("ra_nsa", "dec_nsa"), ("ra_subject", "dec_subject"), ("right_ascension", "declination"), ("RA", "DEC"),
    ("RAJ2000", "DEJ2000"), ("RA_ICRS", "DE_ICRS"), ("ALPHA_J2000", "DELTA_J2000"),
)  # fmt: skip
# GZ2 names each count tNN_question_aNN_answer_count (Willett et al. 2013); ours are {question}_{answer}. t08,
# multiple choice, is left out.
_GZ2_VOTES = {
    "t01_smooth_or_features_a01_smooth": "smooth-or-featured_smooth",
    "t01_smooth_or_features_a02_features_or_disk": "smooth-or-featured_featured-or-disk",
    "t01_smooth_or_features_a03_star_or_artifact": "smooth-or-featured_artifact",
    "t02_edgeon_a04_yes": "disk-edge-on_yes",
    "t02_edgeon_a05_no": "disk-edge-on_no",
    "t03_bar_a06_bar": "bar_yes",
    "t03_bar_a07_no_bar": "bar_no",
    "t04_spiral_a08_spiral": "has-spiral-arms_yes",
    "t04_spiral_a09_no_spiral": "has-spiral-arms_no",
    "t05_bulge_prominence_a10_no_bulge": "bulge-size_no",
    "t05_bulge_prominence_a11_just_noticeable": "bulge-size_just-noticeable",
    "t05_bulge_prominence_a12_obvious": "bulge-size_obvious",
    "t05_bulge_prominence_a13_dominant": "bulge-size_dominant",
    "t06_odd_a14_yes": "something-odd_yes",
    "t06_odd_a15_no": "something-odd_no",
    "t07_rounded_a16_completely_round": "how-rounded_round",
    "t07_rounded_a17_in_between": "how-rounded_in-between",
    "t07_rounded_a18_cigar_shaped": "how-rounded_cigar",
    "t09_bulge_shape_a25_rounded": "bulge-shape_round",
    "t09_bulge_shape_a26_boxy": "bulge-shape_boxy",
    "t09_bulge_shape_a27_no_bulge": "bulge-shape_no-bulge",
    "t10_arms_winding_a28_tight": "spiral-winding_tight",
    "t10_arms_winding_a29_medium": "spiral-winding_medium",
    "t10_arms_winding_a30_loose": "spiral-winding_loose",
    "t11_arms_number_a31_1": "spiral-count_1",
    "t11_arms_number_a32_2": "spiral-count_2",
    "t11_arms_number_a33_3": "spiral-count_3",
    "t11_arms_number_a34_4": "spiral-count_4",
    "t11_arms_number_a36_more_than_4": "spiral-count_more-than-4",
    "t11_arms_number_a37_cant_tell": "spiral-count_cant-tell",
}


@dataclass(frozen=True)
class SurveyTable:
    """A survey's own table: one row per galaxy, how many rows were left out by design and why, and its source files."""

    rows: pd.DataFrame
    excluded: dict[str, int]
    sources: list[Path]


def read_survey(settings: Settings, questions: QuestionTree) -> SurveyTable:
    """The survey's own table, with ``id_str``, ``file_loc`` (empty if there are features instead) and vote columns."""
    table = SURVEYS[settings.survey.kind](settings, questions)
    rows, where = table.rows, str(table.sources[0])
    if settings.survey.features and "file_loc" not in rows:
        rows = rows.assign(file_loc=pd.Series(pd.NA, index=rows.index, dtype="string"))
    require_columns(rows, ["id_str", "file_loc"], table.sources[0])
    rows = rows.assign(file_loc=picture_paths.below_folder(rows["file_loc"], settings.survey.path_prefix, where))
    position = next((pair for pair in _POSITIONS if set(pair) <= set(rows.columns)), None)
    if position and not {"ra", "dec"} & set(rows.columns):
        rows = rows.assign(ra=rows[position[0]], dec=rows[position[1]])
    return replace(table, rows=rows)


def _read_demo(s: Settings, questions: QuestionTree) -> SurveyTable:
    galaxies_dir = s.survey_dir / "galaxies"
    drawn_with = {k: v for k, v in stage_settings(s, "master_catalog").items() if k.startswith("survey.")}
    if not folders.exists_with(galaxies_dir, drawn_with, inputs={}):
        with folders.create(galaxies_dir, drawn_with, inputs={}) as staging:
            _draw_galaxies(s, staging)
    return SurveyTable(read_table(galaxies_dir / "votes.csv"), {}, [galaxies_dir / "votes.csv"])


def _draw_galaxies(s: Settings, folder: Path) -> None:
    from PIL import Image

    from zoobot.galaxies import demo

    votes, truth = [], []
    drawn = demo.survey(s.survey.n_galaxies, s.survey.draw_seed, s.survey.draw_size_px, s.survey.world)
    for galaxy in track(drawn, "drawing galaxies", s.survey.n_galaxies):
        file_loc = f"galaxies/{galaxy.id_str}.png"
        Image.fromarray(galaxy.image).save(folder / Path(file_loc).name)
        votes.append({"id_str": galaxy.id_str, "file_loc": file_loc, **galaxy.votes})
        truth.append({"id_str": galaxy.id_str, "kind": galaxy.kind, **galaxy.fractions})
    pd.DataFrame(votes).to_csv(folder / "votes.csv", index=False)
    pd.DataFrame(truth).to_csv(folder / "truth.csv", index=False)  # the truth, which no stage reads
    log.info("drew %d galaxies", len(votes))


def _read_gz2(s: Settings, questions: QuestionTree) -> SurveyTable:
    path = s.source_dir / s.survey.catalog
    table = read_table(path)
    votes = {f"{source}_count": ours for source, ours in _GZ2_VOTES.items()}
    require_columns(table, ["dr7objid", "png_loc", *votes], path)
    excluded = {}
    if s.survey.samples:
        require_columns(table, ["sample"], path)
        keep = table["sample"].isin(s.survey.samples)
        excluded[f"`sample` is not {' or '.join(s.survey.samples)}"] = int((~keep).sum())
        found = ", ".join(sorted(table["sample"].astype(str).unique()))
        table = table[keep]
        if table.empty:
            raise InputError(
                f"{path} has no row whose `sample` is {' or '.join(s.survey.samples)}; it has {found}."
                " Set survey.samples=[…] to those you want, or survey.samples=[] for all."
            )
    ours = {**votes, "png_loc": "file_loc", "ra_subject": "ra", "dec_subject": "dec"}
    # Drop t08, and the position (`ra`, `dec`) that the list of uploaded images repeats.
    unwanted = [c for c in table.columns if str(c).startswith("t08_")]
    unwanted += [new for old, new in ours.items() if {old, new} <= set(table.columns)]
    table = table.drop(columns=unwanted).rename(columns=ours)
    return SurveyTable(table.assign(id_str="dr7objid_" + table["dr7objid"]), excluded, [path])


def _read_decals(s: Settings, questions: QuestionTree) -> SurveyTable:
    path = s.source_dir / s.survey.catalog
    table = read_table(path)
    require_columns(table, ["iauname"], path)
    location = next((name for name in ("file_loc", "png_loc", "fits_loc") if name in table.columns), None)
    if location is None:
        raise InputError(f"{path} has none of the columns file_loc, png_loc, fits_loc, which name a galaxy's picture.")
    table["iauname"] = table["iauname"].str.strip()
    names = table["iauname"]
    excluded = {}
    for flag in ("png_ready", "fits_filled"):
        if flag in table.columns:
            keep = cells.is_true(table[flag])
            excluded[f"{flag} is false"] = int((~keep).sum())
            table = table[keep]
    table = table.rename(columns={location: "file_loc", "z": "redshift"})
    if "ra" not in table.columns:
        table = table.rename(columns={"ra_nsa": "ra", "dec_nsa": "dec"})
    table = table.assign(id_str=table["iauname"])
    wanted = Names(table["id_str"], names, path, ["iauname"])
    return _with_votes(SurveyTable(table, excluded, [path]), wanted, s, questions)


def _with_votes(table: SurveyTable, names: Names, s: Settings, questions: QuestionTree) -> SurveyTable:
    """The table with the votes of another one: that of the settings, or what stage=reduce has made, if anything."""
    given = s.survey.classifications if s.survey.classifications != NO_VOTES else ""
    votes_path = s.source_dir / given if given else s.survey_dir / "classifications" / "classifications.csv"
    rows, path = table.rows, table.sources[0]
    if given or votes_path.is_file():
        rows, unmatched = join_votes(rows, names, votes_path, questions, s.max_dropped_fraction)
        left_out = table.excluded | {"classified galaxies that are not in the catalog": unmatched}
        return SurveyTable(rows, left_out, [path, votes_path])
    if questions.root.columns[0] in rows.columns:
        return table
    log.warning("%s: no classifications (survey.classifications, or stage=reduce): every galaxy is unlabelled", path)
    empty = pd.DataFrame(index=rows.index, columns=list(questions.columns), dtype="float64")
    return replace(table, rows=pd.concat([rows, empty], axis=1))


def _read_custom(s: Settings, questions: QuestionTree) -> SurveyTable:
    path = s.source_dir / s.survey.catalog
    table = read_table(path)
    for column, template in (("id_str", s.survey.id_str), ("file_loc", s.survey.file_loc)):
        if template:
            table[column] = templates.made(template, table, path, f"survey.{column}")
        elif not (column == "file_loc" and s.survey.features):
            require_columns(table, [column], path, f" Or name the column that has it: survey.{column}=COLUMN.")
    table["id_str"] = table["id_str"].str.strip()
    found = SurveyTable(table, {}, [path])
    if not s.survey.classifications:
        return found
    ways = [*filter(None, [s.survey.id_str]), "id_str", "iauname"]
    return _with_votes(found, Names(table["id_str"], table["id_str"], path, ways), s, questions)


# How each kind of survey is read. To add one, put its reader here; docs/extending.md shows how.
SURVEYS: dict[str, Callable[[Settings, QuestionTree], SurveyTable]] = {
    "demo": _read_demo,
    "gz2": _read_gz2,
    "decals": _read_decals,
    "custom": _read_custom,
}


def read_subjects(path: Path) -> pd.DataFrame:
    """``subject_id`` and the galaxy's name, from a subject export of Zooniverse (its metadata is JSON)."""
    table = read_table(path)
    require_columns(table, ["subject_id", "metadata"], path)
    table = table.assign(subject_id=_subject_ids(table["subject_id"], path)).drop_duplicates("subject_id")
    try:
        metadata = [
            {key.lstrip("!#/").lower(): value for key, value in json.loads(text).items()} for text in table["metadata"]
        ]
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"{path}: column metadata is not JSON in every row ({error}). Is it a subject export?"
        ) from error
    names = {
        name: pd.array([str(entry[name]) if entry.get(name) else None for entry in metadata], dtype="string")
        for name in GALAXY_NAMES
        if any(name in entry for entry in metadata)
    }
    if not names:
        raise InputError(
            f"{path}: no subject's metadata has {' or '.join(GALAXY_NAMES)}, so it does not name the galaxies."
        )
    return pd.DataFrame({"subject_id": table["subject_id"].to_numpy(), **names})


def _subject_ids(column: pd.Series, path: Path) -> pd.Series:
    """The ids in their one form: pandas turns a column with gaps into 100.0."""
    ids = column.map(zooniverse_id, na_action=None).astype("string")
    wrong = [row for row, id_ in enumerate(ids) if not id_]
    if wrong:
        found = column.iloc[wrong[0]]
        raise InputError(
            f"{path}: column subject_id, row {wrong[0] + 1}: {'nothing' if pd.isna(found) else found} is no id of a"
            f" subject ({len(wrong)} of {len(ids)} rows). An id is a whole number, such as 28479600. Download the"
            " subject export again, and do not open it in a spreadsheet."
        )
    return ids
