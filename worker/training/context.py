"""What a slice in the training process works with: the process, the claimed work, its progress.

Every transaction that writes begins by renewing the lease, so a worker that lost it writes nothing.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from zarr.abc.store import Store

from domain.conditions import condition_names_of_trials
from domain.cost import Pace
from domain.job_specification import JobSpecification, split_trials
from domain.sessions import RecordedSession, sessions_of
from domain.split_groups import SplitGroups
from domain.states import JobState, SliceState
from models import (
    Architecture,
    EpochScores,
    TrainingData,
)
from models import (
    Session as TrainingSession,
)
from models.null_model import HeldOutSpikes, held_out_spikes
from store import events, outbox
from store.arrays import open_array
from store.database import LOCK, Database, database_now
from store.datasets import given_splits
from store.settings import Settings
from store.tables import CurvePoint, Dataset, Job, Model, Slice, Trial, Worker
from worker.scheduling.leases import Lease

logger = logging.getLogger("latentry.training")

"""Parts whose trials a training reads."""
DATABASE_PATIENCE_SECONDS = 600.0
"""A finished slice waits so long for a database that is away."""


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
    last_was_inference
        Whether what it did last was an inference: then it is a slice's turn.
    group_sizes
        How many models train at once, as `worker.training.micro_batching` found for what it was asked so far.
    pace
        How fast this process trains; None: it was not measured.
    """

    database: Database
    arrays: Store
    settings: Settings
    name: str
    device: str
    should_yield: Callable[[], bool] = lambda: False
    last_was_inference: bool = False
    group_sizes: dict[tuple[Any, ...], int] = field(default_factory=dict)
    pace: Pace | None = None
    _data: dict[tuple[Any, ...], TrainingData] = field(default_factory=dict)
    _held_out_spikes: dict[int, HeldOutSpikes | None] = field(default_factory=dict)

    def say_alive(self) -> None:
        """Write that this process is there: the scheduler spreads models over those that were seen lately."""
        with self.database.write() as session:
            row = session.get(Worker, self.name) or Worker(name=self.name, device=self.device)
            row.seen_at = database_now(session)
            if self.pace is not None:
                row.overhead_pace, row.arithmetic_pace = self.pace.overhead, self.pace.arithmetic
            session.add(row)

    def load(self, lease: Lease) -> "Work":
        """Read everything that a claimed slice needs."""
        with self.database.read() as session:
            piece = session.get_one(Slice, lease.row_id)
            job = session.get_one(Job, piece.job_id)
            dataset = session.get_one(Dataset, job.dataset_id)
            models = session.execute(
                select(Model).where(Model.id.in_(piece.model_ids)).order_by(Model.number)
            ).scalars()
            given, groups = given_splits(session, dataset.id)
            return Work(
                lease=lease,
                piece=piece,
                job=job,
                specification=JobSpecification.model_validate(job.spec),
                dataset=dataset,
                models=list(models),
                given_splits=given,
                groups=groups,
            )

    def training_data(self, work: "Work") -> TrainingData:
        """Data on the device, split and sample-validation mask; kept for the next slice of the same job."""
        training = work.specification.training
        architecture = work.architecture()
        key = (
            work.dataset.id, training.sv_rate, training.valid_fraction, training.test_fraction, training.evaluation_seed,
            architecture.observation, architecture.external_inputs, work.is_refit,
        )  # fmt: skip
        if key not in self._data:
            self._data.clear()
            self._held_out_spikes.clear()
            self._data[key] = TrainingData(
                [self.session(work, recorded) for recorded in work.sessions],
                sv_rate=training.sv_rate,
                sv_seed=training.evaluation_seed,
                observation=architecture.observation,
                device=self.device,
                train_on_validation=work.is_refit,
            )
        return self._data[key]

    def sv_bits_per_spike(self, work: "Work", sv_loss: float | None) -> float | None:
        """Return an SV loss of a slice's models as bits per spike; None without a loss, or where it is not defined."""
        data, architecture = self.training_data(work), work.architecture()
        first = architecture.initial_condition_bins
        if first not in self._held_out_spikes:  # computed once for the data that are kept
            self._held_out_spikes[first] = held_out_spikes(architecture, data)
        found = self._held_out_spikes[first]
        return None if found is None or sv_loss is None else finite(found.bits_per_spike(sv_loss))

    def session(self, work: "Work", recorded: RecordedSession) -> TrainingSession:
        """A session of the data set as models read it, all its trials."""
        lengths, split = work.trial_length_bins[recorded.rows], work.split()[recorded.rows]
        has_inputs = work.architecture().external_inputs > 0
        return self.read_session(work.dataset, recorded, lengths, split, has_inputs=has_inputs)

    def read_session(
        self,
        dataset: Dataset,
        recorded: RecordedSession,
        trial_length_bins: NDArray[np.int64],
        split: NDArray[np.str_],
        *,
        has_inputs: bool,
    ) -> TrainingSession:
        """A session of a data set as models read it, with external inputs if the model reads them."""
        missing = self.find_array(dataset, recorded.named("missing"))
        return TrainingSession(
            self.read_array(dataset, recorded.named("spikes")),
            trial_length_bins,
            split == "valid",
            missing=None if missing is None else missing.astype(np.bool_),
            external_inputs=self.read_array(dataset, recorded.named("external_inputs"))
            if has_inputs
            else None,
            is_test=split == "test",
            is_left_out=split == "gap",
        )

    def conditions(self, dataset: Dataset) -> list[int | float | str | None]:
        """Return the condition of each trial, by the metadata that `domain.conditions` finds; None without one."""
        with self.database.read() as session:
            of_trials = select(Trial.details).where(Trial.dataset_id == dataset.id).order_by(Trial.trial)
            details = session.execute(of_trials).scalars().all()
        found = condition_names_of_trials(details)
        values = [one.get(found[0]) if found else None for one in details]
        return [value if isinstance(value, int | float | str) else None for value in values]

    def read_array(self, dataset: Dataset, name: str) -> np.ndarray[Any, Any]:
        """Read an array of a data set whole."""
        found = self.find_array(dataset, name)
        if found is None:
            raise FileNotFoundError(f"the data set {dataset.id} has no array {name!r}")
        return found

    def find_array(self, dataset: Dataset, name: str) -> np.ndarray[Any, Any] | None:
        """Read an array of a data set whole; None if the data set has no such array."""
        array = open_array(self.arrays, dataset.array_path or "", name)
        return None if array is None else np.asarray(array[...])

    @contextmanager
    def report(self, lease: Lease) -> Iterator[Session]:
        """A transaction that writes for the holder of a lease: it renews it, or raises `LeaseLost`."""
        with self.database.write() as session:
            lease.keep(session, self.settings)
            yield session

    def final_report(self, work: "Work", write: Callable[[Session, Job, Slice], None]) -> None:
        """End a slice as done and ask for what comes next, in one transaction with what `write` writes.

        A database that is away is waited for, as long as a restart may take: what was trained is not to be lost for it.
        """

        def end(session: Session) -> None:
            job = session.get_one(Job, work.job.id, with_for_update=LOCK)
            work.lease.keep(session, self.settings)
            piece = session.get_one(Slice, work.piece.id)
            now = database_now(session)
            piece.state, piece.ended_at = SliceState.DONE, now
            piece.device_seconds = (now - piece.started_at).total_seconds() if piece.started_at else 0.0
            piece.lease_token = piece.lease_expires_at = None  # leased_by stays: who did it
            events.record(session, job.id, "slice.state", slice_id=piece.id, state=piece.state)
            outbox.post(session, outbox.ADVANCE, job.id)
            write(session, job, piece)

        self.write_patiently(end)

    def write_patiently(self, write: Callable[[Session], None]) -> None:
        """Write in one transaction, for the end of work: a database that is away is waited for, as long as a restart may take."""
        deadline = time.monotonic() + DATABASE_PATIENCE_SECONDS
        while True:
            try:
                with self.database.write() as session:
                    write(session)
                return
            except OperationalError as error:
                if time.monotonic() > deadline:
                    raise
                logger.warning("the database is away, the report waits: %s", error.orig)
                time.sleep(1.0)


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
    groups: SplitGroups

    @cached_property
    def sessions(self) -> list[RecordedSession]:
        """Of the data set: one, but in a combined one."""
        return sessions_of(self.dataset)

    @property
    def trial_length_bins(self) -> NDArray[np.int64]:
        """Bins of each trial."""
        return self.groups.bins

    @property
    def is_refit(self) -> bool:
        """Whether the model is trained on all trials."""
        return self.models[0].refit_of is not None

    def split(self) -> np.ndarray[Any, Any]:
        """Which part of the job each trial is in: ``train``, ``valid`` or ``test``."""
        return np.array(
            split_trials(self.given_splits, self.groups, self.specification.training, self.sessions)
        )

    def architecture(self) -> Architecture:
        """Of the slice's models: a pack has one."""
        return architecture_of(self.models[0], self.sessions)


