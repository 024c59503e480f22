"""Hostile tables: CSV and Parquet."""

import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.worker.ingest.hostile_file import Canary, Corpus, HostileFile

LONG = b"trial,bin,neuron,count\n" + b"".join(
    b"%d,%d,%d,%d\n" % (trial, one, neuron, (trial + one + neuron) % 3)
    for trial in range(6)
    for one in range(10)
    for neuron in range(5)
)
TIMES = b"neuron,time_s,trial\n" + b"".join(b"%d,%f,%d\n" % (n % 5, n / 100, n // 50) for n in range(300))
ODD = (
    "inf", "-inf", "nan", "NaN", "1e308", "-1e308", "1e400", "5e-324", str(2**63), str(-(2**63)), str(2**64), str(10**30),
    "-1", "0.5", "", " ", "''", '"', '""', "=cmd|' /C calc'!A0", "<script>alert(1)</script>", "\u202e5", "\u0663",
    "0x10", "1_000", "1,5", "True", "None", "NULL", "\x00", "\x1b[31m", "9" * 100_000, "2024-01-01", "\ufeff1", "1;2",
)  # fmt: skip


def with_value(table: bytes, column: int, value: str, path: Path, _: Canary) -> None:
    """A table with something odd in one column of a row in its middle."""
    rows = table.split(b"\n")
    fields = rows[len(rows) // 2].split(b",")
    fields[column] = value.encode()
    rows[len(rows) // 2] = b",".join(fields)
    path.write_bytes(b"\n".join(rows))


def written(content: bytes, path: Path, _: Canary) -> None:
    """Any bytes."""
    path.write_bytes(content)


def made(make: Callable[[], bytes], path: Path, _: Canary) -> None:
    """Bytes that are too many to keep."""
    path.write_bytes(make())


def paths_as_values(path: Path, canary: Canary) -> None:
    """Names of files and addresses where data are expected."""
    rows = "".join(f"{canary.text},{canary.url},{canary.hdf5}\n" for _row in range(20))
    path.write_text("neuron,time_s,trial\n" + rows)


CONTENTS: dict[str, bytes] = {
    "header_alone": b"trial,bin,neuron,count\n",
    "nuls": LONG.replace(b"1", b"\x00"),
    "all_nul": bytes(10_000),
    "carriage_returns": LONG.replace(b"\n", b"\r"),
    "no_newline": LONG.replace(b"\n", b";"),
    "quote_open": b'trial,bin,neuron,count\n"' + LONG,
    "quotes": b'"' * 100_000,
    "commas": b"," * 100_000 + b"\n" + b"1," * 100_000,
    "newlines": b"\n" * 1_000_000,
    "rows_of_other_lengths": LONG + b"1\n1,2\n1,2,3,4,5,6,7\n",
    "columns_of_one_name": b"neuron,neuron,time_s,time_s\n" + b"1,2,0.5,0.6\n" * 100,
    "names_empty": b",,,\n" + b"1,2,3,4\n" * 100,
    "names_html": b"<script>,__proto__,constructor,=1+1\n" + b"1,2,3,4\n" * 100,
    "name_of_200_kb": b"n" * 200_000 + b",time_s\n" + b"1,0.5\n" * 100,
    "utf16": LONG.decode().encode("utf-16"),
    "utf8_damaged": LONG.replace(b"trial", b"tr\xff\xfe\xed\xa0\x80"),
    "byte_order_mark": b"\xef\xbb\xbf" + LONG,
    "neurons_many": b"neuron,time_s\n" + b"".join(b"%d,%d\n" % (n * 1_000_003, n) for n in range(20_000)),
    "neurons_named_long": b"neuron,time_s\n" + b"".join(b"n" * 5_000 + b"%d,0.5\n" % n for n in range(200)),
    "trials_many": b"trial,neuron,time_s\n" + b"".join(b"%d,1,0.5\n" % (n * 7_919) for n in range(20_000)),
    "trial_2_63": b"trial,bin,neuron,count\n0,0,0,1\n%d,0,0,1\n" % 2**63,
    "bin_giant": b"trial,bin,neuron,count\n0,0,0,1\n0,999999999999,0,1\n",
    "bins_negative": b"trial,bin,neuron,count\n0,-1,0,1\n0,-99999,0,1\n",
    "counts_negative": LONG.replace(b",2\n", b",-2\n"),
    "counts_giant": LONG.replace(b",2\n", b",99999999999999999999\n"),
    "neuron_giant": b"trial,bin,neuron,count\n0,0,0,1\n0,0,4000000000,1\n",
    "product_giant": b"trial,bin,neuron,count\n"
    + b"".join(b"%d,%d,%d,1\n" % (n, n, n) for n in range(20_000)),
    "times_far": b"neuron,time_s\n0,0.1\n1,1e15\n",
    "times_all_nan": b"neuron,time_s\n" + b"1,nan\n" * 100,
    "wide": b",".join(b"n%d" % n for n in range(20_000)) + b"\n" + b",".join([b"1"] * 20_000) + b"\n",
    "comments": b"# " + b"x" * 100_000 + b"\n" + LONG,
    "semicolons_and_commas": LONG.replace(b",", b";").replace(b";1", b",1"),
}
GIANTS: dict[str, Callable[[], bytes]] = {
    "line_of_200_mb": lambda: b"trial,bin,neuron,count\n" + b"1" * 200_000_000,
    "first_line_of_200_mb": lambda: b"n" * 200_000_000,
    "million_columns": lambda: b"1," * 1_000_000 + b"1\n" + b"1," * 1_000_000 + b"1\n",
    "field_quoted_of_100_mb": lambda: b'neuron,time_s\n"' + b"1\n" * 50_000_000,
    "ten_million_rows": lambda: b"neuron,time_s\n" + b"1,0.5\n" * 10_000_000,
}


def parquet(columns: dict[str, Any], path: Path, _: Canary, **options: Any) -> None:
    """A table as Parquet."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path, **options)


def parquet_patched(change: Callable[[bytes], bytes], path: Path, canary: Canary) -> None:
    """A valid table, changed."""
    parquet({"neuron": np.arange(300) % 5, "time_s": np.arange(300) / 100.0}, path, canary)
    path.write_bytes(change(path.read_bytes()))


def parquet_of_constant(rows: int, path: Path, canary: Canary) -> None:
    """So many rows in next to no bytes."""
    import pyarrow
    import pyarrow.parquet

    batch = pyarrow.table({"neuron": np.zeros(2**20, np.int64), "time_s": np.full(2**20, 0.5)})
    with pyarrow.parquet.ParquetWriter(path, batch.schema, compression="zstd") as writer:
        for _block in range(rows // 2**20):
            writer.write_table(batch, row_group_size=2**20)


def parquet_of_texts(path: Path, canary: Canary) -> None:
    """One long text, many times: a dictionary of one entry."""
    import pyarrow

    texts = pyarrow.DictionaryArray.from_arrays(np.zeros(3000, np.int32), ["x" * 2**20])
    parquet({"neuron": texts, "time_s": np.arange(3000.0)}, path, canary)


def parquet_deep(depth: int, path: Path, _: Canary) -> None:
    """Lists in lists."""
    import pyarrow
    import pyarrow.parquet

    kind: Any = pyarrow.int64()
    for _level in range(depth):
        kind = pyarrow.list_(kind)
    table = pyarrow.table({"neuron": [1], "time_s": [0.5], "deep": pyarrow.array([None], kind)})
    pyarrow.parquet.write_table(table, path)


def _footer_length(length: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:-8] + struct.pack("<I", length) + b"PAR1"


PATCHES: dict[str, Callable[[bytes], bytes]] = {
    "footer_giant": _footer_length(2**31 - 1),
    "footer_4_gib": _footer_length(2**32 - 1),
    "footer_zero": _footer_length(0),
    "footer_short": _footer_length(10),
    "encrypted": lambda content: b"PARE" + content[4:-4] + b"PARE",
    "magic_alone": lambda content: b"PAR1PAR1",
    "cut": lambda content: content[: len(content) // 2],
    "cut_with_end": lambda content: content[: len(content) // 2] + content[-8:],
    "metadata_zeros": lambda content: content[:-400] + bytes(392) + content[-8:],
    "metadata_ones": lambda content: content[:-400] + b"\xff" * 392 + content[-8:],
    "metadata_nested": lambda content: b"PAR1" + b"\x1c" * 100_000 + struct.pack("<I", 100_000) + b"PAR1",
    "metadata_lists": lambda content: (
        b"PAR1" + b"\x19\xfc\xff\xff\xff\xff\x07" * 2000 + struct.pack("<I", 14_000) + b"PAR1"
    ),
    "pages_zeros": lambda content: content[:4] + bytes(500) + content[504:],
    "pages_ones": lambda content: content[:4] + b"\xff" * 500 + content[504:],
    "feather": lambda content: b"ARROW1\x00\x00" + content[8:-6] + b"ARROW1",
}
COLUMNS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "no_rows": {"neuron": np.zeros(0, np.int64), "time_s": np.zeros(0)},
    "not_finite": {
        "neuron": np.zeros(6, np.int64),
        "time_s": np.array([np.nan, np.inf, -np.inf, 1e308, -1e308, 5e-324]),
    },
    "neurons_giant": {"neuron": np.array([2**64 - 1, 0], np.uint64), "time_s": np.array([0.1, 0.2])},
    "neurons_negative": {"neuron": np.array([-(2**63), 0]), "time_s": np.array([0.1, 0.2])},
    "nulls": {"neuron": [None, 1, None], "time_s": [None, None, 0.5]},
    "lists": {"neuron": [[1, 2], []], "time_s": [[0.1], None]},
    "structs": {"neuron": [{"a": 1}, {"a": 2}], "time_s": [0.1, 0.2]},
    "bytes": {"neuron": [b"\xff\xfe", b"\x00"], "time_s": [0.1, 0.2]},
    "texts": {"neuron": ["<script>", "\u202e=1+1"], "time_s": [0.1, 0.2], "__proto__": ["a", "b"]},
    "names": {"n" * 200_000: [1], "<script>": [1], "\u202ea": [1], "": [1], "a\x00b": [1]},
    "columns_many": {f"n{number}": [1] for number in range(5_000)},
    "dates": {"neuron": [1, 2], "time_s": np.array(["2024-01-01", "NaT"], "datetime64[us]")},
    "product_giant": {name: np.arange(20_000) for name in ("trial", "bin", "neuron")}
    | {"count": np.ones(20_000, int)},
}


def table_corpus() -> Corpus:
    """Every attack on tables."""
    csv, table = partial(HostileFile, format="csv"), partial(HostileFile, format="parquet")
    for kind, content, columns in (("long", LONG, 4), ("times", TIMES, 3)):
        for column in range(columns):
            for value in ODD:
                make = partial(with_value, content, column, value)
                yield csv(f"csv:{kind}:{column}:{value[:20]!r}", make=make, options={"format": "csv"})
    for name, content in CONTENTS.items():
        yield csv(f"csv:{name}", make=partial(written, content))
        yield csv(f"csv:{name}:forced", make=partial(written, content), options={"format": "csv"})
    for name, giant in GIANTS.items():
        yield csv(f"csv:{name}", make=partial(made, giant), options={"format": "csv"}, is_slow=True)
    yield csv("csv:paths", make=paths_as_values)
    for name, change in PATCHES.items():
        yield table(f"parquet:{name}", make=partial(parquet_patched, change), options={"format": "parquet"})
    for name, values in COLUMNS.items():
        yield table(f"parquet:columns:{name}", make=partial(parquet, values))
    yield table("parquet:bomb", make=partial(parquet_of_constant, 2**24))
    yield table("parquet:bomb_of_billions", make=partial(parquet_of_constant, 2**30), is_slow=True)
    yield table("parquet:texts", make=parquet_of_texts)
    for depth in (50, 1_000):
        yield table(f"parquet:deep_{depth}", make=partial(parquet_deep, depth))
