"""What a search varies: a hyperparameter, or a size of the network, is fixed, or drawn from a range or a list.

Ranges, but for the learning rate's lower end, are those of Keshtkaran & Pandarinath 2019 and Keshtkaran et al. 2022
(AutoLFADS); weights of KL and L2 are relative to a reconstruction loss that is a mean over samples, in nats.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


class Document(BaseModel):
    """A part of a job's specification: no unknown field, no number that is not finite."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Range(Document):
    """A range that the search draws from."""

    low: float
    high: float
    scale: Literal["log", "uniform"] = "uniform"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low > self.high:
            raise ValueError(
                f"low is {self.low:g} and high is {self.high:g}: low must not be above high; exchange them?"
            )
        if self.scale == "log" and self.low <= 0:
            raise ValueError(
                f"low is {self.low:g}: a logarithmic range must begin above 0; use scale 'uniform'?"
            )
        return self


def _check_choices(choices: Sequence[float]) -> Sequence[float]:
    for one, following in pairwise(sorted(choices)):
        if one == following:
            raise ValueError(f"the list names {one:g} more than once")
    return choices


Choices = Annotated[list[float], Field(min_length=1, max_length=100), AfterValidator(_check_choices)]
Searched = float | Range | list[float]
"""A value that is fixed, or what it is drawn from."""


def bounds(values: Searched) -> tuple[float, float]:
    """Return the lowest and the highest value that may be drawn."""
    if isinstance(values, Range):
        return values.low, values.high
    return (min(values), max(values)) if isinstance(values, list) else (values, values)


class _Bounded:
    """Bounds of a hyperparameter: every value, both ends of a range and every choice must lie within."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def check(self, value: Searched) -> Searched:
        """Return the value, or raise an error that names the bounds."""
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
SeveralUnits = Annotated[list[Units], Field(min_length=1, max_length=20), AfterValidator(_check_choices)]
MoreUnits = Annotated[int, Field(ge=1, le=2048)]
SeveralMoreUnits = Annotated[
    list[MoreUnits], Field(min_length=1, max_length=20), AfterValidator(_check_choices)
]


class Space(Document):
    """The search space: each hyperparameter is a number (fixed), a range or a list of numbers (searched)."""

    learning_rate: LearningRate = Field(
        Range(low=1e-3, high=5e-3, scale="log"),
        description="Adam's learning rate. The papers' range goes down to 1e-5, too slow for a draw that is never changed.",
    )
    dropout: Rate = Field(Range(low=0.0, high=0.6), description="Dropout inside the network.")
    cd_rate: Rate = Field(
        Range(low=0.01, high=0.7), description="Coordinated dropout: share of input samples dropped."
    )
    cd_pass_rate: Rate = Field(0.0, description="Share of the kept input samples that pass gradient too.")
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
        description="Weight of the KL divergence of the inferred inputs. Drawn only with a controller.",
    )
    l2_weight_controller: Weight = Field(
        Range(low=1e-4, high=1.0, scale="log"),
        description="Weight of the mean square of the controller's recurrent weights. Drawn only with a controller.",
    )


LIMITS = {
    name: _LEARNING_RATE if name == "learning_rate" else _WEIGHT if "weight" in name else _RATE
    for name in Space.model_fields
}
"""Values that no search may leave, by hyperparameter; a range lies within."""

CONTROLLER_HYPERPARAMETERS = ("kl_weight_inputs", "l2_weight_controller")
"""Of the space: what no model without a controller reads."""
SAFE_CD_RATE = 0.2
"""Lowest `cd_rate` that advice names: models of every kind learn well from here on, and do not leak."""
