"""The maintenance loop: send the messages of the outbox, take work from lost workers, and repeat lost messages.

``python -m worker.maintenance.loop``. Any number of loops may run, since rows are locked and every message is only a hint.
"""

import gc
import logging
import signal
import sys
import threading
import time
from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import delete, exists, func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from domain.states import DatasetState, InferenceState, JobState, SliceState
from store import metrics, outbox, queues
from store.database import Database, DatabaseUnusable, database_now, get_database
from store.logs import configure
from store.migrate import refuse_newer
from store.settings import get_settings
from store.tables import Dataset, Deletion, Inference, Job, OutboxMessage, Slice, Worker
from store.workers import alive_workers
from worker.celery_app import app
from worker.maintenance.gauges import Gauges
from worker.maintenance.retention import sweep_until
from worker.maintenance.webhooks import deliver_until
from worker.scheduling.fair_queue import is_not_paused, may_be_served, may_begin
from worker.scheduling.leases import reap

logger = logging.getLogger("latentry.maintenance")

_FORGOTTEN_AFTER = timedelta(seconds=5)
_BROKER_SECONDS = 5.0
_MOST_ADVANCES = 8
"""Messages of jobs to advance that are in the broker at a time. Each takes 5 to 50 ms of one core."""


def send_outbox(database: Database) -> int:
    """Send the messages of the outbox, oldest first. Messages that cannot be sent stay.

    Only a few messages of jobs to advance are in the broker at a time, taken from each tenant in turn. So a tenant that starts
    a hundred searches keeps no other's job waiting for long.

    Returns
    -------
    int
        Number of sent messages.
    """
    # No transaction is open while messages are sent, so a broker that hangs blocks no writer. If two loops send the same message,
    # or a loop dies before it deletes one, the message comes twice, which does no harm.
    columns = select(OutboxMessage.id, OutboxMessage.task, OutboxMessage.arguments)
    advances = OutboxMessage.task == outbox.ADVANCE
    with database.read() as session:
        messages = list(session.execute(columns.where(~advances).order_by(OutboxMessage.id).limit(100)))
        some_wait = session.execute(select(OutboxMessage.id).where(advances).limit(1)).first() is not None
    if some_wait and (room := _MOST_ADVANCES - queue_length(queues.CONTROL)) > 0:
        of_job = Job.id == OutboxMessage.arguments[0].as_string()
        turn = func.row_number().over(partition_by=Job.tenant_id, order_by=OutboxMessage.id)
        by_turns = columns.where(advances).outerjoin(Job, of_job).order_by(turn, OutboxMessage.id)
        with database.read() as session:
            messages += session.execute(by_turns.limit(room))
    sent = []
    try:
        for message in messages:
            app.send_task(message.task, args=message.arguments, retry=False)
            sent.append(message.id)
    finally:
        if sent:
            with database.write() as session:
                session.execute(delete(OutboxMessage).where(OutboxMessage.id.in_(sent)))
    return len(sent)


def queue_length(queue: str) -> int:
    """Return the number of messages in a queue of the broker."""
    with app.connection_or_acquire() as connection:
        length: int = connection.default_channel.client.llen(queue)
        return length


def empty_queues() -> set[str]:
    """Return the queues without a message. Messages for their work may have been lost."""
    return {name for name, one in queues.QUEUES.items() if not one.answers_calls and queue_length(name) == 0}


def sweep(session: Session, empty: Collection[str]) -> None:
    """Send messages again for queued work, and for jobs that should be advanced, if their messages were lost.

    Parameters
    ----------
    session
        A writing transaction.
    empty
        Queues without a message.
    """
    pending = set(session.execute(select(OutboxMessage.task).distinct()).scalars())
    if queues.SLICES in empty and outbox.RUN_SLICE not in pending:
        _repeat_slices(session)
    if queues.INGEST in empty and outbox.INGEST not in pending:
        _repeat_ingests(session)
    if queues.CONTROL in empty and not pending & {outbox.ADVANCE, outbox.DELETE}:
        _repeat_control(session)
    session.execute(delete(Worker).where(Worker.seen_at < database_now(session) - timedelta(hours=1)))


