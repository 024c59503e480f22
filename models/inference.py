"""Latents of a trained model: averages over draws from the posterior, in the trials' order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from domain.architecture import Architecture
from domain.errors import require
from models.data import check_spikes, checked_external_inputs, recorded_samples, zero_unrecorded
from models.model_state import checked_parameters
from models.network import PosteriorNoise, forward, trials_first
from models.objective import never_read, noise_generator
from models.observation import OBSERVATIONS

Float32 = NDArray[np.float32]
GENERATOR_ELEMENTS = 1 << 24  # of the largest tensor at once, unless a batch size is given


@dataclass(frozen=True)
class Latents:
    """Posterior averages of some trials; NaN in bins past a trial's end, and before the generator begins.

    Parameters
    ----------
    rates
        float32 [trials, T, N], per bin: the mean over draws of the expected count (or signal).
    factors
        float32 [trials, T, F], mean over draws.
    initial_conditions
        float32 [trials, I], posterior mean.
    generator_states
        float32 [trials, T, G], mean over draws.
    inputs
        float32 [trials, T, U], mean over draws of the inferred inputs; None without a controller.
    """

    rates: Float32
    factors: Float32
    initial_conditions: Float32
    generator_states: Float32
    inputs: Float32 | None


def infer_latents(
    architecture: Architecture,
    state: Mapping[str, Tensor],
    spikes: NDArray[Any],
    trial_length_bins: NDArray[np.integer],
    *,
    missing: NDArray[np.bool_] | None = None,
    external_inputs: NDArray[np.floating] | None = None,
    session: int = 0,
    posterior_samples: int = 50,
    seed: int = 0,
    first_trial: int = 0,
    batch_size: int | None = None,
    device: str | torch.device = "cpu",
    weights: Literal["best", "last"] = "best",
    on_step: Callable[[], None] | None = None,
) -> Latents:
    """Return posterior-averaged latents of all trials. See `iterate_latents`, which needs less memory."""
    parts = [
        part
        for _, part in iterate_latents(
            architecture,
            state,
            spikes,
            trial_length_bins,
            missing=missing,
            external_inputs=external_inputs,
            session=session,
            posterior_samples=posterior_samples,
            seed=seed,
            first_trial=first_trial,
            batch_size=batch_size,
            device=device,
            weights=weights,
            on_step=on_step,
        )
    ]

    def joined(name: str) -> Float32:
        whole: Float32 = np.concatenate([getattr(part, name) for part in parts])
        return whole

    return Latents(
        rates=joined("rates"),
        factors=joined("factors"),
        initial_conditions=joined("initial_conditions"),
        generator_states=joined("generator_states"),
        inputs=joined("inputs") if architecture.has_controller else None,
    )


def iterate_latents(
    architecture: Architecture,
    state: Mapping[str, Tensor],
    spikes: NDArray[Any],
    trial_length_bins: NDArray[np.integer],
    *,
    missing: NDArray[np.bool_] | None = None,
    external_inputs: NDArray[np.floating] | None = None,
    session: int = 0,
    posterior_samples: int = 50,
    seed: int = 0,
    first_trial: int = 0,
    batch_size: int | None = None,
    device: str | torch.device = "cpu",
    weights: Literal["best", "last"] = "best",
    on_step: Callable[[], None] | None = None,
) -> Iterator[tuple[slice, Latents]]:
    """Yield latents batch by batch, in the trials' order, from all samples that the model may read, without dropout.

    The trials need not be those of the training: any of the same neurons, in bins of the same width.

    Parameters
    ----------
    architecture
        Of the model.
    state
        From `Population.state`.
    spikes, trial_length_bins, missing, external_inputs
        As in `models.data.Session`.
    session
        Whose neurons these are, where the model was trained on several sessions.
    posterior_samples
        Draws S of the initial condition, and of the inputs, per trial.
    seed
        Of the draws; trial i has the same draws whatever the batch size.
    first_trial
        Which of the streams of draws the first trial has: i gives one trial what it has as number i of many.
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
    sessions = len(architecture.session_neurons)
    require(0 <= session < sessions, f"session must lie in 0 … {sessions - 1}, got {session}")
    values, lengths = check_spikes(spikes, trial_length_bins, architecture.observation, missing)
    require(posterior_samples >= 1, f"posterior_samples must be at least 1, got {posterior_samples}")
    require(batch_size is None or batch_size >= 1, f"batch_size must be at least 1, got {batch_size}")
    require(weights in ("best", "last"), f'weights must be "best" or "last", got {weights!r}')
    neurons = architecture.session_neurons[session]
    require(
        values.shape[2] == neurons, f"the model is for {neurons} neurons, the spikes have {values.shape[2]}"
    )
    given = 0 if external_inputs is None else np.shape(external_inputs)[-1]
    require(
        given == architecture.external_inputs,
        f"the model is for {architecture.external_inputs} external inputs, got {given}",
    )
    fewest = architecture.fewest_bins
    require(
        values.shape[1] >= fewest, f"the model reads {fewest} bins or more, the spikes have {values.shape[1]}"
    )
    target = torch.device(device)
    inference = _Inference(
        architecture,
        checked_parameters(architecture, state, "best." if weights == "best" else "weights.", target),
        session,
        posterior_samples,
        seed,
        target,
    )
    widest = max(neurons, 3 * architecture.generator_units, 3 * architecture.controller_units)
    size = batch_size or max(1, GENERATOR_ELEMENTS // (posterior_samples * values.shape[1] * widest))
    for start in range(0, len(values), size):
        where = slice(start, min(start + size, len(values)))
        yield (
            where,
            inference.run(
                values[where],
                lengths[where],
                None if missing is None else missing[where],
                None if external_inputs is None else external_inputs[where],
                first_trial + start,
            ),
        )
        if on_step is not None:
            on_step()


@dataclass(frozen=True)
class _Inference:
    """What all batches share."""

    architecture: Architecture
    parameters: Mapping[str, Tensor]
    session: int
    samples: int
    seed: int
    device: torch.device

    @torch.inference_mode()
    def run(
        self,
        values: NDArray[Any],
        lengths: NDArray[np.int64],
        missing: NDArray[np.bool_] | None,
        external_inputs: NDArray[np.floating] | None,
        first_trial: int,
    ) -> Latents:
        """Latents of some trials [B, T, N]."""
        architecture, parameters, S = self.architecture, self.parameters, self.samples
        B, T, _ = values.shape
        first = architecture.initial_condition_bins
        inside, recorded = recorded_samples(values.shape, lengths, missing)
        x = self._tensor(zero_unrecorded(values, recorded)).float()
        if (unread := never_read(architecture, T, self.device)) is not None:
            x = x * ~unread
        external = checked_external_inputs(external_inputs, inside)
        # What stands for the other sessions has no trial.
        inputs = [x.new_zeros(1, T, 0, neurons) for neurons in architecture.session_neurons]
        inputs[self.session] = x[None]
        found = forward(
            architecture,
            parameters,
            inputs,
            seen=self._tensor(np.asarray(recorded.any(2, keepdims=True))),
            external=None if external is None else self._tensor(external),
            noise=self._noise(B, T - first, first_trial),
            draws=S,
        )
        rates = OBSERVATIONS[architecture.observation].mean(found.outputs[self.session])
        mask = self._tensor(inside[:, :, None])[first:]

        def average(values: Tensor) -> Float32:
            """[1, T - W, B · S, ·] → mean over draws [B, T, ·], NaN past the end and in the first W bins."""
            mean = values.view(T - first, B, S, -1).mean(2).masked_fill_(~mask, torch.nan)
            averaged: Float32 = trials_first(mean, first).cpu().numpy()
            return averaged

        return Latents(
            rates=average(rates),
            factors=average(found.factors),
            initial_conditions=found.initial_condition.mean[0].cpu().numpy(),
            generator_states=average(found.states),
            inputs=None if found.inputs is None else average(found.inputs),
        )

    def _noise(self, trials: int, bins: int, first_trial: int) -> PosteriorNoise:
        """Draw the noise of S draws of each trial; each trial has its own stream of random numbers."""
        architecture, S = self.architecture, self.samples
        initial_condition, inputs = [], []
        for trial in range(first_trial, first_trial + trials):
            random = noise_generator(torch.device("cpu"), self.seed, trial)
            shape: tuple[int, ...] = (S, architecture.initial_condition_dim)
            initial_condition.append(torch.randn(shape, generator=random))
            if architecture.has_controller:
                inputs.append(torch.randn((bins, S, architecture.inferred_inputs), generator=random))
        return PosteriorNoise(
            torch.cat(initial_condition)[None].to(self.device),
            torch.cat(inputs, dim=1)[None].to(self.device) if inputs else None,
        )

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        """[B, T, ·] → [T, B, ·] on the device."""
        return torch.from_numpy(np.ascontiguousarray(array.swapaxes(0, 1))).to(self.device)
