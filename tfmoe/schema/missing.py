"""What stands in a table where a value is missing. Plain data."""

from typing import Any

from tfmoe.validation import plain

# What databases, spreadsheets, R and pandas write where a number is missing. Beside these the
# empty cell, None and NaN are missing everywhere.
MARKERS = (
    *("NA", "N/A", "n/a", "na", "<NA>", "n.a.", "N.A.", "#N/A", "#NA", "#N/A N/A"),
    *("NULL", "Null", "null", "(null)", "[NULL]", "None", "none", "NONE", "\\N", "nil"),
    *("#DIV/0!", "#VALUE!", "#REF!", "#NUM!", "#NAME?", "#NULL!"),
    *("NaN", "nan", "NAN", "-NaN", "-nan", "NaT", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
    *("?", "-", "--", "\u2013", "\u2014", "."),
)


def check_missing(owner: str, given: Any, fractions: bool) -> tuple[str | int | float, ...]:
    """The argument `missing` of a column, as a tuple.

    Args:
        owner: the column, for the error.
        given: sequence of text and numbers.
        fractions: whether numbers may be floats.

    Raises:
        ValueError: if it is anything else.
    """
    given = plain(given)
    listed = isinstance(given, list | tuple)
    kinds = (str, int, float) if fractions else (str, int)
    if not listed or not all(isinstance(m, kinds) and not isinstance(m, bool) for m in given):
        numbers = "numbers" if fractions else "integers"
        raise ValueError(
            f"{owner} takes `missing` as a list of the texts and {numbers} that stand for a "
            f"missing value. Received missing={given!r}. A single one is written "
            f"missing=[{'NA' if listed else given!r}]."
        )
    return tuple(given)
