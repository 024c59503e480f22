"""One slice, in the training process: claim, load, train a pack or infer latents, report.

Every transaction that writes begins by renewing the lease, so a worker that lost it writes nothing.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session
from zarr.abc.store import Store

from models import (
    Architecture,
    EpochScores,
    Hyperparameters,
    Population,
    TrainingData,
    TrainingOptions,
)
from store import events, outbox
from store.array_store import delete_object
from store.arrays import open_array
from store.database import Database, database_now
from store.settings import Settings
from store.specification import JobSpecification, split_trials
from store.states import ModelState, SliceState
from store.tables import CurvePoint, Dataset, Job, Model, Slice, Trial
from worker.checkpoints import checkpoint_key, load_checkpoint, save_checkpoint
from worker.leases import Lease, LeaseLost, claim_slice, retry_or_fail
from worker.scheduler import end_model


@dataclass
class TrainingProcess:
    """What a training process keeps from slice to slice.

    Parameters
    ----------
    database, arrays, settings
        Of the service.
    name
        Of this process, written into the leases it holds.
    device
        ``cpu``, ``cuda:0``, …
    should_yield
        Asked at each epoch's end: True ends the slice early, with a checkpoint.
    """

    database: Database
    arrays: Store
    settings: Settings
    name: str
    device: str
    should_yield: Callable[[], bool] = lambda: False
    _data: dict[tuple[Any, ...], TrainingData] = field(default_factory=dict)

    def run_next(self) -> bool:
        """Claim a slice and run it; return False when none is queued."""
        with self.database.write() as session:
            lease = claim_slice(session, self.name, self.settings)
        if lease is None:
            return False
        try:
            work = self._load(lease)
            if work.piece.kind == "train":
                train(self, work)
            else:
                from worker.infer import infer

                infer(self, work)
        except LeaseLost:
            pass  # cancelled, or another's by now: nothing of ours was written
        except Exception as error:
            self._report_failure(lease, error)
        return True

    def _load(self, lease: Lease) -> "Work":
        with self.database.read() as session:
            piece = session.get_one(Slice, lease.row_id)
            job = session.get_one(Job, piece.job_id)
            dataset = session.get_one(Dataset, job.dataset_id)
            models = session.execute(
                select(Model).where(Model.id.in_(piece.model_ids)).order_by(Model.number)
            ).scalars()
            trials = session.execute(
                select(Trial.split, Trial.length_bins)
                .where(Trial.dataset_id == dataset.id)
                .order_by(Trial.trial)
            ).all()
            return Work(
                lease=lease,
                piece=piece,
                job=job,
                specification=JobSpecification.model_validate(job.spec),
                dataset=dataset,
                models=list(models),
                given_splits=[row.split for row in trials],
                trial_length_bins=np.array([row.length_bins for row in trials], dtype=np.int64),
            )

    def training_data(self, work: "Work") -> TrainingData:
        """Spikes on the device, split and sample-validation mask; kept for the next slice of the same job."""
        training = work.specification.training
        seed = work.specification.seed
        key = (work.dataset.id, training.sv_rate, training.valid_fraction, seed)
        if key not in self._data:
            self._data.clear()
            split = work.split()
            used = split != "test"
            self._data[key] = TrainingData(
                self.read_array(work.dataset, "spikes")[used],
                work.trial_length_bins[used],
                split[used] == "valid",
                sv_rate=training.sv_rate,
                sv_seed=seed,
                device=self.device,
            )
        return self._data[key]

    def read_array(self, dataset: Dataset, name: str) -> np.ndarray[Any, Any]:
        """Read an array of a data set whole."""
        array = open_array(self.arrays, dataset.array_path or "", name)
        if array is None:
            raise FileNotFoundError(f"the data set {dataset.id} has no array {name!r}")
        return np.asarray(array[...])

    @contextmanager
    def report(self, lease: Lease) -> Iterator[Session]:
        """A transaction that writes for the holder of a lease: it renews it, or raises `LeaseLost`."""
        with self.database.write() as session:
            lease.keep(session, self.settings)
            yield session

    @contextmanager
    def final_report(self, work: "Work") -> Iterator[tuple[Session, Job, Slice]]:
        """The transaction that ends a slice as done and asks for what comes next."""
        with self.database.write() as session:
            job = session.get_one(Job, work.job.id, with_for_update=True)
            work.lease.keep(session, self.settings)
            piece = session.get_one(Slice, work.piece.id)
            piece.state, piece.ended_at = SliceState.DONE, database_now(session)
            piece.lease_token = piece.lease_expires_at = None  # leased_by stays: who did it
            events.record(session, job.id, "slice.state", slice_id=piece.id, state=piece.state)
            outbox.post(session, outbox.ADVANCE, job.id)
            yield session, job, piece

    def _report_failure(self, lease: Lease, error: Exception) -> None:
        problem = {
            "code": type(error).__name__,
            "message": str(error) or type(error).__name__,
            "hint": "the worker's log has the whole traceback",
        }
        try:
            with self.report(lease) as session:
                retry_or_fail(session, session.get_one(Slice, lease.row_id), problem, self.settings)
        except LeaseLost:
            return
        raise error  # for the log; the process stays


@dataclass(frozen=True)
class Work:
    """A claimed slice with everything it needs."""

    lease: Lease
    piece: Slice
    job: Job
    specification: JobSpecification
    dataset: Dataset
    models: list[Model]
    given_splits: list[str | None]
    trial_length_bins: np.ndarray[Any, np.dtype[np.int64]]

    def split(self) -> np.ndarray[Any, Any]:
        """Which part of the job each trial is in: ``train``, ``valid`` or ``test``."""
        training = self.specification.training
        return np.array(split_trials(self.given_splits, training.valid_fraction, self.specification.seed))

    def architecture(self) -> Architecture:
        """Of the slice's models: a pack has one."""
        return Architecture(neurons=self.dataset.neurons or 0, **self.models[0].architecture)


