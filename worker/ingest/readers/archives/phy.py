"""Folders of Phy and Kilosort as a ZIP archive; see docs/file-formats.md.

Stands for phylib, which runs `params.py`; here it is read as text, and arrays are read in constant memory.
"""

import ast
import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from domain.errors import listed
from worker.ingest.problems import Problem, rejected
from worker.ingest.readers.archives.npz_archive import NpyMember
from worker.ingest.readers.archives.zip_folder import ZipFolder, folder_of, zip_names
from worker.ingest.readers.base import ReadOptions, name_is_usable, refuse_giant
from worker.ingest.readers.variables import TABLE_STARTS, TABLE_STOPS, choose, given
from worker.ingest.recording import MetadataValue, Understood
from worker.ingest.spike_columns import SpikeColumns
from worker.ingest.spike_trains import SpikeTrains, TrialTable
from worker.ingest.time_units import in_seconds, trial_seconds

SPIKE_TIMES = "spike_times.npy"
_NEURON = ("spike_clusters", "spike_templates")
_CLUSTER_TABLE = re.compile(r"cluster_\w+\.(tsv|csv)")
_ITEM_BYTES = 32
"""Memory of a spike while a block of spikes is sorted by cluster."""
_CLUSTER_ID = ("cluster_id", "id")
_RATE = re.compile(r"^\s*sample_rate\s*=\s*([^#\r\n]{1,60})", re.MULTILINE)
_TIMES = ("time", "time_s", "times", "timestamp", "event_time", "onset")
_LABELS = ("label", "event", "name", "type")
MOST_ROWS = 1_000_000
MOST_COLUMNS = 200
_LONGEST_TEXT = 500
_MISSING = ("", "nan", "na", "n/a", "none", "null")

Columns = dict[str, list[MetadataValue]]


class PhyReader:
    """Reads folders of Phy and Kilosort."""

    format = "phy"

    def recognises(self, path: Path) -> bool:
        """Return whether the file is a ZIP archive with `spike_times.npy` in a folder, or beside other files of Phy."""
        names = zip_names(path)
        return any(_is_phy_folder(folder_of(name), names) for name in names if _base(name) == SPIKE_TIMES)

    def read(self, path: Path, options: ReadOptions) -> SpikeTrains:
        """Read `path`."""
        with ZipFolder(path) as archive:
            return _PhyFolder(archive, options).read()


