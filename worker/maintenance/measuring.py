"""Repair what quotas count: sizes that no worker recorded, sizes of what was deleted, and tenants that wait for device time."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import select, update
from zarr.abc.store import Store

from store.array_store import object_size, objects_size
from store.database import Database
from store.quotas import note_device_times
from store.settings import Settings
from store.tables import Dataset, Inference, Model

_AT_ONCE = 20
_MEASURED: tuple[tuple[Any, Any, Any], ...] = (
    (Dataset, Dataset.array_path, Dataset.array_bytes),
    (Model, Model.checkpoint_key, Model.checkpoint_bytes),
    (Model, Model.latents_path, Model.latents_bytes),
    (Inference, Inference.latents_path, Inference.latents_bytes),
)


def measure(database: Database, arrays: Store, settings: Settings) -> Iterator[int]:
    """Record sizes that are not known, for instance from before an upgrade. Objects never change, so a size stays true.

    Each step yields the number of objects and groups that it has measured.
    """
    for table, path, size in _MEASURED:
        after = ""
        while True:
            with database.read() as session:
                unknown = select(table.id, path).where(size.is_(None), path.is_not(None), table.id > after)
                found = session.execute(unknown.order_by(table.id).limit(_AT_ONCE)).all()
            sizes = {row_id: (key, _size(arrays, table, key)) for row_id, key in found}
            with database.write() as session:
                for row_id, (key, value) in sizes.items():
                    of_row = update(table).where(table.id == row_id, path == key)
                    session.execute(of_row.values({size: value}))
                if not found:
                    session.execute(update(table).where(path.is_(None), size > 0).values({size: 0}))
            yield len(found)
            if not found:
                break
            after = found[-1].id
    with database.write() as session:
        note_device_times(session, settings)
    yield 0


def _size(arrays: Store, table: Any, key: str) -> int:
    """Return the size of an object or a group that a row names; 0 if it belongs to another row."""
    if key.endswith(".safetensors"):
        return object_size(arrays, key) or 0
    if table is Model and not key.startswith("models/"):
        return 0  # the latents of an inference, which counts them
    return objects_size(arrays, key)
