"""Scores of inferred rates and latents, in plain numpy, each with its definition, units and source.

Rates λ are in counts per bin. A mask says which samples count; without one, all do.
"""

from domain.scores.baselines import Baselines, fit_baselines
from domain.scores.leak_diagnostics import (
    ModelLosses,
    ValidationDisagreement,
    validation_disagreement,
)
from domain.scores.likelihood import (
    ReferenceLosses,
    bits_per_spike,
    co_smoothing_bits_per_spike,
    compare_predictions,
    constant_rate_losses,
    forward_prediction_bits_per_spike,
    poisson_nll,
)
from domain.scores.rates import psth_r2, r2_true_rates
from domain.scores.ridge import ridge_decode_r2

__all__ = [
    "Baselines",
    "ModelLosses",
    "ReferenceLosses",
    "ValidationDisagreement",
    "bits_per_spike",
    "co_smoothing_bits_per_spike",
    "compare_predictions",
    "constant_rate_losses",
    "fit_baselines",
    "forward_prediction_bits_per_spike",
    "poisson_nll",
    "psth_r2",
    "r2_true_rates",
    "ridge_decode_r2",
    "validation_disagreement",
]
