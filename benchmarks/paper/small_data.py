"""How few trials are enough? Fixed hyperparameters against searched ones (Keshtkaran & Pandarinath 2019, figure 4).

``python -m benchmarks.paper.small_data [--quick] [--full-size] [--json]``

Spikes of a Lorenz system, cut to ever fewer training trials (a quarter as many again for validation). Fixed: one set of
hyperparameters for all sizes, no coordinated dropout, the best epoch chosen by ordinary validation, three seeds. Searched:
a random search with coordinated dropout, model and epoch selected by sample validation. Both have the same network, with
a controller, and the same number of optimizer steps. What counts is R² of the inferred rates to the true ones on 260
trials that no model ever saw. ``--full-size`` goes up to the paper's 1836 trials with ten times the models: for a GPU.
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.paper.harness import (
    Result,
    Task,
    draw_models,
    full_session,
    loguniform,
    main,
    train_all,
)
from domain.scores import r2_true_rates
from domain.synthetic import SyntheticRecording, lorenz
from models import Architecture, Hyperparameters, Session, TrainingOptions

TEST_TRIALS = 260
FIXED_SEEDS = (0, 1, 2)
BATCH = 32
# The middle of the published ranges; the dropout of LFADS' published settings.
FIXED = Hyperparameters(
    learning_rate=4e-3,
    dropout=0.05,
    cd_rate=0.0,
    kl_weight_initial_condition=1e-5,
    kl_weight_inputs=1e-5,
    l2_weight_generator=1e-3,
    l2_weight_controller=1e-3,
)


def draw(random: np.random.Generator) -> Hyperparameters:
    """Draw from the published ranges, without the lowest learning rates, which a short training cannot use."""
    return Hyperparameters(
        learning_rate=loguniform(random, 1e-3, 5e-3),
        dropout=float(random.uniform(0.0, 0.6)),
        cd_rate=float(random.uniform(0.1, 0.7)),
        kl_weight_initial_condition=loguniform(random, 1e-6, 1e-3),
        kl_weight_inputs=loguniform(random, 1e-6, 1e-4),
        l2_weight_generator=loguniform(random, 1e-4, 1.0),
        l2_weight_controller=loguniform(random, 1e-4, 1.0),
    )


def experiment(*, quick: bool, processes: int, seed: int, full_size: bool) -> Result:
    """Train on every size."""
    sizes, searched, steps = [46, 92, 184, 368], 8, 1200
    if quick:
        sizes, searched, steps = [46, 184], 4, 500
    if full_size:
        sizes, searched, steps = [92, 184, 368, 1836], 80, 3000
    made = lorenz(
        conditions=65, trials_per_condition=2 + (max(sizes) * 5 // 4 + TEST_TRIALS) // 65, seed=seed
    )
    order = np.random.default_rng([seed, 1]).permutation(len(made.spikes))
    test, rest = order[:TEST_TRIALS], order[TEST_TRIALS:]
    architecture = Architecture(
        neurons=made.spikes.shape[2],
        encoder_units=48,
        initial_condition_dim=32,
        generator_units=64,
        factors=10,
        controller_units=48,
        controller_encoder_units=48,
        inferred_inputs=2,
        controller_lag_bins=0,
    )
    drawn, tasks = draw_models(searched, draw, seed), []
    for size in sizes:
        session = subset(made, rest[: size + size // 4], size)
        epochs = max(1, round(steps / -(-size // BATCH)))
        options = TrainingOptions(batch_size=BATCH, ramp_epochs=epochs // 4)
        for hyper, seeds, sv_rate in (
            ([FIXED] * len(FIXED_SEEDS), FIXED_SEEDS, 0.0),
            (drawn, range(searched), 0.2),
        ):
            task = Task(
                [session],
                architecture,
                hyper,
                options,
                epochs,
                list(seeds),
                sv_rate=sv_rate,
                applied_to=full_session(made.spikes[test], np.zeros(len(test), bool)),
            )
            tasks.append(task)
    truth = made.true_rates_hz[test] * made.bin_width_s
    fixed: dict[int, list[float]] = {}
    found: dict[int, float] = {}
    every: dict[int, list[float]] = {}
    trained = train_all(tasks, processes)
    for size, by_fixed, by_search in zip(sizes, trained[::2], trained[1::2], strict=True):
        fixed[size] = [r2_true_rates(latents[0].rates, truth) for latents in by_fixed.latents]
        every[size] = [r2_true_rates(latents[0].rates, truth) for latents in by_search.latents]
        found[size] = every[size][by_search.selected]
    rows: list[list[Any]] = [
        [
            "training trials",
            "fixed: mean R²",
            "fixed: each seed",
            "searched: R² of the selected",
            "searched: best R²",
        ]
    ]
    for size in sizes:
        seeds_text = ", ".join(f"{r2:.3f}" for r2 in fixed[size])
        rows.append([size, float(np.mean(fixed[size])), seeds_text, found[size], max(every[size])])
    summary = {
        "training_trials": sizes,
        "fixed_r2": [round(float(np.mean(fixed[size])), 3) for size in sizes],
        "searched_r2": [round(found[size], 3) for size in sizes],
        "models": searched,
    }
    return Result(summary, rows, _figure(sizes, fixed, found, every))


def subset(made: SyntheticRecording, trials: NDArray[np.int64], training: int) -> Session:
    """Return these trials, the first of them for training."""
    return full_session(made.spikes[trials], np.arange(len(trials)) >= training)


def _figure(
    sizes: list[int], fixed: dict[int, list[float]], found: dict[int, float], every: dict[int, list[float]]
) -> Figure:
    figure = Figure(figsize=(6, 4.5))
    panel = figure.subplots()
    for size in sizes:
        panel.scatter([size] * len(fixed[size]), fixed[size], s=14, color="tab:orange", alpha=0.5)
        panel.scatter([size] * len(every[size]), every[size], s=14, color="tab:blue", alpha=0.25)
    means = [float(np.mean(fixed[size])) for size in sizes]
    panel.plot(sizes, means, "o-", color="tab:orange", label="fixed hyperparameters, ordinary validation")
    panel.plot(
        sizes,
        [found[size] for size in sizes],
        "o-",
        color="tab:blue",
        label="searched, coordinated dropout and sample validation",
    )
    panel.set_xscale("log")
    panel.set_xticks(sizes, [str(size) for size in sizes])
    panel.minorticks_off()
    panel.set_ylim(-0.5, 1)
    panel.set_xlabel("training trials")
    panel.set_ylabel("R² to the true rates, unseen trials")
    panel.legend()
    return figure


if __name__ == "__main__":
    main("small_data", __doc__ or "", experiment, flags={"full_size": "the paper's sizes, for a GPU"})
