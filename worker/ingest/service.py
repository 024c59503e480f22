"""Ingest: from an uploaded file, or the name of a synthetic system, to a data set that is `ready` or `rejected`."""

import logging
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from zarr.abc.store import Store

from store.array_store import delete_objects
from store.arrays import ArrayGroupWriter, NamedArray
from store.database import Database, database_now
from store.settings import Settings
from store.states import DatasetState
from store.tables import Dataset, Trial
from worker.ingest.readers import ReadOptions
from worker.ingest.recording import SPLIT_TRAIN, SPLIT_VALID, Recording
from worker.ingest.sandbox import ParsedFile, ParseLimits, Rejection, parse_in_sandbox
from worker.leases import Lease, LeaseLost, claim_dataset, count_attempt

logger = logging.getLogger(__name__)


def ingest_dataset(
    database: Database, arrays: Store, settings: Settings, dataset_id: str, worker: str
) -> None:
    """Parse, check and store a data set; does nothing if it is done or in other hands.

    Parameters
    ----------
    database, arrays, settings
        Of the service.
    dataset_id
        The data set, `ingesting`.
    worker
        Name written into the lease.
    """
    with database.write() as session:
        lease = claim_dataset(session, dataset_id, worker, settings)
        row = None if lease is None else session.get_one(Dataset, dataset_id)
    if lease is None or row is None:
        return
    try:
        with (
            tempfile.TemporaryDirectory(prefix="latentry-ingest-") as folder,
            _kept(database, lease, settings),
        ):
            outcome = _parse(row, Path(folder), settings)
            if isinstance(outcome, Rejection):
                logger.info("%s is rejected: %s", dataset_id, outcome.log or outcome.problems)
                problems = [problem.to_json() for problem in outcome.problems]
                _reject(database, settings, lease, problems)
            else:
                _store(database, arrays, settings, lease, Path(folder), outcome)
    except LeaseLost:
        logger.warning("the ingest of %s went to another worker", dataset_id)
    except Exception as error:
        problem = {
            "code": "ingest_failed",
            "message": f"the service met an error of its own while it read this: {error}",
            "hint": "the log of the control worker has the details",
        }
        with database.write() as session:
            lease.keep(session, settings)
            count_attempt(session, session.get_one(Dataset, dataset_id), problem, settings)
        raise


@contextmanager
def _kept(database: Database, lease: Lease, settings: Settings) -> Iterator[None]:
    """Renew a lease while a subprocess works; the subprocess has its own time limit."""
    over = threading.Event()

    def keep() -> None:
        while not over.wait(settings.heartbeat_seconds):
            try:
                with database.write() as session:
                    lease.keep(session, settings)
            except LeaseLost:
                return  # the next write of the ingest learns it too
            except Exception:
                logger.exception("could not renew the lease of %s", lease.row_id)

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _parse(row: Dataset, folder: Path, settings: Settings) -> "ParsedFile | Rejection":
    source = row.source
    if source["kind"] == "synthetic":
        path = folder / "synthetic.npz"
        parameters = {key: value for key, value in source.items() if key not in ("kind", "system")}
        arguments = [f"{key}={value}" for key, value in parameters.items()]
        subprocess.run(
            [sys.executable, "-m", "worker.ingest.synthesize", source["system"], str(path), *arguments],
            check=True,
            timeout=settings.parse_seconds,
        )
        options = ReadOptions(format="npz", bin_width_s=None)
    else:
        path = settings.uploads_dir / row.id
        options = ReadOptions(
            format=source["options"].get("format"), bin_width_s=source["options"].get("bin_width_s")
        )
    limits = ParseLimits(memory_bytes=settings.parse_memory_bytes, wall_s=settings.parse_seconds)
    out = folder / "parsed"
    out.mkdir()
    return parse_in_sandbox(path, out, options, limits)


def _reject(database: Database, settings: Settings, lease: Lease, problems: list[dict[str, str]]) -> None:
    with database.write() as session:
        lease.keep(session, settings)
        row = session.get_one(Dataset, lease.row_id)
        row.state, row.problems, row.ended_at = DatasetState.REJECTED, problems, database_now(session)
        row.lease_token = row.lease_expires_at = None


