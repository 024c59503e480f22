"""A table in a text file: its dialect, and its rows block by block."""

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from domain.errors import listed
from worker.ingest.problems import Problem, RejectedFile, rejected
from worker.ingest.readers.tables.table import (
    Batch,
    Kind,
    LabelColumn,
    as_labels,
    as_numbers,
    kind_of,
    refuse_columns,
)
from worker.ingest.recording import MetadataValue

_HEAD_BYTES = 2**20
"""Size of the part of a file from which dialect and header are determined; also the longest line that is read."""
_BLOCK_BYTES = 4 * 2**20
_SAMPLE_ROWS = 20
_DELIMITERS = {"\t": "tab", ";": "semicolon", ",": "comma", " ": "whitespace"}
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?inf|nan", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
_WHOLE = re.compile(r"[+-]?\d{1,18}")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")
_COMMENT = re.compile(rb"^[ \t]*#[^\n]*\n?", re.MULTILINE)
_MISSING = ["", "NaN", "nan", "NAN", "NA", "N/A", "n/a", "<NA>", "null", "NULL", "None", "none"]


@dataclass(frozen=True)
class Dialect:
    """Dialect of a text file.

    Attributes
    ----------
    delimiter
        Tab, semicolon, comma, or a blank for any whitespace.
    header
        Names of the columns; empty if the file has none.
    rows
        Cells of its first rows.
    first_byte
        Byte at which the first row begins.
    """

    delimiter: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    first_byte: int

    @property
    def is_even(self) -> bool:
        """Return whether all rows have as many cells as there are names."""
        return all(len(row) == len(self.header or self.rows[0]) for row in self.rows)

    def has_column_of_numbers(self) -> bool:
        """Return whether a column holds a number in each of two or more rows."""
        columns = zip(*self.rows, strict=False)
        return len(self.rows) > 1 and any(all(map(is_number, column)) for column in columns)


def is_number(cell: str) -> bool:
    """Return whether a cell holds a number, with a decimal point or comma."""
    return bool(_NUMBER.fullmatch(cell.strip()) or _DECIMAL_COMMA.fullmatch(cell.strip()))


