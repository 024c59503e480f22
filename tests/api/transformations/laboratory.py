"""A data set of unequal trials and two models of it, in a database and an array store, and what is made of their arrays."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete
from zarr.abc.store import Store

from api.arrays.groups import ArrayGroup, ReadContext
from api.arrays.labelled import Coordinate, LabelledArray
from api.arrays.transformations import Transformation, transform
from api.models.service import find_latents
from domain.states import JobState, ModelState
from store.arrays import ArrayGroupWriter, NamedArray
from store.database import Database
from store.tables import DEFAULT_TENANT, Dataset, Trial
from tests.api.api_examples import add_dataset, add_job, add_model

TRIALS, BINS, NEURONS, FACTORS, WIDTH_S, START_S = 24, 30, 5, 3, 0.02, -0.1
CONDITIONS = ["left", "right", None, "up and away"]

Change = Callable[[dict[str, Any]], dict[str, Any]]


def trial_lengths() -> NDArray[np.int64]:
    return np.random.default_rng(5).integers(BINS // 2, BINS + 1, TRIALS)


def trial_starts_s() -> NDArray[np.float64]:
    return 100.0 + 2.0 * np.arange(TRIALS)


def events_s() -> NDArray[np.float64]:
    """When an event is in each trial, on the trial's time axis; one trial has none."""
    times_s = np.random.default_rng(6).uniform(0.0, 0.3, TRIALS)
    times_s[7] = np.nan
    return times_s


def past_the_end() -> NDArray[np.bool_]:
    return np.arange(BINS) >= trial_lengths()[:, None]


def spikes() -> NDArray[np.uint8]:
    counts = np.random.default_rng(7).poisson(0.6, (TRIALS, BINS, NEURONS)).astype(np.uint8)
    counts[past_the_end()] = 0
    return counts


def factors(seed: int = 8, number: int = FACTORS) -> NDArray[np.float32]:
    """Smooth, of the same three latents for each seed, in another mixture each, with NaN past a trial's end."""
    time = np.arange(BINS)[None, :, None] / BINS
    phase = np.random.default_rng(1).uniform(0, 6, (TRIALS, 1, 3))
    latents = np.sin(2 * np.pi * time * np.array([1, 2, 3]) + phase) * np.array([3.0, 2.0, 1.0])
    random = np.random.default_rng(seed)
    found = latents @ random.normal(size=(3, number)) + random.normal(size=number)
    found += 0.1 * random.normal(size=found.shape)
    found[past_the_end()] = np.nan
    return found.astype(np.float32)


def details(trial: int) -> dict[str, Any]:
    event_s = events_s()[trial]
    known = None if np.isnan(event_s) else float(event_s)
    return {
        "condition": CONDITIONS[trial % 4],
        "speed": trial % 3,
        "reaction_s": known,
        "go_cue": None if known is None else float(trial_starts_s()[trial] + known - START_S),
    }


@dataclass
class Laboratory:
    """What is stored.

    Attributes
    ----------
    database, store
        Of the service.
    dataset_id, model_id, reference_id
        The data set, and two models of it.
    groups
        Where each lies.
    """

    database: Database
    store: Store
    dataset_id: str
    model_id: str
    reference_id: str
    groups: dict[str, ArrayGroup] = field(default_factory=dict)

    def array(self, owner_id: str, name: str) -> LabelledArray:
        return self.groups[owner_id].array(self.store, name)

    @contextmanager
    def context(self, owner_id: str) -> Iterator[ReadContext]:
        with self.database.read() as session:
            yield ReadContext(session, self.store, DEFAULT_TENANT, self.groups[owner_id], find_latents)

    def transform(
        self, owner_id: str, array: LabelledArray | str, *, in_fives: bool = True, **wanted: Any
    ) -> tuple[LabelledArray, ...]:
        """What is made of an array, of the group or of its name; values are read in blocks of five rows, or as they come."""
        given = self.array(owner_id, array) if isinstance(array, str) else array
        with self.context(owner_id) as context:
            source = in_blocks(given, 5) if in_fives else given
            return transform(source, Transformation(**wanted), context)

    def one(self, owner_id: str, array: LabelledArray | str, **wanted: Any) -> LabelledArray:
        return self.transform(owner_id, array, **wanted)[0]


def in_blocks(array: LabelledArray, rows: int) -> LabelledArray:
    """The same in blocks of so many rows."""

    def blocks() -> Iterator[NDArray[Any]]:
        values = array.values()
        for row in range(0, len(values), rows):
            yield values[row : row + rows]

    return replace(array, blocks=blocks)


