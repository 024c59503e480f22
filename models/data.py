"""Recordings on the device, with masks of recorded samples, the split and the sample-validation mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from domain.architecture import ObservationName
from domain.errors import require
from models.observation import OBSERVATIONS, DataStatistics


@dataclass(frozen=True)
class Session:
    """One recording of one set of neurons.

    Parameters
    ----------
    spikes
        Counts [trials, T, N], whole and not negative; for continuous observations (fluorescence, field
        potentials) any finite numbers. Whatever stands where nothing was recorded is ignored.
    trial_length_bins
        Integers [trials], each in 1 … T.
    is_validation
        bool [trials], true for the trials that are only evaluated on.
    is_test
        bool [trials], true for the trials that neither train nor select a model; None: there are none.
    is_left_out
        bool [trials], true for the trials that are neither trained on nor scored; None: there are none.
    missing
        bool [trials, T, N], true at samples that were not recorded within a trial; None: all were.
    external_inputs
        [trials, T, X], finite within each trial; None: there are none.
    """

    spikes: NDArray[Any]
    trial_length_bins: NDArray[np.integer]
    is_validation: NDArray[np.bool_]
    missing: NDArray[np.bool_] | None = None
    external_inputs: NDArray[np.floating] | None = None
    is_test: NDArray[np.bool_] | None = None
    is_left_out: NDArray[np.bool_] | None = None

    @property
    def is_training(self) -> NDArray[np.bool_]:
        """Bool [trials], true for the trials that models are trained on."""
        others = [part for part in (self.is_test, self.is_left_out) if part is not None]
        is_training: NDArray[np.bool_] = ~np.any([self.is_validation, *others], axis=0)
        return is_training


def sample_validation_mask(
    shape: tuple[int, int, int], sv_rate: float, sv_seed: int, session: int = 0
) -> NDArray[np.bool_]:
    """Draw the samples held out from input and training loss: the same for every model of a job.

    Parameters
    ----------
    shape
        (trials, T, N) of the spike counts, test trials included: which trials are tested on does not change the samples
        that are held out in the others.
    sv_rate
        Share of the samples to hold out, in [0, 0.9].
    sv_seed
        Seed stored with the job; the mask depends on it, on the session and on `shape` alone.
    session
        Index of the session, where a job has several.

    Returns
    -------
    NDArray[np.bool_]
        [trials, T, N], true where held out.
    """
    require(0.0 <= sv_rate <= 0.9, f"sv_rate must lie in [0, 0.9], got {sv_rate!r}")
    require(sv_seed >= 0, f"sv_seed must not be negative, got {sv_seed!r}")
    random = np.random.default_rng([sv_seed, session] if session else sv_seed)
    held_out: NDArray[np.bool_] = random.random(shape, dtype=np.float32) < sv_rate
    return held_out


def visible_and_held_out(
    session: Session, sv_rate: float, sv_seed: int, number: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which samples of a session are visible and which are held out, bool [trials, T, N] each.

    Samples that were not recorded are neither.
    """
    shape = np.shape(session.spikes)
    _, recorded = recorded_samples(shape, np.asarray(session.trial_length_bins), session.missing)
    mask = sample_validation_mask((shape[0], shape[1], shape[2]), sv_rate, sv_seed, number)
    return recorded & ~mask, recorded & mask


@dataclass(frozen=True)
class Part:
    """The trials of one session in a batch, time first.

    Parameters
    ----------
    values
        float32 [T, B, N], the data x, zero where nothing was recorded.
    ln_factorials
        float32 [T, B, N], ln x!, the part of the likelihood no model can change; None for continuous data.
    visible
        bool [T, B, N], true at recorded samples that sample validation does not hold out.
    held_out
        bool [T, B, N], true at recorded samples that it does hold out.
    """

    values: Tensor
    ln_factorials: Tensor | None
    visible: Tensor
    held_out: Tensor

    def first_bins(self, bins: int) -> Part:
        """Return the first bins of the trials."""
        factorials = None if self.ln_factorials is None else self.ln_factorials[:bins]
        return Part(self.values[:bins], factorials, self.visible[:bins], self.held_out[:bins])


