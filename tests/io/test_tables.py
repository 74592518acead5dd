"""Tables of text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from satcascade.io.tables import aligned_table, markdown_row, markdown_table

ROWS = [["", "first", "n"], ["loss", "0.5", "1,000"], ["steps", "-", "7"]]


def test_columns_are_aligned_to_the_left() -> None:
    assert aligned_table(ROWS) == "       first  n\nloss   0.5    1,000\nsteps  -      7"


def test_each_column_has_its_side_and_the_last_one_holds_on() -> None:
    assert aligned_table(ROWS, "<>") == "       first      n\nloss     0.5  1,000\nsteps      -      7"
    assert aligned_table(ROWS, ">") == "       first      n\n loss    0.5  1,000\nsteps      -      7"


@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.lists(st.text("ab{}%", max_size=5), min_size=width, max_size=width), min_size=1, max_size=4
        )
    )
)
def test_every_cell_is_there_in_its_row(rows: list[list[str]]) -> None:
    lines = aligned_table(rows).split("\n")
    assert [line.split() for line in lines] == [[cell for cell in row if cell] for row in rows]


def test_rows_of_different_length_are_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        aligned_table([["a", "b"], ["c"]])


def test_markdown() -> None:
    assert markdown_table(ROWS[:2]) == "|  | first | n |\n| --- | --- | --- |\n| loss | 0.5 | 1,000 |\n"
    assert markdown_row(["a", "b"]) == "| a | b |\n"
