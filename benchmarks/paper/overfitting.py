"""Which score finds the good models? The experiment of Keshtkaran & Pandarinath 2019, figures 2 and 3.

``python -m benchmarks.paper.overfitting [--quick] [--json]``

Spikes of a Lorenz system whose rates are known; models with a controller, drawn from a wide random search, trained four
ways: without coordinated dropout (CD) or with it, on all samples or with sample validation (SV), which holds some out.
Every model is scored by what a user could see, its validation loss over the samples that it was shown (ordinary) and that
over those it was not (SV), and by what only the truth can tell, R² of its inferred rates to the true ones on validation
trials. A score is good for selection if it ranks the models as R² does.

Each model is scored at the end of its training, with its last weights: early stopping by one of the two scores would
hide part of what is to be seen. Both losses are smoothed over epochs with the weights used for selection.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.paper.harness import (
    Result,
    Task,
    draw_models,
    full_session,
    loguniform,
    main,
    packs,
    train_all,
)
from domain.ranks import spearman
from domain.scores import r2_true_rates
from domain.synthetic import lorenz
from models import Architecture, EpochScores, Hyperparameters, TrainingOptions

WAYS = {  # name: whether with CD, share of samples held out
    "neither": (False, 0.0),
    "CD": (True, 0.0),
    "SV": (False, 0.2),
    "CD and SV": (True, 0.2),
}
SMOOTHING = TrainingOptions(1).score_smoothing


def draw(random: np.random.Generator) -> Hyperparameters:
    """Draw a wide search: some models leak, some cannot. The weight of a KL in the evidence bound is 1 / (T · N) = 7e-4."""
    return Hyperparameters(
        learning_rate=loguniform(random, 1e-3, 1e-2),
        dropout=float(random.uniform(0.0, 0.6)),
        cd_rate=float(random.uniform(0.1, 0.7)),
        kl_weight_initial_condition=loguniform(random, 1e-6, 1e-3),
        kl_weight_inputs=loguniform(random, 1e-6, 1e-2),
        l2_weight_generator=loguniform(random, 1e-4, 1.0),
        l2_weight_controller=loguniform(random, 1e-4, 1.0),
    )


def smoothed(curve: Sequence[EpochScores], name: str) -> float:
    """Return the last value of a curve, smoothed over epochs like the score that selects."""
    value = float(getattr(curve[0], name))
    for scores in curve[1:]:
        value = SMOOTHING * value + (1 - SMOOTHING) * float(getattr(scores, name))
    return value


def experiment(*, quick: bool, processes: int, seed: int) -> Result:
    """Train all models all four ways and rank them."""
    number, epochs, conditions = (12, 40, 16) if quick else (24, 60, 24)
    made = lorenz(conditions=conditions, trials_per_condition=20, bins=50, mean_count_per_bin=0.2, seed=seed)
    session = full_session(made.spikes, made.is_validation)
    architecture = Architecture(
        neurons=made.spikes.shape[2],
        encoder_units=48,
        initial_condition_dim=32,
        generator_units=64,
        factors=10,
        controller_units=48,
        controller_encoder_units=48,
        inferred_inputs=4,
        controller_lag_bins=0,
    )
    drawn = draw_models(number, draw, seed)
    tasks, owners = [], []
    for way, (with_cd, sv_rate) in WAYS.items():
        for part in packs(number, 4):
            hyper = [
                model if with_cd else Hyperparameters(**{**vars(model), "cd_rate": 0.0})
                for model in drawn[part]
            ]
            options = TrainingOptions(
                batch_size=64, ramp_epochs=epochs // 4, decay_factor=1.0, gradient_clip=0.2
            )
            seeds = list(range(part.start, part.stop))
            tasks.append(
                Task(
                    [session],
                    architecture,
                    hyper,
                    options,
                    epochs,
                    seeds,
                    sv_rate=sv_rate,
                    weights="last",
                )
            )
            owners.append(way)
    truth = made.true_rates_hz * made.bin_width_s
    valid = made.is_validation
    points: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for way, task, trained in zip(owners, tasks, train_all(tasks, processes), strict=True):
        for hyper_of, curve, latents in zip(
            task.hyperparameters, trained.curves, trained.latents, strict=True
        ):
            if curve[-1].diverged:
                continue
            points[way].append(
                {
                    "validation_loss": smoothed(curve, "validation_loss"),
                    "sv_loss": smoothed(curve, "sv_loss"),
                    "r2": r2_true_rates(latents[0].rates[valid], truth[valid]),
                    "cd_rate": hyper_of.cd_rate,
                }
            )
    return Result(_summary(points, number), _table(points), _figure(points))


def _rank(points: Sequence[dict[str, float]], score: str) -> float:
    return spearman([point[score] for point in points], [point["r2"] for point in points])


def _summary(points: dict[str, list[dict[str, float]]], number: int) -> dict[str, Any]:
    both = points["SV"] + points["CD and SV"]
    return {
        "spearman_sv_r2": round(_rank(both, "sv_loss"), 3),
        "spearman_sv_r2_without_cd": round(_rank(points["SV"], "sv_loss"), 3),
        "spearman_sv_r2_with_cd": round(_rank(points["CD and SV"], "sv_loss"), 3),
        "spearman_validation_loss_r2_without_cd": round(_rank(points["neither"], "validation_loss"), 3),
        "spearman_validation_loss_r2_with_cd": round(_rank(points["CD"], "validation_loss"), 3),
        "r2_of_selected": {
            way: round(_selected(found, "sv_loss" if WAYS[way][1] else "validation_loss")["r2"], 3)
            for way, found in points.items()
        },
        "models": number * len(WAYS),
    }


def _selected(points: Sequence[dict[str, float]], score: str) -> dict[str, float]:
    return min(points, key=lambda point: point[score])


def _table(points: dict[str, list[dict[str, float]]]) -> list[list[Any]]:
    rows: list[list[Any]] = [
        [
            "trained with",
            "models",
            "best R²",
            "worst R²",
            "Spearman, validation loss and R²",
            "R² of the model it selects",
            "Spearman, SV loss and R²",
            "R² of the model it selects",
        ]
    ]
    for way, found in points.items():
        row: list[Any] = [
            way,
            len(found),
            max(p["r2"] for p in found),
            min(p["r2"] for p in found),
            _rank(found, "validation_loss"),
            _selected(found, "validation_loss")["r2"],
        ]
        with_sv = WAYS[way][1] > 0
        rows.append(
            row + ([_rank(found, "sv_loss"), _selected(found, "sv_loss")["r2"]] if with_sv else ["", ""])
        )
    return rows


def _figure(points: dict[str, list[dict[str, float]]]) -> Figure:
    figure = Figure(figsize=(13, 6.5))
    axes = figure.subplots(2, 4, sharey=True)
    for column, (way, found) in enumerate(points.items()):
        for row, (score, label) in enumerate(
            (("validation_loss", "ordinary validation loss"), ("sv_loss", "SV loss"))
        ):
            panel = axes[row][column]
            if score == "sv_loss" and WAYS[way][1] == 0:
                panel.axis("off")
                continue
            shown = [max(p["r2"], -1.0) for p in found]
            panel.scatter(
                [p[score] for p in found], shown, s=18, c=[p["cd_rate"] for p in found], vmin=0, vmax=0.7
            )
            chosen = _selected(found, score)
            panel.scatter(
                [chosen[score]], [max(chosen["r2"], -1.0)], s=90, facecolors="none", edgecolors="red"
            )
            panel.set_title(f"{way}: Spearman {_rank(found, score):.2f}", fontsize=10)
            panel.set_xlabel(f"{label} (nats per sample)")
            if column == 0 or (row == 1 and column == 2):
                panel.set_ylabel("R² to the true rates (cut at -1)")
            panel.set_ylim(-1.05, 1.0)
            panel.locator_params(axis="x", nbins=4)
    figure.suptitle(
        "Each point a model; red: the one that the score selects; colour: rate of coordinated dropout"
    )
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    main("overfitting", __doc__ or "", experiment)
