"""Training and inference that take time and write what real ones write, but compute nothing.

`worker.training.train.train` and `worker.inference.job_results.infer` run as they are: they load data and checkpoints,
renew their lease, write points of learning curves, save, score and report.
Only the network is replaced: `Population` by one that sleeps, and `iterate_latents`
by random numbers.

Losses follow from a model's seed, its learning rate and the epoch. Their smoothing continues from the checkpoint, as in real
training: a model that continued from a wrong checkpoint ends with another loss.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import worker.inference.latents
import worker.training.train
from domain.parameter_shapes import parameter_shapes
from models import Architecture, EpochScores, Hyperparameters, Latents

STEPS_PER_EPOCH = 10
_SMOOTHING = 0.7
_KINDS = ("weights", "best", "adam_first", "adam_second")


@dataclass
class Pace:
    """How long an epoch lasts, and how long this process has trained so far.

    Parameters
    ----------
    epoch_seconds
        Mean length of an epoch, whatever the number of models in the pack, as on a GPU with free capacity. Each population
        has its own length, up to a fifth more or less, so that workers do not end their slices at the same time.
    slept_s
        Time spent in training.
    """

    epoch_seconds: float
    slept_s: float = 0.0


class SleepingPopulation:
    """The part of `models.Population` that `worker.training.train` uses."""

    def __init__(
        self,
        pace: Pace,
        architecture: Architecture,
        hyperparameters: Sequence[Hyperparameters],
        seeds: Sequence[int],
        *_data_and_options: Any,
        states: Sequence[Mapping[str, Tensor]] | None = None,
        **_more: Any,
    ) -> None:
        epochs = {int(state["epoch"]) for state in states or ()} or {0}
        if len(epochs) != 1 or (states and len(states) != len(seeds)):
            raise ValueError(f"expected a state of one epoch for each of {len(seeds)} models, got {epochs}")
        self.epoch = epochs.pop()
        self.alive = [True] * len(hyperparameters)
        self._losses = [
            _Losses(seed, values.learning_rate, None if states is None else states[number])
            for number, (seed, values) in enumerate(zip(seeds, hyperparameters, strict=True))
        ]
        self._pace, self._architecture = pace, architecture
        self._epoch_seconds = pace.epoch_seconds * np.random.default_rng([*seeds, self.epoch]).uniform(
            0.8, 1.2
        )

    def try_steps(self, steps: int, on_step: Callable[[], None]) -> None:
        """Sleep for some steps."""
        for _ in range(steps):
            started = time.monotonic()
            time.sleep(self._epoch_seconds / STEPS_PER_EPOCH)
            self._pace.slept_s += time.monotonic() - started
            on_step()

    def train_epoch(self, on_step: Callable[[], None]) -> list[EpochScores]:
        """Sleep for an epoch."""
        self.try_steps(STEPS_PER_EPOCH, on_step)
        self.epoch += 1
        return [losses.train_epoch(self.epoch) for losses in self._losses]

    def snapshot(self) -> None:
        """Return no states: they are used when memory runs out, which does not happen here."""

    def state(self, index: int) -> dict[str, Tensor]:
        """Return a state of the size of a real one, of numbers that do not compress."""
        return (
            _tensors(self._architecture) | {"epoch": torch.tensor(self.epoch)} | self._losses[index].state()
        )


class _Losses:
    """Losses of one model: they fall, with noise, and depend on seed, learning rate and epoch."""

    def __init__(self, seed: int, learning_rate: float, state: Mapping[str, Tensor] | None) -> None:
        self._seed, self._learning_rate = seed, learning_rate
        self._smoothed = math.nan if state is None else float(state["smoothed_sv_loss"])
        self._best = math.inf if state is None else float(state["best_smoothed_sv_loss"])
        self._best_epoch = 0 if state is None else int(state["best_epoch"])
        self._best_loss = math.nan if state is None else float(state["best_sv_loss"])

    def train_epoch(self, epoch: int) -> EpochScores:
        loss = fake_loss(self._seed, self._learning_rate, epoch)
        before = loss if math.isnan(self._smoothed) else self._smoothed
        self._smoothed = _SMOOTHING * before + (1 - _SMOOTHING) * loss
        if self._smoothed < self._best:
            self._best, self._best_epoch, self._best_loss = self._smoothed, epoch, loss
        return EpochScores(
            epoch=epoch,
            train_loss=loss,
            sv_loss=loss,
            validation_loss=loss,
            sv_loss_train=loss,
            smoothed_sv_loss=self._smoothed,
            kl_initial_condition=1.0,
            kl_inputs=0.0,
            gradient_norm=0.01,
            learning_rate=self._learning_rate,
            diverged=False,
            best_smoothed_sv_loss=self._best,
            best_epoch=self._best_epoch,
            best_sv_loss=self._best_loss,
            best_validation_loss=self._best_loss,
        )

    def state(self) -> dict[str, Tensor]:
        return {
            "smoothed_sv_loss": torch.tensor(self._smoothed, dtype=torch.float64),
            "best_smoothed_sv_loss": torch.tensor(self._best, dtype=torch.float64),
            "best_epoch": torch.tensor(self._best_epoch),
            "best_sv_loss": torch.tensor(self._best_loss, dtype=torch.float64),
        }


def fake_loss(seed: int, learning_rate: float, epoch: int) -> float:
    """Return the loss of one epoch: falling, with noise; learning rates far from 2e-3 are worse."""
    talent = np.random.default_rng(seed).uniform(0.0, 0.02)
    noise = np.random.default_rng([seed, epoch]).normal(0.0, 0.003)
    return float(0.3 + 0.1 / math.sqrt(epoch) + talent + 0.01 * abs(math.log(learning_rate / 2e-3)) + noise)


@lru_cache
def _tensors(architecture: Architecture) -> dict[str, Tensor]:
    random = np.random.default_rng(0)
    return {
        f"{kind}.{name}": torch.from_numpy(random.normal(0, 0.1, shape).astype(np.float32))
        for kind in _KINDS
        for name, shape in parameter_shapes(architecture).items()
    }


def state_bytes(architecture: Architecture) -> int:
    """Return the size of the state of one model: its weights four times, in float32."""
    return 4 * len(_KINDS) * sum(prod(shape) for shape in parameter_shapes(architecture).values())


def random_latents(
    architecture: Architecture, _state: Any, spikes: NDArray[Any], *_lengths: Any, **_more: Any
) -> Iterator[tuple[slice, Latents]]:
    """Yield the latents of all trials at once."""
    random = np.random.default_rng(0)

    def values(*shape: int) -> NDArray[np.float32]:
        return random.uniform(0.1, 0.3, shape).astype(np.float32)

    trials, bins, neurons = spikes.shape
    yield (
        slice(0, trials),
        Latents(
            rates=values(trials, bins, neurons),
            factors=values(trials, bins, architecture.factors),
            initial_conditions=values(trials, architecture.initial_condition_dim),
            generator_states=values(trials, bins, architecture.generator_units),
            inputs=None,
        ),
    )


@contextmanager
def instead_of_the_network(pace: Pace) -> Iterator[None]:
    """Train and infer in this process without a network."""

    def population(*given: Any, **named: Any) -> SleepingPopulation:
        return SleepingPopulation(pace, *given, **named)

    with (
        patch.object(worker.training.train, "Population", population),
        patch.object(worker.inference.latents, "iterate_latents", random_latents),
    ):
        yield