def _store(
    database: Database, arrays: Store, settings: Settings, lease: Lease, folder: Path, parsed: ParsedFile
) -> None:
    recording = parsed.recording()
    path = f"datasets/{lease.row_id}/{lease.token}"
    named = list(dataset_arrays(recording))
    try:
        writer = ArrayGroupWriter(
            arrays,
            path,
            {
                "dataset_id": lease.row_id,
                "bin_width_s": recording.bin_width_s,
                "coordinates": " ".join(a.name for a in named if a.dims == ("trial",) and a.name != "trial"),
            },
        )
        writer.write_all(named)
        writer.close()
        with database.write() as session:
            lease.keep(session, settings)
            row = session.get_one(Dataset, lease.row_id)
            row.trials, row.bins, row.neurons = recording.spikes.shape
            row.bin_width_s = recording.bin_width_s
            row.array_path = path
            row.report = {**parsed.report, "arrays": [array.name for array in named]}
            row.state, row.ended_at = DatasetState.READY, database_now(session)
            row.lease_token = row.lease_expires_at = None
            session.add_all(trial_rows(lease.row_id, recording))
    except LeaseLost:
        delete_objects(arrays, path)
        raise


def trial_rows(dataset_id: str, recording: Recording) -> Iterator[Trial]:
    """One row for each trial, in the user's order."""
    names = {SPLIT_TRAIN: "train", SPLIT_VALID: "valid"}
    is_given = bool((recording.split >= 0).any())  # then a trial in neither is a test trial
    for trial, (length, split) in enumerate(zip(recording.trial_length_bins, recording.split, strict=True)):
        yield Trial(
            dataset_id=dataset_id,
            trial=trial,
            length_bins=int(length),
            split=names.get(int(split), "test") if is_given else None,
            details={name: values[trial] for name, values in recording.trial_metadata.items()},
        )


def dataset_arrays(recording: Recording) -> Iterator[NamedArray]:
    """The arrays of a data set, with dims, units and coordinates."""
    trials, bins, neurons = recording.spikes.shape
    samples = ("trial", "time_s", "neuron")
    yield NamedArray("spikes", recording.spikes, samples, "spikes", "spike counts; 0 past a trial's end")
    if recording.true_rates_hz is not None:
        yield NamedArray(
            "true_rates_hz", recording.true_rates_hz, samples, "spikes/s", "the rates that made the spikes"
        )
    if recording.external_inputs is not None:
        yield NamedArray("external_inputs", recording.external_inputs, ("trial", "time_s", "external_input"))
    yield NamedArray("trial", np.arange(trials), ("trial",), "", "index in the order given")
    yield NamedArray("time_s", np.arange(bins) * recording.bin_width_s, ("time_s",), "s", "start of the bin")
    yield NamedArray("neuron", np.arange(neurons), ("neuron",), "", "index in the order given")
    yield NamedArray("trial_length_bins", recording.trial_length_bins, ("trial",), "bins", "bins recorded")
    taken = {
        "spikes", "true_rates_hz", "external_inputs", "trial", "time_s", "neuron", "trial_length_bins", "zarr.json"
    }  # fmt: skip
    for original, values in recording.behaviour.items():
        name = _free_name(original, taken)
        yield NamedArray(
            name, values, ("trial", "time_s", f"{name}_component"), "", f"{original}, as uploaded"
        )
    for original, column in recording.trial_metadata.items():
        name = _free_name(original, taken)
        values, attributes = _coordinate(column)
        yield NamedArray(name, values, ("trial",), "", f"{original}, as uploaded", attributes)


def _free_name(original: str, taken: set[str]) -> str:
    """A name that is a path segment and that no other array has."""
    base = re.sub(r"[^A-Za-z0-9_.-]", "_", original).strip(".") or "array"
    name, number = base, 2
    while name in taken:
        name, number = f"{base}_{number}", number + 1
    taken.add(name)
    return name


def _coordinate(column: Sequence[Any]) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    """Trial metadata as numbers; words become codes with their meanings, as the CF conventions have it."""
    known = [value for value in column if value is not None]
    if any(isinstance(value, str) for value in known):
        meanings = sorted({str(value) for value in known})
        codes = [-1 if value is None else meanings.index(str(value)) for value in column]
        return np.array(codes, dtype=np.int32), {
            "flag_values": list(range(len(meanings))),
            "flag_meanings": " ".join(re.sub(r"\s+", "_", meaning) or "_" for meaning in meanings),
        }
    if len(known) == len(column) and all(isinstance(value, int) for value in known):
        return np.array(column, dtype=np.int64), {}
    return np.array([np.nan if value is None else float(value) for value in column]), {}
