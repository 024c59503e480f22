"""Health check of the maintenance loop: exit 1 when one of its duties is overdue.

The loop has no port to ask, and a process that exists may still hang. What it is there for can be seen in the
database: messages of the outbox are sent, and leases that ran out are taken back.
"""

import sys
from datetime import timedelta

from sqlalchemy import func, select

from store.database import Database, database_now, get_database
from store.tables import Dataset, OutboxMessage, Slice

OVERDUE_SECONDS = 30.0


def overdue_duties(database: Database) -> list[str]:
    """Say what the maintenance loop should have done by now; empty when it keeps up."""
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
