"""Simple predictors beside a model's scores: fitted to the trials that trained it, scored on the very same samples."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from domain.job_specification import Training
from domain.read_bins import leaves_unread
from domain.scores.baselines import NO_CONDITION, Baselines, Comparison, Recording, blocks, fit_baselines
from domain.sessions import RecordedSession
from models import Architecture
from models.data import visible_and_held_out
from store.tables import Dataset
from worker.context.data import read_conditions, read_session
from worker.context.process import TrainingProcess
from worker.context.slices import Work
from worker.inference.scores import ScoredData, score, scratch_array

if TYPE_CHECKING:
    from worker.inference.latents import LatentsRequest

Condition = int | float | str | None
Scores = dict[str, float | None]
BaselineScores = dict[str, Scores]
"""By the score's name, by the baseline's."""
NAMES = ("mean", "psth", "smoothed_spikes")


@dataclass(frozen=True)
class TrainingSet:
    """What a model was trained on, and how.

    Parameters
    ----------
    dataset, sessions, trial_length_bins, split
        The data set, its sessions, and the bins and part of the job of each trial.
    training
        Of the job.
    is_refit
        Whether the model was trained on the validation trials too.
    """

    dataset: Dataset
    sessions: Sequence[RecordedSession]
    trial_length_bins: NDArray[np.int64]
    split: NDArray[np.str_]
    training: Training
    is_refit: bool

    @classmethod
    def of(cls, work: Work) -> "TrainingSet":
        """Return that of the models of a slice."""
        training = work.specification.training
        return cls(work.dataset, work.sessions, work.trial_length_bins, work.split(), training, work.is_refit)


@dataclass(frozen=True)
class FittedBaselines:
    """Baselines of a data set, which know conditions by their names.

    Parameters
    ----------
    baselines
        Of all sessions.
    codes
        Number of each condition.
    bin_width_s
        Of the data set.
    has_unread
        Whether the model predicts samples that it never reads, held-out neurons or bins: smoothed spikes have none there.
    """

    baselines: Baselines
    codes: Mapping[int | float | str, int]
    bin_width_s: float
    has_unread: bool

    def settings(self) -> dict[str, dict[str, float | bool]]:
        """Return what was chosen on the training trials, by baseline."""
        chosen = {"psth": self.baselines.psth, "smoothed_spikes": self.baselines.smoothed_spikes}
        found: dict[str, dict[str, float | bool]] = {
            name: {"sd_s": one.sd_bins * self.bin_width_s, "prior_spikes": one.prior_spikes}
            for name, one in chosen.items()
        }
        found["psth"]["by_condition"] = self.baselines.by_condition
        return found

    def rates(
        self, session: int, spikes: NDArray[Any], enters: NDArray[np.bool_], conditions: Sequence[Condition]
    ) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """Yield each baseline's name and rates [trials, T, N] in counts per bin; those that are not defined are left out.

        Parameters
        ----------
        session
            Of the model.
        spikes, enters
            Counts [trials, T, N], and the samples that smoothed spikes read.
        conditions
            Of each trial, by name.
        """
        yield "mean", np.broadcast_to(self.baselines.means[session], spikes.shape)
        if spikes.shape[1] == self.baselines.psths[session].shape[1]:
            codes = _coded(self.codes, conditions)
            yield "psth", self.baselines.predict_psth(session, codes)
        if not self.has_unread:
            yield "smoothed_spikes", self.baselines.predict_smoothed(session, spikes, enters)


def fit(process: TrainingProcess, trained: TrainingSet, architecture: Architecture) -> FittedBaselines:
    """Fit simple predictors to the samples that a model was trained on."""
    names = read_conditions(process.database, trained.dataset)
    codes = {name: code for code, name in enumerate(dict.fromkeys(names)) if name is not None}
    recordings = []
    for number, recorded in enumerate(trained.sessions):
        split = trained.split[recorded.rows]
        session = read_session(
            process.arrays,
            trained.dataset,
            recorded,
            trial_length_bins=trained.trial_length_bins,
            split=trained.split,
            has_inputs=False,
        )
        enters, _ = visible_and_held_out(
            session, trained.training.sv_rate, trained.training.evaluation_seed, number
        )
        used = np.isin(split, ("train", "valid") if trained.is_refit else ("train",))
        condition = _coded(codes, names[recorded.rows])
        recordings.append(Recording(session.spikes[used], enters[used], condition[used]))
    bins = recordings[0].spikes.shape[1]
    has_unread = leaves_unread(architecture, bins)
    return FittedBaselines(
        fit_baselines(recordings), codes, float(trained.dataset.bin_width_s or 0), has_unread
    )


def _coded(codes: Mapping[int | float | str, int], names: Sequence[Condition]) -> NDArray[np.int64]:
    return np.array(
        [NO_CONDITION if name is None else codes.get(name, NO_CONDITION) for name in names], np.int64
    )


def score_baselines(
    request: "LatentsRequest",
    data: Sequence[ScoredData],
    fitted: FittedBaselines,
    on_step: Callable[[], None],
) -> BaselineScores:
    """Score the baselines as `worker.inference.scores.score` scores the model, on the same samples.

    Smoothed spikes read all recorded samples, as the model does for its latents.
    """
    with ExitStack() as files:
        by_baseline: dict[str, list[ScoredData]] = {}
        for one, session in zip(data, request.sessions_of_model, strict=True):
            predicted: dict[str, NDArray[np.float32]] = {}
            for rows in blocks(one.spikes.shape):
                spikes = one.spikes[rows]
                lengths = request.trial_length_bins[one.rows][rows, None, None]
                enters = np.broadcast_to(np.arange(spikes.shape[1])[:, None] < lengths, spikes.shape)
                if one.missing is not None:
                    enters = enters & ~one.missing[rows]
                for name, rates in fitted.rates(session, spikes, enters, one.conditions[rows]):
                    if name not in predicted:
                        predicted[name] = files.enter_context(scratch_array(one.spikes.shape))
                    predicted[name][rows] = rates
                    on_step()
            for name, rates in predicted.items():
                by_baseline.setdefault(name, []).append(replace(one, rates=rates))
        found: BaselineScores = {}
        for baseline, of_sessions in by_baseline.items():
            if len(of_sessions) == len(data):
                for name, value in score(request, of_sessions, on_step).items():
                    found.setdefault(name, {})[baseline] = value
        return found


def comparison_document(score_name: str, baseline: str, compared: Comparison) -> dict[str, Any]:
    """Return a comparison as the diagnostics of a job have it."""
    return {
        "score": score_name,
        "baseline": baseline,
        "difference": compared.difference,
        "standard_error": compared.standard_error,
        "verdict": compared.verdict,
    }


_WORDS = {
    "mean": "each neuron's mean",
    "psth": "the mean by bin over training trials",
    "smoothed_spikes": "Gaussian-smoothed spikes",
}
_LATE = 0.85
"""Of its epochs: a model whose best epoch is later may improve with more of them."""


def baseline_warning(
    scores: Scores,
    found: BaselineScores,
    compared: Sequence[Mapping[str, Any]],
    best_epoch: int,
    epochs: int,
    who: str = "selected model",
) -> str | None:
    """Say in words whether the selected model predicts held-out samples no better than a baseline; None if it does.

    Test trials decide where they were compared, otherwise validation trials. What to change depends on whether the best epoch is
    near the last one.
    """
    names = [f"sv_bits_per_spike_{part}" for part in ("test", "valid")]
    name = next((one for one in names if any(row["score"] == one for row in compared)), None)
    if name is None:
        return None
    verdicts = {row["baseline"]: row["verdict"] for row in compared if row["score"] == name}
    for verdict, words in (
        ("below", "worse than"),
        ("about_as_good", "about as well as"),
    ):
        which = [one for one in NAMES if verdicts.get(one) == verdict]
        if not which:
            continue
        listed = " and ".join(f"{_WORDS[one]} ({found[name][one]:.3g})" for one in which)
        meaning = (
            "That says more than its latents."
            if verdict == "below"
            else "The difference is within its sampling error, so its latents may say no more than that."
        )
        part = "test" if name.endswith("test") else "validation"
        return (
            f"The {who} predicts held-out samples of {part} trials {words} {listed}: it reaches {scores[name]:.3g} "
            f"bits per spike. {meaning} {_advice(which, best_epoch, epochs)}"
        )
    return None


def _advice(which: Sequence[str], best_epoch: int, epochs: int) -> str:
    last = " Look whether the rates change within the trials at all." if "mean" in which else ""
    if best_epoch >= _LATE * epochs:
        return (
            f"Its best epoch is {best_epoch} of {epochs}: train for more (budget.epochs), or search more models or wider ranges."
            + last
        )
    return (
        f"Its SV loss has not fallen since epoch {best_epoch} of {epochs}, so more epochs do not help: search more models or "
        f"wider ranges, or record more trials.{last}"
    )