def architecture_of(model: Model, sessions: Sequence[RecordedSession]) -> Architecture:
    """The network of a model, for the sessions of the data set that it is trained on."""
    described = dict(model.architecture)
    described["held_out_neurons"] = tuple(described.get("held_out_neurons", ()))
    neurons = tuple(session.neurons for session in sessions)
    return Architecture(neurons=neurons if len(neurons) > 1 else neurons[0], **described)


class Progress:
    """Learning-curve points on their way to the database, written with each renewal of the lease."""

    def __init__(self, process: TrainingProcess, work: Work) -> None:
        self._process, self._work = process, work
        self._points: list[tuple[Model, EpochScores]] = []
        self._last_beat = time.monotonic()
        self.latest: dict[int, EpochScores] = {}
        self.lowest: dict[int, float | None] = {}
        """Lowest smoothed SV loss of each model in this slice."""
        self.should_end = False
        """Whether the job was paused or stopped: the slice ends with the epoch."""

    def add(self, scores: Mapping[int, EpochScores]) -> None:
        """Keep one epoch of models, by their place in the slice, for the next beat."""
        self.latest |= scores
        for index, found in scores.items():
            self.lowest[index] = lowest([self.lowest.get(index), finite(found.smoothed_sv_loss)])
        self._points += [(self._work.models[index], found) for index, found in scores.items()]
        for found in scores.values():
            self._bits_per_spike(found)  # the first one takes a pass over data: not within a transaction
        self.beat()

    def _bits_per_spike(self, scores: EpochScores) -> float | None:
        return self._process.sv_bits_per_spike(self._work, scores.sv_loss)

    def beat(self) -> None:
        """Renew the lease, write what there is and hear what is wanted, if it is time; called at every step of training.

        While the database is away training goes on; the points wait for the next beat.
        """
        if time.monotonic() - self._last_beat < self._process.settings.heartbeat_seconds:
            return
        try:
            with self._process.report(self._work.lease) as session:
                self.write(session)
                state = session.execute(select(Job.state).where(Job.id == self._work.job.id)).scalar_one()
        except OperationalError as error:
            logger.warning("the database is away, training goes on: %s", error.orig)
        else:
            self._points = []
            self.should_end = state in (JobState.PAUSED, JobState.STOPPING)
        self._last_beat = time.monotonic()

    def write(self, session: Session) -> None:
        """Write the points into a transaction; they are kept until one has been committed."""
        if not self._points:
            return
        session.add_all(
            _curve_point(model, scores, self._bits_per_spike(scores), self._work.piece.id)
            for model, scores in self._points
        )
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
                    "sv_bits_per_spike_valid": self._bits_per_spike(scores),
                    "validation_loss": finite(scores.validation_loss),
                    "best_smoothed_sv_loss": finite(scores.best_smoothed_sv_loss),
                    "trained_by": model.number
                    if scores.best_epoch > self._work.piece.first_epoch
                    else model.trained_by,
                }
                for model, scores in ((self._work.models[i], found) for i, found in self.latest.items())
            ],
        )


def finite(value: float | None) -> float | None:
    """The value, or None where it is no number: JSON and SQL have no NaN."""
    return value if value is not None and math.isfinite(value) else None


def lowest(losses: Sequence[float | None]) -> float | None:
    """Return the lowest of the losses that are known, or None."""
    return min((loss for loss in losses if loss is not None), default=None)


def _curve_point(
    model: Model, scores: EpochScores, bits_per_spike: float | None, slice_id: str
) -> CurvePoint:
    return CurvePoint(
        model_id=model.id,
        epoch=scores.epoch,
        slice_id=slice_id,
        train_loss=finite(scores.train_loss),
        sv_loss=finite(scores.sv_loss),
        sv_bits_per_spike_valid=bits_per_spike,
        sv_loss_train=finite(scores.sv_loss_train),
        validation_loss=finite(scores.validation_loss),
        smoothed_sv_loss=finite(scores.smoothed_sv_loss),
        kl_initial_condition=finite(scores.kl_initial_condition),
        kl_inputs=finite(scores.kl_inputs) if model.architecture.get("controller_units") else None,
        gradient_norm=finite(scores.gradient_norm),
        learning_rate=finite(scores.learning_rate),
    )
