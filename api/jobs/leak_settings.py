"""Settings of a job with which models leak: they pass spikes from input to output. Told before anything trains."""

import math

from store.space import SAFE_CD_RATE, Range, bounds
from store.specification import JobSpecification
from store.strategies import PbtStrategy

NEAR_ZERO = 0.01
"""A `cd_rate` below this leaves too few targets: the loss counts only the samples that coordinated dropout drops."""


def leak_warnings(specification: JobSpecification) -> list[str]:
    """Say which settings of a job let a controller pass spikes from input to output; nothing if none does."""
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
            f"space.cd_pass_rate may be {passed:g}, and there is a controller: of the samples that a model reads, so many also "
            "count in its loss, so it may learn to pass single spikes from input to output; 0 is the published value"
        )
    return found


def _low_cd_rates(specification: JobSpecification) -> str | None:
    """Say how a model of the job may have a `cd_rate` of 0 or near it; None if none may."""
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
