"""Latents of a trained model: averages over draws of the initial condition, in the trials' order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.config import Architecture, require
from models.data import check_spikes
from models.network import Gaussian, encode, generate, parameter_shapes, read_out
from models.objective import noise_generator

Float32 = NDArray[np.float32]
GENERATOR_ELEMENTS = 1 << 24  # of the largest tensor at once, unless a batch size is given


@dataclass(frozen=True)
class Latents:
    """Posterior averages of some trials; NaN in bins past a trial's end.

    Parameters
    ----------
    rates
        float32 [trials, T, N], counts per bin: the mean over draws of the rates.
    factors
        float32 [trials, T, F], mean over draws.
    initial_conditions
        float32 [trials, I], posterior mean.
    generator_states
        float32 [trials, T, G], mean over draws.
    """

    rates: Float32
    factors: Float32
    initial_conditions: Float32
    generator_states: Float32


def infer_latents(
    architecture: Architecture,
    state: Mapping[str, Tensor],
    spikes: NDArray[np.integer],
    trial_length_bins: NDArray[np.integer],
    *,
    posterior_samples: int = 50,
    seed: int = 0,
    batch_size: int | None = None,
    device: str | torch.device = "cpu",
    weights: Literal["best", "last"] = "best",
    on_step: Callable[[], None] | None = None,
) -> Latents:
    """Return posterior-averaged latents of all trials; `iterate_latents` tells more and needs less memory."""
    spikes, lengths = check_spikes(spikes, trial_length_bins)
    trials, T, N = spikes.shape
    latents = Latents(
        rates=np.empty((trials, T, N), np.float32),
        factors=np.empty((trials, T, architecture.factors), np.float32),
        initial_conditions=np.empty((trials, architecture.initial_condition_dim), np.float32),
        generator_states=np.empty((trials, T, architecture.generator_units), np.float32),
    )
    batches = iterate_latents(
        architecture,
        state,
        spikes,
        lengths,
        posterior_samples=posterior_samples,
        seed=seed,
        batch_size=batch_size,
        device=device,
        weights=weights,
        on_step=on_step,
    )
    for where, part in batches:
        for name in ("rates", "factors", "initial_conditions", "generator_states"):
            getattr(latents, name)[where] = getattr(part, name)
    return latents


def iterate_latents(
    architecture: Architecture,
    state: Mapping[str, Tensor],
    spikes: NDArray[np.integer],
    trial_length_bins: NDArray[np.integer],
    *,
    posterior_samples: int = 50,
    seed: int = 0,
    batch_size: int | None = None,
    device: str | torch.device = "cpu",
    weights: Literal["best", "last"] = "best",
    on_step: Callable[[], None] | None = None,
) -> Iterator[tuple[slice, Latents]]:
    """Latents batch by batch, in the trials' order. All samples are input: no mask, no dropout.

    Parameters
    ----------
    architecture
        Of the model.
    state
        From `Population.state`.
    spikes
        Integer counts [trials, T, N].
    trial_length_bins
        Integers [trials], each in 1 … T.
    posterior_samples
        Draws S of the initial condition per trial.
    seed
        Of the draws; trial i has the same draws whatever the batch size.
    batch_size
        Trials at once; None chooses by the memory that the draws take.
    device
        "cpu" or "cuda".
    weights
        "best" (at the lowest smoothed SV loss) or "last".
    on_step
        Called after every batch; may raise.

    Yields
    ------
    tuple[slice, Latents]
        Which trials, and their latents.
    """
    spikes, lengths = check_spikes(spikes, trial_length_bins)
    require(posterior_samples >= 1, f"posterior_samples must be at least 1, got {posterior_samples}")
    require(batch_size is None or batch_size >= 1, f"batch_size must be at least 1, got {batch_size}")
    require(weights in ("best", "last"), f'weights must be "best" or "last", got {weights!r}')
    require(
        spikes.shape[2] == architecture.neurons,
        f"the model is for {architecture.neurons} neurons, the spikes have {spikes.shape[2]}",
    )
    target = torch.device(device)
    parameters = _parameters(architecture, state, "best" if weights == "best" else "weights", target)
    widest = spikes.shape[1] * max(architecture.neurons, architecture.generator_units)
    size = batch_size or max(1, GENERATOR_ELEMENTS // (posterior_samples * widest))
    for start in range(0, len(spikes), size):
        where = slice(start, min(start + size, len(spikes)))
        yield (
            where,
            _latents(parameters, spikes[where], lengths[where], start, posterior_samples, seed, target),
        )
        if on_step is not None:
            on_step()


@torch.inference_mode()
def _latents(
    parameters: Mapping[str, Tensor],
    spikes: NDArray[np.integer],
    lengths: NDArray[np.int64],
    first_trial: int,
    samples: int,
    seed: int,
    device: torch.device,
) -> Latents:
    B, T, _ = spikes.shape
    valid = np.arange(T)[None, :] < lengths[:, None]  # [B, T]
    counts = (
        torch.from_numpy(np.ascontiguousarray((spikes * valid[:, :, None]).swapaxes(0, 1))).to(device).float()
    )
    mask = torch.from_numpy(np.ascontiguousarray(valid.T)[:, :, None]).to(device)
    q = encode(parameters, counts[None], mask)
    draws = _draws(q, first_trial, samples, seed)  # [1, B · S, I]
    states = generate(parameters, draws, T)  # [1, T, B · S, G]
    factors, log_rates = read_out(parameters, states)

    def average(values: Tensor) -> Float32:
        """[1, T, B · S, ·] → mean over draws [B, T, ·], NaN past the end."""
        mean = values.view(T, B, samples, -1).mean(2).masked_fill_(~mask, torch.nan)
        averaged: Float32 = mean.transpose(0, 1).cpu().numpy()
        return averaged

    return Latents(average(log_rates.exp_()), average(factors), q.mean[0].cpu().numpy(), average(states))


def _draws(q: Gaussian, first_trial: int, samples: int, seed: int) -> Tensor:
    """S draws of g0 for each trial, [1, B · S, I]; each trial has its own stream of noise."""
    _, B, I = q.mean.shape  # noqa: E741
    noise = torch.stack(
        [
            torch.randn(samples, I, generator=noise_generator(torch.device("cpu"), seed, first_trial + trial))
            for trial in range(B)
        ]
    ).to(q.mean.device)
    return (q.mean[0, :, None] + q.variance[0, :, None].sqrt() * noise).reshape(1, B * samples, I)


def _parameters(
    architecture: Architecture, state: Mapping[str, Tensor], kind: str, device: torch.device
) -> dict[str, Tensor]:
    """Parameters of one model as a pack of one, checked against the architecture."""
    parameters = {}
    for name, shape in parameter_shapes(architecture).items():
        key = f"{kind}.{name}"
        require(key in state, f"the model's state lacks {key!r}")
        require(
            tuple(state[key].shape) == shape,
            f"the model's {key!r} has shape {tuple(state[key].shape)}, the architecture needs {shape}",
        )
        parameters[name] = state[key].to(device)[None]
    return parameters