class _PhyFolder:
    """State while the folder of one recording is read."""

    def __init__(self, archive: ZipFolder, options: ReadOptions) -> None:
        self.archive, self.options = archive, options
        self.understood: list[Understood] = []
        self.notes: list[str] = []
        self.warnings: list[Problem] = []
        self.folder = _the_folder(archive, self.notes)

    def read(self) -> SpikeTrains:
        times, neuron = self._choose_spikes()
        rate_hz = self._sampling_rate()
        clusters, columns = self._cluster_tables()
        noise = self._noise(clusters, columns)
        spikes = SpikeColumns(by_trial=False)
        left_out = 0
        seen: set[int] = set()
        for times_s, labels in self._spikes(times, neuron, rate_hz):
            is_noise = np.isin(labels, noise)
            left_out += int(is_noise.sum())
            seen |= set(np.unique(labels[is_noise]).tolist())
            spikes.add(times_s[~is_noise], labels[~is_noise])
        trains = spikes.finish("phy", self.options)
        trains.sampling_rate_hz, trains.column_unit = rate_hz, "s"
        self._tell_noise(len(seen), left_out)
        self._add_neuron_metadata(trains, clusters, columns, len(seen))
        self._add_trials(trains)
        self._add_events(trains)
        trains.understood, trains.notes = self.understood, self.notes + trains.notes
        trains.warnings = self.warnings + trains.warnings
        return trains

    def _choose_spikes(self) -> tuple[NpyMember, NpyMember]:
        """Return the arrays of times and of clusters; only headers of arrays named `spike_…` are checked."""
        members: dict[str, NpyMember] = {}
        for name in self._beside("spike_", ".npy"):
            info = self.archive.member(self.folder + name)
            members[name[:-4]] = NpyMember.check(self.archive.archive, info, name)
        for name in self.options.mapping.spikes_listed:
            given(members, "spikes", name, self.understood)
        times = choose(
            members, "spike_times", self.options.mapping.spike_times, (SPIKE_TIMES[:-4],), self.understood
        )
        assert times is not None
        size = members[times].size
        beside = {name: member for name, member in members.items() if name != times and member.size == size}
        neuron = choose(beside, "neuron", self.options.mapping.neuron, _NEURON, self.understood)
        if neuron is None:
            said = (
                f"`{times}` has {size} spikes, and no array gives their clusters. The archive has "
                f"{listed(f'{name} {member.shape}' for name, member in members.items())}."
            )
            hint = "Add spike_clusters.npy (or spike_templates.npy) of the same sorting to the archive."
            raise rejected("neuron_of_spikes_missing", said, hint, "/mapping/neuron")
        refuse_giant(sum(members[name].info.file_size for name in (times, neuron)), self.options)
        return members[times].flat(), members[neuron].flat()

    def _spikes(
        self, times: NpyMember, neuron: NpyMember, rate_hz: float | None
    ) -> Iterator[tuple[NDArray[np.float64], NDArray[np.integer]]]:
        archive = self.archive.archive
        name = _base(times.info.filename)
        unit = "s" if "sec" in name.removesuffix(".npy").split("_") else "samples"
        if neuron.dtype.kind not in "iu":
            said = f"`{_base(neuron.info.filename)}` holds {neuron.dtype}: expected whole numbers, the cluster of each spike."
            raise rejected("label_not_whole", said, "Upload the array that Phy wrote.", "/mapping/neuron")
        for (_, block), (_, labels) in zip(
            times.blocks(archive, _ITEM_BYTES), neuron.blocks(archive, _ITEM_BYTES), strict=True
        ):
            yield in_seconds(block, self.options, name, unit, rate_hz), labels.astype(np.int64)

    def _sampling_rate(self) -> float | None:
        name = self.folder + "params.py"
        if self.options.sampling_rate_hz is not None or name not in self.archive.files:
            return None
        found = _RATE.findall(self.archive.read_text(name))
        try:
            rate_hz = float(ast.literal_eval(found[-1].strip()))
        except (IndexError, ValueError, TypeError, SyntaxError, MemoryError, RecursionError, OverflowError):
            rate_hz = 0.0
        if not 0 < rate_hz < np.inf:
            said = "`params.py` has no line such as `sample_rate = 30000.`, with a number."
            hint = "Give sampling_rate_hz; params.py is read as text and never run."
            self.warnings.append(Problem("sampling_rate_not_understood", said, hint, "/sampling_rate_hz"))
            return None
        self.understood.append(Understood("sampling_rate_hz", "params.py", f"sample_rate = {rate_hz:g}"))
        return rate_hz

    def _cluster_tables(self) -> tuple[dict[int, int], Columns]:
        """Read the tables of clusters: cluster → row, and columns of rows. Values of `cluster_info` take precedence."""
        names = [name for name in self._beside("cluster_") if _CLUSTER_TABLE.fullmatch(name)]
        rows: dict[int, int] = {}
        columns: Columns = {}
        for name in sorted(names, key=lambda name: (name != "cluster_info.tsv", name)):
            table = self._table(name)
            key = next((column for column in _CLUSTER_ID if column in table), None)
            if key is None or not all(isinstance(cluster, int) for cluster in table[key]):
                if table:
                    self._table_left_out(name, "it has no column `cluster_id` of whole numbers")
                continue
            self.understood.append(Understood("neuron_metadata", name, "by its name", (len(table[key]),)))
            for column in [column for column in table if column != key]:
                if not name_is_usable(column):
                    self._table_left_out(f"{name}, column {column[:50]}", "its name has unusual characters")
                    continue
                for cluster, value in zip(table[key], table[column], strict=True):
                    assert isinstance(cluster, int)
                    row = rows.setdefault(cluster, len(rows))
                    values = columns.setdefault(column, [])
                    values.extend([None] * (row + 1 - len(values)))
                    values[row] = value if values[row] is None else values[row]
        return rows, {name: values + [None] * (len(rows) - len(values)) for name, values in columns.items()}

    def _noise(self, clusters: dict[int, int], columns: Columns) -> NDArray[np.int64]:
        """Return the clusters to leave out: those labelled noise, unless the request selects by label."""
        if "group" not in columns or "group" in self.options.neurons.where:
            return np.zeros(0, np.int64)
        noise = [
            cluster for cluster, row in clusters.items() if str(columns["group"][row]).lower() == "noise"
        ]
        return np.array(noise, np.int64)

    def _tell_noise(self, clusters: int, spikes: int) -> None:
        if clusters:
            said = f"{clusters} clusters labelled noise, with {spikes} spikes, were left out."
            hint = 'To select by label, give neurons.where, such as {"group": ["good", "mua", "noise"]}.'
            self.warnings.append(Problem("noise_left_out", said, hint, "/neurons/where/group"))

    def _add_neuron_metadata(
        self, trains: SpikeTrains, clusters: dict[int, int], columns: Columns, noise: int
    ) -> None:
        ids = trains.neuron_metadata["neuron_id"]
        rows = [clusters.get(cluster) if isinstance(cluster, int) else None for cluster in ids]
        for name, values in columns.items():
            trains.neuron_metadata[name] = [None if row is None else values[row] for row in rows]
        if "group" in columns:
            groups: list[MetadataValue] = [value or "unsorted" for value in trains.neuron_metadata["group"]]
            trains.neuron_metadata["group"] = groups
            counts = ", ".join(f"{groups.count(group)} {group}" for group in dict.fromkeys(groups))
            self.notes.append(f"Clusters by group: {counts}.")
        silent = len(clusters) - sum(row is not None for row in rows) - noise
        if silent > 0:
            self.notes.append(f"{silent} clusters of the tables have no spike and do not become neurons.")

    def _add_trials(self, trains: SpikeTrains) -> None:
        name, table = "trials.csv", self._table("trials.csv")
        start, stop = _first(table, TABLE_STARTS), _first(table, TABLE_STOPS)
        if start is None or stop is None:
            if table:
                self._table_left_out(
                    name, f"expected columns `start` and `stop` in seconds, it has {listed(table)}"
                )
            return
        kept = {column: values for column, values in table.items() if name_is_usable(column)}
        for column in set(table) - set(kept):
            self._table_left_out(f"{name}, column {column[:50]}", "its name has unusual characters")
        columns = {column: values for column, values in kept.items() if column not in (start, stop)}
        start_s, stop_s = (
            trial_seconds(seconds(table[column]), self.options, column, "s", trains.sampling_rate_hz)
            for column in (start, stop)
        )
        trains.tables["trials"] = TrialTable(start_s, stop_s, columns)

    def _add_events(self, trains: SpikeTrains) -> None:
        table = self._table("events.csv")
        time, label = _first(table, _TIMES), _first(table, _LABELS)
        if time is None:
            if table:
                self._table_left_out(
                    "events.csv", f"expected a column `time` in seconds, it has {listed(table)}"
                )
            return
        times_s = trial_seconds(seconds(table[time]), self.options, time, "s", trains.sampling_rate_hz)
        labels = ["events"] * len(times_s) if label is None else [str(value)[:100] for value in table[label]]
        finite = np.isfinite(times_s)
        for name in dict.fromkeys(labels):
            trains.events[name] = times_s[finite & (np.array(labels) == name)]

    def _table(self, name: str) -> Columns:
        if self.folder + name not in self.archive.files:
            return {}
        text = self.archive.read_text(self.folder + name)
        try:
            columns, remark = read_columns(text)
        except ValueError as error:
            self._table_left_out(name, str(error)[:200])
            return {}
        if remark:
            hint = "Check these lines: a separator within a text moves the values after it to other columns."
            self.warnings.append(Problem("table_lines_uneven", f"`{name}`: {remark}.", hint, f"/{name}"))
        return columns

    def _table_left_out(self, name: str, why: str) -> None:
        said = f"`{name}` was left out: {why}."
        hint = "Give a table with a line of column names, separated by tabs or commas."
        self.warnings.append(Problem("table_left_out", said, hint, f"/{name}"))

    def _beside(self, start: str, end: str = "") -> list[str]:
        return [
            _base(name)
            for name in self.archive.files
            if folder_of(name) == self.folder and _base(name).startswith(start) and name.endswith(end)
        ]


