"""Simple predictors of spikes, fitted to training trials. A model should predict better than they do.

| baseline | rate of neuron n in bin t of a trial |
|---|---|
| `mean` | m_n, its mean over the training samples that may be read |
| `psth` | its mean in each bin over training trials (of the trial's condition), smoothed |
| `smoothed_spikes` | its spikes in the same trial, smoothed |

The last two are one formula, the posterior mean of a rate with prior Gamma(α, α / m_n):

    λ = m_n · (Σ_s k(t - s) x_s + α) / (m_n · Σ_s k(t - s) + α),    k(d) = exp(-d² / 2σ²).

The sums are over observed samples only. So missing and held-out samples, ends of trials and trials of different lengths need
no correction, and no rate is zero. σ (in bins) and α (in spikes) are the same for all neurons and sessions. They maximise the
likelihood of training samples, each predicted without itself (`smoothed_spikes`) or without its own trial (`psth`).
Bins are integers s, t of one trial; counts x are spikes per bin.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.errors import require
from domain.smoothing import gaussian

Float32 = NDArray[np.float32]
PRIOR_SPIKES = np.float32(2.0) ** np.arange(-2, 10)
"""Candidates for α."""
NARROWEST_BINS = 0.5
"""The first candidate for σ. Each next one is √2 times larger, up to the length of the trials."""
FITTED_SAMPLES = 300_000
"""Number of training samples that choose σ and α, over all sessions."""
FEWEST_FITTED_TRIALS = 8
SAMPLES_AT_ONCE = 2_000_000
NO_CONDITION = -1


@dataclass(frozen=True)
class Recording:
    """Training trials of one session.

    Parameters
    ----------
    spikes
        Counts [trials, T, N].
    enters
        bool [trials, T, N], the samples that may be read.
    condition
        Integers [trials] from 0 on, or `NO_CONDITION`.
    """

    spikes: NDArray[Any]
    enters: NDArray[np.bool_]
    condition: NDArray[np.int64]


@dataclass(frozen=True)
class Smoothing:
    """How counts are smoothed to rates.

    Parameters
    ----------
    sd_bins
        σ of the Gaussian, in bins.
    prior_spikes
        α: the weight of the neuron's mean, as a number of spikes.
    """

    sd_bins: float
    prior_spikes: float


@dataclass(frozen=True)
class Baselines:
    """The simple predictors of all sessions of a data set, see `fit_baselines`.

    Parameters
    ----------
    means
        For each session float32 [N], counts per bin.
    psths
        For each session float32 [C + 1, T, N], counts per bin: of each condition, and last of all trials together.
    psth_rows
        For each session the row of `psths` of each condition; other conditions use the last row.
    psth, smoothed_spikes
        The smoothing that was chosen.
    by_condition
        Whether `psth` distinguishes conditions, which is chosen like the smoothing.
    """

    means: tuple[Float32, ...]
    psths: tuple[Float32, ...]
    psth_rows: tuple[dict[int, int], ...]
    psth: Smoothing
    smoothed_spikes: Smoothing
    by_condition: bool

    def predict_psth(self, session: int, condition: NDArray[np.int64]) -> Float32:
        """Return the mean by bin for trials of these conditions, float32 [trials, T, N]."""
        rows = self.psth_rows[session]
        return self.psths[session][[rows.get(int(one), -1) for one in condition]]

    def predict_smoothed(self, session: int, spikes: NDArray[Any], enters: NDArray[np.bool_]) -> Float32:
        """Return smoothed spikes of trials, float32 [trials, T, N], from the samples that may be read alone."""
        kernel = _kernel(spikes.shape[1], self.smoothed_spikes.sd_bins)
        rates = np.empty(spikes.shape, np.float32)
        for rows in blocks(spikes.shape):
            x, seen = _time_first(spikes[rows], enters[rows])
            found = _shrunk(
                self.means[session],
                kernel @ x,
                kernel @ seen,
                self.smoothed_spikes.prior_spikes,
                spikes.shape,
            )
            rates[rows] = found.swapaxes(0, 1)
        return rates


def fit_baselines(recordings: Sequence[Recording]) -> Baselines:
    """Fit simple predictors to the training trials of every session of a data set."""
    require(len(recordings) > 0, "there must be at least one session, got none")
    totals = [_totals(recording) for recording in recordings]
    means = [mean_counts(recording.spikes, recording.enters) for recording in recordings]
    smoothed, by_all, by_condition = _log_likelihoods(recordings, totals, means)
    widths = _widths(max(recording.spikes.shape[1] for recording in recordings))
    tells_apart = bool(by_condition.max() > by_all.max())
    psth = _best(by_condition if tells_apart else by_all, widths)
    psths = []
    for total, mean in zip(totals, means, strict=True):
        counts, seen = (sums if tells_apart else sums[-1:] for sums in (total.counts, total.seen))
        kernel = _kernel(counts.shape[1], psth.sd_bins)
        psths.append(
            np.stack(
                [
                    _shrunk(mean, kernel @ x, kernel @ n, psth.prior_spikes)
                    for x, n in zip(counts, seen, strict=True)
                ]
            )
        )
    return Baselines(
        tuple(means),
        tuple(psths),
        tuple(total.rows if tells_apart else {} for total in totals),
        psth,
        _best(smoothed, widths),
        tells_apart,
    )


def mean_counts(spikes: NDArray[Any], enters: NDArray[np.bool_]) -> Float32:
    """Return each neuron's mean over the samples that may be read, float32 [N], with half a spike in one further sample.

    Models are compared to these *constant rates*. The half spike keeps the mean of a silent neuron above zero.
    """
    total = np.zeros(spikes.shape[-1])
    for rows in blocks(spikes.shape):
        total += np.where(enters[rows], spikes[rows], 0).sum((0, 1))
    mean: Float32 = ((total + 0.5) / (enters.sum((0, 1)) + 1.0)).astype(np.float32)
    return mean


@dataclass(frozen=True)
class _Totals:
    """Sums over the trials of each of C conditions, and over all trials.

    Parameters
    ----------
    counts
        float32 [C + 1, T, N]: spike counts of the samples that may be read. The last row is the sum over all trials.
    seen
        float32 [C + 1, T, N]: numbers of samples that may be read.
    rows
        The row of each condition.
    """

    counts: Float32
    seen: Float32
    rows: dict[int, int]


def _totals(recording: Recording) -> _Totals:
    spikes, enters = recording.spikes, recording.enters
    known = sorted(set(recording.condition.tolist()) - {NO_CONDITION})
    counts = np.zeros((len(known) + 1, *spikes.shape[1:]), np.float32)
    seen = np.zeros_like(counts)
    for row, condition in enumerate(known):
        for trial in np.flatnonzero(recording.condition == condition):
            counts[row] += np.where(enters[trial], spikes[trial], 0)
            seen[row] += enters[trial]
    for trial in np.flatnonzero(recording.condition == NO_CONDITION):
        counts[-1] += np.where(enters[trial], spikes[trial], 0)
        seen[-1] += enters[trial]
    counts[-1] += counts[:-1].sum(0)
    seen[-1] += seen[:-1].sum(0)
    return _Totals(counts, seen, {condition: row for row, condition in enumerate(known)})


def _log_likelihoods(
    recordings: Sequence[Recording], totals: Sequence[_Totals], means: Sequence[Float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return cross-validated log-likelihoods [widths, priors] of smoothed spikes, of one PSTH, and of PSTHs by condition."""
    widths = _widths(max(recording.spikes.shape[1] for recording in recordings))
    found = np.zeros((3, len(widths), len(PRIOR_SPIKES)))
    for recording, total, mean in zip(recordings, totals, means, strict=True):
        trials, neurons = _fitted(recording.spikes.shape, FITTED_SAMPLES // len(recordings))
        shape = (len(trials), recording.spikes.shape[1], len(neurons))
        spikes, enters = (array[trials][:, :, neurons] for array in (recording.spikes, recording.enters))
        x, seen = _time_first(spikes, enters)
        rows = [total.rows.get(int(one), -1) for one in recording.condition[trials]]
        scored = seen.reshape(shape[1], shape[0], shape[2]) > 0
        target = x.reshape(scored.shape)[scored]
        for w, width in enumerate(widths):
            kernel = _kernel(shape[1], width)
            own = kernel @ x, kernel @ seen
            others = [(own[0] - x, own[1] - seen)]  # k(0) = 1: all but the sample itself
            for of in (np.full(len(rows), -1), np.array(rows)):
                used, place = np.unique(of, return_inverse=True)
                others.append(
                    tuple(
                        (kernel @ sums[used][:, :, neurons])[place].swapaxes(0, 1).reshape(x.shape) - mine
                        for sums, mine in zip((total.counts, total.seen), own, strict=True)
                    )
                )  # all but the trial itself
            for predictor, (counts, weight) in enumerate(others):
                known = [sums.clip(min=0).reshape(scored.shape)[scored] for sums in (counts, weight)]
                expected = np.broadcast_to(mean[neurons], scored.shape)[scored]
                for a, prior in enumerate(PRIOR_SPIKES):
                    rates = expected * (known[0] + prior) / (expected * known[1] + prior)
                    found[predictor, w, a] += float((target * np.log(rates) - rates).sum(dtype=np.float64))
    return found[0], found[1], found[2]


def _fitted(shape: tuple[int, ...], samples: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return evenly chosen trials and neurons with about this number of samples; neurons are left out only if need be."""
    trials, bins, neurons = shape
    count = min(trials, max(FEWEST_FITTED_TRIALS, samples // (bins * neurons)))
    of_trial = min(neurons, max(1, samples // (bins * count)))
    return _spread(trials, count), _spread(neurons, of_trial)


def _spread(number: int, chosen: int) -> NDArray[np.int64]:
    """Return `chosen` indices spread evenly over 0 … `number` - 1."""
    return np.unique(np.linspace(0, number - 1, chosen).round().astype(np.int64))


def _best(log_likelihoods: NDArray[np.float64], widths: NDArray[np.float64]) -> Smoothing:
    w, a = np.unravel_index(int(np.argmax(log_likelihoods)), log_likelihoods.shape)
    return Smoothing(float(widths[w]), float(PRIOR_SPIKES[a]))


def _widths(bins: int) -> NDArray[np.float64]:
    """Return the candidates for σ, in bins."""
    steps = int(np.floor(2 * np.log2(max(bins, 1) / NARROWEST_BINS))) + 1
    widths: NDArray[np.float64] = NARROWEST_BINS * 2 ** (np.arange(max(steps, 1)) / 2)
    return widths


def _kernel(bins: int, sd_bins: float) -> Float32:
    distance = np.subtract.outer(np.arange(bins), np.arange(bins))
    return gaussian(distance, sd_bins).astype(np.float32)


def _shrunk(
    mean: Float32, counts: Float32, weight: Float32, prior_spikes: float, shape: tuple[int, ...] | None = None
) -> Float32:
    """Return m (Σ k x + α) / (m Σ k + α), [..., N]; with a shape [trials, T, N] the sums are [T, trials · N]."""
    if shape is not None:
        counts, weight = (sums.reshape(shape[1], -1, shape[2]) for sums in (counts, weight))
    alpha = np.float32(prior_spikes)
    rates: Float32 = mean * (counts + alpha) / (mean * weight + alpha)
    return rates


def _time_first(spikes: NDArray[Any], enters: NDArray[np.bool_]) -> tuple[Float32, Float32]:
    """Return counts, zero where they may not be read, and which may be read: float32 [T, trials · N] each."""
    bins = spikes.shape[1]
    counts = np.where(enters, spikes, 0).astype(np.float32)
    return (
        np.ascontiguousarray(counts.swapaxes(0, 1)).reshape(bins, -1),
        np.ascontiguousarray(enters.swapaxes(0, 1)).reshape(bins, -1).astype(np.float32),
    )


def blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield slices of the trials of an array [trials, T, N], each of about `SAMPLES_AT_ONCE` samples."""
    size = max(1, SAMPLES_AT_ONCE // (shape[1] * shape[2]))
    for start in range(0, shape[0], size):
        yield slice(start, min(start + size, shape[0]))
