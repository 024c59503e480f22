"""Hostile MATLAB files of version 5, written by hand byte by byte."""

import struct
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import scipy.io

from tests.worker.ingest.hostile_file import Canary, Corpus, HostileFile

HEADER = b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(116) + bytes(8) + b"\x00\x01IM"
_INT8, _INT32, _UINT32, _DOUBLE, _MATRIX, _COMPRESSED, _UINT8 = 1, 5, 6, 9, 14, 15, 2
CELL, STRUCT, OBJECT, CHAR, SPARSE, DOUBLE, UINT8, FUNCTION, OPAQUE = 1, 2, 3, 4, 5, 6, 9, 16, 17


def element(kind: int, data: bytes, size: int | None = None) -> bytes:
    """One element: its tag, which may lie about the size, and its data."""
    return struct.pack("<II", kind, len(data) if size is None else size) + data + bytes(-len(data) % 8)


def matrix(
    kind: int,
    dims: tuple[int, ...],
    body: bytes,
    name: bytes = b"spikes",
    flags: int = 0,
    size: int | None = None,
    most: int = 0,
) -> bytes:
    """One variable."""
    head = element(_UINT32, struct.pack("<II", kind | flags << 8, most))
    shape = element(_INT32, struct.pack(f"<{len(dims)}i", *dims))
    return element(_MATRIX, head + shape + element(_INT8, name) + body, size)


def counts(name: bytes = b"spikes") -> bytes:
    """Counts of 6 trials, 10 bins, 5 neurons."""
    return matrix(
        UINT8, (6, 10, 5), element(_UINT8, bytes(np.resize([0, 1, 0, 2], 300).astype(np.uint8))), name
    )


def width() -> bytes:
    """A bin width of 10 ms."""
    return matrix(DOUBLE, (1, 1), element(_DOUBLE, struct.pack("<d", 0.01)), b"bin_width_s")


def nested(depth: int, kind: int = CELL) -> bytes:
    """Cells in cells, or structs in structs."""
    middle = b""
    if kind == STRUCT:
        middle = element(_INT32, struct.pack("<i", 8)) + element(_INT8, b"a".ljust(8, b"\x00"))
    head = element(_UINT32, struct.pack("<II", kind, 0)) + element(_INT32, struct.pack("<2i", 1, 1))
    head += element(_INT8, b"") + middle
    size, parts = 0, []
    for _level in range(depth):
        size += len(head) + 8 if parts else len(head)
        parts.append(head)
    tags = [struct.pack("<II", _MATRIX, size - level * (len(head) + 8)) for level in range(depth)]
    return b"".join(tag + part for tag, part in zip(tags, parts, strict=True))


def compressed_zeros(mebibytes: int, name: bytes = b"spikes") -> bytes:
    """A compressed variable, most of it zeros."""
    size = mebibytes * 2**20
    start = matrix(UINT8, (mebibytes, 2**10, 2**10), b"", name)
    tag = struct.pack("<II", _MATRIX, len(start) - 8 + 8 + size)
    packer = zlib.compressobj(9)
    parts = [packer.compress(tag + start[8:] + struct.pack("<II", _UINT8, size))]
    parts += [packer.compress(bytes(2**20)) for _block in range(mebibytes)]
    return element(_COMPRESSED, b"".join([*parts, packer.flush()]))[: -8 or None]


def compressed(data: bytes) -> bytes:
    """An element inside a compressed one."""
    packed = zlib.compress(data)
    return struct.pack("<II", _COMPRESSED, len(packed)) + packed


def russian_dolls(depth: int) -> bytes:
    """Compressed elements inside compressed elements."""
    data = counts()
    for _level in range(depth):
        data = compressed(data)
    return data


def sparse(rows: list[int], columns: list[int], dims: tuple[int, int]) -> bytes:
    """A sparse matrix with any indices."""
    body = element(_INT32, struct.pack(f"<{len(rows)}i", *rows))
    body += element(_INT32, struct.pack(f"<{len(columns)}i", *columns))
    body += element(_DOUBLE, bytes(8 * len(rows)))
    return matrix(SPARSE, dims, body, most=len(rows))


def opaque(what: bytes) -> bytes:
    """What MATLAB writes of Java objects, tables and function handles."""
    head = element(_UINT32, struct.pack("<II", OPAQUE, 0))
    names = element(_INT8, b"spikes") + element(_INT8, what) + element(_INT8, b"java.lang.Runtime")
    return element(_MATRIX, head + names + counts(b""))


