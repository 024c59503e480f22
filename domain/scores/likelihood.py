"""Poisson likelihood of spikes under rates, and its gain over each neuron's mean in bits per spike.

Bits per spike is one formula with several names, by the samples that are scored. For the samples that sample validation holds
out, pass their mask to `bits_per_spike`. On held-out neurons the score is co-smoothing, on bins after the encoded ones it is
forward prediction (Pei et al. 2021, Neural Latents Benchmark).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from domain.errors import require
from domain.scores.baselines import mean_counts

Floats = NDArray[np.floating]
Gain = TypeVar("Gain", float, NDArray[np.float64])
LOWEST_RATE = 1e-9  # smaller rates are clipped to this


def poisson_nll(
    rates: Floats,
    spikes: NDArray[Any],
    mask: NDArray[np.bool_] | None = None,
    *,
    include_ln_factorial: bool = True,
) -> float:
    """Return the mean of λ - x ln λ + ln x! over the samples that count, in nats per sample.

    Parameters
    ----------
    rates
        Counts per bin, any shape.
    spikes
        Counts, same shape.
    mask
        bool, broadcastable to that shape.
    include_ln_factorial
        False leaves out ln x!, which does not depend on the model.
    """
    rates, spikes, chosen = aligned(rates, spikes, mask)
    clipped = np.maximum(rates[chosen], LOWEST_RATE)
    nll = clipped - spikes[chosen] * np.log(clipped)
    constant = float(_ln_factorial(spikes[chosen]).mean()) if include_ln_factorial else 0.0
    return float(nll.mean()) + constant


def in_bits_per_spike(gain: Gain, spikes: float) -> Gain:
    """Return a gain of log-likelihood, summed over samples and in nats, in bits per spike."""
    return gain / (spikes * math.log(2))


def bits_per_spike(
    rates: Floats,
    spikes: NDArray[Any],
    mean_rates: Floats | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> float:
    """Return (1 / (n_spikes · ln 2)) · Σ [(x ln λ - λ) - (x ln λ̄ - λ̄)], the gain over each neuron's mean λ̄.

    Parameters
    ----------
    rates
        Counts per bin, [..., N].
    spikes
        Counts, same shape; NaN only where the mask is false.
    mean_rates
        λ̄ [N], counts per bin; None takes each neuron's mean count over the samples that count.
    mask
        bool, broadcastable to [..., N].
    """
    rates, spikes, chosen = aligned(rates, spikes, mask)
    n_spikes = float(spikes[chosen].sum())
    require(n_spikes > 0, "bits per spike is not defined without a spike among the samples that count")
    if mean_rates is None:
        over = tuple(range(spikes.ndim - 1))
        mean_rates = np.where(chosen, spikes, 0.0).sum(over) / np.maximum(chosen.sum(over), 1)
    constant = np.broadcast_to(mean_rates, rates.shape)
    gain = poisson_nll(constant, spikes, chosen) - poisson_nll(rates, spikes, chosen)
    return in_bits_per_spike(gain * int(chosen.sum()), n_spikes)


@dataclass(frozen=True)
class SampleCounts:
    """Number of spikes and samples of each neuron. They suffice to compute bits per spike.

    Parameters
    ----------
    spikes, samples
        [N] each; neurons of all sessions.
    """

    spikes: Floats
    samples: Floats

    def bits_per_spike(self, log_likelihood: float) -> float | None:
        """Return the gain over each neuron's mean over these samples; None without a spike.

        Parameters
        ----------
        log_likelihood
            Σ (x ln λ - λ) over all samples, in nats, without ln x!.
        """
        total = float(self.spikes.sum())
        if not total:
            return None
        return in_bits_per_spike(log_likelihood - float(self._of_means().sum()), total)

    def bits_per_spike_by_neuron(self, log_likelihood: Floats) -> NDArray[np.float64]:
        """Return the gain of each neuron over its mean, [N]; NaN without a spike.

        Parameters
        ----------
        log_likelihood
            [N], Σ (x ln λ - λ) over the samples of each neuron, in nats, without ln x!.
        """
        spikes = np.where(self.spikes > 0, self.spikes, np.nan)
        return np.asarray((log_likelihood - self._of_means()) / (spikes * math.log(2)))

    def _of_means(self) -> NDArray[np.float64]:
        """Return Σ (x ln λ̄ - λ̄) of each neuron's mean λ̄."""
        mean = self.spikes / np.maximum(self.samples, 1)
        return np.asarray(self.spikes * np.log(np.where(mean > 0, mean, 1)) - self.spikes)


