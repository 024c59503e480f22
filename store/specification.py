"""What a job asks for: the document that the API validates, the database keeps and the workers read.

Ranges, but for the learning rate's lower end, are those of Keshtkaran & Pandarinath 2019 and Keshtkaran et al. 2022
(AutoLFADS); weights of KL and L2 are relative to a reconstruction loss that is a mean over samples, in nats.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, Self, get_args

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Range(_Document):
    """A range that the search draws from."""

    low: float
    high: float
    scale: Literal["log", "uniform"] = "uniform"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low > self.high:
            raise ValueError(
                f"low is {self.low:g} and high is {self.high:g}: low must not be above high; exchange them?"
            )
        if self.scale == "log" and self.low <= 0:
            raise ValueError(
                f"low is {self.low:g}: a logarithmic range must begin above 0; use scale 'uniform'?"
            )
        return self


class _Bounded:
    """Bounds of a hyperparameter: every value and both ends of a range must lie within."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def check(self, value: float | Range) -> float | Range:
        """Return the value, or raise an error that names the bounds."""
        ends = (value.low, value.high) if isinstance(value, Range) else (value,)
        for end in ends:
            if not self.low <= end <= self.high:
                raise ValueError(f"{end:g} is outside {self.low:g} … {self.high:g}")
        return value


Rate = Annotated[float | Range, AfterValidator(_Bounded(0.0, 0.95).check)]
Weight = Annotated[float | Range, AfterValidator(_Bounded(0.0, 1e3).check)]
LearningRate = Annotated[float | Range, AfterValidator(_Bounded(1e-7, 1.0).check)]


class Space(_Document):
    """The search space: each hyperparameter is a number (fixed) or a range (searched)."""

    learning_rate: LearningRate = Field(
        Range(low=1e-3, high=5e-3, scale="log"),
        description="Adam's learning rate. The papers' range goes down to 1e-5, too slow for a draw that is never changed.",
    )
    dropout: Rate = Field(Range(low=0.0, high=0.6), description="Dropout inside the network.")
    cd_rate: Rate = Field(
        Range(low=0.01, high=0.7), description="Coordinated dropout: share of input samples dropped."
    )
    cd_pass_rate: Rate = Field(0.0, description="Share of the kept input samples that pass gradient too.")
    kl_weight_initial_condition: Weight = Field(
        Range(low=1e-6, high=1e-3, scale="log"),
        description="Weight of the KL divergence of the initial condition.",
    )
    l2_weight_generator: Weight = Field(
        Range(low=1e-4, high=1.0, scale="log"),
        description="Weight of the mean square of the generator's recurrent weights.",
    )
    kl_weight_inputs: Weight = Field(
        Range(low=1e-6, high=1e-4, scale="log"),
        description="Weight of the KL divergence of the inferred inputs. Drawn only with a controller.",
    )
    l2_weight_controller: Weight = Field(
        Range(low=1e-4, high=1.0, scale="log"),
        description="Weight of the mean square of the controller's recurrent weights. Drawn only with a controller.",
    )


CONTROLLER_HYPERPARAMETERS = ("kl_weight_inputs", "l2_weight_controller")
"""Of the space: what no model without a controller reads."""


