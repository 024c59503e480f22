"""The canonical form of a recording, in memory and in a folder."""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from domain.windows import Windows
from worker.ingest.problems import Problem
from worker.ingest.rows import Rows, load_npy, save_npy

SPLIT_GAP, SPLIT_NOT_GIVEN, SPLIT_TRAIN, SPLIT_VALID = -2, -1, 0, 1

MetadataValue = int | float | str | bool | None


@dataclass(frozen=True)
class Understood:
    """The meaning of one variable of the file.

    Attributes
    ----------
    what
        Its part in the data set: `spikes`, `spike_times`, `trials`, `bin_width_s`, `behaviour`, …
    variable
        Its name in the file.
    how
        Why: `given in the mapping`, `by its name`, `the only …`.
    shape
        Shape of the variable; empty if it has none.
    alternatives
        Alternatives, as `name (shape)`.
    """

    what: str
    variable: str
    how: str
    shape: tuple[int, ...] = ()
    alternatives: tuple[str, ...] = ()


@dataclass
class Recording:
    """Spike counts of one recording and everything beside them. Rows are in the user's original trial order.

    Attributes
    ----------
    spikes : uint8 or uint16, [trials, bins, neurons]
        Spike counts; zero after a trial's end and where `missing` is set.
    bin_width_s : float
        Width of one bin, in seconds.
    time_zero_s : float
        Time at which the first bin begins, in seconds from the alignment event.
    trial_start_s : float64, [trials], optional
        When each trial's first bin begins, in seconds of the session.
    trial_length_bins : int64, [trials]
        Bins of each trial that were recorded; the rest of its row is padding.
    missing : uint8, [trials, bins, neurons], optional
        1 where a sample within a trial was not observed, 0 elsewhere and after a trial's end. None if all samples
        within trials were observed.
    split : int8, [trials]
        0 train, 1 valid, -1 not given, -2 gap. Where other trials have a split, -1 is a test trial: neither trained
        on nor used to select. A trial of a gap shares bins with trials of two parts, and is in none.
    trial_metadata : dict of lists
        One value for each trial under each name; None where it is missing or not finite.
    neuron_metadata : dict of lists
        One value for each neuron under each name, such as `quality`.
    behaviour : dict of float32 [trials, bins, k]
        Continuous signals in the same bins; NaN where there is none.
    true_rates_hz : float32 [trials, bins, neurons], optional
        The rates that generated synthetic spikes, in spikes per second.
    external_inputs : float32 [trials, bins, k], optional
        Known inputs, handed to the generator.
    is_continuous : bool
        One row without trials, to be cut into windows.
    windows : Windows, optional
        Where the windows lie, if it was cut into them.
    source_format : str
        The format of the file that it was read from.
    understood : list of Understood
        The meaning of each variable of the file.
    notes : list of str
        Notes on how the file was read.
    warnings : list of Problem
        Warnings of what looks wrong or was left out.
    """

    spikes: Rows
    bin_width_s: float
    trial_length_bins: NDArray[np.int64]
    split: NDArray[np.int8]
    missing: Rows | None = None
    trial_metadata: dict[str, list[MetadataValue]] = field(default_factory=dict)
    neuron_metadata: dict[str, list[MetadataValue]] = field(default_factory=dict)
    behaviour: dict[str, Rows] = field(default_factory=dict)
    true_rates_hz: Rows | None = None
    external_inputs: Rows | None = None
    time_zero_s: float = 0.0
    trial_start_s: NDArray[np.float64] | None = None
    is_continuous: bool = False
    windows: Windows | None = None
    source_format: str = ""
    understood: list[Understood] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def inside_trials(self) -> NDArray[np.bool_]:
        """Return which bins were recorded: bool [trials, bins], False for the padding after a trial's end."""
        return np.arange(self.spikes.shape[1])[None, :] < self.trial_length_bins[:, None]

    def counted_bins(self) -> NDArray[np.bool_]:
        """Return which bins to count spikes in, bool [trials, bins]: those inside trials, each once.

        Overlapping windows share bins; a shared bin counts in the first window that has it.
        """
        counted, windows = self.inside_trials(), self.windows
        if windows is not None:
            ends = windows.first_bin + self.trial_length_bins
            for segment in np.unique(windows.segment):
                here = np.flatnonzero(windows.segment == segment)
                until = np.maximum.accumulate(ends[here])[:-1]
                new = np.concatenate(([0], until - windows.first_bin[here[1:]]))
                counted[here] &= np.arange(counted.shape[1])[None, :] >= new[:, None]
        return counted

    def starts_s(self) -> NDArray[np.float64] | None:
        """Return when each trial begins, in seconds of the session; None if that is unknown."""
        starts_s, windows = self.trial_start_s, self.windows
        if starts_s is None or not np.isfinite(starts_s).all():
            return None
        stretches_s = starts_s if windows is None else windows.segment_start_s
        # Long trials whose times are unknown all begin at 0.
        return None if len(stretches_s) > 1 and np.ptp(stretches_s) == 0 else starts_s

    def per_bin(self) -> dict[str, Rows]:
        """Return every array of trials × bins × k beside the spikes, by name."""
        named = {f"behaviour/{name}": array for name, array in self.behaviour.items()}
        others = {
            "missing": self.missing,
            "true_rates_hz": self.true_rates_hz,
            "external_inputs": self.external_inputs,
        }
        return named | {name: array for name, array in others.items() if array is not None}

    def set_per_bin(self, name: str, array: Rows) -> None:
        """Replace an array that `per_bin` named."""
        if name.startswith("behaviour/"):
            self.behaviour[name.removeprefix("behaviour/")] = array
        else:
            setattr(self, name, array)

    def save(self, folder: Path) -> None:
        """Write `folder/recording.json` and one `folder/arrays/<name>.npy` for each array.

        Behaviour is stored as `behaviour_000.npy` and so on: its names come from the upload and never become
        names of files.
        """
        (folder / "arrays").mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Rows | None] = {
            "spikes": self.spikes,
            "trial_length_bins": self.trial_length_bins,
            "split": self.split,
            "missing": self.missing,
            "true_rates_hz": self.true_rates_hz,
            "external_inputs": self.external_inputs,
            "trial_start_s": self.trial_start_s,
        }
        if self.windows is not None:
            arrays |= {f"windows_{name}": value for name, value in vars(self.windows).items()}
        behaviour_files = {name: f"behaviour_{number:03d}" for number, name in enumerate(self.behaviour)}
        arrays |= {file: self.behaviour[name] for name, file in behaviour_files.items()}
        present = {name: array for name, array in arrays.items() if array is not None}
        for name, array in present.items():
            save_npy(array, folder / "arrays" / f"{name}.npy")
        described = {
            "version": 2,
            "source_format": self.source_format,
            "bin_width_s": self.bin_width_s,
            "time_zero_s": self.time_zero_s,
            "arrays": list(present),
            "behaviour": behaviour_files,
            "trial_metadata": self.trial_metadata,
            "neuron_metadata": self.neuron_metadata,
        }
        (folder / "recording.json").write_text(json.dumps(described, allow_nan=False))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load a recording that `save` wrote; large arrays stay on disk."""
        described = json.loads((folder / "recording.json").read_text())

        def array(name: str) -> Any:
            return load_npy(folder / "arrays" / f"{name}.npy") if name in described["arrays"] else None

        windows = {field.name: array(f"windows_{field.name}") for field in fields(Windows)}
        return cls(
            spikes=array("spikes"),
            bin_width_s=described["bin_width_s"],
            time_zero_s=described["time_zero_s"],
            trial_start_s=array("trial_start_s"),
            trial_length_bins=array("trial_length_bins"),
            split=array("split"),
            missing=array("missing"),
            trial_metadata=described["trial_metadata"],
            neuron_metadata=described["neuron_metadata"],
            behaviour={name: array(file) for name, file in described["behaviour"].items()},
            true_rates_hz=array("true_rates_hz"),
            external_inputs=array("external_inputs"),
            windows=None if windows["segment"] is None else Windows(**windows),
            source_format=described["source_format"],
        )