@dataclass(frozen=True)
class Batch:
    """Some trials, as the network reads them; those of all sessions stand side by side, in the sessions' order.

    Parameters
    ----------
    parts
        One for each session, which may have no trial in this batch.
    inside
        bool [T, B, 1], true in the bins before the trial's end; None when all trials of the data have T bins.
    seen
        bool [T, B, 1], true in the bins with any recorded sample; None when all have some.
    external
        float32 [T, B, X], or None.
    """

    parts: tuple[Part, ...]
    inside: Tensor | None
    seen: Tensor | None
    external: Tensor | None

    @property
    def trials(self) -> list[int]:
        """Trials of each session."""
        return [part.values.shape[1] for part in self.parts]

    def first_bins(self, bins: int) -> Batch:
        """Return the first bins of the trials."""
        if bins >= len(self.parts[0].values):
            return self
        masks = [None if one is None else one[:bins] for one in (self.inside, self.seen, self.external)]
        return Batch(tuple(part.first_bins(bins) for part in self.parts), *masks)


class TrainingData:
    """One data set of one or more sessions, ready to train on.

    Parameters
    ----------
    sessions
        Shorter ones are padded to the bins of the longest.
    sv_rate, sv_seed
        See `sample_validation_mask`.
    observation
        Whether the data are counts depends on it.
    device
        Where the data live, "cpu" or "cuda".
    train_on_validation
        Train on the validation trials too, for a last fit of what was selected. Sample validation still holds the same
        samples out, so the SV loss stays that of samples never seen.
    """

    training_trials: tuple[Tensor, ...]
    """Indices of the training trials of each session."""
    validation_trials: tuple[Tensor, ...]
    """Indices of the validation trials of each session."""
    test_trials: tuple[Tensor, ...]
    """Indices of the test trials of each session: neither trained on nor used to select a model."""
    statistics: tuple[DataStatistics, ...]
    """Of each session's training samples."""

    def __init__(
        self,
        sessions: Session | Sequence[Session],
        *,
        sv_rate: float,
        sv_seed: int,
        observation: ObservationName = "poisson",
        device: str | torch.device = "cpu",
        train_on_validation: bool = False,
    ) -> None:
        given = [sessions] if isinstance(sessions, Session) else list(sessions)
        require(len(given) > 0, "there must be at least one session, got none")
        self.sv_rate = float(sv_rate)
        self.device = torch.device(device)
        self.observation = observation
        shapes = [np.shape(session.spikes) for session in given]
        self.bins = max((shape[1] for shape in shapes if len(shape) == 3), default=0)
        self._sessions = [
            _SessionOnDevice(session, number, self, sv_seed) for number, session in enumerate(given)
        ]
        widths = {session.external_width for session in self._sessions}
        require(len(widths) == 1, f"all sessions must have the same external inputs, got {sorted(widths)}")
        self.external_inputs = widths.pop()
        self.neurons = tuple(session.neurons for session in self._sessions)
        self.validation_trials = tuple(session.validation_trials for session in self._sessions)
        self.training_trials = tuple(session.training_trials for session in self._sessions)
        self.test_trials = tuple(session.test_trials for session in self._sessions)
        if train_on_validation:
            both = zip(self.training_trials, self.validation_trials, strict=True)
            self.training_trials = tuple(torch.cat(parts).sort().values for parts in both)
        self.statistics = tuple(session.statistics for session in self._sessions)
        self._all_inside = all(session.inside is None for session in self._sessions)
        self._all_seen = all(session.seen is None for session in self._sessions)

    def batch(self, trials: Sequence[Tensor]) -> Batch:
        """Return trials of each session (indices [B], on the device) as a `Batch`."""
        picked = list(zip(self._sessions, trials, strict=True))
        return Batch(
            parts=tuple(session.part(chosen) for session, chosen in picked),
            inside=None if self._all_inside else torch.cat([s.bins_inside(c) for s, c in picked], dim=1),
            seen=None if self._all_seen else torch.cat([s.bins_seen(c) for s, c in picked], dim=1),
            external=torch.cat([s.external_of(c) for s, c in picked], dim=1)
            if self.external_inputs
            else None,
        )


