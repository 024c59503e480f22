"""The options for making a data set from a file. The API and the ingest validate them by the same rules.

The same bytes and the same options give the same data set. Every option has a default, and the report lists what the service
guessed.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

FileFormat = Literal["npz", "lfads_hdf5", "nlb_hdf5", "hdf5", "nwb", "matlab", "csv", "parquet", "phy", "neo"]
"""The formats that have a reader; `worker.ingest.readers.READERS` has the same names."""

VariableName = Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[^\x00]*$")]
"""Name of a variable in a file: an array, HDF5 path, MATLAB variable (`struct.field`), NWB table or column."""

Label = str | int | float | bool
TimeUnit = Literal["s", "ms", "us", "samples"]
SplitPart = Literal["train", "valid", "test"]
VariableNames = Annotated[list[VariableName], Field(fail_fast=True)]
Seconds = Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)]


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_the_default(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {
            key: value for key, value in given.items() if value is not None or key not in cls.model_fields
        }


class Mapping(_Options):
    """Names of variables in the file. The service guesses the names that you do not give; the report lists each guess."""

    spikes: VariableName | Annotated[VariableNames, Field(min_length=1, max_length=100)] | None = Field(
        None,
        description="Spike counts: trials × bins × neurons, or bins × neurons for a continuous recording. For arrays and MATLAB "
        "files, a list joins the trials of several variables in this order. The trial metadata `source` then names the variable.",
        examples=["spikes", ["block_1.spikes", "block_2.spikes"]],
    )
    axes: list[Literal["trial", "bin", "neuron"]] | None = Field(
        None,
        description="Axes of the spike counts and of all related arrays, in the order of the file; by default trial, bin, "
        "neuron. For a MATLAB cell array of spike times: trial and neuron.",
        examples=[["neuron", "bin", "trial"]],
    )
    spike_times: VariableName | None = Field(None, description="Spike times of each neuron.")
    trials: VariableName | None = Field(None, description="Table of trials, with start, stop and metadata.")
    bin_width: VariableName | None = Field(None, description="Width of a bin, a single number.")
    time: VariableName | None = Field(
        None, description="Time of each bin; in tables of spikes, time of each spike."
    )
    trial_length_bins: VariableName | None = Field(None, description="Number of recorded bins of each trial.")
    split: VariableName | None = Field(None, description="`train`, `valid` or `test` for each trial.")
    true_rates: VariableName | None = Field(None, description="True rates of synthetic spikes.")
    external_inputs: VariableName | None = Field(
        None, description="Known external inputs: trials × bins × inputs."
    )
    behaviour: VariableNames | None = Field(
        None, description="Behaviours to keep; by default all arrays of a matching shape. `[]` keeps none."
    )
    trial_metadata: VariableNames | None = Field(
        None,
        description="Trial metadata to keep; by default all arrays of a matching shape. `[]` keeps none.",
    )
    neuron_metadata: VariableNames | None = Field(
        None,
        description="In arrays and MATLAB files: neuron metadata to keep; by default all arrays of a matching shape. `[]` keeps "
        "none.",
    )
    trial: VariableName | None = Field(None, description="In tables: column of the trial.")
    bin: VariableName | None = Field(None, description="In tables: column of the bin, counted from 0.")
    neuron: VariableName | None = Field(None, description="In tables: column of the neuron.")
    count: VariableName | None = Field(None, description="In long tables: column of the count.")

    @property
    def spikes_listed(self) -> list[str]:
        """The names in `spikes`, as a list."""
        return [self.spikes] if isinstance(self.spikes, str) else self.spikes or []

    @model_validator(mode="after")
    def _check(self) -> Self:
        allowed = (["bin", "neuron", "trial"], ["bin", "neuron"], ["neuron", "trial"])
        if isinstance(self.spikes, list):
            if len(set(self.spikes)) < len(self.spikes):
                raise ValueError(f"spikes is {self.spikes}: expected each variable once")
            if len(self.spikes) == 1:  # options with the same meaning must be equal
                self.spikes = self.spikes[0]
        if self.axes is not None and sorted(self.axes) not in allowed:
            raise ValueError(
                f"axes is {self.axes}: expected trial, bin and neuron once each, in any order (or bin and neuron for a "
                "continuous recording; or trial and neuron for cells of spike times)"
            )
        return self


class Range(_Options):
    """Numbers from `min` to `max`, both included."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("expected min, max or both; got neither")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min is {self.min} and max {self.max}: expected min not above max")
        return self


Where = dict[VariableName, Label | Annotated[list[Label], Field(fail_fast=True)] | Range]
"""Conditions on metadata: for each name, a value, a list of values, or a range of numbers. All conditions must hold."""


