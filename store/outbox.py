"""Messages to the workers, written in the transaction of the rows that they are about.

A message is only a hint, since the database owns the truth. The maintenance loop replaces a lost message, and a repeated message
finds nothing to do.
"""

from sqlalchemy.orm import Session

from store.tables import OutboxMessage

INGEST = "ingest"  # (): a data set waits for its ingest
RUN_SLICE = "run_slice"  # (): a slice or an inference is queued
ADVANCE = "advance"  # (job_id)
COLLECT = "collect"  # (): collect garbage
DELETE = "delete"  # (): something is to be deleted


def post(session: Session, task: str, *arguments: str) -> None:
    """Write a message. The maintenance loop sends it after the commit."""
    session.add(OutboxMessage(task=task, arguments=list(arguments)))
