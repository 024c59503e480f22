"""Damage to valid files: to bytes, and where that is cheap to what the bytes mean."""

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.worker.ingest.hostile_tables import ODD

_INTERESTING = (
    0,
    1,
    -1,
    2,
    7,
    127,
    128,
    255,
    256,
    32_767,
    65_535,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63 - 1,
)


def mutate(content: bytes, other: bytes, chance: random.Random) -> bytes:
    """Change a file.

    Parameters
    ----------
    content
        A valid file.
    other
        Another file of its format, to splice from.
    chance
        Source of the random choices.
    """
    meaning = _of_meaning(content)
    if meaning is not None and chance.random() < 0.6:
        try:
            return meaning(content, other, chance)
        except (
            ValueError,
            KeyError,
            OSError,
            RuntimeError,
            TypeError,
            IndexError,
            zlib.error,
            zipfile.BadZipFile,
        ):
            pass  # this file has nothing to change in this way
    return mutate_bytes(content, other, chance)


def mutate_bytes(content: bytes, other: bytes, chance: random.Random) -> bytes:
    """Change bytes, without regard to their meaning, once or a few times."""
    changed = bytearray(content)
    for _time in range(chance.choice((1, 1, 1, 2, 3, 8))):
        chance.choice(_BYTE_EDITS)(changed, other, chance)
    return bytes(changed)


def _place(content: bytearray, chance: random.Random) -> int:
    most = len(content) if chance.random() < 0.6 else min(len(content), 1024)
    return chance.randrange(max(1, most))


def _flip(content: bytearray, _: bytes, chance: random.Random) -> None:
    for _time in range(chance.choice((1, 1, 2, 8))):
        if content:
            content[_place(content, chance)] ^= 1 << chance.randrange(8)


def _set_number(content: bytearray, _: bytes, chance: random.Random) -> None:
    width = chance.choice((1, 2, 4, 8))
    place = _place(content, chance) // width * width
    order = chance.choice(("little", "little", "big"))
    number = chance.choice(_INTERESTING) % 256**width
    content[place : place + width] = number.to_bytes(width, order)


def _truncate(content: bytearray, _: bytes, chance: random.Random) -> None:
    del content[chance.randrange(len(content) + 1) :]


def _swap(content: bytearray, _: bytes, chance: random.Random) -> None:
    length = chance.choice((4, 16, 64, 512))
    one, two = _place(content, chance), _place(content, chance)
    content[one : one + length], content[two : two + length] = (
        content[two : two + length],
        content[one : one + length],
    )


def _splice(content: bytearray, other: bytes, chance: random.Random) -> None:
    begin = chance.randrange(len(other) + 1)
    piece = other[begin : begin + chance.choice((4, 16, 64, 512, 4096))]
    place = _place(content, chance)
    content[place : place + (len(piece) if chance.random() < 0.7 else 0)] = piece


def _repeat(content: bytearray, _: bytes, chance: random.Random) -> None:
    place, length = _place(content, chance), chance.choice((1, 8, 64, 512))
    content[place:place] = content[place : place + length] * chance.choice((1, 2, 100))


def _erase(content: bytearray, _: bytes, chance: random.Random) -> None:
    place, length = _place(content, chance), chance.choice((1, 8, 64, 512))
    if chance.random() < 0.5:
        del content[place : place + length]
    else:
        content[place : place + length] = bytes([chance.choice((0, 255))]) * len(
            content[place : place + length]
        )


_BYTE_EDITS = (_flip, _flip, _set_number, _set_number, _truncate, _swap, _splice, _repeat, _erase)

Mutation = Callable[[bytes, bytes, random.Random], bytes]


def _of_meaning(content: bytes) -> Mutation | None:
    """Return the mutation for the file's format, if there is one."""
    if b"\x89HDF\r\n\x1a\n" in content[:2048]:
        return _in_hdf5
    if content.startswith(b"PK"):
        return _in_archive
    if content.startswith(b"MATLAB 5"):
        return _in_matlab
    if content.startswith(b"PAR1"):
        return _in_parquet
    return _in_text if b"\x00" not in content[:4096] else None


def _in_archive(content: bytes, other: bytes, chance: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    name = chance.choice(list(members))
    what = chance.random()
    if what < 0.7:
        members[name] = mutate_bytes(members[name], other, chance)
    elif what < 0.8:
        del members[name]
    elif what < 0.9:
        members[chance.choice(list(members))] = members[name]
    else:
        members[name] = _odd_array(chance)
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as opened:
        for one, inside in members.items():
            opened.writestr(one, inside)
    return written.getvalue()


def _odd_array(chance: random.Random) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, _odd_values(chance, tuple(chance.choice(((), (1,), (5,), (6, 10), (6, 10, 5))))))
    return buffer.getvalue()


