"""Arrays beside spike times in a MATLAB file: tables of trials, events, metadata of trials and of neurons."""

import re
from collections.abc import Container

import numpy as np
from numpy.typing import NDArray

from domain.errors import listed
from worker.ingest.problems import rejected
from worker.ingest.readers.auxiliary_arrays import (
    known_roles,
    of_other_recording,
    owner_guessed,
    owner_of_column,
)
from worker.ingest.readers.axis_evidence import Decision, Evidence, Order
from worker.ingest.readers.axis_names import Role, is_likely_of_neurons
from worker.ingest.readers.base import ReadOptions, left_out, metadata_values, name_is_usable
from worker.ingest.readers.matlab.leaves import MatlabArrays, base_name, prefix_of, short_name
from worker.ingest.readers.spike_time_arrays import take_events
from worker.ingest.readers.split_layout import WHY_NO_SPLIT, is_index, take_split_by_indices
from worker.ingest.readers.variables import (
    STARTS,
    STOPS,
    TABLE_STARTS,
    TABLE_STOPS,
    is_table_column,
    own_name,
)
from worker.ingest.recording import MetadataValue, Understood
from worker.ingest.spike_trains import SpikeTrains, TrialTable
from worker.ingest.time_units import trial_seconds

_OF_TRIALS = re.compile(r"trial|trl|epoch|interval")
_EVENTS = re.compile(r"time|event|onset|cue")


