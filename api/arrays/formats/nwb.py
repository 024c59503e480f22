"""NWB: latents as time series of a processing module, with the table of trials; for pynwb, MatNWB and pynapple."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from api.arrays.axes import trial_dim, trials_along
from api.arrays.formats.base import Encoded, FileFormat, WriteContext
from api.arrays.formats.naming import Names
from api.arrays.formats.streams import spooled
from api.arrays.labelled import Coordinate, LabelledArray, as_words, coordinates_of
from api.arrays.provenance import TrialFacts

_CHUNK_BYTES = 2**20
_END_TO_END = "When trials began in the session is not known: they are laid end to end in their order, the first at 0 s."
_IN_SESSION = "Seconds are those of the session."


class Nwb(FileFormat):
    """nwb: one file of arrays, trials and their metadata."""

    name, media_type, ending = "nwb", "application/x-nwb", "nwb"
    is_written_first = True
    is_reproducible = False  # an NWB file says when it was made, and its objects have random ids

    def encode(self, arrays: Sequence[LabelledArray], context: WriteContext) -> Encoded:
        """Write arrays of trials × time as time series, and other arrays as tables."""
        return spooled(lambda path: _NwbWriter(arrays, context).write(path), self.ending)


@dataclass(frozen=True)
class _Clock:
    """The trials of a file, and when each begins: in the session if that is known, else end to end.

    Attributes
    ----------
    trials : int, [n]
        Their indices in the user's order.
    start_s, duration_s : float, [n]
        Start of each trial's first bin, and how long the trial was recorded.
    facts
        What the database knows of each; None for an unknown trial.
    is_of_session
        Whether the starts are those in the session.
    is_ordered
        Whether each trial begins after the previous one has ended, so that all of them make one series.
    """

    trials: NDArray[np.int64]
    start_s: NDArray[np.float64]
    duration_s: NDArray[np.float64]
    facts: list[TrialFacts | None]
    is_of_session: bool
    is_ordered: bool

    @classmethod
    def read(cls, arrays: Sequence[LabelledArray], context: WriteContext) -> Self | None:
        """Return when the trials of some arrays begin; None if no array has trials."""
        of_trials = [trials_along(array, dim) for array in arrays if (dim := trial_dim(array)) is not None]
        if not of_trials:
            return None
        joined = np.concatenate(of_trials)
        _, first = np.unique(joined, return_index=True)
        trials = joined[np.sort(first)]
        provenance = context.provenance
        known, width = provenance.trials(), provenance.bin_width_s
        facts = [known[trial] if 0 <= trial < len(known) else None for trial in trials.tolist()]
        bins = max((array.shape[1] for array in arrays if array.dims[1:2] == ("time_s",)), default=0)
        lengths = [bins if one is None else one.length_bins for one in facts]
        duration_s = np.array(lengths, np.float64) * width
        starts = provenance.trial_start_s()
        if (
            starts is None
            or len(starts) < len(known)
            or None in facts
            or not np.isfinite(starts[trials]).all()
        ):
            start_s = np.cumsum(duration_s) - duration_s
            return cls(trials, start_s, duration_s, facts, is_of_session=False, is_ordered=True)
        start_s = starts[trials]
        ordered = bool((start_s[1:] >= start_s[:-1] + duration_s[:-1] - width / 2).all())
        return cls(trials, start_s, duration_s, facts, is_of_session=True, is_ordered=ordered)

    def places(self, trials: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions of some trials among those of the file."""
        order = np.argsort(self.trials, kind="stable")
        return order[np.searchsorted(self.trials[order], trials)]