def train(process: TrainingProcess, work: Work) -> None:
    """Train a pack from its checkpoints to the slice's end, and report."""
    started = time.monotonic()
    training = work.specification.training
    states = [
        load_checkpoint(process.arrays, model.checkpoint_key) for model in work.models if model.checkpoint_key
    ]
    population = Population(
        work.architecture(),
        [Hyperparameters(**model.hyperparameters) for model in work.models],
        [model.seed for model in work.models],
        process.training_data(work),
        TrainingOptions(
            batch_size=training.batch_size,
            ramp_epochs=training.ramp_epochs,
            gradient_clip=training.gradient_clip,
        ),
        order_seed=work.specification.seed,
        states=states or None,
    )
    progress = Progress(process, work)
    deadline = started + _seconds_left(process, work)
    while population.epoch < work.piece.last_epoch and any(population.alive):
        progress.add(population.train_epoch(progress.beat))
        if time.monotonic() >= deadline or process.should_yield():
            break
    _report_training(process, work, population, progress)


def _seconds_left(process: TrainingProcess, work: Work) -> float:
    """Until this slice should end: its own length, or the job's wall clock if that is nearer."""
    limit = work.specification.budget.wall_seconds
    if limit is None or work.job.started_at is None:
        return process.settings.slice_seconds
    with process.database.read() as session:
        spent = (database_now(session) - work.job.started_at).total_seconds()
    return min(process.settings.slice_seconds, max(0.0, limit - spent))


class Progress:
    """Learning-curve points on their way to the database, written with each renewal of the lease."""

    def __init__(self, process: TrainingProcess, work: Work) -> None:
        self._process, self._work = process, work
        self._points: list[tuple[Model, EpochScores]] = []
        self._last_beat = time.monotonic()
        self.latest: list[EpochScores] = []

    def add(self, scores: list[EpochScores]) -> None:
        """Keep one epoch of every model for the next beat."""
        self.latest = scores
        self._points += [
            (model, score)
            for model, score in zip(self._work.models, scores, strict=True)
            if score is not None
        ]
        self.beat()

    def beat(self) -> None:
        """Renew the lease and write what there is, if it is time; called at every step of training."""
        if time.monotonic() - self._last_beat < self._process.settings.heartbeat_seconds:
            return
        with self._process.report(self._work.lease) as session:
            self.write(session)
        self._last_beat = time.monotonic()

    def write(self, session: Session) -> None:
        """Write the points into a transaction."""
        if not self._points:
            return
        session.add_all(_curve_point(model, scores, self._work.piece.id) for model, scores in self._points)
        events.record(
            session,
            self._work.job.id,
            "progress",
            slice_id=self._work.piece.id,
            models=[
                {
                    "model_id": model.id,
                    "number": model.number,
                    "epoch": scores.epoch,
                    "sv_loss": finite(scores.sv_loss),
                    "ordinary_loss": finite(scores.ordinary_loss),
                    "best_smoothed_sv_loss": finite(scores.best_smoothed_sv_loss),
                }
                for model, scores in zip(self._work.models, self.latest, strict=True)
            ],
        )
        self._points = []


def finite(value: float | None) -> float | None:
    """The value, or None where it is no number: JSON and SQL have no NaN."""
    return value if value is not None and math.isfinite(value) else None


def _curve_point(model: Model, scores: EpochScores, slice_id: str) -> CurvePoint:
    return CurvePoint(
        model_id=model.id,
        epoch=scores.epoch,
        slice_id=slice_id,
        train_loss=finite(scores.train_loss),
        sv_loss=finite(scores.sv_loss),
        sv_loss_train=finite(scores.sv_loss_train),
        ordinary_loss=finite(scores.ordinary_loss),
        smoothed_sv_loss=finite(scores.smoothed_sv_loss),
        kl_initial_condition=finite(scores.kl_initial_condition),
        gradient_norm=finite(scores.gradient_norm),
        learning_rate=finite(scores.learning_rate),
    )


def _report_training(
    process: TrainingProcess, work: Work, population: Population, progress: Progress
) -> None:
    """Save checkpoints, then say in one transaction that they are the true ones."""
    keys: dict[str, str] = {}
    for index, model in enumerate(work.models):
        if population.alive[index]:
            keys[model.id] = checkpoint_key(model.id, population.epoch, work.lease.token)
            save_checkpoint(process.arrays, keys[model.id], population.state(index))
            progress.beat()
    replaced: list[str] = []
    with process.final_report(work) as (session, _job, piece):
        progress.write(session)
        piece.epochs_trained = population.epoch
        for index, before in enumerate(work.models):
            model = session.get_one(Model, before.id)
            model.epochs_trained = population.epoch
            if not population.alive[index]:
                reason = f"its loss was no longer finite, or exploded, before epoch {population.epoch}"
                end_model(session, model, ModelState.DIVERGED, reason)
                continue
            if model.checkpoint_key:
                replaced.append(model.checkpoint_key)
            model.checkpoint_key = keys[model.id]
            if progress.latest:
                _write_scores(model, progress.latest[index])
    for key in replaced:
        delete_object(process.arrays, key)


def _write_scores(model: Model, scores: EpochScores) -> None:
    model.smoothed_sv_loss = finite(scores.best_smoothed_sv_loss)
    model.scores = {
        "sv_loss": finite(scores.sv_loss),
        "smoothed_sv_loss": model.smoothed_sv_loss,
        "ordinary_loss": finite(scores.ordinary_loss),
        "train_loss": finite(scores.train_loss),
        "sv_loss_train": finite(scores.sv_loss_train),
    }
