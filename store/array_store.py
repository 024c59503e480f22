"""Arrays and checkpoints behind Zarr's store interface, in rows of the database or files of a folder.

All objects are immutable, and each attempt writes under its own path. A row of the database names the current path. So a
worker that lost its lease can only leave objects that no row names.
"""

import asyncio
import builtins
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from itertools import accumulate
from typing import Self
from urllib.parse import urlsplit
from urllib.request import url2pathname

from sqlalchemy import ColumnElement, case, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from store.database import Database, get_database
from store.settings import get_settings
from store.tables import ArrayObject

_DELETED_AT_ONCE = 64
"""Objects that one transaction deletes at most."""
_DELETED_BYTES = 4 * 2**20
"""Their bytes, if they are several. SQLite overwrites them while other writers wait: 4 MB need 15 ms of one core."""
_NAMES_AT_ONCE = 500
_Asked = tuple[str, "asyncio.Future[bytes | None]"]
"""A key, and the future that gets its bytes."""


class SqlArrayStore(Store):
    """A Zarr store whose objects are rows of the table ``array_objects``.

    Parameters
    ----------
    database
        The database. Each read and each write is its own transaction, on separate connections.
    read_only
        Refuse writes.
    """

    supports_writes = True
    supports_deletes = True
    supports_listing = True

    def __init__(self, database: Database, *, read_only: bool = False) -> None:
        super().__init__(read_only=read_only)
        self.database, self._database = database, database.apart
        self._asked: dict[asyncio.AbstractEventLoop, builtins.list[_Asked]] = {}
        self._answering: set[asyncio.Task[None]] = set()

    def with_read_only(self, read_only: bool = False) -> Self:
        """Return the same store, read-only or not."""
        return type(self)(self.database, read_only=read_only)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, SqlArrayStore)
            and self._database.url == other._database.url
            and self.read_only == other.read_only
        )

    def __str__(self) -> str:
        return f"sql:{self._database.engine.url.render_as_string(hide_password=True)}"

    def _reading(self) -> AbstractContextManager[Session]:
        """Open a transaction that finds all written objects."""
        return self._database.read()

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the bytes of `key`, or of a range; None if the key does not exist."""
        if byte_range is None:
            value = await self._get_with_others(key)
        else:
            value = await asyncio.to_thread(self._get, key, byte_range)
        if value is None:
            return None
        return (prototype or default_buffer_prototype()).buffer.from_bytes(value)

    async def _get_with_others(self, key: str) -> bytes | None:
        """Return the bytes of a key. One query reads all keys that are requested at the same time."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[bytes | None] = loop.create_future()
        if loop not in self._asked:
            self._asked[loop] = []
            loop.call_soon(self._begin_answer, loop)  # after the others of this moment
        self._asked[loop].append((key, found))
        return await found

    def _begin_answer(self, loop: asyncio.AbstractEventLoop) -> None:
        task = loop.create_task(self._answer(self._asked.pop(loop)))
        self._answering.add(task)  # the loop itself does not keep it
        task.add_done_callback(self._answering.discard)

    async def _answer(self, asked: "builtins.list[_Asked]") -> None:
        values: dict[str, bytes] = {}
        failed: Exception | None = None
        try:
            values = await asyncio.to_thread(self._values_of, [key for key, _ in asked])
        except Exception as error:
            failed = error
        for key, found in asked:
            if found.done():  # it was cancelled
                continue
            if failed is not None:
                found.set_exception(failed)
            else:
                found.set_result(values.get(key))

    def _values_of(self, keys: Sequence[str]) -> dict[str, bytes]:
        query = select(ArrayObject.key, ArrayObject.value).where(ArrayObject.key.in_(keys))
        with self._database.read() as session:
            return {key: bytes(value) for key, value in session.execute(query)}

    def _get(self, key: str, byte_range: ByteRequest | None) -> bytes | None:
        with self._reading() as session:
            value = session.execute(
                select(_ranged_value(byte_range)).where(ArrayObject.key == key)
            ).scalar_one_or_none()
        return None if value is None else bytes(value)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return the bytes of several keys, each with its range."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Return whether a key exists."""
        return await asyncio.to_thread(self._size, key) is not None

    async def getsize(self, key: str) -> int:
        """Return the size of the value of `key`, in bytes."""
        size = await asyncio.to_thread(self._size, key)
        if size is None:
            raise FileNotFoundError(key)
        return size

    def _size(self, key: str) -> int | None:
        with self._database.read() as session:
            return session.execute(
                select(ArrayObject.size_bytes).where(ArrayObject.key == key)
            ).scalar_one_or_none()

    async def set(self, key: str, value: Buffer) -> None:
        """Write the value of `key`."""
        self._check_writable()
        await asyncio.to_thread(self._set, {key: value.to_bytes()})

    def _set(self, values: Mapping[str, bytes]) -> None:
        insert = (sqlite.insert if self._database.is_sqlite else postgresql.insert)(ArrayObject)
        statement = insert.on_conflict_do_update(
            index_elements=["key"],
            set_={"value": insert.excluded.value, "size_bytes": insert.excluded.size_bytes},
        )
        rows = [{"key": key, "value": value, "size_bytes": len(value)} for key, value in values.items()]
        with self._database.write() as session:
            session.execute(statement, rows)

    async def delete(self, key: str) -> None:
        """Delete `key` if it exists."""
        self._check_writable()
        await asyncio.to_thread(self._delete, ArrayObject.key == key)

    async def delete_dir(self, prefix: str) -> None:
        """Delete every key under a path, in transactions of some megabytes, so that other writers wait for none of them."""
        self._check_writable()
        while await self.delete_some(prefix):
            pass

    async def delete_some(self, prefix: str) -> int:
        """Delete some megabytes under a path in one transaction; return the number of objects, 0 if there are none."""
        below = _below(prefix.rstrip("/") + "/" if prefix else "")
        keys = await asyncio.to_thread(self._some_keys, below)
        if keys:
            await asyncio.to_thread(self._delete, ArrayObject.key.in_(keys))
        return len(keys)

    def _some_keys(self, condition: ColumnElement[bool]) -> Sequence[str]:
        found = select(ArrayObject.key, ArrayObject.size_bytes).where(condition)
        with self._reading() as session:
            some = session.execute(found.order_by(ArrayObject.key).limit(_DELETED_AT_ONCE)).all()
        sizes = accumulate(row.size_bytes for row in some)
        return [row.key for row, size in zip(some, sizes, strict=True) if size <= _DELETED_BYTES] or [
            row.key for row in some[:1]
        ]

    async def getsize_prefix(self, prefix: str) -> int:
        """Return the size of everything under a path, in bytes."""
        return await asyncio.to_thread(self._size_below, prefix.rstrip("/") + "/" if prefix else "")

    def _size_below(self, prefix: str) -> int:
        # Databases know the length of a value without reading it; SQLite reads it to find the column after it.
        with self._reading() as session:
            size = select(func.coalesce(func.sum(func.length(ArrayObject.value)), 0))
            return int(session.execute(size.where(_below(prefix))).scalar_one())

    def _delete(self, condition: ColumnElement[bool]) -> None:
        with self._database.write() as session:
            session.execute(delete(ArrayObject).where(condition))

    async def list(self) -> AsyncIterator[str]:
        """Yield every key."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield every key that begins with `prefix`."""
        for key in await asyncio.to_thread(self._keys, prefix):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names directly under a path."""
        listed = set[str]()
        after: str | None = ""
        while after is not None:
            names, after = await asyncio.to_thread(self.some_names, prefix, after)
            for name in names:
                if name not in listed:
                    yield name
            listed.update(names)

    def some_names(self, prefix: str, after: str) -> "tuple[builtins.list[str], str | None]":
        """Return at most `_NAMES_AT_ONCE` names directly under a path, and where the next ones begin; None after the last.

        The index finds each name, without the keys below it. The first call begins with an empty `after`.
        """
        path = prefix.rstrip("/") + "/" if prefix.strip("/") else ""
        after = after or path
        names = builtins.list[str]()
        with self._reading() as session:
            while len(names) < _NAMES_AT_ONCE:
                next_key = select(ArrayObject.key).where(_below(path), ArrayObject.key >= after)
                key = session.execute(next_key.order_by(ArrayObject.key).limit(1)).scalar_one_or_none()
                if key is None:
                    return names, None
                name, slash, _ = key[len(path) :].partition("/")
                names.append(name)
                after = f"{path}{name}0" if slash else f"{key}\1"  # "0" comes after "/"
        return names, after

    def _keys(self, prefix: str) -> Iterable[str]:
        with self._reading() as session:
            return (
                session.execute(select(ArrayObject.key).where(_below(prefix)).order_by(ArrayObject.key))
                .scalars()
                .all()
            )


def _below(prefix: str) -> ColumnElement[bool]:
    """Return the condition for keys that begin with `prefix`, as a range of the index."""
    return (ArrayObject.key >= prefix) & (ArrayObject.key < prefix + "\U0010ffff")


def _ranged_value(byte_range: ByteRequest | None) -> ColumnElement[bytes]:
    # The database cuts the range, so that a few kilobytes of a large chunk cost a few kilobytes.
    value = ArrayObject.value
    if byte_range is None:
        return value.expression
    if isinstance(byte_range, RangeByteRequest):
        return func.substr(value, byte_range.start + 1, max(byte_range.end - byte_range.start, 0))
    if isinstance(byte_range, OffsetByteRequest):
        return func.substr(value, byte_range.offset + 1)
    if isinstance(byte_range, SuffixByteRequest):
        size = ArrayObject.size_bytes
        from_end = func.substr(value, size - byte_range.suffix + 1)
        return case((size <= byte_range.suffix, value.expression), else_=from_end)
    raise TypeError(f"byte_range: expected a range, an offset or a suffix request, got {byte_range!r}")


def open_array_store(url: str, database: Database) -> Store:
    """Open the array store at a URL.

    Parameters
    ----------
    url
        ``sql:`` for rows of `database`, or ``file:///folder``.
    database
        Database of the rows.

    Raises
    ------
    ValueError
        On any other URL.
    """
    parts = urlsplit(url)
    if parts.scheme == "sql":
        return SqlArrayStore(database)
    if parts.scheme == "file" and parts.path:
        return LocalStore(url2pathname(parts.path))
    raise ValueError(f"array_url: expected 'sql:' or 'file:///a/folder', got {url!r}")


@lru_cache
def get_array_store() -> Store:
    """Return the array store of this process, by its settings."""
    return open_array_store(get_settings().array_url, get_database())


def read_object(store: Store, key: str, byte_range: ByteRequest | None = None) -> bytes | None:
    """Return the bytes of an object, or of a range; None if it does not exist."""
    value = sync(store.get(key, default_buffer_prototype(), byte_range))
    return None if value is None else value.to_bytes()


def write_object(store: Store, key: str, value: bytes) -> None:
    """Write a whole object."""
    sync(store.set(key, default_buffer_prototype().buffer.from_bytes(value)))


def object_size(store: Store, key: str) -> int | None:
    """Return the size of an object in bytes; None if it does not exist."""
    if not sync(store.exists(key)):
        return None
    return sync(store.getsize(key))


def objects_size(store: Store, path: str) -> int:
    """Return the size of everything under a path, in bytes."""
    return sync(store.getsize_prefix(path))


def delete_object(store: Store, key: str) -> None:
    """Delete an object if it exists."""
    sync(store.delete(key))


def delete_objects(store: Store, path: str) -> None:
    """Delete everything under a path."""
    sync(store.delete_dir(path))


def delete_objects_by_steps(store: Store, path: str) -> Iterator[None]:
    """Delete everything under a path in steps, each of some megabytes in a database."""
    if isinstance(store, SqlArrayStore):
        while sync(store.delete_some(path)):
            yield
    else:
        delete_objects(store, path)
        yield


def names_by_pages(store: Store, folder: str) -> Iterator[list[str]]:
    """Yield the names directly under a path, some hundred of a database at a time."""
    if isinstance(store, SqlArrayStore):
        after: str | None = ""
        while after is not None:
            names, after = store.some_names(folder, after)
            yield names
        return

    async def read() -> list[str]:
        return [name async for name in store.list_dir(folder)]

    yield sync(read())
