"""Decoding from smoothed spikes: the baseline of a model's decoding."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from api.analyses.decoding import MOST_FEATURES, TOLERANCE, Decoding, KeptTrials
from api.analyses.trajectories import Trajectories, query_trajectories
from api.arrays.groups import ReadContext
from api.arrays.query import ArrayQuery
from domain.scores.ridge import ALPHAS, Fitted, r2
from domain.smoothing import smoothed

WIDTHS_S = (0.03, 0.05, 0.08, 0.1, 0.15)
"""Standard deviations of the Gaussians to choose from; at least half a bin is used."""
MUCH_WORK = 5e9
"""Multiplications above which the baseline is computed only on request: about 6 s of a core."""


@dataclass(frozen=True)
class SmoothedSpikes:
    """The scores of smoothed spikes, on the samples that the latents decode.

    Attributes
    ----------
    width_s
        Standard deviation of the Gaussian that most decoders chose, in seconds.
    r2
        [K], of each component of the behaviour.
    """

    width_s: float
    r2: NDArray[np.float64]


def spikes_of(decoding: Decoding, asked: ArrayQuery, of_dataset: ReadContext) -> Trajectories | str:
    """Return the spikes in the bins of the latents, or the reason why there are none; their values are read later.

    Parameters
    ----------
    decoding
        Decoding from latents.
    asked
        Transformations of the bins, which are done to the spikes, too.
    of_dataset
        Context of the data set of the trials.
    """
    suffix = decoding.latents.array.dims[0].removeprefix("trial")
    name = f"spikes{suffix}"
    if name not in of_dataset.opened.arrays:
        return "the trials are of several sessions, whose neurons differ"
    spikes = query_trajectories(name, asked, of_dataset)
    if spikes.components > MOST_FEATURES:
        return f"the data set has {spikes.components} neurons; at most {MOST_FEATURES} are decoded from"
    if _places(decoding, spikes) is None:
        return "the spikes are not in the bins of the latents"
    return spikes


def _places(decoding: Decoding, spikes: Trajectories) -> NDArray[np.int64] | None:
    """Return the bin of the spikes for each bin of the latents; None if one does not exist."""
    latents_s, spikes_s = decoding.latents.time_s, spikes.time_s
    if latents_s is None or spikes_s is None:
        return None
    places = np.searchsorted(spikes_s, latents_s - decoding.bin_width_s / 2).clip(max=len(spikes_s) - 1)
    is_there = np.abs(spikes_s[places] - latents_s) < TOLERANCE * decoding.bin_width_s
    return places if is_there.all() else None


def smoothed_spikes(
    decoding: Decoding, spikes: Trajectories, *, is_wanted: bool | None
) -> SmoothedSpikes | str:
    """Return the scores of smoothed spikes for the same trials, bins and folds, or the reason why they were not computed.

    Each decoder chooses the width of the Gaussian as it chooses the penalty: within the trials that it is fitted on.

    Parameters
    ----------
    decoding
        Decoding from latents.
    spikes
        As `spikes_of` returns them.
    is_wanted
        None: only if it takes little time.
    """
    widths_s = sorted({max(width_s, decoding.bin_width_s / 2) for width_s in WIDTHS_S})
    work = len(widths_s) * _work(decoding, spikes.components)
    if is_wanted is None and work > MUCH_WORK:
        return (
            f"it takes about {work:.1g} multiplications, more than {MUCH_WORK:.0g}; baseline=true computes it"
        )
    at, kept = _places(decoding, spikes), KeptTrials(spikes)
    mean = kept.sum / max(1, kept.known)
    by_width: list[list[Fitted]] = []
    for width_s in widths_s:
        deviation = width_s / decoding.bin_width_s

        def of_trial(trial: int, deviation: float = deviation) -> NDArray[np.float64]:
            values = kept.of(trial)
            assert values is not None
            # A missing sample counts as the neuron's mean.
            return np.nan_to_num(smoothed(values, deviation, 0)[at] - mean, nan=0.0)

        try:
            by_width.append(decoding.fit_others(spikes.components, of_trial))
        except np.linalg.LinAlgError:
            return "the spikes of the selected trials do not vary"
    places = [
        min(range(len(widths_s)), key=lambda place: found[place].error_of_parts)
        for found in zip(*by_width, strict=True)
    ]
    best = [by_width[place][number] for number, place in enumerate(places)]
    return SmoothedSpikes(widths_s[Counter(places).most_common(1)[0][0]], r2(best))


def _work(decoding: Decoding, neurons: int) -> float:
    """Estimate the multiplications of one width: products of samples, and solutions for each part and penalty."""
    size = neurons + 1 + decoding.behaviour.components
    solutions = sum(one.parts * len(ALPHAS) for one in decoding.divisions)
    return float(len(decoding.latents.trials) * decoding.latents.bins * size**2 + solutions * size**3 / 3)
