"""What must hold after a simulation: nothing is lost, trained twice, stuck or left behind. And how long lost slices waited."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from sqlalchemy import func, select
from zarr.abc.store import Store
from zarr.core.sync import sync

from domain.states import JobState, ModelState, SliceState
from store.database import Database
from store.tables import CurvePoint, Dataset, Event, Job, Model, Slice
from tests.simulation.fault_injector import Death, Fault
from worker.maintenance.garbage_collection import collect_all

NOTHING_TRAINED = "no_model_to_select"
"""Error of a job that was stopped before any of its models had trained."""


@dataclass(frozen=True)
class Outcome:
    """The state of jobs, models and slices after a simulation.

    Parameters
    ----------
    slices_done
        Slices of training that were reported.
    slices_lost
        Slices that are still leased, or failed, when all processes have ended.
    slices_repeated
        Slices that failed or lost their worker and were started again.
    epochs_missing
        Epochs that a model's row counts as trained, but that have no point in the learning curve or are in no slice. A copied
        model counts only the epochs of its own slices.
    epochs_doubled
        Epochs of a model that two slices trained.
    points_beyond
        Points of a learning curve past the epochs that the model's row counts as trained: of slices that were dropped.
    models_trained
        Models whose budget is spent.
    models_per_pack
        Mean.
    epochs_of_jobs
        Sum over models of the epochs trained, for each job.
    jobs_done
        Jobs whose latents are stored.
    pack_waits_s
        From the end of each slice of training to the claim of the next one of the same pack.
    """

    slices_done: int
    slices_lost: int
    slices_repeated: int
    epochs_missing: int
    epochs_doubled: int
    points_beyond: int
    models_trained: int
    models_per_pack: float
    epochs_of_jobs: list[int]
    jobs_done: int
    pack_waits_s: list[float]


def read_outcome(database: Database) -> Outcome:
    """Compare slices, models and learning curves, and return what was found."""
    with database.read() as session:
        models = session.execute(select(Model)).scalars().all()
        slices = session.execute(select(Slice).order_by(Slice.id)).scalars().all()
        jobs = session.execute(select(Job)).scalars().all()
        reached = CurvePoint.epoch.between(1, Model.epochs_trained)
        counted = select(CurvePoint.model_id, func.count().filter(reached), func.count().filter(~reached))
        of_models = counted.join(Model, Model.id == CurvePoint.model_id).group_by(CurvePoint.model_id)
        points = {model_id: (within, past) for model_id, within, past in session.execute(of_models)}
    parts: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for piece in slices:
        if piece.kind == "train" and piece.state == SliceState.DONE:
            for model_id in piece.model_ids:
                parts[model_id].append((piece.first_epoch, piece.epochs_trained or 0))
    epochs = dict.fromkeys((job.id for job in jobs), 0)
    missing = doubled = beyond = 0
    for model in models:
        epochs[model.job_id] += model.epochs_trained
        ends = [(0, 0), *sorted(parts[model.id]), (model.epochs_trained, model.epochs_trained)]
        for (_, end), (begin, _) in pairwise(ends):
            missing, doubled = missing + max(0, begin - end), doubled + max(0, end - begin)
        within, past = points.get(model.id, (0, 0))
        missing, beyond = missing + model.epochs_trained - within, beyond + past
    return Outcome(
        slices_done=sum(piece.state == SliceState.DONE for piece in slices if piece.kind == "train"),
        slices_lost=sum(piece.state in (SliceState.LEASED, SliceState.FAILED) for piece in slices),
        slices_repeated=sum(piece.attempts + piece.losses > 0 for piece in slices),
        epochs_missing=missing,
        epochs_doubled=doubled,
        points_beyond=beyond,
        models_trained=sum(model.state == ModelState.TRAINED for model in models),
        models_per_pack=len(models) / max(1, len({(model.job_id, model.pack) for model in models})),
        epochs_of_jobs=list(epochs.values()),
        jobs_done=sum(job.state == JobState.DONE for job in jobs),
        pack_waits_s=_pack_waits_s(slices),
    )


def _pack_waits_s(slices: Sequence[Slice]) -> list[float]:
    of_pack: dict[tuple[str, int], list[Slice]] = defaultdict(list)
    for piece in slices:
        if piece.kind == "train":
            of_pack[piece.job_id, piece.pack].append(piece)
    return [
        (following.started_at - one.ended_at).total_seconds()
        for pack in of_pack.values()
        for one, following in pairwise(pack)
        if one.ended_at is not None
        and following.started_at is not None
        and following.attempts + following.losses == 0
    ]


@dataclass(frozen=True)
class Invariants:
    """Violations by kind, and counts of slices, jobs, models and points. All violations should be 0.

    Parameters
    ----------
    slices
        Slices of training that were reported.
    lost
        `Outcome.epochs_missing`.
    trained_twice
        `Outcome.epochs_doubled`.
    stuck
        Jobs neither ended nor paused, slices queued or leased, and models of ended jobs that have not ended.
    orphans
        Objects of the array store that no row refers to, after garbage collection.
    missing_objects
        Checkpoints and latents that a row refers to and that do not exist.
    failed
        Models that failed, and jobs that failed although they had models to select from. No fault of a soak excuses that.
    points_beyond
        `Outcome.points_beyond`: a stop or a cancel drops slices.
    jobs, models
        How many are in each state.
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


def check_invariants(database: Database, arrays: Store) -> Invariants:
    """Collect garbage, and compare all rows with each other and with the array store."""
    sum(collect_all(database, arrays))
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
    return Invariants(
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
    """Return all folders that contain an object: for a/b/c, a and a/b."""
    return [key[:end] for end, letter in enumerate(key) if letter == "/"]


@dataclass(frozen=True)
class Recovery:
    """How long it took until the slice of a killed worker continued.

    Parameters
    ----------
    fault
        How the worker was killed.
    taken_back_s
        From the kill until the slice was queued again, or over; None: never.
    recovery_s
        From the kill until the slice was claimed again, or over; None: never.
    """

    fault: Fault
    taken_back_s: float | None
    recovery_s: float | None


def read_recoveries(database: Database, deaths: Sequence[Death]) -> list[Recovery]:
    """Read from the events of jobs when the slices of killed workers continued."""
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
