"""Jobs to simulate: their rows as the API writes them, and what must hold of them afterwards."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from zarr.abc.store import Store

from domain.job_specification import JobSpecification
from domain.states import DatasetState, JobState, ModelState, SliceState
from store import outbox
from store.arrays import ArrayGroupWriter, NamedArray
from store.database import Database
from store.identifiers import new_id
from store.tables import DEFAULT_TENANT, CurvePoint, Dataset, Job, Model, Slice, Trial

DATA_PATH = "datasets/simulated"
TRIALS, BINS, NEURONS = 40, 25, 100
"""Of each simulated data set: small, for loading is measured apart; with the neurons that a recording often has."""
BIN_WIDTH_S = 0.02


def write_data(arrays: Store) -> None:
    """Write the counts that all simulated data sets share."""
    spikes = np.random.default_rng(0).poisson(0.2, (TRIALS, BINS, NEURONS)).astype(np.uint8)
    writer = ArrayGroupWriter(arrays, DATA_PATH)
    writer.write(NamedArray("spikes", spikes, ("trial", "time_s", "neuron")))
    writer.write(NamedArray("time_s", np.arange(BINS) * BIN_WIDTH_S, ("time_s",), "s"))
    writer.close()


def add_jobs(database: Database, specifications: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write jobs with a data set each, and ask for their beginning; returns their ids.

    Parameters
    ----------
    specifications
        What each job asks for, but for its data set.
    """
    with database.write() as session:
        return [_add_job(session, specification) for specification in specifications]


def _add_job(session: Session, given: Mapping[str, Any]) -> str:
    dataset_id, job_id = new_id("dat"), new_id("job")
    specification = JobSpecification.model_validate({**given, "dataset_id": dataset_id})
    session.add(
        Dataset(
            id=dataset_id,
            tenant_id=DEFAULT_TENANT,
            name="simulated",
            state=DatasetState.READY,
            source={"kind": "simulated"},
            trials=TRIALS,
            bins=BINS,
            neurons=NEURONS,
            bin_width_s=BIN_WIDTH_S,
            array_path=DATA_PATH,
        )
    )
    session.flush()
    session.add_all(
        Trial(dataset_id=dataset_id, trial=trial, length_bins=BINS, details={}) for trial in range(TRIALS)
    )
    session.add(
        Job(
            id=job_id,
            tenant_id=DEFAULT_TENANT,
            dataset_id=dataset_id,
            name="simulated",
            state=JobState.QUEUED,
            priority=specification.priority,
            spec=specification.model_dump(mode="json"),
        )
    )
    session.flush()
    outbox.post(session, outbox.ADVANCE, job_id)
    return job_id


def are_all_done(database: Database) -> bool:
    """Whether every job has ended well."""
    with database.read() as session:
        return set(session.execute(select(Job.state)).scalars()) == {JobState.DONE}


@dataclass(frozen=True)
class Outcome:
    """What became of the jobs.

    Parameters
    ----------
    slices_done
        Of training.
    slices_lost
        Neither done nor queued when everybody had stopped: still leased, or failed.
    slices_repeated
        Taken from a worker that was lost, or failed, and begun again.
    epochs_missing
        Epochs of models below the one they are said to have reached that have no point of a learning curve, or are in no slice.
        Whoever copies a model is at its epoch, so of a copy too all epochs are in its own slices.
    epochs_doubled
        Epochs of models that two slices trained.
    points_beyond
        Points of learning curves past the epoch that their model is said to have reached: of slices that were dropped.
    models_trained
        With their budget spent.
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
    """Compare slices, models and learning curves."""
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
