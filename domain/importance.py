"""Importance of hyperparameters: how models, or segments of a population, did along each searched dimension."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.job_specification import JobSpecification
from domain.ranks import ranks as ranks_of
from domain.search_space import Range, Searched, Value
from domain.strategies import AshaStrategy, HyperbandStrategy, PbtStrategy

FEWEST_OBSERVATIONS = 10
"""With fewer observations within the space, importances are chance, and none are computed."""
_FEW_OBSERVATIONS = 20
_MOST_PARTS = 8
_PERMUTATIONS = 499


@dataclass(frozen=True)
class Observation:
    """A model with a loss, or a segment of a population with its place.

    Parameters
    ----------
    values
        Hyperparameters and searched sizes, by name.
    loss
        Lowest smoothed SV loss in nats per sample, or the place in the generation, 0 to 1; lower is better.
    """

    values: dict[str, Value]
    loss: float


def losses_by_part(
    name: str, values: Searched, observations: Sequence[Observation]
) -> list[tuple[Value, Value, list[float]]]:
    """Return the ends of each part of a dimension, and the losses of the observations in it."""
    placed = [one for one in observations if name in one.values]
    ends, part_of = _parts(name, values, placed)
    losses: list[list[float]] = [[] for _ in ends]
    for one, part in zip(placed, part_of, strict=True):
        losses[part].append(one.loss)
    return [(low, high, of_part) for (low, high), of_part in zip(ends, losses, strict=True)]


def p_value(name: str, values: Searched, observations: Sequence[Observation]) -> float:
    """Return the share of random orders of the losses in which the parts of a dimension differ at least as much as observed.

    The difference is the statistic of Kruskal and Wallis.
    """
    placed = [one for one in observations if name in one.values]
    ends, part_of = _parts(name, values, placed)
    counts = np.bincount(part_of, minlength=len(ends))
    ranks = ranks_of(np.array([one.loss for one in placed]))

    def difference(order: NDArray[np.float64]) -> float:
        sums = np.bincount(part_of, order, len(ends))[counts > 0]
        return float((sums**2 / counts[counts > 0]).sum())

    random, found = np.random.default_rng(0), difference(ranks)
    as_large = sum(difference(random.permutation(ranks)) >= found * (1 - 1e-12) for _ in range(_PERMUTATIONS))
    return (1 + as_large) / (1 + _PERMUTATIONS)


def _parts(
    name: str, values: Searched, observations: Sequence[Observation]
) -> tuple[list[tuple[Value, Value]], list[int]]:
    """Return the ends of the parts of a dimension, and in which part each observation lies."""
    if not isinstance(values, Range):
        choices: list[Any] = sorted(values) if isinstance(values, list) else []
        part_of = [choices.index(one.values[name]) for one in observations]
        return [(choice, choice) for choice in choices], part_of
    edges: list[Value] = [*_edges(values, len(observations))]
    inner = edges[1:-1]
    part_of = [int(np.searchsorted(inner, one.values[name], side="right")) for one in observations]
    return list(pairwise(edges)), part_of


def _edges(values: Range, observations: int) -> list[float]:
    """Return the ends of the parts of a range; more observations give more parts."""
    parts = min(_MOST_PARTS, max(2, math.ceil(math.sqrt(observations))))
    space = np.geomspace if values.scale == "log" else np.linspace
    inner = [float(edge) for edge in space(values.low, values.high, parts + 1)[1:-1]]
    return [values.low, *inner, values.high]


def places(losses: Sequence[tuple[float | None, float]]) -> list[float]:
    """Return the place of each segment in its generation, from 0 for the best to 1.

    A high loss falls faster than a low one. So the loss at the end is compared with the one that the loss at the beginning
    predicts, by a line through the losses of the generation with a slope within 0 … 1.

    Parameters
    ----------
    losses
        Smoothed SV losses of each segment at its beginning, None for new weights, and at its end.
    """
    before = np.array([before or 0.0 for before, _ in losses])
    after = np.array([end for _, end in losses])
    spread = before - before.mean()
    variance = float(spread @ spread)
    slope = min(max(float(spread @ after) / variance, 0.0), 1.0) if variance > 0 else 0.0
    gained = after - slope * before
    return [float(one) for one in (ranks_of(gained) - 1) / (len(losses) - 1)]


def note(
    specification: JobSpecification,
    observations: Sequence[Observation],
    inside: int,
    *,
    has_dimensions: bool,
) -> str | None:
    """Return why the figures may be missing or unreliable; None if they are neither."""
    if not has_dimensions:
        return "Nothing is searched: every value of space and architecture is fixed."
    is_population = isinstance(specification.strategy, PbtStrategy)
    what, notes = "segments" if is_population else "models", []
    if outside := len(observations) - inside:
        notes.append(
            f"{outside} of {len(observations)} {what} lie outside the space, because they began with those of another job. They "
            "do not count in the importances."
        )
    if inside < FEWEST_OBSERVATIONS:
        notes.append(
            f"Importances need {FEWEST_OBSERVATIONS} {what} of the space with a loss; there are {inside} so far."
        )
    elif len({one.loss for one in observations}) == 1:
        notes.append(f"All {what} have the same loss, so no importance can be computed.")
    elif inside < _FEW_OBSERVATIONS:
        notes.append(f"There are only {inside} {what}: much of this is chance.")
    if is_population:
        notes.append(
            "With pbt, segments are compared: epochs that a model trained with unchanged hyperparameters. Each has a place in "
            "its generation, from 0 for the best to 1 for the worst, by the smoothed SV loss at the end given that at the "
            "beginning. Effects that take longer than a generation appear weakly, and places are near 0.5 where most of a "
            "population is."
        )
    if isinstance(specification.strategy, AshaStrategy | HyperbandStrategy):
        notes.append("Models that were stopped early are compared by their lowest loss until then.")
    return " ".join(notes) or None
