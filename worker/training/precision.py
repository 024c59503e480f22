"""The precision in which the models of a job train: measured once, where its training begins, and the same for all its slices."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from sqlalchemy import update

from domain.job_specification import UsedPrecision
from models import Architecture, Hyperparameters, Population, Session, TrainingData, TrainingOptions
from models.compiled import has_bfloat16
from store.tables import Job
from worker.context.devices import is_gpu
from worker.context.process import TrainingProcess
from worker.context.slices import Work

logger = logging.getLogger("latentry.training")

LEAST_GAIN = 0.05  # share of speed that bfloat16 must gain
_SMALLEST_UNITS = 32  # with fewer units no gain was seen, and timings of such short products are noise
_TRIAL_BINS = 2560  # of a measured step
_FEWEST_BINS = 10
_REPEATS = 4


def precision_of(process: TrainingProcess, work: Work) -> UsedPrecision:
    """Return the precision in which the models of a slice train; the first slice of a job decides it for all.

    Without a decision in the job's specification it is measured here. A later slice on another worker computes in the same
    precision, by rounding where its device has no instruction for it.
    """
    if work.job.precision is not None:
        return _used(work.job.precision)
    wanted, batch_size = work.specification.training.precision, work.specification.training.batch_size
    if wanted == "auto":
        trials = int((work.split() == "train").sum())
        bins = work.dataset.bins or _FEWEST_BINS
        chosen = faster_precision(work.architecture(), min(batch_size, trials), bins, process.device)
    else:
        chosen = wanted
    with process.database.write() as session:  # another slice of the job may have decided meanwhile
        undecided = update(Job).where(Job.id == work.job.id, Job.precision.is_(None))
        session.execute(undecided.values(precision=chosen).execution_options(synchronize_session=False))
        row = session.get(Job, work.job.id, populate_existing=True)
        return chosen if row is None or row.precision is None else _used(row.precision)


def _used(precision: str) -> UsedPrecision:
    return "bfloat16" if precision == "bfloat16" else "float32"


def faster_precision(architecture: Architecture, batch_trials: int, bins: int, device: str) -> UsedPrecision:
    """Return bfloat16 if training steps are at least 5 % faster with it on this machine, else float32.

    This takes a fraction of a second: the steps are of one model, on as many trials and neurons as those of the job, and on
    fewer bins. They take turns, and the fastest of each precision counts.

    Parameters
    ----------
    architecture
        Of the models.
    batch_trials
        Trials of a training step.
    bins
        Of a trial.
    device
        Of the process. GPUs compute in float32.
    """
    units = (architecture.encoder_units, architecture.generator_units, architecture.controller_units)
    if is_gpu(device) or torch.get_num_threads() != 1 or max(units) < _SMALLEST_UNITS or not has_bfloat16():
        return "float32"
    measured = max(min(bins, _TRIAL_BINS // batch_trials), min(bins, _FEWEST_BINS))
    steps: dict[UsedPrecision, Callable[[], float]] = {
        "float32": _timed_step(architecture, batch_trials, measured, "float32"),
        "bfloat16": _timed_step(architecture, batch_trials, measured, "bfloat16"),
    }
    seconds = {name: float("inf") for name in steps}
    for _ in range(_REPEATS):
        for name, step in steps.items():
            seconds[name] = min(seconds[name], step())
    gain = seconds["float32"] / seconds["bfloat16"] - 1
    chosen: UsedPrecision = "bfloat16" if gain >= LEAST_GAIN else "float32"
    logger.info("bfloat16 makes training steps %+.0f %% faster here: models train in %s", 100 * gain, chosen)
    return chosen


def _timed_step(
    architecture: Architecture, batch_trials: int, bins: int, precision: UsedPrecision
) -> Callable[[], float]:
    """Return a function that trains a step of one model and returns the seconds of this thread, after a first step."""
    plain = replace(
        architecture, neurons=max(architecture.session_neurons), external_inputs=0, observation="poisson",
        initial_condition_bins=0, encoded_bins=0, held_out_neurons=(),
    )  # fmt: skip
    spikes = np.random.default_rng(0).poisson(0.2, (batch_trials + 1, bins, max(plain.session_neurons)))
    session = Session(spikes, np.full(len(spikes), bins), np.arange(len(spikes)) == 0)
    population = Population(
        plain,
        [Hyperparameters()],
        [0],
        TrainingData(session, sv_rate=0.2, sv_seed=0),
        TrainingOptions(batch_size=batch_trials, precision=precision),
        order_seed=0,
    )

    def step() -> float:
        started = time.thread_time()
        population.try_steps(1, lambda: None)
        return time.thread_time() - started

    step()
    return step
