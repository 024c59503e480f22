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

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class ScoredData:
    """What scores compare.

    Parameters
    ----------
    rates
        float32 [trials, T, N], counts per bin. May be mapped from a file: scores of all trials are taken neuron by
        neuron, the others read the trials that are scored alone.
    spikes
        Counts [trials, T, N].
    true_rates
        [trials, T, N], counts per bin; None where they are not known.
    conditions
        Of each trial; None where it has none, or no name that is a whole number or text.
    rows
        Which trials of the data set these are: those of one session.
    missing
        bool [trials, T, N], true at samples that were not observed, which no score of spikes counts; None if all were.
    """

    rates: NDArray[np.float32]
    spikes: NDArray[Any]
    true_rates: NDArray[Any] | None
    conditions: Sequence[int | float | str | None]
    rows: slice = field(default_factory=lambda: slice(None))
    missing: NDArray[np.bool_] | None = None


@contextmanager
def scratch_array(shape: tuple[int, ...]) -> Iterator[NDArray[np.float32]]:
    """A float32 array in a file that is gone afterwards; a column of the last axis lies together."""
    with tempfile.TemporaryFile(prefix="latentry-rates-") as file:
        yield np.moveaxis(np.memmap(file, np.float32, "w+", shape=(shape[-1], *shape[:-1])), 0, -1)


Weighted = tuple[float, float]
"""A score, and what it weighs among those of other sessions: the spikes or neurons that it is of."""


PARTS = ("valid", "test")
"""Parts of a job that are scored; each score's name ends with its part."""


def score(
    request: "LatentsRequest", sessions: ScoredData | Sequence[ScoredData], on_step: Callable[[], None]
) -> dict[str, float | None]:
    """Scores by name, over all sessions; None where one is not defined, e.g. without a spike among the samples that count.

    Names end with the part of the job that the scored trials are in, ``valid`` or ``test``; trials that the job never saw are
    ``test``. Bits per spike of several sessions are those of all their spikes together; other scores are means over their
    neurons.
    `on_step` is called now and then, and may raise.
    """
    given = [sessions] if isinstance(sessions, ScoredData) else sessions
    found = [_score_session(request, data, on_step) for data in given]
    names = dict.fromkeys(name for of_session in found for name in of_session)
    return {name: _pooled([of_session.get(name) for of_session in found]) for name in names}


def _pooled(found: Sequence[Weighted | None]) -> float | None:
    known = [one for one in found if one is not None]
    if len(known) < 2:
        return known[0][0] if known else None
    values, weights = zip(*known, strict=True)
    return float(np.average(values, weights=weights))


def _score_session(
    request: "LatentsRequest", data: ScoredData, on_step: Callable[[], None]
) -> dict[str, Weighted | None]:
    first, bins = request.architecture.initial_condition_bins, data.rates.shape[1]
    number = np.arange(bins)
    exists = (number < request.trial_length_bins[data.rows, None]) & (number >= first)
    known = _repeated(data.conditions)
    scores: dict[str, Weighted | None] = {}
    for part in PARTS:
        scored = request.split[data.rows] == part
        if not scored.any():
            continue
        scores |= _bits_per_spike(request, data, part, scored, exists)
        on_step()
        if data.true_rates is not None:
            scores[f"r2_true_rates_{part}"] = _r2_true_rates(data, scored, exists, on_step)
        if known.any():
            scores[f"psth_r2_{part}"] = _psth_r2(request, data, known, scored, exists, on_step)
    if data.true_rates is not None:
        scores["r2_true_rates"] = _r2_true_rates(data, np.ones(len(exists), bool), exists, on_step)
    return scores


