"""Which hyperparameters of a search matter, by the models so far; in population-based training by segments of their lineages."""

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.jobs.lineage import read_decisions
from api.jobs.search_schemas import JobImportance, MarginalPart, SearchedDimension
from domain.architecture import with_architecture
from domain.job_specification import JobSpecification
from domain.search_space import Range, Searched, Value
from domain.strategies import AshaStrategy, HyperbandStrategy, PbtStrategy
from store.studies import distributions, finished_trial, importances, make_study, widened
from store.tables import Decision, Job, Model

FEWEST_OBSERVATIONS = 10
"""With fewer observations within the space the importances are chance, and none are given."""
_FEW_OBSERVATIONS = 20
_MOST_PARTS = 8
_PERMUTATIONS = 499
_FEWEST_COMPARED = 4
"""Models that a generation needs: a line through fewer of their losses leaves nothing to compare."""
_BEST_SEGMENTS = 0.25
"""Share of the segments that count as the better ones. Places are means over generations, so fewer would be mostly chance."""


@dataclass(frozen=True)
class _Observation:
    """A model with a loss, or a segment of a population with its place.

    Parameters
    ----------
    values
        Hyperparameters and searched sizes, by name.
    loss
        Lowest smoothed SV loss in nats per sample, or the place in the generation, 0 to 1; low is good.
    """

    values: dict[str, Value]
    loss: float


def importance(session: Session, job: Job) -> JobImportance:
    """How much each searched dimension of a job matters, and how models or segments did along it."""
    specification = JobSpecification.model_validate(job.spec)
    space, is_population = specification.searched_space(), isinstance(specification.strategy, PbtStrategy)
    dimensions = distributions(space)
    if is_population:
        observations = _segments(session, job)
        dimensions = widened(dimensions, [one.values for one in observations])
    else:
        observations = _models(session, job, list(dimensions))
    trials = [finished_trial(one.values, one.loss, dimensions) for one in observations]
    inside = [trial for trial in trials if trial is not None]
    shares: dict[str, float] = {}
    if len(inside) >= FEWEST_OBSERVATIONS:
        best = _BEST_SEGMENTS if is_population else None
        shares = importances(make_study(inside), list(dimensions), best)
    found = [
        SearchedDimension(
            name=name,
            scale=values.scale if isinstance(values := space[name], Range) else "choices",
            importance=shares.get(name),
            p_value=_p_value(name, values, observations) if name in shares else None,
            marginals=_marginals(name, values, observations),
        )
        for name in dimensions
    ]
    return JobImportance(
        job_id=job.id,
        measure="place_in_generation" if is_population else "lowest_smoothed_sv_loss",
        observations=len(observations),
        dimensions=sorted(found, key=lambda one: -(one.importance or 0.0)),
        note=_note(specification, observations, len(inside), has_dimensions=bool(dimensions)),
    )


def _models(session: Session, job: Job, names: Sequence[str]) -> list[_Observation]:
    """Models of the search with a loss; a refit is none of them."""
    of_job = select(Model).where(
        Model.job_id == job.id, Model.smoothed_sv_loss.is_not(None), Model.refit_of.is_(None)
    )
    return [
        _Observation(
            with_architecture(model.shown_hyperparameters, model.architecture, names),
            model.smoothed_sv_loss or 0.0,
        )
        for model in session.execute(of_job.order_by(Model.number)).scalars()
    ]


@dataclass
class _Segment:
    """Epochs that one model of a population trained with unchanged hyperparameters."""

    values: dict[str, Value]
    places: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class _Trained:
    """What a segment came to in one generation: smoothed SV losses at its beginning, None for fresh weights, and at its end."""

    segment: _Segment
    before: float | None
    after: float


def _segments(session: Session, job: Job) -> list[_Observation]:
    """Segments of a population with their mean places in the generations that they trained."""
    of_search = select(Model).where(Model.job_id == job.id, Model.refit_of.is_(None))
    models = {model.number: model for model in session.execute(of_search).scalars()}
    decided: dict[int, list[Decision]] = defaultdict(list)
    for one in read_decisions(session, job):
        if one.model_number in models:
            decided[one.model_number].append(one)
    latest = {(one.model_number, one.epoch): one.latest_sv_loss for of in decided.values() for one in of}
    warm = {number for number, one in enumerate(job.warm_models or []) if one.get("start_key")}
    segments: list[_Segment] = []
    generations: dict[tuple[int, int], list[_Trained]] = defaultdict(list)
    for number, of_model in decided.items():
        model = models[number]
        ends = [(one.epoch, one.latest_sv_loss) for one in of_model[1:]]
        ends.append((model.epochs_trained, model.latest_smoothed_sv_loss))
        for start, (end, after) in zip(of_model, ends, strict=True):
            if start.kind in ("begin", "copy"):
                segments.append(_Segment(start.hyperparameters))
            source = number if start.parent_number is None else start.parent_number
            before = None if start.kind == "begin" else latest.get((source, start.epoch))
            # Of the weights of another job it is not known what they had come to.
            is_known = before is not None or (start.kind == "begin" and number not in warm)
            if end > start.epoch and after is not None and is_known:
                generations[start.epoch, end].append(_Trained(segments[-1], before, after))
    for trained in generations.values():
        if len(trained) >= _FEWEST_COMPARED:
            for part, place in zip(trained, _places(trained), strict=True):
                part.segment.places.append(place)
    judged = [segment for segment in segments if segment.places]
    return [_Observation(one.values, statistics.fmean(one.places)) for one in judged]


