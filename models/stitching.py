"""Several sessions in one model: read-ins and read-outs that begin with a common meaning.

Sessions of different neurons share the dynamics; each has its own linear map into the encoders and out of the factors. From
random maps the sessions would begin in unrelated coordinates. Pandarinath et al. 2018 (supplement, "dynamic neural stitching")
begin instead with principal-components regression: the principal components of the condition-averaged activity of all
sessions together, and each session's regression on them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from domain.architecture import Architecture
from domain.errors import require
from domain.parameter_shapes import OUTPUTS_PER_NEURON, session_prefix
from domain.smoothing import gaussian
from models.data import Session, check_spikes, recorded_samples, zero_unrecorded
from models.observation import OBSERVATIONS

Floats = NDArray[np.float64]


def principal_components_initial_values(
    architecture: Architecture,
    sessions: Sequence[Session],
    conditions: Sequence[NDArray[np.integer]] | None = None,
    *,
    smoothing_bins: float = 3.0,
    ridge: float = 1e-2,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Return initial values of read-ins and read-outs, for `Population(initial_values=…)`.

    Parameters
    ----------
    architecture
        With `read_in_dim` D.
    sessions
        Their training trials are averaged, without the samples that are `missing`: mark those there that sample
        validation holds out.
    conditions
        For each session the condition of each trial, integers [trials]; conditions that all sessions have are
        averaged one by one. None averages over all trials.
    smoothing_bins
        Standard deviation of the Gaussian that smooths the averages, in bins.
    ridge
        Penalty of the regressions, relative to the mean variance of the regressors.
    seed
        Of the map between factors and principal components, where their numbers differ.

    Returns
    -------
    dict[str, Tensor]
        "session{s}.read_in.weight" [N, D] and ".read_in.bias" [D]; for observations with one output per neuron also
        "session{s}.rates.weight" [F, N].
    """
    D, F = architecture.read_in_dim, architecture.factors
    require(D > 0, "the architecture has no read-in: give it read_in_dim")
    require(
        len(sessions) == len(architecture.session_neurons),
        f"expected {len(architecture.session_neurons)} sessions, got {len(sessions)}",
    )
    groups = conditions or [np.zeros(len(session.spikes), np.int64) for session in sessions]
    training = [
        np.asarray(group)[session.is_training] for group, session in zip(groups, sessions, strict=True)
    ]
    shared = sorted(set.intersection(*(set(group.tolist()) for group in training)))
    require(
        len(shared) > 0,
        "the sessions have no condition in common; give conditions=None to average all trials",
    )
    averages = [
        _averages(session, np.asarray(group), shared, smoothing_bins, architecture)
        for session, group in zip(sessions, groups, strict=True)
    ]  # [conditions · T, N] each
    bins = min(len(average) for average in averages)
    require(
        all(len(average) == bins for average in averages),
        "all sessions must have the same number of bins",
    )
    components = _principal_components(np.concatenate([_scaled(average) for average in averages], axis=1), D)
    random = np.random.default_rng(seed)
    by_factor = np.eye(F) if F == D else random.standard_normal((F, D)) / np.sqrt(F)
    counts = OBSERVATIONS[architecture.observation].is_counts
    start: dict[str, Floats] = {}
    centres = [average.mean(0) for average in averages]
    maps = [
        _regression(average - centre, components, ridge)
        for average, centre in zip(averages, centres, strict=True)
    ]
    # Averages vary far less than single trials, so these maps would flood the encoders with single spikes: one number
    # for all sessions brings them to the size of random weights, variance 1 / N.
    size = np.sqrt(sum(float(np.square(weight).sum()) for weight in maps) / (D * len(maps)))
    for number, (average, centre) in enumerate(zip(averages, centres, strict=True)):
        prefix = session_prefix(architecture, number)
        weight = maps[number] / max(size, 1e-12)
        start[f"{prefix}read_in.weight"] = weight
        start[f"{prefix}read_in.bias"] = -centre @ weight
        if OUTPUTS_PER_NEURON[architecture.observation] == 1:
            target = np.log(average + 0.1 * centre + 1e-4) if counts else average
            start[f"{prefix}rates.weight"] = by_factor @ _regression(
                components, target - target.mean(0), ridge
            )
    return {name: torch.from_numpy(values.astype(np.float32)) for name, values in start.items()}


def _averages(
    session: Session,
    condition: NDArray[np.integer],
    shared: Sequence[int],
    smoothing_bins: float,
    architecture: Architecture,
) -> Floats:
    """Return smoothed averages over the training trials of each condition, [conditions · T, N]."""
    values, lengths = check_spikes(
        session.spikes, session.trial_length_bins, architecture.observation, session.missing
    )
    _, recorded = recorded_samples(values.shape, lengths, session.missing)
    values = zero_unrecorded(values, recorded)
    T = values.shape[1]
    distance = np.arange(T)[:, None] - np.arange(T)[None]
    kernel = gaussian(distance, max(smoothing_bins, 1e-6))
    averages = []
    for number in shared:
        chosen = (condition == number) & session.is_training
        total = kernel @ values[chosen].sum(0, dtype=np.float64)
        weight = kernel @ recorded[chosen].sum(0, dtype=np.float64)
        averages.append(total / np.maximum(weight, 1e-9))
    return np.concatenate(averages)


def _scaled(average: Floats) -> Floats:
    """Center each neuron and divide it by its spread; the mean spread is added so that quiet neurons gain no weight."""
    centred = average - average.mean(0)
    spread = centred.std(0)
    scaled: Floats = centred / (spread + spread.mean() + 1e-12)
    return scaled


def _principal_components(centred: Floats, number: int) -> Floats:
    """Return the first principal components, each of variance 1: [samples, number]."""
    require(
        number <= min(centred.shape),
        f"read_in_dim is {number}, but the averages have only {centred.shape[0]} samples of {centred.shape[1]} neurons",
    )
    left, _, _ = np.linalg.svd(centred, full_matrices=False)
    components: Floats = left[:, :number] * np.sqrt(len(centred))
    return components


def _regression(x: Floats, y: Floats, ridge: float) -> Floats:
    """Return W such that x W is near y, by ridge regression."""
    gram = x.T @ x
    penalty = ridge * float(np.trace(gram)) / len(gram) + 1e-12
    return np.asarray(np.linalg.solve(gram + penalty * np.eye(len(gram)), x.T @ y), np.float64)
