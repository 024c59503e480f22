"""Presets beside smoothed spikes, on trials that neither trained nor selected a model.

``python -m benchmarks.paper.presets [FILE …] [--seconds 120] [--seeds 3] [--quick] [--json]``; without files, the recordings are
looked for in `LATENTRY_DATA`, or in `shared/data` beside the repository.

A fifth of the trials is for testing and a fifth for validation, drawn by the seed as a job draws them; windows of a continuous
recording are split in blocks of time. Every preset is the product's: its space, its strategy, and the batch size, epochs and
ramps that it chooses for the recording. `quick` trains its four models whole. `paper-2019` and `autolfads` get `--seconds` of
CPU time of one core: the first trains as many of its models as fit, four at a time; the population of the second is as large
as the first copies and six generations after them allow (4 to 20 models). The model of the lowest smoothed SV loss is scored:

- *bits per spike* of samples of test trials that the model does not read (sample validation);
- *velocity R²* of test trials, by ridge regression from the rates, fitted on all other trials; lag and penalty are chosen within
  those.

Smoothed spikes are scored on the same samples and trials. Width and floor of the rates are chosen on training trials, for
decoding with the lag.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import report
from benchmarks.paper.harness import (
    data_folder,
    iterate_processes,
    lags_in_bins,
    smooth,
)
from domain.architecture import without_architecture
from domain.job_specification import JobSpecification, Training, split_trials
from domain.presets import PresetName
from domain.scores import bits_per_spike
from domain.scores.ridge import decode, divide, divide_in_folds, r2
from domain.smoothing import gaussian
from domain.split_groups import SplitGroups
from models import (
    Architecture,
    EpochScores,
    Hyperparameters,
    Population,
    Session,
    TrainingData,
    TrainingOptions,
    infer_latents,
)
from models.data import sample_validation_mask
from models.evaluation import predict_held_out
from models.null_model import held_out_spikes
from worker.ingest.preprocessing.splits import split_groups
from worker.ingest.read import read_recording
from worker.ingest.readers import ReadOptions
from worker.scheduling.strategies import Begin, Continue, Copy, End, ModelRecord, make_strategy

PRESETS: tuple[PresetName, ...] = ("quick", "paper-2019", "autolfads")
WIDTHS_S = (0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5)
FLOORS = (0.01, 0.03, 0.1, 0.3, 0.6)
"""Shares of a neuron's mean rate in its smoothed rate."""
OPTIONS: dict[str, dict[str, Any]] = {
    # 10 trials of 1000 bins, whose width the file does not say.
    "lorenz_long_trials.h5": {"bin_width_s": 0.001, "chop": {"window_s": 0.1, "overlap_s": 0.02}},
}
"""Of recordings that the defaults do not read."""
GENERATIONS_AFTER_BURN_IN = 6
TOGETHER = 4
Floats = NDArray[Any]


@dataclass(frozen=True)
class Data:
    """A recording, split.

    Attributes
    ----------
    spikes, recorded
        [trials, T, N] counts; bool [trials, T], bins within their trial.
    lengths
        Bins of each trial.
    split
        Part of each trial, see `domain.split_groups.Split`.
    groups
        Trials that belong together.
    velocity
        [trials, T, K]; None without one.
    """

    name: str
    spikes: NDArray[Any]
    lengths: NDArray[np.int64]
    recorded: NDArray[np.bool_]
    split: NDArray[np.str_]
    groups: SplitGroups
    velocity: Floats | None
    bin_width_s: float

    def session(self, evaluated: str) -> Session:
        """Training trials, and the trials of a part to evaluate on."""
        used = (self.split == "train") | (self.split == evaluated)
        return Session(self.spikes[used], self.lengths[used], self.split[used] == evaluated)


def load(path: Path, seed: int) -> Data:
    """Read a recording as the service does, and split it as a job does that holds out test trials."""
    recording = read_recording(path, ReadOptions.model_validate(OPTIONS.get(path.name, {})))
    training = Training(test_fraction=0.2, evaluation_seed=seed)
    groups = split_groups(recording)
    split = np.array(split_trials([None] * len(recording.split), groups, training))
    spikes, lengths = np.asarray(recording.spikes[:]), recording.trial_length_bins
    velocities = [name for name in recording.behaviour if "velocity" in name]
    velocity = np.asarray(recording.behaviour[velocities[0]][:], float) if velocities else None
    recorded = np.arange(spikes.shape[1])[None] < lengths[:, None]
    return Data(path.stem, spikes, lengths, recorded, split, groups, velocity, recording.bin_width_s)


