"""What the rows of a data set say of its sessions, its recordings, and the splits and groups of its trials."""

from collections.abc import Sequence

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.sessions import RecordedSession, sessions_of
from domain.split_groups import SplitGroups
from store.arrays import NamedArray
from store.tables import Dataset, Trial


def session_coordinates(sessions: Sequence[RecordedSession]) -> list[NamedArray]:
    """Neurons of each session; where there are several, also which trials are whose."""
    coordinates = [
        NamedArray(
            one.named("neuron"),
            np.arange(one.neurons),
            (one.named("neuron"),),
            "",
            "index in the order given",
        )
        for one in sessions
    ]
    if len(sessions) == 1:
        return coordinates
    for one in sessions:
        rows = np.arange(one.rows.start, one.rows.stop)
        described = "index among the trials of all sessions"
        coordinates.append(NamedArray(one.named("trial"), rows, (one.named("trial"),), "", described))
    of_trials = np.repeat(np.arange(len(sessions)), [one.trials for one in sessions])
    return [*coordinates, NamedArray("session", of_trials, ("trial",), "", "session that the trial is of")]


def recordings_of(session: Session, dataset: Dataset) -> set[str]:
    """Return what the trials of a data set come from: files by their digests, synthetic data sets by their ids."""
    rows = (session.get(type(dataset), recorded.dataset_id) for recorded in sessions_of(dataset))
    return {row.original or row.id for row in rows if row is not None}


def given_splits(session: Session, dataset_id: str) -> tuple[list[str | None], SplitGroups]:
    """Return the split that a data set brings for each trial (None where it brings none), and the groups of its trials."""
    columns = Trial.split, Trial.split_group, Trial.group_first_bin, Trial.length_bins
    rows = session.execute(select(*columns).where(Trial.dataset_id == dataset_id).order_by(Trial.trial)).all()
    groups = SplitGroups.of(
        [row.split_group for row in rows],
        [row.group_first_bin for row in rows],
        [row.length_bins for row in rows],
    )
    return [row.split for row in rows], groups
