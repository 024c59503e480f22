"""The search strategies that a job may ask for, with their fields. What they do stands in `worker.scheduling.strategies`."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from domain.search_space import Document, Range, Space

HyperparameterName = Literal[
    "learning_rate",
    "dropout",
    "cd_rate",
    "cd_pass_rate",
    "kl_weight_initial_condition",
    "l2_weight_generator",
    "kl_weight_inputs",
    "l2_weight_controller",
]
_WEIGHTS: tuple[HyperparameterName, ...] = (
    "kl_weight_initial_condition",
    "l2_weight_generator",
    "kl_weight_inputs",
    "l2_weight_controller",
)
assert set(get_args(HyperparameterName)) == set(Space.model_fields)


class RandomStrategy(Document):
    """Random search: independent draws from the space."""

    kind: Literal["random"] = "random"


class QmcStrategy(Document):
    """Quasi-Monte Carlo: a Sobol sequence, which covers the space more evenly than independent draws."""

    kind: Literal["qmc"]


class GridStrategy(Document):
    """Every combination of so many values of each range, and of every choice, up to `budget.models`."""

    kind: Literal["grid"]
    points: int = Field(3, ge=2, le=100, description="Values of each range, evenly spaced on its scale.")


class _Learning(Document):
    startup_models: int = Field(
        10,
        ge=1,
        le=1000,
        description="So many models are drawn at random before there is enough to learn from.",
    )
    models_at_once: int = Field(
        8,
        ge=1,
        le=1000,
        description="Models are begun in rounds of so many, each round chosen by what all rounds before came to: fewer "
        "learn more from each other, more train faster. Under `hyperband` a round is a bracket.",
    )


class TpeStrategy(_Learning):
    """Tree-structured Parzen estimator: draws where good models have been more likely than others."""

    kind: Literal["tpe"]


class GpStrategy(_Learning):
    """Gaussian process with expected improvement: for few models that take long. Seconds to choose each."""

    kind: Literal["gp"]


class CmaEsStrategy(_Learning):
    """CMA-ES: moves a normal distribution towards the better models; for ranges, not for lists."""

    kind: Literal["cmaes"]


Sampler = Annotated[
    RandomStrategy | QmcStrategy | GridStrategy | TpeStrategy | GpStrategy | CmaEsStrategy,
    Field(discriminator="kind"),
]


_EPOCHS_AFTER_THE_RAMP = 10


class _Halving(Document):
    sampler: Sampler = Field(
        default_factory=RandomStrategy, description="Where the hyperparameters come from."
    )
    first_rung_epochs: int | None = Field(
        None,
        ge=1,
        description="Epochs before models are first compared; unless given the ramp's and 10 more, so that what is "
        "compared is the whole loss, but at most a third of budget.epochs.",
    )
    reduction_factor: int = Field(
        3, ge=2, le=10, description="At each rung one in so many goes on, to so many times the epochs."
    )

    def rungs(self, epochs: int, ramp_epochs: int) -> list[int]:
        """Epochs, below those of the budget, at which models are compared."""
        usual = min(ramp_epochs + _EPOCHS_AFTER_THE_RAMP, max(1, epochs // 3))
        rung, found = self.first_rung_epochs or usual, []
        while rung < epochs:
            found.append(rung)
            rung *= self.reduction_factor
        return found


class AshaStrategy(_Halving):
    """Asynchronous successive halving: at each rung a model goes on if it is among the best of those that came so far.

    No model waits for another, so which go on depends on the order in which they arrive.
    """

    kind: Literal["asha"]


class HyperbandStrategy(_Halving):
    """Hyperband: successive halving in brackets that begin with many short or with few long trainings.

    The models of a bracket wait for each other at each rung, so the order in which they arrive does not matter.
    """

    kind: Literal["hyperband"]

    def bracket_sizes(self, rungs: int) -> list[int]:
        """Models of each bracket of a turn, by how many of the rungs it skips: so many that all take about as long."""
        return [
            -(-(rungs + 1) * self.reduction_factor ** (rungs - skipped) // (rungs - skipped + 1))
            for skipped in range(rungs + 1)
        ]


def _default_perturbation() -> dict[HyperparameterName, float]:
    names: tuple[HyperparameterName, ...] = get_args(HyperparameterName)
    return {name: 0.8 if name in _WEIGHTS else 0.3 for name in names}


class PbtStrategy(Document):
    """Population-based training as AutoLFADS does it (Keshtkaran et al. 2022).

    `budget.models` models train together; after every generation each that lost a comparison copies the weights of the winner
    and goes on with its hyperparameters, perturbed.
    """

    kind: Literal["pbt"]
    generation_epochs: int = Field(
        25,
        ge=1,
        le=100_000,
        description="Epochs from one comparison to the next. Unless given, 25, or more for 150 optimizer steps.",
    )
    burn_in_epochs: int | None = Field(
        None,
        ge=0,
        description="No model copies another before; unless given, `training.ramp_epochs` and one generation.",
    )
    exploit: Literal["binary_tournament", "truncation"] = Field(
        "binary_tournament",
        description="Who copies: each model that is worse than another drawn at random, or those of the worst quarter "
        "from one drawn of the best quarter.",
    )
    explore: Literal["perturb", "resample"] = Field(
        "perturb",
        description="What a copy changes: every searched value by a random factor, or anew from its range.",
    )
    perturbation: dict[HyperparameterName, Annotated[float, Field(ge=0, lt=1)]] = Field(
        default_factory=_default_perturbation,
        description="Of each hyperparameter: 0.3 draws the factor from 0.7 … 1.3. One that is not named stays as it is.",
    )
    unbounded: list[HyperparameterName] = Field(
        default_factory=lambda: list(_WEIGHTS),
        max_length=8,
        description="Hyperparameters that perturbation may take out of their range; others are clipped to it. [] keeps all "
        "within their ranges.",
    )
    bounds: dict[HyperparameterName, Range] = Field(
        default_factory=dict,
        description="How far perturbation may take an unbounded hyperparameter: `low` and `high`, which contain its range. One "
        "that is not named may go as far as `space` allows a value at all.",
    )
    start: dict[HyperparameterName, float] = Field(
        default_factory=dict, description="Values that all models begin with instead of a draw."
    )
    patience_generations: int = Field(
        4, ge=1, le=10_000, description="The search ends when so many generations brought too little."
    )
    min_delta: float = Field(
        5e-4,
        ge=0,
        lt=1,
        description="Too little: a smaller relative improvement of the best smoothed SV loss.",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_perturbation(cls, given: object) -> object:
        """What is given of `perturbation` changes single defaults."""
        if isinstance(given, dict) and isinstance(part := given.get("perturbation"), dict):
            return given | {"perturbation": _default_perturbation() | part}
        return given


Strategy = Annotated[
    RandomStrategy
    | QmcStrategy
    | GridStrategy
    | TpeStrategy
    | GpStrategy
    | CmaEsStrategy
    | AshaStrategy
    | HyperbandStrategy
    | PbtStrategy,
    Field(discriminator="kind"),
]
