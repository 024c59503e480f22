"""Batch inference: run a model on a data set, under a lease as for a slice. An attempt that was interrupted starts again."""

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from domain.job_specification import JobSpecification, split_trials
from domain.sessions import RecordedSession, sessions_of
from domain.states import InferenceState
from store import outbox
from store.array_store import objects_size
from store.database import LOCK, database_now
from store.datasets import given_splits, recordings_of
from store.quotas import use_device_time
from store.tables import Dataset, Inference, Job, Model
from worker.context.checkpoints import load_checkpoint
from worker.context.process import TrainingProcess
from worker.context.reports import Heartbeat, leased_transaction
from worker.context.slices import architecture_of
from worker.inference.baselines import TrainingSet, fit
from worker.inference.latents import LatentsRequest, store_latents
from worker.scheduling.failures import write_with_retry
from worker.scheduling.leases import Lease


class _GivenBack(Exception):
    """The process is to end. Another process will do the inference."""


def apply(process: TrainingProcess, lease: Lease) -> None:
    """Store the latents of a model for a data set, and score them."""
    with process.database.read() as session:
        row = session.get_one(Inference, lease.row_id)
        request, trained = _request(process, session, row, lease)
    progress = _Progress(process, lease)
    try:
        fitted = fit(process, trained, request.architecture)
        scores, baselines = store_latents(process, request, fitted, progress)
    except _GivenBack:
        with leased_transaction(process, lease) as session:
            row = session.get_one(Inference, lease.row_id)
            row.drop_lease()
            row.state = InferenceState.QUEUED
            outbox.post(session, outbox.RUN_SLICE)
        return

    latents_bytes = objects_size(process.arrays, request.path)

    def end(session: Session) -> None:
        lease.keep(session, process.settings)
        row = session.get_one(Inference, lease.row_id)
        row.state, row.ended_at = InferenceState.DONE, database_now(session)
        row.latents_bytes = latents_bytes
        row.latents_path, row.scores, row.trials_done = request.path, scores, progress.trials_done
        row.baselines, row.baseline_settings = baselines, fitted.settings()
        row.drop_lease()
        _give_to_model(session, row)
        use_device_time(session, process.settings, row)

    write_with_retry(process.database, end)


def _give_to_model(session: Session, row: Inference) -> None:
    """Use these latents as those of the model if its job stored none, and data set and weights are those of the model."""
    model = session.get_one(Model, row.model_id, with_for_update=LOCK, populate_existing=True)
    if session.get_one(Job, model.job_id).dataset_id != row.dataset_id:
        return
    if model.checkpoint_key not in (None, row.checkpoint_key):
        return
    if model.latents_path is None or model.latents_path.startswith("inferences/"):
        model.latents_path, model.latents_deleted_at = row.latents_path, None


class _Progress(Heartbeat):
    """Writes the number of trials that are done with each renewal of the lease."""

    def __init__(self, process: TrainingProcess, lease: Lease) -> None:
        super().__init__(process, lease, self._write_trials)
        self._should_yield, self._row_id = process.should_yield, lease.row_id

    def beat(self) -> None:
        """Renew the lease if it is time to; raise `_GivenBack` if the process is to end."""
        if self._should_yield():
            raise _GivenBack
        super().beat()

    def _write_trials(self, session: Session) -> None:
        session.get_one(Inference, self._row_id).trials_done = self.trials_done


def _request(
    process: TrainingProcess, session: Session, row: Inference, lease: Lease
) -> tuple[LatentsRequest, TrainingSet]:
    """Return what an inference asks for, and the training set of its model."""
    model, dataset = session.get_one(Model, row.model_id), session.get_one(Dataset, row.dataset_id)
    trained = _training_set(session, model)
    sessions, of_model = sessions_of(dataset), row.options["sessions"]
    request = LatentsRequest(
        model=model,
        architecture=architecture_of(model, trained.sessions),
        state=load_checkpoint(process.arrays, row.checkpoint_key),
        dataset=dataset,
        sessions=sessions,
        sessions_of_model=of_model,
        split=_split(session, trained, sessions, of_model),
        trial_length_bins=given_splits(session, dataset.id)[1].bins,
        posterior_samples=row.options["posterior_samples"],
        arrays=row.options["arrays"],
        path=f"inferences/{row.id}/{lease.token}",
        attributes={"inference_id": row.id},
    )
    return request, trained


def _training_set(session: Session, model: Model) -> TrainingSet:
    job = session.get_one(Job, model.job_id)
    dataset, training = (
        session.get_one(Dataset, job.dataset_id),
        JobSpecification.model_validate(job.spec).training,
    )
    sessions = sessions_of(dataset)
    given, groups = given_splits(session, dataset.id)
    return TrainingSet(
        dataset,
        sessions,
        groups.bins,
        np.array(split_trials(given, groups, training, sessions)),
        training,
        model.refit_of is not None,
    )


def _split(
    session: Session, trained: TrainingSet, sessions: list[RecordedSession], sessions_of_model: list[int]
) -> NDArray[np.str_]:
    """Return the part of the model's job that each trial was in. Trials that the job never saw are ``test``.

    Trials of another data set of the same recording are ``gap``: some may have trained the model, so none is scored.
    """
    seen = recordings_of(session, trained.dataset)
    split = np.full(sum(one.trials for one in sessions), "test", dtype="<U5")
    for recorded, number in zip(sessions, sessions_of_model, strict=True):
        if trained.sessions[number].dataset_id == recorded.dataset_id:
            split[recorded.rows] = trained.split[trained.sessions[number].rows]
        elif recordings_of(session, session.get_one(Dataset, recorded.dataset_id)) & seen:
            split[recorded.rows] = "gap"
    return split
