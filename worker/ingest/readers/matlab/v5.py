"""MATLAB files of versions 4 and 5 to 7.2: every tag is checked against the file before anything is read.

Stands for scipy.io.loadmat, which holds whole variables in memory and crashes on a damaged file of the corpus. Here a variable is
decompressed once, into a temporary file, and read from there.
"""

import os
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from worker.ingest.readers.base import ReadOptions
from worker.ingest.readers.matlab.tree import (
    LONGEST_TEXT,
    Budget,
    Cell,
    Node,
    Numbers,
    Struct,
    Tree,
    Unread,
    empty,
    full,
    product,
    sound_shape,
    stays_on_disk,
    text_of,
)
from worker.ingest.rows import RowFile, Rows

_MATRIX, _COMPRESSED = 14, 15
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {
    6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8",
}  # fmt: skip
_CELL, _STRUCT, _OBJECT, _CHAR, _SPARSE, _FUNCTION, _OPAQUE = 1, 2, 3, 4, 5, 16, 17
_ENCODINGS = {1: "latin-1", 2: "latin-1", 16: "utf-8"}
_WIDE_ENCODINGS = {4: "utf-16", 17: "utf-16", 18: "utf-32"}
_V4_TYPES = ("f8", "f4", "i4", "i2", "u2", "u1")
_CHUNK = 2**20


def is_v5(start: bytes) -> bool:
    """Return whether the first bytes are those of version 5 to 7.2."""
    order = {b"IM": "<", b"MI": ">"}.get(start[126:128])
    return (
        order is not None
        and start[:4] != b"\0\0\0\0"
        and struct.unpack(order + "H", start[124:126])[0] == 0x0100
    )


def is_v4(start: bytes) -> bool:
    """Return whether the first bytes are the header of a variable of version 4."""
    header = _v4_header(start)
    return header is not None and _is_name(start[20 : 20 + header[5]])


@contextmanager
def open_tree(path: Path, options: ReadOptions) -> Iterator[Tree]:
    """Open a file of version 4 or 5 to 7.2.

    Raises
    ------
    RejectedFile
        If the file declares more than may be read.
    """
    budget = Budget(options)
    with path.open("rb") as file, tempfile.TemporaryFile(prefix="latentry-matlab-") as expanded:
        start = file.read(128)
        if is_v5(start):
            order = "<" if start[126:128] == b"IM" else ">"
            yield Tree(_V5(file, expanded, order, budget).variables(), budget)
        else:
            yield Tree(_v4_variables(_Source(file), budget), budget)


