"""One contract for every array store: rows in SQLite, rows in PostgreSQL, files in a folder."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import xarray
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest

from store import array_store
from store.array_store import (
    SqlArrayStore,
    delete_object,
    delete_objects,
    delete_objects_by_steps,
    names_by_pages,
    object_size,
    open_array_store,
    read_object,
    write_object,
)
from store.arrays import CHUNK_BYTES, ArrayGroupWriter, NamedArray, RowWriter, chunk_shape, open_array
from store.database import Database
from tests.servers import ReusedDatabase


@pytest.fixture(params=["sqlite", "postgresql", "folder"])
def arrays(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    reused: ReusedDatabase | None = (
        request.getfixturevalue("reused_database") if request.param == "postgresql" else None
    )
    database = Database(reused.take()) if reused else request.getfixturevalue("sqlite_database")
    location = f"file://{tmp_path / 'arrays'}" if request.param == "folder" else "sql:"
    yield open_array_store(location, database)
    database.close()
    if reused:
        reused.give_back()


def test_objects_are_what_was_written(arrays: Store) -> None:
    write_object(arrays, "models/a/x", b"0123456789")
    assert read_object(arrays, "models/a/x") == b"0123456789"
    assert object_size(arrays, "models/a/x") == 10
    write_object(arrays, "models/a/x", b"new")
    assert read_object(arrays, "models/a/x") == b"new"
    assert read_object(arrays, "models/a/y") is None
    assert object_size(arrays, "models/a/y") is None


@pytest.mark.parametrize(
    ("byte_range", "expected"),
    [
        (RangeByteRequest(2, 5), b"234"),
        (RangeByteRequest(0, 10), b"0123456789"),
        (OffsetByteRequest(7), b"789"),
        (SuffixByteRequest(3), b"789"),
        (SuffixByteRequest(10), b"0123456789"),
    ],
)
def test_ranges(arrays: Store, byte_range: RangeByteRequest, expected: bytes) -> None:
    write_object(arrays, "k", b"0123456789")
    assert read_object(arrays, "k", byte_range) == expected


def test_deleting_a_path_leaves_its_neighbours(arrays: Store) -> None:
    for key in ("models/a/1", "models/a/b/2", "models/ab/3", "models/a.4"):
        write_object(arrays, key, b"x")
    delete_objects(arrays, "models/a")
    left = {
        key for key in ("models/a/1", "models/a/b/2", "models/ab/3", "models/a.4") if read_object(arrays, key)
    }
    assert left == {"models/ab/3", "models/a.4"}
    delete_object(arrays, "models/ab/3")
    delete_object(arrays, "models/ab/3")
    assert read_object(arrays, "models/ab/3") is None


def test_listing(arrays: Store) -> None:
    for key in ("g/zarr.json", "g/a/c/0", "g/a/c/1", "h/x"):
        write_object(arrays, key, b"x")

    async def listed() -> tuple[list[str], list[str]]:
        below = sorted([key async for key in arrays.list_prefix("g/a")])
        return below, sorted([key async for key in arrays.list_dir("g")])

    assert asyncio.run(listed()) == (["g/a/c/0", "g/a/c/1"], ["a", "zarr.json"])


def test_names_are_listed_and_objects_deleted_in_steps(
    arrays: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_store, "_NAMES_AT_ONCE", 2)
    monkeypatch.setattr(array_store, "_DELETED_AT_ONCE", 2)
    for number in range(5):
        write_object(arrays, f"g/{number}/x", b"x")
        write_object(arrays, f"g/{number}/y", b"y")
    pages = list(names_by_pages(arrays, "g"))
    assert sorted(name for page in pages for name in page) == ["0", "1", "2", "3", "4"]
    is_sql = isinstance(arrays, SqlArrayStore)
    assert max(map(len, pages)) == (2 if is_sql else 5)
    assert sum(1 for _ in delete_objects_by_steps(arrays, "g")) == (5 if is_sql else 1)
    assert not any(names_by_pages(arrays, "g"))


def test_one_transaction_deletes_few_bytes(arrays: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_store, "_DELETED_BYTES", 4)
    for key, size in (("a", 9), ("b", 2), ("c", 2), ("d", 1)):
        write_object(arrays, f"g/{key}", bytes(size))
    left = [sorted(name for page in names_by_pages(arrays, "g") for name in page)]
    for _ in delete_objects_by_steps(arrays, "g"):
        left.append(sorted(name for page in names_by_pages(arrays, "g") for name in page))
    steps = ["abcd", "bcd", "d", ""] if isinstance(arrays, SqlArrayStore) else ["abcd", ""]
    assert left == [list(names) for names in steps]


def test_a_group_reads_back_and_opens_in_xarray(arrays: Store) -> None:
    rates = np.random.default_rng(0).normal(size=(300, 50, 29)).astype(np.float32)
    writer = ArrayGroupWriter(arrays, "models/m/latents/t", {"model_id": "m", "coordinates": "split"})
    writer.write_all(
        [
            NamedArray("rates", rates, ("trial", "time_s", "neuron"), "spikes/s", "firing rates"),
            NamedArray("split", np.arange(300, dtype=np.int8) % 2, ("trial",)),
            NamedArray("time_s", np.arange(50) * 0.01, ("time_s",), "s"),
        ]
    )
    writer.close()
    array = open_array(arrays, "models/m/latents/t", "rates")
    assert array is not None
    np.testing.assert_array_equal(array[3:290:7, ::2], rates[3:290:7, ::2])
    assert open_array(arrays, "models/m/latents/t", "none") is None
    with xarray.open_zarr(arrays, group="models/m/latents/t", consolidated=False) as opened:
        assert opened.rates.dims == ("trial", "time_s", "neuron")
        assert opened.rates.attrs["units"] == "spikes/s"
        assert set(opened.coords) == {"split", "time_s"}
        np.testing.assert_array_equal(opened.rates.isel(trial=slice(5, 9)).values, rates[5:9])


def test_empty_axes_can_be_written(arrays: Store) -> None:
    writer = ArrayGroupWriter(arrays, "g")
    writer.write(NamedArray("none", np.zeros((0, 3), np.float32), ("trial", "factor")))
    writer.close()
    array = open_array(arrays, "g", "none")
    assert array is not None
    assert array[...].shape == (0, 3)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=4), st.sampled_from([1, 4, 8]))
def test_chunks_cover_whole_rows(shape: list[int], itemsize: int) -> None:
    chunks = chunk_shape(tuple(shape), itemsize)
    assert chunks[1:] == tuple(shape[1:])
    assert 1 <= chunks[0] <= shape[0]
    assert chunks[0] == 1 or np.prod(chunks) * itemsize <= CHUNK_BYTES


def test_an_unknown_url_is_refused(sqlite_database: Database) -> None:
    with pytest.raises(ValueError, match=r"expected 'sql:' or 'file:///a/folder', got 'ftp://x'"):
        open_array_store("ftp://x", sqlite_database)


@pytest.mark.parametrize("sizes", [[10], [1] * 10, [3, 4, 3], [9, 1]])
def test_rows_that_come_in_any_portions_are_written_in_whole_chunks(
    arrays: Store, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).normal(size=(10, 5, 2)).astype(np.float32)
    monkeypatch.setattr("store.arrays.CHUNK_BYTES", 4 * 5 * 2 * 4)  # four rows
    writer = ArrayGroupWriter(arrays, "rows")
    target = writer.create("x", values.shape, values.dtype, ("trial", "time_s", "k"))
    assert target.chunks == (4, 5, 2)
    rows = RowWriter(target)
    for end, size in zip(np.cumsum(sizes), sizes, strict=True):
        rows.append(values[end - size : end])
    rows.close()
    writer.close()
    written = open_array(arrays, "rows", "x")
    assert written is not None
    np.testing.assert_array_equal(written[...], values)


def test_rows_that_are_missing_are_told(arrays: Store) -> None:
    rows = RowWriter(ArrayGroupWriter(arrays, "rows").create("x", (3, 2), np.float32, ("trial", "k")))
    rows.append(np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match="expected 3 rows, got 2"):
        rows.close()


def test_arrays_are_read_while_all_other_connections_are_held(database: Database) -> None:
    store = open_array_store("sql:", database)
    write_object(store, "models/a", b"values")
    pool = database.engine.pool
    assert isinstance(pool, QueuePool)
    pool._timeout = 0.01
    with ExitStack() as held:

        def hold_all() -> None:
            while True:
                held.enter_context(database.read()).connection()

        with pytest.raises(PoolTimeout):
            hold_all()
        assert read_object(store, "models/a") == b"values"


@pytest.mark.parametrize("arrays", ["sqlite", "postgresql"], indirect=True)
def test_objects_that_are_read_at_the_same_time_are_one_query(arrays: Store) -> None:
    for number in range(5):
        write_object(arrays, f"a/{number}", bytes([number]))
    assert isinstance(arrays, SqlArrayStore)
    statements: list[str] = []
    engine = arrays._database.engine
    event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))

    async def read() -> list[bytes | None]:
        found = await asyncio.gather(*(arrays.get(f"a/{number}") for number in range(6)))
        return [None if one is None else one.to_bytes() for one in found]

    assert asyncio.run(read()) == [b"\0", b"\1", b"\2", b"\3", b"\4", None]
    assert sum("SELECT" in one for one in statements) == 1


@pytest.mark.parametrize("arrays", ["sqlite"], indirect=True)
def test_an_error_reaches_everyone_who_reads_at_the_same_time(
    arrays: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise OSError("no database")

    monkeypatch.setattr(SqlArrayStore, "_values_of", fail)

    async def read() -> list[object]:
        return await asyncio.gather(*(arrays.get(key) for key in "ab"), return_exceptions=True)

    assert [type(one) for one in asyncio.run(read())] == [OSError, OSError]
