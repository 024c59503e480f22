"""Where arrays come from: whose they are, and what the database knows of their trials."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session
from zarr.abc.store import Store

from api.arrays.group import ArrayGroup
from api.arrays.group_cache import OpenedGroup, opened
from store.database import Database
from store.tables import Dataset, Trial


@dataclass(frozen=True)
class TrialFacts:
    """What is known of a trial.

    Attributes
    ----------
    length_bins
        Bins recorded, of the data set's width.
    split
        As it came with the data set: train, valid, or None.
    details
        Its metadata: name → number, text, bool or None.
    """

    length_bins: int
    split: str | None
    details: dict[str, Any]


@dataclass(frozen=True)
class Origin:
    """Whose arrays they are, and of which data set.

    Attributes
    ----------
    owner
        In words: ``the model mod_…``.
    attributes
        Of the whole: the ids of model, job and data set, the data set's digest.
    dataset_name
        Of the data set.
    made_at
        When the data set was made: when its recording was, nobody told.
    bin_width_s, first_time_s
        Of the data set: width of a bin, and when the first begins from what trials are aligned to.
    trials
        Reads what is known of every trial, in the user's order.
    trial_start_s
        Reads when each trial's first bin begins in the session, in seconds; None if it is not known.
    """

    owner: str
    attributes: dict[str, Any]
    dataset_name: str
    made_at: datetime
    bin_width_s: float
    first_time_s: float
    trials: Callable[[], list[TrialFacts]]
    trial_start_s: Callable[[], NDArray[np.float64] | None]


_ABOUT_THE_OWNER = ("model_id", "job_id", "inference_id", "posterior_samples")
"""Attributes of a group that stay true of whatever is made of its arrays."""


def find_origin(session: Session, database: Database, store: Store, group: ArrayGroup) -> Origin:
    """Tell where the arrays of a group come from; trials are read when they are asked for."""
    dataset = session.get_one(Dataset, group.dataset_id)
    of_dataset = opened(store, dataset.array_path) if dataset.array_path else None
    times = _values(of_dataset, "time_s")
    told = dict(group.open(store).attrs)
    return Origin(
        owner=group.owner,
        attributes={name: told[name] for name in _ABOUT_THE_OWNER if name in told}
        | {"dataset_id": dataset.id}
        | ({"dataset_digest": dataset.digest} if dataset.digest else {}),
        dataset_name=dataset.name,
        made_at=dataset.created_at,
        bin_width_s=float(dataset.bin_width_s or 0),
        first_time_s=0.0 if times is None or not len(times) else float(times[0]),
        trials=lambda: _trials(database, dataset.id),
        trial_start_s=lambda: _values(of_dataset, "trial_start_s"),
    )


def _trials(database: Database, dataset_id: str) -> list[TrialFacts]:
    of_dataset = select(Trial).where(Trial.dataset_id == dataset_id).order_by(Trial.trial)
    with database.read() as session:
        rows = session.execute(of_dataset).scalars()
        return [TrialFacts(row.length_bins, row.split, row.details) for row in rows]


def _values(group: OpenedGroup | None, name: str) -> NDArray[np.float64] | None:
    return group.values(name).astype(np.float64) if group is not None and name in group.arrays else None
