"""Messages to the workers, written in the transaction of the rows they are about.

A message is a hint: the database owns the truth. A lost one is rung again by the maintenance loop, a doubled one finds
nothing to do.
"""

from sqlalchemy.orm import Session

from store.tables import OutboxMessage

INGEST = "ingest"  # (dataset_id)
RUN_SLICE = "run_slice"  # (): there is a slice or an inference to claim
ADVANCE = "advance"  # (job_id)
COLLECT = "collect"  # (): delete what nobody reads


def post(session: Session, task: str, *arguments: str) -> None:
    """Write a message; the maintenance loop sends it after the commit."""
    session.add(OutboxMessage(task=task, arguments=list(arguments)))