class _SessionOnDevice:
    """One session's tensors, time first: [T, trials, ·]."""

    def __init__(
        self,
        session: Session,
        number: int,
        data: TrainingData,
        sv_seed: int,
    ) -> None:
        bins, sv_rate, observation, device = data.bins, data.sv_rate, data.observation, data.device
        values, lengths = check_spikes(
            session.spikes, session.trial_length_bins, observation, session.missing
        )
        trials, T, self.neurons = values.shape
        is_validation = np.asarray(session.is_validation)
        require(
            is_validation.dtype == np.bool_ and is_validation.shape == (trials,),
            f"is_validation must be bool of shape ({trials},), got {is_validation.dtype} {is_validation.shape}",
        )
        is_test = np.zeros(trials, np.bool_) if session.is_test is None else np.asarray(session.is_test)
        require(
            is_test.dtype == np.bool_ and is_test.shape == (trials,) and not (is_test & is_validation).any(),
            f"is_test must be bool of shape ({trials},) and true at no validation trial, got {is_test.dtype} {is_test.shape}",
        )
        is_training = session.is_training
        require(bool(is_training.any()), "no training trials: every trial is marked as validation or test")
        require(bool(is_validation.any()), "no validation trials: at least one is needed to select a model")
        self.device = device
        inside, recorded = recorded_samples(values.shape, lengths, session.missing)
        visible, held_out = visible_and_held_out(session, sv_rate, sv_seed, number)
        for name, chosen in (("training", is_training), ("validation", is_validation)):
            require(
                bool(visible[chosen].any()), f"sv_rate {sv_rate} leaves no sample of the {name} trials to see"
            )
            if sv_rate > 0:
                require(
                    bool(held_out[chosen].any()),
                    f"sv_rate {sv_rate} holds out no sample of the {name} trials",
                )
        values = zero_unrecorded(values, recorded)
        self._counts = OBSERVATIONS[observation].is_counts
        self.statistics = _statistics(values[is_training], visible[is_training], self._counts, device)
        seen = np.asarray(recorded.any(2, keepdims=True))
        external = checked_external_inputs(session.external_inputs, inside)
        self.external_width = 0 if external is None else external.shape[2]

        self._values = _time_first(values, bins, device)
        self._visible = _time_first(visible, bins, device)
        self._held_out = _time_first(held_out, bins, device)
        self.inside = None if inside.all() and bins == T else _time_first(inside[:, :, None], bins, device)
        self.seen = None if seen.all() and bins == T else _time_first(seen, bins, device)
        self._bins = bins
        self._external = None if external is None else _time_first(external, bins, device)
        if self._counts:
            most = int(values.max(initial=0))
            self._ln_factorial = torch.lgamma(
                torch.arange(most + 1, dtype=torch.float64, device=device) + 1
            ).float()
        self.training_trials, self.validation_trials, self.test_trials = (
            torch.from_numpy(np.flatnonzero(part)).to(device)
            for part in (is_training, is_validation, is_test)
        )

    def part(self, trials: Tensor) -> Part:
        """Return some trials of this session."""
        values = self._values.index_select(1, trials)
        return Part(
            values.float(),
            self._ln_factorial[values.int()] if self._counts else None,
            self._visible.index_select(1, trials),
            self._held_out.index_select(1, trials),
        )

    def bins_inside(self, trials: Tensor) -> Tensor:
        """Bool [T, B, 1]."""
        return self._picked_or_true(self.inside, trials)

    def bins_seen(self, trials: Tensor) -> Tensor:
        """Bool [T, B, 1]."""
        return self._picked_or_true(self.seen, trials)

    def external_of(self, trials: Tensor) -> Tensor:
        """Float32 [T, B, X]."""
        assert self._external is not None
        return self._external.index_select(1, trials)

    def _picked_or_true(self, mask: Tensor | None, trials: Tensor) -> Tensor:
        if mask is None:
            return torch.ones(self._bins, len(trials), 1, dtype=torch.bool, device=self.device)
        return mask.index_select(1, trials)


