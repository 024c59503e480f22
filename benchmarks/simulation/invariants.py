"""Whether anything was lost, done twice, forgotten or left behind; and how long lost slices waited."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from zarr.abc.store import Store
from zarr.core.sync import sync

from benchmarks.simulation.fault_injector import Death
from benchmarks.simulation.faults import Fault
from benchmarks.simulation.load import read_outcome
from domain.states import JobState, ModelState, SliceState
from store.database import Database
from store.tables import Dataset, Event, Job, Model, Slice
from worker.maintenance.garbage_collection import collect_all

NOTHING_TRAINED = "no_model_to_select"
"""Error of a job that was stopped before any of its models had trained."""


@dataclass(frozen=True)
class Judgement:
    """What was found; all but the counts of slices, states and points should be 0.

    Parameters
    ----------
    slices
        Of training, reported.
    lost
        Epochs that a model is said to have trained, but that are in no slice or have no point in its learning curve.
    trained_twice
        Epochs of a model that two reported slices trained.
    stuck
        Jobs neither ended nor paused, slices queued or leased, and models of ended jobs that have not ended.
    orphans
        Objects of the array store that no row refers to, after a collection.
    missing_objects
        Checkpoints and latents that a row refers to, but that are not there.
    failed
        Models that failed, and jobs that failed though they had models to select from: nothing in a soak is their fault.
    points_beyond
        Points of learning curves past what their model is said to have trained: of slices dropped by a stop or a cancel.
    jobs, models
        How many by their state.
    """

    slices: int
    lost: int
    trained_twice: int
    stuck: int
    orphans: int
    missing_objects: int
    failed: int
    points_beyond: int
    jobs: dict[str, int]
    models: dict[str, int]


def judge(database: Database, arrays: Store) -> Judgement:
    """Collect what nobody reads, and compare all rows with each other and with the array store."""
    collect_all(database, arrays)
    outcome = read_outcome(database)
    with database.read() as session:
        errors = {row.id: row.error for row in session.execute(select(Job.id, Job.error))}
        jobs = {row.id: row.state for row in session.execute(select(Job.id, Job.state))}
        models = session.execute(select(Model)).scalars().all()
        active = Slice.state.in_([SliceState.QUEUED, SliceState.LEASED]) | Slice.lease_token.is_not(None)
        slices = session.execute(select(func.count()).where(active)).scalar_one()
        data = set(session.execute(select(Dataset.array_path)).scalars())
    going_on = sum(not JobState(state).is_final and state != JobState.PAUSED for state in jobs.values())
    forgotten = sum(
        JobState(jobs[model.job_id]).is_final and not ModelState(model.state).is_final for model in models
    )
    keys = {(model.checkpoint_key, model.start_key, model.latents_path) for model in models}
    read = {key for of_model in keys for key in of_model if key}
    stored = set(sync(_list(arrays)))
    there = {part for key in stored for part in (key, *_folders(key))}
    # Zarr describes each folder above a group in an object of its own.
    above = ["", "datasets/", "models/"]
    above += [f"models/{model.id}/{below}" for model in models for below in ("", "latents/")]
    described = {f"{folder}zarr.json" for folder in above}
    orphans = [key for key in stored - described if (read | data).isdisjoint([key, *_folders(key)])]
    return Judgement(
        slices=outcome.slices_done,
        lost=outcome.epochs_missing,
        trained_twice=outcome.epochs_doubled,
        stuck=going_on + slices + forgotten,
        orphans=len(orphans),
        missing_objects=len(read - there),
        failed=sum(model.state == ModelState.FAILED for model in models)
        + sum((error or {}).get("code", NOTHING_TRAINED) != NOTHING_TRAINED for error in errors.values()),
        points_beyond=outcome.points_beyond,
        jobs=dict(Counter(str(state) for state in jobs.values())),
        models=dict(Counter(str(model.state) for model in models)),
    )


async def _list(arrays: Store) -> list[str]:
    return [key async for key in arrays.list()]


def _folders(key: str) -> list[str]:
    """All folders that an object is in: of a/b/c, a and a/b."""
    return [key[:end] for end, letter in enumerate(key) if letter == "/"]


@dataclass(frozen=True)
class Recovery:
    """How a slice came right again whose worker was killed.

    Parameters
    ----------
    fault
        How the worker was killed.
    taken_back_s
        From its death until the slice was queued again, or over; None: never.
    recovery_s
        From its death until the slice was claimed again, or over; None: never.
    """

    fault: Fault
    taken_back_s: float | None
    recovery_s: float | None


def read_recoveries(database: Database, deaths: Sequence[Death]) -> list[Recovery]:
    """Read from the events of jobs what became of the slices of dead workers."""
    of_slices = select(Event).where(Event.kind == "slice.state").order_by(Event.id)
    events: dict[str, list[tuple[str, datetime]]] = {}
    with database.read() as session:
        for event in session.execute(of_slices).scalars():
            events.setdefault(event.data["slice_id"], []).append((event.data["state"], event.created_at))
        ended = {row.id: row.ended_at for row in session.execute(select(Slice.id, Slice.ended_at))}

    def first(death: Death, *states: SliceState) -> float | None:
        times = [at for state, at in events.get(death.slice_id, []) if state in states]
        times += [ended[death.slice_id]] if ended.get(death.slice_id) else []
        return min(((at - death.at).total_seconds() for at in times if at > death.at), default=None)

    return [
        Recovery(death.fault, first(death, SliceState.QUEUED), first(death, SliceState.LEASED))
        for death in deaths
    ]
