"""Where arrays come from: the resource and the data set that they belong to, and what is known of the trials."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from api.arrays.groups import OpenedGroup, ReadContext, open_cached
from store.database import Database
from store.tables import Dataset, Trial


@dataclass(frozen=True)
class TrialFacts:
    """What is known of a trial.

    Attributes
    ----------
    length_bins
        Number of recorded bins, of the data set's width.
    split
        As it came with the data set: train, valid, or None.
    details
        Its metadata: name → number, text, bool or None.
    """

    length_bins: int
    split: str | None
    details: dict[str, Any]


@dataclass(frozen=True)
class Provenance:
    """The resource and the data set that arrays belong to.

    Attributes
    ----------
    owner
        The resource in words: ``the model mod_…``.
    attributes
        Ids of model, job and data set, and the data set's digest.
    dataset_name
        Name of the data set.
    made_at
        When the data set was created: the time of the recording is not known.
    bin_width_s, first_time_s
        Of the data set: width of a bin, and start of the first bin from the event that trials are aligned to.
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


_OF_OWNER = ("model_id", "job_id", "inference_id", "posterior_samples")
"""Attributes of a group that also hold for what is made of its arrays."""


def find_provenance(context: ReadContext, database: Database) -> Provenance:
    """Return where the arrays of a group come from; trials are read later, in separate sessions."""
    dataset = context.session.get_one(Dataset, context.group.dataset_id)
    of_dataset = open_cached(context.store, dataset.array_path) if dataset.array_path else None
    times = _values(of_dataset, "time_s")
    told = dict(context.opened.group.attrs)
    return Provenance(
        owner=context.group.owner,
        attributes={name: told[name] for name in _OF_OWNER if name in told}
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