def recorded_samples(
    shape: tuple[int, ...], lengths: NDArray[np.int64], missing: NDArray[np.bool_] | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which bins are inside their trial, bool [trials, T], and which samples were recorded, bool [trials, T, N]."""
    inside: NDArray[np.bool_] = np.arange(shape[1])[None, :] < lengths[:, None]
    if missing is None:
        return inside, np.broadcast_to(inside[:, :, None], shape)
    missing = np.asarray(missing)
    require(
        missing.dtype == np.bool_ and missing.shape == shape,
        f"missing must be bool of the spikes' shape {shape}, got {missing.dtype} {missing.shape}",
    )
    return inside, inside[:, :, None] & ~missing


def zero_unrecorded(values: NDArray[Any], recorded: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the values [trials, T, N], zero where nothing was recorded."""
    zeroed = np.where(recorded, values, values.dtype.type(0))
    require(bool(np.isfinite(zeroed).all()), "data must be finite wherever they were recorded")
    return zeroed


def checked_external_inputs(
    external: NDArray[np.floating] | None, inside: NDArray[np.bool_]
) -> NDArray[np.float32] | None:
    """Return external inputs as float32 [trials, T, X], zero past each trial's end; None without external inputs."""
    if external is None:
        return None
    external = np.asarray(external, np.float32)
    require(
        external.ndim == 3 and external.shape[:2] == inside.shape and external.shape[2] > 0,
        f"external_inputs must be [trials, T, X] with {inside.shape} trials and bins, got shape {external.shape}",
    )
    require(bool(np.isfinite(external[inside]).all()), "external_inputs must be finite within each trial")
    zeroed: NDArray[np.float32] = np.where(inside[:, :, None], external, np.float32(0))
    return zeroed


def _statistics(
    values: NDArray[Any], visible: NDArray[np.bool_], counts: bool, device: torch.device
) -> DataStatistics:
    number = visible.sum((0, 1)).astype(np.float64)
    total = (values * visible).sum((0, 1), dtype=np.float64)
    half = 0.5 if counts else 0.0  # half a spike: the log of a silent neuron's mean stays finite
    mean = (total + half) / (number + 2 * half).clip(min=1.0)
    squares = (np.square(values.astype(np.float64)) * visible).sum((0, 1))
    variance = np.maximum(squares / np.maximum(number, 1.0) - mean**2, 1e-6)
    share = (((values > 0) & visible).sum((0, 1)) + 0.5) / (number + 1.0)
    return DataStatistics(
        *(torch.from_numpy(array.astype(np.float32)).to(device) for array in (mean, variance, share))
    )


def check_spikes(
    spikes: NDArray[Any],
    trial_length_bins: NDArray[np.integer],
    observation: ObservationName = "poisson",
    missing: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return counts as uint8 or int16 (continuous data as float32), zero where nothing was recorded, and lengths as int64.

    Raises `ConfigurationError` for what cannot be data.
    """
    spikes, lengths = np.asarray(spikes), np.asarray(trial_length_bins)
    require(
        spikes.ndim == 3 and spikes.size > 0,
        f"spikes must be trials × bins × neurons with no empty dimension, got shape {spikes.shape}",
    )
    require(
        np.issubdtype(lengths.dtype, np.integer) and lengths.shape == (len(spikes),),
        f"trial_length_bins must be integers of shape ({len(spikes)},), got {lengths.dtype} {lengths.shape}",
    )
    require(
        int(lengths.min()) >= 1 and int(lengths.max()) <= spikes.shape[1],
        f"trial_length_bins must lie in 1 … {spikes.shape[1]}, got {lengths.min()} … {lengths.max()}",
    )
    lengths = lengths.astype(np.int64)
    _, recorded = recorded_samples(spikes.shape, lengths, missing)
    spikes = np.where(recorded, spikes, spikes.dtype.type(0))
    if not OBSERVATIONS[observation].is_counts:
        values = spikes.astype(np.float32)
        least = float(np.nanmin(values))
        require(
            observation != "zero_inflated_gamma" or least >= 0,
            f"observation {observation!r} needs data that are not negative, got {least}",
        )
        return values, lengths
    require(np.issubdtype(spikes.dtype, np.integer), f"spikes must be whole counts, got dtype {spikes.dtype}")
    require(int(spikes.min()) >= 0, f"spike counts must not be negative, got {spikes.min()}")
    require(
        int(spikes.max()) <= np.iinfo(np.int16).max,
        f"a spike count of {spikes.max()} in one bin is too large",
    )
    compact = np.uint8 if int(spikes.max()) <= np.iinfo(np.uint8).max else np.int16
    return spikes.astype(compact), lengths


def _time_first(array: NDArray[Any], bins: int, device: torch.device) -> Tensor:
    """[trials, T, ·] → contiguous tensor [bins, trials, ·], zero after T."""
    swapped = array.swapaxes(0, 1)
    if len(swapped) < bins:
        padding = np.zeros((bins - len(swapped), *swapped.shape[1:]), swapped.dtype)
        swapped = np.concatenate((swapped, padding))
    return torch.from_numpy(np.ascontiguousarray(swapped)).to(device)


def evenly(trials: Sequence[Tensor], most: int) -> Iterator[list[Tensor]]:
    """Cut the trials of every session into as few steps as have at most `most` trials, of even size.

    A session's trials are spread over all steps. No step is empty, unless there is no trial at all.
    """
    lengths = [len(part) for part in trials]
    steps = max(1, -(-sum(lengths) // most))
    # Where each trial would be if a session's were spread over the whole epoch; then cut in the order of places.
    places = np.concatenate([(np.arange(length) + 0.5) / max(length, 1) for length in lengths])
    session = np.repeat(np.arange(len(trials)), lengths)[np.argsort(places, kind="stable")]
    ends = np.zeros(len(trials), np.int64)
    for step in np.array_split(session, steps):
        begins, ends = ends, ends + np.bincount(step, minlength=len(trials))
        yield [part[begin:end] for part, begin, end in zip(trials, begins, ends, strict=True)]
