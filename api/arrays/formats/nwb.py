"""NWB: latents as time series of a processing module, with the table of trials; for pynwb, MatNWB and pynapple."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.arrays.formats.base import Context, Encoded, FileFormat
from api.arrays.formats.categories import as_words
from api.arrays.formats.members import coordinates_of
from api.arrays.formats.naming import Names
from api.arrays.formats.nwb_clock import END_TO_END, IN_SESSION, Clock, read_clock, trial_dim, trials_of
from api.arrays.formats.spooled import spooled
from api.arrays.labelled import Coordinate, LabelledArray


class Nwb(FileFormat):
    """nwb: one file of arrays, trials and their metadata."""

    name, media_type, ending = "nwb", "application/x-nwb", "nwb"
    is_written_first = True
    is_reproducible = False  # an NWB file says when it was made, and its objects have random ids

    def encode(self, arrays: Sequence[LabelledArray], context: Context) -> Encoded:
        """Arrays of trials × time as time series, others as tables."""
        return spooled(lambda path: _NwbWriter(arrays, context).write(path), self.ending)


class _NwbWriter:
    """Puts arrays into an NWB file."""

    def __init__(self, arrays: Sequence[LabelledArray], context: Context) -> None:
        # pynwb takes a second and 70 MB to import.
        import hdmf.common
        import pynwb

        self._pynwb, self._tables = pynwb, hdmf.common
        self._arrays, self._context = arrays, context
        self._clock = read_clock(arrays, context)
        self._names = Names()

    def write(self, path: Path) -> None:
        """Write the file; values are read as they are written."""
        origin = self._context.origin
        note = "" if self._clock is None else IN_SESSION if self._clock.is_of_session else END_TO_END
        described = f"Arrays of {origin.owner}, of the data set {origin.dataset_name!r}. {note}".strip()
        file = self._pynwb.NWBFile(
            session_description=described,
            identifier=" ".join(
                [origin.owner, *(f"{key}={value}" for key, value in origin.attributes.items())]
            ),
            session_start_time=origin.made_at,
            notes="session_start_time is when the data set was uploaded: when it was recorded is not known. "
            "Made by Latentry; rates are in spikes/s.",
        )
        module = file.create_processing_module("ecephys", described)
        if self._clock is not None:
            file.trials = self._trials(self._clock)
        for array in self._arrays:
            module.add(self._series(array) if self._is_series(array) else self._table(array))
        for dim, coordinates in self._dims().items():
            module.add(self._dim_table(dim, coordinates))
        with self._pynwb.NWBHDF5IO(path, "w") as io:
            io.write(file)

    def _is_series(self, array: LabelledArray) -> bool:
        if (
            array.size == 0 or "aligned_to" in array.attributes
        ):  # a window around an event is no part of a series
            return False
        if array.dims and array.dims[0].startswith("continuous_time_s") and array.index(array.dims[0]):
            return True
        if trial_dim(array) is None or array.dims[1:2] != ("time_s",) or array.index("time_s") is None:
            return False
        return self._clock is not None and self._clock.is_ordered

    def _series(self, array: LabelledArray) -> Any:
        """Bins that were recorded, trial after trial, as one series."""
        kept = None if trial_dim(array) is None else self._recorded(array)
        if kept is None:
            index = array.index(array.dims[0])
            assert index is not None
            times, note = index.values.astype(np.float64), ""
            rows: Callable[[], Iterator[NDArray[Any]]] = array.blocks
            shape = array.shape
        else:
            times = kept[1]
            rows, shape = lambda: _only(array, kept[0]), (len(times), *array.shape[2:])
            note = "Trials one after the other; bins past a trial's end are left out."
        return self._pynwb.TimeSeries(
            name=self._names.free(array.name),
            data=self._rows(rows, shape, array.dtype),
            unit=array.units or "n.a.",
            description=f"{array.description or array.name}. {note}".strip(),
            comments=f"dims: {' × '.join(array.dims)}",
            **_timing(times, float(array.attributes.get("bin_width_s", self._context.origin.bin_width_s))),
        )

    def _recorded(self, array: LabelledArray) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """[trials, bins]: which bins were recorded; and when each of them begins, in order."""
        clock, index, origin = self._clock, array.index("time_s"), self._context.origin
        assert clock is not None
        assert index is not None
        places = clock.places(trials_of(array))
        since_start_s = index.values.astype(np.float64) - origin.first_time_s
        slack = origin.bin_width_s / 1000
        kept = since_start_s[None] < clock.duration_s[places][:, None] - slack
        kept &= since_start_s[None] > -slack
        return kept, (clock.start_s[places][:, None] + since_start_s[None])[kept]

    def _table(self, array: LabelledArray) -> Any:
        """One row for each entry of the first dim: its coordinates and values."""
        rows = array.shape[0] if array.dims else 1
        columns = Names()
        made = [self._column(columns, one) for one in (array.along(array.dims[0]) if array.dims else ())]
        values = self._tables.VectorData(
            name=columns.free(array.name),
            description=" ".join([array.description or array.name, f"[{array.units or 'n.a.'}]"]),
            data=self._rows(
                lambda: map(np.atleast_1d, array.blocks()), (rows, *array.shape[1:]), array.dtype
            ),
        )
        described = f"{array.description or array.name}; dims: {' × '.join(array.dims)}"
        return self._tables.DynamicTable(
            name=self._names.free(array.name),
            description=described,
            columns=[*made, values],
            id=np.arange(rows),
        )

    def _trials(self, clock: Clock) -> Any:
        """The table of trials: when, which, of which split, and their metadata."""
        columns = Names()
        plain = {
            "start_time": ("start of the first bin, in seconds", clock.start_s),
            "stop_time": ("end of the last bin, in seconds", clock.start_s + clock.duration_s),
            "trial": ("index in the order given", clock.trials),
        }
        made = [
            self._tables.VectorData(name=columns.free(name), description=described, data=values)
            for name, (described, values) in plain.items()
        ]
        along = {one.name: one for array in self._arrays for one in _of_all_trials(array, clock)}
        made += [self._column(columns, one) for name, one in along.items() if name != "trial"]
        splits = [None if one is None else one.split for one in clock.facts]
        details = [one.details if one is not None else {} for one in clock.facts]
        if any(splits) and "split" not in along:
            details = [{"split": split, **one} for split, one in zip(splits, details, strict=True)]
        for name in dict.fromkeys(name for one in details for name in one):
            if name not in along:
                values = _plain([one.get(name) for one in details])
                made.append(
                    self._tables.VectorData(
                        name=columns.free(name), description=f"{name}, as uploaded", data=values
                    )
                )
        return self._pynwb.epoch.TimeIntervals(
            name="trials", description="trials in the order given", columns=made, id=clock.trials
        )

    def _dims(self) -> dict[str, list[Coordinate]]:
        """Coordinates of the dims that neither the table of trials, nor times, nor the rows of a table tell."""
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

    def _dim_table(self, dim: str, coordinates: Sequence[Coordinate]) -> Any:
        columns = Names()
        made = [self._column(columns, one) for one in coordinates]
        rows = np.arange(len(coordinates[0].values))
        return self._tables.DynamicTable(
            name=self._names.free(dim), description=f"entries of the dim {dim}", columns=made, id=rows
        )

    def _column(self, names: Names, one: Coordinate) -> Any:
        words = as_words(one.values, one.attributes)
        described = f"{one.description or one.name}{f' [{one.units}]' if one.units else ''}"
        return self._tables.VectorData(
            name=names.free(one.name), description=described, data=_plain(words.tolist())
        )

    def _rows(
        self, blocks: Callable[[], Iterator[NDArray[Any]]], shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> Any:
        """Values that pynwb takes block by block."""
        from api.arrays.formats.nwb_rows import block_iterator

        return block_iterator(blocks, shape, dtype)


def _of_all_trials(array: LabelledArray, clock: Clock) -> list[Coordinate]:
    """Coordinates of an array's trials, if it has those of the file, in its order."""
    if trial_dim(array) is None or not np.array_equal(trials_of(array), clock.trials):
        return []
    return list(array.along(array.dims[0]))


def _only(array: LabelledArray, kept: NDArray[np.bool_]) -> Iterator[NDArray[Any]]:
    """Some bins of an array's trials, block by block."""
    row = 0
    for block in array.blocks():
        yield block[kept[row : row + len(block)]]
        row += len(block)


def _timing(times: NDArray[np.float64], bin_width_s: float) -> dict[str, Any]:
    """A rate where bins follow each other without a gap, which NWB prefers; else the time of each."""
    steps = np.diff(times)
    if len(steps) and steps[0] > 0 and np.allclose(steps, steps[0], rtol=0, atol=steps[0] * 1e-6):
        return {"starting_time": float(times[0]), "rate": float(1 / steps[0])}
    if len(times) == 1 and bin_width_s > 0:
        return {"starting_time": float(times[0]), "rate": 1 / bin_width_s}
    return {"timestamps": times}


def _plain(values: Sequence[Any]) -> Any:
    """A column of one type: text if any value is, else numbers; NaN and empty text for what is not known."""
    known = [value for value in values if value is not None]
    if any(isinstance(value, str) for value in known):
        return ["" if value is None else str(value) for value in values]
    if len(known) == len(values) and known:
        return np.array(values)
    return np.array([np.nan if value is None else float(value) for value in values], np.float64)
