"""The last slice of a job: latents of the selected model for every trial, its scores, and the job's diagnostics."""

import logging
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.states import JobState
from models.null_model import constant_output_losses
from store import events
from store.array_store import delete_objects, objects_size
from store.database import database_now
from store.tables import Job, Model, Slice
from worker.context.process import TrainingProcess
from worker.context.reports import Heartbeat, end_slice
from worker.context.slices import Work
from worker.inference.baselines import TrainingSet, fit
from worker.inference.diagnostics import baseline_warning, diagnose
from worker.inference.held_out_scores import HeldOutScores, score_held_out
from worker.inference.latents import request_of, store_latents

logger = logging.getLogger("latentry.training")


def infer(process: TrainingProcess, work: Work) -> None:
    """Store the latents of every trial, score them, and end the job with its diagnostics."""
    heartbeat = Heartbeat(process, work.lease)
    request = request_of(process, work)
    fitted = fit(process, TrainingSet.of(work), request.architecture)
    heartbeat.beat()
    scores, baselines = store_latents(process, request, fitted, heartbeat)
    latents_bytes = objects_size(process.arrays, request.path)
    held_out = score_held_out(process, work, request.state, fitted, heartbeat.beat)
    scores |= held_out.scores
    baselines |= held_out.baselines
    heartbeat.beat()
    diagnostics = _diagnose(process, work, held_out)
    replaced: list[str] = []

    def write(session: Session, job: Job, _piece: Slice) -> None:
        row = session.get_one(Model, request.model.id)
        replaced[:] = [old] if (old := row.latents_path) and old.startswith(f"models/{row.id}/") else []
        row.latents_path, row.latents_bytes, row.latents_deleted_at = request.path, latents_bytes, None
        row.scores = {**row.scores, **scores}
        row.baselines, row.baseline_settings = baselines, fitted.settings()
        job.diagnostics = diagnostics
        if diagnostics is not None:
            events.record(session, job.id, "job.diagnostics", **diagnostics)
        job.state, job.ended_at = JobState.DONE, database_now(session)
        events.record(
            session, job.id, "job.state", state=job.state, selected_model_id=row.id, scores=row.scores
        )

    end_slice(process, work, write)
    logger.info("the latents are stored", extra={"model": request.model.id, "path": request.path})
    for old in replaced:
        delete_objects(process.arrays, old)


def _diagnose(process: TrainingProcess, work: Work, held_out: HeldOutScores) -> dict[str, Any] | None:
    """Return the diagnostics of the job; None if it holds no sample out."""
    reference = constant_output_losses(work.architecture(), process.data.load(work).training)
    models = _searched_models(process, work)
    if not reference.held_out_samples:
        return None
    model, diagnostics = work.models[0], diagnose(work, models, reference)
    # A refit trains on validation trials, so only test trials compare it fairly.
    fair = [one for one in held_out.comparisons if one["score"].endswith("test") or not work.is_refit]
    warning = baseline_warning(
        held_out.scores,
        held_out.baselines,
        fair,
        model.best_epoch or 0,
        model.epochs_trained,
        who="refit" if work.is_refit else "selected model",
    )
    warnings = filter(None, (diagnostics["warning"], warning))
    return {**diagnostics, "baselines": fair, "warning": " ".join(warnings) or None}


def _searched_models(process: TrainingProcess, work: Work) -> list[Model]:
    """Return the models of the search, by number."""
    with process.database.read() as session:
        of_search = (Model.job_id == work.job.id) & Model.refit_of.is_(None)
        return list(session.execute(select(Model).where(of_search).order_by(Model.number)).scalars())
