"""Whether a data set can be trained: the rules of job creation, which ingest applies to the presets."""

from typing import get_args

from domain import cost
from domain.cost import Extent
from domain.job_specification import JobSpecification
from domain.presets import PresetName

MUCH_STEP_BYTES, MOST_STEP_BYTES = 8 * 10**9, 80 * 10**9
"""Memory of one model's training step: what is warned of, and what no worker is expected to have."""
MANY_BINS = 5000
"""Bins of a trial. Recurrent networks hardly learn over more steps, and an epoch takes as many times longer."""


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