def sniff(path: Path) -> Dialect | None:
    """Return the dialect of a text file from its first bytes; None if it is no table."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        is_whole = not file.read(1)
    if _CONTROL.search(head):
        return None
    begin = 3 if head.startswith(codecs.BOM_UTF8) else 0
    lines = head[begin:].splitlines(keepends=True)
    if not is_whole and lines:
        lines.pop()
    comment = ""
    texts: list[str] = []
    places: list[tuple[int, int]] = []
    place = begin
    for line in lines:
        text = _decoded(line).strip()
        if text.startswith("#"):
            comment = comment if texts else text.lstrip("# ")
        elif text:
            texts.append(text if "\t" not in line.decode("latin-1") else _decoded(line).rstrip("\r\n"))
            places.append((place, place + len(line)))
        place += len(line)
        if len(texts) > _SAMPLE_ROWS:
            break
    return _dialect(comment, texts, places)


def _decoded(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _dialect(comment: str, texts: list[str], places: list[tuple[int, int]]) -> Dialect | None:
    found = []
    for delimiter in _DELIMITERS:
        cells = [_cells(text, delimiter) for text in texts]
        if not cells or len(cells[0]) < 2:
            continue
        if not all(is_number(cell) for cell in cells[0]):
            dialect = Dialect(delimiter, cells[0], tuple(cells[1:]), places[0][1])
        else:
            named = _cells(comment, delimiter) if comment else ()
            header = named if len(named) == len(cells[0]) else ()
            dialect = Dialect(delimiter, header, tuple(cells), places[0][0])
        if dialect.rows:
            found.append(dialect)
    even = [dialect for dialect in found if dialect.is_even]
    return next(iter(even or found), None)


def _cells(text: str, delimiter: str) -> tuple[str, ...]:
    if delimiter == " ":
        text = re.sub(r"[ \t]+", " ", text.strip())
    try:
        row = next(csv.reader([text], delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:
        return ()
    return tuple(cell.strip() for cell in row)


def read_head(path: Path) -> str | None:
    """Return the first 4 kB of a text file in UTF-8, or None if it is binary."""
    with path.open("rb") as file:
        head = file.read(4096)
    if _CONTROL.search(head):
        return None
    return codecs.getincrementaldecoder("utf-8-sig")().decode(head)


class CsvTable:
    """A table of text; see `Table`."""

    format = "csv"

    def __init__(self, path: Path, dialect: Dialect) -> None:
        self._path = path
        self._dialect = _checked(dialect)
        self._encoding = _encoding(path)
        self._names = [name or f"column {number}" for number, name in enumerate(self._dialect.header, 1)]
        refuse_columns(self._names)
        self.notes = [
            f"The file was read as text in {self._encoding}, its columns divided by {_DELIMITERS[dialect.delimiter]}."
        ]
        self.columns = self._kinds()

    def _kinds(self) -> dict[str, Kind]:
        """Return the kind of each column from the first block of rows; a column without a name is not read."""
        with self._opened(pyarrow.csv.ConvertOptions(null_values=_MISSING)) as reader:
            kinds = {field.name: kind_of(field.type) for field in reader.schema}
        unnamed = {name for name, given in zip(self._names, self._dialect.header, strict=True) if not given}
        return {
            name: "other" if name in unnamed else "label" if kind == "other" else kind
            for name, kind in kinds.items()
        }

    def batches(
        self, numbers: Collection[str] = (), labels: Collection[str] = (), lists: Collection[str] = ()
    ) -> Iterator[Batch]:
        """Iterate over some columns."""
        types = dict.fromkeys(labels, pa.string()) | dict.fromkeys(numbers, pa.float64())
        convert = pyarrow.csv.ConvertOptions(
            include_columns=list(types), column_types=types, null_values=_MISSING, strings_can_be_null=True
        )
        with self._opened(convert) as reader:
            for batch in reader:
                yield Batch(
                    batch.num_rows,
                    {name: as_numbers(batch.column(name), name) for name in numbers},
                    {name: _parsed(as_labels(batch.column(name))) for name in labels},
                )

    @contextmanager
    def _opened(self, convert: pyarrow.csv.ConvertOptions) -> Iterator[pyarrow.csv.CSVStreamingReader]:
        delimiter = self._dialect.delimiter
        with self._path.open("rb") as file:
            file.seek(self._dialect.first_byte)
            rows = pa.PythonFile(_Rows(file, self._encoding, delimiter), "r")
            try:
                with pyarrow.csv.open_csv(
                    rows,
                    pyarrow.csv.ReadOptions(
                        use_threads=False, block_size=_BLOCK_BYTES, column_names=self._names
                    ),
                    pyarrow.csv.ParseOptions(delimiter=delimiter),
                    convert,
                ) as reader:
                    yield reader
            except pa.ArrowInvalid as error:
                raise _explained(str(error), self._names) or error from error


class _Rows(io.RawIOBase):
    """Converts the rows of a table for Arrow: UTF-8, line feeds, no comments, one delimiter."""

    def __init__(self, file: io.BufferedReader, encoding: str, delimiter: str) -> None:
        self._file, self._encoding, self._by_blanks = file, encoding, delimiter == " "
        self._rest, self._ready, self._at_end = b"", b"", False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while not self._ready and not self._at_end:
            self._ready = self._next_lines()
        taken, self._ready = (self._ready, b"") if size < 0 else (self._ready[:size], self._ready[size:])
        return taken

    def _next_lines(self) -> bytes:
        block = self._file.read(_BLOCK_BYTES)
        self._at_end = not block
        text = self._rest + block
        end = len(text) if self._at_end else max(text.rfind(b"\n"), text.rfind(b"\r")) + 1
        text, self._rest = text[:end], text[end:]
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"#" in text:
            text = _COMMENT.sub(b"", text)
        if self._by_blanks:
            text = re.sub(rb"(?m)^ | $", b"", re.sub(rb"[ \t]+", b" ", text))
        return text if self._encoding == "utf-8" else text.decode(self._encoding).encode()


def _encoding(path: Path) -> str:
    """Return the encoding of the file (UTF-8 or Latin-1) after one pass; reject binary data and overlong lines."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    encoding = "utf-8"
    with path.open("rb") as file:
        while block := file.read(_HEAD_BYTES):
            if b"\x00" in block:
                said = "The file has NUL bytes: it is not text, or text in UTF-16."
                raise rejected("text_has_nul", said, "Save the table as CSV in UTF-8.")
            if len(block) == _HEAD_BYTES and b"\n" not in block and b"\r" not in block:
                said = f"A line of the file is longer than {_HEAD_BYTES} bytes."
                raise rejected("line_too_long", said, "Give one row of the table in each line.")
            if encoding == "utf-8" and not block.isascii():
                try:
                    decoder.decode(block)
                except UnicodeDecodeError:
                    encoding = "latin-1"
            elif encoding == "utf-8" and decoder.getstate()[0]:
                encoding = "latin-1"
    return "latin-1" if decoder.getstate()[0] else encoding