def _bits_per_spike(
    request: "LatentsRequest",
    data: ScoredData,
    part: str,
    scored: NDArray[np.bool_],
    exists: NDArray[np.bool_],
) -> dict[str, Weighted | None]:
    architecture, bins = request.architecture, data.rates.shape[1]
    taken: slice | NDArray[np.bool_] = slice(None) if scored.all() else scored  # a slice copies nothing
    rates, spikes, recorded = data.rates[taken], data.spikes[taken], exists[taken][:, :, None]
    if data.missing is not None:
        recorded = recorded & ~data.missing[taken]
    scores = {
        f"reconstruction_bits_per_spike_{part}": _of_spikes(
            lambda: bits_per_spike(rates, spikes, mask=recorded), spikes, recorded
        )
    }
    encoded = architecture.encoded_bins or bins
    read, predicted = (np.arange(bins) < encoded)[:, None], (np.arange(bins) >= encoded)[:, None]
    if held_out := architecture.held_out_neurons:
        scores[f"co_smoothing_bits_per_spike_{part}"] = _of_spikes(
            lambda: co_smoothing_bits_per_spike(rates, spikes, held_out, recorded & read),
            spikes[:, :, held_out],
            np.broadcast_to(recorded & read, spikes.shape)[:, :, held_out],
        )
    if encoded < bins:
        scores[f"forward_prediction_bits_per_spike_{part}"] = _of_spikes(
            lambda: forward_prediction_bits_per_spike(rates, spikes, encoded, recorded),
            spikes,
            recorded & predicted,
        )
    return scores


def _r2_true_rates(
    data: ScoredData, trials: NDArray[np.bool_], exists: NDArray[np.bool_], on_step: Callable[[], None]
) -> Weighted | None:
    true_rates, mask = data.true_rates, exists[trials][:, :, None]
    assert true_rates is not None
    return _mean_over_neurons(
        lambda n: r2_true_rates(data.rates[trials, :, n], true_rates[trials, :, n], mask=mask),
        data.rates.shape[2],
        on_step,
    )


def _psth_r2(
    request: "LatentsRequest",
    data: ScoredData,
    known: NDArray[np.bool_],
    scored: NDArray[np.bool_],
    exists: NDArray[np.bool_],
    on_step: Callable[[], None],
) -> Weighted | None:
    names = [name for name, is_known in zip(data.conditions, known, strict=True) if is_known]
    codes = {name: code for code, name in enumerate(dict.fromkeys(names))}
    condition = np.array([codes[name] for name in names])
    return _mean_over_neurons(
        lambda n: psth_r2(
            data.rates[known, :, n],
            data.spikes[known, :, n],
            condition,
            bin_width_s=request.bin_width_s,
            scored_trials=scored[known],
            mask=exists[known] if data.missing is None else exists[known] & ~data.missing[known, :, n.start],
        ),
        data.rates.shape[2],
        on_step,
    )


def _repeated(conditions: Sequence[int | float | str | None]) -> NDArray[np.bool_]:
    """Trials whose condition has at least another trial: a PSTH is a mean."""
    trials = Counter(conditions)
    return np.array([name is not None and trials[name] > 1 for name in conditions], dtype=bool)


def _of_spikes(
    bits_per_spike: Callable[[], float], spikes: NDArray[Any], mask: NDArray[np.bool_]
) -> Weighted | None:
    """Bits per spike, and the spikes among the samples that count."""
    value = _or_none(bits_per_spike)
    return None if value is None else (value, float(np.where(mask, spikes, 0).sum()))


def _mean_over_neurons(
    of_columns: Callable[[slice], float], neurons: int, on_step: Callable[[], None]
) -> Weighted | None:
    """Mean of the scores of single neurons that have one: no more than one neuron's samples are copied at a time."""
    known = []
    for n in range(neurons):
        found = _or_none(partial(of_columns, slice(n, n + 1)))
        known += [] if found is None else [found]
        on_step()
    return (float(np.mean(known)), float(len(known))) if known else None


def _or_none(compute: Callable[[], float]) -> float | None:
    try:
        return finite(compute())
    except ConfigurationError:  # not defined on these trials
        return None
