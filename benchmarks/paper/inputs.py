"""Does the controller find the inputs of a driven system? As in Pandarinath et al. 2018, supplementary figure 7.

``python -m benchmarks.paper.inputs [--quick] [--json]``

Neurons of a random network that one pulse per trial, of random time and sign, throws off its course. A random search of
models with a controller and one of models without; of each the model with the lowest smoothed SV loss is selected, the
truth unseen. Inferred inputs are known up to their sign, scale and a small delay, so a linear map from a few neighbouring
bins of the inferred inputs to the true ones is fitted on training trials, and everything is scored on validation trials:
R² of the true inputs (smoothed by 20 ms), the share of pulses found within 30 ms with the right sign, and R² of the
rates with and without a controller.
"""

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
from domain.smoothing import gaussian
from domain.synthetic import driven
from models import Architecture, Hyperparameters, Latents, TrainingOptions

Floats = NDArray[np.float64]
NEIGHBOURS = 3  # bins on each side
NEAR_BINS = 3
SMOOTHING_BINS = 2.0


def draw(random: np.random.Generator) -> Hyperparameters:
    """Ranges as published, narrower where a short training needs it."""
    return Hyperparameters(
        learning_rate=loguniform(random, 2e-3, 6e-3),
        dropout=float(random.uniform(0.0, 0.3)),
        cd_rate=float(random.uniform(0.2, 0.5)),
        kl_weight_initial_condition=loguniform(random, 1e-6, 1e-4),
        kl_weight_inputs=loguniform(random, 1e-6, 1e-4),
        l2_weight_generator=loguniform(random, 1e-4, 1e-2),
        l2_weight_controller=loguniform(random, 1e-4, 1e-2),
    )


def experiment(*, quick: bool, processes: int, seed: int) -> Result:
    """Train with and without a controller."""
    number, epochs, conditions = (2, 40, 20) if quick else (4, 100, 40)
    made = driven(
        conditions=conditions, trials_per_condition=20, bins=80, neurons=50, max_rate_hz=40.0, seed=seed
    )
    assert made.inputs is not None
    session = full_session(made.spikes, made.is_validation)
    without = Architecture(
        neurons=50, encoder_units=64, initial_condition_dim=32, generator_units=64, factors=16
    )
    controller = {"controller_units": 48, "controller_encoder_units": 48, "inferred_inputs": 2}
    with_controller = Architecture(**(vars(without) | controller | {"controller_lag_bins": 0}))
    drawn, options = draw_models(number, draw, seed), TrainingOptions(batch_size=64, ramp_epochs=epochs // 4)
    tasks = [
        Task([session], architecture, drawn, options, epochs, list(range(number)))
        for architecture in (with_controller, without)
    ]
    driven_by, undriven = (_selected(trained) for trained in train_all(tasks, processes))
    assert driven_by.inputs is not None
    valid, truth = made.is_validation, made.true_rates_hz * made.bin_width_s
    true_inputs = _smoothed(made.inputs[:, :, 0] / np.abs(made.inputs).max())
    decoded = _decoded(driven_by.inputs.astype(float), true_inputs, ~valid)
    error = np.square(decoded[valid] - true_inputs[valid]).sum()
    input_r2 = float(1 - error / np.square(true_inputs[valid] - true_inputs[valid].mean()).sum())
    found = _found(decoded[valid], made.inputs[valid, :, 0])
    r2 = {
        "with": r2_true_rates(driven_by.rates[valid], truth[valid]),
        "without": r2_true_rates(undriven.rates[valid], truth[valid]),
    }
    rows: list[list[Any]] = [
        ["", "R² of the rates", "R² of the inputs", "pulses found"],
        ["with a controller", r2["with"], input_r2, found],
        ["without", r2["without"], "", ""],
    ]
    summary = {
        "input_r2": round(input_r2, 3),
        "pulses_found": round(found, 3),
        "rates_r2_with_controller": round(r2["with"], 3),
        "rates_r2_without_controller": round(r2["without"], 3),
        "models": 2 * number,
    }
    return Result(summary, rows, _figure(decoded, true_inputs, driven_by, undriven, truth, valid))


def _selected(trained: Trained) -> Latents:
    return trained.latents[trained.selected][0]


def _smoothed(inputs: NDArray[Any]) -> Floats:
    """[trials, T], by a Gaussian."""
    bins = np.arange(inputs.shape[1])
    kernel = gaussian(bins[:, None] - bins, SMOOTHING_BINS)
    return np.asarray(inputs @ kernel, np.float64)


def _decoded(inferred: Floats, true_inputs: Floats, training: NDArray[np.bool_]) -> Floats:
    """Linear map from neighbouring bins of the inferred inputs [trials, T, U], fitted on training trials: [trials, T]."""
    padded = np.pad(inferred, ((0, 0), (NEIGHBOURS, NEIGHBOURS), (0, 0)), mode="edge")
    T = inferred.shape[1]
    shifted = [padded[:, shift : shift + T] for shift in range(2 * NEIGHBOURS + 1)]
    features = np.concatenate([*shifted, np.ones((*inferred.shape[:2], 1))], axis=2)
    x, y = features[training].reshape(-1, features.shape[2]), true_inputs[training].ravel()
    weights = np.linalg.solve(x.T @ x + 1e-3 * len(x) * 1e-3 * np.eye(x.shape[1]), x.T @ y)
    return np.asarray(features @ weights, np.float64)


def _found(decoded: Floats, pulses: NDArray[Any]) -> float:
    """Share of trials whose largest decoded input is near the pulse and of its sign."""
    trial = np.arange(len(decoded))
    where, pulse_at = np.abs(decoded).argmax(1), np.abs(pulses).argmax(1)
    near = np.abs(where - pulse_at) <= NEAR_BINS
    return float((near & (np.sign(decoded[trial, where]) == np.sign(pulses[trial, pulse_at]))).mean())


def _figure(
    decoded: Floats,
    true_inputs: Floats,
    driven_by: Latents,
    undriven: Latents,
    truth: NDArray[Any],
    valid: NDArray[np.bool_],
) -> Figure:
    figure = Figure(figsize=(11, 5))
    axes = figure.subplots(2, 4, sharex=True, sharey="row")
    neuron = int(truth.std((0, 1)).argmax())
    for column, trial in enumerate(np.flatnonzero(valid)[:: max(1, int(valid.sum()) // 4)][:4]):
        time_s = np.arange(decoded.shape[1]) * 0.01
        axes[0][column].plot(time_s, true_inputs[trial], color="black", label="true")
        axes[0][column].plot(time_s, decoded[trial], color="tab:blue", label="from inferred inputs")
        axes[1][column].plot(time_s, truth[trial, :, neuron] / 0.01, color="black", label="true")
        axes[1][column].plot(
            time_s, driven_by.rates[trial, :, neuron] / 0.01, color="tab:blue", label="controller"
        )
        axes[1][column].plot(
            time_s, undriven.rates[trial, :, neuron] / 0.01, color="tab:orange", label="no controller"
        )
        axes[0][column].set_title(f"validation trial {trial}", fontsize=9)
        axes[1][column].set_xlabel("time (s)")
    axes[0][0].set_ylabel("input (largest: 1)")
    axes[1][0].set_ylabel(f"rate of neuron {neuron} (spikes/s)")
    axes[0][0].legend(fontsize=8)
    axes[1][0].legend(fontsize=8)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    main("inputs", __doc__ or "", experiment)