def cell(children: list[bytes], dims: tuple[int, ...] | None = None) -> bytes:
    """A cell array."""
    return matrix(CELL, dims or (1, len(children)), b"".join(children), b"times")


def struct_with(fields: list[bytes], length: int = 64, declared: int | None = None) -> bytes:
    """A struct whose fields have any names."""
    names = b"".join(name[:length].ljust(length, b"\x00") for name in fields)
    body = element(_INT32, struct.pack("<i", length if declared is None else declared))
    body += element(_INT8, names) + b"".join(counts(b"") for _field in fields)
    return matrix(STRUCT, (1, 1), body, b"data")


def text(values: bytes, kind: int = 4) -> bytes:
    """A char array of any encoding."""
    return matrix(CHAR, (1, len(values)), element(kind, values), b"label")


BODIES: dict[str, bytes] = {
    "header_alone": b"",
    "size_beyond_the_end": matrix(UINT8, (6, 10, 5), element(_UINT8, bytes(300)), size=2**31 - 1),
    "size_of_4_gib": matrix(UINT8, (6, 10, 5), element(_UINT8, bytes(300)), size=2**32 - 1),
    "size_too_small": matrix(UINT8, (6, 10, 5), element(_UINT8, bytes(300)), size=8),
    "size_zero": struct.pack("<II", _MATRIX, 0) * 1000,
    "data_size_lies": matrix(UINT8, (6, 10, 5), element(_UINT8, bytes(300), size=2**31 - 1)),
    "dims_giant": matrix(UINT8, (2**31 - 1,) * 3, element(_UINT8, bytes(300))),
    "dims_negative": matrix(UINT8, (-6, -10, 5), element(_UINT8, bytes(300))),
    "dims_more_than_data": matrix(UINT8, (60, 10, 5), element(_UINT8, bytes(300))),
    "dims_many": matrix(UINT8, (1,) * 10_000, element(_UINT8, b"1")),
    "dims_none": matrix(UINT8, (), element(_UINT8, b"1")),
    "dims_zero": matrix(UINT8, (0, 2**31 - 1, 2**31 - 1), element(_UINT8, b"")),
    "cells_giant": matrix(CELL, (2**31 - 1, 2**31 - 1), b""),
    "cells_missing": cell([counts(b"")], (1, 10_000_000)),
    "cells_empty": cell([struct.pack("<II", _MATRIX, 0)] * 100_000),
    "nested_100": nested(100),
    "nested_10000": nested(10_000),
    "nested_structs_10000": nested(10_000, STRUCT),
    "type_unknown": matrix(UINT8, (6, 10, 5), element(77, bytes(300))),
    "class_unknown": matrix(200, (6, 10, 5), element(_UINT8, bytes(300))),
    "class_0": matrix(0, (6, 10, 5), element(_UINT8, bytes(300))),
    "function_handle": matrix(FUNCTION, (1, 1), counts(b"")),
    "object": matrix(OBJECT, (1, 1), element(_INT8, b"java.lang.Runtime") + counts(b"")),
    "opaque_java": opaque(b"java"),
    "opaque_mcos": opaque(b"MCOS"),
    "sparse_outside": sparse([2**31 - 1, -5], [0, 2], (6, 1)),
    "sparse_giant": sparse([0], [0, 1], (2**31 - 1, 2**31 - 1)),
    "sparse_columns_fall": sparse([0, 1, 2], [3, 0, 99], (6, 2)),
    "complex_without_imaginary": matrix(DOUBLE, (6, 10, 5), element(_DOUBLE, bytes(2400)), flags=8),
    "logical": matrix(UINT8, (6, 10, 5), element(_UINT8, bytes(300)), flags=2),
    "global": matrix(UINT8, (6, 10, 5), element(_UINT8, bytes(300)), flags=4),
    "name_html": counts(b"<script>alert(1)</script>"),
    "name_control": counts(b"\x00\x1b[31m\r\n"),
    "name_not_utf8": counts(b"\xff\xfe\xed\xa0\x80"),
    "name_of_200_kb": counts(b"n" * 200_000),
    "name_dunder": counts(b"__proto__") + counts(b"__class__") + counts(b"__globals__"),
    "name_twice": counts() + counts() + counts(),
    "name_empty": counts(b""),
    "name_path": counts(b"../../etc/passwd"),
    "fields_strange": struct_with([b"<b>", b"\xff\xfe", b"", b"a.b", b"__class__"]),
    "fields_twice": struct_with([b"a", b"a"]),
    "fields_length_0": struct_with([b"a", b"b"], declared=0),
    "fields_length_negative": struct_with([b"a", b"b"], declared=-1),
    "fields_length_giant": struct_with([b"a", b"b"], declared=2**31 - 1),
    "text_surrogates": text(b"\x00\xd8\x00\xd8"),
    "text_utf8_damaged": text(b"\xff\xfe\xed\xa0\x80", 16),
    "text_utf32": text(b"\xff\xff\xff\xff" * 10, 18),
    "small_elements": matrix(UINT8, (2, 1), struct.pack("<HH", _UINT8, 9) + b"\x01\x02\x03\x04"),
    "compressed_garbage": element(_COMPRESSED, b"x\x9c" + bytes(range(200))),
    "compressed_cut": compressed(counts())[:-20],
    "compressed_empty": compressed(b""),
    "compressed_lies": compressed(struct.pack("<II", _MATRIX, 2**31 - 1) + counts()[8:]),
    "compressed_dolls": russian_dolls(500),
    "compressed_nested": compressed(nested(3_000)),
    "many_variables": b"".join(counts(b"v%d" % n) for n in range(5_000)),
    "not_finite": matrix(DOUBLE, (6, 10, 5), element(_DOUBLE, struct.pack("<d", np.nan) * 300)),
    "times_giant": cell(
        [matrix(DOUBLE, (1, 3), element(_DOUBLE, struct.pack("<3d", 0, 1e308, -1e308)), b"")] * 5
    ),
}


