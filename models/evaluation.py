"""Evaluation under sample validation: the network reads the samples that enter, and is scored on those that do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from domain.architecture import Architecture
from domain.parameter_shapes import parameter_shapes
from models.data import Batch, TrainingData, evenly
from models.network import Parameters, forward
from models.objective import masked_input, negative_log_likelihood, never_read
from models.observation import OBSERVATIONS

EVALUATION_ELEMENTS = 1 << 24  # of the largest tensor of an evaluation step, unless one batch has more


def masked_outputs(
    architecture: Architecture,
    parameters: Parameters,
    models: int,
    data: TrainingData,
    trials: Sequence[Tensor],
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
        A step has at least so many trials, however large they are.

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


@dataclass(frozen=True)
class MaskedPrediction:
    """What one model predicts for some trials of one session, of which it read the samples that enter.

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
        bool [B, T, N], samples that enter.
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
    parameters = {
        name: state[f"best.{name}"].to(data.device)[None] for name in parameter_shapes(architecture)
    }
    first = architecture.initial_condition_bins
    for chosen, batch, outputs in masked_outputs(architecture, parameters, 1, data, trials):
        for session, (part, output) in enumerate(zip(batch.parts, outputs, strict=True)):
            if not len(chosen[session]):
                continue
            nll = negative_log_likelihood(architecture, parameters, session, output, part)[0]
            held_out = part.held_out.clone()
            held_out[:first] = False
            rates = OBSERVATIONS[architecture.observation].mean(output)[0]
            whole = torch.nn.functional.pad(rates, (0, 0, 0, 0, first, 0), value=torch.nan)
            yield MaskedPrediction(
                session,
                chosen[session].cpu().numpy(),
                _trials_first(whole),
                _trials_first(part.values),
                _trials_first(part.visible),
                _trials_first(held_out),
                float((nll * held_out[first:]).sum(dtype=torch.float64)),
            )
        on_step()


def _trials_first(values: Tensor) -> NDArray[Any]:
    """[T, B, N] → [B, T, N]."""
    return np.ascontiguousarray(values.transpose(0, 1).cpu().numpy())
