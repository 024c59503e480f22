"""What defines a model and its training: three small frozen dataclasses, checked when they are made.

`Architecture` is equal for all models of a pack, `Hyperparameters` belong to one model, `TrainingOptions`
are equal for all models of a job.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


class ConfigurationError(ValueError):
    """An argument is outside what the method allows; the message says what was expected and what came."""


def require(condition: bool, message: str) -> None:
    """Raise `ConfigurationError(message)` unless `condition` holds."""
    if not condition:
        raise ConfigurationError(message)


def _check_whole_number(name: str, value: object, least: int) -> None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    require(is_whole and value >= least, f"{name} must be a whole number of at least {least}, got {value!r}")  # type: ignore[operator]


def _check_range(name: str, value: float, low: float, high: float, *, open_high: bool = False) -> None:
    inside = math.isfinite(value) and low <= value and (value < high if open_high else value <= high)
    bracket = ")" if open_high else "]"
    require(inside, f"{name} must lie in [{low:g}, {high:g}{bracket}, got {value!r}")


@dataclass(frozen=True)
class Architecture:
    """Sizes of the network, equal for all models of a pack.

    Parameters
    ----------
    neurons
        N, columns of the spike counts.
    encoder_units
        E, units of each of the two encoder GRUs.
    initial_condition_dim
        I, dimension of the posterior over the generator's initial condition.
    generator_units
        G, units of the generator GRU.
    factors
        F, linear factors between generator and rates.
    """

    neurons: int
    encoder_units: int = 64
    initial_condition_dim: int = 64
    generator_units: int = 100
    factors: int = 20

    def __post_init__(self) -> None:
        for name in ("neurons", "encoder_units", "initial_condition_dim", "generator_units", "factors"):
            _check_whole_number(name, getattr(self, name), least=1)


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
        Weight of KL(q(g0 | x) || p(g0)), relative to a reconstruction loss that is a mean over samples.
        The evidence lower bound itself would have 1 / (T · N).
    l2_weight_generator
        Weight of the mean square of the generator's recurrent weights.
    """

    learning_rate: float = 4e-3
    dropout: float = 0.05
    cd_rate: float = 0.5
    cd_pass_rate: float = 0.0
    kl_weight_initial_condition: float = 1e-4
    l2_weight_generator: float = 1e-3

    def __post_init__(self) -> None:
        require(
            math.isfinite(self.learning_rate) and self.learning_rate > 0,
            f"learning_rate must be positive and finite, got {self.learning_rate!r}",
        )
        _check_range("dropout", self.dropout, 0.0, 1.0, open_high=True)
        _check_range("cd_rate", self.cd_rate, 0.0, 1.0, open_high=True)
        _check_range("cd_pass_rate", self.cd_pass_rate, 0.0, 1.0)
        for name in ("kl_weight_initial_condition", "l2_weight_generator"):
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
        Trials per optimizer step. More than there are training trials means one step an epoch on all of them.
    ramp_epochs
        Epochs over which the weights of KL and L2 grow linearly from 0 to their values.
    gradient_clip
        Largest gradient norm of one model. The public scripts use 200 with losses scaled by 1e4: 0.02 here.
    score_smoothing
        Weight `a` of the past in the smoothed SV loss: `s_e = a · s_(e-1) + (1 - a) · loss_e`, `s_1 =
        loss_1`.
    """

    batch_size: int
    ramp_epochs: int = 80
    gradient_clip: float = 0.02
    score_smoothing: float = 0.7

    def __post_init__(self) -> None:
        _check_whole_number("batch_size", self.batch_size, least=1)
        _check_whole_number("ramp_epochs", self.ramp_epochs, least=0)
        require(
            math.isfinite(self.gradient_clip) and self.gradient_clip > 0,
            f"gradient_clip must be positive and finite, got {self.gradient_clip!r}",
        )
        _check_range("score_smoothing", self.score_smoothing, 0.0, 1.0, open_high=True)
