"""Random search: independent draws from the space (Keshtkaran & Pandarinath 2019)."""

import math
from collections.abc import Sequence

import numpy as np

from store.specification import Range
from worker.strategies.base import Begin, ModelRecord, Strategy


class RandomSearch(Strategy):
    """All models begin at once; model k depends on the seed and k alone, so a larger budget adds to the same models."""

    def decide(self, history: Sequence[ModelRecord]) -> list[Begin]:
        """Begin the models that the budget has and the history lacks."""
        begun = {record.number for record in history}
        return [
            self._draw(number) for number in range(self.specification.budget.models) if number not in begun
        ]

    def _draw(self, number: int) -> Begin:
        random = np.random.default_rng([self.specification.seed, number])
        hyperparameters = {
            name: draw(values, random) for name, values in self.specification.searched_space().items()
        }
        return Begin(number, hyperparameters, seed=int(random.integers(2**31)))


def draw(values: float | Range, random: np.random.Generator) -> float:
    """Draw from a range, on its scale; a number is itself."""
    if not isinstance(values, Range):
        return values
    if values.scale == "log":
        drawn = math.exp(random.uniform(math.log(values.low), math.log(values.high)))
    else:
        drawn = float(random.uniform(values.low, values.high))
    return min(max(drawn, values.low), values.high)  # rounding may step over an end
