"""Infer, store and score the latents of a model for a data set, at the end of a job or in a batch inference."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from domain.latents import LATENTS, SHARED_LATENTS
from domain.sessions import RecordedSession
from domain.split_groups import SPLITS
from models import Architecture, Latents, iterate_latents
from models import Session as TrainingSession
from store.arrays import ArrayGroupWriter, NamedArray, RowWriter
from store.datasets import session_coordinates, windows_of
from store.tables import Dataset, Model
from worker.context.checkpoints import load_checkpoint
from worker.context.data import find_array, read_array, read_conditions, read_session
from worker.context.process import TrainingProcess
from worker.context.reports import Heartbeat
from worker.context.slices import Work
from worker.inference.baselines import BaselineScores, FittedBaselines, Scores, score_baselines
from worker.inference.continuous import write_continuous
from worker.inference.scores import ScoredData, score, scratch_array

_MERGED = tuple(name for name in SHARED_LATENTS if LATENTS[name].has_bins)
"""Latents of all sessions that are merged into a continuous series, beside the rates of each session."""


@dataclass(frozen=True)
class LatentsRequest:
    """Which latents to infer: of which model, and for which trials.

    Attributes
    ----------
    model, architecture, state
        The model, its network with the neurons of all sessions that it was trained on, and its state from the checkpoint.
    dataset, sessions
        The data set, and its sessions.
    sessions_of_model
        For each session of the data set, the model's session that has its neurons.
    split
        Part of the model's job that each trial was in; ``test`` for trials that the job never saw.
    trial_length_bins
        Bins of each trial.
    posterior_samples
        Draws that are averaged.
    arrays
        Which latents are stored.
    path
        Where they are stored in the array store; nothing may be there yet.
    attributes
        Further attributes of the stored group.
    """

    model: Model
    architecture: Architecture
    state: Mapping[str, Tensor]
    dataset: Dataset
    sessions: Sequence[RecordedSession]
    sessions_of_model: Sequence[int]
    split: NDArray[np.str_]
    trial_length_bins: NDArray[np.int64]
    posterior_samples: int
    arrays: Sequence[str]
    path: str
    attributes: Mapping[str, str]

    @property
    def bin_width_s(self) -> float:
        """Bin width of the data set, in seconds."""
        return float(self.dataset.bin_width_s or 0)


def request_of(process: TrainingProcess, work: Work) -> LatentsRequest:
    """Return what a job asks for at its end."""
    inference, model = work.specification.inference, work.models[0]
    return LatentsRequest(
        model=model,
        architecture=work.architecture(),
        state=load_checkpoint(process.arrays, model.checkpoint_key or ""),
        dataset=work.dataset,
        sessions=work.sessions,
        sessions_of_model=range(len(work.sessions)),
        split=work.split(),
        trial_length_bins=work.trial_length_bins,
        posterior_samples=inference.posterior_samples,
        arrays=inference.arrays,
        path=f"models/{model.id}/latents/{work.lease.token}",
        attributes={},
    )


def store_latents(
    process: TrainingProcess, request: LatentsRequest, fitted: FittedBaselines, heartbeat: Heartbeat
) -> tuple[Scores, BaselineScores]:
    """Average the latents of every trial over the posterior, store them in the user's order, and score them.

    Latents are written a few trials at a time. The data stay in memory, as in training; the rates stay in a file on disk, for the
    scores.

    Parameters
    ----------
    process, request
        Who infers, and what.
    fitted
        Baselines that are scored beside the model.
    heartbeat
        Beats at every step, and counts the trials.

    Returns
    -------
    tuple
        The scores of the model by name, see `worker.inference.scores.score`, and the scores of the baselines.
    """
    conditions = read_conditions(process.database, request.dataset)
    sessions = [
        read_session(
            process.arrays,
            request.dataset,
            one,
            trial_length_bins=request.trial_length_bins,
            split=request.split,
            has_inputs=request.architecture.external_inputs > 0,
        )
        for one in request.sessions
    ]
    with ExitStack() as files:
        rates = [files.enter_context(scratch_array(session.spikes.shape)) for session in sessions]
        _write_latents(process, request, sessions, rates, heartbeat)
        data = [
            ScoredData(
                of_session,
                session.spikes,
                _true_rates(process, request, one),
                conditions[one.rows],
                one.rows,
                session.missing,
            )
            for one, session, of_session in zip(request.sessions, sessions, rates, strict=True)
        ]
        scores = score(request, data, heartbeat.beat)
        return scores, score_baselines(request, data, fitted, heartbeat.beat)


def _write_latents(
    process: TrainingProcess,
    request: LatentsRequest,
    sessions: Sequence[TrainingSession],
    rates: Sequence[NDArray[np.float32]],
    heartbeat: Heartbeat,
) -> None:
    """Infer batch by batch; write the requested arrays, and all rates of each session (counts per bin) into `rates`."""
    attributes = {
        "model_id": request.model.id,
        "job_id": request.model.job_id,
        "dataset_id": request.dataset.id,
        "bin_width_s": request.bin_width_s,
        "posterior_samples": request.posterior_samples,
        "coordinates": "split trial_length_bins" + (" session" if len(sessions) > 1 else ""),
        **request.attributes,
    }
    writer = ArrayGroupWriter(process.arrays, request.path, attributes)
    targets = _create_latent_arrays(writer, request)
    for recorded, session, of_session, number in zip(
        request.sessions, sessions, rates, request.sessions_of_model, strict=True
    ):
        for where, latents in iterate_latents(
            request.architecture,
            request.state,
            session.spikes,
            session.trial_length_bins,
            missing=session.missing,
            external_inputs=session.external_inputs,
            session=number,
            posterior_samples=request.posterior_samples,
            seed=request.model.seed + number,
            device=process.device,
            on_step=heartbeat.beat,
        ):
            of_session[where] = latents.rates
            for name, values in _stored(recorded, latents, request.bin_width_s):
                if name in targets:
                    targets[name].append(values)
                    heartbeat.beat()
            heartbeat.add(len(latents.rates))
    for target in targets.values():
        target.close()
    _merge_windows(process, request, writer, targets, heartbeat)
    for array in coordinates(request, read_array(process.arrays, request.dataset, "time_s")):
        writer.write(array)
        heartbeat.beat()
    writer.close()


def _merge_windows(
    process: TrainingProcess,
    request: LatentsRequest,
    writer: ArrayGroupWriter,
    targets: Mapping[str, RowWriter],
    heartbeat: Heartbeat,
) -> None:
    """Where trials are windows of a longer recording, also write their latents as one continuous series."""
    for recorded in request.sessions:
        windows = windows_of(process.arrays, request.dataset.array_path or "", recorded.suffix)
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
            trial_length_bins=request.trial_length_bins[recorded.rows],
            bin_width_s=request.bin_width_s,
            suffix=recorded.suffix,
            beat=heartbeat.beat,
        )


def _stored(
    recorded: RecordedSession, latents: Latents, bin_width_s: float
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the name of each array that a session's latents go to, and the rows to append."""
    for name in LATENTS:
        values = getattr(latents, name)
        if name == "rates":
            yield recorded.named(name), values / np.float32(bin_width_s)
        elif values is not None:
            yield name, values