def with_values(array: LabelledArray, values: NDArray[Any], **changes: Any) -> LabelledArray:
    """An array of other values, with what is known of it."""
    whole = replace(array, shape=values.shape, dtype=values.dtype, blocks=lambda: iter([values]), **changes)
    return in_blocks(whole, 4)


def all_recorded(array: LabelledArray) -> tuple[Coordinate, ...]:
    """Coordinates by which rows are trials that the data set does not know: none is known to be shorter."""
    others = tuple(one for one in array.coordinates if one.dim != "trial")
    return (*others, Coordinate("trial", "trial", 1000 + np.arange(array.shape[0])))


def build(database: Database, store: Store, *, with_starts: bool = True) -> Laboratory:
    _write_dataset(store, "lab/data", with_starts)
    _write_latents(store, "lab/model", 8, FACTORS)
    _write_latents(store, "lab/reference", 9, 4)
    with database.write() as session:
        dataset_id = add_dataset(session, splits=(None,) * TRIALS, array_path="lab/data", neurons=NEURONS)
        row = session.get_one(Dataset, dataset_id)
        row.bins, row.bin_width_s = BINS, WIDTH_S
        session.execute(delete(Trial).where(Trial.dataset_id == dataset_id))
        session.add_all(
            Trial(
                dataset_id=dataset_id,
                trial=trial,
                length_bins=int(length),
                split="valid" if trial % 4 == 0 else None,
                details=details(trial),
            )
            for trial, length in enumerate(trial_lengths())
        )
        job_id = add_job(session, dataset_id, state=JobState.DONE)
        models = [
            add_model(session, job_id, number, state=ModelState.TRAINED, latents_path=path)
            for number, path in enumerate(("lab/model", "lab/reference"))
        ]
    paths = dict(zip((dataset_id, *models), ("lab/data", "lab/model", "lab/reference"), strict=True))
    groups = {owner: ArrayGroup(path, dataset_id, f"the owner {owner}") for owner, path in paths.items()}
    return Laboratory(database, store, dataset_id, *models, groups)


def _common() -> list[NamedArray]:
    return [
        NamedArray("trial", np.arange(TRIALS), ("trial",)),
        NamedArray("time_s", START_S + np.arange(BINS) * WIDTH_S, ("time_s",), "s", "start of the bin"),
        NamedArray("neuron", np.arange(NEURONS), ("neuron",)),
        NamedArray("trial_length_bins", trial_lengths(), ("trial",), "bins"),
    ]


def _write_dataset(store: Store, path: str, with_starts: bool) -> None:
    writer = ArrayGroupWriter(store, path, {"bin_width_s": WIDTH_S, "coordinates": "trial_length_bins speed"})
    samples = ("trial", "time_s", "neuron")
    writer.write_all(_common())
    writer.write(NamedArray("spikes", spikes(), samples, "spikes", "spike counts"))
    writer.write(NamedArray("speed", np.arange(TRIALS) % 3, ("trial",)))
    hand = np.cumsum(np.random.default_rng(3).normal(size=(TRIALS, BINS, 2)), axis=1).astype(np.float32)
    writer.write(NamedArray("hand", hand, ("trial", "time_s", "hand_component"), "", "hand, as uploaded"))
    if with_starts:
        writer.write(NamedArray("trial_start_s", trial_starts_s(), ("trial",), "s"))
    writer.close()


def _write_latents(store: Store, path: str, seed: int, number: int) -> None:
    told = {"model_id": path, "bin_width_s": WIDTH_S, "coordinates": "split trial_length_bins"}
    writer = ArrayGroupWriter(store, path, told)
    writer.write_all(_common())
    writer.write(NamedArray("factors", factors(seed, number), ("trial", "time_s", "factor")))
    rates = np.random.default_rng(seed).gamma(2.0, 5.0, (TRIALS, BINS, NEURONS)).astype(np.float32)
    rates[past_the_end()] = np.nan
    writer.write(NamedArray("rates", rates, ("trial", "time_s", "neuron"), "spikes/s", "firing rates"))
    initial = np.random.default_rng(seed).normal(size=(TRIALS, 2)).astype(np.float32)
    writer.write(NamedArray("initial_conditions", initial, ("trial", "initial_condition_dim")))
    series = np.cumsum(np.random.default_rng(4).normal(size=(400, 2)), axis=0).astype(np.float32)
    times_s = 10 + np.arange(400) * WIDTH_S
    writer.write(NamedArray("continuous_time_s", times_s, ("continuous_time_s",), "s"))
    writer.write(NamedArray("continuous_factors", series, ("continuous_time_s", "factor")))
    split = {"flag_values": [0, 1], "flag_meanings": "train valid"}
    codes = (np.arange(TRIALS) % 3 == 0).astype(np.int8)
    writer.write(NamedArray("split", codes, ("trial",), attributes=split))
    writer.close()
