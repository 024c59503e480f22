"""The loss of a training step: coordinated dropout, likelihood, KL, L2, and its random numbers.

Shapes: M models, B trials, T bins, N neurons, I initial-condition dimensions, G generator units, U inferred inputs,
W bins of a separate initial-condition window.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from domain.architecture import Architecture
from domain.parameter_shapes import session_prefix
from models.config import VARIANCE_FLOOR, Hyperparameters
from models.data import Batch, Part
from models.network import Gaussian, Parameters, PosteriorNoise, forward, prior, recurrent_mean_squares
from models.observation import OBSERVATIONS


@dataclass(frozen=True)
class PackHyperparameters:
    """The hyperparameters of a pack, each a float32 vector [M] on the device; see `Hyperparameters`."""

    learning_rate: Tensor
    dropout: Tensor
    cd_rate: Tensor
    cd_pass_rate: Tensor
    kl_weight_initial_condition: Tensor
    kl_weight_inputs: Tensor
    l2_weight_generator: Tensor
    l2_weight_controller: Tensor

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

    `coordinated` (int16 [M, T, B, N] for each session) and `dropout` (int16 [M, T - W, B, G]) are uniform on the levels
    -16384 … 16383; `posterior` is standard normal, see `PosteriorNoise`.
    """

    coordinated: tuple[Tensor, ...]
    dropout: Tensor
    posterior: PosteriorNoise


UNIFORM_LEVELS = 1 << 15  # 15 random bits: probabilities are kept to 3e-5


class Loss(NamedTuple):
    """Parts of the training loss, each [M]; `total` is minimised, `reconstruction` is in nats per sample."""

    total: Tensor
    reconstruction: Tensor
    kl_initial_condition: Tensor
    kl_inputs: Tensor


def noise_generator(device: torch.device, *counters: int) -> torch.Generator:
    """Return random numbers that depend only on the counters (model seed, epoch, …), so that no state needs saving."""
    text = ",".join(str(int(counter)) for counter in counters).encode()
    seed = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
    return torch.Generator(device).manual_seed(seed)