def co_smoothing_bits_per_spike(
    rates: Floats,
    spikes: NDArray[Any],
    held_out_neurons: Sequence[int] | NDArray[Any],
    mask: NDArray[np.bool_] | None = None,
) -> float:
    """Return the bits per spike of neurons that the encoder never read, on trials not trained on: co-bps.

    As in the Neural Latents Benchmark: λ̄ of a neuron is its mean count over the given trials and bins (the test trials
    themselves). All neurons share one sum and one count of spikes. A rate below 1e-9 is taken as 1e-9. Samples with NaN
    spikes do not count.

    Parameters
    ----------
    rates
        [trials, T, N] of all neurons, counts per bin, finite and not negative where they count.
    spikes
        Counts, same shape.
    held_out_neurons
        bool [N], or indices of the neurons to score.
    mask
        bool, broadcastable to [trials, T, N] ([trials, T, 1] for ragged trials).
    """
    columns = np.asarray(held_out_neurons)
    N = np.shape(rates)[-1]
    if columns.dtype == np.bool_:
        require(columns.shape == (N,), f"held_out_neurons must be [{N}], got {columns.shape}")
        columns = np.flatnonzero(columns)
    else:
        columns = columns.astype(np.int64)
    require(
        0 < len(columns) == len(set(columns.tolist())) and columns.min() >= 0 and columns.max() < N,
        f"held_out_neurons must name at least one neuron, each once, in 0 … {N - 1}, got {held_out_neurons}",
    )
    scored = np.isin(np.arange(N), columns)
    return _benchmark_bits_per_spike(rates, spikes, scored if mask is None else mask & scored)


def forward_prediction_bits_per_spike(
    rates: Floats, spikes: NDArray[Any], encoded_bins: int, mask: NDArray[np.bool_] | None = None
) -> float:
    """Return the bits per spike of all neurons in the bins after those that the encoder read: fp-bps.

    As in the Neural Latents Benchmark, held-in and held-out neurons are scored together, on test trials. λ̄ is each
    neuron's mean count over these forward bins alone. All else is as for `co_smoothing_bits_per_spike`.

    Parameters
    ----------
    rates
        [trials, T, N], counts per bin, finite and not negative where they count.
    spikes
        Counts, same shape.
    encoded_bins
        Bins 0 … encoded_bins - 1 were read by the encoder and do not count.
    mask
        bool, broadcastable to [trials, T, N] ([trials, T, 1] for ragged trials).
    """
    T = np.shape(rates)[1]
    require(0 < encoded_bins < T, f"encoded_bins must lie in 1 … {T - 1}, got {encoded_bins}")
    forward = (np.arange(T) >= encoded_bins)[:, None]
    return _benchmark_bits_per_spike(rates, spikes, forward if mask is None else mask & forward)


@dataclass(frozen=True)
class ReferenceLosses:
    """The losses of constant rates on the validation trials of a job, in nats per sample with ln x!.

    Parameters
    ----------
    sv_loss
        Loss at the samples that sample validation holds out.
    validation_loss
        Loss at the samples that the model reads.
    held_out_samples
        Number of held-out samples.
    """

    sv_loss: float
    validation_loss: float
    held_out_samples: int


