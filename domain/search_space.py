"""The search space: each hyperparameter or network size is a fixed value, a range or a list.

The ranges are those of Keshtkaran & Pandarinath 2019 and Keshtkaran et al. 2022 (AutoLFADS), except the lower end of the learning
rate. KL and L2 weights are relative to a reconstruction loss that is a mean over samples, in nats.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


class Document(BaseModel):
    """A part of a job specification. It refuses unknown fields and numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Range(Document):
    """A range of values to search."""

    low: float
    high: float
    scale: Literal["log", "uniform"] = "uniform"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low > self.high:
            raise ValueError(
                f"low is {self.low:g} and high is {self.high:g}: low must not be above high; swap them?"
            )
        if self.scale == "log" and self.low <= 0:
            raise ValueError(
                f"low is {self.low:g}: a logarithmic range must begin above 0; use scale 'uniform'?"
            )
        return self


def check_choices(choices: list[Any]) -> list[Any]:
    """Return the values of a list, or raise an error if one of them occurs twice."""
    for one, following in pairwise(sorted(choices)):
        if one == following:
            shown = one if isinstance(one, str) else f"{one:g}"
            raise ValueError(f"the list contains {shown} more than once")
    return choices


Choices = Annotated[list[float], Field(min_length=1, max_length=100), AfterValidator(check_choices)]
Value = float | str
"""What a model has of what is searched: a number, or the name of a kind."""
Searched = float | Range | list[float] | list[str]
"""A fixed value, or the range or list to search."""


def bounds(values: float | Range | list[float]) -> tuple[float, float]:
    """Return the lowest and the highest possible value."""
    if isinstance(values, Range):
        return values.low, values.high
    return (min(values), max(values)) if isinstance(values, list) else (values, values)


class _Bounded:
    """Bounds of a hyperparameter. Fixed values, both ends of ranges and all items of lists must lie within them."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def check(self, value: float | Range | list[float]) -> float | Range | list[float]:
        """Return the value, or raise `ValueError` with the bounds."""
        if isinstance(value, Range):
            values: Sequence[float] = (value.low, value.high)
        else:
            values = value if isinstance(value, list) else (value,)
        for one in values:
            if not self.low <= one <= self.high:
                raise ValueError(f"{one:g} is outside {self.low:g} … {self.high:g}")
        return value


_RATE, _WEIGHT, _LEARNING_RATE = _Bounded(0.0, 0.95), _Bounded(0.0, 1e3), _Bounded(1e-7, 1.0)
Rate = Annotated[float | Range | Choices, AfterValidator(_RATE.check)]
Weight = Annotated[float | Range | Choices, AfterValidator(_WEIGHT.check)]
LearningRate = Annotated[float | Range | Choices, AfterValidator(_LEARNING_RATE.check)]

Units = Annotated[int, Field(ge=1, le=1024)]
SeveralUnits = Annotated[list[Units], Field(min_length=1, max_length=20), AfterValidator(check_choices)]
MoreUnits = Annotated[int, Field(ge=1, le=2048)]
SeveralMoreUnits = Annotated[
    list[MoreUnits], Field(min_length=1, max_length=20), AfterValidator(check_choices)
]


class Space(Document):
    """The search space: each hyperparameter is a number (fixed), a range or a list of numbers (searched)."""

    learning_rate: LearningRate = Field(
        Range(low=1e-3, high=5e-3, scale="log"),
        description="Learning rate of Adam. The papers begin at 1e-5, which is too low for a rate that stays fixed.",
    )
    dropout: Rate = Field(Range(low=0.0, high=0.6), description="Dropout inside the network.")
    cd_rate: Rate = Field(
        Range(low=0.01, high=0.7), description="Coordinated dropout: fraction of the input samples dropped."
    )
    cd_pass_rate: Rate = Field(
        0.0, description="Fraction of the kept input samples whose error also contributes to the gradient."
    )
    kl_weight_initial_condition: Weight = Field(
        Range(low=1e-6, high=1e-3, scale="log"),
        description="Weight of the KL divergence of the initial condition.",
    )
    l2_weight_generator: Weight = Field(
        Range(low=1e-4, high=1.0, scale="log"),
        description="Weight of the mean square of the generator's recurrent weights.",
    )
    kl_weight_inputs: Weight = Field(
        Range(low=1e-6, high=1e-4, scale="log"),
        description="Weight of the KL divergence of the inferred inputs. Used only with a controller.",
    )
    l2_weight_controller: Weight = Field(
        Range(low=1e-4, high=1.0, scale="log"),
        description="Weight of the mean square of the controller's recurrent weights. Used only with a controller.",
    )


LIMITS = {
    name: _LEARNING_RATE if name == "learning_rate" else _WEIGHT if "weight" in name else _RATE
    for name in Space.model_fields
}
"""Bounds of each hyperparameter."""

CONTROLLER_HYPERPARAMETERS = ("kl_weight_inputs", "l2_weight_controller")
"""Hyperparameters that only models with a controller use."""
SAFE_CD_RATE = 0.2
"""The lowest `cd_rate` that warnings recommend: from this rate on, models of all architectures learn well and do not leak."""