class TrialOptions(_Options):
    """Options for cutting trials from spike times, and for selecting trials."""

    align_to: VariableName | None = Field(
        None,
        description="Event at time 0 of a trial: a column of times in the table of trials, or a series of events, each of which "
        "defines a trial. By default the start of the trial.",
    )
    align_to_clock: Literal["session", "trial"] | None = Field(
        None,
        description="Clock of the column in `align_to`: times in the session, or times since the start of each trial. By default "
        "the service compares the times with the starts and stops of the trials.",
    )
    window_s: tuple[float, float] | None = Field(
        None,
        description="Start and end of the window in seconds from time 0, such as [-0.25, 0.75]; by default the whole trial.",
        examples=[[-0.25, 0.75]],
    )
    overlap: Literal["keep", "drop", "cut"] = Field(
        "keep",
        description="What to do with trials that overlap the previous trial: `keep` them (the report warns), `drop` them, or "
        "`cut` the previous trial short.",
    )
    ids: Literal["sorted", "file"] | tuple[int, int] | None = Field(
        None,
        description="For spikes that each name their trial: the list of trials. `sorted`: the ids of the spikes, sorted. `file`: "
        "the ids in order of first appearance. `[first, last]`: all whole numbers from first to last, including trials without "
        "spikes. Arrays with one value per trial follow this order.",
        examples=[[1, 40]],
    )
    unobserved: Literal["mask", "drop", "keep"] = Field(
        "mask",
        description="What to do with times that the file excludes (`invalid_times` and `obs_intervals` of NWB). `mask` marks "
        "these samples as missing, so models do not train on them. `drop` removes every trial or window with such a sample. "
        "`keep` uses the counts unchanged.",
    )
    where: Where = Field(
        {},
        description="Keep only trials with these metadata.",
        examples=[{"outcome": "success", "direction": [0, 1]}],
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.window_s is not None and self.window_s[0] >= self.window_s[1]:
            raise ValueError(f"window_s is {list(self.window_s)}: expected its start before its end")
        if isinstance(self.ids, tuple) and not 0 <= self.ids[1] - self.ids[0] < 1_000_000:
            raise ValueError(
                f"ids is {list(self.ids)}: expected the first and the last id, of at most a million trials"
            )
        return self


class NeuronOptions(_Options):
    """Options for selecting neurons."""

    minimum_rate_hz: float = Field(
        0.0, ge=0, description="Remove neurons with a lower mean rate over the recorded time, in Hz."
    )
    where: Where = Field(
        {}, description="Keep only neurons with these metadata.", examples=[{"quality": "good"}]
    )


class ChopOptions(_Options):
    """Options for cutting a continuous recording or long trials into windows, which are merged again after inference."""

    window_s: Seconds = Field(1.0, description="Length of a window, in seconds.")
    overlap_s: float = Field(
        0.2, ge=0, description="Overlap of neighbouring windows, in seconds; at most half a window."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.overlap_s > self.window_s / 2:
            raise ValueError(
                f"overlap_s is {self.overlap_s} with window_s {self.window_s}: expected at most half the window"
            )
        return self


class SplitOptions(_Options):
    """Options for splitting the trials into training, validation and test trials."""

    kind: Literal["trial", "condition", "time", "given"] = Field(
        "given",
        description="`trial`: random trials. `condition`: random trials, with equal fractions of each condition. `time`: a block "
        "in the middle of the session for validation, and the last block for testing. `given`: the split in the file. If "
        "the file has no validation or test trials, each job draws them.",
    )
    valid_fraction: float = Field(0.2, gt=0, lt=1, description="Fraction of validation trials.")
    test_fraction: float = Field(0.0, ge=0, lt=1, description="Fraction of test trials.")
    condition: VariableName | None = Field(
        None,
        description="Metadata that define the conditions for the split `condition`; by default the conditions in the report.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the random split.")
    values: dict[VariableName, SplitPart] = Field(
        {},
        description="Meaning of each value of the split in the file.",
        examples=[{"1": "train", "2": "valid", "3": "test"}],
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.valid_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"valid_fraction + test_fraction is {self.valid_fraction + self.test_fraction:g}: expected less than 1, "
                "so that trials are left to train on"
            )
        return self


class DatasetOptions(_Options):
    """Options for reading a file and making a data set from it."""

    format: FileFormat | None = Field(
        None, description="Format of the file; by default the service detects it."
    )
    bin_width_s: Seconds | None = Field(
        None,
        description="Width of a bin in seconds. For counts: needed if the file does not state it. For spike times: width of the "
        "bins to count them in, by default 0.010.",
    )
    rebin_s: Seconds | None = Field(
        None,
        description="For counts: sum neighbouring bins to this width in seconds, a multiple of the bin width.",
    )
    time_unit: TimeUnit | None = Field(
        None,
        description="Unit of the times in the file; by default the unit that the file states, or seconds.",
    )
    spike_time_unit: TimeUnit | None = Field(
        None,
        description="Unit of spike times, if it differs from the unit of other times; by default `time_unit`.",
    )
    trial_time_unit: TimeUnit | None = Field(
        None,
        description="Unit of the times of trials, events and behaviour, if it differs from the unit of spike times; by default "
        "`time_unit`.",
    )
    sampling_rate_hz: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | None = Field(
        None, description="Samples per second, if times are in samples and the file does not state it."
    )
    mapping: Mapping = Field(default_factory=lambda: Mapping(), description="Names of variables in the file.")
    trials: TrialOptions = Field(default_factory=lambda: TrialOptions())
    neurons: NeuronOptions = Field(default_factory=lambda: NeuronOptions())
    chop: ChopOptions | None = Field(
        None,
        description="Cut trials into overlapping windows. Continuous recordings are always cut, by default into windows of 1 s "
        "that overlap by 0.2 s.",
    )
    split: SplitOptions = Field(default_factory=lambda: SplitOptions())

    def canonical(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, as JSON values. Equal options give equal values."""
        return self.model_dump(mode="json", exclude_defaults=True)


def changed_options(options: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return options with changes applied as a JSON Merge Patch (RFC 7396).

    Objects are merged field by field. `null` removes a field, which then has its default. A `null` for an unknown field stays, so
    that validation reports the unknown name.
    """
    changed = dict(options)
    for name, value in changes.items():
        if value is None and name in changed:
            del changed[name]
        elif isinstance(value, dict):
            before = changed.get(name)
            changed[name] = changed_options(before if isinstance(before, dict) else {}, value)
        else:
            changed[name] = value
    return changed
