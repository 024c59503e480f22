"""The latents of a model: the name, axes, units and meaning of each array."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

LatentArray = Literal["rates", "factors", "initial_conditions", "inputs", "generator_states"]


@dataclass(frozen=True)
class LatentDescription:
    """What a reader must know of an array of latents.

    Parameters
    ----------
    feature
        Name of the last axis.
    units
        Of the values; empty for numbers without a unit.
    meaning
        A noun phrase.
    has_bins
        Whether there is a value for each bin. If not, there is one for each trial.
    """

    feature: str
    units: str
    meaning: str
    has_bins: bool = True

    def dims(self, time: str = "bin") -> tuple[str, ...]:
        """Return the names of the axes; `time` is the name of the axis of bins."""
        return ("trial", time, self.feature) if self.has_bins else ("trial", self.feature)


LATENTS: Mapping[str, LatentDescription] = {
    "rates": LatentDescription("neuron", "spikes/s", "firing rates"),
    "factors": LatentDescription("factor", "", "factors, the linear read-outs of the generator's states"),
    "initial_conditions": LatentDescription(
        "initial_condition_dim", "", "initial condition of the generator", has_bins=False
    ),
    "inputs": LatentDescription("input", "", "inferred inputs to the generator"),
    "generator_states": LatentDescription("generator_unit", "", "states of the generator"),
}
"""All latents by name. A model without a controller has no `inputs`."""

SHARED_LATENTS = tuple(name for name in LATENTS if name != "rates")
"""Latents whose last axis does not depend on the recorded neurons: all sessions share it, and a rotation may mix it."""