def _create_latent_arrays(writer: ArrayGroupWriter, request: LatentsRequest) -> dict[str, RowWriter]:
    """Create the requested arrays and return them by name. Each session has its own rates."""
    architecture, bins, trials = (
        request.architecture,
        request.dataset.bins or 0,
        len(request.trial_length_bins),
    )
    absent = "NaN past a trial's end"
    if first := architecture.initial_condition_bins:
        absent += f", and in the first {first} bins, before the generator begins"
    rows: list[tuple[str, str, int, int]] = [
        *(("rates", one.suffix, one.trials, one.neurons) for one in request.sessions),
        ("factors", "", trials, architecture.factors),
        ("initial_conditions", "", trials, architecture.initial_condition_dim),
        ("inputs", "", trials, architecture.inferred_inputs),
        ("generator_states", "", trials, architecture.generator_units),
    ]
    targets = {}
    for name, suffix, of_trials, features in rows:
        if name not in request.arrays or (name == "inputs" and not architecture.has_controller):
            continue
        latent = LATENTS[name]
        target = writer.create(
            name + suffix,
            (of_trials, bins, features) if latent.has_bins else (of_trials, features),
            np.float32,
            tuple(dim if dim == "time_s" else dim + suffix for dim in latent.dims("time_s")),
            units=latent.units,
            description=f"posterior mean of the {latent.meaning}"
            + (f"; {absent}" if latent.has_bins else ""),
        )
        targets[name + suffix] = RowWriter(target)
    return targets


def coordinates(request: LatentsRequest, time_s: NDArray[np.float64]) -> list[NamedArray]:
    """Return the coordinates of the latents: trials in the user's order, bins in seconds, split and session of each trial."""
    return [
        *session_coordinates(request.sessions),
        NamedArray(
            "trial", np.arange(len(request.trial_length_bins)), ("trial",), "", "index in the order given"
        ),
        NamedArray("time_s", time_s, ("time_s",), "s", "start of the bin, from what trials are aligned to"),
        NamedArray(
            "split",
            np.array([SPLITS.index(split) for split in request.split], dtype=np.int8),
            ("trial",),
            "",
            "part of the job that the trial was in",
            {"flag_values": list(range(len(SPLITS))), "flag_meanings": " ".join(SPLITS)},
        ),
        NamedArray("trial_length_bins", request.trial_length_bins, ("trial",), "bins", "bins recorded"),
    ]


def _true_rates(
    process: TrainingProcess, request: LatentsRequest, recorded: RecordedSession
) -> NDArray[np.float32] | None:
    """Return the true rates of a session in counts per bin; None if the data set has none."""
    found = find_array(process.arrays, request.dataset, recorded.named("true_rates_hz"))
    if found is None:
        return None
    true_rates = found.astype(np.float32, copy=False)
    true_rates *= np.float32(request.bin_width_s)
    return true_rates
