"""The science of Latentry: LFADS trained in packs, coordinated dropout, sample validation, inference, scores.

Pure torch and numpy; it knows nothing of HTTP, queues or databases. Where each equation of the papers is:

| equation | place |
|---|---|
| x → q(g0 | x), x → codes: the encoders | `network.encode` |
| GRU: r, z, n, h | `network.gru`; its loop and gradient `scan.Scan`, for CPUs fused in `compiled/gru.h` |
| controller c_t, inferred inputs u_t, generator g_t | `network.generate`; its loop and gradient `scan.ControlledScan` |
| f_t = W_f g_t, outputs = W_r f_t + b | `network.read_out` |
| p(x | outputs): Poisson, negative binomial, zero-inflated gamma, Gaussian | `observation` |
| KL(q(g0 | x) || p(g0)) | `objective.kl_divergence`, `network.prior` |
| KL(q(u | x) || p(u)), autoregressive or Gaussian | `objective.kl_inputs` |
| coordinated dropout: which samples enter, which are targets | `objective.coordinated_dropout` |
| g0 ~ q(g0 | x), dropout, scaling by 1 / ((1 - sv_rate) (1 - cd_rate)), the loss | `objective.training_loss` |
| the ramp of KL and L2 | `population.Population._train_step` |
| states within ±5 | `network.generate` |
| what constant outputs score: bits per spike of SV losses, the limit of explosion | `constant_outputs` |
| simple predictors: mean, mean by bin, smoothed spikes | `domain.scores.baselines` |
| sample validation: the mask, and the score | `data.sample_validation_mask`, `evaluation`, `Population._evaluate` |
| Adam, clipping, decay, smoothing, best weights | `population` |
| read-ins by principal-components regression | `stitching` |
| averages over the posterior | `inference` |
| bits per spike, co-smoothing, R², … | `domain.scores` |
| systems whose rates are known | `synthetic` |
"""

from models.config import Architecture, ConfigurationError, Hyperparameters, TrainingOptions
from models.data import Session, TrainingData, sample_validation_mask
from models.inference import Latents, infer_latents, iterate_latents
from models.population import EpochScores, Population
from models.stitching import principal_components_initial_values
from models.synthetic import SyntheticRecording, chaotic_rnn, driven, lorenz, two_sessions

__all__ = [
    "Architecture",
    "ConfigurationError",
    "EpochScores",
    "Hyperparameters",
    "Latents",
    "Population",
    "Session",
    "SyntheticRecording",
    "TrainingData",
    "TrainingOptions",
    "chaotic_rnn",
    "driven",
    "infer_latents",
    "iterate_latents",
    "lorenz",
    "principal_components_initial_values",
    "sample_validation_mask",
    "two_sessions",
]