class ArchitectureSpecification(_Document):
    """Form and sizes of the network, equal for all models of the job."""

    encoder_units: int = Field(
        64, ge=1, le=1024, description="Of each of the two encoders of the initial condition."
    )
    initial_condition_dim: int = Field(
        64, ge=1, le=1024, description="Dimension of the generator's initial condition."
    )
    generator_units: int = Field(100, ge=1, le=2048, description="Units of the generator.")
    factors: int = Field(20, ge=1, le=1024, description="Linear factors between generator and rates.")
    controller_units: int = Field(
        0,
        ge=0,
        le=1024,
        description="Units of the controller, which infers inputs to the generator bin by bin; 0: no controller. "
        "Needs `inferred_inputs`.",
    )
    controller_encoder_units: int = Field(
        64,
        ge=1,
        le=1024,
        description="Of each of the controller's own two encoders. Not read without a controller.",
    )
    inferred_inputs: int = Field(
        0,
        ge=0,
        le=256,
        description="Dimension of the inferred inputs, often 1 to 4. Needs `controller_units`.",
    )
    controller_lag_bins: int = Field(
        1,
        ge=0,
        le=10_000,
        description="At bin t the controller reads what the encoders knew this many bins before and after it: "
        "with 1 or more it never reads the bin's own spikes.",
    )
    use_external_inputs: bool = Field(
        True,
        description="Whether controller and generator get the data set's array `external_inputs`, where it has one.",
    )
    input_prior: Literal["autoregressive", "gaussian"] = Field(
        "autoregressive",
        description="Prior of the inferred inputs: smooth in time (one time constant and variance each, from 10 bins "
        "and 0.1 on), or independent over bins.",
    )
    learn_input_prior: bool = Field(
        True, description="Whether the variance and time constant of the input prior are learned."
    )
    learn_prior_variance: bool = Field(
        True, description="Whether the variance of the initial condition's prior is learned."
    )
    observation: Literal["poisson", "negative_binomial"] = Field(
        "poisson",
        description="How spike counts arise from the rates; `negative_binomial` allows more variance than mean. Data "
        "sets hold whole counts, so the distributions of continuous signals are not offered.",
    )
    initial_condition_bins: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Bins at a trial's beginning from which alone the initial condition is read; the generator "
        "begins after them, and they have no rates. 0: it is read from all encoded bins.",
    )
    encoded_bins: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Bins that models read; later ones are only predicted (forward prediction). 0: all.",
    )
    held_out_neurons: list[Annotated[int, Field(ge=0)]] = Field(
        default_factory=list,
        max_length=10_000,
        description="Indices, from 0, of neurons that models never read, only predict (co-smoothing).",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.controller_units > 0) != (self.inferred_inputs > 0):
            raise ValueError(
                f"controller_units is {self.controller_units} and inferred_inputs is {self.inferred_inputs}: expected "
                "both above 0 (inputs are inferred), or both 0 (no controller)"
            )
        if 0 < self.encoded_bins <= self.initial_condition_bins:
            raise ValueError(
                f"encoded_bins is {self.encoded_bins} and initial_condition_bins is {self.initial_condition_bins}: "
                "expected more encoded bins, or 0 for all"
            )
        neurons = sorted(self.held_out_neurons)
        for one, following in pairwise(neurons):
            if one == following:
                raise ValueError(f"held_out_neurons names {one} more than once")
        return self

    @property
    def has_controller(self) -> bool:
        """Whether inputs are inferred."""
        return self.controller_units > 0

    def of_data(self, report: Mapping[str, Any] | None) -> dict[str, Any]:
        """The architecture of a model's row: with the number of external inputs that the data set's report names."""
        described = self.model_dump(exclude={"use_external_inputs"})
        external = int((report or {}).get("external_inputs", 0)) if self.use_external_inputs else 0
        return described | {"external_inputs": external}


class Training(_Document):
    """How every model of the job is trained."""

    batch_size: int = Field(64, ge=1, le=65536, description="Trials per step.")
    ramp_epochs: int = Field(
        80, ge=0, description="KL and L2 weights rise linearly from 0 to 1 over these epochs."
    )
    gradient_clip: float = Field(
        0.02, gt=0, description="Largest norm of a model's gradient (loss in nats per sample)."
    )
    score_smoothing: float = Field(
        0.7,
        ge=0,
        lt=1,
        description="Weight of the past in the smoothed SV loss, which selects epochs and models; 0: not smoothed.",
    )
    decay_factor: float = Field(
        0.95,
        ge=0.01,
        le=1,
        description="A model's learning rate is multiplied by this each time its smoothed SV loss has not improved for "
        "`decay_patience` epochs; 1: never.",
    )
    decay_patience: int = Field(6, ge=1, description="Epochs, counted from the ramp's end.")
    least_learning_rate: float = Field(1e-5, ge=0, le=1, description="No decay goes below this.")
    sv_rate: float = Field(0.2, gt=0, le=0.9, description="Sample validation: share of samples held out.")
    valid_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share of trials for validation, unless the data set brings a split."
    )