@dataclass
class _Candidate:
    """A model in training."""

    begin: Begin
    state: dict[str, torch.Tensor] | None = None
    hyperparameters: dict[str, float] | None = None
    target: int = 0
    epochs: int = 0
    scores: EpochScores | None = None
    is_final: bool = False

    def record(self) -> ModelRecord:
        """Return what a strategy sees."""
        known = self.scores
        return ModelRecord(
            self.begin.number,
            dict(self.hyperparameters or {}),
            self.epochs,
            None if known is None else known.best_smoothed_sv_loss,
            self.is_final,
            self.target,
            None if known is None else known.smoothed_sv_loss,
        )


class Search:
    """A job's search in this process, until its time is spent."""

    def __init__(self, data: Data, preset: PresetName, seed: int, seconds: float | None) -> None:
        training = int((data.split == "train").sum())
        given = {"dataset_id": "dat_0", "preset": preset, "seed": seed}
        specification = JobSpecification.model_validate(given).for_trials(training)
        self.data, self.seconds = data, seconds
        self.specification = specification
        described = specification.architecture.of_model({}, None)
        described.pop("external_inputs")
        self.architecture = Architecture(neurons=data.spikes.shape[2], **described)
        self.training_data = TrainingData(data.session("valid"), sv_rate=0.2, sv_seed=seed)
        self.options = TrainingOptions.of(specification.training, "float32")
        self.models: dict[int, _Candidate] = {}
        self.spent = 0.0

    def run(self) -> _Candidate:
        """Train until all models have ended or the time is spent; return the best model."""
        if self.specification.strategy.kind == "pbt":
            self._fit_population()
        strategy = make_strategy(self.specification)
        while not self._is_over():
            for decision in strategy.decide([one.record() for one in self.models.values()]):
                self._carry_out(decision)
            waiting = [one for one in self.models.values() if not one.is_final and one.epochs < one.target]
            if not waiting:
                break
            if strategy.reads_marks:  # a generation
                for first in range(0, len(waiting), TOGETHER):
                    self._train(waiting[first : first + TOGETHER])
            else:
                self._train(waiting[:TOGETHER])
        trained = [one for one in self.models.values() if one.scores is not None]
        return min(trained, key=lambda one: cast(EpochScores, one.scores).best_smoothed_sv_loss)

    def _is_over(self) -> bool:
        return self.seconds is not None and self.spent >= self.seconds

    def _carry_out(self, decision: Begin | Continue | Copy | End) -> None:
        if isinstance(decision, Begin):
            new = _Candidate(
                decision, None, without_architecture(decision.hyperparameters), decision.target_epochs
            )
            self.models[decision.number] = new
            return
        model = self.models[decision.number]
        if isinstance(decision, End):
            model.is_final = True
            return
        model.target = decision.target_epochs
        if isinstance(decision, Copy):
            parent = self.models[decision.parent]
            model.state, model.scores = parent.state, parent.scores
            model.hyperparameters = without_architecture(decision.hyperparameters)

    def _train(self, chosen: Sequence[_Candidate]) -> None:
        if self._is_over():
            return
        begun = time.process_time()
        population = Population(
            self.architecture,
            [Hyperparameters(**(one.hyperparameters or {})) for one in chosen],
            [one.begin.seed for one in chosen],
            self.training_data,
            self.options,
            order_seed=self.specification.seed,
            states=None if chosen[0].state is None else [cast(Any, one.state) for one in chosen],
        )
        patience = self.specification.budget.patience_epochs
        before, ended = self.spent, 0
        while population.epoch < chosen[0].target and not self._is_over() and ended < len(chosen):
            scores = population.train_epoch()
            self.spent = before + time.process_time() - begun
            waits = [one.epoch - max(one.best_epoch, self.options.ramp_epochs) for one in scores]
            ended = sum(patience is not None and wait >= patience for wait in waits)
        for index, model in enumerate(chosen):
            model.state, model.scores, model.epochs = population.state(index), scores[index], population.epoch
            model.is_final = not population.alive[index] or model.epochs >= self.specification.budget.epochs
            model.is_final |= ended == len(chosen)

    def _fit_population(self) -> None:
        """Make the population as large as its generations in the time allow."""
        assert self.seconds is not None
        trial = Population(
            self.architecture,
            [Hyperparameters()] * TOGETHER,
            list(range(TOGETHER)),
            self.training_data,
            self.options,
            order_seed=0,
        )
        trial.train_epoch()
        begun = time.process_time()
        for _ in range(3):
            trial.train_epoch()
        of_model_s = (time.process_time() - begun) / 3 / TOGETHER
        generation = cast(Any, self.specification.strategy).generation_epochs
        epochs = self.options.ramp_epochs + (1 + GENERATIONS_AFTER_BURN_IN) * generation
        fits = int(self.seconds / (of_model_s * epochs))
        budget = self.specification.budget
        models = min(max(fits, TOGETHER), budget.models)
        self.specification = self.specification.model_copy(
            update={"budget": budget.model_copy(update={"models": models})}
        )


