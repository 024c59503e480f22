"""Does a search that never sees the truth find it? Two Lorenz data sets whose true rates are known.

``python -m benchmarks.paper.known_rates [--quick] [--json]``

The standard set (65 conditions × 20 trials, 50 bins, 29 neurons, 0.2 counts per bin) and, where the recordings are at hand,
a much sparser one in LFADS' file format (20 conditions × 40 trials, 100 bins, 60 neurons, 0.018 counts per bin). For each a
random search; the model with the lowest smoothed SV loss is selected; then, and only then, its rates are compared with the
true ones: R² over all trials, and bits per spike with the share of what the true rates themselves reach. That ceiling
differs between sets of trials, so validation trials and all trials are given. While the models train, the one that SV
would select at that time is compared too, which gives the time to R² 0.94; looking changes nothing in the training, and
its clock stands still meanwhile. Seconds are those of a processor core, one for each of two processes.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.paper.harness import (
    Result,
    data_folder,
    draw_models,
    full_session,
    loguniform,
    main,
    map_processes,
    packs,
)
from domain.scores import bits_per_spike, r2_true_rates
from domain.synthetic import lorenz
from models import (
    Architecture,
    Hyperparameters,
    Latents,
    Population,
    Session,
    TrainingData,
    TrainingOptions,
    infer_latents,
)

GOAL = 0.94
EVERY_EPOCHS = 5
MODELS_PER_PACK = 4
STANDARD_ARCHITECTURE: dict[str, Any] = {
    "encoder_units": 64,
    "initial_condition_dim": 32,
    "generator_units": 64,
    "factors": 10,
}
STANDARD_OPTIONS = TrainingOptions(batch_size=64, ramp_epochs=15, decay_factor=0.7)
SPARSE_ARCHITECTURE: dict[str, Any] = {
    "encoder_units": 64,
    "initial_condition_dim": 32,
    "generator_units": 100,
    "factors": 10,
    "controller_units": 48,
    "controller_encoder_units": 48,
    "inferred_inputs": 1,
}
SPARSE_OPTIONS = TrainingOptions(batch_size=32, ramp_epochs=30, decay_factor=0.7)


@dataclass(frozen=True)
class Recording:
    """Spikes, and true rates in counts per bin."""

    name: str
    session: Session
    true_rates: NDArray[np.float32]


@dataclass(frozen=True)
class Search:
    """One pack of a random search on a recording, and how long it may train.

    Parameters
    ----------
    recording
        With the truth, which is only looked at.
    architecture, options
        Of the models.
    hyperparameters, seeds
        One per model.
    seconds
        Of training, after which the pack ends.
    epochs
        At most.
    """

    recording: Recording
    architecture: Architecture
    options: TrainingOptions
    hyperparameters: Sequence[Hyperparameters]
    seeds: Sequence[int]
    seconds: float
    epochs: int


@dataclass(frozen=True)
class Found:
    """What a pack came to.

    Parameters
    ----------
    sv_losses
        Lowest smoothed SV loss of each model.
    latents
        Of the pack's best model by SV, 50 posterior samples.
    course
        (training seconds, R² of the model that is then best by SV), every few epochs.
    seconds, epochs
        Of training.
    inference_seconds
        Of the latents of all trials.
    """

    sv_losses: list[float]
    latents: Latents
    course: list[tuple[float, float]]
    seconds: float
    epochs: int
    inference_seconds: float


def run(search: Search) -> Found:
    """Train one pack, looking at the truth without using it."""
    torch.set_num_threads(1)
    session, truth = search.recording.session, search.recording.true_rates
    data = TrainingData(session, sv_rate=0.2, sv_seed=0)
    population = Population(
        search.architecture, search.hyperparameters, search.seeds, data, search.options, order_seed=0
    )

    def latents(model: int, samples: int) -> Latents:
        return infer_latents(
            search.architecture,
            population.state(model),
            session.spikes,
            session.trial_length_bins,
            posterior_samples=samples,
        )

    seconds, course, best = 0.0, [], [np.inf]
    while population.epoch < search.epochs and seconds < search.seconds:
        started = time.process_time()
        scores = population.train_epoch()
        seconds += time.process_time() - started
        best = [score.best_smoothed_sv_loss for score in scores]
        if population.epoch % EVERY_EPOCHS == 0:
            rates = latents(int(np.argmin(best)), 10).rates
            course.append((seconds, r2_true_rates(rates, truth)))
    started = time.process_time()
    chosen = latents(int(np.argmin(best)), 50)
    return Found(best, chosen, course, seconds, population.epoch, time.process_time() - started)


def standard(seed: int) -> Recording:
    """Return the standard Lorenz set."""
    made = lorenz(seed=seed)
    return Recording(
        "standard Lorenz",
        full_session(made.spikes, made.is_validation),
        made.true_rates_hz * np.float32(made.bin_width_s),
    )


def sparse() -> Recording | None:
    """Return the sparse set if its file exists."""
    path = data_folder() / "lorenz_lfads_format.h5"
    if not path.exists():
        return None
    with h5py.File(path) as file:
        parts = [file[name][...] for name in ("train_data", "valid_data", "train_truth", "valid_truth")]
    spikes = np.concatenate(parts[:2]).astype(np.int64)
    is_validation = np.arange(len(spikes)) >= len(parts[0])
    rates = np.concatenate(parts[2:]) * np.float32(0.01)  # Hz to counts per bin of 10 ms
    return Recording("lorenz_lfads_format.h5", full_session(spikes, is_validation), rates)


def draw_standard(random: np.random.Generator) -> Hyperparameters:
    """Around what is known to suit dense data."""
    return Hyperparameters(
        learning_rate=loguniform(random, 2e-3, 6e-3),
        dropout=float(random.uniform(0.0, 0.3)),
        cd_rate=float(random.uniform(0.2, 0.5)),
        kl_weight_initial_condition=loguniform(random, 1e-5, 3e-4),
        kl_weight_inputs=loguniform(random, 1e-5, 3e-4),
        l2_weight_generator=loguniform(random, 1e-4, 1e-2),
        l2_weight_controller=loguniform(random, 1e-4, 1e-2),
    )


def draw_sparse(random: np.random.Generator) -> Hyperparameters:
    """Around what suits sparse data: weaker KL, since few spikes speak against the prior."""
    return Hyperparameters(
        learning_rate=loguniform(random, 3e-3, 7e-3),
        dropout=float(random.uniform(0.1, 0.4)),
        cd_rate=float(random.uniform(0.3, 0.6)),
        kl_weight_initial_condition=loguniform(random, 1e-6, 2e-5),
        kl_weight_inputs=loguniform(random, 1e-5, 1e-4),
        l2_weight_generator=loguniform(random, 1e-4, 1e-2),
        l2_weight_controller=loguniform(random, 1e-4, 1e-2),
    )


def experiment(*, quick: bool, processes: int, seed: int) -> Result:
    """Search on both sets."""
    seconds = 60.0 if quick else 540.0
    workers = min(2, processes)
    rows: list[list[Any]] = [
        [
            "data",
            "models",
            "epochs",
            "core seconds of each process",
            "R² to the true rates",
            "reconstruction bits per spike, validation",
            "share of the truth's",
            "reconstruction bits per spike, all trials",
            "share of the truth's",
            f"seconds to R² {GOAL}",
            "50 posterior samples, s",
        ]
    ]
    summary: dict[str, Any] = {"processes": workers}
    figure = Figure(figsize=(11, 4))
    axes = figure.subplots(1, 2)
    for panel, recording in zip(axes, (standard(seed), sparse()), strict=True):
        if recording is None:
            summary["sparse"] = "skipped: lorenz_lfads_format.h5 is not there"
            panel.axis("off")
            continue
        searches = make_searches(recording, workers, seconds, seed)
        found = map_processes(run, searches, workers)
        key = "standard" if recording.name == "standard Lorenz" else "sparse"
        summary[key] = judged = _judge(recording, searches, found)
        rows.append([recording.name, *judged.values()])
        _draw(panel, recording, found, judged)
    figure.tight_layout()
    return Result(summary, rows, figure)


def make_searches(recording: Recording, workers: int, seconds: float, seed: int) -> list[Search]:
    """Return the packs of a search, one for each process."""
    is_sparse = recording.name != "standard Lorenz"
    neurons = recording.session.spikes.shape[2]
    architecture = SPARSE_ARCHITECTURE if is_sparse else STANDARD_ARCHITECTURE
    drawn = draw_models(MODELS_PER_PACK * workers, draw_sparse if is_sparse else draw_standard, seed)
    return [
        Search(
            recording,
            Architecture(neurons=neurons, **architecture),
            SPARSE_OPTIONS if is_sparse else STANDARD_OPTIONS,
            drawn[part],
            list(range(part.start, part.stop)),
            seconds,
            400,
        )
        for part in packs(len(drawn), MODELS_PER_PACK)
    ]


def _judge(recording: Recording, searches: Sequence[Search], found: Sequence[Found]) -> dict[str, Any]:
    best = min(found, key=lambda part: min(part.sv_losses))
    spikes, truth, rates = recording.session.spikes, recording.true_rates, best.latents.rates
    valid = recording.session.is_validation
    everything = np.ones_like(valid)
    bits = {
        name: (bits_per_spike(rates[chosen], spikes[chosen]), bits_per_spike(truth[chosen], spikes[chosen]))
        for name, chosen in (("valid", valid), ("all", everything))
    }
    reached = [at for at, r2 in best.course if r2 >= GOAL]
    return {
        "models": sum(len(search.seeds) for search in searches),
        "epochs": best.epochs,
        "training_seconds": round(max(part.seconds for part in found), 1),
        "r2": round(r2_true_rates(rates, truth), 4),
        "reconstruction_bits_per_spike_valid": round(bits["valid"][0], 4),
        "share_of_truth_valid": round(bits["valid"][0] / bits["valid"][1], 4),
        "reconstruction_bits_per_spike_all": round(bits["all"][0], 4),
        "share_of_truth_all": round(bits["all"][0] / bits["all"][1], 4),
        "seconds_to_goal": round(reached[0], 1) if reached else None,
        "inference_seconds": round(best.inference_seconds, 2),
    }


def _draw(panel: Any, recording: Recording, found: Sequence[Found], judged: dict[str, Any]) -> None:
    for number, part in enumerate(found):
        seconds, r2 = zip(*part.course, strict=True) if part.course else ((), ())
        panel.plot(seconds, r2, label=f"pack {number}")
    panel.axhline(judged["r2"], color="grey", linewidth=0.8, linestyle=":")
    panel.set_title(f"{recording.name}: R² {judged['r2']:.3f}", fontsize=10)
    panel.set_xlabel("training time of a core (s)")
    panel.set_ylabel("R² to the true rates of the best model by SV loss")
    panel.set_ylim(0, 1)
    panel.legend()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main("known_rates", __doc__ or "", experiment)
