"""Latents of a model for a data set: inferred, stored and scored. A job does it at its end, an inference when it is asked for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from worker.context.data import find_array, read_array, read_conditions, read_session
from worker.context.process import TrainingProcess
from worker.context.slices import Work
from worker.inference.baselines import BaselineScores, FittedBaselines, Scores, score_baselines
from worker.inference.continuous import write_continuous
from worker.inference.scores import ScoredData, score, scratch_array

_MERGED = tuple(name for name in SHARED_LATENTS if LATENTS[name].has_bins)
"""Latents of all sessions that are merged, beside the rates of each, where trials are windows."""


@dataclass(frozen=True)
class LatentsRequest:
    """Which latents are wanted: of what model, for which trials.

    Attributes
    ----------
    model, architecture
        The model, and the network with the neurons of all sessions that it was trained on.
    dataset, sessions
        The data set, and its sessions.
    sessions_of_model
        Of each session of the data set, which one of the model's its neurons are.
    split
        Part of the model's job that each trial was in; ``test`` of those that the job never saw.
    trial_length_bins
        Of each trial.
    posterior_samples
        Draws that are averaged.
    arrays
        Which latents are stored.
    attributes
        Further attributes of the group that they are stored in.
    """

    model: Model
    architecture: Architecture
    dataset: Dataset
    sessions: Sequence[RecordedSession]
    sessions_of_model: Sequence[int]
    split: NDArray[np.str_]
    trial_length_bins: NDArray[np.int64]
    posterior_samples: int
    arrays: Sequence[str]
    attributes: Mapping[str, str]

    @property
    def bin_width_s(self) -> float:
        """Of the data set."""
        return float(self.dataset.bin_width_s or 0)


def request_of(work: Work) -> LatentsRequest:
    """What a job asks for at its end."""
    inference = work.specification.inference
    return LatentsRequest(
        model=work.models[0],
        architecture=work.architecture(),
        dataset=work.dataset,
        sessions=work.sessions,
        sessions_of_model=range(len(work.sessions)),
        split=work.split(),
        trial_length_bins=work.trial_length_bins,
        posterior_samples=inference.posterior_samples,
        arrays=inference.arrays,
        attributes={},
    )


def store_latents(
    process: TrainingProcess,
    request: LatentsRequest,
    state: Mapping[str, Tensor],
    path: str,
    on_step: Callable[[], None],
    fitted: FittedBaselines,
    on_trials: Callable[[int], None] = lambda _: None,
) -> tuple[Scores, BaselineScores]:
    """Posterior-average the latents of every trial, in the user's order, store and score them.

    Latents are written as they come, a few trials at a time; what stays is the data themselves, as in training, and the rates
    in a file on disk, for the scores.

    Parameters
    ----------
    process, request
        Who works, and at what.
    state
        Of the model, from its checkpoint.
    path
        In the array store; nothing may be there yet.
    on_step
        Called again and again; may raise.
    fitted
        Simple predictors to score beside the model.
    on_trials
        Told how many more trials have been inferred.

    Returns
    -------
    tuple
        Scores by name, see `worker.inference.scores.score`; of each of them those of the simple predictors.
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
        _write_latents(process, request, state, sessions, rates, path, on_step, on_trials)
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
        return score(request, data, on_step), score_baselines(request, data, fitted, on_step)


def _write_latents(
    process: TrainingProcess,
    request: LatentsRequest,
    state: Mapping[str, Tensor],
    sessions: Sequence[TrainingSession],
    rates: Sequence[NDArray[np.float32]],
    path: str,
    on_step: Callable[[], None],
    on_trials: Callable[[int], None],
) -> None:
    """Infer, batch by batch; write what is asked for, and all rates of each session (counts per bin) into `rates`."""
    writer = ArrayGroupWriter(
        process.arrays,
        path,
        {
            "model_id": request.model.id,
            "job_id": request.model.job_id,
            "dataset_id": request.dataset.id,
            "bin_width_s": request.bin_width_s,
            "posterior_samples": request.posterior_samples,
            "coordinates": "split trial_length_bins" + (" session" if len(sessions) > 1 else ""),
            **request.attributes,
        },
    )
    targets = _create_latent_arrays(writer, request)
    of_model = zip(request.sessions, sessions, rates, request.sessions_of_model, strict=True)
    for recorded, session, of_session, number in of_model:
        for where, latents in iterate_latents(
            request.architecture,
            state,
            session.spikes,
            session.trial_length_bins,
            missing=session.missing,
            external_inputs=session.external_inputs,
            session=number,
            posterior_samples=request.posterior_samples,
            seed=request.model.seed + number,
            device=process.device,
            on_step=on_step,
        ):
            of_session[where] = latents.rates
            for name, values in _stored(recorded, latents, request.bin_width_s):
                if name in targets:
                    targets[name].append(values)
                    on_step()
            on_trials(len(latents.rates))
    for target in targets.values():
        target.close()
    _merge_windows(process, request, writer, targets, on_step)
    for array in coordinates(request, read_array(process.arrays, request.dataset, "time_s")):
        writer.write(array)
        on_step()
    writer.close()


def _merge_windows(
    process: TrainingProcess,
    request: LatentsRequest,
    writer: ArrayGroupWriter,
    targets: Mapping[str, RowWriter],
    on_step: Callable[[], None],
) -> None:
    """Where trials are windows of a longer recording, write what was inferred in them as one continuous series too."""
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
            request.trial_length_bins[recorded.rows],
            request.bin_width_s,
            recorded.suffix,
            on_step,
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
    """Create the arrays that are asked for, and return them by name. Each session has its own rates."""
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
    """Coordinates of the latents: trials in the user's order, bins in seconds, the split and session of each trial."""
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
    """True rates of a session in counts per bin, where the data set has them."""
    found = find_array(process.arrays, request.dataset, recorded.named("true_rates_hz"))
    if found is None:
        return None
    true_rates = found.astype(np.float32, copy=False)
    true_rates *= np.float32(request.bin_width_s)
    return true_rates
