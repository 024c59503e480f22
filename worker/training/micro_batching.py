"""A slice's models in training, in groups of as many as go well together on this device.

Models are independent, so any grouping gives the same numbers: it is a matter of memory and speed alone. A short
calibration at a job's first slice finds how many at once are fastest and fit. If memory runs out all the same, the
group is halved and goes on from its last epoch; a model that does not fit alone fails with its slice, whose attempts
then end with every model alone (`worker.scheduling.scheduler`).
"""

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from models import EpochScores, Population

logger = logging.getLogger("latentry.training")

LEAST_GAIN = 0.03  # of speed, that doubling a group must bring
CALIBRATION_SECONDS = 5.0
MEMORY_SHARE = 0.8  # of what is free, that a group may be expected to take

States = Sequence[Mapping[str, Tensor]]
MakePopulation = Callable[[Sequence[int], States | None], Population]
"""Makes a population of some of the slice's models, by their indices, from their states or fresh."""


class Pack:
    """The models of a slice in training, all at the same epoch.

    Parameters
    ----------
    make
        Makes a population of some of them.
    models
        How many there are.
    states
        Of each, where training goes on from; None for a fresh start.
    group_size
        Most models of a group.
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
        """Indices of the models that train on: they have neither diverged nor been released."""
        return sorted(index for group in self._groups for index in group.indices)

    def train_epoch(self, on_step: Callable[[], None]) -> dict[int, EpochScores]:
        """Train one epoch; scores of the models that were alive, by index. Those that diverged leave.

        Raises
        ------
        torch.OutOfMemoryError, MemoryError, RuntimeError
            If a model does not fit into memory alone.
        """
        scores: dict[int, EpochScores] = {}
        waiting, done = self._groups, []
        while waiting:
            group = waiting[0]
            before = group.states()
            try:
                found = group.population.train_epoch(on_step)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or len(group.indices) == 1:
                    raise
                waiting = [*group.halves(self._make, before), *waiting[1:]]
                logger.warning("out of memory with %d models at once: %s", len(group.indices), error)
                continue
            scores |= dict(zip(group.indices, found, strict=True))
            done.append(group)
            waiting = waiting[1:]
        self._groups = done
        self._epoch = done[0].population.epoch
        self._leave({index for index, found in scores.items() if found.diverged})
        return scores

    def release(self, indices: Sequence[int]) -> None:
        """Let models leave that have come to their end; their states are kept."""
        self._released |= {index: self.state(index) for index in indices}
        self._leave(set(indices))

    def state(self, index: int) -> dict[str, Tensor]:
        """Of a model that has not diverged."""
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

    def states(self) -> list[dict[str, Tensor]]:
        return [self.population.state(place) for place in range(len(self.indices))]

    def halves(self, make: MakePopulation, states: States) -> list["_Group"]:
        del self.population  # its memory is needed
        _free_cache()
        middle = len(self.indices) // 2
        return [
            _Group(make, self.indices[half], states[half]) for half in (slice(middle), slice(middle, None))
        ]


def find_group_size(
    make: MakePopulation, most: int, device: str, model_bytes: int, on_step: Callable[[], None]
) -> int:
    """How many models at once are fastest, of those that fit: the last doubling that made an epoch of each model shorter.

    Parameters
    ----------
    make
        Makes populations to try; they are thrown away.
    most
        Models there are to train together.
    device
        Of the process.
    model_bytes
        Rough memory of a training step of one model; on a GPU it is measured instead.
    on_step
        Called after every step tried; may raise.
    """
    started, best, best_pace, size = time.monotonic(), 1, float("inf"), 1
    while True:
        try:
            seconds, measured_bytes = _try_step(make, size, device, on_step)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            break
        if seconds / size > best_pace * (1 - LEAST_GAIN):
            break
        best, best_pace = size, seconds / size
        following = min(2 * size, most)
        needed = following * (measured_bytes / size if measured_bytes else model_bytes)
        left = CALIBRATION_SECONDS - (time.monotonic() - started)
        if size == most or needed > MEMORY_SHARE * free_bytes(device) or 4 * seconds > left:
            break
        size = following
    _free_cache()
    logger.info("%d of %d models train at once: %.3f s for a step of each", best, most, best_pace)
    return best


class _Enough(Exception):
    """The step to be timed is over."""


def _try_step(make: MakePopulation, size: int, device: str, on_step: Callable[[], None]) -> tuple[float, int]:
    """Seconds of a step after one that warms up, and on a GPU the bytes that it took at most (0 on a CPU)."""
    is_cuda = torch.device(device).type == "cuda"
    if is_cuda:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if is_cuda else 0
    population = make(range(size), None)
    times: list[float] = []

    def stop_after_two() -> None:
        on_step()
        if is_cuda:
            torch.cuda.synchronize()
        times.append(time.monotonic())
        if len(times) == 2:
            raise _Enough

    with contextlib.suppress(_Enough):
        population.train_epoch(stop_after_two)
    taken = torch.cuda.max_memory_allocated() - before if is_cuda else 0
    return times[1] - times[0], taken


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python says that memory ran out; torch has no type of its own for CPUs."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def free_bytes(device: str) -> int:
    """Memory that a process may still get on a device: of a GPU, of the machine, or of the container if that is less."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    found = []
    if (meminfo := Path("/proc/meminfo")).exists():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    group = Path("/sys/fs/cgroup")
    if (group / "memory.max").exists() and (limit := (group / "memory.max").read_text().strip()) != "max":
        found.append(int(limit) - int((group / "memory.current").read_text()))
    return min(found, default=2**63)


def _free_cache() -> None:
    """Give back what torch keeps of a GPU's memory, for a population of another size."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
