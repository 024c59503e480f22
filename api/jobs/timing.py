"""Read what the estimates of `domain.estimate` need from the rows of jobs, slices and workers."""

import statistics
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain import estimate
from domain.cost import Pace
from domain.estimate import SLICE_S, EpochCount, Progress, Work, Workers
from domain.job_specification import JobSpecification
from domain.states import JobState, SliceState
from store.budget import Spent, wall_seconds
from store.database import database_now
from store.tables import Dataset, Event, Job, Model, Slice
from store.workers import available_workers

_SLICES_MEASURED = 50


def seconds_left(
    session: Session, job: Job, specification: JobSpecification, epochs: EpochCount, spent: Spent
) -> float:
    """Estimate the time until the latents of a job are stored, without pauses."""
    dataset, has_trained = session.get_one(Dataset, job.dataset_id), epochs.trained > 0
    progress = Progress(
        state=JobState(job.state),
        epochs=epochs,
        wall_seconds=spent.wall_seconds,
        device_seconds=spent.device_seconds,
        reported_seconds=_reported_seconds(session, job) if has_trained else 0.0,
        inference_seconds=_inference_seconds(session, job) if job.state == JobState.INFERRING else 0.0,
        has_refit=has_trained and _has_refit(session, job),
    )
    return estimate.seconds_left(specification, dataset, read_workers(session), progress)


def read_workers(session: Session) -> Workers:
    """Return the workers that are alive and take work, with their pace.

    The pace is the one that workers measured themselves, corrected by the last slices of training here. It is read once in a
    session, because a page of jobs asks for it for each job.
    """
    if "workers" not in session.info:
        alive = available_workers(session)
        known = [
            Pace(one.overhead_pace, one.arithmetic_pace)
            for one in alive
            if one.overhead_pace is not None and one.arithmetic_pace is not None
        ]
        pace = _mean_pace(known) if known else Pace()
        ratio = _measured_ratio(session, pace)
        if ratio is not None:
            pace = Pace(pace.overhead * ratio, pace.arithmetic * ratio)
        basis: estimate.Basis = "assumed" if ratio is None else "measured"
        session.info["workers"] = Workers(max(1, len(alive)), pace, basis)
    found: Workers = session.info["workers"]
    return found


def _mean_pace(paces: Sequence[Pace]) -> Pace:
    overhead, arithmetic = (
        statistics.mean(values)
        for values in zip(*((one.overhead, one.arithmetic) for one in paces), strict=True)
    )
    return Pace(overhead, arithmetic)


def _measured_ratio(session: Session, pace: Pace) -> float | None:
    """Return the median of the time of the last slices, relative to what `domain.cost` expects; None if there are none."""
    recent = (
        select(Slice, Job.spec, Dataset)
        .join(Job, Job.id == Slice.job_id)
        .join(Dataset, Dataset.id == Job.dataset_id)
        .where(Slice.kind == "train", Slice.state == SliceState.DONE, Slice.device_seconds > 0)
        .order_by(Slice.id.desc())
        .limit(_SLICES_MEASURED)
    )
    ratios = []
    for piece, spec, dataset in session.execute(recent):
        epochs = (piece.epochs_trained or 0) - piece.first_epoch
        epoch = Work(JobSpecification.model_validate(spec), dataset).epoch_time(len(piece.model_ids), 1)
        seconds = piece.device_seconds or 0.0
        if epochs > 0:
            ratios.append((seconds - min(SLICE_S, seconds / 2)) / (epochs * epoch.seconds(pace)))
    return statistics.median(ratios) if ratios else None


def _reported_seconds(session: Session, job: Job) -> float:
    """Return when workers last reported epochs, in seconds since the first slice began, without pauses."""
    latest = select(Event.created_at).where(Event.job_id == job.id, Event.kind == "progress")
    reported = session.execute(latest.order_by(Event.id.desc()).limit(1)).scalar_one_or_none()
    return 0.0 if reported is None else wall_seconds(job, reported)


def _has_refit(session: Session, job: Job) -> bool:
    """Return whether the refit of a job has begun."""
    found = select(Model.id).where(Model.job_id == job.id, Model.refit_of.is_not(None))
    return session.execute(found.limit(1)).first() is not None


def _inference_seconds(session: Session, job: Job) -> float:
    """Return how long the computation of the latents has run."""
    under_way = select(Slice.started_at).where(
        Slice.job_id == job.id, Slice.kind == "infer", Slice.state == SliceState.LEASED
    )
    started: datetime | None = session.execute(under_way.limit(1)).scalar_one_or_none()
    return 0.0 if started is None else (database_now(session) - started).total_seconds()
