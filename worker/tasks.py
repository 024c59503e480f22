"""The Celery tasks. They are thin, since the database says what is to do."""

import logging
from functools import lru_cache
from typing import Any

from celery.signals import worker_process_init
from sqlalchemy import delete

from store import outbox
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
from worker.maintenance.deletion import Storage, work_off
from worker.maintenance.garbage_collection import collect_all, collect_uploads
from worker.maintenance.measuring import measure
from worker.maintenance.retention import Sweep
from worker.process.handle import TrainingHandle, TrainingProcessDied
from worker.rpc_server import CannotAnswer, answered
from worker.scheduling.leases import reap
from worker.scheduling.scheduler import advance as advance_job
from worker.scheduling.scheduler import precompute

logger = logging.getLogger(__name__)

_SECONDS_OF_DELETION = 3.0
"""After this time, other tasks of the queue have their turn."""


@lru_cache
def training_handle() -> TrainingHandle:
    """Return the training process of this Celery child."""
    return TrainingHandle(get_settings().threads)


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
    precomputed = precompute(get_database(), job_id)
    with get_database().write() as session:
        advance_job(session, job_id, get_settings(), precomputed)


@app.task(name=outbox.COLLECT)
def collect() -> None:
    """Delete unused checkpoints, latents and uploads, and old checkpoints and originals; then SQLite's log has none of it."""
    database, arrays = get_database(), get_array_store()
    collect_all(database, arrays)
    collect_uploads(database, get_settings())
    Sweep(database, get_settings()).files(arrays)
    measure(database, arrays, get_settings())
    database.truncate_log()


@app.task(name=outbox.DELETE)
def delete_requested() -> None:
    """Delete what was requested, for some seconds; then let other tasks have their turn."""
    database, settings = get_database(), get_settings()
    storage = Storage(database, get_array_store(), open_originals(settings), settings)
    if work_off(storage, _SECONDS_OF_DELETION):
        with database.write() as session:
            outbox.post(session, outbox.DELETE)


@worker_process_init.connect
def _prepare_child(**_: Any) -> None:
    die_with_parent()
    if SLICES in app.amqp.queues.consume_from:
        training_handle().warm_up()  # imports torch and writes the worker's row before the first slice
    if INGEST in app.amqp.queues.consume_from:
        log_sandbox(get_settings())
