"""Read new events of jobs in the order of their ids, without losing one."""

import time
from collections.abc import Collection, Sequence

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from store.tables import Event

_MOST_EVENTS = 1000  # of one read
_LOOK_BACK = 5000
"""How many ids before the newest one the first read looks for events that are not committed yet. One transaction writes fewer."""
_GAP_SECONDS = 10.0
"""Longest wait for an event that is not committed, for example because the machine of its writer is lost."""
_SNAPSHOT = text("SELECT pg_current_snapshot()::text")


class EventReader:
    """Reads events that are newer than `position`.

    PostgreSQL numbers events when they are written, but their transactions are committed in another order. So an id that is not
    visible may appear later, and a reader that continued after it would lose the event. The reader therefore stops before such a
    gap until every transaction that ran when the gap was found has ended. After that, the id belongs to a transaction that was
    rolled back.

    Attributes
    ----------
    position
        Id up to which everything is read; None before the first read.
    """

    def __init__(self) -> None:
        self.position: int | None = None
        self.has_all = True
        self._gaps: dict[int, tuple[int | None, float]] = {}  # id: first transaction that began later, time

    def read(self, session: Session, job_ids: Collection[str]) -> list[Event]:
        """Return the new events of these jobs, and move on. The first read only finds the position, and returns none.

        Afterwards `has_all` says whether all committed events are read.
        """
        oldest_running, is_first = self._observe_transactions(session), self.position is None
        after = self.position if self.position is not None else self._first_position(session)
        most = _LOOK_BACK + 1 if is_first else _MOST_EVENTS
        newer = select(Event.id, Event.job_id).where(Event.id > after).order_by(Event.id)
        rows = session.execute(newer.limit(most)).all()
        last = rows[-1].id if rows else after
        until = min(last, self._before_gaps(session, after, [row.id for row in rows], oldest_running))
        self.position, self.has_all = until, until == last and len(rows) < most
        if is_first or not any(row.job_id in job_ids and row.id <= until for row in rows):
            return []
        wanted = select(Event).where(Event.id > after, Event.id <= until, Event.job_id.in_(job_ids))
        return list(session.execute(wanted.order_by(Event.id)).scalars())

    @staticmethod
    def _first_position(session: Session) -> int:
        newest = session.execute(select(func.max(Event.id))).scalar_one() or 0
        return max(0, newest - _LOOK_BACK)

    def _observe_transactions(self, session: Session) -> int:
        """Return the oldest transaction that runs, and note for new gaps which transactions may still fill them."""
        if not self._gaps:
            return 0
        oldest, next_one, _ = session.execute(_SNAPSHOT).scalar_one().split(":")
        for number, (later, found_at) in self._gaps.items():
            self._gaps[number] = (int(next_one) if later is None else later, found_at)
        return int(oldest)

    def _before_gaps(self, session: Session, after: int, ids: Sequence[int], oldest_running: int) -> int:
        """Return the id before the first gap that a transaction may still fill.

        Example: the ids 1, 2 and 4 are visible. While the transaction that took 3 may still commit, return 2: else a reader that
        has passed 4 never sees 3. Once it has rolled back, return 4.
        """
        if not ids or session.get_bind().dialect.name != "postgresql":  # SQLite has one writer at a time
            return ids[-1] if ids else after
        now = time.monotonic()
        missing = sorted(set(range(after + 1, ids[-1])).difference(ids))
        self._gaps = {number: self._gaps.get(number, (None, now)) for number in missing}
        for number, (later, found_at) in self._gaps.items():
            is_void = later is not None and oldest_running >= later
            if not is_void and now - found_at < _GAP_SECONDS:
                return number - 1
        return ids[-1]
