"""Real recordings: smoothing, factor analysis and ours, on what can be judged without a known truth.

``python -m benchmarks.paper.recordings [--quick] [--json]``; the recordings are looked for in `LATENTRY_DATA`, or in
`shared/data` beside the repository, and those that are missing are skipped.

For each recording two figures. *Co-smoothing*: a quarter of the neurons, drawn once, is held out; rates for them are
predicted from the others, and scored in bits per spike on validation trials (a fifth of the trials). Ours reads and
predicts in one model (`held_out_neurons`); smoothing and factor analysis give features of the other neurons, from which
a Poisson regression per held-out neuron, fitted on training trials, predicts. *Decoding*: hand velocity from the rates
(or features) of all neurons by ridge regression, cross-validated over five folds of trials, penalty and lag chosen within
the training folds. The model of the first never sees the held-out neurons; that of the second sees all trials' spikes, as
do smoothing and factor analysis, but no behaviour. Widths of smoothing and numbers of factors are chosen by
cross-validation on training trials for co-smoothing; decoding shows the best of them for the rivals, which favours them.
Ours is the model with the lowest smoothed SV loss of a random search, with one and the same space for all recordings.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.paper.harness import (
    Result,
    Task,
    Trained,
    data_folder,
    draw_models,
    lags_in_bins,
    loguniform,
    main,
    smooth,
    train_all,
)
from domain.scores import co_smoothing_bits_per_spike, ridge_decode_r2
from models import Architecture, Hyperparameters, Session, TrainingOptions

FILES = (
    "chewie_2013-10-03_50ms.npz",
    "chewie_2013-12-19_100ms.npz",
    "mihi_2014-03-03_100ms.npz",
    "mc_maze_large_subset.npz",
)
WIDTHS_S = (0.03, 0.05, 0.08, 0.12)
FACTORS = (4, 8, 16)
PENALTIES = (1e-3, 1e-2, 1e-1)
HELD_OUT, VALIDATION = 0.25, 0.2
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Recording:
    """A recording with hand velocity; `recorded` says which bins lie within their trial, [trials, T]."""

    name: str
    spikes: NDArray[np.int64]
    lengths: NDArray[np.int64]
    recorded: NDArray[np.bool_]
    velocity: Floats
    bin_width_s: float
    is_validation: NDArray[np.bool_]
    held_out: tuple[int, ...]


def load(path: Path, seed: int) -> Recording:
    """Read a recording and draw validation trials and held-out neurons."""
    with np.load(path, allow_pickle=False) as file:
        spikes = file["spikes"].astype(np.int64)
        trials, bins, neurons = spikes.shape
        given = "trial_length_bins" in file.files
        lengths = file["trial_length_bins"].astype(np.int64) if given else np.full(trials, bins)
        velocity = next(file[name] for name in file.files if "velocity" in name).astype(float)
        bin_width_s = float(file["bin_width_s"])
    random = np.random.default_rng(seed)
    is_validation = np.zeros(trials, bool)
    is_validation[random.permutation(trials)[: round(VALIDATION * trials)]] = True
    held_out = np.sort(random.permutation(neurons)[: round(HELD_OUT * neurons)])
    recorded = np.arange(bins)[None] < lengths[:, None]
    chosen = tuple(int(n) for n in held_out)
    return Recording(path.stem, spikes, lengths, recorded, velocity, bin_width_s, is_validation, chosen)


def draw(random: np.random.Generator) -> Hyperparameters:
    """One space for all recordings: as published, but for high KL weights and low learning rates."""
    return Hyperparameters(
        learning_rate=loguniform(random, 2e-3, 1e-2),
        dropout=float(random.uniform(0.0, 0.4)),
        cd_rate=float(random.uniform(0.1, 0.6)),
        kl_weight_initial_condition=loguniform(random, 1e-6, 1e-4),
        l2_weight_generator=loguniform(random, 1e-4, 1e-1),
    )


def experiment(*, quick: bool, processes: int, seed: int) -> Result:
    """Compare on every recording that is there."""
    there = [data_folder() / name for name in FILES if (data_folder() / name).exists()]
    if not there:
        reason = f"none of {', '.join(FILES)} is in {data_folder()}; LATENTRY_DATA says where they are"
        return Result({"skipped": reason}, [["skipped"], [reason]], Figure())
    recordings = [load(path, seed) for path in (there[:1] if quick else there)]
    number, epochs = (4, 60) if quick else (8, 150)
    drawn = draw_models(number, draw, seed)
    tasks = [task for recording in recordings for task in make_tasks(recording, drawn, epochs)]
    trained = train_all(tasks, processes)
    rows: list[list[Any]] = [
        ["recording", "trials × bins × neurons", "co-bps", "", "", "velocity R²", "", ""],
        ["", "", "smoothing", "factor analysis", "ours", "smoothing", "factor analysis", "ours"],
    ]
    summary: dict[str, Any] = {"models": 2 * number * len(recordings)}
    for recording, for_co_bps, for_decoding in zip(recordings, trained[::2], trained[1::2], strict=True):
        scores = compare(recording, for_co_bps, for_decoding)
        summary[recording.name] = {name: round(value, 4) for name, value in scores.items()}
        shape = " × ".join(str(size) for size in recording.spikes.shape)
        rows.append([recording.name, shape, *scores.values()])
    return Result(summary, rows, _figure(summary, [recording.name for recording in recordings]))


def make_tasks(recording: Recording, drawn: list[Hyperparameters], epochs: int) -> list[Task]:
    """Run a search with held-out neurons, and one with all."""
    session = Session(recording.spikes, recording.lengths, recording.is_validation)
    options = TrainingOptions(batch_size=32, ramp_epochs=epochs // 4)
    return [
        Task(
            [session],
            Architecture(
                neurons=recording.spikes.shape[2],
                initial_condition_dim=32,
                held_out_neurons=held_out,
            ),
            drawn,
            options,
            epochs,
            list(range(len(drawn))),
        )
        for held_out in (recording.held_out, ())
    ]


def compare(recording: Recording, for_co_bps: Trained, for_decoding: Trained) -> dict[str, float]:
    """Both figures of the three ways."""
    lags = lags_in_bins(recording.bin_width_s)

    def decoded(features: NDArray[Any]) -> float:
        return ridge_decode_r2(features, recording.velocity, recording.recorded, lag_bins=lags)

    widths = [
        smooth(recording.spikes, recording.recorded, width / recording.bin_width_s) for width in WIDTHS_S
    ]
    factors = [factor_analysis(recording, smoothed, dims) for smoothed in widths for dims in FACTORS]
    read = np.setdiff1d(np.arange(recording.spikes.shape[2]), recording.held_out)
    read_factors = [
        factor_analysis(recording, smoothed[:, :, read], dims) for smoothed in widths for dims in FACTORS
    ]
    ours = _rates(for_co_bps)
    return {
        "co_bps_smoothing": predicted([smoothed[:, :, read] for smoothed in widths], recording),
        "co_bps_factor_analysis": predicted(read_factors, recording),
        "co_bps_ours": _co_bps(ours[recording.is_validation], recording),
        "velocity_r2_smoothing": max(decoded(smoothed) for smoothed in widths),
        "velocity_r2_factor_analysis": max(decoded(found) for found in factors),
        "velocity_r2_ours": decoded(_rates(for_decoding)),
    }


def factor_analysis(recording: Recording, smoothed: Floats, dims: int) -> Floats:
    """Factors of square roots of smoothed counts, fitted on training trials: [trials, T, dims]."""
    from sklearn.decomposition import FactorAnalysis

    roots = np.sqrt(smoothed)
    training = recording.recorded & ~recording.is_validation[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # silent neurons; and a few hundred iterations are enough
        model = FactorAnalysis(dims, max_iter=200, random_state=0).fit(roots[training])
        flat = model.transform(roots.reshape(-1, roots.shape[2]))
    return np.asarray(flat.reshape(*roots.shape[:2], dims), np.float64)


def predicted(candidates: list[Floats], recording: Recording) -> float:
    """Co-smoothing by Poisson regression on features [trials, T, D]; features and penalty chosen on training trials."""
    training = np.flatnonzero(~recording.is_validation)
    inner = training[::4], np.setdiff1d(training, training[::4])
    choices = [(features, penalty) for features in candidates for penalty in PENALTIES]
    losses = [
        _co_bps(_poisson_regression(features, recording, inner[1], inner[0], penalty), recording, inner[0])
        for features, penalty in choices
    ]
    features, penalty = choices[int(np.argmax(losses))]
    validation = np.flatnonzero(recording.is_validation)
    return _co_bps(_poisson_regression(features, recording, training, validation, penalty), recording)


def _poisson_regression(
    features: Floats,
    recording: Recording,
    training: NDArray[np.int64],
    test: NDArray[np.int64],
    penalty: float,
) -> Floats:
    """Rates [test trials, T, N], right for held-out neurons and 0 for the others."""
    from sklearn.linear_model import PoissonRegressor

    inside = recording.recorded[training]
    x = features[training][inside]
    centre, spread = x.mean(0), x.std(0) + 1e-6
    new = ((features[test] - centre) / spread).reshape(-1, x.shape[1])
    rates = np.zeros((len(test), *recording.spikes.shape[1:]))
    for neuron in recording.held_out:
        counts = recording.spikes[training][inside][:, neuron]
        if counts.sum() == 0:
            rates[:, :, neuron] = 0.5 / len(counts)
            continue
        model = PoissonRegressor(alpha=penalty, max_iter=100).fit((x - centre) / spread, counts)
        highest = max(1.0, float(counts.max()))  # a linear predictor may run away on new trials
        rates[:, :, neuron] = np.minimum(model.predict(new), highest).reshape(len(test), -1)
    return rates


def _co_bps(rates: NDArray[Any], recording: Recording, trials: NDArray[np.int64] | None = None) -> float:
    chosen = np.flatnonzero(recording.is_validation) if trials is None else trials
    mask = recording.recorded[chosen][:, :, None]
    return co_smoothing_bits_per_spike(rates, recording.spikes[chosen], recording.held_out, mask)


def _rates(trained: Trained) -> NDArray[np.float32]:
    return trained.latents[trained.selected][0].rates


def _figure(summary: dict[str, Any], names: list[str]) -> Figure:
    figure = Figure(figsize=(11, 4))
    for panel, (score, label) in zip(
        figure.subplots(1, 2),
        (("co_bps", "co-smoothing (bits per spike)"), ("velocity_r2", "velocity decoding (R²)")),
        strict=True,
    ):
        for place, way in enumerate(("smoothing", "factor_analysis", "ours")):
            values = [summary[name][f"{score}_{way}"] for name in names]
            panel.bar(np.arange(len(names)) + (place - 1) * 0.27, values, 0.25, label=way.replace("_", " "))
        panel.set_xticks(range(len(names)), [name.replace("_", "\n") for name in names], fontsize=8)
        panel.set_ylabel(label)
        panel.legend(fontsize=8)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    main("recordings", __doc__ or "", experiment)
