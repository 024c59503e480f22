"""The options of the search strategies. `worker.scheduling.strategies` implements them."""

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
    """Grid search: all combinations of `points` values of each range and of the items of each list, up to `budget.models`."""

    kind: Literal["grid"]
    points: int = Field(
        3, ge=2, le=100, description="Number of values per range, evenly spaced on its scale."
    )


class _Learning(Document):
    startup_models: int = Field(
        10,
        ge=1,
        le=1000,
        description="Number of models drawn at random before the sampler starts to learn.",
    )
    models_at_once: int = Field(
        8,
        ge=1,
        le=1000,
        description="Number of models per round. The sampler chooses each round from the results of all earlier rounds. Small "
        "rounds learn more; large rounds train faster. With `hyperband` a round is a bracket.",
    )


class TpeStrategy(_Learning):
    """Tree-structured Parzen estimator: draws values that are more frequent among good models than among the others."""

    kind: Literal["tpe"]


class GpStrategy(_Learning):
    """Gaussian process with expected improvement, for few models with long training. Each choice takes seconds."""

    kind: Literal["gp"]


class CmaEsStrategy(_Learning):
    """CMA-ES: moves a normal distribution towards the better models. It supports ranges but not lists."""

    kind: Literal["cmaes"]


IndependentSampler = RandomStrategy | QmcStrategy | GridStrategy
"""The samplers that do not read results."""
LearningSampler = TpeStrategy | GpStrategy | CmaEsStrategy
"""The samplers that choose each round of models from the results of earlier rounds."""
Sampler = Annotated[IndependentSampler | LearningSampler, Field(discriminator="kind")]

_EPOCHS_AFTER_THE_RAMP = 10


class _Halving(Document):
    sampler: Sampler = Field(default_factory=RandomStrategy, description="How the hyperparameters are drawn.")
    first_rung_epochs: int | None = Field(
        None,
        ge=1,
        description="Epochs before the first comparison of models. By default 10 epochs after the ramp, so that the losses have "
        "their full weights, but at most a third of `budget.epochs`.",
    )
    reduction_factor: int = Field(
        3,
        ge=2,
        le=10,
        description="At each rung, one in `reduction_factor` models continues, for `reduction_factor` times as many epochs.",
    )

    def rungs(self, epochs: int, settled_epoch: int) -> list[int]:
        """Return the epochs, below those of the budget, at which models are compared."""
        usual = min(settled_epoch + _EPOCHS_AFTER_THE_RAMP, max(1, epochs // 3))
        rung, found = self.first_rung_epochs or usual, []
        while rung < epochs:
            found.append(rung)
            rung *= self.reduction_factor
        return found


class AshaStrategy(_Halving):
    """Asynchronous successive halving: a model continues if it is among the best that have reached its rung so far.

    No model waits for another, so the result depends on the order in which models reach a rung.
    """

    kind: Literal["asha"]


class HyperbandStrategy(_Halving):
    """Hyperband: successive halving in several brackets, from many short trainings to few long trainings.

    The models of a bracket wait for each other at each rung, so their order does not matter.
    """

    kind: Literal["hyperband"]

    def bracket_sizes(self, rungs: int) -> list[int]:
        """Return the number of models of each bracket, by the number of rungs it skips. All brackets take about equally long."""
        return [
            -(-(rungs + 1) * self.reduction_factor ** (rungs - skipped) // (rungs - skipped + 1))
            for skipped in range(rungs + 1)
        ]


def _default_perturbation() -> dict[HyperparameterName, float]:
    names: tuple[HyperparameterName, ...] = get_args(HyperparameterName)
    return {name: 0.8 if name in _WEIGHTS else 0.3 for name in names}


class PbtStrategy(Document):
    """Population-based training as in AutoLFADS (Keshtkaran et al. 2022).

    `budget.models` models train together. After every generation, each model that loses a comparison copies the weights of the
    winner and continues with the winner's hyperparameters, perturbed.
    """

    kind: Literal["pbt"]
    generation_epochs: int = Field(
        25,
        ge=1,
        le=100_000,
        description="Epochs from one comparison to the next. By default 150 optimizer steps, but at least 25 epochs.",
    )
    burn_in_epochs: int | None = Field(
        None,
        ge=0,
        description="Epochs before the first copy. By default `training.ramp_epochs`, or `training.window_epochs` if it is "
        "longer, and one generation.",
    )
    exploit: Literal["binary_tournament", "truncation"] = Field(
        "binary_tournament",
        description="Which models copy. `binary_tournament`: each model that is worse than a randomly drawn one. `truncation`: "
        "the worst quarter copies from the best quarter.",
    )
    explore: Literal["perturb", "resample"] = Field(
        "perturb",
        description="How a copy changes the searched values. `perturb`: it multiplies each by a random factor. `resample`: it "
        "draws each from its range.",
    )
    perturbation: dict[HyperparameterName, Annotated[float, Field(ge=0, lt=1)]] = Field(
        default_factory=_default_perturbation,
        description="Size of the perturbation of each hyperparameter: 0.3 draws the factor from 0.7 … 1.3. A hyperparameter that "
        "you do not name keeps its default.",
    )
    unbounded: list[HyperparameterName] = Field(
        default_factory=lambda: list(_WEIGHTS),
        max_length=8,
        description="Hyperparameters that perturbation may move out of their range. The others are clipped to their range. `[]` "
        "keeps all of them within their ranges.",
    )
    bounds: dict[HyperparameterName, Range] = Field(
        default_factory=dict,
        description="Limits of unbounded hyperparameters: `low` and `high`, which must contain the range in `space`. By default "
        "the limits of `space` apply, such as 0 to 1000 for weights.",
    )
    start: dict[HyperparameterName, float] = Field(
        default_factory=dict, description="Initial values of all models, instead of drawn values."
    )
    patience_generations: int = Field(
        4,
        ge=1,
        le=10_000,
        description="The search ends after this number of generations without an improvement of `min_delta`.",
    )
    min_delta: float = Field(
        5e-4,
        ge=0,
        lt=1,
        description="Minimum relative improvement of the best smoothed SV loss that counts.",
    )

    def first_copy_epoch(self, settled_epoch: int) -> int:
        """Return the epoch from which a model may copy another."""
        return settled_epoch + self.generation_epochs if self.burn_in_epochs is None else self.burn_in_epochs

    @model_validator(mode="before")
    @classmethod
    def _fill_perturbation(cls, given: object) -> object:
        """Merge the given perturbations with the defaults."""
        if isinstance(given, dict) and isinstance(part := given.get("perturbation"), dict):
            return given | {"perturbation": _default_perturbation() | part}
        return given


Strategy = Annotated[
    IndependentSampler | LearningSampler | AshaStrategy | HyperbandStrategy | PbtStrategy,
    Field(discriminator="kind"),
]
