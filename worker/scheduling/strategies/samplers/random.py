"""Random search: independent draws from the space (Keshtkaran & Pandarinath 2019)."""

import math
from collections.abc import Sequence

import numpy as np

from domain.search_space import Range, Searched, Value
from worker.scheduling.strategies.base import ModelRecord
from worker.scheduling.strategies.samplers.base import Sampler, Suggestion


class RandomSampler(Sampler):
    """Begins all models at once. Model k depends only on the seed and k, so a larger budget adds models and changes none."""

    def suggest(self, history: Sequence[ModelRecord]) -> list[Suggestion]:
        """Draw the models of the budget that are not in the history."""
        return [self.draw(number) for number in self.not_begun(history)]

    def draw(self, number: int) -> Suggestion:
        """Draw one model."""
        random = self.generator(number)
        hyperparameters = {name: draw(values, random) for name, values in self.space.items()}
        return Suggestion(number, hyperparameters, int(random.integers(2**31)), "drawn at random")


def draw(values: Searched, random: np.random.Generator) -> Value:
    """Draw from a range on its scale, or from a list; return a number as it is."""
    if isinstance(values, list):
        return values[random.integers(len(values))]
    if not isinstance(values, Range):
        return values
    if values.scale == "log":
        drawn = math.exp(random.uniform(math.log(values.low), math.log(values.high)))
    else:
        drawn = float(random.uniform(values.low, values.high))
    return min(max(drawn, values.low), values.high)  # rounding may leave the range
