"""A claimed slice, with the rows that it needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from domain.job_specification import JobSpecification, split_trials
from domain.sessions import RecordedSession, sessions_of
from domain.split_groups import SplitGroups
from models import Architecture
from store.database import Database
from store.datasets import given_splits
from store.tables import Dataset, Job, Model, Slice
from worker.scheduling.leases import Lease


@dataclass(frozen=True)
class Work:
    """A claimed slice, with its job, its data set and its models by number."""

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
        """Sessions of the data set. Only a combined data set has several."""
        return sessions_of(self.dataset)

    @property
    def trial_length_bins(self) -> NDArray[np.int64]:
        """Bins of each trial."""
        return self.groups.bins

    @property
    def is_refit(self) -> bool:
        """Whether the model trains on training and validation trials."""
        return self.models[0].refit_of is not None

    def split(self) -> NDArray[np.str_]:
        """Return the part of the job that each trial is in: ``train``, ``valid``, ``test`` or ``gap``."""
        training = self.specification.training
        return np.array(split_trials(self.given_splits, self.groups, training, self.sessions))

    def architecture(self) -> Architecture:
        """Return the architecture of the slice's models. All models of a pack have the same one."""
        return architecture_of(self.models[0], self.sessions)


def load_work(database: Database, lease: Lease) -> Work:
    """Read the rows that a claimed slice needs."""
    with database.read() as session:
        piece = session.get_one(Slice, lease.row_id)
        job = session.get_one(Job, piece.job_id)
        of_slice = select(Model).where(Model.id.in_(piece.model_ids)).order_by(Model.number)
        given, groups = given_splits(session, job.dataset_id)
        return Work(
            lease=lease,
            piece=piece,
            job=job,
            specification=JobSpecification.model_validate(job.spec),
            dataset=session.get_one(Dataset, job.dataset_id),
            models=list(session.execute(of_slice).scalars()),
            given_splits=given,
            groups=groups,
        )


def architecture_of(model: Model, sessions: Sequence[RecordedSession]) -> Architecture:
    """Return the network of a model, for the sessions of the data set that it trains on."""
    return Architecture.of_model(model.architecture, [session.neurons for session in sessions])
