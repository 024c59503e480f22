"""The last slice of a job: latents of the selected model for every trial, its scores, and the job's diagnostics."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.states import JobState
from models.null_model import constant_output_losses
from store import events
from store.array_store import delete_objects
from store.database import database_now
from store.tables import Job, Model, Slice
from worker.context.checkpoints import load_checkpoint
from worker.context.process import TrainingProcess
from worker.context.reports import Heartbeat, end_slice
from worker.context.slices import Work
from worker.inference.baselines import TrainingSet, baseline_warning, fit
from worker.inference.diagnostics import diagnose
from worker.inference.held_out_scores import score_held_out
from worker.inference.latents import request_of, store_latents


def infer(process: TrainingProcess, work: Work) -> None:
    """Store the latents of every trial, score them, and end the job with its diagnostics."""
    model = work.models[0]
    heartbeat = Heartbeat(process, work.lease)
    state = load_checkpoint(process.arrays, model.checkpoint_key or "")
    path = f"models/{model.id}/latents/{work.lease.token}"
    fitted = fit(process, TrainingSet.of(work), work.architecture())
    heartbeat.beat()
    scores, baselines = store_latents(process, request_of(work), state, path, heartbeat.beat, fitted)
    held_out = score_held_out(process, work, state, fitted, heartbeat.beat)
    scores |= held_out.scores
    baselines |= held_out.baselines
    heartbeat.beat()
    reference = constant_output_losses(work.architecture(), process.data.load(work).training)
    models = _searched_models(process, work)
    diagnostics = diagnose(work, models, reference) if reference.held_out_samples else None
    if diagnostics is not None:
        # Validation trials train a refit: only test trials compare it fairly.
        fair = [one for one in held_out.comparisons if one["score"].endswith("test") or not work.is_refit]
        diagnostics["baselines"] = fair
        told = [
            diagnostics["warning"],
            baseline_warning(
                held_out.scores,
                held_out.baselines,
                fair,
                int(model.scores.get("best_epoch") or 0),
                model.epochs_trained,
                "refit" if work.is_refit else "selected model",
            ),
        ]
        diagnostics["warning"] = " ".join(filter(None, told)) or None

    replaced: list[str] = []

    def write(session: Session, job: Job, _piece: Slice) -> None:
        row = session.get_one(Model, model.id)
        replaced[:] = [old] if (old := row.latents_path) and old.startswith(f"models/{row.id}/") else []
        row.latents_path = path
        row.scores = {**row.scores, **scores}
        row.baselines, row.baseline_settings = baselines, fitted.settings()
        job.diagnostics = diagnostics
        if diagnostics is not None:
            events.record(session, job.id, "job.diagnostics", **diagnostics)
        job.state, job.ended_at = JobState.DONE, database_now(session)
        events.record(
            session, job.id, "job.state", state=job.state, selected_model_id=model.id, scores=row.scores
        )

    end_slice(process, work, write)
    for old in replaced:
        delete_objects(process.arrays, old)


def _searched_models(process: TrainingProcess, work: Work) -> list[Model]:
    """The models of the search, by number."""
    with process.database.read() as session:
        of_search = (Model.job_id == work.job.id) & Model.refit_of.is_(None)
        return list(session.execute(select(Model).where(of_search).order_by(Model.number)).scalars())
