"""Whether a data set can be trained: the rules of job creation, which ingest applies to the presets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from store import cost
from store.presets import PresetName
from store.specification import JobSpecification

FEWEST_VALIDATION_TRIALS = 2
FEWEST_TRAINING_TRIALS = 4
MUCH_STEP_BYTES, MOST_STEP_BYTES = 8 * 10**9, 80 * 10**9
"""Memory of one model's training step: what is warned of, and what no worker is expected to have."""
MANY_BINS = 5000
"""Bins of a trial. Recurrent networks hardly learn over more steps, and an epoch takes as many times longer."""


@dataclass(frozen=True)
class Extent:
    """How large a data set is for a job.

    Attributes
    ----------
    neurons
        Of a trial: the mean over trials, where sessions differ.
    bins
        Of the longest trial's row.
    training_trials, validation_trials
        By the job's split.
    report
        Of the data set, which names its number of external inputs, and its sessions.
    """

    neurons: int
    bins: int
    training_trials: int
    validation_trials: int
    report: Mapping[str, Any] | None = None

    @property
    def has_enough_trials(self) -> bool:
        """Whether there are enough trials to train on and to validate with."""
        return (
            self.training_trials >= FEWEST_TRAINING_TRIALS
            and self.validation_trials >= FEWEST_VALIDATION_TRIALS
        )


def step_bytes(specification: JobSpecification, extent: Extent) -> int:
    """Return the memory that a training step of one model takes, roughly; of the largest one that the search may have."""
    largest = specification.architecture.largest().of_model({}, extent.report)
    trials = min(specification.training.batch_size, extent.training_trials)
    return cost.step_bytes(largest, extent.neurons, extent.bins, trials)


def least_step_bytes(extent: Extent) -> int:
    """Return the memory of a training step with the preset that takes the least."""
    presets = ({"dataset_id": "dat_none", "preset": name} for name in get_args(PresetName))
    specifications = (JobSpecification.model_validate(preset) for preset in presets)
    return min(step_bytes(one.for_trials(extent.training_trials), extent) for one in specifications)
