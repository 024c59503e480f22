"""Memory and length limits of training. Job creation applies them to the job, and the ingest to the presets."""

from typing import get_args

from domain import cost
from domain.cost import Extent
from domain.job_specification import JobSpecification
from domain.presets import PresetName

MUCH_STEP_BYTES, MOST_STEP_BYTES = 8 * 10**9, 80 * 10**9
"""Memory of one model's training step: a job above the first limit gets a warning, and above the second an error."""
MANY_BINS = 5000
"""Bins of a trial above which a job gets a warning: recurrent networks hardly learn over more steps, and epochs become long."""


def step_bytes(specification: JobSpecification, extent: Extent) -> int:
    """Return the approximate memory of a training step of one model, for the largest model of the search."""
    largest = specification.architecture.largest().of_model({}, extent.report)
    trials = min(specification.training.batch_size, extent.training_trials)
    return cost.step_bytes(largest, extent.neurons, extent.bins, trials)


def least_step_bytes(extent: Extent) -> int:
    """Return the memory of a training step with the preset that needs the least."""
    presets = ({"dataset_id": "dat_none", "preset": name} for name in get_args(PresetName))
    specifications = (JobSpecification.model_validate(preset) for preset in presets)
    return min(step_bytes(one.for_trials(extent.training_trials), extent) for one in specifications)
