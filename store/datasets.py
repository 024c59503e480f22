"""The sessions, windows, recordings and splits of a data set, from its row and its arrays."""

from collections.abc import Sequence

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session
from zarr.abc.store import Store

from domain.sessions import RecordedSession, sessions_of
from domain.split_groups import SplitGroups
from domain.windows import Windows
from store.arrays import NamedArray, open_array
from store.tables import Dataset, Trial


def session_coordinates(sessions: Sequence[RecordedSession]) -> list[NamedArray]:
    """Return the coordinates of neurons; if there are several sessions, also the session of each trial."""
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
    return [*coordinates, NamedArray("session", of_trials, ("trial",), "", "session of the trial")]


_WINDOW_ARRAYS = ("segment", "segment_first_bin", "segment_start_s", "segment_bins")


def window_arrays(windows: Windows) -> list[NamedArray]:
    """Return the arrays in which a data set stores where its windows lie."""
    arrays = (
        (windows.segment, "trial", "", "segment from which the window was cut"),
        (windows.first_bin, "trial", "bins", "bin of the segment at which the window begins"),
        (windows.segment_start_s, "segment_index", "s", "when the segment begins in the session"),
        (windows.segment_bins, "segment_index", "bins", "length of the segment"),
    )
    return [
        NamedArray(name, values, (dim,), units, description)
        for name, (values, dim, units, description) in zip(_WINDOW_ARRAYS, arrays, strict=True)
    ]


def windows_of(store: Store, array_path: str, suffix: str = "") -> Windows | None:
    """Return where the windows of a data set, or of one of its sessions, lie; None if it has trials instead."""
    found = [open_array(store, array_path, name + suffix) for name in _WINDOW_ARRAYS]
    present = [np.asarray(array[...]) for array in found if array is not None]
    return Windows(*present) if len(present) == len(_WINDOW_ARRAYS) else None


def recordings_of(session: Session, dataset: Dataset) -> set[str]:
    """Return the recordings of a data set: files by their digests, synthetic data sets by their ids."""
    rows = (session.get(type(dataset), recorded.dataset_id) for recorded in sessions_of(dataset))
    return {row.original or row.id for row in rows if row is not None}


def given_splits(session: Session, dataset_id: str) -> tuple[list[str | None], SplitGroups]:
    """Return the split that the data set gives for each trial (None if it gives none), and the groups of its trials."""
    columns = Trial.split, Trial.split_group, Trial.group_first_bin, Trial.length_bins
    rows = session.execute(select(*columns).where(Trial.dataset_id == dataset_id).order_by(Trial.trial)).all()
    groups = SplitGroups.of(
        [row.split_group for row in rows],
        [row.group_first_bin for row in rows],
        [row.length_bins for row in rows],
    )
    return [row.split for row in rows], groups