class TimesBeside:
    """Finds the arrays beside the spike times `spikes`, and records which were used."""

    def __init__(
        self, spikes: str, arrays: MatlabArrays, options: ReadOptions, understood: list[Understood]
    ) -> None:
        self._spikes, self._arrays, self._options, self._understood = spikes, arrays, options, understood
        self._known = known_roles(options.mapping, arrays.variables)
        self.used: set[str] = set()
        self.columns = {
            name: variable.shape[0]
            for name, variable in arrays.variables.items()
            if len(variable.shape) == 1
            and variable.dtype.kind in "buifSU"
            and name_is_usable(own_name(name))
            and of_other_recording(name, spikes, arrays.names) is None
            and (name in self._known or not is_index(name))
        }

    def decide_axes(self, first: int, second: int, default: Order) -> Decision:
        """Decide which axis of a cell array of `first` × `second` is that of trials, from the lengths of the columns."""
        evidence = Evidence(self._spikes, (first, second))
        evidence.add_vectors(self.columns, self._known)
        return evidence.decide([default, default[::-1]], default_is_documented=False)

    def take_metadata_of_neurons(
        self, trains: SpikeTrains, trials: int | None, any_name: bool = True
    ) -> None:
        """Add columns with one value for each neuron.

        Parameters
        ----------
        trains
            The spike times that get the metadata.
        trials
            Number of trials, if spikes are given by trial.
        any_name
            Whether the length is sufficient. Otherwise the name must tell it, or the struct of the spikes.
        """
        prefix, wanted = prefix_of(self._spikes), self._options.mapping.neuron_metadata
        numbers: dict[Role, int] = {"neuron": trains.neurons}
        if trials is not None:
            numbers["trial"] = trials
        for name, length in self.columns.items():
            owner, is_guess = owner_of_column(name, length, numbers, self._spikes, self._known)
            own = bool(prefix) and name.startswith(prefix) and not _OF_TRIALS.search(name.lower())
            says_it = own or any_name or is_likely_of_neurons(name) or self._known.get(name) == "neuron"
            if is_guess and owner is not None:
                owner = "neuron" if own else owner
                trains.warnings.append(owner_guessed(name, owner, length))
            is_taken = owner == "neuron" and name not in self.used and says_it
            if is_taken and (wanted is None or name in wanted):
                values = metadata_values(self._arrays.read(name))
                trains.neuron_metadata[self._short(name, trains.neuron_metadata)] = values
                self._tell_given("neuron_metadata", name)
                self.used.add(name)

    def metadata_of_trials(self, trials: int) -> dict[str, list[MetadataValue]]:
        """Return the columns with one value for each trial."""
        found: dict[str, list[MetadataValue]] = {}
        wanted = self._options.mapping.trial_metadata
        for name, length in self.columns.items():
            if length == trials and name not in self.used and (wanted is None or name in wanted):
                found[self._short(name, found)] = self._column(name)
                self._tell_given("trial_metadata", name)
                self.used.add(name)
        return found

    def table_on_clock_of(
        self, trials: int, earliest_s: NDArray[np.float64], latest_s: NDArray[np.float64]
    ) -> TrialTable | None:
        """Return the table of trials if all spikes lie between the start and stop of their trials, else None."""
        found = self._find_table({name: n for name, n in self.columns.items() if n == trials})
        if found is None or trials < 2:
            return None
        table, taken = found
        spiking = np.isfinite(earliest_s)
        inside = (earliest_s >= table.start_s - 1e-6) & (latest_s <= table.stop_s + 1e-6)
        if not inside[spiking].all() or not spiking.any() or not (np.diff(table.start_s) > 0).all():
            return None
        self.used |= taken
        table.columns |= self.metadata_of_trials(trials)
        return table

    def take_tables_and_events(self, trains: SpikeTrains) -> None:
        """Add the table of trials of a continuous recording, and other columns of times as events."""
        free = {name: n for name, n in self.columns.items() if name not in self.used}
        found = self._find_table(free)
        if found is not None:
            table, taken = found
            trains.tables[self._options.mapping.trials or "trials"] = table
            self.used |= taken
        elif self._options.mapping.trials is not None:
            self._refuse_table(self._options.mapping.trials)
        for name in free:
            variable = self._arrays.variables[name]
            if name not in self.used and _EVENTS.search(name.lower()) and variable.is_numbers:
                take_events(trains, name, self._arrays.read(name), self._options)
                self.used.add(name)

    def finish(self, trains: SpikeTrains) -> None:
        """Take the split from `train_inds` and similar arrays, and warn of everything that was left out."""
        self.used |= take_split_by_indices(self._arrays, trains, self._options.mapping.split is not None)
        for name, variable in self._arrays.variables.items():
            is_rate = base_name(name) in ("fs", "sampling_rate", "sampling_rate_hz", "sample_rate")
            if name not in self.used and not is_rate:
                why = "it has no known meaning beside spike times"
                if is_table_column(name) and self._options.mapping.trial_metadata is not None:
                    why = "mapping.trial_metadata does not name it"
                why = WHY_NO_SPLIT if is_index(name) else why
                why = of_other_recording(name, self._spikes, self._arrays.names) or why
                trains.warnings.append(left_out(name, variable.shape, why))

    def _find_table(self, columns: dict[str, int]) -> tuple[TrialTable, set[str]] | None:
        """Return a table from columns of starts and stops in one struct (or none), with all columns of their length there."""
        mapped = self._options.mapping.trials
        for prefix in dict.fromkeys(prefix_of(name) for name in columns):
            if mapped is not None and mapped.rstrip(".") + "." != prefix:
                continue
            group = {name: n for name, n in columns.items() if prefix_of(name) == prefix}
            own = mapped is not None or bool(_OF_TRIALS.search(prefix.lower()))
            start = _first(group, TABLE_STARTS if own else STARTS)
            stop = _first(group, TABLE_STOPS if own else STOPS)
            if start is None or stop is None or group[start] != group[stop]:
                continue
            beside = {name for name, n in group.items() if n == group[start] and name not in (start, stop)}
            times_s = [trial_seconds(self._arrays.read(name), self._options, name) for name in (start, stop)]
            table = TrialTable(
                times_s[0], times_s[1], {name[len(prefix) :]: self._column(name) for name in sorted(beside)}
            )
            return table, beside | {start, stop}
        return None

    def _refuse_table(self, mapped: str) -> None:
        structs = {prefix_of(name).rstrip(".") for name in self.columns} - {""}
        said = f"mapping.trials is `{mapped}`, which is no struct with fields `start` and `stop`: {listed(sorted(structs))}."
        raise rejected("variable_unknown", said, "Name one of these.", "/mapping/trials")

    def _column(self, name: str) -> list[MetadataValue]:
        return metadata_values(self._arrays.read(name))

    def _tell_given(self, role: str, name: str) -> None:
        if getattr(self._options.mapping, role) is not None:
            shape = self._arrays.variables[name].shape
            self._understood.append(Understood(role, name, "given in the mapping", shape))

    def _short(self, name: str, taken: Container[str]) -> str:
        short = own_name(short_name(name, self._spikes))
        return own_name(name) if short in taken else short


def _first(columns: dict[str, int], names: tuple[str, ...]) -> str | None:
    by_base = {base_name(name): name for name in columns}
    return next((by_base[name] for name in names if name in by_base), None)
