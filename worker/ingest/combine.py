"""Combine several data sets into one with several sessions: arrays are copied chunk by chunk, trials follow each other."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session
from zarr.abc.store import Store

from domain.sessions import RecordedSession, sessions_in
from domain.states import DatasetState
from store.array_store import delete_objects, objects_size
from store.arrays import ArrayGroupWriter, NamedArray, RowWriter, open_array, open_group
from store.database import Database, database_now
from store.datasets import session_coordinates
from store.settings import Settings
from store.tables import Dataset, Trial, trial_bytes
from worker.ingest.problems import Problem
from worker.ingest.sandbox import Rejection
from worker.scheduling.leases import Lease, LeaseLost

_NOT_COPIED = ("trial", "neuron", "time_s", "trial_length_bins")
"""Coordinates that the combined data set computes itself."""


def combine_sessions(
    database: Database, arrays: Store, settings: Settings, lease: Lease, row: Dataset
) -> Rejection | None:
    """Store a data set of several sessions as `ready`, or return why it cannot be made.

    Shorter sessions are padded with zeros to the bins of the longest, so that all have one time axis.

    Parameters
    ----------
    database, arrays, settings
        Of the service.
    lease
        Lease on the data set.
    row
        The data set; its `source` names the data sets of its sessions.
    """
    with database.read() as session:
        wanted = [session.get(Dataset, dataset_id) for dataset_id in row.source["dataset_ids"]]
    given = [one for one in wanted if one is not None and one.state == DatasetState.READY]
    if len(given) < len(wanted):
        there = {one.id for one in given}
        gone = ", ".join(name for name in row.source["dataset_ids"] if name not in there)
        said = f"These data sets were deleted before they were combined: {gone}."
        return Rejection(
            [Problem("session_gone", said, "Combine other data sets.", "/dataset_ids")], seconds=0.0
        )
    path = f"datasets/{lease.row_id}/{lease.token}"
    report = _report(given)
    starts_s = [_start_s(arrays, one) for one in given]
    report["warnings"] += _other_starts(given, starts_s)
    try:
        with database.read() as session:
            trials = list(_trials(session, row.id, given))
        report["arrays"] = _write_arrays(
            arrays, path, row.id, given, sessions=sessions_in(report), trials=trials, start_s=starts_s[0]
        )
        array_bytes = objects_size(arrays, path)
        with database.write() as session:
            lease.keep(session, settings)
            stored = session.get_one(Dataset, row.id)
            stored.array_bytes = array_bytes
            stored.trial_bytes = trial_bytes(trial.details for trial in trials)
            sizes = report["shape"]
            stored.trials, stored.bins, stored.neurons = sizes["trials"], sizes["bins"], sizes["neurons"]
            stored.bin_width_s, stored.array_path, stored.report = given[0].bin_width_s, path, report
            stored.state, stored.ended_at = DatasetState.READY, database_now(session)
            stored.drop_lease()
            session.add_all(trials)
    except LeaseLost:
        delete_objects(arrays, path)
        raise
    return None


def _report(given: Sequence[Dataset]) -> dict[str, Any]:
    """Return a report on the sessions with their warnings."""
    reports = [one.report or {} for one in given]
    return {
        "format": "sessions",
        "shape": {
            "trials": sum(one.trials or 0 for one in given),
            "bins": max(one.bins or 0 for one in given),
            "neurons": sum(one.neurons or 0 for one in given),
        },
        "bin_width_s": given[0].bin_width_s,
        "sessions": [
            {
                "dataset_id": one.id,
                "name": one.name,
                "trials": one.trials,
                "bins": one.bins,
                "neurons": one.neurons,
            }
            for one in given
        ],
        "has_true_rates": all(report.get("has_true_rates") for report in reports),
        "external_inputs": reports[0].get("external_inputs", 0),
        "notes": [],
        "warnings": [
            {**warning, "message": f"session {number} ({one.name}): {warning['message']}"}
            for number, (one, report) in enumerate(zip(given, reports, strict=True))
            for warning in report.get("warnings", [])
        ],
    }


def _start_s(store: Store, one: Dataset) -> float:
    """Return when the first bin of a data set begins, in seconds from the alignment event."""
    time_s = open_array(store, one.array_path or "", "time_s")
    return 0.0 if time_s is None else float(np.asarray(time_s[:1])[0])


def _other_starts(given: Sequence[Dataset], starts_s: Sequence[float]) -> Iterator[dict[str, str]]:
    """Warn of sessions whose trials begin at another time than those of the first."""
    width_s = float(given[0].bin_width_s or 0)
    for number, (one, start_s) in enumerate(zip(given, starts_s, strict=True)):
        if abs(start_s - starts_s[0]) > width_s / 2:
            said = (
                f"session {number} ({one.name}): its trials begin at {start_s:g} s, those of session 0 at {starts_s[0]:g} s; "
                "sessions are combined bin by bin"
            )
            hint = "Cut the trials of all sessions at the same time."
            yield Problem("other_time_zero", said, hint, f"/dataset_ids/{number}").to_json()


def _trials(session: Session, dataset_id: str, given: Sequence[Dataset]) -> Iterator[Trial]:
    """Yield the trials of all sessions in order; the metadata `session` holds the session of each."""
    trial, groups = 0, dict[tuple[int, int], int]()
    for number, one in enumerate(given):
        of_session = select(Trial).where(Trial.dataset_id == one.id).order_by(Trial.trial)
        for row in session.execute(of_session).scalars():
            yield Trial(
                dataset_id=dataset_id,
                trial=trial,
                length_bins=row.length_bins,
                split=row.split,
                split_group=None
                if row.split_group is None
                else groups.setdefault((number, row.split_group), len(groups)),
                group_first_bin=row.group_first_bin,
                details={**row.details, "session": number},
            )
            trial += 1


def _write_arrays(
    store: Store,
    path: str,
    dataset_id: str,
    given: Sequence[Dataset],
    *,
    sessions: Sequence[RecordedSession],
    trials: Sequence[Trial],
    start_s: float,
) -> list[str]:
    """Write the group of arrays and return their names."""
    bins, bin_width_s = max(one.bins for one in sessions), float(given[0].bin_width_s or 0)
    lengths = np.array([trial.length_bins for trial in trials], np.int64)
    named = [
        NamedArray("trial", np.arange(len(trials)), ("trial",), "", "index among the trials of all sessions"),
        NamedArray("time_s", start_s + np.arange(bins) * bin_width_s, ("time_s",), "s", "start of the bin"),
        NamedArray("trial_length_bins", lengths, ("trial",), "bins", "bins recorded"),
        *session_coordinates(sessions),
    ]
    copied = [
        (array, recorded, recorded.named(name))
        for one, recorded in zip(given, sessions, strict=True)
        for name, array in open_group(store, one.array_path or "").arrays()
        if array.ndim and name not in _NOT_COPIED
    ]
    coordinates = [array.name for array in named if array.dims == ("trial",) and array.name != "trial"]
    coordinates += [name for array, _, name in copied if _dims(array) in (("trial",), ("neuron",))]
    attributes = {"dataset_id": dataset_id, "bin_width_s": bin_width_s, "coordinates": " ".join(coordinates)}
    writer = ArrayGroupWriter(store, path, attributes)
    for array, recorded, name in copied:
        _copy(writer, array, name, recorded, bins)
    writer.write_all(named)
    writer.close()
    return [*(name for _, _, name in copied), *(array.name for array in named)]


def _dims(array: "zarr.Array[Any]") -> tuple[str, ...]:
    return tuple(str(name) for name in getattr(array.metadata, "dimension_names", None) or ())


def _copy(
    writer: ArrayGroupWriter, source: "zarr.Array[Any]", name: str, recorded: RecordedSession, bins: int
) -> None:
    """Copy an array of a session by rows; all its dims except time get the name of the session."""
    dims, attributes = _dims(source), dict(source.attrs)
    row_shape = tuple(
        bins if dim == "time_s" else size for dim, size in zip(dims[1:], source.shape[1:], strict=True)
    )
    target = writer.create(
        name,
        (source.shape[0], *row_shape),
        source.dtype,
        tuple(dim if dim == "time_s" else recorded.named(dim) for dim in dims),
        units=str(attributes.pop("units", "")),
        description=str(attributes.pop("description", "")),
        attributes=attributes,
    )
    rows = RowWriter(target)
    for start in range(0, source.shape[0], source.chunks[0]):
        rows.append(_padded(np.asarray(source[start : start + source.chunks[0]]), row_shape))
    rows.close()


def _padded(rows: NDArray[Any], row_shape: tuple[int, ...]) -> NDArray[Any]:
    """Return rows padded with zeros to a given shape of each row."""
    ends = [(0, size - there) for size, there in zip(row_shape, rows.shape[1:], strict=True)]
    return np.pad(rows, [(0, 0), *ends])