class _NwbWriter:
    """Writes arrays into an NWB file."""

    def __init__(self, arrays: Sequence[LabelledArray], context: WriteContext) -> None:
        # pynwb takes a second and 70 MB to import.
        import hdmf.common
        import pynwb

        self._pynwb, self._tables = pynwb, hdmf.common
        self._arrays, self._provenance = arrays, context.provenance
        self._clock = _Clock.read(arrays, context)
        self._names = Names()

    def write(self, path: Path) -> None:
        """Write the file; values are read as they are written."""
        provenance = self._provenance
        note = "" if self._clock is None else _IN_SESSION if self._clock.is_of_session else _END_TO_END
        described = f"Arrays of {provenance.owner}, of the data set {provenance.dataset_name!r}. {note}"
        ids = [f"{key}={value}" for key, value in provenance.attributes.items()]
        file = self._pynwb.NWBFile(
            session_description=described.strip(),
            identifier=" ".join([provenance.owner, *ids]),
            session_start_time=provenance.made_at,
            notes="session_start_time is when the data set was uploaded: when it was recorded is not known. "
            "Made by Latentry; rates are in spikes/s.",
        )
        module = file.create_processing_module("ecephys", described.strip())
        if self._clock is not None:
            file.trials = self._trials(self._clock)
        for array in self._arrays:
            module.add(self._series(array) if self._is_series(array) else self._table(array))
        for dim, coordinates in self._dims().items():
            columns, rows = Names(), len(coordinates[0].values)
            made = [self._column(columns, one) for one in coordinates]
            module.add(self._dynamic_table(dim, f"entries of the dim {dim}", made, rows))
        with self._pynwb.NWBHDF5IO(path, "w") as io:
            io.write(file)

    def _is_series(self, array: LabelledArray) -> bool:
        if array.size == 0 or "aligned_to" in array.attributes:
            return False  # a window around an event is no part of a series
        if array.dims and array.dims[0].startswith("continuous_time_s") and array.index(array.dims[0]):
            return True
        if trial_dim(array) is None or array.dims[1:2] != ("time_s",) or array.index("time_s") is None:
            return False
        return self._clock is not None and self._clock.is_ordered

    def _series(self, array: LabelledArray) -> Any:
        """Return the recorded bins, trial after trial, as one series."""
        rows: Callable[[], Iterator[NDArray[Any]]]
        if trial_dim(array) is None:
            index = array.index(array.dims[0])
            assert index is not None
            times, note = index.values.astype(np.float64), ""
            rows, shape = array.blocks, array.shape
        else:
            kept, times = self._recorded(array)
            rows, shape = lambda: _only(array, kept), (len(times), *array.shape[2:])
            note = "Trials one after the other; bins past a trial's end are left out."
        return self._pynwb.TimeSeries(
            name=self._names.free(array.name),
            data=_block_iterator(rows, shape, array.dtype),
            unit=array.units or "n.a.",
            description=f"{array.description or array.name}. {note}".strip(),
            comments=f"dims: {' × '.join(array.dims)}",
            **_timing(times, float(array.attributes.get("bin_width_s", self._provenance.bin_width_s))),
        )

    def _recorded(self, array: LabelledArray) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Return which bins were recorded, bool [trials, bins], and when each of these begins, in order."""
        clock, index, provenance = self._clock, array.index("time_s"), self._provenance
        assert clock is not None
        assert index is not None
        places = clock.places(trials_along(array, array.dims[0]))
        since_start_s = index.values.astype(np.float64) - provenance.first_time_s
        slack = provenance.bin_width_s / 1000
        kept = since_start_s[None] < clock.duration_s[places][:, None] - slack
        kept &= since_start_s[None] > -slack
        return kept, (clock.start_s[places][:, None] + since_start_s[None])[kept]

    def _table(self, array: LabelledArray) -> Any:
        """Return a table with one row for each entry of the first dim: its coordinates and values."""
        rows = array.shape[0] if array.dims else 1
        columns = Names()
        made = [self._column(columns, one) for one in (array.along(array.dims[0]) if array.dims else ())]
        blocks = _block_iterator(
            lambda: map(np.atleast_1d, array.blocks()), (rows, *array.shape[1:]), array.dtype
        )
        described = array.description or array.name
        values = self._vector(columns.free(array.name), f"{described} [{array.units or 'n.a.'}]", blocks)
        return self._dynamic_table(
            array.name, f"{described}; dims: {' × '.join(array.dims)}", [*made, values], rows
        )

    def _trials(self, clock: _Clock) -> Any:
        """Return the table of trials: times, numbers, splits and metadata."""
        columns = Names()
        plain = {
            "start_time": ("start of the first bin, in seconds", clock.start_s),
            "stop_time": ("end of the last bin, in seconds", clock.start_s + clock.duration_s),
            "trial": ("index in the order given", clock.trials),
        }
        made = [
            self._vector(columns.free(name), described, values) for name, (described, values) in plain.items()
        ]
        along = {one.name: one for array in self._arrays for one in _of_all_trials(array, clock)}
        made += [self._column(columns, one) for name, one in along.items() if name != "trial"]
        splits = [None if one is None else one.split for one in clock.facts]
        details = [one.details if one is not None else {} for one in clock.facts]
        if any(splits) and "split" not in along:
            details = [{"split": split, **one} for split, one in zip(splits, details, strict=True)]
        for name in dict.fromkeys(name for one in details for name in one):
            if name not in along:
                values = _storable([one.get(name) for one in details])
                made.append(self._vector(columns.free(name), f"{name}, as uploaded", values))
        return self._pynwb.epoch.TimeIntervals(
            name="trials", description="trials in the order given", columns=made, id=clock.trials
        )

    def _dims(self) -> dict[str, list[Coordinate]]:
        """Return coordinates by dim, without those in the table of trials, in the times, or in the rows of a table."""
        needed = {
            dim
            for array in self._arrays
            for dim in array.dims[2 if self._is_series(array) and trial_dim(array) else 1 :]
        }
        found: dict[str, list[Coordinate]] = {}
        for one in coordinates_of(self._arrays):
            if one.dim in needed:
                found.setdefault(one.dim, []).append(one)
        return found

    def _column(self, names: Names, one: Coordinate) -> Any:
        words = as_words(one.values, one.attributes)
        described = f"{one.description or one.name}{f' [{one.units}]' if one.units else ''}"
        return self._vector(names.free(one.name), described, _storable(words.tolist()))

    def _vector(self, name: str, described: str, data: Any) -> Any:
        return self._tables.VectorData(name=name, description=described, data=data)

    def _dynamic_table(self, name: str, described: str, columns: list[Any], rows: int) -> Any:
        return self._tables.DynamicTable(
            name=self._names.free(name), description=described, columns=columns, id=np.arange(rows)
        )


def _block_iterator(
    blocks: Callable[[], Iterator[NDArray[Any]]], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Any:
    """Return values for an NWB file that are read while it is written; counts are compressed."""
    from hdmf.backends.hdf5 import H5DataIO
    from hdmf.data_utils import AbstractDataChunkIterator, DataChunk

    class BlockIterator(AbstractDataChunkIterator):  # type: ignore[misc]  # hdmf has no types
        """Blocks of rows, each written where the last one ended."""

        def __init__(self) -> None:
            self._blocks = iter(block for block in blocks() if len(block))
            self._row = 0

        def __iter__(self) -> Self:
            return self

        def __next__(self) -> DataChunk:
            block = next(self._blocks)
            first, self._row = self._row, self._row + len(block)
            where = (slice(first, self._row), *(slice(0, size) for size in shape[1:]))
            return DataChunk(data=block, selection=where)

        next = __next__

        def recommended_chunk_shape(self) -> tuple[int, ...]:
            row_bytes = int(np.prod(shape[1:])) * dtype.itemsize
            return (min(shape[0], max(1, _CHUNK_BYTES // row_bytes)), *shape[1:])

        def recommended_data_shape(self) -> tuple[int, ...]:
            return shape

        @property
        def dtype(self) -> np.dtype[Any]:
            return dtype

        @property
        def maxshape(self) -> tuple[int, ...]:
            return shape

    if 0 in shape:
        return H5DataIO(shape=shape, dtype=dtype)
    if dtype.kind in "iu":
        return H5DataIO(BlockIterator(), compression="gzip", compression_opts=1, shuffle=True)
    return H5DataIO(BlockIterator())


def _of_all_trials(array: LabelledArray, clock: _Clock) -> list[Coordinate]:
    """Return the coordinates of an array's trials, if it has those of the file, in its order."""
    dim = trial_dim(array)
    if dim is None or not np.array_equal(trials_along(array, dim), clock.trials):
        return []
    return list(array.along(dim))


