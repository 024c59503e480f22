"""The null model: each neuron's mean. Its losses on a job's validation trials, and SV losses as bits per spike over it.

Like `domain.scores.likelihood.constant_rate_losses`, but for training data on the device, for every observation model, and over
exactly the samples of `EpochScores.sv_loss` and `validation_loss`, a few trials at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from domain.architecture import Architecture
from domain.parameter_shapes import session_prefix
from domain.scores.likelihood import ReferenceLosses, SampleCounts
from models.data import Batch, TrainingData
from models.evaluation import MaskedLosses
from models.network import initial_parameters
from models.objective import negative_log_likelihood

_TRIALS_AT_ONCE = 64


@torch.inference_mode()
def constant_output_losses(architecture: Architecture, data: TrainingData) -> ReferenceLosses:
    """Return the losses of constant outputs: each neuron's mean over the visible training samples.

    Parameters
    ----------
    architecture
        Of the models to compare with: it determines which samples count.
    data
        Of the job.
    """
    parameters = {
        name: values.to(data.device)[None]
        for name, values in initial_parameters(architecture, data.statistics, seed=0).items()
    }
    losses = MaskedLosses(architecture, data, models=1)
    for batch in _validation_batches(data):
        for session, part in enumerate(batch.parts):
            bias = parameters[f"{session_prefix(architecture, session)}rates.bias"][:, None, None]
            losses.add(negative_log_likelihood(architecture, parameters, session, bias, part), part)
    (sv_loss,), (validation_loss,) = losses.means().tolist()
    return ReferenceLosses(sv_loss, validation_loss, int(losses.samples[0]))


@dataclass(frozen=True)
class HeldOutSpikes:
    """Turns SV losses of a job into bits per spike, from sums over the held-out samples of its validation trials.

    Parameters
    ----------
    counts
        Of the held-out samples that have rates; at least one spike.
    ln_factorials
        Σ ln x! over them.
    """

    counts: SampleCounts
    ln_factorials: float

    def bits_per_spike(self, sv_loss: float) -> float:
        """Return the gain of an SV loss (nats per sample) over each neuron's mean over these samples, in bits per spike."""
        found = self.counts.bits_per_spike(self.ln_factorials - float(self.counts.samples.sum()) * sv_loss)
        assert found is not None
        return found


@torch.inference_mode()
def held_out_spikes(architecture: Architecture, data: TrainingData) -> HeldOutSpikes | None:
    """Sum up what turns SV losses into bits per spike. This needs no pass through a network.

    Parameters
    ----------
    architecture
        It says which bins have rates. The observation must be Poisson: the loss of another one is no likelihood of rates.
    data
        Of the job.

    Returns
    -------
    HeldOutSpikes or None
        None if no held-out sample has a spike, or the observation is not Poisson.
    """
    if architecture.observation != "poisson":
        return None
    first, ln_factorials = architecture.initial_condition_bins, 0.0
    by_session = [torch.zeros(2, n, dtype=torch.float64, device=data.device) for n in data.neurons]
    for batch in _validation_batches(data):
        for sums, part in zip(by_session, batch.parts, strict=True):
            held_out = part.held_out[first:]
            sums[0] += (part.values[first:] * held_out).sum((0, 1), dtype=torch.float64)
            sums[1] += held_out.sum((0, 1))
            assert part.ln_factorials is not None
            ln_factorials += float((part.ln_factorials[first:] * held_out).sum())
    spikes, samples = torch.cat(by_session, dim=1).cpu().numpy()
    return HeldOutSpikes(SampleCounts(spikes, samples), ln_factorials) if spikes.sum() else None


def _validation_batches(data: TrainingData) -> Iterator[Batch]:
    longest = max(map(len, data.validation_trials))
    for start in range(0, longest, _TRIALS_AT_ONCE):
        yield data.batch([trials[start : start + _TRIALS_AT_ONCE] for trials in data.validation_trials])
