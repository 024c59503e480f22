"""The science of Latentry: LFADS trained in packs, coordinated dropout, sample validation, inference, scores.

Pure torch and numpy; it knows nothing of HTTP, queues or databases. Read `network`, `observation`, `objective`,
`population`, `inference`, in that order, beside the papers; `scan` holds the recurrences with their gradients,
`stitching` the start of models of several sessions.
"""

from models.config import Architecture, ConfigurationError, Hyperparameters, TrainingOptions
from models.data import Session, TrainingData, sample_validation_mask
from models.inference import Latents, infer_latents, iterate_latents
from models.metrics import (
    ReferenceLosses,
    ValidationDisagreement,
    bits_per_spike,
    co_smoothing_bits_per_spike,
    constant_rate_losses,
    few_shot_bits_per_spike,
    forward_prediction_bits_per_spike,
    poisson_nll,
    psth_r2,
    r2_true_rates,
    ridge_decode_r2,
    spearman,
    validation_disagreement,
)
from models.population import EpochScores, Population
from models.stitching import principal_components_start
from models.synthetic import SyntheticRecording, chaotic_rnn, driven, lorenz, two_sessions

__all__ = [
    "Architecture",
    "ConfigurationError",
    "EpochScores",
    "Hyperparameters",
    "Latents",
    "Population",
    "ReferenceLosses",
    "Session",
    "SyntheticRecording",
    "TrainingData",
    "TrainingOptions",
    "ValidationDisagreement",
    "bits_per_spike",
    "chaotic_rnn",
    "co_smoothing_bits_per_spike",
    "constant_rate_losses",
    "driven",
    "few_shot_bits_per_spike",
    "forward_prediction_bits_per_spike",
    "infer_latents",
    "iterate_latents",
    "lorenz",
    "poisson_nll",
    "principal_components_start",
    "psth_r2",
    "r2_true_rates",
    "ridge_decode_r2",
    "sample_validation_mask",
    "spearman",
    "two_sessions",
    "validation_disagreement",
]
