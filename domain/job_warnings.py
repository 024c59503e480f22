"""Warn of settings of a job that are allowed and probably not intended."""

import math
from typing import Any

import numpy as np

from domain.estimate import Estimate
from domain.feasibility import MANY_BINS, MUCH_STEP_BYTES, step_bytes
from domain.generators import SIZE_FIELDS, size_fields
from domain.job_checks import JobData
from domain.job_specification import JobSpecification
from domain.presets import PRESETS
from domain.search_space import CONTROLLER_HYPERPARAMETERS, SAFE_CD_RATE, Range, bounds
from domain.strategies import GridStrategy, PbtStrategy

NEAR_ZERO = 0.01
"""A `cd_rate` below this leaves too few targets: the loss counts only the samples that coordinated dropout drops."""
FEW_STEPS = 300
"""Optimizer steps of a model. On recordings of 60 to 1000 trials, models beat smoothed spikes after 200 to 400 steps."""


FEWEST_TEST_TRIALS = 10
"""With fewer test trials, the standard error of a score is itself uncertain."""


def warnings(specification: JobSpecification, data: JobData, time: Estimate) -> list[str]:
    """Return a warning for each setting that is allowed and probably not intended."""
    found = []
    training, architecture = specification.training, specification.architecture
    if specification.budget.epochs <= training.ramp_epochs:
        found.append(
            f"budget.epochs is {specification.budget.epochs} and training.ramp_epochs is {training.ramp_epochs}: training "
            "ends before the weights of KL and L2 have reached their full values; give more epochs or a shorter ramp"
        )
    if 0 < specification.budget.epochs <= training.window_epochs:
        found.append(
            f"budget.epochs is {specification.budget.epochs} and training.window_epochs is {training.window_epochs}: training "
            "ends before it covers whole trials; give more epochs or a smaller training.window_epochs"
        )
    steps_per_epoch = training.steps_per_epoch(data.training_trials)
    if (steps := steps_per_epoch * specification.budget.epochs) < FEW_STEPS:
        found.append(
            f"each model trains for {steps} optimizer steps: budget.epochs is {specification.budget.epochs}, and an epoch has "
            f"{steps_per_epoch} steps ({data.training_trials} training trials in batches of {training.batch_size}). Models "
            f"learn little in fewer than about {FEW_STEPS} steps: give more epochs or smaller batches, or leave both out"
        )
    found += of_test_trials(specification, data)
    factors = architecture.largest().factors
    if data.dataset.neurons is not None and isinstance(factors, int) and factors > data.dataset.neurons:
        found.append(f"architecture.factors is {factors} and there are only {data.dataset.neurons} neurons")
    if data.bins > MANY_BINS:
        found.append(
            f"the data set has trials of {data.bins} bins, and models hardly learn over more than {MANY_BINS} bins: derive "
            "another data set with chop or wider bins"
        )
    if (needed := step_bytes(specification, data.extent)) > MUCH_STEP_BYTES:
        found.append(
            f"a training step of one model takes about {needed / 1e9:.0f} GB of memory; a lower training.batch_size takes "
            "less"
        )
    return [
        *found,
        *_of_leaks(specification),
        *_of_search(specification),
        *of_time(specification, time),
        *_unused(specification, data),
        *_short_trials(specification, data),
        *_shared_bins(data),
    ]


def of_test_trials(specification: JobSpecification, data: JobData) -> list[str]:
    """Warn of test trials that are too few, or that the job cannot draw."""
    fraction = specification.training.test_fraction
    found = []
    if fraction > 0 and data.has_own_test:
        found.append(
            f"training.test_fraction is {fraction:g} and not used: the data set brings {data.test_trials} test trials"
        )
    if fraction > 0 and data.test_trials == 0:
        found.append(
            f"training.test_fraction is {fraction:g} and there is no test trial: all trials that could be drawn share bins with "
            "validation trials; derive a data set with less overlap or with another split"
        )
    if 0 < data.test_trials < FEWEST_TEST_TRIALS:
        found.append(
            f"there are {data.test_trials} test trials: scores of fewer than {FEWEST_TEST_TRIALS} have large errors; upload more "
            "trials, or raise training.test_fraction"
        )
    return found


