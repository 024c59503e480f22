"""What defines the training of a model, beside its `Architecture`: two frozen dataclasses, checked when they are made.

`Hyperparameters` belong to one model, `TrainingOptions` are equal for all models of a job.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

from domain.architecture import Architecture
from domain.errors import require, require_valid
from domain.job_specification import Training, UsedPrecision

VARIANCE_FLOOR = 1e-4
"""Of every Gaussian in the network: added to the exponential of its log-variance."""


def _check_range(name: str, value: float, low: float, high: float, *, open_high: bool = False) -> None:
    inside = math.isfinite(value) and low <= value and (value < high if open_high else value <= high)
    bracket = ")" if open_high else "]"
    require(inside, f"{name} must lie in [{low:g}, {high:g}{bracket}, got {value!r}")


@dataclass(frozen=True)
class Hyperparameters:
    """What a search varies: one set per model. The fields are those of `domain.search_space.Space`.

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


WINDOW_STEPS = 20
"""Lengths that a growing window has at most: each takes some set-up on GPUs."""
_DEFAULTS: dict[str, Any] = {name: field.default for name, field in Training.model_fields.items()}


@dataclass(frozen=True)
class TrainingOptions:
    """Options of training that are equal for all models of a job.

    `domain.job_specification.Training` describes the fields, sets their defaults and checks their ranges. The precision is that
    which was chosen; here it is float32 unless another one is given.
    """

    batch_size: int
    ramp_epochs: int = _DEFAULTS["ramp_epochs"]
    window_epochs: int = _DEFAULTS["window_epochs"]
    window_start_bins: int = _DEFAULTS["window_start_bins"]
    gradient_clip: float = _DEFAULTS["gradient_clip"]
    score_smoothing: float = _DEFAULTS["score_smoothing"]
    decay_factor: float = _DEFAULTS["decay_factor"]
    decay_patience: int = _DEFAULTS["decay_patience"]
    min_learning_rate: float = _DEFAULTS["min_learning_rate"]
    precision: UsedPrecision = "float32"

    def __post_init__(self) -> None:
        require_valid(Training, asdict(self))
        require(
            self.precision in get_args(UsedPrecision),
            f"precision must be one of {', '.join(get_args(UsedPrecision))}, got {self.precision!r}",
        )

    @property
    def settled_epoch(self) -> int:
        """The epoch from which on the loss stays the same, see `Training.settled_epoch`."""
        return max(self.ramp_epochs, self.window_epochs)

    def window(self, epoch: int, bins: int, architecture: Architecture) -> int:
        """Return how many first bins of the trials an epoch trains on; it grows in at most `WINDOW_STEPS` steps.

        Parameters
        ----------
        epoch
            Epochs completed before it.
        bins
            T, all bins.
        architecture
            Whose initial-condition window and controller's lag need some bins.
        """
        if epoch >= self.window_epochs:
            return bins
        lag = architecture.controller_lag_bins if architecture.has_controller else 0
        needed = architecture.initial_condition_bins + lag + 1
        start = min(bins, max(self.window_start_bins, needed))
        step = math.floor(WINDOW_STEPS * epoch / self.window_epochs)
        return start + math.ceil((bins - start) * step / WINDOW_STEPS)

    @classmethod
    def of(cls, training: Training, precision: UsedPrecision) -> TrainingOptions:
        """Return the options in the specification of a job, with the precision that was chosen for it."""
        options = {field.name: getattr(training, field.name) for field in fields(cls)}
        return cls(**options | {"precision": precision})
