"""Which hyperparameters of a search matter, by the models so far."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.jobs.search_schemas import JobImportance, MarginalPart, SearchedDimension
from store.architecture import with_sizes
from store.space import Range, Searched
from store.specification import JobSpecification
from store.strategies import AshaStrategy, HyperbandStrategy, PbtStrategy
from store.studies import distributions, finished_trial, importances, make_study
from store.tables import Job, Model

FEWEST_MODELS = 10
"""With fewer models of the space the importances are chance, and none are given."""
_FEW_MODELS = 20
_MOST_PARTS = 8


@dataclass(frozen=True)
class _Candidate:
    """A model with a loss.

    Parameters
    ----------
    values
        Hyperparameters and searched sizes, by name.
    loss
        Lowest smoothed SV loss, in nats per sample.
    """

    values: dict[str, float]
    loss: float


def importance(session: Session, job: Job) -> JobImportance:
    """How much each searched dimension of a job matters, and how models did along it."""
    specification = JobSpecification.model_validate(job.spec)
    space = specification.searched_space()
    dimensions = distributions(space)
    candidates = _candidates(session, job, list(dimensions))
    trials = [finished_trial(one.values, one.loss, dimensions) for one in candidates]
    inside = [trial for trial in trials if trial is not None]
    shares: dict[str, float] = {}
    if len(inside) >= FEWEST_MODELS:
        shares = importances(make_study(inside), list(dimensions))
    found = [
        SearchedDimension(
            name=name,
            scale=values.scale if isinstance(values := space[name], Range) else "choices",
            importance=shares.get(name),
            marginals=_marginals(name, values, candidates),
        )
        for name in dimensions
    ]
    return JobImportance(
        job_id=job.id,
        models=len(candidates),
        dimensions=sorted(found, key=lambda one: -(one.importance or 0.0)),
        note=_note(specification, candidates, len(inside), has_dimensions=bool(dimensions)),
    )


def _candidates(session: Session, job: Job, names: Sequence[str]) -> list[_Candidate]:
    """Models of the search with a loss, as they are now; a final fit is none of them."""
    of_job = select(Model).where(
        Model.job_id == job.id, Model.smoothed_sv_loss.is_not(None), Model.final_fit_of.is_(None)
    )
    return [
        _Candidate(
            with_sizes(model.hyperparameters, model.architecture, names), model.smoothed_sv_loss or 0.0
        )
        for model in session.execute(of_job.order_by(Model.number)).scalars()
    ]


def _marginals(name: str, values: Searched, candidates: Sequence[_Candidate]) -> list[MarginalPart]:
    placed = [one for one in candidates if name in one.values]
    if not isinstance(values, Range):
        choices = [float(value) for value in values] if isinstance(values, list) else []
        return [
            _part(choice, choice, [one.loss for one in placed if one.values[name] == choice])
            for choice in sorted(choices)
        ]
    edges = _edges(values, len(placed))
    inner = edges[1:-1]
    part_of = [int(np.searchsorted(inner, one.values[name], side="right")) for one in placed]
    return [
        _part(
            edges[part],
            edges[part + 1],
            [one.loss for one, at in zip(placed, part_of, strict=True) if at == part],
        )
        for part in range(len(edges) - 1)
    ]


def _edges(values: Range, models: int) -> list[float]:
    """Ends of the parts of a range: more of them the more models there are to fill them."""
    parts = min(_MOST_PARTS, max(2, math.ceil(math.sqrt(models))))
    space = np.geomspace if values.scale == "log" else np.linspace
    inner = [float(edge) for edge in space(values.low, values.high, parts + 1)[1:-1]]
    return [values.low, *inner, values.high]


def _part(low: float, high: float, losses: Sequence[float]) -> MarginalPart:
    return MarginalPart(
        low=low,
        high=high,
        models=len(losses),
        median_smoothed_sv_loss=statistics.median(losses) if losses else None,
        lowest_smoothed_sv_loss=min(losses, default=None),
    )


def _note(
    specification: JobSpecification, candidates: Sequence[_Candidate], inside: int, *, has_dimensions: bool
) -> str | None:
    """What to know before the figures are believed."""
    if not has_dimensions:
        return "Nothing is searched: every value of space and architecture is fixed."
    notes = []
    if outside := len(candidates) - inside:
        notes.append(
            f"{outside} of {len(candidates)} models lie outside the space (perturbed, or begun from another job's) and have no "
            "part in the importances."
        )
    if inside < FEWEST_MODELS:
        notes.append(
            f"Importances need {FEWEST_MODELS} models of the space with a loss; there are {inside} so far."
        )
    elif len({one.loss for one in candidates}) == 1:
        notes.append("All models have the same loss: nothing tells them apart.")
    elif inside < _FEW_MODELS:
        notes.append(f"{inside} models are few: much of this is chance.")
    if isinstance(specification.strategy, PbtStrategy):
        notes.append(
            "With pbt values change while a model trains: these are the present ones, and a loss owes as much to earlier ones."
        )
    if isinstance(specification.strategy, AshaStrategy | HyperbandStrategy):
        notes.append("Models that were given up early are compared by what they had come to until then.")
    return " ".join(notes) or None