def write(body: bytes, path: Path, _: Canary) -> None:
    """A file of this content, with a bin width."""
    path.write_bytes(HEADER + width() + body)


def write_zeros(mebibytes: int, path: Path, _: Canary) -> None:
    """A bomb; made when it is asked for."""
    path.write_bytes(HEADER + width() + compressed_zeros(mebibytes))


def headed(header: bytes, path: Path, _: Canary) -> None:
    """A file of valid content with another header."""
    path.write_bytes(header + width() + counts())


def version_4(rows: int, columns: int, name_length: int, path: Path, _: Canary) -> None:
    """The format before: no magic at all, so that any bytes may pass for it."""
    path.write_bytes(struct.pack("<5i", 0, rows, columns, 0, name_length) + b"spikes\x00" + bytes(400))


def saved(variables: dict[str, object], path: Path, _: Canary) -> None:
    """What scipy saves."""
    with path.open("wb") as file:
        scipy.io.savemat(file, variables)


def matlab_corpus() -> Corpus:
    """Every attack on MATLAB files of version 5 and before."""
    matlab = partial(HostileFile, format="matlab")
    for name, body in BODIES.items():
        yield matlab(f"matlab5:{name}", make=partial(write, body))
    yield matlab("matlab5:bomb", make=partial(write_zeros, 64))
    yield matlab("matlab5:bomb_of_8_gib", make=partial(write_zeros, 2047), is_slow=True)
    yield matlab(
        "matlab5:nested_1000000",
        make=lambda path, canary: write(nested(1_000_000), path, canary),
        is_slow=True,
    )
    for name, header in {
        "big_endian": HEADER[:124] + b"\x01\x00MI",
        "endian_unknown": HEADER[:126] + b"XX",
        "version_9": HEADER[:124] + b"\x00\x09IM",
        "subsystem_outside": HEADER[:116] + struct.pack("<Q", 2**62) + HEADER[124:],
        "subsystem_at_itself": HEADER[:116] + struct.pack("<Q", 128) + HEADER[124:],
        "text_html": b"<html><script>".ljust(116) + HEADER[116:],
    }.items():
        yield matlab(f"matlab5:header:{name}", make=partial(headed, header))
    for name, shape in {
        "giant": (2**31 - 1, 2**31 - 1, 7),
        "negative": (-1, 5, 7),
        "name": (5, 5, 2**31 - 1),
    }.items():
        yield matlab(f"matlab4:{name}", make=partial(version_4, *shape))
    function = np.array([(b"f",)], dtype=[("s", "O")])
    for name, variables in {
        "objects": {"spikes": np.array([[{"a": np.ones(3)}, "text"]], dtype=object)},
        "struct_array": {"trials": [{"spikes": np.ones((3, 4)), "t": n} for n in range(4)]},
        "ragged": {"spikes": np.array([np.ones((n, 5)) for n in range(1, 7)], dtype=object)},
        "cells_of_cells": {"spikes": np.array([np.array([np.ones(3), "x"], dtype=object)] * 5, dtype=object)},
        "fields": {"data": function},
        "times_by_neuron": {"spike_times": np.array([np.full(9, np.nan)] * 5, dtype=object)},
    }.items():
        yield matlab(f"matlab5:saved:{name}", make=partial(saved, variables))
