"""The decisions of a search, and the lineage of a model: from which models its weights come."""

from collections.abc import Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.errors import NotFound, WrongState
from api.http.pagination import Page, cut_page, decode_number
from api.jobs.search_schemas import DecisionDocument, JobLineage, LineageSegment
from domain.search_space import Value
from store.lineage import Segment, lineage, selection_order
from store.tables import Decision, Job, Model


def list_decisions(
    session: Session, job: Job, page_size: int, page_token: str | None
) -> Page[DecisionDocument]:
    """Return a page of the decisions about the models of a job, in order."""
    query = select(Decision).where(Decision.job_id == job.id).order_by(Decision.id)
    if (after := decode_number(page_token)) is not None:
        query = query.where(Decision.id > after)
    rows = session.execute(query.limit(page_size + 1)).scalars().all()
    rows, token = cut_page(rows, page_size, [str(row.id) for row in rows])
    return Page(items=[_decision_document(row) for row in rows], next_page_token=token)


def _decision_document(row: Decision) -> DecisionDocument:
    return DecisionDocument(
        id=row.id,
        model_number=row.model_number,
        kind=row.kind,
        epoch=row.epoch,
        smoothed_sv_loss=row.lowest_sv_loss,
        latest_smoothed_sv_loss=row.latest_sv_loss,
        parent_number=row.parent_number,
        hyperparameters=row.hyperparameters,
        reason=row.reason,
        created_at=row.created_at,
    )


def read_models(session: Session, job: Job) -> Sequence[Model]:
    """Return the models of a job, by number."""
    return session.execute(select(Model).where(Model.job_id == job.id).order_by(Model.number)).scalars().all()


def read_decisions(session: Session, job: Job) -> Sequence[Decision]:
    """Return all decisions of a job, in order."""
    of_job = select(Decision).where(Decision.job_id == job.id).order_by(Decision.id)
    return session.execute(of_job).scalars().all()


def followed_model(job: Job, models: Sequence[Model], number: int | None) -> Model:
    """Return the model whose lineage is requested: the one with this number, else the selected one, else the best so far.

    Raises
    ------
    NotFound
        If the job has no model of this number.
    WrongState
        If no number is given and no model has trained.
    """
    if number is not None:
        if (model := next((one for one in models if one.number == number), None)) is None:
            raise NotFound(
                f"the job {job.id} has no model {number}",
                hint=f"GET /v1/jobs/{job.id}/models lists its models",
            )
        return model
    if (model := next((one for one in models if one.id == job.selected_model_id), None)) is not None:
        return model
    trained = [one for one in models if one.smoothed_sv_loss is not None and one.refit_of is None]
    if not trained:
        raise WrongState(
            f"the job {job.id} is {job.state} and none of its models has trained: no model has a lineage yet",
            hint="wait for the first losses, or give the number of a model as ?model=",
        )
    return min(trained, key=selection_order)


def job_lineage(session: Session, job: Job, number: int | None) -> JobLineage:
    """Return the lineage of a model of a job; raise as `followed_model` does."""
    model = followed_model(job, read_models(session, job), number)
    return JobLineage(
        job_id=job.id,
        model_id=model.id,
        model_number=model.number,
        is_selected=model.id == job.selected_model_id,
        epochs=model.epochs_trained,
        best_epoch=model.best_epoch,
        smoothed_sv_loss=model.smoothed_sv_loss,
        segments=segments(model, read_decisions(session, job)),
    )


def segments(model: Model, decisions: Sequence[Decision]) -> list[LineageSegment]:
    """Return the lineage of a model as documents; a single segment if no decisions about it are stored."""
    found = lineage(decisions, model.number) or [
        Segment(model.number, 0, None, model.hyperparameters, "begun before decisions were stored")
    ]
    documents: list[LineageSegment] = []
    for segment in found:
        before = documents[-1].hyperparameters if documents else segment.hyperparameters
        end = model.epochs_trained if segment.to_epoch is None else segment.to_epoch
        documents.append(
            LineageSegment(
                model_number=segment.model_number,
                from_epoch=segment.from_epoch,
                to_epoch=end,
                hyperparameters=segment.hyperparameters,
                changes=changes(before, segment.hyperparameters),
                reason=segment.reason,
                has_best_epoch=segment.from_epoch < (model.best_epoch or 0) <= end,
            )
        )
    return documents


def changes(
    before: Mapping[str, Value], after: Mapping[str, Value]
) -> dict[str, tuple[Value | None, Value | None]]:
    """Return the values before and after of the hyperparameters that differ, by name."""
    names = [*after, *(name for name in before if name not in after)]
    return {
        name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)
    }
