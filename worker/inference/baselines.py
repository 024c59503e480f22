"""Baselines beside a model's scores: simple predictors, fitted to the trials that trained it and scored on the same samples."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from domain.conditions import Condition, condition_numbers, number_conditions
from domain.job_specification import Training
from domain.scores.baselines import Baselines, Recording, blocks, fit_baselines
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

Scores = dict[str, float | None]
BaselineScores = dict[str, Scores]
"""By the name of the score, then by that of the baseline."""


@dataclass(frozen=True)
class TrainingSet:
    """What a model was trained on, and how.

    Parameters
    ----------
    dataset, sessions, trial_length_bins, split
        The data set, its sessions, and for each trial its bins and its part of the job.
    training
        Of the job.
    is_refit
        Whether the model also trained on the validation trials.
    """

    dataset: Dataset
    sessions: Sequence[RecordedSession]
    trial_length_bins: NDArray[np.int64]
    split: NDArray[np.str_]
    training: Training
    is_refit: bool

    @classmethod
    def of(cls, work: Work) -> "TrainingSet":
        """Return the training set of a slice's models."""
        training = work.specification.training
        return cls(work.dataset, work.sessions, work.trial_length_bins, work.split(), training, work.is_refit)


@dataclass(frozen=True)
class FittedBaselines:
    """Baselines of a data set, and the conditions that they know.

    Parameters
    ----------
    baselines
        Of all sessions.
    codes
        Number of each condition.
    bin_width_s
        Of the data set.
    has_unread
        Whether the model predicts samples that it never reads (held-out neurons or bins). Smoothed spikes cannot predict them.
    """

    baselines: Baselines
    codes: Mapping[int | float | str, int]
    bin_width_s: float
    has_unread: bool

    def settings(self) -> dict[str, dict[str, float | bool]]:
        """Return the settings that were chosen on the training trials, by baseline."""
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
        """Yield the name and the rates of each baseline that is defined, [trials, T, N] in counts per bin.

        Parameters
        ----------
        session
            Number of the model's session.
        spikes, enters
            Counts [trials, T, N], and the samples that smoothed spikes read.
        conditions
            Of each trial, by name.
        """
        yield "mean", np.broadcast_to(self.baselines.means[session], spikes.shape)
        if spikes.shape[1] == self.baselines.psths[session].shape[1]:
            codes = condition_numbers(self.codes, conditions)
            yield "psth", self.baselines.predict_psth(session, codes)
        if not self.has_unread:
            yield "smoothed_spikes", self.baselines.predict_smoothed(session, spikes, enters)


def fit(process: TrainingProcess, trained: TrainingSet, architecture: Architecture) -> FittedBaselines:
    """Fit the baselines to the samples that trained a model."""
    names = read_conditions(process.database, trained.dataset)
    codes = number_conditions(names)
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
        condition = condition_numbers(codes, names[recorded.rows])
        recordings.append(Recording(session.spikes[used], enters[used], condition[used]))
    bins = recordings[0].spikes.shape[1]
    has_unread = architecture.leaves_unread(bins)
    return FittedBaselines(
        fit_baselines(recordings), codes, float(trained.dataset.bin_width_s or 0), has_unread
    )


def score_baselines(
    request: "LatentsRequest",
    data: Sequence[ScoredData],
    fitted: FittedBaselines,
    on_step: Callable[[], None],
) -> BaselineScores:
    """Score the baselines as `worker.inference.scores.score` scores the model, on the same samples.

    Smoothed spikes read all recorded samples, as the model does when its latents are inferred.
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
