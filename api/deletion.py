"""What a deletion takes with it, why it is refused, and the request itself. `store.deletion` has the rules."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field
from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased
from zarr.core.sync import sync

from api.dependencies import Context
from api.errors import WrongState, problem_responses
from api.http.links import Link
from domain.states import JobState
from store import audit, deletion
from store.database import LOCK
from store.deletion import Scope
from store.quotas import file_bytes
from store.tables import Dataset, Inference, Job, Model, Webhook, WebhookDelivery

Row = TypeVar("Row")

_MOST_IDS = 20
_MOST_PATHS = 500
"""Folders of the array store whose sizes a request adds up."""

DryRun = Annotated[bool, Query(description="Delete nothing; return 200 and what the request would delete.")]
Cascade = Annotated[
    bool,
    Query(
        description="Also delete the jobs, inferences and combined data sets that use it. Jobs that have not ended are cancelled."
    ),
]


class Part(BaseModel):
    """Resources of one kind that are deleted."""

    count: int
    ids: list[str] = Field(description=f"The first {_MOST_IDS} of them.")


class DeletionDocument(BaseModel):
    """What a deletion takes with it. The service deletes it in the background; then the resource is not found (404)."""

    kind: Literal["dataset", "job", "inference", "latents", "deliveries"]
    id: str = Field(
        description="Id of the resource; for latents of the model, for deliveries of the webhook."
    )
    dry_run: bool
    refused: str | None = Field(
        None, description="With `dry_run`: why the same request without `dry_run` would be refused."
    )
    datasets: Part
    jobs: Part
    models: Part
    inferences: Part
    rows: dict[str, int] = Field(
        description="Numbers of other rows: trials, slices, events, decisions, points of learning curves, messages to webhooks, "
        "shares."
    )
    array_bytes: int | None = Field(
        description="Size of arrays and weights, in bytes. Null if there are too many to add up."
    )
    file_bytes: int = Field(
        description="Size of the uploaded files that no other data set or upload uses, in bytes."
    )
    kept: list[str] = Field(description="What stays although it is related, and why.")
    links: dict[str, Link]


DELETES: dict[int | str, dict[str, Any]] = {
    200: {"model": DeletionDocument, "description": "With `dry_run`: what the request would delete."},
    **problem_responses(404, 409, 422),
}
"""Responses of a route that deletes in the background."""


@dataclass(frozen=True)
class _Deletion(Generic[Row]):
    """How resources of one kind are deleted.

    Attributes
    ----------
    find
        Reads the row in a session, or raises `NotFound`.
    examine
        Returns what goes with the row, and why it cannot be deleted now, if so.
    describe
        Returns the document.
    delete
        Requests the deletion, in a writing transaction.
    locks
        Whether `find` takes `lock`.
    """

    find: Callable[..., Row]
    examine: Callable[[Session, Row], tuple[Scope, WrongState | None]]
    describe: Callable[[Session, Row, Scope], DeletionDocument]
    delete: Callable[[Session, Row, Scope], None]
    locks: bool = False

    def run(self, context: Context, *, dry_run: bool) -> DeletionDocument:
        """Delete the resource, or say what that would delete and why it would be refused.

        Raises
        ------
        NotFound, WrongState
            If the resource does not exist, or cannot be deleted now.
        """
        with context.database.read() as session:
            row = self.find(session)
            scope, refused = self.examine(session, row)
            document = self.describe(session, row, scope)
        if refused is None and not dry_run:
            with context.database.write() as session:
                row = self.find(session, lock=True) if self.locks else self.find(session)
                scope, refused = self.examine(session, row)  # it may have changed
                if refused is None:
                    self.delete(session, row, scope)
        if refused is not None and not dry_run:
            raise refused
        document.dry_run, document.refused = dry_run, None if refused is None else refused.detail
        return document


def delete_dataset(
    context: Context, find: Callable[..., Dataset], *, cascade: bool, dry_run: bool
) -> DeletionDocument:
    """Delete a data set, or say what that would delete.

    Parameters
    ----------
    find
        Reads the data set in a session, or raises `NotFound`. That of jobs and of inferences takes `lock`.

    Raises
    ------
    NotFound, WrongState
        If the data set does not exist, or if it is used and `cascade` is false.
    """

    def examine(session: Session, row: Dataset) -> tuple[Scope, WrongState | None]:
        scope = deletion.dataset_scope(session, row)
        used = {
            "jobs": scope.job_ids,
            "inferences": scope.inference_ids,
            "combined data sets": [one for one in scope.dataset_ids if one != row.id],
        }
        if any(used.values()) and not cascade:
            told = "; ".join(f"{len(ids)} {name}: {_listed(ids)}" for name, ids in used.items() if ids)
            hint = f"to delete them too: DELETE /v1/datasets/{row.id}?cascade=true, first with dry_run=true to see all of it"
            return scope, WrongState(f"the data set {row.id} is used by {told}", hint=hint)
        return scope, _weights_needed(session, row.tenant_id, scope)

    def describe(session: Session, row: Dataset, scope: Scope) -> DeletionDocument:
        document = _document(context, session, "dataset", row.id, scope)
        document.links = {"self": f"/v1/datasets/{row.id}"}
        document.kept = _kept(session, row.tenant_id, scope)
        return document

    return _Deletion(find, examine, describe, deletion.delete_dataset).run(context, dry_run=dry_run)


def delete_job(context: Context, find: Callable[..., Job], *, dry_run: bool) -> DeletionDocument:
    """Delete a job that has ended, or say what that would delete; arguments as of `delete_dataset`."""

    def examine(session: Session, row: Job) -> tuple[Scope, WrongState | None]:
        scope = deletion.job_scope(session, row)
        if not JobState(row.state).is_final:
            return scope, WrongState(
                f"the job {row.id} is {row.state}; only a job that has ended can be deleted",
                hint=f"cancel it first: POST /v1/jobs/{row.id}:cancel",
            )
        return scope, _weights_needed(session, row.tenant_id, scope)

    def describe(session: Session, row: Job, scope: Scope) -> DeletionDocument:
        document = _document(context, session, "job", row.id, scope)
        document.links = {"self": f"/v1/jobs/{row.id}"}
        document.kept = _kept(session, row.tenant_id, scope)
        return document

    def delete(session: Session, row: Job, _scope: Scope) -> None:
        deletion.delete_job(session, row)

    return _Deletion(find, examine, describe, delete, locks=True).run(context, dry_run=dry_run)


def delete_inference(context: Context, find: Callable[..., Inference], *, dry_run: bool) -> DeletionDocument:
    """Delete an inference, or say what that would delete; arguments as of `delete_dataset`."""

    def describe(session: Session, row: Inference, scope: Scope) -> DeletionDocument:
        document = _document(context, session, "inference", row.id, scope)
        document.links = {"self": f"/v1/inferences/{row.id}"}
        return document

    def delete(session: Session, row: Inference, _scope: Scope) -> None:
        deletion.delete_inference(session, row)

    return _Deletion(
        find, lambda _session, row: (Scope([], [], [row.id]), None), describe, delete, locks=True
    ).run(context, dry_run=dry_run)


def delete_latents(context: Context, find: Callable[..., Model], *, dry_run: bool) -> DeletionDocument:
    """Delete the latents of a model whose job has ended, or say what that would delete; arguments as of `delete_dataset`."""

    def examine(session: Session, row: Model) -> tuple[Scope, WrongState | None]:
        inference_id = deletion.inference_with_latents(row)
        scope = Scope([], [], [] if inference_id is None else [inference_id])
        # In a writing transaction, the lock keeps a user from extending the job.
        state = JobState(session.get_one(Job, row.job_id, with_for_update=LOCK).state)
        if state.is_final:
            return scope, None
        return scope, WrongState(
            f"the job {row.job_id} of the model {row.id} is {state}; expected one that has ended",
            hint=f"wait for it, or cancel it first: POST /v1/jobs/{row.job_id}:cancel",
        )

    def describe(session: Session, row: Model, scope: Scope) -> DeletionDocument:
        document = _document(context, session, "latents", row.id, scope, [f"models/{row.id}/latents"])
        document.links = {"self": f"/v1/models/{row.id}"}
        document.kept = [
            "the model with its weights, scores and learning curve; :apply computes its latents again"
        ]
        return document

    def delete(session: Session, row: Model, _scope: Scope) -> None:
        deletion.delete_latents(session, row)

    return _Deletion(find, examine, describe, delete).run(context, dry_run=dry_run)


def delete_deliveries(context: Context, find: Callable[..., Webhook], *, dry_run: bool) -> DeletionDocument:
    """Delete the messages to a webhook that were delivered or given up; arguments as of `delete_dataset`."""

    def describe(session: Session, row: Webhook, scope: Scope) -> DeletionDocument:
        document = _document(context, session, "deliveries", row.id, scope)
        own = WebhookDelivery.webhook_id == row.id
        document.rows = {
            "deliveries": _count(session, WebhookDelivery, own, WebhookDelivery.ended_at.is_not(None))
        }
        waiting = _count(session, WebhookDelivery, own, WebhookDelivery.ended_at.is_(None))
        document.kept = [f"{waiting} messages that are still to be delivered"] if waiting else []
        document.links = {"self": f"/v1/webhooks/{row.id}/deliveries"}
        return document

    def delete(session: Session, row: Webhook, _scope: Scope) -> None:
        audit.record(session, "webhook.deliveries_deleted", row)
        deletion.request_deletion(session, "deliveries", row.id, row.tenant_id)

    return _Deletion(find, lambda _session, _row: (Scope([], [], []), None), describe, delete).run(
        context, dry_run=dry_run
    )


def _weights_needed(session: Session, tenant_id: str, scope: Scope) -> WrongState | None:
    needing = deletion.needing_weights(session, tenant_id, scope.job_ids)
    if not needing:
        return None
    return WrongState(
        f"these jobs have yet to begin models with weights that would be deleted: {_listed(needing)}",
        hint="wait until they have begun all of those models, or cancel them",
    )


def _document(
    context: Context,
    session: Session,
    kind: Literal["dataset", "job", "inference", "latents", "deliveries"],
    resource_id: str,
    scope: Scope,
    paths: Sequence[str] = (),
) -> DeletionDocument:
    """Return what is deleted with a scope, and with further paths of the array store."""
    of_jobs = Model.job_id.in_(scope.job_ids)
    models = session.execute(select(Model.id).where(of_jobs).order_by(Model.id)).scalars().all()
    counted: list[tuple[Mapping[str, InstrumentedAttribute[Any]], Any]] = [
        (deletion.OF_DATASET, scope.dataset_ids),
        (deletion.OF_JOB, scope.job_ids),
        (deletion.OF_MODEL, select(Model.id).where(of_jobs)),
    ]
    rows = Counter[str]()
    for columns, ids in counted:
        for name, column in columns.items():
            rows[name] += _count(session, column.parent.class_, column.in_(ids))
    folders = [f"datasets/{one}" for one in scope.dataset_ids] + [f"models/{one}" for one in models]
    folders += [f"inferences/{one}" for one in scope.inference_ids] + list(paths)
    return DeletionDocument(
        kind=kind,
        id=resource_id,
        dry_run=False,
        datasets=_part(scope.dataset_ids),
        jobs=_part(scope.job_ids),
        models=_part(models),
        inferences=_part(scope.inference_ids),
        rows=rows,
        array_bytes=None
        if len(folders) > _MOST_PATHS
        else sum(sync(context.arrays.getsize_prefix(f"{folder}/")) for folder in folders),
        file_bytes=_file_bytes(session, scope.dataset_ids),
        kept=[],
        links={},
    )


def _part(ids: Sequence[str]) -> Part:
    return Part(count=len(ids), ids=list(ids[:_MOST_IDS]))


def _count(session: Session, table: type[Any], *conditions: ColumnElement[bool]) -> int:
    return session.execute(select(func.count()).select_from(table).where(*conditions)).scalar_one()


def _file_bytes(session: Session, dataset_ids: Sequence[str]) -> int:
    """Return the size of the files that only these data sets use."""
    other = aliased(Dataset)
    others = exists().where(other.original == Dataset.original, other.id.not_in(dataset_ids))
    return file_bytes(session, Dataset.id.in_(dataset_ids), ~others)


def _kept(session: Session, tenant_id: str, scope: Scope) -> list[str]:
    """Return what stays although it is related."""
    found = []
    derived = select(Dataset.id).where(
        Dataset.derived_from.in_(scope.dataset_ids), Dataset.id.not_in(scope.dataset_ids)
    )
    if ids := session.execute(derived.order_by(Dataset.id)).scalars().all():
        found.append(f"data sets derived from it, with the file that they share with it: {_listed(ids)}")
    if scope.job_ids:
        mentioned = [deletion.mentions(column, scope.job_ids) for column in (Job.spec, Job.warm_models)]
        warm = select(Job.id).where(Job.tenant_id == tenant_id, Job.id.not_in(scope.job_ids), or_(*mentioned))
        if ids := session.execute(warm.order_by(Job.id)).scalars().all():
            found.append(f"jobs that began with its weights, with weights of their own: {_listed(ids)}")
    return found


def _listed(ids: Sequence[str]) -> str:
    more = len(ids) - _MOST_IDS
    return ", ".join(ids[:_MOST_IDS]) + (f" and {more} more" if more > 0 else "")
