"""The models of a job as an Optuna study in memory, for samplers and for the importance of hyperparameters.

Optuna's own tables are not used. The study is made from the rows of models.
"""

from collections.abc import Iterable, Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from domain.generators import SIZE_FIELDS
from domain.search_space import Range, Searched, Value

optuna.logging.set_verbosity(optuna.logging.WARNING)


def distributions(space: Mapping[str, Searched]) -> dict[str, BaseDistribution]:
    """Return the searched dimensions as Optuna's distributions, without fixed values."""
    found: dict[str, BaseDistribution] = {}
    for name, values in space.items():
        if isinstance(values, list) and len(values) > 1:
            found[name] = CategoricalDistribution(values)
        elif isinstance(values, Range) and values.low < values.high:
            found[name] = FloatDistribution(values.low, values.high, log=values.scale == "log")
    return found


def fixed(space: Mapping[str, Searched]) -> dict[str, Value]:
    """Return the fixed values."""
    alone: dict[str, Value] = {}
    for name, values in space.items():
        if isinstance(values, list) and len(values) == 1:
            alone[name] = values[0]
        elif isinstance(values, Range) and values.low == values.high:
            alone[name] = values.low
        elif isinstance(values, int | float):
            alone[name] = float(values)
    return alone


def widened(
    dimensions: Mapping[str, BaseDistribution], observed: Sequence[Mapping[str, Value]]
) -> dict[str, BaseDistribution]:
    """Return the dimensions with ranges that contain every observed value: perturbation may leave the space."""
    found = dict(dimensions)
    for name, one in dimensions.items():
        if isinstance(one, FloatDistribution):
            known = [value for of in observed if isinstance(value := of.get(name), int | float)]
            values = [value for value in known if value > 0 or not one.log]
            found[name] = FloatDistribution(min([one.low, *values]), max([one.high, *values]), log=one.log)
    return found


def finished_trial(
    values: Mapping[str, Value], loss: float | None, dimensions: Mapping[str, BaseDistribution]
) -> FrozenTrial | None:
    """Return a model as a finished trial; None if it lies outside the space (from a warm start or a perturbation).

    A model does not have the sizes of other kinds of generators than its own.
    """
    parameters = {name: values[name] for name in dimensions if name in values}
    if set(dimensions) - set(parameters) - SIZE_FIELDS:
        return None
    dimensions = {name: dimensions[name] for name in parameters}
    state = TrialState.FAIL if loss is None else TrialState.COMPLETE  # without a loss: diverged, or failed
    try:
        return create_trial(params=parameters, distributions=dict(dimensions), value=loss, state=state)
    except ValueError:
        return None


def make_study(
    trials: Iterable[FrozenTrial | None], sampler: optuna.samplers.BaseSampler | None = None
) -> optuna.Study:
    """Return a study with these trials, which minimises."""
    study = optuna.create_study(
        direction="minimize", sampler=sampler or optuna.samplers.RandomSampler(seed=0)
    )
    study.add_trials([trial for trial in trials if trial is not None])
    return study


def importances(
    study: optuna.Study, names: Sequence[str], best_share: float | None = None
) -> dict[str, float]:
    """Return the share of each hyperparameter in the difference between the better models and the others.

    The method is PED-ANOVA (Watanabe et al. 2023). The better models are the best `best_share`; by default a tenth, but at least
    as many as the method needs. A share is 0 if all models have the same value, or the same loss. Sizes that only some kinds of
    generators have are left out.
    """
    complete = [trial for trial in study.trials if trial.value is not None]
    names = [name for name in names if all(name in trial.params for trial in complete)]
    varied = [name for name in names if len({trial.params[name] for trial in complete}) > 1]
    if not varied or len({trial.value for trial in complete}) < 2:
        return dict.fromkeys(names, 0.0)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(
        target_quantile=best_share or min(0.5, max(0.1, 4 / len(complete))), evaluate_on_local=True
    )
    found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=varied)
    return {name: float(found.get(name, 0.0)) for name in names}
