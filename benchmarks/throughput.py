"""Model-epochs per second of a pack, beside the plain way of training one model at a time.

``python -m benchmarks.throughput [--quick] [--json] [--device cpu|cuda]``

For each shape (bins × neurons), batch size and number M of models in a pack: model-epochs per second (an epoch is
training on all training trials and scoring both losses on validation trials and on as many training trials), peak memory,
and the share of the machine's fp32 matrix-product peak that useful operations reach. Useful are the products of
the equations alone: forward, and twice as much backward; element-wise work, masks and noise count nothing. The
peak is measured in the same process, with the products of a GRU step of these sizes. Beside it the plain implementation
(`benchmarks.baseline`): one model, loops of cells, autograd, the same loss and scores, on the same trials.

Each measurement has a process of its own with one thread, and runs one epoch before those that count; the median
epoch counts. ``--json``: one line each, and nothing else; without it CPUs have one more, what two such processes at once
reach. Quick: the first shape, M of 1 and 16, all batches.
"""

import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch

from benchmarks import report
from benchmarks.baseline import PlainLFADS, PlainTraining, checked
from benchmarks.paper.harness import ENVIRONMENT
from domain.job_specification import UsedPrecision
from models import Architecture, Hyperparameters, Population, Session, TrainingData, TrainingOptions
from models.network import initial_parameters

SIZES: dict[str, Any] = {
    "encoder_units": 100,
    "initial_condition_dim": 100,
    "generator_units": 100,
    "factors": 20,
}
CONTROLLER: dict[str, Any] = {"controller_units": 64, "controller_encoder_units": 64, "inferred_inputs": 4}
BATCHES, PACKS = (16, 64, 256), (1, 2, 4, 8, 16, 32)
COUNTED_EPOCHS, LEAST_SECONDS = 2, 2.0
MEMORY_SHARE = 0.85  # of the machine's, that a measurement on CPUs may map


@dataclass(frozen=True)
class Shape:
    """A data set's sizes, and whether models have a controller."""

    bins: int
    neurons: int
    training_trials: int
    with_controller: bool = False

    def __str__(self) -> str:
        return f"{self.bins} × {self.neurons}{', controller' if self.with_controller else ''}"

    @property
    def validation_trials(self) -> int:
        """A quarter as many as there are training trials."""
        return self.training_trials // 4

    def architecture(self) -> Architecture:
        """Of every model."""
        extra = CONTROLLER if self.with_controller else {}
        return Architecture(neurons=self.neurons, **SIZES, **extra)


SHAPES = (Shape(50, 29, 1024), Shape(100, 162, 256), Shape(140, 182, 256, with_controller=True))


@dataclass(frozen=True)
class Measurement:
    """What one process is to measure; `models` 0 is the plain implementation."""

    shape: Shape
    batch: int
    models: int
    device: Literal["cpu", "cuda"]
    precision: UsedPrecision


@dataclass(frozen=True)
class Measured:
    """Model-epochs per second, peak memory in bytes, and the peak of matrix products in operations per second."""

    model_epochs_per_s: float
    peak_bytes: int
    peak_operations_per_s: float


def operations_per_epoch(shape: Shape) -> float:
    """Return the useful floating-point operations of one model-epoch: products alone."""
    a = shape.architecture()
    E, G, F, N = a.encoder_units, a.generator_units, a.factors, shape.neurons
    products = 2 * (N + E) * 3 * E + G * 3 * G + G * F + F * N
    if shape.with_controller:
        K, C, U = a.controller_encoder_units, a.controller_units, a.inferred_inputs
        products += 2 * (N + K) * 3 * K + (2 * K + F + C) * 3 * C + C * 2 * U + U * 3 * G
    forward = 2 * products * shape.bins
    scored = 2 * shape.validation_trials  # validation trials, and as many training trials
    return float(forward * (3 * shape.training_trials + scored))


def measure(task: Measurement) -> Measured | str:
    """Run in a fresh process; a reason in words where it cannot be done."""
    torch.set_num_threads(1)
    if task.device == "cpu":
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        resource.setrlimit(resource.RLIMIT_AS, (int(MEMORY_SHARE * whole),) * 2)
    peak = product_peak(task.shape.architecture(), task.batch, task.device)
    try:
        train_epoch = (_pack if task.models else _plain)(task)
        seconds = _median_seconds(train_epoch, task.device)
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if "memory" not in str(error).lower():
            raise
        return "out of memory"
    if task.device == "cuda":
        used = torch.cuda.max_memory_allocated()
    else:
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Measured(max(1, task.models) / seconds, used, peak)


def product_peak(architecture: Architecture, batch: int, device: str) -> float:
    """Operations per second of the best of a few products of a GRU step's sizes, fp32."""
    best, H = 0.0, architecture.generator_units
    for models, rows in ((1, batch), (1, 16 * batch), (16, batch)):
        left = torch.rand(models, rows, H, device=device)
        right = torch.rand(models, H, 3 * H, device=device)
        out = torch.empty(models, rows, 3 * H, device=device)
        for _ in range(5):
            started, repeats = time.perf_counter(), 0
            while time.perf_counter() - started < 0.02:
                for _ in range(20):
                    torch.bmm(left, right, out=out)
                _synchronize(device)
                repeats += 20
            seconds = (time.perf_counter() - started) / repeats
            best = max(best, 2 * models * rows * H * 3 * H / seconds)
    return best