def constant_rate_losses(
    spikes: NDArray[Any],
    held_out: NDArray[np.bool_],
    is_validation: NDArray[np.bool_],
    recorded: NDArray[np.bool_] | None = None,
) -> ReferenceLosses:
    """Return the losses of constant rates: each neuron's mean count over the training samples that models read.

    Parameters
    ----------
    spikes
        Counts [trials, T, N].
    held_out
        bool [trials, T, N], the mask of sample validation.
    is_validation
        bool [trials].
    recorded
        bool, broadcastable to [trials, T, N].
    """
    _, spikes, exists = aligned(np.zeros(np.shape(spikes)), spikes, recorded)
    is_validation = np.asarray(is_validation, bool)
    validation, training = exists[is_validation], exists[~is_validation] & ~held_out[~is_validation]
    mean_rates = mean_counts(spikes[~is_validation], training)
    x, hidden = spikes[is_validation], held_out[is_validation]
    constant = np.broadcast_to(mean_rates, x.shape)
    return ReferenceLosses(
        sv_loss=poisson_nll(constant, x, validation & hidden),
        validation_loss=poisson_nll(constant, x, validation & ~hidden),
        held_out_samples=int((validation & hidden).sum()),
    )


@dataclass(frozen=True)
class Comparison:
    """The gain of a model over a baseline, on the same samples.

    Parameters
    ----------
    difference
        Bits per spike of the model less those of the baseline.
    standard_error
        Standard error of the difference, from the spread over trials; None for fewer than two trials.
    """

    difference: float
    standard_error: float | None

    @property
    def verdict(self) -> str:
        """Return ``above``, ``below``, or ``about_as_good`` within two standard errors."""
        error = 2 * self.standard_error if self.standard_error is not None else np.inf
        return (
            "above" if self.difference > error else "below" if self.difference < -error else "about_as_good"
        )


def compare_predictions(
    model: NDArray[np.float64], baseline: NDArray[np.float64], spikes: float
) -> Comparison:
    """Compare two predictors trial by trial.

    With d_i the difference of the log-likelihoods of trial i, the difference is Σ d_i / (spikes · ln 2) and its standard error
    √(n · var(d)) / (spikes · ln 2): trials are independent, samples of one trial are not.

    Parameters
    ----------
    model, baseline
        Log-likelihoods [trials], in nats, each summed over the samples of the trial that count.
    spikes
        Number of spikes in all these samples.
    """
    require(
        model.shape == baseline.shape,
        f"got {len(model)} trials of the model and {len(baseline)} of the baseline",
    )
    require(spikes > 0, "bits per spike are not defined without a spike")
    gains = in_bits_per_spike(model - baseline, spikes)
    error = float(np.sqrt(len(gains) * gains.var(ddof=1))) if len(gains) > 1 else None
    return Comparison(float(gains.sum()), error)


def aligned(
    rates: Floats, reference: NDArray[Any], mask: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return both as float64 and the mask as bool of the same shape, checked."""
    ours, theirs = np.asarray(rates, np.float64), np.asarray(reference, np.float64)
    require(ours.shape == theirs.shape, f"rates have shape {ours.shape}, their reference {theirs.shape}")
    chosen = np.broadcast_to(np.asarray(True if mask is None else mask, np.bool_), ours.shape)
    require(bool(chosen.any()), "no sample counts: the mask is false everywhere")
    return ours, theirs, chosen


def _benchmark_bits_per_spike(rates: Floats, spikes: NDArray[Any], mask: NDArray[np.bool_]) -> float:
    """Return the bits per spike of [trials, T, N] without NaN spikes; check that rates meet the benchmark's conditions."""
    rates, spikes, chosen = aligned(rates, spikes, mask)
    require(rates.ndim == 3, f"rates must be [trials, T, N], got {rates.shape}")
    chosen = chosen & ~np.isnan(spikes)
    counted = rates[chosen]
    require(
        bool(np.isfinite(counted).all() and (counted >= 0).all()),
        "rates must be finite and not negative in every sample that counts",
    )
    return bits_per_spike(rates, spikes, mask=chosen)


def _ln_factorial(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ln x! by table."""
    table = np.array([math.lgamma(count + 1) for count in range(int(counts.max(initial=0)) + 1)])
    looked_up: NDArray[np.float64] = table[counts.astype(np.int64)]
    return looked_up
