"""Health checks of the services without a port: exit with 1 if a service is not healthy.

``health.py maintenance`` checks that no duty of the maintenance loop is overdue. A process that exists may hang, but the database
shows its work: it sends the messages of the outbox and takes back expired leases. ``health.py QUEUE`` pings this container's
worker of that queue through the broker, for at most 10 s.
"""

import socket
import sys
from datetime import timedelta

from sqlalchemy import func, select

from store.database import Database, database_now, get_database
from store.tables import Dataset, OutboxMessage, Slice

OVERDUE_SECONDS = 30.0


def overdue_duties(database: Database) -> list[str]:
    """Return the overdue duties of the maintenance loop; an empty list if there are none."""
    with database.read() as session:
        latest = database_now(session) - timedelta(seconds=OVERDUE_SECONDS)
        unsent = session.execute(select(func.count()).where(OutboxMessage.created_at < latest)).scalar_one()
        expired = sum(
            session.execute(
                select(func.count()).where(table.lease_token.is_not(None), table.lease_expires_at < latest)
            ).scalar_one()
            for table in (Slice, Dataset)
        )
    duties = {"messages to send": unsent, "expired leases to take back": expired}
    return [
        f"{number} {what}, for more than {OVERDUE_SECONDS:.0f} s" for what, number in duties.items() if number
    ]


def answering_nodes(queue: str, seconds: float) -> list[str]:
    """Return the names of the nodes of this host that respond for a queue; the first one ends the wait."""
    from worker.celery_app import app

    # The name ends in a random part, see `worker.celery_app`.
    pattern = f"{queue}-*@{socket.gethostname()}"
    return list(app.control.inspect(timeout=seconds, limit=1, pattern=pattern, matcher="glob").ping() or ())


def main(kind: str, seconds: float = 10.0) -> None:
    """Check one service."""
    if kind != "maintenance":
        if not answering_nodes(kind, seconds):
            sys.exit(
                f"no worker of the queue {kind!r} on {socket.gethostname()} responds within {seconds:g} s"
            )
    elif overdue := overdue_duties(get_database()):
        sys.exit("; ".join(overdue))


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:]))
