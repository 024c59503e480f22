"""How an uploaded file becomes a data set: what the request may say, checked alike by the API and by ingest.

The same bytes and the same options give the same data set. Everything has a default: a guess, which the report tells.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

FileFormat = Literal["npz", "lfads_hdf5", "nlb_hdf5", "hdf5", "nwb", "matlab", "csv", "parquet", "phy", "neo"]
"""Every format that has a reader; `worker.ingest.readers.READERS` has the same names."""

VariableName = Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[^\x00]*$")]
"""A variable of a file: array, HDF5 path, MATLAB variable (`struct.field`), table of NWB, column."""

Label = str | int | float | bool
TimeUnit = Literal["s", "ms", "us", "samples"]
SplitPart = Literal["train", "valid", "test"]
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
    """Which variable of the file is what. What is not named is guessed; the report tells each guess and what else there was."""

    spikes: VariableName | Annotated[list[VariableName], Field(min_length=1, max_length=100)] | None = Field(
        None,
        description="Spike counts: trials × bins × neurons, or bins × neurons of a continuous recording. In arrays and MATLAB "
        "files, a list joins the trials of several variables, in this order; the metadata `source` then names the variable "
        "of each trial.",
        examples=["spikes", ["block_1.spikes", "block_2.spikes"]],
    )
    axes: list[Literal["trial", "bin", "neuron"]] | None = Field(
        None,
        description="The axes of the spike counts and of all arrays beside them, in the file's order; trials, bins, neurons "
        "unless given. Of a MATLAB cell array of spike times: trial and neuron.",
        examples=[["neuron", "bin", "trial"]],
    )
    spike_times: VariableName | None = Field(None, description="Spike times, of each neuron.")
    trials: VariableName | None = Field(None, description="The table of trials: start, stop, metadata.")
    bin_width: VariableName | None = Field(None, description="A number: the width of a bin.")
    time: VariableName | None = Field(
        None, description="The time of each bin; in tables of spikes, of each spike."
    )
    trial_length_bins: VariableName | None = Field(None, description="Recorded bins of each trial.")
    split: VariableName | None = Field(None, description="`train`, `valid` or `test` for each trial.")
    true_rates: VariableName | None = Field(None, description="The rates that made synthetic spikes.")
    external_inputs: VariableName | None = Field(None, description="Known inputs: trials × bins × k.")
    behaviour: list[VariableName] | None = Field(
        None, description="Behaviours to take; all that fit unless given, none if empty."
    )
    trial_metadata: list[VariableName] | None = Field(
        None, description="Metadata of trials to take; all that fit unless given, none if empty."
    )
    neuron_metadata: list[VariableName] | None = Field(
        None,
        description="In arrays and MATLAB files: metadata of neurons to take; all that fit unless given, none if empty.",
    )
    trial: VariableName | None = Field(None, description="In tables: the column of the trial.")
    bin: VariableName | None = Field(None, description="In tables: the column of the bin, counted from 0.")
    neuron: VariableName | None = Field(None, description="In tables: the column of the neuron.")
    count: VariableName | None = Field(None, description="In long tables: the column of the count.")

    @property
    def spikes_listed(self) -> list[str]:
        """The variables that `spikes` names."""
        return [self.spikes] if isinstance(self.spikes, str) else self.spikes or []

    @model_validator(mode="after")
    def _check(self) -> Self:
        allowed = (["bin", "neuron", "trial"], ["bin", "neuron"], ["neuron", "trial"])
        if isinstance(self.spikes, list):
            if len(set(self.spikes)) < len(self.spikes):
                raise ValueError(f"spikes is {self.spikes}: expected each variable once")
            if len(self.spikes) == 1:  # so that options that mean the same are equal
                self.spikes = self.spikes[0]
        if self.axes is not None and sorted(self.axes) not in allowed:
            raise ValueError(
                f"axes is {self.axes}: expected trial, bin and neuron once each, in any order (or bin and neuron, for a "
                "continuous recording; or trial and neuron, for cells of spike times)"
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


Where = dict[VariableName, Label | list[Label] | Range]
"""What to keep, by metadata: name → a value, several values, or a range of numbers. All must hold."""


class TrialOptions(_Options):
    """Which trials to cut from spike times, and which of all trials to keep."""

    align_to: VariableName | None = Field(
        None,
        description="What is time 0 of a trial: a column of times in the table of trials, or a series of events, each of "
        "which is then a trial. The trial's start unless given.",
    )
    align_to_clock: Literal["session", "trial"] | None = Field(
        None,
        description="Whether the column of `align_to` has times of the session or counts from each trial's start, where trials "
        "have a start and a stop in the session. Told by where the times lie, unless given.",
    )
    window_s: tuple[float, float] | None = Field(
        None,
        description="From when to when, in seconds from time 0, such as [-0.25, 0.75]; the whole trial unless given.",
        examples=[[-0.25, 0.75]],
    )
    overlap: Literal["keep", "drop", "cut"] = Field(
        "keep",
        description="Of trials that share time with the trial before them: `keep` them (the report warns), `drop` them, or "
        "`cut` the earlier one short.",
    )
    ids: Literal["sorted", "file"] | tuple[int, int] | None = Field(
        None,
        description="Of spikes that each name their trial: which trials there are. `sorted`: the ids that spikes have, in "
        "order; `file`: the same in the order in which they first appear; `[first, last]`: every whole number from first to "
        "last, also those without a spike. One value for each trial beside the spikes goes to the trials in this order.",
        examples=[[1, 40]],
    )
    unobserved: Literal["mask", "drop", "keep"] = Field(
        "mask",
        description="What to do with times that the file excludes (`invalid_times` and `obs_intervals` of NWB): `mask` marks "
        "these samples as missing, and no model is trained on them; `drop` leaves out every trial or window that has such a "
        "sample; `keep` takes the counts as they are.",
    )
    where: Where = Field(
        {},
        description="Keep trials with this metadata.",
        examples=[{"outcome": "success", "direction": [0, 1]}],
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.window_s is not None and self.window_s[0] >= self.window_s[1]:
            raise ValueError(f"window_s is {list(self.window_s)}: expected its beginning before its end")
        if isinstance(self.ids, tuple) and not 0 <= self.ids[1] - self.ids[0] < 1_000_000:
            raise ValueError(
                f"ids is {list(self.ids)}: expected the first id and the last, of at most a million trials"
            )
        return self


class NeuronOptions(_Options):
    """Which neurons to keep."""

    minimum_rate_hz: float = Field(
        0.0, ge=0, description="Leave out neurons that fire less often, on average over recorded time, in Hz."
    )
    where: Where = Field({}, description="Keep neurons with this metadata.", examples=[{"quality": "good"}])


class ChopOptions(_Options):
    """Cut a continuous recording, or long trials, into windows to train on; after inference they are merged again."""

    window_s: Seconds = Field(1.0, description="Length of a window, in seconds.")
    overlap_s: float = Field(
        0.2, ge=0, description="What a window shares with the one before it, in seconds; at most half of it."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.overlap_s > self.window_s / 2:
            raise ValueError(
                f"overlap_s is {self.overlap_s} with window_s {self.window_s}: expected at most half the window"
            )
        return self


class SplitOptions(_Options):
    """Which trials are for training, which for validation, which for testing."""

    kind: Literal["trial", "condition", "time", "given"] = Field(
        "given",
        description="`trial`: drawn; `condition`: drawn, in equal shares of each condition; `time`: a block in the "
        "middle of the session is for validation, the last for testing; `given`: as the file says, and where it says "
        "nothing each job draws its own.",
    )
    valid_fraction: float = Field(0.2, gt=0, lt=1, description="Share of the trials that are for validation.")
    test_fraction: float = Field(0.0, ge=0, lt=1, description="Share of the trials that are for testing.")
    condition: VariableName | None = Field(
        None,
        description="The metadata that `condition` takes shares of; the conditions that the report names unless given.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Of what is drawn.")
    values: dict[VariableName, SplitPart] = Field(
        {},
        description="What each value of the file's own split means.",
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
    """How to read a file and what to make of it."""

    format: FileFormat | None = Field(
        None, description="Format of the file; told from its contents unless given."
    )
    bin_width_s: Seconds | None = Field(
        None,
        description="Width of a bin in seconds. For counts: if the file does not say it. For spike times: the bins to put "
        "them into, 0.010 unless given.",
    )
    rebin_s: Seconds | None = Field(
        None,
        description="For counts: add up neighbouring bins to this width, a multiple of theirs, in seconds.",
    )
    time_unit: TimeUnit | None = Field(
        None, description="Unit of the file's times; seconds, or what the file says, unless given."
    )
    spike_time_unit: TimeUnit | None = Field(
        None,
        description="Unit of spike times, if the file's other times have another; `time_unit` unless given.",
    )
    trial_time_unit: TimeUnit | None = Field(
        None,
        description="Unit of all other times, if spike times have another: those of trials, events and behaviour; "
        "`time_unit` unless given.",
    )
    sampling_rate_hz: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | None = Field(
        None, description="Samples per second, where times are in samples and the file does not say it."
    )
    mapping: Mapping = Field(
        default_factory=lambda: Mapping(), description="Which variable of the file is what."
    )
    trials: TrialOptions = Field(default_factory=lambda: TrialOptions())
    neurons: NeuronOptions = Field(default_factory=lambda: NeuronOptions())
    chop: ChopOptions | None = Field(
        None,
        description="Cut into overlapping windows. Continuous recordings always are: into windows of 1 s that share 0.2 s "
        "unless given.",
    )
    split: SplitOptions = Field(default_factory=lambda: SplitOptions())

    def canonical(self) -> dict[str, Any]:
        """Return what differs from the defaults, as JSON: equal for options that mean the same."""
        return self.model_dump(mode="json", exclude_defaults=True)


def changed_options(options: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return options with changes made to them, as JSON Merge Patch (RFC 7396) does.

    Objects are merged field by field. `null` removes a field, which then has its default. A `null` for a field that is not there
    is kept, so that validation finds a name that does not exist.
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