def _of_search(specification: JobSpecification) -> list[str]:
    """Warn of a search in which the strategy has no effect."""
    strategy, budget, space = specification.strategy, specification.budget, specification.searched_space()
    found = []
    if isinstance(strategy, PbtStrategy):
        first = strategy.first_copy_epoch(specification.training.settled_epoch)
        if budget.epochs <= first:
            found.append(
                f"budget.epochs is {budget.epochs} and no model copies another before epoch {first}: this is a random search"
            )
        if budget.models == 1:
            found.append("budget.models is 1: a population of one has nothing to compare")
    if isinstance(strategy, GridStrategy):
        points = [
            strategy.points if isinstance(one, Range) else len(one) if isinstance(one, list) else 1
            for one in space.values()
        ]
        size = math.prod(points)
        if size != budget.models:
            trained = (
                "a random part of them is"
                if size > budget.models
                else "all of them, and no other models, are"
            )
            found.append(
                f"the grid has {size} combinations; {trained} trained (budget.models is {budget.models})"
            )
    halving = getattr(strategy, "rungs", None)
    if halving is not None and not halving(budget.epochs, specification.training.settled_epoch):
        found.append("strategy.first_rung_epochs is not below budget.epochs: no model is ever compared")
    return found


def of_time(specification: JobSpecification, time: Estimate) -> list[str]:
    """Warn of a limit of time that ends the training before the strategy has an effect."""
    budget = specification.budget
    if time.limit is None:
        return []
    missed = [one for one in _milestones(specification) if time.epochs_each < one[0] <= budget.epochs]
    if not missed:
        return []
    limit, last = getattr(budget, time.limit), max(epoch for epoch, _ in missed)
    needed = limit * last / time.epochs_each
    advice = [f"give about {float(f'{1.05 * needed:.2g}'):g} s", "lower the epochs named here"]
    fewest = 2 if isinstance(specification.strategy, PbtStrategy) else 1
    if (fewer := int(budget.models * time.epochs_each / last)) >= fewest:
        advice.insert(1, f"train no more than {fewer} models (budget.models is {budget.models})")
    return [
        f"budget.{time.limit} is {limit:g}: about {int(time.epochs_each)} epochs of each model will be trained by then, "
        f"as estimated from the {time.basis} pace of this service. {'. '.join(text for _, text in missed)}. "
        f"To change that, {', or '.join(advice)}"
    ]


def _milestones(specification: JobSpecification) -> list[tuple[int, str]]:
    """Return epochs before which a setting has no effect, each with a sentence that says which setting."""
    strategy, training, budget = specification.strategy, specification.training, specification.budget
    ramp, settled = training.ramp_epochs, training.settled_epoch
    found = [(ramp, f"The weights of KL and L2 rise until epoch {ramp} (training.ramp_epochs)")]
    if window := training.window_epochs:
        found.append(
            (window, f"Trials are not trained as a whole before epoch {window} (training.window_epochs)")
        )
    if isinstance(strategy, PbtStrategy):
        first = strategy.first_copy_epoch(settled)
        named = (
            "training.ramp_epochs or window_epochs, and one generation"
            if strategy.burn_in_epochs is None
            else "strategy.burn_in_epochs"
        )
        text = f"No model copies another before epoch {first} ({named}), so this is a random search"
        found.append((first, text))
    if (halving := getattr(strategy, "rungs", None)) is not None and (
        rungs := halving(budget.epochs, settled)
    ):
        text = f"No model is compared with others before epoch {rungs[0]} (strategy.first_rung_epochs), so none is stopped early"
        found.append((rungs[0], text))
    if budget.patience_epochs is not None:
        epoch = settled + budget.patience_epochs
        found.append((epoch, f"budget.patience_epochs ends no model before epoch {epoch}"))
    return found


def _unused(specification: JobSpecification, data: JobData) -> list[str]:
    """Warn of fields that are given and not used."""
    found = []
    architecture = specification.architecture
    if not architecture.has_controller:
        of_preset = set(_of_preset(specification, "space"))
        given = sorted((specification.space.model_fields_set & set(CONTROLLER_HYPERPARAMETERS)) - of_preset)
        found += [
            f"space.{name} is given and not used: there is no controller, see architecture.controller_units"
            for name in given
        ]
    unread = (architecture.model_fields_set & SIZE_FIELDS) - size_fields(architecture.generators)
    kinds = " or ".join(architecture.generators)
    found += [
        f"architecture.{name} is given and not used: no model has a generator of this size, they have {kinds}"
        for name in sorted(unread - set(_of_preset(specification, "architecture")))
    ]
    asked = {"use_external_inputs"} & architecture.model_fields_set
    if asked and architecture.use_external_inputs and not architecture.external_inputs(data.dataset.report):
        found.append("architecture.use_external_inputs is true and the data set has no external_inputs")
    return found


