"""Small text tables, such as `cluster_info.tsv`: columns of numbers or text."""

import csv
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from worker.ingest.recording import MetadataValue

MOST_ROWS = 1_000_000
MOST_COLUMNS = 200
_LONGEST_TEXT = 500
_MISSING = ("", "nan", "na", "n/a", "none", "null")


def read_columns(text: str) -> tuple[dict[str, list[MetadataValue]], str]:
    """Read a table separated by tabs, commas or semicolons; its first line names the columns.

    Returns
    -------
    columns
        Name → value of each line. Lines of too many values are cut, those of too few have None for the rest.
    remark
        What was wrong with lines; empty if nothing was.

    Raises
    ------
    ValueError
        For what is no such table.
    """
    first = text.split("\n", 1)[0]
    delimiter = max("\t,;", key=first.count)
    try:
        rows = [row for row in csv.reader(text.splitlines(), delimiter=delimiter) if row]
    except csv.Error as error:
        raise ValueError(str(error)) from error
    if not rows:
        raise ValueError("it is empty")
    names = [name.strip() for name in rows[0]]
    if len(rows) > MOST_ROWS or len(names) > MOST_COLUMNS:
        raise ValueError(f"it has {len(rows)} lines of {len(names)} columns")
    if len(set(names)) < len(names):
        raise ValueError("two of its columns have one name")
    wrong = [number for number, row in enumerate(rows[1:], 2) if len(row) != len(names)]
    remark = ""
    if wrong:
        remark = (
            f"{len(wrong)} lines do not have {len(names)} values, one for each column with a name; line {wrong[0]} has "
            f"{len(rows[wrong[0] - 1])}. Values beyond the last column were cut, and missing ones are empty"
        )
    columns = {
        name: typed(row[place] if place < len(row) else "" for row in rows[1:])
        for place, name in enumerate(names)
    }
    return columns, remark


def typed(texts: Iterable[str]) -> list[MetadataValue]:
    """Convert a column to whole numbers if possible, else to numbers, else to text; None for missing values."""
    values = [text.strip() for text in texts]
    known = [value for value in values if value.lower() not in _MISSING]
    for convert in (_whole, float):
        try:
            numbers = iter([convert(value) for value in known])
        except (ValueError, OverflowError):
            continue
        column = [None if value.lower() in _MISSING else next(numbers) for value in values]
        return [value if value is not None and np.isfinite(value) else None for value in column]
    return [value[:_LONGEST_TEXT] or None for value in values]


def seconds(column: list[MetadataValue]) -> NDArray[np.float64]:
    """Convert a column to times; NaN where it has no number."""
    return np.array(
        [float(value) if isinstance(value, int | float) else np.nan for value in column], np.float64
    )


def _whole(text: str) -> int:
    number = int(text)
    if abs(number) >= 2**53:
        raise ValueError("too large for a whole number in JSON")
    return number
