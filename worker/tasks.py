"""The Celery tasks. They are thin, since the database says what is to do."""

import gc
import logging
import os
import time
from functools import lru_cache
from typing import Any

from celery.signals import worker_process_init
from sqlalchemy import delete
from structlog.contextvars import bind_contextvars

from store import metrics, outbox
from store.array_store import get_array_store
from store.database import get_database
from store.originals import open_originals
from store.queues import INGEST, SLICES
from store.settings import get_settings
from store.tables import Worker
from worker.celery_app import app, shutting_down
from worker.child_processes import die_with_parent, process_name
from worker.ingest.sandbox import SandboxError, check_sandbox
from worker.ingest.service import ingest_dataset, log_sandbox, parse_limits
from worker.maintenance.collection import Collection
from worker.maintenance.deletion import Storage, work_off
from worker.process.handle import TrainingHandle, TrainingProcessDied
from worker.rpc_server import CannotAnswer, answered
from worker.scheduling.leases import reap
from worker.scheduling.scheduler import advance as advance_job
from worker.scheduling.scheduler import precompute

logger = logging.getLogger(__name__)

_SECONDS_OF_TURN = 0.5
"""Time of maintenance after which other tasks of the queue have their turn. Jobs wait for it to advance."""
_LOST_AFTER_SECONDS = 60.0
_collection: Collection | None = None
"""The collection of garbage that this process has under way."""


@lru_cache
def training_handle() -> TrainingHandle:
    """Return the training process of this Celery child."""
    return TrainingHandle(get_settings().threads, worker_pid=os.getppid())


@app.task(name=outbox.RUN_SLICE)
def run_slice() -> None:
    """Run the next queued slice, if any."""
    if shutting_down.is_set():
        return  # the slice stays queued; the maintenance loop sends another message
    handle = training_handle()
    try:
        handle.request_slice(shutting_down.is_set)
    except TrainingProcessDied as death:
        logger.error("%s", death)
        if not death.name:
            return  # it had no lease
        with get_database().write() as session:
            reap(session, get_settings(), held_by=death.name, process_died=True)
            session.execute(
                delete(Worker).where(Worker.name == death.name)
            )  # so that the scheduler forms no packs for it


@app.task(name=outbox.INGEST)
def ingest() -> None:
    """Parse, check and store the data set whose turn it is, if any."""
    ingest_dataset(get_database(), get_array_store(), get_settings(), None, process_name())


@answered("check_ingest")
def check_ingest() -> dict[str, bool]:
    """Check whether this process can read uploads, by reading a tiny valid file."""
    try:
        check_sandbox(parse_limits(get_settings()))
    except (SandboxError, OSError) as error:
        raise CannotAnswer("cannot_read", str(error)) from error
    return {"reads": True}


@app.task(name=outbox.ADVANCE)
def advance(job_id: str) -> None:
    """Write what a job does next."""
    bind_contextvars(job=job_id)
    precomputed = precompute(get_database(), job_id)
    with get_database().write() as session:
        advance_job(session, job_id, get_settings(), precomputed)


@app.task(name=outbox.COLLECT)
def collect(continues: str = "") -> None:
    """Continue the collection of garbage for a turn, and send a message for the next one.

    A message of the maintenance loop begins a collection, or continues one whose messages were lost.
    """
    global _collection
    now = time.monotonic()
    if _collection is not None and not continues and now < _collection.latest + _LOST_AFTER_SECONDS:
        return  # this process has one under way
    if _collection is None:
        _collection = Collection(get_database(), get_array_store(), get_settings())
    collection, _collection = _collection, None  # if it fails, the next message begins another one
    if collection.run(_SECONDS_OF_TURN):
        _collection = collection
        with get_database().write() as session:
            outbox.post(session, outbox.COLLECT, "continues")


@app.task(name=outbox.DELETE)
def delete_requested() -> None:
    """Delete what was requested for a turn, and send a message for the next one."""
    database, settings = get_database(), get_settings()
    storage = Storage(database, get_array_store(), open_originals(settings), settings)
    if work_off(storage, _SECONDS_OF_TURN):
        with database.write() as session:
            outbox.post(session, outbox.DELETE)


@worker_process_init.connect
def _prepare_child(**_: Any) -> None:
    die_with_parent()
    metrics.start(next(iter(app.amqp.queues.consume_from)), get_settings(), serves=False)
    if SLICES in app.amqp.queues.consume_from:
        training_handle().warm_up()  # imports torch and writes the worker's row before the first slice
    if INGEST in app.amqp.queues.consume_from:
        log_sandbox(get_settings())
    gc.collect()
    gc.freeze()  # as in the maintenance loop