def _of_preset(specification: JobSpecification, part: str) -> dict[str, Any]:
    """Return the values that the preset gives to a part of the specification."""
    values: dict[str, Any] = PRESETS[specification.preset].get(part, {}) if specification.preset else {}
    return values


def _shared_bins(data: JobData) -> list[str]:
    """Warn of a given split whose training trials share bins with held-out trials."""
    split = np.array(data.split)
    shared = int((data.groups.sharing((split == "valid") | (split == "test")) & (split == "train")).sum())
    if not shared:
        return []
    return [
        f"{shared} training trials share bins with validation or test trials, by the split of the data set: scores are too "
        "good. Derive a data set with another split: split.kind `trial` or `time`"
    ]


def _short_trials(specification: JobSpecification, data: JobData) -> list[str]:
    """Warn of trials that end before the first bin that gets rates."""
    first = specification.architecture.initial_condition_bins
    short = sum(length <= first for length in data.lengths)
    if not short:
        return []
    return [
        f"{short} trials end within the first {first} bins (architecture.initial_condition_bins): they get no rates"
    ]


def _of_leaks(specification: JobSpecification) -> list[str]:
    """Warn of settings that let a controller pass spikes from input to output."""
    if not specification.architecture.has_controller:
        return []
    found, (_, passed) = [], bounds(specification.space.cd_pass_rate)
    if (rates := _low_cd_rates(specification)) is not None:
        found.append(
            f"{rates}, and there is a controller (architecture.inferred_inputs above 0). With cd_rate 0 its inferred inputs pass "
            "single spikes from input to output instead of inferring rates; with a cd_rate near 0 few samples count in the loss, "
            f"and models learn little. Give space.cd_rate a value, or a range that begins, at {SAFE_CD_RATE:g} or more, or leave "
            "the controller out (inferred_inputs 0 and controller_units 0)"
        )
    if passed > 0:
        found.append(
            f"space.cd_pass_rate may be {passed:g}, and there is a controller: this share of the samples that a model reads also "
            "counts in its loss, so it may learn to pass single spikes from input to output; 0 is the published value"
        )
    return found


def _low_cd_rates(specification: JobSpecification) -> str | None:
    """Say how a model of the job may get a `cd_rate` of 0 or near 0; None if no model may."""
    values, strategy = specification.space.cd_rate, specification.strategy
    population = strategy if isinstance(strategy, PbtStrategy) else None
    if population is not None and population.start.get("cd_rate", 1.0) < NEAR_ZERO:
        return f"strategy.start.cd_rate is {population.start['cd_rate']:g}"
    if isinstance(values, Range):
        perturbed = population is not None and population.explore == "perturb"
        wanders = perturbed and population is not None and "cd_rate" in population.unbounded
        if values.low >= NEAR_ZERO and not wanders:
            return None
        text = f"space.cd_rate is a range from {values.low:g} to {values.high:g}"
        if values.low < NEAR_ZERO and (population is None or "cd_rate" not in population.start):
            text += f", of which {_share_below(values, NEAR_ZERO):.1%} is below {NEAR_ZERO:g}"
        if perturbed:
            limit = "and strategy.unbounded lets it leave the range" if wanders else f"down to {values.low:g}"
            text += f"; population-based training may lower it with every copy, {limit}"
        return text
    low = [rate for rate in (values if isinstance(values, list) else [values]) if rate < NEAR_ZERO]
    if not low:
        return None
    if not isinstance(values, list):
        return f"space.cd_rate is {values:g}"
    return f"space.cd_rate is a list with {min(low):g} ({len(low)} of {len(values)} values are below {NEAR_ZERO:g})"


def _share_below(values: Range, limit: float) -> float:
    """Return the share of a range, on its scale, that lies below a limit."""
    low, high = values.low, values.high
    if high <= limit:
        return 1.0
    if values.scale == "log":
        low, high, limit = math.log(low), math.log(high), math.log(limit)
    return max(0.0, (limit - low) / (high - low))
