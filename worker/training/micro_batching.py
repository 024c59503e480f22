"""Train the models of a slice in groups of the size that is fastest on this device.

Models are independent, so any grouping gives the same numbers and only changes memory and speed. A short calibration at the first
slice of a job finds the fastest size that fits into memory. If memory still runs out, the group is halved and continues from its
last epoch. A model that does not fit alone fails with its slice; later attempts then train every model alone
(`worker.scheduling.leases`).
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from torch import Tensor

from models import EpochScores, Population
from worker.context.devices import (
    free_bytes,
    free_cache,
    is_out_of_memory,
    peak_bytes,
    start_measuring_memory,
    synchronize,
)

logger = logging.getLogger("latentry.training")

LEAST_GAIN = 0.03  # share of speed that doubling a group must gain
CALIBRATION_SECONDS = 5.0
TIMED_STEPS = 2
MEMORY_SHARE = 0.8  # share of the free memory that a group may use

States = Sequence[Mapping[str, Tensor]]
MakePopulation = Callable[[Sequence[int], States | None], Population]
"""Makes a population of some of the slice's models, by their indices, from their states or from the beginning."""


class Pack:
    """The models of a slice during training. All are at the same epoch.

    Parameters
    ----------
    make
        Makes a population of some of the models.
    models
        Number of models.
    states
        State of each model, from which training continues; None to begin.
    group_size
        Largest number of models in a group.
    """

    def __init__(self, make: MakePopulation, models: int, states: States | None, group_size: int) -> None:
        self._make = make
        self._groups = []
        for first in range(0, models, group_size):
            indices = list(range(first, min(first + group_size, models)))
            chosen = None if states is None else [states[index] for index in indices]
            self._groups.append(_Group(make, indices, chosen))
        self._epoch = self._groups[0].population.epoch
        self._released: dict[int, dict[str, Tensor]] = {}

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self._epoch

    @property
    def alive(self) -> list[int]:
        """Indices of the models that still train: they have neither diverged nor been released."""
        return sorted(index for group in self._groups for index in group.indices)

    def train_epoch(self, on_step: Callable[[], None]) -> dict[int, EpochScores]:
        """Train one epoch, and return the scores of the models by index. Models that diverged leave the pack.

        Raises
        ------
        torch.OutOfMemoryError, MemoryError, RuntimeError
            If a model does not fit into memory alone.
        """
        scores: dict[int, EpochScores] = {}
        waiting, done = list(self._groups), []
        while waiting:
            group = waiting.pop(0)
            before = group.population.snapshot()
            found = group.train_epoch(on_step)
            if found is None:  # only now, after the exception with its traceback, can the memory be freed
                waiting = [*group.halves(self._make, before.states()), *waiting]
                continue
            scores |= dict(zip(group.indices, found, strict=True))
            done.append(group)
        self._groups = done
        self._epoch = done[0].population.epoch
        self._leave({index for index, found in scores.items() if found.diverged})
        return scores

    def release(self, indices: Sequence[int]) -> None:
        """Remove models that have ended, and keep their states."""
        self._released |= {index: self.state(index) for index in indices}
        self._leave(set(indices))

    def state(self, index: int) -> dict[str, Tensor]:
        """Return the state of a model that has not diverged."""
        if index in self._released:
            return self._released[index]
        (group,) = (group for group in self._groups if index in group.indices)
        return group.population.state(group.indices.index(index))

    def _leave(self, indices: set[int]) -> None:
        for group in self._groups:
            staying = [place for place, index in enumerate(group.indices) if index not in indices]
            if staying and len(staying) < len(group.indices):
                group.population.keep(staying)
            group.indices = [group.indices[place] for place in staying]
        self._groups = [group for group in self._groups if group.indices]


class _Group:
    """Models that train as one population, by their indices in the slice."""

    def __init__(self, make: MakePopulation, indices: list[int], states: States | None) -> None:
        self.indices = indices
        self.population = make(indices, states)

    def train_epoch(self, on_step: Callable[[], None]) -> list[EpochScores] | None:
        """Train an epoch; return None if memory ran out and the group can be halved. The exception is then over."""
        try:
            return self.population.train_epoch(on_step)
        except Exception as error:
            if not is_out_of_memory(error) or len(self.indices) == 1:
                raise
            logger.warning("out of memory with %d models at once: %s", len(self.indices), str(error))
            return None

    def halves(self, make: MakePopulation, states: States) -> list["_Group"]:
        device = str(self.population.data.device)
        del self.population
        free_cache(device)
        middle = len(self.indices) // 2
        return [
            _Group(make, self.indices[half], states[half]) for half in (slice(middle), slice(middle, None))
        ]


def find_group_size(
    make: MakePopulation, most: int, device: str, model_bytes: int, on_step: Callable[[], None]
) -> int:
    """Return the size of the fastest group that fits: doubling it once more would not make a step of each model shorter.

    Parameters
    ----------
    make
        Makes populations for the trial.
    most
        Number of models to train together.
    device
        Of the process.
    model_bytes
        Approximate memory of one model's training step. On a GPU it is measured instead.
    on_step
        Called after every step; may raise.
    """
    started, best, best_pace, size = float("nan"), 1, float("inf"), 1
    while True:
        tried = _try_step(make, size, device, on_step)
        free_cache(device)
        if tried is None:
            break
        seconds, measured_bytes = tried
        if size == 1:  # what only the first steps of a process need, such as compilation, does not count
            started = time.monotonic()
        if seconds / size > best_pace * (1 - LEAST_GAIN):
            break
        best, best_pace = size, seconds / size
        following = min(2 * size, most)
        needed = following * (measured_bytes / size if measured_bytes else model_bytes)
        left = CALIBRATION_SECONDS - (time.monotonic() - started)
        too_long = 2 * (1 + TIMED_STEPS) * seconds > left
        if size == most or needed > MEMORY_SHARE * free_bytes(device) or too_long:
            break
        size = following
    logger.info("%d of %d models train at once: %.3f s for a step of each", best, most, best_pace)
    return best


def _try_step(
    make: MakePopulation, size: int, device: str, on_step: Callable[[], None]
) -> tuple[float, int] | None:
    """Return the seconds of a training step, and on a GPU its peak memory in bytes (0 on a CPU); None if it does not fit.

    Only steps after the first one are timed, the fastest of them counts.
    """
    before = start_measuring_memory(device)
    times: list[float] = []

    def note_time() -> None:
        on_step()
        synchronize(device)
        times.append(time.monotonic())

    try:
        make(range(size), None).try_steps(1 + TIMED_STEPS, note_time)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None
    steps = [later - earlier for earlier, later in pairwise(times)]
    return min(steps), peak_bytes(device) - before
