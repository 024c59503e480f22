"""The last slice of a job: latents of the selected model for every trial, its scores, and the job's diagnostics."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session
from torch import Tensor

from models import Architecture, Latents, iterate_latents
from models import Session as TrainingSession
from models.constant_outputs import constant_output_losses, sv_bits_per_spike
from store import events
from store.array_store import delete_objects
from store.arrays import ArrayGroupWriter, NamedArray, RowWriter, open_array
from store.database import database_now
from store.lineage import lineage
from store.sessions import RecordedSession, session_coordinates
from store.states import JobState
from store.tables import CurvePoint, Decision, Job, Model, Slice
from worker.checkpoints import load_checkpoint
from worker.continuous import windows_of, write_continuous
from worker.diagnostics import best_epoch, diagnose
from worker.scores import ScoredData, score
from worker.slice_work import Progress, TrainingProcess, Work, finite

SPLITS = ["train", "valid", "test"]
"""Codes of the coordinate `split` of the latents."""

_MERGED = ("factors", "inputs", "generator_states")
"""Latents of all sessions that are merged, beside the rates of each, where trials are windows."""


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
    sessions, conditions = [process.session(work, one) for one in work.sessions], process.conditions(work)
    with ExitStack() as files:
        rates = [files.enter_context(_scratch_array(session.spikes.shape)) for session in sessions]
        _write_latents(process, work, progress, state, sessions, rates, path)
        data = [
            ScoredData(
                of_session, session.spikes, _true_rates(process, work, one), conditions[one.rows], one.rows
            )
            for one, session, of_session in zip(work.sessions, sessions, rates, strict=True)
        ]
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
    sessions: Sequence[TrainingSession],
    rates: Sequence[NDArray[np.float32]],
    path: str,
) -> None:
    """Infer, batch by batch; write what the job asks for, and all rates of each session (counts per bin) into `rates`."""
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
            "coordinates": "split trial_length_bins" + (" session" if len(sessions) > 1 else ""),
        },
    )
    architecture = work.architecture()
    targets = _create_latent_arrays(writer, architecture, work)
    for number, (recorded, session) in enumerate(zip(work.sessions, sessions, strict=True)):
        for where, latents in iterate_latents(
            architecture,
            state,
            session.spikes,
            session.trial_length_bins,
            external_inputs=session.external_inputs,
            session=number,
            posterior_samples=inference.posterior_samples,
            seed=work.models[0].seed + number,
            device=process.device,
            on_step=progress.beat,
        ):
            rates[number][where] = latents.rates
            for name, values in _stored(recorded, latents, bin_width_s):
                if name in targets:
                    targets[name].append(values)
                    progress.beat()
    for target in targets.values():
        target.close()
    _merge_windows(process, work, progress, writer, targets)
    for array in coordinates(work, _time_s(process, work)):
        writer.write(array)
        progress.beat()
    writer.close()


def _merge_windows(
    process: TrainingProcess,
    work: Work,
    progress: Progress,
    writer: ArrayGroupWriter,
    targets: Mapping[str, RowWriter],
) -> None:
    """Where trials are windows of a longer recording, write what was inferred in them as one continuous series too."""
    for recorded in work.sessions:
        windows = windows_of(process.arrays, work.dataset.array_path or "", recorded.suffix)
        if windows is None:
            continue
        of_session = {recorded.named("rates"): 0} | dict.fromkeys(_MERGED, recorded.first_trial)
        latents = {
            name: (target.array, of_session[name]) for name, target in targets.items() if name in of_session
        }
        write_continuous(
            writer,
            windows,
            latents,
            work.trial_length_bins[recorded.rows],
            float(work.dataset.bin_width_s or 0),
            recorded.suffix,
            progress.beat,
        )


def _time_s(process: TrainingProcess, work: Work) -> NDArray[np.float64]:
    """When each bin begins, from what trials are aligned to: as the data set has it."""
    return process.read_array(work.dataset, "time_s")


def _stored(
    recorded: RecordedSession, latents: Latents, bin_width_s: float
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The arrays that a session's latents go to, and what they add."""
    yield recorded.named("rates"), latents.rates / np.float32(bin_width_s)
    yield "factors", latents.factors
    yield "initial_conditions", latents.initial_conditions
    yield "generator_states", latents.generator_states
    if latents.inputs is not None:
        yield "inputs", latents.inputs


def _create_latent_arrays(
    writer: ArrayGroupWriter, architecture: Architecture, work: Work
) -> dict[str, RowWriter]:
    """The arrays that the job asks for, by name; of the rates one for each session."""
    trials, bins = len(work.given_splits), work.dataset.bins or 0
    wanted: set[str] = set(work.specification.inference.arrays)
    if "rates" in wanted:
        wanted |= {one.named("rates") for one in work.sessions}
    absent = "NaN past a trial's end"
    if architecture.initial_condition_bins:
        absent += (
            f", and in the first {architecture.initial_condition_bins} bins, before the generator begins"
        )
    time = ("trial", "time_s")
    described = {
        one.named("rates"): (
            (one.trials, bins, one.neurons), (one.named("trial"), "time_s", one.named("neuron")), "spikes/s",
            f"posterior mean of the firing rates; {absent}",
        )
        for one in work.sessions
    } | {
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


def coordinates(work: Work, time_s: NDArray[np.float64]) -> list[NamedArray]:
    """Coordinates of the latents: trials in the user's order, bins in seconds, the split and session of each trial."""
    return [
        *session_coordinates(work.sessions),
        NamedArray("trial", np.arange(len(work.given_splits)), ("trial",), "", "index in the order given"),
        NamedArray("time_s", time_s, ("time_s",), "s", "start of the bin, from what trials are aligned to"),
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


def _true_rates(
    process: TrainingProcess, work: Work, recorded: RecordedSession
) -> NDArray[np.float32] | None:
    """True rates of a session in counts per bin, where the data set has them."""
    name = recorded.named("true_rates_hz")
    if open_array(process.arrays, work.dataset.array_path or "", name) is None:
        return None
    true_rates = process.read_array(work.dataset, name).astype(np.float32, copy=False)
    true_rates *= np.float32(work.dataset.bin_width_s or 0)
    return true_rates
