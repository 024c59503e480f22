"""What a worker writes to the database while it holds a lease: heartbeats, and the report at the end of a slice.

Every transaction begins by renewing the lease. A worker that lost its lease therefore writes nothing.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from domain.states import SliceState
from store import events, outbox
from store.database import LOCK, database_now
from store.quotas import use_device_time
from store.tables import Job, Slice
from worker.context.process import TrainingProcess
from worker.context.slices import Work
from worker.scheduling.failures import write_with_retry
from worker.scheduling.leases import Lease, LeaseLost

logger = logging.getLogger("latentry.training")


@contextmanager
def leased_transaction(process: TrainingProcess, lease: Lease) -> Iterator[Session]:
    """Open a transaction that writes for the holder of a lease; raise `LeaseLost` if the lease is lost."""
    with process.database.write() as session:
        lease.keep(session, process.settings)
        yield session


class Heartbeat:
    """Renews a lease while work is under way.

    Parameters
    ----------
    process, lease
        Who holds which lease.
    write
        Writes progress into the transaction that renews the lease.
    """

    def __init__(
        self, process: TrainingProcess, lease: Lease, write: Callable[[Session], None] = lambda _: None
    ) -> None:
        self._process, self._lease, self._write = process, lease, write
        self._last = time.monotonic()
        self.trials_done = 0

    def add(self, trials: int) -> None:
        """Count trials whose latents are inferred."""
        self.trials_done += trials

    def beat(self) -> None:
        """Renew the lease if it is time to; call this at every step."""
        self.renew()

    def renew(self) -> bool:
        """Do what `beat` does, and return whether a transaction was committed.

        If the database does not answer, the work continues and the next beat tries again.
        """
        if time.monotonic() - self._last < self._process.settings.heartbeat_seconds:
            return False
        is_written = False
        try:
            with leased_transaction(self._process, self._lease) as session:
                self._write(session)
            is_written = True
        except OperationalError as error:
            logger.warning("the database does not answer; the work continues: %s", error.orig)
        self._last = time.monotonic()
        return is_written


def end_slice(process: TrainingProcess, work: Work, write: Callable[[Session, Job, Slice], None]) -> None:
    """End a slice as done and ask the scheduler to advance the job, in one transaction with what `write` writes."""

    def end(session: Session) -> None:
        job = session.get(Job, work.job.id, with_for_update=LOCK)
        if job is None:
            raise LeaseLost(f"{work.piece.id} ends with its job {work.job.id}, which was deleted")
        work.lease.keep(session, process.settings)
        piece = session.get_one(Slice, work.piece.id)
        now = database_now(session)
        piece.state, piece.ended_at = SliceState.DONE, now
        piece.device_seconds = (now - piece.started_at).total_seconds() if piece.started_at else 0.0
        piece.drop_lease()
        events.record(session, job.id, "slice.state", slice_id=piece.id, state=piece.state)
        outbox.post(session, outbox.ADVANCE, job.id)
        write(session, job, piece)
        use_device_time(session, process.settings, piece)

    write_with_retry(process.database, end)