def _only(array: LabelledArray, kept: NDArray[np.bool_]) -> Iterator[NDArray[Any]]:
    """Yield some bins of an array's trials, block by block."""
    row = 0
    for block in array.blocks():
        yield block[kept[row : row + len(block)]]
        row += len(block)


def _timing(times: NDArray[np.float64], bin_width_s: float) -> dict[str, Any]:
    """Return a rate where bins follow each other without a gap, which NWB prefers; else the time of each."""
    steps = np.diff(times)
    if len(steps) and steps[0] > 0 and np.allclose(steps, steps[0], rtol=0, atol=steps[0] * 1e-6):
        return {"starting_time": float(times[0]), "rate": float(1 / steps[0])}
    if len(times) == 1 and bin_width_s > 0:
        return {"starting_time": float(times[0]), "rate": 1 / bin_width_s}
    return {"timestamps": times}


def _storable(values: Sequence[Any]) -> Any:
    """Return a column of one type: text if any value is, else numbers; NaN and empty text for unknown values."""
    known = [value for value in values if value is not None]
    if any(isinstance(value, str) for value in known):
        return ["" if value is None else str(value) for value in values]
    if len(known) == len(values) and known:
        return np.array(values)
    return np.array([np.nan if value is None else float(value) for value in values], np.float64)
