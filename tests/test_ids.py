"""What an id on Zooniverse looks like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoobot.galaxies.ids import volunteer, whole_number, zooniverse_id

NOBODY = ["", " ", "NA", "N/A", "#N/A", "<NA>", "nan", "NaN", "-nan", "NULL", "Null", "None", "nil", "0", "0.0", "00",
          "\\N", "undefined", "not-logged-in-5c4b", "Not-Logged-In-1", None, float("nan"), 0, 0.0]  # fmt: skip
DAMAGED = ["1.5", "1.1E+9", "5e8", "1,234", "12 34", "0x1F", "-3", "+3", "abc", "11.0.0", "9" * 19, "٣", "1_000", "=11",
           "11\n12", -3, 1.5, 10**18, 1e18, float("inf"), True, False, [11], {"id": 11}, b"11"]  # fmt: skip


@pytest.mark.parametrize("value", NOBODY)
def test_an_empty_cell_of_any_program_is_nobody(value: object) -> None:
    assert volunteer(value) == ""
    assert zooniverse_id(value) == ""


@pytest.mark.parametrize("value", DAMAGED, ids=repr)
def test_what_is_damaged_is_no_id_and_not_nobody(value: object) -> None:
    assert zooniverse_id(value) == ""
    assert volunteer(value) is None


@given(st.integers(1, 10**18 - 1))
def test_the_same_number_is_the_same_id_in_every_form(number: int) -> None:
    forms: list[object] = [
        number,
        str(number),
        f" {number}\t",
        f"{number}.0",
        f"{number}.",
        f"{number}.000",
        f"0{number}",
    ]
    forms += [float(number)] if number < 2**53 else []
    assert {zooniverse_id(form) for form in forms} == {volunteer(form) for form in forms} == {str(number)}
    assert {whole_number(form) for form in forms} == {number}


@given(st.one_of(st.text(), st.floats(), st.integers(), st.none(), st.lists(st.integers())))
def test_any_value_is_an_id_nobody_or_neither(value: object) -> None:
    who = volunteer(value)
    assert who is None or who == "" or who == zooniverse_id(value)
    assert not zooniverse_id(value) or (
        int(zooniverse_id(value)) > 0 and zooniverse_id(zooniverse_id(value)) == zooniverse_id(value)
    )
