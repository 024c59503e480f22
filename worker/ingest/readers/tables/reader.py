"""Tables, as CSV or Parquet: one row for each spike, each count or each bin; see docs/file-formats.md.

Stands for pandas, which holds ten times the file in memory: pyarrow decodes blocks, and the layouts are ours.
"""

from pathlib import Path

import pyarrow as pa

from domain.errors import listed
from worker.ingest.problems import Problem, rejected
from worker.ingest.readers.base import ReadOptions
from worker.ingest.readers.tables.csv_table import CsvTable, is_number, read_head, sniff
from worker.ingest.readers.tables.layouts import find_roles, is_known
from worker.ingest.readers.tables.long import LongCounts
from worker.ingest.readers.tables.parquet_table import ENCRYPTED_MAGIC, MAGIC, ParquetTable
from worker.ingest.readers.tables.spikes import read_spikes
from worker.ingest.readers.tables.table import Table, limit_arrow
from worker.ingest.readers.tables.wide import WideCounts
from worker.ingest.recording import Recording
from worker.ingest.spike_trains import SpikeTrains

_NOT_BUILTIN = (pa.lib.ArrowCapacityError, pa.lib.ArrowSerializationError)
"""Exceptions of Arrow that are not subclasses of Python's own."""


class CsvReader:
    """Reads tables of text."""

    format = "csv"

    def recognises(self, path: Path) -> bool:
        """Return whether the file is text with rows of equal length and a column of numbers, or with known names."""
        dialect = sniff(path)
        if dialect is None or not any(is_number(cell) for cell in dialect.rows[0]):
            return False
        known = sum(map(is_known, dialect.header))
        if dialect.is_even:
            return known > 0 or dialect.has_column_of_numbers()
        return known > 1 and dialect.delimiter != " "  # a table with a fault; `read` rejects it

    def read(self, path: Path, options: ReadOptions) -> Recording | SpikeTrains:
        """Read `path`."""
        limit_arrow()
        dialect = sniff(path)
        if dialect is None:
            raise ValueError("there are no rows of text")
        return _read(CsvTable(path, dialect), options)


def explain_text(path: Path) -> tuple[str, str] | None:
    """Return what a file of text is that no reader recognises, and what a table needs; None if it is not text."""
    try:
        head = read_head(path)
    except UnicodeDecodeError:
        return None
    if head is None or not head.strip():
        return None
    hint = (
        "A CSV needs names of columns in its first line and numbers below: trial,neuron,time with a row for each spike; "
        "trial,bin,neuron,count with a row for each count; or trial,bin and a column for each neuron."
    )
    dialect = sniff(path)
    if dialect is not None and dialect.is_even and dialect.delimiter != " " and dialect.header:
        return f"text with the columns {listed(dialect.header, 8)}, but no rows of numbers", hint
    first = next(line.strip() for line in head.splitlines() if line.strip())
    return f"text, but no table: its first line is {first[:60]!r}", hint


class ParquetReader:
    """Reads Parquet files."""

    format = "parquet"

    def recognises(self, path: Path) -> bool:
        """Return whether the file begins as Parquet does."""
        with path.open("rb") as file:
            return file.read(4) in (MAGIC, ENCRYPTED_MAGIC)

    def read(self, path: Path, options: ReadOptions) -> Recording | SpikeTrains:
        """Read `path`."""
        limit_arrow()
        try:
            return _read_around_damage(ParquetTable(path, options), options)
        except _NOT_BUILTIN as error:
            raise ValueError(str(error)) from error


def _read_around_damage(table: ParquetTable, options: ReadOptions) -> Recording | SpikeTrains:
    """Read a table; if it is damaged, read it again without the unreadable columns of metadata."""
    try:
        return _read(table, options)
    except PermissionError:  # of this installation, not of the file
        raise
    except (OSError, ValueError) as error:
        roles = find_roles(table, options)
        is_wide = roles.neuron is None  # then a column of numbers may be a neuron
        neurons = {name for name, kind in table.columns.items() if is_wide and kind != "label"}
        damaged = table.take_out_damaged(roles.used() | neurons)
        if not damaged:
            raise
        found = _read(table, options)
        for name in damaged:
            said = f"The column `{name[:100]}` was left out: it is damaged and cannot be read ({str(error)[:100]})."
            hint = "Save and upload the file again if it is needed."
            found.warnings.append(Problem("column_left_out", said, hint, f"/{name[:100]}"))
        return found


def _read(table: Table, options: ReadOptions) -> Recording | SpikeTrains:
    roles = find_roles(table, options)
    has_lists = roles.time is not None and table.columns[roles.time] == "list"
    if has_lists or (roles.time is not None and roles.neuron is not None and roles.count is None):
        return read_spikes(table, roles, options)
    if roles.neuron is not None and roles.count is None:
        said = (
            f"The table has a column of neurons, `{roles.neuron}`, but none of spike times or counts. It has: "
            f"{listed(table.columns, 30)}."
        )
        hint = "Name the column of times with mapping.time, or those of bins and counts with mapping.bin and mapping.count."
        raise rejected("spikes_missing", said, hint, "/mapping")
    counts = (LongCounts if roles.neuron is not None else WideCounts)(table, roles, options)
    counts.survey()
    return counts.recording()
