"""The last slice of a job: latents of the selected model for every trial, its scores, and the job's diagnostics."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session
from torch import Tensor

from models import Architecture, Latents, iterate_latents
from models.constant_outputs import constant_output_losses, sv_bits_per_spike
from store import events
from store.array_store import delete_objects
from store.arrays import ArrayGroupWriter, NamedArray, RowWriter, open_array
from store.database import database_now
from store.lineage import lineage
from store.states import JobState
from store.tables import CurvePoint, Decision, Job, Model, Slice, Trial
from worker.checkpoints import load_checkpoint
from worker.diagnostics import best_epoch, diagnose
from worker.scores import ScoredData, score
from worker.slice_work import Progress, TrainingProcess, Work, finite

SPLITS = ["train", "valid", "test"]
"""Codes of the coordinate `split` of the latents."""


def infer(process: TrainingProcess, work: Work) -> None:
    """Posterior-average the latents of every trial, in the user's order, store and score them.

    Latents are written as they come, a few trials at a time; what stays is the data themselves, as in training, and the rates
    in a file on disk, for the scores.
    """
    model = work.models[0]
    progress = Progress(process, work)
    state = load_checkpoint(process.arrays, model.checkpoint_key or "")
    models, kept = _job_so_far(process, work, best_epoch(state))
    path = f"models/{model.id}/latents/{work.lease.token}"
    spikes = process.read_array(work.dataset, "spikes")
    with _scratch_array(spikes.shape) as rates:
        _write_latents(process, work, progress, state, spikes, rates, path)
        data = ScoredData(rates, spikes, _true_rates(process, work), _conditions(process, work))
        scores = score(work, data, progress.beat)
    training_data, architecture = process.training_data(work), work.architecture()
    if kept is not None and kept.sv_loss is not None:
        scores["bits_per_spike_sv"] = finite(sv_bits_per_spike(architecture, training_data, kept.sv_loss))
    progress.beat()
    reference = constant_output_losses(architecture, training_data)
    diagnostics = diagnose(work, models, kept, reference) if reference.held_out_samples else None

    replaced: list[str] = []

    def write(session: Session, job: Job, _piece: Slice) -> None:
        row = session.get_one(Model, model.id)
        replaced[:] = [row.latents_path] if row.latents_path else []
        row.latents_path = path
        row.scores = {**row.scores, **scores}
        job.diagnostics = diagnostics
        if diagnostics is not None:
            events.record(session, job.id, "job.diagnostics", **diagnostics)
        job.state, job.ended_at = JobState.DONE, database_now(session)
        events.record(
            session, job.id, "job.state", state=job.state, selected_model_id=model.id, scores=row.scores
        )

    process.final_report(work, write)
    for old in replaced:
        delete_objects(process.arrays, old)


def _job_so_far(process: TrainingProcess, work: Work, epoch: int) -> tuple[list[Model], CurvePoint | None]:
    """The models of the search, by number, and the point of the learning curve at an epoch of what is inferred with."""
    with process.database.read() as session:
        of_search = (Model.job_id == work.job.id) & Model.final_fit_of.is_(None)
        of_job = select(Model).where(of_search).order_by(Model.number)
        return list(session.execute(of_job).scalars()), point_at(session, work.models[0], epoch)


def point_at(session: Session, model: Model, epoch: int) -> CurvePoint | None:
    """The point of an epoch that a model has trained, or that it took over from whom it copied."""
    of_job = select(Decision).where(Decision.job_id == model.job_id).order_by(Decision.id)
    trained_by = model.number
    for segment in lineage(session.execute(of_job).scalars().all(), model.number):
        if segment.from_epoch < epoch and (segment.to_epoch is None or epoch <= segment.to_epoch):
            trained_by = segment.model_number
    of_epoch = select(CurvePoint).join(Model, Model.id == CurvePoint.model_id)
    of_epoch = of_epoch.where(
        Model.job_id == model.job_id, Model.number == trained_by, CurvePoint.epoch == epoch
    )
    return session.execute(of_epoch).scalar_one_or_none()


@contextmanager
def _scratch_array(shape: tuple[int, ...]) -> Iterator[NDArray[np.float32]]:
    """A float32 array in a file that is gone afterwards; a column of the last axis lies together."""
    with tempfile.TemporaryFile(prefix="latentry-rates-") as file:
        yield np.moveaxis(np.memmap(file, np.float32, "w+", shape=(shape[-1], *shape[:-1])), 0, -1)


def _write_latents(
    process: TrainingProcess,
    work: Work,
    progress: Progress,
    state: dict[str, Tensor],
    spikes: NDArray[np.integer],
    rates: NDArray[np.float32],
    path: str,
) -> None:
    """Infer, batch by batch; write what the job asks for, and all rates (counts per bin) into `rates`."""
    inference, bin_width_s = work.specification.inference, float(work.dataset.bin_width_s or 0)
    writer = ArrayGroupWriter(
        process.arrays,
        path,
        {
            "model_id": work.models[0].id,
            "job_id": work.job.id,
            "dataset_id": work.dataset.id,
            "bin_width_s": bin_width_s,
            "posterior_samples": inference.posterior_samples,
            "coordinates": "split trial_length_bins",
        },
    )
    architecture = work.architecture()
    targets = _create_latent_arrays(writer, architecture, inference.arrays, spikes.shape)
    for where, latents in iterate_latents(
        architecture,
        state,
        spikes,
        work.trial_length_bins,
        external_inputs=process.external_inputs(work),
        posterior_samples=inference.posterior_samples,
        seed=work.models[0].seed,
        device=process.device,
        on_step=progress.beat,
    ):
        rates[where] = latents.rates
        for name, target in targets.items():
            target.append(_stored(name, latents, bin_width_s))
            progress.beat()
    for target in targets.values():
        target.close()
    for array in coordinates(work, bin_width_s):
        writer.write(array)
        progress.beat()
    writer.close()


def _stored(name: str, latents: Latents, bin_width_s: float) -> NDArray[np.float32]:
    values: NDArray[np.float32] = getattr(latents, name)
    return values / np.float32(bin_width_s) if name == "rates" else values


def _create_latent_arrays(
    writer: ArrayGroupWriter, architecture: Architecture, wanted: Sequence[str], shape: tuple[int, ...]
) -> dict[str, RowWriter]:
    trials, bins, neurons = shape
    absent = "NaN past a trial's end"
    if architecture.initial_condition_bins:
        absent += (
            f", and in the first {architecture.initial_condition_bins} bins, before the generator begins"
        )
    time = ("trial", "time_s")
    described = {
        "rates": (
            (trials, bins, neurons), (*time, "neuron"), "spikes/s",
            f"posterior mean of the firing rates; {absent}",
        ),
        "factors": (
            (trials, bins, architecture.factors), (*time, "factor"), "",
            f"posterior mean of the factors; {absent}",
        ),
        "initial_conditions": (
            (trials, architecture.initial_condition_dim), ("trial", "initial_condition_dim"), "",
            "posterior mean of the generator's initial condition",
        ),
        "inputs": (
            (trials, bins, architecture.inferred_inputs), (*time, "input"), "",
            f"posterior mean of the inferred inputs to the generator; {absent}",
        ),
        "generator_states": (
            (trials, bins, architecture.generator_units), (*time, "generator_unit"), "",
            f"posterior mean of the generator's state; {absent}",
        ),
    }  # fmt: skip
    if not architecture.has_controller:
        del described["inputs"]
    return {
        name: RowWriter(writer.create(name, size, np.float32, dims, units=units, description=description))
        for name, (size, dims, units, description) in described.items()
        if name in wanted
    }


def coordinates(work: Work, bin_width_s: float) -> list[NamedArray]:
    """Coordinates of the latents: trials in the user's order, bins in seconds, the split of each trial."""
    bins, neurons = work.dataset.bins or 0, work.dataset.neurons or 0
    return [
        NamedArray("trial", np.arange(len(work.given_splits)), ("trial",), "", "index in the order given"),
        NamedArray("time_s", np.arange(bins) * bin_width_s, ("time_s",), "s", "start of the bin"),
        NamedArray("neuron", np.arange(neurons), ("neuron",), "", "index in the order given"),
        NamedArray(
            "split",
            np.array([SPLITS.index(split) for split in work.split()], dtype=np.int8),
            ("trial",),
            "",
            "part of the job that the trial was in",
            {"flag_values": [0, 1, 2], "flag_meanings": " ".join(SPLITS)},
        ),
        NamedArray("trial_length_bins", work.trial_length_bins, ("trial",), "bins", "bins recorded"),
    ]


def _true_rates(process: TrainingProcess, work: Work) -> NDArray[np.float32] | None:
    """True rates in counts per bin, where the data set has them."""
    if open_array(process.arrays, work.dataset.array_path or "", "true_rates_hz") is None:
        return None
    true_rates = process.read_array(work.dataset, "true_rates_hz").astype(np.float32, copy=False)
    true_rates *= np.float32(work.dataset.bin_width_s or 0)
    return true_rates


def _conditions(process: TrainingProcess, work: Work) -> list[int | str | None]:
    """The metadata `condition` of each trial, where it is a whole number or text."""
    with process.database.read() as session:
        of_trials = select(Trial.details).where(Trial.dataset_id == work.dataset.id).order_by(Trial.trial)
        found = [details.get("condition") for details in session.execute(of_trials).scalars()]
    return [value if isinstance(value, int | str) else None for value in found]
