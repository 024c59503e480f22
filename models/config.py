"""What defines a model and its training: three small frozen dataclasses, checked when they are made.

`Architecture` is equal for all models of a pack, `Hyperparameters` belong to one model, `TrainingOptions`
are equal for all models of a job.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from domain.errors import ConfigurationError as ConfigurationError
from domain.errors import require as require

VARIANCE_FLOOR = 1e-4
"""Of every Gaussian in the network: added to the exponential of its log-variance."""


def _check_whole_number(name: str, value: object, least: int) -> None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    require(is_whole and value >= least, f"{name} must be a whole number of at least {least}, got {value!r}")  # type: ignore[operator]  # a number, by then


def _check_range(name: str, value: float, low: float, high: float, *, open_high: bool = False) -> None:
    inside = math.isfinite(value) and low <= value and (value < high if open_high else value <= high)
    bracket = ")" if open_high else "]"
    require(inside, f"{name} must lie in [{low:g}, {high:g}{bracket}, got {value!r}")


InputPrior = Literal["autoregressive", "gaussian"]
ObservationName = Literal["poisson", "negative_binomial", "zero_inflated_gamma", "gaussian"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Architecture:
    """Form and sizes of the network, equal for all models of a pack.

    Parameters
    ----------
    neurons
        N, columns of the spike counts; one number for each session where there are several.
    encoder_units
        E, units of each of the two encoder GRUs of the initial condition.
    initial_condition_dim
        I, dimension of the posterior over the generator's initial condition.
    generator_units
        G, units of the generator GRU.
    factors
        F, linear factors between generator and rates.
    controller_units
        C, units of the controller GRU; 0 leaves the controller out.
    controller_encoder_units
        K, units of each of the controller's own two encoder GRUs. Not read without a controller.
    inferred_inputs
        U, dimension of the inputs that the controller infers; 0 exactly when there is no controller.
    controller_lag_bins
        The controller at bin t reads what the forward encoder knew at t - lag and the backward one at t + lag.
    external_inputs
        X, known inputs to controller and generator.
    input_prior
        Of the inferred inputs: "autoregressive" (AR(1), one time constant and variance per input) or "gaussian"
        (independent over bins, mean 0).
    learn_input_prior, learn_prior_variance
        Whether the input prior (variance and time constant), and the variance of the initial condition's
        prior, are learned or stay at their start.
    observation
        How the data arise from the network's outputs, see `models.observation`.
    read_in_dim
        D, dimension of the per-session linear map in front of the encoders; 0 lets them read the neurons
        themselves, which needs a single session.
    initial_condition_bins
        W, a separate encoding window: the initial condition is read from the first W bins alone and the
        generator begins after them. 0: read from all encoded bins, the generator begins at the first.
    encoded_bins
        Bins that are read; later ones are only predicted (forward prediction). 0: all.
    held_out_neurons
        Columns that are never read, only predicted (co-smoothing). For a single session.
    """

    neurons: int | tuple[int, ...]
    encoder_units: int = 64
    initial_condition_dim: int = 64
    generator_units: int = 100
    factors: int = 20
    controller_units: int = 0
    controller_encoder_units: int = 64
    inferred_inputs: int = 0
    controller_lag_bins: int = 1
    external_inputs: int = 0
    input_prior: InputPrior = "autoregressive"
    learn_input_prior: bool = True
    learn_prior_variance: bool = True
    observation: ObservationName = "poisson"
    read_in_dim: int = 0
    initial_condition_bins: int = 0
    encoded_bins: int = 0
    held_out_neurons: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require(len(self.session_neurons) > 0, "neurons must name at least one session, got ()")
        for neurons in self.session_neurons:
            _check_whole_number("neurons", neurons, least=1)
        for name in (
            "encoder_units",
            "initial_condition_dim",
            "generator_units",
            "factors",
            "controller_encoder_units",
        ):
            _check_whole_number(name, getattr(self, name), least=1)
        for name in (
            "controller_units",
            "inferred_inputs",
            "controller_lag_bins",
            "external_inputs",
            "read_in_dim",
            "initial_condition_bins",
            "encoded_bins",
        ):
            _check_whole_number(name, getattr(self, name), least=0)
        require(
            (self.controller_units > 0) == (self.inferred_inputs > 0),
            "controller_units and inferred_inputs must both be 0 (no controller) or both be above 0, "
            f"got {self.controller_units} and {self.inferred_inputs}",
        )
        require(
            self.read_in_dim > 0 or len(self.session_neurons) == 1,
            f"{len(self.session_neurons)} sessions need a read-in: give read_in_dim, e.g. the number of factors",
        )
        require(
            self.encoded_bins == 0 or self.encoded_bins > self.initial_condition_bins,
            f"encoded_bins ({self.encoded_bins}) must be 0 or more than initial_condition_bins "
            f"({self.initial_condition_bins})",
        )
        self._check_held_out_neurons()

    def _check_held_out_neurons(self) -> None:
        held_out = self.held_out_neurons
        if not held_out:
            return
        require(len(self.session_neurons) == 1, "held_out_neurons need a single session")
        neurons = self.session_neurons[0]
        require(
            len(set(held_out)) == len(held_out) < neurons and all(0 <= n < neurons for n in held_out),
            f"held_out_neurons must be different columns in 0 … {neurons - 1}, and not all, got {held_out}",
        )

    @property
    def session_neurons(self) -> tuple[int, ...]:
        """N of each session."""
        return self.neurons if isinstance(self.neurons, tuple) else (self.neurons,)

    @property
    def has_controller(self) -> bool:
        """Whether inputs are inferred."""
        return self.controller_units > 0


@dataclass(frozen=True)
class Hyperparameters:
    """What a search varies: one set per model.

    Parameters
    ----------
    learning_rate
        Adam's step size.
    dropout
        Share of generator states dropped before the factors while training, in [0, 1).
    cd_rate
        Coordinated dropout: share of input samples dropped (and then used as targets), in [0, 1).
        0 is plain LFADS: every sample is input and target.
    cd_pass_rate
        Share of the samples kept as input that are targets nevertheless, in [0, 1].
    kl_weight_initial_condition
        Weight of KL(q(g0 | x) || p(g0)), relative to a reconstruction loss that is a mean over the samples that count: with
        coordinated dropout those that were dropped, so that no weight changes its meaning with `cd_rate`. The
        evidence lower bound itself would have 1 / (T · N).
    kl_weight_inputs
        Weight of KL(q(u | x) || p(u)) of the inferred inputs, likewise. Not read without a controller.
    l2_weight_generator, l2_weight_controller
        Weights of the mean squares of the recurrent weights of generator and controller.
    """

    learning_rate: float = 4e-3
    dropout: float = 0.05
    cd_rate: float = 0.5
    cd_pass_rate: float = 0.0
    kl_weight_initial_condition: float = 1e-4
    kl_weight_inputs: float = 1e-5
    l2_weight_generator: float = 1e-3
    l2_weight_controller: float = 1e-3

    def __post_init__(self) -> None:
        require(
            math.isfinite(self.learning_rate) and self.learning_rate > 0,
            f"learning_rate must be positive and finite, got {self.learning_rate!r}",
        )
        _check_range("dropout", self.dropout, 0.0, 1.0, open_high=True)
        _check_range("cd_rate", self.cd_rate, 0.0, 1.0, open_high=True)
        _check_range("cd_pass_rate", self.cd_pass_rate, 0.0, 1.0)
        for name in (
            "kl_weight_initial_condition",
            "kl_weight_inputs",
            "l2_weight_generator",
            "l2_weight_controller",
        ):
            value = getattr(self, name)
            require(
                math.isfinite(value) and value >= 0, f"{name} must be finite and not negative, got {value!r}"
            )


@dataclass(frozen=True)
class TrainingOptions:
    """How the models of a job are trained, equal for all of them.

    Parameters
    ----------
    batch_size
        Most trials of an optimizer step; those of an epoch are spread evenly over its steps, and over the
        sessions. More than there are training trials means one step an epoch on all of them.
    ramp_epochs
        Epochs over which the weights of KL and L2 grow linearly from 0 to their values.
    gradient_clip
        Largest gradient norm of one model. The public scripts use 200 with losses scaled by 1e4: 0.02 here.
    score_smoothing
        Weight `a` of the past in the smoothed SV loss: `s_e = a · s_(e-1) + (1 - a) · loss_e`, `s_1 =
        loss_1`.
    decay_factor
        The learning rate of a model is multiplied by this each time its smoothed SV loss has not improved for
        `decay_patience` epochs. 1 leaves it as it is.
    decay_patience
        Epochs, counted from the ramp's end.
    min_learning_rate
        No decay goes below this.
    precision
        What the recurrences' products of states with weights read while training: "bfloat16" (on CPUs that have
        instructions for it; float32 elsewhere) or "float32". Sums, states, weights and all scores are float32 always.
    """

    batch_size: int
    ramp_epochs: int = 80
    gradient_clip: float = 0.02
    score_smoothing: float = 0.7
    decay_factor: float = 0.95
    decay_patience: int = 6
    min_learning_rate: float = 1e-5
    precision: Precision = "bfloat16"

    def __post_init__(self) -> None:
        _check_whole_number("batch_size", self.batch_size, least=1)
        _check_whole_number("ramp_epochs", self.ramp_epochs, least=0)
        require(
            math.isfinite(self.gradient_clip) and self.gradient_clip > 0,
            f"gradient_clip must be positive and finite, got {self.gradient_clip!r}",
        )
        _check_range("score_smoothing", self.score_smoothing, 0.0, 1.0, open_high=True)
        _check_range("decay_factor", self.decay_factor, 0.01, 1.0)
        _check_whole_number("decay_patience", self.decay_patience, least=1)
        _check_range("min_learning_rate", self.min_learning_rate, 0.0, 1.0)
        require(
            self.precision in get_args(Precision),
            f"precision must be one of {', '.join(get_args(Precision))}, got {self.precision!r}",
        )
