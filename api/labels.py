"""The names of jobs; changes of the name, notes and tags of a data set or a job, by a JSON Merge Patch."""

from collections.abc import Iterable
from typing import Any

from fastapi.openapi.models import Example
from pydantic import BaseModel, ConfigDict
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.limits.quotas import check_amounts
from domain.labels import Name, Notes, Tags
from store import audit
from store.settings import Settings
from store.tables import Dataset, Job


class LabelChanges(BaseModel):
    """A JSON Merge Patch (RFC 7396): fields that you do not give stay, and `null` resets a field to its default."""

    model_config = ConfigDict(extra="forbid")

    name: Name | None = None
    notes: Notes | None = None
    tags: Tags | None = None


LABEL_CHANGES: dict[str, Example] = {
    "tag": {"summary": "Name and tag it", "value": {"name": "day 3", "tags": ["pilot", "monkey J"]}},
    "notes": {
        "summary": "Write notes, and remove the tags",
        "value": {"notes": "Arm was tired.", "tags": None},
    },
}


def change(
    session: Session, settings: Settings, row: Dataset | Job, changes: LabelChanges, defaults: dict[str, Any]
) -> dict[str, Any]:
    """Change fields of a row, record which, and return the new values of all given fields.

    Parameters
    ----------
    session, settings, row
        The transaction, the settings, and a row of the transaction.
    changes
        The changes.
    defaults
        The defaults of fields, besides no notes and no tags.

    Raises
    ------
    QuotaReached
        If the row becomes longer and the tenant may have no more rows.
    """
    empty = {"notes": "", "tags": [], **defaults}
    given = {name: getattr(changes, name) for name in changes.model_fields_set}
    new = {name: empty[name] if value is None else value for name, value in given.items()}
    changed = sorted(name for name, value in new.items() if getattr(row, name) != value)
    before = row.row_bytes or 0
    for name in changed:
        setattr(row, name, new[name])
    if changed:
        kind = "job" if isinstance(row, Job) else "dataset"
        audit.record(session, f"{kind}.changed", row, fields=changed)
        session.flush()
        if (row.row_bytes or 0) > before:
            check_amounts(session, settings, row.tenant_id)
    return new


def names_of_jobs(session: Session, job_ids: Iterable[str]) -> dict[str, str]:
    """Return the names of jobs by their ids: the name that people gave, else what it is, "quick search on reaches.nwb"."""
    columns = (Job.id, Job.name, Job.spec, Dataset.name)
    rows = session.execute(
        select(*columns).join(Dataset, Dataset.id == Job.dataset_id).where(Job.id.in_(set(job_ids)))
    )
    return {
        job_id: name
        or f"{spec.get('preset') or spec['strategy']['kind']} search on {dataset or 'a data set'}"
        for job_id, name, spec, dataset in rows
    }
