"""Published features: which columns are read, in every type and order, and why a galaxy has none."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoobot.errors import InputError
from zoobot.galaxies import feature_tables, tables
from zoobot.galaxies.feature_tables import Gathered

Build = Callable[[npt.NDArray[Any]], dict[str, pa.Array]]
HAND = np.array([[1, 2.5], [-3, 4], [0.5, 65504]], np.float32)  # float16 holds each
IDS = ["0123", "b", "c"]


def lists(kind: Callable[..., pa.DataType], value: pa.DataType) -> Build:
    """One column of lists."""

    def build(values: npt.NDArray[Any]) -> dict[str, pa.Array]:
        kinds = kind(value, values.shape[1]) if kind is pa.list_ and value == pa.float32() else kind(value)
        rows = [[value.to_pandas_dtype()(x) for x in row] for row in values]
        return {"embedding": pa.array(rows, kinds)}

    return build


def numbered(prefix: str, dtype: str, first: int = 0) -> Build:
    """A column for each feature, the last one first."""

    def build(values: npt.NDArray[Any]) -> dict[str, pa.Array]:
        columns = {f"{prefix}{n + first}": pa.array(column.astype(dtype)) for n, column in enumerate(values.T)}
        return dict(reversed(columns.items()))

    return build


KINDS: dict[str, Build] = {
    "list of float16": lists(pa.list_, pa.float16()), "list of float64": lists(pa.list_, pa.float64()),
    "fixed size": lists(pa.list_, pa.float32()), "large list": lists(pa.large_list, pa.float32()),
    "feat_0": numbered("feat_", "float32"), "0": numbered("", "float64"), "from 1": numbered("feat_pca_", "float16", 1),
}  # fmt: skip


def settings(folder: Path, features: str = "features.parquet", **survey: str) -> Any:
    given = {"features": features, "features_column": "", "id_str": "", **survey}
    return SimpleNamespace(source_dir=folder, survey=SimpleNamespace(**given))


def write(folder: Path, columns: dict[str, Any], name: str = "features.parquet") -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / name, row_group_size=2)


def read(folder: Path, ids: Sequence[str] = IDS, **survey: str) -> tuple[list[Any], Gathered]:
    """What each galaxy has: its features as a list, or the reason."""
    with tempfile.TemporaryFile() as file:
        gathered = feature_tables.gather(feature_tables.find(settings(folder, **survey)), ids, file)
        return [found if isinstance(found, str) else found.tolist() for found in gathered.of(ids)], gathered


# --------------------------------------------------------------- by hand


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_column_gives_the_same_features(kind: str, tmp_path: Path) -> None:
    write(tmp_path, {"ra": [1.5] * 3, **KINDS[kind](HAND), "id_str": IDS})
    found, gathered = read(tmp_path)
    assert found == HAND.tolist() and gathered.table.n_features == 2 and gathered.n_other == 0


@pytest.mark.parametrize(
    "ids, template, wanted",
    [
        (pa.array([123, 124, 2**60 + 1]), "", ["123", "124", str(2**60 + 1)]),
        (pa.array([" 0123", "b ", "c"]).dictionary_encode(), "", IDS),
        (pa.array([b"0123", b"b", b"c"]), "", IDS),
        (pa.array(IDS, pa.large_string()), "x_{id_str}", ["x_0123", "x_b", "x_c"]),
        (pa.array(IDS, pa.large_string()), "other", IDS),  # the survey's own table has it, this one has id_str
    ],
)
def test_ids_are_text(ids: pa.Array, template: str, wanted: list[str], tmp_path: Path) -> None:
    write(tmp_path, {"id_str": ids, **KINDS["fixed size"](HAND)})
    assert read(tmp_path, wanted, id_str=template)[0] == HAND.tolist()


def test_why_a_galaxy_has_no_features(tmp_path: Path) -> None:
    rows = {
        "good": [1.0, 2.0], "null": None, "short": [1.0], "gap": [None, 1.0], "nan": [float("nan"), 1.0], "empty": [],
        "inf": [float("inf"), 1.0], "large": [1e39, 1.0], "same": [3.0, 4.0], "different": [1.0, 2.0],
    }  # fmt: skip
    twice = {"same": [3.0, 4.0], "different": [1.0, 2.5], "nan": [float("nan"), 2.0], "other": [0.0, 0.0]}
    vectors = pa.array([*rows.values(), *twice.values(), [0.0, 0.0]], pa.list_(pa.float64()))
    write(tmp_path, {"id_str": [*rows, *twice, None], "vector": vectors})
    found, gathered = read(tmp_path, [*rows, "absent"])
    assert dict(zip([*rows, "absent"], found, strict=True)) == {
        "good": [1, 2], "same": [3, 4],
        **dict.fromkeys(("null", "empty"), "its features in features.parquet are empty"),
        "short": "its features in features.parquet are not 2 numbers, as those of others",
        **dict.fromkeys(
            ("gap", "nan", "inf", "large"),
            "its features in features.parquet have NaN, infinity, or numbers beyond float32",
        ),
        "different": "features.parquet has several different rows with this id_str",
        "absent": "features.parquet has no row with this id_str",
    }  # fmt: skip
    assert gathered.n_other == 2 and gathered.others == ["other"]
    with pytest.raises(InputError, match=r"9 of 11 galaxies have no features, more than max_dropped_fraction=0\.5.*"
                       r"4 x its features in features\.parquet have NaN.*only the features have: 'other'"):  # fmt: skip
        raise InputError(gathered.problem(0.5))
    assert gathered.problem(0.9) == ""


def test_a_folder_is_one_table(tmp_path: Path) -> None:
    for n, id_str in enumerate(IDS):
        write(tmp_path, {"id_str": [id_str], **KINDS["feat_0"](HAND[n : n + 1])}, f"hub/data/train-{n}.parquet")
    assert read(tmp_path, features="hub")[0] == HAND.tolist()
    write(tmp_path, {"id_str": ["d"], **KINDS["0"](HAND[:1])}, "hub/data/train-3.parquet")
    with pytest.raises(InputError, match=r"train-3\.parquet has no column feat_0, which train-0\.parquet has"):
        read(tmp_path, features="hub")


def test_several_columns_that_could_be_the_features(tmp_path: Path) -> None:
    blocks = {f"pooled_features_block_{n}": KINDS["fixed size"](HAND + n)["embedding"] for n in (3, 11)}
    few = {"mag_1": [1.0] * 3, "mag_2": [2.0] * 3, "gap_0": [0] * 3, "gap_2": [0] * 3}
    write(tmp_path, {"id_str": IDS, **blocks, **few})
    options = "Columns that can be: pooled_features_block_3, pooled_features_block_11, mag_1"
    with pytest.raises(InputError, match=rf"survey\.features_column=COLUMN\. {options}"):
        read(tmp_path)
    assert read(tmp_path, features_column="pooled_features_block_11")[0] == (HAND + 11).tolist()
    assert read(tmp_path, features_column="mag_1")[0] == [[1, 2]] * 3
    with pytest.raises(InputError, match=r"survey\.features_column=gap_0 is neither"):
        read(tmp_path, features_column="gap_0")


@pytest.mark.parametrize(
    "columns, said",
    [
        ({"id_str": IDS, "text": IDS}, "which columns are the features.*Columns that can be: none"),
        (
            {"name": IDS, **numbered("f", "float32")(HAND)},
            "has no column id_str, which names the galaxies. It has: name",
        ),
        ({"id_str": [1.0, 2.0, 3.0], **numbered("f", "float32")(HAND)}, "id_str holds numbers with a fraction"),
        ({"id_str": IDS, "e": pa.array([None] * 3, pa.list_(pa.float32()))}, "column e has no features: all its lists"),
    ],
)
def test_files_that_cannot_be_used(columns: dict[str, Any], said: str, tmp_path: Path) -> None:
    write(tmp_path, columns)
    with pytest.raises(InputError, match=said):
        read(tmp_path)


def test_files_that_are_no_parquet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"features\.parquet does not exist\. Set survey\.features to a parquet file"):
        read(tmp_path)
    (tmp_path / "features.parquet").write_text("id_str,f_0,f_1\na,1,2\n")
    with pytest.raises(InputError, match=r"is not a readable parquet file.*Other formats are not read here"):
        read(tmp_path)
    write(tmp_path, {"id_str": IDS, **KINDS["fixed size"](HAND)})
    content = bytearray((tmp_path / "features.parquet").read_bytes())
    content[4:60] = b"\xff" * 56  # its first page; the footer is sound
    (tmp_path / "features.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"features\.parquet cannot be read"):
        read(tmp_path)


# --------------------------------------------------------------- properties


@hypothesis.settings(max_examples=30)
@given(
    eighths=st.lists(st.integers(-1000, 1000), min_size=24, max_size=24),
    kind=st.sampled_from(sorted(KINDS)),
    order=st.permutations(range(8)),
    again=st.integers(0, 7),
)
def test_neither_order_nor_kind_of_column_nor_rows_twice_matter(
    eighths: list[int], kind: str, order: list[int], again: int
) -> None:
    values = np.array(eighths, np.float32).reshape(8, 3) / 8
    rows = [*order, again]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), {"id_str": [f"g{n}" for n in rows], **KINDS[kind](values[rows])})
        assert read(Path(folder), [f"g{n}" for n in range(8)])[0] == values.tolist()


@given(order=st.permutations(range(7)), batch=st.integers(1, 8))
def test_the_reasons_depend_neither_on_order_nor_on_batches(order: list[int], batch: int) -> None:
    vectors = [[1.0, 2.0], [5.0, 6.0], [1.0, 2.5], None, [float("nan"), 1.0], [3.0, 4.0], [3.0, 4.0]]
    ids = ["several", "good", "several", "mixed", "mixed", "same", "same"]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_tables, "_ROWS", batch)
        kind = pa.list_(pa.float32(), 2)
        write(Path(folder), {"id_str": [ids[n] for n in order], "v": pa.array([vectors[n] for n in order], kind)})
        several = "features.parquet has several different rows with this id_str"
        assert read(Path(folder), ["several", "good", "mixed", "same"])[0] == [several, [5, 6], several, [3, 4]]


def test_the_digest_of_a_folder_is_that_of_its_files(tmp_path: Path) -> None:
    write(tmp_path, {"a": [1]}, "in/a.parquet")
    first = tables.digest(tmp_path / "in")
    assert tables.digest(tmp_path / "in") == first != tables.digest(tmp_path / "in" / "a.parquet")
    write(tmp_path, {"a": [2]}, "in/a.parquet")
    assert tables.digest(tmp_path / "in") != first
