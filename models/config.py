"""What defines the training of a model, beside its `Architecture`: two frozen dataclasses, checked when they are made.

`Hyperparameters` belong to one model, `TrainingOptions` are equal for all models of a job.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from domain.errors import require, require_whole_number

VARIANCE_FLOOR = 1e-4
"""Of every Gaussian in the network: added to the exponential of its log-variance."""


def _check_range(name: str, value: float, low: float, high: float, *, open_high: bool = False) -> None:
    inside = math.isfinite(value) and low <= value and (value < high if open_high else value <= high)
    bracket = ")" if open_high else "]"
    require(inside, f"{name} must lie in [{low:g}, {high:g}{bracket}, got {value!r}")


Precision = Literal["float32", "bfloat16"]


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
        require_whole_number("batch_size", self.batch_size, least=1)
        require_whole_number("ramp_epochs", self.ramp_epochs, least=0)
        require(
            math.isfinite(self.gradient_clip) and self.gradient_clip > 0,
            f"gradient_clip must be positive and finite, got {self.gradient_clip!r}",
        )
        _check_range("score_smoothing", self.score_smoothing, 0.0, 1.0, open_high=True)
        _check_range("decay_factor", self.decay_factor, 0.01, 1.0)
        require_whole_number("decay_patience", self.decay_patience, least=1)
        _check_range("min_learning_rate", self.min_learning_rate, 0.0, 1.0)
        require(
            self.precision in get_args(Precision),
            f"precision must be one of {', '.join(get_args(Precision))}, got {self.precision!r}",
        )