def _the_folder(archive: ZipFolder, notes: list[str]) -> str:
    """Return the folder of the recording: the top-most one with `spike_times.npy`."""
    folders = sorted(
        (folder_of(name) for name in archive.files if _base(name) == SPIKE_TIMES),
        key=lambda folder: folder.count("/"),
    )
    if not folders:
        said = f"The archive has no `{SPIKE_TIMES}`: it holds {listed(archive.files)}."
        raise rejected("spikes_missing", said, "Pack the folder that Phy or Kilosort wrote.")
    least = [folder for folder in folders if folder.count("/") == folders[0].count("/")]
    if len(least) > 1:
        said = f"The archive holds several sorted recordings: {listed(least)}."
        raise rejected("several_recordings", said, "Pack and upload one folder at a time.")
    if folders[1:]:
        notes.append(f"The folder `{folders[0]}` was read, and {listed(folders[1:])} left out.")
    return folders[0]


def _is_phy_folder(folder: str, names: list[str]) -> bool:
    beside = {_base(name) for name in names if folder_of(name) == folder}
    return bool(folder) or "params.py" in beside or any(_CLUSTER_TABLE.fullmatch(name) for name in beside)


def _first(table: Columns, names: tuple[str, ...]) -> str | None:
    return next((column for name in names for column in table if column.lower() == name), None)


