"""The pace of a training process, measured by two small trainings when the process starts."""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from domain import cost
from domain.cost import Extent, Pace
from models import Architecture, Hyperparameters, Population, Session, TrainingData, TrainingOptions
from worker.context.devices import is_gpu, synchronize
from worker.training.precision import faster_precision

_UNITS: dict[str, Any] = {
    "encoder_units": 64,
    "initial_condition_dim": 32,
    "generator_units": 64,
    "factors": 8,
}
_SMALL = (Extent(20, 20, 16, 4), 2, 1)  # most of its time is overhead
_LARGE = {"cpu": (Extent(50, 50, 128, 32), 64, 1), "cuda": (Extent(100, 100, 1024, 64), 256, 8)}
"""Extent, trials of a batch, and models at once. On a GPU, arithmetic takes most of the time only in large trainings."""
_REPEATS = 3
_LEAST = 0.001  # the lowest pace


def measure_pace(device: str) -> Pace:
    """Train two small data sets for a few epochs, and return how long they take relative to `domain.cost`.

    This takes about a second. They train in the faster precision, as most jobs do. On CPUs it is the time of this thread, so
    other work on the machine does not change it.
    """
    expected, taken = [], []
    extent, batch_trials, _ = _LARGE["cpu"]
    architecture = Architecture(neurons=extent.neurons, **_UNITS)
    precision = faster_precision(architecture, batch_trials, extent.bins, device)
    for extent, batch_trials, models in (_SMALL, _LARGE["cuda" if is_gpu(device) else "cpu"]):
        options = TrainingOptions(batch_size=batch_trials, precision=precision)
        population = _population(extent, models, device, options)
        described = asdict(population.architecture)
        one = cost.epoch_time(described, extent, batch_trials, models)
        expected.append((one.overhead_s, one.arithmetic_s))
        taken.append(_epoch_seconds(population, device))
    overhead, arithmetic = np.linalg.solve(np.array(expected), np.array(taken))
    return Pace(max(_LEAST, float(overhead)), max(_LEAST, float(arithmetic)))


def _population(extent: Extent, models: int, device: str, options: TrainingOptions) -> Population:
    trials = extent.training_trials + extent.validation_trials
    spikes = np.random.default_rng(0).poisson(0.2, (trials, extent.bins, extent.neurons)).astype(np.uint8)
    is_valid = np.arange(trials) < extent.validation_trials
    session = Session(spikes, np.full(trials, extent.bins), is_valid)
    hyperparameters: dict[str, Any] = {"learning_rate": 1e-3, "dropout": 0.1, "cd_rate": 0.3}
    hyperparameters |= {"kl_weight_initial_condition": 1e-5, "l2_weight_generator": 1e-3}
    return Population(
        Architecture(neurons=extent.neurons, **_UNITS),
        [Hyperparameters(**hyperparameters)] * models,
        range(models),
        TrainingData([session], sv_rate=0.2, sv_seed=0, device=device),
        options,
        order_seed=0,
    )


def _epoch_seconds(population: Population, device: str) -> float:
    """Return the time of the fastest of a few epochs, after one to warm up."""
    clock: Callable[[], float] = (
        time.thread_time if torch.get_num_threads() == 1 and not is_gpu(device) else time.perf_counter
    )
    population.train_epoch()
    times = []
    for _ in range(_REPEATS):
        synchronize(device)
        started = clock()
        population.train_epoch()
        synchronize(device)
        times.append(clock() - started)
    return min(times)
