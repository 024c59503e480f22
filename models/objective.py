"""The loss of a training step: coordinated dropout, Poisson likelihood, KL, L2, and its random numbers.

Shapes: M models, B trials, T bins, N neurons, I initial-condition dimensions, G generator units.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from models.config import Architecture, Hyperparameters
from models.data import Batch
from models.network import Gaussian, Parameters, encode, generate, prior, read_out


@dataclass(frozen=True)
class PackHyperparameters:
    """The hyperparameters of a pack, each a float32 vector [M] on the device; see `Hyperparameters`."""

    learning_rate: Tensor
    dropout: Tensor
    cd_rate: Tensor
    cd_pass_rate: Tensor
    kl_weight_initial_condition: Tensor
    l2_weight_generator: Tensor

    @classmethod
    def of(cls, models: Sequence[Hyperparameters], device: torch.device) -> PackHyperparameters:
        """Stack the hyperparameters of single models."""
        return cls(
            *(
                torch.tensor(
                    [getattr(model, field.name) for model in models], dtype=torch.float32, device=device
                )
                for field in fields(cls)
            )
        )


class Noise(NamedTuple):
    """Random numbers of one step.

    `coordinated` int16 [M, T, B, N] and `dropout` int16 [M, T, B, G] are uniform on 0 … 32767 - 16384;
    `initial_condition` float32 [M, B, I] is standard normal.
    """

    coordinated: Tensor
    dropout: Tensor
    initial_condition: Tensor


UNIFORM_LEVELS = 1 << 15  # 15 random bits: probabilities are kept to 3e-5


class Loss(NamedTuple):
    """Parts of the training loss, each [M]; `total` is minimised, `reconstruction` is in nats per sample."""

    total: Tensor
    reconstruction: Tensor
    kl_initial_condition: Tensor


def noise_generator(device: torch.device, *counters: int) -> torch.Generator:
    """Return a generator that depends on its counters (model seed, epoch, …) alone: none needs saving."""
    text = ",".join(str(int(counter)) for counter in counters).encode()
    seed = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
    return torch.Generator(device).manual_seed(seed)


def draw_noise(
    architecture: Architecture,
    seeds: Sequence[int],
    epoch: int,
    step: int,
    bins: int,
    trials: int,
    device: torch.device,
) -> Noise:
    """Noise of every model for one step, from (model seed, epoch, step): the same alone and in any pack."""
    parts = []
    for seed in seeds:
        random = noise_generator(device, seed, epoch, step)
        parts.append(
            (
                _uniform_levels((bins, trials, architecture.neurons), random),
                _uniform_levels((bins, trials, architecture.generator_units), random),
                torch.randn(trials, architecture.initial_condition_dim, generator=random, device=device),
            )
        )
    return Noise(*(torch.stack(part) for part in zip(*parts, strict=True)))


def _uniform_levels(shape: tuple[int, int, int], random: torch.Generator) -> Tensor:
    """int16, uniform on the 15-bit levels -16384 … 16383: four numbers for one draw of 64 bits."""
    count = shape[0] * shape[1] * shape[2]
    words = torch.empty((count + 3) // 4, dtype=torch.int64, device=random.device)
    words.random_(-(2**63), None, generator=random)
    return (words.view(torch.int16)[:count] >> 1).view(shape)


def _level(probability: Tensor) -> Tensor:
    """Threshold [M, 1, 1, 1] below which a uniform level falls with this probability [M]."""
    return (probability * UNIFORM_LEVELS - UNIFORM_LEVELS // 2).round().to(torch.int16)[:, None, None, None]


def coordinated_dropout(uniform: Tensor, cd_rate: Tensor, cd_pass_rate: Tensor) -> tuple[Tensor, Tensor]:
    """Which samples enter, and which are targets.

    A sample is dropped with probability `cd_rate`; the dropped are the targets, and of the kept ones a share
    `cd_pass_rate`. With `cd_rate` 0 every sample is both.

    Parameters
    ----------
    uniform
        int16 levels [M, T, B, N].
    cd_rate, cd_pass_rate
        [M].

    Returns
    -------
    tuple[Tensor, Tensor]
        bool [M, T, B, N] each: kept as input, used as target.
    """
    pass_rate = torch.where(cd_rate == 0, torch.ones_like(cd_rate), cd_pass_rate)
    kept = uniform >= _level(cd_rate)
    # One threshold more on the same number: the lowest levels are dropped, those above them pass.
    below = cd_rate + (1 - cd_rate) * pass_rate
    everything = (below >= 1)[:, None, None, None]
    target = (uniform < _level(below.clamp(max=1 - 1 / UNIFORM_LEVELS))) | everything
    return kept, target


def poisson_nll(log_rates: Tensor, counts: Tensor, ln_factorials: Tensor) -> Tensor:
    """-ln p(x | λ) = λ - x ln λ + ln x!, in nats, per sample; λ in counts per bin."""
    return torch.addcmul(log_rates.exp() + ln_factorials, counts, log_rates, value=-1)


def kl_divergence(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q || p) = ½ Σ_i [ln σp² / σq² + (σq² + (μq - μp)²) / σp² - 1], in nats: [M, B]."""
    ratio = q.variance / p.variance
    return 0.5 * ((q.mean - p.mean).square() / p.variance + ratio - 1 - ratio.log()).sum(-1)


def training_loss(
    parameters: Parameters,
    hyper: PackHyperparameters,
    batch: Batch,
    noise: Noise,
    *,
    sv_rate: float,
    ramp: float,
) -> Loss:
    """Loss of every model on one batch, the controller being off.

    loss = mean NLL of the samples that count + ramp · (w_kl · KL(q(g0 | x) || p(g0)) + w_l2 · mean U²).
    The samples that count are valid, not held out by sample validation, and targets of coordinated dropout;
    the mean is over the number of them in this batch. KL is summed over dimensions, averaged over trials.

    Parameters
    ----------
    parameters
        Of the pack, each [M, …].
    hyper
        Vectors [M].
    batch
        B trials.
    noise
        Of this step.
    sv_rate
        Share of samples held out by sample validation: what remains is scaled by 1 / (1 - sv_rate).
    ramp
        In [0, 1].
    """
    T = batch.counts.shape[0]
    kept, target = coordinated_dropout(noise.coordinated, hyper.cd_rate, hyper.cd_pass_rate)
    scale = 1 / ((1 - sv_rate) * (1 - hyper.cd_rate))
    inputs = (batch.counts * batch.visible) * kept * scale[:, None, None, None]
    q = encode(parameters, inputs, batch.valid)
    initial_condition = torch.addcmul(q.mean, q.variance.sqrt(), noise.initial_condition)  # g0 ~ q

    states = generate(parameters, initial_condition, T)
    survives = noise.dropout >= _level(hyper.dropout)
    _, log_rates = read_out(parameters, states * (survives / (1 - hyper.dropout)[:, None, None, None]))

    nll = poisson_nll(log_rates, batch.counts, batch.ln_factorials)
    reconstruction = masked_mean(nll, target & batch.visible)
    kl = kl_divergence(q, prior(parameters)).mean(-1)
    l2 = parameters["generator.recurrent_weight"].square().mean((-2, -1))
    penalty = hyper.kl_weight_initial_condition * kl + hyper.l2_weight_generator * l2
    return Loss(reconstruction + ramp * penalty, reconstruction, kl)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values [M, …] where the mask [M, …] is true, per model [M]; 0 where it is true nowhere."""
    return (values * mask).flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1)