def _checked(dialect: Dialect) -> Dialect:
    """Reject a table without header, with decimal commas or with uneven rows, judged by its first rows."""
    if not dialect.header:
        said = f"The first line holds only numbers ({listed(dialect.rows[0], 5)}): expected names of columns."
        hint = "Put a line of names first, such as trial,neuron,time or trial,bin,neuron_1,neuron_2."
        raise rejected("header_missing", said, hint)
    numbers = [cell for row in dialect.rows for cell in row if _DECIMAL_COMMA.fullmatch(cell)]
    if numbers:
        raise RejectedFile(_decimal_comma(numbers[0]))
    if not dialect.is_even:
        row = next(row for row in dialect.rows if len(row) != len(dialect.header))
        raise RejectedFile(_uneven(len(dialect.header), len(row), listed(row, 8)))
    # pandas and R write the numbers of rows under no name, or under this one.
    header = tuple(
        "" if re.fullmatch(r"unnamed: ?0", name, re.IGNORECASE) else name for name in dialect.header
    )
    return replace(dialect, header=header)


def _decimal_comma(cell: str) -> Problem:
    said = f"Numbers are written with a comma, such as {cell}: expected a point."
    hint = f"Save the table with decimal points ({cell.replace(',', '.')}); in pandas: to_csv(path, decimal='.')."
    return Problem("decimal_comma", said, hint)


def _uneven(expected: int, found: int, row: str) -> Problem:
    said = f"A row has {found} cells, but there are {expected} columns: {row[:200]}."
    hint = (
        "Give each row as many cells as the header; numbers need decimal points, and text with commas quotes."
    )
    return Problem("rows_uneven", said, hint)


def _explained(said: str, names: list[str]) -> RejectedFile | None:
    """Translate an error message of Arrow for the user."""
    uneven = re.search(r"Expected (\d+) columns, got (\d+): ?(.*)", said, re.DOTALL)
    if uneven:
        return RejectedFile(_uneven(int(uneven[1]), int(uneven[2]), uneven[3].strip()))
    if "straddl" in said:
        hint = "Give one row of the table in each line, and close every quote in the line that opens it."
        return rejected("line_too_long", "A line of the file is too long to be read.", hint)
    cell = re.search(r"CSV column #(\d+):(?: Row #(\d+):)?.*invalid value '(.*)'", said, re.DOTALL)
    if cell is None:
        return None
    if _DECIMAL_COMMA.fullmatch(cell[3].strip()):
        return RejectedFile(_decimal_comma(cell[3].strip()))
    name, row = names[int(cell[1])], f" in row {cell[2]} below the header" if cell[2] else ""
    problem = f"`{name[:100]}` holds {cell[3][:50]!r}{row}: expected a number, as in the rows before it."
    hint = "Leave a cell empty where there is no number; comments begin with # in lines of their own."
    return rejected("cell_not_a_number", problem, hint, f"/{name[:100]}")


def _parsed(column: LabelColumn) -> LabelColumn:
    texts, indices = column
    return [_value(text) if isinstance(text, str) else text for text in texts], indices


def _value(text: str) -> MetadataValue:
    text = text.strip()
    if _WHOLE.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text):
        return float(text)
    return {"true": True, "false": False}.get(text.lower(), text)