def draw_noise(
    architecture: Architecture,
    seeds: Sequence[int],
    epoch: int,
    step: int,
    *,
    bins: int,
    trials: Sequence[int],
    device: torch.device,
) -> Noise:
    """Draw the noise of every model for one step from (model seed, epoch, step): it does not depend on the pack."""
    M, B, generated = len(seeds), sum(trials), bins - architecture.initial_condition_bins
    shapes = [(bins, *session) for session in zip(trials, architecture.session_neurons, strict=True)]
    shapes.append((generated, B, architecture.generator_units))
    counts = [math.prod(shape) for shape in shapes]
    sizes = [-(-count // 4) * 4 for count in counts]  # a draw of 64 bits gives four levels
    words = torch.empty((M, sum(sizes) // 4), dtype=torch.int64, device=device)
    initial_condition = torch.empty((M, B, architecture.initial_condition_dim), device=device)
    inputs = None
    if architecture.has_controller:
        inputs = torch.empty((M, generated, B, architecture.inferred_inputs), device=device)
    for model, seed in enumerate(seeds):
        random = noise_generator(device, seed, epoch, step)
        words[model].random_(-(2**63), None, generator=random)
        initial_condition[model].normal_(generator=random)
        if inputs is not None:
            inputs[model].normal_(generator=random)
    levels = words.view(torch.int16)
    levels >>= 1
    *coordinated, dropout = (
        part[:, :count].view(M, *shape)
        for part, count, shape in zip(torch.split(levels, sizes, dim=1), counts, shapes, strict=True)
    )
    return Noise(tuple(coordinated), dropout, PosteriorNoise(initial_condition, inputs))


def _level(probability: Tensor) -> Tensor:
    """Return the threshold [M, 1, 1, 1] below which a uniform level falls with this probability [M]."""
    return (probability * UNIFORM_LEVELS - UNIFORM_LEVELS // 2).round().to(torch.int16)[:, None, None, None]


def coordinated_dropout(uniform: Tensor, cd_rate: Tensor, cd_pass_rate: Tensor) -> tuple[Tensor, Tensor]:
    """Draw which samples are input and which are targets.

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
    # The same random number decides both: levels below `cd_rate` are dropped, the next ones are kept and are also targets.
    below = cd_rate + (1 - cd_rate) * pass_rate
    everything = (below >= 1)[:, None, None, None]
    target = (uniform < _level(below.clamp(max=1 - 1 / UNIFORM_LEVELS))) | everything
    return kept, target


def never_read(architecture: Architecture, bins: int, device: torch.device) -> Tensor | None:
    """Return bool [T, 1, N or 1], true at samples that the encoders never read (held-out neurons, bins to predict); or None."""
    encoded = architecture.encoded_bins or bins
    if encoded >= bins and not architecture.held_out_neurons:
        return None
    neurons = architecture.session_neurons[0] if architecture.held_out_neurons else 1  # alike for all: 1
    return _unread(encoded, architecture.held_out_neurons, (bins, 1, neurons), device)


@lru_cache(maxsize=16)
def _unread(
    encoded: int, held_out_neurons: tuple[int, ...], shape: tuple[int, int, int], device: torch.device
) -> Tensor:
    """Return the mask of `never_read`. It is kept, so that a training step copies nothing to the device."""
    unread = np.zeros(shape, np.bool_)
    unread[encoded:] = True
    unread[:, :, list(held_out_neurons)] = True
    with torch.inference_mode(False):  # it serves training, too
        return torch.from_numpy(unread).to(device)


def kl_divergence(q: Gaussian, p: Gaussian) -> Tensor:
    """Return KL(q || p) = ½ Σ_i [ln σp² / σq² + (σq² + (μq - μp)²) / σp² - 1], in nats, summed over the last axis."""
    ratio = q.variance / p.variance
    return 0.5 * ((q.mean - p.mean).square() / p.variance + ratio - 1 - ratio.log()).sum(-1)


def kl_inputs(
    architecture: Architecture, parameters: Parameters, q: Gaussian, drawn: Tensor, inside: Tensor | None
) -> Tensor:
    """Return KL(q(u | x) || p(u)) of each trial's inferred inputs, in nats, summed over bins and inputs: [M, B].

    Gaussian prior: u_t ~ N(0, v) in every bin, closed form. Autoregressive prior: u_1 ~ N(0, v / (1 - a²)),
    u_t ~ N(a u_(t-1), v), a = e^(-1/τ); one draw's ln q(u) - ln p(u).

    Parameters
    ----------
    architecture, parameters
        Of the pack.
    q
        Posterior, [M, T, B, U] each.
    drawn
        A draw u from it, alike.
    inside
        bool [T, B, 1], the bins before the trial's end; None: all.
    """
    variance = _input_prior(architecture, parameters, "log_variance").exp() + VARIANCE_FLOOR
    if architecture.input_prior == "gaussian":
        by_bin = kl_divergence(q, Gaussian(torch.zeros_like(variance), variance))
    else:
        tau = _input_prior(architecture, parameters, "log_time_constant").exp()
        a = (-1 / tau).exp()
        stationary = variance / -torch.expm1(
            -2 / tau
        )  # 1 - a²: the difference itself would cancel for large τ
        p = Gaussian(
            torch.cat((torch.zeros_like(drawn[:, :1]), a * drawn[:, :-1]), dim=1),
            torch.cat((stationary, variance.expand(-1, drawn.shape[1] - 1, -1, -1)), dim=1),
        )
        by_bin = (_log_density(q, drawn) - _log_density(p, drawn)).sum(-1)
    return (by_bin if inside is None else by_bin * inside[..., 0]).sum(1)


def _input_prior(architecture: Architecture, parameters: Parameters, name: str) -> Tensor:
    """Return a parameter of the input prior, [M, 1, 1, U], learned or fixed."""
    values = parameters[f"input_prior.{name}"][:, None, None]
    return values if architecture.learn_input_prior else values.detach()


def _log_density(p: Gaussian, x: Tensor) -> Tensor:
    """Return the log of the normal density, without the constant that cancels between two of them."""
    return -0.5 * ((x - p.mean).square() / p.variance + p.variance.log())


def training_loss(
    architecture: Architecture,
    parameters: Parameters,
    hyper: PackHyperparameters,
    batch: Batch,
    noise: Noise,
    *,
    sv_rate: float,
    ramp: float,
) -> Loss:
    """Return the loss of every model on one batch.

    loss = mean NLL of the samples that count + ramp · (w_kl_ic · KL(q(g0 | x) || p(g0)) + w_kl_in · KL(q(u | x) ||
    p(u)) + w_l2 · mean U² of generator and controller). The samples that count were recorded, are not held out by
    sample validation, lie in the generated bins, and are targets of coordinated dropout; the mean is over the
    number of them in this batch. KLs are summed over dimensions and bins, averaged over trials.

    Parameters
    ----------
    architecture, parameters
        Of the pack, each parameter [M, …].
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
    values = batch.parts[0].values
    unread = never_read(architecture, len(values), values.device)
    scale = (1 / ((1 - sv_rate) * (1 - hyper.cd_rate)))[:, None, None, None]
    inputs, targets = [], []
    for part, levels in zip(batch.parts, noise.coordinated, strict=True):
        kept, target = coordinated_dropout(levels, hyper.cd_rate, hyper.cd_pass_rate)
        inputs.append(masked_input(part, unread) * kept * scale)
        targets.append(target if unread is None else target | unread)

    dropout_mask = (noise.dropout >= _level(hyper.dropout)) / (1 - hyper.dropout)[:, None, None, None]
    found = forward(
        architecture,
        parameters,
        inputs,
        seen=batch.seen,
        external=batch.external,
        noise=noise.posterior,
        dropout_mask=dropout_mask,
    )
    reconstruction = _mean_over_targets(architecture, parameters, batch, found.outputs, targets)
    kl_ic = kl_divergence(found.initial_condition, prior(architecture, parameters)).mean(-1)
    l2_generator, l2_controller = recurrent_mean_squares(architecture, parameters)
    penalty = hyper.kl_weight_initial_condition * kl_ic + hyper.l2_weight_generator * l2_generator
    kl_u = torch.zeros_like(kl_ic)
    if found.input_posterior is not None and found.inputs is not None:
        inside = None if batch.inside is None else batch.inside[architecture.initial_condition_bins :]
        kl_u = kl_inputs(architecture, parameters, found.input_posterior, found.inputs, inside).mean(-1)
        penalty = penalty + hyper.kl_weight_inputs * kl_u + hyper.l2_weight_controller * l2_controller
    return Loss(reconstruction + ramp * penalty, reconstruction, kl_ic, kl_u)


def read_samples(part: Part, unread: Tensor | None) -> Tensor:
    """Return which samples the encoders may read: visible, and not of `never_read`; bool [T, B, N]."""
    return part.visible if unread is None else part.visible & ~unread


def masked_input(part: Part, unread: Tensor | None) -> Tensor:
    """Return the data that the encoders may read, before coordinated dropout and scaling, zero elsewhere: [T, B, N]."""
    return part.values * read_samples(part, unread)


def negative_log_likelihood(
    architecture: Architecture, parameters: Parameters, session: int, outputs: Tensor, part: Part
) -> Tensor:
    """Return -ln p of every sample of a session's trials from bin W on, in nats: [M, T - W, B, N]."""
    first = architecture.initial_condition_bins
    constant = parameters.get(f"{session_prefix(architecture, session)}rates.constant")
    return OBSERVATIONS[architecture.observation].negative_log_likelihood(
        outputs,
        None if constant is None else constant[:, None, None],
        part.values[first:],
        None if part.ln_factorials is None else part.ln_factorials[first:],
    )


def _mean_over_targets(
    architecture: Architecture,
    parameters: Parameters,
    batch: Batch,
    outputs: Sequence[Tensor],
    targets: Sequence[Tensor],
) -> Tensor:
    """Return the mean NLL [M] over the samples that count; 0 without such samples."""
    first = architecture.initial_condition_bins
    total: Tensor | float = 0.0
    count: Tensor | float = 0.0
    for session, (part, output, target) in enumerate(zip(batch.parts, outputs, targets, strict=True)):
        nll = negative_log_likelihood(architecture, parameters, session, output, part)
        counts = target[:, first:] & part.visible[first:]
        total = total + (nll * counts).flatten(1).sum(1)
        count = count + counts.flatten(1).sum(1)
    assert isinstance(total, Tensor)
    assert isinstance(count, Tensor)
    return total / count.clamp(min=1)
