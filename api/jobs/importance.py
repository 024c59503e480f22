"""Importance of the hyperparameters of a job, from the rows of its models and decisions."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.jobs.lineage import read_decisions
from api.jobs.search_schemas import JobImportance, MarginalPart, SearchedDimension
from domain.architecture import with_architecture
from domain.importance import FEWEST_OBSERVATIONS, Observation, losses_by_part, note, p_value, places
from domain.job_specification import JobSpecification
from domain.search_space import Range, Value
from domain.strategies import PbtStrategy
from store.studies import distributions, finished_trial, importances, make_study, widened
from store.tables import Decision, Job, Model

_FEWEST_COMPARED = 4
"""Models that a generation needs: a line through the losses of fewer models leaves nothing to compare."""
_BEST_SEGMENTS = 0.25
"""Share of the segments that count as good. Places are means over generations, so a smaller share would be mostly chance."""


def importance(session: Session, job: Job) -> JobImportance:
    """Return how much each searched dimension of a job matters, and how models or segments did along it."""
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
            p_value=p_value(name, values, observations) if name in shares else None,
            marginals=[
                MarginalPart(
                    low=low,
                    high=high,
                    observations=len(losses),
                    median=statistics.median(losses) if losses else None,
                    lowest=min(losses, default=None),
                )
                for low, high, losses in losses_by_part(name, values, observations)
            ],
        )
        for name in dimensions
    ]
    return JobImportance(
        job_id=job.id,
        measure="place_in_generation" if is_population else "lowest_smoothed_sv_loss",
        observations=len(observations),
        dimensions=sorted(found, key=lambda one: -(one.importance or 0.0)),
        note=note(specification, observations, len(inside), has_dimensions=bool(dimensions)),
    )


def _models(session: Session, job: Job, names: Sequence[str]) -> list[Observation]:
    """Return the models of the search that have a loss, without the refit."""
    of_job = select(Model).where(
        Model.job_id == job.id, Model.smoothed_sv_loss.is_not(None), Model.refit_of.is_(None)
    )
    return [
        Observation(
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


def _segments(session: Session, job: Job) -> list[Observation]:
    """Return the segments of a population with their mean places in the generations that they trained."""
    of_search = select(Model).where(Model.job_id == job.id, Model.refit_of.is_(None))
    models = {model.number: model for model in session.execute(of_search).scalars()}
    decided: dict[int, list[Decision]] = defaultdict(list)
    for one in read_decisions(session, job):
        if one.model_number in models:
            decided[one.model_number].append(one)
    latest = {(one.model_number, one.epoch): one.latest_sv_loss for of in decided.values() for one in of}
    warm = {number for number, one in enumerate(job.warm_models or []) if "start_key" in one}
    segments: list[_Segment] = []
    generations: dict[tuple[int, int], list[tuple[_Segment, float | None, float]]] = defaultdict(list)
    for number, of_model in decided.items():
        model = models[number]
        ends = [(one.epoch, one.latest_sv_loss) for one in of_model[1:]]
        ends.append((model.epochs_trained, model.latest_smoothed_sv_loss))
        for start, (end, after) in zip(of_model, ends, strict=True):
            if start.kind in ("begin", "copy"):
                segments.append(_Segment(start.hyperparameters))
            source = number if start.parent_number is None else start.parent_number
            before = None if start.kind == "begin" else latest.get((source, start.epoch))
            # The loss of weights of another job is not known.
            is_known = before is not None or (start.kind == "begin" and number not in warm)
            if end > start.epoch and after is not None and is_known:
                generations[start.epoch, end].append((segments[-1], before, after))
    for trained in generations.values():
        if len(trained) >= _FEWEST_COMPARED:
            losses = [(before, after) for _, before, after in trained]
            for (segment, *_), place in zip(trained, places(losses), strict=True):
                segment.places.append(place)
    judged = [segment for segment in segments if segment.places]
    return [Observation(one.values, statistics.fmean(one.places)) for one in judged]
