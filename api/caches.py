"""The caches of this process whose keys contain ids of resources, and how they forget what was deleted."""

import logging
import re
from threading import Lock
from typing import Any, TypeVar

import anyio
from anyio import to_thread
from cachetools import Cache
from sqlalchemy import select

from domain.states import DatasetState, InferenceState, JobState
from store.database import Database
from store.tables import Dataset, Inference, Job, Model

logger = logging.getLogger(__name__)

Kept = TypeVar("Kept", bound=Cache[Any, Any])

FORGET_SECONDS = 10.0
"""Interval at which the caches forget deleted resources."""

_IDS = re.compile(r"(?:dat|mod|inf)_[0-9a-f]{24}")
_caches: list[tuple[Cache[Any, Any], Lock]] = []


def of_resources(cache: Kept, lock: Lock) -> Kept:
    """Register a cache whose keys contain the ids of the resources that its values are from, and return it."""
    _caches.append((cache, lock))
    return cache


def forget_deleted(database: Database) -> int:
    """Remove the values of resources that are deleted, or are being deleted; return how many."""
    keys: list[tuple[Cache[Any, Any], Lock, Any, set[str]]] = []
    for cache, lock in _caches:
        with lock:
            keys += [(cache, lock, key, set(_IDS.findall(repr(key)))) for key in cache]
    ids = set[str]().union(*(found for *_, found in keys))
    gone = ids - _existing(database, ids) if ids else ids
    removed = [(cache, lock, key) for cache, lock, key, found in keys if found & gone]
    for cache, lock, key in removed:
        with lock:
            cache.pop(key, None)
    return len(removed)


def _existing(database: Database, ids: set[str]) -> set[str]:
    with database.read() as session:
        statements = (
            select(Dataset.id).where(Dataset.id.in_(ids), Dataset.state != DatasetState.DELETING),
            select(Inference.id).where(Inference.id.in_(ids), Inference.state != InferenceState.DELETING),
            select(Model.id)
            .join(Job, Job.id == Model.job_id)
            .where(Model.id.in_(ids), Model.latents_path.is_not(None), Job.state != JobState.DELETING),
        )
        return {one for statement in statements for one in session.execute(statement).scalars()}


async def forget_deleted_until_cancelled(database: Database) -> None:
    """Call `forget_deleted` at regular intervals."""
    while True:
        await anyio.sleep(FORGET_SECONDS)
        try:
            await to_thread.run_sync(forget_deleted, database)
        except Exception as error:  # the database does not answer
            logger.debug("the caches were not searched: %s", error)
