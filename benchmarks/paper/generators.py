"""Which generator finds the dynamics? Lorenz, Rössler and a two-bit flip-flop network whose states are known.

``python -m benchmarks.paper.generators [--quick] [--json]``

Each system drives Poisson neurons. For each kind of generator and number of dimensions d, a random search trains a few models;
the one with the lowest smoothed SV loss is selected, and only then compared with the truth, on validation trials:

- rate R²: R² of the inferred rates to the true rates, per neuron over trials and bins, then the mean;
- latent R²: R² of a linear regression (with intercept) that predicts the states of the generator from the true states of the
  system, weighted by the variance of each unit. It falls if the model's states contain activity that the system does not have.
- state R²: R² of the regression back, which predicts the true states from the generator's states; mean over dimensions.

Regressions are fitted on training trials and scored on validation trials. d is the number of units, but
`low_rank` has 64 units and rank d. Published figures are means over 5 seeds of deterministic models (Sedler et al. 2023).
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.paper.harness import (
    Result,
    Task,
    Trained,
    draw_models,
    full_session,
    loguniform,
    main,
    train_all,
)
from domain.scores import r2_true_rates
from domain.synthetic import SyntheticRecording, flip_flop, lorenz, rossler
from models import Architecture, Hyperparameters, TrainingOptions

PUBLISHED = {
    ("lorenz", "node", 3): (0.839, 0.897),
    ("lorenz", "gru", 3): (0.401, 0.331),
    ("rossler", "node", 3): (0.875, 0.957),
    ("rossler", "gru", 3): (0.277, 0.159),
}
SYSTEMS: dict[str, Callable[..., SyntheticRecording]] = {
    "lorenz": lorenz,
    "rossler": rossler,
    "flip_flop": flip_flop,
}
LOW_RANK_UNITS = 64
KINDS = ["node", "gru", "low_rank", "linear"]
DIMENSIONS = [3, 10, 100]


def experiment(*, quick: bool, processes: int, seed: int) -> Result:
    """Train the searches, and compare the selected models with the truth."""
    seeds = [seed] if quick else [seed, seed + 1, seed + 2]
    systems = ["lorenz"] if quick else list(SYSTEMS)
    wanted = [
        (system, kind, d, number)
        for system in systems
        for kind in (KINDS[:2] if quick else KINDS)
        for d in (DIMENSIONS[:1] if quick else DIMENSIONS)
        for number in seeds
        if kind != "low_rank" or d <= 10
    ]
    recordings = {(name, one): make(name, one, quick=quick) for name in systems for one in seeds}
    tasks = [task(recordings[name, one], kind, d, one, quick=quick) for name, kind, d, one in wanted]
    found = train_all(tasks, min(processes, len(tasks)))
    scores: dict[tuple[str, str, int], list[dict[str, float]]] = {}
    for (name, kind, d, one), trained in zip(wanted, found, strict=True):
        scores.setdefault((name, kind, d), []).append(judge(recordings[name, one], trained))
    return _result(scores)


def make(name: str, seed: int, *, quick: bool) -> SyntheticRecording:
    """Record a system: the standard sizes of Lorenz, 1300 trials; quick: 400."""
    conditions, trials = (40, 10) if quick else (65, 20)
    return SYSTEMS[name](conditions, trials, seed=seed)


def task(recording: SyntheticRecording, kind: str, d: int, seed: int, *, quick: bool) -> Task:
    """Return a pack of models of one kind with d dimensions."""
    is_low_rank = kind == "low_rank"
    architecture = Architecture(
        neurons=recording.spikes.shape[2],
        generator=kind,
        encoder_units=64,
        initial_condition_dim=32,
        factors=min(d, 10),
        external_inputs=0 if recording.inputs is None else recording.inputs.shape[2],
        generator_units=LOW_RANK_UNITS if is_low_rank else d,
        generator_rank=d if is_low_rank else 1,
    )
    models, epochs = (3, 200) if quick else (6, 400)
    options = TrainingOptions(
        batch_size=32 if quick else 64,
        ramp_epochs=epochs // 10,
        window_epochs=epochs // 3 if kind == "node" else 0,
    )
    session = full_session(recording.spikes, recording.is_validation, recording.inputs)
    return Task(
        [session], architecture, draw_models(models, draw, seed), options, epochs, list(range(models))
    )


def draw(random: np.random.Generator) -> Hyperparameters:
    """Draw from one space for all kinds."""
    return Hyperparameters(
        learning_rate=loguniform(random, 3e-3, 8e-3),
        dropout=0.0 if random.random() < 0.5 else float(random.uniform(0.0, 0.1)),
        cd_rate=float(random.uniform(0.2, 0.4)),
        kl_weight_initial_condition=loguniform(random, 1e-6, 1e-4),
        l2_weight_generator=loguniform(random, 1e-6, 1e-4),
    )


def judge(recording: SyntheticRecording, trained: Trained) -> dict[str, float]:
    """Compare the model that SV selects with the truth, on validation trials."""
    latents, valid = trained.latents[trained.selected][0], recording.is_validation
    truth = recording.true_rates_hz * recording.bin_width_s
    states, true_states = latents.generator_states, recording.latents
    return {
        "rate_r2": r2_true_rates(latents.rates[valid], truth[valid]),
        "latent_r2": regression_r2(true_states, states, valid, weighted=True),
        "state_r2": regression_r2(states, true_states, valid, weighted=False),
        "seconds": trained.seconds,
    }


def regression_r2(
    given: NDArray[Any], wanted: NDArray[Any], is_validation: NDArray[np.bool_], *, weighted: bool
) -> float:
    """Return the R² on validation trials of a linear regression fitted on the others.

    Parameters
    ----------
    given, wanted
        [trials, T, ·].
    is_validation
        [trials].
    weighted
        Weight the R² of each column of `wanted` by its variance; else take the mean.
    """

    def rows(values: NDArray[Any], chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        return values[chosen].reshape(-1, values.shape[-1]).astype(np.float64)

    mean = rows(given, ~is_validation).mean(0)
    target_mean = rows(wanted, ~is_validation).mean(0)
    weights = np.linalg.lstsq(
        rows(given, ~is_validation) - mean, rows(wanted, ~is_validation) - target_mean, rcond=1e-9
    )[0]
    target = rows(wanted, is_validation)
    error = np.square(target - target_mean - (rows(given, is_validation) - mean) @ weights).sum(0)
    total = np.square(target - target.mean(0)).sum(0)
    if weighted:
        return float(1 - error.sum() / total.sum())
    return float((1 - error / total).mean())


def _result(scores: dict[tuple[str, str, int], list[dict[str, float]]]) -> Result:
    head = [
        "system",
        "generator",
        "d",
        "rate R²",
        "latent R²",
        "state R²",
        "published rate / latent R²",
        "seconds",
    ]
    rows: list[list[Any]] = [head]
    summary: dict[str, Any] = {}
    for (system, kind, d), runs in scores.items():
        means = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
        published = PUBLISHED.get((system, kind, d))
        told = "" if published is None else f"{published[0]} / {published[1]}"
        shown = [round(means[name], 3) for name in ("rate_r2", "latent_r2", "state_r2")]
        rows.append([system, kind, d, *shown, told, round(means["seconds"])])
        cell = {name: round(means[name], 4) for name in ("rate_r2", "latent_r2", "state_r2")}
        if len(runs) > 1:
            cell["rate_r2_sd"] = round(float(np.std([run["rate_r2"] for run in runs], ddof=1)), 4)
        summary.setdefault(f"{system}_d{d}", {})[kind] = cell
    return Result(summary, rows, _figure(scores))


def _figure(scores: dict[tuple[str, str, int], Sequence[dict[str, float]]] | dict[Any, Any]) -> Figure:
    figure = Figure(figsize=(6, 5))
    axes = figure.subplots()
    for (system, kind, d), runs in scores.items():
        points = [(run["rate_r2"], run["latent_r2"]) for run in runs]
        axes.plot(*zip(*points, strict=True), "o", label=f"{system}, {kind}, d = {d}")
    axes.set(xlabel="rate R²", ylabel="latent R²")
    axes.legend(fontsize=7)
    return figure


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main("generators", __doc__ or "", experiment)