def _base(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def read_columns(text: str) -> tuple[dict[str, list[MetadataValue]], str]:
    """Read a table separated by tabs, commas or semicolons; its first line names the columns.

    Returns
    -------
    columns
        Name → value of each line. Extra values of a line are cut, missing ones are None.
    remark
        Description of malformed lines; empty if there are none.

    Raises
    ------
    ValueError
        If the text is no such table.
    """
    first = text.split("\n", 1)[0]
    delimiter = max("\t,;", key=first.count)
    try:
        rows = [row for row in csv.reader(text.splitlines(), delimiter=delimiter) if row]
    except csv.Error as error:
        raise ValueError(str(error)) from error
    if not rows:
        raise ValueError("it is empty")
    names = [name.strip() for name in rows[0]]
    if len(rows) > MOST_ROWS or len(names) > MOST_COLUMNS:
        raise ValueError(f"it has {len(rows)} lines of {len(names)} columns")
    if len(set(names)) < len(names):
        raise ValueError("two of its columns have one name")
    wrong = [number for number, row in enumerate(rows[1:], 2) if len(row) != len(names)]
    remark = ""
    if wrong:
        remark = (
            f"{len(wrong)} lines do not have {len(names)} values, one for each column with a name; line {wrong[0]} has "
            f"{len(rows[wrong[0] - 1])}. Values beyond the last column were cut, and missing ones are empty"
        )
    columns = {
        name: typed(row[place] if place < len(row) else "" for row in rows[1:])
        for place, name in enumerate(names)
    }
    return columns, remark


def typed(texts: Iterable[str]) -> list[MetadataValue]:
    """Convert a column to whole numbers if possible, else to numbers, else to text; None for missing values."""
    values = [text.strip() for text in texts]
    known = [value for value in values if value.lower() not in _MISSING]
    for convert in (_whole, float):
        try:
            numbers = iter([convert(value) for value in known])
        except (ValueError, OverflowError):
            continue
        column = [None if value.lower() in _MISSING else next(numbers) for value in values]
        return [value if value is not None and np.isfinite(value) else None for value in column]
    return [value[:_LONGEST_TEXT] or None for value in values]


def seconds(column: list[MetadataValue]) -> NDArray[np.float64]:
    """Convert a column to times; NaN where it has no number."""
    return np.array(
        [float(value) if isinstance(value, int | float) else np.nan for value in column], np.float64
    )


def _whole(text: str) -> int:
    number = int(text)
    if abs(number) >= 2**53:
        raise ValueError("too large for a whole number in JSON")
    return number
