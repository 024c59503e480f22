"""An inference: a model run on a data set, under a lease like a slice. An attempt that is cut off begins anew."""

import logging
import time

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from store import outbox
from store.database import LOCK, database_now
from store.sessions import RecordedSession, sessions_of
from store.specification import JobSpecification, split_trials
from store.split_groups import given_splits
from store.states import InferenceState
from store.tables import Dataset, Inference, Job, Model, Trial
from worker.checkpoints import load_checkpoint
from worker.latents import LatentsRequest, store_latents
from worker.leases import Lease, drop_lease
from worker.slice_work import TrainingProcess, architecture_of

logger = logging.getLogger("latentry.training")


class _GivenBack(Exception):
    """The process is to end: another one shall do the inference."""


def apply(process: TrainingProcess, lease: Lease) -> None:
    """Store the latents of a model for a data set, and score them."""
    with process.database.read() as session:
        row = session.get_one(Inference, lease.row_id)
        request = _request(session, row)
    state = load_checkpoint(process.arrays, row.checkpoint_key)
    path, progress = f"inferences/{row.id}/{lease.token}", _Progress(process, lease)
    try:
        scores = store_latents(process, request, state, path, progress.beat, progress.add)
    except _GivenBack:
        with process.report(lease) as session:
            row = session.get_one(Inference, lease.row_id)
            drop_lease(row)
            row.state = InferenceState.QUEUED
            outbox.post(session, outbox.RUN_SLICE)
        return

    def end(session: Session) -> None:
        lease.keep(session, process.settings)
        row = session.get_one(Inference, lease.row_id)
        row.state, row.ended_at = InferenceState.DONE, database_now(session)
        row.latents_path, row.scores, row.trials_done = path, scores, progress.trials_done
        row.lease_token = row.lease_expires_at = None  # leased_by stays: who did it
        _give_to_model(session, row)

    process.write_patiently(end)


def _give_to_model(session: Session, row: Inference) -> None:
    """Latents of the model's own data set are the model's too, unless its job stored some, or it has other weights by now."""
    model = session.get_one(Model, row.model_id, with_for_update=LOCK, populate_existing=True)
    if session.get_one(Job, model.job_id).dataset_id != row.dataset_id:
        return
    if model.checkpoint_key not in (None, row.checkpoint_key):
        return
    if model.latents_path is None or model.latents_path.startswith("inferences/"):
        model.latents_path = row.latents_path


class _Progress:
    """How many trials are done, written with each renewal of the lease."""

    def __init__(self, process: TrainingProcess, lease: Lease) -> None:
        self._process, self._lease = process, lease
        self._last_beat = time.monotonic()
        self.trials_done = 0

    def add(self, trials: int) -> None:
        """Count trials that have been inferred."""
        self.trials_done += trials

    def beat(self) -> None:
        """Renew the lease, if it is time; while the database is away, inference goes on."""
        if self._process.should_yield():
            raise _GivenBack
        if time.monotonic() - self._last_beat < self._process.settings.heartbeat_seconds:
            return
        try:
            with self._process.report(self._lease) as session:
                session.get_one(Inference, self._lease.row_id).trials_done = self.trials_done
        except OperationalError as error:
            logger.warning("the database is away, inference goes on: %s", error.orig)
        self._last_beat = time.monotonic()


def _request(session: Session, row: Inference) -> LatentsRequest:
    model, dataset = session.get_one(Model, row.model_id), session.get_one(Dataset, row.dataset_id)
    job = session.get_one(Job, model.job_id)
    trained_on = sessions_of(session.get_one(Dataset, job.dataset_id))
    sessions, of_model = sessions_of(dataset), row.options["sessions"]
    of_trials = select(Trial.length_bins).where(Trial.dataset_id == dataset.id).order_by(Trial.trial)
    return LatentsRequest(
        model=model,
        architecture=architecture_of(model, trained_on),
        dataset=dataset,
        sessions=sessions,
        sessions_of_model=of_model,
        split=_split(session, job, trained_on, sessions, of_model),
        trial_length_bins=np.array(session.execute(of_trials).scalars().all(), dtype=np.int64),
        posterior_samples=row.options["posterior_samples"],
        arrays=row.options["arrays"],
        attributes={"inference_id": row.id},
    )


def _split(
    session: Session,
    job: Job,
    trained_on: list[RecordedSession],
    sessions: list[RecordedSession],
    sessions_of_model: list[int],
) -> NDArray[np.str_]:
    """Part of the model's job that each trial was in; what the job never saw is ``test``."""
    specification = JobSpecification.model_validate(job.spec)
    given, groups = given_splits(session, job.dataset_id)
    of_job = np.array(split_trials(given, groups, specification.training, trained_on))
    split = np.full(sum(one.trials for one in sessions), "test", dtype="<U5")
    for recorded, number in zip(sessions, sessions_of_model, strict=True):
        if trained_on[number].dataset_id == recorded.dataset_id:
            split[recorded.rows] = of_job[trained_on[number].rows]
    return split
