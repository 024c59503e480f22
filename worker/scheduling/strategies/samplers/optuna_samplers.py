"""TPE, Gaussian process, CMA-ES, quasi-Monte Carlo and grid search: Optuna's samplers on the rows of models.

Nothing is kept between decisions: each one rebuilds the study from the models so far. The suggestions depend only on the job's
seed and the models of earlier rounds, so the order in which models end does not matter.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, assert_never

import numpy as np
import optuna

from domain.job_specification import JobSpecification
from domain.search_space import Range, Searched, Value
from domain.strategies import GridStrategy, QmcStrategy
from domain.strategies import LearningSampler as LearningSpecification
from store.studies import distributions, finished_trial, fixed, make_study
from worker.scheduling.strategies.base import ModelRecord
from worker.scheduling.strategies.samplers.base import Sampler, Suggestion
from worker.scheduling.strategies.samplers.random import RandomSampler


def make(
    specification: JobSpecification, wanted: LearningSpecification | QmcStrategy | GridStrategy
) -> Sampler:
    """Return the sampler of a kind."""
    if isinstance(wanted, QmcStrategy):
        return QmcSampler(specification)
    if isinstance(wanted, GridStrategy):
        return GridSampler(specification, wanted.points)
    if isinstance(wanted, LearningSpecification):
        return LearningSampler(specification, wanted)
    assert_never(wanted)


class LearningSampler(Sampler):
    """Begins models in rounds. Each round is chosen from the results of all rounds before.

    Parameters
    ----------
    specification
        The job's.
    wanted
        The kind of sampler, and its fields.
    """

    takes_seconds = True

    def __init__(self, specification: JobSpecification, wanted: LearningSpecification) -> None:
        super().__init__(specification)
        self.wanted = wanted
        self.dimensions = distributions(self.space)

    def suggest(self, history: Sequence[ModelRecord]) -> list[Suggestion]:
        """Choose the models of the next round; none while models of earlier rounds train."""
        missing = self.not_begun(history)
        if not missing:
            return []
        round_of = self.round_of or (lambda number: number // self.wanted.models_at_once)
        due = [number for number in missing if round_of(number) == round_of(missing[0])]
        first = next(number for number in range(missing[0] + 1) if round_of(number) == round_of(missing[0]))
        earlier = [record for record in history if record.number < first]
        if not all(record.is_final for record in earlier):
            return []
        if first < self.wanted.startup_models or not self.dimensions:
            return [RandomSampler(self.specification).draw(number) for number in due]
        return self._ask(due, sorted(earlier, key=lambda record: record.number))

    def _ask(self, numbers: Sequence[int], earlier: Sequence[ModelRecord]) -> list[Suggestion]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = make_study(
                (
                    finished_trial(one.hyperparameters, one.smoothed_sv_loss, self.dimensions)
                    for one in earlier
                ),
                self._sampler(numbers[0]),
            )
        reason = f"chosen by {self.wanted.kind} from {len(earlier)} models"
        suggested = []
        for number in numbers:
            asked = study.ask(
                self.dimensions
            )  # it stays unfinished, so that the next suggestion keeps a distance
            values = fixed(self.space) | asked.params
            seed = int(self.generator(number).integers(2**31))
            ordered = {name: values[name] for name in self.space}
            suggested.append(Suggestion(number, ordered, seed, reason))
        return suggested

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        kinds: dict[str, Callable[..., Any]] = {
            "tpe": optuna.samplers.TPESampler,
            "gp": optuna.samplers.GPSampler,
            "cmaes": optuna.samplers.CmaEsSampler,
        }
        options: dict[str, Any] = {"seed": _seed(self.specification.seed, number), "n_startup_trials": 1}
        if self.wanted.kind == "cmaes":
            options |= {"warn_independent_sampling": False}
        sampler: optuna.samplers.BaseSampler = kinds[self.wanted.kind](**options)
        return sampler


class QmcSampler(Sampler):
    """Takes model k from the k-th point of a scrambled Sobol sequence. Choices from a list are random."""

    def suggest(self, history: Sequence[ModelRecord]) -> list[Suggestion]:
        """Return the points of the budget that are not in the history."""
        from scipy.stats import qmc

        missing = self.not_begun(history)
        ranges = [name for name, values in self.space.items() if isinstance(values, Range)]
        if not missing:
            return []
        points = np.empty((missing[-1] + 1, 0))
        if ranges:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", UserWarning
                )  # the sequence is balanced only at powers of 2, which does not matter here
                sequence = qmc.Sobol(
                    len(ranges), scramble=True, rng=np.random.default_rng(self.specification.seed)
                )
                points = sequence.random(missing[-1] + 1)
        random = RandomSampler(self.specification)
        suggested = []
        for number in missing:
            drawn = random.draw(number)
            at = {
                name: _at(self.space[name], float(share))
                for name, share in zip(ranges, points[number], strict=True)
            }
            values = drawn.hyperparameters | at
            suggested.append(Suggestion(number, values, drawn.seed, f"point {number} of a Sobol sequence"))
        return suggested


class GridSampler(Sampler):
    """Tries every combination, in an order that the seed draws, so that a budget smaller than the grid is spread over it.

    Parameters
    ----------
    specification
        The job's.
    points
        Number of values for each range.
    """

    def __init__(self, specification: JobSpecification, points: int) -> None:
        super().__init__(specification)
        self.points = points

    def suggest(self, history: Sequence[ModelRecord]) -> list[Suggestion]:
        """Return the combinations of the budget that are not in the history."""
        values = [_grid_values(one, self.points) for one in self.space.values()]
        size = int(np.prod([len(one) for one in values], dtype=object))
        wanted = min(size, self.specification.budget.models)
        random = np.random.default_rng(self.specification.seed)
        order = _some_of(size, wanted, random)
        begun = {record.number for record in history}
        lengths = [len(one) for one in values]
        suggested = []
        for number in (one for one in range(wanted) if one not in begun):
            indices = _digits(order[number], lengths)
            chosen = {
                name: of[i]
                for (name, of), i in zip(zip(self.space, values, strict=True), indices, strict=True)
            }
            seed = int(self.generator(number).integers(2**31))
            suggested.append(Suggestion(number, chosen, seed, f"combination {order[number]} of {size}"))
        return suggested


def _seed(seed: int, number: int) -> int:
    return int(np.random.default_rng([seed, number, 0x0F7]).integers(2**31))


def _at(values: Searched, share: float) -> float:
    """Return the value at a share of a range, on its scale."""
    assert isinstance(values, Range)
    if values.scale == "log":
        found = values.low * (values.high / values.low) ** share
    else:
        found = values.low + (values.high - values.low) * share
    return float(min(max(found, values.low), values.high))


def _grid_values(values: Searched, points: int) -> Sequence[Value]:
    if isinstance(values, list):
        return values
    if isinstance(values, Range):
        return list(dict.fromkeys(_at(values, float(share)) for share in np.linspace(0.0, 1.0, points)))
    return [float(values)]


def _some_of(size: int, wanted: int, random: np.random.Generator) -> list[int]:
    """Draw different numbers below `size` in random order. More wanted numbers do not change the first ones."""
    if size <= 1_000_000:
        return [int(one) for one in random.permutation(size)[:wanted]]
    found: dict[int, None] = {}
    while len(found) < wanted:
        found[int(random.integers(min(size, 2**63 - 1)))] = None
    return list(found)


def _digits(number: int, lengths: Sequence[int]) -> list[int]:
    digits = []
    for length in lengths:
        number, digit = divmod(number, length)
        digits.append(digit)
    return digits