def _odd_values(chance: random.Random, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    kind = chance.choice(("u1", "i8", "u8", "f4", "f8", "S3", "?", ">i4"))
    if kind == "S3":
        return np.full(shape, chance.choice((b"a", b"\xff\xfe", b"")), kind)
    values = np.array(chance.choice((0, 1, -1, 0.5, np.nan, np.inf, 1e308, 2**63, -(2**63))), np.float64)
    with np.errstate(all="ignore"):
        return np.broadcast_to(values, shape).astype(kind)


def _in_hdf5(content: bytes, _: bytes, chance: random.Random) -> bytes:
    """Edit an attribute, or replace a data set by another."""
    buffer = io.BytesIO(content)
    block = content[: content.index(b"\x89HDF\r\n\x1a\n")]
    with h5py.File(buffer, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        for _time in range(chance.choice((1, 1, 2, 4))):
            name = chance.choice(names)
            if name in file:
                _edit_object(file, name, chance)
    return block + buffer.getvalue()[len(block) :]


def _edit_object(file: h5py.File, name: str, chance: random.Random) -> None:
    found = file[name]
    owner = found if chance.random() < 0.8 else file
    what = chance.random()
    if what < 0.35 and owner.attrs:
        key = chance.choice(list(owner.attrs))
        if chance.random() < 0.3:
            del owner.attrs[key]
        else:
            owner.attrs[key] = chance.choice(
                (np.nan, -1, "x" * 999, b"\xff\xfe", [1, 2, 3], found.ref, h5py.Empty("f4"))
            )
        return
    attributes = {key: found.attrs[key] for key in found.attrs}
    values = found[()] if isinstance(found, h5py.Dataset) else None
    del file[name]
    if values is None or what > 0.95:
        return
    if what < 0.55:
        values = _odd_values(chance, np.shape(values))
    elif what < 0.7 and np.ndim(values):
        values = values[: chance.randrange(len(values) + 1)]
    elif what < 0.8 and np.ndim(values):
        values = np.moveaxis(values, 0, -1)
    elif what < 0.9 and np.ndim(values):
        values = np.asarray(values).ravel()
    else:
        values = chance.choice((0, -1.0, "text", [], [[1.0]], [2**63]))
    file[name] = values
    for key, value in attributes.items():
        file[name].attrs[key] = value


def _in_matlab(content: bytes, other: bytes, chance: random.Random) -> bytes:
    """Change the content of one compressed element."""
    elements, place = [], 128
    while place + 8 <= len(content):
        kind, size = struct.unpack_from("<II", content, place)
        elements.append((kind, content[place + 8 : place + 8 + size]))
        place += 8 + size + (-size % 8 if kind != 15 else 0)
    number = chance.randrange(len(elements))
    kind, data = elements[number]
    packed = zlib.compress(mutate_bytes(zlib.decompress(data), other, chance)) if kind == 15 else data
    elements[number] = (kind, packed)
    if kind != 15 or chance.random() < 0.1:
        chance.shuffle(elements)
    parts = [
        struct.pack("<II", k, len(d)) + d + (bytes(-len(d) % 8) if k != 15 else b"") for k, d in elements
    ]
    return content[:128] + b"".join(parts)


def _in_parquet(content: bytes, _: bytes, chance: random.Random) -> bytes:
    """Replace a column by another."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(io.BytesIO(content))
    place = chance.randrange(table.num_columns)
    name = chance.choice((table.column_names[place], chance.choice(table.column_names), "x"))
    rows = table.num_rows
    column = chance.choice((_odd_values(chance, (rows,)), [None] * rows, [[1]] * rows, ["\u202e<b>"] * rows))
    changed = table.set_column(place, name, pyarrow.array(column))
    written = io.BytesIO()
    pyarrow.parquet.write_table(changed, written)
    return written.getvalue()


def _in_text(content: bytes, _: bytes, chance: random.Random) -> bytes:
    """Write an odd value into a field, or drop or double a field or a row."""
    rows = content.split(b"\n")
    separator = max((b",", b"\t", b";"), key=rows[0].count)
    for _time in range(chance.choice((1, 1, 3))):
        row = chance.choice((0, chance.randrange(len(rows))))
        fields = rows[row].split(separator)
        place = chance.randrange(len(fields))
        what = chance.random()
        if what < 0.7:
            fields[place] = chance.choice(ODD).encode()
        elif what < 0.8:
            del fields[place]
        elif what < 0.9:
            fields *= 2
        rows[row] = separator.join(fields)
        if what > 0.95:
            rows.insert(chance.randrange(len(rows)), rows[row])
    return b"\n".join(rows)


def write_mutation(path: Path, content: bytes) -> None:
    """Replace a file by a new one: the old one may still be open."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)
