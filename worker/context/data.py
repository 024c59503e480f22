"""The arrays of a data set as models read them, and the training data that a process keeps from slice to slice."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from zarr.abc.store import Store

from domain.conditions import Condition, condition_names_of_trials
from domain.sessions import RecordedSession
from domain.states import DatasetState
from models import Architecture, TrainingData
from models import Session as TrainingSession
from models.null_model import HeldOutSpikes, held_out_spikes
from store.arrays import open_array
from store.database import Database
from store.tables import Dataset, Trial
from worker.context.slices import Work


def find_array(arrays: Store, dataset: Dataset, name: str) -> NDArray[Any] | None:
    """Read a whole array of a data set; return None if the data set does not have it."""
    array = open_array(arrays, dataset.array_path or "", name)
    return None if array is None else np.asarray(array[...])


def read_array(arrays: Store, dataset: Dataset, name: str) -> NDArray[Any]:
    """Read a whole array of a data set."""
    found = find_array(arrays, dataset, name)
    if found is None:
        raise FileNotFoundError(f"the data set {dataset.id} has no array {name!r}")
    return found


def read_session(
    arrays: Store,
    dataset: Dataset,
    recorded: RecordedSession,
    *,
    trial_length_bins: NDArray[np.int64],
    split: NDArray[np.str_],
    has_inputs: bool,
) -> TrainingSession:
    """Read a session of a data set as models read it.

    Parameters
    ----------
    trial_length_bins, split
        Of all trials of the data set.
    has_inputs
        Whether the model reads external inputs.
    """
    part = split[recorded.rows]
    missing = find_array(arrays, dataset, recorded.named("missing"))
    return TrainingSession(
        read_array(arrays, dataset, recorded.named("spikes")),
        trial_length_bins[recorded.rows],
        part == "valid",
        missing=None if missing is None else missing.astype(np.bool_),
        external_inputs=read_array(arrays, dataset, recorded.named("external_inputs"))
        if has_inputs
        else None,
        is_test=part == "test",
        is_left_out=part == "gap",
    )


def read_sessions(arrays: Store, work: Work) -> list[TrainingSession]:
    """Read all sessions of a slice's data set."""
    return [
        read_session(
            arrays,
            work.dataset,
            recorded,
            trial_length_bins=work.trial_length_bins,
            split=work.split(),
            has_inputs=work.architecture().external_inputs > 0,
        )
        for recorded in work.sessions
    ]


def read_conditions(database: Database, dataset: Dataset) -> list[Condition]:
    """Return the condition of each trial, by the metadata that `domain.conditions` finds; None where it is not known."""
    with database.read() as session:
        of_trials = select(Trial.details).where(Trial.dataset_id == dataset.id).order_by(Trial.trial)
        details = session.execute(of_trials).scalars().all()
    found = condition_names_of_trials(details)
    values = [one.get(found[0]) if found else None for one in details]
    return [value if isinstance(value, int | float | str) else None for value in values]


@dataclass(frozen=True)
class LoadedData:
    """The training data of a job on the device: trials, split and sample-validation mask."""

    training: TrainingData
    architecture: Architecture

    @cached_property
    def _held_out_spikes(self) -> HeldOutSpikes | None:
        return held_out_spikes(self.architecture, self.training)

    def sv_bits_per_spike(self, sv_loss: float | None) -> float | None:
        """Return an SV loss as bits per spike; None without a loss, or where bits per spike are not defined."""
        if sv_loss is None or self._held_out_spikes is None:
            return None
        return finite(self._held_out_spikes.bits_per_spike(sv_loss))


class DataCache:
    """Keeps the data of one job, since the next slice is often of the same job.

    Parameters
    ----------
    arrays
        The array store.
    device
        Where the data go.
    """

    def __init__(self, arrays: Store, device: str) -> None:
        self._arrays, self._device = arrays, device
        self._kept: tuple[tuple[Any, ...], LoadedData] | None = None
        self.data_sets_read = 0

    def forget_deleted(self, database: Database) -> None:
        """Free the data of a data set that is deleted, or is being deleted."""
        if self._kept is not None:
            with database.read() as session:
                row = session.get(Dataset, self._kept[0][0])
            if row is None or row.state == DatasetState.DELETING:
                self._kept = None

    def load(self, work: Work) -> LoadedData:
        """Return the data of a slice, from memory if they are those of the slice before."""
        training, architecture = work.specification.training, work.architecture()
        key = (
            work.dataset.id, training.sv_rate, training.valid_fraction, training.test_fraction, training.evaluation_seed,
            architecture.observation, architecture.external_inputs, architecture.initial_condition_bins, work.is_refit,
        )  # fmt: skip
        if self._kept is None or self._kept[0] != key:
            self.data_sets_read += 1
            self._kept = None  # frees the memory before the next data set takes its own
            data = TrainingData(
                read_sessions(self._arrays, work),
                sv_rate=training.sv_rate,
                sv_seed=training.evaluation_seed,
                observation=architecture.observation,
                device=self._device,
                train_on_validation=work.is_refit,
            )
            self._kept = key, LoadedData(data, architecture)
        return self._kept[1]


def finite(value: float | None) -> float | None:
    """Return the value, or None if it is not finite: JSON and SQL have no NaN."""
    return value if value is not None and math.isfinite(value) else None