class _Source:
    """Random access to the bytes of a file, with a window for nearby reads."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.size = file.seek(0, 2)
        self._first, self._window = 0, b""

    def read(self, first: int, count: int) -> bytes:
        if first < self._first or first + count > self._first + len(self._window):
            if first < 0 or first + count > self.size:
                raise EOFError(f"{count} bytes are declared at byte {first} of {self.size}")
            self.file.seek(first)
            self._window, self._first = self.file.read(max(count, _CHUNK)), first
        place = first - self._first
        found = self._window[place : place + count]
        if len(self._window) > 4 * _CHUNK:
            self._window = b""
        return found

    def read_alone(self, first: int, count: int) -> bytes:
        """Read bytes without the window."""
        found = os.pread(self.file.fileno(), count, first)
        if len(found) != count:
            raise EOFError(f"{count} bytes are declared at byte {first} of {self.size}")
        return found


class _V5:
    """Reads the elements of one file."""

    def __init__(self, file: IO[bytes], expanded: IO[bytes], order: str, budget: Budget) -> None:
        self._file, self._expanded, self._order, self._budget = file, expanded, order, budget

    def variables(self) -> dict[str, Node]:
        """Return every variable by name."""
        plain = _Source(self._file)
        places: list[tuple[bool, int, int]] = []
        place, written = 128, 0
        while place + 8 <= plain.size:
            kind, count = struct.unpack(self._order + "II", plain.read(place, 8))
            begin = place + 8
            if begin + count > plain.size:
                raise EOFError(f"the variable at byte {place} declares {count} bytes; the file ends before")
            if kind == _COMPRESSED:
                size = self._decompress(begin, count)
                if size:
                    places.append((True, written, size))
                written += size
            elif kind == _MATRIX:
                self._budget.expand(count)
                places.append((False, begin, count))
            else:
                raise ValueError(f"an element of type {kind} where a variable was expected")
            place = begin + count
        if place != plain.size:
            raise EOFError("the file ends within a tag")
        self._expanded.flush()
        sources = {False: plain, True: _Source(self._expanded)}
        found: dict[str, Node] = {}
        for is_expanded, begin, count in places:
            name, node = self._matrix(sources[is_expanded], begin, begin + count, "", 0)
            if name and not _is_subsystem(name):
                found[name] = node
        return found

    def _decompress(self, begin: int, count: int) -> int:
        """Append one decompressed variable to the temporary file; return its size without its tag."""
        inflate = zlib.decompressobj()
        self._file.seek(begin)
        left, head, wanted, done = count, b"", -1, 0
        while wanted < 0 or done < wanted:
            data = inflate.unconsumed_tail
            if not data:
                data = self._file.read(min(_CHUNK, left))
                left -= len(data)
            piece = inflate.decompress(data, _CHUNK)
            if not piece and (inflate.eof or not data):
                raise EOFError(f"the compressed variable at byte {begin} ends early")
            if wanted < 0:
                head += piece
                if len(head) < 8:
                    continue
                kind, wanted = struct.unpack(self._order + "II", head[:8])
                if kind != _MATRIX:
                    raise ValueError(f"a compressed element of type {kind} where a variable was expected")
                self._budget.expand(wanted)
                piece = head[8:]
            piece = piece[: wanted - done]
            self._expanded.write(piece)
            done += len(piece)
        if left or not inflate.eof:
            self._check_rest(inflate, left)
        return done

    def _check_rest(self, inflate: Any, left: int) -> None:
        """Read the end of a compressed variable, so that a wrong checksum is noticed."""
        rest = inflate.decompress(inflate.unconsumed_tail + self._file.read(min(left, _CHUNK)), _CHUNK)
        if len(rest) > 8 or not inflate.eof:
            raise ValueError("a compressed variable holds more than it declares")

    def _tag(self, source: _Source, place: int, end: int) -> tuple[int, int, int, int]:
        """Return type, position and length of an element's data, and where the next element begins."""
        word, count = struct.unpack(self._order + "II", source.read(place, 8))
        if word >> 16:
            kind, count, data = word & 0xFFFF, word >> 16, place + 4
            if count > 4:
                raise ValueError(f"a short element of {count} bytes")
            following = place + 8
        else:
            kind, data = word, place + 8
            following = data + (count if kind == _MATRIX else (count + 7) // 8 * 8)
        if data + count > end:
            raise EOFError(f"an element at byte {place} reaches beyond what holds it")
        return kind, data, count, min(following, end)

    def _data(self, source: _Source, place: int, end: int, most: int) -> tuple[int, bytes, int]:
        kind, data, count, following = self._tag(source, place, end)
        if count > most:
            raise ValueError(f"an element of {count} bytes where at most {most} were expected")
        return kind, source.read(data, count), following

    def _matrix(self, source: _Source, place: int, end: int, within: str, depth: int) -> tuple[str, Node]:
        """Return name and value of the matrix with elements from `place` to `end`."""
        self._budget.enter(within, depth)
        if place == end:
            return "", empty()
        _, flags, place = self._data(source, place, end, 16)
        (word,) = struct.unpack(self._order + "I", flags[:4])
        kind = word & 0xFF
        if kind == _OPAQUE:
            _, raw_name, _ = self._data(source, place, end, 1000)
            return _name(raw_name), Unread("it is an object, such as a table or a string array")
        _, raw_shape, place = self._data(source, place, end, 4096)
        shape = tuple(int(length) for length in np.frombuffer(raw_shape, self._order + "i4"))
        _, raw_name, place = self._data(source, place, end, 1000)
        name = _name(raw_name)
        within = within or name
        shape = sound_shape(within, shape)
        if kind == _CELL:
            items = self._children(source, place, end, within, depth=depth, number=product(shape))
            return name, Cell(shape, [item for _, item in items])
        if kind == _STRUCT:
            return name, self._struct(source, place, end, within, depth=depth, shape=shape)
        if kind == _CHAR:
            return name, self._text(source, place, end, shape)
        if word & 0x0800:
            return name, Unread("its numbers are complex")
        if kind == _SPARSE:
            return name, self._sparse(source, place, end, within, shape)
        if kind in _CLASSES:
            return name, self._numbers(source, place, end, shape, "?" if word & 0x0200 else _CLASSES[kind])
        what = {_OBJECT: "an object", _FUNCTION: "a function handle"}.get(
            kind, "of a class that is not known"
        )
        return name, Unread(f"it is {what}")

    def _children(
        self, source: _Source, place: int, end: int, within: str, *, depth: int, number: int
    ) -> list[tuple[str, Node]]:
        if number * 8 > end - place:
            raise EOFError(f"{within[:100]} declares {number} values; {end - place} bytes are left for them")
        found = []
        for _ in range(number):
            kind, data, count, following = self._tag(source, place, end)
            if kind != _MATRIX:
                raise ValueError(f"an element of type {kind} within {within[:100]}")
            found.append(self._matrix(source, data, data + count, within, depth + 1))
            place = following
        return found

    def _struct(
        self, source: _Source, place: int, end: int, within: str, *, depth: int, shape: tuple[int, ...]
    ) -> Node:
        _, raw_length, place = self._data(source, place, end, 8)
        (length,) = struct.unpack(self._order + "i", raw_length[:4])
        _, raw_names, place = self._data(source, place, end, 2**20)
        if length < 1 and raw_names:
            raise ValueError(f"names of fields of {length} bytes in {within[:100]}")
        names = [_name(raw_names[at : at + length]) for at in range(0, len(raw_names), max(length, 1))]
        if not names:
            return Struct((0, 0), {})
        values = [
            value
            for _, value in self._children(
                source, place, end, within, depth=depth, number=product(shape) * len(names)
            )
        ]
        return Struct(shape, {name: values[at :: len(names)] for at, name in enumerate(names)})

    def _text(self, source: _Source, place: int, end: int, shape: tuple[int, ...]) -> Node:
        kind, data, count, _ = self._tag(source, place, end)
        if count > LONGEST_TEXT:
            return Unread(f"its text is {count} bytes long")
        raw = source.read(data, count)
        wide = _WIDE_ENCODINGS.get(kind)
        encoding = (
            _ENCODINGS.get(kind, "latin-1")
            if wide is None
            else wide + ("-le" if self._order == "<" else "-be")
        )
        return text_of(raw.decode(encoding, "replace"), shape)

    def _numbers(self, source: _Source, place: int, end: int, shape: tuple[int, ...], dtype: str) -> Node:
        kind, data, count, _ = self._tag(source, place, end)
        if kind not in _STORED:
            raise ValueError(f"numbers of type {kind}")
        return _located(
            source, data, count, np.dtype(self._order + _STORED[kind]), shape, dtype=np.dtype(dtype)
        )

    def _sparse(self, source: _Source, place: int, end: int, within: str, shape: tuple[int, ...]) -> Node:
        parts: list[NDArray[Any]] = []
        for _ in range(3):
            kind, data, count, place = self._tag(source, place, end)
            if stays_on_disk(count):
                return Unread("it is a very large sparse matrix: save full(...) of it")
            stored = np.dtype(self._order + _STORED[kind])
            parts.append(np.frombuffer(source.read(data, count), stored))
        return full(
            within,
            shape,
            parts[0],
            parts[1],
            parts[2].astype(parts[2].dtype.newbyteorder("=")),
            budget=self._budget,
        )


def _located(
    source: _Source,
    data: int,
    count: int,
    stored: np.dtype[Any],
    shape: tuple[int, ...],
    *,
    dtype: np.dtype[Any],
) -> Numbers:
    """Return numbers at a position of a file."""
    if product(shape) * stored.itemsize != count:
        raise ValueError(f"shape {shape} of {stored} is declared, of {count} bytes")

    def read() -> Rows:
        if stays_on_disk(count):
            return RowFile(source.file, shape[::-1], stored, data)
        return np.frombuffer(source.read_alone(data, count), stored).reshape(shape[::-1])

    return Numbers(shape, dtype, read)


def _v4_header(start: bytes) -> tuple[str, int, int, int, int, int] | None:
    """Return byte order, type, rows, columns, whether complex, length of the name; None if it is no header."""
    for order in "<>":
        if len(start) >= 20:
            code, height, width, is_complex, name_bytes = struct.unpack(order + "5i", start[:20])
            machine, type_code = divmod(code, 1000)
            sound = (
                machine == (order == ">")
                and 0 <= type_code < 100
                and type_code // 10 < 6
                and type_code % 10 < 3
            )
            if sound and height >= 0 and width >= 0 and is_complex in (0, 1) and 1 < name_bytes <= 100:
                return order, type_code, height, width, is_complex, name_bytes
    return None


def _v4_variables(source: _Source, budget: Budget) -> dict[str, Node]:
    found: dict[str, Node] = {}
    place = 0
    while place < source.size:
        header = _v4_header(source.read(place, 20))
        if header is None:
            raise ValueError(f"no variable begins at byte {place}, where one was expected")
        order, type_code, height, width, is_complex, name_bytes = header
        name = _name(source.read(place + 20, name_bytes))
        stored = np.dtype(order + _V4_TYPES[type_code // 10])
        data, count = place + 20 + name_bytes, height * width * stored.itemsize
        budget.enter(name, 0)
        budget.expand(count)
        place = data + count * (1 + is_complex)
        if place > source.size:
            raise EOFError(f"{name[:100]} declares {count} bytes; the file ends before")
        shape = (height, width)
        if is_complex:
            found[name] = Unread("its numbers are complex")
        elif type_code % 10 == 1 and count <= LONGEST_TEXT:
            with np.errstate(invalid="ignore"):
                codes = np.frombuffer(source.read(data, count), stored).astype(np.int64)
            found[name] = text_of("".join(map(chr, (codes % 0x10000).tolist())), shape)
        elif type_code % 10 == 0:
            found[name] = _located(source, data, count, stored, shape, dtype=stored.newbyteorder("="))
        else:
            found[name] = Unread("it is a sparse matrix or a long text of version 4: save it with -v7")
    return found


def _is_name(raw: bytes) -> bool:
    return raw.endswith(b"\0") and raw[:-1].decode("latin-1").isidentifier()


def _name(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("utf-8", "replace")


def _is_subsystem(name: str) -> bool:
    return name.startswith("__")