def run_preset(task: tuple[Path, PresetName, int, float]) -> dict[str, Any]:
    """Search with a preset and score the selected model on test trials."""
    path, preset, seed, seconds = task
    torch.set_num_threads(1)
    data = load(path, seed)
    search = Search(data, preset, seed, None if preset == "quick" else seconds)
    best = search.run()
    assert best.state is not None
    tested = TrainingData(data.session("test"), sv_rate=0.2, sv_seed=seed)
    counted = held_out_spikes(search.architecture, tested)
    assert counted is not None
    predicted = list(predict_held_out(search.architecture, best.state, tested, tested.validation_trials))
    sv_loss = sum(one.nll for one in predicted) / sum(int(one.held_out.sum()) for one in predicted)
    latents = infer_latents(search.architecture, best.state, data.spikes, data.lengths, posterior_samples=20)
    specification, known = search.specification, cast(EpochScores, best.scores)
    steps = -(-len(tested.training_trials[0]) // specification.training.batch_size)
    return {
        "recording": data.name,
        "preset": preset,
        "seed": seed,
        "shape": list(data.spikes.shape),
        "batch_size": specification.training.batch_size,
        "models": sum(one.scores is not None for one in search.models.values()),
        "steps": max(one.epochs for one in search.models.values()) * steps,
        "best_step": known.best_epoch * steps,
        "seconds": round(search.spent, 1),
        "bits_per_spike": counted.bits_per_spike(sv_loss),
        "velocity_r2": _decoded([latents.rates], data),
        "velocity_r2_factors": _decoded([latents.factors], data),
    }


def run_smoothing(task: tuple[Path, int]) -> dict[str, Any]:
    """Score smoothed spikes on the samples and trials that the presets are scored on."""
    path, seed = task
    data = load(path, seed)
    widths = [width / data.bin_width_s for width in WIDTHS_S if width >= data.bin_width_s / 4]
    smoothed = [smooth(data.spikes.astype(float), data.recorded, width) for width in widths]
    return {
        "recording": data.name,
        "preset": "smoothing",
        "seed": seed,
        "bits_per_spike": _smoothed_bits(data, seed, widths),
        "velocity_r2": _decoded(smoothed, data),
    }


def _smoothed_bits(data: Data, seed: int, widths: Sequence[float]) -> float:
    """Bits per spike at held-out samples of test trials, from the other samples of the same neuron and trial."""
    used = (data.split == "train") | (data.split == "test")
    spikes, recorded = data.spikes[used].astype(float), data.recorded[used]
    is_test = data.split[used] == "test"
    held_out = sample_validation_mask(cast(Any, spikes.shape), 0.2, seed)
    visible = recorded[:, :, None] & ~held_out
    counted = recorded[:, :, None] & held_out
    seen = visible & ~is_test[:, None, None]
    mean = (spikes * seen).sum((0, 1)) / np.maximum(seen.sum((0, 1)), 1) + 1e-4
    bins, best = np.arange(spikes.shape[1]), (-np.inf, spikes)
    for width in widths:
        kernel = gaussian(bins[:, None] - bins, width)
        total = np.einsum("st,btn->bsn", kernel, spikes * visible, optimize=True)
        weight = np.einsum("st,btn->bsn", kernel, visible.astype(float), optimize=True)
        for floor in FLOORS:
            rates = (1 - floor) * total / np.maximum(weight, 1e-9) + floor * mean
            score = bits_per_spike(rates[~is_test], spikes[~is_test], mask=counted[~is_test])
            if score > best[0]:
                best = (score, rates)
    return bits_per_spike(best[1][is_test], spikes[is_test], mask=counted[is_test])


def _decoded(candidates: Sequence[Floats], data: Data) -> float | None:
    """Velocity R² of test trials from the best of some features, chosen with the lag within the other trials."""
    if data.velocity is None:
        return None
    fitted, tested = data.split != "test", data.split == "test"
    within = np.flatnonzero(fitted)
    best: tuple[float, Floats, int] | None = None
    for features in candidates:
        for lag in lags_in_bins(data.bin_width_s):
            folds = divide_in_folds(data.groups.take(within), 5, seed=0)
            score = _r2(features[within], data, within, lag, folds)
            if best is None or score > best[0]:
                best = (score, features, lag)
    assert best is not None
    everything = np.arange(len(data.split))
    return _r2(best[1], data, everything, best[2], [divide(fitted, tested, data.groups, folds=5, seed=0)])


def _r2(features: Floats, data: Data, trials: NDArray[np.int64], lag: int, divisions: Any) -> float:
    velocity = cast(Floats, data.velocity)[trials]
    bins = features.shape[1] - lag
    centre = np.nanmean(features, axis=(0, 1))
    mean = np.nanmean(velocity, axis=(0, 1))

    def samples() -> Any:
        for row, trial in enumerate(trials):
            x, y = features[row, :bins] - centre, velocity[row, lag:] - mean
            known = data.recorded[trial, lag:] & np.isfinite(x).all(1) & np.isfinite(y).all(1)
            yield row, x[known].astype(float), y[known]

    return float(np.mean(r2(decode(samples(), divisions, features.shape[2], velocity.shape[2]))))


def main() -> None:
    """Run all presets and print the table."""
    parser = report.parser(__doc__ or "", quick="one seed and one recording, 20 s a preset")
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--seconds", type=float, default=120.0, help="CPU time of paper-2019 and autolfads")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    suffixes = {".npz", ".h5", ".nwb"}
    files = arguments.files or sorted(one for one in data_folder().glob("*") if one.suffix in suffixes)
    if not files:
        print(json.dumps({"skipped": f"no recording in {data_folder()}; LATENTRY_DATA says where they are"}))
        return
    seeds, seconds = range(arguments.seeds), arguments.seconds
    if arguments.quick:
        files, seeds, seconds = files[:1], range(1), 20.0
    smoothing = [(path, seed) for path in files for seed in seeds]
    tasks = [
        (path, preset, seed, seconds) for path in files for preset in arguments.presets for seed in seeds
    ]
    found = []
    for one in chain(
        iterate_processes(run_smoothing, smoothing, arguments.processes),
        iterate_processes(run_preset, tasks, arguments.processes),
    ):
        found.append(one)
        print(json.dumps(one), flush=True)
    if not arguments.json:
        print(report.markdown_table(table(found)))
        print(f"\n{report.machine()}.")


def table(found: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """Return a row for each recording and way: medians over seeds, and each seed's scores."""
    rows: list[list[Any]] = [
        ["recording", "way", "models", "steps", "CPU s", "bits per spike", "each", "velocity R²", "each"]
    ]
    for recording in dict.fromkeys(one["recording"] for one in found):
        for preset in ("smoothing", *PRESETS):
            of_way = [one for one in found if (one["recording"], one["preset"]) == (recording, preset)]
            if not of_way:
                continue
            row: list[Any] = [recording, preset]
            for name in ("models", "steps", "seconds"):
                known = [one[name] for one in of_way if name in one]
                row.append(round(float(np.median(known))) if known else "")
            for name in ("bits_per_spike", "velocity_r2"):
                scores = [one[name] for one in of_way if one[name] is not None]
                row.append(float(np.median(scores)) if scores else "")
                row.append(", ".join(f"{score:.3f}" for score in scores))
            rows.append(row)
    return rows


if __name__ == "__main__":
    main()