def _median_seconds(train_epoch: Callable[[], Any], device: str) -> float:
    train_epoch()
    seconds: list[float] = []
    while len(seconds) < COUNTED_EPOCHS or (sum(seconds) < LEAST_SECONDS and len(seconds) < 20):
        _synchronize(device)
        started = time.perf_counter()
        train_epoch()
        _synchronize(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _data(task: Measurement) -> TrainingData:
    shape = task.shape
    trials = shape.training_trials + shape.validation_trials
    spikes = np.random.default_rng(0).poisson(0.2, (trials, shape.bins, shape.neurons))
    session = Session(spikes, np.full(trials, shape.bins), np.arange(trials) >= shape.training_trials)
    return TrainingData(session, sv_rate=0.2, sv_seed=0, device=task.device)


def _hyperparameters(number: int) -> Hyperparameters:
    return Hyperparameters(learning_rate=1e-3 * (1 + number / 10), dropout=0.1 + number / 100)


def _pack(task: Measurement) -> Callable[[], Any]:
    population = Population(
        task.shape.architecture(),
        [_hyperparameters(number) for number in range(task.models)],
        list(range(task.models)),
        _data(task),
        TrainingOptions(batch_size=task.batch, precision=task.precision),
        order_seed=0,
    )
    return population.train_epoch


def _plain(task: Measurement) -> Callable[[], Any]:
    data, architecture = _data(task), checked(task.shape.architecture())
    parameters = {
        name: values.to(task.device)
        for name, values in initial_parameters(architecture, data.statistics, 0).items()
    }
    trials = torch.arange(task.shape.training_trials + task.shape.validation_trials, device=task.device)
    whole = data.batch([trials]).parts[0]
    training = PlainTraining(
        PlainLFADS(architecture, parameters, _hyperparameters(0)),
        whole.values,
        whole.visible,
        trials >= task.shape.training_trials,
        TrainingOptions(batch_size=task.batch),
        sv_rate=0.2,
    )
    return training.train_epoch


def run(tasks: list[Measurement]) -> list[Measured | str]:
    """Measure side by side, each in a process of its own."""
    os.environ |= ENVIRONMENT
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(len(tasks), mp_context=context, max_tasks_per_child=1) as pool:
            return list(pool.map(measure, tasks))
    except BrokenProcessPool:
        return ["killed, probably for its memory" for _ in tasks]


def record(task: Measurement, measured: Measured | str, plain: Measured | str) -> dict[str, Any]:
    """One line of JSON."""
    line: dict[str, Any] = {
        "shape": str(task.shape),
        "batch": task.batch,
        "M": task.models,
        "device": task.device,
        "precision": task.precision,
    }
    line["plain_model_epochs_per_s"] = None if isinstance(plain, str) else round(plain.model_epochs_per_s, 4)
    if isinstance(measured, str):
        return line | {
            "model_epochs_per_s": None,
            "share_of_peak": None,
            "peak_bytes": None,
            "skipped": measured,
        }
    reached = measured.model_epochs_per_s * operations_per_epoch(task.shape)
    return line | {
        "model_epochs_per_s": round(measured.model_epochs_per_s, 4),
        "share_of_peak": round(reached / measured.peak_operations_per_s, 3),
        "peak_bytes": measured.peak_bytes,
        "peak_operations_per_s": round(measured.peak_operations_per_s),
    }  # fmt: skip


def main() -> None:
    """Measure, line by line, and print a table at the end."""
    parser = report.parser(__doc__ or "", quick="the first shape, packs of 1 and 16")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="one of them; both, where there is a GPU")
    parser.add_argument(
        "--precision",
        choices=get_args(UsedPrecision),
        default="bfloat16",
        help="of the pack's products in training",
    )
    arguments = parser.parse_args()
    there: list[Literal["cpu", "cuda"]] = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    devices = [device for device in there if arguments.device in (None, device)]
    if not devices:
        sys.exit(
            f"there is no {arguments.device} device here; torch {torch.__version__} sees {', '.join(there)}"
        )
    rows: list[list[Any]] = [
        ["shape", "batch", "device", "M", "model-epochs/s", "of the plain", "share of peak", "peak memory (MB)"]
    ]  # fmt: skip

    def say(line: dict[str, Any]) -> None:
        print(json.dumps(line), flush=True)
        ours, plain = line.get("model_epochs_per_s"), line.get("plain_model_epochs_per_s")
        if ours is None:
            return
        ratio = f"{ours / plain:.1f} ×" if plain else ""
        memory = round(line["peak_bytes"] / 1e6)
        rows.append(
            [
                line["shape"],
                line["batch"],
                line["device"],
                line["M"],
                ours,
                ratio,
                line["share_of_peak"],
                memory,
            ]
        )

    for device in devices:
        for shape in SHAPES[:1] if arguments.quick else SHAPES:
            for batch in BATCHES:
                task = Measurement(shape, batch, 0, device, arguments.precision)
                (plain,) = run([task])
                for models in (1, 16) if arguments.quick else PACKS:
                    pack = replace(task, models=models)
                    (measured,) = run([pack])
                    say(record(pack, measured, plain))
        if device == "cpu" and (os.cpu_count() or 1) > 1 and not arguments.json:
            print(json.dumps(two_workers(arguments.precision)), flush=True)
    if not arguments.json:
        print(report.markdown_table(rows))
        print(f"\n{report.machine()}.")


def two_workers(precision: UsedPrecision) -> dict[str, Any]:
    """Model-epochs per second of one process, and of two at once, together."""
    pack = Measurement(SHAPES[0], 64, 16, "cpu", precision)
    one, two = run([pack]), run([pack, pack])
    alone, together = (
        sum(asdict(measured)["model_epochs_per_s"] for measured in found if not isinstance(measured, str))
        for found in (one, two)
    )
    return {"workers": 2, "model_epochs_per_s": round(together, 4), "of_one": round(together / alone, 3)}


if __name__ == "__main__":
    main()
