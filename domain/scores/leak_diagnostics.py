"""Find the models of a job that leak: they pass spikes from input to output, which the validation loss does not show.

In a validation trial, held-out samples and samples that the model reads come from the same rates. A model of these rates gains
as much over constant rates on both, apart from sampling error and from overfitting of the latents to the spikes that were
read. A model that passes spikes through gains only on the samples that it reads (Keshtkaran & Pandarinath 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from domain.errors import require
from domain.ranks import spearman
from domain.scores.likelihood import ReferenceLosses

Floats = NDArray[np.floating]
LEAKING_SHARE = 0.5
"""Weights leak if they lose more than this share of their gain on samples that the model does not read. Models with
coordinated dropout lost up to 0.39 where this was more than 4 standard errors. Models that pass spikes through lose 0.5 to 3, see
`docs/scores.md`."""
RISE_SHARE = 0.05
"""A rise of the SV loss counts if it is more than this share of the kept weights' gain. With coordinated dropout it rose by up
to 0.035 while the validation loss fell, in one of 200 models."""
STANDARD_ERRORS = 5.0  # a difference must exceed this number, too
FEWEST_RANKED = 3  # models, for a meaningful rank correlation


@dataclass(frozen=True)
class ModelLosses:
    """Losses of one model on validation trials, in nats per sample; None where they are unknown or not finite.

    Parameters
    ----------
    number
        Number of the model in the result.
    sv_loss, validation_loss
        Losses of the kept weights, from the epoch with the lowest smoothed SV loss.
    last_sv_loss, last_validation_loss
        Losses of the last epoch.
    """

    number: int
    sv_loss: float | None
    validation_loss: float | None
    last_sv_loss: float | None
    last_validation_loss: float | None


@dataclass(frozen=True)
class ValidationDisagreement:
    """A comparison of the SV loss and the validation loss of the models of a job.

    Parameters
    ----------
    rank_correlation
        Spearman's, over models, between the SV loss of the kept weights and the lower of the two validation losses, which
        would rank models without sample validation. None for fewer than 3 models or equal losses.
    lost_shares
        1 - (gain over constant rates at held-out samples) / (gain at samples that the model reads), of the kept weights of each
        model: near 0 for a model of the rates, 1 if the whole gain is lost, above 1 if held-out samples are predicted
        worse than by constant rates. None for a model without a gain at samples that it reads.
    last_lost_shares
        The same for the last epoch.
    leaking
        Numbers of the models whose kept weights leak.
    leaking_later
        Numbers of the models whose kept weights do not leak, but whose last epoch does.
    best_by_sv
        Number of the model whose kept weights have the lowest SV loss; None if no model has finite losses.
    best_by_validation_loss
        Number of the model of lowest validation loss, at the last epoch or with the kept weights.
    """

    rank_correlation: float | None
    lost_shares: tuple[float | None, ...]
    last_lost_shares: tuple[float | None, ...]
    leaking: tuple[int, ...]
    leaking_later: tuple[int, ...]
    best_by_sv: int | None
    best_by_validation_loss: int | None


def validation_disagreement(
    models: Sequence[ModelLosses], reference: ReferenceLosses
) -> ValidationDisagreement:
    """Compare SV losses and validation losses of the models of a job, and find the models that leak.

    The gains are g_ordinary = reference.validation_loss - validation loss and g_sv = reference.sv_loss - SV loss. Differences
    to constant rates cancel out if one set of samples is harder to predict than the other. Weights leak if the gain that
    they lose, l = g_ordinary - g_sv, exceeds each of three limits:

    - half of g_ordinary (`LEAKING_SHARE`);
    - half of the best g_sv of the job, which excludes models that have hardly begun to learn;
    - 5 standard errors √(2 max(l, g_ordinary) / held_out_samples). The variance of a log-likelihood ratio is about twice its
      mean.

    Where rates vary much, the gain over constant rates is large, and a leak is a small share of it. So the last epoch
    also leaks if three conditions hold since the kept weights: the validation loss fell; the SV loss rose by more than 5 % of
    the kept weights' g_sv (`RISE_SHARE`); and the sum of both changes exceeds 5 of its standard errors. (If a model overfits
    its training trials, both losses rise.)

    Parameters
    ----------
    models
        Models of the job. Where losses of the kept weights are unknown, those of the last epoch replace them.
    reference
        Losses of constant rates on the same samples, see `constant_rate_losses`; for the service's training data and for
        other observation models than Poisson see `models.null_model.constant_output_losses`.
    """
    numbers = [model.number for model in models]
    require(len(set(numbers)) == len(models), f"expected different numbers of models, got {numbers}")
    require(reference.held_out_samples > 0, "expected held-out samples, got none")
    last = _Losses.of([(model.last_sv_loss, model.last_validation_loss) for model in models])
    kept = _Losses.of([(model.sv_loss, model.validation_loss) for model in models]).or_else(last)
    gain, last_gain = kept.gains(reference), last.gains(reference)
    learned = np.max(gain.sv, where=kept.finite, initial=0.0)
    leaks = _leaks(gain, learned, reference)
    leaks_later = ~leaks & (_leaks(last_gain, learned, reference) | _parted(kept, last, gain, reference))
    lowest_ordinary = np.fmin(kept.ordinary, np.where(last.finite, last.ordinary, np.nan))
    correlation = np.nan
    if kept.finite.sum() >= FEWEST_RANKED:
        correlation = spearman(kept.sv[kept.finite], lowest_ordinary[kept.finite])
    return ValidationDisagreement(
        rank_correlation=float(correlation) if np.isfinite(correlation) else None,
        lost_shares=gain.lost_shares(),
        last_lost_shares=last_gain.lost_shares(),
        leaking=tuple(number for number, leak in zip(numbers, leaks, strict=True) if leak),
        leaking_later=tuple(number for number, leak in zip(numbers, leaks_later, strict=True) if leak),
        best_by_sv=_lowest(numbers, kept.sv, kept.finite),
        best_by_validation_loss=_lowest(numbers, lowest_ordinary, kept.finite),
    )


@dataclass(frozen=True)
class _Losses:
    """Losses, or gains over constant rates, of all models, [M]; NaN where one of a model's two is not finite."""

    sv: NDArray[np.float64]
    ordinary: NDArray[np.float64]

    @classmethod
    def of(cls, pairs: Sequence[tuple[float | None, float | None]]) -> _Losses:
        values = np.array(pairs, np.float64).reshape(-1, 2)  # None becomes NaN
        values[~np.isfinite(values).all(1)] = np.nan
        return cls(values[:, 0], values[:, 1])

    @property
    def finite(self) -> NDArray[np.bool_]:
        return np.isfinite(self.sv)

    def or_else(self, other: _Losses) -> _Losses:
        """Return these, and another epoch's where these are not known."""
        return _Losses(
            np.where(self.finite, self.sv, other.sv), np.where(self.finite, self.ordinary, other.ordinary)
        )

    def gains(self, reference: ReferenceLosses) -> _Losses:
        return _Losses(reference.sv_loss - self.sv, reference.validation_loss - self.ordinary)

    def lost_shares(self) -> tuple[float | None, ...]:
        """Return the lost shares of these gains, see `ValidationDisagreement`."""
        return tuple(
            float(1 - sv / ordinary) if ordinary > 0 else None
            for sv, ordinary in zip(self.sv, self.ordinary, strict=True)
        )


