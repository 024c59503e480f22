"""The canonical form of a recording, in memory and in a folder."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from worker.ingest.problems import Problem

SPLIT_NOT_GIVEN, SPLIT_TRAIN, SPLIT_VALID = -1, 0, 1

MetadataValue = int | float | str | bool | None
Counts = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass
class Recording:
    """Spike counts of one recording, with what came beside them. Rows are in the user's original trial order.

    Attributes
    ----------
    spikes : uint8 or uint16, [trials, bins, neurons]
        Spike counts; zero after a trial's end.
    bin_width_s : float
        Width of one bin, in seconds.
    trial_length_bins : int64, [trials]
        Bins of each trial that were recorded; the rest of its row is padding.
    split : int8, [trials]
        0 train, 1 valid, -1 not given. Where other trials have a split, -1 is a test trial: neither trained
        on nor used to select.
    trial_metadata : dict of lists
        One value for each trial under each name; None where it is missing or not finite.
    behaviour : dict of float32 [trials, bins, k]
        Continuous signals in the same bins; NaN where there is none.
    true_rates_hz : float32 [trials, bins, neurons], optional
        The rates that generated synthetic spikes, in spikes per second.
    external_inputs : float32 [trials, bins, k], optional
        Known inputs, handed to the generator.
    source_format : str
        The format of the file that it was read from.
    notes : list of str
        What the reader understood, in sentences.
    warnings : list of Problem
        What the reader found odd, or left out.
    """

    spikes: Counts
    bin_width_s: float
    trial_length_bins: NDArray[np.int64]
    split: NDArray[np.int8]
    trial_metadata: dict[str, list[MetadataValue]] = field(default_factory=dict)
    behaviour: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    true_rates_hz: NDArray[np.float32] | None = None
    external_inputs: NDArray[np.float32] | None = None
    source_format: str = ""
    notes: list[str] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def inside_trials(self) -> NDArray[np.bool_]:
        """Say which bins were recorded: bool [trials, bins], False for the padding after a trial's end."""
        return np.arange(self.spikes.shape[1])[None, :] < self.trial_length_bins[:, None]

    def save(self, folder: Path) -> None:
        """Write `folder/recording.json` and one `folder/arrays/<name>.npy` for each array.

        Behaviour is stored as `behaviour_000.npy` and so on: its names come from the upload, and no file is
        named by it.
        """
        (folder / "arrays").mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {"trial_length_bins": self.trial_length_bins, "split": self.split}
        arrays |= {
            "spikes": self.spikes,
            "true_rates_hz": self.true_rates_hz,
            "external_inputs": self.external_inputs,
        }
        arrays = {name: array for name, array in arrays.items() if array is not None}
        behaviour_files = {}
        for number, (name, array) in enumerate(self.behaviour.items()):
            behaviour_files[name] = f"behaviour_{number:03d}"
            arrays[behaviour_files[name]] = array
        for name, array in arrays.items():
            np.save(folder / "arrays" / f"{name}.npy", array, allow_pickle=False)
        described = {
            "version": 1,
            "source_format": self.source_format,
            "bin_width_s": self.bin_width_s,
            "arrays": {
                name: {"shape": array.shape, "dtype": array.dtype.name} for name, array in arrays.items()
            },
            "behaviour": behaviour_files,
            "trial_metadata": self.trial_metadata,
            "notes": self.notes,
            "warnings": [warning.to_json() for warning in self.warnings],
        }
        (folder / "recording.json").write_text(json.dumps(described, allow_nan=False))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; the arrays are mapped from their files, not read into memory."""
        described = json.loads((folder / "recording.json").read_text())

        def array(name: str) -> Any:
            path = folder / "arrays" / f"{name}.npy"
            return np.load(path, mmap_mode="r", allow_pickle=False) if name in described["arrays"] else None

        return cls(
            spikes=array("spikes"),
            bin_width_s=described["bin_width_s"],
            trial_length_bins=array("trial_length_bins"),
            split=array("split"),
            trial_metadata=described["trial_metadata"],
            behaviour={name: array(file) for name, file in described["behaviour"].items()},
            true_rates_hz=array("true_rates_hz"),
            external_inputs=array("external_inputs"),
            source_format=described["source_format"],
            notes=described["notes"],
            warnings=[Problem.from_json(warning) for warning in described["warnings"]],
        )
