"""Spike counts on the device, with the trials' lengths, the split and the sample-validation mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.config import require


def sample_validation_mask(shape: tuple[int, int, int], sv_rate: float, sv_seed: int) -> NDArray[np.bool_]:
    """Draw the samples held out from input and training loss: the same for every model of a job.

    Parameters
    ----------
    shape
        (trials, T, N) of the spike counts.
    sv_rate
        Share of the samples to hold out, in [0, 0.9].
    sv_seed
        Seed stored with the job; the mask depends on it and on `shape` alone.

    Returns
    -------
    NDArray[np.bool_]
        [trials, T, N], true where held out.
    """
    require(0.0 <= sv_rate <= 0.9, f"sv_rate must lie in [0, 0.9], got {sv_rate!r}")
    require(sv_seed >= 0, f"sv_seed must not be negative, got {sv_seed!r}")
    held_out: NDArray[np.bool_] = np.random.default_rng(sv_seed).random(shape, dtype=np.float32) < sv_rate
    return held_out


@dataclass(frozen=True)
class Batch:
    """Some trials, time first, as the network reads them.

    Parameters
    ----------
    counts
        float32 [T, B, N], spike counts x.
    ln_factorials
        float32 [T, B, N], ln x!, the part of the likelihood no model can change.
    valid
        bool [T, B, 1], true in the bins before the trial's end; None when all trials of the data have T bins.
    visible
        bool [T, B, N], true at valid samples that sample validation does not hold out.
    held_out
        bool [T, B, N], true at valid samples that it does hold out.
    """

    counts: Tensor
    ln_factorials: Tensor
    valid: Tensor | None
    visible: Tensor
    held_out: Tensor


class TrainingData:
    """One data set, ready to train on.

    Parameters
    ----------
    spikes
        Integer counts [trials, T, N], not negative. Whatever stands past a trial's end is ignored.
    trial_length_bins
        Integers [trials], each in 1 … T.
    is_validation
        bool [trials], true for the trials that are only evaluated on.
    sv_rate, sv_seed
        See `sample_validation_mask`.
    device
        Where the counts live, "cpu" or "cuda".
    """

    def __init__(
        self,
        spikes: NDArray[np.integer],
        trial_length_bins: NDArray[np.integer],
        is_validation: NDArray[np.bool_],
        *,
        sv_rate: float,
        sv_seed: int,
        device: str | torch.device = "cpu",
    ) -> None:
        spikes, lengths = check_spikes(spikes, trial_length_bins)
        is_validation = np.asarray(is_validation)
        require(
            is_validation.dtype == np.bool_ and is_validation.shape == (len(spikes),),
            f"is_validation must be bool of shape ({len(spikes)},), "
            f"got {is_validation.dtype} {is_validation.shape}",
        )
        require(bool((~is_validation).any()), "no training trials: every trial is marked as validation")
        require(bool(is_validation.any()), "no validation trials: at least one is needed to select a model")
        self.sv_rate = float(sv_rate)
        self.device = torch.device(device)
        held_out = sample_validation_mask(
            (spikes.shape[0], spikes.shape[1], spikes.shape[2]), sv_rate, sv_seed
        )
        valid = np.arange(spikes.shape[1])[None, :] < lengths[:, None]  # [trials, T]
        held_out &= valid[:, :, None]
        counted = valid[:, :, None] & ~held_out
        for name, chosen in (("training", ~is_validation), ("validation", is_validation)):
            require(
                bool(counted[chosen].any()), f"sv_rate {sv_rate} leaves no sample of the {name} trials to see"
            )
            if sv_rate > 0:
                require(
                    bool(held_out[chosen].any()),
                    f"sv_rate {sv_rate} holds out no sample of the {name} trials",
                )

        self.bins, self.neurons = spikes.shape[1], spikes.shape[2]
        self._spikes = _time_first(spikes * valid[:, :, None], self.device)  # integers [T, trials, N]
        self._held_out = _time_first(held_out, self.device)  # bool [T, trials, N]
        # bool [T, trials, 1], or None when no trial ends early
        self._valid = None if valid.all() else _time_first(valid[:, :, None], self.device)
        self._ln_factorial = torch.lgamma(
            torch.arange(int(spikes.max(initial=0)) + 1, dtype=torch.float64, device=self.device) + 1
        ).float()
        self.training_trials = torch.from_numpy(np.flatnonzero(~is_validation)).to(self.device)
        self.validation_trials = torch.from_numpy(np.flatnonzero(is_validation)).to(self.device)
        train_spikes = (spikes * counted)[~is_validation].sum((0, 1), dtype=np.float64)
        train_samples = counted[~is_validation].sum((0, 1))
        # [N], counts per bin; half a spike more than was seen keeps the log of a silent neuron finite.
        self.mean_counts = torch.from_numpy(
            ((train_spikes + 0.5) / (train_samples + 1.0)).astype(np.float32)
        ).to(self.device)

    def batch(self, trials: Tensor) -> Batch:
        """Trials [B] (indices, on the device) as a `Batch`."""
        spikes = self._spikes.index_select(1, trials)
        held_out = self._held_out.index_select(1, trials)
        valid = None if self._valid is None else self._valid.index_select(1, trials)
        visible = ~held_out if valid is None else ~held_out & valid
        return Batch(spikes.float(), self._ln_factorial[spikes.int()], valid, visible, held_out)


def check_spikes(
    spikes: NDArray[np.integer], trial_length_bins: NDArray[np.integer]
) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """Return spike counts as uint8 or int16 and lengths as int64, or raise `ConfigurationError`."""
    spikes, lengths = np.asarray(spikes), np.asarray(trial_length_bins)
    require(
        spikes.ndim == 3 and spikes.size > 0,
        f"spikes must be trials × bins × neurons with no empty dimension, got shape {spikes.shape}",
    )
    require(np.issubdtype(spikes.dtype, np.integer), f"spikes must be whole counts, got dtype {spikes.dtype}")
    require(int(spikes.min()) >= 0, f"spike counts must not be negative, got {spikes.min()}")
    require(
        int(spikes.max()) <= np.iinfo(np.int16).max,
        f"a spike count of {spikes.max()} in one bin is too large",
    )
    require(
        np.issubdtype(lengths.dtype, np.integer) and lengths.shape == (len(spikes),),
        f"trial_length_bins must be integers of shape ({len(spikes)},), got {lengths.dtype} {lengths.shape}",
    )
    require(
        int(lengths.min()) >= 1 and int(lengths.max()) <= spikes.shape[1],
        f"trial_length_bins must lie in 1 … {spikes.shape[1]}, got {lengths.min()} … {lengths.max()}",
    )
    compact = np.uint8 if int(spikes.max()) <= np.iinfo(np.uint8).max else np.int16
    return spikes.astype(compact), lengths.astype(np.int64)


def _time_first(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """[trials, T, ·] → contiguous tensor [T, trials, ·]."""
    return torch.from_numpy(np.ascontiguousarray(array.swapaxes(0, 1))).to(device)
