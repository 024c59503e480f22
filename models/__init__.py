"""The science of Latentry: LFADS trained in packs, coordinated dropout, sample validation, inference, scores.

Pure torch and numpy, without HTTP, queues or databases. `domain` has the architecture and the shapes of all parameters. Where
each equation of the papers is:

| equation | place |
|---|---|
| the forward pass: encode → project inputs → generate → read out | `network.forward` |
| x → q(g0 | x), x → codes: the encoders | `network.encode` |
| GRU: r, z, n, h | `recurrence.gru_step`; its loop and gradient `scan.Scan`, fused in `compiled/gru.h` (CPU), `kernels` (GPU) |
| g0 clipped to ±5; controller c_t, inferred inputs u_t, generator g_t | `network.generate` |
| g_(t+1) = F(g_t, v_t): a generator | `generators.base`: one step, and its run with and without a controller |
| F of a GRU | `generators.gru`; beside a controller `controlled_scan.ControlledScan`, for CPUs `compiled/controlled_scan.c` |
| F of a discrete neural ODE | `generators.node` |
| F of linear dynamics | `generators.linear` |
| F of a network of low rank | `generators.low_rank` |
| f_t = W_f g_t, outputs = W_r f_t + b | `network.read_out` |
| p(x | outputs): Poisson, negative binomial, zero-inflated gamma, Gaussian | `observation` |
| KL(q(g0 | x) || p(g0)) | `objective.kl_divergence`, `network.prior` |
| KL(q(u | x) || p(u)), autoregressive or Gaussian | `objective.kl_inputs` |
| coordinated dropout: which samples are input, which are targets | `objective.coordinated_dropout` |
| g0 ~ q(g0 | x), dropout, scaling by 1 / ((1 - sv_rate) (1 - cd_rate)), the loss | `objective.training_loss` |
| the ramp of KL and L2 | `population.Population._train_step` |
| mean square of recurrent weights | `network.recurrent_mean_squares` |
| what constant outputs score: bits per spike of SV losses, the limit of explosion | `null_model` |
| simple predictors: mean, mean by bin, smoothed spikes | `domain.scores.baselines` |
| sample validation: the mask, and the score | `data.sample_validation_mask`, `evaluation`, `Population._evaluate` |
| Adam, clipping, decay, smoothing, best weights | `population` |
| read-ins by principal-components regression | `stitching` |
| averages over the posterior | `inference` |
| bits per spike, co-smoothing, R², … | `domain.scores` |
| systems whose rates are known | `domain.synthetic` |
"""

from domain.architecture import Architecture
from domain.errors import ConfigurationError
from models.config import Hyperparameters, TrainingOptions
from models.data import Session, TrainingData, sample_validation_mask
from models.inference import Latents, infer_latents, iterate_latents
from models.model_state import EpochScores
from models.population import Population
from models.stitching import principal_components_initial_values

__all__ = [
    "Architecture",
    "ConfigurationError",
    "EpochScores",
    "Hyperparameters",
    "Latents",
    "Population",
    "Session",
    "TrainingData",
    "TrainingOptions",
    "infer_latents",
    "iterate_latents",
    "principal_components_initial_values",
    "sample_validation_mask",
]