class RandomStrategy(_Document):
    """Random search: independent draws from the space."""

    kind: Literal["random"] = "random"


class Budget(_Document):
    """What the job may spend."""

    models: int = Field(8, ge=1, le=1000)
    epochs: int = Field(200, ge=1, le=100_000, description="Epochs of each model.")
    wall_seconds: float | None = Field(
        None, gt=0, description="Training ends this long after the first slice began, with what is there."
    )


LatentArray = Literal["rates", "factors", "initial_conditions", "inputs", "generator_states"]


class Inference(_Document):
    """How the latents of the selected model are computed, and which are stored."""

    posterior_samples: int = Field(50, ge=1, le=10_000, description="Draws that are averaged.")
    arrays: list[LatentArray] = Field(
        default_factory=lambda: list(get_args(LatentArray)),
        min_length=1,
        max_length=len(get_args(LatentArray)),
        description="What is stored. `generator_states` is often the largest. `inputs` are there with a controller only.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.arrays)) < len(self.arrays):
            raise ValueError(f"arrays names one more than once: {', '.join(self.arrays)}")
        return self


class JobSpecification(_Document):
    """A search over models of one data set."""

    dataset_id: str = Field(
        max_length=40, description="The data set, `ready`.", examples=["dat_0192f3c4a5b6aabbccddeeff"]
    )
    # PostgreSQL's text has no NUL
    name: str = Field("", max_length=200, pattern=r"^[^\x00]*$", description="A name for the job.")
    seed: int = Field(0, ge=0, lt=2**31, description="Equal specification and seed give equal models.")
    strategy: RandomStrategy = Field(default_factory=RandomStrategy)
    architecture: ArchitectureSpecification = Field(default_factory=ArchitectureSpecification)
    space: Space = Field(default_factory=Space)
    training: Training = Field(default_factory=Training)
    budget: Budget = Field(default_factory=Budget)
    inference: Inference = Field(default_factory=Inference)

    def searched_space(self) -> dict[str, float | Range]:
        """The hyperparameters that the models of this job read, in a fixed order."""
        unread = () if self.architecture.has_controller else CONTROLLER_HYPERPARAMETERS
        return {name: getattr(self.space, name) for name in Space.model_fields if name not in unread}

    def step_bytes(self, neurons: int, bins: int, training_trials: int) -> int:
        """Memory that a training step of one model takes, roughly: measured numbers for each bin of each trial."""
        architecture = self.architecture
        numbers = 11 * neurons + 18 * architecture.encoder_units + 13 * architecture.generator_units
        if architecture.has_controller:
            numbers += 23 * architecture.controller_encoder_units + 9 * architecture.controller_units
        return 4 * min(self.training.batch_size, training_trials) * bins * numbers


Split = Literal["train", "valid", "test"]


def split_trials(given: Sequence[str | None], valid_fraction: float, seed: int) -> list[Split]:
    """Which part of a job each trial is in.

    Parameters
    ----------
    given
        What the file gave for each trial: ``train``, ``valid``, ``test`` or None.
    valid_fraction
        Share of the trials, other than test trials, that are drawn for validation if the file names none; at least one.
    seed
        Of the draw.

    Returns
    -------
    list of str
        One per trial, in the order given. Test trials are neither trained on nor used to select.
    """
    usable = [trial for trial, split in enumerate(given) if split != "test"]
    if "valid" in given:
        valid = {trial for trial in usable if given[trial] == "valid"}
    else:
        drawn = np.random.default_rng([seed, 0x5B117]).permutation(len(usable))
        valid = {usable[position] for position in drawn[: max(1, round(valid_fraction * len(usable)))]}
    return [
        "test" if split == "test" else "valid" if trial in valid else "train"
        for trial, split in enumerate(given)
    ]
