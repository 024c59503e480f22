"""What constant outputs score on the validation trials of a job, and SV losses as bits per spike over them.

Like `likelihood.constant_rate_losses`, but for training data as they lie on the device: for every observation model, over
the very samples that `EpochScores.sv_loss` and `validation_loss` are means of, a few trials at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from domain.architecture import Architecture
from domain.parameter_shapes import session_prefix
from domain.scores.likelihood import ReferenceLosses, in_bits_per_spike
from models.data import Batch, TrainingData
from models.network import initial_parameters
from models.objective import negative_log_likelihood, never_read

_TRIALS_AT_ONCE = 64


@torch.inference_mode()
def constant_output_losses(architecture: Architecture, data: TrainingData) -> ReferenceLosses:
    """Losses of a model that knows each neuron's mean over the training samples that enter, and no more.

    Parameters
    ----------
    architecture
        Of the models that it is compared to: it says which samples count.
    data
        Of the job.
    """
    parameters = {
        name: values.to(data.device)[None]
        for name, values in initial_parameters(architecture, data.statistics, seed=0).items()
    }
    first = architecture.initial_condition_bins
    unread = never_read(architecture, data.bins, data.device)
    total = torch.zeros(2, dtype=torch.float64, device=data.device)
    count = torch.zeros(2, dtype=torch.float64, device=data.device)
    for batch in _validation_batches(data):
        for session, part in enumerate(batch.parts):
            bias = parameters[f"{session_prefix(architecture, session)}rates.bias"][:, None, None]
            nll = negative_log_likelihood(architecture, parameters, session, bias, part)[0]
            entered = part.visible if unread is None else part.visible & ~unread
            for row, mask in enumerate((part.held_out[first:], entered[first:])):
                total[row] += (nll * mask).sum(dtype=torch.float64)
                count[row] += mask.sum()
    sv_loss, validation_loss = (total / count.clamp(min=1)).tolist()
    return ReferenceLosses(sv_loss, validation_loss, int(count[0]))


@dataclass(frozen=True)
class HeldOutSpikes:
    """What turns SV losses of a job into bits per spike: a property of the held-out samples of its validation trials.

    Parameters
    ----------
    samples, spikes
        How many there are among the held-out samples that have rates; at least one spike.
    constant_loss
        Negative log-likelihood of all of them together, in nats, by each neuron's mean over these samples.
    """

    samples: float
    spikes: float
    constant_loss: float

    def bits_per_spike(self, sv_loss: float) -> float:
        """Return what an SV loss (nats per sample) gains over each neuron's mean over these samples, in bits per spike."""
        return in_bits_per_spike(self.constant_loss - self.samples * sv_loss, self.spikes)


@torch.inference_mode()
def held_out_spikes(architecture: Architecture, data: TrainingData) -> HeldOutSpikes | None:
    """Return what turns SV losses into bits per spike, as `bits_per_spike` defines them. No pass through a network is needed.

    With n samples of which S are spikes, and c_i samples and s_i spikes of neuron i, an SV loss L gives
    (Σ_i [s_i - s_i ln(s_i / c_i)] + Σ ln x! - n · L) / (S ln 2).

    Parameters
    ----------
    architecture
        It says which bins have rates. Its observation must be Poisson: the loss of another one is no likelihood of rates.
    data
        Of the job.

    Returns
    -------
    HeldOutSpikes or None
        None where no held-out sample has a spike, or the observation is another.
    """
    if architecture.observation != "poisson":
        return None
    first = architecture.initial_condition_bins
    constant_loss, samples, spikes = 0.0, 0.0, 0.0
    by_session: list[Tensor] = [
        torch.zeros(2, n, dtype=torch.float64, device=data.device) for n in data.neurons
    ]
    for batch in _validation_batches(data):
        for sums, part in zip(by_session, batch.parts, strict=True):
            held_out = part.held_out[first:]
            sums[0] += (part.values[first:] * held_out).sum((0, 1), dtype=torch.float64)
            sums[1] += held_out.sum((0, 1))
            assert part.ln_factorials is not None
            constant_loss += float((part.ln_factorials[first:] * held_out).sum())
    for counted, held in by_session:
        mean = counted / held.clamp(min=1)
        constant_loss += float((counted - torch.special.xlogy(counted, mean)).sum())
        samples, spikes = samples + float(held.sum()), spikes + float(counted.sum())
    return HeldOutSpikes(samples, spikes, constant_loss) if spikes else None


def _validation_batches(data: TrainingData) -> Iterator[Batch]:
    longest = max(map(len, data.validation_trials))
    for start in range(0, longest, _TRIALS_AT_ONCE):
        yield data.batch([trials[start : start + _TRIALS_AT_ONCE] for trials in data.validation_trials])