def _repeat_slices(session: Session) -> None:
    """Send messages for queued slices and inferences: at most one for each worker."""
    waiting_slices = select(func.count()).where(*may_begin(session))
    waiting_inferences = select(func.count()).where(
        Inference.state == InferenceState.QUEUED, may_be_served(Inference.tenant_id, session)
    )
    queued = session.execute(waiting_slices).scalar_one() + session.execute(waiting_inferences).scalar_one()
    for _ in range(min(queued, max(1, len(alive_workers(session))))):
        outbox.post(session, outbox.RUN_SLICE)


def _repeat_ingests(session: Session) -> None:
    """Send a message for each data set that waits for its ingest."""
    waiting = select(func.count()).where(
        Dataset.state == DatasetState.INGESTING,
        Dataset.lease_token.is_(None),
        is_not_paused(Dataset.tenant_id),
        Dataset.created_at < database_now(session) - _FORGOTTEN_AFTER,
    )
    for _ in range(session.execute(waiting).scalar_one()):
        outbox.post(session, outbox.INGEST)


def _repeat_control(session: Session) -> None:
    """Send messages for deletions that nobody works on, and for jobs without a queued or running slice."""
    now = database_now(session)
    is_free = Deletion.held_until.is_(None) | (Deletion.held_until < now)
    if session.execute(select(Deletion.kind).where(is_free).limit(1)).first() is not None:
        outbox.post(session, outbox.DELETE)
    active = exists().where(Slice.job_id == Job.id, Slice.state.in_([SliceState.QUEUED, SliceState.LEASED]))
    idle = session.execute(
        select(Job.id).where(
            Job.state.in_([JobState.QUEUED, JobState.RUNNING, JobState.STOPPING, JobState.INFERRING]),
            Job.created_at < now - _FORGOTTEN_AFTER,
            ~active | (Job.state == JobState.STOPPING),
        )
    ).scalars()
    for job_id in idle:
        outbox.post(session, outbox.ADVANCE, job_id)


def run(stopping: threading.Event) -> None:
    """Loop until told to stop. If the broker or the database does not answer, try again."""
    settings, database = get_settings(), get_database()
    next_sweep, next_collection = 0.0, time.monotonic() + settings.collect_seconds
    next_reaping = 0.0
    failing = False
    while not stopping.wait(settings.outbox_seconds):
        try:
            is_time = time.monotonic() >= next_sweep
            if is_time and time.monotonic() >= next_reaping:
                with database.write() as session:
                    taken = reap(session, settings)
                if taken:
                    logger.warning("took %d slices, inferences or ingests from lost workers", taken)
            while send_outbox(database):
                pass
            if is_time:
                empty = empty_queues()
                with database.write() as session:
                    sweep(session, empty)
                next_sweep = time.monotonic() + settings.maintenance_seconds
            if time.monotonic() >= next_collection:
                with database.write() as session:
                    outbox.post(session, outbox.COLLECT)
                next_collection = time.monotonic() + settings.collect_seconds
            failing = False
        except Exception as error:
            if not failing:
                logger.exception("the broker or the database does not answer; trying again")
            failing = True
            if isinstance(error, OperationalError):
                # No worker could renew its lease meanwhile. Give the living ones time to do so first.
                next_reaping = time.monotonic() + 3 * settings.heartbeat_seconds
            logger.debug("still failing: %s", error)
            stopping.wait(1.0)


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    # A broker that hangs is given up soon, so that work of lost workers is still taken back.
    app.conf.broker_transport_options = {
        **app.conf.broker_transport_options,
        "socket_timeout": _BROKER_SECONDS,
        "socket_connect_timeout": _BROKER_SECONDS,
    }
    configure("maintenance")
    try:
        refuse_newer(get_database())
    except DatabaseUnusable as error:
        sys.exit(str(error))
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    metrics.start("maintenance", get_settings(), Gauges(get_database(), queue_length).measure, serves=True)
    parts = (stopping, get_database(), get_settings())
    threads = [threading.Thread(target=target, args=parts) for target in (deliver_until, sweep_until)]
    for thread in threads:
        thread.start()
    gc.collect()
    gc.freeze()  # Python would go through all modules for 85 ms, perhaps while others wait for SQLite's lock
    logger.info("ready")
    run(stopping)
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