def _leaks(gain: _Losses, learned: float, reference: ReferenceLosses) -> NDArray[np.bool_]:
    """Return whether models lose too much of their gain on samples that they do not read, bool [M]."""
    lost = gain.ordinary - gain.sv
    large = lost > LEAKING_SHARE * np.maximum(gain.ordinary, learned)
    sure = lost > _certain(np.maximum(lost, gain.ordinary), reference)
    return (gain.ordinary > 0) & large & sure


def _parted(kept: _Losses, last: _Losses, gain: _Losses, reference: ReferenceLosses) -> NDArray[np.bool_]:
    """Return whether the SV loss rose and the validation loss fell from the kept weights to the last epoch, bool [M]."""
    rose, fell = last.sv - kept.sv, kept.ordinary - last.ordinary
    is_large = (rose > 0) & (rose > RISE_SHARE * gain.sv)
    return (fell > 0) & is_large & (rose + fell > _certain(rose + fell, reference))


def _certain(difference: NDArray[np.float64], reference: ReferenceLosses) -> NDArray[np.float64]:
    """Return 5 standard errors of a mean log-likelihood ratio of about this size, in nats per sample, [M]."""
    variance: NDArray[np.float64] = 2 * np.fmax(difference, 0.0) / reference.held_out_samples
    return STANDARD_ERRORS * np.sqrt(variance)


def _lowest(numbers: Sequence[int], losses: NDArray[np.float64], finite: NDArray[np.bool_]) -> int | None:
    return numbers[int(np.argmin(np.where(finite, losses, np.inf)))] if finite.any() else None
