"""Jobs to simulate: their rows as the API writes them, and what must hold of them afterwards."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from zarr.abc.store import Store

from store import outbox
from store.arrays import ArrayGroupWriter, NamedArray
from store.database import Database
from store.identifiers import new_id
from store.specification import JobSpecification
from store.states import DatasetState, JobState, ModelState, SliceState
from store.tables import DEFAULT_TENANT, CurvePoint, Dataset, Job, Model, Slice, Trial

TRIALS, BINS, NEURONS = 40, 25, 100
"""Of each simulated data set: small, for loading is measured apart; with the neurons that a recording often has."""


def add_jobs(database: Database, arrays: Store, jobs: int, models: int, epochs: int) -> None:
    """Write jobs with a data set each, and ask for their beginning."""
    spikes = np.random.default_rng(0).poisson(0.2, (TRIALS, BINS, NEURONS)).astype(np.uint8)
    writer = ArrayGroupWriter(arrays, "datasets/simulated")
    writer.write(NamedArray("spikes", spikes, ("trial", "time_s", "neuron")))
    writer.close()
    with database.write() as session:
        for number in range(jobs):
            _add_job(session, number, models, epochs)


def _add_job(session: Session, number: int, models: int, epochs: int) -> None:
    dataset_id, job_id = new_id("dat"), new_id("job")
    specification = JobSpecification.model_validate(
        {"dataset_id": dataset_id, "budget": {"models": models, "epochs": epochs}, "seed": number}
    )
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
            bin_width_s=0.02,
            array_path="datasets/simulated",
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
            spec=specification.model_dump(mode="json"),
        )
    )
    session.flush()
    outbox.post(session, outbox.ADVANCE, job_id)


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
        Begun more than once.
    epochs_missing
        Epochs of models below the one they are said to have reached that have no point of a learning curve, or are in no slice.
    epochs_doubled
        Epochs of models that two slices trained.
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
        points = {
            model_id: (number, last)
            for model_id, number, last in session.execute(
                select(CurvePoint.model_id, func.count(), func.max(CurvePoint.epoch)).group_by(
                    CurvePoint.model_id
                )
            )
        }
    parts: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for piece in slices:
        if piece.kind == "train" and piece.state == SliceState.DONE:
            for model_id in piece.model_ids:
                parts[model_id].append((piece.first_epoch, piece.epochs_trained or 0))
    epochs = dict.fromkeys((job.id for job in jobs), 0)
    missing = doubled = 0
    for model in models:
        epochs[model.job_id] += model.epochs_trained
        ends = [(0, 0), *sorted(parts[model.id]), (model.epochs_trained, model.epochs_trained)]
        for (_, end), (begin, _) in pairwise(ends):
            missing, doubled = missing + max(0, begin - end), doubled + max(0, end - begin)
        number, last = points.get(model.id, (0, 0))
        missing += max(0, model.epochs_trained - number) + max(0, last - model.epochs_trained)
    return Outcome(
        slices_done=sum(piece.state == SliceState.DONE for piece in slices if piece.kind == "train"),
        slices_lost=sum(piece.state in (SliceState.LEASED, SliceState.FAILED) for piece in slices),
        slices_repeated=sum(piece.attempts > 1 for piece in slices),
        epochs_missing=missing,
        epochs_doubled=doubled,
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
        if one.ended_at is not None and following.started_at is not None and following.attempts == 1
    ]