def _places(trained: Sequence[_Trained]) -> list[float]:
    """Place of each segment in its generation, from 0, the best, to 1, by the loss at its end given that at its beginning.

    A high loss falls faster than a low one, so losses are compared with what those at the beginning let expect: a line through
    the losses of the generation, of a slope within 0 … 1.
    """
    before = np.array([0.0 if one.before is None else one.before for one in trained])
    after = np.array([one.after for one in trained])
    spread = before - before.mean()
    variance = float(spread @ spread)
    slope = min(max(float(spread @ after) / variance, 0.0), 1.0) if variance > 0 else 0.0
    gained = after - slope * before
    return [float(one) for one in (_ranks(gained) - 1) / (len(trained) - 1)]


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1 on; equal values share the mean of theirs."""
    ordered = np.sort(values)
    below, up_to = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    ranks: NDArray[np.float64] = (below + up_to + 1) / 2
    return ranks


def _parts(
    name: str, values: Searched, observations: Sequence[_Observation]
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


def _marginals(name: str, values: Searched, observations: Sequence[_Observation]) -> list[MarginalPart]:
    placed = [one for one in observations if name in one.values]
    ends, part_of = _parts(name, values, placed)
    losses: list[list[float]] = [[] for _ in ends]
    for one, part in zip(placed, part_of, strict=True):
        losses[part].append(one.loss)
    return [
        MarginalPart(
            low=low,
            high=high,
            observations=len(of_part),
            median=statistics.median(of_part) if of_part else None,
            lowest=min(of_part, default=None),
        )
        for (low, high), of_part in zip(ends, losses, strict=True)
    ]


def _p_value(name: str, values: Searched, observations: Sequence[_Observation]) -> float:
    """Share of random orders of the losses in which parts differ as much as they do: Kruskal and Wallis' statistic, permuted."""
    placed = [one for one in observations if name in one.values]
    ends, part_of = _parts(name, values, placed)
    counts = np.bincount(part_of, minlength=len(ends))
    ranks = _ranks(np.array([one.loss for one in placed]))

    def difference(order: NDArray[np.float64]) -> float:
        sums = np.bincount(part_of, order, len(ends))[counts > 0]
        return float((sums**2 / counts[counts > 0]).sum())

    random, found = np.random.default_rng(0), difference(ranks)
    as_large = sum(difference(random.permutation(ranks)) >= found * (1 - 1e-12) for _ in range(_PERMUTATIONS))
    return (1 + as_large) / (1 + _PERMUTATIONS)


def _edges(values: Range, observations: int) -> list[float]:
    """Ends of the parts of a range: more of them the more observations there are to fill them."""
    parts = min(_MOST_PARTS, max(2, math.ceil(math.sqrt(observations))))
    space = np.geomspace if values.scale == "log" else np.linspace
    inner = [float(edge) for edge in space(values.low, values.high, parts + 1)[1:-1]]
    return [values.low, *inner, values.high]


def _note(
    specification: JobSpecification,
    observations: Sequence[_Observation],
    inside: int,
    *,
    has_dimensions: bool,
) -> str | None:
    """What to know before the figures are believed."""
    if not has_dimensions:
        return "Nothing is searched: every value of space and architecture is fixed."
    is_population = isinstance(specification.strategy, PbtStrategy)
    what, notes = "segments" if is_population else "models", []
    if outside := len(observations) - inside:
        notes.append(
            f"{outside} of {len(observations)} {what} lie outside the space (begun from another job's) and have no part in the "
            "importances."
        )
    if inside < FEWEST_OBSERVATIONS:
        notes.append(
            f"Importances need {FEWEST_OBSERVATIONS} {what} of the space with a loss; there are {inside} so far."
        )
    elif len({one.loss for one in observations}) == 1:
        notes.append(f"All {what} have the same loss: nothing tells them apart.")
    elif inside < _FEW_OBSERVATIONS:
        notes.append(f"{inside} {what} are few: much of this is chance.")
    if is_population:
        notes.append(
            "With pbt segments are compared: what a model trained with unchanged hyperparameters. Each has its place in the "
            "generation, from 0 for the best to 1 for the worst, by the smoothed SV loss at the end given that at the beginning. "
            "Effects that take longer than a generation show weakly, and where most of a population is, places are near 0.5."
        )
    if isinstance(specification.strategy, AshaStrategy | HyperbandStrategy):
        notes.append("Models that were given up early are compared by what they had come to until then.")
    return " ".join(notes) or None
