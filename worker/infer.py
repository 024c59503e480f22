"""The last slice of a job: latents of the selected model for every trial, and its scores."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import metrics
from models.inference import infer_latents
from store import events
from store.array_store import delete_objects
from store.arrays import ArrayGroupWriter, NamedArray
from store.database import database_now
from store.states import JobState
from store.tables import Model
from worker.checkpoints import load_checkpoint
from worker.slice_work import Progress, TrainingProcess, Work, finite

SPLITS = ["train", "valid", "test"]
"""Codes of the coordinate `split` of the latents."""


def infer(process: TrainingProcess, work: Work) -> None:
    """Posterior-average the latents of every trial, in the user's order, store and score them."""
    model = work.models[0]
    progress = Progress(process, work)
    spikes = process.read_array(work.dataset, "spikes")
    latents = infer_latents(
        work.architecture(),
        load_checkpoint(process.arrays, model.checkpoint_key or ""),
        spikes,
        work.trial_length_bins,
        posterior_samples=work.specification.inference.posterior_samples,
        seed=model.seed,
        device=process.device,
        on_step=progress.beat,
    )
    path = f"models/{model.id}/latents/{work.lease.token}"
    writer = ArrayGroupWriter(
        process.arrays,
        path,
        {
            "model_id": model.id,
            "job_id": work.job.id,
            "dataset_id": work.dataset.id,
            "bin_width_s": work.dataset.bin_width_s,
            "posterior_samples": work.specification.inference.posterior_samples,
            "coordinates": "split trial_length_bins",
        },
    )
    bin_width_s = float(work.dataset.bin_width_s or 0)
    for array in [*_latent_arrays(latents, bin_width_s), *coordinates(work, bin_width_s)]:
        writer.write(array)
        progress.beat()
    writer.close()
    scores = _scores(process, work, spikes, latents.rates)
    with process.final_report(work) as (session, job, _piece):
        row = session.get_one(Model, model.id)
        replaced, row.latents_path = row.latents_path, path
        row.scores = {**row.scores, **scores}
        job.state, job.ended_at = JobState.DONE, database_now(session)
        events.record(
            session, job.id, "job.state", state=job.state, selected_model_id=model.id, scores=row.scores
        )
    if replaced:
        delete_objects(process.arrays, replaced)


def _latent_arrays(latents: Any, bin_width_s: float) -> list[NamedArray]:
    time = ("trial", "time_s")
    return [
        NamedArray(
            "rates",
            (latents.rates / bin_width_s).astype(np.float32),
            (*time, "neuron"),
            "spikes/s",
            "posterior mean of the firing rates; NaN past a trial's end",
        ),
        NamedArray("factors", latents.factors, (*time, "factor"), "", "posterior mean of the factors"),
        NamedArray(
            "initial_conditions",
            latents.initial_conditions,
            ("trial", "initial_condition_dim"),
            "",
            "posterior mean of the generator's initial condition",
        ),
        NamedArray(
            "generator_states",
            latents.generator_states,
            (*time, "generator_unit"),
            "",
            "posterior mean of the generator's state",
        ),
    ]


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


def _scores(
    process: TrainingProcess, work: Work, spikes: NDArray[Any], rates: NDArray[np.float32]
) -> dict[str, float | None]:
    """Scores of the posterior-averaged rates (counts per bin) on validation trials, and against the truth if known."""
    bins = np.arange(spikes.shape[1])
    recorded = (bins[None, :] < work.trial_length_bins[:, None])[:, :, None]
    valid = work.split() == "valid"
    scores = {
        "bits_per_spike_valid": metrics.bits_per_spike(rates[valid], spikes[valid], mask=recorded[valid]),
    }
    if work.dataset.report and "true_rates_hz" in work.dataset.report.get("arrays", []):
        true_rates = process.read_array(work.dataset, "true_rates_hz") * work.dataset.bin_width_s
        scores["r2_true_rates"] = metrics.r2_true_rates(rates, true_rates, mask=recorded)
        scores["r2_true_rates_valid"] = metrics.r2_true_rates(
            rates[valid], true_rates[valid], mask=recorded[valid]
        )
    return {name: finite(value) for name, value in scores.items()}
