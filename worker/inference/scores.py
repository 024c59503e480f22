"""Scores of a model's rates. Each is described, with its units, in docs/scores.md."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from domain.conditions import Condition, condition_numbers, number_conditions
from domain.scores import (
    bits_per_spike,
    co_smoothing_bits_per_spike,
    forward_prediction_bits_per_spike,
    psth_r2,
    r2_true_rates,
)
from models import ConfigurationError
from worker.context.data import finite

if TYPE_CHECKING:
    from worker.inference.latents import LatentsRequest


@dataclass(frozen=True)
class ScoredData:
    """Rates of a session, and what they are compared with.

    Parameters
    ----------
    rates
        float32 [trials, T, N], counts per bin. May be mapped from a file: scores over all trials are computed neuron by neuron,
        the others read only the scored trials.
    spikes
        Counts [trials, T, N].
    true_rates
        [trials, T, N], counts per bin; None if they are not known.
    conditions
        Of each trial.
    rows
        The session's trials among those of the data set.
    missing
        bool [trials, T, N], True at samples that were not observed; no score of spikes counts them. None if all were.
    """

    rates: NDArray[np.float32]
    spikes: NDArray[Any]
    true_rates: NDArray[Any] | None
    conditions: Sequence[Condition]
    rows: slice = field(default_factory=lambda: slice(None))
    missing: NDArray[np.bool_] | None = None


@contextmanager
def scratch_array(shape: tuple[int, ...]) -> Iterator[NDArray[np.float32]]:
    """Open a temporary float32 array in a file, in which each column of the last axis is contiguous."""
    with tempfile.TemporaryFile(prefix="latentry-rates-") as file:
        yield np.moveaxis(np.memmap(file, np.float32, "w+", shape=(shape[-1], *shape[:-1])), 0, -1)


Weighted = tuple[float, float]
"""A score, and its weight beside those of other sessions: the number of spikes or neurons that it is of."""

PARTS = ("valid", "test")
"""Parts of a job that are scored. The name of each score ends with its part."""


def score(
    request: "LatentsRequest", sessions: ScoredData | Sequence[ScoredData], on_step: Callable[[], None]
) -> dict[str, float | None]:
    """Return scores by name, over all sessions; None for one that is not defined, e.g. without a spike among its samples.

    Names end with the part of the job that the scored trials are in, ``valid`` or ``test``; trials that the job never saw are
    ``test``. Bits per spike of several sessions are those of all their spikes together; other scores are means over neurons.

    Parameters
    ----------
    on_step
        Called again and again; may raise.
    """
    given = [sessions] if isinstance(sessions, ScoredData) else sessions
    found = [_SessionScorer(request, data, on_step).scores() for data in given]
    names = dict.fromkeys(name for of_session in found for name in of_session)
    return {name: _pooled([of_session.get(name) for of_session in found]) for name in names}


def _pooled(found: Sequence[Weighted | None]) -> float | None:
    known = [one for one in found if one is not None]
    if len(known) < 2:
        return known[0][0] if known else None
    values, weights = zip(*known, strict=True)
    return float(np.average(values, weights=weights))


class _SessionScorer:
    """Scores the rates of one session.

    Attributes
    ----------
    exists : bool, [trials, T]
        True at bins that have rates and lie within their trial.
    """

    def __init__(self, request: "LatentsRequest", data: ScoredData, on_step: Callable[[], None]) -> None:
        self.request, self.data, self.on_step = request, data, on_step
        bins = np.arange(data.rates.shape[1])
        lengths, first = (
            request.trial_length_bins[data.rows, None],
            request.architecture.initial_condition_bins,
        )
        self.exists = (bins < lengths) & (bins >= first)

    def scores(self) -> dict[str, Weighted | None]:
        """Return the scores of both parts by name."""
        data, scores = self.data, dict[str, Weighted | None]()
        has_psth = _repeated(data.conditions)
        for part in PARTS:
            scored = self.request.split[data.rows] == part
            if not scored.any():
                continue
            of_spikes = self._bits_per_spike(scored)
            scores |= {f"{name}_bits_per_spike_{part}": value for name, value in of_spikes.items()}
            self.on_step()
            if data.true_rates is not None:
                scores[f"r2_true_rates_{part}"] = self._r2_true_rates(data.true_rates, scored)
            if has_psth.any():
                scores[f"psth_r2_{part}"] = self._psth_r2(has_psth, scored)
        if data.true_rates is not None:
            scores["r2_true_rates"] = self._r2_true_rates(data.true_rates, np.ones(len(self.exists), bool))
        return scores

    def _bits_per_spike(self, scored: NDArray[np.bool_]) -> dict[str, Weighted | None]:
        architecture, data = self.request.architecture, self.data
        taken: slice | NDArray[np.bool_] = slice(None) if scored.all() else scored  # a slice copies nothing
        rates, spikes, recorded = data.rates[taken], data.spikes[taken], self.exists[taken][:, :, None]
        if data.missing is not None:
            recorded = recorded & ~data.missing[taken]
        scores = {
            "reconstruction": _of_spikes(
                lambda: bits_per_spike(rates, spikes, mask=recorded), spikes, recorded
            )
        }
        bins = np.arange(rates.shape[1])
        encoded = architecture.encoded_bins or len(bins)
        read, predicted = (bins < encoded)[:, None], (bins >= encoded)[:, None]
        if held_out := architecture.held_out_neurons:
            scores["co_smoothing"] = _of_spikes(
                lambda: co_smoothing_bits_per_spike(rates, spikes, held_out, recorded & read),
                spikes[:, :, held_out],
                np.broadcast_to(recorded & read, spikes.shape)[:, :, held_out],
            )
        if encoded < len(bins):
            scores["forward_prediction"] = _of_spikes(
                lambda: forward_prediction_bits_per_spike(rates, spikes, encoded, recorded),
                spikes,
                recorded & predicted,
            )
        return scores

    def _r2_true_rates(self, true_rates: NDArray[Any], trials: NDArray[np.bool_]) -> Weighted | None:
        rates, mask = self.data.rates, self.exists[trials][:, :, None]
        return self._mean_over_neurons(
            lambda n: r2_true_rates(rates[trials, :, n], true_rates[trials, :, n], mask=mask)
        )

    def _psth_r2(self, known: NDArray[np.bool_], scored: NDArray[np.bool_]) -> Weighted | None:
        data, exists = self.data, self.exists[known]
        condition = condition_numbers(number_conditions(data.conditions), data.conditions)[known]
        return self._mean_over_neurons(
            lambda n: psth_r2(
                data.rates[known, :, n],
                data.spikes[known, :, n],
                condition,
                bin_width_s=self.request.bin_width_s,
                scored_trials=scored[known],
                mask=exists if data.missing is None else exists & ~data.missing[known, :, n.start],
            )
        )

    def _mean_over_neurons(self, of_columns: Callable[[slice], float]) -> Weighted | None:
        """Return the mean over the neurons whose score is defined. It copies the samples of one neuron at a time."""
        known = []
        for n in range(self.data.rates.shape[2]):
            found = _or_none(partial(of_columns, slice(n, n + 1)))
            known += [] if found is None else [found]
            self.on_step()
        return (float(np.mean(known)), float(len(known))) if known else None


def _repeated(conditions: Sequence[Condition]) -> NDArray[np.bool_]:
    """Return which trials share their condition with another trial, since a PSTH is a mean over trials."""
    trials = Counter(conditions)
    return np.array([name is not None and trials[name] > 1 for name in conditions], dtype=bool)


def _of_spikes(
    bits_per_spike: Callable[[], float], spikes: NDArray[Any], mask: NDArray[np.bool_]
) -> Weighted | None:
    """Return bits per spike, and the number of spikes among the samples that count."""
    value = _or_none(bits_per_spike)
    return None if value is None else (value, float(np.where(mask, spikes, 0).sum()))


def _or_none(compute: Callable[[], float]) -> float | None:
    try:
        return finite(compute())
    except ConfigurationError:  # not defined on these trials
        return None
