"""Repair what quotas count: sizes that no worker recorded, sizes of what was deleted, and tenants that wait for device time."""

import logging
from typing import Any

from sqlalchemy import select, update
from zarr.abc.store import Store

from store.array_store import object_size, objects_size
from store.database import Database
from store.quotas import note_device_times
from store.settings import Settings
from store.tables import Dataset, Inference, Model

logger = logging.getLogger("latentry.maintenance")

_AT_ONCE = 500
_MEASURED: tuple[tuple[Any, Any, Any], ...] = (
    (Dataset, Dataset.array_path, Dataset.array_bytes),
    (Model, Model.checkpoint_key, Model.checkpoint_bytes),
    (Model, Model.latents_path, Model.latents_bytes),
    (Inference, Inference.latents_path, Inference.latents_bytes),
)


def measure(database: Database, arrays: Store, settings: Settings) -> int:
    """Record sizes that are not known, for instance from before an upgrade. Objects never change, so a size stays true.

    Returns
    -------
    int
        Number of measured objects and groups.
    """
    measured = 0
    for table, path, size in _MEASURED:
        with database.read() as session:
            unknown = select(table.id, path).where(size.is_(None), path.is_not(None)).limit(_AT_ONCE)
            found = session.execute(unknown).all()
        sizes = {row_id: (key, _size(arrays, table, key)) for row_id, key in found}
        with database.write() as session:
            for row_id, (key, value) in sizes.items():
                session.execute(update(table).where(table.id == row_id, path == key).values({size: value}))
            session.execute(update(table).where(path.is_(None), size > 0).values({size: 0}))
        measured += len(sizes)
    with database.write() as session:
        note_device_times(session, settings)
    if measured:
        logger.info("measured %d arrays and checkpoints that had no size", measured)
    return measured


def _size(arrays: Store, table: Any, key: str) -> int:
    """Return the size of an object or a group that a row names; 0 if it belongs to another row."""
    if key.endswith(".safetensors"):
        return object_size(arrays, key) or 0
    if table is Model and not key.startswith("models/"):
        return 0  # the latents of an inference, which counts them
    return objects_size(arrays, key)
