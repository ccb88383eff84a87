"""Tables in every format that astronomers have: the same text comes back, digit for digit, or a message says why."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table

from zoobot.errors import InputError
from zoobot.galaxies import cells
from zoobot.galaxies.tables import read_table, require_columns

IDS = ["1237648704054755405", "000123456789012345", "NA"]
TEXT = pd.DataFrame({"id_str": IDS, "file_loc": ["a.png", "0012", "nan"], "objid": ["587739505552785605", "", "12"],
                     "plate": ["0266", "0267", "0001"]})  # fmt: skip
Write = Callable[[Path], object]


def named(value: object) -> str:
    """The name of a case: compressed bytes differ from second to second."""
    return f"{len(value)}_bytes" if isinstance(value, bytes) else str(value)


def texts(table: pd.DataFrame) -> list[list[str]]:
    return [
        ["" if cell is pd.NA or cell is None else str(cell) for cell in row] for row in table.itertuples(index=False)
    ]


def csv(delimiter: str, table: pd.DataFrame = TEXT) -> bytes:
    return table.to_csv(index=False, sep=delimiter).encode()


def zipped(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        csv(","), csv(";"), csv("\t"), csv("|"),
        gzip.compress(csv(",")), bz2.compress(csv(",")), lzma.compress(csv(",")), zipped("a.csv", csv(",")),
        b"\xef\xbb\xbf" + csv(","), csv(",").decode().encode("utf-16"), csv(",").replace(b"\n", b"\r\n"),
        b"#Table1\n" + csv(","), b"# made by a, b, c, d\n# from e\n\n" + csv(","), csv(",").rstrip(b"\n"),
        csv(",").replace(b"id_str,", b"id_str , ", 1),
    ],
    ids=named,
)  # fmt: skip
def test_text_in_text_out_whatever_the_delimiter_and_the_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "catalog.FITS"  # the content says what it is
    path.write_bytes(content)
    table = read_table(path)
    assert list(table.columns) == list(TEXT.columns) and texts(table) == texts(TEXT)
    assert table["objid"].isna().tolist() == [False, True, False]


@pytest.mark.parametrize(
    "content",
    ["id_str ra plate\n0012 1.50 0266\nNA 2 0267\n", "# id_str ra plate\n0012   1.50 0266\nNA     2    0267\n",
     "# by me\n# id_str,ra,plate\n0012,1.50,0266\nNA,2,0267\n"],
)  # fmt: skip
def test_columns_by_spaces_and_names_in_a_comment(content: str, tmp_path: Path) -> None:
    (tmp_path / "t.dat").write_text(content)
    table = read_table(tmp_path / "t.dat")
    assert list(table.columns) == ["id_str", "ra", "plate"]
    assert texts(table) == [["0012", "1.50", "0266"], ["NA", "2", "0267"]]


@pytest.mark.parametrize("units", ["", " \tdeg\t \n"])
def test_a_table_of_vizier(units: str, tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text(
        f"#RESOURCE=yCat\n#Name: J/MNRAS\n\nid_str\tra\tplate\n{units}--\t-----\t----\nNA\t1.50\t0266\n"
    )
    assert texts(read_table(tmp_path / "t.tsv")) == [["NA", "1.50", "0266"]]


def test_a_column_that_is_there_twice_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "t.csv").write_text("id_str,b,b\n0012,x,y\n")
    assert read_table(tmp_path / "t.csv")["b"].tolist() == ["x"] and "b is the name of several columns" in caplog.text


def astropy_table() -> Table:
    masked = MaskedColumn([587739505552785605, 0, 12], mask=[False, True, False])
    columns = {"id_str": IDS, "file_loc": ["a.png", "0012", "nan"], "objid": masked, "plate": ["0266", "0267", "0001"]}
    return Table({**columns, "mag": [1.5, np.nan, 2.5], "ok": [True, False, True]})


def as_parquet(path: Path) -> None:
    frame = astropy_table().to_pandas()
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), path)


def as_indexed_parquet(path: Path) -> None:
    frame = astropy_table().to_pandas()
    frame["plate"] = frame["plate"].astype("category")
    frame.assign(spectrum=[[1, 2], [3], []]).iloc[[0, 1, 2]].set_index("id_str").to_parquet(path)


def as_votable(serialization: str) -> Write:
    return lambda path: astropy_table().write(path, format="votable", tabledata_format=serialization)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: astropy_table().write(path, format="fits"),
        lambda path: path.write_bytes(gzip.compress(as_bytes(astropy_table()))),
        lambda path: astropy_table().write(path, format="ascii.ecsv"),
        as_votable("tabledata"), as_votable("binary2"), as_parquet, as_indexed_parquet,
    ],
)  # fmt: skip
def test_every_format_keeps_every_digit(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write(path)
    table = read_table(path)
    assert table["id_str"].tolist() == IDS and table["file_loc"].tolist() == ["a.png", "0012", "nan"]
    assert texts(table[["objid", "plate"]]) == texts(TEXT[["objid", "plate"]])
    assert cells.numbers(table["mag"]).tolist()[::2] == [1.5, 2.5] and cells.is_empty(table["mag"]).tolist()[1]
    assert cells.is_true(table["ok"]).tolist() == [True, False, True]
    written = pd.read_csv(io.StringIO(table.to_csv(index=False)), dtype=str, keep_default_na=False)
    assert written["objid"].tolist() == TEXT["objid"].tolist(), "also as the master catalog writes it"


def as_bytes(table: Table) -> bytes:
    file = io.BytesIO()
    table.write(file, format="fits")
    return file.getvalue()


def test_an_ipac_table(tmp_path: Path) -> None:
    table = Table({"id_str": ["NA", "0012"], "objid": np.array([587739505552785605, 12])})
    table.write(tmp_path / "t.tbl", format="ascii.ipac")
    assert texts(read_table(tmp_path / "t.tbl")) == [["NA", "587739505552785605"], ["0012", "12"]]


@pytest.mark.parametrize("layout", ["d/Norder=1/Dir=0/Npix={}.parquet", "d/Norder=1/Dir=0/Npix={}/0.parquet", "{}.pq"])
def test_a_folder_of_parquet_files(layout: str, tmp_path: Path) -> None:
    for number, rows in enumerate((TEXT.iloc[:1], TEXT.iloc[1:])):
        path = tmp_path / layout.format(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(path)
    for name in ("_metadata", "_common_metadata"):
        (tmp_path / name).write_bytes(b"PAR1")
    if "Norder" in layout:
        TEXT.to_parquet(tmp_path / "d" / "data_thumbnail.parquet")
    assert texts(read_table(tmp_path)) == texts(TEXT)
    with pytest.raises(InputError, match="is a folder without parquet files"):
        (tmp_path / "empty").mkdir()
        read_table(tmp_path / "empty")


def test_arrays_are_left_out_and_one_row_of_arrays_is_turned(tmp_path: Path) -> None:
    spectra = np.array([np.arange(n) for n in (1, 2, 3)], dtype=object)
    columns = [
        fits.Column("id_str", "20A", array=IDS), fits.Column("file_loc", "20A", array=["a", "b", "c"]),
        fits.Column("spec", "PJ()", array=spectra), fits.Column("flux", "2E", array=np.zeros((3, 2))),
    ]  # fmt: skip
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "t.fits")
    assert list(read_table(tmp_path / "t.fits").columns) == ["id_str", "file_loc"]
    turned = Table({"id_str": [IDS], "file_loc": [["a", "b", "c"]], "n": [[1, 2, 3]], "title": ["one"]})
    turned.write(tmp_path / "turned.fits")
    table = read_table(tmp_path / "turned.fits")
    assert texts(table) == [[name, loc, str(n + 1)] for n, (name, loc) in enumerate(zip(IDS, "abc", strict=True))]


def test_latin_1_is_read_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "t.csv").write_bytes("id_str,by\na,Ann\nb,Bjørn\n".encode("latin-1"))
    assert read_table(tmp_path / "t.csv")["by"].tolist() == ["Ann", "Bjørn"]
    assert "t.csv, line 3: not UTF-8, so it is read as Latin-1" in caplog.text
    Table({"id_str": ["a"], "by": np.array(["Bjørn".encode("latin-1")])}).write(tmp_path / "t.fits")
    assert read_table(tmp_path / "t.fits")["by"].tolist() == ["Bjørn"] and "column by: not UTF-8" in caplog.text


def test_the_first_of_several_tables_is_read_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hdus = [fits.table_to_hdu(Table({"id_str": [name]})) for name in ("a", "b")]
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.zeros((2, 2))), *hdus]).writeto(tmp_path / "t.fits")
    assert read_table(tmp_path / "t.fits")["id_str"].tolist() == ["a"] and "has 2 tables" in caplog.text


def gz(content: bytes, size: int) -> bytes:
    return gzip.compress(content)[:size]


@pytest.mark.parametrize(
    "content, said",
    [
        (gz(csv(","), 60), r"is cut off .*: download it again"),
        (bz2.compress(csv(","))[:60], r"is cut off .*: download it again"),
        (lzma.compress(csv(","))[:60], r"is cut off .*: download it again"),
        (zipped("a.csv", csv(","))[:60], r"is cut off .*: download it again"),
        (gz(csv(","), 40) + b"0" * 60, r"is (damaged|cut off) .*: download it again"),
        (as_bytes(astropy_table())[:5800], "is not a readable FITS table.*(download it again|cut off)"),
        (b"id_str,file_loc,a_b\ng0,g0.png,1\ng1,g1", "is cut off in its last line"),
        (zipped("[Content_Types].xml", b""), "Excel workbook is not read here. Save it as CSV"),
        (b"\xd0\xcf\x11\xe0" + b"\0" * 600, "is an Excel workbook, which is not read here"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 600, "is HDF5, which is not read here"),
        (b"<!DOCTYPE html>\n<html><body>Log in</body></html>", "is a web page, not a table"),
        (b"PAR1" + b"\0" * 50, "is not a readable parquet file"),
        (b'<?xml version="1.0"?><VOTABLE><RESOURCE>', "is not a readable VOTable"),
        (b'<VOTABLE><FIELD name="id_str"/></VOTABLE>', "a FIELD has no datatype"),
        (b"# %ECSV 1.0\n# nonsense\n", "is not a readable ECSV table"),
        (b"\x00\x01\x02\x03", "is binary"),
    ],
    ids=named,
)
def test_a_table_that_cannot_be_read_says_why(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_table(path)


def test_a_picture_is_no_table(tmp_path: Path) -> None:
    fits.PrimaryHDU(np.zeros((5, 5))).writeto(tmp_path / "t.fits")
    with pytest.raises(InputError, match="it has no table, only images"):
        read_table(tmp_path / "t.fits")


def test_a_table_that_is_absent_names_those_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "mine.fits").touch()
    with pytest.raises(InputError, match=r"catalog\.csv does not exist.*In that folder: mine\.fits"):
        read_table(tmp_path / "catalog.csv")


def test_a_column_that_is_nearly_there_is_named() -> None:
    with pytest.raises(InputError, match=r"no column id_str, bar_yes.* Is it ID_STR and bar-yes"):
        require_columns(pd.DataFrame(columns=["ID_STR", "bar-yes"]), ["id_str", "bar_yes"], Path("t"))


# --------------------------------------------------------------- cells


@pytest.mark.parametrize(
    "ids, said",
    [
        (["1.23765E+18", "1.23766e+18"], "rounded number: a spreadsheet or pandas"),
        (["1,23765E+18"], "rounded number"),
        (["1E+18"], "rounded number"),
        (["12.0", "13.0"], "ends in .0: pandas"),
        (["6144039378640938.000000"], "ends in .0: pandas"),
        (['="123"'], "formula of a spreadsheet"),
        (["'123"], "apostrophe by which a spreadsheet"),
        (["#NAME?"], "error of a spreadsheet"),
        (["#######"], "error of a spreadsheet"),
        (["1,237,648"], "commas between its digits"),
        (["1237648704054750000", "1237648704054760000"], "only zeros behind its 15th digit"),
    ],
)
def test_ids_that_a_program_has_spoilt(ids: list[str], said: str) -> None:
    assert cells.spoilt(pd.Series(ids, dtype="string")).str.contains(said, regex=False).all()


@pytest.mark.parametrize(
    "ids",
    [["NA", "nan", "None", "null", ""], ["J094713.63+003956.2"], ["1E5", "12e34567"], ["12.0", "12.5"], ["M31", "0012"],
     ["1237648704054750000", "1237648704054750001"], ["dr7objid_1.0"], ["2E 0102.2-7219"], ["v1.0"], ["-576123.1"]],
)  # fmt: skip
def test_ids_that_only_look_odd(ids: list[str]) -> None:
    assert (cells.spoilt(pd.Series(ids, dtype="string")) == "").all()


def test_numbers_by_hand() -> None:
    column = pd.Series(["1", " 2 ", "1e3", "NA", "nan", "--", "", None, "many", "inf"], dtype="string")
    assert cells.numbers(column).tolist()[:3] == [1, 2, 1000] and cells.numbers(column).tolist()[9] == np.inf
    assert cells.is_empty(column).tolist() == [False, False, False, True, True, True, True, True, False, False]
    assert cells.numbers(pd.Series([1, None, "x"], dtype=object)).isna().tolist() == [False, True, True]


@pytest.mark.parametrize(
    "given, expected",
    [(["1", "2"], [1, 2]), (["1.5", "2"], [1.5, 2.0]), (["True", "false"], [True, False]), (["a", "1"], ["a", "1"]),
     (["0266", "0267"], [266, 267])],
)  # fmt: skip
def test_a_column_for_a_filter(given: list[str], expected: list[object]) -> None:
    assert cells.typed(pd.Series(given, dtype="string")).tolist() == expected


def test_a_folder_that_cannot_be_searched_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As /proc, where a process may end meanwhile."""

    def fail(*_: object) -> None:
        raise OSError(22, "Invalid argument", "/proc/1/net")

    monkeypatch.setattr(Path, "rglob", fail)
    with pytest.raises(InputError, match=rf"{tmp_path} cannot be searched .*/proc/1/net"):
        read_table(tmp_path)
