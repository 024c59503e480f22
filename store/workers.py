"""The living training processes, for the scheduler and the API."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from store.database import database_now
from store.tables import Worker

_SEEN_WITHIN = timedelta(seconds=30)


def alive_workers(session: Session) -> Sequence[Worker]:
    """Return the training processes that wrote within half a minute that they are alive. They write it every ten seconds."""
    seen = Worker.seen_at > database_now(session) - _SEEN_WITHIN
    return session.execute(select(Worker).where(seen)).scalars().all()


def available_workers(session: Session) -> Sequence[Worker]:
    """Return the living training processes that take work: those that nobody drains."""
    return [worker for worker in alive_workers(session) if worker.draining_since is None]


def is_draining(session: Session, name: str) -> bool:
    """Return whether the operator drains a training process."""
    found = session.execute(select(Worker.draining_since).where(Worker.name == name)).scalar_one_or_none()
    return found is not None
