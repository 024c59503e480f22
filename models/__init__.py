"""The science of Latentry: LFADS trained in packs, coordinated dropout, sample validation, inference, scores.

Pure torch and numpy; it knows nothing of HTTP, queues or databases. Read `network`, `objective`,
`population`, `inference`, in that order, beside the papers.
"""

from models.config import Architecture, ConfigurationError, Hyperparameters, TrainingOptions
from models.data import TrainingData, sample_validation_mask
from models.inference import Latents, infer_latents, iterate_latents
from models.metrics import bits_per_spike, poisson_nll, r2_true_rates, ridge_decode_r2
from models.population import EpochScores, Population
from models.synthetic import SyntheticRecording, lorenz

__all__ = [
    "Architecture",
    "ConfigurationError",
    "EpochScores",
    "Hyperparameters",
    "Latents",
    "Population",
    "SyntheticRecording",
    "TrainingData",
    "TrainingOptions",
    "bits_per_spike",
    "infer_latents",
    "iterate_latents",
    "lorenz",
    "poisson_nll",
    "r2_true_rates",
    "ridge_decode_r2",
    "sample_validation_mask",
]
