"""Health check of the maintenance loop: exit with 1 if one of its duties is overdue.

The loop has no port, and an existing process may hang. But the database shows its work: it sends the messages of the outbox and
takes back expired leases.
"""

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


def main() -> None:
    """Check the database of the settings."""
    if overdue := overdue_duties(get_database()):
        sys.exit("; ".join(overdue))


if __name__ == "__main__":
    main()
