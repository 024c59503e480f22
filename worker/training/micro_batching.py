"""Train the models of a slice in groups of the size that is fastest on this device.

Models are independent, so any grouping gives the same numbers and only changes memory and speed. A short calibration at the first
slice of a job finds the fastest size that fits into memory. If memory still runs out, the group is halved and continues from its
last epoch. A model that does not fit alone fails with its slice; later attempts then train every model alone
(`worker.scheduling.leases`).
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

LEAST_GAIN = 0.03  # share of speed that doubling a group must gain
CALIBRATION_SECONDS = 5.0
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

    def states(self) -> list[dict[str, Tensor]]:
        return [self.population.state(place) for place in range(len(self.indices))]

    def halves(self, make: MakePopulation, states: States) -> list["_Group"]:
        del self.population  # frees its memory
        _free_cache()
        middle = len(self.indices) // 2
        return [
            _Group(make, self.indices[half], states[half]) for half in (slice(middle), slice(middle, None))
        ]


def find_group_size(
    make: MakePopulation, most: int, device: str, model_bytes: int, on_step: Callable[[], None]
) -> int:
    """Return the size of the fastest group that fits: doubling it once more would not make an epoch of each model shorter.

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
    """The timed step is over."""


def _try_step(make: MakePopulation, size: int, device: str, on_step: Callable[[], None]) -> tuple[float, int]:
    """Return the seconds of a step after one to warm up, and on a GPU its largest use of memory in bytes (0 on a CPU)."""
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
    """Return whether an error of torch or Python says that memory ran out. On CPUs torch has no type for it."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def free_bytes(device: str) -> int:
    """Return the memory that a process may still get: of the GPU, or of the machine or container, whichever is less."""
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
    """Release the memory of the GPU that torch caches, for a population of another size."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
