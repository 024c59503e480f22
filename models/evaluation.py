"""Evaluation under sample validation: the network reads the visible samples and is scored on the held-out ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from domain.architecture import Architecture
from models.data import Batch, Part, TrainingData, evenly
from models.model_state import checked_parameters
from models.network import Parameters, forward, trials_first
from models.objective import masked_input, negative_log_likelihood, never_read, read_samples
from models.observation import OBSERVATIONS

EVALUATION_ELEMENTS = 1 << 24  # of the largest tensor of an evaluation step, unless one batch has more


def masked_outputs(
    architecture: Architecture,
    parameters: Parameters,
    models: int,
    data: TrainingData,
    trials: Sequence[Tensor],
    *,
    least_trials: int = 1,
) -> Iterator[tuple[list[Tensor], Batch, list[Tensor]]]:
    """Yield the outputs of M models for some trials, from posterior means, without dropout.

    Parameters
    ----------
    architecture, parameters
        Of the pack, each parameter [M, …].
    models
        M.
    data, trials
        The data, and the indices of each session's trials.
    least_trials
        Minimum number of trials per step, whatever their size.

    Yields
    ------
    tuple
        Indices of each session's trials in this step; the batch; the outputs of each session [M, T - W, B, O · N].
    """
    unread = never_read(architecture, data.bins, data.device)
    widest = max(
        *data.neurons,
        3 * architecture.encoder_units,
        3 * architecture.generator_units,
        3 * architecture.controller_units,
    )
    for chosen in evenly(trials, max(least_trials, EVALUATION_ELEMENTS // (models * data.bins * widest))):
        batch = data.batch(chosen)
        inputs = [masked_input(part, unread) / (1 - data.sv_rate) for part in batch.parts]
        found = forward(
            architecture,
            parameters,
            [x.expand(models, *x.shape) for x in inputs],
            seen=batch.seen,
            external=batch.external,
        )
        yield chosen, batch, found.outputs


class MaskedLosses:
    """Mean negative log-likelihoods of M models at the held-out samples and at the samples that are read, step by step."""

    def __init__(self, architecture: Architecture, data: TrainingData, models: int) -> None:
        self._first = architecture.initial_condition_bins
        self._unread = never_read(architecture, data.bins, data.device)
        self._total = torch.zeros(2, models, dtype=torch.float64, device=data.device)
        self.samples = torch.zeros(2, 1, dtype=torch.float64, device=data.device)
        """Held-out samples and read samples so far."""

    def add(self, nll: Tensor, part: Part) -> None:
        """Add the samples of one session's trials in a step, `nll` [M, T - W, B, N]."""
        masks = part.held_out[self._first :], read_samples(part, self._unread)[self._first :]
        for row, mask in enumerate(masks):
            self._total[row] += (nll * mask).flatten(1).sum(1)
            self.samples[row] += mask.sum()

    def means(self) -> Tensor:
        """Return the means at held-out samples and at read samples, float64 [2, M]; 0 without a sample."""
        return self._total / self.samples.clamp(min=1)


@dataclass(frozen=True)
class MaskedPrediction:
    """What one model predicts for some trials of one session, from their visible samples.

    Parameters
    ----------
    session
        Number of the session.
    trials
        Integers [B], indices of the trials within the session.
    rates
        float32 [B, T, N], expected value per bin; NaN in the first W bins, before the generator begins.
    values
        float32 [B, T, N], the data; 0 where nothing was recorded.
    visible
        bool [B, T, N], samples that are not held out.
    held_out
        bool [B, T, N], samples that sample validation holds out, without the first W bins.
    nll
        float64, summed over the held-out samples, by the model's own observation, in nats.
    """

    session: int
    trials: NDArray[np.int64]
    rates: NDArray[np.float32]
    values: NDArray[np.float32]
    visible: NDArray[np.bool_]
    held_out: NDArray[np.bool_]
    nll: float


@torch.inference_mode()
def predict_held_out(
    architecture: Architecture,
    state: Mapping[str, Tensor],
    data: TrainingData,
    trials: Sequence[Tensor],
    on_step: Callable[[], None] = lambda: None,
) -> Iterator[MaskedPrediction]:
    """Predict the held-out samples of some trials with a model's best weights, as `EpochScores.sv_loss` does.

    Parameters
    ----------
    architecture, state
        Of the model; the state from `Population.state`.
    data
        The trials, with the mask of sample validation.
    trials
        Indices of each session's trials, e.g. `TrainingData.test_trials`.
    on_step
        Called after every step; may raise.
    """
    if not sum(map(len, trials)):
        return
    parameters = checked_parameters(architecture, state, "best.", data.device)
    first = architecture.initial_condition_bins
    for chosen, batch, outputs in masked_outputs(architecture, parameters, 1, data, trials):
        for session, (part, output) in enumerate(zip(batch.parts, outputs, strict=True)):
            if not len(chosen[session]):
                continue
            nll = negative_log_likelihood(architecture, parameters, session, output, part)[0]
            held_out = part.held_out.clone()
            held_out[:first] = False
            rates = OBSERVATIONS[architecture.observation].mean(output)[0]
            yield MaskedPrediction(
                session,
                chosen[session].cpu().numpy(),
                trials_first(rates, first).cpu().numpy(),
                trials_first(part.values).cpu().numpy(),
                trials_first(part.visible).cpu().numpy(),
                trials_first(held_out).cpu().numpy(),
                float((nll * held_out[first:]).sum(dtype=torch.float64)),
            )
        on_step()
