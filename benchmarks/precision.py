"""Does training with bfloat16 products change a score? The same models trained both ways, beside the chance of another seed.

``python -m benchmarks.precision [--quick] [--json]``

Three data sets: the standard Lorenz set and, where the recordings are at hand, the sparse Lorenz set with a controller and the
first of the real ones. Each draw of hyperparameters is trained four times: with products in float32 and in bfloat16, and with
two seeds (initial weights and noise). Two figures of each model: its lowest smoothed SV loss, and what no training sees, R² to
the true rates or, in the real recording, of hand velocity decoded from the rates. The table has the mean difference
bfloat16 - float32 over pairs of the same draw and seed with its standard error, and how far such pairs lie apart, and those of
two seeds (root mean square). If precision makes no difference, the mean is within its error, and pairs lie no further apart than
those of two seeds.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.paper import known_rates, recordings
from benchmarks.paper.harness import (
    Draw,
    Result,
    Task,
    Trained,
    data_folder,
    draw_models,
    lags_in_bins,
    main,
    train_all,
)
from domain.job_specification import UsedPrecision
from domain.scores import r2_true_rates, ridge_decode_r2
from models import Architecture, Session, TrainingOptions

ARMS: tuple[tuple[UsedPrecision, int], ...] = (
    ("float32", 0), ("float32", 1000), ("bfloat16", 0), ("bfloat16", 1000),
)  # fmt: skip
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Data:
    """Trials, models to train on them, and what their rates are scored by."""

    name: str
    session: Session
    architecture: dict[str, Any]
    options: TrainingOptions
    draw: Draw
    score_name: str
    score: Callable[[NDArray[Any]], float]


def data_sets(seed: int) -> list[Data]:
    """Those that are at hand."""
    found = [
        _with_known_rates(
            known_rates.standard(seed), known_rates.STANDARD_ARCHITECTURE, known_rates.STANDARD_OPTIONS,
            known_rates.draw_standard,
        )
    ]  # fmt: skip
    sparse = known_rates.sparse()
    if sparse is not None:
        found.append(
            _with_known_rates(
                sparse, known_rates.SPARSE_ARCHITECTURE, known_rates.SPARSE_OPTIONS, known_rates.draw_sparse
            )
        )
    path = data_folder() / recordings.FILES[0]
    if path.exists():
        found.append(_recorded(recordings.load(path, seed)))
    return found


def _with_known_rates(
    recording: known_rates.Recording, architecture: dict[str, Any], options: TrainingOptions, draw: Draw
) -> Data:
    def r2(rates: NDArray[Any]) -> float:
        return r2_true_rates(rates, recording.true_rates)

    return Data(recording.name, recording.session, architecture, options, draw, "R² to the true rates", r2)


def _recorded(recording: recordings.Recording) -> Data:
    def decoded(rates: NDArray[Any]) -> float:
        lags = lags_in_bins(recording.bin_width_s)
        return ridge_decode_r2(rates.astype(float), recording.velocity, recording.recorded, lag_bins=lags)

    session = Session(recording.spikes, recording.lengths, recording.is_validation)
    options = TrainingOptions(batch_size=32, ramp_epochs=20)
    sizes = {"initial_condition_dim": 32}
    return Data(recording.name, session, sizes, options, recordings.draw, "velocity R²", decoded)


def experiment(*, quick: bool, processes: int, seed: int) -> Result:
    """Train every draw four times on every data set."""
    models, epochs = (4, 40) if quick else (8, 100)
    sets = data_sets(seed)[: 1 if quick else None]
    tasks = [task for data in sets for task in make_tasks(data, models, epochs, seed)]
    trained = train_all(tasks, processes)
    rows: list[list[Any]] = [
        ["data", "score", "mean, float32", "bfloat16 - float32", "standard error", "apart by precision", "apart by seed",
         "best, float32", "best, bfloat16"]
    ]  # fmt: skip
    summary: dict[str, Any] = {"models": models * len(tasks), "epochs": epochs}
    figure = Figure(figsize=(5 * len(sets), 4.5))
    panels = np.atleast_1d(figure.subplots(1, len(sets)))
    for place, data in enumerate(sets):
        arms = trained[place * len(ARMS) : (place + 1) * len(ARMS)]
        losses = np.array([[curve[-1].best_smoothed_sv_loss for curve in arm.curves] for arm in arms])
        scores = np.array([_scores(data, arm) for arm in arms])
        summary[data.name] = {}
        for name, values, best in (("SV loss", losses, np.min), (data.score_name, scores, np.max)):
            summary[data.name][name] = found = compare(values) | {
                "best_float32": float(best(values[:2])),
                "best_bfloat16": float(best(values[2:])),
            }
            rows.append([data.name, name, *(f"{value:.5f}" for value in found.values())])
        _draw(panels[place], data.name, losses)
    figure.tight_layout()
    return Result(summary, rows, figure)


def make_tasks(data: Data, models: int, epochs: int, seed: int) -> list[Task]:
    """One pack for each arm."""
    drawn = draw_models(models, data.draw, seed)
    neurons = data.session.spikes.shape[2]
    return [
        Task(
            [data.session], Architecture(neurons=neurons, **data.architecture), drawn,
            replace(data.options, precision=precision), epochs, list(range(first, first + models)), posterior_samples=10,
        )
        for precision, first in ARMS
    ]  # fmt: skip


def compare(values: Floats) -> dict[str, float]:
    """Of a score by arm and draw [4, models]: how far precision and how far the seed moves it."""
    by_precision = values[2:] - values[:2]
    by_seed = values[0::2] - values[1::2]
    return {
        "mean_float32": float(values[:2].mean()),
        "difference": float(by_precision.mean()),
        "standard_error": float(by_precision.std(ddof=1) / by_precision.size**0.5),
        "apart_by_precision": float((by_precision**2).mean() ** 0.5),
        "apart_by_seed": float((by_seed**2).mean() ** 0.5),
    }


def _scores(data: Data, arm: Trained) -> Sequence[float]:
    return [data.score(latents[0].rates) for latents in arm.latents]


def _draw(panel: Any, name: str, losses: Floats) -> None:
    """SV losses of pairs: the same seed in both precisions, and two seeds in float32."""
    panel.plot(losses[0], losses[1], "o", color="silver", label="two seeds, float32")
    panel.plot(
        losses[:2].ravel(), losses[2:].ravel(), ".", color="tab:blue", label="float32 and bfloat16, one seed"
    )
    ends = [losses.min(), losses.max()]
    panel.plot(ends, ends, color="grey", linewidth=0.8)
    panel.set(title=name, xlabel="SV loss, float32", ylabel="SV loss of the other")
    panel.locator_params(nbins=5)
    panel.legend()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main("precision", __doc__ or "", experiment)
