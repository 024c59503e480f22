"""Scores of the selected model and of the baselines on the samples that sample validation holds out."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from domain.conditions import Condition
from domain.scores.likelihood import LOWEST_RATE, SampleCounts, compare_predictions
from domain.split_groups import FEWEST_GROUPS_TO_DRAW
from models.evaluation import MaskedPrediction, predict_held_out
from worker.context.data import read_conditions
from worker.context.process import TrainingProcess
from worker.context.slices import Work
from worker.inference.baselines import BaselineScores, FittedBaselines, Scores
from worker.inference.scores import PARTS

MODEL = "model"


@dataclass(frozen=True)
class HeldOutScores:
    """Scores of the model by name, scores of the baselines, and the comparisons that the diagnostics show."""

    scores: Scores
    baselines: BaselineScores
    comparisons: list[dict[str, Any]]


def score_held_out(
    process: TrainingProcess,
    work: Work,
    state: Mapping[str, Tensor],
    fitted: FittedBaselines,
    on_step: Callable[[], None],
) -> HeldOutScores:
    """Score the best weights of a model on the held-out samples of validation and of test trials.

    Of these trials, the model and smoothed spikes read only the samples that are not held out.
    """
    data, architecture = process.data.load(work).training, work.architecture()
    groups = work.groups.group
    conditions = read_conditions(process.database, work.dataset)
    found = HeldOutScores({}, {}, [])
    for part in PARTS:
        trials = data.validation_trials if part == "valid" else data.test_trials
        sums = _Sums([(np.zeros(n), np.zeros(n)) for n in data.neurons])
        for predicted in predict_held_out(architecture, state, data, trials, on_step):
            trials_of_data = work.sessions[predicted.session].rows.start + predicted.trials
            named = [conditions[trial] for trial in trials_of_data]
            for name, rates in _predictions(predicted, named, fitted):
                sums.predict(name, rates, predicted)
            sums.count(predicted, groups[trials_of_data])
            on_step()
        if not sums.samples:
            continue
        if part == "test":
            found.scores["sv_loss_test"] = sums.nll / sums.samples
        _add(found, f"sv_bits_per_spike_{part}", sums)
    return found


def _predictions(
    predicted: MaskedPrediction, conditions: list[Condition], fitted: FittedBaselines
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    yield MODEL, predicted.rates
    bins = fitted.baselines.psths[predicted.session].shape[1]
    yield from fitted.rates(
        predicted.session, predicted.values[:, :bins], predicted.visible[:, :bins], conditions
    )


def _add(found: HeldOutScores, name: str, sums: "_Sums") -> None:
    found.scores[name] = sums.bits_per_spike(MODEL)
    baselines = [one for one in sums.log_likelihoods if one != MODEL]
    found.baselines[name] = {one: sums.bits_per_spike(one) for one in baselines}
    if sums.spikes > 0:
        for one in baselines:
            compared = compare_predictions(sums.independent(MODEL), sums.independent(one), sums.spikes)
            document = {"score": name, "baseline": one, **asdict(compared), "verdict": compared.verdict}
            found.comparisons.append(document)


@dataclass
class _Sums:
    """Sums over held-out samples: spikes and samples of each neuron, by session, and log-likelihoods of each trial."""

    neurons: list[tuple[NDArray[np.float64], NDArray[np.float64]]]
    log_likelihoods: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)
    groups: list[NDArray[np.int64]] = field(default_factory=list)
    nll: float = 0.0

    def count(self, predicted: MaskedPrediction, groups: NDArray[np.int64]) -> None:
        """Add the samples of some trials, and which trials belong together."""
        self.groups.append(groups)
        spikes, samples = self.neurons[predicted.session]
        spikes += np.where(predicted.held_out, predicted.values, 0).sum((0, 1), dtype=np.float64)
        samples += predicted.held_out.sum((0, 1))
        self.nll += predicted.nll

    def predict(self, name: str, rates: NDArray[np.float32], predicted: MaskedPrediction) -> None:
        """Add the Poisson log-likelihoods of rates for some trials, without ln x!."""
        bins = rates.shape[1]
        values, held_out = predicted.values[:, :bins], predicted.held_out[:, :bins]
        clipped = np.maximum(rates, LOWEST_RATE)
        gains = np.where(held_out, values * np.log(clipped) - clipped, 0)
        self.log_likelihoods.setdefault(name, []).append(gains.sum((1, 2), dtype=np.float64))

    def independent(self, name: str) -> NDArray[np.float64]:
        """Return log-likelihoods of groups of trials that belong together; of single trials if there are few groups."""
        of_trials = np.concatenate(self.log_likelihoods[name])
        found, group = np.unique(np.concatenate(self.groups), return_inverse=True)
        if len(found) < FEWEST_GROUPS_TO_DRAW:
            return of_trials
        of_groups: NDArray[np.float64] = np.bincount(group, weights=of_trials).astype(np.float64)
        return of_groups

    @property
    def spikes(self) -> float:
        return float(sum(spikes.sum() for spikes, _ in self.neurons))

    @property
    def samples(self) -> int:
        return int(sum(samples.sum() for _, samples in self.neurons))

    def bits_per_spike(self, name: str) -> float | None:
        """Return the gain over each neuron's mean over these very samples, in bits per spike; None without a spike."""
        spikes, samples = (np.concatenate(part) for part in zip(*self.neurons, strict=True))
        total = sum(float(part.sum()) for part in self.log_likelihoods[name])
        return SampleCounts(spikes, samples).bits_per_spike(total)
